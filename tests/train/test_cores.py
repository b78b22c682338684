"""Classic cores: what training shows a network is what play shows it, whatever the encoding and the network."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
import torch
from torch import Tensor

from wm_runtime.replays.dataset import Dataset
from wm_runtime.schema import C_, CONTROL_NAMES, F_, I_, PLAYERS, State
from wm_train.config import Experiment
from wm_train.dynamics import recollection
from wm_train.dynamics.classic import HeadsCore
from wm_train.dynamics.core import zeros
from wm_train.dynamics.named import named
from wm_train.dynamics.recurrent import MambaCore
from wm_train.dynamics.step import WorldModel
from wm_train.encoding import PRESETS, SPAN
from wm_train.export import zero_carry
from wm_train.training.checkpoint import build_model
from wm_train.training.data import Windows
from wm_train.training.losses import losses, weighted
from wm_train.training.records import Batch

MAMBA = {"kind": "mamba2", "mamba2": {"d_model": 32, "d_state": 8, "headdim": 16, "chunk_size": 4}}
MODELS = {
    "v2": {"encoding": "v2", "trunk": [16]},
    "v2.2": {"encoding": "v2.2", "trunk": [16]},
    "lookahead": {"encoding": "v2.2-3a", "trunk": [16]},
    "lookahead of 2": {"encoding": {"preset": "v3", "lookahead": 2, "press_events": True, "frames": 5}, "trunk": [16]},
    "own frame": {"encoding": {"preset": "v3", "own_frame": True, "frames": 4}, "trunk": [16]},
    "own frame and lookahead": {"encoding": {"preset": "v2.2-3a", "own_frame": True}, "trunk": [16]},
    "memory": {"encoding": {"preset": "v2.2", "memory": True, "frames": 3}, "trunk": [16]},
    "residual on memory": {"kind": "residual_mlp", "encoding": {"preset": "v4", "frames": 1}, "width": 16},
    "residual": {"kind": "residual_mlp", "encoding": "v3", "width": 16, "blocks": 1},
    "mamba2": {**MAMBA, "encoding": {"preset": "v2.2-1a", "press_events": True}},
    "mamba2 v3": {**MAMBA, "encoding": {"preset": "v3", "frames": 13}},
}
"""Every kind of model, on encodings that differ in what they see of the past and of controllers."""


def model_of(name: str, **changes: object) -> WorldModel:
    torch.manual_seed(0)
    return build_model(Experiment(name=name, model={**MODELS[name], **changes})).eval()


def windows(dataset: Dataset, core: HeadsCore, count: int = 6) -> Batch:
    every = Windows(dataset, [0, 5], core.window)
    return every.read(np.linspace(200, len(every) - 1, count).astype(int))


@torch.no_grad()
def said_in_play(model: WorldModel, batch: Batch) -> list[dict[str, Tensor]]:
    """Head outputs of stepping through the true frames of windows, from nothing remembered."""
    said: list[dict[str, Tensor]] = []
    hook = model.core.network.heads.register_forward_hook(lambda _, __, outputs: said.append(outputs))
    carry = zero_carry(model, len(batch.match))
    carry["controllers"] = batch.controllers[:, 0].clone()
    for t in range(batch.match.shape[1] - 1):
        state = (batch.floats[:, t], batch.ints[:, t], batch.match[:, t])
        _, carry, _ = model(*state, batch.controllers[:, t + 1], carry)
    hook.remove()
    return said


@torch.no_grad()
def said_in_training(model: WorldModel, batch: Batch) -> dict[str, Tensor]:
    said: list[dict[str, Tensor]] = []
    hook = model.core.network.heads.register_forward_hook(lambda _, __, outputs: said.append(outputs))
    model.core.losses(batch)
    hook.remove()
    return said[0]


@pytest.mark.parametrize("name", MODELS)
def test_play_and_training_say_the_same_of_the_same_frames(name: str, dataset: Dataset) -> None:
    model = model_of(name)
    batch = windows(dataset, model.core)
    played, trained = said_in_play(model, batch), said_in_training(model, batch)
    if isinstance(model.core, MambaCore):
        steps = model.core.config.frames
        for head, outputs in trained.items():
            every = torch.stack([said[head] for said in played], dim=1).flatten(0, 1)
            torch.testing.assert_close(outputs, every, rtol=1e-5, atol=1e-5)
        assert len(trained["action"]) == len(batch.match) * steps
    else:
        for head, outputs in trained.items():
            torch.testing.assert_close(outputs, played[-1][head], rtol=1e-5, atol=1e-5)


def test_a_causal_batch_scores_every_frame_and_the_other_form_the_last(dataset: Dataset) -> None:
    causal, last = model_of("mamba2"), model_of("mamba2", causal=False)
    last.load_state_dict(causal.state_dict())
    batch = windows(dataset, causal.core)
    count, frames = batch.match.shape[0], batch.match.shape[1] - 1
    heads = {name: out.unflatten(0, (count, frames)) for name, out in said_in_training(causal, batch).items()}
    scored, weights = [], []
    for t in range(frames):
        before, after = (named(batch.floats[:, i], batch.ints[:, i]) for i in (t, t + 1))
        scored.append(losses({name: out[:, t] for name, out in heads.items()}, before, after))
        weights.append(((before["action"] > 12) & (after["action"] > 12)).sum())
    weight = torch.stack(weights).float()
    assert weight.min() > 0
    for name, part in causal.core.losses(batch).items():
        every = torch.stack([parts[name] for parts in scored])
        torch.testing.assert_close(part, (every * weight).sum() / weight.sum(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(last.core.losses(batch)[name], every[-1], rtol=1e-4, atol=1e-5)


def mirrored(batch: Batch) -> Batch:
    """The same matches, left and right exchanged."""
    floats, ints, pads = batch.floats.clone(), batch.ints.clone(), batch.controllers.clone()
    for name in ("x", "self_x_air", "knockback_x", "self_x_ground"):
        floats[..., F_[name]] *= -1
    ints[..., I_["facing"]] *= -1
    for name in ("main_x", "c_x"):
        pads[..., C_[name]] *= -1
    return Batch(floats, ints, batch.match, pads)


@pytest.mark.parametrize("name", ["own frame", "own frame and lookahead", "residual on memory"])
def test_in_own_frames_a_mirrored_match_is_the_same_and_players_are_rows(name: str, dataset: Dataset) -> None:
    model = model_of(name)
    batch = windows(dataset, model.core)
    model.core.network.encoder.measure(*(getattr(batch, part)[:, -1] for part in ("floats", "ints", "controllers")))
    said, other = (said_in_training(model, b) for b in (batch, mirrored(batch)))
    turned = {"continuous": [1], "velocity": [0, 2, 4], "binary": [0]}
    for head, out in said.items():
        sign = torch.ones(out.shape[-1])
        sign[turned.get(head, [])] = -1
        torch.testing.assert_close(other[head], out * sign, rtol=1e-5, atol=1e-5)
    exchanged = Batch(*(b if b is batch.match else b.flip(2) for b in vars(batch).values()))
    for head, out in said_in_training(model, exchanged).items():
        torch.testing.assert_close(out, said[head].flip(1), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_memory_of_true_games_is_what_the_rules_keep(true_games: Dataset) -> None:
    """Worked out from a window, or kept from the first frame of the game on."""
    games = [Windows(true_games, [game], 500).read(np.array([400])) for game in range(4)]
    floats, ints, pads = (torch.cat([getattr(game, p) for game in games]) for p in ("floats", "ints", "controllers"))
    carry = zeros(recollection.carry_layout(), 4)
    seen = set()
    for frame in range(499):
        now = named(floats[:, frame], ints[:, frame])
        kept, past, ago = recollection.recollect(carry, now)
        if frame > SPAN:
            until = slice(frame - SPAN - 1, frame + 1)
            found = recollection.recollected(floats[:, until], ints[:, until], pads[:, until])
            for one, other in zip(kept.inputs, found.inputs, strict=True):
                assert torch.equal(one, other)
            seen |= set(kept.actions[..., 1].flatten().tolist())
        carry = recollection.remember(past, ago, carry, now, pads[:, frame + 1])
    assert len(seen) > 10  # −1 and others


def test_with_lookahead_a_step_sees_both_controllers_and_not_the_present_frame(dataset: Dataset) -> None:
    model = model_of("lookahead")
    batch = windows(dataset, model.core, 1)
    heads = said_in_play(model, batch)[-1]["action"]

    def changed(t: int, what: str) -> bool:
        """Whether the last step says something else when frame or controllers of `t` do."""
        other = Batch(*(tensor.clone() for tensor in vars(batch).values()))
        if what == "frame":
            other.floats[:, t] += 1
        else:
            other.controllers[:, t] = 1 - other.controllers[:, t]
        return not torch.equal(said_in_play(model, other)[-1]["action"], heads)

    length = batch.match.shape[1]
    assert length == 12
    present, target = length - 2, length - 1
    assert changed(target, "controllers")
    assert changed(present, "controllers")
    assert changed(present - 1, "frame")
    assert not changed(present, "frame")


@pytest.mark.parametrize("name", MODELS)
def test_every_kind_of_model_learns(name: str, dataset: Dataset) -> None:
    model = model_of(name).train()
    core = model.core
    batch = windows(dataset, core, 64)
    core.network.encoder.measure(batch.floats[:, -1], batch.ints[:, -1], batch.controllers[:, -1])
    optimiser = torch.optim.AdamW(model.parameters(), 1e-2)
    seen = []
    for _ in range(12):
        loss = weighted(core.losses(batch), core.weights)
        optimiser.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        optimiser.step()
        seen.append(loss.item())
    assert seen[-1] < 0.8 * seen[0]


def test_what_a_model_sees_and_no_rule_keeps_it_predicts() -> None:
    flags = {f"flags_{i}" for i in range(1, 6)} | {"misc_as"}
    assert not flags & set(model_of("v2.2").core.predicted)
    assert flags <= set(model_of("mamba2 v3").core.predicted)


@torch.no_grad()
def test_flags_and_hitstun_come_from_their_heads(dataset: Dataset) -> None:
    model = model_of("residual")
    core = model.core
    linear, heads = core.network.heads.linear, core.network.heads.heads
    first = {h.name: sum(other.width for other in heads[:i]) for i, h in enumerate(heads)}
    with torch.no_grad():
        linear.weight.zero_()
        linear.bias[first["flags"] :] = -9
        stun_bit = 3 * 8 + 1  # 0x02 of the fourth byte
        linear.bias[first["flags"] + stun_bit] = 9
        linear.bias[first["hitstun"]] = 31 / 20
    state = State.zeros(1)
    state["action"], state["stocks"], state["y"], state["airborne"] = 29, 4, 30, 1
    state["misc_as"][0, 1] = 5.0
    pads = torch.zeros(1, PLAYERS, len(CONTROL_NAMES))
    tensors = [torch.from_numpy(a) for a in (state.floats, state.ints, state.match)]
    (floats, ints, match), carry, _ = model(*tensors, pads, zero_carry(model, 1))
    after = named(floats, ints)
    assert after["flags_4"].tolist() == [[2, 0]]
    assert after["misc_as"].tolist() == [[31.0, 5.0]]
    (floats, ints, _), _, _ = model(floats, ints, match, pads, carry)
    assert named(floats, ints)["misc_as"].tolist() == [[30.0, 5.0]]


# --- settings --------------------------------------------------------------------------------------------------------


def test_an_encoding_is_a_preset_or_a_preset_with_changes() -> None:
    def encoding(value: object):
        return Experiment(name="x", model={"encoding": value}).model.encoding

    assert encoding("v2.1") == PRESETS["v2.1"]
    assert asdict(encoding({"preset": "v2.2-1a", "frames": 4})) == {**asdict(PRESETS["v2.2-1a"]), "frames": 4}
    assert encoding({"press_events": True}) == PRESETS["v2.2-2a"]


def test_new_experiments_have_every_flag_that_their_model_can_use() -> None:
    assert Experiment(name="x").model.encoding == PRESETS["v4"]
    assert Experiment(name="x", model={"kind": "residual_mlp"}).model.encoding == PRESETS["v4"]
    assert Experiment(name="x", model={"kind": "mamba2"}).model.encoding == PRESETS["v3"]


def test_an_experiment_survives_its_own_manifest() -> None:
    for name, model in MODELS.items():
        experiment = Experiment(name=name, model=model)
        assert Experiment(**experiment.model_dump(mode="json")) == experiment


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"encoding": "v9"}, "no encoding 'v9'; choose of v2, v2.1"),
        ({"encoding": {"preset": "v2.2", "colour": 1}}, "colour"),
        ({"encoding": {"frames": 0}}, "at least 1"),
        ({"encoding": {"preset": "v2.1", "lookahead": 1}}, "need input_conditioned"),
        ({"encoding": {"misc_as": True}}, "misc_as needs state_flags"),
        ({"encoding": {"frames": 124}}, "games begin 123 before frame 0"),
        ({"kind": "mamba2", "encoding": "v2.2-3a"}, "no lookahead"),
        ({"kind": "mamba2", "encoding": "v2.1"}, "input_conditioned"),
        ({"kind": "mamba2", "encoding": "v4"}, "leave out own_frame and memory"),
        ({"kind": "mamba2", "mamba2": {"chunk_size": 11}}, "chunk_size 11 is more than the 10 frames"),
        ({"kind": "mamba2", "mamba2": {"chunk_size": 0}}, "chunk_size is 0: at least 1"),
        ({"kind": "mamba2", "mamba2": {"headdim": 100}}, "do not divide"),
        ({"kind": "mamba2", "mamba2": {"d_modell": 100}}, "d_modell"),
    ],
)
def test_what_cannot_be_built_is_refused_with_its_reason(model: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Experiment(name="x", model=model)


def test_the_first_button_of_a_press_is_known_to_the_lookahead(dataset: Dataset) -> None:
    """The frame before the first of several controllers is the one that its presses are edges to."""
    config = Experiment(name="x", model=MODELS["lookahead of 2"]).model.encoding
    encoder = model_of("lookahead of 2").core.network.encoder
    pads = torch.zeros(1, config.history, PLAYERS, len(CONTROL_NAMES))
    pads[0, 0, 0, C_["a"]] = 1
    pads[0, 1:, 0, C_["a"]] = torch.tensor([1.0, 0.0, 1.0])
    made = encoder.controls(pads).unflatten(1, (1 + config.lookahead, PLAYERS, len(config.control_names)))
    assert made[0, :, 0, config.control_names.index("press.a")].tolist() == [0, 0, 1]
    assert not made[0, :, 1].any()
