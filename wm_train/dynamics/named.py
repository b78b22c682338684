"""A state as a dict of named tensors, the form in which rules and heads read and write it."""

from __future__ import annotations

import torch
from torch import Tensor

from wm_runtime.schema import F_, FLOAT_FIELDS, I_, INT_FIELDS

Named = dict[str, Tensor]
"""Field → (N, 2): float32 for float fields, int32 for the rest."""


def named(floats: Tensor, ints: Tensor) -> Named:
    """Raw floats (N, 2, F) and ints (N, 2, I) → every field by name."""
    return {**{n: floats[..., i] for n, i in F_.items()}, **{n: ints[..., i] for n, i in I_.items()}}


def bounded(misc: Tensor) -> Tensor:
    """misc_as as a number that can be reckoned with: in some actions it is the bit pattern of something else."""
    return torch.where(misc == misc, misc, torch.zeros_like(misc)).clamp(-1e4, 1e4)


def raw(state: Named) -> tuple[Tensor, Tensor]:
    """The inverse of `named`."""
    floats = torch.stack([state[n] for n in FLOAT_FIELDS], dim=-1)
    return floats, torch.stack([state[n] for n in INT_FIELDS], dim=-1)


def is_of(action: Tensor, actions: tuple[int, ...]) -> Tensor:
    """Whether an action (…) is one of these (…)."""
    return torch.stack([action == a for a in actions]).any(dim=0)
