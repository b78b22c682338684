"""`mwm replays`: from .slp files to a dataset, and what is in one."""

from __future__ import annotations

import os
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wm_runtime.errors import UserError
from wm_tools.archive import archive, restore
from wm_tools.fetch import fetch
from wm_tools.progress import progress_bar, resumable
from wm_tools.replays_look import audit, import_legacy, info, show
from wm_tools.replays_split import split

if TYPE_CHECKING:
    from wm_runtime.replays.build import BuildReport

SOURCES = 20
"""Sources that are listed one by one; build_report.json has them all."""

app = typer.Typer(help="Replays into datasets, and what is in them.", no_args_is_help=True)


@app.command()
def build(
    sources: Annotated[list[Path], typer.Argument(help="Replay files, folders and archives that hold them.")],
    out: Annotated[Path, typer.Option(help="Dataset folder; new games are added to one that exists.")],
    workers: Annotated[int | None, typer.Option(min=1, help="Processes that read. Default: one a core.")] = None,
    stages: Annotated[str | None, typer.Option(help="Take only these, separated by commas.")] = None,
    characters: Annotated[str | None, typer.Option(help="Take only games between these, separated by commas.")] = None,
    min_version: Annotated[str | None, typer.Option(help="Take only replays of this format version or later.")] = None,
    salvage: Annotated[bool, typer.Option("--salvage", help="Take the whole frames of cut recordings.")] = False,
    derive: Annotated[bool, typer.Option("--derive", help="Take versions 3.5 to 3.7, hitlag worked out.")] = False,
    time_limit: Annotated[float, typer.Option(min=0.1, help="Seconds after which a file is given up.")] = 60.0,
) -> None:
    """Read .slp replays into a dataset. Safe to interrupt: run it again to go on."""
    from wm_runtime.facts import character, stage
    from wm_runtime.replays.build import BuildOptions
    from wm_runtime.replays.build import build as run
    from wm_runtime.replays.slp import MIN_VERSION, ReadOptions
    from wm_runtime.replays.sources import count_inputs

    options = BuildOptions(
        stages=frozenset(stage(name).id for name in stages.split(",")) if stages else None,
        characters=frozenset(character(n).internal_id for n in characters.split(",")) if characters else None,
        min_version=_version(min_version) if min_version else MIN_VERSION,
        read=ReadOptions(salvage, derive),
    )
    with resumable(), progress_bar() as progress:
        task = progress.add_task("replays", total=count_inputs(sources))
        counts: Counter[str] = Counter()

        def on_file(report: BuildReport) -> None:
            row = report.rows[-1]
            counts[row.reason or row.outcome] += 1
            speed = progress.tasks[0].finished_speed or progress.tasks[0].speed or 0.0
            text = ", ".join(f"{n} {reason}" for reason, n in counts.most_common(4))
            progress.update(task, advance=1, description=f"{speed:.0f} games/s, {text}")

        report = run(sources, out, options, workers or os.cpu_count() or 1, on_file, time_limit)
    print(f"taken     {report.count('taken'):6d} files, {report.frames:,} frames")
    if report.count("present"):
        print(f"present   {report.count('present'):6d} files were in the dataset already")
    for reason, files, meaning in report.by_reason():
        print(f"left out  {files:6d} {reason}: {meaning}")
    by_source = report.by_source()
    if len(by_source) > 1:
        for source, found in islice(by_source.items(), SOURCES):
            print(f"{source}: " + ", ".join(f"{n} {what}" for what, n in found.items()))
        if len(by_source) > SOURCES:
            print(f"and {len(by_source) - SOURCES} sources more")
    print(f"wrote {out}; what became of each file is in {out}/build_report.json")


def _version(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split("."))
    except ValueError:
        raise UserError(f"--min-version {text}: give a version such as 3.12.0") from None


for command in (info, show, audit, split, fetch, archive, restore, import_legacy):
    app.command()(command)
