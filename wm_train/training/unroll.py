"""Unrolled training: a model is trained on the frames that it would itself have made, with the true game's labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from wm_train.dynamics.named import Named, named
from wm_train.training.losses import losses
from wm_train.training.records import Batch

if TYPE_CHECKING:
    from wm_train.config import Unroll
    from wm_train.dynamics.core import Carry
    from wm_train.dynamics.step import WorldModel


def lengths(unroll: Unroll | None, epoch: int, epochs: int, batches: int, rng: np.random.Generator) -> list[int]:
    """Targets of each batch of an epoch (0 …): 1 for one-step training, else the length due at that point of the run.

    A run is divided evenly among the lengths, in their order; which batches are unrolled is drawn from `rng`.
    """
    if unroll is None:
        return [1] * batches
    unrolled = rng.random(batches) < unroll.share
    at = (epoch + np.arange(batches) / batches) / epochs  # 0 … 1
    due = np.array(unroll.lengths)[(at * len(unroll.lengths)).astype(int)]
    return np.where(unrolled, due, 1).tolist()


def unrolled_losses(model: WorldModel, batch: Batch, present: int, carry: Carry) -> dict[str, Tensor]:
    """Name → mean loss over the steps from frame `present` of the windows to their end.

    The first step is from the true state, every other from what the step before left; no gradient flows through states.
    `carry`: what is remembered before the first step. The core's proposals must bring their heads.
    """
    floats, ints, match = batch.floats[:, present], batch.ints[:, present], batch.match[:, present]
    parts: list[dict[str, Tensor]] = []
    for target in range(present + 1, batch.match.shape[1]):
        before = named(floats, ints)
        proposal = model.core(floats, ints, match, before, batch.controllers[:, target], carry)
        assert proposal.heads is not None, f"{type(model.core).__name__} proposes without heads"
        parts.append(losses(proposal.heads, before, _true(batch, target)))
        with torch.no_grad():
            (floats, ints, match), _ = model.finish(before, match, proposal)
        carry = proposal.carry
    return {name: torch.stack([part[name] for part in parts]).mean() for name in parts[0]}


def _true(batch: Batch, frame: int) -> Named:
    return named(batch.floats[:, frame], batch.ints[:, frame])
