"""N matches under one set of arguments: what every form of the environment steps, looks at and pays for."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import logger

from wm_envs.rewards import WEIGHTS, losses, reward_terms
from wm_envs.spaces import ACTION_SPACES, OBSERVATION_SPACES
from wm_envs.starts import SPAWN, Names, make_starts
from wm_runtime.artifact import DEFAULT_MODEL, Artifact
from wm_runtime.errors import UserError
from wm_runtime.facts import character
from wm_runtime.schema import CONTROL_NAMES, MATCH_FRAMES, PLAYERS, State
from wm_runtime.simulator import Simulator, Snapshot
from wm_runtime.starts import Start

if TYPE_CHECKING:
    from wm_runtime.replays.dataset import Dataset

LONGEST_DELAY = 30
LARGEST_ENSEMBLE = 5
TIME, UNCERTAIN, NOT_FINITE = "time limit", "uncertain model", "the model predicted a number that is not finite"
"""Why a match was truncated."""


@dataclass(frozen=True)
class Settings:
    """The arguments that all forms of the environment share; `MeleeEnv` says what each means. Raises UserError."""

    characters: tuple[Names, Names] | None = None
    stage: Names | None = None
    model: str | Path | Artifact = DEFAULT_MODEL
    starts: str | Path | Start | Snapshot | Dataset = SPAWN
    action_space: str = "multidiscrete"
    observation: str = "flat"
    reward_weights: Mapping[str, float] = field(default_factory=dict)
    frame_skip: int = 1
    reaction_delay: int = 0
    time_limit: int | None = None
    ensemble: Sequence[str | Path | Artifact] = ()
    max_uncertainty: float | None = None
    domain: float | None = 1.5
    device: str = "cpu"
    threads: int = 1
    engine: str = "onnx"
    precision: str = "float32"

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> Settings:
        """Settings of keyword arguments, those unknown refused."""
        names = [f.name for f in fields(cls)]
        unknown = sorted(set(arguments) - set(names))
        if unknown:
            raise UserError(f"unknown arguments {', '.join(unknown)}: choose among {', '.join(names)}")
        return cls(**{name: value for name, value in arguments.items() if value is not None or name == "domain"})

    def __post_init__(self) -> None:
        _one_of("action space", self.action_space, ACTION_SPACES)
        _one_of("observation", self.observation, OBSERVATION_SPACES)
        unknown = set(self.reward_weights) - set(WEIGHTS)
        if unknown:
            raise UserError(f"unknown reward terms {sorted(unknown)}: choose among {', '.join(WEIGHTS)}")
        if not np.isfinite(list(self.reward_weights.values())).all():
            raise UserError(f"reward_weights {dict(self.reward_weights)}: give finite numbers")
        for name, low, high in (
            ("frame_skip", 1, None), ("reaction_delay", 0, LONGEST_DELAY), ("time_limit", 1, None),
            ("threads", 0, None),
        ):  # fmt: skip
            _whole(name, getattr(self, name), low, high)
        if isinstance(self.ensemble, str | Path | Artifact) or len(self.ensemble) >= LARGEST_ENSEMBLE:
            raise UserError(f"ensemble: give a list of 1 to {LARGEST_ENSEMBLE - 1} models to ask besides `model`")
        for name in ("max_uncertainty", "domain"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UserError(f"{name} {value!r}: give a number above 0, or None")


def _one_of(what: str, name: str, known: Mapping[str, Any]) -> None:
    if name not in known:
        raise UserError(f"unknown {what} {name!r}: choose one of {', '.join(known)}")


def _whole(name: str, value: Any, low: int, high: int | None) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < low or (high and value > high):
        raise UserError(f"{name} {value!r}: give a whole number, {low} {f'to {high}' if high else 'or more'}")


@dataclass
class Outcome:
    """What a step brought N matches. damage (percent) and stocks: (N, 2) float32, lost by each player, summed over the
    step's frames · terminated, truncated: (N,) bool, never both · reason: (N,) object, a text where truncated."""

    damage: np.ndarray
    stocks: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    reason: np.ndarray

    @property
    def ended(self) -> np.ndarray:
        return self.terminated | self.truncated

    def terms(self, player: int) -> dict[str, np.ndarray]:
        """Reward terms as a player sees them, (N,) float32 each."""
        return reward_terms(self.damage, self.stocks, player)


