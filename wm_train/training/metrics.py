"""metrics.jsonl: a row every few steps and one an epoch, as they happen; the same to Weights & Biases, if wanted."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from wm_runtime.errors import UserError
from wm_runtime.replays.dataset import write_text

FILE = "metrics.jsonl"


class Metrics:
    """Appends rows, each with its `step`. Of a run that goes on from `step`, what was written of later ones goes."""

    def __init__(self, folder: Path, step: int, tracker: Tracker | None = None):
        self.path, self.tracker = folder / FILE, tracker
        kept = [row for row in read_metrics(folder) if row["step"] <= step] if step else []
        write_text(self.path, "".join(f"{json.dumps(row)}\n" for row in kept))

    def write(self, row: dict[str, Any]) -> None:
        try:
            with open(self.path, "a") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written ({error.strerror}); make room and --resume") from None
        if self.tracker:
            self.tracker.log(row)


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """All whole rows of a run's metrics; none where it has no such file."""
    try:
        lines = (folder / FILE).read_text().splitlines()
    except OSError:
        return []
    return list(_rows(lines))


def _rows(lines: list[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        try:
            yield json.loads(line)
        except ValueError:  # cut off when the run was killed
            continue


class Tracker:
    """A run at Weights & Biases: online where a key is known, else offline in the run's folder. Its config are the
    experiment's settings, and `run`, what else the manifest tells of its beginning; its summary says how it ended."""

    def __init__(self, wandb: Any, manifest: Mapping[str, Any], folder: Path):
        experiment = manifest["experiment"]
        settings = experiment["training"]["wandb"]
        begun = {name: value for name, value in manifest.items() if name not in ("experiment", "epochs")}
        data = {name: value for name, value in manifest["data"].items() if not name.endswith("md5")}
        self._run = wandb.init(
            project=settings["project"], entity=settings["entity"], name=folder.name, id=folder.name, resume="allow",
            dir=str(folder), config={**experiment, "run": {**begun, "data": data}},
            mode="online" if wandb.login(prompt=False, verify=False) else "offline",
        )  # fmt: skip

    def log(self, row: dict[str, Any]) -> None:
        self._run.log(dict(_flat(row)), step=row["step"])

    def finish(self, manifest: Mapping[str, Any]) -> None:
        """Tells its `status`, its `best` figures and how many epochs there were."""
        ended = {"status": manifest["status"], "best": manifest.get("best", {}), "epochs": len(manifest["epochs"])}
        self._run.summary.update(dict(_flat({"ended": ended})))
        self._run.finish(exit_code=int(manifest["status"] == "stopped"))


def start_tracker(manifest: Mapping[str, Any], folder: Path) -> Tracker | None:
    """None where it is switched off or the package is not installed (extra `wandb`)."""
    if not manifest["experiment"]["training"]["wandb"]["enabled"]:
        return None
    try:
        import wandb
    except ImportError:
        return None
    return Tracker(wandb, manifest, folder)


def _flat(row: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in row.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{name}/")
        else:
            yield above + name, value


def nested(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as it was told to Weights & Biases, a/b: value → as it is in metrics.jsonl."""
    found: dict[str, Any] = {}
    for name, value in row.items():
        *above, last = name.split("/")
        place = found
        for part in above:
            place = place.setdefault(part, {})
        place[last] = value
    return found
