"""Checkpoints: weights, the experiment that made them and its manifest, in one file; in last.pt also all that a run
needs to go on."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wm_runtime.artifact import models, open_artifact
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
from wm_train.weights import is_artifact, weights_of

LISTED = 6
"""Weights that a message names before it counts the others."""


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


def save_checkpoint(path: Path, model: WorldModel, manifest: dict, progress: Mapping[str, Any] | None = None) -> None:
    """Writes a checkpoint (`save_whole`). `progress`: what a run that goes on needs beside the weights."""
    content: dict[str, Any] = {"model": model.state_dict(), "manifest": manifest}
    save_whole(path, content if progress is None else {**content, "progress": progress})


def save_whole(path: Path, content: Any) -> None:
    """Writes `path` under a temporary name, then renames it: an older file survives until this one is whole. Raises
    UserError where there is no room."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        with suppress(OSError):
            temporary.unlink()
        older = "; the one from before is kept" if path.exists() else ""
        reason = getattr(error, "strerror", None) or "disk full?"
        raise UserError(f"{path}: checkpoint cannot be written ({reason}){older}; make room and --resume") from None


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The content of a checkpoint file, or of an artifact that says where its weights are (a file .onnx, or the name of
    one that ships). Raises UserError for a missing, damaged or foreign one."""
    if is_artifact(path) or str(path) in models():
        artifact = open_artifact(path)
        return {"model": weights_of(artifact), "manifest": artifact.metadata["manifest"]}
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        Experiment(**content["manifest"]["experiment"])
        table, _ = content["manifest"]["field_table"], content["model"]
    except FileNotFoundError:
        raise UserError(f"{path}: no such checkpoint; train one with `mwm train`") from None
    except (OSError, RuntimeError, ValueError, LookupError, TypeError, EOFError, pickle.UnpicklingError):
        raise UserError(f"{path}: not a checkpoint of this project, or damaged; name a best.pt or last.pt") from None
    if table != field_table_hash():
        raise UserError(f"{path}: trained with field table {table}, this version has {field_table_hash()}; train again")
    return content


def load_checkpoint(path: str | Path) -> tuple[WorldModel, dict]:
    """The model in evaluation mode and its manifest. Raises UserError for a missing, damaged or foreign file."""
    content = read_checkpoint(path)
    model = build_model(Experiment(**content["manifest"]["experiment"]))
    load_weights(model, content["model"], path)
    return model.eval(), content["manifest"]


def load_weights(
    model: WorldModel, weights: dict[str, Tensor], path: str | Path, allow_partial: bool = False
) -> list[str]:
    """Puts weights into a model. Raises UserError that lists those missing and unexpected, unless `allow_partial`;
    then what fits is loaded, and the list is returned."""
    if not isinstance(weights, dict):
        raise UserError(f"{path}: weights do not fit the model: they are no mapping of names")
    own = model.state_dict()
    unlike = [
        f"{name} {tuple(value.shape)}, expected {tuple(own[name].shape)}"
        for name, value in weights.items()
        if name in own and value.shape != own[name].shape and _has_given_size(model, name)
    ]
    fitting = {name: value for name, value in weights.items() if name not in {u.split(" ")[0] for u in unlike}}
    try:
        found = model.load_state_dict(fitting, strict=False)
    except (RuntimeError, TypeError) as error:
        raise UserError(f"{path}: weights do not fit the model: {' '.join(str(error).split())}") from None
    missing = [name for name in found.missing_keys if name not in {u.split(" ")[0] for u in unlike}]
    kinds = {"missing": missing, "unexpected": found.unexpected_keys, "of another size": unlike}
    differences = [f"{kind}: {_listed(names)}" for kind, names in kinds.items() if names]
    if differences and not allow_partial:
        hint = "use the experiment it was trained with, or --allow-partial"
        raise UserError(f"{path}: weights do not fit the model: {'; '.join(differences)}; {hint}")
    return differences


def _has_given_size(model: WorldModel, name: str) -> bool:
    """Whether the size of what is loaded has to be that of the model: tables and what has a row for each of theirs take
    the size of what is loaded."""
    owner = model.get_submodule(name.rpartition(".")[0])
    return type(owner)._load_from_state_dict is torch.nn.Module._load_from_state_dict


def _listed(names: list[str]) -> str:
    more = len(names) - LISTED
    return ", ".join(names[:LISTED]) + (f" and {more} more" if more > 0 else "")
