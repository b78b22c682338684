"""A graph's constants in less space, without loss: each is stored in the smallest form that gives the same numbers.

| form | when | undone by |
|---|---|---|
| once | another constant holds the same | – |
| float16 | no float32 of it needs more | Cast |
| a whole number of one, two or four bytes | no number of it needs more | Cast |
| its different rows, and which comes where | few rows differ | Gather |
| its different values, and which comes where, in a byte or two | at most 65,536 differ | Cast, Gather |

What the exporter notes of where a node comes from is left out.

onnxruntime undoes them when it loads a graph.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

LEAST = 1024
"""Constants of fewer numbers stay as they are."""
SHORT = (np.uint8, np.int8, np.uint16, np.int16)
NARROWER: dict[np.dtype, tuple[type[np.generic], ...]] = {
    np.dtype(np.float32): (np.float16,), np.dtype(np.int32): SHORT, np.dtype(np.int64): (*SHORT, np.int32),
}  # fmt: skip
"""Forms to try, the smallest first."""


def compact(graph_bytes: bytes) -> bytes:
    """A serialised ONNX model → the same one, smaller."""
    model = onnx.load_from_string(graph_bytes)
    graph = model.graph
    kept, nodes = [], []
    known: dict[tuple, str] = {}
    renamed: dict[str, str] = {}
    for constant in graph.initializer:
        array = numpy_helper.to_array(constant)
        if array.size < LEAST:
            kept.append(constant)
            continue
        key = (array.dtype.str, array.shape, array.tobytes())
        if key in known:
            renamed[constant.name] = known[key]
            continue
        known[key] = constant.name
        tensors, made = _stored(constant.name, array)
        kept += tensors
        nodes += made
    for node in graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = renamed.get(name, name)
    body = [*nodes, *graph.node]
    for node in body:
        del node.metadata_props[:]
        node.doc_string = ""
    del graph.initializer[:], graph.node[:], graph.value_info[:]
    graph.initializer.extend(kept)
    graph.node.extend(body)
    return model.SerializeToString()


def _stored(name: str, array: np.ndarray) -> tuple[list[TensorProto], list[onnx.NodeProto]]:
    """A constant → what is stored, and the nodes that give it back under its name."""
    if array.ndim > 1:
        rows, where = _same_rows(array)
        if len(rows) * 2 < len(array):
            index = f"{name}.rows"
            indices, casts = _narrow(index, where.astype(np.int32))
            tensors, nodes = _narrow(f"{name}.different", rows)
            together = helper.make_node("Gather", [f"{name}.different", index], [name])
            return [*indices, *tensors], [*casts, *nodes, together]
    return _narrow(name, array)


def _same_rows(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Different rows of an array by their bytes, NaN included, and which of them each row is."""
    flat = np.ascontiguousarray(array.reshape(len(array), -1))
    raw = flat.view([("", f"V{flat.itemsize * flat.shape[1]}")])[:, 0]
    _, first, where = np.unique(raw, return_index=True, return_inverse=True)
    return array[first], where.reshape(-1)


def _narrow(name: str, array: np.ndarray) -> tuple[list[TensorProto], list[onnx.NodeProto]]:
    codes: tuple[list[TensorProto], list[onnx.NodeProto]] | None = None
    if array.dtype == np.float32 and array.size >= LEAST:
        values, where = np.unique(array.view(np.uint32), return_inverse=True)
        if len(values) <= 1 << 16 and 2 * len(values) < array.size:
            where = where.reshape(array.shape).astype(np.uint8 if len(values) <= 1 << 8 else np.uint16)
            codes = _coded(name, where, values.view(np.float32))
            if where.dtype == np.uint8:
                return codes
    for narrow in NARROWER.get(array.dtype, ()) if array.size >= LEAST else ():
        with np.errstate(over="ignore"):
            small = array.astype(narrow)
        if np.array_equal(small.astype(array.dtype), array, equal_nan=array.dtype.kind == "f"):
            tensor = numpy_helper.from_array(small, f"{name}.narrow")
            to = helper.np_dtype_to_tensor_dtype(array.dtype)
            return [tensor], [helper.make_node("Cast", [tensor.name], [name], to=to)]
    return codes or ([numpy_helper.from_array(array, name)], [])


def _coded(name: str, where: np.ndarray, values: np.ndarray) -> tuple[list[TensorProto], list[onnx.NodeProto]]:
    tensors = [numpy_helper.from_array(where, f"{name}.codes"), numpy_helper.from_array(values, f"{name}.values")]
    return tensors, [
        helper.make_node("Cast", [f"{name}.codes"], [f"{name}.where"], to=TensorProto.INT32),
        helper.make_node("Gather", [f"{name}.values", f"{name}.where"], [name]),
    ]


def constants(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Every constant of a graph by name, those that `compact` stores in another form as they were."""
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Cast" and node.input[0] in found:
            found[node.output[0]] = found[node.input[0]].astype(helper.tensor_dtype_to_np_dtype(node.attribute[0].i))
        elif node.op_type == "Gather" and not node.attribute and all(name in found for name in node.input):
            found[node.output[0]] = found[node.input[0]][found[node.input[1]]]
    return found
