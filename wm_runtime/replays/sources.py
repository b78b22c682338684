"""Replays wherever they lie: in folders, in archives, compressed; one at a time, and without unpacking to disk."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import sys
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import py7zr
from py7zr.exceptions import PasswordRequired, UnsupportedCompressionMethodError

from wm_runtime.errors import UserError
from wm_runtime.replays.reasons import LeftOut

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

LIMIT = 1 << 30
"""Bytes that a replay, or an archive inside an archive, may have when decompressed. Real replays have some 5 MB."""


@dataclass(frozen=True)
class Input:
    """One replay to be read, or the reason why it cannot be.

    `name` is unique among the inputs and begins with the source's name: "folder/a.slp", "dump.zip/x/a.slp". `source` is
    the source as it was given. Of `path` (a file, which any process can open) and `data` (a member of an archive) one
    is set, unless `error` is. `codec` says how they are compressed: None, "gz", "xz" or "zst".
    """

    name: str
    source: str
    path: Path | None = None
    data: bytes | None = field(default=None, repr=False)
    codec: str | None = None
    error: str = ""

    def read(self) -> bytes:
        """The replay's bytes, decompressed. Raises LeftOut where they cannot be had, `error` included."""
        if self.error:
            raise LeftOut("unreadable", self.error)
        if self.data is not None and self.codec is None:
            return self.data
        try:
            with _DECODERS[self.codec](self.path if self.data is None else io.BytesIO(self.data)) as file:
                return _read(file)
        except Exception as error:
            raise LeftOut("unreadable", _reason(error)) from None


def open_inputs(sources: Iterable[str | Path]) -> Iterator[Input]:
    """Every replay in `sources`: files, folders (searched through) and archives, also archives in these.

    Sources come in the order given, folders and zips sorted, 7z and tar as packed. What is damaged, encrypted or beyond
    LIMIT comes as an Input with an error. Raises UserError, before the first, for a source that does not exist and for
    a folder without replays.
    """
    return _with_unique_names(_inputs(_find(sources)))


def count_inputs(sources: Iterable[str | Path]) -> int | None:
    """How many inputs `open_inputs` will give; None where only unpacking would tell. Raises UserError as it does.

    Of a damaged archive it may give more than were listed.
    """
    total = 0
    for found in _find(sources):
        suffix = _archive_suffix(found.path.name)
        counted = 1 if suffix is None or found.error else _count(found.path, _FORMATS[suffix].names)
        if counted is None:
            return None
        total += counted
    return total


class _Found(NamedTuple):
    path: Path
    name: str
    source: str
    error: str = ""


def _find(sources: Iterable[str | Path]) -> list[_Found]:
    """Files of `sources` that are replays or archives, every path once."""
    given = list(sources)
    base_names = Counter(os.path.basename(path) for path in {os.path.abspath(source) for source in given})
    found: dict[str, _Found] = {}
    for source in given:
        base_name = os.path.basename(os.path.abspath(source))
        label = base_name if base_names[base_name] == 1 else Path(source).as_posix()
        if os.path.isdir(source):
            files = list(_walk(Path(source), label))
            if all(f.error for f in files):
                raise UserError(f"{source}: no replays in this folder; name one that holds .slp files or archives")
        elif os.path.exists(source):
            files = [_Found(Path(source), label, str(source))]
        else:
            raise UserError(f"{source}: no such file or folder; name replays, archives or folders that hold them")
        for file in files:
            found.setdefault(os.path.abspath(file.path), file)
    return list(found.values())


def _walk(source: Path, label: str) -> Iterator[_Found]:
    """Replays and archives below a folder, sorted; a link to a folder already seen is not followed."""
    files: list[Path] = []
    errors: dict[Path, str] = {}
    seen: set[str] = set()
    for folder, subfolders, names in os.walk(
        source, onerror=lambda e: errors.setdefault(Path(e.filename), _reason(e)), followlinks=True
    ):
        real = os.path.realpath(folder)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        place = Path(folder).relative_to(source)
        files += (Path(folder, name) for name in names if _wanted((place / name).as_posix()))
    for path in sorted([*files, *errors]):
        yield _Found(path, f"{label}/{path.relative_to(source).as_posix()}", str(source), errors.get(path, ""))


def _wanted(name: str) -> bool:
    """Whether a file in a folder or archive is an input. What macOS puts beside every file (._a.slp) is none."""
    parts = name.replace("\\", "/").split("/")
    if "__MACOSX" in parts or parts[-1].startswith("._"):
        return False
    return parts[-1].lower().endswith(_REPLAY_SUFFIXES) or _archive_suffix(name) is not None


def _archive_suffix(name: str) -> str | None:
    return next((suffix for suffix in _FORMATS if name.lower().endswith(suffix)), None)


def _codec(name: str) -> str | None:
    return next((codec for codec in ("gz", "xz", "zst") if name.lower().endswith("." + codec)), None)


