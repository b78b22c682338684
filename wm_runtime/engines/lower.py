"""An artifact's ONNX graph as a torch module: node for node the same arithmetic, differentiable where it is smooth.

Weights come from the artifact alone. What follows from constants is reckoned once, when the graph is read. Classes,
comparisons and choices have no gradient; what was chosen has that of its own formula.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import onnx
import torch
import torch.nn.functional as F
from onnx import helper, numpy_helper
from torch import Tensor, fx, nn

from wm_runtime.errors import UserError


@dataclass(frozen=True)
class Op:
    """`run(*inputs, **attributes)` → output(s); the inputs at `known` must be constants and come as lists or numbers,
    the one at `index` comes as a number where it is one and constant. `steep`: its slope may be infinite, or that of a
    number that is none."""

    run: Callable[..., Any]
    known: tuple[int, ...] = ()
    index: int = -1
    steep: bool = False


def lower(path: Path, differentiable: bool = False, products: torch.dtype = torch.float32) -> fx.GraphModule:
    """The graph of an artifact's file as a module: its inputs in order → its outputs in order, as a tuple.

    `differentiable`: gradients that are no finite number count as 0: those of √ at 0, and of a formula that cannot be
    reckoned here and was not chosen. `products`: the type of what products with weights multiply; they add up in
    float32. Raises UserError for a graph with an operator that is not in OPS.
    """
    graph = onnx.load(str(path)).graph
    constants = {t.name: _tensor(t) for t in graph.initializer}
    out, root = fx.Graph(), nn.Module()
    values: dict[str, fx.Node] = {i.name: out.placeholder(_name(i.name)) for i in graph.input}
    sizes: set[str] = set()
    """Outputs that are shapes: tuples of whole numbers, not tensors."""

    def value(name: str) -> fx.Node:
        if name not in values:
            with out.inserting_before(next(iter(out.nodes))):
                root.register_buffer(_name(name), constants[name], persistent=False)
                values[name] = out.get_attr(_name(name))
        return values[name]

    for node in graph.node:
        if node.op_type not in OPS:
            raise UserError(f"{path}: the torch engine has no operator {node.op_type}; use the engine onnx")
        op = OPS[node.op_type]
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type == "Split":
            attributes["num_outputs"] = len(node.output)
        names = list(node.input)
        if all(name in constants for name in names if name) and node.op_type != "Shape":
            found = op.run(*[_known(constants, n) if i in op.known else constants.get(n) for i, n in enumerate(names)],
                           **attributes)  # fmt: skip
            constants |= zip(node.output, found if len(node.output) > 1 else (found,), strict=True)
            continue
        if any(name in sizes for name in names) and node.op_type == "Concat":
            parts = [values[n] if n in sizes else tuple(_known(constants, n)) for n in names]
            made = out.call_function(_join_sizes, tuple(parts))
            sizes.add(node.output[0])
        else:
            arguments: list[Any] = []
            for i, name in enumerate(names):
                if not name:
                    arguments.append(None)
                elif (i in op.known and name not in sizes) or (i == op.index and _is_number(constants.get(name))):
                    arguments.append(_known(constants, name))
                else:
                    arguments.append(value(name))
            if differentiable and op.steep:
                arguments = [out.call_function(finite, (a,)) if isinstance(a, fx.Node) else a for a in arguments]
            run = op.run
            if products != torch.float32 and node.op_type in COARSE and _is_weight(constants.get(names[1])):
                constants[coarse := f"{names[1]}.{products}"] = constants[names[1]].to(products)
                arguments[1], run = value(coarse), COARSE[node.op_type]
            made = out.call_function(run, tuple(arguments), attributes)
            if node.op_type == "Shape":
                sizes.add(node.output[0])
        if len(node.output) == 1:
            values[node.output[0]] = made
        else:
            values |= {n: out.call_function(operator.getitem, (made, i)) for i, n in enumerate(node.output)}
    out.output(tuple(value(o.name) for o in graph.output))
    return fx.GraphModule(root, out)


class _Finite(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Tensor:
        return torch.nan_to_num(slopes[0], 0.0, 0.0, 0.0)


def finite(x: Tensor) -> Tensor:
    """x, with a gradient in which what is no finite number is 0."""
    return _Finite.apply(x) if x.is_floating_point() else x


def _tensor(constant: onnx.TensorProto) -> Tensor:
    return torch.from_numpy(numpy_helper.to_array(constant).copy())


def _is_number(constant: Tensor | None) -> bool:
    return constant is not None and constant.dim() == 0


def _is_weight(constant: Tensor | None) -> bool:
    return constant is not None and constant.dim() == 2 and constant.dtype == torch.float32


def _known(constants: dict[str, Tensor], name: str) -> Any:
    if not name:
        return None
    if name not in constants:
        raise UserError(f"{name}: the torch engine takes no shape that is not known beforehand; use the engine onnx")
    return constants[name].tolist()


def _name(name: str) -> str:
    return "_" + "".join(c if c.isalnum() else "_" for c in name)


# --- operators -------------------------------------------------------------------------------------------------------


def _axes_of(x: Tensor, axes: Sequence[int] | None) -> list[int]:
    return list(range(x.dim())) if axes is None else list(axes)


def _cast(x: Tensor, to: int) -> Tensor:
    return x.to(_DTYPES[to])


def _clip(x: Tensor, low: float | None = None, high: float | None = None) -> Tensor:
    return x.clamp(low, high)


def _concat(*parts: Tensor, axis: int) -> Tensor:
    return torch.cat(parts, dim=axis)


def _div(a: Tensor, b: Tensor) -> Tensor:
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


def _expand(x: Tensor, shape: Sequence[int]) -> Tensor:
    return x.expand(torch.broadcast_shapes(x.shape, tuple(shape)))


def _at(x: Tensor, axis: int, index: Any) -> Any:
    """The index of x that is `index` along an axis."""
    return (slice(None),) * (axis % x.dim()) + (index,)


def _gather(x: Tensor, index: Tensor | int, axis: int = 0) -> Tensor:
    if isinstance(index, int):
        return x.select(axis, index)
    return x[_at(x, axis, index.long())]


def _gather_nd(x: Tensor, index: Tensor, batch_dims: int = 0) -> Tensor:
    assert batch_dims == 0
    return x[tuple(index.long().unbind(dim=-1))]


def _gather_elements(x: Tensor, index: Tensor, axis: int = 0) -> Tensor:
    return x.gather(axis, index.long())


def _gemm(
    a: Tensor, b: Tensor, c: Tensor | None = None, alpha: float = 1.0, beta: float = 1.0, transA: int = 0,
    transB: int = 0, times: Callable[[Tensor, Tensor], Tensor] = torch.matmul,
) -> Tensor:  # fmt: skip
    out = times(a.T if transA else a, b.T if transB else b) * alpha
    return out if c is None else out + c * beta


def product(x: Tensor, weight: Tensor) -> Tensor:
    """x (…, inner) in the type of `weight` (inner, outer), by that; sums and result are float32. On a CPU the rounded
    numbers are multiplied in float32, which comes to the same."""
    rows = x.flatten(0, -2).to(weight.dtype)
    out = torch.mm(rows, weight, out_dtype=torch.float32) if x.is_cuda else rows.float() @ weight.float()
    return out.unflatten(0, x.shape[:-1])


def _coarse_gemm(a: Tensor, b: Tensor, c: Tensor | None = None, **attributes: Any) -> Tensor:
    return _gemm(a, b, c, times=product, **attributes)


def _layer_norm(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1
) -> Tensor:
    return F.layer_norm(x, x.shape[axis:], weight, bias, epsilon)


def _reduce(run: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def reduced(
        x: Tensor, axes: Sequence[int] | None = None, keepdims: int = 1, noop_with_empty_axes: int = 0
    ) -> Tensor:
        return run(x, dim=_axes_of(x, axes), keepdim=bool(keepdims))

    return reduced


def _sum(x: Tensor, dim: list[int], keepdim: bool) -> Tensor:
    return x.sum(dim=dim, keepdim=keepdim, dtype=x.dtype)


def _arg_max(x: Tensor, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    return x.argmax(dim=axis, keepdim=bool(keepdims))


def _arg_min(x: Tensor, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    return x.argmin(dim=axis, keepdim=bool(keepdims))


def _mod(a: Tensor, b: Tensor, fmod: int = 0) -> Tensor:
    return torch.fmod(a, b) if fmod else torch.remainder(a, b)


def _is_inf(x: Tensor, detect_negative: int = 1, detect_positive: int = 1) -> Tensor:
    return x.isinf() & (((x < 0) & bool(detect_negative)) | ((x > 0) & bool(detect_positive)))


def _join_sizes(*parts: Sequence[int]) -> tuple[int, ...]:
    return tuple(n for part in parts for n in part)


def _many(run: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    def over(*parts: Tensor) -> Tensor:
        return reduce(run, parts)

    return over


def _reshape(x: Tensor, shape: Sequence[int], allowzero: int = 0) -> Tensor:
    return x.reshape(tuple(x.shape[i] if n == 0 and not allowzero else n for i, n in enumerate(shape)))


def _shape(x: Tensor, start: int = 0, end: int | None = None) -> tuple[int, ...]:
    return tuple(x.shape)[start:end]


def _slice(
    x: Tensor, starts: list[int], ends: list[int], axes: list[int] | None = None, steps: list[int] | None = None
) -> Tensor:
    for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
        axis, step = axes[i] if axes else i, steps[i] if steps else 1
        if step < 0:
            index = range(x.shape[axis])[max(start, -x.shape[axis]) : end if end > -x.shape[axis] else None : step]
            x = x.flip(axis) if len(index) == x.shape[axis] else x.index_select(axis, torch.tensor(list(index)))
        else:
            x = x[_at(x, axis, slice(start, end, step))]
    return x


def _softmax(x: Tensor, axis: int = -1) -> Tensor:
    return x.softmax(dim=axis)


def _log_softmax(x: Tensor, axis: int = -1) -> Tensor:
    return x.log_softmax(dim=axis)


def _split(x: Tensor, sizes: list[int] | None = None, axis: int = 0, num_outputs: int = 0) -> tuple[Tensor, ...]:
    return x.split(sizes or -(-x.shape[axis] // num_outputs), dim=axis)


def _squeeze(x: Tensor, axes: list[int] | None = None) -> Tensor:
    return x.squeeze() if axes is None else x.squeeze(tuple(axes))


def _unsqueeze(x: Tensor, axes: list[int]) -> Tensor:
    dims = x.dim() + len(axes)
    for axis in sorted(a % dims for a in axes):
        x = x.unsqueeze(axis)
    return x


def _transpose(x: Tensor, perm: Sequence[int] | None = None) -> Tensor:
    return x.permute(*(perm or range(x.dim())[::-1]))


def _cum_sum(x: Tensor, axis: int, exclusive: int = 0, reverse: int = 0) -> Tensor:
    assert not exclusive
    return x.flip(axis).cumsum(axis).flip(axis) if reverse else x.cumsum(axis)


def _quantize(x: Tensor, scale: Tensor, zero: Tensor, axis: int = 1) -> Tensor:
    bounds = torch.iinfo(zero.dtype)
    return ((x / scale).round() + zero).clamp(bounds.min, bounds.max).to(zero.dtype)


def _dequantize(x: Tensor, scale: Tensor, zero: Tensor, axis: int = 1) -> Tensor:
    assert scale.dim() == 0 or axis % x.dim() == x.dim() - 1
    return (x.float() - zero.float()) * scale


_DTYPES: dict[int, torch.dtype] = {
    onnx.TensorProto.FLOAT: torch.float32, onnx.TensorProto.FLOAT16: torch.float16, onnx.TensorProto.BOOL: torch.bool,
    onnx.TensorProto.DOUBLE: torch.float64, onnx.TensorProto.INT32: torch.int32, onnx.TensorProto.INT64: torch.int64,
    onnx.TensorProto.UINT8: torch.uint8, onnx.TensorProto.INT8: torch.int8, onnx.TensorProto.BFLOAT16: torch.bfloat16,
    onnx.TensorProto.UINT16: torch.uint16,
}  # fmt: skip

OPS: dict[str, Op] = {
    "Abs": Op(torch.abs), "Add": Op(torch.add), "And": Op(torch.logical_and), "ArgMax": Op(_arg_max),
    "ArgMin": Op(_arg_min), "Atan": Op(torch.atan),
    "BitwiseAnd": Op(torch.bitwise_and), "BitwiseOr": Op(torch.bitwise_or), "Cast": Op(_cast),
    "Clip": Op(_clip, (1, 2)), "Concat": Op(_concat), "Cos": Op(torch.cos), "CumSum": Op(_cum_sum, (1,)),
    "DequantizeLinear": Op(_dequantize), "Div": Op(_div, steep=True),
    "Einsum": Op(lambda *parts, equation: torch.einsum(equation.decode(), *parts)),
    "Equal": Op(torch.eq), "Exp": Op(torch.exp), "Expand": Op(_expand, (1,)), "Floor": Op(torch.floor),
    "Gather": Op(_gather, index=1), "GatherElements": Op(_gather_elements), "GatherND": Op(_gather_nd),
    "Gemm": Op(_gemm),
    "Greater": Op(torch.gt), "GreaterOrEqual": Op(torch.ge), "Identity": Op(lambda x: x), "IsInf": Op(_is_inf),
    "IsNaN": Op(torch.isnan), "LayerNormalization": Op(_layer_norm), "Less": Op(torch.lt), "LessOrEqual": Op(torch.le),
    "Log": Op(torch.log, steep=True), "LogSoftmax": Op(_log_softmax), "MatMul": Op(torch.matmul),
    "Max": Op(_many(torch.maximum)), "Min": Op(_many(torch.minimum)), "Mod": Op(_mod),
    "Mul": Op(torch.mul, steep=True), "Neg": Op(torch.neg), "Not": Op(torch.logical_not), "Or": Op(torch.logical_or),
    "Pow": Op(torch.pow, steep=True), "Reciprocal": Op(torch.reciprocal, steep=True),
    "QuantizeLinear": Op(_quantize),
    "ReduceLogSumExp": Op(_reduce(torch.logsumexp), (1,)),
    "ReduceMax": Op(_reduce(torch.amax), (1,)), "ReduceMean": Op(_reduce(torch.mean), (1,)),
    "ReduceMin": Op(_reduce(torch.amin), (1,)), "ReduceSum": Op(_reduce(_sum), (1,)), "Relu": Op(torch.relu),
    "Reshape": Op(_reshape, (1,)), "Round": Op(torch.round), "Shape": Op(_shape), "Sigmoid": Op(torch.sigmoid),
    "Sign": Op(torch.sign), "Sin": Op(torch.sin), "Slice": Op(_slice, (1, 2, 3, 4)), "Softmax": Op(_softmax),
    "Softplus": Op(F.softplus), "Split": Op(_split, (1,)), "Sqrt": Op(torch.sqrt, steep=True),
    "Squeeze": Op(_squeeze, (1,)), "Sub": Op(torch.sub), "Tanh": Op(torch.tanh), "Transpose": Op(_transpose),
    "Unsqueeze": Op(_unsqueeze, (1,)), "Where": Op(torch.where), "Xor": Op(torch.logical_xor),
}  # fmt: skip

COARSE: dict[str, Callable[..., Tensor]] = {"MatMul": product, "Gemm": _coarse_gemm}
"""Products with weights of another type than float32."""
