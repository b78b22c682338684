"""A graph in fewer and cheaper nodes that reckon the same.

| as the exporter writes it | instead | why |
|---|---|---|
| columns given an axis, joined along it | joined as rows, transposed once | 3 nodes for k + 1, whole rows copied |
| GatherND by one index, given an axis of its own | Gather | one node instead of two |
| one number spread over another operand's shape | the number | no shape to ask for, nothing to fill |
| x² | x · x | the exponent is not looked at |
| a product of rows (N, 2, …), then a bias | Gemm of (2 N, …) | the bias is added on the way |
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import ModelProto, NodeProto, helper, numpy_helper

SPREAD = frozenset(
    ("Add", "And", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Min", "Mul", "Or", "Sub",
     "Where", "Pow")
)  # fmt: skip
"""Operators that spread a number over the shape of their other operands."""
TRIED = (3, 5)
"""Numbers of matches with which a graph is run to know the shapes of all that it reckons."""
MATCHES = -1
"""In a shape: the number of matches."""

Shape = tuple[int, ...]


def tidy(graph_bytes: bytes) -> bytes:
    """A serialised step, its first axis the match → the same in fewer nodes."""
    model = onnx.load_from_string(graph_bytes)
    graph = _Graph.of(model)
    outputs = [o.name for o in model.graph.output]
    nodes = list(model.graph.node)
    for change in (_numbers, _gathers, _stacks, _products):
        nodes = _needed(change(nodes, graph), outputs)
    used = {name for node in nodes for name in node.input}
    del model.graph.node[:], model.graph.initializer[:], model.graph.value_info[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in graph.constants.items() if n in used)
    return model.SerializeToString()


@dataclass
class _Graph:
    """shapes: of all values · constants: by name."""

    shapes: dict[str, Shape]
    constants: dict[str, np.ndarray]

    @staticmethod
    def of(model: ModelProto) -> _Graph:
        constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        return _Graph(_shapes(model) | {n: a.shape for n, a in constants.items()}, constants)

    def constant(self, name: str, value: Any, dtype: type = np.int64) -> str:
        self.constants[name] = np.asarray(value, dtype)
        return name

    def lifted(self, node: NodeProto | None) -> bool:
        """Whether a node gives a value of matches one more axis at its end."""
        if node is None or node.op_type != "Unsqueeze":
            return False
        shape = self.shapes[node.input[0]]
        return shape[:1] == (MATCHES,) and self.constants[node.input[1]].tolist() in ([-1], [len(shape)])


def _shapes(model: ModelProto) -> dict[str, Shape]:
    """Shapes of all values, found by running the graph with two numbers of matches."""
    watched = ModelProto()
    watched.CopyFrom(model)
    known = {o.name for o in model.graph.output}
    names = [n for node in model.graph.node for n in node.output if n and n not in known]
    watched.graph.output.extend(helper.make_empty_tensor_value_info(n) for n in names)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = ort.InferenceSession(watched.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names += known
    found: list[dict[str, np.ndarray]] = []
    for matches in TRIED:
        feed = {}
        for tensor in model.graph.input:
            about = tensor.type.tensor_type
            shape = [d.dim_value or matches for d in about.shape.dim]
            feed[tensor.name] = np.zeros(shape, helper.tensor_dtype_to_np_dtype(about.elem_type))
        found.append(feed | dict(zip(names, session.run(names, feed), strict=True)))
    one, other = found
    return {
        name: tuple(MATCHES if a != b else a for a, b in zip(array.shape, other[name].shape, strict=True))
        for name, array in one.items()
    }


def _needed(nodes: Sequence[NodeProto], outputs: Iterable[str]) -> list[NodeProto]:
    needed, kept = set(outputs), []
    for node in reversed(nodes):
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(node)
    return kept[::-1]


def _made_by(nodes: Iterable[NodeProto]) -> dict[str, NodeProto]:
    return {name: node for node in nodes for name in node.output}


def _attribute(node: NodeProto, name: str, otherwise: Any = None) -> Any:
    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), otherwise)


def _numbers(nodes: list[NodeProto], graph: _Graph) -> list[NodeProto]:
    """Spread numbers as they are; squares as products."""
    numbers: dict[str, str] = {}
    for node in nodes:
        if node.op_type == "Expand" and node.input[0] in graph.constants and graph.constants[node.input[0]].size == 1:
            number = graph.constants[node.input[0]]
            numbers[node.output[0]] = graph.constant(f"{node.input[0]}.number", number.reshape(()), number.dtype.type)
    for node in nodes:
        if node.op_type not in SPREAD:
            continue
        shape = graph.shapes[node.output[0]]
        for i, name in enumerate(node.input):
            if name in numbers and any(graph.shapes[n] == shape for j, n in enumerate(node.input) if j != i):
                node.input[i] = numbers[name]
                graph.shapes[numbers[name]] = ()
        if node.op_type == "Pow" and node.input[1] in graph.constants and (graph.constants[node.input[1]] == 2).all():
            node.op_type = "Mul"
            node.input[1] = node.input[0]
    return nodes


def _gathers(nodes: list[NodeProto], graph: _Graph) -> list[NodeProto]:
    made_by = _made_by(nodes)
    for node in nodes:
        if node.op_type == "GatherND" and graph.lifted(made_by.get(node.input[1])):
            index = made_by[node.input[1]].input[0]
            node.CopyFrom(helper.make_node("Gather", [node.input[0], index], list(node.output), axis=0))
    return nodes


def _stacks(nodes: list[NodeProto], graph: _Graph) -> list[NodeProto]:
    made_by = _made_by(nodes)
    out: list[NodeProto] = []
    for node in nodes:
        last = len(graph.shapes[node.output[0]]) - 1
        if node.op_type == "Concat" and _attribute(node, "axis") in (-1, last):
            out += _stacked(node, made_by, graph)
        out.append(node)
    return out


def _stacked(node: NodeProto, made_by: dict[str, NodeProto], graph: _Graph) -> list[NodeProto]:
    """Nodes that make one part of every run of columns that `node` joins; `node` joins the parts then."""
    out: list[NodeProto] = []
    runs: list[list[str]] = []
    parts: list[str] = []
    for name in node.input:
        lifted = graph.lifted(made_by.get(name))
        if lifted and parts and parts[-1] == "":
            runs[-1].append(made_by[name].input[0])
        elif lifted:
            runs.append([made_by[name].input[0]])
            parts.append("")
        else:
            parts.append(name)
    if max(map(len, runs), default=0) < 3:
        return []
    for i, columns in enumerate(runs):
        name, shape = f"{node.output[0]}.columns.{i}", graph.shapes[columns[0]]
        size = graph.constant(f"{name}.shape", [len(columns), *shape])
        out += [
            helper.make_node("Concat", columns, [f"{name}.joined"], axis=0),
            helper.make_node("Reshape", [f"{name}.joined", size], [f"{name}.rows"]),
            helper.make_node("Transpose", [f"{name}.rows"], [name], perm=[*range(1, len(shape) + 1), 0]),
        ]
        parts[parts.index("")] = name
        graph.shapes |= {f"{name}.rows": (len(columns), *shape), name: (*shape, len(columns))}
    del node.input[:]
    node.input.extend(parts)
    return out


def _products(nodes: list[NodeProto], graph: _Graph) -> list[NodeProto]:
    made_by = _made_by(nodes)
    users: dict[str, int] = {}
    for node in nodes:
        for name in node.input:
            users[name] = users.get(name, 0) + 1
    out: list[NodeProto] = []
    for node in nodes:
        product = next((made_by[n] for n in node.input if n in made_by and made_by[n].op_type == "MatMul"), None)
        if node.op_type == "Add" and product is not None and users[product.output[0]] == 1:
            bias = next(n for n in node.input if n != product.output[0])
            rows, weight = graph.shapes[product.input[0]], product.input[1]
            constant = weight in graph.constants and bias in graph.constants
            if constant and (len(rows), len(graph.shapes[weight]), len(graph.shapes[bias])) == (3, 2, 1):
                out += _gemm(node.output[0], product, bias, graph)
                continue
        out.append(node)
    return out


def _gemm(name: str, product: NodeProto, bias: str, graph: _Graph) -> list[NodeProto]:
    source, weight = product.input
    players, inner = graph.shapes[source][1:]
    flat = graph.constant(f"{name}.flat", [-1, inner])
    shape = graph.constant(f"{name}.shape", [-1, players, graph.shapes[bias][0]])
    return [
        helper.make_node("Reshape", [source, flat], [f"{name}.source"]),
        helper.make_node("Gemm", [f"{name}.source", weight, bias], [f"{name}.product"]),
        helper.make_node("Reshape", [f"{name}.product", shape], [name]),
    ]
