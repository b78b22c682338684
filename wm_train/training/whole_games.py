"""Whole games in memory, every frame with its memory numbers: where unrolled training begins anywhere in a game."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from wm_runtime.replays.dataset import Dataset
from wm_runtime.schema import CONTROL_NAMES, FIRST_FRAME, FLOAT_FIELDS, INT_FIELDS, PLAYERS
from wm_train.dynamics.lasers import FLYING, SHOTS
from wm_train.dynamics.memory import CONTROLLERS, NUMBERS, carry_of, remembered
from wm_train.dynamics.named import Named, named
from wm_train.dynamics.platforms import PLATFORMS, SIDES, forgotten
from wm_train.dynamics.wind import WIND, lately

FOLD = "fold"
"""In the carry while training: the fold of a match's game, from 1 on."""
TOGETHER = 1024
"""Games whose memory is worked out at the same time."""


@dataclass
class Unroll:
    """B windows of L true frames, the first of which is where a rollout begins.

    floats: (L, B, 2, F) · ints: (L, B, 2, I) · match: (L, B, M) · controllers: (L, B, 2, 13), those that led to each.
    """

    floats: Tensor
    ints: Tensor
    match: Tensor
    controllers: Tensor
    carry: dict[str, Tensor]
    """Name → (L − 1, B, …): carry of each frame but the last, as if the true frames before it had been stepped."""

    def __len__(self) -> int:
        return len(self.floats)

    def to(self, device: torch.device) -> Unroll:
        floats, ints, match, controllers = (
            values.to(device, non_blocking=True) for values in (self.floats, self.ints, self.match, self.controllers)
        )
        carry = {name: value.to(device, non_blocking=True) for name, value in self.carry.items()}
        return Unroll(floats, ints, match, controllers, carry)

    def state(self, t: int | slice) -> Named:
        """A frame, or several as one batch."""
        floats, ints = self.floats[t], self.ints[t]
        return named(floats, ints) if isinstance(t, int) else named(floats.flatten(0, 1), ints.flatten(0, 1))


