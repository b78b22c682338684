"""Where a run stands: all that it needs, beside its weights, to go on as if it had never stopped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass
class Progress:
    """epoch: the one at hand, 0 … · batch: those done of it · step: optimiser steps in all · seconds: time spent in
    training in the epoch · targets: frames learned from in it · sums: its losses, times windows · best: lowest RC@20 of
    an epoch."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    seconds: float = 0.0
    targets: int = 0
    best: float = float("inf")
    sums: dict[str, float] = field(default_factory=dict)

    def next_epoch(self) -> None:
        self.epoch, self.batch, self.seconds, self.targets, self.sums = self.epoch + 1, 0, 0.0, 0, {}


def capture(
    progress: Progress, optimiser: torch.optim.Optimizer, schedule: torch.optim.lr_scheduler.LRScheduler, streams: bool
) -> dict[str, Any]:
    """Everything as it is now, of types that a checkpoint may hold."""
    return {
        "at": {**vars(progress), "sums": dict(progress.sums)},
        "optimiser": optimiser.state_dict(),
        "schedule": {name: value for name, value in schedule.state_dict().items() if name != "lr_lambdas"},
        "random": random_state(),
        "streams": streams,
    }


def restore(
    saved: Mapping[str, Any], optimiser: torch.optim.Optimizer, schedule: torch.optim.lr_scheduler.LRScheduler
) -> Progress:
    """The inverse of `capture`."""
    optimiser.load_state_dict(saved["optimiser"])
    schedule.load_state_dict({**schedule.state_dict(), **saved["schedule"]})
    set_random_state(saved["random"])
    return Progress(**saved["at"])


def random_state() -> dict[str, torch.Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: Mapping[str, torch.Tensor]) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


@contextmanager
def same_randomness() -> Iterator[None]:
    """What is drawn inside leaves no trace outside."""
    state = random_state()
    try:
        yield
    finally:
        set_random_state(state)
