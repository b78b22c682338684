"""Walls of the stage: who flies into one is held back where its outline touches it.

A fighter in the air is a diamond, whose corners follow its pose: wm_runtime.facts.outlines, by move and age, and by the
way that Fox and Falco fly in a Fire Fox. Where its velocities would take it into the side of the ground, it ends where
the diamond touches it, at the height that it flies on to.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from wm_runtime.facts import FAMILIES, Outlines, outlines, walls
from wm_runtime.replays.rules import REBIRTH_WAIT
from wm_runtime.schema import FIELD
from wm_train.dynamics.kinematics import displacement, velocity
from wm_train.dynamics.named import Named

CHARACTERS, ACTIONS = FIELD["character"].classes or 0, FIELD["action"].classes or 0
NOWHERE = -1e4
"""Where an outline that is not known, or does not reach a wall, would be held back: nobody is that far in."""
DEEPEST, BEFORE = 6.0, 2.0
"""Who would end further in than that, units, came from below; but for who was outside on the frame before, to so much,
and is fast."""
LOWEST = -2.0
"""Nobody above this is held back, units."""
DEGREES = 10.0
"""Rows by heading are so far apart."""
ELSEWHERE = ("grabbed", "thrown", "captured", "ledge")
"""Families of actions in which another fighter or the ledge decides where this one is."""


class Walls(nn.Module):
    """Tables: corners of the ground's sides, and where the outlines of a move begin."""

    corners: Tensor
    """(stages, 2, corners, 2): left and right side; a side that has fewer ends with its last corner once more."""
    first: Tensor
    """(characters · actions,): row of a move's first outline; those without one have row 0."""
    start: Tensor
    count: Tensor
    heads: Tensor
    """(characters · actions,): whether a move's outlines go by the way it flies."""
    rows: Tensor
    """(rows, 4): facts.Outlines.row, the widths NOWHERE where nothing is known."""
    elsewhere: Tensor

    def __init__(self, known: Outlines | None = None) -> None:
        super().__init__()
        known = known or outlines()
        sides = walls()
        most = max(len(side) for pair in sides.values() for side in pair)
        corners = torch.full((1 + max(sides), 2, most, 2), NOWHERE)
        for stage, pair in sides.items():
            for i, side in enumerate(pair):
                corners[stage, i] = torch.from_numpy(np.concatenate([side, side[-1:].repeat(most - len(side), axis=0)]))
        rows = np.concatenate([[(np.nan, np.nan, 0.0, 1.0)], known.row]).astype(np.float32)
        rows[np.isnan(rows).any(axis=1)] = (NOWHERE, NOWHERE, 0.0, 1.0)
        move = known.move[:, 0] * ACTIONS + known.move[:, 1]
        ends = np.cumsum(known.span[:, 1])
        tables = {name: torch.zeros(CHARACTERS * ACTIONS, dtype=torch.int32) for name in ("first", "start", "count")}
        start, count = known.span.T
        for name, column in (("first", 1 + ends - count), ("start", start), ("count", count)):
            tables[name][move] = torch.from_numpy(column.astype(np.int32))
        heads = torch.zeros(CHARACTERS * ACTIONS, dtype=torch.bool)
        heads[move] = torch.from_numpy(known.move[:, 2] == 1)
        elsewhere = torch.zeros(ACTIONS, dtype=torch.bool)
        elsewhere[[action for family in ELSEWHERE for action in FAMILIES[family]]] = True
        found = {**tables, "corners": corners, "heads": heads, "rows": torch.from_numpy(rows), "elsewhere": elsewhere}
        for name, table in found.items():
            self.register_buffer(name, table, persistent=False)

    def forward(self, before: Named, after: Named, stage: Tensor) -> Named:
        """Present state, proposal and stage (N,) → the proposal, nobody in a wall that it flew into."""
        met = self.met(before, after, stage)
        side, _, wall = met
        return {**after, "x": torch.where(self.holds(before, after, met), wall * side, after["x"])}

    def holds(self, before: Named, after: Named, met: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """Who is held back (N, 2), by what `met` says."""
        side, free, wall = met
        inside = (wall - free < DEEPEST) | (before["x"] * side > wall - BEFORE)
        return self.may(before, after) & (free < wall) & inside

    def may(self, before: Named, after: Named) -> Tensor:
        """(N, 2): who flies, on both frames, by itself."""
        flies = (before["airborne"] == 1) & (after["airborne"] == 1) & (after["y"] < LOWEST)
        flies &= (before["hitlag"] <= 1) & (after["hitlag"] <= 0)
        for state in (before, after):
            action = state["action"]
            flies &= (action > REBIRTH_WAIT) & ~self.elsewhere[action.long()]
        return flies

    def met(self, before: Named, after: Named, stage: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The side of the stage that fighters are on (−1 is left), how far out their velocities would take them, and
        how far out they are held back at their next height, units, (N, 2) each."""
        side = torch.where(before["x"] < 0, -1.0, 1.0)
        free = (before["x"] + displacement(before, after)[0]) * side
        outline = self.outline(after)
        width = torch.where(after["facing"] * side < 0, outline[..., 0], outline[..., 1])
        both = self.corners[stage]  # (N, 2, corners, 2)
        corners = torch.where((side < 0)[..., None, None], both[:, None, 0], both[:, None, 1])
        return side, free, touching(corners, after["y"], width, outline[..., 2], outline[..., 3])

    def outline(self, state: Named) -> Tensor:
        """(N, 2, 4): columns as in facts.Outlines.row; between the rows of two ages, what is between them."""
        at, next_, share = self.between(state)
        return self.rows[at] * (1 - share[..., None]) + self.rows[next_] * share[..., None]

    def between(self, state: Named) -> tuple[Tensor, Tensor, Tensor]:
        """The two rows of outlines that fighters are between, int64, and how near to the second, (N, 2) each."""
        move = state["character"].long() * ACTIONS + state["action"].long()
        ahead, up = velocity(state)
        heading = (torch.rad2deg(torch.atan2(up, ahead * state["facing"])) + 180.0) / DEGREES
        since = torch.where(self.heads[move], heading, state["state_age"]) - self.start[move]
        count = self.count[move]
        row = torch.floor(since)
        within = (row >= 0) & (row < count)
        first, last = self.first[move], (count - 1).clamp(min=0)
        at = torch.where(within, first + row.int(), torch.zeros_like(first))
        next_ = torch.where(within, first + torch.minimum(row.int() + 1, last), torch.zeros_like(first))
        return at.long(), next_.long(), since - row


def touching(corners: Tensor, y: Tensor, width: Tensor, bottom: Tensor, half: Tensor) -> Tensor:
    """How far out the fighters are whose diamonds touch a side of the ground (…): its corners (…, C, 2), the fighters'
    height, how wide the diamond is, its bottom above that height, and its side above the bottom (…)."""
    out, up = corners.unbind(dim=-1)
    middle = (y + bottom + half)[..., None]
    off = (up - middle).abs() / half[..., None]
    nowhere = torch.full_like(out, NOWHERE)
    by_corner = torch.where(off <= 1, out + width[..., None] * (1 - off), nowhere).amax(dim=-1)
    high, low = up[..., :-1], up[..., 1:]
    share = (middle - low) / (high - low).clamp(min=1e-3)
    wall = out[..., 1:] + share * (out[..., :-1] - out[..., 1:])
    by_side = torch.where((share >= 0) & (share <= 1), wall + width[..., None], nowhere[..., 1:]).amax(dim=-1)
    return torch.maximum(by_corner, by_side).clamp(min=NOWHERE)

