"""Training a policy: AdamW on weighted cross entropy of the next controller (bfloat16), checked on held-out games."""

from __future__ import annotations

import json
import math
import os
import pickle
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wm_runtime.errors import UserError
from wm_runtime.replays.dataset import Dataset, write_text
from wm_runtime.schema import field_table_hash
from wm_train.policy.codebook import HEADS, Codebook
from wm_train.policy.config import LONGEST_DELAY, PolicyExperiment
from wm_train.policy.data import KNOWS_ALL, Batch, Rows, codebook_of
from wm_train.policy.network import PolicyNetwork
from wm_train.training.data import prefetch, split_games
from wm_train.training.device import amp_type
from wm_train.training.manifest import new_manifest

CHUNK = 16
"""Batches that are read from the dataset at once."""
CHECKED_ROWS = 32_768


def train_policy(
    experiment: PolicyExperiment,
    dataset: Dataset,
    out: Path,
    device: str = "cpu",
    on_step: Callable[[int, int, float], None] | None = None,
) -> tuple[PolicyNetwork, dict]:
    """Trains and writes `policy.pt` (lowest held-out loss so far) and `manifest.json` into `out`; → that policy in
    evaluation mode on the CPU, and the manifest.

    `on_step(step, steps, loss)` is called after every optimiser step. Ctrl-C raises KeyboardInterrupt; what was best is
    on disk. Raises UserError for data that cannot be learned from and for a loss that is not finite.
    """
    settings = experiment.training
    torch.manual_seed(settings.seed)
    rng = np.random.default_rng(settings.seed)
    train_games, held_games = split_games(dataset, settings.holdout, settings.max_games)
    codebook = codebook_of(dataset, train_games, experiment.model)
    rows = Rows(dataset, train_games, experiment.model, codebook, experiment.characters)
    held = Rows(dataset, held_games, experiment.model, codebook, experiment.characters)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror}); name another folder") from None
    network = PolicyNetwork(experiment.model, codebook).to(device)
    optimiser = torch.optim.AdamW(network.parameters(), settings.learning_rate, weight_decay=settings.weight_decay)
    steps = math.ceil(settings.rows / settings.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _pace(step, steps, settings.warmup_steps))
    manifest = new_manifest(experiment, dataset, train_games, held_games, device)  # type: ignore[arg-type]
    manifest["codebook"] = codebook.to_json()
    checks = {steps * (i + 1) // settings.checks for i in range(settings.checks)} | {steps}
    best, started, total = math.inf, time.perf_counter(), 0.0
    since, half = 0, amp_type("auto", torch.device(device)) is not None
    ahead: Iterator = prefetch(_batches(rows, experiment, steps, rng))  # type: ignore[arg-type]
    for step, batch in enumerate(ahead, 1):
        network.train()
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=half):
            losses = batch_loss(network, _to(batch, device))
        loss = (losses.sum(dim=-1) * batch.weight.to(device)).mean()
        if not torch.isfinite(loss):
            raise UserError(f"loss is {loss.item()} at step {step}; lower training.learning_rate")
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), settings.gradient_clip)
        optimiser.step()
        schedule.step()
        total, since = total + loss.item(), since + 1
        if on_step:
            on_step(step, steps, loss.item())
        if step in checks:
            judged = held_out_loss(network, held, device)
            seconds = time.perf_counter() - started
            row = {"step": step, "rows": step * settings.batch_size, "train_loss": total / since, "held_out": judged}
            manifest["epochs"].append(row | {"rows_per_second": round(step * settings.batch_size / seconds)})
            total, since = 0.0, 0
            if judged["loss"] < best:
                best = judged["loss"]
                save_policy(out / "policy.pt", network, manifest)
            write_text(out / "manifest.json", json.dumps(manifest, indent=1))
    return load_policy(out / "policy.pt")[0], manifest


