"""An artifact's ONNX graph as a program of few loops, for engines.compiled.

A block of matches is reckoned at once, and the match is the innermost axis of every array: a value of shape (N, 2, 5)
is 10 rows of as many lanes as the block has matches. What only moves numbers about (slices, transposes, reshapes) is
then a view, rows by offset and stride; what does arithmetic is a statement in a loop over rows, and statements over the
same rows share a loop. Products and reductions are steps of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import NodeProto, helper, numpy_helper

from wm_runtime.errors import UserError

MATCHES = 1_000_003
"""Stands for the number of matches in shapes: a prime that no other axis has."""
EXACT = 2**24
"""Sums of whole numbers below this are exact in float32."""
MOST = 48
"""Statements that share a loop at most: more would not fit the registers."""
Sizes = tuple[int, ...]


@dataclass(frozen=True)
class Factor:
    """`size` steps of `stride` rows. That of MATCHES steps goes along the lanes, and has no stride."""

    size: int
    stride: int


Axis = tuple[Factor, ...]
"""Factors of which an axis is made, the outermost first; none for an axis of one."""


@dataclass(eq=False)
class Value:
    """Rows that some step of the program writes, or (`constant`) that are the same for all matches. `kind`: f, i or b.
    `sizes`: of the loop that makes it; `made`, `first`, `last`: number of the step after which it is whole, of the
    first that writes it, of the last that reads it. Not `stored`: needed within its loop alone. `joined`: put together
    of parts, by several statements. `deep`: a product's result, or made of one."""

    kind: str
    sizes: Sizes
    made: int = -1
    first: int = -1
    last: int = -1
    stored: bool = False
    joined: bool = False
    deep: bool = False
    constant: np.ndarray | None = None

    @property
    def rows(self) -> int:
        return prod(self.sizes)


@dataclass(frozen=True)
class View:
    """A value as an array: element (i, j, …) is in row `offset` + i's steps + j's steps …"""

    value: Value
    axes: tuple[Axis, ...]
    offset: int = 0

    @property
    def shape(self) -> Sizes:
        return tuple(prod(f.size for f in axis) for axis in self.axes)


@dataclass(frozen=True)
class Operand:
    """What a statement reads in each turn of its loops: row `offset` + turns · `strides` of a value; with `looked_up`
    (number of another operand, size, stride) also that operand's number of strides further, held within the size."""

    value: Value
    offset: int
    strides: Sizes
    looked_up: tuple[int, int, int] | None = None


@dataclass
class Statement:
    """`text`, with {0}, {1} … for operands, into `value` at row `offset` + turns · `strides`."""

    text: str
    operands: list[Operand]
    value: Value
    offset: int
    strides: Sizes


@dataclass
class Loop:
    """Statements, in order, for every turn of nested loops of these sizes."""

    sizes: Sizes
    statements: list[Statement] = field(default_factory=list)


@dataclass
class Reduction:
    """Outer loops · the loops of `inner` are reduced. `kind`: a key of source.REDUCTIONS. Further operands and
    attributes as that takes them."""

    kind: str
    outer: Sizes
    inner: Sizes
    source: Operand
    out: Value
    others: list[Operand] = field(default_factory=list)
    number: float = 0.0


@dataclass
class Product:
    """`rows` sets of lanes, `stride` rows apart: (…, inner) by `weight` (inner, outer), plus `bias` (outer,) if any.
    `whole`: of whole numbers of at most 8 bits and a sign, whose sums are exact in float32."""

    source: Operand
    rows: int
    stride: int
    weight: np.ndarray
    bias: np.ndarray | None
    out: Value
    whole: bool = False

    @property
    def first(self) -> bool:
        """Whether what it multiplies are features of the game, not what the network made of them."""
        return not self.source.value.deep


Step = Loop | Reduction | Product


@dataclass
class Program:
    """`inputs`: name → what a block's arrays are copied to; `outputs`: name → from where, and whether as one byte."""

    steps: list[Step]
    inputs: dict[str, Value]
    outputs: dict[str, tuple[View, bool]]


