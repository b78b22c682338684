"""The columnar dataset: Arrow files that are memory-mapped, any window of any game without decoding the rest.

    DIR/dataset.json               format, version, field table
    DIR/index.arrow                one row a game: where its frames are, and what is known of it
    DIR/shards/NNNNNN.arrow        frames of some games, one record batch: a fixed-size binary a frame (layout.py)
    DIR/shards/NNNNNN.items.arrow  their items, one record batch: a row for each item on each frame, by row of the shard

A shard is written and renamed before the index that names it, and the index is replaced in one step: whatever stops a
build, the dataset is what the index lists.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from wm_runtime.errors import UserError
from wm_runtime.replays.game import Game, GameInfo
from wm_runtime.replays.layout import (
    FRAME_BYTES,
    GROUP_DTYPES,
    GROUPS,
    RECORD,
    StoredGame,
    unpack,
    unpack_batch,
)
from wm_runtime.schema import ITEM_FIELDS, PLAYERS, State, field_table_hash

FORMAT, VERSION = "melee-frames", 3
_UNFINISHED = {"shards", "index.arrow", "index.arrow.tmp", "dataset.json.tmp"}
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
        ("random_seed", pa.int64()),
        ("cut", pa.bool_()),
        ("derived", pa.list_(pa.string())),
    ]
)
INDEX_SECONDS = 5.0
"""A writer lists its finished shards no more often than this: the index of a large dataset takes a while to write."""
CONTENT_ROWS = 600
"""First frames of a game that identify it, together with its random seed."""


class Dataset:
    """A dataset opened for reading. Games are numbered 0 … len − 1 in the order in which they were added.

    `frames`, `stage`: (G,) arrays; `characters`: (G, 2). Raises UserError for a folder that is no dataset, or one
    written with another field table.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        _check_format(self.path)
        self._index = _read_batch(self.path / "index.arrow")
        missing = [name for name in _INDEX_SCHEMA.names if name not in self._index.schema.names]
        if missing:
            raise UserError(f"{self.path}/index.arrow: lacks {', '.join(missing)}; build the dataset again")
        self.frames = _numbers(self._index, "frames")
        self.stage = _numbers(self._index, "stage")
        self.characters = _numbers(self._index, "characters").reshape(-1, PLAYERS)
        self._shard = _numbers(self._index, "shard")
        self._row = _numbers(self._index, "row")
        self._first_frame = _numbers(self._index, "first_frame")
        self._shards: dict[int, _Shard] = {}
        self._items: dict[int, dict[str, np.ndarray]] = {}

    def __len__(self) -> int:
        return len(self.frames)

    def __iter__(self) -> Iterator[Game]:
        return (self.game(i) for i in range(len(self)))

    @property
    def shard_numbers(self) -> np.ndarray:
        """(G,) number of the shard that holds each game."""
        return self._shard

    def column(self, name: str) -> list:
        """A column of the index, one value a game."""
        return self._index.column(name).to_pylist()

    @property
    def md5(self) -> list[str]:
        """MD5 of every game's file."""
        return self.column("md5")

    @property
    def content(self) -> list[str]:
        """What identifies every game's content (content_key)."""
        return self.column("content")

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
        return unpack(self.records(game, start, stop))

    def records(self, game: int, start: int = 0, stop: int | None = None) -> np.ndarray:
        """The same rows as they are stored, (T, 2) of layout.RECORD: a view of the mapped file, nothing is read yet."""
        start, stop, _ = slice(start, stop).indices(int(self.frames[game]))
        at = int(self._row[game])
        return self.shard(int(self._shard[game]))[at + start : at + stop]

    def items(self, game: int, start: int = 0, stop: int | None = None) -> dict[str, np.ndarray]:
        """Items (E,) of the frames in rows `start` to `stop` of a game, as in schema.ITEM_FIELDS."""
        start, stop, _ = slice(start, stop).indices(int(self.frames[game]))
        at = int(self._row[game])
        shard = self._shard_items(int(self._shard[game]))
        first, last = np.searchsorted(shard["row"], (at + start, at + stop))
        frame = shard["row"][first:last] - at + int(self._first_frame[game])
        return {"frame": frame.astype(np.int32), **{f.name: shard[f.name][first:last] for f in ITEM_FIELDS[1:]}}

    def game(self, game: int) -> Game:
        return Game(self.info(game), self.columns(game), int(self._first_frame[game]), self.items(game))

    def windows(self, game: np.ndarray, start: np.ndarray, length: int) -> tuple[State, np.ndarray]:
        """Windows of `length` frames: (B,) games and first rows → State of B·length matches and their controllers.

        Floats are (B·length, 2, F); reshape to (B, length, …). Nothing but the asked frames is read.
        """
        flat = self.stored_windows(game, start, length).reshape(-1, PLAYERS)
        frame = ((self._first_frame[game] + start)[:, None] + np.arange(length)).reshape(-1)
        return unpack_batch(flat, frame, np.repeat(self.stage[game], length))

    def stored_windows(self, game: np.ndarray, start: np.ndarray, length: int) -> np.ndarray:
        """The same windows as they are stored, (B, length, 2) of layout.RECORD."""
        parts = self._parts(game, start)
        records = np.empty((len(game), length, PLAYERS), RECORD)
        for shard, _, rows in parts:
            shard.announce(rows, length)
        to = records.reshape(len(game), length * PLAYERS).view(np.uint8)  # a window is one run of bytes
        for shard, chosen, rows in parts:
            stored = shard.records.view(np.uint8).reshape(-1)
            for window, row in zip(chosen.tolist(), rows.tolist(), strict=True):
                to[window] = stored[row * FRAME_BYTES : (row + length) * FRAME_BYTES]
        return records

    def announce(self, game: np.ndarray, start: np.ndarray, length: int) -> None:
        """Tells the system which windows will be read next, so that it fetches them meanwhile."""
        for shard, _, rows in self._parts(game, start):
            shard.announce(rows, length)

    def _parts(self, game: np.ndarray, start: np.ndarray) -> list[tuple[_Shard, np.ndarray, np.ndarray]]:
        """Windows by shard: (shard, which windows, their first rows in it)."""
        rows, shards = self._row[game] + start, self._shard[game]
        chosen = [(int(number), np.flatnonzero(shards == number)) for number in np.unique(shards)]
        return [(self._open_shard(number), which, rows[which]) for number, which in chosen]

    def shard(self, number: int) -> np.ndarray:
        """A shard's frames, (T, 2) of layout.RECORD: a view of the mapped file."""
        return self._open_shard(number).records

    def _open_shard(self, number: int) -> _Shard:
        if number not in self._shards:
            self._shards[number] = _Shard(self.path / "shards" / f"{number:06d}.arrow")
        return self._shards[number]

    def _shard_items(self, number: int) -> dict[str, np.ndarray]:
        if number not in self._items:
            batch = _read_batch(self.path / "shards" / f"{number:06d}.items.arrow")
            self._items[number] = {name: _numbers(batch, name) for name in batch.schema.names}
        return self._items[number]