def _inputs(files: Iterable[_Found]) -> Iterator[Input]:
    for path, name, source, error in files:
        suffix = _archive_suffix(path.name)
        if error:
            yield Input(name, source, error=error)
        elif suffix is None:
            yield Input(name, source, path=path, codec=_codec(path.name))
        else:
            yield from _unpack(partial(open, path, "rb"), suffix, name, source)


def _unpack(
    open_: Callable[[], Any], suffix: str, name: str, source: str, inside_another: bool = False
) -> Iterator[Input]:
    """Inputs of an archive. However it is damaged, that is an Input of the archive's name and ends it."""
    found = 0
    try:
        with open_() as file:
            for member in _FORMATS[suffix].members(file):
                found += 1
                member_name = f"{name}/{member.name}"
                inner = _archive_suffix(member.name)
                if member.error:
                    yield Input(member_name, source, error=member.error)
                elif inner is None:
                    yield Input(member_name, source, data=member.data, codec=_codec(member.name))
                elif inside_another:
                    yield Input(member_name, source, error="an archive too deep inside others; unpack one of them")
                else:
                    yield from _unpack(partial(io.BytesIO, member.data), inner, member_name, source, True)
    except Exception as error:  # what the libraries raise over damaged files is no closed set
        yield Input(name, source, error=_reason(error) + ("; what follows in this archive is lost" if found else ""))
        return
    if not found:
        yield Input(name, source, error="no replays in this archive")


def _with_unique_names(inputs: Iterable[Input]) -> Iterator[Input]:
    """The same inputs with printable names, a number behind those that were there before."""
    seen: set[str] = set()
    for item in inputs:
        plain = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in item.name)
        name, times = plain, 1
        while name in seen:
            times += 1
            name = f"{plain} ({times})"
        seen.add(name)
        yield item if name == item.name else replace(item, name=name)


def _count(path: Path, names: Callable[[BinaryIO], Iterable[str]] | None) -> int | None:
    if names is None:
        return None
    try:
        with open(path, "rb") as file:
            wanted = [name for name in names(file) if _wanted(name)]
    except Exception:
        return 1
    return None if any(map(_archive_suffix, wanted)) else max(1, len(wanted))


class _Member(NamedTuple):
    """A wanted file in an archive."""

    name: str
    data: bytes = b""
    error: str = ""


class _Unreadable(Exception):
    """Its message is the reason."""


def _member(name: str, size: int, read: Callable[[], bytes]) -> _Member:
    name = name.replace("\\", "/")
    try:
        if size > LIMIT:
            raise _too_big(size)
        return _Member(name, read())
    except Exception as error:
        return _Member(name, error=_reason(error))


def _zip_members(file: BinaryIO) -> Iterator[_Member]:
    with zipfile.ZipFile(file) as archive:

        def read(info: zipfile.ZipInfo) -> bytes:
            if info.flag_bits & 1:
                raise PasswordRequired
            with archive.open(info) as stream:
                return _read(stream)

        for info in sorted(archive.infolist(), key=lambda info: info.filename):
            if not info.is_dir() and _wanted(info.filename):
                yield _member(info.filename, info.file_size, partial(read, info))


def _zip_names(file: BinaryIO) -> list[str]:
    with zipfile.ZipFile(file) as archive:
        return [info.filename for info in archive.infolist() if not info.is_dir()]


def _tar_members(decode: Callable[[BinaryIO], Any], file: BinaryIO) -> Iterator[_Member]:
    def read(info: tarfile.TarInfo) -> bytes:
        stream = archive.extractfile(info)
        assert stream is not None, "a regular file"
        with stream:
            return _read(stream)

    with decode(file) as decoded:
        stream: Any = _LastRead(decoded)
        with tarfile.open(fileobj=stream, mode="r:") as archive:
            for info in archive:
                if info.isfile() and _wanted(info.name):
                    yield _member(info.name, info.size, partial(read, info))
        if not stream.last or stream.last.strip(b"\0"):
            raise _Unreadable("damaged: a file header makes no sense, or the end is missing")
        while decoded.read(_CHUNK):  # to the end, where the checksum is
            pass


def _tar_names(file: BinaryIO) -> list[str]:
    with tarfile.open(fileobj=file, mode="r:") as archive:
        return [info.name for info in archive if info.isfile()]


class _LastRead:
    """A file that keeps what was last read of it. tarfile stops at a header that makes no sense as at the end mark."""

    def __init__(self, file: BinaryIO):
        self.file, self.last = file, b""

    def read(self, size: int = -1) -> bytes:
        self.last = self.file.read(size)
        return self.last

    def seek(self, offset: int, whence: int = 0) -> int:
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        return self.file.tell()


def _7z_members(file: BinaryIO) -> Iterator[_Member]:
    with py7zr.SevenZipFile(file) as archive:
        blocks = _7z_blocks(archive, file)
        for member in archive.files:
            block = blocks.get(id(member.folder))
            if not member.is_file or not _wanted(member.filename):
                if block:
                    block.behind += member.uncompressed
            elif block:
                crc = member.crc32
                item = _member(member.filename, member.uncompressed, partial(block.take, member.uncompressed, crc))
                if member.uncompressed > LIMIT:
                    block.behind += member.uncompressed
                yield item
            else:
                yield _Member(member.filename)


