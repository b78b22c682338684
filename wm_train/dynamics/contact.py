"""Contact with the stage by rule: who stands, stands on its surface; nobody sinks through solid ground.

Surfaces: wm_runtime.facts, those that do not move. On val, standing fighters keep to 0.0012 units of their surface's
height, but for first frames of teetering and a few moves (mwm replays audit, rule on_a_surface).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wm_runtime.facts import FAMILIES, STAGES
from wm_runtime.schema import FIELD
from wm_train.dynamics.named import Named

EXACT = 2e-3
"""Who stands so near to a surface's height, units, stands on it, whatever surface was said."""
REST = 0.0001
"""Height of a fighter at rest above its surface, units."""
REACH, BESIDE = 10.0, 1.0
"""A standing fighter is set on its surface from so far above or below it, and so far beyond its ends."""
SINK, INSIDE = 14.0, 5.0
"""An airborne fighter that is so far below solid ground, so far in from its ends, has fallen through it: it lands."""
LANDING = 42
HELD = ("grabbed", "thrown", "captured")


class Contact(nn.Module):
    """Tables (stages, surfaces): id, ends, heights at the ends, whether solid. Rows without a surface have id −1."""

    ids: Tensor
    left: Tensor
    right: Tensor
    y_left: Tensor
    y_right: Tensor
    solid: Tensor
    held: Tensor
    """(actions,): those in which another fighter decides where this one is."""

    def __init__(self) -> None:
        super().__init__()
        fixed = {stage.id: [s for s in stage.surfaces if not s.moves] for stage in STAGES}
        shape = (1 + max(fixed), max(map(len, fixed.values())))
        tables = {name: torch.zeros(shape) for name in ("left", "right", "y_left", "y_right")}
        ids, solid = torch.full(shape, -1, dtype=torch.int32), torch.zeros(shape, dtype=torch.bool)
        for stage, surfaces in fixed.items():
            for i, surface in enumerate(surfaces):
                ids[stage, i], solid[stage, i] = surface.id, not surface.platform
                ends = (*surface.x, *surface.y)
                for name, value in zip(tables, ends, strict=True):
                    tables[name][stage, i] = value
        held = torch.zeros(FIELD["action"].classes or 0, dtype=torch.bool)
        held[[action for family in HELD for action in FAMILIES[family]]] = True
        for name, table in {**tables, "ids": ids, "solid": solid, "held": held}.items():
            self.register_buffer(name, table, persistent=False)

    def forward(self, before: Named, after: Named, stage: Tensor) -> Named:
        """Present state, proposal and stage (N,) → the proposal, its feet on the ground."""
        ids, solid = self.ids[stage][:, None], self.solid[stage][:, None]  # (N, 1, S)
        left, right = self.left[stage][:, None], self.right[stage][:, None]
        y_left, y_right = self.y_left[stage][:, None], self.y_right[stage][:, None]
        x, y = after["x"][..., None], after["y"][..., None]  # (N, 2, 1)
        slope = (y_right - y_left) / (right - left).clamp(min=1e-3)
        height = y_left + slope * (torch.minimum(torch.maximum(x, left), right) - left) + REST  # (N, 2, S)

        exactly = ((y - height).abs() < EXACT) & (x >= left) & (x <= right) & (ids >= 0)
        nothing = torch.full_like(exactly, -1, dtype=torch.int32)
        under = torch.where(exactly, ids.expand_as(exactly), nothing).amax(dim=-1)
        known = (after["airborne"] == 0) & (under >= 0)
        after = {**after, "ground": torch.where(known, under, after["ground"])}

        free = (after["airborne"] == 0) & ~self.held[after["action"].long()]
        stands = free[..., None] & (ids == after["ground"][..., None])
        stands &= (x > left - BESIDE) & (x < right + BESIDE) & ((y - height).abs() < REACH)
        was_above = before["y"][..., None] > height - SINK
        within = (x > left + INSIDE) & (x < right - INSIDE)
        was_x = before["x"][..., None]
        within &= (was_x > left + INSIDE) & (was_x < right - INSIDE)
        sinks = (after["airborne"] == 1)[..., None] & solid & (ids >= 0) & was_above & (y < height - SINK) & within

        on, through = stands.any(dim=-1), sinks.any(dim=-1)
        ground = torch.where(stands | sinks, height, torch.full_like(height, -1e9)).amax(dim=-1)
        landed = torch.where(sinks, ids.expand_as(sinks), nothing).amax(dim=-1)
        return {
            **after,
            "y": torch.where(on | through, ground, after["y"]),
            "airborne": after["airborne"].masked_fill(through, 0),
            "action": after["action"].masked_fill(through, LANDING),
            "ground": torch.where(through, landed, after["ground"]),
            "self_y": after["self_y"].masked_fill(through, 0.0),
            "knockback_y": after["knockback_y"].masked_fill(through, 0.0),
        }
