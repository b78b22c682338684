"""How often a field's next value is one of its candidates: what an exact core could say at best, network aside."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from wm_runtime.errors import UserError
from wm_runtime.facts import action_name
from wm_runtime.replays.dataset import Dataset
from wm_train.dynamics.candidates import REGRESSED, SIZES
from wm_train.dynamics.exact import ExactCore
from wm_train.dynamics.select import LAST_RULED_ACTION
from wm_train.dynamics.step import WorldModel
from wm_train.training.whole_games import WholeGames

COUNTED = {"self_x_air": 1, "self_x_ground": 0}
"""Field → `airborne` of the frames on which it moves a fighter; the others count on all."""
LISTED = 6


@dataclass(frozen=True)
class Coverage:
    """Share of `frames` player-frames on which a candidate is right, and the transitions that miss most: action before,
    action after, count."""

    share: float
    frames: int
    misses: list[tuple[str, str, int]]


@torch.no_grad()
def coverage(model: WorldModel, dataset: Dataset, games: list[int], windows: int, seed: int = 0) -> dict[str, Coverage]:
    """Field → coverage over so many random frames of `games`. Raises UserError for a core without candidates."""
    core = model.core
    if not isinstance(core, ExactCore):
        raise UserError("this checkpoint's core has no candidates; name one of an exact core")
    corpus = WholeGames(dataset, games)
    window = corpus.read(corpus.draw(windows, 2, np.random.default_rng(seed)), 2, core.past)
    frames = core.true_frames(window)
    before, truth = frames.before, frames.truth
    learned = (before["action"] > LAST_RULED_ACTION) & (truth.after["action"] > LAST_RULED_ACTION)
    found = {}
    for name in SIZES:
        counted = learned & (truth.after["airborne"] == COUNTED[name]) if name in COUNTED else learned
        right = truth.right[name][..., REGRESSED + 1 :].any(dim=-1)
        missed = counted & ~right
        steps = torch.stack([before["action"][missed], truth.after["action"][missed]], dim=1).numpy()
        rows, counts = np.unique(steps, axis=0, return_counts=True)
        order = np.argsort(-counts)[:LISTED]
        misses = [(action_name(int(rows[i, 0])), action_name(int(rows[i, 1])), int(counts[i])) for i in order]
        share = float((right & counted).sum() / counted.sum().clamp(min=1))
        found[name] = Coverage(share, int(counted.sum()), misses)
    return found
