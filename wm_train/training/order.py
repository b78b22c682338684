"""In which order an epoch goes through the windows: each at most once, every one equally likely to be among them.

An order is a function of its seed alone, so that a run that is resumed goes on with the very windows that were due.
"""

from __future__ import annotations

import numpy as np

BLOCK = 256
"""Neighbouring windows that are fetched together when streaming."""


def shuffled(count: int, total: int, rng: np.random.Generator) -> np.ndarray:
    """`total` of the numbers 0 … count − 1 in random order, for frames that lie in memory."""
    return rng.permutation(count)[:total]


def buffered(count: int, total: int, buffer: int, rng: np.random.Generator) -> np.ndarray:
    """The same for frames that lie on disk: blocks of neighbours enter a shuffle buffer of `buffer` windows in random
    order, and each window leaves it at random before so many more have entered."""
    blocks = rng.permutation(-(-count // BLOCK))
    blocks = blocks[: -(-(total + buffer) // BLOCK) + 1]  # the last one of all may be short
    entering = (blocks[:, None] * BLOCK + np.arange(BLOCK)).ravel()
    leaves_at = np.repeat(np.arange(len(blocks)) * BLOCK, BLOCK) + buffer * rng.random(len(entering))
    order = entering[np.argsort(leaves_at, kind="stable")]
    return order[order < count][:total]
