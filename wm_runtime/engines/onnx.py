"""The onnxruntime engine: one session for a whole batch, results bound into arrays that are swapped, none allocated."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnxruntime as ort

from wm_runtime.artifact import Artifact
from wm_runtime.errors import UserError
from wm_runtime.schema import State, state_layout

PROVIDERS: Mapping[str, str] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
}


class OnnxEngine:
    """Runs an artifact's graph. `threads` 0 leaves the number to onnxruntime."""

    def __init__(self, artifact: Artifact, device: str = "cpu", threads: int = 0):
        if PROVIDERS.get(device) not in ort.get_available_providers():
            able = ", ".join(d for d, p in PROVIDERS.items() if p in ort.get_available_providers())
            raise UserError(f"device {device!r} is not available to onnxruntime here; use one of {able}")
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        try:
            self.session = ort.InferenceSession(str(artifact.path), options, providers=[PROVIDERS[device]])
        except Exception as error:  # onnxruntime raises several types of its own, none public
            raise UserError(f"{artifact.path}: onnxruntime cannot load it ({str(error).splitlines()[0]})") from None
        self._carry = artifact.carry
        self._aux = artifact.aux

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
        binding = self.session.io_binding()
        for name in state_layout(0):
            _bind_input(binding, f"state.{name}", getattr(state, name))
            _bind_output(binding, f"next.{name}", getattr(next_state, name))
        _bind_input(binding, "controllers", controllers)
        for name in self._carry:
            _bind_input(binding, f"carry.{name}", carry[name])
            _bind_output(binding, f"next_carry.{name}", next_carry[name])
        for name in self._aux:
            _bind_output(binding, f"aux.{name}", aux[name])
        self.session.run_with_iobinding(binding)


def _bind_input(binding: ort.IOBinding, name: str, array: np.ndarray) -> None:
    binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)


def _bind_output(binding: ort.IOBinding, name: str, array: np.ndarray) -> None:
    binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
