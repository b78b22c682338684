"""Fox's and Falco's lasers: when they leave, from where, and where they fly until somebody is struck.

A laser leaves on the frame on which its move reaches an age, from where the fighter was on the frame before and beside
it, and flies straight. Ages, places and velocities are those of the item events of 14,000 lasers of `train`: shots are
the same to 0.01 units, those of throws differ by up to a unit (median here), as their moves run at the victim's pace.
Down throws are left out: their lasers strike at once, at fixed ages.
"""

from __future__ import annotations

import torch
from torch import Tensor

from wm_runtime.facts import character
from wm_train.dynamics.constants import there
from wm_train.dynamics.named import Named

SHOTS = ("x", "y", "speed_x", "speed_y")
"""What is kept of a laser: its place, units, and its velocity, units a frame; zeros where there is none."""
FLYING = 3
"""Lasers of a fighter that are kept, the latest first: as many as an up throw sends."""
STANDING, FLOATING, BACK, UP = 342, 345, 220, 221
"""Actions that shoot: on the ground, in the air, and throws."""
LEAVES = {
    "FOX": {
        STANDING: ((5, 16.47, 7.684, 7.0, 0.0),), FLOATING: ((5, 16.405, 9.589, 7.0, 0.0),),
        BACK: ((15, 11.362, 15.507, 5.403, 4.451), (18, 11.474, 15.726, 5.314, 4.557),
               (21, 13.047, 14.85, 5.788, 3.937)),
        UP: ((18, 4.769, 24.686, 1.974, 6.716), (20, -0.815, 26.538, -0.783, 6.956), (24, 0.91, 25.562, 0.24, 6.996)),
    },
    "FALCO": {
        STANDING: ((16, 10.577, 8.133, 5.0, 0.0),), FLOATING: ((8, 14.641, 9.313, 5.0, 0.0),),
        BACK: ((15, 12.517, 14.042, 4.323, 2.513), (18, 11.097, 14.844, 3.989, 3.014),
               (21, 12.205, 14.884, 4.143, 2.799)),
        UP: ((18, 1.196, 25.811, 0.263, 4.993), (20, 0.441, 26.565, -0.203, 4.996), (24, 1.162, 25.42, 0.324, 4.99)),
    },
}  # fmt: skip
"""Fighter → action → (age, x ahead of the fighter and y above it, velocity along x and y) of each laser."""
SPENT, BESIDE, GONE = 15.0, 20.0, 250.0
"""A laser that is so near along x and y to who is hurt has hit, and one so far out is gone, units."""
EARLY = 1e-3
"""An age is reached by who is so little short of it."""

_rows = [
    (character(name).internal_id, action, *row)
    for name, moves in LEAVES.items()
    for action, rows in moves.items()
    for row in rows
]
_WHO = torch.tensor([row[:2] for row in _rows], dtype=torch.int32)
_AGE = torch.tensor([row[2] for row in _rows], dtype=torch.float32)
_SENT = torch.tensor([row[3:] for row in _rows], dtype=torch.float32)


def flown(shots: Tensor, last: Named, state: Named) -> Tensor:
    """Lasers (N, 2, FLYING, SHOTS) of the frame before, fields of that frame (its action, state_age, x, y and percent)
    and the present state → the lasers now."""
    x, y, speed_x, speed_y = shots.unbind(dim=-1)
    flies = (speed_x != 0) | (speed_y != 0)
    x, y = x + speed_x, y + speed_y
    beside_x = (x - state["x"].flip(1)[..., None]).abs()
    beside_y = (y - state["y"].flip(1)[..., None]).abs()
    far = torch.where(flies & (beside_y < BESIDE), beside_x, torch.full_like(x, GONE))
    hurt = (state["percent"] > last["percent"]).flip(1)[..., None]
    hit = hurt & (far < SPENT) & (far <= far.amin(dim=-1, keepdim=True))
    flies = flies & ~hit & (x.abs() < GONE) & (y.abs() < GONE)
    kept = torch.stack([x, y, speed_x, speed_y], dim=-1) * flies.float()[..., None]

    who, age, sent = (there(table, x.device) for table in (_WHO, _AGE, _SENT))
    mine = (state["character"][..., None] == who[:, 0]) & (state["action"][..., None] == who[:, 1])
    goes_on = (state["action"] == last["action"])[..., None]
    reached = (last["state_age"][..., None] < age - EARLY) & (state["state_age"][..., None] >= age - EARLY)
    leaves = mine & goes_on & reached  # (N, 2, rows)
    ahead, above, forth, up = (leaves.float() @ sent).unbind(dim=-1)
    facing = state["facing"].float()
    new = torch.stack([last["x"] + facing * ahead, last["y"] + above, facing * forth, up], dim=-1)
    moved_on = torch.cat([new[:, :, None], kept[:, :, :-1]], dim=2)
    return torch.where(leaves.any(dim=-1)[..., None, None], moved_on, kept)


def nearest(shots: Tensor, state: Named) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of each fighter's lasers (N, 2, FLYING, SHOTS) the one that reaches the other fighter next: where that is from
    it along x and y, and its velocity, (N, 2) each; zeros where none flies."""
    x, y, speed_x, speed_y = shots.unbind(dim=-1)
    from_x, from_y = state["x"].flip(1)[..., None] - x, state["y"].flip(1)[..., None] - y
    speed = (speed_x.square() + speed_y.square()).sqrt()
    to_go = (from_x * speed_x + from_y * speed_y) / speed.clamp(min=1e-6)
    away = torch.where(to_go > -SPENT, to_go, GONE - to_go)
    away = torch.where(speed > 0, away, torch.full_like(away, 4 * GONE))
    best = [part[..., 0] for part in (away, from_x, from_y, speed_x, speed_y)]
    for i in range(1, FLYING):
        other = [part[..., i] for part in (away, from_x, from_y, speed_x, speed_y)]
        nearer = other[0] < best[0]
        best = [torch.where(nearer, new, old) for new, old in zip(other, best, strict=True)]
    flies = ((best[3] != 0) | (best[4] != 0)).float()
    return best[1] * flies, best[2] * flies, best[3], best[4]
