"""The curves of runs as a picture: losses as they fell, and the held-out figures of every epoch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wm_runtime.errors import UserError
from wm_train.training.metrics import read_metrics

FIGURES = ("RC@20", "change_acc", "action@20")


def draw(folder: Path) -> None:
    """Writes curves.png of a run, where there is something to draw and matplotlib to draw it."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return
    rows = read_metrics(folder)
    if rows:
        plot({folder.name: rows}, folder / "curves.png")


def plot(runs: Mapping[str, list[dict[str, Any]]], path: Path) -> None:
    """The curves of several runs, name → rows of metrics, in one picture. Raises UserError where it cannot be drawn or
    written."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("plots need matplotlib; pip install 'melee-world-model[plot]'") from None
    figure = Figure(figsize=(4.5 * (1 + len(FIGURES)), 4), layout="constrained")
    axes = figure.subplots(1, 1 + len(FIGURES))
    for name, rows in runs.items():
        losses = [row for row in rows if "loss" in row and row.get("targets", 1) == 1]
        epochs = [row for row in rows if "figures" in row]
        colour = axes[0].plot(_steps(losses), [row["loss"] for row in losses], lw=0.8, label=name)[0].get_color()
        judged = [row for row in epochs if "held_out" in row]
        axes[0].plot(_steps(judged), [row["held_out"]["loss"] for row in judged], "o--", ms=4, color=colour)
        for panel, figure_ in zip(axes[1:], FIGURES, strict=True):
            known = [row for row in epochs if row["figures"].get(figure_) is not None]
            panel.plot(_steps(known), [row["figures"][figure_] for row in known], "o-", ms=4, color=colour)
    axes[0].set_yscale("log")
    axes[0].set_title("loss: training, and held out (dashed)")
    axes[0].legend()
    for panel, name in zip(axes[1:], FIGURES, strict=True):
        panel.set_title(f"{name}, held out, no death")
    for panel in axes:
        panel.set_xlabel("step")
        panel.grid(alpha=0.3)
    temporary = path.with_name(f".{path.stem}.tmp{path.suffix or '.png'}")
    try:
        figure.savefig(temporary, dpi=110)
        os.replace(temporary, path)
    except (OSError, ValueError) as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"{path}: cannot be written ({error})") from None


def _steps(rows: list[dict[str, Any]]) -> list[int]:
    return [row["step"] for row in rows]
