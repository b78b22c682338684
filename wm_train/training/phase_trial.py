"""Steps of the exact core's phases that are timed: how fast a run will be, and whether its data keep up with it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from wm_runtime.replays.dataset import Dataset
from wm_train.config import Experiment, Phase
from wm_train.dynamics.exact import ExactCore
from wm_train.dynamics.step import WorldModel
from wm_train.training.data import prefetch
from wm_train.training.learner import Learner
from wm_train.training.trial import Loaded, clock
from wm_train.training.whole_games import Unroll, WholeGames

GAMES = 16
"""Drawing takes as long from few games as from many, and a step's speed does not hang on the tables' values."""


class PhaseTrial:
    """A model whose steps on some of `games` can be timed; it learns in vain."""

    def __init__(self, experiment: Experiment, model: WorldModel, dataset: Dataset, games: list[int],
                 device: torch.device) -> None:  # fmt: skip
        some = games[:GAMES]
        assert isinstance(model.core, ExactCore)
        model.core.measure(dataset, some)
        self.corpus = WholeGames(dataset, some)
        self.past = model.core.past
        self.learner = Learner(experiment, model, device, learning_rate=1e-9)
        self.device, self.rng = device, np.random.default_rng(0)

    def alone(self, phase: Phase, steps: int) -> float:
        """Seconds a step on a batch that is there already."""
        window = next(self._windows(phase, 1)).to(self.device)
        started = 0.0
        for k in range(steps + 1):  # the first warms up
            if k == 1:
                started = clock(self.device)
            self._step(window, phase)
        return (clock(self.device) - started) / steps

    def loaded(self, phase: Phase, steps: int) -> Loaded:
        """Steps whose batches are drawn, read and sent as in a run."""
        started = at_work = 0.0
        for k, window in enumerate(prefetch(self._windows(phase, steps + 1), depth=2)):
            there = window.to(self.device)
            before = clock(self.device)
            self._step(there, phase)
            now = clock(self.device)
            if k:  # the first warms up
                at_work += now - before
            else:
                started = now
        spent = clock(self.device) - started
        return Loaded(spent / steps, at_work / spent)

    def _windows(self, phase: Phase, count: int) -> Iterator[Unroll]:
        length = phase.frames + 1
        for _ in range(count):
            yield self.corpus.read(self.corpus.draw(phase.batch_size, length, self.rng), length, self.past)

    def _step(self, window: Unroll, phase: Phase) -> None:
        self.learner.step(window, phase, torch.Generator().manual_seed(0))


def kinds(phases: tuple[Phase, ...]) -> list[Phase]:
    """Phases that differ in more than their number of steps."""
    return list({phase.model_copy(update={"steps": 1}): phase for phase in phases}.values())
