"""Scores predictors on the same windows, a batch at a time: memory does not grow with the number of windows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from wm_runtime.replays.dataset import Dataset
from wm_train.evaluate.bootstrap import Scores
from wm_train.evaluate.figures import Case, Figure
from wm_train.evaluate.rollout import ALL_FIELDS, Predictor
from wm_train.evaluate.windows import read_windows

OnBatch = Callable[[int, int], None]
"""(windows or frames done, of how many)."""


@dataclass
class Scored:
    """scores: predictor → sums of its windows · no_death: (B,) bool · stage: (B,) id · character: (B, 2) internal id,
    at the start of each window."""

    scores: dict[str, Scores]
    no_death: np.ndarray
    stage: np.ndarray
    character: np.ndarray

    @property
    def game(self) -> np.ndarray:
        """(B,) number of each window's game."""
        return next(iter(self.scores.values())).game


def score(
    predictors: Mapping[str, Predictor], dataset: Dataset, starts: tuple[np.ndarray, np.ndarray], history: int,
    horizon: int, figures: Mapping[str, Figure], scored: int, batch: int, fields: tuple[str, ...] = ALL_FIELDS,
    on_case: Callable[[str, Case], None] | None = None, on_batch: OnBatch | None = None,
) -> Scored:  # fmt: skip
    """Every figure of every predictor on the windows that begin at `starts` (games, frames).

    `scored`: one-step frames of each window · `on_case(predictor, case)` sees each batch before it is let go.
    """
    games, frames = starts
    sums: dict[str, list[np.ndarray]] = {name: [] for name in predictors}
    facts: dict[str, list[np.ndarray]] = {"no_death": [], "stage": [], "character": []}
    for at in range(0, len(games), batch):
        window = read_windows(dataset, games[at : at + batch], frames[at : at + batch], history, horizon)
        facts["no_death"].append(window.no_death())
        facts["stage"].append(window.stage())
        facts["character"].append(window.field("character")[:, history])
        for name, predictor in predictors.items():
            case = Case(window, predictor(window, scored, fields))
            sums[name].append(_sums(case, figures))
            if on_case:
                on_case(name, case)
        if on_batch:
            on_batch(min(at + batch, len(games)), len(games))
    scores = {name: Scores(tuple(figures), np.concatenate(parts), games) for name, parts in sums.items()}
    return Scored(scores, **{name: np.concatenate(parts) for name, parts in facts.items()})


def _sums(case: Case, figures: Mapping[str, Figure]) -> np.ndarray:
    """(B, 2, F, 2)."""
    out = np.empty((len(case.window), 2, len(figures), 2))
    for f, figure in enumerate(figures.values()):
        out[:, :, f, 0], out[:, :, f, 1] = figure.of(case)
    return out
