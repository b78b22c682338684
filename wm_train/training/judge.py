"""How good a model in training is on the games held out: losses from true frames, figures of rollouts, by character."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from wm_runtime.errors import UserError
from wm_runtime.facts import CHARACTERS
from wm_runtime.replays.dataset import Dataset
from wm_runtime.schema import FIRST_FRAME
from wm_train.dynamics.step import WorldModel
from wm_train.evaluate import free, horizon
from wm_train.evaluate.bootstrap import ratio
from wm_train.evaluate.figures import HEADLINE, Case, Figure
from wm_train.evaluate.parts import PER_FIELD, SUBSYSTEMS
from wm_train.evaluate.quick import SCORED, Matches, quick_windows
from wm_train.evaluate.rollout import Prediction, run_model
from wm_train.evaluate.windows import Window, read_windows, sample_starts
from wm_train.export import WARMUP
from wm_train.training.data import Windows
from wm_train.training.losses import weighted

CHOOSES = "RC@20"
"""The figure that chooses `best.pt`: lower is better."""
ONE_STEP_WINDOWS = 16_384
CHARACTER_WINDOWS = 2_048
NAMES = {fighter.internal_id: fighter.name for fighter in CHARACTERS}
PARTS: dict[str, Figure] = {**SUBSYSTEMS, **PER_FIELD}
"""Figures beside the headline ones: of subsystems, and of every field after one frame and after 20."""


@dataclass(frozen=True)
class Verdict:
    """Figure → value, None where nothing was counted. figures: headline · parts: the others of the same windows ·
    long: of rollouts of 300 frames (stock losses, and breaks of rules per 1,000 frames) · by_character: name →
    `windows` and headline figures."""

    figures: dict[str, Any]
    parts: dict[str, Any]
    long: dict[str, Any]
    by_character: dict[str, dict[str, Any]]

    @property
    def further(self) -> dict[str, Any]:
        """What a row of metrics tells of it beside the headline."""
        return {"parts": self.parts, "long": self.long, "by_character": self.by_character}


class Rollouts:
    """Windows of held-out games, drawn once, from which a model is rolled out: `count` without a death of 20 frames,
    and `long` of any kind of 300."""

    def __init__(self, dataset: Dataset, games: list[int], count: int, long: int, device: torch.device):
        self.device = device
        self.windows = quick_windows(dataset, count, games)
        if len(self.windows) == 0:
            raise UserError(f"{dataset.path}: the games held out have no 20 frames without a death; raise "
                            "training.holdout")  # fmt: skip
        self.long: Window | None = None
        lasting = [game for game in games if dataset.frames[game] + FIRST_FRAME > horizon.HORIZON]
        if long and lasting:
            starts = sample_starts(dataset, long, horizon.HORIZON, 0, np.asarray(lasting))
            self.long = read_windows(dataset, *starts, WARMUP, horizon.HORIZON)

    def verdict(self, model: WorldModel) -> Verdict:
        """Leaves the model in evaluation mode."""
        model.eval()
        windows = self.windows
        case = self._case(model, windows, min(SCORED, windows.history))
        sums = _sums(case, HEADLINE)
        who = windows.field("character")[:, windows.history]  # (B, 2)
        chosen = {NAMES.get(int(c), str(c)): sums[who == c] for c in np.unique(who)}
        by_character = {
            name: {"windows": len(rows), **_totals(HEADLINE, rows)} for name, rows in sorted(chosen.items())
        }
        long = {} if self.long is None else long_figures(self._case(model, self.long, 1))
        return Verdict(_totals(HEADLINE, sums), _totals(PARTS, _sums(case, PARTS)), long, by_character)

    def _case(self, model: WorldModel, windows: Window, scored: int) -> Case:
        return Case(windows, run_model(Matches(model, len(windows), self.device), windows, scored))


class Judge:
    """Windows of held-out games, drawn once, and what a model is worth on them."""

    def __init__(
        self, dataset: Dataset, games: list[int], length: int, rollouts: int, device: torch.device, long: int = 0
    ):
        self.device = device
        self.windows = Windows(dataset, games, length)
        drawn = np.random.default_rng(0).permutation(len(self.windows))[:ONE_STEP_WINDOWS]
        self.index = np.sort(drawn)
        self.rollouts = Rollouts(dataset, games, rollouts, long, device)

    def losses(self, model: WorldModel, batch_size: int) -> dict[str, float]:
        """Mean losses by head from true frames, and their weighted sum as `loss`."""
        return evaluate_one_step(model, self.windows, self.index, batch_size, self.device)

    def losses_by_character(self, model: WorldModel, batch_size: int) -> dict[str, dict[str, float]]:
        """Losses by head, from true frames of the held-out games in which a character plays."""
        played = self.windows.dataset.characters[self.windows.games[self.windows.game_of(self.index)]]
        found = {}
        for who in np.unique(played):
            index = self.index[(played == who).any(axis=1)]
            some = index[:: -(-len(index) // CHARACTER_WINDOWS)]
            found[NAMES.get(int(who), str(who))] = evaluate_one_step(
                model, self.windows, some, batch_size, self.device
            )
        return found


def _sums(case: Case, figures: Mapping[str, Figure]) -> np.ndarray:
    """(B, 2, F, 2): window × player × figure × (numerator, denominator)."""
    return np.stack([np.stack(figure.of(case), axis=-1) for figure in figures.values()], axis=2).astype(np.float64)


def _totals(figures: Mapping[str, Figure], sums: np.ndarray) -> dict[str, Any]:
    """(…, F, 2) sums → figure → value, None where nothing was counted."""
    return _values(list(figures), sums.reshape(-1, *sums.shape[-2:]).sum(axis=0))


def _values(names: list[str], sums: np.ndarray) -> dict[str, Any]:
    return {name: float(v) if np.isfinite(v) else None for name, v in zip(names, ratio(sums), strict=True)}


def long_figures(case: Case) -> dict[str, Any]:
    """Figure → value, of rollouts of 300 frames."""
    broken = free.violations(_rollout(case.window, case.prediction))
    totals = {"violations": broken[:, free.LISTED_RULES], "violations_all": broken}
    sums = np.stack([[part[..., 0].sum(), part[:, 0, 1].sum()] for part in totals.values()])
    return {**_totals(horizon.FIGURES, _sums(case, horizon.FIGURES)), **_values(list(totals), sums)}


def _rollout(window: Window, prediction: Prediction) -> free.Rollout:
    """The start frames of windows and what was predicted after each."""
    start = {name: window.field(name)[:, window.history, None] for name in prediction.free}
    columns = {name: np.concatenate([start[name], after], axis=1) for name, after in prediction.free.items()}
    return free.Rollout({name: values.swapaxes(0, 1) for name, values in columns.items()}, window.stage())


@torch.no_grad()
def evaluate_one_step(
    model: WorldModel, windows: Windows, index: np.ndarray, batch_size: int, device: torch.device | str
) -> dict[str, float]:
    """Mean losses by head over windows `index`, and their weighted sum as `loss`."""
    model.eval()
    sums: dict[str, float] = {}
    for at in range(0, len(index), batch_size):
        batch = windows.stored(index[at : at + batch_size]).to(torch.device(device)).decode()
        parts = model.core.losses(batch)
        for name, part in {**parts, "loss": weighted(parts, model.core.weights)}.items():
            sums[name] = sums.get(name, 0.0) + part.item() * len(batch)
    return {name: value / len(index) for name, value in sums.items()}
