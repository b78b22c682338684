"""A trunk in whole numbers is near to what it was, exact, and the same for a match whatever its batch."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from wm_runtime.engines.compiled import CompiledEngine
from wm_runtime.engines.lower import lower
from wm_runtime.engines.program import Product, program
from wm_runtime.errors import UserError
from wm_runtime.replays.dataset import Dataset
from wm_runtime.schema import CONTROL_NAMES, State, state_layout
from wm_train.config import ExactConfig
from wm_train.dynamics.exact import ExactCore
from wm_train.quantize import moments, quantize

WIDTH, OUT = 32, 24


def graph_of(weights: list[np.ndarray]) -> bytes:
    """A step whose `aux.y` (N, 2, OUT) is what two products make of the controllers; its memory counts steps."""
    layout = {f"state.{name}": (shape[1:], dtype) for name, (shape, dtype) in state_layout(1).items()}
    layout |= {"controllers": ((2, len(CONTROL_NAMES)), "float32"), "carry.steps": ((1,), "int32")}
    inputs = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(np.dtype(d)), ["matches", *shape])
        for n, (shape, d) in layout.items()
    ]
    nodes = [
        helper.make_node("MatMul", ["controllers", "first"], ["h"]),
        helper.make_node("Relu", ["h"], ["positive"]),
        helper.make_node("MatMul", ["positive", "second"], ["aux.y"]),
        helper.make_node("Add", ["carry.steps", "one"], ["next_carry.steps"]),
    ]
    kept = [i for i in inputs if i.name.startswith("state.")]
    nodes += [helper.make_node("Identity", [i.name], [f"next_{i.name}"]) for i in kept]
    outputs = [
        *(helper.make_value_info(f"next_{i.name}", i.type) for i in kept),
        helper.make_tensor_value_info("next_carry.steps", TensorProto.INT32, ["matches", 1]),
        helper.make_tensor_value_info("aux.y", TensorProto.FLOAT, ["matches", 2, OUT]),
    ]
    constants = [numpy_helper.from_array(w, n) for w, n in zip(weights, ("first", "second"), strict=True)]
    constants.append(numpy_helper.from_array(np.ones(1, np.int32), "one"))
    graph = helper.make_graph(nodes, "step", inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()


@pytest.fixture(scope="module")
def weights() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.normal(size=s).astype(np.float32) for s in ((len(CONTROL_NAMES), WIDTH), (WIDTH, OUT))]


@pytest.fixture(scope="module")
def whole(weights: list[np.ndarray], dataset: Dataset) -> bytes:
    return quantize(graph_of(weights), weights[1:], dataset)


def feed(matches: int, start: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    pads = rng.uniform(-0.3, 0.3, (300, 2, len(CONTROL_NAMES))).astype(np.float32)[start : start + matches]
    state = {f"state.{name}": np.zeros(shape, dtype) for name, (shape, dtype) in state_layout(matches).items()}
    return {**state, "controllers": pads, "carry.steps": np.zeros((matches, 1), np.int32)}


def run(graph: bytes, inputs: dict[str, np.ndarray], threads: int = 1) -> np.ndarray:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"]).run(["aux.y"], inputs)[0]


def test_it_is_near_to_what_it_was(weights: list[np.ndarray], whole: bytes) -> None:
    before, after = run(graph_of(weights), feed(200)), run(whole, feed(200))
    assert 0 < np.abs(after - before).mean() < 0.05 * np.abs(before).mean()


def test_only_the_trunk_is_in_whole_numbers(weights: list[np.ndarray], whole: bytes) -> None:
    constants = {t.name: numpy_helper.to_array(t) for t in onnx.load_from_string(whole).graph.initializer}
    assert np.array_equal(constants["first"], weights[0])
    assert "second" not in constants
    assert constants["second.bytes"].dtype == np.int8
    np.testing.assert_allclose(
        constants["second.bytes"] * constants["second.scale"], weights[1], atol=constants["second.scale"].max() / 2
    )


def test_its_sums_are_exact(whole: bytes) -> None:
    c = {t.name: numpy_helper.to_array(t) for t in onnx.load_from_string(whole).graph.initializer}
    h = np.maximum(feed(100)["controllers"] @ c["first"], 0)
    rounded = np.clip(np.rint(h / c["positive.scale"]) + c["positive.zero"], 0, 255).astype(np.int64)
    sums = (rounded - int(c["positive.zero"])) @ c["second.bytes"].astype(np.int64)
    expected = sums.astype(np.float32) * (c["positive.scale"] * c["second.scale"])
    found = run(whole, feed(100))
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=np.abs(expected).max() * 1e-6)


@pytest.mark.parametrize(("matches", "threads"), [(1, 1), (7, 1), (64, 2)])
def test_a_match_does_not_depend_on_its_batch(whole: bytes, matches: int, threads: int) -> None:
    everything = run(whole, feed(256))
    assert run(whole, feed(matches, 100), threads).tobytes() == everything[100 : 100 + matches].tobytes()


def test_the_torch_engine_runs_it_too(whole: bytes, tmp_path: Path) -> None:
    (tmp_path / "whole.onnx").write_bytes(whole)
    module, inputs = lower(tmp_path / "whole.onnx"), feed(50)
    found = module(*(torch.from_numpy(a) for a in inputs.values()))[-1]
    np.testing.assert_allclose(found.numpy(), run(whole, inputs), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("precision", ["float32", "auto"])
def test_the_compiled_engine_runs_it_too_and_exactly(precision: str, whole: bytes, tmp_path: Path) -> None:
    path = tmp_path / "whole.onnx"
    path.write_bytes(whole)
    products = [step for step in program(path).steps if isinstance(step, Product)]
    assert [p.whole for p in products] == [False, True]
    assert (products[1].weight == np.rint(products[1].weight)).all()
    inputs = feed(50)
    engine = CompiledEngine(SimpleNamespace(path=path, carry=["steps"], aux=["y"]), threads=1, precision=precision)
    state, after = (State(*(inputs[f"state.{name}"].copy() for name in state_layout(1))) for _ in range(2))
    y, steps = np.zeros((50, 2, OUT), np.float32), {"steps": np.zeros((50, 1), np.int32)}
    engine.step(state, {"steps": inputs["carry.steps"]}, inputs["controllers"], after, steps, {"y": y})
    assert (steps["steps"] == 1).all()
    c = {t.name: numpy_helper.to_array(t) for t in onnx.load_from_string(whole).graph.initializer}
    found = y / (c["positive.scale"] * c["second.scale"])  # sums, but for the last bit of a division
    np.testing.assert_allclose(found, np.rint(found), atol=1e-2)
    if precision == "float32":
        same = np.isclose(y, run(whole, inputs), rtol=1e-6, atol=1e-6)
        assert same.mean() > 0.99  # what comes before may differ in a last bit, and round to the next number


def test_the_compiled_engine_refuses_other_whole_numbers(whole: bytes, tmp_path: Path) -> None:
    model = onnx.load_from_string(whole)
    (zero,) = (t for t in model.graph.initializer if t.name == "positive.zero")
    zero.CopyFrom(numpy_helper.from_array(np.zeros((), np.int8), zero.name))
    path = tmp_path / "signed.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(UserError, match="no whole numbers but of 8 bits without a sign; use the engine onnx"):
        program(path)


def test_a_model_without_a_trunk_is_refused(weights: list[np.ndarray], dataset: Dataset) -> None:
    with pytest.raises(UserError, match="no trunk whose products may be in whole numbers"):
        quantize(graph_of(weights), [], dataset)


def test_scales_come_from_moments_of_real_games(dataset: Dataset) -> None:
    one, again = moments(dataset, 0), moments(dataset, 0)
    assert one.states.floats.tobytes() == again.states.floats.tobytes()
    assert (one.at(-1)["frame"] > 0).all()


def test_the_blocks_of_the_exact_core_are_its_trunk() -> None:
    network = ExactCore(ExactConfig(width=16, blocks=2, late=8)).network
    shapes = [tuple(w.shape) for w in network.trunk_weights]
    wide, late = [(32, 16), (16, 32)], [(8, 16), (16, 8)]
    assert shapes == [*wide, *wide, *late, *wide, (16, 16), (16, 16), *late]
