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
from wm_train.config import ExactConfig, Experiment
from wm_train.dynamics.step import WorldModel
from wm_train.evaluate.bootstrap import ratio
from wm_train.evaluate.figures import HEADLINE, Case
from wm_train.evaluate.quick import SCORED, quick_windows
from wm_train.evaluate.rollout import ALL_FIELDS, BASELINES
from wm_train.training.begin import check_possible, differences, training_data
from wm_train.training.checkpoint import build_model
from wm_train.training.corpus import Mapped, Resident
from wm_train.training.data import Windows, split_games
from wm_train.training.learner import check_phases
from wm_train.training.manifest import git_commit, processor
from wm_train.training.memory import Need, Plan, free, plan, plan_whole_games
from wm_train.training.phase_trial import PhaseTrial, kinds
from wm_train.training.preflight import preflight
from wm_train.training.runs import RunRecord, find_runs, most_similar
from wm_train.training.trial import Trial
from wm_train.training.whole_games import WholeGames

TRIAL_STEPS, LEAST_STEPS = 50, 3
"""Steps of a trial, and at least, where each is a long rollout."""
WATCHED = ("RC@20", "RC@5", "skill@20", "exact@20", "action@20", "change_acc", "hit_recall", "hit_precision")

LATE = ("exact@20", "hit_recall", "hit_precision")
"""Figures that begin at nothing and that a straight line may lead in."""


@dataclass
class Forecast:
    """What a run will be: lines about its windows, its model and its time; hours in all, and memory; what would be
    wrong with its verdicts, and when half of it is done."""

    parameters: int
    windows: str
    model: str
    time: list[str]
    hours: float
    memory: Plan
    wrong: str
    half: str


def run_card(
    experiment: Experiment, dataset: Dataset, device: torch.device, save_dir: Path, price: float, launch: str
) -> str:
    """The card in Markdown. `price`: of an hour of the machine · `launch`: the command that starts the run. Raises
    UserError for what could not be trained."""
    settings = experiment.training
    games, held = split_games(dataset, settings.holdout, settings.max_games)
    forecast = _phases if isinstance(experiment.model, ExactConfig) else _epochs
    will = forecast(experiment, dataset, games, device)
    cost = (f"- {will.hours:.2f} hours in all, without the held-out games' verdicts; at {price:g} an hour: "
            f"{will.hours * price:.2f}")  # fmt: skip
    runs = find_runs(save_dir)
    sections = {
        "Goal": [experiment.description or "(the experiment has no description: write down what is to be learned)"],
        "Target metrics": _targets(dataset, held, runs, settings.rollouts),
        "Data": _data(dataset, experiment, games, will.windows),
        "Model": [f"- {experiment.model.kind}, {will.parameters:,} parameters", will.model,
                  f"- settings: `{json.dumps(experiment.model.model_dump(mode='json'))}`"],
        "Training": [f"- {name}: {json.dumps(value)}" for name, value in settings.model_dump(mode="json").items()],
        "Infrastructure": _machine(device),
        "Time and cost": [*will.time, cost],
        "Memory": [will.memory.line(device)],
        "Kill criteria": _kill(dataset, held, settings.rollouts, will),
        "Commands": ["Launch:", "", f"    {launch}", "", "Resume:", "", f"    {launch} --resume"],
        "Prior runs": _prior(runs, experiment),
        "Sign-off": ["- [ ] goal and kill criteria agreed, by: ________  on: ________",
                     "- [ ] cost approved, by: ________", "- [ ] result noted after the run: ________"],
    }  # fmt: skip
    body = "\n\n".join(f"## {title}\n\n" + "\n".join(lines) for title, lines in sections.items())
    return f"# Run card: {experiment.name}\n\n{body}\n"


