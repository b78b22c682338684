"""Dream Land's wind: which way it blows, and since when, from what it has done to fighters.

The tree blows to one side for GUST frames, and moves whoever is in a box of the stage by PACE units a frame, whatever
they do; when it begins nothing says. On 60 games of `train` nobody is moved for longer than 274 frames on end, and 34
times somebody is for just that long; on 7,366 frames of those gusts a fighter is 20 to 65 units along and at most 20
units high, and it is moved on all. On 40 games, 98.6 % of 62,931 frames of wind were known to come on the frame before.
"""

from __future__ import annotations

import torch
from torch import Tensor

from wm_runtime.facts import STAGES
from wm_train.dynamics.kinematics import velocity
from wm_train.dynamics.named import Named
from wm_train.dynamics.stale import DYING

WIND = ("blows", "since", "from_start", "still_left", "still_right")
"""What is kept: the way it blows (−1 to the left, 1 to the right, 0 not known to), frames since that was first seen (or
since the last gust was), whether its first frame was seen, and whether the present frame shows that it does not blow to
the left, to the right."""
PACE = 0.2
"""Units a frame."""
GUST = 274
"""Frames."""
BEHIND, AHEAD, BELOW, ABOVE = -17.0, 76.0, -6.0, 42.0
"""The box, units along the way that it blows, and up."""
WITHIN = 6.0
"""Who is so far within the box, units, shows that it does not blow."""
ALIKE = 3e-3
"""Movements that differ by less are the same, units."""
LIMIT = 1000.0
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
    beside = state["x"] - last["x"] - velocity(state)[0]
    rests = free & (beside.abs() < ALIKE)
    seen, calm_there = [], []
    for way in (-1.0, 1.0):
        moved = free & ((beside - way * PACE).abs() < ALIKE) & within(last, way, -WITHIN)
        seen.append(moved.any(dim=-1))
        calm_there.append((rests & within(last, way, WITHIN)).any(dim=-1) & ~seen[-1])
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


def within(place: Named, way: Tensor | float, margin: float) -> Tensor:
    """Places (N, 2) and the way that it blows → who is in the box, by at least so much, (N, 2)."""
    x, y = place["x"] * way, place["y"]
    inside = (x > BEHIND + margin) & (x < AHEAD - margin)
    return inside & (y > BELOW + min(margin, 0.0)) & (y < ABOVE - margin)


def lately(wind: Tensor, within: int) -> Tensor:
    """Wind (…, WIND) as who has only seen the last `within` frames knows it."""
    blows, since, from_start, *still = wind.unbind(dim=-1)
    longer = (blows != 0) & (since > within)
    since = torch.where(longer, torch.full_like(since, float(within)), since)
    return torch.stack([blows, since, torch.where(longer, torch.zeros_like(from_start), from_start), *still], dim=-1)
