"""`mwm replays fetch`: public dumps of tournament replays."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wm_tools.progress import progress_bar, resumable


def fetch(
    name: Annotated[str, typer.Argument(help="Name of the dump; --list shows them.")] = "",
    out: Annotated[Path, typer.Option(help="Folder for the archive.")] = Path("data/dumps"),
    server: Annotated[str | None, typer.Option(help="Address of another server that has them, a mirror.")] = None,
    list_: Annotated[bool, typer.Option("--list", help="List the dumps that can be fetched.")] = False,
) -> None:
    """Download a public dump of tournament replays, or go on with a download that broke off."""
    from rich.progress import BarColumn, DownloadColumn, TimeRemainingColumn, TransferSpeedColumn

    from wm_runtime.errors import UserError
    from wm_runtime.replays.fetch import BASE_URL, DUMPS
    from wm_runtime.replays.fetch import fetch as run

    if list_:
        for key, dump in DUMPS.items():
            print(f"{key:13s} {dump.replays:6,d} replays  {dump.event:26s} {BASE_URL}/{dump.path}")
        return
    if not name:
        raise UserError(f"no dump named; there are {', '.join(DUMPS)}")
    columns = ("{task.description}", BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with resumable(), progress_bar(*columns) as progress:
        task = progress.add_task(name, total=None)
        path = run(
            name, out, (server or BASE_URL).rstrip("/"),
            on_progress=lambda done, total: progress.update(task, completed=done, total=total),
        )  # fmt: skip
    print(f"{path} is whole; make a dataset of it with: mwm replays build {path} --out data/train")
