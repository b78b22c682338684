"""A match on disk: the messages of `stream.protocol`, one after another, in a gzip file named `*.mwr`."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType

import numpy as np

from wm_runtime.errors import UserError
from wm_runtime.schema import State
from wm_runtime.stream.protocol import Message, decode_frames, end_message, frame_message, pack, read_messages

SUFFIX = ".mwr"
CHUNK_BYTES = 2**16
CHUNK_FRAMES = 512
"""Frames decoded at a time: a frame's maps take ten times the room of its row."""


@dataclass(frozen=True)
class Recording:
    """`header`: the match message · `states`: a State of T rows · `controllers`: (T, 2, 13) float32, those that
    produced each frame · `reason`: what its end message says."""

    header: Message
    states: State
    controllers: np.ndarray
    reason: str

    def __len__(self) -> int:
        return len(self.states)

    def __iter__(self) -> Iterator[tuple[State, int, np.ndarray]]:
        """Each frame as (states, its row, controllers), which is what `frame_message` takes."""
        return ((self.states, index, self.controllers) for index in range(len(self)))


class RecordingWriter:
    """Writes a recording: `with RecordingWriter(path, header) as out: out.write(state, 0, controllers)`.

    header: the match message. reason: what the end message will say. The file is there, complete, after a clean exit
    of the block; after an error there is none, and what stood under its name before stands there still. Raises
    UserError for a path that cannot be written.
    """

    def __init__(self, path: str | Path, header: Message, reason: str = "end of recording") -> None:
        self.path = Path(path)
        self.reason = reason
        if self.path.suffix != SUFFIX:
            raise UserError(f"cannot record to {self.path}: recordings are named *{SUFFIX}; choose such a name")
        self._header = pack(header)
        self._unfinished = self.path.with_name(f".{self.path.name}.{os.getpid()}.part")

    def __enter__(self) -> RecordingWriter:
        try:
            self._raw = open(self._unfinished, "wb")
        except OSError as error:
            problem = f"cannot record to {self.path}: {error.strerror}"
            raise UserError(f"{problem}; choose a folder that can be written") from error
        self._file = gzip.GzipFile(filename="", mode="wb", fileobj=self._raw, mtime=0)
        self._file.write(self._header)
        return self

    def write(self, state: State, index: int = 0, controllers: np.ndarray | None = None) -> None:
        """Append row `index` of a state and of the controllers (N, 2, 13) that produced it."""
        self._file.write(pack(frame_message(state, index, controllers)))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with self._raw, self._file:
                if kind is None:
                    self._file.write(pack(end_message(self.reason)))
            if kind is None:
                os.replace(self._unfinished, self.path)
        finally:
            self._unfinished.unlink(missing_ok=True)


def read_recording(path: str | Path) -> Recording:
    """The recording at `path`. Raises UserError for a file that is missing, cut short, damaged or of another kind."""
    where = f"recording {path}"
    messages = read_messages(_decompressed(Path(path), where), where)
    header = next(messages)
    if header["type"] != "match":
        raise UserError(f"{where} holds no match; record it again")
    parts = []
    reason = ""
    while chunk := list(islice(messages, CHUNK_FRAMES)):
        if chunk[-1]["type"] == "end":
            reason = chunk.pop()["reason"]
        if any(message["type"] != "frame" for message in chunk):
            raise UserError(f"{where} holds more than one match; record one match a file")
        parts.append(decode_frames(header, chunk, where))
    states, controllers = zip(*parts, strict=True)
    joined = State(*(np.concatenate([getattr(s, name) for s in states]) for name in ("floats", "ints", "match")))
    return Recording(header, joined, np.concatenate(controllers), reason)


def _decompressed(path: Path, where: str) -> Iterator[bytes]:
    try:
        with gzip.open(path, "rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk
    except FileNotFoundError as error:
        raise UserError(f"{where} does not exist; check the path") from error
    except EOFError as error:
        raise UserError(f"{where} is cut short; copy or record it again") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{where} is damaged or no recording; choose a *{SUFFIX} file that mwm wrote") from error
    except OSError as error:
        raise UserError(f"{where} cannot be read: {error.strerror}; check the path and its permissions") from error
