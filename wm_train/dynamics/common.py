"""The commonest values of what is counted by key."""

from __future__ import annotations

import numpy as np

GRID = 1e4
"""Values are counted as equal on a grid of one part in so many."""


def commonest(
    key: np.ndarray, value: np.ndarray, size: int, least: int = 1, grid: float = GRID
) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray, np.ndarray]:
    """Keys (2, P) and values (P,) → ((key, rank), value, count) of the `size` commonest values of each key, seen
    `least` times. The second row of `key` is not used but keeps the shape of the first."""
    code = np.rint(value.astype(np.float64) * grid).astype(np.int64)
    low, high = (int(code.min()), int(code.max())) if len(code) else (0, 0)
    span = high - low + 1
    unique, where, counts = np.unique(key[0] * span + (code - low), return_index=True, return_counts=True)
    rows = unique // span
    order = np.lexsort((-counts, rows))
    rows, where, counts = rows[order], where[order], counts[order]
    begins = np.flatnonzero(np.diff(rows, prepend=-1))
    rank = np.arange(len(rows)) - np.repeat(begins, np.diff(np.append(begins, len(rows))))
    keep = (rank < size) & (counts >= least)
    return (rows[keep], rank[keep]), value[where[keep]].astype(np.float32), counts[keep]
