"""Reward terms over batched matches, and their weighted sum."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from wm_runtime.schema import State

WEIGHTS: Mapping[str, float] = {
    "damage_dealt": 0.01,
    "damage_taken": -0.01,
    "stocks_taken": 1.0,
    "stocks_lost": -1.0,
}
"""Term → weight: a stock is worth 100 percent of damage."""


def losses(before_percent: np.ndarray, before_stocks: np.ndarray, after: State) -> tuple[np.ndarray, np.ndarray]:
    """What both players lost in a frame: (damage in percent, stocks), each (N, 2) float32.

    `before_percent`, `before_stocks`: (N, 2) of the frame before. Damage is the rise of percent; the fall to 0 at
    rebirth is none.
    """
    damage = np.maximum(after["percent"] - before_percent, 0).astype(np.float32)
    stocks = np.maximum(before_stocks - after["stocks"], 0).astype(np.float32)
    return damage, stocks


def reward_terms(damage: np.ndarray, stocks: np.ndarray, player: int) -> dict[str, np.ndarray]:
    """Term → (N,) float32 as `player` sees what both lost, (N, 2) each."""
    other = 1 - player
    return {
        "damage_dealt": damage[:, other],
        "damage_taken": damage[:, player],
        "stocks_taken": stocks[:, other],
        "stocks_lost": stocks[:, player],
    }


def total(terms: Mapping[str, np.ndarray], weights: Mapping[str, float]) -> np.ndarray:
    """Weighted sum of the terms, (N,) float32."""
    return sum(np.float32(weights[name]) * term for name, term in terms.items())  # type: ignore[return-value]
