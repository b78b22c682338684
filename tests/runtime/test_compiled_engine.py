"""The compiled engine says what onnxruntime says, from the same file, and is built once."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from wm_runtime.artifact import Artifact, open_artifact
from wm_runtime.engines import compiled
from wm_runtime.engines.compiled import FEW, LANES
from wm_runtime.engines.program import Product, program
from wm_runtime.errors import UserError
from wm_runtime.replays.dataset import Dataset
from wm_runtime.schema import C_, CONTROL_NAMES, FIRST_FRAME, PLAYERS, State
from wm_runtime.simulator import Simulator
from wm_runtime.starts import Start, dataset_starts, spawn

pytestmark = pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "clang++", "c++"))), reason="needs a C++ compiler"
)
MATCHES = 3 * LANES + 5
"""The last block is not full."""


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What these tests build is their own."""
    path = tmp_path_factory.mktemp("built")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MWM_CACHE", str(path))
        yield path


@pytest.fixture(scope="module")
def small() -> Artifact:
    return open_artifact("baseline-v22")


def moments(dataset: Dataset, matches: int, frames: int) -> Start:
    """Random moments of a dataset's games, `frames` of them in a row."""
    rng = np.random.default_rng(0)
    games = rng.integers(0, len(dataset), matches)
    last = rng.integers(FIRST_FRAME + frames + 130, FIRST_FRAME + np.asarray(dataset.frames)[games] - 40)
    return dataset_starts(dataset, games, last, frames)


def pads(frames: int, matches: int) -> np.ndarray:
    """Controllers (frames, matches, 2, 13)."""
    rng = np.random.default_rng(0)
    out = np.zeros((frames, matches, PLAYERS, len(CONTROL_NAMES)), np.float32)
    out[..., C_["main_x"]] = rng.choice([-0.7, 0.0, 0.7], out.shape[:-1])
    out[..., 4:] = rng.random(out[..., 4:].shape) < 0.05
    return out


def agreement(one: Simulator, other: Simulator, start: Start) -> tuple[float, float]:
    """Of one-step predictions from the frames of `start`: the share of players of whom all classes are equal, and of
    these, the share whose floats are within 1e-3. The memories of both see true frames alone."""
    equal = near = total = 0
    for simulator in (one, other):
        simulator.reset(Start(start.at(0), start.controllers[:, :1]))
    for w in range(start.length - 1):
        for simulator in (one, other):
            for name, array in vars(simulator.state).items():
                np.copyto(array, getattr(start.at(w), name))
            simulator.step(np.ascontiguousarray(start.controllers[:, w + 1]))
        same = (one.state.ints == other.state.ints).all(axis=-1)
        close = np.isclose(one.state.floats, other.state.floats, atol=1e-3, rtol=1e-4).all(axis=-1)
        equal, near, total = equal + same.sum(), near + (same & close).sum(), total + same.size
        assert np.array_equal(one.state.match, other.state.match)
    return equal / total, near / equal


@pytest.mark.parametrize("name", ["baseline-v22", "fast"])
def test_it_predicts_what_onnxruntime_predicts(name: str, true_games: Dataset) -> None:
    model = open_artifact(name)
    one, other = Simulator(model, MATCHES, threads=1), Simulator(model, MATCHES, threads=2, engine="compiled")
    classes, floats = agreement(one, other, moments(true_games, MATCHES, 16))
    assert classes >= 0.999
    assert floats >= 0.999  # what is chosen among candidates may be another one, where two are as good


@pytest.mark.parametrize(("precision", "least"), [("bf16", 0.99), ("int8", 0.98)])
def test_coarser_products_choose_nearly_the_same(precision: str, least: float, true_games: Dataset) -> None:
    model = open_artifact("fast")
    try:
        other = Simulator(model, MATCHES, engine="compiled", precision=precision)
    except UserError as error:
        pytest.skip(str(error))
    classes, _ = agreement(Simulator(model, MATCHES), other, moments(true_games, MATCHES, 16))
    assert classes >= least


