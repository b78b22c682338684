"""Where a network that runs in half precision does not."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def full_precision(like: Tensor) -> torch.autocast:
    """Products inside are of float32: those that positions go through, and sums that a match goes on from."""
    return torch.autocast(like.device.type, enabled=False)


def first_in_full(layers: nn.Sequential, x: Tensor) -> Tensor:
    """Layers one after the other, the first, which positions go through, in float32."""
    first, *others = layers
    with full_precision(x):
        x = first(x)
    for layer in others:
        x = layer(x)
    return x
