"""Knockback on the ground: it slides along it, and friction takes from its length.

So much a frame as from a fighter's own speed; half as much again on the outermost ground of Fountain of Dreams. Who has
just come down keeps what goes along x. On every third game of train 95,000 of 96,000 slides are so, to 0.004 units.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wm_runtime.facts import STAGES
from wm_train.dynamics.edges import NUMBERS, pieces
from wm_train.dynamics.kinematics import length
from wm_train.dynamics.named import Named
from wm_train.dynamics.platforms import FOUNTAIN

ALONG = 0.02
"""Knockback that differs from the ground's slope by less goes along it, units a frame."""
ROUGH, ROUGHER = (3, 7), 1.5
"""Surfaces of Fountain that rub more, and how much more."""
LEAST = 1e-4
"""Knockback shorter than that is none, units a frame."""


class Slides(nn.Module):
    """Tables (stages, surfaces) of the fixed ones: ends, slope, piece of ground; (stages, ids): piece of ground, and
    what friction is multiplied by."""

    left: Tensor
    right: Tensor
    slope: Tensor
    piece: Tensor
    piece_of: Tensor
    rubs: Tensor

    def __init__(self) -> None:
        super().__init__()
        fixed = {stage.id: [s for s in stage.surfaces if not s.moves] for stage in STAGES}
        shape = (1 + max(fixed), max(map(len, fixed.values())))
        left, right, slope = torch.full(shape, 1e9), torch.full(shape, -1e9), torch.zeros(shape)
        piece = torch.full(shape, -1)
        piece_of, rubs = torch.full((shape[0], NUMBERS), -2), torch.ones(shape[0], NUMBERS)
        for stage in STAGES:
            whole = pieces(stage)
            for i, surface in enumerate(fixed[stage.id]):
                left[stage.id, i], right[stage.id, i] = surface.x
                slope[stage.id, i] = (surface.y[1] - surface.y[0]) / (surface.x[1] - surface.x[0])
                piece[stage.id, i] = piece_of[stage.id, surface.id] = whole[surface.id][0].id
        rubs[FOUNTAIN.id, list(ROUGH)] = ROUGHER
        found = {"left": left, "right": right, "slope": slope, "piece": piece, "piece_of": piece_of, "rubs": rubs}
        for name, table in found.items():
            self.register_buffer(name, table, persistent=False)

    def forward(
        self, before: Named, after: Named, stage: Tensor, friction: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """State; the next airborne state; stage (N,); friction of the fighters (N, 2) → knockback along x and y, units
        a frame, and of whom it is, (N, 2) each: of who slides on the ground, unless struck anew."""
        x, y = before["knockback_x"], before["knockback_y"]
        slides = (before["airborne"] == 0) & (after["airborne"] == 0) & (before["hitlag"] <= 0) & (x.abs() > LEAST)
        known = before["ground"] < NUMBERS
        number = torch.where(known, before["ground"], torch.zeros_like(before["ground"])).long()
        slides = slides & known
        rise = self._rise(stage, number, before["x"])
        along = (y - x * rise).abs() < ALONG
        speed = torch.where(along, length(x, y), x.abs()) - friction * self.rubs[stage].gather(1, number)
        speed = x.sign() * speed.clamp(min=0.0)
        along_x = speed / (1 + rise.square()).sqrt()
        return along_x, along_x * rise, slides

    def _rise(self, stage: Tensor, number: Tensor, x: Tensor) -> Tensor:
        """Stage (N,), ids of surfaces, and x (N, 2) → slope there of the pieces of ground that they are part of."""
        left, right, slope, piece = (of[stage][:, None] for of in (self.left, self.right, self.slope, self.piece))
        here = (x[..., None] >= left) & (x[..., None] <= right)
        here = here & (piece == self.piece_of[stage].gather(1, number)[..., None])
        return (here.float() * slope).sum(dim=-1) / here.float().sum(dim=-1).clamp(min=1.0)
