"""Progress bars on stderr, where a person can see them; nothing in pipes and logs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn


def progress_bar(*columns: str | ProgressColumn, usual: bool = False) -> Progress:
    """A rich Progress (a context manager): what, how far, time spent and left; or `columns`, or (`usual`) both."""
    from rich import progress as bars
    from rich.console import Console

    common = ("{task.description}", bars.BarColumn(), bars.MofNCompleteColumn(), bars.TimeElapsedColumn(),
              bars.TimeRemainingColumn())  # fmt: skip
    shown = (*common, *columns) if usual or not columns else columns
    return bars.Progress(*shown, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())


@contextmanager
def counted(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar for one task; yields what to call with (done, total)."""
    with progress_bar() as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


@contextmanager
def resumable() -> Iterator[None]:
    """Ctrl-C ends the command with one line: what is done so far is kept."""
    try:
        yield
    except KeyboardInterrupt:
        print("mwm: interrupted; the same command goes on from here", file=sys.stderr)
        raise typer.Exit(130) from None
