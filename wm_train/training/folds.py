"""Tables of other games: what a game is told while it is learned from was measured without it.

Odds, lengths and courses of moves are measured on the games that are trained on. Told of its own game, a network
trusts them too far: a move that was seen in two games does in them exactly what the tables say, and in a third it may
not. So the tables are measured once more without each fold of the games, and the games of a fold are told those.
"""

from __future__ import annotations

from pathlib import Path

import torch

from wm_runtime.replays.dataset import Dataset
from wm_train.dynamics.exact import ExactCore
from wm_train.dynamics.tables import MoveTables
from wm_train.training.checkpoint import save_whole


def measure_folds(core: ExactCore, dataset: Dataset, games: list[int], folds: int, kept: Path) -> None:
    """Measures the tables without each of `folds` folds of the games (a minute or two each), or reads them from the
    file `kept`, which a run that is resumed has; game i is in fold i mod `folds`, as in WholeGames."""
    parts = []
    if kept.exists():
        for state in torch.load(kept, weights_only=True):
            part = MoveTables()
            part.load_state_dict(state)
            parts.append(part)
    else:
        for fold in range(folds):
            part = MoveTables()
            part.measure(dataset, [game for i, game in enumerate(games) if i % folds != fold])
            parts.append(part)
        save_whole(kept, [part.state_dict() for part in parts])
    core.tables.told_apart(parts)
