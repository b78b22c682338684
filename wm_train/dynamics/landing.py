"""Who comes down on this frame, and who cannot: by where the feet are and where gravity takes them.

Feet cross the ground or they do not: where a fighter does what it does in the air, its next height is known but for
whether it begins to fall fast, and how high its feet are is known by pose (tables, memory.LOCKED).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wm_runtime.schema import C_, FIELD
from wm_train.dynamics.feet import DODGE, DODGED, DODGES
from wm_train.dynamics.geometry import Surfaces
from wm_train.dynamics.kinematics import AIR_DODGE, AIR_DODGE_DECAY, blown, length
from wm_train.dynamics.named import Named

ACTIONS = FIELD["action"].classes or 0
LANDS = (42, 43, 70, 71, 72, 73, 74, 183, 191, 199, 200, 201)
"""Actions of who has come down: landings, and lying or rolling after a fall."""
FALLS = (*range(25, 36), *range(65, 70), *range(75, 92), 38)
"""Actions in which gravity alone decides: jumps, falls, attacks in the air, being hurt."""
SURE, NEAR, WITHIN = 0.1, 0.02, 0.5
"""Feet that are so far beyond a surface have crossed it; so little below it, they had not yet; and so far in from its
ends it is certainly there, units."""
DOWN, PASSES = -0.5, (*range(25, 36), 38)
"""A stick held further down lets a fighter through platforms that only jumps and falls: of those who crossed one on
`val` so, 265 of 273 came down on it who attacked, dodged or were hurt, and none of 86 who fell."""
COMES, CANNOT, DODGE_ODDS = 2.0, 2.5, 5.0
"""What is added to the logits of LANDS of who comes down, and taken from those of who cannot; and of who dodges, whose
speed is known to the last digit."""


class Landing(nn.Module):
    """The rule."""

    lands: Tensor
    falls: Tensor
    passes: Tensor
    """(actions,) bool."""

    def __init__(self) -> None:
        super().__init__()
        for name, actions in (("lands", LANDS), ("falls", (*FALLS, DODGE)), ("passes", PASSES)):
            table = torch.zeros(ACTIONS, dtype=torch.bool)
            table[list(actions)] = True
            self.register_buffer(name, table, persistent=False)

    def before_landing(self, action: Tensor, meant: Tensor) -> Tensor:
        """Action and what is meant, coming down included (N, 2) → what is meant in the air: who does not dodge yet and
        comes down from a dodge begins one, everybody else goes on."""
        goes_on = torch.where(meant == DODGED, torch.full_like(meant, DODGE), action)
        return torch.where(self.lands[meant.long()], goes_on, meant)

    def forward(
        self, before: Named, meant: Tensor, feet: tuple[Tensor, Tensor], surfaces: Surfaces, controllers: Tensor,
        gravity: Tensor, terminal: Tensor, fast: Tensor,
    ) -> Tensor:  # fmt: skip
        """State; the action that is meant; how high the feet are above the fighters' place now and in it; surfaces of
        the next frame; its controllers (N, 2, 13); gravity, terminal velocity and that of falling fast, of the fighters
        (N, 2) → what to add to the logits of LANDS, (N, 2)."""
        action, vx, vy = before["action"], before["self_x_air"], before["self_y"]
        kx, ky = before["knockback_x"], before["knockback_y"]
        left = blown(kx, ky)
        stick, tilt = controllers[..., C_["main_x"]], controllers[..., C_["main_y"]]
        dodges, begins = (action == DODGE) & (meant == DODGE), (action != DODGE) & (meant == DODGE)
        fall = torch.minimum(torch.maximum(vy - gravity, -terminal), torch.maximum(vy, -terminal))
        first = AIR_DODGE * AIR_DODGE_DECAY / length(stick, tilt)
        along = torch.where(dodges, vx * AIR_DODGE_DECAY, torch.where(begins, stick * first, vx + kx * left))
        slow = torch.where(dodges, vy * AIR_DODGE_DECAY, torch.where(begins, tilt * first, fall + ky * left))
        falls_fast = (vy + fast).abs() < 0.01
        fastest = torch.where(dodges | begins, slow, torch.minimum(slow, ky * left - fast))
        slow = torch.where(falls_fast & ~dodges & ~begins, fastest, slow)

        x, y = before["x"] + along, before["y"]
        here, there = surfaces.height(before["x"]), surfaces.height(x)  # (N, 2, S)
        above = (y + feet[0])[..., None] - here
        inside = torch.minimum(x[..., None] - surfaces.left, surfaces.right - x[..., None])
        stays = (surfaces.solid > 0.5) | ((tilt > DOWN) | ~self.passes[meant.long()])[..., None]
        crossed = [there - (y + way + feet[1])[..., None] for way in (slow, fastest)]
        comes = stays & (inside > WITHIN) & (above > -NEAR) & (crossed[0] > SURE)
        cannot = (inside < -WITHIN) | (above < -SURE) | (crossed[1] < -SURE)
        ruled = (before["airborne"] == 1) & (before["hitlag"] <= 0)
        ruled &= self.falls[action.long()] & self.falls[meant.long()]
        ruled &= ~dodges | (before["state_age"] < DODGES)
        dodge = dodges | begins
        by_feet = torch.where(dodge, DODGE_ODDS, COMES) * comes.any(dim=-1).float()
        return ruled * (by_feet - torch.where(dodge, DODGE_ODDS, CANNOT) * cannot.all(dim=-1).float())
