"""A dataset as one small file: every file of its folder compressed apart, so that damage is found and named.

    MAGIC, header, then each part: its head, its payload

A head is JSON behind its length and CRC-32. The header names format, field table and parts; the head of a part its
codec, the payload's size and SHA-256, and the CRC-32 of what must come out of it. Shards and their items are coded by
codec.py one at a time, which bounds the memory; other files (index, JSON) are packed by xz as they are.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import os
import re
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import pyarrow as pa

from wm_runtime.errors import UserError
from wm_runtime.replays.codec import decode_frames, decode_items, encode_frames, encode_items
from wm_runtime.replays.dataset import FORMAT, VERSION, Dataset, frame_batch
from wm_runtime.schema import field_table_hash

MAGIC = b"\x89MWA\r\n\x1a\n"
ARCHIVE_VERSION = 1
_HEAD = struct.Struct("<II")
_MAX_HEAD = 1 << 26
_NAME = re.compile(r"(shards/)?[^/\\:.][^/\\:]*\.(json|arrow)")
"""Files of a dataset, by path from its folder. No other is written, whatever an archive says."""
_SHARD = re.compile(r"shards/(\d+)\.arrow")
_ITEM_KEYS = {"row", "spawn_id"}

Content: TypeAlias = "bytes | pa.RecordBatch"
"""What a part stands for: the bytes of a file, or the one batch of an Arrow file."""
OnPart = Callable[[int, int], None]
"""(frames done, all frames), called after each part."""


@dataclass(frozen=True)
class Summary:
    """What went into an archive, or came out of it."""

    games: int
    frames: int
    dataset_bytes: int
    archive_bytes: int

    @property
    def bytes_a_frame(self) -> float:
        return self.archive_bytes / max(self.frames, 1)

    @property
    def ratio(self) -> float:
        return self.dataset_bytes / self.archive_bytes


def archive(dataset: str | Path, out: str | Path, on_part: OnPart | None = None) -> Summary:
    """Compresses the dataset folder `dataset` into the file `out`, which is replaced when the new one is whole.

    Every part is decoded again before it counts as done. Raises UserError for a folder that is no dataset, and if `out`
    cannot be written.
    """
    dataset, out = Path(dataset), Path(out)
    data = Dataset(dataset)
    index = _batch(dataset / "index.arrow")
    shard, row, frames = (index.column(name).to_numpy() for name in ("shard", "row", "frames"))
    parts = _files(dataset, np.unique(shard).tolist())
    header = {"archive": ARCHIVE_VERSION, "format": FORMAT, "version": VERSION, "field_table": field_table_hash()}
    games, total, done = len(index), int(frames.sum()), 0
    with _written(out) as file:
        file.write(MAGIC)
        _write_head(file, {**header, "games": games, "frames": total, "parts": parts})
        for name in parts:
            if number := _SHARD.fullmatch(name):
                of_shard = shard == int(number[1])
                records = data.shard(int(number[1]))
                codec, content, payload = "frames", frame_batch(records), encode_frames(records, row[of_shard])
                done += int(frames[of_shard].sum())
            else:
                codec, content, payload = _pack_file(dataset / name)
            check = _checksum(content)
            if _checksum(_DECODERS[codec](payload)) != check:
                raise UserError(f"{dataset / name}: an archive would not give it back; keep it, and report this")
            digest = hashlib.sha256(payload).hexdigest()
            _write_head(file, {"codec": codec, "size": len(payload), "sha256": digest, "content": check})
            file.write(payload)
            if on_part:
                on_part(done, total)
    size = sum((dataset / name).stat().st_size for name in parts)
    return Summary(games, total, size, out.stat().st_size)


def restore(file: str | Path, out: str | Path, on_part: OnPart | None = None) -> Summary:
    """Makes the dataset folder `out` from the archive `file`; it appears when it is whole.

    Raises UserError for a file that is no archive, of another format or field table, incomplete or damaged (naming the
    part), and for an `out` that holds something.
    """
    file, out = Path(file), Path(out)
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"{out}: exists already; name a new folder")
    with _opened(file) as source, _new_folder(out) as folder:
        header = _read_header(file, source)
        done = 0
        for name in header["parts"]:
            content = _read_part(file, source, name)
            _write_file(folder / name, content)
            done += len(content) if _SHARD.fullmatch(name) else 0
            if on_part:
                on_part(done, header["frames"])
        if source.read(1):
            raise _damaged(file, "something follows the last part")
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return Summary(header["games"], header["frames"], size, file.stat().st_size)


# --- the files of a dataset ------------------------------------------------------------------------------------------


def _files(dataset: Path, shards: list[int]) -> list[str]:
    """What belongs to a dataset, by path from its folder: shards that the index does not list are left out."""
    names = sorted(path.name for path in dataset.glob("*.json") if _NAME.fullmatch(path.name))
    frames = [f"shards/{number:06d}.arrow" for number in shards]
    items = [name for name in (f"shards/{number:06d}.items.arrow" for number in shards) if (dataset / name).exists()]
    return [*names, "index.arrow", *sorted(frames + items)]


def _batch(path: Path) -> pa.RecordBatch:
    try:
        return pa.ipc.open_file(str(path)).get_batch(0)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path}: damaged ({str(error).splitlines()[0]}); build the dataset again") from None


def _pack_file(path: Path) -> tuple[str, Content, bytes]:
    """A file that holds no frames → its codec, content and payload."""
    if path.name.endswith(".items.arrow"):
        batch = _batch(path)
        if set(batch.schema.names) >= _ITEM_KEYS and all(map(_is_numbers, batch.columns)):
            schema = batch.schema.serialize().to_pybytes()
            columns = {name: batch.column(name).to_numpy() for name in batch.schema.names}
            return "items", batch, struct.pack("<I", len(schema)) + schema + encode_items(columns)
    content = path.read_bytes()
    return "xz", content, lzma.compress(content)


def _is_numbers(column: pa.Array) -> bool:
    return (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)) and not column.null_count


def _unpack_items(payload: bytes) -> pa.RecordBatch:
    end = 4 + struct.unpack_from("<I", payload)[0]
    schema = pa.ipc.read_schema(pa.py_buffer(payload[4:end]))
    columns = decode_items(payload[end:], {f.name: pa.array([], f.type).to_numpy().dtype for f in schema})
    return pa.record_batch([pa.array(columns[f.name], f.type) for f in schema], schema=schema)


_DECODERS: Mapping[str, Callable[[bytes], Content]] = {
    "xz": lzma.decompress,
    "frames": lambda payload: frame_batch(decode_frames(payload)),
    "items": _unpack_items,
}


def _write_file(path: Path, content: Content) -> None:
    if isinstance(content, bytes):
        path.write_bytes(content)
        return
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, content.schema) as writer:
        writer.write_batch(content)


def _checksum(content: Content) -> int:
    """Of a batch, its values count, not how Arrow frames them."""
    if isinstance(content, bytes):
        return zlib.crc32(content)
    check = 0
    for column in content.columns:
        width = column.type.bit_width // 8
        values = memoryview(column.buffers()[1])[column.offset * width :]
        check = zlib.crc32(values[: len(column) * width], check)
    return check


# --- the file --------------------------------------------------------------------------------------------------------


def _write_head(file: BinaryIO, head: dict[str, Any]) -> None:
    text = json.dumps(head).encode()
    file.write(_HEAD.pack(len(text), zlib.crc32(text)) + text)


def _read_header(path: Path, file: BinaryIO) -> dict[str, Any]:
    magic = file.read(len(MAGIC))
    if magic != MAGIC:
        raise UserError(f"{path}: no archive of a dataset; make one with `mwm replays archive`")
    header = _read_head(path, file, "header")
    if header["archive"] != ARCHIVE_VERSION:
        raise UserError(
            f"{path}: archive version {header['archive']}, this version reads {ARCHIVE_VERSION}; restore it with the "
            "version that wrote it"
        )
    if (header["format"], header["version"]) != (FORMAT, VERSION):
        found = f"{header['format']} {header['version']}"
        raise UserError(f"{path}: holds format {found}, this version reads {FORMAT} {VERSION}; build the dataset again")
    if header["field_table"] != field_table_hash():
        raise UserError(
            f"{path}: field table {header['field_table']}, this version has {field_table_hash()}; build the dataset "
            "again"
        )
    if not all(_NAME.fullmatch(name) for name in header["parts"]):
        raise _damaged(path, "names files that no dataset has")
    return header


def _read_head(path: Path, file: BinaryIO, name: str) -> dict[str, Any]:
    length, check = _HEAD.unpack(_read(path, file, _HEAD.size, name))
    if length > _MAX_HEAD:
        raise _damaged(path, name)
    text = _read(path, file, length, name)
    if zlib.crc32(text) != check:
        raise _damaged(path, name)
    return json.loads(text)


def _read_part(path: Path, file: BinaryIO, name: str) -> Content:
    head = _read_head(path, file, name)
    payload = _read(path, file, head["size"], name)
    if hashlib.sha256(payload).hexdigest() != head["sha256"]:
        raise _damaged(path, name)
    content = _DECODERS[head["codec"]](payload)
    if _checksum(content) != head["content"]:
        raise UserError(f"{path}: {name} is whole but decodes to something else here; restore it on another machine")
    return content


def _read(path: Path, file: BinaryIO, size: int, name: str) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise UserError(f"{path}: incomplete, ends in {name}; copy or make it again")
    return data


def _damaged(path: Path, what: str) -> UserError:
    return UserError(f"{path}: damaged ({what}); copy or make it again")


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        with open(path, "rb") as file:
            yield file
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); name an archive") from None


@contextmanager
def _written(path: Path) -> Iterator[BinaryIO]:
    """A file to write to that becomes `path` when all went well, and is gone when not."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            yield file
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); name another file") from None
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def _new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill that becomes `path` when all went well, and is gone when not."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as beside:
            folder = Path(beside) / path.name
            (folder / "shards").mkdir(parents=True)
            yield folder
            if path.exists():
                path.rmdir()
            os.replace(folder, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); name another folder") from None
