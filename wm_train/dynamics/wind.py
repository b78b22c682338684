"""Dream Land's wind: which way it blows, and since when, from what it has done to fighters.

The tree blows to one side for GUST frames, and moves by PACE units a frame whoever ends in a box of the stage, whatever
it does there; when it begins nothing says. The boxes are those of data/stage_items/dream_whispy.json in
kyhavlov/melee-sim-light, and on the games of `train` fighters that would end half a unit and more within a side are
moved, and those as far without are not. On 60 games nobody is moved for longer than 274 frames on end, and 34 times
somebody is for just that long.
"""

from __future__ import annotations

import torch
from torch import Tensor

from wm_runtime.facts import FAMILIES, STAGES
from wm_train.dynamics.kinematics import velocity
from wm_train.dynamics.named import Named, is_of
from wm_train.dynamics.stale import DYING

WIND = ("blows", "since", "from_start", "still_left", "still_right")
"""What is kept: the way it blows (−1 to the left, 1 to the right, 0 not known to), frames since that was first seen (or
since the last gust was), whether its first frame was seen, and whether the present frame shows that it does not blow to
the left, to the right."""
PACE = 0.2
"""Units a frame."""
GUST = 274
"""Frames."""
BOXES, BELOW, ABOVE = {-1: (18.0, 74.0), 1: (-17.0, 76.0)}, -10.0, 40.0
"""The boxes, units: along the way that it blows, to the left and to the right; and up."""
EDGE = 0.05
"""Who is so near to a side of the box, units, shows nothing."""
ALIKE = 3e-3
"""Movements that differ by less are the same, units."""
LIMIT = 1000.0
HELD = tuple(action for family in ("thrown", "captured", "teeter") for action in FAMILIES[family])
"""Actions in which another fighter, or the end of the ground, decides where this one is."""
(DREAM_LAND,) = [stage for stage in STAGES if stage.name == "DREAMLAND"]


def calm(state: Named) -> Tensor:
    """Wind (N, WIND) of which nothing is known."""
    nothing = torch.zeros_like(state["x"][:, 0])
    return torch.stack([nothing, nothing + LIMIT, nothing, nothing, nothing], dim=-1)


def felt(wind: Tensor, last: Named, state: Named) -> Tensor:
    """Wind (N, WIND) of the frame before, that frame's places and the present state → the wind at present. It is kept
    for other stages as well; nobody asks for those."""
    blows, since, from_start, *still = wind.unbind(dim=-1)  # (N,)
    free = (state["hitlag"] == 0) & (last["hitlag"] == 0) & (state["action"] > DYING)
    along, up = velocity(state)
    x, y = last["x"] + along, last["y"] + up
    beside = state["x"] - x
    rests = free & (beside.abs() < ALIKE)
    seen, calm_there = [], []
    for way in (-1, 1):
        moved = free & ((beside - way * PACE).abs() < ALIKE) & within(x, y, way, -EDGE)
        seen.append(moved.any(dim=-1))
        calm_there.append((rests & within(x, y, way, EDGE)).any(dim=-1) & ~seen[-1])
    left, right = seen
    shown = right.float() - left.float()
    any_way = shown != 0
    begins = any_way & (shown != blows)
    first = torch.where(shown > 0, still[1], still[0])
    ends = (blows != 0) & ~any_way
    ends &= ((blows > 0) & calm_there[1]) | ((blows < 0) & calm_there[0]) | (since + 1 >= GUST)
    now = torch.where(any_way, shown, torch.where(ends, torch.zeros_like(blows), blows))
    since = torch.where(begins | ends, torch.zeros_like(since), (since + 1).clamp(max=LIMIT))
    from_start = torch.where(begins, first, torch.where(ends, torch.zeros_like(from_start), from_start))
    return torch.stack([now, since, from_start, *(c.float() for c in calm_there)], dim=-1)


def within(x: Tensor, y: Tensor, way: int, margin: float = 0.0) -> Tensor:
    """Places (N, 2) and the way that it blows → who is in its box, by at least so much, (N, 2)."""
    behind, ahead = BOXES[way]
    inside = (x * way > behind + margin) & (x * way < ahead - margin)
    return inside & (y > BELOW + margin) & (y < ABOVE - margin)


def blown_by(wind: Tensor, before: Named, after: Named, x: Tensor, y: Tensor, stage: Tensor) -> Tensor:
    """Wind (N, WIND), state, the next action, where fighters may end without wind, (N, 2, C) along x and (N, 2) up, and
    the stage (N,) → how far it moves them, units along x, (N, 2, C)."""
    blows, since = wind[:, 0], wind[:, 1]
    goes_on = (blows * (since + 1 < GUST) * (stage == DREAM_LAND.id))[:, None, None]
    y = y[..., None]
    moved = (within(x, y, 1) & (goes_on > 0)) | (within(x, y, -1) & (goes_on < 0))
    free = (before["hitlag"] <= 1) & (after["action"] > DYING) & ~is_of(after["action"], HELD)
    return goes_on * PACE * (moved & free[..., None])


def lately(wind: Tensor, within: int) -> Tensor:
    """Wind (…, WIND) as who has only seen the last `within` frames knows it."""
    blows, since, from_start, *still = wind.unbind(dim=-1)
    longer = (blows != 0) & (since > within)
    since = torch.where(longer, torch.full_like(since, float(within)), since)
    return torch.stack([blows, since, torch.where(longer, torch.zeros_like(from_start), from_start), *still], dim=-1)
