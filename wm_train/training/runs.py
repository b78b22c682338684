"""Runs as their folders, or Weights & Biases, tell of them: manifests and metrics."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from wm_runtime.errors import UserError
from wm_train.training.begin import differences
from wm_train.training.metrics import nested, read_metrics

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class RunRecord:
    """What is known of a run. done: epochs that ended · metrics: gives the rows of its metrics."""

    name: str
    manifest: dict[str, Any]
    done: int
    metrics: Callable[[], Rows]

    @property
    def experiment(self) -> dict[str, Any]:
        return self.manifest["experiment"]

    @property
    def epochs(self) -> Rows:
        """Rows of verdicts on held-out games."""
        rows = self.manifest["epochs"] if "epochs" in self.manifest else self.metrics()
        return [row for row in rows if "figures" in row or "held_out" in row]

    @property
    def best(self) -> dict[str, Any]:
        """Figures of the best epoch; none before the first one ends."""
        return self.manifest.get("best", {})

    @property
    def status(self) -> str:
        """`running` where nothing has said that it ended: it may also have been killed."""
        return self.manifest.get("status", "running")

    def summary(self) -> dict[str, Any]:
        """What a list shows of it."""
        data, training = self.manifest["data"], self.experiment["training"]
        return {
            "run": self.name,
            "started": self.manifest["started"][:16].replace("T", " "),
            "status": self.status,
            "epochs": "phases" if training.get("phases") else f"{self.done}/{training.get('epochs', '?')}",
            "games": data["games"],
            "RC@20": self.best.get("RC@20"),
            "action@20": self.best.get("action@20"),
            "change_acc": self.best.get("change_acc"),
            "device": self.manifest["machine"]["device"],
        }


def read_run(folder: Path) -> RunRecord:
    """Raises UserError for a folder that holds no run."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        record = RunRecord(folder.name, manifest, len(manifest["epochs"]), partial(read_metrics, folder))
        record.summary()
    except OSError:
        raise UserError(f"{folder}: no run here; `mwm runs list` shows those there are") from None
    except (ValueError, LookupError, TypeError, AttributeError):
        raise UserError(f"{folder}/manifest.json: damaged, or of something that is no training run") from None
    return record


def find_runs(save_dir: Path) -> list[RunRecord]:
    """All runs below a folder, the latest first."""
    found = []
    for path in save_dir.rglob("manifest.json"):
        try:
            found.append(read_run(path.parent))
        except UserError:  # a policy, or cut off
            continue
    return sorted(found, key=lambda run: run.manifest["started"], reverse=True)


def wandb_runs(project: str, names: Sequence[str] = ()) -> list[RunRecord]:
    """Runs of a project of Weights & Biases, PROJECT or ENTITY/PROJECT: those of these names, in their order, or all
    that this trainer made, the latest first. Raises UserError where they cannot be had."""
    try:
        import wandb
    except ImportError:
        raise UserError("runs at Weights & Biases need its package; pip install 'melee-world-model[wandb]'") from None
    try:
        told = {run.name: run for run in wandb.Api().runs(project) if {"run", "model"} <= run.config.keys()}
    except (ValueError, OSError, wandb.errors.Error) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{project}: Weights & Biases gives no runs ({reason}); name a project of yours, after `wandb "
                        "login`") from None  # fmt: skip
    for name in names:
        if name not in told:
            raise UserError(f"{project}: no run {name!r} there; `mwm runs list --wandb {project}` lists them")
    if names:
        return [_of_wandb(told[name]) for name in names]
    return sorted(map(_of_wandb, told.values()), key=lambda run: run.manifest["started"], reverse=True)


def _of_wandb(run: Any) -> RunRecord:
    """A run of wandb's public API as its folder would tell of it."""
    summary = nested({name: run.summary.get(name) for name in run.summary.keys()})  # noqa: SIM118
    ended: Mapping[str, Any] = summary.get("ended", {})
    settings = {name: value for name, value in run.config.items() if name != "run"}
    manifest = {**run.config["run"], "experiment": settings, "status": ended.get("status", run.state),
                "best": ended.get("best", {})}  # fmt: skip

    def rows() -> Rows:
        found = ({name: value for name, value in row.items() if value is not None} for row in run.scan_history())
        return [nested(row) for row in found if "step" in row]

    return RunRecord(run.name, manifest, ended.get("epochs", max(0, summary.get("epoch", 1) - 1)), rows)


def most_similar(runs: list[RunRecord], experiment: dict[str, Any]) -> RunRecord | None:
    """The run whose settings differ least from an experiment's; of several, the latest."""
    return min(runs, key=lambda run: len(differences(run.experiment, experiment)), default=None)


def settings_that_differ(runs: list[RunRecord]) -> dict[str, list[Any]]:
    """Setting → its value in each run, for those in which the runs are not all alike."""
    first = runs[0].experiment
    names = {name: None for run in runs[1:] for name, _, _ in differences(first, run.experiment)}
    return {name: [_setting(run.experiment, name) for run in runs] for name in names}


def _setting(values: Any, name: str) -> Any:
    for key in name.split("."):
        values = values.get(key) if isinstance(values, dict) else None
    return values