def _epochs(experiment: Experiment, dataset: Dataset, games: list[int], device: torch.device) -> Forecast:
    """Of a model that is trained in epochs of windows."""
    settings = experiment.training
    model = build_model(experiment)
    check_possible(experiment, model)
    lengths = settings.unroll.lengths if settings.unroll else ()
    windows = Windows(dataset, games, model.core.window, steps=max(lengths, default=1))
    parameters = sum(p.numel() for p in model.parameters())
    frames = int(dataset.frames[games].sum())
    sample = windows.read(np.linspace(0, len(windows) - 1, min(4096, len(windows))).astype(int))
    model.core.measure(dataset, games[:8], sample)  # the trial's speed does not hang on the tables' values
    model.to(device)
    need = Need(frames, len(windows), windows.length + max(lengths, default=1) - 1, parameters,
                preflight(experiment, model, windows, device))  # fmt: skip
    memory = plan(need, settings, device)
    one_step, unrolled = _trial(experiment, model, windows, device, memory.mode)
    drawn = min(settings.frames_per_epoch or len(windows), len(windows))
    size, batches = settings.batch_size, math.ceil(drawn / settings.batch_size)
    share = settings.unroll.share if settings.unroll else 0.0
    step = (1 - share) * one_step + share * float(np.mean(list(unrolled.values()) or [0.0]))
    time = [f"- {batches:,} batches of {size:,} an epoch, {settings.epochs} epochs",
            f"- measured in a trial of {TRIAL_STEPS} steps on this machine: {1000 * one_step:.1f} ms a step, "
            f"{size / one_step:,.0f} windows/s"]  # fmt: skip
    for n, seconds in unrolled.items():
        time.append(f"- unrolled {n}: {1000 * seconds:.1f} ms a step, {size * n / seconds:,.0f} frames/s")
    return Forecast(
        parameters, f"- {len(windows):,} windows, of which an epoch draws {drawn:,}",
        f"- windows of {model.core.window} frames, the last the target", time,
        settings.epochs * batches * step / 3600, memory,
        "held-out loss higher than in the epoch before, twice in a row", "half of the epochs",
    )  # fmt: skip


def _phases(experiment: Experiment, dataset: Dataset, games: list[int], device: torch.device) -> Forecast:
    """Of the exact core."""
    check_phases(experiment)
    model = build_model(experiment)
    check_possible(experiment, model)
    trial = PhaseTrial(experiment, model, dataset, games, device)
    parameters, frames = sum(p.numel() for p in model.parameters()), int(dataset.frames[games].sum())
    memory = plan_whole_games(frames, len(games), parameters, WholeGames.bytes(frames))
    phases, seconds, time = experiment.training.phases, 0.0, []
    for kind in kinds(phases):
        steps = max(LEAST_STEPS, TRIAL_STEPS // kind.frames)
        each, many = trial.loaded(kind, steps).seconds, sum(p.steps for p in phases if kinds((p, kind)) == [kind])
        seconds += each * many
        size = kind.frames * kind.batch_size
        time.append(f"- {many:,} steps of {kind.batch_size:,} windows of {kind.frames} frames, of which a share of "
                    f"{kind.share:g} is learned from: in a trial of {steps} steps on this machine "
                    f"{1000 * each:.1f} ms a step, {size / each:,.0f} frames/s")  # fmt: skip
    drawn = sum(phase.steps * phase.batch_size * phase.frames for phase in phases)
    return Forecast(
        parameters, f"- {drawn:,} frames are drawn or rolled out in all", "- steps from true states, and rollouts",
        time, seconds / 3600, memory, "RC@20 no lower in five verdicts, one after the other", "half of the steps",
    )  # fmt: skip


def _trial(
    experiment: Experiment, model: WorldModel, windows: Windows, device: torch.device, mode: str
) -> tuple[float, dict[int, float]]:
    """Seconds of a one-step batch, and of an unrolled one by its length."""
    trial = Trial(experiment, model, windows, device)
    where = device if mode == "device" else torch.device("cpu")
    some = windows.games.tolist()[:64]  # gathering takes as long from few games as from many
    corpus = Mapped(windows.dataset) if mode == "streaming" else Resident(windows.dataset, some, where)
    trial.windows = Windows(windows.dataset, some, windows.length, corpus)
    one_step = trial.loaded(TRIAL_STEPS).seconds
    lengths = experiment.training.unroll.lengths if experiment.training.unroll else ()
    return one_step, {n: trial.alone(max(LEAST_STEPS, TRIAL_STEPS // n), n) for n in lengths}


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


def _data(dataset: Dataset, experiment: Experiment, games: list[int], windows: str) -> list[str]:
    data = training_data(dataset, experiment)
    examples = [dataset.record(game) for game in games[:3]]
    return [
        f"- {dataset.path}: {data['games']:,} games, {data['frames']:,} frames; fingerprint {data['fingerprint']}",
        f"- {data['held_out_games']} more games are held out",
        windows,
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


def _kill(dataset: Dataset, held: list[int], rollouts: int, will: Forecast) -> list[str]:
    straight = _baselines(dataset, held, rollouts)["constant_velocity"]
    return [
        "- a loss that is not finite (the run stops by itself)",
        f"- {will.wrong}",
        f"- RC@20 above {_number(straight['RC@20'])} (constant velocity) after {will.half}",
        "- fewer than half of the frames/s above, for more than ten minutes",
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
