"""A few figures of anything that can be stepped, in seconds: what a trainer chooses its best weights by.

    windows = quick_windows(dataset, games=held_out)      # once
    figures = quick_figures(simulator_like, windows)      # as often as wanted; figures["RC@20"] is the one to lower

`simulator_like` holds len(windows) matches: a Simulator, or any object with `state` (a State of numpy arrays that may
be written to), `reset(Start)` and `step(controllers (N, 2, 13) float32)` (rollout.Steps).
"""

from __future__ import annotations

import numpy as np

from wm_runtime.replays.dataset import Dataset
from wm_train.evaluate.bootstrap import ratio
from wm_train.evaluate.figures import HEADLINE, HORIZON, Case
from wm_train.evaluate.rollout import Steps, run_model
from wm_train.evaluate.windows import Window, read_windows, sample_starts

HISTORY = 64
SCORED = 32
SPARE = 1.4
"""Windows drawn for each one wanted: about one in ten has a death in it."""


def quick_windows(
    dataset: Dataset, count: int = 512, games: np.ndarray | None = None, history: int = HISTORY, seed: int = 0
) -> Window:
    """Up to `count` no-death windows of 20 frames, drawn evenly from `games` (numbers; default: all) of a dataset."""
    window = read_windows(
        dataset, *sample_starts(dataset, int(count * SPARE), HORIZON, seed, games), history, HORIZON
    )
    alive = np.flatnonzero(window.no_death())
    return window.select(np.sort(np.random.default_rng(seed).permutation(alive)[:count]))


def quick_figures(simulator: Steps, windows: Window) -> dict[str, float]:
    """Every headline figure (figures.HEADLINE) over these windows; NaN where nothing was counted."""
    case = Case(windows, run_model(simulator, windows, min(SCORED, windows.history)))
    sums = {name: np.stack(figure.of(case), axis=-1).sum(axis=(0, 1)) for name, figure in HEADLINE.items()}
    return {name: float(ratio(total.astype(np.float64))) for name, total in sums.items()}
