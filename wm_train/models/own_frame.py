"""The own-frame network: one fighter's view of the match in, what becomes of it out, in the order of the game.

A trunk sees the state, and may remember those before it; it says what action each fighter means to take. Who would
strike whom follows from that, and from both the action that it takes. What follows sees the actions that were chosen,
then who was struck, then the velocities: first actions, then hits, then velocities, then where a fighter ends up. Both
players are rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wm_runtime.schema import FIELD
from wm_train.config import ResidualTrunk, Trunk
from wm_train.models.trunks import Layout, Memory, build_trunk

CHARACTERS, ACTIONS = FIELD["character"].classes or 0, FIELD["action"].classes or 0


class RowEmbedding(nn.Module):
    """An embedding whose vocabulary is set when tables are measured, or by the weights that are loaded."""

    weight: Tensor

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(vocabulary, width) * 0.05)

    def resize(self, vocabulary: int) -> None:
        self.weight = nn.Parameter(torch.randn(vocabulary, self.weight.shape[1]) * 0.05)

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs) -> None:
        if f"{prefix}weight" in state_dict:
            self.weight = nn.Parameter(torch.empty(state_dict[f"{prefix}weight"].shape))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def forward(self, index: Tensor) -> Tensor:
        return F.embedding(index, self.weight)


class Block(nn.Module):
    """h + W₂ silu(W₁ norm(h) + what is given), (…, width)."""

    def __init__(self, width: int, inner: int, given: int = 0) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.into = nn.Linear(width, inner)
        self.given = nn.Linear(given, inner, bias=False) if given else None
        self.out = nn.Linear(inner, width)
        self.dropout = 0.0

    def forward(self, h: Tensor, given: Tensor | None = None) -> Tensor:
        inner = self.into(self.norm(h))
        if self.given is not None:
            inner = inner + self.given(given)
        inner = F.silu(inner)
        if self.dropout > 0:
            inner = F.dropout(inner, self.dropout)
        return h + self.out(inner)


class OwnFrameNetwork(nn.Module):
    """numbers: their count · embedded: name → (vocabulary, width) · heads: stage → name → outputs · strikes, rise,
    contact: numbers about who would strike whom, who was struck, and where velocities lead."""

    STAGES = ("acted", "struck", "moved")
    """What has been decided before a stage: the actions, the rises of percent, the velocities."""
    MOVE, ACTION = 24, 16
    """Width of the vectors of the chosen move and of the other fighter's chosen action."""

    def __init__(
        self, numbers: int, embedded: Mapping[str, tuple[int, int]], heads: Mapping[str, Mapping[str, int]],
        strikes: int, rise: int, contact: int, width: int, blocks: int, late: int, trunk: Trunk | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.embed = nn.ModuleDict({name: RowEmbedding(*size) for name, size in embedded.items()})
        vectors = sum(size for _, size in embedded.values())
        self.remembers = build_trunk(trunk or ResidualTrunk(), numbers + vectors, width)
        entering = width if self.remembers is None else self.remembers.entering
        self.from_numbers = nn.Linear(numbers, entering)
        self.from_classes = nn.Linear(vectors, entering, bias=False)
        self.blocks = nn.ModuleList([Block(width, 2 * width) for _ in range(blocks)])
        self.norm = nn.LayerNorm(width)
        self.action = nn.Linear(width, ACTIONS)
        self.move = RowEmbedding(CHARACTERS * ACTIONS, self.MOVE)
        self.other = RowEmbedding(ACTIONS, self.ACTION)
        self.intent = nn.Linear(width, ACTIONS)
        self.decided = Block(width, width // 2, self.MOVE + self.ACTION + strikes)
        given = {"acted": self.MOVE + self.ACTION + strikes, "struck": rise, "moved": contact}
        inner = {"acted": 2 * width, "struck": width, "moved": late}
        self.later = nn.ModuleDict({stage: Block(width, inner[stage], given[stage]) for stage in self.STAGES})
        self.heads = nn.ModuleDict({stage: nn.Linear(width, sum(heads[stage].values())) for stage in self.STAGES})
        self.names = {stage: list(heads[stage]) for stage in self.STAGES}
        self.sizes = {stage: list(heads[stage].values()) for stage in self.STAGES}
        self.amp = False
        """bfloat16 in matrix products, but for the first, which positions go through."""

    @property
    def _all_blocks(self) -> list[Block]:
        blocks = [*self.blocks, self.decided, *self.later.values()]
        return [block for block in blocks if isinstance(block, Block)]

    @property
    def trunk_weights(self) -> list[Tensor]:
        """The matrices (out, in) of all blocks: those that may be in whole numbers."""
        return [layer.weight for block in self._all_blocks for layer in (block.into, block.out)]

    def drop_out(self, share: float) -> None:
        """From now on, hides this share of what is within blocks; 0 for none."""
        for block in self._all_blocks:
            block.dropout = share

    @property
    def memory_layout(self) -> Layout:
        """What the trunk remembers of a match."""
        return {} if self.remembers is None else self.remembers.layout

    @property
    def past(self) -> int:
        """True frames before those that are learned from that the trunk looks at."""
        return 0 if self.remembers is None else self.remembers.past

    def trunk(
        self, numbers: Tensor, classes: Mapping[str, Tensor], memory: Memory, fresh: Tensor
    ) -> tuple[Tensor, Memory]:
        """Features (N, 2, numbers) and classes (N, 2) of a frame, memory of those before and whether that is nothing,
        (N, 1) bool → (N, 2, width) and the memory after it."""
        vectors, h = self._enter(numbers, classes)
        with self._precision(h):
            if self.remembers is not None:
                h, memory = self.remembers.step(torch.cat([numbers, vectors], dim=-1), h, memory, fresh)
            for block in self.blocks:
                h = block(h)
        return h, memory

    def scan(self, numbers: Tensor, classes: Mapping[str, Tensor]) -> tuple[Tensor, Memory]:
        """Features (L, N, 2, numbers) and classes (L, N, 2) of frames one after the other → what `trunk` says of all
        but the first `past`, (L − past, N, 2, width), and the memory after the last. Only for trunks that remember."""
        assert self.remembers is not None
        vectors, h = self._enter(numbers, classes)
        with self._precision(h):
            h, memory = self.remembers.scan(torch.cat([numbers, vectors], dim=-1), h)
            for block in self.blocks:
                h = block(h)
        return h, memory

    def _enter(self, numbers: Tensor, classes: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Vectors of the classes, and what the first layers make of a frame."""
        vectors = torch.cat([embed(classes[name]) for name, embed in self.embed.items()], dim=-1)
        h = self.from_numbers(numbers)
        with self._precision(h):
            return vectors, h + self.from_classes(vectors)

    def intents(self, h: Tensor) -> Tensor:
        """(N, 2, width) → logits of the action that each fighter would take if nobody struck it, (N, 2, actions)."""
        with self._precision(h):
            return self.intent(F.layer_norm(h, h.shape[-1:])).float()

    def decide(self, h: Tensor, given: Tensor) -> Tensor:
        """(N, 2, width), what is meant and who would strike whom → the same, (N, 2, width)."""
        with self._precision(h):
            return self.decided(h, given)

    def actions(self, h: Tensor) -> Tensor:
        """(N, 2, width) → logits of the next action, (N, 2, actions) float32."""
        with self._precision(h):
            return self.action(self.norm(h)).float()

    def chosen(self, move: Tensor, action: Tensor) -> Tensor:
        """Vectors of the chosen moves and of the other fighter's actions (N, 2) → (N, 2, MOVE + ACTION)."""
        return torch.cat([self.move(move), self.other(action.flip(1).long())], dim=-1)

    def stage(self, stage: str, h: Tensor, given: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """One later stage: (N, 2, width) → the same, and its heads by name, (N, 2, outputs) float32."""
        with self._precision(h):
            h = self.later[stage](h, given)
            out = self.heads[stage](F.layer_norm(h, h.shape[-1:])).float()
        return h, dict(zip(self.names[stage], out.split(self.sizes[stage], dim=-1), strict=True))

    def _precision(self, h: Tensor) -> torch.autocast:
        return torch.autocast(h.device.type, torch.bfloat16, enabled=self.amp)


def vocabulary(size: int, rows: Sequence[int]) -> int:
    """A vocabulary, or where `size` is −1 or −2, that of the tables' rows by age or by frames in the action."""
    return rows[-1 - size] if size < 0 else size
