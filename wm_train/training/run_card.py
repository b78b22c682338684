"""The run card: what a run is for, what it will take and when to stop it, written before it starts."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wm_runtime.replays.dataset import Dataset
from wm_train.config import Experiment
from wm_train.dynamics.step import WorldModel
from wm_train.evaluate.bootstrap import ratio
from wm_train.evaluate.figures import HEADLINE, Case
from wm_train.evaluate.quick import SCORED, quick_windows
from wm_train.evaluate.rollout import ALL_FIELDS, BASELINES
from wm_train.training.begin import check_epochs, check_possible, differences, training_data
from wm_train.training.checkpoint import build_model
from wm_train.training.corpus import Mapped, Resident
from wm_train.training.data import Windows, split_games
from wm_train.training.manifest import git_commit, processor
from wm_train.training.memory import Need, free, plan
from wm_train.training.preflight import preflight
from wm_train.training.runs import RunRecord, find_runs, most_similar
from wm_train.training.trial import Trial

TRIAL_STEPS = 50
WATCHED = ("RC@20", "RC@5", "skill@20", "exact@20", "action@20", "change_acc", "hit_recall", "hit_precision")

LATE = ("exact@20", "hit_recall", "hit_precision")
"""Figures that begin at nothing and that a straight line may lead in."""


@dataclass
class Timing:
    """Seconds of a one-step batch, and of an unrolled one by its length."""

    one_step: float
    unrolled: dict[int, float]

    def epoch(self, experiment: Experiment, batches: int) -> float:
        """Seconds of training in an epoch."""
        unroll = experiment.training.unroll
        if not unroll:
            return batches * self.one_step
        longer = float(np.mean(list(self.unrolled.values())))
        return batches * ((1 - unroll.share) * self.one_step + unroll.share * longer)


def run_card(
    experiment: Experiment, dataset: Dataset, device: torch.device, save_dir: Path, price: float, launch: str
) -> str:
    """The card in Markdown. `price`: of an hour of the machine · `launch`: the command that starts the run. Raises
    UserError for what could not be trained."""
    settings = experiment.training
    check_epochs(experiment)
    games, held = split_games(dataset, settings.holdout, settings.max_games)
    model = build_model(experiment)
    check_possible(experiment, model)
    steps = max(settings.unroll.lengths) if settings.unroll else 1
    windows = Windows(dataset, games, model.core.window, steps=steps)
    parameters = sum(p.numel() for p in model.parameters())
    frames = int(dataset.frames[games].sum())
    sample = windows.read(np.linspace(0, len(windows) - 1, min(4096, len(windows))).astype(int))
    model.core.measure(dataset, games[:8], sample)  # the trial's speed does not hang on the tables' values
    model.to(device)
    need = Need(frames, len(windows), windows.length + steps - 1, parameters,
                preflight(experiment, model, windows, device))  # fmt: skip
    memory = plan(need, settings, device)
    timing = _trial(experiment, model, windows, device, memory.mode)
    drawn = min(settings.frames_per_epoch or len(windows), len(windows))
    batches = math.ceil(drawn / settings.batch_size)
    hours = settings.epochs * timing.epoch(experiment, batches) / 3600
    runs = find_runs(save_dir)
    sections = {
        "Goal": [experiment.description or "(the experiment has no description: write down what is to be learned)"],
        "Target metrics": _targets(dataset, held, runs, settings.rollouts),
        "Data": _data(dataset, experiment, games, len(windows), drawn),
        "Model": [f"- {experiment.model.kind}, {parameters:,} parameters",
                  f"- windows of {model.core.window} frames, the last the target",
                  f"- settings: `{json.dumps(experiment.model.model_dump(mode='json'))}`"],
        "Training": [f"- {name}: {json.dumps(value)}" for name, value in settings.model_dump(mode="json").items()],
        "Infrastructure": _machine(device),
        "Time and cost": _time(experiment, timing, batches, hours, price),
        "Memory": [memory.line(device)],
        "Kill criteria": _kill(dataset, held, settings.rollouts),
        "Commands": ["Launch:", "", f"    {launch}", "", "Resume:", "", f"    {launch} --resume"],
        "Prior runs": _prior(runs, experiment),
        "Sign-off": ["- [ ] goal and kill criteria agreed, by: ________  on: ________",
                     "- [ ] cost approved, by: ________", "- [ ] result noted after the run: ________"],
    }  # fmt: skip
    body = "\n\n".join(f"## {title}\n\n" + "\n".join(lines) for title, lines in sections.items())
    return f"# Run card: {experiment.name}\n\n{body}\n"


def _trial(experiment: Experiment, model: WorldModel, windows: Windows, device: torch.device, mode: str) -> Timing:
    trial = Trial(experiment, model, windows, device)
    where = device if mode == "device" else torch.device("cpu")
    some = windows.games.tolist()[:64]  # gathering takes as long from few games as from many
    corpus = Mapped(windows.dataset) if mode == "streaming" else Resident(windows.dataset, some, where)
    trial.windows = Windows(windows.dataset, some, windows.length, corpus)
    one_step = trial.loaded(TRIAL_STEPS).seconds
    lengths = experiment.training.unroll.lengths if experiment.training.unroll else ()
    return Timing(one_step, {n: trial.alone(max(3, TRIAL_STEPS // n), n) for n in lengths})


def _targets(dataset: Dataset, held: list[int], runs: list[RunRecord], rollouts: int) -> list[str]:
    """Baselines on the held-out games, the best prior run, and what would say that something is wrong."""
    baselines = _baselines(dataset, held, rollouts)
    best = min((run for run in runs if run.best.get("RC@20")), key=lambda run: run.best["RC@20"], default=None)
    straight = baselines["constant_velocity"]
    lines = [f"No-death windows of {len(held)} held-out games; prior: {best.name if best else 'none'}.", "",
             "| figure | hold | constant velocity | prior best | target | something is wrong |",
             "|---|---|---|---|---|---|"]  # fmt: skip
    for name in WATCHED:
        lower = HEADLINE[name].better == "lower"
        prior = best.best.get(name) if best else None
        target = f"{'<' if lower else '>'} {_number(prior if prior is not None else straight[name])}"
        wrong = f"{'≥' if lower else '≤'} {_number(straight[name])} after the first epoch"
        if name in LATE:
            wrong = "still 0 at the end"
        row = (name, _number(baselines["hold"][name]), _number(straight[name]), _number(prior), target, wrong)
        lines.append(f"| {' | '.join(row)} |")
    return lines


def _baselines(dataset: Dataset, held: list[int], rollouts: int) -> dict[str, dict[str, float]]:
    windows = quick_windows(dataset, rollouts, held)
    found = {}
    for name, predict in BASELINES.items():
        case = Case(windows, predict(windows, min(SCORED, windows.history), ALL_FIELDS))
        sums = {figure: np.stack(HEADLINE[figure].of(case), axis=-1).sum(axis=(0, 1)) for figure in WATCHED}
        found[name] = {figure: float(ratio(total.astype(np.float64))) for figure, total in sums.items()}
    return found


def _data(dataset: Dataset, experiment: Experiment, games: list[int], windows: int, drawn: int) -> list[str]:
    data = training_data(dataset, experiment)
    examples = [dataset.record(game) for game in games[:3]]
    return [
        f"- {dataset.path}: {data['games']:,} games, {data['frames']:,} frames; fingerprint {data['fingerprint']}",
        f"- {data['held_out_games']} more games are held out",
        f"- {windows:,} windows, of which an epoch draws {drawn:,}",
        *(f"- for example {row['source']} ({row['frames']:,} frames, MD5 {row['md5']})" for row in examples),
    ]


def _machine(device: torch.device) -> list[str]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    ram = free(torch.device("cpu")) / 2**30
    return [
        f"- {device}: {name}; {torch.get_num_threads()} threads; {ram:.1f} GiB of RAM free",
        f"- {platform.platform()}, Python {platform.python_version()}, torch {torch.__version__}",
        f"- commit {git_commit()}",
    ]


def _time(experiment: Experiment, timing: Timing, batches: int, hours: float, price: float) -> list[str]:
    size = experiment.training.batch_size
    lines = [f"- {batches:,} batches of {size:,} an epoch, {experiment.training.epochs} epochs",
             f"- measured in a trial of {TRIAL_STEPS} steps on this machine: {1000 * timing.one_step:.1f} ms a step, "
             f"{size / timing.one_step:,.0f} windows/s"]  # fmt: skip
    for n, seconds in timing.unrolled.items():
        lines.append(f"- unrolled {n}: {1000 * seconds:.1f} ms a step, {size * n / seconds:,.0f} frames/s")
    return [*lines, f"- {hours:.2f} hours in all, without the held-out games' verdicts; at {price:g} an hour: "
            f"{hours * price:.2f}"]  # fmt: skip


def _kill(dataset: Dataset, held: list[int], rollouts: int) -> list[str]:
    straight = _baselines(dataset, held, rollouts)["constant_velocity"]
    return [
        "- a loss that is not finite (the run stops by itself)",
        "- held-out loss higher than in the epoch before, twice in a row",
        f"- RC@20 above {_number(straight['RC@20'])} (constant velocity) after half of the epochs",
        "- fewer than half of the frames/s above, for longer than an epoch",
    ]


def _prior(runs: list[RunRecord], experiment: Experiment) -> list[str]:
    if not runs:
        return ["none"]
    lines = ["| run | started | status | epochs | RC@20 | action@20 |", "|---|---|---|---|---|---|"]
    for run in runs:
        told = run.summary()
        row: Iterable[Any] = (told["run"], told["started"], told["status"], told["epochs"],
                              _number(told["RC@20"]), _number(told["action@20"]))  # fmt: skip
        lines.append(f"| {' | '.join(map(str, row))} |")
    values = experiment.model_dump(mode="json")
    nearest = most_similar(runs, values)
    assert nearest is not None
    changes = [row for row in differences(nearest.experiment, values) if row[0] not in ("name", "description")]
    lines += ["", f"Most similar: {nearest.name}. What is different:", ""]
    return lines + ([f"- {name}: {before} → {after}" for name, before, after in changes] or ["- nothing"])


def _number(value: float | None) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:.3f}"
