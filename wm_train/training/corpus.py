"""Where training frames are read from: the mapped files of a dataset, or a copy in memory, of this machine or a device.

Both give the same bytes; which of them a run uses is chosen by what fits (memory.py).
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from wm_runtime.replays.dataset import Dataset
from wm_runtime.replays.layout import FRAME_BYTES


class Corpus(Protocol):
    """Stored frames, read by the window. `device`: where indices are expected, and windows come out."""

    device: torch.device

    def windows(self, game: Tensor, start: Tensor, length: int) -> Tensor:
        """Games and first rows (B,) int64 → (B, length, FRAME_BYTES) uint8."""

    def announce(self, game: Tensor, start: Tensor, length: int) -> None:
        """These windows will be read soon."""


class Mapped:
    """Straight from the dataset's files; the system keeps what it has room for."""

    device = torch.device("cpu")

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def windows(self, game: Tensor, start: Tensor, length: int) -> Tensor:
        records = self.dataset.stored_windows(game.numpy(), start.numpy(), length)
        return torch.from_numpy(records.reshape(len(game), -1).view(np.uint8)).unflatten(1, (length, FRAME_BYTES))

    def announce(self, game: Tensor, start: Tensor, length: int) -> None:
        self.dataset.announce(game.numpy(), start.numpy(), length)


class Resident:
    """All frames of `games` in the memory of a device, FRAME_BYTES each."""

    def __init__(self, dataset: Dataset, games: list[int], device: torch.device):
        self.device = device
        frames = dataset.frames[games]
        first = np.zeros(len(dataset), np.int64)
        first[games] = np.cumsum(frames) - frames
        self._first = torch.from_numpy(first).to(device)
        self._halves = torch.empty((int(frames.sum()), FRAME_BYTES // 2), dtype=torch.int16, device=device)
        for game, row in zip(games, first[games].tolist(), strict=True):
            records = np.array(dataset.records(game)).reshape(-1).view(np.int16)
            rows = torch.from_numpy(records).unflatten(0, (-1, FRAME_BYTES // 2))
            self._halves[row : row + len(rows)] = rows.to(device)

    @staticmethod
    def bytes(frames: int) -> int:
        """Memory that so many frames take."""
        return frames * FRAME_BYTES

    def windows(self, game: Tensor, start: Tensor, length: int) -> Tensor:
        rows = (self._first[game] + start)[:, None] + torch.arange(length, device=self.device)
        if self.device.type == "cpu":  # by one thread: torch's own would take those of the model
            halves = torch.from_numpy(self._halves.numpy().take(rows.flatten().numpy(), axis=0))
        else:
            halves = self._halves.index_select(0, rows.flatten())
        return halves.view(torch.uint8).unflatten(0, rows.shape)

    def announce(self, game: Tensor, start: Tensor, length: int) -> None:
        """Nothing to do: they are there."""