def test_a_match_goes_the_same_way_alone_and_in_a_batch(small: Artifact) -> None:
    begun = spawn("Battlefield", ("FOX", "MARTH"))
    many = Simulator(small, LANES + 1, threads=1, engine="compiled")
    alone = Simulator(small, 1, threads=1, engine="compiled")
    assert FEW < LANES
    for simulator in (many, alone):
        simulator.reset(begun)
    for pressed in pads(30, LANES + 1):
        many.step(pressed)
        alone.step(np.ascontiguousarray(pressed[-1:]))
        assert np.array_equal(many.state.ints[-1:], alone.state.ints)
        np.testing.assert_allclose(many.state.floats[-1:], alone.state.floats, atol=1e-3)


def test_what_was_kept_continues_bit_for_bit(small: Artifact) -> None:
    simulator = Simulator(small, MATCHES, threads=2, engine="compiled")
    simulator.reset(spawn("Battlefield", ("FOX", "MARTH")))
    pressed = pads(10, MATCHES)
    kept = simulator.save()

    def ahead() -> State:
        simulator.restore(kept)
        for p in pressed:
            simulator.step(p)
        return simulator.state.copy()

    first, again = ahead(), ahead()
    assert all(array.tobytes() == getattr(again, name).tobytes() for name, array in vars(first).items())


def test_it_is_built_once(small: Artifact, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def step() -> None:
        simulator = Simulator(small, 1, engine="compiled")
        simulator.reset(spawn("Battlefield", ("FOX", "MARTH")))
        simulator.step(pads(1, 1)[0])

    step()
    there = sorted(folder.iterdir())
    assert {path.suffix for path in there} <= {".so", ".bf16"}
    monkeypatch.setattr(compiled, "_run", lambda command: pytest.fail("the compiler runs again"))
    step()
    assert sorted(folder.iterdir()) == there


@pytest.mark.parametrize(("kept", "precision"), [("pays", "BF16"), ("costs", "FLOAT32")])
def test_products_that_int8_leaves_out_are_in_what_was_found_to_be_faster(
    kept: str, precision: str, small: Artifact, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "__AVX512BF16__" not in compiled.compiler().has:
        assert not compiled.bf16_pays(LANES)
        pytest.skip("this processor has no bf16")
    compiled.bf16_pays.cache_clear()
    compiled.bf16_pays(LANES)  # timed, unless another test has
    (found,) = folder.glob("*.bf16")
    assert found.read_text() in ("pays", "costs")
    was = found.read_text()
    found.write_text(kept)
    compiled.bf16_pays.cache_clear()
    monkeypatch.setattr(compiled, "_probed", lambda *_: pytest.fail("timed again"))
    first = next(step for step in program(small.path).steps if isinstance(step, Product))
    assert compiled._of_product(first, "int8", LANES) == precision
    assert compiled._of_product(first, "int8", 1) == "BF16"
    assert compiled._of_product(first, "float32", LANES) == "FLOAT32"
    found.write_text(was)
    compiled.bf16_pays.cache_clear()


def test_what_it_needs_and_has_not_is_a_user_error(small: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="unknown precision 'int4': choose one of float32, bf16, int8, auto"):
        Simulator(small, engine="compiled", precision="int4")
    with pytest.raises(UserError, match="engine onnx has float32 alone"):
        Simulator(small, precision="bf16")
    with pytest.raises(UserError, match="is for cpu"):
        Simulator(small, engine="compiled", device="cuda")
    compiled.compiler.cache_clear()
    with monkeypatch.context() as patch:
        patch.setenv("CXX", "no-such-compiler")
        with pytest.raises(UserError, match=r"needs a C\+\+ compiler"):
            Simulator(small, engine="compiled")
    compiled.compiler.cache_clear()


def test_it_needs_no_torch() -> None:
    code = (
        "import sys; from wm_runtime.simulator import Simulator; "
        "Simulator('baseline-v22', 1, threads=1, engine='compiled'); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
