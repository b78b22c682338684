"""The trunk in whole numbers: products of 8-bit activations and weights, summed in 32 bits, exactly.

Which products: those with the weights that a network calls its `trunk_weights`. The first layer and the heads stay in
float32, since positions go through them. Scales are fixed, of activations by what real frames bring, of weights by
column: no match depends on its batch, and the sums are the same on every machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx
import onnxruntime as ort
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from wm_runtime.errors import UserError
from wm_runtime.replays.dataset import Dataset
from wm_runtime.schema import FIRST_FRAME, state_layout
from wm_runtime.starts import Start, dataset_starts

MATCHES, FRAMES = 256, 24
"""Random moments of a dataset, and true frames from each, that scales are found with."""
COVERED = 99.995
"""Percentiles of activations that are told apart; what lies beyond is cut off."""


def quantize(graph: bytes, trunk: Sequence[np.ndarray], dataset: Dataset, seed: int = 0) -> bytes:
    """An exported step and the weights (in, out) of its trunk → the same, its products with those in whole numbers.

    Raises UserError where there are none, and for a dataset without a game that is long enough.
    """
    model = onnx.load_from_string(graph)
    constants = {t.name: t for t in model.graph.initializer}
    known = {(weight.shape, weight.tobytes()) for weight in trunk}
    products = [n for n in model.graph.node if _weight(n, constants) in known]
    if not products:
        raise UserError("this model has no trunk whose products may be in whole numbers; export it without --int8")
    ranges = _ranges(model, sorted({n.input[0] for n in products}), moments(dataset, seed))
    nodes: list[NodeProto] = []
    made: set[str] = set()
    for node in model.graph.node:
        if any(node is product for product in products):
            activation, weight = node.input[0], node.input[1]
            if activation not in made:
                nodes += _rounded(activation, *ranges[activation], model)
                made.add(activation)
            nodes.append(_whole(weight, numpy_helper.to_array(constants[weight]), model))
            node.input[0], node.input[1] = f"{activation}.whole", f"{weight}.whole"
        nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    for tensor in [t for t in model.graph.initializer if t.name not in used]:
        model.graph.initializer.remove(tensor)
    return model.SerializeToString()


def moments(dataset: Dataset, seed: int) -> Start:
    """Random moments of a dataset, with FRAMES true frames before each."""
    long = np.flatnonzero(np.asarray(dataset.frames) > FRAMES + 200)
    if not len(long):
        raise UserError(f"{dataset.path}: no game is longer than {FRAMES + 200} frames")
    rng = np.random.default_rng(seed)
    games = rng.choice(long, MATCHES)
    frames = FIRST_FRAME + rng.integers(FRAMES + 124, np.asarray(dataset.frames)[games])
    return dataset_starts(dataset, games, frames, FRAMES)


def _weight(node: NodeProto, constants: dict[str, TensorProto]) -> tuple[tuple[int, ...], bytes] | None:
    """Shape and bytes of the constant that a node multiplies with."""
    if node.op_type != "MatMul" or node.input[1] not in constants:
        return None
    array = numpy_helper.to_array(constants[node.input[1]])
    return array.shape, array.tobytes()


def _ranges(model: ModelProto, names: list[str], start: Start) -> dict[str, tuple[float, float]]:
    """Activation → the percentiles of its numbers over the frames of a start, 0 between them."""
    looked_into = ModelProto()
    looked_into.CopyFrom(model)
    looked_into.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(looked_into.SerializeToString(), options, providers=["CPUExecutionProvider"])
    lows: dict[str, list[float]] = {name: [] for name in names}
    highs: dict[str, list[float]] = {name: [] for name in names}
    for activations in _played(session, start, names):
        for name, array in zip(names, activations, strict=True):
            low, high = np.percentile(array, [100 - COVERED, COVERED])
            lows[name].append(low)
            highs[name].append(high)
    return {name: (min(0.0, min(lows[name])), max(0.0, max(highs[name]))) for name in names}


def _played(session: ort.InferenceSession, start: Start, names: list[str]) -> Iterator[list[np.ndarray]]:
    """Outputs `names` of a step from each true frame of a start, as the model's memory builds up."""
    carry = {}
    for tensor in session.get_inputs():
        if tensor.name.startswith("carry."):
            dtype = np.int32 if "int32" in tensor.type else np.float32
            carry[tensor.name] = np.zeros((len(start), *tensor.shape[1:]), dtype)
    outputs = [name.replace("carry.", "next_carry.") for name in carry]
    for frame in range(start.length - 1):
        state = start.at(frame)
        feed = {f"state.{name}": getattr(state, name) for name in state_layout(0)}
        feed["controllers"] = np.ascontiguousarray(start.controllers[:, frame + 1])
        results = session.run([*outputs, *names], {**feed, **carry})
        carry = dict(zip(carry, results[: len(outputs)], strict=True))
        yield results[len(outputs) :]


def _rounded(name: str, low: float, high: float, model: ModelProto) -> list[NodeProto]:
    """An activation to 8 bits, and back."""
    scale = max((high - low) / 255, 1e-8)
    zero = np.clip(np.round(-low / scale), 0, 255)
    _constant(f"{name}.scale", np.float32(scale), model)
    _constant(f"{name}.zero", np.uint8(zero), model)
    about = [f"{name}.scale", f"{name}.zero"]
    return [
        helper.make_node("QuantizeLinear", [name, *about], [f"{name}.bytes"]),
        helper.make_node("DequantizeLinear", [f"{name}.bytes", *about], [f"{name}.whole"]),
    ]


def _whole(name: str, weight: np.ndarray, model: ModelProto) -> NodeProto:
    """A weight (in, out) as 8 bits with a scale for each column."""
    scale = np.maximum(np.abs(weight).max(axis=0) / 127, 1e-8).astype(np.float32)
    _constant(f"{name}.scale", scale, model)
    _constant(f"{name}.zero", np.zeros(len(scale), np.int8), model)
    _constant(f"{name}.bytes", np.clip(np.round(weight / scale), -127, 127).astype(np.int8), model)
    about = [f"{name}.bytes", f"{name}.scale", f"{name}.zero"]
    return helper.make_node("DequantizeLinear", about, [f"{name}.whole"], axis=1)


def _constant(name: str, value: np.ndarray | np.generic, model: ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
