"""The learning rate over a run."""

from __future__ import annotations

import math


def warmup_cosine(step: int, steps: int, warmup: int, floor: float = 0.0) -> float:
    """Factor of the learning rate: a linear warm-up, then half a cosine down to `floor` at the last step."""
    if step < warmup:
        return (step + 1) / warmup
    falls = 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))
    return floor + (1 - floor) * falls
