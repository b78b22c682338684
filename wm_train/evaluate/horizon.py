"""Beyond a second: rollouts of 300 frames from all kinds of windows, with the true controllers.

Curves are taken over player-windows at each frame k after the start. A stock loss is a fall of `stocks`; one that is
predicted at k is found when the same player truly loses a stock between k − 10 and k + 10.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from wm_train.evaluate.figures import Case, Figure, Sums, mean_of

HORIZON = 300
NEAR = 10
AT = (60, 120, 300)
FIELDS = ("x", "y", "action", "stocks")
"""All that these figures look at."""


def _losses(stocks: np.ndarray, before: np.ndarray) -> np.ndarray:
    """(B, H, 2) stocks and those of the frame before → where one is lost."""
    return np.diff(np.concatenate([before[:, None], stocks], axis=1), axis=1) < 0


def _near(losses: np.ndarray) -> np.ndarray:
    """Where a loss lies within NEAR frames."""
    total = np.cumsum(np.pad(losses, ((0, 0), (NEAR + 1, NEAR), (0, 0))), axis=1)
    return total[:, 2 * NEAR + 1 :] - total[:, : -2 * NEAR - 1] > 0


def _stock_losses(of: Literal["recall", "precision"]) -> Callable[[Case], Sums]:
    def sums(case: Case) -> Sums:
        before = case.before("stocks")
        true, claimed = (_losses(s, before) for s in (case.true("stocks"), case.prediction.free["stocks"]))
        counted, other = (true, claimed) if of == "recall" else (claimed, true)
        return (counted & _near(other)).sum(axis=1), counted.sum(axis=1)

    return sums


def _position(k: int) -> Callable[[Case], Sums]:
    return lambda case: mean_of(case.error()[:, k - 1])


def _action(k: int) -> Callable[[Case], Sums]:
    return lambda case: mean_of(case.prediction.free["action"][:, k - 1] == case.true("action")[:, k - 1])


FIGURES: dict[str, Figure] = {
    "stock_loss_recall": Figure(_stock_losses("recall"), "higher"),
    "stock_loss_precision": Figure(_stock_losses("precision"), "higher"),
    **{f"position_error_at_{k}": Figure(_position(k), "lower") for k in AT},
    **{f"action_right_at_{k}": Figure(_action(k), "higher") for k in AT},
}


class Curves:
    """Position error and right actions at every k = 1 … 300, of each predictor; `add` is score's `on_case`."""

    def __init__(self) -> None:
        self._errors: dict[str, list[np.ndarray]] = {}
        self._right: dict[str, list[np.ndarray]] = {}

    def add(self, name: str, case: Case) -> None:
        right = case.prediction.free["action"] == case.true("action")
        self._errors.setdefault(name, []).append(case.error().astype(np.float32))
        self._right.setdefault(name, []).append(right.mean(axis=2))

    def report(self) -> dict[str, Any]:
        """{"frames": [1 … 300], predictor → {"position_error_mean", "position_error_median", "action_right"}}."""
        out: dict[str, Any] = {"frames": []}
        for name, parts in self._errors.items():
            errors = np.concatenate(parts)
            out["frames"] = list(range(1, errors.shape[1] + 1))
            out[name] = {
                "position_error_mean": _rounded(errors.mean(axis=(0, 2), dtype=np.float64)),
                "position_error_median": _rounded(np.median(errors, axis=(0, 2))),
                "action_right": _rounded(np.concatenate(self._right[name]).mean(axis=0)),
            }
        return out


def _rounded(values: np.ndarray) -> list[float]:
    return np.round(values.astype(np.float64), 5).tolist()
