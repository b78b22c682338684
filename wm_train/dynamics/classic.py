"""The classic core: a frame stack through a network, and its heads made into game values by simple rules."""

from __future__ import annotations

from types import MappingProxyType

from torch import Tensor

from wm_runtime.replays.dataset import Dataset
from wm_runtime.schema import FLOAT_FIELDS, INT_FIELDS
from wm_train.dynamics.age import StateAge
from wm_train.dynamics.core import Carry, Core, Proposal
from wm_train.dynamics.named import Named, named
from wm_train.dynamics.select import select
from wm_train.dynamics.stack import carry_layout, recall, remember
from wm_train.encoding import stage_of
from wm_train.models.frame_stack_mlp import FrameStackMLP
from wm_train.models.heads import HEADS
from wm_train.training.data import Batch
from wm_train.training.losses import losses


class ClassicCore(Core):
    """A FrameStackMLP, its stack of frames and the rule of state_age."""

    predicted = tuple(
        sorted({name for head in HEADS for name in head.fields if name in (*FLOAT_FIELDS, *INT_FIELDS)} | {"state_age"})
    )
    weights = MappingProxyType({head.name: head.weight for head in HEADS})

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
        heads = self.network(past.floats, past.classes, stage_of(match), controllers, past.controllers)
        after, entropy = select(heads, before, self.age)
        return Proposal(after, entropy, remember(past, carry, before, controllers), past.frames_in_action)

    def measure(self, dataset: Dataset, games: list[int], sample: Batch) -> None:
        """Tables of state_age from `games`, mean and spread of the inputs from the sample's last frames."""
        self.age.measure(dataset, games)
        self.network.encoder.measure(sample.floats[:, -1], sample.ints[:, -1], sample.controllers[:, -1])

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Windows whose last frame is the target and whose other frames are the stack → mean loss of each head."""
        encoder = self.network.encoder
        floats, classes = encoder.frame(batch.floats[:, :-1], batch.ints[:, :-1], batch.controllers[:, :-1])
        stage = stage_of(batch.match[:, -1])
        heads = self.network(floats, classes, stage, batch.controllers[:, -1], batch.controllers[:, -2])
        before = named(batch.floats[:, -2], batch.ints[:, -2])
        return losses(heads, before, named(batch.floats[:, -1], batch.ints[:, -1]))
