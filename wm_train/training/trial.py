"""Steps that are timed: how fast a run will be, and whether its data keep up with it."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch

from wm_train.config import Experiment
from wm_train.dynamics.step import WorldModel
from wm_train.training.corpus import Corpus
from wm_train.training.data import Windows, prefetch
from wm_train.training.device import amp_type
from wm_train.training.losses import weighted
from wm_train.training.records import Batch, Stored, on_device
from wm_train.training.trainer import read_ahead

WARM_UP = 3
"""Steps before the clock starts."""


@dataclass(frozen=True)
class Loaded:
    """seconds: a step, all in all · busy: the share of them in which the model computes, and does not wait for a batch
    or its decoding."""

    seconds: float
    busy: float


@dataclass
class Trial:
    """A model and windows that training steps can be timed with; the model learns in vain."""

    experiment: Experiment
    model: WorldModel
    windows: Windows
    device: torch.device

    def __post_init__(self) -> None:
        settings = self.experiment.training
        self.model.to(self.device).train()
        self.model.core.amp = amp_type(settings.amp, self.device)
        if settings.compile:
            self.model.core.network.compile()
        self.optimiser = torch.optim.AdamW(self.model.parameters(), 1e-9)
        self.rng = np.random.default_rng(0)

    def loaded(self, steps: int, targets: int = 1, corpus: Corpus | None = None) -> Loaded:
        """Steps whose batches are drawn, read, sent and decoded as in a run."""
        windows = self.windows
        if corpus:
            windows = Windows(windows.dataset, windows.games.tolist(), windows.length, corpus, targets)
        batches = [(index.to(windows.corpus.device), targets) for index in self._numbers(steps + WARM_UP)]
        reading = read_ahead(windows, batches, self.device)
        started = at_work = 0.0
        for k, (read, _) in enumerate(prefetch(reading) if windows.corpus.device.type == "cpu" else reading):
            batch = on_device(read, self.device)
            before = clock(self.device)
            self._step(batch, targets)
            now = clock(self.device)
            if k >= WARM_UP:
                at_work += now - before
            elif k == WARM_UP - 1:
                started = now
        spent = clock(self.device) - started
        return Loaded(spent / steps, at_work / spent)

    def alone(self, steps: int, targets: int = 1) -> float:
        """Seconds a step on a batch that is there already, decoded."""
        batch = self.sample(targets).to(self.device).decode()
        started = 0.0
        for k in range(steps + WARM_UP):
            if k == WARM_UP:
                started = clock(self.device)
            self._step(batch, targets)
        return (clock(self.device) - started) / steps

    def sampling(self, steps: int, corpus: Corpus) -> float:
        """Seconds in which a batch is drawn, gathered and decoded from a corpus, nothing else going on."""
        windows = Windows(self.windows.dataset, self.windows.games.tolist(), self.windows.length, corpus)
        numbers = [index.to(corpus.device) for index in self._numbers(steps + WARM_UP)]
        started = 0.0
        for k, index in enumerate(numbers):
            if k == WARM_UP:
                started = clock(self.device)
            windows.read(index)
        return (clock(self.device) - started) / steps

    def sample(self, targets: int = 1) -> Stored:
        return self.windows.stored(self._numbers(1)[0], targets)

    def _numbers(self, batches: int) -> list[torch.Tensor]:
        size = self.experiment.training.batch_size
        return [torch.from_numpy(self.rng.integers(0, len(self.windows), size)) for _ in range(batches)]

    def _step(self, batch: Batch, targets: int) -> None:
        core = self.model.core
        parts = core.losses(batch) if targets == 1 else core.unrolled_losses(batch, self.model)
        loss = weighted(parts, core.weights)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        torch.stack([loss.detach(), norm]).tolist()
        self.optimiser.step()


def clock(device: torch.device) -> float:
    """Seconds, once what was begun on the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
