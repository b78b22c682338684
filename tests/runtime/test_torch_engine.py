"""The torch engine says what onnxruntime says, from the same file, keeps matches on its device, and has gradients."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from synthetic import REPLAYS
from wm_runtime.artifact import Artifact, open_artifact
from wm_runtime.engines import open_engine
from wm_runtime.engines.lower import product
from wm_runtime.engines.torch import Matches, TorchEngine
from wm_runtime.errors import UserError
from wm_runtime.replays.dataset import Dataset
from wm_runtime.schema import C_, CONTROL_NAMES, F_, FIRST_FRAME, PLAYERS, State
from wm_runtime.simulator import Simulator
from wm_runtime.starts import Start, dataset_starts, spawn

MATCHES = 64
KINK = 2e-2
"""Slopes to the left and right that differ by more belong to a kink or a jump."""
AGREE = 0.95
"""Share of the other slopes that a gradient must equal: one choice within reach on both sides cannot be told apart."""


def moments(dataset: Dataset, matches: int, history: int, seed: int = 0) -> Start:
    """Random moments of a dataset's games, with `history` frames before each."""
    rng = np.random.default_rng(seed)
    games = rng.integers(0, len(dataset), matches)
    first = FIRST_FRAME + history + 130
    frames = rng.integers(first, FIRST_FRAME + np.asarray(dataset.frames)[games] - 40)
    return dataset_starts(dataset, games, frames, history)


@pytest.fixture(scope="module")
def model() -> Artifact:
    return open_artifact("faithful")


@pytest.fixture(scope="module")
def engine(model: Artifact) -> TorchEngine:
    return TorchEngine(model, differentiable=True)


@pytest.fixture(scope="module")
def matches(model: Artifact, engine: TorchEngine, true_games: Dataset) -> Matches:
    """Moments of games, moved a little off where the game's own numbers coincide: no two candidates are equal there."""
    begun = Simulator(model, MATCHES, threads=1).warm(moments(true_games, MATCHES, 8))
    rng = np.random.default_rng(1)
    for name in ("x", "y", "self_x_air", "self_y", "knockback_x", "knockback_y", "self_x_ground"):
        begun.state[name] += rng.uniform(-0.02, 0.02, begun.state[name].shape).astype(np.float32)
    return engine.put(begun.state, begun.carry)


def pads(frames: int, matches: int = MATCHES, seed: int = 0) -> torch.Tensor:
    """Controllers (frames, matches, 2, 13): sticks away from their thresholds, buttons now and then."""
    rng = np.random.default_rng(seed)
    out = np.zeros((frames, matches, PLAYERS, len(CONTROL_NAMES)), np.float32)
    out[..., :4] = rng.choice([-0.7, -0.4, 0.4, 0.7], out[..., :4].shape)
    out[..., 4:] = rng.random(out[..., 4:].shape) < 0.05
    return torch.from_numpy(out)


# --- the same numbers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["faithful", "baseline-v22"])
def test_it_predicts_what_onnxruntime_predicts(name: str, true_games: Dataset) -> None:
    model = open_artifact(name)
    frames, count = 12, 512
    start = moments(true_games, count, frames)
    simulators = {e: Simulator(model, count, threads=1, engine=e) for e in ("onnx", "torch")}
    for simulator in simulators.values():
        simulator.reset(Start(start.at(0), start.controllers[:, :1]))
    equal = total = 0
    for w in range(frames):
        for simulator in simulators.values():
            for name_, array in vars(simulator.state).items():
                np.copyto(array, getattr(start.at(w), name_))
            simulator.step(np.ascontiguousarray(start.controllers[:, w + 1]))
        one, other = simulators["onnx"], simulators["torch"]
        same = (one.state.ints == other.state.ints).all(axis=-1)
        equal, total = equal + np.count_nonzero(same), total + same.size
        np.testing.assert_allclose(one.state.floats[same], other.state.floats[same], atol=1e-3, rtol=1e-4)
        assert np.array_equal(one.state.match, other.state.match)
        for part in ("numbers", "controllers"):
            if part in one.carry:
                np.testing.assert_allclose(one.carry[part], other.carry[part], atol=1e-5)
    assert total == frames * count * PLAYERS
    assert equal >= 0.999 * total


@pytest.mark.parametrize(("precision", "least"), [("bf16", 0.98), ("float16", 0.995)])
def test_coarser_products_choose_nearly_the_same(precision: str, least: float, true_games: Dataset) -> None:
    fast = open_artifact("fast")
    start = moments(true_games, 256, 8)
    one, other = Simulator(fast, 256, threads=1), Simulator(fast, 256, threads=1, engine="torch", precision=precision)
    for simulator in (one, other):
        simulator.restore(simulator.warm(start))
        simulator.step(np.zeros((256, PLAYERS, len(CONTROL_NAMES)), np.float32))
    same = (one.state.ints == other.state.ints).all(axis=-1)
    assert same.mean() >= least
    assert (one.state.floats != other.state.floats).any()


