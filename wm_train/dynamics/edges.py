"""Edges of surfaces: who rolls, attacks, grabs or gets up stops there; who begins to teeter stands there. Surfaces that
carry who stands on them, and pieces of ground.

Surfaces that touch are one piece of ground. Whoever would go further than BEYOND past the end of that stops at the end
itself in the actions of STOPS, and falls in others: on train, of 59,200 frames on which one of STOPS would, 59,150
end there to 0.005 units and none falls; of 7,830 that would go less far past it, 7,600 do.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wm_runtime.facts import STAGES, Stage, Surface
from wm_runtime.facts import character as fighter
from wm_runtime.replays.rules import TEETER
from wm_runtime.schema import FIELD
from wm_train.dynamics.geometry import Geometry
from wm_train.dynamics.kinematics import displacement
from wm_train.dynamics.named import Named

CHARACTERS, ACTIONS = FIELD["character"].classes or 0, FIELD["action"].classes or 0
BEYOND = 0.1
"""So far past the end of the ground fighters still stand on it, units."""
TOUCHING = 0.2
"""Surfaces whose ends are so near to each other are one piece of ground, units."""
TEETERING = 246
STOPS = (
    *range(44, 65), 98, 187, 188, 189, 195, 196, 197, 200, 201, 212, 213, 214, *range(216, 221), 222, *range(233, 236),
    264,
)  # fmt: skip
"""Jabs to down smash, an item thrown in a dash, attacks and rolls of who lies, techs that roll, grabs and throws, rolls
and dodges, a taunt."""
SPECIAL_STOPS = {
    "CAPTAIN_FALCON": (347, 349), "FOX": (349,), "FALCO": (349,), "GANONDORF": (349, 360), "JIGGLYPUFF": (351,),
    "MR_GAME_AND_WATCH": (353,), "MARTH": (369,),
}  # fmt: skip
"""Special moves that do as well, each seen six times or more."""
NUMBERS = 1 + max(s.id for stage in STAGES for s in stage.surfaces)
"""Ids of surfaces."""
NEAR = 4.0
"""Who begins to teeter comes from no further than that, and who stops at an end stood no further past one, units."""


def touch(one: Surface, other: Surface) -> bool:
    """Whether the right end of one surface is the left end of the other."""
    return max(abs(one.x[1] - other.x[0]), abs(one.y[1] - other.y[0])) < TOUCHING


def pieces(stage: Stage) -> dict[int, tuple[Surface, Surface]]:
    """Ids of a stage's surfaces, but for those that follow a path → the leftmost and the rightmost surface of the piece
    of ground that each is part of."""
    surfaces = [s for s in stage.surfaces if s.path is None]
    piece = {s.id: s.id for s in surfaces}
    for _ in surfaces:
        for one in surfaces:
            for other in surfaces:
                if touch(one, other):
                    piece[one.id] = piece[other.id] = min(piece[one.id], piece[other.id])
    from_left = {n: sorted((s for s in surfaces if piece[s.id] == n), key=lambda s: s.x) for n in piece.values()}
    return {i: (from_left[n][0], from_left[n][-1]) for i, n in piece.items()}


class Edges(nn.Module):
    """Tables (stages, ids): ends of the piece of ground that a surface is part of, and the surfaces at them."""

    left: Tensor
    right: Tensor
    first: Tensor
    """The surface at the left end."""
    last: Tensor
    stops: Tensor
    """(characters · actions,) bool."""
    path: Tensor
    """(period, 2): x of the ends of the surface that follows a path, by frame."""

    def __init__(self) -> None:
        super().__init__()
        geometry = Geometry()
        self.path_stage = geometry.path_stage
        (self.path_ground,) = (s.id for stage in STAGES for s in stage.surfaces if s.path)
        self.register_buffer("path", geometry.path[:, :2].clone(), persistent=False)
        shape = (1 + max(stage.id for stage in STAGES), NUMBERS)
        left, right = torch.full(shape, -1e9), torch.full(shape, 1e9)
        first, last = (torch.full(shape, -1, dtype=torch.int32) for _ in range(2))
        for stage in STAGES:
            for i, (start, end) in pieces(stage).items():
                left[stage.id, i], right[stage.id, i] = start.x[0], end.x[1]
                first[stage.id, i], last[stage.id, i] = start.id, end.id
        stops = torch.zeros(CHARACTERS, ACTIONS, dtype=torch.bool)
        stops[:, list(STOPS)] = True
        for name, actions in SPECIAL_STOPS.items():
            stops[fighter(name).internal_id, list(actions)] = True
        found = {"left": left, "right": right, "first": first, "last": last, "stops": stops.flatten()}
        for name, table in found.items():
            self.register_buffer(name, table, persistent=False)

    def forward(self, before: Named, after: Named, stage: Tensor, frame: Tensor) -> Named:
        """Present state, proposal, stage and frame (N,) → the proposal, who stops at an edge there, and who is carried
        as far along as the surface goes."""
        known = before["ground"].clamp(0, self.left.shape[1] - 1).long()
        left, right, first, last = (
            table[stage].gather(1, known) for table in (self.left, self.right, self.first, self.last)
        )
        stands = (before["airborne"] == 0) & (after["airborne"] == 0) & (before["ground"] == known)
        rides = stands & (before["ground"] == self.path_ground) & (after["ground"] == self.path_ground)
        rides &= (stage == self.path_stage)[:, None]
        now, next_ = (self.path[torch.remainder(frame + k, len(self.path)).long()] for k in (0, 1))  # (N, 2 ends)
        left, right = (torch.where(rides, next_[:, i, None], end) for i, end in enumerate((left, right)))
        free = before["x"] + displacement(before, after)[0]
        free = torch.where(rides, free + (next_ - now)[:, :1], free)
        over_left, over_right = free < left - BEYOND, free > right + BEYOND
        move = before["character"].long() * ACTIONS + after["action"].long()
        there = (before["x"] > left - NEAR) & (before["x"] < right + NEAR)  # else another surface was said
        stops = stands & there & self.stops[move] & (before["hitlag"] <= 1) & (after["hitlag"] <= 0)
        begins = stands & (after["action"] == TEETER) & (before["action"] != TEETER) & (before["action"] != TEETERING)
        nearer_left = (free - left).abs() < (free - right).abs()
        near = torch.minimum((free - left).abs(), (free - right).abs()) < NEAR
        to_left = (stops & over_left) | (begins & near & nearer_left)
        to_right = (stops & over_right) | (begins & near & ~nearer_left)
        x = torch.where(rides, free, after["x"])
        x = torch.where(to_left, left, torch.where(to_right, right, x))
        ground = torch.where(to_left & ~rides, first, torch.where(to_right & ~rides, last, after["ground"]))
        return {**after, "x": x, "ground": ground}