class _Shard:
    """A shard's file, mapped."""

    def __init__(self, path: Path):
        self._map = _map(path)
        column = _first_batch(path, self._map).column("frame")
        buffer = column.buffers()[1]
        self.records = np.frombuffer(buffer, RECORD, count=len(column) * PLAYERS).reshape(-1, PLAYERS)
        base = np.frombuffer(self._map, np.uint8)
        self._offset = self.records.ctypes.data - base.ctypes.data

    def announce(self, rows: np.ndarray, length: int) -> None:
        """Tells the system that `length` frames from each of `rows` are about to be read, so that it fetches them all
        at once and not one after another."""
        if not hasattr(self._map, "madvise"):
            return
        first = (self._offset + rows * FRAME_BYTES) // mmap.PAGESIZE * mmap.PAGESIZE
        last = self._offset + (rows + length) * FRAME_BYTES
        for start, end in zip(first.tolist(), last.tolist(), strict=True):
            self._map.madvise(mmap.MADV_WILLNEED, start, end - start)


class DatasetWriter:
    """Adds games to a dataset, a shard at a time; nothing is listed before it is whole on disk.

    Use as a context manager; a shard is whole, and may be listed, once it has `shard_frames` frames.
    """

    def __init__(self, path: str | Path, shard_frames: int = 400_000, index_seconds: float = INDEX_SECONDS):
        self.path = Path(path)
        self.shard_frames, self.index_seconds = shard_frames, index_seconds
        self._games: list[tuple[dict, dict[str, np.ndarray]]] = []
        """Index rows and items of the games in the shard that is being filled."""
        self._shard: _GrowingShard | None = None
        self.index: list[dict] = []
        if (self.path / "dataset.json").exists():
            _check_format(self.path)
            self.index = _read_batch(self.path / "index.arrow").to_pylist()
        else:
            _check_place(self.path)
        self._next = 1 + max((row["shard"] for row in self.index), default=-1)
        self._listed_at = 0.0
        self._remove_unlisted()

    def __enter__(self) -> DatasetWriter:
        return self

    def __exit__(self, exc_type, exc, tb) -> None:
        if exc_type is None:
            self.flush()
            self.list_games()
        elif self._shard:
            self._shard.give_up()

    def add(self, game: Game | StoredGame, content: str = "") -> None:
        """Adds a game; `content` is its content_key, if that is known. Raises ValueError for values that cannot be
        stored."""
        stored = game if isinstance(game, StoredGame) else StoredGame.of(game)
        if self._shard is None:
            self._make_folder()
            self._shard = _GrowingShard(self._shard_path())
        listed = _index_row(stored, content or content_key(stored), self._next, self._shard.frames)
        self._shard.add(stored.records)
        self._games.append((listed, stored.items))
        if self._shard.frames >= self.shard_frames:
            self.flush()

    def flush(self) -> None:
        """Finishes the shard that is being filled, and lists its games if the index is old enough."""
        self._make_folder()
        if self._shard:
            self._shard.finish()
            _write_batch(self._shard_path(".items"), self._item_batch())
            self.index += [listed for listed, _ in self._games]
            self._games, self._shard = [], None
            self._next += 1
        if time.monotonic() - self._listed_at > self.index_seconds:
            self.list_games()

    def list_games(self) -> None:
        """Writes the index of all shards on disk: from now on their games are in the dataset."""
        _write_batch(self.path / "index.arrow", pa.RecordBatch.from_pylist(self.index, schema=_INDEX_SCHEMA))
        if not (self.path / "dataset.json").exists():
            meta = {"format": FORMAT, "version": VERSION, "field_table": field_table_hash(), "frame_bytes": FRAME_BYTES}
            write_text(self.path / "dataset.json", json.dumps(meta, indent=1))
        self._listed_at = time.monotonic()

    def _make_folder(self) -> None:
        try:
            (self.path / "shards").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written ({error.strerror}); name another folder") from None

    def _shard_path(self, kind: str = "") -> Path:
        return self.path / "shards" / f"{self._next:06d}{kind}.arrow"

    def _item_batch(self) -> pa.RecordBatch:
        rows = [items["frame"] - listed["first_frame"] + listed["row"] for listed, items in self._games]
        columns = {"row": np.concatenate(rows).astype(np.int32)}
        for f in ITEM_FIELDS[1:]:
            columns[f.name] = np.concatenate([items[f.name] for _, items in self._games]).astype(f.store)
        return pa.record_batch(columns)

    def _remove_unlisted(self) -> None:
        """Shards and unfinished files that an interrupted writer left behind."""
        for path in (*self.path.glob("shards/*"), *self.path.glob("*.tmp")):
            number = path.name.partition(".")[0]
            if path.suffix == ".tmp" or (number.isdigit() and int(number) >= self._next):
                path.unlink()


