"""Every experiment that ships can be built, trained and exported, and is what its name says."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wm_runtime.artifact import open_artifact
from wm_runtime.replays.dataset import Dataset
from wm_runtime.simulator import Simulator
from wm_runtime.starts import spawn
from wm_train.config import EXPERIMENTS, load_experiment
from wm_train.dynamics.exact import ExactCore
from wm_train.dynamics.recurrent import MambaCore
from wm_train.export import export
from wm_train.training.checkpoint import build_model
from wm_train.training.data import Windows
from wm_train.training.losses import weighted
from wm_train.training.whole_games import WholeGames

NAMES = sorted(path.stem for path in EXPERIMENTS.glob("*.yaml"))
CLASSIC = [name for name in NAMES if load_experiment(name).model.kind != "exact"]
"""Those with classic heads."""
PUBLISHED = {
    "baseline-v22": (1846, 26), "exp-1a-state-age-embed": (1986, 26), "exp-2a-press-events": (1862, 42),
    "exp-1a2a-combined": (2002, 42), "exp-3a-lookahead": (1872, 52), "exp-3a-1a-lookahead": (2012, 52),
    "exp-3a-1a2a-lookahead": (2044, 84),
}  # fmt: skip
"""Frame-stack experiment → width of the input and of the controllers in it."""
MAMBA = {
    "mamba2-1a": (256, 2, 10), "mamba2-1a-3layer": (256, 3, 10), "mamba2-1a-k60": (256, 2, 60),
    "mamba2-medium-gpu": (384, 4, 10),
}  # fmt: skip
"""Recurrent experiment → d_model, layers, frames."""


@pytest.mark.parametrize("name", CLASSIC)
def test_every_experiment_learns_from_a_batch(name: str, dataset: Dataset) -> None:
    experiment = load_experiment(name)
    model = build_model(experiment)
    if isinstance(model.core, ExactCore):
        corpus = WholeGames(dataset, [0, 1])
        window = corpus.read(corpus.draw(8, 2, np.random.default_rng(0)), 2)
        parts = model.core.learn(model.core.true_frames(window))
    else:
        windows = Windows(dataset, [0, 1], model.core.window)
        parts = model.core.losses(windows.read(np.arange(0, len(windows), len(windows) // 8)))
    loss = weighted(parts, model.core.weights)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_every_experiment_says_what_it_is() -> None:
    for name in NAMES:
        assert load_experiment(name).name == name
        assert load_experiment(name).description


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_experiment_can_be_exported_and_played(name: str, tmp_path) -> None:
    experiment = load_experiment(name)
    export(build_model(experiment), {"experiment": experiment.model_dump(mode="json")}, tmp_path / "step.onnx")
    matches = Simulator(open_artifact(tmp_path / "step.onnx"), 2)
    matches.reset(spawn("BATTLEFIELD", ("FOX", "FALCO")))
    for _ in range(5):
        state = matches.step(np.zeros((2, 2, 13), np.float32))
    assert np.isfinite(state["x"]).all()
    assert (state["frame"] == 5).all()


@pytest.mark.parametrize("name", PUBLISHED)
def test_frame_stacks_have_the_published_widths(name: str) -> None:
    encoding = load_experiment(name).model.encoding
    assert (encoding.input_dim, encoding.control_dim) == PUBLISHED[name]
    trunk = [m.in_features for m in build_model(load_experiment(name)).core.network.trunk if hasattr(m, "in_features")]
    assert trunk == [encoding.input_dim, 512]


@pytest.mark.parametrize("name", MAMBA)
def test_recurrent_experiments_have_the_published_sizes(name: str) -> None:
    model = load_experiment(name).model
    sizes = model.mamba2
    assert (sizes.d_model, sizes.layers, model.encoding.frames) == MAMBA[name]
    assert (sizes.d_state, sizes.headdim, sizes.expand, sizes.d_conv) == (64, 64, 2, 4)
    assert model.encoding.state_age_as_embed
    core = build_model(load_experiment(name)).core
    assert isinstance(core, MambaCore)
    assert core.causal


def test_the_medium_model_has_4_3_million_parameters() -> None:
    count = sum(p.numel() for p in build_model(load_experiment("mamba2-medium-gpu")).parameters())
    assert count == 4_365_776
