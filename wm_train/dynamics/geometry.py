"""Where the surfaces of a stage are, and how a point lies to them: what decides landing, teetering and ledges.

Surfaces: wm_runtime.facts, the moving platform of Yoshi's Story by its path, Fountain's where a match has shown them
(dynamics.platforms). A transformed Stadium is not in the table: where its surfaces are is not recorded.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wm_runtime.facts import STAGES
from wm_train.dynamics.platforms import FOUNTAIN, SIDES, next_heights

FAR = 200.0
"""Distance to what is not there, units."""
TOLERANCE = 0.05
"""A point so far below a surface still counts as above it, units."""


@dataclass
class Surfaces:
    """The surfaces of N matches' stages at one frame, (N, 1, S) each; rows that are none lie at −10⁹."""

    left: Tensor
    right: Tensor
    y_left: Tensor
    y_right: Tensor
    solid: Tensor
    twins: Tensor
    """(N, 1): the last two are a left and a right one, which fighters who see no left and right cannot tell apart."""

    def height(self, x: Tensor) -> Tensor:
        """Height at x (N, P), held at the ends: (N, P, S)."""
        x = x[..., None]
        slope = (self.y_right - self.y_left) / (self.right - self.left).clamp(min=1e-3)
        return self.y_left + slope * (torch.minimum(torch.maximum(x, self.left), self.right) - self.left)

    def heights_here(self, x: Tensor) -> Tensor:
        """`height` of points (N, P), but for twins: both are that of the one on the point's side of the stage."""
        height = self.height(x)
        rest, left, right = height.split([height.shape[-1] - 2, 1, 1], dim=-1)
        here = torch.where(x[..., None] >= 0, right, left)
        twins = self.twins[..., None]
        return torch.cat([rest, torch.where(twins, here, left), torch.where(twins, here, right)], dim=-1)

    def within(self, x: Tensor) -> Tensor:
        """Whether x (N, P) is between the ends: (N, P, S) bool."""
        x = x[..., None]
        return (x >= self.left) & (x <= self.right)


class Geometry(nn.Module):
    """Tables (stages, S) of the surfaces, of moving ones by frame, and of ledges and blast zones."""

    table: Tensor
    """(stages, S, 5): left, right, y_left, y_right, solid."""
    path: Tensor
    """(period, 3): left, right and height of the moving platform of `path_stage`."""
    place: Tensor
    """(stages, 7): |x| of hanging on the edge and of teetering, blast zone left, right, top, bottom, edge's height."""

    def __init__(self) -> None:
        super().__init__()
        fixed = {stage.id: [s for s in stage.surfaces if not s.moves] for stage in STAGES}
        shape = (1 + max(fixed), 1 + max(map(len, fixed.values())))
        table = torch.zeros(*shape, 5)
        table[..., 2:4] = -1e9
        for stage, surfaces in fixed.items():
            for i, s in enumerate(surfaces):
                table[stage, i] = torch.tensor([*s.x, *s.y, 0.0 if s.platform else 1.0])
        assert len(fixed[FOUNTAIN.id]) <= shape[1] - len(SIDES) == shape[1] - 2
        table[FOUNTAIN.id, -len(SIDES) :, :2] = torch.tensor([side.x for side in SIDES])
        place = torch.tensor([FAR, FAR, -FAR, FAR, FAR, -FAR, 0.0]).repeat(shape[0], 1)
        for stage_ in STAGES:
            zone = stage_.blast
            outer = max((s for s in fixed[stage_.id] if not s.platform), key=lambda s: s.x[1])
            place[stage_.id] = torch.tensor(
                [stage_.edge_hang, stage_.edge_stand, zone.left, zone.right, zone.top, zone.bottom, outer.y[1]]
            )
        (mover,) = [(stage.id, s) for stage in STAGES for s in stage.surfaces if s.path]
        self.path_stage, surface = mover
        assert surface.path is not None
        segments = [surface.at(frame) for frame in range(surface.path.period)]
        path = torch.tensor([[s.x_left, s.x_right, s.y_left] for s in segments])
        for name, value in (("table", table), ("path", path), ("place", place)):
            self.register_buffer(name, value, persistent=False)

    def surfaces(self, stage: Tensor, frame: Tensor, platforms: Tensor) -> Surfaces:
        """Stage ids and frame numbers (N,), and the platforms (N, 2, PLATFORMS) of the frame before → the surfaces at
        that frame. Those that are not known to be anywhere lie at −10⁹."""
        rows = self.table[stage]  # (N, S, 5)
        left, right, y_left, y_right, solid = (rows[:, None, :, i] for i in range(5))
        height, known = next_heights(platforms, stage, frame)
        height = torch.where(known, height, torch.full_like(height, -1e9))
        on_fountain = (stage == FOUNTAIN.id)[:, None, None]
        fixed = rows.shape[1] - len(SIDES)
        y_left, y_right = (
            torch.cat([y[..., :fixed], torch.where(on_fountain, height[:, None], y[..., fixed:])], dim=-1)
            for y in (y_left, y_right)
        )
        moving = self.path[torch.remainder(frame, len(self.path)).long()]  # (N, 3)
        last = torch.arange(rows.shape[1], device=stage.device) == rows.shape[1] - 1
        here = (stage == self.path_stage)[:, None, None] & last
        left = torch.where(here, moving[:, None, None, 0], left)
        right = torch.where(here, moving[:, None, None, 1], right)
        y_left = torch.where(here, moving[:, None, None, 2], y_left)
        y_right = torch.where(here, moving[:, None, None, 2], y_right)
        return Surfaces(left, right, y_left, y_right, solid, on_fountain[..., 0])

    def places(self, stage: Tensor) -> dict[str, Tensor]:
        """Stage ids (N,) → edge_hang, edge_stand, blast_left, … (N, 1) each."""
        names = ("edge_hang", "edge_stand", "blast_left", "blast_right", "blast_top", "blast_bottom", "edge_y")
        return {name: self.place[stage][:, i, None] for i, name in enumerate(names)}


