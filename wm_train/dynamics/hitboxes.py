"""How near each fighter's hitboxes are to the other one: what decides hits. Tables: wm_runtime.facts.hitboxes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from wm_runtime.facts import character, hitboxes, physics
from wm_runtime.schema import FIELD
from wm_train.dynamics.constants import constant
from wm_train.dynamics.named import Named

CHARACTERS, ACTIONS = FIELD["character"].classes or 0, FIELD["action"].classes or 0
FRAMES = (0, 1, 2)
"""Frames after the present one whose hitboxes are looked at."""
BODY = (0.25, 0.55, 0.9)
"""Points of a fighter that may be hit, as shares of its height above its feet."""
FAR = 40.0
"""Distance of a hitbox that is not there, units."""
LATER = {
    "FOX": (45, 48), "CAPTAIN_FALCON": (45, 46, 48), "SHEIK": (45, 48), "MARTH": (45, 351), "FALCO": (45, 48),
    "ROY": (350, 351, 353, 356),
}  # fmt: skip
"""Moves that strike a frame later than listed, all of them the second or later of a chain: so says who is struck in
`train` (a loss of the odds of 956 for those of Captain Falcon's second jab as listed, of 109 a frame later)."""
DASHED = 352
DASHES = {"FOX": ((-40.0, -33.0), (-10.0, 0.0)), "FALCO": ((-34.0, -24.0), (-9.0, 0.0))}
"""The end of Fox's and Falco's dashes through the air, on its first two frames: what trails behind strikes there, units
ahead of where the fighter would be as it moved before (5th to 95th percentile of who is struck, less a body)."""
TRAIL = (7.0, 6.0)
"""How far above the fighter that is, and its radius, units."""
HEIGHT = 12.0
"""Height of a fighter of whom nothing else is known, units."""


class HitboxDistance(nn.Module):
    """Tables: first row and count of each (character, action), and the rows (age by age, without gaps)."""

    first: Tensor
    count: Tensor
    age: Tensor
    """(characters · actions,): state_age of the first row."""
    box: Tensor
    """(rows, 4, 3): x ahead, y above, radius; radius 0 for none."""
    height: Tensor

    def __init__(self) -> None:
        super().__init__()
        known = hitboxes()
        key = known.key[:, 0].astype(np.int64) * ACTIONS + known.key[:, 1]
        first, count, age = (np.zeros(CHARACTERS * ACTIONS, np.int64) for _ in range(3))
        rows = [np.zeros((1, 4, 3), np.float32)]
        at = 1
        for move in np.unique(key):
            chosen = np.flatnonzero(key == move)
            ages = known.key[chosen, 2]
            filled = np.zeros((ages.max() - ages.min() + 1, 4, 3), np.float32)
            filled[ages - ages.min()] = known.box[chosen]
            first[move], count[move], age[move] = at, len(filled), ages.min()
            rows.append(filled)
            at += len(filled)
        for name, actions in LATER.items():
            age[character(name).internal_id * ACTIONS + np.array(actions)] += 1
        box = np.concatenate(rows)
        for name, ahead in DASHES.items():
            at = first[character(name).internal_id * ACTIONS + DASHED]
            box[at : at + len(ahead), :2, 0], box[at : at + len(ahead), :2, 1:] = ahead, TRAIL
        height = np.full(CHARACTERS, HEIGHT, np.float32)
        size = physics("size")
        height[: len(size)] = np.where(np.isnan(size), HEIGHT, size)
        tables = {"first": first, "count": count, "age": age, "box": box, "height": height}
        for name, table in tables.items():
            self.register_buffer(name, torch.from_numpy(table), persistent=False)

    def forward(self, state: Named, moved_x: Tensor, moved_y: Tensor) -> Tensor:
        """State and where each fighter is about to be (N, 2) → (N, 2, FRAMES): distance in units of each fighter's
        nearest hitbox from the other one's body, minus its radius, if its action goes on; FAR where there is none."""
        move = (state["character"] * ACTIONS + state["action"]).long()
        first, count, start = self.first[move], self.count[move], self.age[move]
        shares = constant(BODY, moved_y.device)
        body = moved_y.flip(1)[..., None] + self.height[state["character"].flip(1).long()][..., None] * shares
        away = (moved_x.flip(1) - moved_x) * state["facing"].float()  # (N, 2)
        up = body - moved_y[..., None]  # (N, 2, 3)
        distances = []
        for ahead in FRAMES:
            row = (state["state_age"] + ahead + 1e-3).floor().long() - start
            known = (row >= 0) & (row < count)
            box = self.box[torch.where(known, first + row, torch.zeros_like(row))]  # (N, 2, 4, 3)
            x, y, radius = box[..., 0], box[..., 1], box[..., 2]
            aside = (x - away[..., None])[..., None]
            gap = (aside.square() + (y[..., None] - up[..., None, :]).square() + 1e-9).sqrt() - radius[..., None]
            gap = torch.where((radius > 0)[..., None], gap, torch.full_like(gap, FAR))
            distances.append(gap.flatten(2).amin(dim=-1).clamp(max=FAR))
        return torch.stack(distances, dim=-1)
