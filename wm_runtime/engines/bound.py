"""What an engine works out once for the arrays of a simulator, whose two sets of buffers come again and again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

import numpy as np

from wm_runtime.schema import State

MOST = 4
"""Sets of arrays that are known: of two simulators that share an engine."""
T = TypeVar("T")


class Bound(Generic[T]):
    """What `make` gives for a step's arrays, by their identity; the arrays are kept, so that no others take that."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, ...], tuple[T, list[np.ndarray]]] = {}

    def of(
        self,
        states: tuple[State, State],
        others: tuple[Mapping[str, np.ndarray], ...],
        make: Callable[[], T],
    ) -> T:
        """For the present and the next state, and further arrays by name."""
        arrays = [array for part in (*map(vars, states), *others) for array in part.values()]
        key = tuple(map(id, arrays))
        if key not in self._known:
            while len(self._known) >= MOST:
                del self._known[next(iter(self._known))]
            self._known[key] = make(), arrays
        return self._known[key][0]
