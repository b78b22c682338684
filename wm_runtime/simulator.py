"""N matches as one batch, stepped in place by an artifact."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wm_runtime.artifact import DEFAULT_MODEL, Artifact, open_artifact
from wm_runtime.engines import Engine, open_engine
from wm_runtime.schema import CONTROL_NAMES, CONTROLS, PLAYERS, State
from wm_runtime.starts import Start

_LOW = np.array([c.low for c in CONTROLS], np.float32)
_HIGH = np.array([c.high for c in CONTROLS], np.float32)


@dataclass(frozen=True)
class Snapshot:
    """All that a batch of matches is: its states and carry, copied."""

    state: State
    carry: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.state)

    def rows(self, index: np.ndarray) -> Snapshot:
        """The matches (K,) of `index`, in that order and as often as they are named."""
        return Snapshot(self.state.rows(index), {name: array[index] for name, array in self.carry.items()})


class Simulator:
    """N matches of a model.

    | call | what it does |
    |---|---|
    | `reset(start, mask)` | begins the matches of `mask` (N,) bool (default: all) at a start of as many, or of one |
    | `step(controllers)` | one frame of all matches, controllers (N, 2, 13) float32 |
    | `warm(start)` | the snapshot of matches that begin there, to restore later |
    | `save()`, `restore(snapshot, mask)` | all matches, to continue from later; or those of `mask` from as many |
    | `undo(mask)` | the last step of the matches of `mask` is taken back |
    | `copy()` | another simulator in the same state on the same engine |

    `state` is the present State of N matches, `aux` what the model said of the last step (name → (N, …)), `carry` the
    model's memory. Their arrays are reused: the next `step` or `reset` overwrites them. A restored snapshot continues
    bit for bit at the same N, threads, engine and version of it; otherwise up to rounding (docs/performance.md).

    `engine`: one of wm_runtime.engines.ENGINES, on its `device`; `threads` that step the batch, 0: one a core;
    `precision`: float32, or of the engine `compiled` also bf16, int8 or auto, of `torch` bf16, float16 or auto.
    Raises UserError for a model, engine, device or precision that is not there.
    """

    def __init__(
        self,
        model: str | Artifact = DEFAULT_MODEL,
        num_matches: int = 1,
        device: str = "cpu",
        threads: int = 0,
        engine: str = "onnx",
        precision: str = "float32",
    ):
        artifact = model if isinstance(model, Artifact) else open_artifact(model)
        self._setup(artifact, open_engine(engine, artifact, device, threads, precision), num_matches)

    def _setup(self, artifact: Artifact, engine: Engine, num_matches: int) -> None:
        self.artifact, self.num_matches, self._engine = artifact, num_matches, engine
        self.state, self._next_state = State.zeros(num_matches), State.zeros(num_matches)
        self.carry, self._next_carry = self._new_carry(num_matches), self._new_carry(num_matches)
        self.aux = self._new_aux(num_matches)

    def reset(self, start: Start, mask: np.ndarray | None = None) -> State:
        """Begins matches anew; the start's past frames warm up the model's memory. Returns `state`."""
        count = self.num_matches if mask is None else np.count_nonzero(mask)
        if len(start) not in (1, count):
            raise ValueError(f"{len(start)} starts for {count} matches")
        if count == 0:
            return self.state
        begun = self.warm(start)
        return self.restore(begun if len(begun) == count else begun.rows(np.zeros(count, int)), mask)

    def warm(self, start: Start) -> Snapshot:
        """Matches that begin at a start, as many as it has, once the model's memory has seen their past. The
        simulator's own matches are left alone."""
        n = len(start)
        carry, next_carry, aux, scratch = self._new_carry(n), self._new_carry(n), self._new_aux(n), State.zeros(n)
        for w in range(start.length - 1):
            controllers = np.ascontiguousarray(start.controllers[:, w + 1])
            self._engine.step(start.at(w), carry, controllers, scratch, next_carry, aux)
            carry, next_carry = next_carry, carry
        return Snapshot(start.at(-1), carry)

    def step(self, controllers: np.ndarray) -> State:
        """One frame of every match, `controllers` (N, 2, 13) float32. Returns `state`, now the next one.

        Raises ValueError for another shape or dtype, and for values that are not finite or out of range.
        """
        self._check(controllers)
        self._engine.step(self.state, self.carry, controllers, self._next_state, self._next_carry, self.aux)
        self.state, self._next_state = self._next_state, self.state
        self.carry, self._next_carry = self._next_carry, self.carry
        return self.state

    def save(self) -> Snapshot:
        return Snapshot(self.state.copy(), {name: array.copy() for name, array in self.carry.items()})

    def restore(self, snapshot: Snapshot, mask: np.ndarray | None = None) -> State:
        """The matches of `mask` (N,) bool (default: all) become those of a snapshot of as many. Returns `state`."""
        rows = slice(None) if mask is None else np.flatnonzero(mask)
        count = self.num_matches if isinstance(rows, slice) else len(rows)
        if len(snapshot) != count:
            what = f"a simulator of {count}" if mask is None else f"a mask of {count}"
            raise ValueError(f"a snapshot of {len(snapshot)} matches for {what}")
        _put(self.state, self.carry, rows, snapshot.state, snapshot.carry)
        for array in self.aux.values():
            array[rows] = 0
        return self.state

    def undo(self, mask: np.ndarray) -> State:
        """The matches of `mask` (N,) bool are again what they were before the last `step`: once, and before anything
        else is done to the simulator. `aux` stays as that step left it. Returns `state`."""
        rows = np.flatnonzero(mask)
        before = {name: array[rows] for name, array in self._next_carry.items()}
        _put(self.state, self.carry, rows, self._next_state.rows(rows), before)
        return self.state

    def copy(self) -> Simulator:
        other = object.__new__(Simulator)
        other._setup(self.artifact, self._engine, self.num_matches)
        other.restore(self.save())
        return other

    def _check(self, controllers: np.ndarray) -> None:
        shape = (self.num_matches, PLAYERS, len(CONTROL_NAMES))
        if not isinstance(controllers, np.ndarray) or controllers.shape != shape or controllers.dtype != np.float32:
            found = f"{getattr(controllers, 'shape', type(controllers))} {getattr(controllers, 'dtype', '')}"
            raise ValueError(f"controllers must be {shape} float32, got {found}")
        if not controllers.flags.c_contiguous:
            raise ValueError("controllers must be C-contiguous")
        low, high = np.minimum.reduce(controllers, axis=0), np.maximum.reduce(controllers, axis=0)
        if not ((low >= _LOW) & (high <= _HIGH)).all():
            raise ValueError("controllers must be finite, axes in −1 … 1, shoulder and buttons in 0 … 1")

    def _new_carry(self, n: int) -> dict[str, np.ndarray]:
        return {name: np.zeros((n, *shape), dtype) for name, (shape, dtype) in self.artifact.carry.items()}

    def _new_aux(self, n: int) -> dict[str, np.ndarray]:
        layout = {row["name"]: (row["shape"], row["dtype"]) for row in self.artifact.metadata["aux"]}
        return {name: np.zeros((n, *shape), dtype) for name, (shape, dtype) in layout.items()}


def _put(
    state: State, carry: dict[str, np.ndarray], rows: np.ndarray | slice, new: State, new_carry: dict[str, np.ndarray]
) -> None:
    for name in vars(state):
        getattr(state, name)[rows] = getattr(new, name)
    for name, array in carry.items():
        array[rows] = new_carry[name]
