"""The columnar dataset: Arrow files that are memory-mapped, any window of any game without decoding the rest.

    DIR/dataset.json            format, version, field table
    DIR/index.arrow             one row a game: where its frames are, and what is known of it
    DIR/shards/NNNNNN.arrow     frames of some games, one record batch: a fixed-size list a storage group (layout.py)

A shard is written and renamed before the index that names it, and the index is replaced in one step: whatever stops a
build, the dataset is what the index lists.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from wm_runtime.errors import UserError
from wm_runtime.replays.game import Game, GameInfo, controllers_of, state_of
from wm_runtime.replays.layout import FRAME_BYTES, GROUP_DTYPES, GROUP_WIDTHS, GROUPS, pack, unpack
from wm_runtime.schema import PLAYERS, State, field_table_hash

FORMAT, VERSION = "melee-frames", 1
_UNFINISHED = {"shards", "index.arrow"}
"""What a build that was stopped before its first shard was listed may leave; the next one starts there."""

_INDEX_SCHEMA = pa.schema(
    [
        ("md5", pa.string()),
        ("content", pa.string()),
        ("source", pa.string()),
        ("version", pa.list_(pa.uint8(), 3)),
        ("stage", pa.int32()),
        ("characters", pa.list_(pa.int32(), 2)),
        ("ports", pa.list_(pa.int32(), 2)),
        ("names", pa.list_(pa.string(), 2)),
        ("date", pa.string()),
        ("end_method", pa.int32()),
        ("winner", pa.int32()),
        ("first_frame", pa.int32()),
        ("frames", pa.int64()),
        ("shard", pa.int32()),
        ("row", pa.int64()),
    ]
)


class Dataset:
    """A dataset opened for reading. Games are numbered 0 … len − 1 in the order in which they were added.

    `frames`, `stage`: (G,) arrays; `characters`: (G, 2). Raises UserError for a folder that is no dataset, or one
    written with another field table.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        _check_format(self.path)
        self._index = _read_batch(self.path / "index.arrow")
        self.frames = _numbers(self._index, "frames")
        self.stage = _numbers(self._index, "stage")
        self.characters = _numbers(self._index, "characters").reshape(-1, PLAYERS)
        self._shard = _numbers(self._index, "shard")
        self._row = _numbers(self._index, "row")
        self._first_frame = _numbers(self._index, "first_frame")
        self._shards: dict[int, dict[str, np.ndarray]] = {}

    def __len__(self) -> int:
        return len(self.frames)

    def __iter__(self) -> Iterator[Game]:
        return (self.game(i) for i in range(len(self)))

    @property
    def md5(self) -> list[str]:
        """MD5 of every game's file."""
        return self._index.column("md5").to_pylist()

    def record(self, game: int) -> dict:
        """Everything the index says of a game."""
        return self._index.slice(game, 1).to_pylist()[0]

    def info(self, game: int) -> GameInfo:
        row = self.record(game)
        known: dict[str, Any] = {}
        for name in (f.name for f in fields(GameInfo)):
            known[name] = tuple(row[name]) if isinstance(row[name], list) else row[name]
        return GameInfo(**known)

    def find(self, md5: str) -> int:
        """Number of the game whose MD5 starts so. Raises UserError if none or several do."""
        hits = [i for i, m in enumerate(self.md5) if m.startswith(md5)]
        if len(hits) != 1:
            raise UserError(f"{self.path}: {len(hits)} games have an MD5 that starts with {md5!r}; give one game")
        return hits[0]

    def columns(self, game: int, start: int = 0, stop: int | None = None) -> dict[str, np.ndarray]:
        """Columns (T, 2) of rows `start` to `stop` of a game, row 0 being its first frame."""
        length = int(self.frames[game])
        start, stop, _ = slice(start, stop).indices(length)
        at = int(self._row[game])
        shard = self.shard(int(self._shard[game]))
        return unpack({g: a[at + start : at + stop] for g, a in shard.items()})

    def game(self, game: int) -> Game:
        return Game(self.info(game), self.columns(game), int(self._first_frame[game]))

    def windows(self, game: np.ndarray, start: np.ndarray, length: int) -> tuple[State, np.ndarray]:
        """Windows of `length` frames: (B,) games and first rows → State of B·length matches and their controllers.

        Floats are (B·length, 2, F); reshape to (B, length, …). Nothing but the asked frames is read.
        """
        rows = self._row[game] + start
        shards = self._shard[game]
        steps = np.arange(length)
        groups = {g: np.empty((len(game), length, PLAYERS, GROUP_WIDTHS[g]), GROUP_DTYPES[g]) for g in GROUPS}
        for number in np.unique(shards):
            chosen = np.flatnonzero(shards == number)
            at = rows[chosen, None] + steps
            for g, array in self.shard(int(number)).items():
                groups[g][chosen] = array[at]
        flat = {g: a.reshape(-1, *a.shape[2:]) for g, a in groups.items()}
        columns = unpack(flat)
        frame = (self._first_frame[game] + start)[:, None] + steps
        state = state_of(columns, frame.reshape(-1), np.repeat(self.stage[game], length))
        return state, controllers_of(columns)

    def shard(self, number: int) -> dict[str, np.ndarray]:
        """Groups (T, 2, width) of a shard's frames, views of the mapped file."""
        if number not in self._shards:
            batch = _read_batch(self.path / "shards" / f"{number:06d}.arrow")
            self._shards[number] = {g: _numbers(batch, g).reshape(-1, PLAYERS, GROUP_WIDTHS[g]) for g in GROUPS}
        return self._shards[number]