class _GrowingShard:
    """A shard that is being filled: frames go straight to their place in a file with a temporary name; what Arrow puts
    around them is written last, when their number is known."""

    def __init__(self, path: Path):
        self.path, self.frames = path, 0
        self._temporary = _temporary(path)
        with _writing(path):
            self._file = open(self._temporary, "w+b")  # noqa: SIM115 (open until the shard is full)
            self._file.seek(_before_frames())

    def add(self, records: np.ndarray) -> None:
        with _writing(self.path):
            self._file.write(np.ascontiguousarray(records).view(np.uint8).data)
        self.frames += len(records)

    def finish(self) -> None:
        """Makes it a whole file under its own name."""
        with _writing(self.path):
            self._file.flush()
            self._write_around()
            self._file.close()
            os.replace(self._temporary, self.path)

    def give_up(self) -> None:
        for undo in (self._file.close, self._temporary.unlink):
            with suppress(OSError):
                undo()

    def _write_around(self) -> None:
        mapped = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        frames = np.frombuffer(mapped, RECORD, self.frames * PLAYERS, _before_frames()).reshape(-1, PLAYERS)
        batch = frame_batch(frames)
        self._file.seek(0)
        around = pa.PythonFile(_Around(self._file, frames.ctypes.data), mode="w")
        with pa.ipc.new_file(around, batch.schema) as writer:
            writer.write_batch(batch)


