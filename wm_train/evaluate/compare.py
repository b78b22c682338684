"""Two models on the same windows: what lies between them, with much less noise than between their two tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from wm_train.evaluate.bootstrap import Scores, interval, ratio, resampled
from wm_train.evaluate.figures import Figure


def paired(
    this: Scores, other: Scores, figures: Mapping[str, Figure], counted: np.ndarray
) -> dict[str, dict[str, float | None]]:
    """Figure → {value, low, high}: this model's minus the other's, games resampled for both at once; better, worse:
    shares of the windows that count for both on which this model is the better, and the worse, one."""
    names = list(this.names)
    a, b = this.by_game(counted, names), other.by_game(counted, names)
    value = ratio(a.sum(axis=0)) - ratio(b.sum(axis=0))
    drawn = ratio(resampled(a)) - ratio(resampled(b))
    return {
        name: {**interval(value[f], drawn[:, f]), **_shares(this, other, f, figures[name], counted)}
        for f, name in enumerate(names)
    }


def _shares(this: Scores, other: Scores, figure: int, of: Figure, counted: np.ndarray) -> dict[str, Any]:
    a, b = (ratio(scores.sums[counted, :, figure].sum(axis=1)) for scores in (this, other))
    both = np.isfinite(a) & np.isfinite(b)
    if not both.any():
        return {"better": None, "worse": None}
    lead = (a - b)[both] * (1 if of.better == "higher" else -1)
    return {"better": float((lead > 0).mean()), "worse": float((lead < 0).mean())}
