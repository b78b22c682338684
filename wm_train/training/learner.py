"""A step of training of the exact core: windows → gradients, by way of a rollout where its phase wants one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from wm_runtime.errors import UserError
from wm_train.config import Experiment, Phase
from wm_train.dynamics.exact import ExactCore, Frames, own_frames
from wm_train.dynamics.step import WorldModel
from wm_train.training.device import amp_type
from wm_train.training.graphs import Graphed
from wm_train.training.importance import important
from wm_train.training.losses import weighted
from wm_train.training.whole_games import FOLD, Unroll


@dataclass(frozen=True)
class Gradients:
    """Of a step: the frames that it learned from, name → loss, their weighted sum, and the norm of the gradient."""

    frames: Frames
    parts: dict[str, Tensor]
    loss: Tensor
    norm: Tensor

    @cached_property
    def values(self) -> dict[str, float]:
        """Name → loss, and of "loss", their weighted sum, and "gradient_norm": fetched from the device at once."""
        parts = {**self.parts, "loss": self.loss, "gradient_norm": self.norm}
        numbers = torch.stack([part.detach().float() for part in parts.values()])
        return dict(zip(parts, numbers.tolist(), strict=True))

    @property
    def finite(self) -> bool:
        return math.isfinite(self.values["loss"]) and math.isfinite(self.values["gradient_norm"])


class Learner:
    """A model with an exact core on a device, and its optimiser. `learning_rate`: instead of the experiment's.

    On NVIDIA's accelerators a rollout and what is learned of it are CUDA graphs, unless they are compiled."""

    def __init__(
        self, experiment: Experiment, model: WorldModel, device: torch.device, learning_rate: float | None = None
    ) -> None:
        settings, core = experiment.training, model.core
        assert isinstance(core, ExactCore)
        core.network.amp = amp_type("auto", device) is not None
        self.model, self.core, self.settings, self.device = model.to(device).train(), core, settings, device
        core.tables.move_folds(device)
        rate = settings.learning_rate if learning_rate is None else learning_rate
        self.optimiser = torch.optim.AdamW(model.parameters(), rate, weight_decay=settings.weight_decay, fused=True)
        self._learn = torch.compile(core.learn, dynamic=False) if settings.compile else core.learn
        self._roll = torch.compile(core.roll, dynamic=False) if settings.compile else core.roll
        self._graphs: dict[tuple[str, Phase], Graphed] = {}

    def step(self, window: Unroll, phase: Phase, rng: torch.Generator) -> Gradients:
        """The optimiser's steps on a window, as many as the phase says: → what the last of them was made of. It stops
        ahead of one that is not finite, which then is what is returned."""
        frames, weight = self.worth_learning(window, phase, rng)
        for i in range(phase.updates):
            part, seed = slice(i, None, phase.updates), rng.initial_seed() * phase.updates + i
            made = self._gradients(frames.take(part), None if weight is None else weight[part], phase, seed)
            if not made.finite:
                return made
            self.optimiser.step()
        return made

    def _gradients(self, frames: Frames, weight: Tensor | None, phase: Phase, seed: int) -> Gradients:
        """Leaves clipped gradients in the weights."""
        torch.manual_seed(seed)
        parts, loss, norm = self._graphed("learn", phase, self._backward)(frames, weight, phase)
        return Gradients(frames, parts, loss, norm)

    def _backward(
        self, frames: Frames, weight: Tensor | None, phase: Phase
    ) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        settings = self.settings
        self.core.tables.fold = frames.carry.get(FOLD)
        parts = self._learn(frames, weight, phase.told, settings.vector_dropout, settings.dropout)
        self.core.tables.fold = None
        loss = weighted(parts, self.core.weights)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), settings.gradient_clip)
        return parts, loss, norm

    def worth_learning(self, window: Unroll, phase: Phase, rng: torch.Generator) -> tuple[Frames, Tensor | None]:
        """The frames of a window, or of a rollout from its first one, from which a step learns, and their weights
        (N,)."""
        count = round(phase.share * phase.frames * window.match.shape[1])
        if not phase.rolled_out:
            return self._graphed("true", phase, self._true_frames)(window), None
        frames, losses = self._graphed("roll", phase, self._own_frames)(window)
        if phase.share == 1:
            return frames, None
        index, weight = important(losses, max(1, count), rng)
        return frames.take(index), weight

    def _true_frames(self, window: Unroll) -> Frames:
        return self.core.followed(self.core.true_frames(window), window)

    def _own_frames(self, window: Unroll) -> tuple[Frames, Tensor]:
        return own_frames(window, self.core, self._roll, self.model.settle)

    def _graphed(self, name: str, phase: Phase, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function as a graph: one for each phase, whose shapes are its own."""
        key = (name, phase)
        if key not in self._graphs:
            self._graphs = {kept: graph for kept, graph in self._graphs.items() if kept[1] == phase}
            no_gradients = partial(self.optimiser.zero_grad, set_to_none=True)
            recorded = self.device.type == "cuda" and not self.settings.compile
            self._graphs[key] = Graphed(function, recorded, no_gradients if name == "learn" else None)
        return self._graphs[key]


def check_phases(experiment: Experiment) -> None:
    """Raises UserError for an exact core without phases."""
    if not experiment.training.phases:
        raise UserError(f"{experiment.name}: training.phases is empty; the exact core is trained in phases")
