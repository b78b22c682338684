"""What an own-frame network remembers beside explicit memory: the last frames, or the state of Mamba-2.

A trunk has two forms of the same weights. `step` takes one frame and what is remembered of those before, which play and
the artifact do; `scan` takes frames one after the other at once, which training does, so that gradients flow through
what is remembered. Of a frame it gets `seen`, its numbers and the vectors of its classes, and `entering`, what the
network's first layers make of them.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wm_runtime.schema import PLAYERS
from wm_train.config import FrameStackTrunk, Mamba2Trunk, ResidualTrunk, Trunk
from wm_train.models.mamba2 import Mamba2
from wm_train.models.precision import full_precision

Memory = dict[str, Tensor]
"""Name → (N, …): what a trunk remembers of N matches."""
Layout = dict[str, tuple[tuple[int, ...], str]]
"""Name → (shape without the match axis, dtype) of a memory."""


class FrameStack(nn.Module):
    """The last K frames side by side, then layers with ReLU and a linear one. Of a match whose past is unknown the
    present frame stands for those before.

    `seen`: numbers and vectors of a frame · `width`: of what comes out.
    """

    def __init__(self, config: FrameStackTrunk, seen: int, width: int) -> None:
        super().__init__()
        self.past = config.frames - 1
        self.entering = config.widths[0]
        self.layout: Layout = {"stack": ((self.past, PLAYERS, seen), "float32")}
        self.earlier = nn.Linear(self.past * seen, self.entering, bias=False)
        """The first layer's weights of the frames before the present one, the earliest first."""
        self.layers = nn.ModuleList(nn.Linear(*sizes) for sizes in pairwise((*config.widths, width)))

    def step(self, seen: Tensor, entering: Tensor, memory: Memory, fresh: Tensor) -> tuple[Tensor, Memory]:
        """seen (N, 2, seen), entering (N, 2, entering), fresh (N, 1) bool: nothing is remembered → (N, 2, width) and
        the memory after."""
        now = seen[:, None]
        before = torch.where(fresh[..., None, None], now, memory["stack"])  # (N, K − 1, 2, seen)
        with full_precision(seen):
            h = entering + self.earlier(before.transpose(1, 2).flatten(2))
        return self._finish(h), {"stack": torch.cat([before[:, 1:], now], dim=1)}

    def scan(self, seen: Tensor, entering: Tensor) -> tuple[Tensor, Memory]:
        """Frames (L, N, 2, ·), L ≥ K − 1, of which the first K − 1 are only looked back at → (L − K + 1, N, 2, width)
        and the memory after the last."""
        h, length = entering[self.past :], len(seen) - self.past
        with full_precision(seen):
            for k, weight in enumerate(self.earlier.weight.split(seen.shape[-1], dim=1)):
                h = h + F.linear(seen[k : k + length], weight)
        return self._finish(h), {"stack": seen[length:].transpose(0, 1)}

    def _finish(self, h: Tensor) -> Tensor:
        for layer in self.layers:
            h = layer(torch.relu(h))
        return h


class Recurrent(nn.Module):
    """Mamba-2, both players as rows of their own. A match whose past is unknown begins with zeros."""

    def __init__(self, config: Mamba2Trunk, width: int) -> None:
        super().__init__()
        self.past = config.warmup
        self.entering = width
        self.mamba = Mamba2(config.sizes(width))
        conv, state = self.mamba.sizes.memory_shapes
        self.layout: Layout = {}
        for layer in range(config.layers):
            self.layout[f"conv_{layer}"] = ((PLAYERS, *conv), "float32")
            self.layout[f"state_{layer}"] = ((PLAYERS, *state), "float32")

    def step(self, seen: Tensor, entering: Tensor, memory: Memory, fresh: Tensor) -> tuple[Tensor, Memory]:
        """As that of FrameStack; zeros are nothing remembered, so `fresh` says nothing new."""
        layers = range(len(self.mamba.blocks))
        h, after = self.mamba.step(entering, [(memory[f"conv_{i}"], memory[f"state_{i}"]) for i in layers])
        return h, self._named(after)

    def scan(self, seen: Tensor, entering: Tensor) -> tuple[Tensor, Memory]:
        """Frames (L, N, 2, ·), of which the first `past` only warm up → (L − past, N, 2, width) and the memory after
        the last."""
        length, matches = entering.shape[:2]
        if not length:
            return entering, self._named(self.mamba.nothing(entering.new_zeros(matches * PLAYERS, 1)), matches)
        h, after = self.mamba(entering.flatten(1, 2).transpose(0, 1))  # (N · 2, L, width)
        h = h[:, self.past :].transpose(0, 1).unflatten(1, (matches, PLAYERS))
        return h, self._named(after, matches)

    def _named(self, memory: list[tuple[Tensor, Tensor]], matches: int | None = None) -> Memory:
        """Each layer's memory by name; where `matches` is given its rows are N · 2."""
        found: Memory = {}
        for i, parts in enumerate(memory):
            for name, part in zip(("conv", "state"), parts, strict=True):
                found[f"{name}_{i}"] = part if matches is None else part.unflatten(0, (matches, PLAYERS))
        return found


def build_trunk(config: Trunk, seen: int, width: int) -> FrameStack | Recurrent | None:
    """What a network remembers with, where it does. `seen`: numbers and vectors of a frame."""
    if isinstance(config, ResidualTrunk):
        return None
    return FrameStack(config, seen, width) if isinstance(config, FrameStackTrunk) else Recurrent(config, width)
