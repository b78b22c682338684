"""The classic heads have the published sizes and weights, and their losses are 0 exactly where the truth is said."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wm_runtime.replays.dataset import Dataset
from wm_runtime.schema import NO_GROUND, PLAYERS, VELOCITIES, State
from wm_train.dynamics.named import Named, named
from wm_train.encoding import MEMORY_ACTIONS, MEMORY_CONTROLLERS, MEMORY_COUNTERS, PRESETS
from wm_train.models.frame_stack_mlp import FrameStackMLP
from wm_train.models.heads import HEAD, HEADS
from wm_train.training.losses import losses, weighted

SIZES = {
    "continuous": 8, "velocity": 10, "dynamics": 6, "binary": 6, "action": 800, "jumps": 14, "l_cancel": 6,
    "hurtbox": 6, "ground": 128, "last_attack": 256,
}  # fmt: skip
WEIGHTS = {
    "continuous": 1, "velocity": 0.5, "dynamics": 0.5, "binary": 0.5, "action": 2, "jumps": 0.5, "l_cancel": 0.3,
    "hurtbox": 0.3, "ground": 0.3, "last_attack": 0.3,
}  # fmt: skip
FURTHER = {"flags": 80, "hitstun": 2}
"""Heads of models that see state flags and hitstun."""
SURE = 30.0
"""A logit that leaves no doubt."""


def of(state: State) -> Named:
    return named(torch.from_numpy(state.floats), torch.from_numpy(state.ints))


@pytest.fixture(scope="module")
def truth(dataset: Dataset) -> tuple[State, State]:
    """Every frame of two games after control has begun, and the frames after them: deaths and rebirths among them."""
    games = [dataset.game(g).state().rows(slice(123, None)) for g in (0, 5)]
    befores, afters = [s.rows(slice(None, -1)) for s in games], [s.rows(slice(1, None)) for s in games]
    return joined(befores), joined(afters)


def joined(states: list[State]) -> State:
    return State(*(np.concatenate([getattr(s, name) for s in states]) for name in ("floats", "ints", "match")))


def ruled(before: State, after: State) -> np.ndarray:
    """(N, 2): frames on which a player dies, is dead or is reborn."""
    return (before["action"] <= 12) | (after["action"] <= 12)


def true_outputs(before: State, after: State) -> dict[str, torch.Tensor]:
    """What the heads would have to say, worked out from the game's values alone."""
    ground_speed = np.where(after["airborne"] == 1, after["self_x_air"], after["self_x_ground"])
    moves = ~((before["hitlag"] > 0) & (after["hitlag"] > 0))
    explained_x = (ground_speed + after["knockback_x"]) * moves
    explained_y = (after["self_y"] + after["knockback_y"]) * moves
    continuous = [
        (after["percent"] - before["percent"]) / 5,
        after["x"] - before["x"] - explained_x,
        after["y"] - before["y"] - explained_y,
        after["shield"] - before["shield"],
    ]
    sure = [after["facing"] == 1, after["hurtbox"] > 0, after["airborne"] == 0]
    ground = np.where(after["ground"] == NO_GROUND, 63, after["ground"])
    outputs = {
        "continuous": np.stack(continuous, axis=-1),
        "velocity": np.stack([(after[name] - before[name]) / 0.5 for name in VELOCITIES], axis=-1),
        "dynamics": np.stack([after["hitlag"] / 5, after["stocks"], after["combo_count"]], axis=-1),
        "binary": np.where(np.stack(sure, axis=-1), SURE, -SURE),
        "ground": SURE * np.eye(64)[ground],
    }
    for name, classes in (("action", 400), ("jumps", 7), ("l_cancel", 3), ("hurtbox", 3), ("last_attack", 128)):
        outputs[name] = SURE * np.eye(classes)[after[name]]
    return {name: torch.from_numpy(value.astype(np.float32)) for name, value in outputs.items()}


