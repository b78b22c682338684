"""What a run was: data, settings, machine, versions and every epoch, as JSON beside its checkpoints."""

from __future__ import annotations

import platform
import subprocess
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

import torch

from wm_runtime.replays.dataset import Dataset, data_fingerprint
from wm_runtime.schema import field_table_hash
from wm_train.config import Experiment

PACKAGES = ("torch", "numpy", "pyarrow", "peppi-py", "onnx", "onnxruntime")


def new_manifest(experiment: Experiment, dataset: Dataset, train: list[int], held_out: list[int], device: str) -> dict:
    """The manifest of a run that is about to start; its `epochs` are filled in as they end."""
    md5 = dataset.md5
    used = [md5[g] for g in train]
    return {
        "experiment": experiment.model_dump(mode="json"),
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "field_table": field_table_hash(),
        "data": {
            "fingerprint": data_fingerprint(used),
            "games": len(train),
            "frames": int(dataset.frames[train].sum()),
            "md5": used,
            "held_out_md5": [md5[g] for g in held_out],
            "dataset": str(dataset.path),
        },
        "machine": {
            "device": device,
            "processor": processor(),
            "cores": torch.get_num_threads(),
            "system": platform.platform(),
        },
        "git_commit": git_commit(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "epochs": [],
    }


def processor() -> str:
    """The name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def git_commit() -> str | None:
    """The commit of the source tree, with `+` if it has changes; None outside a checkout."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
