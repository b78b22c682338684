"""How a shield is held: it leans the way of the stick, and is larger where the trigger is not pressed all the way.

Measured with the bodies (`strikes`): a stick that is held all the way takes a shield some two and a half units with it,
half of the way on each frame, from the frame on which it is raised; and a trigger that is hardly pressed makes it twice
as large as one that is pressed all the way.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from wm_runtime.schema import C_
from wm_train.dynamics.constants import constant
from wm_train.dynamics.named import Named, is_of
from wm_train.dynamics.stale import frames_since

SHIELDS = (178, 179, 181, 182)
"""Raising a shield, holding it, struck, reflecting: a hitbox that reaches the shield is stopped by it, a grab not."""
BEGUN = (178, 182)
"""Those that a shield begins with: how long it has been out is how long they have lasted."""
LEANS, LIGHT = (2.5, 2.5), 1.0
"""What `Strikes.lean` is before it is measured: units ahead and up, and a share."""
FOLLOWS = 0.5
"""Share of the way to the stick that a shield leans on each frame."""
HELD = 7
"""Frames of the stick before the next one that are looked at."""
STICK = slice(C_["main_x"], C_["main_y"] + 1)
"""Of the controls."""
TRIGGER_BITS = 0x0060
"""L and R in a replay's buttons."""
TOUCHED = 0.25
"""A trigger that is pressed less than that holds no shield."""


class Guard(NamedTuple):
    """How each fighter would hold a shield on the next frame, (N, 2) each, or (P,) of some fighters."""

    lean_x: Tensor
    """Ahead and up, shares of the way that a shield may lean."""
    lean_y: Tensor
    light: Tensor
    """0 for a trigger pressed all the way, nearly 1 for one that is hardly pressed."""


def guard(state: Named, frames_in_action: Tensor, sticks: Tensor, controllers: Tensor) -> Guard:
    """State, for how long its action has lasted (N, 2), controllers that led to it and before, the latest last
    (N, HELD or more, 2, 13), and of the next frame (N, 2, 13) → how shields would be held then."""
    long = torch.full_like(frames_in_action, HELD)
    out = torch.where(is_of(state["action"], BEGUN), frames_in_action + 1, long) * is_of(state["action"], SHIELDS)
    backs = constant(tuple(range(HELD - 1, -1, -1)), out.device, torch.int32)
    share = constant(tuple(FOLLOWS ** (back + 2) for back in range(HELD - 1, -1, -1)), out.device)
    held = (out[:, None] > backs[:, None]) * share[:, None]  # (N, HELD, 2)
    lean = controllers[..., STICK] * FOLLOWS + (sticks[:, -HELD:, :, STICK] * held[..., None]).sum(dim=1)
    pressed, digital = controllers[..., C_["shoulder"]], controllers[..., C_["l"]] + controllers[..., C_["r"]]
    light = (1 - pressed) * ((pressed > TOUCHED) & (digital <= 0)).float()
    return Guard(lean[..., 0] * state["facing"].float(), lean[..., 1], light)


def guard_of_game(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A game's columns (T, 2) → the fields of Guard for each of its steps, (T - 1, 2) float32."""
    out = frames_since(~np.isin(columns["action"], SHIELDS))[:-1]
    count, sides = columns["main_x"].shape
    way = []
    for name in ("main_x", "main_y"):
        stick = np.concatenate([np.zeros((HELD, sides), np.float32), columns[name]])
        lean = stick[HELD + 1 :] * FOLLOWS
        for back in range(HELD):
            lean += stick[HELD - back : HELD - back + count - 1] * (FOLLOWS ** (back + 2) * (out > back))
        way.append(lean.astype(np.float32))
    pressed, digital = columns["shoulder"][1:], columns["buttons"][1:] & TRIGGER_BITS > 0
    light = np.where((pressed > TOUCHED) & ~digital, 1 - pressed, 0.0).astype(np.float32)
    facing = columns["facing"][:-1].astype(np.float32)
    return {"lean_x": way[0] * facing, "lean_y": way[1], "light": light}


def leaning(shield: Tensor, guard: Guard, lean: Tensor) -> Tensor:
    """Shields (…, 3), ahead, up and radius, how they are held (…), and `Strikes.lean` → where they are."""
    ahead, up, larger = lean.unbind()
    at = [shield[..., 0] + ahead * guard.lean_x, shield[..., 1] + up * guard.lean_y]
    return torch.stack([*at, shield[..., 2] * (1 + larger * guard.light)], dim=-1)
