"""The classic core: a frame stack through a network, and its heads made into game values by simple rules."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from wm_runtime.replays.dataset import Dataset
from wm_runtime.schema import CONTROL_NAMES, FLOAT_FIELDS, INT_FIELDS, PLAYERS
from wm_train.dynamics.age import StateAge
from wm_train.dynamics.core import Carry, Core, Proposal
from wm_train.dynamics.named import Named, named
from wm_train.dynamics.select import select
from wm_train.dynamics.stack import carry_layout, recall, remember
from wm_train.encoding import stage_of
from wm_train.models.frame_stack_mlp import FrameStackMLP
from wm_train.models.heads import HEADS
from wm_train.training.losses import losses
from wm_train.training.records import Batch
from wm_train.training.unroll import unrolled_losses

if TYPE_CHECKING:
    from wm_train.dynamics.step import WorldModel


class ClassicCore(Core):
    """A FrameStackMLP, its stack of frames and the rule of state_age."""

    predicted = tuple(
        sorted({name for head in HEADS for name in head.fields if name in (*FLOAT_FIELDS, *INT_FIELDS)} | {"state_age"})
    )
    weights = MappingProxyType({head.name: head.weight for head in HEADS})
    takes_noise = unrolls = True
    network: FrameStackMLP

    def __init__(self, network: FrameStackMLP):
        super().__init__()
        self.network = network
        self.age = StateAge()

    @property
    def carry_layout(self) -> dict[str, tuple[tuple[int, ...], str]]:
        return carry_layout(self.network.encoder.config)

    @property
    def window(self) -> int:
        return self.network.encoder.config.frames + 1

    def forward(
        self, floats: Tensor, ints: Tensor, match: Tensor, before: Named, controllers: Tensor, carry: Carry
    ) -> Proposal:
        """See dynamics.core.Core."""
        past = recall(self.network.encoder, carry, floats, ints, before)
        heads = self.mixed(self.network, past.floats, past.classes, stage_of(match), controllers, past.controllers)
        after, entropy = select({name: output.detach() for name, output in heads.items()}, before, self.age)
        return Proposal(after, entropy, remember(past, carry, before, controllers), past.frames_in_action, heads)

    def measure(self, dataset: Dataset, games: list[int], sample: Batch) -> None:
        """Tables of state_age from `games`, mean and spread of the inputs from the sample's last frames."""
        self.age.measure(dataset, games)
        self.network.encoder.measure(sample.floats[:, -1], sample.ints[:, -1], sample.controllers[:, -1])

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Windows whose last frame is the target and whose other frames are the stack → mean loss of each head."""
        encoder = self.network.encoder
        floats, classes = encoder.frame(batch.floats[:, :-1], batch.ints[:, :-1], batch.controllers[:, :-1])
        if self.noise and self.training:
            floats = self.noise(floats, encoder.config.float_names)
        stage = stage_of(batch.match[:, -1])
        heads = self.mixed(self.network, floats, classes, stage, batch.controllers[:, -1], batch.controllers[:, -2])
        before = named(batch.floats[:, -2], batch.ints[:, -2])
        return losses(heads, before, named(batch.floats[:, -1], batch.ints[:, -1]))

    def unrolled_losses(self, batch: Batch, model: WorldModel) -> dict[str, Tensor]:
        """See dynamics.core.Core."""
        return unrolled_losses(model, batch, self.window - 2, self._memory(batch))

    @torch.no_grad()
    def _memory(self, batch: Batch) -> Carry:
        """The carry of true windows at their last frame before the first target, without a look at the network."""
        layout, count = self.carry_layout.items(), len(batch)
        carry = {
            name: torch.zeros((count, *shape), dtype=getattr(torch, kind), device=batch.floats.device)
            for name, (shape, kind) in layout
        }
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
        config, pad = self.network.encoder.config, (PLAYERS, len(CONTROL_NAMES))
        return {
            "floats": (config.frames, PLAYERS, len(config.float_names)),
            "classes": (config.frames, PLAYERS, len(config.embeddings)),
            "stage": (),
            "controllers": pad,
            "previous": pad,
        }
