"""Measures an artifact on a dataset: every figure with its 95 % interval, baselines beside it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from wm_runtime.artifact import Artifact
from wm_runtime.replays.dataset import Dataset, data_fingerprint
from wm_runtime.simulator import Simulator
from wm_train.evaluate.figures import FIGURES, HORIZON, Case
from wm_train.evaluate.rollout import BASELINES, run_model
from wm_train.evaluate.windows import read_windows, sample_starts

KINDS = ("no_death", "all")
BATCH = 512
SCORED = 32
"""One-step predictions scored a window."""
RESAMPLES = 1000


def evaluate(
    artifact: Artifact, dataset: Dataset, windows: int = 6144, seed: int = 0,
    on_batch: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Window kind → figure → {value, low, high}; the same of each baseline under `baselines`; what was measured under
    `measured`. Intervals are 95 % bootstrap intervals over games. Raises UserError for data that is too short.

    Windows are drawn evenly from the dataset; those without a death are the `no_death` ones.
    """  # fmt: skip
    games, frames = sample_starts(dataset, windows, HORIZON, seed)
    sums: dict[str, dict[str, list]] = {name: {f: [] for f in FIGURES} for name in ("model", *BASELINES)}
    no_death = []
    for at in range(0, len(games), BATCH):
        window = read_windows(dataset, games[at : at + BATCH], frames[at : at + BATCH], artifact.warmup, HORIZON)
        no_death.append(window.no_death())
        predictions = {name: baseline(window, SCORED) for name, baseline in BASELINES.items()}
        predictions["model"] = run_model(Simulator(artifact, len(window)), window, SCORED)
        for name, prediction in predictions.items():
            case = Case(window, prediction)
            for figure, of in FIGURES.items():
                sums[name][figure].append(np.stack(of(case), axis=1))
        if on_batch:
            on_batch(min(at + BATCH, len(games)), len(games))
    masks = {"no_death": np.concatenate(no_death), "all": np.ones(len(games), bool)}
    tables = {
        name: {kind: _table(by_figure, games, masks[kind]) for kind in KINDS} for name, by_figure in sums.items()
    }
    return {
        **tables.pop("model"),
        "baselines": tables,
        "measured": {
            "model": artifact.name,
            "dataset": data_fingerprint(dataset.md5),
            "games": len(dataset),
            "windows": {kind: int(mask.sum()) for kind, mask in masks.items()},
            "one_step_frames": len(games) * SCORED * 2,
            "seed": seed,
        },
    }


def _table(by_figure: dict[str, list[np.ndarray]], games: np.ndarray, mask: np.ndarray) -> dict[str, Any]:
    return {figure: _interval(np.concatenate(rows)[mask], games[mask]) for figure, rows in by_figure.items()}


def _interval(sums: np.ndarray, games: np.ndarray) -> dict[str, float | None]:
    """Windows' (numerator, denominator), (B, 2), and their games → the ratio and its interval over games.

    All are None where the denominator is 0: a baseline that never claims a hit has no precision.
    """
    _, of_game = np.unique(games, return_inverse=True)
    by_game = np.stack([np.bincount(of_game, weights=column) for column in sums.T.astype(np.float64)], axis=1)
    total = by_game.sum(axis=0)
    if total[1] == 0:
        return {"value": None, "low": None, "high": None}
    drawn = np.random.default_rng(0).integers(0, len(by_game), (RESAMPLES, len(by_game)))
    resampled = by_game[drawn].sum(axis=1)
    ratios = resampled[resampled[:, 1] > 0]
    low, high = np.percentile(ratios[:, 0] / ratios[:, 1], [2.5, 97.5])
    return {"value": float(total[0] / total[1]), "low": float(low), "high": float(high)}
