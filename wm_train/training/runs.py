"""Runs as their folders tell of them: manifests and metrics."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wm_runtime.errors import UserError
from wm_train.training.begin import differences


@dataclass(frozen=True)
class RunRecord:
    """A run on disk: its folder and its manifest."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def experiment(self) -> dict[str, Any]:
        return self.manifest["experiment"]

    @property
    def epochs(self) -> list[dict[str, Any]]:
        return self.manifest["epochs"]

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
            "epochs": "phases" if training.get("phases") else f"{len(self.epochs)}/{training.get('epochs', '?')}",
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
        record = RunRecord(folder, manifest)
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
