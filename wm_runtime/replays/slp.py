"""Reads one .slp replay with peppi-py into a Game, or says why it is left out."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from wm_runtime.facts import STAGES
from wm_runtime.replays.game import COLUMNS, Game, GameInfo
from wm_runtime.replays.layout import GROUPS, RECORD, StoredGame, put, unpack
from wm_runtime.replays.repair import NotRepairable, is_cut, is_short, lengthen_bookends, salvage, version_of
from wm_runtime.schema import CONTROLS, FIELD, FIELDS, FIRST_FRAME, ITEM_FIELDS, NO_PLAYER, PLAYERS, RECORDED

MIN_VERSION = (3, 8, 0)
"""First format version that records both velocities and hitlag."""
MIN_VERSION_DERIVED = (3, 5, 0)
"""First one that records velocities: hitlag can be worked out from a flag."""

REASONS = {
    "unreadable": "not a replay, or damaged",
    "version": "recorded by a version without velocities and hitlag (before 3.8)",
    "players": "not exactly two players, or teams",
    "ice_climbers": "has a follower (Ice Climbers)",
    "cpu": "has a computer player",
    "items": "items are on",
    "stage": "not one of the six tournament stages",
    "gaps": "frames are missing",
    "non_finite": "has values that are not finite",
    "values": "has values outside the field table",
    "filtered": "not asked for (--stages, --characters, --min-version)",
    "duplicate": "the same file (MD5) again",
    "same_game": "the same game in another file (saved by the other player, or saved again)",
}
"""Why a file is left out: key → what it means."""


class LeftOut(Exception):
    """A file that does not belong in a dataset. `reason` is a key of REASONS, `detail` what exactly was seen."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else self.reason


@dataclass(frozen=True)
class ReadOptions:
    """salvage: take the whole frames of a recording that broke off · derive: take versions 3.5 to 3.7, whose hitlag is
    worked out from the hitlag flag."""

    salvage: bool = False
    derive: bool = False


def read_slp(path: str | Path, source: str = "", options: ReadOptions | None = None) -> Game:
    """The game in `path`: the last copy of every rolled-back frame, values and types as recorded.

    Raises LeftOut with a reason, whatever the file holds. `source` is the name that the game keeps of its origin.
    """
    return read_stored(Path(path), source or Path(path).name, options).game()


def read_stored(path: Path, source: str, options: ReadOptions | None = None) -> StoredGame:
    """The same in the form in which a dataset stores it. Raises LeftOut."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise LeftOut("unreadable", error.strerror or str(error)) from None
    return read_bytes(data, source, options, path)


def read_bytes(data: bytes, source: str, options: ReadOptions | None = None, path: Path | None = None) -> StoredGame:
    """The same from a replay's bytes; `path` is a file that holds them, if there is one. Raises LeftOut."""
    options = options or ReadOptions()
    md5, cut = hashlib.md5(data).hexdigest(), False
    try:
        if is_short(data):
            raise LeftOut("unreadable", "events are missing")
        replay = _parse(path) if path else _parse_bytes(data)
    except LeftOut as failed:
        cut = is_cut(data)
        replay = _cut(data, options) if cut else _old_bookends(data, failed, options)
    game = _game(replay, source, options)
    game.info.md5, game.info.cut = md5, cut
    return game


def _cut(data: bytes, options: ReadOptions) -> Any:
    if not options.salvage:
        raise LeftOut("unreadable", "cut: the recording broke off; --salvage takes its whole frames")
    try:
        whole = salvage(data)
    except NotRepairable as why:
        raise LeftOut("unreadable", f"cut, and {why}") from None
    try:
        return _parse_bytes(whole)
    except LeftOut as failed:
        return _old_bookends(whole, failed, options)


def _old_bookends(data: bytes, failed: LeftOut, options: ReadOptions) -> Any:
    """A sound replay of version 3.5 or 3.6, on which peppi-py panics; raises `failed` for any other."""
    try:
        replay = _parse_bytes(lengthen_bookends(data))
    except (NotRepairable, LeftOut):
        raise failed from None
    version = version_of(data) or ()
    if not options.derive:
        raise LeftOut("unreadable", _version_detail(version))
    replay.start["slippi"]["version"] = list(version)
    return replay


def _version_detail(version: tuple[int, ...]) -> str:
    text = ".".join(map(str, version))
    return f"{text}: only hitlag is missing; --derive works it out" if version >= MIN_VERSION_DERIVED else text


def _parse(path: str | Path) -> Any:
    """peppi-py's game, unconverted: `start`, `end`, `metadata` (JSON) and `frames` (an Arrow struct array)."""
    from peppi_py._peppi import read_slippi  # what peppi_py.read_slippi wraps; it alone gives the items

    try:
        return read_slippi(str(path), False)
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:  # a Rust panic arrives as pyo3's PanicException, which is no Exception
        raise LeftOut("unreadable", " ".join(str(error).split())[:200]) from None


