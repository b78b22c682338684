"""What a hit does, by rule: how it launches whom it strikes, which way that faces, how long both are stopped.

The game's own formulas; what they need to know of each move is in wm_runtime.facts.blows. A hit launches with
KB = growth · X + fixed · Z + base (launch.grown, launch.weighed), away from the attacker at the move's angle; its speed
is 0.03 · KB. On train, of hits of fighters that fly nowhere:

- an angle of 361 degrees is 45 in the air, and on the ground 44, or none below a KB of 32;
- on the ground a launch downward bounces with 0.8 of its speed from a KB of 80 on, and is left flat below;
- who crouches takes two thirds of a KB, and two thirds of the hitlag;
- who has flown for nine frames and more since it was launched flies on: along x and y, of two speeds the same way the
  greater counts, two against each other are added; before that the new launch counts (of the hits of every second game
  that tell one from the other, 632 of 650 and 505 of 506);
- the victim turns to the attacker (99.7 %);
- hitlag is 3 + damage / 3, whole frames, for both (15,921 of 15,948 attackers), half as much again for whom an electric
  move strikes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from wm_runtime.facts import blows
from wm_runtime.schema import FIELD
from wm_train.dynamics.launch import SPEED, STUN, grown, weighed, weights
from wm_train.dynamics.limits import LEAST_BLOW
from wm_train.dynamics.named import Named, is_of
from wm_train.dynamics.strikes import moved_on

CHARACTERS = FIELD["character"].classes or 0
ATTACKS, DAMAGES, AGES = 64, 64, 64
"""Ids of attacks, whole percents, and ages of attacks, that are told apart."""
WAYS = 4
"""Most ways to launch of a move and damage that are told apart, the commonest."""
SAKURAI = 361.0
IN_AIR, ON_GROUND, FLAT_BELOW = 45.0, 44.0, 32.0
"""Degrees of that angle in the air, and on the ground from that KB on."""
FLIES, BOUNCE = 80.0, 0.8
CROUCHES = (39, 40)
CROUCH, ELECTRIC = 2 / 3, 1.5
MERGES = 9
"""Frames without hitlag since a launch, from which on the next is merged with what is left of it."""
RARE = 0.3
"""Hits of each age that are taken for granted, in the shares that the damages of an attack have at all ages."""
LEAST_LIKELY = -4.0
"""Log of the smallest share of a damage at an age that counts."""
NEARNESS = 4.0
"""By how much likelier, as a logit, a way to launch is for each unit a frame that it is nearer to what was chosen."""
KNOWN = 0.02
"""Damage so near a whole percent when fresh is that, percent."""
AIRBORNE_FROM = 0.1
"""Knockback upward from which on a fighter leaves the ground, units a frame."""
LEAPS = (*range(25, 36), *range(65, 70), 236)
"""Actions that who leaves the ground begins: jumps, falls, attacks in the air, an air dodge."""
LANDS = (42, 43, *range(70, 75))
"""Actions of who has come down."""


@dataclass
class Launch:
    """All (N, 2). struck: who is hit in a way that is known · air: whether that finds it in the air · x, y: knockback,
    units a frame, and before it was merged (along, up) · stun: frames of hitstun · facing, airborne, hitlag: of who is
    struck · stops: hitlag of who strikes, 0 where that is not stopped."""

    struck: Tensor
    air: Tensor
    x: Tensor
    y: Tensor
    along: Tensor
    up: Tensor
    stun: Tensor
    facing: Tensor
    airborne: Tensor
    hitlag: Tensor
    stops: Tensor


class Blows(nn.Module):
    """The rule."""

    move: Tensor
    """(characters · ATTACKS,): number of each fighter's attack, 0 for none."""
    first: Tensor
    """(attacks, DAMAGES) flat: row of each damage of an attack, 0 for none."""
    way: Tensor
    """(rows, WAYS · 7): facts.Blows.way; the share of those that are not there is 0."""
    likely: Tensor
    """(rows, AGES) flat: log share of a damage among those that its attack has at each age, 0 where none is known."""
    leaps: Tensor
    lands: Tensor
    """(actions,) bool."""
    weight: Tensor
    """(characters,)."""

    def __init__(self) -> None:
        super().__init__()
        known = blows()
        move = torch.zeros(CHARACTERS * ATTACKS, dtype=torch.int32)
        keys = np.unique(np.concatenate([known.key, known.hit]), axis=0)
        attacks = np.unique(keys[:, :2], axis=0).tolist()
        first = torch.zeros(1 + len(attacks), DAMAGES, dtype=torch.int32)
        rows = np.zeros((1 + len(keys), WAYS, known.way.shape[1]), np.float32)
        age = np.zeros((1 + len(keys), AGES), np.float32)
        for number, (who, attack) in enumerate(attacks, start=1):
            move[who * ATTACKS + attack] = number
            mine = 1 + np.flatnonzero((keys[:, :2] == (who, attack)).all(axis=1))
            for row in mine.tolist():
                first[number, int(keys[row - 1, 2])] = row
                ways = known.way[(known.key == keys[row - 1]).all(axis=1)][:WAYS]
                rows[row, : len(ways)] = ways
                age[row] = known.age[(known.hit == keys[row - 1]).all(axis=1)].sum(axis=0)
            often = age[mine].sum(axis=1, keepdims=True) / max(age[mine].sum(), 1)
            at = (age[mine] + RARE * often) / (age[mine].sum(axis=0) + RARE)
            age[mine] = np.where(often > 0, np.log(np.maximum(at, np.exp(LEAST_LIKELY))), 0.0)
        tables = {
            "move": move, "first": first.flatten(), "way": torch.from_numpy(rows.reshape(len(rows), -1)),
            "likely": torch.from_numpy(age.flatten()), "weight": torch.from_numpy(weights()),
        }  # fmt: skip
        for name, actions in (("leaps", LEAPS), ("lands", LANDS)):
            tables[name] = torch.zeros(FIELD["action"].classes or 0, dtype=torch.bool)
            tables[name][list(actions)] = True
        for name, table in tables.items():
            self.register_buffer(name, table, persistent=False)

    def by_age(self, who: Tensor, attack: Tensor, age: Tensor, damage: Tensor) -> Tensor:
        """Character of who attacks, its attack's id and age (N, 2), and damages when fresh, percent (N, 2, D) → log
        share of each among those that the attack has at that age, (N, 2, D); 0 where nothing is known."""
        row = self._row(who[..., None], attack[..., None], damage)
        return self.likely[row * AGES + age.round().clamp(0, AGES - 1).long()[..., None]]

    def _row(self, who: Tensor, attack: Tensor, damage: Tensor) -> Tensor:
        """Character of who attacks, its attack's id and that one's damage when fresh (…) → row of the tables, (…)."""
        move = self.move[who.long() * ATTACKS + attack.clamp(0, ATTACKS - 1).long()].long()
        return self.first[move * DAMAGES + damage.round().clamp(0, DAMAGES - 1).long()].long()

    def ways(self, before: Named, attack: Tensor, rise: Tensor, fresh: Tensor) -> tuple[Tensor, Tensor]:
        """State; id of the attack that strikes each fighter, its rise of percent and how fresh that attack is (N, 2) →
        KB of each way that the attack launches so, (N, 2, WAYS), and those: angle, share, whether electric, whether
        its fighter is stopped as well, (N, 2, WAYS, 4). Shares are 0 where there is none."""
        damage = (rise / fresh).round()
        whole = ((damage * fresh - rise).abs() < KNOWN) & (damage < DAMAGES) & (rise > LEAST_BLOW)
        row = self._row(before["character"].flip(1), attack, damage)
        way = self.way[torch.where(whole, row, torch.zeros_like(row))].unflatten(-1, (WAYS, -1))
        z = weighed(self.weight[before["character"].long()])
        x = grown(before["percent"].floor() + rise, damage, z)
        kb = way[..., 0] * x[..., None] + way[..., 1] * z[..., None] + way[..., 2]
        return kb.clamp(min=0.0), way[..., 3:]

    def forward(
        self, before: Named, after: Named, meant: Tensor, attack: Tensor, rise: Tensor, fresh: Tensor,
        left: Sequence[Tensor], since: Tensor,
    ) -> Launch:  # fmt: skip
        """State; the next one's knockback as it was chosen; what fighters mean to do; id of the attack that strikes
        each, its rise of percent and how fresh that attack is; what is left of the knockback that it has, x and y; and
        frames without hitlag since it was launched (N, 2). Of several ways to launch, the likeliest and nearest to what
        was chosen counts."""
        kb, way = self.ways(before, attack, rise, fresh)
        angle, share, electric, stops = way.unbind(dim=-1)
        air = self.in_air(before, meant)
        away, up = flung(kb, angle, air[..., None].expand_as(kb))
        far = (away.abs() - after["knockback_x"][..., None].abs()).abs() + (up - after["knockback_y"][..., None]).abs()
        odds = (share.clamp(min=1e-6).log() - NEARNESS * far).masked_fill(share <= 0, -1e9)
        chosen = odds.argmax(dim=-1, keepdim=True)
        kb, angle, share, electric, stops = (of.gather(-1, chosen)[..., 0] for of in (kb, *way.unbind(dim=-1)))
        crouches = is_of(meant, CROUCHES)
        kb = torch.where(crouches, kb * CROUCH, kb)
        away, up = flung(kb, angle, air)
        here, _ = moved_on(before)
        side = torch.where(here >= here.flip(1), torch.ones_like(here), -torch.ones_like(here))
        along = away * side
        x, y = (torch.where(since >= MERGES, both(new, old), new) for new, old in zip((along, up), left, strict=True))
        one = torch.ones_like(kb)
        lags = (lag(rise) * torch.where(electric > 0.5, ELECTRIC * one, one) + 1e-3).floor()
        lags = (lags * torch.where(crouches, CROUCH * one, one) + 1e-3).floor()
        airborne = air | (up > AIRBORNE_FROM) | (kb >= FLIES)
        return Launch(
            share > 0, air.int(), x, y, along, up, (kb * STUN + 1e-3).floor(), -side.int(), airborne.int(), lags,
            (lag(rise) * (stops > 0.5)).flip(1),
        )  # fmt: skip

    def in_air(self, before: Named, meant: Tensor) -> Tensor:
        """State, and what fighters mean to do (N, 2) → whether a hit of the next frame finds them in the air."""
        begins = meant != before["action"]
        leaps, lands = (table[meant.long()] & begins for table in (self.leaps, self.lands))
        up = before["airborne"] == 1
        return (up & ~lands) | (~up & leaps)


def flung(kb: Tensor, angle: Tensor, air: Tensor) -> tuple[Tensor, Tensor]:
    """KB, angle in degrees and whether the fighter is in the air (…) → knockback away and up, units a frame."""
    ground = torch.where(kb < FLAT_BELOW, torch.zeros_like(angle), torch.full_like(angle, ON_GROUND))
    told = torch.where(air, torch.full_like(angle, IN_AIR), ground)
    turned = torch.deg2rad(torch.where(angle < SAKURAI, angle, told))
    away, up = kb * SPEED * turned.cos(), kb * SPEED * turned.sin()
    flat = torch.where(kb >= FLIES, -BOUNCE * up, torch.zeros_like(up))
    return away, torch.where(~air & (up < 0), flat, up)


def both(new: Tensor, old: Tensor) -> Tensor:
    """A launch and what is left of the last one, along one axis, merged."""
    return torch.where(new * old < 0, new + old, torch.where(new.abs() > old.abs(), new, old))


def lag(rise: Tensor) -> Tensor:
    """Frames of hitlag that a rise of percent brings."""
    return ((rise + 1e-3).floor() / 3 + 3 + 1e-3).floor()
