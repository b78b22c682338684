"""Matches begin where they are told, are stepped alone, saved and copied whole, and cost no memory."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

from wm_runtime.artifact import Artifact
from wm_runtime.engines.onnx import LEAST, SLICE, OnnxEngine
from wm_runtime.errors import UserError
from wm_runtime.replays.dataset import Dataset
from wm_runtime.schema import CONTROL_NAMES, PLAYERS, State
from wm_runtime.simulator import Simulator
from wm_runtime.starts import Start, dataset_starts, game_start, spawn, stack

BATCH = 6


def pads(frames: int, matches: int = BATCH, seed: int = 0) -> np.ndarray:
    """Controllers (frames, matches, 2, 13) that press all sorts of things."""
    rng = np.random.default_rng(seed)
    sticks = rng.integers(-80, 81, (frames, matches, PLAYERS, 4)) / 80
    rest = rng.integers(0, 2, (frames, matches, PLAYERS, len(CONTROL_NAMES) - 4))
    return np.concatenate([sticks, rest], axis=-1).astype(np.float32)


def everything(simulator: Simulator) -> dict[str, np.ndarray]:
    """A copy of all arrays that a match is made of."""
    return {name: array.copy() for name, array in (vars(simulator.state) | simulator.carry).items()}


def assert_same(one: dict[str, np.ndarray], other: dict[str, np.ndarray], rows: object = slice(None)) -> None:
    for name, array in one.items():
        assert array[rows].tobytes() == other[name][rows].tobytes(), name


@pytest.fixture(scope="module")
def starts(dataset: Dataset, artifact: Artifact) -> Start:
    """Six moments of made-up games with their past: Fox and Falco on all stages."""
    return dataset_starts(dataset, np.arange(BATCH), np.arange(10, 310, 50), artifact.warmup)


@pytest.fixture
def simulator(artifact: Artifact, starts: Start) -> Simulator:
    made = Simulator(artifact, BATCH, threads=1)
    made.reset(starts)
    return made


# --- beginning -------------------------------------------------------------------------------------------------------


def test_a_match_begins_at_the_spawn_points(artifact: Artifact) -> None:
    simulator = Simulator(artifact, 3, threads=1)
    start = spawn("Battlefield", ("Marth", "Sheik"))
    state = simulator.reset(start)
    for match in range(3):
        assert state.floats[match].tobytes() == start.states.floats[0].tobytes()
        assert state.ints[match].tobytes() == start.states.ints[0].tobytes()
    assert (state["frame"] == 0).all()
    assert (state["stocks"] == 4).all()
    assert not any(array.any() for array in simulator.carry.values())


def test_a_match_begins_at_a_moment_of_a_game(dataset: Dataset, artifact: Artifact) -> None:
    game = dataset.game(3)
    simulator = Simulator(artifact, 1, threads=1)
    state = simulator.reset(game_start(game, 250, artifact.warmup))
    truth = game.state().rows(slice(250 + 123, 250 + 124))
    assert state.floats.tobytes() == truth.floats.tobytes()
    assert state.ints.tobytes() == truth.ints.tobytes()
    assert state.match.tolist() == truth.match.tolist() == [[250, dataset.stage[3]]]


def test_the_past_of_a_start_is_remembered(simulator: Simulator, starts: Start, artifact: Artifact) -> None:
    by_hand = Simulator(artifact, BATCH, threads=1)
    by_hand.reset(Start(starts.at(0), starts.controllers[:, :1]))
    for w in range(starts.length):
        for name, array in vars(by_hand.state).items():
            np.copyto(array, getattr(starts.at(w), name))
        if w + 1 < starts.length:
            by_hand.step(np.ascontiguousarray(starts.controllers[:, w + 1]))
    assert_same(everything(simulator), everything(by_hand))

    forgetful = Simulator(artifact, BATCH, threads=1)
    forgetful.reset(Start(starts.at(-1), starts.controllers[:, -1:]))
    pressed = pads(1)[0]
    assert not np.array_equal(forgetful.step(pressed).floats, simulator.step(pressed).floats)


def test_a_masked_reset_touches_only_its_matches(simulator: Simulator, starts: Start, artifact: Artifact) -> None:
    for pressed in pads(5):
        simulator.step(pressed)
    before, mask = everything(simulator), np.array([0, 1, 0, 0, 1, 0], bool)
    chosen = stack([dataset_row(starts, 5), dataset_row(starts, 0)])
    simulator.reset(chosen, mask)
    after = everything(simulator)
    assert_same(before, after, ~mask)
    fresh = Simulator(artifact, 2, threads=1)
    fresh.reset(chosen)
    for name, array in everything(fresh).items():
        assert after[name][mask].tobytes() == array.tobytes()
    assert not simulator.aux["action_entropy"][mask].any()
    assert simulator.aux["action_entropy"][~mask].all()


def dataset_row(starts: Start, match: int) -> Start:
    """One match of several."""
    rows = slice(match * starts.length, (match + 1) * starts.length)
    return Start(starts.states.rows(rows), starts.controllers[match : match + 1])


def test_an_empty_mask_changes_nothing(simulator: Simulator, starts: Start) -> None:
    before = everything(simulator)
    simulator.reset(dataset_row(starts, 0), np.zeros(BATCH, bool))
    assert_same(before, everything(simulator))


def test_as_many_starts_as_matches(simulator: Simulator, starts: Start) -> None:
    with pytest.raises(ValueError, match="6 starts for 2 matches"):
        simulator.reset(starts, np.array([1, 1, 0, 0, 0, 0], bool))


# --- stepping --------------------------------------------------------------------------------------------------------


def test_a_step_is_one_frame_of_every_match(simulator: Simulator) -> None:
    before = simulator.state["frame"].copy()
    for k, pressed in enumerate(pads(10), 1):
        state = simulator.step(pressed)
        assert state is simulator.state
        assert np.array_equal(state["frame"], before + k)
    assert simulator.aux["action_entropy"].shape == (BATCH, PLAYERS)
    assert (simulator.aux["action_entropy"] > 0).all()


def test_controllers_matter(simulator: Simulator) -> None:
    other = simulator.copy()
    one, two = pads(20, seed=1), pads(20, seed=2)
    for a, b in zip(one, two, strict=True):
        simulator.step(a)
        other.step(b)
    assert not np.array_equal(simulator.state.floats, other.state.floats)


@pytest.mark.parametrize("matches", [1, 5])
@pytest.mark.parametrize("kind", ["shape", "dtype", "nan", "infinite", "above", "below", "list", "strides"])
def test_a_step_refuses_what_is_no_controller(kind: str, matches: int, artifact: Artifact) -> None:
    simulator = Simulator(artifact, matches, threads=1)
    simulator.reset(spawn("Dream Land", ("FOX", "FOX")))
    before = everything(simulator)
    good = np.zeros((matches, PLAYERS, len(CONTROL_NAMES)), np.float32)
    single = good.copy()
    value = {"nan": np.nan, "infinite": np.inf, "above": 1.01, "below": -1.01}.get(kind, 0)
    single[matches - 1, 1, 0] = value
    bad = {
        "shape": np.zeros((matches + 1, PLAYERS, len(CONTROL_NAMES)), np.float32),
        "dtype": good.astype(np.float64),
        "list": good.tolist(),
        "strides": np.asfortranarray(np.zeros((matches, PLAYERS, len(CONTROL_NAMES)), np.float32)),
    }.get(kind, single)
    with pytest.raises(ValueError, match="controllers must be"):
        simulator.step(bad)
    assert_same(before, everything(simulator))
    simulator.step(good)


def test_a_button_is_not_negative(simulator: Simulator) -> None:
    pressed = np.zeros((BATCH, PLAYERS, len(CONTROL_NAMES)), np.float32)
    pressed[0, 0, -1] = -0.5
    with pytest.raises(ValueError, match="buttons in 0 … 1"):
        simulator.step(pressed)


def test_matches_do_not_depend_on_each_other(simulator: Simulator, starts: Start, artifact: Artifact) -> None:
    pressed = pads(60)
    alone = Simulator(artifact, 1, threads=1)
    alone.reset(dataset_row(starts, 2))
    for controllers in pressed:
        simulator.step(controllers)
        alone.step(controllers[2:3])
        np.testing.assert_allclose(simulator.state.floats[2], alone.state.floats[0], atol=1e-3, rtol=1e-5)
        assert np.array_equal(simulator.state.ints[2], alone.state.ints[0])
    assert np.abs(simulator.state["x"][2] - starts.at(-1)["x"][2]).max() > 1


def array_bytes() -> int:
    """What numpy holds for arrays made since tracemalloc began."""
    filters = [tracemalloc.DomainFilter(inclusive=True, domain=np.lib.tracemalloc_domain)]
    return sum(s.size for s in tracemalloc.take_snapshot().filter_traces(filters).statistics("filename"))


def test_steps_make_no_arrays(artifact: Artifact) -> None:
    simulator = Simulator(artifact, 1024, threads=1)
    simulator.reset(spawn("Final Destination", ("FOX", "FALCO")))
    tracemalloc.start()
    try:
        pressed = pads(1, 1024)[0]
        simulator.step(pressed)
        held = array_bytes()
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        for _ in range(100):
            simulator.step(pressed)
        _, peak = tracemalloc.get_traced_memory()
        assert array_bytes() == held >= pressed.nbytes
    finally:
        tracemalloc.stop()
    assert peak - before < 40_000 < simulator.state.floats.nbytes


def test_arrays_are_reused(simulator: Simulator) -> None:
    def addresses() -> set[int]:
        arrays = [*vars(simulator.state).values(), *simulator.carry.values(), *simulator.aux.values()]
        return {array.ctypes.data for array in arrays}

    seen = [addresses()]
    for pressed in pads(6):
        simulator.step(pressed)
        seen.append(addresses())
    assert seen[1:3] == seen[3:5] == seen[5:7]


@pytest.mark.parametrize("matches", [1, 63, 200, 1100])
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_a_batch_goes_in_slices_of_nearly_one_size(matches: int, threads: int, artifact: Artifact) -> None:
    engine = OnnxEngine(artifact, threads=threads)
    slices = engine.slices(matches)
    assert [i for rows in slices for i in range(matches)[rows]] == list(range(matches))
    sizes = [rows.stop - rows.start for rows in slices]
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= SLICE
    assert len(sizes) == 1 or (len(sizes) % min(threads, matches // LEAST) == 0 and min(sizes) >= LEAST)


def test_threads_step_every_match_and_say_the_same(artifact: Artifact, starts: Start) -> None:
    index = np.arange(600) % BATCH
    one, other = (Simulator(artifact, 600, threads=threads) for threads in (2, 3))
    alone = Simulator(artifact, BATCH, threads=1)
    for simulator in (one, other):
        simulator.reset(starts.rows(index))
    alone.reset(starts)
    for pressed in pads(15):
        alone.step(pressed)
        for simulator in (one, other):
            simulator.step(np.ascontiguousarray(pressed[index]))
            assert np.array_equal(simulator.state.ints, alone.state.ints[index])
            np.testing.assert_allclose(simulator.state.floats, alone.state.floats[index], atol=1e-3, rtol=1e-5)


def test_simulators_that_share_an_engine_do_not_share_arrays(simulator: Simulator) -> None:
    """Arrays are known again by identity: many simulators, some of them gone, never meet another's."""
    pressed = pads(3)
    others = [simulator.copy() for _ in range(6)]
    for controllers in pressed:
        simulator.step(controllers)
    expected = everything(simulator)
    for _ in range(4):
        other = others.pop(0)
        for controllers in pressed:
            other.step(controllers)
        assert_same(expected, everything(other))
        del other
        others.append(others[0].copy())