def program(path: Path) -> Program:
    """The program of an artifact's file. Raises UserError for a graph that cannot be one."""
    graph = onnx.load(str(path)).graph
    build = _Build(path)
    constant = _constants(graph)
    inputs: dict[str, Value] = {}
    for i in graph.input:
        sizes = tuple(d.dim_value for d in i.type.tensor_type.shape.dim[1:])
        inputs[i.name] = Value(_kind(i.type.tensor_type.elem_type), sizes, stored=True)
        build.views[i.name] = View(inputs[i.name], (_LANES, *_contiguous([_factors(n) for n in sizes])))
    for name, array in constant.items():
        build.constant(name, array)
    for node in graph.node:
        if node.op_type == "DequantizeLinear":
            build.whole[node.output[0]] = node
        if not all(name in constant for name in node.output):
            build.add(node)
    outputs = {}
    for o in graph.output:
        view = build.views[o.name]
        build.read(view.value, len(build.steps))
        outputs[o.name] = view, o.type.tensor_type.elem_type == onnx.TensorProto.BOOL
    return Program(build.steps, inputs, outputs)


def _kind(onnx_type: int) -> str:
    if onnx_type == onnx.TensorProto.BOOL:
        return "b"
    return "f" if onnx_type in _FLOATS else "i"


_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16)


