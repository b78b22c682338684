"""Ratios of sums over windows, and their 95 % intervals by resampling games: windows of one game are not independent.

An interval is None three times where nothing was counted: a baseline that never claims a hit has no precision.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RESAMPLES = 1000
Interval = dict[str, float | None]
"""{"value", "low", "high"}."""
NOTHING: Interval = {"value": None, "low": None, "high": None}


@dataclass
class Scores:
    """Sums of one predictor. names: F figures · sums: (B, 2, F, 2), window × player × figure × (numerator,
    denominator) · game: (B,) the game of each window."""

    names: tuple[str, ...]
    sums: np.ndarray
    game: np.ndarray

    def table(self, counted: np.ndarray | None = None, names: tuple[str, ...] | None = None) -> dict[str, Interval]:
        """Figure → its interval, over the windows (B,) or player-windows (B, 2) that are `counted` (default: all)."""
        chosen = list(names or self.names)
        return intervals(chosen, self.by_game(counted, chosen))

    def by_game(self, counted: np.ndarray | None, names: list[str]) -> np.ndarray:
        """(G, F, 2): sums over the counted windows of each game, of these figures."""
        sums = self.sums[:, :, [self.names.index(name) for name in names]]
        if counted is not None:
            sums = sums * counted.reshape(len(sums), -1, 1, 1)
        return sum_by_game(sums.sum(axis=1), self.game)


def sum_by_game(rows: np.ndarray, game: np.ndarray) -> np.ndarray:
    """(B, ...) rows and their games → (G, ...) sums, games in ascending order."""
    games, of = np.unique(game, return_inverse=True)
    total = np.zeros((len(games), *rows.shape[1:]))
    np.add.at(total, of, rows)
    return total


def resampled(by_game: np.ndarray) -> np.ndarray:
    """(G, ...) → (RESAMPLES, ...): sums over as many games, drawn with replacement. The same draws for the same G."""
    games = len(by_game)
    drawn = np.random.default_rng(0).integers(0, games, (RESAMPLES, games))
    times = np.stack([np.bincount(row, minlength=games) for row in drawn]).astype(np.float64)
    return (times @ by_game.reshape(games, -1)).reshape(RESAMPLES, *by_game.shape[1:])


def intervals(names: list[str], by_game: np.ndarray) -> dict[str, Interval]:
    """(G, F, 2) sums by game → figure → the ratio over all games and its interval."""
    total, drawn = ratio(by_game.sum(axis=0)), ratio(resampled(by_game))
    return {name: interval(total[f], drawn[:, f]) for f, name in enumerate(names)}


def ratio(sums: np.ndarray) -> np.ndarray:
    """(..., 2) → (...): numerator over denominator, NaN where that is 0."""
    top, bottom = sums[..., 0], sums[..., 1]
    return np.divide(top, bottom, out=np.full(top.shape, np.nan), where=bottom > 0)


def interval(value: float, drawn: np.ndarray) -> Interval:
    """A value, and the middle 95 % of what resampling gave (NaN there: nothing was counted)."""
    drawn = drawn[np.isfinite(drawn)]
    if not np.isfinite(value) or not len(drawn):
        return dict(NOTHING)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return {"value": float(value), "low": float(low), "high": float(high)}
