"""The action that a fighter is hurt in: by frames of hitstun, by where it is struck, and by where it is thrown.

The game's rule: below 10 frames of hitstun, below 21, below 32 there are three actions each, on the ground one for
being struck high, in the middle and low, in the air one; from 32 on the fighter flies, upright where it is launched
upward. So the action follows from the launch, which is known later: the action head says whether a fighter is hurt,
and how, as far as the launch leaves that open.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from wm_runtime.facts import ACTION_NAMES, FAMILIES
from wm_runtime.schema import FIELD
from wm_train.dynamics.heights import height_of
from wm_train.dynamics.launch import HURT_LEVELS
from wm_train.dynamics.named import Named

ACTIONS = FIELD["action"].classes or 0
HEIGHTS, AIR = ("HIGH", "NEUTRAL", "LOW"), "AIR"
FLY = ("HIGH", "NEUTRAL", "LOW", "TOP", "ROLL")
FLIES = tuple(ACTION_NAMES.index(f"DAMAGE_FLY_{kind}") for kind in FLY)
UPWARD = (65.0, 72.0, 89.5)
"""Degrees of a launch below which nobody flies upright, and between which everybody does."""
ROLLS_FROM, ROLLS = 100.0, 0.3
"""From so many percent on who is not launched upward spins through the air by chance: so often, whatever else is said.
On every second game of train: 907 of 2,939 launches below 65 degrees, and none of 16,280 from less percent."""
SAID_OF_HEIGHT = 0.4
"""How much what the network says of where a fighter is struck counts beside `heights`: it is right in 91 % of the hits
that it learned from, and in 77 % of others."""
UNLIKELY = 20.0
"""By how much more likely, as a logit, an action has to be said that a launch does not allow."""


class Hurt(nn.Module):
    """The actions that each launch allows."""

    allowed: Tensor
    """(2 · 4 · 3, last - first + 1) bool: on the ground and in the air, by level of hitstun, where a launch is not
    upward, may count as that, is."""
    kinds: Tensor
    """(actions,) bool: those that a fighter is hurt in."""
    height: Tensor
    """(last - first + 1,): of those the index in HEIGHTS, −1 for others."""
    kin: Tensor
    """(last - first + 1,): which differ in height alone, by level of hitstun, −1 for those without a height."""

    def __init__(self) -> None:
        super().__init__()
        allowed = torch.zeros(2, len(HURT_LEVELS) + 1, 3, ACTIONS, dtype=torch.bool)
        for level in range(len(HURT_LEVELS)):
            allowed[0, level, :, [ACTION_NAMES.index(f"DAMAGE_{height}_{level + 1}") for height in HEIGHTS]] = True
            allowed[:, level, :, ACTION_NAMES.index(f"DAMAGE_{AIR}_{level + 1}")] = True
        top = FLIES[FLY.index("TOP")]
        allowed[:, -1, :, list(FLIES)] = True
        allowed[:, -1, 0, top] = False
        allowed[:, -1, 2] = False
        allowed[:, -1, 2, top] = True
        allowed = allowed.flatten(0, 2)
        named = allowed.any(dim=0).nonzero()[:, 0]
        self.first, self.last = int(named[0]), int(named[-1])
        self.register_buffer("allowed", allowed[:, self.first : self.last + 1].clone(), persistent=False)
        kinds = torch.zeros(ACTIONS, dtype=torch.bool)
        kinds[list(FAMILIES["damage"])] = True
        self.register_buffer("kinds", kinds, persistent=False)
        height = torch.from_numpy(height_of()[self.first : self.last + 1])
        self.register_buffer("height", height, persistent=False)
        kin = torch.full_like(height, -1)
        for i, name in enumerate(ACTION_NAMES[self.first : self.last + 1]):
            if height[i] >= 0:
                kin[i] = len(HURT_LEVELS) if "FLY" in name else int(name[-1]) - 1
        self.register_buffer("kin", kin, persistent=False)

    def forward(
        self, before: Named, after: Named, launched: Tensor, level: Tensor, logits: Tensor, height: Tensor
    ) -> Tensor:
        """State, what is known of the next one, whether its knockback is a new launch, its level (N, 2), logits of the
        action (N, 2, actions) and of `heights.HEIGHTS` (N, 2, 3) → the action, (N, 2) int32: the likeliest that the
        launch allows."""
        low, least, most = UPWARD
        x, y = after["knockback_x"].abs(), after["knockback_y"]
        angle = torch.rad2deg(torch.atan2(y, x))
        upward = (angle >= low).int() + ((angle >= least) & (angle <= most)).int()
        flat = (len(HURT_LEVELS) + 1) * before["airborne"].clamp(0, 1) + level
        allowed = self.allowed[(flat * 3 + upward).long()]
        said = self._spinning(self._high(logits[..., self.first : self.last + 1], height), after["percent"])
        kind = self.first + (said - UNLIKELY * (~allowed).float()).argmax(dim=-1).int()
        return torch.where(launched & self.kinds[after["action"].long()], kind, after["action"])

    def _high(self, said: Tensor, height: Tensor) -> Tensor:
        """Logits of the actions from `first` on, and of HEIGHTS (N, 2, 3) → the same, those that differ in height alone
        by a share of what is said of them, and by height: the likeliest of them stays as likely at most."""
        told = (height - height.amax(dim=-1, keepdim=True)).index_select(-1, self.height.clamp(min=0))
        alike = self.kin[None, :] == torch.arange(len(HURT_LEVELS) + 1, device=said.device)[:, None]
        most = said[..., None, :].masked_fill(~alike, -1e9).amax(dim=-1).index_select(-1, self.kin.clamp(min=0))
        return torch.where(self.height >= 0, most + SAID_OF_HEIGHT * (said - most) + told, said)

    def _spinning(self, said: Tensor, percent: Tensor) -> Tensor:
        """Logits of the actions from `first` on, and the next percent (N, 2) → the same, that of spinning as chance has
        it."""
        column = torch.arange(self.first, self.last + 1, device=said.device)
        rolls = column == FLIES[-1]
        flat = torch.stack([column == action for action in FLIES[:3]]).any(dim=0)
        others = said.masked_fill(~flat, -1e9).logsumexp(dim=-1)
        chance = others + math.log(ROLLS / (1 - ROLLS))
        chance = torch.where(percent >= ROLLS_FROM, chance, torch.full_like(chance, -1e9))
        return torch.where(rolls, chance[..., None], said)
