"""The classic cores: a frame stack or a recurrence, and heads made into game values by simple rules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from wm_runtime.replays.dataset import Dataset
from wm_runtime.schema import CONTROL_NAMES, FLOAT_FIELDS, INT_FIELDS, PLAYERS
from wm_train.dynamics import recollection
from wm_train.dynamics.age import StateAge
from wm_train.dynamics.core import Carry, CarryLayout, Core, Proposal
from wm_train.dynamics.named import Named, named
from wm_train.dynamics.select import select
from wm_train.dynamics.stack import carry_layout, recall, recently, remember, stacked
from wm_train.encoding import MEMORY_ACTIONS, MEMORY_CONTROLLERS, MEMORY_COUNTERS, EncodingConfig, stage_of
from wm_train.models.heads import HeadsModel, StackModel
from wm_train.training.losses import losses
from wm_train.training.records import Batch
from wm_train.training.unroll import unrolled_losses

if TYPE_CHECKING:
    from wm_train.dynamics.step import WorldModel


class HeadsCore(Core):
    """A network with an encoder and classic heads, and the rule of state_age."""

    network: HeadsModel
    takes_noise = unrolls = True

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
        return self.config.past + 2

    def measure(self, dataset: Dataset, games: list[int], sample: Batch) -> None:
        """Tables of state_age from `games`, mean and spread of the inputs from the sample's last frames."""
        self.age.measure(dataset, games)
        self.network.encoder.measure(sample.floats[:, -1], sample.ints[:, -1], sample.controllers[:, -1])


class ClassicCore(HeadsCore):
    """A network of a stack of frames, (floats, classes, stage, controllers, memory) → heads; the stack, and the
    explicit memory of an encoding that has one."""

    network: StackModel

    @property
    def carry_layout(self) -> CarryLayout:
        return {**carry_layout(self.config), **(recollection.carry_layout() if self.config.memory else {})}

    def forward(
        self, floats: Tensor, ints: Tensor, match: Tensor, before: Named, controllers: Tensor, carry: Carry
    ) -> Proposal:
        """See dynamics.core.Core."""
        past = recall(self.network.encoder, carry, floats, ints, before)
        kept = remember(past, carry, before, controllers)
        told: tuple[Tensor, ...] = ()
        if self.config.memory:
            known, numbers, ago = recollection.recollect(carry, before)
            kept |= recollection.remember(numbers, ago, carry, before, controllers)
            told = known.inputs
        seen = self.config.frames
        earlier = past.floats[:, -self.config.history + 1 :, :, self.config.controller_columns]
        history = torch.cat([earlier, controllers[:, None]], dim=1)
        with self.precision(floats):
            heads = self.network(past.floats[:, :seen], past.classes[:, :seen], stage_of(match), history, *told)
        after, entropy = select({name: output.detach() for name, output in heads.items()}, before, self.age)
        return Proposal(after, entropy, kept, past.frames_in_action, heads)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Windows whose last frame is the target and whose frames before the present one are its past → mean loss of
        each head."""
        encoder, config = self.network.encoder, self.config
        first = self.window - 1 - config.frames - config.lookahead
        seen, present = slice(first, first + config.frames), slice(0, self.window - 1)
        floats, classes = encoder.frame(batch.floats[:, seen], batch.ints[:, seen], batch.controllers[:, seen])
        if self.noise and self.training:
            floats = self.noise(floats, config.float_names)
        told: tuple[Tensor, ...] = ()
        if config.memory:
            until = (batch.floats[:, present], batch.ints[:, present], batch.controllers[:, present])
            told = recollection.recollected(*until).inputs
        history = batch.controllers[:, -config.history :]
        with self.precision(floats):
            heads = self.network(floats, classes, stage_of(batch.match[:, -1]), history, *told)
        before = named(batch.floats[:, -2], batch.ints[:, -2])
        return losses(heads, before, named(batch.floats[:, -1], batch.ints[:, -1]))

    def unrolled_losses(self, batch: Batch, model: WorldModel) -> dict[str, Tensor]:
        """See dynamics.core.Core. With lookahead, the network sees its own frames so many frames later."""
        return unrolled_losses(model, batch, self.window - 2, self._remembered(batch))

    @torch.no_grad()
    def _remembered(self, batch: Batch) -> Carry:
        """The carry of true windows at their last frame before the first target, without a look at the network."""
        until = slice(0, self.window - 1)
        floats, ints, controllers = batch.floats[:, until], batch.ints[:, until], batch.controllers[:, until]
        carry = {**stacked(self.network.encoder, floats, ints, controllers), **recently(ints, controllers)}
        return {**carry, **(recollection.carried(floats, ints, controllers) if self.config.memory else {})}

    @property
    def input_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """See dynamics.core.Core."""
        config = self.config
        memory = {
            "counters": (PLAYERS, len(MEMORY_COUNTERS)),
            "actions": (PLAYERS, MEMORY_ACTIONS),
            "past controllers": (MEMORY_CONTROLLERS, PLAYERS, len(CONTROL_NAMES)),
        }
        return {
            "floats": (config.frames, PLAYERS, len(config.float_names)),
            "classes": (config.frames, PLAYERS, len(config.embeddings)),
            "stage": (),
            "controllers": (config.history, PLAYERS, len(CONTROL_NAMES)),
            **(memory if config.memory else {}),
        }