def _parse_bytes(data: bytes) -> Any:
    with _in_memory(data) as path:
        return _parse(path)


@contextmanager
def _in_memory(data: bytes) -> Iterator[str]:
    """A path at which the bytes can be read; on Linux nothing touches a disk."""
    if hasattr(os, "memfd_create"):
        number = os.memfd_create("replay")
        try:
            with os.fdopen(os.dup(number), "wb") as file:
                file.write(data)
            yield f"/proc/self/fd/{number}"
        finally:
            os.close(number)
    else:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "replay.slp"
            path.write_bytes(data)
            yield str(path)


_STAGE_IDS = {s.id for s in STAGES}
_SOURCES: tuple[tuple[str, str], ...] = tuple(
    (row.name, row.source) for rows in (FIELDS, CONTROLS, RECORDED) for row in rows if not getattr(row, "bit", 0)
)
_OPTIONAL = {row.source for row in RECORDED if row.name == "raw_y"}
"""Columns that later versions added: 0 where a replay does not have them."""
_HITLAG_FLAG = 0x20
"""Bit of flags_2 that is set while hitlag lasts."""
_END_METHODS = {"Unresolved": 0, "Time": 1, "Game": 2, "Resolved": 3, "NoContest": 7}


def _game(replay: Any, source: str, options: ReadOptions) -> StoredGame:
    start, frames = replay.start, replay.frames
    version = tuple(start["slippi"]["version"])
    _check_setup(start, version, frames, options)
    rows = _last_copies(frames.field("id").to_numpy())
    ports = tuple(int(p["port"][1]) - 1 for p in start["players"])
    fighters = [frames.field("ports").field(f"P{port + 1}").field("leader") for port in ports]
    derived = ("hitlag",) if version < MIN_VERSION else ()
    records = np.zeros((len(frames) if isinstance(rows, slice) else len(rows), PLAYERS), RECORD)
    for player, fighter in enumerate(fighters):
        for name, path in _SOURCES:
            if name not in derived:
                _put(records[:, player], name, _column(fighter, path, rows, name), ports)
    if not np.isfinite(records["f4"][..., _FINITE]).all():
        raise LeftOut("non_finite", ", ".join(sorted(_not_finite(records))))
    if derived:
        put(records, "hitlag", hitlag_from_flags(unpack(records, ("flags_2",))["flags_2"]))
    last = unpack(records[[0, -1]], ("character", "stocks", "percent"))
    info = GameInfo(
        stage=int(start["stage"]),
        characters=(int(last["character"][0, 0]), int(last["character"][0, 1])),
        ports=ports,  # type: ignore[arg-type]
        source=source,
        version=version,  # type: ignore[arg-type]
        date=str((replay.metadata or {}).get("startAt", "")),
        end_method=_END_METHODS.get(replay.end["method"], 0) if replay.end else 0,
        winner=_winner(replay.end, last, ports),
        names=tuple((p.get("netplay") or {}).get("name") or p.get("name_tag") or "" for p in start["players"]),  # type: ignore[arg-type]
        random_seed=int(start["random_seed"]),
        derived=derived,
    )
    return StoredGame(info, records, _items(frames, rows, ports))


def _check_setup(start: dict, version: tuple[int, ...], frames: Any, options: ReadOptions) -> None:
    players = start["players"]
    if version < (MIN_VERSION_DERIVED if options.derive else MIN_VERSION):
        raise LeftOut("version", _version_detail(version))
    if len(players) != 2 or start["is_teams"]:
        raise LeftOut("players", f"{len(players)} players" + (", teams" if start["is_teams"] else ""))
    if any(p["type"] == "Cpu" for p in players):
        raise LeftOut("cpu")
    if any(p["type"] != "Human" for p in players):
        raise LeftOut("players", "a demo player")
    if start["item_spawn_frequency"] != -1:
        raise LeftOut("items", f"spawn frequency {start['item_spawn_frequency']}")
    if int(start["stage"]) not in _STAGE_IDS:
        raise LeftOut("stage", f"stage {start['stage']}")
    if frames is None or len(frames) == 0:
        raise LeftOut("gaps", "no frames")
    ports = frames.field("ports")
    if any(_has(ports.field(i), "follower") for i in range(ports.type.num_fields)):
        raise LeftOut("ice_climbers")


def _has(array: pa.StructArray, name: str) -> bool:
    return array.type.get_field_index(name) >= 0


def _last_copies(ids: np.ndarray) -> np.ndarray | slice:
    """Rows of the last copy of every frame, in the order of frames. Raises LeftOut where frames are missing."""
    if ids[0] == FIRST_FRAME and (np.diff(ids) == 1).all():
        return slice(None)
    unique, last = np.unique(ids[::-1], return_index=True)
    if unique[0] != FIRST_FRAME or unique[-1] - unique[0] + 1 != len(unique):
        raise LeftOut("gaps", f"{len(unique)} of frames {unique[0]} to {unique[-1]}")
    return len(ids) - 1 - last