def support(surfaces: Surfaces, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The highest surface under points (N, P): gap to it (FAR where there is none), its left and right end, and
    whether it is solid, (N, P) each."""
    height = surfaces.height(x)
    under = surfaces.within(x) & (height <= y[..., None] + TOLERANCE)
    height = torch.where(under, height, torch.full_like(height, -1e9))
    best = height.argmax(dim=-1, keepdim=True)
    top = height.gather(-1, best)[..., 0]
    shape = height.shape
    ends = [t.expand(shape).gather(-1, best)[..., 0] for t in (surfaces.left, surfaces.right, surfaces.solid)]
    gap = torch.where(top > -1e8, (y - top).clamp(max=FAR), torch.full_like(y, FAR))
    return gap, ends[0], ends[1], ends[2]


def slope_at(surfaces: Surfaces, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the slope under points (N, P), positive where it rises to the right; 1 and 0 where none is
    within reach."""
    height = surfaces.height(x)
    near = surfaces.within(x) & ((height - y[..., None]).abs() < 1.0)
    steep = (surfaces.y_right - surfaces.y_left) / (surfaces.right - surfaces.left).clamp(min=1e-3)
    there = torch.where(near, steep.expand(height.shape), torch.zeros_like(height))
    found = there.amax(dim=-1) + there.amin(dim=-1)  # no two slopes lie within reach of each other
    cosine = 1 / (1 + found.square()).sqrt()
    return cosine, found * cosine


def ceiling(surfaces: Surfaces, x: Tensor, y: Tensor) -> Tensor:
    """Gap (N, P) up to the lowest surface above points, FAR where there is none."""
    height = surfaces.height(x)
    over = surfaces.within(x) & (height > y[..., None] + TOLERANCE)
    return torch.where(over, height - y[..., None], torch.full_like(height, FAR)).amin(dim=-1)


def crosses(surfaces: Surfaces, x: Tensor, y: Tensor, to_x: Tensor, to_y: Tensor) -> tuple[Tensor, Tensor]:
    """Whether the way from (x, y) to (to_x, to_y), (N, P) each, comes down through a surface, and a solid one."""
    above = y[..., None] >= surfaces.height(x) - TOLERANCE
    below = (to_y[..., None] < surfaces.height(to_x)) & surfaces.within(to_x)
    through = above & below
    return through.any(dim=-1), (through & (surfaces.solid > 0.5)).any(dim=-1)
