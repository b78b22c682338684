"""The classic cores: a frame stack or a recurrence, and heads made into game values by simple rules."""

from __future__ import annotations

import torch
from torch import Tensor

from wm_runtime.replays.dataset import Dataset
from wm_runtime.schema import FLOAT_FIELDS, INT_FIELDS
from wm_train.dynamics.age import StateAge
from wm_train.dynamics.core import Carry, Core, Proposal
from wm_train.dynamics.named import Named, named
from wm_train.dynamics.select import select
from wm_train.dynamics.stack import carry_layout, recall, remember
from wm_train.encoding import EncodingConfig, stage_of
from wm_train.models.heads import HeadsModel
from wm_train.training.data import Batch
from wm_train.training.losses import losses


class HeadsCore(Core):
    """A network with an encoder and classic heads, and the rule of state_age."""

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
    """A network of a stack of frames, (floats, classes, stage, controllers) → heads, and the stack."""

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
        heads = self.network(past.floats[:, :seen], past.classes[:, :seen], stage_of(match), history)
        after, entropy = select(heads, before, self.age)
        return Proposal(after, entropy, remember(past, carry, before, controllers), past.frames_in_action)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Windows whose last frame is the target and whose first K frames are the stack → mean loss of each head."""
        seen = slice(0, self.config.frames)
        frames = self.network.encoder.frame(batch.floats[:, seen], batch.ints[:, seen], batch.controllers[:, seen])
        history = batch.controllers[:, -self.config.history :]
        heads = self.network(*frames, stage_of(batch.match[:, -1]), history)
        before = named(batch.floats[:, -2], batch.ints[:, -2])
        return losses(heads, before, named(batch.floats[:, -1], batch.ints[:, -1]))
