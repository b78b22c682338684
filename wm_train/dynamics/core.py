"""What a learned core owes the step: a proposal for the next frame. The rules of the game have their say after it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from wm_runtime.replays.dataset import Dataset
from wm_train.dynamics.named import Named
from wm_train.training.noise import StackNoise
from wm_train.training.records import Batch

if TYPE_CHECKING:
    from wm_train.dynamics.step import WorldModel

Carry = dict[str, Tensor]
"""Name → (N, …): what a model remembers of N matches."""


CarryLayout = dict[str, tuple[tuple[int, ...], str]]
"""Name → (shape without the match axis, dtype) of a carry."""


def zeros(layout: CarryLayout, matches: int, device: torch.device | None = None) -> Carry:
    """The carry of matches of which nothing is remembered."""
    return {
        name: torch.zeros((matches, *shape), dtype=getattr(torch, dtype), device=device)
        for name, (shape, dtype) in layout.items()
    }


@dataclass
class Proposal:
    """What a core makes of a state: `after`, every field of the next one (N, 2); entropy of the action head (N, 2) in
    nats; the next carry; for how many frames the present action has lasted, (N, 2) int32; and, where losses are taken
    of them, the network's outputs by name."""

    after: Named
    entropy: Tensor
    carry: Carry
    frames_in_action: Tensor
    heads: dict[str, Tensor] | None = None


class Core(nn.Module):
    """A network with its memory."""

    network: nn.Module
    """What is compiled, and runs in half precision."""
    predicted: tuple[str, ...]
    """Fields that it or the rules predict."""
    weights: Mapping[str, float]
    """Weight of each of its losses, by name."""
    amp: torch.dtype | None = None
    """Type of a network's products while training; set by the trainer."""
    noise: StackNoise | None = None
    """Scheduled sampling, set by the trainer of a core that `takes_noise`."""
    takes_noise = False
    unrolls = False
    """Whether it has `unrolled_losses`."""
    targets = 1
    """Target frames of a window."""

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
        """Name → mean loss (scalar) of a batch of windows of `window` frames, unweighted."""
        raise NotImplementedError

    def unrolled_losses(self, batch: Batch, model: WorldModel) -> dict[str, Tensor]:
        """The same of windows of `window` + n − 1 frames: n steps of `model`, which this core is in, each but the first
        from the state that the one before left; labels are those of the true game."""
        raise NotImplementedError

    @property
    def input_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Input of the network → its shape without the batch axis, in the network's order; what a run checks first."""
        return {}

    def precision(self, like: Tensor) -> AbstractContextManager:
        """Inside it, a network's products are in `amp` while it trains."""
        half = self.training and self.amp is not None
        return torch.autocast(like.device.type, self.amp) if half else nullcontext()
