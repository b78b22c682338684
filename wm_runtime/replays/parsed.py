"""Replays as peppi-py reads them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from wm_runtime.replays.layout import RECORD
from wm_runtime.replays.located import LocatedFrames
from wm_runtime.replays.reasons import LeftOut
from wm_runtime.schema import CONTROLS, FIELDS, ITEM_FIELDS, RECORDED


@dataclass
class Replay:
    """What a file holds: `start`, `end` and `metadata` as peppi-py gives them (JSON), and the frames."""

    start: dict
    end: dict | None
    metadata: dict | None
    frames: ParsedFrames | LocatedFrames | None

    @property
    def version(self) -> tuple[int, int, int]:
        return tuple(self.start["slippi"]["version"])  # type: ignore[return-value]

    @property
    def ports(self) -> tuple[int, ...]:
        return tuple(int(player["port"][1]) - 1 for player in self.start["players"])


def parse(data: bytes, path: Path | None = None, with_frames: bool = True) -> Replay:
    """The replay whose bytes are `data`, and those of the file at `path` if there is one. Raises LeftOut."""
    from peppi_py._peppi import read_slippi  # what peppi_py.read_slippi wraps; it alone gives the items

    try:
        with nullcontext(path) if path else _in_memory(data) as place:
            game = read_slippi(str(place), not with_frames)
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:  # a Rust panic arrives as pyo3's PanicException, which is no Exception
        raise LeftOut("unreadable", " ".join(str(error).split())[:200]) from None
    replay = Replay(game.start, game.end, game.metadata, None)
    if game.frames is not None:
        replay.frames = ParsedFrames(game.frames, replay.ports)
    return replay


@contextmanager
def _in_memory(data: bytes) -> Iterator[Path]:
    """A path at which the bytes can be read; on Linux nothing touches a disk."""
    if hasattr(os, "memfd_create"):
        number = os.memfd_create("replay")
        try:
            with os.fdopen(os.dup(number), "wb") as file:
                file.write(data)
            yield Path(f"/proc/self/fd/{number}")
        finally:
            os.close(number)
    else:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "replay.slp"
            path.write_bytes(data)
            yield path


class ParsedFrames:
    """F frames as sent, as peppi-py's struct array."""

    def __init__(self, frames: pa.StructArray, ports: tuple[int, ...]):
        self._frames = frames
        self._ports = [frames.field("ports").field(f"P{port + 1}") for port in ports]
        self.ids: np.ndarray = frames.field("id").to_numpy()
        """(F,) int32 numbers of the frames."""
        self.followers = any(_has(port, "follower") for port in self._ports)

    def read(self, rows: np.ndarray | slice) -> tuple[np.ndarray, dict[str, np.ndarray], set[str]]:
        """The frames in `rows`: empty records (T, players) of layout.RECORD; name → values (T, players) as recorded;
        and that the records hold none of them. Raises LeftOut where some are missing."""
        columns = {}
        for name, path in _PATHS:
            values = [_values(port.field("leader"), path, rows) for port in self._ports]
            recorded = [column for column in values if column is not None]
            if len(recorded) == len(self._ports):
                columns[name] = np.stack(recorded, axis=1)
        return np.zeros((len(self.ids[rows]), len(self._ports)), RECORD), columns, set()

    def items_of(self, rows: np.ndarray | slice) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """How many items each of the frames in `rows` has, (T,), and name → (E,) values of all of them."""
        lists = self._frames.field("item")
        if isinstance(rows, np.ndarray):
            lists = lists.take(pa.array(rows))
        flat, counts = lists.flatten(), np.diff(lists.offsets.to_numpy())
        found = {row.name: _values(flat, row.source, slice(None)) for row in ITEM_FIELDS[1:]}
        return counts, {name: column for name, column in found.items() if column is not None}


_PATHS: tuple[tuple[str, str], ...] = tuple(
    (row.name, row.source) for rows in (FIELDS, CONTROLS, RECORDED) for row in rows if row.store
)


def _values(array: pa.StructArray, path: str, rows: np.ndarray | slice) -> np.ndarray | None:
    """What is at `path` in the given rows; None where it is not recorded. Raises LeftOut where some are missing."""
    present = _present(array, None)
    for part in path.split("."):
        if not _has(array, part):
            return None
        array = array.field(part)
        present = _present(array, present)
    if present is not None and not present[rows].all():
        raise LeftOut("gaps", f"{path} is missing on {int((~present[rows]).sum())} frames")
    return array.to_numpy(zero_copy_only=False)[rows]


def _has(array: pa.StructArray, name: str) -> bool:
    return array.type.get_field_index(name) >= 0


def _present(array: pa.Array, parent: np.ndarray | None) -> np.ndarray | None:
    """(T,) bool: where neither this level nor one above is null; None if nowhere."""
    if not array.null_count:
        return parent
    valid = array.is_valid().to_numpy(zero_copy_only=False)
    return valid if parent is None else valid & parent
