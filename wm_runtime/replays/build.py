"""Replays → dataset: every input file is taken, in the dataset already, or left out for a named reason."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from wm_runtime.errors import UserError
from wm_runtime.replays.dataset import DatasetWriter, content_key, write_text
from wm_runtime.replays.game import GameInfo
from wm_runtime.replays.layout import StoredGame
from wm_runtime.replays.pool import Crash, OrderedPool
from wm_runtime.replays.reasons import REASONS, LeftOut
from wm_runtime.replays.slp import MIN_VERSION, ReadOptions, read_bytes, read_stored
from wm_runtime.replays.sources import Input, open_inputs

TIME_LIMIT = 60.0
"""Seconds after which a file that is still being read is given up."""


@dataclass(frozen=True)
class BuildOptions:
    """stages: ids, characters: internal ids to take, None for all; both fighters of a game must be asked for."""

    stages: frozenset[int] | None = None
    characters: frozenset[int] | None = None
    min_version: tuple[int, ...] = MIN_VERSION
    read: ReadOptions = field(default_factory=ReadOptions)


@dataclass
class FileRow:
    """What became of an input file. `outcome`: taken, present (in the dataset already) or left_out."""

    file: str
    source: str
    outcome: str
    reason: str = ""
    detail: str = ""
    md5: str = ""
    frames: int = 0


@dataclass
class BuildReport:
    """One row for every input file, in the order of the inputs."""

    rows: list[FileRow] = field(default_factory=list)

    @property
    def frames(self) -> int:
        return sum(row.frames for row in self.rows)

    def count(self, outcome: str) -> int:
        return sum(row.outcome == outcome for row in self.rows)

    def by_reason(self) -> list[tuple[str, int, str]]:
        """(reason, files left out for it, what it means), most frequent first."""
        counts = Counter(row.reason for row in self.rows if row.outcome == "left_out")
        return [(reason, n, REASONS[reason]) for reason, n in counts.most_common()]

    def by_source(self) -> dict[str, dict[str, int]]:
        """Source → {"taken", "present" or a reason: files}."""
        table: dict[str, Counter[str]] = {}
        for row in self.rows:
            table.setdefault(row.source, Counter())[row.reason or row.outcome] += 1
        return {source: dict(counts) for source, counts in table.items()}

    def to_json(self) -> dict[str, Any]:
        return {
            "taken": self.count("taken"),
            "present": self.count("present"),
            "left_out": {reason: n for reason, n, _ in self.by_reason()},
            "frames": self.frames,
            "sources": self.by_source(),
            "files": [asdict(row) for row in self.rows],
        }


def build(
    sources: Iterable[str | Path],
    out: str | Path,
    options: BuildOptions | None = None,
    workers: int = 1,
    on_file: Callable[[BuildReport], None] | None = None,
    time_limit: float = TIME_LIMIT,
    open_writer: Callable[[Path], DatasetWriter] = DatasetWriter,
) -> BuildReport:
    """Reads every replay among `sources` (sources.py) into the dataset `out`, adding to it if it exists.

    Games are added in the order of the inputs, whatever the number of workers; `on_file(report)` is called after each.
    An interruption loses nothing that is listed: run it again to go on. `build_report.json` says what became of every
    file. Raises UserError for a source without replays, for a dataset that another build is writing to, and for files
    of which none is or was taken: nothing is written then.
    """
    inputs = open_inputs(sources)
    report = BuildReport()
    out = Path(out)
    with _only_one(out), open_writer(out) as writer:
        known = _Known(writer)
        work = partial(read_input, options or BuildOptions())
        pool: OrderedPool[Input, Read] = OrderedPool(work, workers, time_limit)
        for item, result in pool.run(inputs):
            row = FileRow(item.name, item.source, "left_out")
            report.rows.append(row)
            if isinstance(result, Crash):
                row.reason, row.detail = "unreadable", result.reason
            elif isinstance(result, LeftOut):
                row.reason, row.detail = result.reason, result.detail
            else:
                known.place(*result, row)
            if on_file:
                on_file(report)
        if not (report.count("taken") or report.count("present") or writer.index):
            raise UserError(_nothing_taken(report))
    write_text(out / "build_report.json", json.dumps(report.to_json(), indent=1))
    return report


Read = tuple[StoredGame, str] | LeftOut
"""What a worker answers: a game and its content key, or why there is none."""


def read_input(options: BuildOptions, item: Input) -> Read:
    """What a worker does with an input: read, check, pack. Never raises but for what the system runs out of."""
    try:
        if item.path is not None and item.codec is None and not item.error:
            game = read_stored(Path(item.path), item.name, options.read)
        else:
            game = read_bytes(item.read(), item.name, options.read)
        _check_asked_for(game.info, options)
        return game, content_key(game)
    except LeftOut as reason:
        return reason
    except MemoryError:
        return LeftOut("unreadable", "takes more memory than a replay can need")
    except Exception as error:  # whatever a malformed file brings about costs that file only
        return LeftOut("unreadable", f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")


def _check_asked_for(info: GameInfo, options: BuildOptions) -> None:
    if info.version < options.min_version and not info.derived:
        raise LeftOut("filtered", "version " + ".".join(map(str, info.version)))
    if options.stages is not None and info.stage not in options.stages:
        raise LeftOut("filtered", f"stage {info.stage}")
    if options.characters is not None and not set(info.characters) <= options.characters:
        raise LeftOut("filtered", f"characters {info.characters[0]} and {info.characters[1]}")


class _Known:
    """What is in the dataset, and what this build has met."""

    def __init__(self, writer: DatasetWriter):
        self._writer = writer
        self._listed = {row["md5"] for row in writer.index}
        self._content = {row["content"]: row["md5"] for row in writer.index}
        self._met: set[str] = set()

    def place(self, game: StoredGame, content: str, row: FileRow) -> None:
        """Adds a game that is new, and says in `row` what became of it."""
        row.md5 = md5 = game.info.md5
        if md5 in self._met:
            row.reason = "duplicate"
        elif md5 in self._listed:
            row.outcome = "present"
        elif content in self._content:
            row.reason, row.detail = "same_game", f"as in the file with MD5 {self._content[content]}"
        else:
            self._writer.add(game, content)
            self._content[content] = md5
            row.outcome, row.frames = "taken", len(game)
        self._met.add(md5)


@contextmanager
def _only_one(out: Path) -> Iterator[None]:
    """Holds a lock beside the dataset; a second build is refused. The system releases it if the process dies."""
    file = out.parent / f".{out.name}.lock"
    lock = FileLock(file)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        file.touch()  # where no file can be made, FileLock would take it to be held
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(f"{out}: another build is writing to this dataset; wait until it is done") from None
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror}); name another folder") from None
    try:
        yield
    finally:
        lock.release()


def _nothing_taken(report: BuildReport) -> str:
    if not report.rows:
        return "no replays among the sources; name files or folders that hold some"
    first = report.rows[0]
    text = f"{first.file}: {REASONS[first.reason]}" + (f" ({first.detail})" if first.detail else "")
    if len(report.rows) > 1:
        counts = ", ".join(f"{files} {reason}" for reason, files, _ in report.by_reason())
        text += f"; none of the {len(report.rows)} files can be taken: {counts}"
    return f"{text}; nothing was written, name other replays"
