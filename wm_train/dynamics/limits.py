"""What no step of the game does: jump over the stage, gain knockback or jumps from nothing, lose count of hitlag.

The rules and their exceptions are those of wm_runtime.replays.rules, which no real game breaks; a proposed next state
that breaks one is set to the nearest that does not.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from wm_runtime.facts import CHARACTERS, FAMILIES, STAGES
from wm_runtime.replays.rules import (
    DAMAGE_FLY_ROLL,
    FAR,
    FARTHEST,
    FOX,
    HURT_THEMSELVES,
    LEDGE_CATCH,
    REBIRTH_WAIT,
)
from wm_runtime.schema import FIELD, FIELDS
from wm_train.dynamics.kinematics import displacement, length, velocity
from wm_train.dynamics.named import Named

RANGES = {f.name: (f.low, f.high) for f in FIELDS if f.dtype == "float32" and math.isfinite(f.high)}
REGROWTH = 0.07
"""What a shield regains a frame."""
HITLAG_FLAG = 0x20
"""Bit of flags_2 that is set exactly while hitlag lasts."""
BLOW = 0.5
"""A shield that loses more than this in a frame was struck."""
LEAST_BLOW, LASER = 1.02, 4.0
"""The magnifying glass costs less percent, Fox's laser less than that."""
HITLAG = (3.0, 3.0)
"""A blow stops for so many frames, and one more for each of so many percent, as the game has it."""
GROUPS = {
    "held": ("grabbed", "thrown", "captured"), "special": ("special",), "ledge": ("ledge",), "bounce": ("bounce",),
    "breaks": ("shield_break",),
    "fights": ("jab", "dash_attack", "tilt", "smash", "aerial", "aerial_landing", "special", "damage"),
}  # fmt: skip