def test_heads_have_the_sizes_and_weights_of_the_specification() -> None:
    assert {h.name: h.width for h in HEADS} == SIZES
    assert {h.name: h.weight for h in HEADS} == WEIGHTS


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_makes_a_model_with_these_heads(preset: str) -> None:
    config = PRESETS[preset]
    model = FrameStackMLP(config, trunk=(16,))
    pads = torch.zeros(5, config.history, PLAYERS, 13)
    floats = torch.zeros(5, config.frames, PLAYERS, len(config.float_names))
    classes = torch.zeros(5, config.frames, PLAYERS, len(config.embeddings), dtype=torch.int32)
    memory = [torch.zeros(5, PLAYERS, len(MEMORY_COUNTERS)), torch.zeros(5, PLAYERS, MEMORY_ACTIONS).int(),
              torch.zeros(5, MEMORY_CONTROLLERS, PLAYERS, 13)]  # fmt: skip
    outputs = model(floats, classes, torch.zeros(5, dtype=torch.int64), pads, *(memory if config.memory else []))
    assert {name: tuple(out.shape) for name, out in outputs.items()} == {
        name: (5, PLAYERS, size // PLAYERS) for name, size in (SIZES | FURTHER if config.misc_as else SIZES).items()
    }


def test_losses_vanish_when_the_heads_say_the_truth(truth: tuple[State, State]) -> None:
    before, after = truth
    parts = losses(true_outputs(before, after), of(before), of(after))
    assert set(parts) == set(SIZES)
    for name, part in parts.items():
        assert part.item() == pytest.approx(0, abs=1e-5), name


@pytest.mark.parametrize("head", SIZES)
def test_each_loss_grows_when_its_head_says_something_else(head: str, truth: tuple[State, State]) -> None:
    before, after = truth
    outputs = true_outputs(before, after)
    outputs[head] = outputs[head].roll(1, dims=-1) + (0.0 if HEAD[head].kind == "classes" else 1.0)
    parts = losses(outputs, of(before), of(after))
    assert parts.pop(head).item() > 0.1
    assert max(part.item() for part in parts.values()) < 1e-5


def test_the_minimised_loss_is_the_weighted_sum() -> None:
    parts = {name: torch.tensor(float(i)) for i, name in enumerate(SIZES)}
    assert weighted(parts, WEIGHTS).item() == pytest.approx(sum(i * w for i, w in enumerate(WEIGHTS.values())))


def test_frames_in_death_and_rebirth_do_not_contribute(truth: tuple[State, State]) -> None:
    before, after = truth
    mask = ruled(before, after)
    assert 100 < mask.sum() < mask.size / 2
    outputs = true_outputs(before, after)
    for out in outputs.values():
        out[torch.from_numpy(mask)] = torch.randn_like(out[torch.from_numpy(mask)]) * SURE
        out.requires_grad_()
    parts = losses(outputs, of(before), of(after))
    weighted(parts, WEIGHTS).backward()
    assert all(part.item() < 1e-5 for part in parts.values())
    assert all(not out.grad[torch.from_numpy(mask)].any() for out in outputs.values())


def test_the_frame_of_dying_does_not_contribute_either(truth: tuple[State, State]) -> None:
    before, after = truth
    dies = (before["action"] > 12) & (after["action"] <= 10)
    assert dies.any()
    row = np.flatnonzero(dies.any(axis=1))[:1]
    player = int(dies[row[0], 1])
    outputs = true_outputs(before.rows(row), after.rows(row))
    for out in outputs.values():
        out[:, player] += torch.randn_like(out[:, player])
    assert all(p.item() < 1e-5 for p in losses(outputs, of(before.rows(row)), of(after.rows(row))).values())


def test_a_batch_of_dead_fighters_alone_has_no_loss(truth: tuple[State, State]) -> None:
    before, after = truth
    rows = np.flatnonzero(ruled(before, after)[:, 0])[:1]
    before, after = before.rows(rows), after.rows(rows)
    for state in (before, after):
        state["action"] = 12
    outputs = {name: torch.randn(1, PLAYERS, size // PLAYERS) for name, size in SIZES.items()}
    assert weighted(losses(outputs, of(before), of(after)), WEIGHTS).item() == 0
