"""Training of the exact core: steps from true states, then rollouts of its own, on whole games in memory."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wm_runtime.errors import UserError
from wm_runtime.replays.dataset import Dataset, write_text
from wm_train.config import Experiment
from wm_train.dynamics.exact import ExactCore, unrolled
from wm_train.evaluate.quick import quick, quick_windows
from wm_train.training.begin import check_possible
from wm_train.training.checkpoint import build_model, load_checkpoint, save_checkpoint
from wm_train.training.data import prefetch, split_games
from wm_train.training.losses import weighted
from wm_train.training.manifest import new_manifest
from wm_train.training.whole_games import Unroll, WholeGames

JUDGED_EVERY = 600
"""Steps between rollouts on the held-out games, which choose best.pt."""
SAVED_EVERY = 300.0
"""Seconds between checkpoints from which training goes on."""
LOGGED_EVERY = 100


def train_phases(
    experiment: Experiment, dataset: Dataset, out: Path, device: str = "cpu", start_from: Path | None = None,
    on_step: Callable[[int, int, float], None] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Trains and writes `best.pt` (lowest no-death RC@20 of held-out games), `last.pt`, `final.pt`, `metrics.jsonl` and
    `manifest.json` into `out`. Returns the manifest.

    `start_from` is a checkpoint to begin with. Ctrl-C saves `last.pt` and raises KeyboardInterrupt. Raises UserError
    for data that cannot be trained on and for a loss that is not finite.
    """
    settings, where = experiment.training, torch.device(device)
    if not settings.phases:
        raise UserError(f"{experiment.name}: training.phases is empty; the exact core is trained in phases")
    torch.manual_seed(settings.seed)
    rng = np.random.default_rng(settings.seed)
    train_games, held_games = split_games(dataset, settings.holdout, settings.max_games)
    out.mkdir(parents=True, exist_ok=True)
    manifest = new_manifest(experiment, dataset, train_games, held_games, device)
    if start_from is None:
        model = build_model(experiment)
        assert isinstance(model.core, ExactCore)
        model.core.measure(dataset, train_games)
    else:
        model, earlier = load_checkpoint(start_from)
        manifest["started_from"] = earlier
    check_possible(experiment, model)
    core = model.core
    assert isinstance(core, ExactCore)
    core.network.amp = where.type == "cuda" or torch.backends.cpu.get_cpu_capability() == "AVX512"
    model.to(where).train()
    corpus = WholeGames(dataset, train_games)
    windows = quick_windows(dataset, games=held_games)
    optimiser = torch.optim.AdamW(
        model.parameters(), settings.learning_rate, weight_decay=settings.weight_decay, fused=True
    )
    one_step = torch.compile(core.one_step, dynamic=False) if settings.compile else core.one_step
    roll = torch.compile(core.roll, dynamic=False) if settings.compile else core.roll
    phases = [phase for phase in settings.phases for _ in range(phase.steps)]
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: _warm_cosine(step, len(phases), settings.warmup_steps)
    )
    best, seen, saved = math.inf, 0, time.monotonic()

    def batches() -> Iterator[Unroll]:
        for phase in phases:
            length = phase.frames + 1
            yield corpus.read(corpus.draw(phase.batch_size, length, rng), length)

    sums: dict[str, float] = {}
    outcome = "stopped"
    started = time.perf_counter()
    try:
        for step, window in enumerate(prefetch(batches(), depth=2), start=1):
            window = window.to(where)
            parts = one_step(window) if len(window) == 2 else unrolled(window, core, roll, model.settle)
            loss = weighted(parts, core.weights)
            if not torch.isfinite(loss):
                raise UserError(f"loss is {loss.item()} at step {step}; lower training.learning_rate")
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), settings.gradient_clip)
            optimiser.step()
            schedule.step()
            seen += window.match.shape[1] * (len(window) - 1)
            for name, part in {**parts, "loss": loss}.items():
                sums[name] = sums.get(name, 0.0) + part.item()
            if on_step:
                on_step(step, len(phases), loss.item())
            row: dict[str, Any] = {}
            if step % LOGGED_EVERY == 0:
                row = {name: total / LOGGED_EVERY for name, total in sums.items()}
                sums = {}
            if step % JUDGED_EVERY == 0 or step == len(phases):
                row["figures"] = judged = quick(model, windows, device)
                if judged["RC@20"] < best:
                    best = judged["RC@20"]
                    manifest["best"] = {"step": step, **judged}
                    save_checkpoint(out / "best.pt", model, {**manifest, "step": step})
            if row:
                elapsed = round(time.perf_counter() - started, 1)
                row = {"step": step, "seconds": elapsed, "frames": seen, "frames_in_rollout": len(window) - 1, **row}
                manifest["epochs"].append(row)
                with (out / "metrics.jsonl").open("a") as file:
                    file.write(json.dumps(row) + "\n")
            if time.monotonic() - saved > SAVED_EVERY:
                saved = time.monotonic()
                save_checkpoint(out / "last.pt", model, {**manifest, "step": step})
        outcome = "finished"
    except KeyboardInterrupt:
        outcome = "interrupted"
        raise
    finally:
        manifest["status"] = outcome
        save_checkpoint(out / "last.pt", model, manifest)
        write_text(out / "manifest.json", json.dumps(manifest, indent=1))
    save_checkpoint(out / "final.pt", model, manifest)
    return manifest


def _warm_cosine(step: int, steps: int, warmup: int) -> float:
    """Factor of the learning rate: a linear warm-up, then half a cosine down to 0.5 % at the last step."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.005 + 0.995 * 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))