def _7z_names(file: BinaryIO) -> list[str]:
    with py7zr.SevenZipFile(file) as archive:
        return [member.filename for member in archive.files if member.is_file]


def _7z_blocks(archive: py7zr.SevenZipFile, file: BinaryIO) -> dict[int, _SolidBlock]:
    """id of a py7zr Folder → its block."""
    streams: Any = getattr(archive.header, "main_streams", None)
    blocks, at = {}, 0
    for folder in streams.unpackinfo.folders if streams else ():
        positions = streams.packinfo.packpositions
        first, at = positions[at], at + len(folder.packed_indices)
        blocks[id(folder)] = _SolidBlock(file, archive.afterheader + first, positions[at] - first, folder)
    return blocks


class _SolidBlock:
    """Members of a 7z that are packed as one stream ("folder" in py7zr), read front to back.

    py7zr's own extraction feeds the decoder a megabyte a call, needed or not, so that in the end it holds the whole
    packed archive; and it ends at the first damaged member. This feeds the decoder when it asks for it, and goes on.
    """

    def __init__(self, file: BinaryIO, start: int, size: int, folder):
        self.file, self.start, self.size, self.folder = file, start, size, folder
        self.behind = 0
        """Bytes of members that were passed over, not yet decoded."""
        self._decompressor: Any = None
        self._broken = self._starved = False

    def take(self, size: int, crc: int | None) -> bytes:
        """The next `size` bytes after those behind. Raises whatever py7zr does over damaged data."""
        if self._broken:
            raise _Unreadable("damaged: packed behind something that cannot be read")
        try:
            if self._decompressor is None:
                self.file.seek(self.start)
                self._decompressor = self.folder.get_decompressor(self.size, True)
            for _ in self._decode(self.behind):
                pass
            self.behind = 0
            data = b"".join(self._decode(size))
        except PasswordRequired:
            raise
        except Exception:
            self._broken = True
            raise
        if crc is not None and zlib.crc32(data) != crc:
            raise _Unreadable("damaged: checksum does not match")
        return data

    def _decode(self, size: int) -> Iterator[bytes]:
        while size:
            self._starved = True
            piece = self._decompressor.decompress(self, min(size, _CHUNK))
            if not piece and self._starved:
                raise EOFError
            size -= len(piece)
            yield piece

    def read(self, size: int) -> bytes:
        """Called by the decompressor: packed bytes, none while its decoder still has some."""
        first = self._decompressor.chain[0]
        if not getattr(getattr(first, "_decompressor", first), "needs_input", True):
            self._starved = False
            return b""
        data = self.file.read(size)
        self._starved = not data
        return data


_CHUNK = 1 << 20


def _read(file) -> bytes:
    """All of a file. Raises _Unreadable beyond LIMIT."""
    chunks, size = [], 0
    while chunk := file.read(_CHUNK):
        size += len(chunk)
        if size > LIMIT:
            raise _too_big(size)
        chunks.append(chunk)
    return b"".join(chunks)


def _too_big(size: int) -> _Unreadable:
    return _Unreadable(f"too big for a replay: {size:,} bytes or more, at most {LIMIT:,} are read")


def _reason(error: BaseException) -> str:
    """One line on why something cannot be read."""
    text = " ".join(str(error).split())[:200] or type(error).__name__
    if isinstance(error, _Unreadable):
        return text
    if isinstance(error, PasswordRequired):
        return "encrypted: unpack it with its password first"
    if isinstance(error, (NotImplementedError, UnsupportedCompressionMethodError)):
        return f"packed by a method that cannot be read here: {text}"
    if isinstance(error, EOFError):
        return "damaged: cut short"
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be opened: {error.strerror}"
    return f"damaged: {text}"


class _Format(NamedTuple):
    """How an archive is read, and how it is listed where that is cheap."""

    members: Callable[[BinaryIO], Iterator[_Member]]
    names: Callable[[BinaryIO], Iterable[str]] | None = None


_DECODERS: dict[str | None, Callable[..., Any]] = {
    None: partial(open, mode="rb"), "gz": gzip.open, "xz": lzma.open, "zst": zstd.open,
}  # fmt: skip
_REPLAY_SUFFIXES = (".slp", ".slp.gz", ".slp.xz", ".slp.zst")
_FORMATS: dict[str, _Format] = {
    ".zip": _Format(_zip_members, _zip_names),
    ".7z": _Format(_7z_members, _7z_names),
    ".tar": _Format(partial(_tar_members, lambda file: file), _tar_names),
    **dict.fromkeys((".tar.gz", ".tgz"), _Format(partial(_tar_members, gzip.open))),
    **dict.fromkeys((".tar.bz2", ".tbz2", ".tbz"), _Format(partial(_tar_members, bz2.open))),
    **dict.fromkeys((".tar.xz", ".txz"), _Format(partial(_tar_members, lzma.open))),
    **dict.fromkeys((".tar.zst", ".tzst"), _Format(partial(_tar_members, zstd.open))),
}
"""Suffix of an archive's name → its format."""
