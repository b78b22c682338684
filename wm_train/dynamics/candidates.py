"""Candidates: the few values that each number of the next state can take, exactly. What is learned is which applies.

Every list begins with REGRESSED, a value that the network makes itself. Quantities along x are in the frame of the
fighter's facing before the step.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wm_runtime.facts import physics
from wm_runtime.schema import C_, FIELD, VELOCITIES
from wm_train.dynamics.geometry import REST, Geometry, Surfaces
from wm_train.dynamics.kinematics import displacement, length
from wm_train.dynamics.launch import LAUNCHES, hitstun, turned
from wm_train.dynamics.named import Named, bounded
from wm_train.dynamics.tables import (
    AGE_RATES,
    AGE_STARTS,
    CHANGES,
    DAMAGES,
    MOVE_COLUMNS,
    RUN_SHARE,
    VALUES,
    MoveTables,
)

CHARACTERS, ACTIONS = FIELD["character"].classes or 0, FIELD["action"].classes or 0
REGRESSED = 0
DECAY = 0.051
"""Loss of knockback's length a frame in the air."""
MIRRORED = ("self_x_air", "self_x_ground", "knockback_x")
AIR_DODGE, AIR_DODGE_DECAY = 3.1, 0.9
"""Speed of an air dodge, units a frame, and what of it is left a frame later."""
TURN_SHARE = 0.25
"""What turning out of a dash leaves of the speed, before friction."""
PUSH, WIND = 0.3, 0.2
"""Units a frame by which fighters who stand in each other push, and by which wind pushes."""
NUDGE, SHIFT = 6.0, 3.0
"""Reach of smash and automatic directional influence, units at full stick."""
SHIELD_FULL, SHIELD_CHANGES = 60.0, (-0.28, -0.14, 0.07, -0.2828, -0.4)
HITLAGS = 21
"""Values that hitlag may take anew."""
SURFACES = Geometry().table.shape[1]
_COLUMN = {name: i for i, name in enumerate(MOVE_COLUMNS)}

FORMULAS = {
    "self_x_air": 13, "self_y": 7, "knockback_x": 7 + 2 * LAUNCHES, "knockback_y": 4 + LAUNCHES, "self_x_ground": 20,
}  # fmt: skip
"""Velocity → number of its candidates beyond regressed, unchanged, zero, and those of tables."""
SIZES: dict[str, int] = {
    **{name: 5 + FORMULAS[name] + CHANGES + VALUES for name in VELOCITIES},
    "x": 26,
    "y": 13 + SURFACES,
    "state_age": 8 + AGE_RATES + AGE_STARTS,
    "hitlag": 4 + HITLAGS,
    "percent": 2 + DAMAGES,
    "shield": 5 + len(SHIELD_CHANGES),
    "misc_as": 6,
}
"""Field → number of its candidates."""
TOLERANCE = {
    **dict.fromkeys(VELOCITIES, 3e-4), "x": 2e-3, "y": 2e-3, "state_age": 2e-3, "hitlag": 0.25, "percent": 2e-3,
    "shield": 5e-3, "misc_as": 2e-3,
}  # fmt: skip
"""A candidate that is so near to the truth is right, in the field's unit."""
SCALE = {**dict.fromkeys(VELOCITIES, 0.5), "x": 2.0, "y": 2.0, "state_age": 5.0, "hitlag": 5.0, "percent": 8.0,
         "shield": 5.0, "misc_as": 10.0}  # fmt: skip
"""Unit of each regressed value."""


