"""`mwm runs`: what was trained, how it went, and how runs differ."""

from __future__ import annotations

import json as json_
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from wm_train.training.runs import RunRecord

WIDTH = 240
"""Columns of a table in a pipe."""
app = typer.Typer(help="Training runs: their manifests and metrics.", no_args_is_help=True)
SaveDir = Annotated[Path, typer.Option("--save-dir", help="Folder of the runs.")]
Names = Annotated[list[str], typer.Argument(help="Runs: folders, or names below SAVE_DIR.")]
Wandb = Annotated[str, typer.Option("--wandb", help="Runs at Weights & Biases: PROJECT or ENTITY/PROJECT.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_runs(save_dir: SaveDir = Path("runs"), wandb: Wandb = "", json: Json = False) -> None:
    """All runs, the latest first, with the figures of their best epochs."""
    from wm_train.training.runs import find_runs, wandb_runs

    rows = [run.summary() for run in (wandb_runs(wandb) if wandb else find_runs(save_dir))]
    if json:
        print(json_.dumps(rows, indent=1))
    elif rows:
        _print(list(rows[0]), [list(row.values()) for row in rows])
    else:
        print(f"no runs in {wandb or save_dir}")


@app.command()
def show(
    run: Annotated[str, typer.Argument(help="A run: its folder, or its name below SAVE_DIR.")],
    save_dir: SaveDir = Path("runs"),
    wandb: Wandb = "",
    json: Json = False,
) -> None:
    """Settings, data, machine and every epoch of a run."""
    record = _read([run], save_dir, wandb)[0]
    manifest, epochs = record.manifest, record.epochs
    data = {name: value for name, value in manifest["data"].items() if not name.endswith("md5")}
    told = {**manifest, "data": data, "epochs": epochs}
    if json:
        print(json_.dumps(told, indent=1))
        return
    for name, value in record.summary().items():
        print(f"{name:12s} {_text(value)}")
    for part in ("experiment", "data", "machine", "versions", "memory"):
        print(f"{part:12s} {json_.dumps(told.get(part))}")
    print(f"{'git_commit':12s} {manifest['git_commit']}")
    figures = list(epochs[0].get("figures", {})) if epochs else []
    rows = [
        [row.get("epoch", row.get("step")), row["frames"], row.get("frames_per_second")]
        + [row.get("held_out", {}).get("loss")]
        + [row.get("figures", {}).get(name) for name in figures]
        for row in epochs
    ]
    _print(["epoch", "frames", "frames/s", "held-out loss", *figures], rows)


@app.command()
def compare(runs: Names, save_dir: SaveDir = Path("runs"), wandb: Wandb = "", json: Json = False) -> None:
    """In which settings runs differ, and the figures of their best epochs."""
    from wm_train.training.runs import settings_that_differ

    records = _read(runs, save_dir, wandb)
    settings = settings_that_differ(records)
    names = dict.fromkeys(name for record in records for name in record.best)
    figures = {name: [record.best.get(name) for record in records] for name in names}
    data = [record.manifest["data"]["fingerprint"] for record in records]
    if json:
        names_ = [record.name for record in records]
        print(json_.dumps({"runs": names_, "settings": settings, "data": data, "best": figures}, indent=1))
        return
    rows = [[name, *values] for name, values in {**settings, "data": data, **figures}.items()]
    _print(["", *(record.name for record in records)], rows)


@app.command()
def plot(
    runs: Names,
    out: Annotated[Path, typer.Option(help="Picture to write.")] = Path("curves.png"),
    save_dir: SaveDir = Path("runs"),
    wandb: Wandb = "",
) -> None:
    """The curves of runs in one picture."""
    from wm_train.training.curves import plot as draw

    draw({record.name: record.metrics() for record in _read(runs, save_dir, wandb)}, out)
    print(f"wrote {out}")


def _read(names: list[str], save_dir: Path, wandb: str) -> list[RunRecord]:
    from wm_train.training.runs import read_run, wandb_runs

    if wandb:
        return wandb_runs(wandb, names)
    return [read_run(Path(name) if (Path(name) / "manifest.json").exists() else save_dir / name) for name in names]


def _print(columns: list[str], rows: list[list[Any]]) -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, box=SIMPLE)
    for row in rows:
        table.add_row(*map(_text, row))
    Console(width=None if sys.stdout.isatty() else WIDTH).print(table)


def _text(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
