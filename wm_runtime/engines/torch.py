"""The torch engine: matches stay tensors on a device, from frame to frame; compiled, or differentiable, on request.

The weights are those of the artifact, and the arithmetic is that of its graph (see engines.lower).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from wm_runtime.artifact import Artifact
from wm_runtime.engines.lower import lower, product
from wm_runtime.errors import UserError
from wm_runtime.schema import CONTROL_NAMES, PLAYERS, State, state_layout

PRECISIONS = {"float32": torch.float32, "bf16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Matches:
    """N matches on a device: `state` (floats (N, 2, F), ints (N, 2, I), match (N, M)) and `carry` by name. A step makes
    new ones, so what is kept is a snapshot, and to go on from it is to restore it."""

    state: dict[str, Tensor]
    carry: dict[str, Tensor]

    def __len__(self) -> int:
        return len(self.state["match"])

    def rows(self, index: Tensor) -> Matches:
        """The matches (K,) of `index`, in that order and as often as they are named."""
        return Matches(*({n: t[index] for n, t in part.items()} for part in (self.state, self.carry)))

    def where(self, mask: Tensor, other: Matches) -> Matches:
        """These, and where `mask` (N,) bool is set the `other` ones: a masked reset."""

        def choose(mine: dict[str, Tensor], theirs: dict[str, Tensor]) -> dict[str, Tensor]:
            return {n: torch.where(mask.view(-1, *[1] * (t.dim() - 1)), theirs[n], t) for n, t in mine.items()}

        return Matches(choose(self.state, other.state), choose(self.carry, other.carry))


class TorchEngine:
    """Runs an artifact's graph in torch.

    | call | what it does |
    |---|---|
    | `step(…)` | one frame from arrays into arrays, as every engine |
    | `put(state, carry)`, `get(matches)` | arrays onto the device, and back |
    | `advance(matches, controllers)` | one frame on the device: the next matches, and aux by name |
    | `rollout(matches, controllers)` | many frames: floats of each, and the last matches |

    `compiled`: by torch.compile, on CUDA with CUDA graphs; what `advance` returns is then overwritten by the next call
    unless it is cloned. `differentiable`: `advance` and `rollout` keep what gradients with respect to controllers and
    start need. `threads` 0 leaves the number to torch; another one is set for the whole process. `precision` is that of
    what the network's products multiply, as in engines.compiled: "float32", "bf16", "float16", and "auto", which is
    float16 on CUDA; they add up in float32, as all else is. On a CPU, where it is no faster, it shows what they say.

    Raises UserError for a device or a precision that torch does not have here, and for an operator that this engine
    lacks.
    """

    def __init__(
        self, artifact: Artifact, device: str = "cpu", threads: int = 0, precision: str = "float32",
        compiled: bool = False, differentiable: bool = False,
    ):  # fmt: skip
        try:
            self.device = torch.device(device)
            torch.zeros(1, device=self.device)
        except (RuntimeError, AssertionError) as error:
            why = str(error).splitlines()[0]
            raise UserError(f"device {device!r} is not available to torch here ({why}); use cpu") from None
        if threads:
            torch.set_num_threads(threads)
        self.differentiable = differentiable
        self.precision = self._precision(precision)
        self._carry, self._aux = tuple(artifact.carry), tuple(artifact.aux)
        self._run: Callable[..., tuple[Tensor, ...]] = lower(
            artifact.path, differentiable, PRECISIONS[self.precision]
        ).to(self.device)
        if compiled:
            mode = "reduce-overhead" if self.device.type == "cuda" else "default"
            self._run = torch.compile(self._run, mode=mode, dynamic=False)

    def _precision(self, wanted: str) -> str:
        if wanted == "auto":
            wanted = "float16" if self.device.type == "cuda" else "float32"
        if wanted not in PRECISIONS:
            raise UserError(f"precision {wanted!r}: the engine torch has {', '.join(PRECISIONS)} and auto")
        if wanted != "float32":
            if self.differentiable:
                raise UserError(f"precision {wanted!r} has no gradients; use float32")
            try:
                product(torch.ones(16, 16, device=self.device), torch.ones(16, 16).to(self.device, PRECISIONS[wanted]))
            except (RuntimeError, TypeError) as error:
                why = str(error).splitlines()[0]
                raise UserError(f"precision {wanted!r} is not available to torch here ({why}); use float32") from None
        return wanted

    def put(self, state: State, carry: Mapping[str, np.ndarray]) -> Matches:
        """Matches as arrays (a Snapshot's, say) → the same on the device, copied."""

        def on_device(arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
            return {name: torch.tensor(array, device=self.device) for name, array in arrays.items()}

        return Matches(on_device(vars(state)), on_device(carry))

    def get(self, matches: Matches) -> tuple[State, dict[str, np.ndarray]]:
        """The inverse of `put`."""
        state, carry = (
            {name: tensor.detach().cpu().numpy().copy() for name, tensor in part.items()}
            for part in (matches.state, matches.carry)
        )
        return State(**state), carry

    def advance(self, matches: Matches, controllers: Tensor) -> tuple[Matches, dict[str, Tensor]]:
        """One frame with `controllers` (N, 2, 13) float32 on the device → the next matches, and what the model said."""
        shape = (len(matches), PLAYERS, len(CONTROL_NAMES))
        if controllers.shape != shape or controllers.dtype != torch.float32:
            raise ValueError(f"controllers must be {shape} float32, got {tuple(controllers.shape)} {controllers.dtype}")
        with torch.set_grad_enabled(self.differentiable):
            inputs = (*matches.state.values(), controllers, *(matches.carry[name] for name in self._carry))
            results = iter(self._run(*inputs))
            state = {name: next(results) for name in matches.state}
            carry = {name: next(results) for name in self._carry}
            return Matches(state, carry), {name: next(results) for name in self._aux}

    def rollout(self, matches: Matches, controllers: Tensor) -> tuple[Tensor, Matches]:
        """T frames with `controllers` (T, N, 2, 13) → floats of each (T, N, 2, F), and the last matches."""
        floats = []
        for pads in controllers:
            matches, _ = self.advance(matches, pads)
            floats.append(matches.state["floats"] if self.differentiable else matches.state["floats"].clone())
        return torch.stack(floats), matches

    def step(
        self,
        state: State,
        carry: Mapping[str, np.ndarray],
        controllers: np.ndarray,
        next_state: State,
        next_carry: Mapping[str, np.ndarray],
        aux: Mapping[str, np.ndarray],
    ) -> None:
        """See engines.Engine."""
        inputs = [*(getattr(state, name) for name in state_layout(0)), controllers, *(carry[n] for n in self._carry)]
        outputs = [*(getattr(next_state, name) for name in state_layout(0)), *(next_carry[n] for n in self._carry)]
        outputs += [aux[name] for name in self._aux]
        with torch.no_grad():
            results = self._run(*(torch.from_numpy(array).to(self.device) for array in inputs))
            for array, result in zip(outputs, results, strict=True):
                torch.from_numpy(array).copy_(result)