class Candidates(nn.Module):
    """Values of every candidate, from the present state and what is already known of the next one."""

    friction: Tensor
    gravity: Tensor
    terminal: Tensor
    fast_fall: Tensor
    air_speed: Tensor
    air_friction: Tensor
    walk: Tensor

    def __init__(self, tables: MoveTables) -> None:
        super().__init__()
        self.tables = tables
        self.geometry = Geometry()
        defaults = {"friction": 0.08, "gravity": 0.1, "terminal": 2.0, "fast_fall": 2.5, "air_speed": 0.9,
                    "air_friction": 0.02, "walk": 1.2}  # fmt: skip
        for name, default in defaults.items():
            table = torch.full((CHARACTERS,), default)
            known = torch.from_numpy(physics(name))
            table[: len(known)] = torch.where(known.isnan(), table[: len(known)], known)
            self.register_buffer(name, table, persistent=False)

    def age(self, before: Named, action: Tensor, last_age: Tensor, ground: Tensor, regressed: Tensor) -> Tensor:
        """State, next action, age of the frame before, next velocity on the ground and a regressed change (N, 2) →
        (N, 2, SIZES["state_age"])."""
        move = (before["character"] * ACTIONS + action).long()
        age = before["state_age"]
        rate, start, loop = self.tables.age_rate[move], self.tables.age_start[move], self.tables.loop[move]
        others = [age + regressed, age, age + (age - last_age), torch.zeros_like(age), _known(loop[..., 1], age)]
        pace = _known(self.tables.pace[move], torch.zeros_like(age))
        others += [age + 1.0, age + pace * ground.abs(), age + pace * before["self_x_ground"].abs()]
        rates = torch.where(rate.isnan(), age[..., None], age[..., None] + rate)
        return torch.cat([torch.stack(others, dim=-1), rates, _known(start, age[..., None])], dim=-1)

    def velocities(
        self, before: Named, row: Tensor, move: Tensor, attack: Tensor, rise: Tensor, controllers: Tensor,
        last_controllers: Tensor, regressed: dict[str, Tensor],
    ) -> dict[str, Tensor]:  # fmt: skip
        """State, row of the next move and age, that move, the other fighter's, rise of percent (N, 2), controllers of
        the next and of the present frame (N, 2, 13) and regressed changes → velocity → (N, 2, candidates), mirrored."""
        facing, character = before["facing"].float(), before["character"].long()
        table = self.tables.moves[row]  # (N, 2, columns)
        own = {name: before[name] * facing if name in MIRRORED else before[name] for name in VELOCITIES}
        formulas = self._formulas(own, character, move, controllers, facing)
        knocked = self._knockback(before, attack, rise, last_controllers, facing)
        formulas = {name: [*columns, *knocked.get(name, [])] for name, columns in formulas.items()}
        out = {}
        for name in FORMULAS:
            i = VELOCITIES.index(name)
            v = own[name]
            wide = v[..., None]
            columns = [v + regressed[name], v, torch.zeros_like(v), _known(table[..., _COLUMN[f"{name}.value"]], v)]
            columns += [v + _known(table[..., _COLUMN[f"{name}.change"]], torch.zeros_like(v)), *formulas[name]]
            changes, values = self.tables.changes[character, i], self.tables.values[character, i]
            changes = _known(wide + changes, wide)
            out[name] = torch.cat([torch.stack(columns, dim=-1), changes, _known(values, wide)], dim=-1)
        return out

    def _knockback(
        self, before: Named, attack: Tensor, rise: Tensor, last_controllers: Tensor, facing: Tensor
    ) -> dict[str, list[Tensor]]:
        """Launches by the other fighter's move, either way, and the turn by the stick when hitlag ends."""
        x, y = turned(before["knockback_x"], before["knockback_y"], last_controllers)
        far = length(x, y)
        left = ((far - DECAY) / far).clamp(min=0.0)
        along, up = self.tables.launches(before, rise, attack)
        out = {"knockback_x": [x * facing, x * left * facing, *along.unbind(-1), *(-along).unbind(-1)]}
        return {**out, "knockback_y": [y * left, *up.unbind(-1)]}

    def _formulas(
        self, own: Named, character: Tensor, move: Tensor, controllers: Tensor, facing: Tensor
    ) -> dict[str, list[Tensor]]:
        stick = controllers[..., C_["main_x"]] * facing
        x, ground, y = own["self_x_air"], own["self_x_ground"], own["self_y"]
        drift = _known(self.tables.drift[character], torch.zeros_like(x)[..., None])
        push = stick * drift[..., 0] + stick.sign() * drift[..., 1]
        top, rub = stick * self.air_speed[character], self.air_friction[character]
        slowed = x - x.sign() * torch.minimum(x.abs(), rub)
        towards = torch.where((top - x) * stick > 0, x + push, slowed)
        reached = torch.where((top - x).abs() <= push.abs(), top, towards)
        eased = torch.where((x.abs() - rub) < top.abs(), top, slowed)
        tilt = controllers[..., C_["main_y"]]
        tilted = length(stick, tilt)
        kx, ky = own["knockback_x"], own["knockback_y"]
        far = length(kx, ky)
        left = ((far - DECAY) / far).clamp(min=0.0)
        friction = self.friction[character]
        fall = torch.maximum(y - self.gravity[character], -self.terminal[character])
        none = torch.zeros_like(x)
        slow = _known(self.tables.slow[move], none[..., None])
        jump, leap = (_known(t[character], none[..., None]) for t in (self.tables.jump, self.tables.air_jump))
        hop = stick * jump[..., 0] + ground * jump[..., 1]
        hop = torch.minimum(torch.maximum(hop, -jump[..., 2]), jump[..., 2])
        dodge_x, dodge_y = AIR_DODGE * stick / tilted, AIR_DODGE * tilt / tilted
        own_length = length(x, y)
        shorter = ((own_length - slow[..., 2]) / own_length).clamp(min=0.0)
        in_air = [x + push, top, slowed, reached, eased]
        return {
            "self_x_air": [*in_air, ground, x * AIR_DODGE_DECAY, dodge_x, dodge_x * AIR_DODGE_DECAY, hop,
                           stick * leap[..., 0] + stick.sign() * leap[..., 1], _slower(x, slow[..., 0]), x * shorter],
            "self_y": [fall, y - self.gravity[character], -self.terminal[character], -self.fast_fall[character],
                       y * AIR_DODGE_DECAY, dodge_y, y * shorter],
            "knockback_x": [kx * left, *_rubbed(kx, friction), -kx],
            "knockback_y": [ky * left, -ky, ky * -0.8],
            "self_x_ground": [*self._on_ground(ground, x, stick, character), *in_air[::2], in_air[3],
                              x * AIR_DODGE_DECAY, dodge_x * AIR_DODGE_DECAY, _slower(ground, slow[..., 1])],
        }  # fmt: skip

    def _on_ground(self, v: Tensor, air: Tensor, stick: Tensor, character: Tensor) -> list[Tensor]:
        """Friction, walking, dashing and running from velocity v, all (N, 2)."""
        table = _known(self.tables.ground[character], torch.zeros_like(v)[..., None])
        friction = self.friction[character]
        walk, dash = (stick * table[..., i] + stick.sign() * table[..., i + 1] for i in (0, 2))
        fastest = stick * table[..., 4]
        steady = torch.where(stick.abs() > 0.1, stick, torch.ones_like(stick))
        at_walk = 1 - v / (steady * self.walk[character])
        at_run = 1 - v / (steady * table[..., 4].clamp(min=0.1))
        capped = torch.where((fastest - v).abs() <= dash.abs(), fastest, v + dash)
        return [
            *_rubbed(v, friction), _slower(v * TURN_SHARE, friction), stick * self.walk[character], air, -v,
            v + walk * at_walk, v + dash, fastest, v + RUN_SHARE * dash * at_run, capped, v + 0.5 * walk * at_walk,
        ]  # fmt: skip

    def x(
        self, before: Named, after: Named, row: Tensor, places: dict[str, Tensor], cosine: Tensor, controllers: Tensor,
        regressed: Tensor,
    ) -> Tensor:  # fmt: skip
        """State; next velocities, airborne state, action and age; row of the move; geometry.places and slope_at;
        controllers → (N, 2, SIZES["x"]) positions, not mirrored."""
        x, facing = before["x"], before["facing"].float()
        step = displacement(before, after)[0]
        moved = x + step
        side = torch.where(x >= 0, 1.0, -1.0)
        away = torch.where(x >= x.flip(1), 1.0, -1.0)
        table, held = self.tables.moves[row], self.tables.held[row.flip(1)]
        change = _known(table[..., _COLUMN["x.change"]], torch.zeros_like(x)) * facing
        from_edge = side * (places["edge_hang"] + _known(table[..., _COLUMN["edge_x.value"]], torch.zeros_like(x)))
        of_holder = _known(held[..., 0], torch.zeros_like(x)) * after["facing"].flip(1)
        glide = before["self_x_ground"] + after["knockback_x"]
        main, c = controllers[..., C_["main_x"]], controllers[..., C_["c_x"]]
        columns = [
            moved + regressed * facing, moved, x, places["edge_stand"] * side, from_edge, x + change, x + NUDGE * main,
            x + SHIFT * main, x + SHIFT * c, moved + SHIFT * main, moved + SHIFT * c, moved + change,
            x.flip(1) + of_holder, moved.flip(1) + of_holder, x + after["self_x_ground"], x + glide,
            x + step * cosine, x + glide * cosine,
            moved + PUSH * away, x + PUSH * away, x + glide + PUSH * away, moved + WIND, moved - WIND,
            x + WIND, x - WIND, -places["edge_stand"] * side,
        ]  # fmt: skip
        return torch.stack(columns, dim=-1)

    def y(
        self, before: Named, after: Named, row: Tensor, places: dict[str, Tensor], surfaces: Surfaces,
        controllers: Tensor, regressed: Tensor,
    ) -> Tensor:  # fmt: skip
        """The same along y, `after` with the next x, surfaces of the next frame → (N, 2, SIZES["y"])."""
        y = before["y"]
        moved = y + displacement(before, after)[1]
        table, held = self.tables.moves[row], self.tables.held[row.flip(1)]
        change = _known(table[..., _COLUMN["y.change"]], torch.zeros_like(y))
        of_holder = _known(held[..., 1], torch.zeros_like(y))
        from_edge = places["edge_y"] + _known(table[..., _COLUMN["edge_y.value"]], torch.zeros_like(y))
        main, c = controllers[..., C_["main_y"]], controllers[..., C_["c_y"]]
        columns = [
            moved + regressed, moved, y, y + change, y + NUDGE * main, y + SHIFT * main, y + SHIFT * c,
            moved + SHIFT * main, moved + SHIFT * c, moved + change, y.flip(1) + of_holder, moved.flip(1) + of_holder,
            from_edge,
        ]  # fmt: skip
        heights = surfaces.height(after["x"]) + REST
        near = torch.where(heights.abs() < 1e6, heights, y[..., None])
        return torch.cat([torch.stack(columns, dim=-1), near], dim=-1)

    def hitlag(self, before: Named, rise: Tensor) -> Tensor:
        """As it is, counted down, what a rise of percent (N, 2) of this fighter or the other brings, or anything."""
        brought = (rise / 3 + 3 + 1e-4).floor()
        counted = (before["hitlag"] - 1).clamp(min=0.0)
        fresh = torch.arange(1, HITLAGS + 1, device=counted.device, dtype=counted.dtype).expand(*counted.shape, HITLAGS)
        columns = [before["hitlag"], counted, brought, brought.flip(1)]
        return torch.cat([torch.stack(columns, dim=-1), fresh], dim=-1)

    def percent(self, before: Named, attack: Tensor, regressed: Tensor) -> Tensor:
        """Rises by what the other fighter's move `attack` (N, 2) commonly does."""
        percent = before["percent"][..., None]
        damage = _known(self.tables.damage[attack], torch.zeros_like(percent))
        return torch.cat([percent + regressed.clamp(min=0.0)[..., None], percent, percent + damage], dim=-1)

    def shield(self, before: Named, regressed: Tensor) -> Tensor:
        shield = before["shield"]
        changes = [(shield + change).clamp(0.0, SHIELD_FULL) for change in SHIELD_CHANGES]
        columns = [(shield + regressed).clamp(0.0, SHIELD_FULL), shield, torch.full_like(shield, SHIELD_FULL)]
        columns += [torch.zeros_like(shield), torch.full_like(shield, SHIELD_FULL / 2), *changes]
        return torch.stack(columns, dim=-1)

    def misc_as(self, before: Named, after: Named, row: Tensor, regressed: Tensor) -> Tensor:
        misc = bounded(before["misc_as"])
        table = _known(self.tables.moves[row][..., _COLUMN["misc_as.value"]], misc)
        stun = hitstun(after["knockback_x"], after["knockback_y"])
        return torch.stack([misc + regressed, misc, misc - 1, torch.zeros_like(misc), table, stun], dim=-1)


def _rubbed(v: Tensor, friction: Tensor) -> list[Tensor]:
    """Velocity after half, once and twice the friction, which never turns it."""
    return [_slower(v, friction * k) for k in (0.5, 1.0, 2.0)]


def _slower(v: Tensor, by: Tensor) -> Tensor:
    """v with so much less speed, which never turns."""
    return v - v.sign() * torch.minimum(v.abs(), by)


def _known(table: Tensor, otherwise: Tensor) -> Tensor:
    """The table's value, `otherwise` where it has none."""
    return torch.where(table.isnan(), otherwise, table)