# --- saving ----------------------------------------------------------------------------------------------------------


def test_a_restored_snapshot_continues_bit_for_bit(simulator: Simulator) -> None:
    first, second = pads(20, seed=3), pads(20, seed=4)
    for pressed in first:
        simulator.step(pressed)
    saved = simulator.save()
    trajectories = []
    for _ in range(2):
        trajectory = []
        for pressed in second:
            simulator.step(pressed)
            trajectory.append(everything(simulator))
        trajectories.append(trajectory)
        simulator.restore(saved)
    for one, other in zip(*trajectories, strict=True):
        assert_same(one, other)


def test_a_snapshot_does_not_change_with_what_comes_after(simulator: Simulator) -> None:
    before = everything(simulator)
    saved = simulator.save()
    for pressed in pads(3):
        simulator.step(pressed)
    assert_same(before, vars(saved.state) | saved.carry)


def test_a_snapshot_of_another_size_is_refused(simulator: Simulator, artifact: Artifact) -> None:
    with pytest.raises(ValueError, match="6 matches for a simulator of 2"):
        Simulator(artifact, 2, threads=1).restore(simulator.save())


def test_some_matches_become_those_of_a_snapshot(simulator: Simulator) -> None:
    saved = simulator.save()
    for pressed in pads(4):
        simulator.step(pressed)
    before, mask = everything(simulator), np.array([1, 0, 0, 1, 0, 1], bool)
    simulator.restore(saved.rows(np.array([2, 2, 0])), mask)
    after = everything(simulator)
    assert_same(before, after, ~mask)
    for name, array in {**vars(saved.state), **saved.carry}.items():
        assert after[name][mask].tobytes() == array[[2, 2, 0]].tobytes()
    with pytest.raises(ValueError, match="a snapshot of 6 matches for a mask of 3"):
        simulator.restore(saved, mask)


