"""Play statistics: does a minute of policy against policy look like a minute of a real game?

Both sides of every match are played by a policy, from spawn, on all six stages, with pairs of characters drawn from the
dataset's games. Against it stand the first minutes of those games themselves, from frame 0 on. Frames count by player;
those after the end of a match do not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from wm_runtime.facts import FAMILIES, STAGES, stage
from wm_runtime.policy import PolicyPlayer, open_policy
from wm_runtime.replays.dataset import Dataset
from wm_runtime.schema import FIELD, FIRST_FRAME, MATCH_FRAMES, State
from wm_runtime.starts import Start, spawn, stack
from wm_train.evaluate.bootstrap import Interval, interval, intervals, ratio, resampled
from wm_train.evaluate.free import MINUTE, Controllers, Rollout, roll, table, violations
from wm_train.evaluate.parts import HITSTUN
from wm_train.evaluate.rollout import ALL_FIELDS, Model, Steps
from wm_train.evaluate.scoring import OnBatch
from wm_train.evaluate.windows import LAST_DEATH_ACTION


class Player(Protocol):
    """Plays one side of N matches."""

    def reset(self, mask: np.ndarray | None = None) -> None:
        """Begins the matches of `mask` (N,) bool (default: all) anew."""

    def act(self, state: State) -> np.ndarray:
        """The controllers (N, 13) float32 that lead to the next frame."""


Players = Callable[[int, int], tuple[Player, Player]]
"""(matches, seed) → who plays the first and the second side."""


def policy_players(policy: str) -> Players:
    """Both sides by this policy (name or file), each with its own chance. Raises UserError where there is none."""
    opened = open_policy(policy)

    def players(matches: int, seed: int) -> tuple[Player, Player]:
        first, second = (PolicyPlayer(opened, matches, side, 2 * seed + side, threads=0) for side in (0, 1))
        return first, second

    return players


# --- statistics ------------------------------------------------------------------------------------------------------


def _rises(values: np.ndarray) -> np.ndarray:
    return np.maximum(np.diff(values.astype(np.float64), axis=0), 0)


def _off_stage(columns: Mapping[str, np.ndarray], edge: np.ndarray) -> np.ndarray:
    alive = columns["action"][1:] > LAST_DEATH_ACTION
    return alive & (columns["airborne"][1:] == 1) & (np.abs(columns["x"][1:]) > edge[:, None])


STATISTICS: dict[str, Callable[[Mapping[str, np.ndarray], np.ndarray], np.ndarray]] = {
    "airborne": lambda columns, edge: columns["airborne"][1:] == 1,
    "off_stage": _off_stage,
    "hitstun": lambda columns, edge: (columns["flags_4"][1:] & HITSTUN) != 0,
    "damage_per_minute": lambda columns, edge: MINUTE * _rises(columns["percent"]),
    "deaths_per_minute": lambda columns, edge: MINUTE * _rises(-columns["stocks"].astype(np.int64)),
}
"""Statistic → its value on each frame of each player, (T, N, 2); the figure is their mean. `edge` is (N,), |x| of each
stage's end. Damage counts rises of percent, deaths falls of stocks, both for each player."""

_FAMILY_OF = np.zeros(FIELD["action"].classes or 0, int)
for _number, _ids in enumerate(FAMILIES.values()):
    _FAMILY_OF[list(_ids)] = _number


def statistics(rollout: Rollout) -> np.ndarray:
    """(N, S + families, 2): sums and frames of each match, of STATISTICS and then of the share of every family."""
    live = rollout.live()[:, :, None] & np.ones(2, bool)
    edge = np.array([stage(int(number)).edge_stand for number in rollout.stage])
    values = [of(rollout.columns, edge) for of in STATISTICS.values()]
    with np.errstate(invalid="ignore"):
        totals = [np.where(live, np.nan_to_num(value), 0).sum(axis=(0, 2)) for value in values]
    family = _FAMILY_OF[rollout.columns["action"][1:]]
    totals += [((family == number) & live).sum(axis=(0, 2)) for number in range(len(FAMILIES))]
    frames = live.sum(axis=(0, 2))
    return np.stack([np.stack([total, frames], axis=-1) for total in totals], axis=1)


def real_statistics(dataset: Dataset, frames: int = MINUTE) -> np.ndarray:
    """The same of each game's first `frames` frames from frame 0 on, (G, S + families, 2)."""
    out = []
    for game in range(len(dataset)):
        first = -FIRST_FRAME
        columns = dataset.columns(game, first, first + frames + 1)
        columns = {name: columns[name][:, None] for name in ALL_FIELDS}
        if len(columns["x"]) > 1:
            out.append(statistics(Rollout(columns, dataset.stage[game : game + 1])))
    return np.concatenate(out)


