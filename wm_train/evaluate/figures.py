"""Fidelity figures of one set of windows, and the headline ones.

A figure is a ratio of two sums over player-windows, so that means by game, character or stage are sums of its rows.
e(k) of a player is (|Δx| + |Δy|) / 2 at k frames; of a window it is the mean over both players.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from wm_train.evaluate.rollout import Prediction, constant_velocity
from wm_train.evaluate.windows import LAST_DEATH_ACTION, Window

EXACT = 0.1
"""Position error, units, below which a player's frame counts as exact."""
AGE_EXACT = 0.01
HORIZON = 20
UNBOUNDED = 1000.0
"""What counts as the error of a value that is not finite: far beyond any stage, yet a mean of it can be read."""


@dataclass
class Case:
    """Windows and what was predicted of them."""

    window: Window
    prediction: Prediction

    def true(self, name: str) -> np.ndarray:
        """A field of the frames after the start, (B, horizon, 2)."""
        return self.window.field(name)[:, self.window.history + 1 :]

    def before(self, name: str) -> np.ndarray:
        """A field of the start frame, (B, 2)."""
        return self.window.field(name)[:, self.window.history]

    def error(self) -> np.ndarray:
        """Position error of each player and frame, (B, horizon, 2)."""
        free = self.prediction.free
        return (difference(free["x"], self.true("x")) + difference(free["y"], self.true("y"))) / 2

    def steps(self, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(true before, true after, predicted after) of the one-step frames, (B, S, 2) each."""
        predicted = self.prediction.one_step[name]
        last, true = self.window.history + 1, self.window.field(name)
        first = last - predicted.shape[1] + 1
        return true[:, first - 1 : last], true[:, first : last + 1], predicted

    def alive(self) -> np.ndarray:
        """One-step frames before and on which nobody is dying or respawning, (B, S, 1)."""
        before, after, _ = self.steps("action")
        return np.all((before > LAST_DEATH_ACTION) & (after > LAST_DEATH_ACTION), axis=2, keepdims=True)


Sums = tuple[np.ndarray, np.ndarray]
"""Numerator and denominator of each player-window, (B, 2) each."""


@dataclass(frozen=True)
class Figure:
    """`of(case)` → sums · `better`: which way is better; the truth scores 0 where lower is, and 1 where higher is."""

    of: Callable[[Case], Sums]
    better: Literal["lower", "higher"]


def difference(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """|Δ|, UNBOUNDED where it is not finite, 0 where both hold the same value that is no number."""
    with np.errstate(invalid="ignore", over="ignore"):
        delta = np.abs(predicted - true)
    delta = np.where(np.isfinite(delta), delta, UNBOUNDED)
    return np.where(~np.isfinite(true) & ~np.isfinite(predicted), 0, delta)


def mean_of(values: np.ndarray) -> Sums:
    """(B, 2) values of which the figure is the mean."""
    return values, np.ones(values.shape)


def share(right: np.ndarray, counted: np.ndarray) -> Sums:
    """(B, S, 2) masks → how many of the counted frames are right."""
    return (right & counted).sum(axis=1), counted.sum(axis=1)


def _rc(k: int) -> Callable[[Case], Sums]:
    return lambda case: mean_of(case.error()[:, :k].mean(axis=1))


def _skill(k: int) -> Callable[[Case], Sums]:
    def sums(case: Case) -> Sums:
        straight = Case(case.window, constant_velocity(case.window, 1, ("x", "y"))).error()[:, :k].mean(axis=1)
        return straight - case.error()[:, :k].mean(axis=1), straight

    return sums


def _exact(k: int) -> Callable[[Case], Sums]:
    return lambda case: mean_of(np.all(case.error()[:, :k] < EXACT, axis=1))


def _action(k: int) -> Callable[[Case], Sums]:
    return lambda case: mean_of((case.prediction.free["action"][:, :k] == case.true("action")[:, :k]).mean(axis=1))


def _age(k: int) -> Callable[[Case], Sums]:
    def sums(case: Case) -> Sums:
        free = case.prediction.free
        right = free["action"][:, k - 1] == case.true("action")[:, k - 1]
        exact = difference(free["state_age"][:, k - 1], case.true("state_age")[:, k - 1]) < AGE_EXACT
        return right & exact, right

    return sums


def _change_accuracy(case: Case) -> Sums:
    before, after, predicted = case.steps("action")
    return share(predicted == after, (before != after) & case.alive())


def _hits(of: Literal["recall", "precision"]) -> Callable[[Case], Sums]:
    """Share of true (recall) or predicted (precision) rises of percent that are predicted and true."""

    def sums(case: Case) -> Sums:
        before, after, predicted = case.steps("percent")
        true, claimed = (after > before) & case.alive(), (predicted > before) & case.alive()
        return share(true & claimed, true if of == "recall" else claimed)

    return sums


def field_error(name: str, k: int) -> Callable[[Case], Sums]:
    """Mean absolute error of a field at k frames."""
    return lambda case: mean_of(difference(case.prediction.free[name][:, k - 1], case.true(name)[:, k - 1]))


HEADLINE: dict[str, Figure] = {
    "RC@1": Figure(_rc(1), "lower"),
    "RC@5": Figure(_rc(5), "lower"),
    "RC@20": Figure(_rc(20), "lower"),
    "skill@5": Figure(_skill(5), "higher"),
    "skill@20": Figure(_skill(20), "higher"),
    "exact@20": Figure(_exact(20), "higher"),
    "change_acc": Figure(_change_accuracy, "higher"),
    "action@20": Figure(_action(20), "higher"),
    "percent_mae@20": Figure(field_error("percent", 20), "lower"),
    "age@20": Figure(_age(20), "higher"),
    "hit_recall": Figure(_hits("recall"), "higher"),
    "hit_precision": Figure(_hits("precision"), "higher"),
}
