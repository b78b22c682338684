"""Checkpoints: weights, the experiment that made them and its manifest, in one file."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import torch

from wm_runtime.errors import UserError
from wm_runtime.schema import field_table_hash
from wm_train.config import ExactConfig, Experiment
from wm_train.dynamics.classic import ClassicCore
from wm_train.dynamics.exact import ExactCore
from wm_train.dynamics.recurrent import MambaCore
from wm_train.dynamics.step import WorldModel
from wm_train.models.frame_stack_mlp import FrameStackMLP
from wm_train.models.mamba2 import Mamba2Model
from wm_train.models.residual_mlp import ResidualMLP


def build_model(experiment: Experiment) -> WorldModel:
    """The model that an experiment describes, freshly initialised."""
    model = experiment.model
    if isinstance(model, ExactConfig):
        return WorldModel(ExactCore(model))
    encoding, dropout = model.encoding, model.dropout
    if model.kind == "mamba2":
        return WorldModel(MambaCore(Mamba2Model(encoding, model.mamba2, dropout), model.causal))
    if model.kind == "residual_mlp":
        return WorldModel(ClassicCore(ResidualMLP(encoding, model.width, model.blocks, dropout)))
    return WorldModel(ClassicCore(FrameStackMLP(encoding, model.trunk, dropout)))


def save_checkpoint(path: Path, model: WorldModel, manifest: dict) -> None:
    """Writes `path` under a temporary name, then renames it: an older checkpoint survives until this one is whole."""
    temporary = path.with_name(path.name + ".tmp")
    torch.save({"model": model.state_dict(), "manifest": manifest}, temporary)
    os.replace(temporary, path)


def load_checkpoint(path: str | Path) -> tuple[WorldModel, dict]:
    """The model in evaluation mode and its manifest. Raises UserError for a missing, damaged or foreign file."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        weights, manifest = content["model"], content["manifest"]
        experiment = Experiment(**manifest["experiment"])
        table = manifest["field_table"]
    except FileNotFoundError:
        raise UserError(f"{path}: no such checkpoint; train one with `mwm train`") from None
    except (OSError, RuntimeError, ValueError, LookupError, TypeError, EOFError, pickle.UnpicklingError):
        raise UserError(f"{path}: not a checkpoint of this project, or damaged; name a best.pt or final.pt") from None
    if table != field_table_hash():
        raise UserError(f"{path}: trained with field table {table}, this version has {field_table_hash()}; train again")
    model = build_model(experiment)
    try:
        model.load_state_dict(weights)
    except (RuntimeError, TypeError) as error:
        raise UserError(f"{path}: weights do not fit the model: {' '.join(str(error).split())}") from None
    return model.eval(), manifest
