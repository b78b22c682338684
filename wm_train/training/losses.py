"""Targets of the classic heads and their losses. Frames that the rules decide (dying, rebirth) are not learned from."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from wm_train.dynamics.kinematics import displacement
from wm_train.dynamics.named import Named
from wm_train.dynamics.select import LAST_RULED_ACTION
from wm_train.encoding import BITS, HITSTUN_BIT, HITSTUN_BYTE
from wm_train.models.heads import HEAD, NO_GROUND_CLASS, Head


def losses(heads: dict[str, Tensor], before: Named, after: Named) -> dict[str, Tensor]:
    """Head outputs for true states before and after, (B, 2) fields → name → mean loss (scalar), unweighted."""
    learned = (before["action"] > LAST_RULED_ACTION) & (after["action"] > LAST_RULED_ACTION)
    weight = learned.float()
    total = weight.sum().clamp(min=1)
    parts = {name: _loss(HEAD[name], output, before, after) for name, output in heads.items()}
    return {name: (part * weight).sum() / total for name, part in parts.items()}


def weighted(parts: dict[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Unweighted losses and the weights of each → the scalar that is minimised."""
    return torch.stack([weights[name] * part for name, part in parts.items()]).sum()


def _loss(head: Head, output: Tensor, before: Named, after: Named) -> Tensor:
    """Loss of each player, (B, 2)."""
    if head.kind == "classes":
        return F.cross_entropy(output.flatten(0, 1), _classes(head, after).flatten(), reduction="none").view(-1, 2)
    if head.kind == "binary":
        return F.binary_cross_entropy_with_logits(output, _binary(after), reduction="none").mean(dim=-1)
    if head.kind == "bits":
        return F.binary_cross_entropy_with_logits(output, _bits(head, after), reduction="none").mean(dim=-1)
    target = _values(head, before, after)
    if head.name == "hitstun":  # elsewhere misc_as is something else
        target = torch.where(_stunned(after)[..., None], target, output.detach())
    error = (output - target).abs()
    beta = torch.tensor(head.beta, device=error.device)
    near = torch.minimum(error, beta)
    return (near * (error - 0.5 * near) / beta).mean(dim=-1)


def _classes(head: Head, after: Named) -> Tensor:
    value = after[head.fields[0]].long()
    last = NO_GROUND_CLASS if head.name == "ground" else head.classes - 1
    return value.clamp(0, last)


def _binary(after: Named) -> Tensor:
    """facing, invulnerable, on_ground: (B, 2, 3)."""
    return torch.stack([after["facing"] > 0, after["hurtbox"] != 0, after["airborne"] == 0], dim=-1).float()


def _bits(head: Head, after: Named) -> Tensor:
    """(B, 2, bytes · 8)."""
    bits = torch.tensor(BITS, dtype=torch.int32, device=after["x"].device)
    return torch.cat([((after[name][..., None] & bits) > 0).float() for name in head.fields], dim=-1)


def _stunned(state: Named) -> Tensor:
    return (state[HITSTUN_BYTE] & HITSTUN_BIT) > 0


def _values(head: Head, before: Named, after: Named) -> Tensor:
    """Targets of a regressed head in its scale, (B, 2, fields)."""
    if head.kind == "absolute":
        values = [after[name].float() for name in head.fields]
    else:
        moved = dict(zip(("x", "y"), displacement(before, after), strict=True))
        values = [after[name] - before[name] - moved.get(name, 0.0) for name in head.fields]
    return torch.stack(values, dim=-1) / torch.tensor(head.scale, device=values[0].device)
