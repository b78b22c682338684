"""One-step training: AdamW, warm-up and per-step cosine, best and final checkpoints, a manifest."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wm_runtime.errors import UserError
from wm_runtime.replays.dataset import Dataset, write_text
from wm_train.config import Experiment
from wm_train.dynamics.step import WorldModel
from wm_train.training.checkpoint import build_model, load_checkpoint, save_checkpoint
from wm_train.training.data import Windows, split_games
from wm_train.training.losses import weighted
from wm_train.training.manifest import new_manifest

MEASURED_WINDOWS = 65_536
"""Windows whose last frame gives the mean and spread of the inputs."""
HELD_OUT_WINDOWS = 16_384
"""Windows of the held-out games on which an epoch is judged."""


def train(
    experiment: Experiment,
    dataset: Dataset,
    out: Path,
    device: str = "cpu",
    start_from: Path | None = None,
    on_step: Callable[[int, int, float], None] | None = None,
) -> dict:
    """Trains and writes `best.pt` (lowest held-out loss), `final.pt` and `manifest.json` into `out`.

    `start_from` is a checkpoint of the same model whose weights and tables are the beginning; its manifest is kept in
    the new one. `on_step(step, steps, loss)` is called after every optimiser step. Returns the manifest. Ctrl-C saves
    `final.pt` and raises KeyboardInterrupt. Raises UserError for data that cannot be trained on and for a loss that is
    not finite.
    """
    settings = experiment.training
    torch.manual_seed(settings.seed)
    rng = np.random.default_rng(settings.seed)
    train_games, held_games = split_games(dataset, settings.holdout, settings.max_games)
    length = build_model(experiment).core.window
    windows, held_windows = Windows(dataset, train_games, length), Windows(dataset, held_games, length)
    held = np.sort(np.random.default_rng(0).permutation(len(held_windows))[:HELD_OUT_WINDOWS])

    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror}); name another folder") from None
    model, earlier = _beginning(experiment, dataset, train_games, windows, rng, start_from)
    model.to(device)
    optimiser = torch.optim.AdamW(model.parameters(), settings.learning_rate, weight_decay=settings.weight_decay)
    frames = min(settings.frames_per_epoch or len(windows), len(windows))
    steps = settings.epochs * math.ceil(frames / settings.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _cosine(step, steps, settings.warmup_steps))
    manifest = new_manifest(experiment, dataset, train_games, held_games, device)
    if earlier:
        manifest["started_from"] = earlier
    best, step = math.inf, 0
    try:
        for epoch in range(settings.epochs):
            started, seen = time.perf_counter(), 0
            sums: dict[str, float] = {}
            model.train()
            for batch in windows.epoch(settings.batch_size, settings.frames_per_epoch, rng):
                parts = model.core.losses(batch.to(torch.device(device)))
                loss = weighted(parts, model.core.weights)
                if not torch.isfinite(loss):
                    raise UserError(f"loss is {loss.item()} at step {step}; lower training.learning_rate")
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), settings.gradient_clip)
                optimiser.step()
                schedule.step()
                step, seen = step + 1, seen + len(batch.match)
                for name, part in parts.items():
                    sums[name] = sums.get(name, 0.0) + part.item() * len(batch.match)
                if on_step:
                    on_step(step, steps, loss.item())
            seconds = time.perf_counter() - started
            judged = evaluate_one_step(model, held_windows, held, settings.batch_size, device)
            row: dict[str, Any] = {"epoch": epoch + 1, "frames": seen, "frames_per_second": round(seen / seconds)}
            row |= {"train": {name: value / seen for name, value in sums.items()}, "held_out": judged}
            manifest["epochs"].append(row)
            if judged["loss"] < best:
                best = judged["loss"]
                save_checkpoint(out / "best.pt", model, manifest)
            write_text(out / "manifest.json", json.dumps(manifest, indent=1))
    finally:
        save_checkpoint(out / "final.pt", model, manifest)
        write_text(out / "manifest.json", json.dumps(manifest, indent=1))
    return manifest


def _beginning(
    experiment: Experiment,
    dataset: Dataset,
    train_games: list[int],
    windows: Windows,
    rng: np.random.Generator,
    start_from: Path | None,
) -> tuple[WorldModel, dict | None]:
    """The model to train, and the manifest of the checkpoint that it comes from, if any."""
    if start_from is not None:
        model, earlier = load_checkpoint(start_from)
        if earlier["experiment"]["model"] != experiment.model.model_dump(mode="json"):
            raise UserError(f"{start_from}: another model than {experiment.name} describes; name a checkpoint of it")
        return model, earlier
    model = build_model(experiment)
    sample = windows.read(np.sort(rng.permutation(len(windows))[:MEASURED_WINDOWS]))
    model.core.measure(dataset, train_games, sample)
    return model, None


@torch.no_grad()
def evaluate_one_step(
    model: WorldModel, windows: Windows, index: np.ndarray, batch_size: int, device: str
) -> dict[str, float]:
    """Mean losses by head over windows `index`, and their weighted sum as `loss`."""
    model.eval()
    sums: dict[str, float] = {}
    for at in range(0, len(index), batch_size):
        batch = windows.read(index[at : at + batch_size])
        parts = model.core.losses(batch.to(torch.device(device)))
        for name, part in {**parts, "loss": weighted(parts, model.core.weights)}.items():
            sums[name] = sums.get(name, 0.0) + part.item() * len(batch.match)
    return {name: value / len(index) for name, value in sums.items()}


def _cosine(step: int, steps: int, warmup: int) -> float:
    """Factor of the learning rate: a linear warm-up, then half a cosine down to 0 at the last step."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))
