"""The beginning of a run, new or resumed: model, data in the memory where they fit, and the judge, all checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wm_runtime.errors import UserError
from wm_runtime.replays.dataset import Dataset, data_fingerprint
from wm_train.config import ExactConfig, Experiment, ModelConfig
from wm_train.dynamics.step import WorldModel
from wm_train.training.checkpoint import build_model, load_weights, read_checkpoint
from wm_train.training.corpus import Corpus, Mapped, Resident
from wm_train.training.data import Windows, split_games
from wm_train.training.judge import Judge
from wm_train.training.manifest import new_manifest
from wm_train.training.memory import Need, plan
from wm_train.training.preflight import preflight

MEASURED_WINDOWS = 65_536
"""Windows whose last frame gives the mean and spread of the inputs."""
FREE_TO_CHANGE = {"training.data", "training.log_interval", "training.save_minutes"}
"""Settings that may differ when a run is resumed (a stream stays one, whatever `data` says), beside those of wandb."""


@dataclass
class Beginning:
    """progress: what last.pt holds of a run that goes on. streams: its windows come in the order of a stream."""

    model: WorldModel
    windows: Windows
    judge: Judge
    manifest: dict[str, Any]
    progress: dict[str, Any] | None
    streams: bool


def begin(
    experiment: Experiment,
    dataset: Dataset,
    out: Path,
    device: torch.device,
    start_from: Path | None,
    resume: bool,
    allow_partial: bool,
    note: Callable[[str], None],
) -> Beginning:
    """Everything that a run needs. Raises UserError for whatever makes it impossible."""
    settings = experiment.training
    check_epochs(experiment)
    saved = prepare(out, resume)
    torch.manual_seed(settings.seed)
    train_games, held_games = split_games(dataset, settings.holdout, settings.max_games)
    model = build_model(experiment)
    check_possible(experiment, model)
    steps = max(settings.unroll.lengths) if settings.unroll else 1
    windows = Windows(dataset, train_games, model.core.window, steps=steps)
    judge = Judge(dataset, held_games, model.core.window, settings.rollouts, device, settings.long_rollouts)
    manifest = new_manifest(experiment, dataset, train_games, held_games, str(device))
    if saved:
        check_same(experiment, manifest, saved["manifest"], out)
        load_weights(model, saved["model"], out / "last.pt")
        manifest = saved["manifest"]
    elif start_from:
        manifest["started_from"] = start(model, start_from, allow_partial, note)
    else:
        rng = np.random.default_rng(settings.seed)
        sample = windows.read(np.sort(rng.permutation(len(windows))[:MEASURED_WINDOWS]))
        model.core.measure(dataset, train_games, sample)
    model.to(device)

    need = Need(
        frames=int(dataset.frames[train_games].sum()),
        windows=len(windows),
        length=windows.length + steps - 1,
        weights=sum(p.numel() for p in model.parameters()),
        activations=preflight(experiment, model, windows, device),
    )
    chosen = plan(need, settings, device, saved["progress"]["streams"] if saved else None)
    manifest["memory"] = {"mode": chosen.mode, "host": chosen.host, "device": chosen.device}
    note(chosen.line(device))
    streams = chosen.mode == "streaming"
    corpus: Corpus = Mapped(dataset)
    if not streams:
        corpus = Resident(dataset, train_games, device if chosen.mode == "device" else torch.device("cpu"))
    windows = Windows(dataset, train_games, windows.length, corpus, steps)
    return Beginning(model, windows, judge, manifest, saved["progress"] if saved else None, streams)


def prepare(out: Path, resume: bool) -> dict[str, Any] | None:
    """The folder of the run; what it holds of one that is to be resumed."""
    last = out / "last.pt"
    if resume:
        if not last.exists():
            raise UserError(f"{out}: no last.pt to go on from; begin the run without --resume")
        saved = read_checkpoint(last)
        if "progress" not in saved:
            raise UserError(f"{last}: holds weights alone; go on from it with --start-from")
        return saved
    if last.exists():
        raise UserError(f"{out}: holds a run; go on with it by --resume, or name another folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror}); name another folder") from None
    return None


def check_epochs(experiment: Experiment) -> None:
    """Raises UserError for a model that is trained otherwise than in epochs of windows."""
    if isinstance(experiment.model, ExactConfig):
        raise UserError(f"{experiment.name}: the exact core is trained in phases, by `mwm train` alone; for all else "
                        "name an experiment of another kind of model")  # fmt: skip


def check_possible(experiment: Experiment, model: WorldModel) -> None:
    """Raises UserError for settings of training that the model cannot be trained with."""
    settings, core = experiment.training, model.core
    kind: str = experiment.model.kind
    if isinstance(experiment.model, ModelConfig) and experiment.model.encoding.lookahead:
        kind = f"{kind} with lookahead"
    wanted = {"phases": settings.phases and isinstance(experiment.model, ModelConfig),
              "scheduled_sampling": settings.scheduled_sampling and not core.takes_noise,
              "unroll": settings.unroll and not core.unrolls}  # fmt: skip
    for name, refused in wanted.items():
        if refused:
            raise UserError(f"{experiment.name}: training.{name} is not possible with {kind}; leave it out")


def check_same(experiment: Experiment, now: dict[str, Any], before: dict[str, Any], out: Path) -> None:
    """Raises UserError where the run in `out` was begun with other settings or data."""
    begun = Experiment(**before["experiment"])  # what it does not name is at its default
    changed = [
        f"{name} was {old}, is {new}"
        for name, old, new in differences(begun.model_dump(mode="json"), experiment.model_dump(mode="json"))
        if name not in FREE_TO_CHANGE and not name.startswith("training.wandb.")
    ]
    if now["data"]["fingerprint"] != before["data"]["fingerprint"]:
        changed.append(f"data were {before['data']['fingerprint']}, are {now['data']['fingerprint']}")
    if changed:
        raise UserError(f"{out}: cannot go on with other settings: {'; '.join(changed)}; take those back, or begin "
                        "another run with --start-from")  # fmt: skip


def differences(before: Any, after: Any, name: str = "") -> list[tuple[str, Any, Any]]:
    """(dotted name, value before, value after) of every setting in which two experiments differ."""
    if isinstance(before, dict) and isinstance(after, dict):
        names = [*before, *(key for key in after if key not in before)]
        parts = [differences(before.get(n), after.get(n), f"{name}.{n}" if name else n) for n in names]
        return [row for part in parts for row in part]
    return [] if before == after else [(name, before, after)]


def start(model: WorldModel, path: Path, allow_partial: bool, note: Callable[[str], None]) -> dict[str, Any]:
    """Puts a checkpoint's weights into the model; → its manifest."""
    content = read_checkpoint(path)
    for difference in load_weights(model, content["model"], path, allow_partial):
        note(f"{path}: {difference}")
    return content["manifest"]


def training_data(dataset: Dataset, experiment: Experiment) -> dict[str, Any]:
    """Games, frames and fingerprint that an experiment would train on."""
    games, held = split_games(dataset, experiment.training.holdout, experiment.training.max_games)
    md5 = dataset.md5
    return {
        "games": len(games),
        "held_out_games": len(held),
        "frames": int(dataset.frames[games].sum()),
        "fingerprint": data_fingerprint([md5[g] for g in games]),
    }
