"""The carry of a frame-stack model: the frames before this one, and how long each action has lasted. All by rule.

A carry of zeros means that nothing is remembered: the first step fills the stack with the state it is given. A match
that starts in the middle of a game is warmed up by stepping its true past frames and keeping only the carry.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from wm_runtime.schema import CONTROL_NAMES, I_, PLAYERS
from wm_train.dynamics.core import Carry, CarryLayout, zeros
from wm_train.dynamics.named import Named
from wm_train.encoding import Encoder, EncodingConfig

RECENT: CarryLayout = {
    "controllers": ((PLAYERS, len(CONTROL_NAMES)), "float32"),
    "action": ((PLAYERS,), "int32"),
    "frames_in_action": ((PLAYERS,), "int32"),
    "steps": ((1,), "int32"),
}
"""What any carry holds of the frame before the present one: name → (shape without the match axis, dtype)."""


def carry_layout(config: EncodingConfig) -> CarryLayout:
    """Name → (shape without the match axis, dtype) of the carry, in the artifact's order."""
    past = config.frames + config.lookahead - 1
    stack: CarryLayout = {
        "stack_floats": ((past, PLAYERS, len(config.float_names)), "float32"),
        "stack_classes": ((past, PLAYERS, len(config.embeddings)), "int32"),
    }
    return {**(stack if past else {}), **RECENT}


@dataclass
class Remembered:
    """What a step sees of the past, the present state included."""

    floats: Tensor
    """(N, K + lookahead, 2, floats) encoded frames, the present one last."""
    classes: Tensor
    frames_in_action: Tensor
    """(N, 2) int32, frames for which the present action has lasted before this one."""


def recall(encoder: Encoder, carry: Carry, floats: Tensor, ints: Tensor, state: Named) -> Remembered:
    """The carry and the present state (raw floats, ints, and by name) → what is remembered."""
    fresh = carry["steps"][:, 0] == 0
    now = [part[:, None] for part in encoder.frame(floats, ints, carry["controllers"])]
    frames = now
    if "stack_floats" in carry:
        earlier = (carry["stack_floats"], carry["stack_classes"])
        past = fresh[:, None, None, None]
        frames = [torch.cat([torch.where(past, n, e), n], dim=1) for n, e in zip(now, earlier, strict=True)]
    return Remembered(frames[0], frames[1], frames_in_action(carry, state))


def remember(past: Remembered, carry: Carry, state: Named, controllers: Tensor) -> Carry:
    """The carry after this step: the present state joins the stack, `controllers` are those of the next frame."""
    stack = {"stack_floats": past.floats[:, 1:], "stack_classes": past.classes[:, 1:]}
    kept = recent(carry, state, past.frames_in_action, controllers)
    return {**(stack if "stack_floats" in carry else {}), **kept}


def stacked(encoder: Encoder, floats: Tensor, ints: Tensor, controllers: Tensor) -> Carry:
    """The stack's part of the carry of true frames (N, L, 2, ·), the last of which is about to be stepped from, and the
    controllers that produced them (N, L, 2, 13)."""
    past = encoder.config.frames + encoder.config.lookahead - 1
    if not past:
        return {}
    before = slice(-1 - past, -1)
    frames = encoder.frame(floats[:, before], ints[:, before], controllers[:, before])
    return dict(zip(("stack_floats", "stack_classes"), frames, strict=True))


def frames_in_action(carry: Carry, state: Named) -> Tensor:
    """(N, 2) int32: frames for which the present action has lasted before this one."""
    same = (state["action"] == carry["action"]) & (carry["steps"] > 0)
    return torch.where(same, carry["frames_in_action"] + 1, torch.zeros_like(carry["action"]))


def recent(carry: Carry, state: Named, lasted: Tensor, controllers: Tensor) -> Carry:
    """The RECENT part of the carry after a step from `state`, whose actions have `lasted` (N, 2)."""
    return {
        "controllers": controllers, "action": state["action"], "frames_in_action": lasted, "steps": carry["steps"] + 1,
    }  # fmt: skip


def recently(ints: Tensor, controllers: Tensor) -> Carry:
    """The RECENT part of the carry of true frames (N, L, 2, ·), the last of which is about to be stepped from, and the
    controllers that produced them (N, L, 2, 13)."""
    carry = zeros(RECENT, len(ints), ints.device)
    carry["controllers"] = controllers[:, 0]
    for frame in range(ints.shape[1] - 1):
        state = {"action": ints[:, frame, :, I_["action"]]}
        carry = recent(carry, state, frames_in_action(carry, state), controllers[:, frame + 1])
    return carry
