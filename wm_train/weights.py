"""The weights of an artifact, to go on from: which of a graph's constants is which weight or table of its model.

An artifact is all that ships, so it says where its weights are. Matrices come back as float16 holds them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor

from wm_runtime.artifact import Artifact
from wm_runtime.errors import UserError
from wm_train.compact import constants

FEW = 64
"""What has so few numbers may be told itself where no constant holds it."""
Places = dict[str, list]
"""Name → [constant, whether it lies transposed], [constants of its columns, False], or [list of numbers]."""


def places(state: Mapping[str, Tensor], graph: bytes) -> Places:
    """A model's state and the serialised graph of its step → where each weight and table is; nothing where the graph
    does not hold them all."""
    by_shape: dict[tuple[int, ...], list[tuple[str, np.ndarray]]] = {}
    for name, constant in constants(onnx.load_from_string(graph)).items():
        by_shape.setdefault(constant.shape, []).append((name, constant))
    found: Places = {}
    for name, tensor in state.items():
        values = tensor.detach().cpu().numpy()
        for turned in (False, True)[: max(1, values.ndim)]:
            place = _held(values.T if turned else values, by_shape)
            if place is not None:
                found[name] = [place, turned]
                break
        else:
            columns = [_held(values[:, i], by_shape) for i in range(values.shape[1])] if values.ndim > 1 else [None]
            if None not in columns:
                found[name] = [columns, False]
            elif values.size <= FEW and (values.dtype.kind != "f" or np.isfinite(values).all()):
                found[name] = [values.tolist()]
            else:
                return {}
    return found


def weights_of(artifact: Artifact) -> dict[str, Tensor]:
    """The state of the model that an artifact was made from. Raises UserError where it does not say."""
    metadata = artifact.metadata
    if not metadata.get("weights"):
        raise UserError(f"{artifact.path}: does not say where its weights are (made before, or with --int8, or a "
                        "policy); name a checkpoint, or a model that ships in float32")  # fmt: skip
    held = constants(onnx.load(artifact.path))
    state = {}
    for name, (place, *turned) in metadata["weights"].items():
        if turned and isinstance(place, list):
            values = np.stack([held[column] for column in place], axis=1)
        else:
            values = held[place] if turned else np.asarray(place)
        kind = np.dtype(metadata["weight_types"][name])
        state[name] = torch.from_numpy(np.array(values.T if any(turned) else values, dtype=kind))
    return state


def types(state: Mapping[str, Tensor], where: Places) -> dict[str, str]:
    """Name → dtype of what was found."""
    return {name: str(state[name].numpy().dtype) for name in where}


def is_artifact(path: str | Path) -> bool:
    return Path(path).suffix == ".onnx"


def _held(values: np.ndarray, by_shape: Mapping[tuple[int, ...], list[tuple[str, np.ndarray]]]) -> str | None:
    """The constant that equals an array."""
    return next((name for name, constant in by_shape.get(values.shape, ()) if _equal(constant, values)), None)


def _equal(constant: np.ndarray, values: np.ndarray) -> bool:
    floats = values.dtype.kind == "f"
    return (constant.dtype.kind == "f") == floats and np.array_equal(constant, values, equal_nan=floats)
