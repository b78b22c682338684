"""Replays → dataset: every input file is either taken or left out for a named reason."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from wm_runtime.errors import UserError
from wm_runtime.replays.dataset import DatasetWriter, write_text
from wm_runtime.replays.layout import pack
from wm_runtime.replays.slp import REASONS, LeftOut, read_slp


@dataclass
class BuildReport:
    """What became of every input file."""

    taken: list[str] = field(default_factory=list)
    left_out: dict[str, tuple[str, str]] = field(default_factory=dict)
    """File → (reason, detail)."""
    frames: int = 0

    def by_reason(self) -> list[tuple[str, int, str]]:
        """(reason, files, what it means), most frequent first."""
        counts = Counter(reason for reason, _ in self.left_out.values())
        return [(reason, n, REASONS[reason]) for reason, n in counts.most_common()]


def build(
    sources: Iterable[str | Path], out: str | Path, on_file: Callable[[str, int], None] | None = None
) -> BuildReport:
    """Reads every .slp under `sources` (files or folders) into the dataset `out`, which may exist already.

    `on_file(path, total)` is called before each file. Raises UserError for a source without replays, and for files of
    which none is or was taken: nothing is written then.
    """
    files = find_replays(sources)
    report = BuildReport()
    with DatasetWriter(out) as writer, _silent_panics():
        known = {row["md5"] for row in writer.index}
        for path in files:
            if on_file:
                on_file(str(path), len(files))
            try:
                game = read_slp(path)
                if game.info.md5 in known:
                    raise LeftOut("duplicate", game.info.md5)
                try:
                    packed = pack(game.columns)
                except ValueError as error:
                    raise LeftOut("values", str(error)) from None
            except LeftOut as out_:
                report.left_out[str(path)] = (out_.reason, out_.detail)
                continue
            known.add(game.info.md5)
            writer.add(game, packed)
            report.taken.append(str(path))
            report.frames += len(game)
        if not report.taken and not any(reason == "duplicate" for reason, _ in report.left_out.values()):
            raise UserError(_nothing_taken(report))
    rows = {"taken": report.taken, "left_out": report.left_out, "frames": report.frames}
    write_text(Path(out) / "build_report.json", json.dumps(rows, indent=1))
    return report


def _nothing_taken(report: BuildReport) -> str:
    path, (reason, detail) = next(iter(report.left_out.items()))
    text = f"{path}: {REASONS[reason]}" + (f" ({detail})" if detail else "")
    if len(report.left_out) > 1:
        counts = ", ".join(f"{files} {reason}" for reason, files, _ in report.by_reason())
        text += f"; none of the {len(report.left_out)} files can be taken: {counts}"
    return f"{text}; nothing was written, name other replays"


def find_replays(sources: Iterable[str | Path]) -> list[Path]:
    """The .slp files among `sources`, folders searched recursively, sorted. Raises UserError naming an empty source."""
    files: dict[Path, None] = {}
    for source in map(Path, sources):
        if source.is_dir():
            found = sorted(source.rglob("*.slp"))
            if not found:
                raise UserError(f"{source}: no .slp files in this folder; name a folder that holds replays")
        elif source.exists():
            found = [source]
        else:
            raise UserError(f"{source}: no such file or folder")
        files.update(dict.fromkeys(found))
    return list(files)


@contextmanager
def _silent_panics() -> Iterator[None]:
    """A panic in the parser prints a backtrace to file descriptor 2 before it is raised: keep that off the terminal."""
    saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)
