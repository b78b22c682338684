"""Fidelity figures of one set of windows: what each is, as sums from which means by game are bootstrapped.

Definitions: a figure is a ratio of two sums over windows. `no_death` figures take windows in which nobody dies or
respawns, `all` figures take every window. e(k) = mean over both players of (|Δx| + |Δy|) / 2 at k frames.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from wm_train.evaluate.rollout import Prediction
from wm_train.evaluate.windows import LAST_DEATH_ACTION, Window

EXACT = 0.1
"""Position error, units, below which a player's frame counts as exact."""
AGE_EXACT = 0.01
HORIZON = 20


@dataclass
class Case:
    """Windows and what was predicted of them."""

    window: Window
    prediction: Prediction

    def true(self, name: str) -> np.ndarray:
        """A field of the frames after the start, (B, horizon, 2)."""
        return self.window.field(name)[:, self.window.history + 1 :]

    def error(self) -> np.ndarray:
        """Position error of each player and frame, (B, horizon, 2)."""
        free = self.prediction.free
        return (np.abs(free["x"] - self.true("x")) + np.abs(free["y"] - self.true("y"))) / 2

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
"""Numerator and denominator of each window, (B,) each."""


def _rc(k: int) -> Callable[[Case], Sums]:
    return lambda case: (case.error()[:, :k].mean(axis=(1, 2)), np.ones(len(case.window)))


def _exact(k: int) -> Callable[[Case], Sums]:
    return lambda case: ((case.error()[:, :k] < EXACT).all(axis=1).mean(axis=1), np.ones(len(case.window)))


def _action(k: int) -> Callable[[Case], Sums]:
    def sums(case: Case) -> Sums:
        right = case.prediction.free["action"][:, :k] == case.true("action")[:, :k]
        return right.mean(axis=(1, 2)), np.ones(len(right))

    return sums


def _percent(k: int) -> Callable[[Case], Sums]:
    def sums(case: Case) -> Sums:
        error = np.abs(case.prediction.free["percent"][:, k - 1] - case.true("percent")[:, k - 1])
        return error.mean(axis=1), np.ones(len(error))

    return sums


def _age(k: int) -> Callable[[Case], Sums]:
    def sums(case: Case) -> Sums:
        free = case.prediction.free
        right = free["action"][:, k - 1] == case.true("action")[:, k - 1]
        exact = np.abs(free["state_age"][:, k - 1] - case.true("state_age")[:, k - 1]) < AGE_EXACT
        return (right & exact).sum(axis=1), right.sum(axis=1)

    return sums


def _change_accuracy(case: Case) -> Sums:
    before, after, predicted = case.steps("action")
    changes = (before != after) & case.alive()
    return ((predicted == after) & changes).sum(axis=(1, 2)), changes.sum(axis=(1, 2))


def _hits(of: str) -> Callable[[Case], Sums]:
    """Share of true (recall) or predicted (precision) rises of percent that are predicted and true."""

    def sums(case: Case) -> Sums:
        before, after, predicted = case.steps("percent")
        true, claimed = (after > before) & case.alive(), (predicted > before) & case.alive()
        return (true & claimed).sum(axis=(1, 2)), (true if of == "recall" else claimed).sum(axis=(1, 2))

    return sums


FIGURES: dict[str, Callable[[Case], Sums]] = {
    "RC@1": _rc(1),
    "RC@5": _rc(5),
    "RC@20": _rc(20),
    "exact@20": _exact(20),
    "change_acc": _change_accuracy,
    "action@20": _action(20),
    "percent_mae@20": _percent(20),
    "age@20": _age(20),
    "hit_recall": _hits("recall"),
    "hit_precision": _hits("precision"),
}
"""Figure → its sums over windows. Lower is better for RC and percent_mae, higher for the rest."""
