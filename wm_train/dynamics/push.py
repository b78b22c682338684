"""Who pushes whom apart: fighters on the ground that stand in each other.

Measured on games of `train`, fighters on the ground now and on the next frame, not in hitlag: they push each other
on one surface or on two that touch, up to the sum of their radii, to a few hundredths of a unit where pairs were seen
often. The game takes players in turn: who jumps or slides off before the other's turn comes does not push it (444 of
448 such frames of every second game), and who comes later does (418 of 426). Nobody is pushed who dodges into the
ground out of the squat. Radii and the moves in which nobody is pushed are read off the same frames.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wm_runtime.facts import CHARACTERS as FIGHTERS
from wm_runtime.facts import FAMILIES, STAGES
from wm_runtime.schema import FIELD
from wm_train.dynamics.edges import NUMBERS, touch
from wm_train.dynamics.going import SQUAT
from wm_train.dynamics.laws import LANDS
from wm_train.dynamics.named import Named, is_of

RADIUS = 3.3
"""Units; that of those who are not in RADII."""
RADII = {
    "BOWSER": 8.0, "CAPTAIN_FALCON": 3.5, "DONKEY_KONG": 5.2, "GANONDORF": 3.5, "JIGGLYPUFF": 3.5, "KIRBY": 3.5,
    "NESS": 3.1, "PEACH": 2.9, "PICHU": 2.8, "PIKACHU": 3.8, "ZELDA": 3.5,
}  # fmt: skip
LEVEL = 2.0
"""Fighters that are further above each other, units, do not push."""
LEAVES = (SQUAT, *FAMILIES["downed"])
"""Actions out of which a fighter leaves the ground before it moves."""
HOLDS, HELD = FAMILIES["throw"], (*FAMILIES["grabbed"], *FAMILIES["thrown"])
STRUCK = (*FAMILIES["damage"], 181, 237)
"""Actions that begin with a blow: being hurt, a struck shield, a rebound."""
UNMOVED = (
    213, 215, 216, 217, 227, 228, 233, 234, 235, 239, 240, 241, 242, 245, 246, 254, 255, 256, 257, 258, 259, 275,
)  # fmt: skip
"""Actions in which a fighter is not pushed, though it may push: holding, held, rolls, dodges, on the edge; and throws,
as long as somebody is thrown."""


class Push(nn.Module):
    """The rule."""

    radius: Tensor
    """(characters,): units."""
    unmoved: Tensor
    """(actions,) bool."""
    beside: Tensor
    """(stages, ids, 2): the surfaces that touch one at its left and right end, itself where none does."""

    def __init__(self) -> None:
        super().__init__()
        radius = torch.full((FIELD["character"].classes or 0,), RADIUS)
        for fighter in FIGHTERS:
            radius[fighter.internal_id] = RADII.get(fighter.name, RADIUS)
        unmoved = torch.zeros(FIELD["action"].classes or 0, dtype=torch.bool)
        unmoved[list(UNMOVED)] = True
        beside = torch.arange(NUMBERS, dtype=torch.int32)[:, None].repeat(1 + max(stage.id for stage in STAGES), 1, 2)
        for stage in STAGES:
            still = [surface for surface in stage.surfaces if surface.path is None]
            for one, other in ((a, b) for a in still for b in still if touch(a, b)):
                beside[stage.id, one.id, 1], beside[stage.id, other.id, 0] = other.id, one.id
        self.register_buffer("beside", beside, persistent=False)
        self.register_buffer("radius", radius, persistent=False)
        self.register_buffer("unmoved", unmoved, persistent=False)

    def forward(self, before: Named, after: Named, stage: Tensor) -> Tensor:
        """State; the next action and `airborne`; the stage (N,) → who is pushed, (N, 2)."""
        radius = self.radius[before["character"].long()]
        near = (before["x"] - before["x"].flip(1)).abs() < radius + radius.flip(1)
        near &= (before["y"] - before["y"].flip(1)).abs() < LEVEL
        ground = before["ground"]
        known = torch.where(ground < NUMBERS, ground, torch.zeros_like(ground)).long()
        beside = self.beside[stage].gather(1, known[..., None].expand(-1, -1, 2))
        near &= (ground == ground.flip(1)) | (beside == ground.flip(1)[..., None]).any(dim=-1)
        stands = before["airborne"] == 0
        struck = is_of(after["action"], STRUCK) & (before["action"] != after["action"])
        acts = torch.where(struck, before["action"], after["action"])  # who is struck was pushed before
        unmoved = self.unmoved[before["action"].long()] & self.unmoved[acts.long()]
        unmoved |= is_of(acts, HOLDS) & is_of(before["action"].flip(1), HELD)
        jumps = (after["airborne"] == 1) & is_of(before["action"], LEAVES) & ~struck
        gone = jumps | ((before["action"] == SQUAT) & (acts == LANDS))
        later = torch.arange(2, device=gone.device) == 1
        free = (before["hitlag"] <= 1) & ~gone & ~unmoved
        return near & stands & stands.flip(1) & free & ~(gone.flip(1) & later)
