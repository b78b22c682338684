"""Runs a model, or a baseline, over windows: one step from each true frame, then free from the window's start."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from wm_runtime.schema import State
from wm_runtime.simulator import Simulator
from wm_train.evaluate.windows import Window

FIELDS = ("x", "y", "percent", "action", "state_age")
"""What is kept of the predictions."""


@dataclass
class Prediction:
    """free: field → (B, horizon, 2), the frames after the start, each from the one predicted before it ·
    one_step: field → (B, S, 2), the last S frames up to the first after the start, each from the true one before it."""

    free: dict[str, np.ndarray]
    one_step: dict[str, np.ndarray]


def run_model(simulator: Simulator, window: Window, scored: int) -> Prediction:
    """Predictions of a simulator of len(window) matches. Its memory is warmed up on the window's history; the last
    `scored` of these one-step predictions are kept."""
    free, one_step = [], []
    simulator.reset(window.start(last=0))
    for row in range(window.length - 1):
        if row <= window.history:
            _copy(window.at(row), simulator.state)
        simulator.step(np.ascontiguousarray(window.controllers[:, row + 1]))
        kept = {name: simulator.state[name].copy() for name in FIELDS}
        if window.history - scored < row <= window.history:
            one_step.append(kept)
        if row >= window.history:
            free.append(kept)
    return Prediction(_stacked(free), _stacked(one_step))


def hold(window: Window, scored: int) -> Prediction:
    """The baseline in which nothing moves."""
    true = {name: window.field(name) for name in FIELDS}
    now, ahead = window.history, window.horizon
    free = {name: np.repeat(values[:, now, None], ahead, axis=1) for name, values in true.items()}
    return Prediction(free, {name: values[:, now - scored + 1 : now + 1] for name, values in true.items()})


def constant_velocity(window: Window, scored: int) -> Prediction:
    """The baseline in which the last position change goes on and all else holds."""
    prediction = hold(window, scored)
    now = window.history
    k = np.arange(1, window.horizon + 1)[None, :, None]
    for name in ("x", "y"):
        true = window.field(name)
        change = np.diff(true, axis=1)
        prediction.free[name] = prediction.free[name] + k * change[:, now - 1, None]
        prediction.one_step[name] = prediction.one_step[name] + change[:, now - scored : now]
    return prediction


BASELINES: dict[str, Callable[[Window, int], Prediction]] = {"hold": hold, "constant_velocity": constant_velocity}


def _copy(source: State, target: State) -> None:
    for name, array in vars(target).items():
        np.copyto(array, getattr(source, name))


def _stacked(rows: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.stack([row[name] for row in rows], axis=1) for name in FIELDS}
