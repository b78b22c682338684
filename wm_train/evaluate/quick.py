"""The headline figures of a model in memory, in seconds: what a trainer chooses its best weights by.

    windows = quick_windows(dataset, games=held_out)      # once: the same windows every time
    figures = quick(model, windows, device)               # as often as wanted; figures["RC@20"] is the one to lower
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from wm_runtime.replays.dataset import Dataset
from wm_runtime.schema import State, state_layout
from wm_runtime.starts import Start
from wm_train.dynamics.step import WorldModel
from wm_train.evaluate.bootstrap import ratio
from wm_train.evaluate.figures import HEADLINE, HORIZON, Case
from wm_train.evaluate.rollout import Steps, run_model
from wm_train.evaluate.windows import Window, read_windows, sample_starts
from wm_train.export import WARMUP, zero_carry

SCORED = 32
SPARE = 1.4
"""Windows drawn for each one wanted: about one in ten has a death in it."""


class Matches:
    """N matches of a model in memory; rollout.Steps."""

    def __init__(self, model: WorldModel, num_matches: int, device: torch.device | str = "cpu"):
        self.model, self.device = model, torch.device(device)
        self.state = State.zeros(num_matches)
        self.carry = zero_carry(model, num_matches)

    def reset(self, start: Start) -> None:
        """Begins every match at the present frame of its start, with nothing remembered of frames before it."""
        self.state = start.at(-1)
        self.carry = zero_carry(self.model, len(start), self.device)

    @torch.no_grad()
    def step(self, controllers: np.ndarray) -> None:
        arrays = [getattr(self.state, name) for name in state_layout(0)]
        inputs = [torch.from_numpy(array).to(self.device) for array in (*arrays, controllers)]
        after, self.carry, _ = self.model(*inputs, self.carry)
        self.state = State(*(tensor.cpu().numpy() for tensor in after))


def quick_windows(
    dataset: Dataset, count: int = 512, games: Sequence[int] | None = None, history: int = WARMUP, seed: int = 0
) -> Window:
    """Up to `count` no-death windows of 20 frames, drawn evenly from `games` (numbers; default: all) of a dataset."""
    chosen = None if games is None else np.asarray(games)
    starts = sample_starts(dataset, int(count * SPARE), HORIZON, seed, chosen)
    window = read_windows(dataset, *starts, history, HORIZON)
    alive = np.flatnonzero(window.no_death())
    return window.select(np.sort(np.random.default_rng(seed).permutation(alive)[:count]))


def quick(model: WorldModel, windows: Window, device: torch.device | str = "cpu") -> dict[str, float]:
    """Every headline figure (figures.HEADLINE) of a model on `device` over these windows; NaN where none was counted.

    The model is run in evaluation mode and left in the mode that it was in.
    """
    training = model.training
    model.eval()
    try:
        return headline(Matches(model, len(windows), device), windows)
    finally:
        model.train(training)


def headline(matches: Steps, windows: Window) -> dict[str, float]:
    """The same of anything that steps len(windows) matches."""
    case = Case(windows, run_model(matches, windows, min(SCORED, windows.history)))
    sums = {name: np.stack(figure.of(case), axis=-1).sum(axis=(0, 1)) for name, figure in HEADLINE.items()}
    return {name: float(ratio(total.astype(np.float64))) for name, total in sums.items()}
