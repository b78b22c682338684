"""Where a fighter is that is thrown, and where it is let go: beside its thrower, as the throw's age says.

A throw runs at a pace that is its victim's. At each of its ages the victim is in one place, ahead of and above the
thrower (wm_runtime.facts.throws): 2,209 such places are seen five times and more on train, nine of ten of them within
0.00001 units. Where it is let go its knockback is added to that.

How that launches it is exact as well: KB as in dynamics.launch, but of a fighter that weighs 100 and by the throw's
damage when it is fresh; without hitlag the stick of the frame before turns it at once, and a frame's decay is lost.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from wm_runtime.facts import FAMILIES, throws
from wm_runtime.schema import FIELD
from wm_train.dynamics.hurt import Hurt
from wm_train.dynamics.kinematics import blown
from wm_train.dynamics.launch import SPEED, STUN, grown, turned
from wm_train.dynamics.named import Named

CHARACTERS = FIELD["character"].classes or 0
FIRST, LAST = min(FAMILIES["throw"]), max(FAMILIES["throw"])
THROWN = min(FAMILIES["thrown"]), max(FAMILIES["thrown"])
THROWS = LAST - FIRST + 1
SAME = 0.03
"""An age is one of a throw's where it differs by less."""


class Throws(nn.Module):
    """Tables: number of each (thrower, throw, victim), 0 for none; the pace, first row, rows and the frame on which it
    lets go of each; places ahead of and above the thrower, by row and where it lets go, NaN where unknown."""

    pair: Tensor
    pace: Tensor
    first: Tensor
    count: Tensor
    lets_go: Tensor
    place: Tensor
    free: Tensor
    kinds: Tensor
    launches: Tensor
    """(characters · THROWS, 4): facts.Throws.launch, NaN where unknown."""

    def __init__(self) -> None:
        super().__init__()
        known = throws()
        pair = np.zeros((CHARACTERS, THROWS, CHARACTERS), np.int64)
        pace, first, count, lets_go = [1.0], [0], [1], [-1]
        place, free = [np.full((1, 2), np.nan)], [np.full(2, np.nan)]
        for thrower, action, victim in np.unique(known.key[:, :3], axis=0):
            mine = (known.key[:, :3] == (thrower, action, victim)).all(axis=1)
            ages, held = known.key[mine, 4] / 100, known.key[mine, 3] == 0
            if held.sum() < 2:
                continue
            rate = _pace(np.sort(ages[held]))
            at = np.round(ages / rate).astype(int)
            rows = np.full((at[held].max() + 1, 2), np.nan)
            rows[at[held]] = known.place[mine][held]
            pair[thrower, action - FIRST, victim] = len(pace)
            first.append(sum(len(part) for part in place))
            pace.append(rate)
            count.append(len(rows))
            place.append(rows)
            lets_go.append(int(at[~held][0]) if (~held).sum() == 1 else -1)
            free.append(known.place[mine][~held][0] if (~held).sum() == 1 else np.full(2, np.nan))
        launches = np.full((CHARACTERS, THROWS, 4), np.nan, np.float32)
        launches[known.thrown[:, 0], known.thrown[:, 1] - FIRST] = known.launch
        tables = {
            "launches": torch.from_numpy(launches.reshape(-1, 4)), "pair": torch.from_numpy(pair.flatten()),
            "pace": torch.tensor(pace), "first": torch.tensor(first),
            "count": torch.tensor(count), "lets_go": torch.tensor(lets_go),
            "place": torch.from_numpy(np.concatenate(place)).float(), "free": torch.from_numpy(np.stack(free)).float(),
            "kinds": Hurt().kinds,
        }  # fmt: skip
        for name, table in tables.items():
            self.register_buffer(name, table, persistent=False)

    def forward(self, before: Named, after: Named) -> tuple[Tensor, Tensor]:
        """State, and the next one, its places chosen → x and y of the next one, (N, 2) each: of who is thrown or let go
        beside its thrower, of others as they were chosen."""
        action, throw = after["action"], after["action"].flip(1).long()
        throws_ = (throw >= FIRST) & (throw <= LAST)
        index = (after["character"].flip(1).long() * THROWS + (throw - FIRST).clamp(0, THROWS - 1)) * CHARACTERS
        pair = self.pair[index + after["character"].long()]
        age = after["state_age"].flip(1)
        at = (age / self.pace[pair]).round()
        throws_ = throws_ & ((age - at * self.pace[pair]).abs() < SAME)
        at = at.long()
        held = throws_ & _thrown(action) & (at >= 0) & (at < self.count[pair])
        free = throws_ & _thrown(before["action"]) & self.kinds[action.long()] & (at == self.lets_go[pair])
        row = self.place[self.first[pair] + at.clamp(min=0).minimum(self.count[pair] - 1)]
        released = self.free[pair]
        facing = after["facing"].flip(1).float()
        x, y = after["x"].flip(1), after["y"].flip(1)
        found = []
        for beside, let_go, own in (
            (x + facing * row[..., 0], x + facing * released[..., 0] + after["knockback_x"], after["x"]),
            (y + row[..., 1], y + released[..., 1] + after["knockback_y"], after["y"]),
        ):
            place = torch.where(held, beside, torch.where(free, let_go, own))
            found.append(torch.where(place.isnan(), own, place))
        return found[0], found[1]

    def launch(
        self, before: Named, after: Named, rise: Tensor, controllers: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """State; the next action, hitlag and facing; rise of percent (N, 2); controllers of the present frame
        (N, 2, 13) → knockback along x and y, units a frame, frames of hitstun, and who is let go of a throw whose
        launch is known, (N, 2) each: 5,019 of 5,023 of train are so to 0.005 units a frame."""
        throw = before["action"].flip(1).long()
        throws_ = (throw >= FIRST) & (throw <= LAST)
        index = before["character"].flip(1).long() * THROWS + (throw - FIRST).clamp(0, THROWS - 1)
        damage, rate, base, angle = self.launches[index].unbind(dim=-1)
        kb = rate * grown(before["percent"].floor() + rise, damage) + base
        free = throws_ & _thrown(before["action"]) & self.kinds[after["action"].long()] & (after["hitlag"] <= 0)
        free = free & (rise > 0) & ~kb.isnan()
        kb, angle = (torch.where(free, of, torch.ones_like(of)) for of in (kb, torch.deg2rad(angle)))
        facing = after["facing"].flip(1).float()
        x, y = turned(kb * SPEED * angle.cos() * facing, kb * SPEED * angle.sin(), controllers)
        left = blown(x, y)
        return x * left, y * left, (kb * STUN + 1e-3).floor(), free

    def clock(self, before: Named, action: Tensor, chosen: Tensor) -> Tensor:
        """State, the next action and the age that was chosen for it (N, 2) → its age: a throw's goes on by the pair's
        pace, from none (each of 18,567 frames of val whose pair is known)."""
        throw, who = action.long(), before["character"].long()
        index = (who * THROWS + (throw - FIRST).clamp(0, THROWS - 1)) * CHARACTERS + who.flip(1)
        pair = self.pair[index]
        begun = torch.where(before["action"] == action, before["state_age"], torch.zeros_like(chosen))
        known = (throw >= FIRST) & (throw <= LAST) & (pair > 0) & (before["hitlag"] <= 0)
        return torch.where(known, begun + self.pace[pair], chosen)


def _thrown(action: Tensor) -> Tensor:
    return (action >= THROWN[0]) & (action <= THROWN[1])


def _pace(ages: np.ndarray) -> float:
    """Ages (A,) that are whole multiples of a pace, from the smallest up → that pace."""
    pace = float(np.median(np.diff(ages)))
    for _ in range(3):
        times = np.round(ages / pace)
        pace = float((ages * times).sum() / (times * times).sum())
    return pace
