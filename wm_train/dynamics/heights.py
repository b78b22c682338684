"""Where on its body a fighter is struck: low, in the middle or high, which says in which of three actions it is hurt.

The game's hurtboxes have one of three heights each. Where the hitbox that strikes is, and how near it comes to each
circle of the body (`strikes`), tell the height, in a way that differs from pose to pose: weights of all fighters, and
what an action, a fighter and a move of one differ by, held back, and what is likelier at an age of an action and for a
hitbox of a move. Of 3,139 such hits of `val` with true places and actions 82 % are right, and the commonest is 59 %;
the network, which foresees places and actions, was right in 77 % (in 91 % of those of `train`).
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wm_runtime.facts import ACTION_NAMES
from wm_runtime.schema import FIELD

CHARACTERS, ACTIONS = FIELD["character"].classes or 0, FIELD["action"].classes or 0
HEIGHTS = ("LOW", "NEUTRAL", "HIGH")
CONTACT, BOXES, AGES = 6, 4, 64
"""Numbers about a contact, hitboxes of a move, and ages of an action that are told apart; the last stands for later
ones."""
LIKE_BOXES = 1.0 / 5
"""Scale of how far a hitbox is from a fighter's place, 1/unit."""
STEPS, RATE, GRID, MOST = 200, 0.03, 1 / 32, 3.9
"""Of the fit; weights are kept to so much, and at most so large: in a byte."""
HELD_BACK = {"of_all": 0.01, "of_action": 1.0, "of_fighter": 1.0, "of_move": 3.0, "at_age": 3.0, "of_box": 1.5}
"""Penalty on the square of what each table says."""
SIZES = {
    "of_all": (1, CONTACT), "of_action": (ACTIONS, CONTACT), "of_fighter": (CHARACTERS, CONTACT),
    "of_move": (CHARACTERS * ACTIONS, CONTACT), "at_age": (ACTIONS * AGES, 1),
    "of_box": (CHARACTERS * ACTIONS * BOXES, 1),
}  # fmt: skip
"""Rows of a table, and what it has a weight for, by height: each number of a contact, or nothing but the height."""


class Heights(nn.Module):
    """The tables of SIZES, (rows, heights, numbers)."""

    def __init__(self) -> None:
        super().__init__()
        for name, (rows, numbers) in SIZES.items():
            self.register_buffer(name, torch.zeros(rows, len(HEIGHTS), numbers))

    def forward(self, victim: Tensor, age: Tensor, attack: Tensor, box: Tensor, contact: Tensor) -> Tensor:
        """The struck fighters' moves (character · actions + action) and ages, the moves that strike and with which
        hitbox, (…) each, and `contact_of` that (…, CONTACT) → logits of HEIGHTS, (…, 3)."""
        rows = _rows(victim, age, attack, box)
        tables = {name: getattr(self, name)[rows[name]] for name in SIZES}
        return _said(tables, contact)

    def measure(self, hits: dict[str, np.ndarray], box: Tensor, contact: Tensor) -> None:
        """From frames of `strikes.near_of_game` (P,), the hitbox that strikes on each, if one does, and `contact_of`
        that, (P, CONTACT)."""
        height = torch.from_numpy(height_of()[hits["hurt"]])
        known = (height >= 0) & torch.from_numpy(hits["hit"] & ~hits["shields"])
        if not known.any():
            return
        of = {name: torch.from_numpy(np.ascontiguousarray(hits[name])) for name in ("victim", "victim_age", "move")}
        rows = _rows(of["victim"][known], of["victim_age"][known], of["move"][known], box[known])
        found, at = {}, {}
        for name, row in rows.items():
            found[name], at[name] = torch.unique(row, return_inverse=True)
        free = {name: torch.zeros(len(found[name]), len(HEIGHTS), SIZES[name][1], requires_grad=True) for name in SIZES}
        optimiser = torch.optim.Adam(list(free.values()), RATE)
        with torch.enable_grad():
            for _ in range(STEPS):
                said = _said({name: free[name][at[name]] for name in SIZES}, contact[known])
                held = sum(HELD_BACK[name] * free[name].square().sum() for name in SIZES)
                loss = F.cross_entropy(said, height[known]) + held / len(said)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
        for name in SIZES:
            table = torch.zeros_like(getattr(self, name))
            table[found[name]] = (free[name].detach().clamp(-MOST, MOST) / GRID).round() * GRID
            setattr(self, name, table)


def contact_of(ahead: Tensor, up: Tensor, gaps: Tensor) -> Tensor:
    """How far ahead of and above a fighter's place the hitbox is that strikes it (…), and how far it is from each
    circle of its body (…, CIRCLES), units → CONTACT numbers, (…, CONTACT)."""
    near = (-(gaps - gaps.amin(dim=-1, keepdim=True)).clamp(max=6.0)).exp()
    at_x, at_y = (ahead * LIKE_BOXES).clamp(-3.0, 3.0), (up * LIKE_BOXES).clamp(-3.0, 5.0)
    return torch.cat([torch.stack([torch.ones_like(at_x), at_y, at_x], dim=-1), near], dim=-1)


def height_of() -> np.ndarray:
    """(actions,): the index in HEIGHTS of actions to be hurt in, −1 for others."""
    found = np.full(ACTIONS, -1, np.int64)
    for action, name in enumerate(ACTION_NAMES):
        kind = name.removeprefix("DAMAGE_").removeprefix("FLY_").split("_")[0]
        if name.startswith("DAMAGE_") and kind in HEIGHTS:
            found[action] = HEIGHTS.index(kind)
    return found


def _rows(victim: Tensor, age: Tensor, attack: Tensor, box: Tensor) -> dict[str, Tensor]:
    """As `Heights.forward` → the rows of its tables, (…) int64."""
    victim, attack = victim.long(), attack.long()
    fighter = torch.div(victim, ACTIONS, rounding_mode="floor")
    action = victim - fighter * ACTIONS
    return {
        "of_all": torch.zeros_like(action), "of_action": action, "of_fighter": fighter, "of_move": victim,
        "at_age": action * AGES + age.long().clamp(0, AGES - 1), "of_box": attack * BOXES + box,
    }  # fmt: skip


def _said(tables: dict[str, Tensor], contact: Tensor) -> Tensor:
    """Rows of the tables (…, heights, numbers) and contacts (…, CONTACT) → logits, (…, heights)."""
    by_contact = sum(table for table in tables.values() if table.shape[-1] == CONTACT)
    plain = sum(table[..., 0] for table in tables.values() if table.shape[-1] == 1)
    return (by_contact * contact[..., None, :]).sum(dim=-1) + plain
