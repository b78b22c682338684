"""How fast training is, and whether its data keep up: ratios within one run, best of several rounds taken in turn."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

import torch

from wm_runtime.replays.dataset import Dataset
from wm_train.config import ExactConfig, Experiment
from wm_train.training.checkpoint import build_model
from wm_train.training.corpus import Corpus, Mapped, Resident
from wm_train.training.data import Windows
from wm_train.training.learner import check_phases
from wm_train.training.phase_trial import PhaseTrial, kinds
from wm_train.training.trial import Trial

UNROLLED = (4, 8, 16)
"""Lengths of unrolled windows that are timed."""


def bench_train(experiment: Experiment, dataset: Path, device: torch.device, steps: int, rounds: int) -> dict[str, Any]:
    """What training costs: of the exact core by `phases`, of other models by ways of training."""
    bench = _bench_phases if isinstance(experiment.model, ExactConfig) else _bench_epochs
    return bench(experiment, Dataset(dataset), device, steps, rounds)


def _bench_epochs(
    experiment: Experiment, data: Dataset, device: torch.device, steps: int, rounds: int
) -> dict[str, Any]:
    """Target frames a second; `kept_up`: seconds of a step with its batch at hand over those with batches drawn from
    RAM or disk, all that drawing takes from the model included; `busy`: the share of the training loop's time in which
    the model computes, the median round (what a reading thread takes from its cores is no part of it);
    `sampling_ratio`: seconds of a step over those of drawing its batch on the device."""
    games = list(range(min(len(data), experiment.training.max_games or len(data))))
    model = build_model(experiment)
    core, size = model.core, experiment.training.batch_size
    unrolled = UNROLLED if core.unrolls else ()
    trial = Trial(experiment, model, Windows(data, games, core.window, steps=max(unrolled, default=1)), device)
    memory: dict[str, Corpus] = {"ram": Resident(data, games, torch.device("cpu")), "disk": Mapped(data)}
    on_device = memory["ram"] if device.type == "cpu" else Resident(data, games, device)
    best: dict[str, float] = {}
    busy: dict[str, list[float]] = {name: [] for name in memory}

    def keep(name: str, seconds: float) -> None:
        best[name] = min(best.get(name, seconds), seconds)

    for _ in range(rounds):
        keep("alone", trial.alone(steps))
        for name, corpus in memory.items():
            loaded = trial.loaded(steps, corpus=corpus)
            keep(name, loaded.seconds)
            busy[name].append(loaded.busy)
        keep("sampling", trial.sampling(steps, on_device))
    for targets in unrolled:
        keep(f"unrolled_{targets}", trial.alone(max(1, steps // targets), targets))
    return {
        "experiment": experiment.name,
        "device": str(device),
        "amp": str(core.amp or torch.float32),
        "batch_size": size,
        "parameters": sum(p.numel() for p in model.parameters()),
        "seconds_a_step": best,
        "one_step_frames_per_second": size * core.targets / best["ram"],
        "unrolled_frames_per_second": {n: size * n / best[f"unrolled_{n}"] for n in unrolled},
        "kept_up": {name: best["alone"] / best[name] for name in memory},
        "busy": {name: median(shares) for name, shares in busy.items()},
        "sampling_ratio": best["alone"] / best["sampling"],
    }


def _bench_phases(
    experiment: Experiment, data: Dataset, device: torch.device, steps: int, rounds: int
) -> dict[str, Any]:
    """Of each kind of phase: frames that are rolled out a second, data included, best of the rounds; `kept_up` and
    `busy` as above, the data in RAM; `steps` are of one frame, of longer rollouts there are fewer."""
    check_phases(experiment)
    games = list(range(min(len(data), experiment.training.max_games or len(data))))
    model = build_model(experiment)
    trial = PhaseTrial(experiment, model, data, games, device)
    rows = []
    for phase in kinds(experiment.training.phases):
        few = max(1, steps // phase.frames)
        alone, loaded = float("inf"), []
        for _ in range(rounds):
            alone = min(alone, trial.alone(phase, few))
            loaded.append(trial.loaded(phase, few))
        seconds = min(found.seconds for found in loaded)
        rows.append({
            "frames": phase.frames, "batch_size": phase.batch_size, "share": phase.share,
            "frames_per_second": phase.frames * phase.batch_size / seconds, "seconds_a_step": seconds,
            "kept_up": alone / seconds, "busy": median(found.busy for found in loaded),
        })  # fmt: skip
    return {
        "experiment": experiment.name,
        "device": str(device),
        "amp": str(torch.bfloat16 if trial.learner.core.network.amp else torch.float32),
        "parameters": sum(p.numel() for p in model.parameters()),
        "phases": rows,
    }
