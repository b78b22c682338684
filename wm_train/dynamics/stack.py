"""The carry of a frame-stack model: the frames before this one, and how long each action has lasted. All by rule.

A carry of zeros means that nothing is remembered: the first step fills the stack with the state it is given. A match
that starts in the middle of a game is warmed up by stepping its true past frames and keeping only the carry.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from wm_runtime.schema import CONTROL_NAMES, PLAYERS
from wm_train.dynamics.named import Named
from wm_train.encoding import Encoder, EncodingConfig

Carry = dict[str, Tensor]


RECENT: Mapping[str, tuple[tuple[int, ...], str]] = {
    "controllers": ((PLAYERS, len(CONTROL_NAMES)), "float32"),
    "action": ((PLAYERS,), "int32"),
    "frames_in_action": ((PLAYERS,), "int32"),
    "steps": ((1,), "int32"),
}
"""What any carry holds of the frame before the present one: name → (shape without the match axis, dtype)."""


def carry_layout(config: EncodingConfig) -> dict[str, tuple[tuple[int, ...], str]]:
    """Name → (shape without the match axis, dtype) of the carry, in the artifact's order."""
    past = config.frames + config.lookahead - 1
    return {
        "stack_floats": ((past, PLAYERS, len(config.float_names)), "float32"),
        "stack_classes": ((past, PLAYERS, len(config.embeddings)), "int32"),
        **RECENT,
    }


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
    now_floats, now_classes = encoder.frame(floats, ints, carry["controllers"])
    past = fresh[:, None, None, None]
    stack_floats = torch.where(past, now_floats[:, None], carry["stack_floats"])
    stack_classes = torch.where(past, now_classes[:, None], carry["stack_classes"])
    return Remembered(
        floats=torch.cat([stack_floats, now_floats[:, None]], dim=1),
        classes=torch.cat([stack_classes, now_classes[:, None]], dim=1),
        frames_in_action=frames_in_action(carry, state),
    )


def remember(past: Remembered, carry: Carry, state: Named, controllers: Tensor) -> Carry:
    """The carry after this step: the present state joins the stack, `controllers` are those of the next frame."""
    return {
        "stack_floats": past.floats[:, 1:],
        "stack_classes": past.classes[:, 1:],
        **recent(carry, state, past.frames_in_action, controllers),
    }


def frames_in_action(carry: Carry, state: Named) -> Tensor:
    """(N, 2) int32: frames for which the present action has lasted before this one."""
    same = (state["action"] == carry["action"]) & (carry["steps"] > 0)
    return torch.where(same, carry["frames_in_action"] + 1, torch.zeros_like(carry["action"]))


def recent(carry: Carry, state: Named, lasted: Tensor, controllers: Tensor) -> Carry:
    """The RECENT part of the carry after a step from `state`, whose actions have `lasted` (N, 2)."""
    return {
        "controllers": controllers, "action": state["action"], "frames_in_action": lasted, "steps": carry["steps"] + 1,
    }  # fmt: skip
