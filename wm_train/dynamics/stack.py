"""The carry of a frame-stack model: the frames before this one, and how long each action has lasted. All by rule.

A carry of zeros means that nothing is remembered: the first step fills the stack with the state it is given. A match
that starts in the middle of a game is warmed up by stepping its true past frames and keeping only the carry.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from wm_runtime.schema import CONTROL_NAMES, PLAYERS
from wm_train.dynamics.named import Named
from wm_train.encoding import Encoder, EncodingConfig

Carry = dict[str, Tensor]


def carry_layout(config: EncodingConfig) -> dict[str, tuple[tuple[int, ...], str]]:
    """Name → (shape without the match axis, dtype) of the carry, in the artifact's order."""
    past = config.frames - 1
    return {
        "stack_floats": ((past, PLAYERS, len(config.float_names)), "float32"),
        "stack_classes": ((past, PLAYERS, len(config.embeddings)), "int32"),
        "controllers": ((PLAYERS, len(CONTROL_NAMES)), "float32"),
        "action": ((PLAYERS,), "int32"),
        "frames_in_action": ((PLAYERS,), "int32"),
        "steps": ((1,), "int32"),
    }


@dataclass
class Remembered:
    """What a step sees of the past, the present state included."""

    floats: Tensor
    """(N, K, 2, floats) encoded frames, the present one last."""
    classes: Tensor
    controllers: Tensor
    """(N, 2, 13) that produced the present state."""
    frames_in_action: Tensor
    """(N, 2) int32, frames for which the present action has lasted before this one."""


def recall(encoder: Encoder, carry: Carry, floats: Tensor, ints: Tensor, state: Named) -> Remembered:
    """The carry and the present state (raw floats, ints, and by name) → what is remembered."""
    fresh = carry["steps"][:, 0] == 0
    now_floats, now_classes = encoder.frame(floats, ints, carry["controllers"])
    past = fresh[:, None, None, None]
    stack_floats = torch.where(past, now_floats[:, None], carry["stack_floats"])
    stack_classes = torch.where(past, now_classes[:, None], carry["stack_classes"])
    same = (state["action"] == carry["action"]) & ~fresh[:, None]
    return Remembered(
        floats=torch.cat([stack_floats, now_floats[:, None]], dim=1),
        classes=torch.cat([stack_classes, now_classes[:, None]], dim=1),
        controllers=carry["controllers"],
        frames_in_action=torch.where(same, carry["frames_in_action"] + 1, torch.zeros_like(carry["action"])),
    )


def remember(past: Remembered, carry: Carry, state: Named, controllers: Tensor) -> Carry:
    """The carry after this step: the present state joins the stack, `controllers` are those of the next frame."""
    return {
        "stack_floats": past.floats[:, 1:],
        "stack_classes": past.classes[:, 1:],
        "controllers": controllers,
        "action": state["action"],
        "frames_in_action": past.frames_in_action,
        "steps": carry["steps"] + 1,
    }