def _column(fighter: pa.StructArray, path: str, rows: np.ndarray | slice, name: str) -> np.ndarray:
    """The (T,) values of one column of a player, `path` as in the field table."""
    value, present = fighter, _present(fighter, None)
    for part in path.split("."):
        if not _has(value, part):
            if path in _OPTIONAL:
                return np.zeros(len(fighter), COLUMNS[name])[rows]
            raise LeftOut("gaps", f"{path} is not recorded")
        value = value.field(part)
        present = _present(value, present)
    if present is not None and not present[rows].all():
        raise LeftOut("gaps", f"{path} is missing on {int((~present[rows]).sum())} frames")
    return value.to_numpy(zero_copy_only=False)[rows]


def _put(records: np.ndarray, name: str, values: np.ndarray, ports: tuple[int, ...]) -> None:
    """Stores a recorded column (T,) of one player. Raises LeftOut for values outside the field table."""
    if name == "last_hit_by":
        values = _player_index(values, ports)
    if values.dtype.kind == "f" and name not in _FLOATS and not np.isfinite(values).all():
        raise LeftOut("non_finite", name)
    field = FIELD.get(name)
    if field is not None and field.dtype == "int32" and (values.min() < field.low or values.max() > field.high):
        raise LeftOut("values", f"{name} from {values.min()} to {values.max()}")
    try:
        put(records, name, values)
    except ValueError as error:
        raise LeftOut("values", str(error)) from None


_FLOATS = tuple(row.name for row in GROUPS["f4"])
_FINITE = [i for i, name in enumerate(_FLOATS) if name != "misc_as"]
"""Places, in the floats of a record, of those that must be finite."""


def _not_finite(records: np.ndarray) -> list[str]:
    return [_FLOATS[i] for i in _FINITE if not np.isfinite(records["f4"][..., i]).all()]


def _present(array: pa.Array, parent: np.ndarray | None) -> np.ndarray | None:
    """(T,) bool: where neither this level nor one above is null; None if nowhere."""
    if not array.null_count:
        return parent
    valid = array.is_valid().to_numpy(zero_copy_only=False)
    return valid if parent is None else valid & parent


def _items(frames: pa.StructArray, rows: np.ndarray | slice, ports: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Items of every frame as columns (E,), owners as player indices."""
    lists = frames.field("item")
    if isinstance(rows, np.ndarray):
        lists = lists.take(pa.array(rows))
    counts = np.diff(lists.offsets.to_numpy())
    flat = lists.flatten()
    out = {"frame": np.repeat(np.arange(FIRST_FRAME, FIRST_FRAME + len(counts), dtype=np.int32), counts)}
    for row in ITEM_FIELDS[1:]:
        value = flat
        for part in row.source.split("."):
            value = value.field(part) if _has(value, part) else None
            if value is None:
                break
        recorded = np.zeros(len(flat), row.store) if value is None else value.to_numpy(zero_copy_only=False)
        out[row.name] = recorded.astype(row.store, copy=False)
    out["owner"] = np.select([out["owner"] == port for port in ports], [0, 1], -1).astype(np.int8)
    return out


def hitlag_from_flags(flags_2: np.ndarray) -> np.ndarray:
    """flags_2 (T, 2) → hitlag (T, 2) float32: frames left in the run of the hitlag flag, this one included.

    Equal to the recorded value on all but the frames of a hit within hitlag.
    """
    lasting = (flags_2 & _HITLAG_FLAG) != 0
    left = np.zeros(flags_2.shape, np.float32)
    for t in range(len(left) - 1, -1, -1):
        left[t] = np.where(lasting[t], (left[t + 1] if t + 1 < len(left) else 0) + 1, 0)
    return left


def _player_index(last_hit_by: np.ndarray, ports: tuple[int, ...]) -> np.ndarray:
    """Port numbers → player indices, NO_PLAYER for everything else."""
    out = np.full_like(last_hit_by, NO_PLAYER)
    for index, port in enumerate(ports):
        out[last_hit_by == port] = index
    return out


def _winner(end: dict | None, last: dict[str, np.ndarray], ports: tuple[int, ...]) -> int:
    """Player index of the winner: by recorded placement, by who left, by stocks, then percent; −1 when level."""
    numbers = {f"P{port + 1}": index for index, port in enumerate(ports)}
    if end and end.get("players"):
        first = [numbers[p["port"]] for p in end["players"] if p["placement"] == 0 and p["port"] in numbers]
        if len(first) == 1:
            return first[0]
    if end and end.get("lras_initiator") in numbers:
        return 1 - numbers[end["lras_initiator"]]
    for name, sign in (("stocks", 1), ("percent", -1)):
        a, b = (sign * last[name][-1]).tolist()
        if a != b:
            return int(b > a)
    return -1