def batch_loss(network: PolicyNetwork, batch: Batch) -> Tensor:
    """(N, 4) cross entropy of each head in nats, given the true classes of the earlier ones."""
    target = network.mirrored(batch.target, batch.seen.side)
    logits = network.logits(*network.hidden(batch.seen), target)
    losses = [torch.nn.functional.cross_entropy(out, target[:, i], reduction="none") for i, out in enumerate(logits)]
    return torch.stack(losses, dim=-1)


@torch.no_grad()
def held_out_loss(network: PolicyNetwork, held: Rows, device: str) -> dict[str, float]:
    """Mean cross entropy by head and `loss`, their sum, on rows of held-out games, half of them delayed."""
    network.eval()
    rng = np.random.default_rng(0)
    index = np.sort(rng.choice(held.index, min(CHECKED_ROWS, len(held)), replace=False))
    delay = rng.integers(0, LONGEST_DELAY + 1, len(index)) * (rng.random(len(index)) < 0.5)
    sums = np.zeros(len(HEADS))
    for part in np.array_split(np.arange(len(index)), max(1, len(index) // 2048)):
        batch = held.read(index[part], delay[part], np.full(len(part), KNOWS_ALL))
        sums += batch_loss(network, _to(batch, device)).sum(dim=0).cpu().numpy()
    means = dict(zip(HEADS, (sums / len(index)).tolist(), strict=True))
    return {**means, "loss": sum(means.values())}


def save_policy(path: Path, network: PolicyNetwork, manifest: dict) -> None:
    """Writes `path` under a temporary name, then renames it."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        torch.save({"policy": network.state_dict(), "manifest": manifest}, temporary)
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"{path}: cannot be written ({' '.join(str(error).split())})") from None


def load_policy(path: str | Path) -> tuple[PolicyNetwork, dict]:
    """The policy in evaluation mode and its manifest. Raises UserError for a missing, damaged or foreign file."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        weights, manifest = content["policy"], content["manifest"]
        experiment = PolicyExperiment.model_validate(manifest["experiment"])
        codebook, table = Codebook.from_json(manifest["codebook"]), manifest["field_table"]
    except FileNotFoundError:
        raise UserError(f"{path}: no such policy; train one with `mwm train-policy`") from None
    except (OSError, RuntimeError, ValueError, LookupError, TypeError, EOFError, pickle.UnpicklingError):
        raise UserError(f"{path}: not a policy of this project, or damaged; name a policy.pt") from None
    if table != field_table_hash():
        raise UserError(f"{path}: trained with field table {table}, this version has {field_table_hash()}; train again")
    network = PolicyNetwork(experiment.model, codebook)
    try:
        network.load_state_dict(weights)
    except (RuntimeError, TypeError) as error:
        raise UserError(f"{path}: weights do not fit the policy: {' '.join(str(error).split())}") from None
    return network.eval(), manifest


def _batches(rows: Rows, experiment: PolicyExperiment, steps: int, rng: np.random.Generator) -> Iterator[Batch]:
    """`steps` batches, read a chunk at a time."""
    size = experiment.training.batch_size
    for first in range(0, steps, CHUNK):
        count = min(CHUNK, steps - first)
        chunk = rows.drawn(count * size, experiment.training, LONGEST_DELAY, rng)
        yield from (_part(chunk, slice(i * size, (i + 1) * size)) for i in range(count))


def _part(batch: Batch, rows: slice) -> Batch:
    seen = type(batch.seen)(*(t[rows] for t in vars(batch.seen).values()))
    return Batch(seen, batch.last[rows], batch.target[rows], batch.weight[rows])


def _to(batch: Batch, device: str) -> Batch:
    seen = type(batch.seen)(*(t.to(device) for t in vars(batch.seen).values()))
    return Batch(seen, batch.last.to(device), batch.target.to(device), batch.weight.to(device))


def _pace(step: int, steps: int, warmup: int) -> float:
    """Factor of the learning rate: a linear warm-up, then half a cosine down to 0 at the last step."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))