class DatasetWriter:
    """Adds games to a dataset, a shard at a time; nothing is listed before it is whole on disk.

    Use as a context manager; `add` keeps games in memory until a shard of `shard_frames` frames is full.
    """

    def __init__(self, path: str | Path, shard_frames: int = 200_000):
        self.path = Path(path)
        self.shard_frames = shard_frames
        self._games: list[tuple[Game, dict[str, np.ndarray], str]] = []
        self._pending = 0
        self.index: list[dict] = []
        if (self.path / "dataset.json").exists():
            _check_format(self.path)
            self.index = _read_batch(self.path / "index.arrow").to_pylist()
        else:
            _check_place(self.path)
        self._next = 1 + max((row["shard"] for row in self.index), default=-1)

    def __enter__(self) -> DatasetWriter:
        return self

    def __exit__(self, exc_type, exc, tb) -> None:
        if exc_type is None:
            self.flush()

    def add(self, game: Game, packed: dict[str, np.ndarray] | None = None, content: str = "") -> None:
        """`packed`, if given, is pack(game.columns). Raises ValueError for values that the layout cannot hold."""
        self._games.append((game, packed if packed is not None else pack(game.columns), content))
        self._pending += len(game)
        if self._pending >= self.shard_frames:
            self.flush()

    def flush(self) -> None:
        """Writes the games held back and lists them."""
        try:
            (self.path / "shards").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written ({error.strerror}); name another folder") from None
        if self._games:
            arrays, groups = [], []
            for g in GROUPS:
                flat = np.concatenate([packed[g].reshape(-1) for _, packed, _ in self._games])
                size = PLAYERS * GROUP_WIDTHS[g]
                arrays.append(pa.FixedSizeListArray.from_arrays(pa.array(flat), size))
                names = ",".join(row.name for row in GROUPS[g])
                groups.append(pa.field(g, arrays[-1].type, nullable=False, metadata={"fields": names}))
            batch = pa.record_batch(arrays, schema=pa.schema(groups))
            _write_batch(self.path / "shards" / f"{self._next:06d}.arrow", batch)
            row = 0
            for game, _, content in self._games:
                self.index.append(_index_row(game, content, self._next, row))
                row += len(game)
            self._games, self._pending = [], 0
            self._next += 1
        _write_batch(self.path / "index.arrow", pa.RecordBatch.from_pylist(self.index, schema=_INDEX_SCHEMA))
        if not (self.path / "dataset.json").exists():
            meta = {"format": FORMAT, "version": VERSION, "field_table": field_table_hash(), "frame_bytes": FRAME_BYTES}
            write_text(self.path / "dataset.json", json.dumps(meta, indent=1))


def write_text(path: Path, text: str) -> None:
    """Writes a file under a temporary name, then renames it. Raises UserError where it cannot be written."""
    with _whole(path) as temporary:
        temporary.write_text(text)


def data_fingerprint(md5s: Sequence[str]) -> str:
    """Sixteen hex digits of a set of games, whatever their order."""
    return hashlib.sha256("\n".join(sorted(md5s)).encode()).hexdigest()[:16]


def _index_row(game: Game, content: str, shard: int, row: int) -> dict:
    info = game.info
    return {
        "md5": info.md5, "content": content, "source": info.source, "version": list(info.version),
        "stage": info.stage, "characters": list(info.characters), "ports": list(info.ports),
        "names": list(info.names), "date": info.date, "end_method": info.end_method, "winner": info.winner,
        "first_frame": game.first_frame, "frames": len(game), "shard": shard, "row": row,
    }  # fmt: skip


def _check_format(path: Path) -> None:
    try:
        meta = json.loads((path / "dataset.json").read_text())
        fmt, version, table = meta["format"], meta["version"], meta["field_table"]
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path}: no dataset here; make one with `mwm replays build`") from None
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{path}/dataset.json: damaged; build the dataset again") from None
    if (fmt, version) != (FORMAT, VERSION):
        raise UserError(f"{path}: format {fmt} {version}, this version reads {FORMAT} {VERSION}; build it again")
    if table != field_table_hash():
        raise UserError(f"{path}: field table {table}, this version has {field_table_hash()}; build it again")


def _check_place(path: Path) -> None:
    """Raises UserError for a place where no new dataset can be made: not to be written, or full of something else."""
    found = next(p for p in (path, *path.parents) if p.exists())
    if not found.is_dir() or not os.access(found, os.W_OK):
        raise UserError(f"{path}: cannot be written; name another folder")
    if found == path and any(p.name not in _UNFINISHED for p in path.iterdir()):
        raise UserError(f"{path}: not empty and no dataset; name a new folder or an existing dataset")


def _read_batch(path: Path) -> pa.RecordBatch:
    try:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        return reader.get_batch(0)
    except FileNotFoundError:
        raise UserError(f"{path}: missing; the dataset is incomplete, build it again") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path}: damaged ({str(error).splitlines()[0]}); build the dataset again") from None


def _write_batch(path: Path, batch: pa.RecordBatch) -> None:
    with _whole(path) as temporary, pa.OSFile(str(temporary), "wb") as sink:
        with pa.ipc.new_file(sink, batch.schema) as writer:
            writer.write_batch(batch)


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A temporary name to write to, that becomes `path` when all went well and is gone when not."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            raise UserError(f"{path}: cannot be written ({error.strerror or error})") from None
        raise


def _numbers(batch: pa.RecordBatch, name: str) -> np.ndarray:
    column = batch.column(name)
    if pa.types.is_fixed_size_list(column.type):
        column = column.flatten()
    return column.to_numpy(zero_copy_only=True)