@pytest.mark.parametrize(("dtype", "exact"), [(torch.bfloat16, 256.0), (torch.float16, 2048.0)])
def test_a_coarse_product_rounds_what_it_multiplies_and_adds_up_in_float32(dtype: torch.dtype, exact: float) -> None:
    weight = torch.ones(2, 3).to(dtype)
    sums = product(torch.tensor([[exact, 1.0], [exact + 1, 0.0]]), weight)
    assert sums.dtype == torch.float32
    assert sums.tolist() == [[exact + 1] * 3, [exact] * 3]


def test_a_match_stays_on_its_device(engine: TorchEngine, matches: Matches, model: Artifact) -> None:
    state, carry = engine.get(matches)
    simulator = Simulator(model, MATCHES, threads=1, engine="torch")
    np.copyto(simulator.state.floats, state.floats)
    np.copyto(simulator.state.ints, state.ints)
    np.copyto(simulator.state.match, state.match)
    for name, array in carry.items():
        np.copyto(simulator.carry[name], array)
    with torch.no_grad():
        floats, last = engine.rollout(matches, pads(5))
    for now, pressed in zip(floats, pads(5), strict=True):
        simulator.step(pressed.numpy())
        assert now.numpy().tobytes() == simulator.state.floats.tobytes()
    there, memory = engine.get(last)
    assert there.ints.tobytes() == simulator.state.ints.tobytes()
    assert all(memory[name].tobytes() == array.tobytes() for name, array in simulator.carry.items())


def test_what_was_kept_continues_bit_for_bit(engine: TorchEngine, matches: Matches) -> None:
    with torch.no_grad():
        first, _ = engine.rollout(matches, pads(8))
        again, last = engine.rollout(matches, pads(8))
    assert torch.equal(first, again)
    mask = torch.arange(MATCHES) % 3 == 0
    mixed = last.where(mask, matches)
    for name, tensor in mixed.state.items():
        assert torch.equal(tensor[mask], matches.state[name][mask])
        assert torch.equal(tensor[~mask], last.state[name][~mask])
    turned = mixed.rows(torch.arange(MATCHES).flip(0))
    assert len(turned) == MATCHES
    assert torch.equal(turned.carry["numbers"][0], mixed.carry["numbers"][-1])


# --- gradients -------------------------------------------------------------------------------------------------------


def slopes(engine: TorchEngine, at: Matches, pressed: torch.Tensor, h: float, put) -> tuple[torch.Tensor, torch.Tensor]:
    """Finite differences of both players' last x and y with respect to what `put(matches, controllers, h)` moves,
    (N, 2, 2), and whether they can be trusted: no kink, no other choice within reach."""

    @torch.no_grad()
    def place(by: float) -> torch.Tensor:
        moved, with_pads = put(at, pressed, by)
        return engine.rollout(moved, with_pads)[0][-1][..., [F_["x"], F_["y"]]]

    low, middle, high = place(-h), place(0.0), place(h)
    left, right = (middle - low) / h, (high - middle) / h
    return (high - low) / (2 * h), (left - right).abs() < KINK


@pytest.mark.parametrize("frame", [0, 3])
def test_gradients_of_a_rollout_by_the_stick_are_finite_differences(
    engine: TorchEngine, matches: Matches, frame: int
) -> None:
    pressed = pads(5).requires_grad_()
    last = engine.rollout(matches, pressed)[0][-1]
    expected, smooth = slopes(engine, matches, pressed.detach(), 2**-7, lambda m, p, h: (m, _moved_stick(p, frame, h)))
    moved = 0
    for player in range(PLAYERS):
        for axis, name in enumerate(("x", "y")):
            (found,) = torch.autograd.grad(last[:, player, F_[name]].sum(), pressed, retain_graph=True)
            assert torch.isfinite(found).all()
            found = found[frame, :, 0, C_["main_x"]]
            sure = smooth[:, player, axis]
            assert near(found, expected[:, player, axis])[sure].float().mean() >= AGREE
            moved += int((expected[sure, player, axis].abs() > 5 * KINK).sum())
            assert sure.float().mean() > 0.5
    assert moved > 0


