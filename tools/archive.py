"""`mwm replays archive` and `restore`: a whole dataset as one small file, and back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wm_tools.progress import counted

if TYPE_CHECKING:
    from wm_runtime.replays.archive import Summary


def archive(
    dataset: Annotated[Path, typer.Argument(help="Dataset folder.")],
    out: Annotated[Path, typer.Option(help="Archive to write, NAME.mwa.")],
) -> None:
    """Compress a dataset into one file, losing nothing."""
    from wm_runtime.replays.archive import archive as run

    with counted("archive") as on_part:
        summary = run(dataset, out, on_part)
    _say(out, summary)


def restore(
    file: Annotated[Path, typer.Argument(help="Archive, made by `mwm replays archive`.")],
    out: Annotated[Path, typer.Option(help="Dataset folder to make.")],
) -> None:
    """Make the dataset again that an archive holds."""
    from wm_runtime.replays.archive import restore as run

    with counted("restore") as on_part:
        summary = run(file, out, on_part)
    _say(out, summary)


def _say(written: Path, summary: Summary) -> None:
    print(f"games     {summary.games:14,}")
    print(f"frames    {summary.frames:14,}")
    print(f"dataset   {summary.dataset_bytes:14,} bytes, {summary.dataset_bytes / max(summary.frames, 1):.2f} a frame")
    print(f"archive   {summary.archive_bytes:14,} bytes, {summary.bytes_a_frame:.2f} a frame, {summary.ratio:.1f} : 1")
    print(f"wrote {written}")
