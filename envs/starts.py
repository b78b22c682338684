"""Where matches begin: fresh starts for any number of matches at a time, as snapshots of every simulator."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wm_runtime.errors import UserError
from wm_runtime.facts import character, stage
from wm_runtime.schema import CONTROL_NAMES, FIRST_FRAME, PLAYERS
from wm_runtime.simulator import Simulator, Snapshot
from wm_runtime.starts import Start, dataset_starts, spawn, stack

if TYPE_CHECKING:
    from wm_runtime.replays.dataset import Dataset

Names = str | int | Sequence[str | int]
"""One name (or id), or several to draw from."""
SPAWN = "spawn"
CHARACTERS: tuple[Names, Names] = ("FOX", "FALCO")
STAGE: Names = "FINAL_DESTINATION"
"""Of a match that begins at the spawn points, where nothing else is asked for."""


class Starts(ABC):
    """Draws where matches begin. `characters`: internal ids of all fighters who may appear."""

    characters: set[int]

    @abstractmethod
    def draw(self, count: int, rng: np.random.Generator) -> list[Snapshot]:
        """`count` fresh starts, one snapshot for each simulator."""

    def forget(self) -> None:  # noqa: B027  (most keep nothing)
        """Leaves all that is drawn from now on to the generator: called when matches get a new seed."""


class Fixed(Starts):
    """Some given starts, each as likely as the others."""

    def __init__(self, start: Start, simulators: Sequence[Simulator]):
        self._simulators = simulators
        self._start = start if start.length == 1 else None
        self._snapshots = [] if start.length == 1 else [s.warm(start) for s in simulators]
        self._count = len(start)
        self.characters = set(start.at(-1)["character"].ravel().tolist())

    def draw(self, count: int, rng: np.random.Generator) -> list[Snapshot]:
        rows = rng.integers(self._count, size=count)
        if self._start is not None:  # no past, nothing to warm up
            return [s.warm(self._start.rows(rows)) for s in self._simulators]
        return [snapshot.rows(rows) for snapshot in self._snapshots]


class Saved(Starts):
    """Matches of a snapshot, each as likely as the others. An ensemble's further models know nothing of their past."""

    def __init__(self, snapshot: Snapshot, simulators: Sequence[Simulator]):
        layout = {name: array.shape[1:] for name, array in snapshot.carry.items()}
        expected = {name: shape for name, (shape, _) in simulators[0].artifact.carry.items()}
        if layout != expected:
            raise UserError(f"starts: saved from another model than {simulators[0].artifact.name}; save them from it")
        none = np.zeros((len(snapshot), 1, PLAYERS, len(CONTROL_NAMES)), np.float32)
        self._snapshots = [snapshot, *(s.warm(Start(snapshot.state, none)) for s in simulators[1:])]
        self.characters = set(snapshot.state["character"].ravel().tolist())

    def draw(self, count: int, rng: np.random.Generator) -> list[Snapshot]:
        rows = rng.integers(len(self._snapshots[0]), size=count)
        return [snapshot.rows(rows) for snapshot in self._snapshots]


class Moments(Starts):
    """Random frames of a dataset's games, every frame as likely as the others, with the past that the model remembers.

    Moments are drawn and warmed up `POOL` at a time or more and handed out in turn. The last second of a game is left
    out. `allowed`: internal ids of player 1, of player 2, and stage ids; None for any.
    """

    POOL = 64
    LAST = 60
    """Frames that a moment has after it in its game."""

    def __init__(
        self, dataset: Dataset, simulators: Sequence[Simulator], allowed: Sequence[set[int] | None] = (None,) * 3
    ):
        self._dataset, self._simulators = dataset, simulators
        self._history = max(s.artifact.warmup for s in simulators)
        self._first = max(0, FIRST_FRAME + self._history)
        columns = (dataset.characters[:, 0], dataset.characters[:, 1], dataset.stage)
        wanted = np.ones(len(dataset), bool)
        for column, ids in zip(columns, allowed, strict=True):
            wanted &= True if ids is None else np.isin(column, list(ids))
        counts = np.where(wanted, dataset.frames + FIRST_FRAME - self.LAST - self._first, 0)
        self._ends = np.cumsum(np.maximum(counts, 0))
        if not len(dataset) or self._ends[-1] == 0:
            raise UserError(f"{dataset.path}: no game has a moment with these characters and stages; ask for others")
        self.characters = set(dataset.characters[counts > 0].ravel().tolist())
        self._pool: list[Snapshot] = []
        self._used = 0

    def draw(self, count: int, rng: np.random.Generator) -> list[Snapshot]:
        if not self._pool or self._used + count > len(self._pool[0]):
            at = rng.integers(self._ends[-1], size=max(count, self.POOL))
            games = np.searchsorted(self._ends, at, side="right")
            frames = self._first + at - np.where(games > 0, self._ends[games - 1], 0)
            start = dataset_starts(self._dataset, games, frames, self._history)
            self._pool, self._used = [s.warm(start) for s in self._simulators], 0
        rows = np.arange(self._used, self._used + count)
        self._used += count
        return [snapshot.rows(rows) for snapshot in self._pool]

    def forget(self) -> None:
        self._pool = []


def make_starts(
    starts: str | Path | Start | Snapshot | Dataset,
    characters: tuple[Names, Names] | None,
    stages: Names | None,
    simulators: Sequence[Simulator],
) -> Starts:
    """`spawn`, a dataset or its folder, or given states. Characters and stages choose among a dataset's games; given
    states have their own. Raises UserError."""
    sides = None if characters is None else _sides(characters)
    places = None if stages is None else {stage(name).id for name in _listed(stages)}
    if isinstance(starts, Start | Snapshot):
        if sides is not None or places is not None:
            raise UserError("starts: given states have their own characters and stage; leave `characters`, `stage` out")
        state = starts.states if isinstance(starts, Start) else starts.state
        if len(starts) == 0 or not np.isfinite(state.floats).all():
            raise UserError("starts: give states of one match or more, finite numbers all of them")
        return (Fixed if isinstance(starts, Start) else Saved)(starts, simulators)  # type: ignore[arg-type]
    if starts == SPAWN:
        sides, places = sides or _sides(CHARACTERS), places or {stage(name).id for name in _listed(STAGE)}
        return Fixed(stack([spawn(p, (a, b)) for p, a, b in product(sorted(places), *map(sorted, sides))]), simulators)
    from wm_runtime.replays.dataset import Dataset

    dataset = starts if isinstance(starts, Dataset) else Dataset(starts)
    return Moments(dataset, simulators, (*(sides or (None, None)), places))


def _listed(names: Names) -> Sequence[str | int]:
    listed = [names] if isinstance(names, str | int) else list(names)
    if not listed:
        raise UserError("an empty list of characters or stages: name one at least")
    return listed


def _sides(characters: tuple[Names, Names]) -> list[set[int]]:
    if isinstance(characters, str) or len(characters) != PLAYERS:
        raise UserError(f"characters {characters!r}: give a pair, of player 1 and of player 2, each a name or a list")
    return [{character(name).internal_id for name in _listed(side)} for side in characters]
