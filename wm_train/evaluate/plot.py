"""The curves of a report as a picture: how fast a model and its baselines leave the truth."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from wm_runtime.errors import UserError

PANELS = (
    ("position_error_mean", "position error, mean (units)", "log"),
    ("position_error_median", "position error, median (units)", "log"),
    ("action_right", "share of right actions", "linear"),
)
FLOOR = 1e-2
"""Units: least error that the logarithmic axes show."""


def check_picture(path: Path) -> None:
    """Raises UserError where no picture of this name can be drawn, before minutes are spent on what it would show."""
    try:
        from matplotlib.backend_bases import FigureCanvasBase
    except ImportError:
        raise UserError("--plot needs matplotlib; pip install 'melee-world-model[plot]'") from None
    known = FigureCanvasBase.get_supported_filetypes()
    if path.suffix[1:].lower() not in known:
        raise UserError(f"{path}: no format for pictures; let its name end on one of {', '.join(sorted(known))}")


def plot_curves(found: dict[str, Any], path: Path) -> None:
    """Writes the picture, in the format that the file's name ends on. Raises UserError where it cannot."""
    from matplotlib.figure import Figure

    curves, measured = found["curves"], found["measured"]
    names = {"model": measured["model"], "other": measured.get("other", "other")}
    figure = Figure(figsize=(15, 4.5), layout="constrained")
    for axes, (which, title, scale) in zip(figure.subplots(1, len(PANELS)), PANELS, strict=True):
        for name in (name for name in curves if name != "frames"):
            values = curves[name][which]
            shown = [max(value, FLOOR) for value in values] if scale == "log" else values
            axes.plot(curves["frames"], shown, label=names.get(name, name.replace("_", " ")))
        axes.set(title=title, xlabel="frames after the start", yscale=scale)
        axes.grid(alpha=0.3)
    figure.axes[0].legend()
    figure.suptitle(f"{measured['windows']['long']:,} windows of {measured['games']} games")
    temporary = path.with_name(f".{path.stem}.tmp{path.suffix}")
    try:
        figure.savefig(temporary, dpi=120)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None
