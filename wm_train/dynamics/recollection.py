"""Explicit memory of a frame stack: what the past means, as numbers.

In play the rules of dynamics.memory keep it; in training it is worked out from true frames, all at once. Both tell the
same, for nothing is told that is SPAN frames ago.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from wm_runtime.schema import PLAYERS
from wm_train.dynamics import memory
from wm_train.dynamics.core import Carry, CarryLayout, zeros
from wm_train.dynamics.memory import NUMBERS, Past
from wm_train.dynamics.named import Named, named
from wm_train.encoding import MEMORY_ACTIONS, MEMORY_CONTROLLERS, MEMORY_COUNTERS, SPAN

PREFIX = "memory_"
"""Of the arrays of dynamics.memory in a carry that holds others too."""
AGO = "actions_ago"
"""Array of the frames since each of the previous actions ended."""


@dataclass
class Recollection:
    """What is told of the past, N matches."""

    counters: Tensor
    """(N, 2, MEMORY_COUNTERS) int32, at most SPAN."""
    actions: Tensor
    """(N, 2, MEMORY_ACTIONS) int32: those before the present one, the latest first; −1 where longer ago."""
    controllers: Tensor
    """(N, MEMORY_CONTROLLERS, 2, 13), the latest last: those that produced this frame, and the ones before."""

    @property
    def inputs(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.counters, self.actions, self.controllers


def carry_layout() -> CarryLayout:
    """Name → (shape without the match axis, dtype) of what is kept of it."""
    kept = {f"{PREFIX}{name}": row for name, row in memory.carry_layout().items()}
    return {**kept, AGO: ((PLAYERS, MEMORY_ACTIONS), "int32")}


def recollect(carry: Carry, state: Named) -> tuple[Recollection, Past, Tensor]:
    """The carry and the present state → what is told, and what `remember` needs of it."""
    own = {name: carry[f"{PREFIX}{name}"] for name in memory.carry_layout()}
    past = memory.recall(own, state)
    fresh = own["steps"][..., None] == 0
    ago = torch.where(fresh, torch.full_like(carry[AGO], SPAN), (carry[AGO] + 1).clamp(max=SPAN))
    changed = (past.numbers["frames_in_action"] == 0)[..., None] & ~fresh
    ago = torch.where(changed, torch.cat([torch.zeros_like(ago[..., :1]), ago[..., :-1]], dim=-1), ago)
    return _told(past.numbers, ago, past.controllers), past, ago


def remember(past: Past, ago: Tensor, carry: Carry, state: Named, controllers: Tensor) -> Carry:
    """Its part of the carry after a step from `state` with `controllers` (N, 2, 13), those of the next frame."""
    own = {name: carry[f"{PREFIX}{name}"] for name in memory.carry_layout()}
    kept = memory.remember(past, own, state, controllers)
    return {**{f"{PREFIX}{name}": value for name, value in kept.items()}, AGO: ago}


@torch.no_grad()
def carried(floats: Tensor, ints: Tensor, controllers: Tensor) -> Carry:
    """Its part of the carry of true frames (N, L, 2, ·), the last of which is about to be stepped from, and the
    controllers that produced them (N, L, 2, 13)."""
    carry = zeros(carry_layout(), len(floats), floats.device)
    for frame in range(floats.shape[1] - 1):
        state = named(floats[:, frame], ints[:, frame])
        _, past, ago = recollect(carry, state)
        carry = remember(past, ago, carry, state, controllers[:, frame + 1])
    return carry


@torch.no_grad()
def recollected(floats: Tensor, ints: Tensor, controllers: Tensor) -> Recollection:
    """What is told at the last of true frames (N, L, 2, ·), L > SPAN + 1, whose controllers are (N, L, 2, 13)."""
    length = floats.shape[1] - 1
    before, after = (
        named(floats[:, part].flatten(0, 1), ints[:, part].flatten(0, 1)) for part in (slice(-1), slice(1, None))
    )
    pads = torch.stack([controllers[:, :-1], controllers[:, 1:]], dim=2).flatten(0, 1)
    counters = memory.advance(dict.fromkeys(NUMBERS, torch.ones_like(after["action"])), before, after, pads)
    happened = {name: (counters[name] == 0).unflatten(0, (-1, length)) for name in MEMORY_COUNTERS}  # (N, length, 2)
    frame = torch.arange(length, device=floats.device)[:, None]
    latest = {name: torch.where(event, frame, -SPAN).amax(dim=1) for name, event in happened.items()}  # (N, 2)

    ends, actions = happened["frames_in_action"], before["action"].unflatten(0, (-1, length))
    ago, previous = [], []
    for _ in range(MEMORY_ACTIONS):
        last = torch.where(ends, frame, -SPAN).amax(dim=1, keepdim=True)
        previous.append(actions.gather(1, last.clamp(min=0))[:, 0])
        ago.append((length - 1 - last[:, 0]).clamp(max=SPAN))
        ends = ends & (frame != last)
    numbers = {name: (length - 1 - at).int() for name, at in latest.items()}
    numbers |= {f"action_{i + 1}": action for i, action in enumerate(previous)}
    return _told(numbers, torch.stack(ago, dim=-1), controllers)


def _told(numbers: Mapping[str, Tensor], ago: Tensor, controllers: Tensor) -> Recollection:
    counters = torch.stack([numbers[name] for name in MEMORY_COUNTERS], dim=-1).clamp(max=SPAN)
    actions = torch.stack([numbers[f"action_{i + 1}"] for i in range(MEMORY_ACTIONS)], dim=-1)
    actions = torch.where(ago < SPAN, actions, torch.full_like(actions, -1))
    return Recollection(counters, actions, controllers[:, -MEMORY_CONTROLLERS:])
