"""Batches of windows straight from the memory-mapped dataset; encoding is left to the device."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from wm_runtime.errors import UserError
from wm_runtime.replays.dataset import Dataset
from wm_runtime.replays.split import split
from wm_runtime.schema import FIRST_FRAME


@dataclass
class Batch:
    """B windows of L raw frames: floats (B, L, 2, F), ints (B, L, 2, I), match (B, L, M), controllers (B, L, 2, 13)."""

    floats: Tensor
    ints: Tensor
    match: Tensor
    controllers: Tensor

    def to(self, device: torch.device) -> Batch:
        return Batch(*(t.to(device, non_blocking=True) for t in vars(self).values()))


def split_games(dataset: Dataset, holdout: float, max_games: int | None) -> tuple[list[int], list[int]]:
    """(train, held out) game numbers among the first `max_games`, by content; at least one is held out.

    Raises UserError for a dataset that is too small.
    """
    first = len(dataset) if max_games is None else min(max_games, len(dataset))
    train, held = ([int(g) for g in games if g < first] for games in split(dataset, holdout))
    if not held and len(train) > 1:
        held = [train.pop()]
    elif not train and len(held) > 1:
        train = [held.pop()]
    if not train or not held:
        raise UserError(f"{dataset.path}: {first} games are too few to train on; build a dataset of more")
    return train, held


class Windows:
    """Every window of `length` frames in `games` whose target, the last frame, is frame 0 or later."""

    def __init__(self, dataset: Dataset, games: list[int], length: int):
        self.dataset, self.length = dataset, length
        self.games = np.asarray(games)
        first_start = -FIRST_FRAME - (length - 1)
        self._counts = np.maximum(dataset.frames[self.games] - (first_start + length - 1), 0)
        self._first_start = first_start
        self._ends = np.cumsum(self._counts)
        if len(self) == 0:
            raise UserError(f"{dataset.path}: no game has a frame after control begins; build a dataset of whole games")

    def __len__(self) -> int:
        return int(self._ends[-1])

    def read(self, index: np.ndarray) -> Batch:
        """Windows number `index` (B,)."""
        state, controllers = self.dataset.windows(*self._places(index), self.length)
        arrays = (state.floats, state.ints, state.match, controllers)
        return Batch(*(torch.from_numpy(a).unflatten(0, (len(index), self.length)) for a in arrays))

    def announce(self, index: np.ndarray) -> None:
        """Has the system fetch windows that will be read soon."""
        self.dataset.announce(*self._places(index), self.length)

    def _places(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(games, first rows) of windows number `index`."""
        which = np.searchsorted(self._ends, index, side="right")
        return self.games[which], index - (self._ends[which] - self._counts[which]) + self._first_start

    def epoch(self, batch_size: int, frames: int | None, rng: np.random.Generator) -> Iterator[Batch]:
        """Batches in random order without replacement, `frames` windows in all (default: each once)."""
        total = min(frames or len(self), len(self))
        order = rng.permutation(len(self))[:total]
        yield from prefetch(self._read_ahead([order[i : i + batch_size] for i in range(0, total, batch_size)]))

    def _read_ahead(self, indices: list[np.ndarray]) -> Iterator[Batch]:
        for index, following in zip(indices, [*indices[1:], None], strict=True):
            if following is not None:
                self.announce(following)
            yield self.read(index)


T = TypeVar("T")


def prefetch(batches: Iterator[T], depth: int = 4) -> Iterator[T]:
    """The same batches, made ahead by a thread. An error there is raised here."""
    ready: queue.Queue = queue.Queue(depth)
    stop = threading.Event()

    def put(item: object) -> None:
        while not stop.is_set():
            try:
                return ready.put(item, timeout=0.1)
            except queue.Full:
                continue

    def work() -> None:
        try:
            for batch in batches:
                put(batch)
                if stop.is_set():
                    return
            put(None)
        except BaseException as error:
            put(error)

    threading.Thread(target=work, daemon=True).start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
