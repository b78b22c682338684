"""The classic cores: a frame stack or a recurrence, and heads made into game values by simple rules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from wm_runtime.replays.dataset import Dataset
from wm_runtime.schema import CONTROL_NAMES, FLOAT_FIELDS, INT_FIELDS, PLAYERS
from wm_train.dynamics.age import StateAge
from wm_train.dynamics.core import Carry, Core, Proposal, zeros
from wm_train.dynamics.named import Named, named
from wm_train.dynamics.select import select
from wm_train.dynamics.stack import carry_layout, recall, remember
from wm_train.encoding import EncodingConfig, stage_of
from wm_train.models.heads import HeadsModel
from wm_train.training.losses import losses
from wm_train.training.records import Batch
from wm_train.training.unroll import unrolled_losses

if TYPE_CHECKING:
    from wm_train.dynamics.step import WorldModel


class HeadsCore(Core):
    """A network with an encoder and classic heads, and the rule of state_age."""

    network: HeadsModel

    def __init__(self, network: HeadsModel):
        super().__init__()
        self.network = network
        self.age = StateAge()
        heads = network.heads.heads
        fields = {name for head in heads for name in head.fields if name in (*FLOAT_FIELDS, *INT_FIELDS)}
        self.predicted = tuple(sorted(fields | {"state_age"}))
        self.weights = {head.name: head.weight for head in heads}

    @property
    def config(self) -> EncodingConfig:
        return self.network.encoder.config

    @property
    def window(self) -> int:
        return self.config.frames + self.config.lookahead + 1

    def measure(self, dataset: Dataset, games: list[int], sample: Batch) -> None:
        """Tables of state_age from `games`, mean and spread of the inputs from the sample's last frames."""
        self.age.measure(dataset, games)
        self.network.encoder.measure(sample.floats[:, -1], sample.ints[:, -1], sample.controllers[:, -1])


class ClassicCore(HeadsCore):
    """A network of a stack of frames, (floats, classes, stage, controllers) → heads, and the stack.

    Neither noise nor unrolling is for a stack with lookahead, whose newest frames the network does not see.
    """

    takes_noise = unrolls = True

    def __init__(self, network: HeadsModel):
        super().__init__(network)
        if self.config.lookahead:
            self.takes_noise = self.unrolls = False

    @property
    def carry_layout(self) -> dict[str, tuple[tuple[int, ...], str]]:
        return carry_layout(self.config)

    def forward(
        self, floats: Tensor, ints: Tensor, match: Tensor, before: Named, controllers: Tensor, carry: Carry
    ) -> Proposal:
        """See dynamics.core.Core."""
        past = recall(self.network.encoder, carry, floats, ints, before)
        seen = self.config.frames
        earlier = past.floats[:, -self.config.history + 1 :, :, self.config.controller_columns]
        history = torch.cat([earlier, controllers[:, None]], dim=1)
        heads = self.mixed(self.network, past.floats[:, :seen], past.classes[:, :seen], stage_of(match), history)
        after, entropy = select({name: output.detach() for name, output in heads.items()}, before, self.age)
        return Proposal(after, entropy, remember(past, carry, before, controllers), past.frames_in_action, heads)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Windows whose last frame is the target and whose first K frames are the stack → mean loss of each head."""
        encoder, seen = self.network.encoder, slice(0, self.config.frames)
        floats, classes = encoder.frame(batch.floats[:, seen], batch.ints[:, seen], batch.controllers[:, seen])
        if self.noise and self.training:
            floats = self.noise(floats, self.config.float_names)
        history = batch.controllers[:, -self.config.history :]
        heads = self.mixed(self.network, floats, classes, stage_of(batch.match[:, -1]), history)
        before = named(batch.floats[:, -2], batch.ints[:, -2])
        return losses(heads, before, named(batch.floats[:, -1], batch.ints[:, -1]))

    def unrolled_losses(self, batch: Batch, model: WorldModel) -> dict[str, Tensor]:
        """See dynamics.core.Core."""
        return unrolled_losses(model, batch, self.window - 2, self._memory(batch))

    @torch.no_grad()
    def _memory(self, batch: Batch) -> Carry:
        """The carry of true windows at their last frame before the first target, without a look at the network."""
        carry = zeros(self.carry_layout, len(batch), batch.floats.device)
        carry["controllers"] = batch.controllers[:, 0]
        for frame in range(self.window - 2):
            floats, ints = batch.floats[:, frame], batch.ints[:, frame]
            before = named(floats, ints)
            past = recall(self.network.encoder, carry, floats, ints, before)
            carry = remember(past, carry, before, batch.controllers[:, frame + 1])
        return carry

    @property
    def input_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """See dynamics.core.Core."""
        config = self.config
        return {
            "floats": (config.frames, PLAYERS, len(config.float_names)),
            "classes": (config.frames, PLAYERS, len(config.embeddings)),
            "stage": (),
            "controllers": (config.history, PLAYERS, len(CONTROL_NAMES)),
        }
