"""What steps an artifact, one module an engine; each is imported when it is chosen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Protocol

import numpy as np

from wm_runtime.artifact import Artifact
from wm_runtime.errors import UserError
from wm_runtime.schema import State

ENGINES: Mapping[str, str] = {"onnx": "OnnxEngine", "torch": "TorchEngine", "compiled": "CompiledEngine"}
"""Name, which is also the module here → class."""
EXTRAS: Mapping[str, str] = {"torch": "train", "compiled": "compiled"}
"""Engine → the extra that brings what it needs."""


class Engine(Protocol):
    """An artifact, ready to step any number of matches."""

    def step(
        self,
        state: State,
        carry: Mapping[str, np.ndarray],
        controllers: np.ndarray,
        next_state: State,
        next_carry: Mapping[str, np.ndarray],
        aux: Mapping[str, np.ndarray],
    ) -> None:
        """One frame of N matches, from the first three arguments into the last three. All arrays are C-contiguous;
        results must not share memory with inputs."""


def open_engine(
    name: str, artifact: Artifact, device: str = "cpu", threads: int = 0, precision: str = "float32"
) -> Engine:
    """The engine of that name, with an artifact on a device. `threads` 0 leaves the number to it; `precision`: see
    engines.compiled and engines.torch; onnx has float32 (or what its artifact says) alone.

    Raises UserError for an unknown engine, one that is not installed, and a device or precision that it has not here.
    """
    if name not in ENGINES:
        raise UserError(f"unknown engine {name!r}: choose one of {', '.join(ENGINES)}")
    try:
        module = import_module(f"wm_runtime.engines.{name}")
    except ModuleNotFoundError as error:
        extra = EXTRAS.get(name, "train")
        raise UserError(f"engine {name!r} needs {error.name}: pip install 'melee-world-model[{extra}]'") from None
    make: Callable[..., Engine] = getattr(module, ENGINES[name])
    if name != "onnx":
        return make(artifact, device, threads, precision)
    if precision != "float32":
        raise UserError(f"precision {precision!r}: the engine onnx has float32 alone; use the engine compiled or torch")
    return make(artifact, device, threads)