class Limits(nn.Module):
    """Tables (actions,) of the groups of actions, (stages, ids) of what rises, and (characters,) of jumps."""

    rises: Tensor
    most_jumps: Tensor
    hurts_itself: Tensor
    """(characters,) bool: whose own moves may cost it percent."""

    def __init__(self) -> None:
        super().__init__()
        for name, families in GROUPS.items():
            table = torch.zeros(FIELD["action"].classes or 0, dtype=torch.bool)
            table[[action for family in families for action in FAMILIES[family]]] = True
            self.register_buffer(name, table, persistent=False)
        ids = 1 + max(s.id for stage in STAGES for s in stage.surfaces)
        rises = torch.zeros((1 + max(stage.id for stage in STAGES), ids), dtype=torch.bool)
        for stage in STAGES:
            rises[stage.id, [s.id for s in stage.surfaces if s.moves]] = True
        self.register_buffer("rises", rises, persistent=False)
        self.register_buffer("most_jumps", jumps(int(FIELD["jumps"].high)), persistent=False)
        hurts_itself = torch.zeros(FIELD["character"].classes or 0, dtype=torch.bool)
        hurts_itself[list(HURT_THEMSELVES)] = True
        self.register_buffer("hurts_itself", hurts_itself, persistent=False)

    def forward(self, before: Named, after: Named, stage: Tensor) -> Named:
        """Present state, proposal and stage (N,) → the next state within the limits."""
        after = {**after, **{name: after[name].clamp(*limits) for name, limits in RANGES.items()}}
        alive = (before["action"] > REBIRTH_WAIT) & (after["action"] > REBIRTH_WAIT)
        after = self._shield(before, after, alive)
        after = self._hitlag(before, after)
        after = self._knockback(before, after, alive)
        return flagged(self._place(before, self._jumps(before, after, alive), stage, alive))

    def _in(self, group: str, state: Named) -> Tensor:
        table: Tensor = getattr(self, group)
        return table[state["action"].long()]

    def _shield(self, before: Named, after: Named, alive: Tensor) -> Named:
        grows = ~alive | self._in("breaks", before) | self._in("breaks", after)
        most = torch.where(grows, torch.full_like(after["shield"], FIELD["shield"].high), before["shield"] + REGROWTH)
        return {**after, "shield": torch.minimum(after["shield"], most)}

    def _hitlag(self, before: Named, after: Named) -> Named:
        """It counts down by one; a hit may set it to anything, whoever fights may be stopped anew."""
        hit = (after["percent"] > before["percent"]) | (before["shield"] - after["shield"] > BLOW)
        hit = hit | hit.flip(1)
        counted = (before["hitlag"] - 1).clamp(min=0.0)
        lasts = torch.where(self._in("fights", after), torch.maximum(after["hitlag"], counted), counted)
        after = {**after, "hitlag": torch.where((before["hitlag"] > 0) & ~hit, lasts, after["hitlag"])}
        return self._struck(before, after)

    def _struck(self, before: Named, after: Named) -> Named:
        """Nobody is hurt without hitlag, but by throws, Fox's lasers, the magnifying glass and moves of one's own."""
        rise = after["percent"] - before["percent"]
        held = self._in("held", before)
        excused = held | held.flip(1) | ((after["character"].flip(1) == FOX) & (rise < LASER)) | (rise < LEAST_BLOW)
        own = self._in("special", before) & self.hurts_itself[after["character"].long()]
        stopped = (before["hitlag"] > 0) | (after["hitlag"] > 0) | (after["hitlag"].flip(1) > 0)
        blow = (rise / HITLAG[1]).floor() + HITLAG[0]
        return {**after, "hitlag": torch.where(excused | own | stopped, after["hitlag"], blow)}

    def _knockback(self, before: Named, after: Named, alive: Tensor) -> Named:
        held, stopped = self._in("held", before), after["hitlag"] > 0
        excused = (before["hitlag"] > 0) | held | held.flip(1) | stopped | stopped.flip(1) | self._in("bounce", after)
        was, now = (length(state["knockback_x"], state["knockback_y"]) for state in (before, after))
        share = torch.where(alive & ~excused & (now > was), was / now, torch.ones_like(now))
        return {**after, "knockback_x": after["knockback_x"] * share, "knockback_y": after["knockback_y"] * share}

    def _jumps(self, before: Named, after: Named, alive: Tensor) -> Named:
        excused = self._in("held", before) | self._in("special", before) | self._in("held", after)
        excused = excused | (after["action"] == LEDGE_CATCH) | (after["hitlag"] > 0)
        up = alive & (before["airborne"] == 1) & (after["airborne"] == 1) & ~excused
        left = torch.minimum(after["jumps"], self.most_jumps[after["character"].long()])
        return {**after, "jumps": torch.where(up, torch.minimum(left, before["jumps"]), left)}

    def _place(self, before: Named, after: Named, stage: Tensor, alive: Tensor) -> Named:
        """A step too far becomes what the velocity makes of it."""
        vx, vy = velocity(after)
        dx, dy = after["x"] - before["x"], after["y"] - before["y"]
        step, unexplained = length(dx, dy), length(dx - vx, dy - vy) > 1
        surfaces = self.rises[stage]
        number = after["ground"].clamp(0, surfaces.shape[1] - 1).long()
        rising = surfaces.gather(1, number) & (after["ground"] == number)
        was_up, is_up = before["airborne"] == 1, after["airborne"] == 1
        excused = self._in("held", before) | self._in("special", before) | self._in("ledge", before)
        excused = excused | self._in("held", after) | self._in("ledge", after) | (after["percent"] > before["percent"])
        excused = excused | (rising & ~was_up & ~is_up) | ((before["action"] == DAMAGE_FLY_ROLL) & was_up & ~is_up)
        excused = excused | ((before["hitlag"] > 0) & (after["hitlag"] <= 0))
        far = alive & ((step > FARTHEST) | ((step > FAR) & unexplained & ~excused))
        moved_x, moved_y = displacement(before, after)
        place = {"x": before["x"] + moved_x, "y": before["y"] + moved_y}
        return {**after, **{name: torch.where(far, value, after[name]) for name, value in place.items()}}


def jumps(unknown: int) -> Tensor:
    """(characters,) int32: jumps that are left while standing; `unknown` for who is not in the facts."""
    table = torch.full((FIELD["character"].classes or 0,), unknown, dtype=torch.int32)
    for fighter in CHARACTERS:
        table[fighter.internal_id] = fighter.jumps
    return table


def flagged(state: Named) -> Named:
    """Hitlag and its flag go together."""
    others, flag = state["flags_2"] & ~HITLAG_FLAG, (state["hitlag"] > 0).int() * HITLAG_FLAG
    return {**state, "flags_2": others | flag}