@dataclass
class _Around:
    """A file for Arrow to write to, in which the bytes that lie at `address` have their place already."""

    file: BinaryIO
    address: int
    closed = False

    def write(self, data: bytes | pa.Buffer) -> None:
        if isinstance(data, pa.Buffer) and data.address == self.address:
            self.file.seek(data.size, os.SEEK_CUR)
        else:
            self.file.write(data)


@cache
def _before_frames() -> int:
    """Bytes of a shard's file before its frames, however many there are."""
    batch, sink = frame_batch(np.zeros((1, PLAYERS), RECORD)), pa.BufferOutputStream()
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    file = sink.getvalue()
    return pa.ipc.open_file(file).get_batch(0).column("frame").buffers()[1].address - file.address


def frame_batch(records: np.ndarray) -> pa.RecordBatch:
    """Records (T, 2) of layout.RECORD → the record batch of a shard. The column's metadata say what a record holds."""
    kind = pa.binary(FRAME_BYTES)
    column = pa.Array.from_buffers(kind, len(records), [None, pa.py_buffer(np.ascontiguousarray(records))])
    described = {"player": json.dumps([[g, GROUP_DTYPES[g].str, [row.name for row in GROUPS[g]]] for g in GROUPS])}
    return pa.record_batch([column], schema=pa.schema([pa.field("frame", kind, nullable=False, metadata=described)]))


def content_key(game: StoredGame) -> str:
    """Twenty hex digits that two files of the same match share: a hash of setting, random seed and what happened first.

    Both players of a netplay match save its frames alike, but for the last ones and the metadata.
    """
    digest = hashlib.blake2b(digest_size=10)
    digest.update(repr((game.info.stage, game.info.characters, game.info.random_seed)).encode())
    for column in unpack(game.records[:CONTENT_ROWS], ("x", "y", "main_x", "main_y", "buttons")).values():
        digest.update(np.ascontiguousarray(column).tobytes())
    return digest.hexdigest()


def write_text(path: Path, text: str) -> None:
    """Writes a file under a temporary name, then renames it. Raises UserError where it cannot be written."""
    with _whole(path) as temporary:
        temporary.write_text(text)


def data_fingerprint(md5s: Sequence[str]) -> str:
    """Sixteen hex digits of a set of games, whatever their order."""
    return hashlib.sha256("\n".join(sorted(md5s)).encode()).hexdigest()[:16]


def _index_row(game: StoredGame, content: str, shard: int, row: int) -> dict:
    info = game.info
    return {
        "md5": info.md5, "content": content, "source": info.source, "version": list(info.version),
        "stage": info.stage, "characters": list(info.characters), "ports": list(info.ports),
        "names": list(info.names), "date": info.date, "end_method": info.end_method, "winner": info.winner,
        "first_frame": game.first_frame, "frames": len(game), "shard": shard, "row": row,
        "random_seed": info.random_seed, "cut": info.cut, "derived": list(info.derived),
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


def _map(path: Path) -> mmap.mmap:
    try:
        with open(path, "rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError:
        raise UserError(f"{path}: missing; the dataset is incomplete, build it again") from None
    except (ValueError, OSError) as error:
        raise UserError(f"{path}: damaged ({error}); build the dataset again") from None


def _read_batch(path: Path) -> pa.RecordBatch:
    return _first_batch(path, _map(path))


def _first_batch(path: Path, mapped: mmap.mmap) -> pa.RecordBatch:
    try:
        return pa.ipc.open_file(pa.py_buffer(mapped)).get_batch(0)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path}: damaged ({str(error).splitlines()[0]}); build the dataset again") from None


def _write_batch(path: Path, batch: pa.RecordBatch) -> None:
    with (
        _whole(path) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_file(sink, batch.schema) as writer,
    ):
        writer.write_batch(batch)


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A temporary name to write to, that becomes `path` when all went well and is gone when not."""
    temporary = _temporary(path)
    try:
        with _writing(path):
            yield temporary
            os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Says of what the system refuses that `path` cannot be written."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from None


def _temporary(path: Path) -> Path:
    return path.with_name(path.name + ".tmp")


def _numbers(batch: pa.RecordBatch, name: str) -> np.ndarray:
    column = batch.column(name)
    if pa.types.is_fixed_size_list(column.type):
        column = column.flatten()
    return column.to_numpy(zero_copy_only=True)
