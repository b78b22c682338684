"""Checkpoint → artifact: the whole step traced into one ONNX graph, with its metadata."""

from __future__ import annotations

import copy
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes
import torch
from onnxscript.optimizer import fold_constants_ir
from onnxscript.rewriter import rewrite
from onnxscript.rewriter.rules import common as rules
from torch import Tensor, nn

from wm_runtime.artifact import FORMAT_VERSION, write_artifact
from wm_runtime.replays.dataset import Dataset
from wm_runtime.schema import CONTROL_NAMES, PLAYERS, field_table_hash, state_layout
from wm_train.compact import compact
from wm_train.dynamics.core import zeros
from wm_train.dynamics.step import AUX, WorldModel
from wm_train.quantize import quantize
from wm_train.tidy import tidy
from wm_train.weights import places, types

OPSET = 18
RULES = (
    *rules.mul_by_1_rule.commute(), *rules.add_0_rule.commute(), rules.sub_0_rule, rules.div_by_1_rule,
    rules.collapse_slice_rule, rules.materialize_reshape_shape_rule, rules.max_min_rule, rules.no_op_transpose_rule,
    rules.squeeze_reshape_1d_rule, rules.unsqueeze_unsqueeze_rule,
)  # fmt: skip
"""Rules of onnxscript that find something in a step."""
WARMUP = 123
"""True past frames that a start should bring: those before control begins, which every start has. The longest time that
a rule counts (death) is half of that; where Fountain's platforms are shows the longer the oftener."""


class _Flat(nn.Module):
    """A step whose carry is a tuple, as graph inputs and outputs are."""

    def __init__(self, model: WorldModel):
        super().__init__()
        self.model = model
        self.names = tuple(model.carry_layout)

    def forward(self, floats: Tensor, ints: Tensor, match: Tensor, controllers: Tensor, *carry: Tensor):
        state, next_carry, aux = self.model(
            floats, ints, match, controllers, dict(zip(self.names, carry, strict=True))
        )
        return (*state, *(next_carry[name] for name in self.names), *(aux[name] for name in AUX))


def export(model: WorldModel, manifest: dict[str, Any], path: str | Path, whole: Dataset | None = None) -> None:
    """Traces `model` and writes the artifact `path`, which is called as its file. Weights are stored in float16 and
    reckoned with in float32; with a dataset `whole`, those of the trunk are 8-bit whole numbers, and so is what they
    are multiplied with, on a scale that fits the dataset's games.

    Raises UserError where it cannot be written, and for a model without a trunk that may be in whole numbers.
    """
    model = as_shipped(model)
    flat = _Flat(model.eval())
    inputs = example_inputs(model, 3)
    batch = torch.export.Dim("matches", min=1)
    program_inputs = [{0: batch}] * len(inputs)
    names = [f"state.{n}" for n in state_layout(0)] + ["controllers"] + [f"carry.{n}" for n in flat.names]
    outputs = [f"next.{n}" for n in state_layout(0)] + [f"next_carry.{n}" for n in flat.names]
    outputs += [f"aux.{n}" for n in AUX]
    for noisy in ("onnxscript", "torch.onnx"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            flat, inputs, opset_version=OPSET, dynamo=True, optimize=False, verbose=False,
            dynamic_shapes=(*program_inputs[:4], tuple(program_inputs[4:])),
        )  # fmt: skip
        assert program is not None
        graph = _optimized(program.model, names, outputs)
        if whole is not None:
            trunk = getattr(model.core.network, "trunk_weights", [])
            graph = quantize(graph, [weight.T.contiguous().numpy() for weight in trunk], whole)
        graph = compact(tidy(graph))
    found: dict[str, Any] = {"name": Path(path).stem, "trunk": "int8" if whole is not None else "float32"}
    if whole is None:
        state = model.state_dict()
        found |= {"weights": (where := places(state, graph)), "weight_types": types(state, where)}
    write_artifact(path, graph, {**found, **metadata(model, manifest, inputs, outputs)})


def _optimized(model: ir.Model, inputs: list[str], outputs: list[str]) -> bytes:
    """A step and the names of its inputs and outputs → what the exporter's own optimisation makes of it, but for one
    of its rules: that one looks at all pairs of slices anew for every slice, which took 200 of 290 seconds and found
    nothing."""
    passes.InlinePass()(model)
    for _ in range(2):
        fold_constants_ir(model, onnx_shape_inference=True)
        rewrite(model, RULES)
    for change in (
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.DeduplicateInitializersPass(),
        passes.CommonSubexpressionEliminationPass(),
        passes.OutputFixPass(),  # an input that is an output has two names
    ):
        change(model)
    for values, names in ((model.graph.inputs, inputs), (model.graph.outputs, outputs)):
        for value, name in zip(values, names, strict=True):
            value.name = name
    passes.NameFixPass()(model)
    return ir.to_proto(model).SerializeToString()


@torch.no_grad()
def as_shipped(model: WorldModel) -> WorldModel:
    """A copy whose matrices are as float16 holds them, which is how an artifact stores them."""
    model = copy.deepcopy(model)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.copy_(parameter.half().float())
    return model


def example_inputs(model: WorldModel, matches: int) -> tuple[Tensor, ...]:
    """Zeros of the shapes that a step takes: floats, ints, match, controllers, then the carry's arrays."""
    state = [torch.from_numpy(np.zeros(shape, dtype)) for shape, dtype in state_layout(matches).values()]
    return (*state, torch.zeros(matches, PLAYERS, len(CONTROL_NAMES)), *zero_carry(model, matches).values())


def zero_carry(model: WorldModel, matches: int, device: torch.device | None = None) -> dict[str, Tensor]:
    """The carry of matches of which nothing is remembered."""
    return zeros(model.carry_layout, matches, device)


def metadata(
    model: WorldModel, manifest: dict[str, Any], inputs: tuple[Tensor, ...], outputs: list[str]
) -> dict[str, Any]:
    """What the runtime and its users need to know of a model."""
    with torch.no_grad():
        results = dict(zip(outputs, _Flat(model)(*inputs), strict=True))
    aux = [{"name": n, "shape": list(results[f"aux.{n}"].shape[1:]), "dtype": dtype} for n, dtype in AUX.items()]
    carry = [{"name": n, "shape": list(shape), "dtype": dtype} for n, (shape, dtype) in model.carry_layout.items()]
    return {
        "format_version": FORMAT_VERSION,
        "field_table": field_table_hash(),
        "carry": carry,
        "aux": aux,
        "warmup": WARMUP,
        "predicted": list(model.core.predicted),
        "parameters": sum(p.numel() for p in model.parameters()),
        "manifest": without_repeats(manifest),
        "fidelity": {},
    }


def without_repeats(manifest: dict[str, Any], listed: dict[str, list[str]] | None = None) -> dict[str, Any]:
    """A manifest, and those of the runs that it goes on from, each list of games once: where a fingerprint of the data
    comes again, its list is left out."""
    listed, out = listed or {}, dict(manifest)
    data = manifest.get("data", {})
    if data.get("md5") and listed.get(data.get("fingerprint")) == data["md5"]:
        out["data"] = {name: value for name, value in data.items() if name != "md5"}
    elif data.get("md5"):
        listed = {**listed, data["fingerprint"]: data["md5"]}
    for before in ("started_from", "pruned_from"):
        if isinstance(manifest.get(before), dict):
            out[before] = without_repeats(manifest[before], listed)
    return out
