"""A step of training of the exact core: windows → gradients, by way of a rollout where its phase wants one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from wm_runtime.errors import UserError
from wm_train.config import Experiment, Phase
from wm_train.dynamics.exact import ExactCore, Frames, own_frames
from wm_train.dynamics.step import WorldModel
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

    @property
    def finite(self) -> bool:
        return bool(torch.isfinite(self.loss) and torch.isfinite(self.norm))


class Learner:
    """A model with an exact core on a device, and its optimiser. `learning_rate`: instead of the experiment's."""

    def __init__(
        self, experiment: Experiment, model: WorldModel, device: torch.device, learning_rate: float | None = None
    ) -> None:
        settings, core = experiment.training, model.core
        assert isinstance(core, ExactCore)
        core.network.amp = device.type == "cuda" or torch.backends.cpu.get_cpu_capability() == "AVX512"
        self.model, self.core, self.settings, self.device = model.to(device).train(), core, settings, device
        core.tables.move_folds(device)
        rate = settings.learning_rate if learning_rate is None else learning_rate
        self.optimiser = torch.optim.AdamW(model.parameters(), rate, weight_decay=settings.weight_decay, fused=True)
        self._learn = torch.compile(core.learn, dynamic=False) if settings.compile else core.learn
        self._roll = torch.compile(core.roll, dynamic=False) if settings.compile else core.roll

    def gradients(self, window: Unroll, phase: Phase, rng: torch.Generator) -> Gradients:
        """Leaves clipped gradients in the weights; the step itself is the optimiser's."""
        frames, weight = self.worth_learning(window, phase, rng)
        torch.manual_seed(rng.initial_seed())
        self.core.tables.fold = frames.carry.get(FOLD)
        parts = self._learn(frames, weight, phase.told, self.settings.vector_dropout)
        self.core.tables.fold = None
        loss = weighted(parts, self.core.weights)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.gradient_clip)
        return Gradients(frames, parts, loss, norm)

    def worth_learning(self, window: Unroll, phase: Phase, rng: torch.Generator) -> tuple[Frames, Tensor | None]:
        """The frames of a window, or of a rollout from its first one, from which a step learns, and their weights
        (N,)."""
        count = round(phase.share * phase.frames * window.match.shape[1])
        if not phase.rolled_out:
            return self.core.followed(self.core.true_frames(window), window), None
        frames, losses = own_frames(window, self.core, self._roll, self.model.settle)
        if phase.share == 1:
            return frames, None
        index, weight = important(losses, max(1, count), rng)
        return frames.take(index), weight


def check_phases(experiment: Experiment) -> None:
    """Raises UserError for an exact core without phases."""
    if not experiment.training.phases:
        raise UserError(f"{experiment.name}: training.phases is empty; the exact core is trained in phases")