class WholeGames:
    """The frames of `games` as arrays: floats (T, 2, F) float32, ints (T, 2, I) int32, controllers (T, 2, 13) float32,
    numbers (T, 2, NUMBERS) int16, shots (T, 2, FLYING, SHOTS), platforms (T, 2, PLATFORMS) and wind (T, WIND) float32;
    `first` and `frames` say where each game lies, `fold` in which of `folds` it is, if in any."""

    def __init__(
        self, dataset: Dataset, games: list[int], on_game: Callable[[int, int], None] | None = None, folds: int = 0
    ) -> None:
        self.frames = np.asarray(dataset.frames)[games].astype(np.int64)
        self.first = np.cumsum(self.frames) - self.frames
        self.stage = np.asarray(dataset.stage)[games].astype(np.int32)
        self.fold = 1 + np.arange(len(games)) % folds if folds else None
        total = int(self.frames.sum())
        self.floats = torch.empty(total, PLAYERS, len(FLOAT_FIELDS))
        self.ints = torch.empty(total, PLAYERS, len(INT_FIELDS), dtype=torch.int32)
        self.controllers = torch.empty(total, PLAYERS, len(CONTROL_NAMES))
        for i, game in enumerate(games):
            state, pads = dataset.windows(np.array([game]), np.array([0]), int(self.frames[i]))
            rows = slice(int(self.first[i]), int(self.first[i] + self.frames[i]))
            for kept, part in ((self.floats, state.floats), (self.ints, state.ints), (self.controllers, pads)):
                kept[rows] = torch.from_numpy(part)
            if on_game:
                on_game(i + 1, len(games))
        self.numbers = torch.zeros((*self.ints.shape[:2], len(NUMBERS)), dtype=torch.int16)
        self.shots = torch.zeros((*self.ints.shape[:2], FLYING, len(SHOTS)))
        self.platforms = torch.zeros((total, len(SIDES), len(PLATFORMS)))
        self.wind = torch.zeros((total, len(WIND)))
        order = np.argsort(self.frames)
        for at in range(0, len(games), TOGETHER):
            self._remember(order[at : at + TOGETHER])
        starts = self.first - FIRST_FRAME
        self._starts, self._room = starts, self.first + self.frames - 1 - starts
        self.device = torch.device("cpu")

    def to(self, device: torch.device) -> WholeGames:
        """Moves the frames into the memory of a device, where windows are read from then on."""
        for name in ("floats", "ints", "controllers", "numbers", "shots", "platforms", "wind"):
            setattr(self, name, getattr(self, name).to(device))
        self.device = device
        return self

    @staticmethod
    def bytes(frames: int) -> int:
        """What so many frames take."""
        numbers = 2 * len(NUMBERS) + 4 * FLYING * len(SHOTS) + 4 * len(PLATFORMS) + 2 * len(WIND)
        return frames * PLAYERS * (4 * (len(FLOAT_FIELDS) + len(INT_FIELDS) + len(CONTROL_NAMES)) + numbers)

    def _remember(self, games: np.ndarray) -> None:
        """Memory of games of about one length; shorter ones stand still at their end."""
        length = int(self.frames[games].max())
        rows = torch.from_numpy(
            self.first[games] + np.minimum(np.arange(length)[:, None], self.frames[games] - 1)
        )  # (T, games)
        states = (named(self.floats[row], self.ints[row]) for row in rows)
        for t, (numbers, shots, platforms, wind) in enumerate(remembered(states, self.controllers[rows])):
            alive = torch.from_numpy(t < self.frames[games])
            self.numbers[rows[t][alive]] = numbers[alive].to(torch.int16)
            self.shots[rows[t][alive]] = shots[alive]
            self.platforms[rows[t][alive]] = platforms[alive]
            self.wind[rows[t][alive]] = wind[alive]

    def draw(self, count: int, length: int, rng: np.random.Generator) -> np.ndarray:
        """Rows (count,) at which windows of `length` frames begin, every frame from control on as likely as another."""
        room = np.maximum(self._room - (length - 2), 0)
        ends = np.cumsum(room)
        pick = rng.integers(0, ends[-1], count)
        game = np.searchsorted(ends, pick, side="right")
        return self._starts[game] + pick - (ends[game] - room[game])

    def read(self, rows: np.ndarray, length: int, past: int = 0, forget: np.ndarray | None = None) -> Unroll:
        """Windows of the `length` frames from `rows` (B,) on, and `past` (at most −FIRST_FRAME − 1) before them.
        `forget` (B,) bool: windows that know of platforms and wind only what a match shows that was entered late."""
        rows, length, where = rows - past, length + past, self.device
        game = np.searchsorted(self.first, rows, side="right") - 1
        ahead = torch.arange(length, device=where)[:, None]
        at = torch.from_numpy(rows).to(where)[None] + ahead  # (L, B)
        frame = torch.from_numpy(rows - self.first[game] + FIRST_FRAME).to(where)[None] + ahead
        stage = torch.from_numpy(self.stage[game]).to(where)[None].expand(length, -1)
        now = at[:-1].flatten()
        before = named(self.floats[now - 1], self.ints[now - 1])
        history = self.controllers[now[:, None] - torch.arange(CONTROLLERS - 1, -1, -1, device=where)]
        platforms, wind = self.platforms[now - 1], self.wind[now - 1]
        if forget is not None:
            late = torch.from_numpy(forget).to(where)[None].expand(length - 1, -1).reshape(-1, 1)
            platforms = torch.where(late[..., None], forgotten(platforms), platforms)
            wind = torch.where(late, lately(wind, -FIRST_FRAME), wind)
        carry = carry_of(before, self.numbers[now - 1].int(), self.shots[now - 1], platforms, wind, history)
        carry = {name: value.unflatten(0, (length - 1, len(rows))) for name, value in carry.items()}
        if self.fold is not None:
            carry[FOLD] = torch.from_numpy(self.fold[game]).to(where)[None, :, None].expand(length - 1, -1, 1)
        match = torch.stack([frame.int(), stage], dim=-1)
        return Unroll(self.floats[at], self.ints[at], match, self.controllers[at], carry)