class Matches:
    """N matches in one Simulator, and an ensemble's further ones.

    | call | what it does |
    |---|---|
    | `reset(mask, rng)` | the matches of `mask` (N,) bool begin anew, each at a start of its own |
    | `step(press, held)` | `frame_skip` frames; before each, `press(k)` writes `controllers`; those `held` stay put |
    | `observe(player, rows)` | what a player sees, `reaction_delay` frames late |
    | `describe()` | what `info` says of the present frame |

    `controllers`: (N, 2, 13) float32 that lead to the present frame · `not_finite`: how often a match was truncated
    because a model predicted a number that is not finite; it is left at the frame before.
    """

    def __init__(self, num_matches: int, settings: Settings):
        _whole("num_envs", num_matches, 1, None)
        self.num_matches, self.settings = num_matches, settings
        self.simulator, *self._others = self._simulators = [
            Simulator(
                model, num_matches, settings.device, settings.threads, settings.engine, settings.precision,  # type: ignore[arg-type]
            )
            for model in (settings.model, *settings.ensemble)
        ]
        self.starts = make_starts(settings.starts, settings.characters, settings.stage, self._simulators)
        self.actions = ACTION_SPACES[settings.action_space]()
        self.observations = OBSERVATION_SPACES[settings.observation]()
        self.weights = {**WEIGHTS, **settings.reward_weights}
        self.controllers = np.zeros((num_matches, PLAYERS, len(CONTROL_NAMES)), np.float32)
        self.entropy = np.zeros((num_matches, PLAYERS), np.float32)
        self.disagreement = np.zeros(num_matches, np.float32)
        self.not_finite = 0
        self._frames = np.zeros(num_matches, int)
        delay = settings.reaction_delay
        self._seen = [State.zeros(num_matches) for _ in range(delay + 1)] if delay else []
        self._newest = 0
        if settings.domain is not None:
            for artifact in (s.artifact for s in self._simulators):
                warn_outside_domain(artifact, self.starts.characters, settings.domain)

    @property
    def state(self) -> State:
        return self.simulator.state

    def reset(self, mask: np.ndarray, rng: np.random.Generator) -> None:
        count = np.count_nonzero(mask)
        for simulator, snapshot in zip(self._simulators, self.starts.draw(count, rng), strict=True):
            simulator.restore(snapshot, mask)
        for array in (self.controllers, self.entropy, self.disagreement, self._frames):
            array[mask] = 0
        for seen in self._seen:
            _copy(self.state, seen, mask)

    def step(self, press: Callable[[int], None], held: np.ndarray) -> Outcome:
        n = self.num_matches
        damage, stocks = np.zeros((n, PLAYERS), np.float32), np.zeros((n, PLAYERS), np.float32)
        outcome = Outcome(damage, stocks, np.zeros(n, bool), np.zeros(n, bool), np.full(n, None, object))
        over = held.copy()
        for k in range(self.settings.frame_skip):
            press(k)
            self._frame(over, outcome)
            if over.all():
                break
        return outcome

    def _frame(self, over: np.ndarray, outcome: Outcome) -> None:
        """One frame of the matches that are not over; adds to `outcome` and to `over` what it brings."""
        percent, stocks = self.state["percent"].copy(), self.state["stocks"].copy()
        for other in self._others:
            for name, array in vars(other.state).items():
                np.copyto(array, getattr(self.state, name))
        for simulator in self._simulators:
            simulator.step(self.controllers)
        broken = self._broken(over)
        playing = ~(over | broken)
        self._judge(playing)
        if not playing.all():
            for simulator in self._simulators:
                simulator.undo(~playing)
        lost = losses(percent, stocks, self.state)
        outcome.damage += lost[0]
        outcome.stocks += lost[1]
        self._frames += playing
        self._remember(playing)
        outcome.terminated |= playing & (self.state["stocks"] <= 0).any(axis=1)
        playing &= ~outcome.terminated
        late = self.state["frame"] >= MATCH_FRAMES
        if self.settings.time_limit is not None:
            late |= self._frames >= self.settings.time_limit
        ends = [(NOT_FINITE, broken), (TIME, playing & late)]
        if self.settings.max_uncertainty is not None:
            ends.insert(1, (UNCERTAIN, playing & (self.uncertainty > self.settings.max_uncertainty)))
        for reason, which in ends:
            if which.any():
                which = which & ~outcome.truncated
                outcome.reason[which] = reason
                outcome.truncated |= which
        over |= outcome.terminated | outcome.truncated

    def _broken(self, over: np.ndarray) -> np.ndarray:
        """(N,) bool: matches that are not over of which a model predicted a number that is not finite."""
        broken = np.zeros(self.num_matches, bool)
        with np.errstate(invalid="ignore", over="ignore"):
            for simulator in self._simulators:
                if not _finite(simulator):
                    broken |= ~_finite_each(simulator)
        broken &= ~over
        self.not_finite += np.count_nonzero(broken)
        return broken

    def _judge(self, playing: np.ndarray) -> None:
        """What the models say of their step: kept for the matches that take it."""
        np.copyto(self.entropy, self.simulator.aux["action_entropy"], where=playing[:, None])
        if self._others:
            places = np.stack([s.state.floats[..., :2] for s in self._simulators])  # (M, N, 2, 2): x, y
            with np.errstate(invalid="ignore", over="ignore"):
                spread = np.sqrt(places.var(axis=0).sum(axis=-1)).mean(axis=-1)
            np.copyto(self.disagreement, spread, where=playing)

    @property
    def uncertainty(self) -> np.ndarray:
        """(N,) float32: the ensemble's disagreement, units; without one, the larger action entropy, nats."""
        return self.disagreement if self._others else self.entropy.max(axis=1)

    def _remember(self, playing: np.ndarray) -> None:
        """Keeps the present states for eyes that see them late. A match that stays where it is sees nothing new."""
        if not self._seen:
            return
        self._newest = (self._newest + 1) % len(self._seen)
        if playing.all():
            _copy(self.state, self._seen[self._newest], slice(None))
            return
        stay = ~playing
        oldest = self._seen[self._newest].rows(stay)
        ages = [(self._newest - k) % len(self._seen) for k in range(len(self._seen))]
        for newer, older in pairwise(ages):
            _copy(self._seen[older], self._seen[newer], stay)
        _copy(oldest, self._seen[ages[-1]], stay, slice(None))
        _copy(self.state, self._seen[self._newest], playing)

    def observe(self, player: int, rows: np.ndarray | None = None) -> Any:
        """Observations of all matches, or of those `rows` (K,) names."""
        state = self._seen[(self._newest + 1) % len(self._seen)] if self._seen else self.state
        controllers = self.controllers[:, player]
        if rows is not None:
            state, controllers = state.rows(rows), controllers[rows]
        return self.observations.observe(state, controllers, player)

    def describe(self) -> dict[str, Any]:
        """Copies of what `info` holds, first axis the match."""
        model = {"action_entropy": self.entropy.copy(), "uncertainty": np.array(self.uncertainty)}
        if self._others:
            model["disagreement"] = self.disagreement.copy()
        state = self.state
        return {
            "frame": state["frame"].copy(),
            "stocks": state["stocks"].copy(),
            "percent": state["percent"].copy(),
            "model": model,
        }


