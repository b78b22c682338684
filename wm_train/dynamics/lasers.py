"""Fox's and Falco's lasers: when they leave, from where, and where they fly until somebody is struck.

A laser leaves on the frame on which its move reaches an age, from where the fighter was on the frame before and beside
it, and flies straight (wm_runtime.facts.laser_starts). It leaves as well where the fighter lands on that very frame: so
do 14 % of Falco's shots in the air. A laser is a beam: its end stays where it left until it is as long as it gets. Of
4,345 hits by shots of Falco in `train`, a quarter struck with more than three units of beam past the victim, a tenth
with 20. Down throws are left out: their lasers strike at once, at fixed ages. The first of Sheik's needles flies like a
laser that has no length.
"""

from __future__ import annotations

import torch
from torch import Tensor

from wm_runtime.facts import character as fighter_named
from wm_runtime.facts import laser_starts
from wm_train.dynamics.constants import there
from wm_train.dynamics.named import Named

SHOTS = ("x", "y", "speed_x", "speed_y", "length")
"""What is kept of a laser: where its head is, units, its velocity, units a frame, and how far back it reaches, units;
zeros where there is none."""
FLYING = 3
"""Lasers of a fighter that are kept, the latest first: as many as an up throw sends."""
STANDING, FLOATING, BACK, UP = 342, 345, 220, 221
"""Actions that shoot: on the ground, in the air, and throws."""
LANDING = 42
LONGEST = {"FOX": 25.0, "FALCO": 33.0}
"""As long as their lasers get, units."""
SHOOTERS = ("FOX", "FALCO")
KINDS = 12
"""Lasers are of Fox, of Falco or of others (Sheik's needles), shot level or rising, as those of throws do, and have
flown before or leave just now: who is struck how far beside them differs by that."""
WIDE = 6.5
"""Lasers that rise strike who is so much further beside them, units, as long as nothing else was estimated."""
LATE = (20.0, 4 / 3, 0.01)
"""A laser that leaves at this age does not yet where the move's pace is this, to so much, and the age just reached."""
CHEST, SPENT, GONE = 7.0, 15.0, 250.0
"""A laser that is so near to the middle of who is hurt, so far above its place, has hit; and one so far out is gone,
units."""


