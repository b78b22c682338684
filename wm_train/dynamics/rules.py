"""Rules of the game that no model has to learn: dying, rebirth, stocks, bounds. Applied to a proposed next state.

Timing and places: wm_runtime.facts (measured on real games). Dead fighters lie still for a fixed time, are reborn above
the stage, float down to the platform in 60 frames and are free again from the next frame on.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wm_runtime.facts import STAGES, TIMING, ends
from wm_runtime.replays.rules import (
    DEAD_DOWN,
    DEAD_FLY,
    DEAD_LEFT,
    DEAD_RIGHT,
    DEAD_SPLAT,
    DEAD_STAR,
    LASTS,
    REBIRTH,
    REBIRTH_WAIT,
    STOCK_LOST,
    TOP_KNOCKBACK,
)
from wm_runtime.schema import FIELD, MATCH_FRAMES, NO_GROUND, NO_PLAYER
from wm_train.dynamics.limits import Limits, flagged, jumps
from wm_train.dynamics.named import Named

LAST_DEAD, FALL = 10, 29
FALLS_FOR, SPLATS_FOR = 29.0, 40.0
"""Last ages of the animations of star and screen K.O.s, those of most fighters, for whom they were not measured."""
CROWDED_X = 16.0
"""x of the platform of a player who is reborn while the other one is, on stages whose platform is at 0."""


class Rules(nn.Module):
    """Tables of the stages and characters, and the rules that read them."""

    blast: Tensor
    """(stages, 4): left, right, top, bottom."""
    rebirth_x: Tensor
    """(stages, 2): of player 1 and 2."""
    rebirth_y: Tensor
    """(stages, 2): where rebirth begins, and its platform."""
    air_jumps: Tensor
    """(characters,): jumps left of a fighter that has not jumped and stands on nothing."""
    death_frames: Tensor
    """(LAST_DEAD + 1,): how long each way of dying takes."""
    stock_lost: Tensor
    """(LAST_DEAD + 1,): the frame of each, 0 the first, on which the stock goes."""
    last_age: Tensor
    """(characters · (LAST_DEAD + 1),): the last age of its animation …"""
    anew: Tensor
    """… and whether it begins anew then, bool."""

    def __init__(self) -> None:
        super().__init__()
        stages = 1 + max(stage.id for stage in STAGES)
        blast, rebirth_x, rebirth_y = torch.zeros(stages, 4), torch.zeros(stages, 2), torch.zeros(stages, 2)
        blast[:] = torch.tensor([-1e9, 1e9, 1e9, -1e9])
        for stage in STAGES:
            zone, rebirth = stage.blast, stage.rebirth
            blast[stage.id] = torch.tensor([zone.left, zone.right, zone.top, zone.bottom])
            rebirth_x[stage.id] = torch.tensor(rebirth.x)
            rebirth_y[stage.id] = torch.tensor([rebirth.y_from, rebirth.y_platform])
        dying = range(LAST_DEAD + 1)
        death = torch.tensor([LASTS.get(action, TIMING["dead_down"]) for action in dying], dtype=torch.int32)
        stock_lost = torch.tensor([STOCK_LOST.get(action, 0) for action in dying], dtype=torch.int32)
        for name, table in (("blast", blast), ("rebirth_x", rebirth_x), ("rebirth_y", rebirth_y)):
            self.register_buffer(name, table, persistent=False)
        self.limits = Limits()
        self.register_buffer("air_jumps", jumps(unknown=2) - 1, persistent=False)
        self.register_buffer("death_frames", death, persistent=False)
        self.register_buffer("stock_lost", stock_lost, persistent=False)
        last_age = torch.tensor([FALLS_FOR if way < DEAD_SPLAT else SPLATS_FOR for way in dying])
        last_age = last_age.repeat(FIELD["character"].classes or 0, 1)
        anew = (torch.arange(LAST_DEAD + 1) < DEAD_SPLAT).expand(last_age.shape)
        known = ends()
        at = known.key[:, 1] <= LAST_DEAD
        last_age[tuple(known.key[at].T.astype(int))] = torch.from_numpy(known.last[at])
        self.register_buffer("last_age", last_age.flatten(), persistent=False)
        self.register_buffer("anew", anew.flatten(), persistent=False)

    def forward(self, before: Named, after: Named, stage: Tensor, frames_in_action: Tensor) -> Named:
        """Present state, proposal, stage (N,), frames that the present action has lasted (N, 2) → the next state."""
        action = before["action"]
        dead, reborn, waiting = action <= LAST_DEAD, action == REBIRTH, after["action"] == REBIRTH_WAIT
        way = action.clamp(0, LAST_DEAD).long()
        over = frames_in_action + 1 >= self.death_frames[way]
        due = (frames_in_action + 1 == self.stock_lost[way]) & ~over
        leaves_death = dead & over & (action != DEAD_FLY) & (before["stocks"] > 0)
        stays_reborn = reborn & (frames_in_action + 1 < TIMING["rebirth"])

        after = self._wait_on_platform(before, self.limits(before, after, stage), waiting, frames_in_action)
        after = self._die(before, after, stage, alive=~dead & ~stays_reborn)
        after = _pick(dead & ~leaves_death, self._lie(before, way, over, due), after)
        after = _pick(leaves_death, self._rebirth(before, stage), after)
        after = _pick(stays_reborn, self._descend(before), after)
        return flagged(after)

    def _die(self, before: Named, after: Named, stage: Tensor, alive: Tensor) -> Named:
        """Past a blast zone a fighter dies; past the top only when knocked there, and its stock goes later."""
        left, right, top, bottom = (self.blast[stage][:, i, None] for i in range(4))
        x, y = after["x"], after["y"]
        death = torch.full_like(after["action"], -1)
        death = death.masked_fill((y > top) & (after["knockback_y"] > TOP_KNOCKBACK), DEAD_STAR)
        death = death.masked_fill(y < bottom, DEAD_DOWN)
        death = death.masked_fill(x > right, DEAD_RIGHT).masked_fill(x < left, DEAD_LEFT)
        fallen = {
            **after,
            **_still(after["x"]),
            "action": death,
            "state_age": torch.where(death <= DEAD_RIGHT, torch.full_like(x, -1.0), torch.zeros_like(x)),
            "percent": before["percent"],
            "stocks": (before["stocks"] - (death <= DEAD_RIGHT).int()).clamp(min=0),
            "airborne": torch.ones_like(death),
            "hurtbox": torch.zeros_like(death),
        }
        return _pick(alive & (death >= 0), fallen, {**after, "stocks": before["stocks"]})

    def _lie(self, before: Named, way: Tensor, over: Tensor, due: Tensor) -> Named:
        """A dying fighter does not move; a star or screen K.O. takes its stock on the frame on which it is `due`. Those
        have an animation, other deaths have none."""
        action, age = before["action"], before["state_age"]
        splats = (action == DEAD_FLY) & over
        move = before["character"].long() * (LAST_DEAD + 1) + way
        ended = age > self.last_age[move] - 0.01
        age = torch.where(ended, torch.where(self.anew[move], torch.zeros_like(age), age), age + 1)
        return {
            **before,
            "action": action.masked_fill(splats, DEAD_SPLAT),
            "state_age": torch.where(action <= DEAD_RIGHT, torch.full_like(age, -1.0), age.masked_fill(splats, 0.0)),
            "stocks": (before["stocks"] - due.int()).clamp(min=0),
        }

    def _rebirth(self, before: Named, stage: Tensor) -> Named:
        y_from, y_platform = self.rebirth_y[stage][:, 0, None], self.rebirth_y[stage][:, 1, None]
        x = self.rebirth_x[stage]
        other = before["action"].flip(1)
        crowded = (x == 0) & ((other == REBIRTH) | (other == REBIRTH_WAIT))
        whole = torch.zeros_like(before["action"])
        return {
            **before,
            **_still(before["x"]),
            "x": x.masked_fill(crowded, CROWDED_X),
            "y": y_from.expand_as(x),
            "self_y": ((y_platform - y_from) / (TIMING["rebirth"] - 1)).expand_as(x),
            "percent": torch.zeros_like(x),
            "shield": torch.full_like(x, FIELD["shield"].high),
            "state_age": torch.zeros_like(x),
            "action": whole + REBIRTH,
            "facing": torch.where(x < 0, whole + 1, whole - 1),
            "ground": whole + NO_GROUND,
            "airborne": whole + 1,
            "jumps": self.air_jumps[before["character"].long()],
            "last_attack": whole,
            "combo_count": whole,
            "last_hit_by": whole + NO_PLAYER,
            "hurtbox": whole,
        }

    @staticmethod
    def _descend(before: Named) -> Named:
        return {**before, "y": before["y"] + before["self_y"], "state_age": before["state_age"] + 1}

    @staticmethod
    def _wait_on_platform(before: Named, after: Named, waiting: Tensor, frames_in_action: Tensor) -> Named:
        """On the revival platform nothing moves, and it vanishes after a fixed time."""
        place = {"x": before["x"], "y": before["y"], "percent": before["percent"], **_still(before["x"])}
        over = (before["action"] == REBIRTH_WAIT) & (frames_in_action + 1 >= TIMING["rebirth_wait"])
        action = torch.where(over & waiting, torch.full_like(after["action"], FALL), after["action"])
        age = after["state_age"].masked_fill((before["action"] == REBIRTH) & waiting, 0.0)
        return {**_pick(waiting, {**after, **place}, after), "action": action, "state_age": age}


def match_over(after: Named, frame: Tensor) -> Tensor:
    """(N,) bool: a side has no stocks left, or time is up."""
    return (after["stocks"] <= 0).any(dim=1) | (frame >= MATCH_FRAMES)


def _still(like: Tensor) -> Named:
    names = ("self_x_air", "self_y", "knockback_x", "knockback_y", "self_x_ground", "hitlag")
    return {name: torch.zeros_like(like) for name in names}


def _pick(mask: Tensor, yes: Named, no: Named) -> Named:
    """Field by field, `yes` where `mask` (N, 2) and `no` elsewhere."""
    return {name: value if yes[name] is value else torch.where(mask, yes[name], value) for name, value in no.items()}
