"""Before the first step: every shape that does not match is named, and a step's memory is measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from wm_runtime.errors import UserError
from wm_runtime.schema import CONTROL_NAMES, FLOAT_FIELDS, INT_FIELDS, MATCH_FIELDS, PLAYERS
from wm_train.config import Experiment
from wm_train.dynamics.core import Core
from wm_train.dynamics.step import WorldModel
from wm_train.training.data import Windows
from wm_train.training.losses import weighted
from wm_train.training.progress import same_randomness
from wm_train.training.records import Batch

TRIED = (8, 16)
"""Windows of the two batches that are tried."""


def preflight(experiment: Experiment, model: WorldModel, windows: Windows, device: torch.device) -> tuple[float, float]:
    """Tries a step on a few windows; → bytes kept for its backward pass: whatever the batch, and a window.

    Raises UserError that names every shape which is not as expected.
    """
    unroll = experiment.training.unroll
    steps = max(unroll.lengths) if unroll else 1
    kept = []
    with same_randomness():
        model.train()
        for count in TRIED:
            batch = windows.stored(np.arange(min(count, len(windows))), steps).to(device).decode()
            wrong = _batch_mismatches(batch, windows.length + steps - 1)
            counted, mismatches = _try(model, batch, steps)
            if wrong or mismatches:
                raise UserError(f"{experiment.name}: {'; '.join([*wrong, *mismatches])} (model: {experiment.model})")
            kept.append(counted)
    each = max(0.0, (kept[1] - kept[0]) / (TRIED[1] - TRIED[0]))
    return max(0.0, kept[0] - each * TRIED[0]), each


def _batch_mismatches(batch: Batch, length: int) -> list[str]:
    widths = {"floats": (PLAYERS, len(FLOAT_FIELDS)), "ints": (PLAYERS, len(INT_FIELDS)),
              "match": (len(MATCH_FIELDS),), "controllers": (PLAYERS, len(CONTROL_NAMES))}  # fmt: skip
    return [
        _mismatch(f"batch.{name}", tuple(values.shape[1:]), (length, *widths[name]))
        for name, values in vars(batch).items()
        if tuple(values.shape[1:]) != (length, *widths[name])
    ]


def _try(model: WorldModel, batch: Batch, steps: int) -> tuple[int, list[str]]:
    """One forward pass: the bytes that it keeps, and what did not match."""
    core = model.core
    with _watched(core, core.input_shapes) as mismatches, _kept(model) as kept:
        try:
            parts = core.losses(batch) if steps == 1 else core.unrolled_losses(batch, model)
            for name in parts.keys() ^ core.weights.keys():
                mismatches.append(f"loss {name}: " + ("has no weight" if name in parts else "weighted, but not there"))
            if not mismatches:
                weighted(parts, core.weights)
        except (RuntimeError, IndexError, AssertionError) as error:
            mismatches.append(" ".join(str(error).split()))
    return sum(kept.values()), list(dict.fromkeys(mismatches))


@contextmanager
def _watched(core: Core, expected: Mapping[str, tuple[int, ...]]) -> Iterator[list[str]]:
    """Notes inputs of the network and of its layers that are not of the width they take."""
    found: list[str] = []

    def network(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        for (name, shape), value in zip(expected.items(), inputs, strict=False):
            if tuple(value.shape[1:]) != shape:
                found.append(_mismatch(name, tuple(value.shape[1:]), shape))

    def layer(name: str, width: int) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def check(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if inputs[0].shape[-1] != width:
                found.append(_mismatch(name, (inputs[0].shape[-1],), (width,)))

        return check

    hooks = [
        module.register_forward_pre_hook(layer(name, module.in_features))
        for name, module in core.named_modules()
        if isinstance(module, nn.Linear)
    ]
    if expected:
        hooks.append(core.network.register_forward_pre_hook(network))
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _kept(model: nn.Module) -> Iterator[dict[int, int]]:
    """Bytes of every tensor that is kept for the backward pass but the weights, by address."""
    own = {p.untyped_storage().data_ptr() for p in [*model.parameters(), *model.buffers()]}
    kept: dict[int, int] = {}
    alive: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)  # an address is used once
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield kept


def _mismatch(name: str, got: tuple[int, ...], expected: tuple[int, ...]) -> str:
    return f"{name}: got {got}, expected {expected}"
