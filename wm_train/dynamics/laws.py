"""Velocities along x that follow from the move alone: by its animation, or by how it came about.

Rolls, some attacks and climbing go as fast on the ground as their animation (wm_runtime.facts.roots). Who begins an
attack in the air out of the squat jumps first and drifts on that very frame: so are 99 % of 1,099 on every second game
of train. Jumps, falls and attacks in the air drift: 99.8 % of 780,000 frames on every fourth game; in some moves the
stick drives less, or not at all (wm_runtime.facts.drifts). Who begins to fall is not faster than it may be.
Who leaves a dash that is faster than its run to turn or to shield keeps a quarter of its run's speed less friction. Who
lands from a Fox Illusion or Falco Phantasm loses 0.07 units a frame: 642 of 647.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from wm_runtime.facts import FAMILIES, roots
from wm_runtime.facts import character as fighter
from wm_runtime.facts import drifts as facts_of_drifts
from wm_runtime.schema import C_, FIELD
from wm_train.dynamics.constants import constant
from wm_train.dynamics.going import LEAPS, SQUAT, full_hop
from wm_train.dynamics.memory import Past, tilted
from wm_train.dynamics.named import Named, is_of

CHARACTERS, ACTIONS = FIELD["character"].classes or 0, FIELD["action"].classes or 0
DASH, AERIALS = 20, (65, 66, 67, 68, 69)
FALL, DEAD_FALL, DRIFTS = 29, 35, (*range(25, 36), 38, *AERIALS)
"""Falling, falling helplessly; and jumps, falls and attacks in the air, which drift as the stick has it."""
BEGIN_SO = (*AERIALS, FALL, DEAD_FALL, 38)
"""Those of which the first frame is so as well: attacks and falls."""
NO_LIMIT = 9.0
"""A share of its speed to which the stick leads no fighter."""
HURT, HITSTUN_FLAG, RUBS_ONLY = FAMILIES["damage"], 0x02, (0.0, 0.0, 0.0, 1.0, NO_LIMIT)
AS_EVER = (1.0, 1.0, 1.0, 1.0, NO_LIMIT)
"""Being hurt; the bit of flags_4 with which misc_as is the hitstun left; shares while that lasts, friction alone; and
after it. On every sixth game of train all of 251,324 frames of fighters that are hurt in the air are so, and all of
5,987 after it, on which they drift."""
LIES = tuple(action for family in ("downed", "entry") for action in FAMILIES[family])
"""Who lies there, and slides off what it lies on, falls as fast along as it went."""
LEAVES = (18, 178, 182)
"""Turning and raising a shield: what a dash is left for by this law."""
ILLUSION, LANDS, RUBS = 352, 43, 0.07
ILLUSIONS = tuple(fighter(name).internal_id for name in ("FOX", "FALCO"))
INVULNERABLE, CAME_BACK, HELD_LEDGE = 1, 120, 37
"""A hurtbox; and frames for which fighters are so once they have left the platform of their return, and intangible once
they have caught the ledge."""
PLAIN = tuple(
    action
    for family in ("wait", "walk", "turn", "dash", "run", "crouch", "jump_squat", "jump", "double_jump", "aerial",
                   "jab", "aerial_landing", "dash_attack", "tilt", "smash", "shield")
    for action in FAMILIES[family]
)  # fmt: skip
ENDS_IN = ("fall", "landing", "landing_special", "special_fall")
FALLS = tuple(action for family in ENDS_IN for action in FAMILIES[family])
"""Actions that leave the hurtbox as it is; and those in which a dodge may end, which is intangible for a time of its
own."""
SHOOTS, SPECIAL, REVERSES = 344, 341, 20
"""Beginning to shoot in the air, the first special action, and the frames for which a stick that left the middle to the
back turns who begins."""
SHOTS_LOOP, SHINES_LOOP, SHINES_FOR, ENDS_ODDS = (342, 345), (361, 366), 21, 8.0
"""Shots and reflectors that are held, the frames for which those are out at least, and what is added to the logits of
their end."""
TURN_SHARE = 0.25
"""What turning out of a dash leaves of the speed, before friction."""


class Laws(nn.Module):
    """Table: speeds of moves by their animation, and where those of a move begin."""

    first: Tensor
    """(characters · actions,): row of a move's first age; 0 for those without."""
    start: Tensor
    count: Tensor
    speed: Tensor
    """(rows,): NaN where unknown."""
    share: Tensor
    """(characters · actions, 5): see facts.Drifts; NaN where unknown."""
    spring: Tensor
    """(characters · actions,): what of a full stick a jump in the air begins with, units a frame; NaN where unknown."""
    most: Tensor
    """(characters · actions,): the share of a fighter's speed in the air that a helpless fall after an action is held
    to."""

    def __init__(self) -> None:
        super().__init__()
        known = roots()
        move = known.move[:, 0].astype(np.int64) * ACTIONS + known.move[:, 1]
        start, count = known.span.T.astype(np.int64)
        first = 1 + np.cumsum(count) - count
        for name, column in (("first", first), ("start", start), ("count", count)):
            table = torch.zeros(CHARACTERS * ACTIONS, dtype=torch.int64)
            table[move] = torch.from_numpy(column)
            self.register_buffer(name, table, persistent=False)
        share = torch.full((CHARACTERS, ACTIONS, 5), torch.nan)
        share[:, list(DRIFTS)] = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0])
        drift = facts_of_drifts()
        share[tuple(drift.key.T.astype(int))] = torch.from_numpy(drift.share)
        most = torch.full((CHARACTERS, ACTIONS), NO_LIMIT)
        most[tuple(drift.falls[:, :2].T.astype(int))] = torch.from_numpy(drift.falls[:, 2])
        spring = torch.full((CHARACTERS, ACTIONS), torch.nan)
        spring[tuple(drift.springs[:, :2].T.astype(int))] = torch.from_numpy(drift.springs[:, 2])
        self.register_buffer("spring", spring.flatten(), persistent=False)
        self.register_buffer("share", share.flatten(0, 1), persistent=False)
        self.register_buffer("most", most.flatten(), persistent=False)
        speed = np.concatenate([[np.nan], known.speed]).astype(np.float32)
        self.register_buffer("speed", torch.from_numpy(speed), persistent=False)

    def animated(self, before: Named, after: Named) -> Tensor:
        """State; the next action, age, airborne state and facing → velocity along x of who stands and moves as its
        animation does, NaN of others, (N, 2)."""
        age, action = after["state_age"], after["action"]
        move = before["character"].long() * ACTIONS + action.long()
        at = age.round().long() - self.start[move]
        goes_on = (before["action"] == action) & (before["airborne"] == 0) & (after["airborne"] == 0)
        goes_on &= (before["hitlag"] <= 0) & ((age - age.round()).abs() < 1e-3)
        goes_on &= (age - before["state_age"] - 1).abs() < 1e-3
        within = goes_on & (at >= 0) & (at < self.count[move])
        row = torch.where(within, self.first[move] + at, torch.zeros_like(at))
        return self.speed[row] * after["facing"].float()

    def drifts(self, before: Named, after: Named, former: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """State, the next action, age and airborne state, and the action before the present one (N, 2) → who drifts by
        law, and whose speed is at most what a fighter may have in the air before it does, (N, 2); and how far the stick
        drives it: facts.Drifts' shares, and that of the speed which it leads to at most, (N, 2, 5)."""
        flies = (before["airborne"] == 1) & (after["airborne"] == 1) & (before["hitlag"] <= 0)
        action, falls = after["action"], after["action"] == FALL
        begins = before["action"] != action
        *share, since = self.share[(before["character"].long() * ACTIONS + action.long())].unbind(-1)
        known = ~since.isnan() & (after["state_age"] >= since)
        drifts = flies & known & (~begins | is_of(action, BEGIN_SO))
        after_what = torch.where(begins, before["action"], former)
        most = self.most[before["character"].long() * ACTIONS + after_what.long()]
        share.append(torch.where(action == DEAD_FALL, most, torch.full_like(most, NO_LIMIT)))
        slides = falls & begins & is_of(before["action"], LIES)
        shares = torch.nan_to_num(torch.stack(share, dim=-1)) * ~slides[..., None]
        hurt = flies & ~begins & is_of(action, HURT)
        stunned = ((before["flags_4"] & HITSTUN_FLAG) > 0) & (before["misc_as"] > 1)
        rubs, ever = (constant(law, shares.device) for law in (RUBS_ONLY, AS_EVER))
        of_hurt = torch.where(stunned[..., None], rubs, ever)
        return drifts | hurt, falls & begins, torch.where(hurt[..., None], of_hurt, shares)

    def springs(self, before: Named, after: Named, past: Past, controllers: Tensor) -> Tensor:
        """State, the next action and airborne state, its past and the controllers of the next frame (N, 2, 13) → the
        velocity along x with which fighters jump in the air before they drift on that very frame, NaN of those who do
        not, (N, 2). It is that of the stick; where hitstun ends on this frame and its animation has ended before, that
        of the stick of the frame before: so are 356 of 397 jumps on train of which the stick tells."""
        begins = (before["action"] != after["action"]) & (before["airborne"] == 1) & (after["airborne"] == 1)
        stunned = ((before["flags_4"] & HITSTUN_FLAG) > 0) & (before["state_age"] == past.last["state_age"])
        last, now = (pads[..., C_["main_x"]] for pads in (past.controllers[:, -1], controllers))
        by_stick = self.spring[before["character"].long() * ACTIONS + after["action"].long()]
        jumps = begins & (before["hitlag"] <= 0)
        nothing = torch.full_like(by_stick, torch.nan)
        return torch.where(jumps, by_stick * torch.where(stunned & is_of(before["action"], HURT), last, now), nothing)

    @staticmethod
    def grounded(before: Named, after: Named, most: Tensor, friction: Tensor) -> Tensor:
        """State; the next action and airborne state; the speed of the fighters' runs and their friction (N, 2) → the
        velocity on the ground that these laws say, NaN where they say nothing, (N, 2)."""
        none, rubs = torch.full_like(most, float("nan")), torch.full_like(most, RUBS)
        ground, air = before["self_x_ground"], before["self_x_air"]
        free = (before["hitlag"] <= 0) & (after["airborne"] == 0)
        leaves = free & (before["action"] == DASH) & is_of(after["action"], LEAVES) & (ground * before["facing"] > most)
        turned = ground.sign() * most * TURN_SHARE
        lands = free & (before["action"] == ILLUSION) & (after["action"] == LANDS)
        lands &= is_of(before["character"], ILLUSIONS)
        return torch.where(leaves, slower(turned, friction), torch.where(lands, slower(air, rubs), none))


def hops(before: Named, after: Named, past: Past, hop: Tensor, gravity: Tensor) -> Tensor:
    """State, the next action, its past, speeds of short and full hops (N, 2, 2) and gravity (N, 2) → own velocity up of
    who leaves the squat for the air, NaN of others and where it is not known, (N, 2). Who attacks at once has fallen
    for a frame."""
    full = full_hop(past.controllers, past.numbers["frames_in_action"])
    speed = torch.where(full, hop[..., 1], hop[..., 0])
    attacks = is_of(after["action"], AERIALS)
    leaves = (before["action"] == SQUAT) & (before["hitlag"] <= 0) & (is_of(after["action"], LEAPS) | attacks)
    return torch.where(leaves, speed - gravity * attacks, torch.full_like(speed, torch.nan))


def untouched(before: Named, after: Named, since: Tensor) -> tuple[Tensor, Tensor]:
    """State, the next action, and frames since the hurtbox became what it is (N, 2) → the next hurtbox, and of whom
    this rule speaks, (N, 2): who has come back is invulnerable, and who has caught the ledge intangible, for so many
    frames of what makes nobody so by itself. On every third game of train 1,065 of 1,065 are vulnerable on that very
    frame and 3 of 9,600 on the nine before; of those who have held the ledge 1,692 of 1,712, and none of 17,500 on the
    ten before.
    """
    ends = torch.where(before["hurtbox"] == INVULNERABLE, CAME_BACK, HELD_LEDGE)
    plain = is_of(after["action"], PLAIN) | ((before["hurtbox"] == INVULNERABLE) & is_of(after["action"], FALLS))
    speaks = (before["hurtbox"] > 0) & plain & (since + 1 <= ends)
    return torch.where(since + 1 < ends, before["hurtbox"], torch.zeros_like(before["hurtbox"])), speaks


def slower(v: Tensor, by: Tensor) -> Tensor:
    """v with so much less speed, which never turns."""
    return v - v.sign() * torch.minimum(v.abs(), by)


def turns(before: Named, after: Named, past: Past, controllers: Tensor) -> tuple[Tensor, Tensor]:
    """State, the next action, its past, controllers of the next frame (N, 2, 13) → whether a fighter turns around as it
    begins to shoot in the air, and of whom this rule speaks, (N, 2): all 5,181 times on every third game of train."""
    begins = (after["action"] == SHOOTS) & (before["action"] < SPECIAL) & is_of(before["character"], ILLUSIONS)
    tilt, since = tilted(past.numbers, torch.stack([past.controllers[:, -1], controllers], dim=1))
    return (tilt * before["facing"] < 0) & (since < REVERSES), begins


def ends(before: Named, past: Past) -> tuple[Tensor, Tensor]:
    """State and its past → the actions in which Fox's and Falco's shots and reflectors end, and what to add to their
    logits, (N, 2) each. Shots go on where B was pressed since the last began: 1,316 times of 1,324 on every third game
    of train. Reflectors are out for SHINES_FOR frames without hitlag, and as long as B is down."""
    action, numbers = before["action"], past.numbers
    shoots, shines = is_of(action, SHOTS_LOOP), is_of(action, SHINES_LOOP)
    goes_on = numbers["since_b"] <= numbers["since_begun"]
    over = (numbers["shines"] + 1 >= SHINES_FOR) & (past.controllers[:, -1, :, C_["b"]] < 0.5)
    odds = shines.float() * (2 * over.float() - 1) - (shoots & goes_on).float()
    odds = odds * is_of(before["character"], ILLUSIONS) * (before["hitlag"] <= 0)
    return action + torch.where(shines, torch.full_like(action, 2), torch.ones_like(action)), odds * ENDS_ODDS


def leaps(before: Named, after: Named) -> Tensor:
    """Who begins an attack in the air out of the squat, (N, 2)."""
    rises = (before["action"] == SQUAT) & (after["airborne"] == 1) & (before["hitlag"] <= 0)
    return rises & is_of(after["action"], AERIALS)


def on_slope(before: Named, after: Named) -> Tensor:
    """State and what is known of the next one → who stays on the ground without hitlag, and goes up and down as the
    slope that it stood on has it, (N, 2). A dash that begins, and a dodge into the ground out of the squat, have not
    moved so yet. On every second game of train 75,000 of 75,120 other frames on slopes are so, to 0.001 units a frame.
    """
    stands = (before["airborne"] == 0) & (after["airborne"] == 0) & (before["hitlag"] <= 1) & (after["hitlag"] <= 0)
    action = after["action"]
    begins = (before["action"] != action) & ((action == DASH) | ((before["action"] == SQUAT) & (action == LANDS)))
    return stands & ~begins