def _copy(source: State, target: State, rows: Any, source_rows: Any = None) -> None:
    for name, array in vars(target).items():
        array[rows] = getattr(source, name)[rows if source_rows is None else source_rows]


def _predicted(simulator: Simulator) -> list[np.ndarray]:
    """The arrays of a simulator in which a number may not be finite."""
    arrays = [simulator.state.floats, *simulator.carry.values(), *simulator.aux.values()]
    return [array for array in arrays if array.dtype.kind == "f"]


def _finite(simulator: Simulator) -> bool:
    """Whether all that was predicted is finite: its sum is so only then, and cheaper than to look at each number."""
    return math.isfinite(sum(float(np.add.reduce(array, axis=None)) for array in _predicted(simulator)))


def _finite_each(simulator: Simulator) -> np.ndarray:
    """(N,) bool: whether all that was predicted of a match is a finite number."""
    matches = [np.isfinite(array).reshape(len(array), -1).all(axis=1) for array in _predicted(simulator)]
    return np.logical_and.reduce(matches)


def warn_outside_domain(artifact: Artifact, characters: set[int], times: float) -> None:
    """Warns of characters that the model card says the model is bad at: RC@20 (mean position error over 20 frames)
    more than `times` that of all characters, or never measured. Silent where the card has no figures by character."""
    figures = artifact.fidelity.get("breakdown", {}).get("character", {})
    if not figures:
        return
    limit = times * artifact.fidelity["no_death"]["RC@20"]["value"]
    bad = []
    for name in sorted(character(c).name for c in characters):
        error = figures.get(name, {}).get("RC@20", {}).get("value")
        if error is None or error > limit:
            bad.append(f"{name} ({'never measured' if error is None else f'RC@20 {error:.2f}'})")
    if bad:
        known = ", ".join(sorted(name for name in figures if figures[name]["RC@20"]["value"] <= limit))
        logger.warn(
            f"{artifact.name} cannot be trusted with {', '.join(bad)}: the limit is RC@20 {limit:.2f}, {times} times "
            f"its mean; choose among {known}, or set `domain`"
        )
