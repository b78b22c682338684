"""Windows of true frames, drawn in random order; they are decoded on the device and encoded by the model."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from wm_runtime.errors import UserError
from wm_runtime.replays.dataset import Dataset
from wm_runtime.replays.split import split
from wm_runtime.schema import FIRST_FRAME
from wm_train.training.corpus import Corpus, Mapped
from wm_train.training.records import Batch, Stored

__all__ = ["Batch", "Stored", "Windows", "prefetch", "split_games"]

T = TypeVar("T")


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
    """Every window of `length` frames in `games` whose target, the last frame, is frame 0 or later.

    `steps` − 1 further targets may be asked for after it; a window that would then run past the end of its game begins
    earlier. Games too short for `steps` targets have no windows. Numbers are (B,) int64, tensors on the corpus's
    device or arrays.
    """

    def __init__(
        self, dataset: Dataset, games: list[int], length: int, corpus: Corpus | None = None, steps: int = 1
    ):
        self.dataset, self.length, self.corpus = dataset, length, corpus or Mapped(dataset)
        self.games = np.asarray(games)
        frames = dataset.frames[self.games]
        self._first_start = -FIRST_FRAME - (length - 1)
        counts = np.maximum(frames + FIRST_FRAME, 0)
        counts[frames + FIRST_FRAME < steps] = 0
        self._total = int(counts.sum())
        if self._total == 0:
            raise UserError(f"{dataset.path}: no game has a frame after control begins; build a dataset of whole games")
        first = np.asarray(dataset.column("first_frame"))[self.games]
        tables = (self.games, np.cumsum(counts), counts, frames, first, dataset.stage[self.games])
        self._games, self._ends, self._counts, self._frames, self._first, self._stage = (
            torch.as_tensor(table.astype(np.int64), device=self.corpus.device) for table in tables
        )

    def __len__(self) -> int:
        return self._total

    def read(self, index: Tensor | np.ndarray, steps: int = 1) -> Batch:
        """Windows number `index` (B,), of `steps` targets, as raw values on the corpus's device."""
        return self.stored(index, steps).decode()

    def stored(self, index: Tensor | np.ndarray, steps: int = 1) -> Stored:
        """The same as they are stored."""
        which, start = self._places(index, steps)
        records = self.corpus.windows(self._games[which], start, self.length + steps - 1)
        return Stored(records, start + self._first[which], self._stage[which])

    def game_of(self, index: np.ndarray) -> np.ndarray:
        """Which of `games` each window is of, (B,)."""
        return np.searchsorted(self._ends.cpu().numpy(), index, side="right")

    def announce(self, index: Tensor | np.ndarray, steps: int = 1) -> None:
        """Has the system fetch windows that will be read soon."""
        which, start = self._places(index, steps)
        self.corpus.announce(self._games[which], start, self.length + steps - 1)

    def _places(self, index: Tensor | np.ndarray, steps: int) -> tuple[Tensor, Tensor]:
        """(which of the games, first row in it) of windows number `index`."""
        number = torch.as_tensor(index, device=self.corpus.device).contiguous()
        which = torch.searchsorted(self._ends, number, right=True)
        start = number - (self._ends[which] - self._counts[which]) + self._first_start
        return which, torch.minimum(start, self._frames[which] - (self.length + steps - 1))


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
