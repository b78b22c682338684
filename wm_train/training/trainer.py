"""A training run: AdamW, warm-up and per-step cosine; best and last checkpoints, metrics and a manifest in its folder.

    best.pt         the weights of the epoch with the lowest no-death RC@20 on the games held out
    last.pt         the latest weights and all that `resume` needs
    manifest.json   data, settings, machine, versions, every epoch
    metrics.jsonl   a row every few steps and one an epoch
    curves.png      the same as a picture, at the end
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wm_runtime.errors import UserError
from wm_runtime.replays.dataset import Dataset, write_text
from wm_train.config import Experiment
from wm_train.dynamics.step import WorldModel
from wm_train.training.begin import Beginning, begin
from wm_train.training.checkpoint import save_checkpoint
from wm_train.training.curves import draw
from wm_train.training.data import Windows, prefetch
from wm_train.training.device import amp_type, device_lock, find_device
from wm_train.training.interrupt import Interrupt
from wm_train.training.judge import CHOOSES, Judge
from wm_train.training.losses import weighted
from wm_train.training.metrics import Metrics, start_tracker
from wm_train.training.noise import annealed
from wm_train.training.order import buffered, shuffled
from wm_train.training.progress import Progress, capture, restore, same_randomness
from wm_train.training.records import Batch, Stored, on_device
from wm_train.training.schedule import warmup_cosine
from wm_train.training.unroll import lengths

OnStep = Callable[[int, int, float], None]
"""(optimiser steps done, steps of the run, loss)."""


@dataclass
class Watch:
    """Who is told what while a run goes on: `step` after every optimiser step, `row` of every row of metrics, `note` of
    what is decided before the first step."""

    step: OnStep = lambda step, steps, loss: None
    row: Callable[[dict[str, Any]], None] = lambda row: None
    note: Callable[[str], None] = lambda text: None


def train(
    experiment: Experiment,
    dataset: Dataset,
    out: Path,
    device: str = "cpu",
    start_from: Path | None = None,
    on_step: OnStep | None = None,
    *,
    resume: bool = False,
    allow_partial: bool = False,
    stop_after: int | None = None,
    watch: Watch | None = None,
) -> dict:
    """Trains into the folder `out` and returns the manifest.

    `start_from`: a checkpoint whose weights are the beginning (of the same model, or what fits with `allow_partial`).
    `resume`: go on with the run in `out`, exactly. `stop_after`: end after this epoch, to be resumed. Ctrl-C saves
    last.pt and raises KeyboardInterrupt. Raises UserError for what cannot be trained on, does not fit into memory or
    onto the disk, and for a loss that is not finite; checkpoints from before are left as they are.
    """
    watch = watch or Watch()
    if on_step:
        watch.step = on_step
    where = find_device(device)
    with device_lock(where), Interrupt() as interrupt:
        start = begin(experiment, dataset, out, where, start_from, resume, allow_partial, watch.note)
        return Run(experiment, start, out, where, watch, interrupt).go(stop_after)


@dataclass
class Run:
    """A run under way."""

    experiment: Experiment
    start: Beginning
    out: Path
    device: torch.device
    watch: Watch
    interrupt: Interrupt
    progress: Progress = field(default_factory=Progress)

    def __post_init__(self) -> None:
        settings = self.settings = self.experiment.training
        self.model: WorldModel = self.start.model
        self.windows: Windows = self.start.windows
        self.judge: Judge = self.start.judge
        self.manifest = self.start.manifest
        self.total = min(settings.frames_per_epoch or len(self.windows), len(self.windows))
        self.batches = math.ceil(self.total / settings.batch_size)
        self.steps = settings.epochs * self.batches
        self.model.core.amp = amp_type(settings.amp, self.device)
        if settings.compile:
            self.model.core.network.compile()
        parameters = list(self.model.parameters())
        self.optimiser = torch.optim.AdamW(parameters, settings.learning_rate, weight_decay=settings.weight_decay)
        pace = lambda step: warmup_cosine(step, self.steps, settings.warmup_steps)  # noqa: E731
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimiser, pace)
        if self.start.progress:
            self.progress = restore(self.start.progress, self.optimiser, self.schedule)
        self.saved = time.monotonic()
        self.started = time.perf_counter()

    def go(self, stop_after: int | None) -> dict:
        """The rest of the run, or up to the end of epoch `stop_after`."""
        tracker = start_tracker(self.manifest, self.out)
        self.metrics = Metrics(self.out, self.progress.step, tracker)
        outcome = "stopped"
        try:
            if not self.start.progress:
                self._save()  # there is room for it, and a killed run can be resumed from the first step on
            while self.progress.epoch < min(self.settings.epochs, stop_after or self.settings.epochs):
                self._epoch()
            outcome = "finished" if self.progress.epoch == self.settings.epochs else "paused"
        except KeyboardInterrupt:
            outcome = "interrupted"
            self._save()
            raise
        finally:
            self.manifest["status"] = outcome
            with suppress(UserError) if outcome == "stopped" else nullcontext():  # what stopped it is what is told
                write_text(self.out / "manifest.json", json.dumps(self.manifest, indent=1))
                draw(self.out)
            if tracker:
                tracker.finish(self.manifest)
        return self.manifest

    def _epoch(self) -> None:
        at, settings = self.progress, self.settings
        core = self.model.core
        if settings.scheduled_sampling:
            core.noise = annealed(**settings.scheduled_sampling.model_dump(), epoch=at.epoch)
        self.started = time.perf_counter() - at.seconds
        for read, targets in self._upcoming():
            self.model.train()
            loss = self._step(on_device(read, self.device), targets)
            self.watch.step(at.step, self.steps, loss)
            self._between_steps()
        self._judge()
        at.next_epoch()
        self._save()
        self._stop_if_wanted()

    def _upcoming(self) -> Iterator[tuple[Stored | Batch, int]]:
        """The windows of the epoch that are still to come, and the targets of each."""
        at, size, corpus = self.progress, self.settings.batch_size, self.windows.corpus
        rng = np.random.default_rng([self.settings.seed, at.epoch])
        if self.start.streams:
            order = buffered(len(self.windows), self.total, self.settings.buffer_size, rng)
        else:
            order = shuffled(len(self.windows), self.total, rng)
        targets = lengths(self.settings.unroll, at.epoch, self.settings.epochs, self.batches, rng)
        numbers = torch.from_numpy(order).to(corpus.device).split(size)[at.batch :]
        reading = read_ahead(self.windows, list(zip(numbers, targets[at.batch :], strict=True)), self.device)
        return reading if corpus.device.type != "cpu" else prefetch(reading)

    def _step(self, batch: Batch, targets: int) -> float:
        """One step of the optimiser; → the loss."""
        at, core = self.progress, self.model.core
        parts = core.losses(batch) if targets == 1 else core.unrolled_losses(batch, self.model)
        loss = weighted(parts, core.weights)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.gradient_clip)
        values = dict(zip((*parts, "loss", "gradient_norm"), _numbers([*parts.values(), loss, norm]), strict=True))
        if not all(map(math.isfinite, values.values())):
            self._refuse(batch, values)
        self.optimiser.step()
        self.schedule.step()
        at.step, at.batch, at.seconds = at.step + 1, at.batch + 1, time.perf_counter() - self.started
        at.targets += len(batch) * (targets if targets > 1 else core.targets)
        kind = "" if targets == 1 else "unrolled/"
        for name, value in {**values, "windows": 1.0}.items():
            at.sums[kind + name] = at.sums.get(kind + name, 0.0) + value * len(batch)
        if at.step % self.settings.log_interval == 0:
            rate = self.schedule.get_last_lr()[0]
            row = {"step": at.step, "steps": self.steps, "epoch": at.epoch + 1, "targets": targets}
            speed = round(at.targets / at.seconds)
            self._row({**row, "learning_rate": rate, **values, "frames_per_second": speed})
        return values["loss"]

    def _judge(self) -> None:
        """The held-out games' verdict on an epoch: a row of the manifest, and perhaps best.pt."""
        at, size = self.progress, self.settings.batch_size
        row: dict[str, Any] = {"epoch": at.epoch + 1, "step": at.step, "frames": at.targets}
        row |= {"frames_per_second": round(at.targets / at.seconds), "seconds": round(at.seconds, 1)}
        means = {"train": _means(at.sums, ""), "unrolled": _means(at.sums, "unrolled/")}
        row |= {kind: values for kind, values in means.items() if values}
        with same_randomness():
            row["held_out"] = self.judge.losses(self.model, size)
            verdict = self.judge.rollouts.verdict(self.model)
            by_head = self.judge.losses_by_character(self.model, size)
        row["figures"] = verdict.figures
        by_character = {who: {"losses": by_head[who], **found} for who, found in verdict.by_character.items()}
        self.manifest["epochs"].append(row)
        if row["figures"][CHOOSES] < at.best:
            at.best = row["figures"][CHOOSES]
            self.manifest["best"] = {"epoch": row["epoch"], **row["figures"]}
            save_checkpoint(self.out / "best.pt", self.model, self.manifest)
        self._row({**row, **verdict.further, "by_character": by_character})

    def _row(self, row: dict[str, Any]) -> None:
        self.metrics.write(row)
        self.watch.row(row)

    def _between_steps(self) -> None:
        if time.monotonic() - self.saved > 60 * self.settings.save_minutes:
            self._save()
        self._stop_if_wanted()

    def _stop_if_wanted(self) -> None:
        if self.interrupt.wanted:
            raise KeyboardInterrupt

    def _save(self) -> None:
        state = capture(self.progress, self.optimiser, self.schedule, self.start.streams)
        save_checkpoint(self.out / "last.pt", self.model, self.manifest, state)
        write_text(self.out / "manifest.json", json.dumps(self.manifest, indent=1))
        self.saved = time.monotonic()

    def _refuse(self, batch: Batch, values: dict[str, float]) -> None:
        """A loss or gradient that is not finite: the batch is kept, the weights from before it are not touched."""
        path = self.out / "bad_batch.pt"
        torch.save({"step": self.progress.step, **{name: values.cpu() for name, values in vars(batch).items()}}, path)
        which = ", ".join(name for name, value in values.items() if not math.isfinite(value))
        raise UserError(
            f"loss is {values['loss']} at step {self.progress.step} (not finite: {which}); its batch is in {path}, "
            f"checkpoints are as before; lower training.learning_rate"
        )


def read_ahead(
    windows: Windows, batches: list[tuple[Tensor, int]], device: torch.device
) -> Iterator[tuple[Stored | Batch, int]]:
    """The windows of each batch, (their numbers, targets), in turn; the next ones are announced meanwhile. For a CPU
    they are decoded here, ahead of time; an accelerator does that itself."""
    pinned = device.type == "cuda" and windows.corpus.device.type == "cpu"
    for (index, targets), following in zip(batches, [*batches[1:], None], strict=True):
        if following:
            windows.announce(*following)
        stored = windows.stored(index, targets)
        yield stored.decode() if device.type == "cpu" else stored.pinned() if pinned else stored, targets


def now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _numbers(values: list[Tensor]) -> list[float]:
    """Scalars of a device, fetched at once."""
    return torch.stack([value.detach().float() for value in values]).tolist()


def _means(sums: dict[str, float], kind: str) -> dict[str, float]:
    """Sums over windows of one kind of batch → means."""
    own = {name.removeprefix(kind): value for name, value in sums.items() if name.startswith(kind)}
    own = {name: value for name, value in own.items() if "/" not in name}
    windows = own.pop("windows", 0)
    return {name: value / windows for name, value in own.items()} if windows else {}
