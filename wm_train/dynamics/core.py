"""What a learned core owes the step: a proposal for the next frame. The rules of the game have their say after it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wm_runtime.replays.dataset import Dataset
from wm_train.dynamics.named import Named
from wm_train.training.data import Batch

Carry = dict[str, Tensor]
"""Name → (N, …): what a model remembers of N matches."""


CarryLayout = dict[str, tuple[tuple[int, ...], str]]
"""Name → (shape without the match axis, dtype) of a carry."""


def zeros(layout: CarryLayout, matches: int) -> Carry:
    """The carry of matches of which nothing is remembered."""
    return {n: torch.zeros((matches, *shape), dtype=getattr(torch, dtype)) for n, (shape, dtype) in layout.items()}


@dataclass
class Proposal:
    """What a core makes of a state: `after`, every field of the next one (N, 2); entropy of the action head (N, 2) in
    nats; the next carry; and for how many frames the present action has lasted, (N, 2) int32."""

    after: Named
    entropy: Tensor
    carry: Carry
    frames_in_action: Tensor


class Core(nn.Module):
    """A network with its memory."""

    predicted: tuple[str, ...]
    """Fields that it or the rules predict."""
    weights: Mapping[str, float]
    """Weight of each of its losses, by name."""

    @property
    def carry_layout(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Name → (shape without the match axis, dtype) of its carry."""
        raise NotImplementedError

    @property
    def window(self) -> int:
        """Raw frames of a training window, the last of which is the (last) target."""
        raise NotImplementedError

    def forward(
        self, floats: Tensor, ints: Tensor, match: Tensor, before: Named, controllers: Tensor, carry: Carry
    ) -> Proposal:
        """Raw state (floats (N, 2, F), ints (N, 2, I), match (N, M), and by name), controllers (N, 2, 13) of the next
        frame, carry → proposal."""
        raise NotImplementedError

    def measure(self, dataset: Dataset, games: list[int], sample: Batch) -> None:
        """Fills tables and statistics from training games, and a sample of their windows, before training begins."""
        raise NotImplementedError

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Name → mean loss (scalar) of a batch of windows, unweighted."""
        raise NotImplementedError