def compared(ours: np.ndarray, real: np.ndarray) -> tuple[dict[str, Interval], dict[str, Interval]]:
    """Statistics of the model's matches and of real games → both tables.

    The model's has, besides, `NAME_ratio` (its mean over the real one) and `families_tv`, the total variation distance
    between both distributions of action families. The real one's `families_tv` is that between one half of the games
    and the other: so much is chance.
    """
    names = [*STATISTICS, *(f"family_{name}" for name in FAMILIES)]
    tables = intervals(names, ours), intervals(names, real)
    means = [(ratio(rows.sum(axis=0)), ratio(resampled(rows))) for rows in (ours, real)]
    (value, drawn), (real_value, real_drawn) = means
    with np.errstate(divide="ignore", invalid="ignore"):
        for s, name in enumerate(STATISTICS):
            tables[0][f"{name}_ratio"] = interval(value[s] / real_value[s], drawn[:, s] / real_drawn[:, s])
    tables[0]["families_tv"] = _centred(_distance(value, real_value), _distance(drawn, real_drawn))
    if len(real) > 1:
        a, b = real[::2], real[1::2]
        chance = _distance(ratio(a.sum(axis=0)), ratio(b.sum(axis=0)))
        tables[1]["families_tv"] = _centred(chance, _distance(ratio(resampled(a)), ratio(resampled(b))))
    return tables


def _centred(value: np.ndarray, drawn: np.ndarray) -> Interval:
    """A distance's interval. Resampling adds noise, and noise adds distance: that much is taken off again."""
    return interval(float(value), np.maximum(drawn - drawn.mean() + value, 0))


def _distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Total variation distance of the families' shares, (..., S + families) each."""
    return np.abs(a - b)[..., len(STATISTICS) :].sum(axis=-1) / 2


# --- matches ---------------------------------------------------------------------------------------------------------


def spawns(dataset: Dataset, count: int, seed: int = 0) -> Start:
    """`count` matches at spawn, the six stages in turn, the characters of both sides from a game drawn at random."""
    games = np.random.default_rng(seed).integers(0, len(dataset), count)
    stages = [STAGES[i % len(STAGES)].id for i in range(count)]
    pairs = [tuple(pair) for pair in dataset.characters[games].tolist()]
    return stack([spawn(stage_id, pair) for stage_id, pair in zip(stages, pairs, strict=True)])


def playing(players: tuple[Player, Player]) -> Controllers:
    """Both players, from the beginning, as a source of controllers."""
    for player in players:
        player.reset()
    return lambda state, _: np.stack([player.act(state) for player in players], axis=1)


def minute_of_play(
    model: Model, dataset: Dataset, players: Players, count: int, seed: int = 0, frames: int = MINUTE,
    on_batch: OnBatch | None = None,
) -> dict[str, dict[str, Any]]:  # fmt: skip
    """{"free_policy": violations, "play": statistics of the model, "real": those of the dataset} of `count` matches."""
    start = spawns(dataset, count, seed)
    rollout = roll(model.simulator(count), start, playing(players(count, seed)), frames, on_batch)
    ours, real = compared(statistics(rollout), real_statistics(dataset, frames))
    return {"free_policy": table(violations(rollout), np.arange(count)), "play": ours, "real": real}


def whole_matches(
    model: Model, dataset: Dataset, players: Players, count: int, seed: int = 0, on_batch: OnBatch | None = None
) -> dict[str, Interval]:
    """Shares of `count` matches of four stocks, from spawn, that end: `ended` by a side out of stocks or by the clock
    (eight minutes), without a value that is not finite before; `ended_by_stocks`; `ended_by_time`; and their mean
    length, `minutes`."""
    simulator = model.simulator(count)
    end, finite = play_out(simulator, spawns(dataset, count, seed), playing(players(count, seed)), on_batch)
    by_stocks = end < MATCH_FRAMES
    shares = [finite, finite & by_stocks, finite & ~by_stocks, end / MINUTE]
    rows = np.stack([np.stack([np.asarray(s, float), np.ones(count)], axis=-1) for s in shares], axis=1)
    return intervals(["ended", "ended_by_stocks", "ended_by_time", "minutes"], rows)


def play_out(
    simulator: Steps, start: Start, controllers: Controllers, on_batch: OnBatch | None = None,
    limit: int = MATCH_FRAMES,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Steps matches until a side of each is out of stocks, or for `limit` frames. → (N,) frames that each took, and
    whether all its values were finite."""
    simulator.reset(start)
    end, finite = np.full(len(start), limit), np.ones(len(start), bool)
    live = np.ones(len(start), bool)
    for k in range(1, limit + 1):
        simulator.step(np.ascontiguousarray(controllers(simulator.state, k - 1), np.float32))
        state = simulator.state
        finite &= ~live | np.isfinite(state.floats).all(axis=(1, 2))
        over = live & np.any(state["stocks"] <= 0, axis=1)
        end[over] = k
        live &= ~over
        if on_batch and k % 60 == 0:
            on_batch(k, limit)
        if not live.any():
            break
    return end, finite
