"""Which of many frames are learned from: those that the model is wrong about oftenest, each weighed so that the mean
gradient is that of all frames."""

from __future__ import annotations

import torch
from torch import Tensor

EVENLY = 0.3
"""Of the mean loss is added to every frame's: also those that the model is sure of are learned from now and then."""
ROUNDS = 8
"""Corrections for frames that are chosen with certainty."""


def important(losses: Tensor, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Losses (N,) → `count` of them (index (count,) int64), a frame the likelier the greater its loss, and weights
    (count,) float32 with which their mean is an unbiased one of all N."""
    scores = losses.detach().float().clamp(min=0.0)
    scores = scores + EVENLY * scores.mean() + 1e-6
    chance = torch.ones_like(scores)
    if count < len(scores):
        factor = count / scores.sum()
        for _ in range(ROUNDS):
            chance = (scores * factor).clamp(max=1.0)
            certain = chance >= 1.0
            factor = (count - certain.sum()) / scores.masked_fill(certain, 0.0).sum()
    ends = chance.double().cumsum(0) * (count / chance.double().sum())
    offset = torch.rand((), generator=rng, dtype=torch.float64).to(ends.device)
    points = torch.arange(count, device=ends.device) + offset
    index = torch.searchsorted(ends, points).clamp(max=len(scores) - 1)
    return index, (count / len(scores) / chance[index]).float()
