"""Directional influence: how sticks move who is hurt, in hitlag and as it ends.

In hitlag a stick that is tilted far moves the fighter by NUDGE units times it, once for each time that it leaves the
middle along either axis, within FRESH frames of that, and not for one that had left it when the blow struck. As
hitlag ends the C-stick, or else the main stick, of the frame before moves by SHIFT. Thresholds and steps are those that
kyhavlov/melee-sim-light lists (data/common/ft_common_data.json: sdi_radius, sdi_tilt_max_frames, sdi_step_mul,
asdi_step_mul, lstick_tilt_x_thresh). On 215 games of train 97 % of the 2,520 frames on which somebody is moved in
hitlag are found, and the place along x is right on 99.2 % of the frames of the rule; so is that in the air as hitlag
ends on 97 %, and most of the rest is wind.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from wm_runtime.facts import FAMILIES
from wm_runtime.schema import C_
from wm_train.dynamics.geometry import Surfaces, support
from wm_train.dynamics.kinematics import length
from wm_train.dynamics.memory import CONTROLLERS, Past
from wm_train.dynamics.named import Named

NUDGE, SHIFT = 6.0, 3.0
"""Reach of smash and automatic directional influence, units at full stick."""
SHIELDED, SHIELD_STUN = 0.66, 181
"""The share of it that is left behind a shield that is struck, where what a stick does along x counts alone: all of
1,015 and 99 such moves on every third game of train, as hitlag ends and in it, and 14 others in it."""
FAR, TILTED = 0.7 - 1e-6, 0.25
"""Length of a stick that counts, and how far along an axis it has left the middle."""
FRESH = 4
CLOSE = 0.5
"""Who is no further above a surface, units, is not moved down."""
MAIN, C = (slice(C_[f"{stick}_x"], C_[f"{stick}_y"] + 1) for stick in ("main", "c"))
"""Of the controls."""
HURT = (FAMILIES["damage"][0], FAMILIES["damage"][-1])


@dataclass
class Influence:
    """Whether the rule says where a fighter is moved, and by how much, units; and whether that is all that moves it,
    behind its shield, but for its velocities, (N, 2) each."""

    ruled: Tensor
    x: Tensor
    y: Tensor
    shielded: Tensor


def influence(before: Named, after: Named, past: Past, controllers: Tensor, surfaces: Surfaces) -> Influence:
    """State, the next action, hitlag and airborne state, the past, controllers of the next frame (N, 2, 13) and its
    surfaces → how sticks move fighters."""
    hurt = torch.ones_like(before["action"], dtype=torch.bool)
    for state in (before, after):
        hurt &= (state["action"] >= HURT[0]) & (state["action"] <= HURT[1])
    blocks = (before["action"] == SHIELD_STUN) & (after["action"] == SHIELD_STUN)
    in_air = (before["airborne"] == 1) & (after["airborne"] == 1)
    lasts = (hurt | blocks) & (after["hitlag"] > 0) & (after["hitlag"] < before["hitlag"])
    ends = ((hurt & in_air) | blocks) & (before["hitlag"] > 0) & (after["hitlag"] <= 0)

    level = torch.stack([torch.ones_like(blocks), ~blocks], dim=-1).float()  # (N, 2, 2)
    main = torch.cat([past.controllers, controllers[:, None]], dim=1)[..., MAIN] * level[:, None]
    moves = lasts & leaves(main, past.numbers["since_hitlag"])
    held = past.controllers[:, -1]
    of_main, of_c = (held[..., stick] * level for stick in (MAIN, C))
    counts = [far_out(stick)[..., None] for stick in (of_main, of_c)]
    last = torch.where(counts[1], of_c, of_main * counts[0])
    x, y = (torch.where(moves, NUDGE * main[:, -1, :, i], SHIFT * ends * last[..., i]) for i in (0, 1))
    x, y = x * (1 - (1 - SHIELDED) * blocks.float()), y * in_air * ~blocks
    stands = moves & (support(surfaces, before["x"] + x, before["y"])[0] < CLOSE)
    y = torch.where(stands, y.clamp(min=0.0), y)
    return Influence(lasts | ends, x, y, blocks & (lasts | ends) & (x != 0))


def leaves(main: Tensor, since: Tensor) -> Tensor:
    """The main stick (N, CONTROLLERS + 1, 2, 2), the latest last, and frames since hitlag began (N, 2) → whether it
    moves who is in hitlag: it is far out, and left the middle lately, and has moved nobody since."""
    far, side = far_out(main), torch.where(main.abs() >= TILTED, main.sign(), torch.zeros_like(main))
    now = CONTROLLERS
    lately = torch.zeros_like(far[:, 0])
    unused, stays = torch.ones_like(lately), torch.ones_like(side[:, 0], dtype=torch.bool)
    for ago in range(FRESH):
        then = side[:, now - ago]
        stays = stays & (then == side[:, now])
        begins = stays & (then != 0) & (then != side[:, now - ago - 1])
        lately = lately | (begins.any(dim=-1) & unused & (since >= ago))
        unused = unused & ~far[:, now - ago - 1]
    return lately & far[:, now]


def far_out(stick: Tensor) -> Tensor:
    """Whether sticks (…, 2) are far out, (…)."""
    return length(stick[..., 0], stick[..., 1]) >= FAR
