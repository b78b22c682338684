"""Every kind of classic core plays from its artifact as in PyTorch: true frames, frames fed back, any batch, resets."""

from __future__ import annotations

from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch

import wm_envs.env  # noqa: F401
from wm_runtime.artifact import Artifact, open_artifact
from wm_runtime.replays.dataset import Dataset
from wm_runtime.schema import CONTROL_NAMES, PLAYERS, State
from wm_runtime.simulator import Simulator
from wm_runtime.starts import Start
from wm_train.config import Experiment
from wm_train.dynamics.step import WorldModel
from wm_train.export import as_shipped, export, zero_carry
from wm_train.training.checkpoint import load_checkpoint, read_checkpoint
from wm_train.training.trainer import train

GAMES, FRAMES, PAST = 3, 40, 5
MODELS = {
    "mamba2": {
        "kind": "mamba2", "encoding": "v3", "mamba2": {"d_model": 32, "d_state": 8, "headdim": 16, "chunk_size": 4},
    },
    "own frame and memory": {"kind": "residual_mlp", "encoding": {"preset": "v4", "frames": 1}, "width": 32},
    "lookahead": {"encoding": {"preset": "v2.2-3a", "frames": 3, "press_events": True}, "trunk": [32]},
}  # fmt: skip


@pytest.fixture(scope="module", params=MODELS)
def trained(request, dataset: Dataset, tmp_path_factory) -> tuple[WorldModel, Artifact]:
    """A model after eight steps of training, and its artifact."""
    folder: Path = tmp_path_factory.mktemp(request.param.replace(" ", "-"))
    training = {"epochs": 1, "batch_size": 64, "frames_per_epoch": 512, "holdout": 0.25, "warmup_steps": 2,
                "rollouts": 8, "long_rollouts": 0}  # fmt: skip
    train(Experiment(name=request.param, model=MODELS[request.param], training=training), dataset, folder)
    model, manifest = load_checkpoint(folder / "best.pt")
    export(model, manifest, folder / "step.onnx")
    return as_shipped(model), open_artifact(folder / "step.onnx")


@pytest.fixture(scope="module")
def truth(dataset: Dataset) -> tuple[list[State], np.ndarray]:
    """Frames of three games, row by row, and the controllers that made them (rows, games, 2, 13)."""
    rows = PAST + FRAMES + 1
    states, pads = dataset.windows(np.array([0, 3, 5]), np.full(GAMES, 250), rows)
    pads = pads.reshape(GAMES, rows, PLAYERS, len(CONTROL_NAMES)).swapaxes(0, 1)
    return [states.rows(np.arange(GAMES) * rows + t) for t in range(rows)], np.ascontiguousarray(pads)


def start_of(states: list[State], pads: np.ndarray) -> Start:
    """The start whose present is row PAST, with the rows before it as its past."""
    index = np.arange(GAMES * (PAST + 1)).reshape(PAST + 1, GAMES).T.ravel()
    arrays = ("floats", "ints", "match")
    rows = State(*(np.concatenate([getattr(s, n) for s in states[: PAST + 1]])[index] for n in arrays))
    return Start(rows, np.ascontiguousarray(pads[: PAST + 1].swapaxes(0, 1)))


@torch.no_grad()
def test_pytorch_and_onnx_agree_fed_back_after_true_frames(trained, truth) -> None:
    model, artifact = trained
    states, pads = truth
    simulator = Simulator(artifact, GAMES, threads=1)
    simulator.reset(start_of(states, pads))
    carry = zero_carry(model, GAMES)
    state = tuple(torch.from_numpy(getattr(states[0], n)) for n in ("floats", "ints", "match"))
    for row in range(PAST + FRAMES):
        if row <= PAST:
            state = tuple(torch.from_numpy(getattr(states[row], n)) for n in ("floats", "ints", "match"))
        state, carry, aux = model(*state, torch.from_numpy(pads[row + 1]), carry)
        if row < PAST:
            continue
        simulator.step(pads[row + 1])
        np.testing.assert_array_equal(simulator.state.ints, state[1].numpy())
        np.testing.assert_allclose(simulator.state.floats, state[0].numpy(), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(simulator.aux["action_entropy"], aux["action_entropy"].numpy(), rtol=1e-4, atol=1e-4)
        for name, array in carry.items():
            np.testing.assert_allclose(simulator.carry[name], array.numpy(), rtol=1e-4, atol=1e-4)
    assert np.abs(simulator.state["x"] - states[PAST]["x"]).max() > 0.1


def test_the_artifact_gives_its_weights_back(trained) -> None:
    model, artifact = trained
    content = read_checkpoint(artifact.path)
    assert content["manifest"]["experiment"]["name"] == artifact.metadata["manifest"]["experiment"]["name"]
    state = model.state_dict()
    assert set(content["model"]) == set(state)
    for name, value in state.items():
        assert content["model"][name].dtype == value.dtype, name
        assert torch.equal(content["model"][name].nan_to_num(-7), value.nan_to_num(-7)), name
    again, _ = load_checkpoint(artifact.path)
    assert type(again.core) is type(model.core)


def test_a_match_does_not_depend_on_the_others_in_its_batch(trained, truth) -> None:
    _, artifact = trained
    states, pads = truth
    many, one = Simulator(artifact, GAMES, threads=1), Simulator(artifact, 1, threads=1)
    start = start_of(states, pads)
    many.reset(start)
    first = State(*(getattr(start.states, n)[: PAST + 1] for n in ("floats", "ints", "match")))
    one.reset(Start(first, start.controllers[:1]))
    for row in range(PAST, PAST + 10):
        many.step(pads[row + 1])
        one.step(np.ascontiguousarray(pads[row + 1, :1]))
        np.testing.assert_array_equal(many.state.ints[:1], one.state.ints)
        np.testing.assert_allclose(many.state.floats[:1], one.state.floats, rtol=1e-4, atol=1e-4)


def test_the_environment_plays_it(trained) -> None:
    _, artifact = trained
    env = gymnasium.make("MeleeWorldModel-v0", model=str(artifact.path))
    first, _ = env.reset(seed=3)
    for _ in range(5):
        observation, *_ = env.step(env.action_space.sample())
    assert env.observation_space.contains(observation)
    again, _ = env.reset(seed=3)
    for one, other in zip(torch.utils._pytree.tree_leaves(first), torch.utils._pytree.tree_leaves(again), strict=True):
        np.testing.assert_array_equal(one, other)
