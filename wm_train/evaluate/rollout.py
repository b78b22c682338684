"""Runs a model, or a baseline, over windows: one step from each true frame, then free from the window's start."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from wm_runtime.artifact import Artifact
from wm_runtime.errors import UserError
from wm_runtime.schema import FIELDS, FIRST_FRAME, VELOCITIES, State
from wm_runtime.simulator import Simulator
from wm_runtime.starts import Start
from wm_train.dynamics.memory import LEAST_STALE
from wm_train.evaluate.windows import Window

ALL_FIELDS = tuple(f.name for f in FIELDS)
GROUPS: dict[str, tuple[str, ...]] = {
    "position": ("x", "y"),
    "velocity": VELOCITIES,
    "contact": ("ground", "airborne"),
    "age": ("state_age",),
    "flags": tuple(name for name in ALL_FIELDS if name.startswith("flags_")),
    **{name: (name,) for name in ALL_FIELDS},
}
"""What `--substitute` may name → the fields into which the truth is put."""


class Steps(Protocol):
    """N matches that are stepped as one batch: a Simulator, or anything like it. `step` may leave another `state`."""

    @property
    def state(self) -> State: ...

    @property
    def carry(self) -> Mapping[str, Any]: ...

    def reset(self, start: Start) -> object: ...

    def step(self, controllers: np.ndarray) -> object: ...


@dataclass
class Prediction:
    """free: field → (B, horizon, 2), the frames after the start, each from the one predicted before it ·
    one_step: field → (B, S, 2), the last S frames up to the first after the start, each from the true one before it."""

    free: dict[str, np.ndarray]
    one_step: dict[str, np.ndarray]


Predictor = Callable[[Window, int, tuple[str, ...]], Prediction]
"""(windows, one-step frames wanted of each, fields wanted) → what is predicted of them."""


class Model:
    """An artifact as a Predictor, and as a batch of matches of any number, on an engine at a precision."""

    def __init__(
        self, artifact: Artifact, substitute: tuple[str, ...] = (), engine: str = "onnx", precision: str = "float32"
    ):
        self.artifact, self.substitute, self.engine, self.precision = artifact, substitute, engine, precision
        self._simulators: dict[int, Simulator] = {}

    @property
    def history(self) -> int:
        """True frames that warm up the model's memory before a window's start."""
        return min(self.artifact.warmup, -FIRST_FRAME)

    def simulator(self, matches: int) -> Simulator:
        """A simulator of so many matches; its state is whatever the last user left."""
        if matches not in self._simulators:
            self._simulators = {
                matches: Simulator(self.artifact, matches, engine=self.engine, precision=self.precision)
            }
        return self._simulators[matches]

    def __call__(self, window: Window, scored: int, fields: tuple[str, ...] = ALL_FIELDS) -> Prediction:
        return run_model(self.simulator(len(window)), window, scored, fields, self.substitute)


def run_model(
    simulator: Steps, window: Window, scored: int, fields: tuple[str, ...] = ALL_FIELDS,
    substitute: tuple[str, ...] = (),
) -> Prediction:  # fmt: skip
    """Predictions of a simulator of len(window) matches. Its memory is warmed up on the window's history; the last
    `scored` of these one-step predictions are kept. In the free part, the truth is put into the fields of `substitute`
    after each step; what is kept is what the model said of them."""
    free: list[dict[str, np.ndarray]] = []
    one_step: list[dict[str, np.ndarray]] = []
    simulator.reset(window.start(last=0))
    for row in range(window.length - 1):
        if row <= window.history:
            _copy(window.at(row), simulator.state)
        elif substitute:
            for name in substitute:
                simulator.state[name] = window.field(name)[:, row]
        simulator.step(np.ascontiguousarray(window.controllers[:, row + 1]))
        if row == 0:
            _tell(simulator, window)
        kept = {name: simulator.state[name].copy() for name in fields}
        if window.history - scored < row <= window.history:
            one_step.append(kept)
        if row >= window.history:
            free.append(kept)
    return Prediction(_stacked(free, fields), _stacked(one_step, fields))


def _tell(simulator: Steps, window: Window) -> None:
    """Puts into a memory of stale moves what the whole game before the window left there: after the first step, when
    the memory is that of the first frame. Models without one are left alone."""
    numbers = simulator.carry.get("numbers")
    if window.struck is not None and numbers is not None and numbers.shape[-1] >= LEAST_STALE:
        columns = window.struck.shape[-1]
        if isinstance(numbers, torch.Tensor):
            numbers[..., -columns:] = torch.from_numpy(window.struck).to(numbers)
        else:
            numbers[..., -columns:] = window.struck


def hold(window: Window, scored: int, fields: tuple[str, ...] = ALL_FIELDS) -> Prediction:
    """The baseline in which nothing moves."""
    true = {name: window.field(name) for name in fields}
    now, ahead = window.history, window.horizon
    free = {name: np.repeat(values[:, now, None], ahead, axis=1) for name, values in true.items()}
    return Prediction(free, {name: values[:, now - scored + 1 : now + 1] for name, values in true.items()})


def constant_velocity(window: Window, scored: int, fields: tuple[str, ...] = ALL_FIELDS) -> Prediction:
    """The baseline in which the last position change goes on and all else holds."""
    prediction = hold(window, scored, fields)
    now = window.history
    k = np.arange(1, window.horizon + 1)[None, :, None]
    for name in ("x", "y"):
        true = window.field(name)
        change = np.diff(true, axis=1)
        prediction.free[name] = prediction.free[name] + k * change[:, now - 1, None]
        prediction.one_step[name] = prediction.one_step[name] + change[:, now - scored : now]
    return prediction


def truth(window: Window, scored: int, fields: tuple[str, ...] = ALL_FIELDS) -> Prediction:
    """What a model that is the game itself would say: nothing scores better."""
    last = window.history + 1
    true = {name: window.field(name) for name in fields}
    return Prediction(
        {name: values[:, last:].copy() for name, values in true.items()},
        {name: values[:, last - scored + 1 : last + 1].copy() for name, values in true.items()},
    )


BASELINES: dict[str, Predictor] = {"hold": hold, "constant_velocity": constant_velocity}


def substituted(groups: str) -> tuple[str, ...]:
    """"action,velocity" → the fields of these groups. Raises UserError for a name that is none."""
    names = [name.strip() for name in groups.split(",") if name.strip()]
    for name in names:
        if name not in GROUPS:
            raise UserError(f"cannot substitute {name!r}: choose of {', '.join(GROUPS)}")
    return tuple(dict.fromkeys(field for name in names for field in GROUPS[name]))


def _copy(source: State, target: State) -> None:
    for name, array in vars(target).items():
        np.copyto(array, getattr(source, name))


def _stacked(rows: list[dict[str, np.ndarray]], fields: tuple[str, ...]) -> dict[str, np.ndarray]:
    return {name: np.stack([row[name] for row in rows], axis=1) for name in fields} if rows else {}
