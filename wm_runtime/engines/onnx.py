"""The onnxruntime engine: a batch in slices that fit the cache, each on one thread, results bound into arrays that are
swapped, none allocated."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import onnxruntime as ort

from wm_runtime.artifact import Artifact
from wm_runtime.engines.bound import Bound
from wm_runtime.errors import UserError
from wm_runtime.schema import State, state_layout

PROVIDERS: Mapping[str, str] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
}
SLICE, LEAST = 512, 64
"""A thread steps at most so many matches at a time, and takes a slice of its own from so many on: a step of one match
costs as much as one of a few dozen, and beyond some hundreds what is reckoned no longer fits the cache."""


class OnnxEngine:
    """Runs an artifact's graph. On the CPU `threads` threads (0: one a core) step slices of the batch side by side; on
    other devices the whole batch goes at once."""

    def __init__(self, artifact: Artifact, device: str = "cpu", threads: int = 0):
        if PROVIDERS.get(device) not in ort.get_available_providers():
            able = ", ".join(d for d, p in PROVIDERS.items() if p in ort.get_available_providers())
            raise UserError(f"device {device!r} is not available to onnxruntime here; use one of {able}")
        self.threads = (threads or os.cpu_count() or 1) if device == "cpu" else 1
        self._sliced = device == "cpu"
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self.session = ort.InferenceSession(str(artifact.path), options, providers=[PROVIDERS[device]])
        except Exception as error:  # onnxruntime raises several types of its own, none public
            raise UserError(f"{artifact.path}: onnxruntime cannot load it ({str(error).splitlines()[0]})") from None
        self._carry = artifact.carry
        self._aux = artifact.aux
        self._pool = ThreadPoolExecutor(self.threads) if self.threads > 1 else None
        self._bound: Bound[list[tuple[slice, ort.IOBinding]]] = Bound()

    def step(
        self,
        state: State,
        carry: Mapping[str, np.ndarray],
        controllers: np.ndarray,
        next_state: State,
        next_carry: Mapping[str, np.ndarray],
        aux: Mapping[str, np.ndarray],
    ) -> None:
        """See engines.Engine. Arrays that come again, as a simulator's two sets of buffers do, are bound only once."""
        parts = self._bound.of(
            (state, next_state),
            (carry, next_carry, aux),
            lambda: [(r, self._bind(r, state, carry, next_state, next_carry, aux)) for r in self.slices(len(state))],
        )
        for rows, binding in parts:
            _bind_input(binding, "controllers", controllers[rows])
        if len(parts) == 1 or self._pool is None:
            for _, binding in parts:
                self.session.run_with_iobinding(binding)
        else:
            for _ in self._pool.map(self.session.run_with_iobinding, [binding for _, binding in parts]):
                pass

    def slices(self, matches: int) -> list[slice]:
        """The batch in parts of nearly one size, as many for each thread."""
        if not self._sliced:
            return [slice(0, matches)]
        threads = max(1, min(self.threads, matches // LEAST))
        count = threads * -(-matches // (threads * SLICE))
        edges = [matches * i // count for i in range(count + 1)]
        return [slice(a, b) for a, b in pairwise(edges)]

    def _bind(
        self,
        rows: slice,
        state: State,
        carry: Mapping[str, np.ndarray],
        next_state: State,
        next_carry: Mapping[str, np.ndarray],
        aux: Mapping[str, np.ndarray],
    ) -> ort.IOBinding:
        binding = self.session.io_binding()
        for name in state_layout(0):
            _bind_input(binding, f"state.{name}", getattr(state, name)[rows])
            _bind_output(binding, f"next.{name}", getattr(next_state, name)[rows])
        for name in self._carry:
            _bind_input(binding, f"carry.{name}", carry[name][rows])
            _bind_output(binding, f"next_carry.{name}", next_carry[name][rows])
        for name in self._aux:
            _bind_output(binding, f"aux.{name}", aux[name][rows])
        return binding


def _bind_input(binding: ort.IOBinding, name: str, array: np.ndarray) -> None:
    binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)


def _bind_output(binding: ort.IOBinding, name: str, array: np.ndarray) -> None:
    binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
