"""Artifacts beside the small one: a second model of its kind, and one whose predictions stop being numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from wm_runtime.artifact import Artifact, open_artifact, write_artifact
from wm_runtime.replays.dataset import Dataset
from wm_runtime.schema import F_


@pytest.fixture(scope="session")
def other_artifact(dataset: Dataset, experiment, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The same kind of model, trained for fewer steps from other weights."""
    from wm_train.export import export
    from wm_train.training.checkpoint import load_checkpoint
    from wm_train.training.trainer import train

    out = tmp_path_factory.mktemp("other")
    training = experiment.training.model_copy(update={"seed": 1, "epochs": 1})
    train(experiment.model_copy(update={"name": "other", "training": training}), dataset, out)
    export(*load_checkpoint(out / "best.pt"), out / "other.onnx")
    return open_artifact(out / "other.onnx")


@pytest.fixture(scope="session")
def broken_artifact(artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The small model, but from a percent above 900 it predicts NaN."""
    model = onnx.load(str(artifact.path))
    for node in model.graph.node:
        for i, name in enumerate(node.output):
            if name == "next.floats":
                node.output[i] = "predicted"
        for i, name in enumerate(node.input):
            if name == "next.floats":
                node.input[i] = "predicted"
    column = F_["percent"]
    constants = {
        "at": np.array([column]), "to": np.array([column + 1]), "axis": np.array([2]),
        "limit": np.array(900, np.float32), "nan": np.array(np.nan, np.float32), "zero": np.array(0, np.float32),
    }  # fmt: skip
    for name, value in constants.items():
        model.graph.initializer.append(numpy_helper.from_array(value, f"broken.{name}"))
    model.graph.node.extend([
        helper.make_node("Slice", ["state.floats", "broken.at", "broken.to", "broken.axis"], ["broken.percent"]),
        helper.make_node("Greater", ["broken.percent", "broken.limit"], ["broken.much"]),
        helper.make_node("Where", ["broken.much", "broken.nan", "broken.zero"], ["broken.added"]),
        helper.make_node("Add", ["predicted", "broken.added"], ["next.floats"]),
    ])
    del model.metadata_props[:]
    path = Path(tmp_path_factory.mktemp("broken")) / "broken.onnx"
    write_artifact(path, model.SerializeToString(), {**artifact.metadata, "name": "broken"})
    return open_artifact(path)
