"""What is recorded as a CUDA graph, as far as a machine without one can say: the same calls, the same tensors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from wm_runtime.replays.dataset import Dataset
from wm_train.config import Experiment, Phase
from wm_train.dynamics import constants
from wm_train.dynamics.exact import ExactCore, own_frames
from wm_train.models.own_frame import OwnFrameNetwork
from wm_train.training.checkpoint import build_model
from wm_train.training.data import split_games
from wm_train.training.graphs import Graphed, copied, tensors
from wm_train.training.learner import Learner
from wm_train.training.whole_games import WholeGames

SMALL = {"kind": "exact", "width": 32, "blocks": 1, "late": 16}


@dataclass
class Pair:
    one: Tensor
    rest: dict[str, Tensor | None]


def nested() -> tuple[Pair, list[Tensor], int]:
    return Pair(torch.ones(2), {"a": torch.zeros(3), "b": None}), [torch.full((1,), 7.0)], 5


def test_every_tensor_within_is_found_and_copied() -> None:
    value = nested()
    assert [len(tensor) for tensor in tensors(value)] == [2, 3, 1]
    again = copied(value)
    assert again[2] == 5
    again[0].one.zero_()
    assert value[0].one.tolist() == [1, 1]
    assert all(torch.equal(a, b) for a, b in zip(tensors(value)[1:], tensors(again)[1:], strict=True))


def test_what_is_not_recorded_is_called_each_time() -> None:
    calls: list[str] = []
    function = Graphed(lambda x: (calls.append("it"), x + 1)[1], recorded=False, before=lambda: calls.append("before"))
    assert [function(torch.tensor(k)).item() for k in range(2)] == [1, 2]
    assert calls == ["before", "it", "before", "it"]


class Sends(TorchFunctionMode):
    """Notes every call that takes numbers from Python or the CPU to another device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        elsewhere = isinstance(result, Tensor) and result.device.type != "cpu"
        index = args[1] if func is Tensor.__getitem__ else None
        lists = any(isinstance(part, list) for part in (index if isinstance(index, tuple) else (index,)))
        sent = func is Tensor.to and args[0].device != result.device
        if elsewhere and (func in (torch.tensor, torch.as_tensor) or sent or lists):
            self.found.append(f"{func.__name__}{args[1:]}")
        return result


@pytest.fixture
def elsewhere(monkeypatch) -> torch.device:
    """A device that is not the CPU; constants are kept there, as on an accelerator."""
    made, sent = constants._made, constants._sent
    for module in ("exact", "features", "hitboxes", "select", "stale", "lasers", "platforms", "dives", "guard", "laws"):
        of = __import__(f"wm_train.dynamics.{module}", fromlist=["x"])
        if hasattr(of, "constant"):
            monkeypatch.setattr(of, "constant", lambda values, device, dtype=None: made(values, device, dtype))
        if hasattr(of, "there"):
            monkeypatch.setattr(of, "there", lambda table, device: sent(table, device))
    monkeypatch.setattr(OwnFrameNetwork, "_precision", lambda self, h: torch.autocast("cpu", enabled=False))
    return torch.device("meta")


def test_a_step_sends_nothing_to_the_device_once_it_runs(dataset: Dataset, elsewhere: torch.device) -> None:
    """Nothing that a CUDA graph could not record: rollout and what is learned of it, the second time."""
    model = build_model(Experiment.model_validate({"name": "x", "model": SMALL}))
    core = model.core
    assert isinstance(core, ExactCore)
    train, _ = split_games(dataset, 0.25, None)
    core.measure(dataset, train)
    corpus = WholeGames(dataset, train)
    window = corpus.read(corpus.draw(8, 4, np.random.default_rng(0)), 4).to(elsewhere)
    model.to(elsewhere)
    for _ in range(2):
        with Sends() as sends:
            frames, _ = own_frames(window, core, core.roll, model.settle)
            core.learn(frames, torch.ones(len(frames.match), device=elsewhere), False, 0.1, 0.1)["action"].backward()
    assert sends.found == []


def test_a_rollout_may_be_learned_from_in_several_steps(dataset: Dataset) -> None:
    phases = [{"steps": 1, "frames": 3, "batch_size": 16, "share": 0.5, "updates": 4}]
    training = {"phases": phases, "dropout": 0.1}
    experiment = Experiment.model_validate({"name": "x", "model": SMALL, "training": training})
    model = build_model(experiment)
    train, _ = split_games(dataset, 0.25, None)
    model.core.measure(dataset, train)
    corpus = WholeGames(dataset, train)
    learner, phase = Learner(experiment, model, torch.device("cpu")), experiment.training.phases[0]
    steps: list[int] = []
    learner.optimiser.register_step_post_hook(lambda *_: steps.append(1))
    window = corpus.read(corpus.draw(16, 4, np.random.default_rng(0)), 4)
    made = learner.step(window, phase, torch.Generator().manual_seed(0))
    assert len(steps) == 4
    assert len(made.frames.match) == 16 * 3 * 0.5 / 4
    assert made.finite
    assert all(block.dropout == 0 for block in model.core.network._all_blocks)


def test_dropout_hides_only_while_it_learns(dataset: Dataset) -> None:
    network = build_model(Experiment.model_validate({"name": "x", "model": SMALL})).core.network
    assert isinstance(network, OwnFrameNetwork)
    block, h = network.blocks[0], torch.randn(64, 32)
    still = block(h)
    network.drop_out(0.5)
    assert not torch.equal(block(h), still)
    network.drop_out(0.0)
    assert torch.equal(block(h), still)


def test_phases_with_the_same_settings_are_one_graph() -> None:
    assert Phase(steps=1, updates=2) == Phase(steps=1, updates=2)
    assert len({Phase(steps=1), Phase(steps=1, updates=2)}) == 2