def _table() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(fighter, action), (leaves, from which age on and until which the row counts), the row, and the longest."""
    starts = laser_starts()
    spans = []
    for one in starts:
        same = (one.character, one.action, one.leaves)
        ages = [o.state_age for o in starts if (o.character, o.action, o.leaves) == same]
        below, above = [a for a in ages if a < one.state_age], [a for a in ages if a > one.state_age]
        since = (max(below) + one.state_age) / 2 if below else -GONE
        until = (min(above) + one.state_age) / 2 if above else GONE
        spans.append((one.leaves, since, until))
    longest = {fighter_named(name).internal_id: length for name, length in LONGEST.items()}
    return (
        torch.tensor([(one.character, one.action) for one in starts], dtype=torch.int32),
        torch.tensor(spans, dtype=torch.float32),
        torch.tensor([(one.ahead, one.above, one.forth, one.up) for one in starts], dtype=torch.float32),
        torch.tensor([longest.get(i, 0.0) for i in range(1 + max(longest))], dtype=torch.float32),
    )


_WHO, _SPAN, _SENT, _LONGEST = _table()


def flown(shots: Tensor, last: Named, state: Named) -> Tensor:
    """Lasers (N, 2, FLYING, SHOTS) of the frame before, fields of that frame (its action, state_age, x, y, percent and
    hitlag) and the present state → the lasers now."""
    return flies_on(shots, *leaves_now(last, state), last, state)


def leaves_now(last: Named, state: Named) -> tuple[Tensor, Tensor]:
    """Two frames, (…, 2) of each field → the laser that has left on the second, zeros for none (…, 2, SHOTS), and
    whether one has (…, 2)."""
    lands = (last["action"] == FLOATING) & (state["action"] == LANDING)
    age = torch.where(lands, last["state_age"] + 1, state["state_age"])
    goes_on = (state["action"] == last["action"]) | lands
    return _leaving({**last, "character": state["character"], "facing": state["facing"]}, age, goes_on)


def flies_on(shots: Tensor, new: Tensor, leaves: Tensor, last: Named, state: Named) -> Tensor:
    """As `flown`, given what `leaves_now` says."""
    moved = _ahead(shots, state)
    moved_on = torch.cat([new[:, :, None], moved[:, :, :-1]], dim=2)
    all_ = torch.where(leaves[..., None, None], moved_on, moved)
    x, y, speed_x, speed_y, _ = all_.unbind(dim=-1)
    flies = (speed_x != 0) | (speed_y != 0)
    apart = beside(all_, state["x"].flip(1)[..., None], state["y"].flip(1)[..., None] + CHEST)
    apart = torch.where(flies, apart, torch.full_like(apart, GONE))
    stopped = (state["percent"] > last["percent"]) | ((state["hitlag"] > 0) & (last["hitlag"] <= 0))
    hit = stopped.flip(1)[..., None] & (apart < SPENT) & (apart <= apart.amin(dim=-1, keepdim=True))
    flies = flies & ~hit & (x.abs() < GONE) & (y.abs() < GONE)
    return all_ * flies.float()[..., None]


def next_shots(shots: Tensor, state: Named, pace: Tensor) -> Tensor:
    """Lasers at present (N, 2, FLYING, SHOTS), the state, and by how much ages grow (N, 2) → those of the next frame,
    where nobody is struck and moves go on: the one that leaves first, (N, 2, 1 + FLYING, SHOTS)."""
    new, _ = _leaving(state, state["state_age"] + pace, torch.ones_like(pace, dtype=torch.bool))
    return torch.cat([new[:, :, None], _ahead(shots, state)], dim=2)


def kinds(shots: Tensor, character: Tensor) -> Tensor:
    """Lasers as of `next_shots` and who sends them (N, 2) → which of KINDS they are (N, 2, 1 + FLYING)."""
    fox, falco = (character == fighter_named(name).internal_id for name in SHOOTERS)
    who = torch.where(fox, 0, torch.where(falco, 1, 2))
    leaves = torch.arange(shots.shape[2], device=shots.device) == 0
    return (who[..., None] * 2 + (shots[..., 3] > 0)) * 2 + leaves


def _leaving(last: Named, now: Tensor, goes_on: Tensor) -> tuple[Tensor, Tensor]:
    """The frame before, the age now, and whether the move goes on (N, 2) → the laser that leaves, zeros for none
    (N, 2, SHOTS), and whether one does (N, 2)."""
    who, span, sent = (there(table, now.device) for table in (_WHO, _SPAN, _SENT))
    was, age = last["state_age"][..., None], now[..., None]
    mine = (last["character"][..., None] == who[:, 0]) & (last["action"][..., None] == who[:, 1])
    at, since, until = span.unbind(dim=-1)
    late = (at == LATE[0]) & ((age - was - LATE[1]).abs() < LATE[2])
    at = at + late * 1e-3
    leaves = mine & goes_on[..., None] & (was < at) & (age >= at) & (age >= since) & (age < until)  # (N, 2, rows)
    ahead, above, forth, up = (leaves.float() @ sent).unbind(dim=-1)
    facing, does = last["facing"].float(), leaves.any(dim=-1)
    new = [last["x"] + facing * ahead, last["y"] + above, facing * forth, up, torch.zeros_like(up)]
    return torch.stack(new, dim=-1) * does[..., None], does


def _ahead(shots: Tensor, state: Named) -> Tensor:
    """Lasers (N, 2, FLYING, SHOTS) → where they are a frame later, as long as they are then."""
    x, y, speed_x, speed_y, length = shots.unbind(dim=-1)
    longest = there(_LONGEST, x.device)
    most = longest[state["character"].long().clamp(max=len(longest) - 1)][..., None]
    length = torch.minimum(length + (speed_x.square() + speed_y.square()).sqrt(), most)
    return torch.stack([x + speed_x, y + speed_y, speed_x, speed_y, length], dim=-1)


def beside(shots: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """How far places are from lasers (…, SHOTS), units (…)."""
    head_x, head_y, speed_x, speed_y, length = shots.unbind(dim=-1)
    speed = (speed_x.square() + speed_y.square()).sqrt().clamp(min=1e-6)
    way_x, way_y = speed_x / speed, speed_y / speed
    from_x, from_y = x - head_x, y - head_y
    along = torch.maximum((from_x * way_x + from_y * way_y).clamp(max=0.0), -length)
    return ((from_x - along * way_x).square() + (from_y - along * way_y).square() + 1e-6).sqrt()


def nearest(shots: Tensor, state: Named) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of each fighter's lasers (N, 2, FLYING, SHOTS) the one that reaches the other fighter next: where that is from
    its head along x and y, and its velocity, (N, 2) each; zeros where none flies."""
    x, y, speed_x, speed_y, length = shots.unbind(dim=-1)
    from_x, from_y = state["x"].flip(1)[..., None] - x, state["y"].flip(1)[..., None] - y
    speed = (speed_x.square() + speed_y.square()).sqrt()
    to_go = (from_x * speed_x + from_y * speed_y) / speed.clamp(min=1e-6)
    away = torch.where(to_go > -SPENT - length, to_go, GONE - to_go)
    away = torch.where(speed > 0, away, torch.full_like(away, 4 * GONE))
    best = [part[..., 0] for part in (away, from_x, from_y, speed_x, speed_y)]
    for i in range(1, FLYING):
        other = [part[..., i] for part in (away, from_x, from_y, speed_x, speed_y)]
        nearer = other[0] < best[0]
        best = [torch.where(nearer, new, old) for new, old in zip(other, best, strict=True)]
    flies = ((best[3] != 0) | (best[4] != 0)).float()
    return best[1] * flies, best[2] * flies, best[3], best[4]
