"""Scheduled sampling by noise: the newest frames of some stacks are made as uncertain as a model's own would be."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

CERTAIN = ("facing", "invulnerable", "on_ground")
"""Inputs that are yes or no; they and the controllers are left alone."""


@dataclass(frozen=True)
class StackNoise:
    """rate: share of stacks that are disturbed · noise: standard deviation in encoded units · frames: the newest so
    many of each."""

    rate: float
    noise: float
    frames: int

    def __call__(self, floats: Tensor, names: tuple[str, ...]) -> Tensor:
        """Encoded stacks (B, K, 2, floats) and the names of their inputs → the same, some of them disturbed."""
        uncertain = [name not in CERTAIN and not name.startswith("controller.") for name in names]
        chosen = torch.rand(len(floats), 1, 1, 1, device=floats.device) < self.rate
        newest = floats[:, -self.frames :]
        added = self.noise * torch.randn_like(newest) * torch.tensor(uncertain, device=floats.device)
        return torch.cat([floats[:, : -self.frames], torch.where(chosen, newest + added, newest)], dim=1)


def annealed(rate: float, noise: float, frames: int, annealing_epochs: int, epoch: int) -> StackNoise | None:
    """The noise of an epoch (0 …): rate and deviation rise evenly over the first `annealing_epochs`."""
    part = min(1.0, epoch / annealing_epochs) if annealing_epochs else 1.0
    return StackNoise(rate * part, noise * part, frames) if part else None
