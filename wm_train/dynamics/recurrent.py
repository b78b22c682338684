"""The recurrent core: Mamba-2 keeps a match's past in its carry, and classic heads say the next frame."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from wm_train.dynamics.classic import HeadsCore
from wm_train.dynamics.core import Carry, CarryLayout, Proposal
from wm_train.dynamics.named import Named, named
from wm_train.dynamics.select import select
from wm_train.dynamics.stack import RECENT, frames_in_action, recent, recently
from wm_train.encoding import stage_of
from wm_train.models.mamba2 import Mamba2Model, Memory
from wm_train.training.losses import losses
from wm_train.training.records import Batch

if TYPE_CHECKING:
    from wm_train.dynamics.step import WorldModel


class MambaCore(HeadsCore):
    """A Mamba2Model. Its carry is each layer's convolution inputs and state, nothing where all is zero.

    With `causal`, every frame of a window but the first is a target of training; without, the last alone is, as it is
    for a frame stack. What is stepped is the same.
    """

    network: Mamba2Model

    def __init__(self, network: Mamba2Model, causal: bool = True):
        super().__init__(network)
        self.causal = causal
        self.targets = self.config.frames if causal else 1

    @property
    def carry_layout(self) -> CarryLayout:
        conv, state = self.network.sizes.memory_shapes
        layout: CarryLayout = {}
        for layer in range(self.network.sizes.layers):
            layout |= {f"conv_{layer}": (conv, "float32"), f"state_{layer}": (state, "float32")}
        return {**layout, **RECENT}

    def forward(
        self, floats: Tensor, ints: Tensor, match: Tensor, before: Named, controllers: Tensor, carry: Carry
    ) -> Proposal:
        """See dynamics.core.Core."""
        layers = range(self.network.sizes.layers)
        memory = [(carry[f"conv_{i}"], carry[f"state_{i}"]) for i in layers]
        frame = self.network.encoder.frame(floats, ints, carry["controllers"])
        history = torch.stack([carry["controllers"], controllers], dim=1)
        with self.precision(floats):
            heads, memory = self.network.step(*frame, stage_of(match), history, memory)
        after, entropy = select({name: output.detach() for name, output in heads.items()}, before, self.age)
        lasted = frames_in_action(carry, before)
        kept = {**_named(memory), **recent(carry, before, lasted, controllers)}
        return Proposal(after, entropy, kept, lasted, heads)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Windows of K frames and the frame after them → mean loss of each head over the targets."""
        return self._losses(batch, batch, self.targets)

    def unrolled_losses(self, batch: Batch, model: WorldModel) -> dict[str, Tensor]:
        """See dynamics.core.Core. The rollout itself carries no gradient; what is learned from is the sequence of true
        and own frames that it leaves, at once, so that gradients flow through what the network remembers."""
        return self._losses(self._rolled_out(batch, model), batch, batch.match.shape[1] - self.window + 1)

    def _losses(self, seen: Batch, true: Batch, targets: int) -> dict[str, Tensor]:
        """Mean loss of each head over the last `targets` frames of windows, of which these frames were `seen`."""
        floats, classes, history = self._inputs(seen)
        if self.noise and self.training:
            floats = self.noise(floats, self.config.float_names)
        with self.precision(floats):
            heads = self.network(floats, classes, stage_of(true.match[:, -1]), history, targets)
        before, after = (
            named(batch.floats[:, part].flatten(0, 1), batch.ints[:, part].flatten(0, 1))
            for batch, part in ((seen, slice(-1 - targets, -1)), (true, slice(-targets, None)))
        )
        return losses(heads, before, after)

    def _inputs(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """All frames of windows but the last, and the controllers up to the frame after each, as the network takes
        them."""
        frames = self.network.encoder.frame(batch.floats[:, :-1], batch.ints[:, :-1], batch.controllers[:, :-1])
        return *frames, torch.stack([batch.controllers[:, :-1], batch.controllers[:, 1:]], dim=2)

    @torch.no_grad()
    def _rolled_out(self, batch: Batch, model: WorldModel) -> Batch:
        """The same windows with the model's own frames in place of the targets, rules and all."""
        present = self.window - 2
        floats, ints, carry = batch.floats.clone(), batch.ints.clone(), self._remembered(batch)
        state = (floats[:, present], ints[:, present], batch.match[:, present])
        for target in range(present + 1, batch.match.shape[1] - 1):  # nothing is made of the last
            state, carry, _ = model(*state, batch.controllers[:, target], carry)
            floats[:, target], ints[:, target] = state[:2]
        return Batch(floats, ints, batch.match, batch.controllers)

    def _remembered(self, batch: Batch) -> Carry:
        """The carry of true windows at their last frame before the first target."""
        until = slice(0, self.window - 1)
        known = Batch(*(part[:, until] for part in vars(batch).values()))
        floats, classes, history = self._inputs(known)
        stage = stage_of(batch.match[:, 0])
        with self.precision(floats):
            memory = self.network.remember(floats, classes, stage, history)
        return {**_named(memory), **recently(known.ints, known.controllers)}


def _named(memory: list[Memory]) -> Carry:
    """Each layer's memory as arrays of a carry."""
    parts = {f"conv_{i}": conv for i, (conv, _) in enumerate(memory)}
    return parts | {f"state_{i}": state for i, (_, state) in enumerate(memory)}
