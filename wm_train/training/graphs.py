"""CUDA graphs: a function whose thousands of small kernels are recorded once and from then on launched as one.

An unrolled step of the exact core is some 60,000 kernels of a few microseconds each; launched one by one they take
several times as long as they run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

WARM_UPS = 2
"""Calls before a recording: what is made at first use is made then."""


class Graphed:
    """`function` of nested tensors (dataclasses, dicts, lists and tuples of them), recorded at its first call. Every
    later call must bring tensors of the same shapes; what a call returns is overwritten by the next one. With
    `recorded` false it is the function itself.

    What is no tensor is taken as it was at the recording. Gradients that the function leaves in `.grad` of weights are
    overwritten as well: `before` is called ahead of every call that is not a replay, to take away those that are there.
    """

    def __init__(self, function: Callable[..., Any], recorded: bool, before: Callable[[], None] | None = None) -> None:
        self.function, self.recorded, self.before = function, recorded, before or (lambda: None)
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, *inputs: Any) -> Any:
        if not self.recorded:
            self.before()
            return self.function(*inputs)
        if self.graph is None:
            self._record(inputs)
        assert self.graph is not None
        for kept, new in zip(self.kept, tensors(inputs), strict=True):
            kept.copy_(new)
        self.graph.replay()
        return self.result

    def _record(self, inputs: tuple[Any, ...]) -> None:
        self.inputs = copied(inputs)
        self.kept = tensors(self.inputs)
        beside = torch.cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(WARM_UPS):
                self.before()
                self.function(*self.inputs)
        torch.cuda.current_stream().wait_stream(beside)
        self.before()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self.result = self.function(*self.inputs)
        self.graph = graph


def tensors(nested: Any) -> list[Tensor]:
    """The tensors in it, in order."""
    if isinstance(nested, Tensor):
        return [nested]
    if is_dataclass(nested) and not isinstance(nested, type):
        return [tensor for field in fields(nested) for tensor in tensors(getattr(nested, field.name))]
    if isinstance(nested, dict):
        return [tensor for part in nested.values() for tensor in tensors(part)]
    if isinstance(nested, list | tuple):
        return [tensor for part in nested for tensor in tensors(part)]
    return []


def copied(nested: Any) -> Any:
    """The same, every tensor in it copied."""
    if isinstance(nested, Tensor):
        return nested.clone()
    if is_dataclass(nested) and not isinstance(nested, type):
        return type(nested)(**{field.name: copied(getattr(nested, field.name)) for field in fields(nested)})
    if isinstance(nested, dict):
        return {name: copied(part) for name, part in nested.items()}
    if isinstance(nested, list | tuple):
        return type(nested)(copied(part) for part in nested)
    return nested
