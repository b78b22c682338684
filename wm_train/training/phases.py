"""Training of the exact core: steps from true states, then rollouts of its own, on whole games in memory."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wm_runtime.errors import UserError
from wm_runtime.replays.dataset import Dataset, write_text
from wm_train.config import Experiment
from wm_train.dynamics.exact import ExactCore
from wm_train.training.begin import check_possible, check_same, prepare, start
from wm_train.training.checkpoint import build_model, load_weights, save_checkpoint
from wm_train.training.curves import draw
from wm_train.training.data import prefetch, split_games
from wm_train.training.folds import measure_folds
from wm_train.training.interrupt import Interrupt
from wm_train.training.judge import Rollouts
from wm_train.training.learner import Learner, check_phases
from wm_train.training.manifest import new_manifest
from wm_train.training.memory import plan_whole_games
from wm_train.training.metrics import Metrics, start_tracker
from wm_train.training.schedule import warmup_cosine
from wm_train.training.whole_games import Unroll, WholeGames

JUDGED_EVERY = 600
"""Steps between rollouts on the held-out games, which choose best.pt."""
LOGGED_EVERY = 100
FLOOR = 0.005
"""Share of the learning rate that is left at the last step."""
ENTERED_LATE = 0.5
"""Share of the windows that know of platforms no more than a match that was entered late shows."""
LAST, BAD, FOLDS = "last.pt", "bad_batch.pt", "folds.pt"


def train_phases(
    experiment: Experiment, dataset: Dataset, out: Path, device: str = "cpu", start_from: Path | None = None,
    on_step: Callable[[int, int, float], None] | None = None, *, resume: bool = False, allow_partial: bool = False,
    note: Callable[[str], None] = print,
) -> dict[str, Any]:  # fmt: skip
    """Trains and writes `best.pt` (lowest no-death RC@20 of held-out games), `last.pt`, `final.pt`, `metrics.jsonl`,
    `curves.png` and `manifest.json` into `out`. Returns the manifest.

    `start_from` is a checkpoint to begin with; `resume` goes on with the run in `out`, exactly on a CPU. Ctrl-C ends
    it between two steps: `last.pt` is saved and KeyboardInterrupt raised. Raises UserError for data that cannot be
    trained on, for another run in `out`, and for a loss or gradient that is not finite (its frames: `bad_batch.pt`).
    """
    settings, where = experiment.training, torch.device(device)
    check_phases(experiment)
    torch.manual_seed(settings.seed)
    train_games, held_games = split_games(dataset, settings.holdout, settings.max_games)
    manifest = new_manifest(experiment, dataset, train_games, held_games, device)
    model = build_model(experiment)
    check_possible(experiment, model)
    core = model.core
    assert isinstance(core, ExactCore)
    saved = prepare(out, resume)
    if saved:
        check_same(experiment, manifest, saved["manifest"], out)
        load_weights(model, saved["model"], out / LAST)
        manifest = {**saved["manifest"], "status": "running"}
    else:
        if start_from is None or allow_partial:  # a whole checkpoint brings its tables
            core.measure(dataset, train_games)
        if start_from:
            manifest["started_from"] = start(model, start_from, allow_partial, note)
    if settings.folds:
        measure_folds(core, dataset, train_games, settings.folds, out / FOLDS)
    learner = Learner(experiment, model, where)
    optimiser = learner.optimiser
    frames = int(dataset.frames[train_games].sum())
    weights = sum(weight.numel() for weight in model.parameters())
    taken = plan_whole_games(frames, len(train_games), weights, WholeGames.bytes(frames), settings.data, where)
    manifest["memory"] = {"mode": taken.mode, "host": taken.host, "device": taken.device}
    note(taken.line(where))
    corpus = WholeGames(dataset, train_games, folds=settings.folds)
    if taken.mode == "device":
        corpus.to(where)
    rollouts = Rollouts(dataset, held_games, settings.rollouts, settings.long_rollouts, where)
    phases = [phase for phase in settings.phases for _ in range(phase.steps)]
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: warmup_cosine(step, len(phases), settings.warmup_steps, FLOOR)
    )
    begun, seen, spent, sums = 0, 0, 0.0, dict[str, float]()
    if saved:
        progress = saved["progress"]
        begun, seen, spent, sums = (progress[name] for name in ("step", "seen", "seconds", "sums"))
        optimiser.load_state_dict(progress["optimiser"])
        schedule.load_state_dict(progress["schedule"])

    def batches() -> Iterator[Unroll]:
        for step, phase in enumerate(phases[begun:], start=begun + 1):
            length = phase.frames + 1
            rng = np.random.default_rng((settings.seed, step))
            rows = corpus.draw(phase.batch_size, length, rng)
            yield corpus.read(rows, length, core.past, forget=rng.random(len(rows)) < ENTERED_LATE)

    started = time.perf_counter() - spent
    step, stored_at = begun, time.monotonic()

    def store() -> None:
        at = {"step": step, "seen": seen, "seconds": time.perf_counter() - started, "sums": sums}
        state = {"optimiser": optimiser.state_dict(), "schedule": schedule.state_dict()}
        save_checkpoint(out / LAST, model, {**manifest, "step": step}, {**at, **state})

    store()
    tracker = start_tracker(manifest, out)
    metrics = Metrics(out, begun, tracker)
    outcome = "stopped"
    try:
        with Interrupt() as interrupt:
            for window in batches() if taken.mode == "device" else prefetch(batches(), depth=2):
                if interrupt.wanted:
                    break
                step += 1
                phase = phases[step - 1]
                rng = torch.Generator().manual_seed(settings.seed + step)
                made = learner.step(window.to(where), phase, rng)
                if not made.finite:
                    step -= 1
                    store()
                    bad = made.frames
                    torch.save({"before": bad.before, "carry": bad.carry, "match": bad.match,
                                "controllers": bad.controllers, "after": bad.truth.after}, out / BAD)  # fmt: skip
                    norm = made.values["gradient_norm"]
                    raise UserError(f"loss {made.values['loss']}, gradient {norm} at step {step + 1}: not "
                                    f"finite; its frames are in {out / BAD}; lower training.learning_rate")  # fmt: skip
                schedule.step()
                seen += window.match.shape[1] * phase.frames
                for name, value in made.values.items():
                    sums[name] = sums.get(name, 0.0) + value
                if on_step:
                    on_step(step, len(phases), made.values["loss"])
                row: dict[str, Any] = {}
                if step % LOGGED_EVERY == 0:
                    row = {name: total / LOGGED_EVERY for name, total in sums.items()}
                    sums = {}
                further: dict[str, Any] = {}
                if step % JUDGED_EVERY == 0 or step == len(phases):
                    verdict = rollouts.verdict(model)
                    model.train()
                    row["figures"], further = (judged := verdict.figures), verdict.further
                    if judged["RC@20"] <= manifest.get("best", judged)["RC@20"]:
                        manifest["best"] = {"step": step, **judged}
                        save_checkpoint(out / "best.pt", model, {**manifest, "step": step})
                if row:
                    elapsed = round(time.perf_counter() - started, 1)
                    row = {"step": step, "seconds": elapsed, "frames": seen, "frames_in_rollout": phase.frames, **row}
                    manifest["epochs"].append(row)
                    metrics.write({**row, **further})
                if time.monotonic() - stored_at > 60 * settings.save_minutes:
                    stored_at = time.monotonic()
                    store()
        outcome = "finished" if step == len(phases) else "interrupted"
    finally:
        manifest["status"] = outcome
        if outcome != "stopped":  # else a step may be half done: last.pt is that of before
            store()
        with suppress(UserError) if outcome == "stopped" else nullcontext():  # what stopped it is what is told
            write_text(out / "manifest.json", json.dumps(manifest, indent=1))
            draw(out)
        if tracker:
            tracker.finish(manifest)
    if step < len(phases):
        raise KeyboardInterrupt
    save_checkpoint(out / "final.pt", model, manifest)
    return manifest
