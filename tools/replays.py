"""`mwm replays`: from .slp files to a dataset, and what is in one."""

from __future__ import annotations

import json as json_
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Replays into datasets, and what is in them.", no_args_is_help=True)


@app.command()
def build(
    sources: Annotated[list[Path], typer.Argument(help="Replay files, or folders that are searched for them.")],
    out: Annotated[Path, typer.Option(help="Dataset folder; new games are added to one that exists.")],
) -> None:
    """Read .slp replays into a dataset."""
    from rich.progress import Progress

    from wm_runtime.replays.build import build as run

    with Progress() as progress:
        task = progress.add_task("replays", total=None)
        report = run(sources, out, lambda path, total: progress.update(task, advance=1, total=total))
    print(f"taken     {len(report.taken):6d} files, {report.frames:,} frames")
    for reason, files, meaning in report.by_reason():
        print(f"left out  {files:6d} {reason}: {meaning}")
    print(f"wrote {out}; what became of each file is in {out}/build_report.json")


@app.command()
def info(
    dataset: Annotated[Path, typer.Argument(help="Dataset folder.")],
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what a dataset holds: games, frames, characters, stages, versions."""
    from wm_runtime.facts import character, stage
    from wm_runtime.replays.dataset import Dataset, data_fingerprint

    data = Dataset(dataset)
    fighters = Counter(character(int(c)).name for pair in data.characters for c in pair)
    stages = Counter(stage(int(s)).name for s in data.stage)
    versions = Counter(".".join(map(str, data.record(i)["version"])) for i in range(len(data)))
    found = {
        "games": len(data),
        "frames": int(data.frames.sum()),
        "fingerprint": data_fingerprint(data.md5),
        "characters": dict(fighters.most_common()),
        "stages": dict(stages.most_common()),
        "versions": dict(sorted(versions.items())),
    }
    if json:
        print(json_.dumps(found, indent=1))
        return
    for name, value in found.items():
        text = ", ".join(f"{k} {n}" for k, n in value.items()) if isinstance(value, dict) else value
        print(f"{name:12s} {text:,}" if isinstance(value, int) else f"{name:12s} {text}")
