"""How good a model in training is on the games held out: losses from true frames, figures of rollouts, by character."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from wm_runtime.errors import UserError
from wm_runtime.facts import CHARACTERS
from wm_runtime.replays.dataset import Dataset
from wm_train.dynamics.step import WorldModel
from wm_train.evaluate.bootstrap import ratio
from wm_train.evaluate.figures import HEADLINE, Case
from wm_train.evaluate.quick import SCORED, Matches, quick_windows
from wm_train.evaluate.rollout import run_model
from wm_train.evaluate.windows import Window
from wm_train.training.data import Windows
from wm_train.training.losses import weighted

CHOOSES = "RC@20"
"""The figure that chooses `best.pt`: lower is better."""
ONE_STEP_WINDOWS = 16_384
CHARACTER_WINDOWS = 2_048
NAMES = {fighter.internal_id: fighter.name for fighter in CHARACTERS}


class Judge:
    """Windows of held-out games, drawn once, and what a model is worth on them."""

    def __init__(self, dataset: Dataset, games: list[int], length: int, rollouts: int, device: torch.device):
        self.device = device
        self.windows = Windows(dataset, games, length)
        drawn = np.random.default_rng(0).permutation(len(self.windows))[:ONE_STEP_WINDOWS]
        self.index = np.sort(drawn)
        self.rollouts = quick_windows(dataset, rollouts, games)
        if len(self.rollouts) == 0:
            raise UserError(f"{dataset.path}: the games held out have no 20 frames without a death; raise "
                            "training.holdout")  # fmt: skip

    def losses(self, model: WorldModel, batch_size: int) -> dict[str, float]:
        """Mean losses by head from true frames, and their weighted sum as `loss`."""
        return evaluate_one_step(model, self.windows, self.index, batch_size, self.device)

    def figures(self, model: WorldModel) -> tuple[dict[str, float], dict[str, dict[str, Any]]]:
        """Headline figures of no-death windows, from true frames and rolled out: of all, and by character."""
        model.eval()
        sums = figure_sums(model, self.rollouts, self.device)
        who = self.rollouts.field("character")[:, self.rollouts.history]  # (B, 2)
        chosen = {NAMES.get(int(c), str(c)): sums[who == c] for c in np.unique(who)}
        by_character = {name: {"windows": len(rows), **_totals(rows)} for name, rows in sorted(chosen.items())}
        return _totals(sums.reshape(-1, *sums.shape[2:])), by_character

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


def figure_sums(model: WorldModel, windows: Window, device: torch.device) -> np.ndarray:
    """(B, 2, F, 2): window × player × headline figure × (numerator, denominator)."""
    case = Case(windows, run_model(Matches(model, len(windows), device), windows, min(SCORED, windows.history)))
    return np.stack([np.stack(figure.of(case), axis=-1) for figure in HEADLINE.values()], axis=2).astype(np.float64)


def _totals(sums: np.ndarray) -> dict[str, Any]:
    """(N, F, 2) sums → figure → value, None where nothing was counted."""
    values = ratio(sums.sum(axis=0))
    return {name: float(v) if np.isfinite(v) else None for name, v in zip(HEADLINE, values, strict=True)}


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
