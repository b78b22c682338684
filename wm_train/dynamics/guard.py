"""How a shield is held: it leans the way of the stick, and is larger where the trigger is not pressed all the way.

Measured with the bodies (`strikes.lean`): a stick that is held all the way takes a shield 2.6 units with it ahead, and
3.3 up, half of the way on each frame, from the frame on which it is raised; and a trigger that is hardly pressed makes
it twice as large as one that is pressed all the way.
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
    clicked = controllers[..., C_["l"]] + controllers[..., C_["r"]] > 0
    return _held(
        state["facing"], out, sticks[:, -HELD:, :, STICK], controllers[..., STICK], controllers[..., C_["shoulder"]],
        clicked,
    )  # fmt: skip


def guard_of_game(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A game's columns (T, 2) → the fields of Guard for each of its steps, (T - 1, 2) float32."""
    facing = torch.from_numpy(columns["facing"][:-1])
    out = torch.from_numpy(frames_since(~np.isin(columns["action"], SHIELDS))[:-1])
    stick = torch.from_numpy(np.stack([columns["main_x"], columns["main_y"]], axis=-1))
    padded = torch.cat([stick.new_zeros(HELD - 1, *stick.shape[1:]), stick[:-1]])
    sticks = padded.unfold(0, HELD, 1).movedim(-1, 1)  # (T - 1, HELD, 2, 2)
    clicked = torch.from_numpy(columns["buttons"][1:] & TRIGGER_BITS > 0)
    held = _held(facing, out, sticks, stick[1:], torch.from_numpy(columns["shoulder"][1:]), clicked)
    return {name: value.numpy() for name, value in held._asdict().items()}


def _held(facing: Tensor, out: Tensor, sticks: Tensor, stick: Tensor, pressed: Tensor, clicked: Tensor) -> Guard:
    """Facing, for how many frames a shield has been out (N, 2), sticks of those frames, the latest last
    (N, HELD, 2, 2), and of the next one (N, 2, 2), how far a trigger is pressed then, and whether all the way (N, 2).
    """
    backs = constant(tuple(range(HELD - 1, -1, -1)), out.device, torch.int32)
    share = constant(tuple(FOLLOWS ** (back + 2) for back in range(HELD - 1, -1, -1)), out.device)
    counts = (out[:, None] > backs[:, None]) * share[:, None]  # (N, HELD, 2)
    lean = stick * FOLLOWS + (sticks * counts[..., None]).sum(dim=1)
    light = (1 - pressed) * ((pressed > TOUCHED) & ~clicked).float()
    return Guard(lean[..., 0] * facing.float(), lean[..., 1], light)


def leaning(shield: Tensor, guard: Guard, lean: Tensor) -> Tensor:
    """Shields (…, 3), ahead, up and radius, how they are held (…), and `Strikes.lean` → where they are."""
    ahead, up, larger = lean.unbind()
    at = [shield[..., 0] + ahead * guard.lean_x, shield[..., 1] + up * guard.lean_y]
    return torch.stack([*at, shield[..., 2] * (1 + larger * guard.light)], dim=-1)
