"""The control stick as the game reads it, which is not always what a replay says.

UCF, which tournaments and online play have, reads a stick that is pushed all the way along an axis and only slightly
off it as pushed all the way; a replay holds what the controller sent, 79/80 of it. Slippi records the raw stick along
both axes since 3.17: on the 108 such games of `train`, fighters that drift in the air with the stick so go as fast as a
full stick makes them on 2,400 frames of 2,495, and off it by more on 115 of 3,979.
"""

from __future__ import annotations

import numpy as np

NEARLY, GRID = 79, 80
"""A stick that is pushed all the way, but off the axis, is recorded as NEARLY GRID-ths."""
LEAST, OFF = 80, 6
"""So far is the raw stick pushed at least, and so far off the axis it may be."""


def as_read(x: np.ndarray, y: np.ndarray, raw_x: np.ndarray, raw_y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Recorded sticks along both axes and the raw ones, 0 where a replay has none (…) → the sticks as they are read."""
    far_x, far_y = (np.abs(raw.astype(np.int16)) for raw in (raw_x, raw_y))
    return _full(x, far_x, far_y), _full(y, far_y, far_x)


def _full(stick: np.ndarray, along: np.ndarray, off: np.ndarray) -> np.ndarray:
    """A stick along an axis, full where it is nearly so, by how far the raw one is along it and off it."""
    full = (np.rint(np.abs(stick) * GRID) == NEARLY) & (along >= LEAST) & (off > 0) & (off <= OFF)
    return np.where(full, np.sign(stick), stick)
