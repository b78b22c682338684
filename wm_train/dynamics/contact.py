"""Contact with the stage by rule: who stands, stands on a surface, or falls; nobody sinks through solid ground.

Surfaces: wm_runtime.facts, those that do not move. On val, standing fighters keep to 0.0012 units of their surface's
height, but for first frames of teetering and a few moves (mwm replays audit, rule on_a_surface).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from wm_runtime.facts import FAMILIES, STAGES
from wm_runtime.replays.rules import (
    DAMAGE_FLY_ROLL,
    FAR,
    FOUNTAIN_HEIGHTS,
    POKEMON_STADIUM,
    REBIRTH_WAIT,
    RESTS,
    SAMUS,
    TEETER,
)
from wm_runtime.schema import FIELD
from wm_train.dynamics.edges import BEYOND, NUMBERS, pieces
from wm_train.dynamics.kinematics import displacement
from wm_train.dynamics.limits import jumps
from wm_train.dynamics.named import Named
from wm_train.dynamics.platforms import FOUNTAIN, REST, SIDES

EXACT = 2e-3
"""Who stands so near to a surface's height, units, stands on it, whatever surface was said."""
PAST = BEYOND + 5e-3
"""A standing fighter is that far past the end of its surface at most, as far as the ends are known, units."""
REACH, TWIN = 10.0, 0.15
"""A standing fighter is set on its surface from so far above or below it; and on one that was not said, but is under it
where that is not, from so far."""
SINK, INSIDE = 11.3, 5.0
"""An airborne fighter that is so far below solid ground, so far in from its ends, has fallen through it: it lands.
Nobody lands on what is further above."""
DROP = FAR
"""Nobody lands on what is further below where the velocities take a fighter than its feet can reach, units."""
LANDING, FALL = 42, 29
HELD = ("grabbed", "thrown", "captured")
UNSUPPORTED = (*HELD, "entry", "special", "ledge")
"""Families of actions in which fighters are on the ground, by their own account, where nothing is."""