def test_a_step_can_be_taken_back(simulator: Simulator) -> None:
    one, two, three = pads(3)
    simulator.step(one)
    before, mask = everything(simulator), np.array([0, 1, 1, 0, 0, 0], bool)
    simulator.step(two)
    after = everything(simulator)
    simulator.undo(mask)
    assert_same(before, everything(simulator), mask)
    assert_same(after, everything(simulator), ~mask)
    simulator.step(three)
    assert (simulator.state["frame"] - before["match"][:, 0]).tolist() == [2, 1, 1, 2, 2, 2]


def test_warming_up_a_start_leaves_the_matches_alone(simulator: Simulator, starts: Start) -> None:
    begun, before = everything(simulator), simulator.save()
    for pressed in pads(3):
        simulator.step(pressed)
    present = everything(simulator)
    warmed = simulator.warm(starts.rows(np.array([4, 1])))
    assert_same(present, everything(simulator))
    fresh = simulator.copy()
    fresh.restore(before)
    assert_same(begun, everything(fresh))
    assert warmed.state.floats.tobytes() == begun["floats"][[4, 1]].tobytes()
    assert all(np.allclose(array, begun[name][[4, 1]], atol=1e-5) for name, array in warmed.carry.items())


def test_a_copy_goes_its_own_way(simulator: Simulator) -> None:
    other = simulator.copy()
    before = everything(simulator)
    assert_same(before, everything(other))
    for pressed in pads(10, seed=5):
        other.step(pressed)
    assert_same(before, everything(simulator))
    again = simulator.copy()
    for pressed in pads(10, seed=5):
        again.step(pressed)
    assert_same(everything(other), everything(again))


# --- what it needs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", ["wm_runtime", "wm_runtime.simulator"])
def test_the_runtime_imports_no_framework(module: str) -> None:
    heavy = ("torch", "gymnasium", "pygame", "pyarrow", "peppi_py", "wm_train", "wm_envs.env", "wm_viewer")
    code = f"import sys, {module}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_unknown_models_and_devices_are_user_errors(artifact: Artifact) -> None:
    with pytest.raises(UserError, match="no such model"):
        Simulator("nobody")
    with pytest.raises(UserError, match=r"device 'toaster' is not available.*use one of cpu"):
        Simulator(artifact, device="toaster")


def test_a_state_reads_and_writes_by_name() -> None:
    state = State.zeros(2)
    state["percent"] = [[1, 2], [3, 4]]
    state["action"], state["frame"] = 14, [5, 6]
    assert state["percent"].tolist() == [[1, 2], [3, 4]]
    assert state.rows([1])["frame"].tolist() == [6]
    copied = state.copy()
    copied["percent"] = 0
    assert state["percent"].any()