def _constants(graph: onnx.GraphProto) -> dict[str, np.ndarray]:
    """All that does not depend on inputs, as onnxruntime reckons it, by name."""
    found = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    known, nodes = set(found), []
    for node in graph.node:
        if node.op_type != "Shape" and all(name in known for name in node.input if name):
            known.update(node.output)
            nodes.append(node)
    names = [name for node in nodes for name in node.output]
    if names:
        outputs = [helper.make_empty_tensor_value_info(name) for name in names]
        used = {name for node in nodes for name in node.input}
        part = helper.make_graph(nodes, "constants", [], outputs, [t for t in graph.initializer if t.name in used])
        model = helper.make_model(part, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        options = ort.SessionOptions()
        options.log_severity_level, options.graph_optimization_level = 3, ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        found |= zip(names, session.run(names, {}), strict=True)
    return found


# --- axes ------------------------------------------------------------------------------------------------------------

_LANES: Axis = (Factor(MATCHES, 0),)


def _factors(size: int) -> Axis:
    return () if size == 1 else (Factor(size, 0),)


def _contiguous(axes: Sequence[Axis]) -> tuple[Axis, ...]:
    """The same sizes, row by row."""
    out: list[Axis] = []
    stride = 1
    for axis in reversed(axes):
        made: list[Factor] = []
        for factor in reversed(axis):
            lanes = factor.size == MATCHES
            made.insert(0, Factor(factor.size, 0 if lanes else stride))
            stride *= 1 if lanes else factor.size
        out.insert(0, _merged(made))
    return tuple(out)


def _merged(factors: Iterable[Factor]) -> Axis:
    """An axis in as few factors as can be."""
    out: list[Factor] = []
    for f in factors:
        if f.size == 1:
            continue
        if out and MATCHES not in (f.size, out[-1].size) and out[-1].stride == f.size * f.stride:
            out[-1] = Factor(out[-1].size * f.size, f.stride)
        else:
            out.append(f)
    return tuple(out)


def _split(factors: Sequence[Factor], sizes: Sequence[int]) -> list[Axis] | None:
    """A row of factors as axes of these sizes; None where their bounds are not the factors'."""
    left, out = list(factors), []
    for size in sizes:
        axis: list[Factor] = []
        while size > 1:
            if not left:
                return None
            f = left.pop(0)
            if f.size > size:
                if f.size % size or f.size == MATCHES:
                    return None
                left.insert(0, Factor(f.size // size, f.stride))
                f = Factor(size, f.stride * (f.size // size))
            if size % f.size:
                return None
            axis.append(f)
            size //= f.size
        out.append(_merged(axis))
    return None if left else out


def _aligned(views: Sequence[View]) -> list[list[Axis]]:
    """Axes of views that are spread over one another, each of as many axes, of the same factors or none."""
    rank = max(len(v.axes) for v in views)
    padded = [[()] * (rank - len(v.axes)) + list(v.axes) for v in views]
    for i in range(rank):
        held = {tuple(f.size for f in axes[i]) for axes in padded if axes[i]}
        if len(held) > 1:
            finest = max(held, key=len)
            for axes in padded:
                if axes[i]:
                    parts = _split(axes[i], finest)
                    if parts is None:
                        raise UserError("shapes that the compiled engine cannot bring together; use the engine onnx")
                    axes[i] = tuple(f for part in parts for f in part)
    return padded


def _turns(axes: Iterable[Axis]) -> tuple[Sizes, Sizes]:
    """Sizes and strides of the loops over axes, without the lanes."""
    factors = [f for axis in axes for f in axis if f.size != MATCHES]
    return tuple(f.size for f in factors), tuple(f.stride for f in factors)


# --- graph to program ------------------------------------------------------------------------------------------------


class _Build:
    def __init__(self, path: Path):
        self.path = path
        self.views: dict[str, View] = {}
        self.known: dict[str, np.ndarray] = {}
        """Constants and shapes, by name."""
        self.whole: dict[str, NodeProto] = {}
        """What is whole numbers on a scale, by name: the node that says which."""
        self.steps: list[Step] = []
        self.loops: dict[Sizes, list[int]] = {}

    def constant(self, name: str, array: np.ndarray) -> None:
        self.known[name] = array
        kind = "b" if array.dtype == bool else "f" if array.dtype.kind == "f" else "i"
        if kind == "i":
            array = np.clip(array, -(2**31), 2**31 - 1)
        stored = np.ascontiguousarray(array, np.float32 if kind == "f" else np.int32) * (-1 if kind == "b" else 1)
        value = Value(kind, tuple(n for n in array.shape if n != 1), constant=stored)
        self.views[name] = View(value, _contiguous([_factors(n) for n in array.shape]))

    def add(self, node: NodeProto) -> None:
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        names = [n for n in node.input if n]
        if node.op_type == "Shape":
            shape = self.views[node.input[0]].shape[attributes.get("start", 0) : attributes.get("end")]
            self.known[node.output[0]] = np.array(shape, np.int64)
        elif node.op_type == "Concat" and all(n in self.known for n in names):
            self.known[node.output[0]] = np.concatenate([self.known[n] for n in names], attributes["axis"])
        elif node.op_type in ELEMENTWISE:
            if node.op_type == "QuantizeLinear" and self.known[names[2]].dtype != np.uint8:
                raise self.cannot("no whole numbers but of 8 bits without a sign")
            views = [self.views[n] for n in names]
            text, kind = ELEMENTWISE[node.op_type](views, attributes, node)
            self.views[node.output[0]] = self.spread(text, kind, views)
        elif node.op_type in OTHERS:
            found = OTHERS[node.op_type](self, node, attributes)
            self.views |= zip(node.output, found if isinstance(found, list) else [found], strict=True)
        else:
            raise self.cannot(f"no operator {node.op_type}")

    def cannot(self, what: str) -> UserError:
        return UserError(f"{self.path}: the compiled engine has {what}; use the engine onnx")

    def read(self, value: Value, step: int) -> None:
        value.last = max(value.last, step)
        if value.made != step:
            value.stored = True

    def step(self, step: Reduction | Product, sources: list[Operand]) -> None:
        """One more step, which writes `step.out` whole."""
        number = len(self.steps)
        for source in sources:
            self.read(source.value, number)
        step.out.deep = isinstance(step, Product) or any(s.value.deep for s in sources)
        step.out.made = step.out.first = number
        step.out.stored = True
        self.steps.append(step)

    def place(self, statement: Statement, sizes: Sizes) -> int:
        """A statement into the first loop of its sizes that comes after all it reads. Returns the loop's number."""
        least = 0
        for operand in statement.operands:
            value = operand.value
            same = operand.looked_up is None and operand.offset == 0 and value.sizes == sizes and value.made >= 0
            same = same and not value.joined and operand.strides == _row_major(sizes)
            least = max(least, value.made if same else value.made + 1)
        candidates = self.loops.setdefault(sizes, [])
        number = next((i for i in candidates if i >= least and len(self._loop(i).statements) < MOST), len(self.steps))
        if number == len(self.steps):
            self.steps.append(Loop(sizes))
            candidates.append(number)
        self._loop(number).statements.append(statement)
        for operand in statement.operands:
            self.read(operand.value, number)
            statement.value.deep |= operand.value.deep
        return number

    def _loop(self, number: int) -> Loop:
        step = self.steps[number]
        assert isinstance(step, Loop)
        return step

    def statement(self, text: str, kind: str, axes: Sequence[Axis], operands: list[Operand]) -> View:
        """A statement for every element of these axes (their strides are not looked at); its value."""
        out = _contiguous(axes)
        sizes, _ = _turns(axes)
        value = Value(kind, sizes)
        value.made = value.first = self.place(Statement(text, operands, value, 0, _row_major(sizes)), sizes)
        return View(value, out)

    def spread(self, text: str, kind: str, views: list[View]) -> View:
        """A statement over views that are spread over one another."""
        aligned = _aligned(views)
        axes = [next((a for a in column if a), ()) for column in zip(*aligned, strict=True)]
        operands = [Operand(v.value, v.offset, _strides(axes, mine)) for v, mine in zip(views, aligned, strict=True)]
        return self.statement(text, kind, axes, operands)

    def copied(self, view: View) -> View:
        return self.spread("{0}", view.value.kind, [view])

    def concat(self, parts: list[View], axis: int) -> View:
        axis %= len(parts[0].axes)
        others = [View(p.value, (*p.axes[:axis], (), *p.axes[axis + 1 :]), p.offset) for p in parts]
        aligned = _aligned(others)
        common = [next((a for a in column if a), ()) for column in zip(*aligned, strict=True)]
        lanes = any(f.size == MATCHES for p in parts for f in p.axes[axis])
        total = len(parts) if lanes else sum(p.shape[axis] for p in parts)
        joined = (*_factors(total), *_LANES) if lanes else _factors(total)
        out = _contiguous([*common[:axis], joined, *common[axis + 1 :]])
        value = Value(parts[0].value.kind, _turns(out)[0], stored=True, joined=True)
        step = next((f.stride for f in out[axis] if f.size != MATCHES), 0)
        at = 0
        for part, mine in zip(parts, aligned, strict=True):
            here = part.axes[axis]
            within = [
                Factor(f.size, 0 if f.size == MATCHES else step * passed)
                for f, passed in zip(here, _steps(here), strict=True)
            ]
            axes = [*common[:axis], here, *common[axis + 1 :]]
            target = [*out[:axis], tuple(within), *out[axis + 1 :]]
            source = [*mine[:axis], here, *mine[axis + 1 :]]
            operand = Operand(part.value, part.offset, _strides(axes, source))
            statement = Statement("{0}", [operand], value, at * step, _strides(axes, target))
            made = self.place(statement, _turns(axes)[0])
            value.first = made if at == 0 else min(value.first, made)
            value.made = max(value.made, made)
            at += 1 if lanes else part.shape[axis]
        return View(value, out)


def _steps(axis: Axis) -> list[int]:
    """Elements of an axis that one step of each of its factors passes."""
    return [prod(f.size for f in axis[i + 1 :]) for i in range(len(axis))]


def _row_major(sizes: Sizes) -> Sizes:
    return tuple(prod(sizes[i + 1 :]) for i in range(len(sizes)))


def _strides(axes: Sequence[Axis], mine: Sequence[Axis]) -> Sizes:
    """Strides of `mine` along the loops over `axes`: 0 where it has no factor."""
    out: list[int] = []
    for axis, own in zip(axes, mine, strict=True):
        held = own or tuple(Factor(f.size, 0) for f in axis)
        out += [f.stride for f in held if f.size != MATCHES]
    return tuple(out)


# --- operators: views ------------------------------------------------------------------------------------------------


def _known(b: _Build, node: NodeProto, i: int) -> list[int] | None:
    if i >= len(node.input) or not node.input[i]:
        return None
    if node.input[i] not in b.known:
        raise b.cannot(f"no {node.op_type} that is not known beforehand")
    return b.known[node.input[i]].reshape(-1).tolist()


def _reshape(b: _Build, node: NodeProto, attributes: dict[str, Any]) -> View:
    view, sizes = b.views[node.input[0]], _known(b, node, 1) or []
    sizes = [view.shape[i] if n == 0 and not attributes.get("allowzero") else n for i, n in enumerate(sizes)]
    if -1 in sizes:
        sizes[sizes.index(-1)] = prod(view.shape) // prod(n for n in sizes if n != -1)
    axes = _split([f for axis in view.axes for f in axis], sizes)
    if axes is None:
        view = b.copied(view)
        axes = _split(_merged(f for axis in view.axes for f in axis), sizes)
    if axes is None:
        raise b.cannot(f"no Reshape of {view.shape} to {sizes}")
    return View(view.value, tuple(axes), view.offset)


def _transpose(b: _Build, node: NodeProto, attributes: dict[str, Any]) -> View:
    view = b.views[node.input[0]]
    order = attributes.get("perm") or range(len(view.axes))[::-1]
    return View(view.value, tuple(view.axes[i] for i in order), view.offset)


def _unsqueeze(b: _Build, node: NodeProto, attributes: dict[str, Any]) -> View:
    view, at = b.views[node.input[0]], _known(b, node, 1) or []
    axes = list(view.axes)
    for i in sorted(a % (len(view.axes) + len(at)) for a in at):
        axes.insert(i, ())
    return View(view.value, tuple(axes), view.offset)


def _squeeze(b: _Build, node: NodeProto, attributes: dict[str, Any]) -> View:
    view, at = b.views[node.input[0]], _known(b, node, 1)
    gone = {a % len(view.axes) for a in at} if at is not None else {i for i, a in enumerate(view.axes) if not a}
    return View(view.value, tuple(a for i, a in enumerate(view.axes) if i not in gone), view.offset)


def _expand(b: _Build, node: NodeProto, attributes: dict[str, Any]) -> View:
    view, sizes = b.views[node.input[0]], _known(b, node, 1) or []
    rank = max(len(sizes), len(view.axes))
    axes = [()] * (rank - len(view.axes)) + list(view.axes)
    wanted = [1] * (rank - len(sizes)) + sizes
    spread = [a or _factors(n) for a, n in zip(axes, wanted, strict=True)]
    return View(view.value, tuple(spread), view.offset)


def _one(b: _Build, view: View, axis: int) -> tuple[View, Factor]:
    """The view and an axis of it, as one factor."""
    for v in (view, b.copied(view)) if len(view.axes[axis]) > 1 else (view,):
        if len(v.axes[axis]) <= 1:
            factor = v.axes[axis][0] if v.axes[axis] else Factor(1, 0)
            if factor.size != MATCHES:
                return v, factor
    raise b.cannot("no slice of matches")


def _part(view: View, axis: int, start: int, step: int, count: int, factor: Factor) -> View:
    axes = list(view.axes)
    axes[axis] = _merged([Factor(count, factor.stride * step)])
    return View(view.value, tuple(axes), view.offset + start * factor.stride)


def _slice(b: _Build, node: NodeProto, attributes: dict[str, Any]) -> View:
    view = b.views[node.input[0]]
    starts, ends = _known(b, node, 1) or [], _known(b, node, 2) or []
    axes = _known(b, node, 3) or list(range(len(starts)))
    for start, end, axis, step in zip(starts, ends, axes, _known(b, node, 4) or [1] * len(axes), strict=True):
        axis %= len(view.axes)
        view, factor = _one(b, view, axis)
        if step < 0 and end < -factor.size:
            chosen = range(factor.size)[start::step]
        else:
            chosen = range(factor.size)[start:end:step]
        view = _part(view, axis, chosen.start, step, len(chosen), factor)
    return view


def _split_up(b: _Build, node: NodeProto, attributes: dict[str, Any]) -> list[View]:
    view = b.views[node.input[0]]
    axis = attributes.get("axis", 0) % len(view.axes)
    view, factor = _one(b, view, axis)
    sizes = _known(b, node, 1) or [-(-factor.size // len(node.output))] * len(node.output)
    starts = np.cumsum([0, *sizes[:-1]]).tolist()
    return [_part(view, axis, start, 1, n, factor) for start, n in zip(starts, sizes, strict=True)]


def _gather(b: _Build, node: NodeProto, attributes: dict[str, Any]) -> View:
    view, index = b.views[node.input[0]], b.views[node.input[1]]
    axis = attributes.get("axis", 0) % len(view.axes)
    if node.op_type == "GatherND":
        if index.shape[-1] != 1 or attributes.get("batch_dims"):
            raise b.cannot("no GatherND by more than one index")
        index = View(index.value, index.axes[:-1], index.offset)
    view, factor = _one(b, view, axis)
    chosen = b.known.get(node.input[1])
    if chosen is not None:
        if chosen.ndim > 1 and node.op_type == "Gather":
            raise b.cannot("no Gather by a table of indices")
        parts = [_part(view, axis, int(i) % factor.size, 1, 1, factor) for i in chosen.reshape(-1)]
        if chosen.ndim == 0:
            return View(parts[0].value, (*view.axes[:axis], *view.axes[axis + 1 :]), parts[0].offset)
        return b.concat(parts, axis)
    if view.value.constant is None:
        raise b.cannot("no Gather of what depends on the match by what depends on it")
    axes = [*view.axes[:axis], *index.axes, *view.axes[axis + 1 :]]
    around = [*view.axes[:axis], *[()] * len(index.axes), *view.axes[axis + 1 :]]
    by = [*[()] * axis, *index.axes, *[()] * (len(view.axes) - axis - 1)]
    return b.statement("{1}", view.value.kind, axes, [
        Operand(index.value, index.offset, _strides(axes, by)),
        Operand(view.value, view.offset, _strides(axes, around), (0, factor.size, factor.stride)),
    ])  # fmt: skip


def _gather_elements(b: _Build, node: NodeProto, attributes: dict[str, Any]) -> View:
    view, index = b.views[node.input[0]], b.views[node.input[1]]
    axis = attributes.get("axis", 0) % len(view.axes)
    view, factor = _one(b, view, axis)
    around, by = _aligned([View(view.value, (*view.axes[:axis], (), *view.axes[axis + 1 :]), view.offset), index])
    return b.statement("{1}", view.value.kind, by, [
        Operand(index.value, index.offset, _strides(by, by)),
        Operand(view.value, view.offset, _strides(by, around), (0, factor.size, factor.stride)),
    ])  # fmt: skip


# --- operators: reductions and products ------------------------------------------------------------------------------


def _reduce(kind: str) -> Callable[[_Build, NodeProto, dict[str, Any]], View]:
    def build(b: _Build, node: NodeProto, attributes: dict[str, Any]) -> View:
        view = b.views[node.input[0]]
        if view.value.kind == "b":
            raise b.cannot(f"no {kind} of truths")
        at = [attributes.get("axis", 0)] if kind == "ArgMax" else _known(b, node, 1) or list(range(len(view.axes)))
        gone = {a % len(view.axes) for a in at}
        kept = [() if i in gone else axis for i, axis in enumerate(view.axes)]
        inner, strides = _turns(view.axes[i] for i in sorted(gone))
        outer, kept_strides = _turns(kept)
        value = Value("i" if kind == "ArgMax" else view.value.kind, outer)
        source = Operand(view.value, view.offset, (*kept_strides, *strides))
        b.step(Reduction(kind, outer, inner, source, value), [source])
        out = _contiguous(kept)
        if not attributes.get("keepdims", 1):
            out = tuple(axis for i, axis in enumerate(out) if i not in gone)
        return View(value, out)

    return build


def _arg_min(b: _Build, node: NodeProto, attributes: dict[str, Any]) -> View:
    view = b.views[node.input[0]]
    b.views[negative := f"{node.output[0]}.negative"] = b.spread("-{0}", view.value.kind, [view])
    return _reduce("ArgMax")(b, helper.make_node("ArgMax", [negative], list(node.output)), attributes)


def _along_last(kind: str) -> Callable[[_Build, NodeProto, dict[str, Any]], View]:
    """What makes of every row of the last axis another."""

    def build(b: _Build, node: NodeProto, attributes: dict[str, Any]) -> View:
        view = b.views[node.input[0]]
        if attributes.get("axis", -1) not in (-1, len(view.axes) - 1):
            raise b.cannot(f"no {kind} along another axis than the last")
        outer, outer_strides = _turns(view.axes[:-1])
        inner, strides = _turns(view.axes[-1:])
        value = Value("f", (*outer, *inner))
        source = Operand(view.value, view.offset, (*outer_strides, *strides))
        others = []
        for name in node.input[1:]:
            if name:
                v = b.views[name]
                others.append(Operand(v.value, v.offset, (*[0] * len(outer), *_turns(v.axes)[1])))
        b.step(Reduction(kind, outer, inner, source, value, others, attributes.get("epsilon", 0.0)), [source])
        return View(value, _contiguous(view.axes))

    return build


def _product_of_whole(b: _Build, node: NodeProto) -> View | None:
    """A product of whole numbers on scales: that of the numbers, which is exact, and then the scales. None for one that
    is not."""
    activation, weight = (b.whole.get(name) for name in node.input[:2])
    if activation is None or weight is None or weight.input[0] not in b.known:
        return None
    numbers = b.known[weight.input[0]].astype(np.float32) - b.known[weight.input[2]].astype(np.float32)
    if 255 * np.abs(numbers).sum(axis=0).max() >= EXACT:
        return None
    views = [b.views[name] for name in (activation.input[0], activation.input[2])]
    sums = _product_with(b, b.spread("{0} - to_float({1})", "f", views), numbers, None, whole=True)
    b.constant(name := f"{node.output[0]}.scales", b.known[activation.input[1]] * b.known[weight.input[1]])
    return b.spread("{0} * {1}", "f", [sums, b.views[name]])


def _product(b: _Build, node: NodeProto, attributes: dict[str, Any]) -> View:
    if node.op_type == "MatMul" and (found := _product_of_whole(b, node)) is not None:
        return found
    view, weight = b.views[node.input[0]], b.known.get(node.input[1])
    bias = b.known.get(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    plain = all(attributes.get(n, 1.0) == 1.0 for n in ("alpha", "beta")) and not attributes.get("transA")
    if weight is None or weight.ndim != 2 or not plain or (len(node.input) > 2 and bias is None):
        raise b.cannot("no product but that of rows and constant weights")
    return _product_with(b, view, weight.T if attributes.get("transB") else weight, bias)


def _product_with(b: _Build, view: View, weight: np.ndarray, bias: np.ndarray | None, whole: bool = False) -> View:
    rows, strides = _turns(view.axes[:-1])
    if len(view.axes[-1]) != 1 or len(rows) > 1:
        view = b.copied(view)
        rows, strides = _turns([_merged(f for axis in view.axes[:-1] for f in axis if f.size != MATCHES)])
    (inner,) = view.axes[-1]
    axes = _contiguous([*view.axes[:-1], _factors(weight.shape[1])])
    value = Value("f", _turns(axes)[0])
    source = Operand(view.value, view.offset, (inner.stride,))
    if bias is not None:
        bias = np.broadcast_to(bias.reshape(-1), weight.shape[1:]).astype(np.float32)
    made = Product(source, prod(rows), strides[0] if rows else 0, np.asarray(weight, np.float32), bias, value, whole)
    b.step(made, [source])
    return View(value, axes)


# --- operators: arithmetic -------------------------------------------------------------------------------------------

Text = Callable[[list[View], dict[str, Any], NodeProto], tuple[str, str]]


def _kinds(floats: str, integers: str | None = None, kind: str | None = None) -> Text:
    """Text by the first operand's kind, and the kind of what comes out: the first operand's, or this one."""

    def text(views: list[View], attributes: dict[str, Any], node: NodeProto) -> tuple[str, str]:
        first = views[0].value.kind
        return (floats if first == "f" or integers is None else integers), kind or first

    return text


def _many(name: str) -> Text:
    def text(views: list[View], attributes: dict[str, Any], node: NodeProto) -> tuple[str, str]:
        out = "{0}"
        for i in range(1, len(views)):
            out = f"{name}({out}, {{{i}}})"
        return out, views[0].value.kind

    return text


def _cast(views: list[View], attributes: dict[str, Any], node: NodeProto) -> tuple[str, str]:
    before, kind = views[0].value.kind, _kind(attributes["to"])
    return CASTS.get(before + kind, "{0}"), kind


CASTS = {
    "fi": "to_int({0})", "if": "to_float({0})", "bf": "to_float(-{0})", "bi": "-{0}", "fb": "ne({0}, all(0.0f))",
    "ib": "ne({0}, all(0))",
}  # fmt: skip


def _clip(views: list[View], attributes: dict[str, Any], node: NodeProto) -> tuple[str, str]:
    given = [len(node.input) > i and bool(node.input[i]) for i in (1, 2)]
    text = "{0}"
    if given[0]:
        text = "least_of({0}, {1})"
    if given[1]:
        text = f"most_of({text}, {{{1 + given[0]}}})"
    return text, views[0].value.kind


def _is_inf(views: list[View], attributes: dict[str, Any], node: NodeProto) -> tuple[str, str]:
    signs = [("detect_negative", "eq({0}, all(-INFINITY))"), ("detect_positive", "eq({0}, all(INFINITY))")]
    return " | ".join(text for name, text in signs if attributes.get(name, 1)) or "all(0)", "b"


ELEMENTWISE: dict[str, Text] = {
    "Abs": _kinds("size_of({0})"), "Add": _kinds("{0} + {1}"), "And": _kinds("{0} & {1}"),
    "BitwiseAnd": _kinds("{0} & {1}"), "BitwiseOr": _kinds("{0} | {1}"), "Cast": _cast, "Clip": _clip,
    "Atan": _kinds("by_lane([](float x) {{ return std::atan(x); }}, {0})"),
    "Cos": _kinds("by_lane([](float x) {{ return std::cos(x); }}, {0})"),
    "DequantizeLinear": lambda views, _, __: ("({0} - to_float({2})) * {1}", "f"),
    "QuantizeLinear": lambda views, _, __: (
        "most_of(least_of(nearest({0} / {1}) + to_float({2}), all(0.0f)), all(255.0f))", "f"
    ),
    "Div": _kinds("{0} / {1}", "quotient({0}, {1})"), "Equal": _kinds("eq({0}, {1})", kind="b"),
    "Exp": _kinds("exp_of({0})"), "Floor": _kinds("down({0})"), "Greater": _kinds("gt({0}, {1})", kind="b"),
    "GreaterOrEqual": _kinds("ge({0}, {1})", kind="b"), "IsInf": _is_inf, "IsNaN": _kinds("ne({0}, {0})", kind="b"),
    "Less": _kinds("lt({0}, {1})", kind="b"), "LessOrEqual": _kinds("le({0}, {1})", kind="b"),
    "Log": _kinds("log_of({0})"), "Max": _many("larger"), "Min": _many("smaller"),
    "Mod": _kinds("by_lane([](float x, float y) {{ return std::fmod(x, y); }}, {0}, {1})", "remainder_of({0}, {1})"),
    "Mul": _kinds("{0} * {1}"), "Neg": _kinds("-{0}"), "Not": _kinds("~{0}"), "Or": _kinds("{0} | {1}"),
    "Pow": _kinds("by_lane([](float x, float y) {{ return std::pow(x, y); }}, {0}, {1})"),
    "Reciprocal": _kinds("1.0f / {0}"), "Relu": _kinds("least_of({0}, all(0.0f))"), "Round": _kinds("nearest({0})"),
    "Sigmoid": _kinds("sigmoid_of({0})"), "Sign": _kinds("sign_of({0})"),
    "Sin": _kinds("by_lane([](float x) {{ return std::sin(x); }}, {0})"), "Softplus": _kinds("softplus_of({0})"),
    "Sqrt": _kinds("root({0})"), "Sub": _kinds("{0} - {1}"), "Tanh": _kinds("tanh_of({0})"),
    "Where": lambda views, _, __: ("choose({0}, {1}, {2})", views[1].value.kind), "Xor": _kinds("{0} ^ {1}"),
}  # fmt: skip

OTHERS: dict[str, Callable[[_Build, NodeProto, dict[str, Any]], View | list[View]]] = {
    "ArgMax": _reduce("ArgMax"), "ArgMin": _arg_min,
    "Concat": lambda b, node, a: b.concat([b.views[n] for n in node.input], a["axis"]),
    "Expand": _expand, "Gather": _gather, "GatherElements": _gather_elements, "GatherND": _gather, "Gemm": _product,
    "Identity": lambda b, node, a: b.views[node.input[0]],
    "LayerNormalization": _along_last("LayerNormalization"), "LogSoftmax": _along_last("LogSoftmax"),
    "MatMul": _product, "ReduceLogSumExp": _reduce("ReduceLogSumExp"), "ReduceMax": _reduce("ReduceMax"),
    "ReduceMean": _reduce("ReduceMean"), "ReduceMin": _reduce("ReduceMin"), "ReduceSum": _reduce("ReduceSum"),
    "Reshape": _reshape, "Slice": _slice, "Softmax": _along_last("Softmax"), "Split": _split_up, "Squeeze": _squeeze,
    "Transpose": _transpose, "Unsqueeze": _unsqueeze,
}  # fmt: skip