class Contact(nn.Module):
    """Tables (stages, surfaces): id, ends, heights at the ends, whether solid, the piece of ground that it is part of.
    Rows without a surface have id −1."""

    ids: Tensor
    left: Tensor
    right: Tensor
    y_left: Tensor
    y_right: Tensor
    solid: Tensor
    piece: Tensor
    piece_of: Tensor
    """(stages, ids): the piece of ground of each id, −1 where there is none."""
    held: Tensor
    """(actions,): those in which another fighter decides where this one is."""
    hurt: Tensor
    """(actions,): being hit: these go on in the air."""
    supported: Tensor
    """(actions,): those in which who is on the ground is on a surface."""
    moving: Tensor
    """(stages, ids, 4): left, right, lowest and highest of surfaces that move; left is above right where none does."""
    jumps: Tensor
    """(characters,): jumps that are left once the ground is."""

    def __init__(self) -> None:
        super().__init__()
        fixed = {stage.id: [s for s in stage.surfaces if not s.moves] for stage in STAGES}
        shape = (1 + max(fixed), max(map(len, fixed.values())))
        tables = {name: torch.zeros(shape) for name in ("left", "right", "y_left", "y_right")}
        ids, solid = torch.full(shape, -1, dtype=torch.int32), torch.zeros(shape, dtype=torch.bool)
        piece = torch.full_like(ids, -1)
        piece_of = torch.full((shape[0], NUMBERS), -1, dtype=torch.int32)
        wholes = {stage.id: pieces(stage) for stage in STAGES}
        for stage, surfaces in fixed.items():
            whole = wholes[stage]
            for i, surface in enumerate(surfaces):
                ids[stage, i], solid[stage, i], piece[stage, i] = (
                    surface.id,
                    not surface.platform,
                    whole[surface.id][0].id,
                )
                piece_of[stage, surface.id] = piece[stage, i]
                ends = (*surface.x, *surface.y)
                for name, value in zip(tables, ends, strict=True):
                    tables[name][stage, i] = value
        held, hurt = (torch.zeros(FIELD["action"].classes or 0, dtype=torch.bool) for _ in range(2))
        hurt[list(FAMILIES["damage"])] = True
        held[[action for family in HELD for action in FAMILIES[family]]] = True
        supported = torch.ones_like(held)
        supported[[action for family in UNSUPPORTED for action in FAMILIES[family]] + [TEETER]] = False
        nowhere, anywhere = torch.tensor([1.0, -1.0, 0.0, 0.0]), torch.tensor([-1e9, 1e9, -1e9, 1e9])
        moving = nowhere.repeat(shape[0], piece_of.shape[1], 1)
        for arena in STAGES:
            if arena.id == POKEMON_STADIUM:  # its transformations have surfaces of their own
                named = {s.id for s in arena.surfaces}
                moving[arena.id, [i for i in range(moving.shape[1]) if i not in named]] = anywhere
            for surface in (s for s in arena.surfaces if s.moves):
                levels: Sequence[float] = [key[2] for key in surface.path.keys] if surface.path else FOUNTAIN_HEIGHTS
                beside = 1e9 if surface.path else PAST
                sides = [surface.x[0] - beside, surface.x[1] + beside]
                moving[arena.id, surface.id] = torch.tensor([*sides, min(levels) - RESTS, max(levels) + RESTS])
        found = {**tables, "ids": ids, "solid": solid, "piece": piece, "piece_of": piece_of, "held": held,
                 "supported": supported, "moving": moving}  # fmt: skip
        for name, table in {**found, "hurt": hurt, "jumps": jumps(unknown=2) - 1}.items():
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
        ground = torch.where(known, under, after["ground"])
        left_side, right_side = (side.id for side in SIDES)
        on_side = (after["airborne"] == 0) & ((ground == left_side) | (ground == right_side))
        on_side &= (stage == FOUNTAIN.id)[:, None]
        its_side = torch.where(after["x"] < 0, left_side, right_side).int()
        after = {**after, "ground": torch.where(on_side, its_side, ground)}

        free = (after["airborne"] == 0) & ~self.held[after["action"].long()]
        stands, ground = self._stood_on(after, stage, ids, left, right, height)
        after = {**after, "ground": torch.where(free, ground, after["ground"])}
        stands &= free[..., None]
        spun = (before["action"] == DAMAGE_FLY_ROLL) | ~self.supported[before["action"].long()]  # feet are far up
        rises = height - before["y"][..., None]
        drops = (before["y"] + displacement(before, after)[1])[..., None] - height
        stands &= ((rises < SINK) & (drops < DROP)) | (spun | (before["airborne"] == 0))[..., None]
        was_above = before["y"][..., None] > height - SINK
        within = (x > left + INSIDE) & (x < right - INSIDE)
        was_x = before["x"][..., None]
        within &= (was_x > left + INSIDE) & (was_x < right - INSIDE)
        flies = (after["airborne"] == 1) & self.supported[after["action"].long()]
        flies &= after["action"] != DAMAGE_FLY_ROLL
        sinks = flies[..., None] & solid & (ids >= 0) & was_above & (y < height - SINK) & within

        on, through = stands.any(dim=-1), sinks.any(dim=-1)
        moving = self.moving[stage]  # (N, ids, 4)
        number = after["ground"].clamp(0, moving.shape[1] - 1).long()
        box = moving.gather(1, number[..., None].expand(-1, -1, 4))  # (N, 2, 4)
        moves = (after["ground"] == number) & (after["x"] > box[..., 0]) & (after["x"] < box[..., 1])
        moves &= (after["y"] > box[..., 2]) & (after["y"] < box[..., 3])
        free &= self.supported[after["action"].long()] & (after["character"] != SAMUS)
        falls = free & (after["action"] > REBIRTH_WAIT) & ~on & ~moves & ~through
        lets_go = falls & ~self.hurt[after["action"].long()]
        character = after["character"].long()
        level = torch.where(stands | sinks, height, torch.full_like(height, -1e9)).amax(dim=-1)
        landed = torch.where(sinks, ids.expand_as(sinks), nothing).amax(dim=-1)
        return {
            **after,
            "y": torch.where(on | through, level, after["y"]),
            "airborne": after["airborne"].masked_fill(through, 0).masked_fill(falls, 1),
            "action": after["action"].masked_fill(through, LANDING).masked_fill(lets_go, FALL),
            "state_age": after["state_age"].masked_fill(lets_go, 0.0),
            "jumps": torch.where(falls, torch.minimum(self.jumps[character], after["jumps"]), after["jumps"]),
            "self_x_air": torch.where(falls, after["self_x_ground"], after["self_x_air"]),
            "ground": torch.where(through, landed, after["ground"]),
            "self_y": after["self_y"].masked_fill(through, 0.0),
            "knockback_y": after["knockback_y"].masked_fill(through, 0.0),
        }

    def _stood_on(
        self, after: Named, stage: Tensor, ids: Tensor, left: Tensor, right: Tensor, height: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Proposal, stage (N,), ids (N, 1, S) of the surfaces, their ends and their heights here (N, 2, S) → which of
        them fighters would stand on (N, 2, S), and its id, what was said where there is none (N, 2): the surface that
        was said; what is here of its piece of ground; itself, just past its end; or else what is here at that height.
        """
        x, y, said = after["x"][..., None], after["y"][..., None], after["ground"]
        near = (ids >= 0) & ((y - height).abs() < REACH)
        within, named_ = near & (x >= left) & (x <= right), ids == said[..., None]
        number = said.clamp(0, self.piece_of.shape[1] - 1).long()
        piece = torch.where(said == number, self.piece_of[stage].gather(1, number), torch.full_like(said, -2))
        stands = within & named_
        past = near & named_ & (x > left - PAST) & (x < right + PAST)
        same, twin = self.piece[stage][:, None] == piece[..., None], (y - height).abs() < TWIN
        for found in (within & same, past, within & twin):
            stands = stands | (found & ~stands.any(dim=-1, keepdim=True))
        nothing = torch.full_like(ids.expand_as(stands), -1)
        number = torch.where(stands, ids.expand_as(stands), nothing).amax(dim=-1)
        return stands, torch.where(number >= 0, number, said)
