"""The recurrent core: Mamba-2 keeps a match's past in its carry, and classic heads say the next frame."""

from __future__ import annotations

import torch
from torch import Tensor

from wm_train.dynamics.classic import HeadsCore
from wm_train.dynamics.core import Carry, Proposal
from wm_train.dynamics.named import Named, named
from wm_train.dynamics.select import select
from wm_train.dynamics.stack import RECENT, frames_in_action, recent
from wm_train.encoding import stage_of
from wm_train.models.mamba2 import Mamba2Model
from wm_train.training.losses import losses
from wm_train.training.records import Batch


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
    def carry_layout(self) -> dict[str, tuple[tuple[int, ...], str]]:
        conv, state = self.network.sizes.memory_shapes
        layout: dict[str, tuple[tuple[int, ...], str]] = {}
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
        heads, memory = self.network.step(*frame, stage_of(match), history, memory)
        after, entropy = select(heads, before, self.age)
        lasted = frames_in_action(carry, before)
        kept = {f"conv_{i}": memory[i][0] for i in layers} | {f"state_{i}": memory[i][1] for i in layers}
        return Proposal(after, entropy, {**kept, **recent(carry, before, lasted, controllers)}, lasted)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Windows of K frames and the frame after them → mean loss of each head over the targets."""
        frames = self.network.encoder.frame(batch.floats[:, :-1], batch.ints[:, :-1], batch.controllers[:, :-1])
        history = torch.stack([batch.controllers[:, :-1], batch.controllers[:, 1:]], dim=2)
        heads = self.network(*frames, stage_of(batch.match[:, -1]), history, every=self.causal)
        first = 0 if self.causal else -2
        before, after = (
            named(batch.floats[:, part].flatten(0, 1), batch.ints[:, part].flatten(0, 1))
            for part in (slice(first, -1), slice(first + 1, None))
        )
        return losses(heads, before, after)
