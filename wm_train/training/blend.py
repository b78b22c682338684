"""Weights between two checkpoints of one model: a mean of what a run began with and what it came to, say, which may be
right on games that were not learned from where either is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from wm_runtime.errors import UserError
from wm_train.config import Experiment
from wm_train.dynamics.step import WorldModel
from wm_train.training.checkpoint import build_model, load_weights, read_checkpoint


def blend(one: str | Path, other: str | Path, share: float) -> tuple[WorldModel, dict[str, Any]]:
    """The model of checkpoint `other` with weights (1 − share) · one + share · other, and its manifest. Tables are
    those of `other`. Raises UserError for a share beyond 0 … 1, and for weights that are not of the same model."""
    if not 0 <= share <= 1:
        raise UserError(f"--share {share}: not a share; give one of 0 … 1")
    first, second = read_checkpoint(one), read_checkpoint(other)
    model = build_model(Experiment(**second["manifest"]["experiment"]))
    load_weights(model, second["model"], other)
    for name, weight in model.named_parameters():
        before = first["model"].get(name)
        if before is None or before.shape != weight.shape:
            shape = "missing" if before is None else tuple(before.shape)
            raise UserError(f"{one}: not of the model of {other} ({name}: {shape}, {tuple(weight.shape)} there)")
        weight.data.lerp_(before.to(weight.dtype), 1 - share)
    manifest = {**second["manifest"], "blended": {"share": share, "with": first["manifest"]}}
    return model.eval(), manifest
