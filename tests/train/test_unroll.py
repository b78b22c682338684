"""Training on own frames: the same as one-step training for one step, labels of the true game, own choices fed back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from wm_runtime.replays.dataset import Dataset
from wm_train.config import Experiment, Unroll
from wm_train.dynamics.named import named
from wm_train.dynamics.step import WorldModel
from wm_train.export import zero_carry
from wm_train.training.checkpoint import build_model, load_checkpoint
from wm_train.training.data import Windows
from wm_train.training.losses import losses
from wm_train.training.noise import CERTAIN, StackNoise, annealed
from wm_train.training.records import Batch
from wm_train.training.unroll import lengths

ENCODINGS = {
    "lookahead": {"encoding": {"preset": "v2.2-3a", "frames": 4}, "trunk": [16]},
    "own frame and memory": {"kind": "residual_mlp", "encoding": {"preset": "v4", "frames": 2}, "width": 16},
    "mamba2": {"kind": "mamba2", "encoding": {"preset": "v3", "frames": 6}, "causal": False,
               "mamba2": {"d_model": 32, "d_state": 8, "headdim": 16, "chunk_size": 4}},
    "mamba2 of one frame": {"kind": "mamba2", "encoding": {"preset": "v2.2-1a", "frames": 1}, "causal": False,
                            "mamba2": {"d_model": 32, "d_state": 8, "headdim": 16}},
}  # fmt: skip


@pytest.fixture(scope="module", params=["as trained", *ENCODINGS])
def model(request: pytest.FixtureRequest, run: Path, dataset: Dataset) -> WorldModel:
    if request.param not in ENCODINGS:
        return load_checkpoint(run / "best.pt")[0]
    torch.manual_seed(0)
    model = build_model(Experiment(name="x", model=ENCODINGS[request.param])).eval()
    model.core.measure(dataset, [0, 1], Windows(dataset, [0, 1], 2).read(np.arange(200)))
    return model


def batch_of(dataset: Dataset, model: WorldModel, steps: int) -> Batch:
    windows = Windows(dataset, [0, 1, 4], model.core.window, steps=steps)
    return windows.read(np.arange(0, len(windows), 90), steps)


def test_one_unrolled_step_is_one_step_training(dataset: Dataset, model: WorldModel) -> None:
    batch = batch_of(dataset, model, 1)
    one_step, unrolled = model.core.losses(batch), model.core.unrolled_losses(batch, model)
    assert {n: v.item() for n, v in unrolled.items()} == pytest.approx({n: v.item() for n, v in one_step.items()})


def test_each_further_step_is_from_the_models_own_state_with_labels_of_the_true_game(dataset, model) -> None:
    """Told again with nothing but the step that ships."""
    batch, present = batch_of(dataset, model, 5), model.core.window - 2
    carry = model.core._remembered(batch)
    state = batch.floats[:, present], batch.ints[:, present], batch.match[:, present]
    parts = []
    for target in range(present + 1, present + 6):
        proposal = model.core(*state, named(*state[:2]), batch.controllers[:, target], carry)
        true = named(batch.floats[:, target], batch.ints[:, target])
        parts.append(losses(proposal.heads, named(*state[:2]), true))
        state, carry, _ = model(*state, batch.controllers[:, target], carry)
    told = model.core.unrolled_losses(batch, model)
    for name, value in told.items():
        assert value.item() == pytest.approx(np.mean([part[name].item() for part in parts]), rel=1e-5), name
    assert not torch.allclose(state[0], batch.floats[:, -1])  # it had gone astray


def test_the_memory_before_the_first_step_is_that_of_stepping_the_true_frames(dataset, model) -> None:
    batch = batch_of(dataset, model, 1)
    carry = zero_carry(model, len(batch))
    carry["controllers"] = batch.controllers[:, 0]
    for frame in range(model.core.window - 2):
        now = batch.floats[:, frame], batch.ints[:, frame], batch.match[:, frame]
        _, carry, _ = model(*now, batch.controllers[:, frame + 1], carry)
    memory = model.core._remembered(batch)
    assert carry.keys() == memory.keys()
    for name, kept in carry.items():
        torch.testing.assert_close(memory[name], kept, rtol=1e-5, atol=1e-5)


def test_gradients_reach_the_network_from_every_step_and_none_flows_through_states(dataset, model) -> None:
    batch = batch_of(dataset, model, 3)
    model.zero_grad()
    torch.stack(list(model.core.unrolled_losses(batch, model).values())).sum().backward()
    weight = next(model.core.network.trunk.parameters())
    three = weight.grad.clone()
    model.zero_grad()
    torch.stack(list(model.core.losses(batch_of(dataset, model, 1)).values())).sum().backward()
    assert three.abs().sum() > 0
    assert not torch.allclose(three, weight.grad)
    model.zero_grad()


def test_a_run_is_divided_evenly_among_the_unroll_lengths() -> None:
    unroll = Unroll(share=0.5, lengths=(4, 8, 16))
    drawn = [lengths(unroll, epoch, 6, 100, np.random.default_rng(epoch)) for epoch in range(6)]
    assert [set(epoch) - {1} for epoch in drawn] == [{4}, {4}, {8}, {8}, {16}, {16}]
    assert sum(n > 1 for epoch in drawn for n in epoch) == pytest.approx(300, abs=50)
    assert set(lengths(unroll, 0, 1, 300, np.random.default_rng(0))) == {1, 4, 8, 16}
    assert lengths(None, 0, 1, 3, np.random.default_rng(0)) == [1, 1, 1]


def test_noise_disturbs_a_share_of_stacks_in_their_newest_frames_where_values_are_uncertain(model) -> None:
    names = model.core.network.encoder.config.float_names
    floats = torch.zeros(4000, 10, 2, len(names))
    disturbed = StackNoise(0.3, 0.1, 3)(floats, names)
    assert not disturbed[:, :-3].any()
    changed = disturbed[:, -3:] != 0
    assert changed.flatten(1).any(dim=1).float().mean().item() == pytest.approx(0.3, abs=0.03)
    certain = [name in CERTAIN or name.startswith("controller.") for name in names]
    assert not changed[..., certain].any()
    values = disturbed[:, -3:][changed]
    assert values.std().item() == pytest.approx(0.1, rel=0.05)


def test_noise_rises_from_a_clean_first_epoch() -> None:
    assert annealed(0.3, 0.1, 3, 3, epoch=0) is None
    assert annealed(0.3, 0.1, 3, 3, epoch=1) == StackNoise(pytest.approx(0.1), pytest.approx(0.1 / 3), 3)
    assert annealed(0.3, 0.1, 3, 3, epoch=3) == annealed(0.3, 0.1, 3, 3, epoch=9) == StackNoise(0.3, 0.1, 3)
    assert annealed(0.3, 0.1, 3, 0, epoch=0) == StackNoise(0.3, 0.1, 3)


def test_a_model_that_is_evaluated_sees_no_noise(dataset: Dataset, model: WorldModel) -> None:
    batch = batch_of(dataset, model, 1)
    clean = model.core.losses(batch)["action"]
    model.core.noise = StackNoise(1.0, 1.0, 3)
    try:
        assert torch.equal(model.eval().core.losses(batch)["action"], clean)
        assert not torch.equal(model.train().core.losses(batch)["action"], clean)
    finally:
        model.core.noise = None
        model.eval()
