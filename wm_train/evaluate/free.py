"""Free rollouts of a minute, and the rules of the game that they break.

A violation is a frame of a match on which one or both players break a rule, so that all figures are per 1,000 frames of
match. `violations` adds up the rules that FIDELITY.md lists, `violations_all` all that real games are known to keep.
Frames after the end of a match (a side has no stock left) do not count.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from wm_runtime.facts import stage
from wm_runtime.replays.dataset import Dataset
from wm_runtime.replays.rules import RULES
from wm_runtime.schema import FIELDS, PLAYERS, State
from wm_runtime.starts import Start, dataset_starts
from wm_train.evaluate.bootstrap import Interval, intervals, sum_by_game
from wm_train.evaluate.rollout import ALL_FIELDS, Model, Steps
from wm_train.evaluate.scoring import OnBatch
from wm_train.evaluate.windows import Window, read_windows, sample_starts

MINUTE = 3600
"""Frames of a free rollout."""
BATCH = 48
LISTED = ("percent_falls", "stocks_fall", "shield", "facing", "hitlag_counts_down", "no_teleport", "on_a_surface",
          "blast_zone", "hit_has_hitlag")  # fmt: skip
"""The rules of FIDELITY.md, by their names in wm_runtime.replays.rules."""
LISTED_RULES = np.isin([rule.name for rule in RULES], LISTED)
"""(R,) bool: which of RULES they are."""

Controllers = Callable[[State, int], np.ndarray]
"""(present state, frames since the start) → the controllers (N, 2, 13) float32 that lead to the next frame."""


@dataclass
class Rollout:
    """N matches of T frames and the one they started from. columns: field → (T + 1, N, 2) · stage: (N,) id."""

    columns: dict[str, np.ndarray]
    stage: np.ndarray

    def live(self) -> np.ndarray:
        """(T, N) bool of the frames 1 to T: both sides had a stock left on every frame before."""
        playing = np.all(self.columns["stocks"] > 0, axis=2)
        return np.minimum.accumulate(playing, axis=0)[:-1]

    def on_stage(self, number: int) -> Rollout:
        """The matches on this stage."""
        chosen = self.stage == number
        return Rollout({name: values[:, chosen] for name, values in self.columns.items()}, self.stage[chosen])


def roll(
    simulator: Steps, start: Start, controllers: Controllers, frames: int, on_batch: OnBatch | None = None
) -> Rollout:
    """`frames` steps from a start, the model fed with nothing but its own states."""
    simulator.reset(start)
    columns = {f.name: np.empty((frames + 1, len(start), PLAYERS), f.dtype) for f in FIELDS}
    stages = simulator.state["stage"].copy()
    for k in range(frames + 1):
        if k:
            simulator.step(np.ascontiguousarray(controllers(simulator.state, k - 1), np.float32))
        for name, column in columns.items():
            column[k] = simulator.state[name]
        if on_batch and k % 60 == 0:
            on_batch(k, frames)
    return Rollout(columns, stages)


def true_controllers(
    model: Model, dataset: Dataset, count: int, seed: int = 0, frames: int = MINUTE, on_batch: OnBatch | None = None
) -> tuple[dict[str, Interval], dict[str, Interval]]:
    """Violations of `count` rollouts from moments of real games with those games' controllers, and of the same minutes
    of the games themselves."""
    games, starts = sample_starts(dataset, count, frames, seed)
    ours, real = [], []
    for at in range(0, len(games), BATCH):
        game, frame = games[at : at + BATCH], starts[at : at + BATCH]
        window = read_windows(dataset, game, frame, 0, frames)
        real.append(violations(true_rollout(window)))
        start = dataset_starts(dataset, game, frame, model.history)
        ours.append(violations(roll(model.simulator(len(game)), start, _fed(window.controllers), frames, on_batch)))
    return table(np.concatenate(ours), games), table(np.concatenate(real), games)


def _fed(controllers: np.ndarray) -> Controllers:
    """(N, 1 + frames, 2, 13) → the rows after the first, one after the other."""
    return lambda _, k: controllers[:, k + 1]


def true_rollout(window: Window) -> Rollout:
    """The games themselves, as if they had been rolled out: from the windows' start on."""
    fields = {name: window.field(name)[:, window.history :].swapaxes(0, 1) for name in ALL_FIELDS}
    return Rollout(fields, window.stage())


def violations(rollout: Rollout) -> np.ndarray:
    """(N, R, 2): for each match and each rule of RULES, 1,000 × the frames on which it is broken, and all frames."""
    out = np.zeros((len(rollout.stage), len(RULES), 2))
    for number in np.unique(rollout.stage):
        part, chosen = rollout.on_stage(number), rollout.stage == number
        live = part.live()
        for r, rule in enumerate(RULES):
            with np.errstate(invalid="ignore"):
                _, broken = rule.check(part.columns, stage(int(number)))
            out[chosen, r, 0] = 1000 * (broken.any(axis=2) & live).sum(axis=0)
        out[chosen, :, 1] = live.sum(axis=0)[:, None]
    return out


def table(broken: np.ndarray, game: np.ndarray) -> dict[str, Interval]:
    """(N, R, 2) and what is resampled (N,) → `violations`, `violations_all`, and `broken_RULE` for every rule."""
    totals = [_total(broken[:, LISTED_RULES]), _total(broken)]
    names = ["violations", "violations_all", *(f"broken_{rule.name}" for rule in RULES)]
    return intervals(names, sum_by_game(np.concatenate([*totals, broken], axis=1), game))


def _total(broken: np.ndarray) -> np.ndarray:
    """(N, R, 2) → (N, 1, 2): breaks of all rules over the frames."""
    return np.stack([broken[..., 0].sum(axis=1), broken[:, 0, 1]], axis=-1)[:, None]