def near(found: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    return (found - expected).abs() <= KINK + 0.05 * expected.abs()


def _moved_stick(pressed: torch.Tensor, frame: int, by: float) -> torch.Tensor:
    pressed = pressed.clone()
    pressed[frame, :, 0, C_["main_x"]] += by
    return pressed


@pytest.mark.parametrize("field", ["x", "self_x_air", "knockback_y"])
def test_gradients_of_a_rollout_by_the_start_are_finite_differences(
    engine: TorchEngine, matches: Matches, field: str
) -> None:
    def put(m: Matches, p: torch.Tensor, by: float) -> tuple[Matches, torch.Tensor]:
        floats = m.state["floats"].clone()
        floats[:, 0, F_[field]] += by
        return Matches({**m.state, "floats": floats}, m.carry), p

    floats = matches.state["floats"].clone().requires_grad_()
    start = Matches({**matches.state, "floats": floats}, matches.carry)
    last = engine.rollout(start, pads(3))[0][-1]
    expected, smooth = slopes(engine, matches, pads(3), 2**-7, put)
    moved = 0
    for axis, name in enumerate(("x", "y")):
        (found,) = torch.autograd.grad(last[:, 0, F_[name]].sum(), floats, retain_graph=True)
        assert torch.isfinite(found).all()
        sure = smooth[:, 0, axis]
        assert near(found[:, 0, F_[field]], expected[:, 0, axis])[sure].float().mean() >= AGREE
        moved += int((expected[sure, 0, axis].abs() > 5 * KINK).sum())
    assert moved > 0 or (field == "knockback_y" and not REPLAYS.exists())  # nobody flies in games that are made up


def test_a_controller_can_be_found_by_gradients(engine: TorchEngine, model: Artifact) -> None:
    """What no exact simulator offers: a fighter in the air is steered to the right by ascent."""
    start = spawn("Battlefield", ("MARTH", "FOX"))
    start.states["y"] += 60.0
    start.states["airborne"] = np.ones_like(start.states["airborne"])
    start.states["action"] = np.full_like(start.states["action"], 29)
    begun = Simulator(model, 1, threads=1).warm(start)
    matches, stick = engine.put(begun.state, begun.carry), torch.full((8,), 0.2, requires_grad=True)
    ends = []
    for _ in range(6):
        pressed = torch.zeros(8, 1, PLAYERS, len(CONTROL_NAMES))
        pressed = torch.cat([pressed[..., :1] + _first_player(stick), pressed[..., 1:]], dim=-1)
        end = engine.rollout(matches, pressed)[0][-1, 0, 0, F_["x"]]
        ends.append(end.item())
        (slope,) = torch.autograd.grad(end, stick)
        stick = (stick.detach() + 0.5 * slope / slope.abs().amax().clamp(min=1e-6)).clamp(-0.9, 0.9).requires_grad_()
    assert C_["main_x"] == 0
    assert ends[-1] > ends[0] + 0.5


def _first_player(stick: torch.Tensor) -> torch.Tensor:
    return torch.stack([stick, torch.zeros_like(stick)], dim=-1)[:, None, :, None]


# --- what it needs ---------------------------------------------------------------------------------------------------


def test_engines_and_devices_that_are_not_there_are_user_errors(model: Artifact) -> None:
    with pytest.raises(UserError, match=r"unknown engine 'abacus': choose one of onnx, torch"):
        open_engine("abacus", model)
    with pytest.raises(UserError, match="'toaster' is not available to torch"):
        Simulator(model, engine="torch", device="toaster")
    with pytest.raises(UserError, match="the engine torch has float32, bf16, float16 and auto"):
        Simulator(model, engine="torch", precision="int8")
    with pytest.raises(UserError, match="the engine onnx has float32 alone"):
        Simulator(model, precision="bf16")
    with pytest.raises(UserError, match="'bf16' has no gradients"):
        TorchEngine(model, precision="bf16", differentiable=True)


def test_controllers_of_another_shape_are_refused(engine: TorchEngine, matches: Matches) -> None:
    with pytest.raises(ValueError, match="controllers must be"):
        engine.advance(matches, torch.zeros(MATCHES, 13))
    with pytest.raises(ValueError, match="controllers must be"):
        engine.advance(matches, pads(1)[0].double())


def test_torch_is_imported_only_when_it_is_chosen() -> None:
    code = (
        "import sys; from wm_runtime.simulator import Simulator; Simulator('baseline-v22', 1, threads=1); "
        "print([m for m in ('torch', 'onnx', 'wm_train') if m in sys.modules]); "
        "Simulator('baseline-v22', 1, engine='torch'); print('torch' in sys.modules, 'wm_train' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["[]", "True False"]


def test_a_state_is_what_it_was(engine: TorchEngine, matches: Matches) -> None:
    state, carry = engine.get(matches)
    assert isinstance(state, State)
    again = engine.put(state, carry)
    assert all(torch.equal(tensor, again.state[name]) for name, tensor in matches.state.items())
    assert all(torch.equal(tensor, again.carry[name]) for name, tensor in matches.carry.items())
