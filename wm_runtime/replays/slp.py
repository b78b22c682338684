"""Reads one .slp replay with peppi-py into a Game, or says why it is left out."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from wm_runtime.facts import STAGES
from wm_runtime.replays.game import COLUMNS, Game, GameInfo
from wm_runtime.schema import CONTROLS, FIELDS, FIRST_FRAME, NO_PLAYER, RECORDED

MIN_VERSION = (3, 8, 0)
"""First format version that records both velocities and hitlag."""

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
    "duplicate": "the same file (MD5) again",
}
"""Why a file is left out: key → what it means."""


class LeftOut(Exception):
    """A file that does not belong in a dataset. `reason` is a key of REASONS, `detail` what exactly was seen."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail = reason, detail


def read_slp(path: str | Path, source: str = "") -> Game:
    """The game in `path`: the last copy of every rolled-back frame, values and types as recorded.

    Raises LeftOut with a reason, whatever the file holds. `source` is the name that the game keeps of its origin.
    """
    import peppi_py

    path = Path(path)
    try:
        md5 = hashlib.md5(path.read_bytes()).hexdigest()
        replay = peppi_py.read_slippi(str(path))
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:  # a Rust panic arrives as pyo3's PanicException, which is no Exception
        raise LeftOut("unreadable", " ".join(str(error).split())[:200]) from None
    return game_of(replay, md5, source or path.name)


def game_of(replay, md5: str, source: str) -> Game:
    """A parsed replay (peppi_py.game.Game) → Game. Raises LeftOut."""
    start = replay.start
    _check_setup(start, replay.frames)
    frames = replay.frames
    rows = _last_copies(frames.id.to_numpy())
    try:
        recorded = {name: _column(frames, source_, rows) for name, source_ in _SOURCES}
    except _Missing as missing:
        raise LeftOut("gaps", str(missing)) from None
    _check_finite(recorded)
    columns = {name: column.astype(COLUMNS[name], copy=False) for name, column in recorded.items()}
    ports = tuple(int(p.port) for p in start.players)
    columns["last_hit_by"] = _player_index(columns["last_hit_by"], ports)
    _check_ranges(columns)
    info = GameInfo(
        stage=int(start.stage),
        characters=(int(columns["character"][0, 0]), int(columns["character"][0, 1])),
        ports=ports,  # type: ignore[arg-type]
        md5=md5,
        source=source,
        version=tuple(start.slippi.version),
        date=str((replay.metadata or {}).get("startAt", "")),
        end_method=int(replay.end.method) if replay.end else 0,
        winner=_winner(replay.end, columns, ports),
        names=tuple(p.netplay.name if p.netplay else (p.name_tag or "") for p in start.players),  # type: ignore[arg-type]
    )
    return Game(info, columns)


_SOURCES: tuple[tuple[str, str], ...] = tuple(
    (row.name, row.source) for rows in (FIELDS, CONTROLS, RECORDED) for row in rows if not getattr(row, "bit", 0)
)
_OPTIONAL = {row.source for row in RECORDED if row.name == "raw_y"}
"""Columns that later versions added: 0 where a replay does not have them."""
_STAGE_IDS = {s.id for s in STAGES}


class _Missing(Exception):
    pass


def _check_setup(start, frames) -> None:
    version = tuple(start.slippi.version)
    if version < MIN_VERSION:
        raise LeftOut("version", ".".join(map(str, version)))
    if len(start.players) != 2 or start.is_teams:
        raise LeftOut("players", f"{len(start.players)} players" + (", teams" if start.is_teams else ""))
    if any(int(p.type) == 1 for p in start.players):
        raise LeftOut("cpu")
    if any(int(p.type) != 0 for p in start.players):
        raise LeftOut("players", "a demo player")
    if start.item_spawn_frequency != -1:
        raise LeftOut("items", f"spawn frequency {start.item_spawn_frequency}")
    if int(start.stage) not in _STAGE_IDS:
        raise LeftOut("stage", f"stage {start.stage}")
    if frames is None or len(frames.id) == 0:
        raise LeftOut("gaps", "no frames")
    if any(port.follower is not None for port in frames.ports):
        raise LeftOut("ice_climbers")


def _last_copies(ids: np.ndarray) -> np.ndarray:
    """Row of the last copy of every frame, in the order of frames. Raises LeftOut where frames are missing."""
    unique, last = np.unique(ids[::-1], return_index=True)
    if unique[0] != FIRST_FRAME or unique[-1] - unique[0] + 1 != len(unique):
        raise LeftOut("gaps", f"{len(unique)} of frames {unique[0]} to {unique[-1]}")
    return len(ids) - 1 - last


def _column(frames, source: str, rows: np.ndarray) -> np.ndarray:
    """The (T, 2) values of one peppi-py column, `source` as in the field table."""
    sides = []
    for port in frames.ports:
        value = port.leader
        for part in source.split("."):
            value = value[int(part)] if part.isdigit() else getattr(value, part)
        if value is None:
            if source not in _OPTIONAL:
                raise _Missing(f"{source} is not recorded")
            sides.append(np.zeros(len(rows), np.int8))
            continue
        if value.null_count:
            value = value.take(rows)
            if value.null_count:
                raise _Missing(f"{source} is missing on {value.null_count} frames")
            sides.append(value.to_numpy(zero_copy_only=False))
        else:
            sides.append(value.to_numpy(zero_copy_only=False)[rows])
    return np.stack(sides, axis=1)


def _player_index(last_hit_by: np.ndarray, ports: tuple[int, ...]) -> np.ndarray:
    """Port numbers → player indices, NO_PLAYER for everything else."""
    out = np.full_like(last_hit_by, NO_PLAYER)
    for index, port in enumerate(ports):
        out[last_hit_by == port] = index
    return out


def _check_finite(columns: dict[str, np.ndarray]) -> None:
    for name, column in columns.items():
        if name != "misc_as" and not np.isfinite(column).all():
            raise LeftOut("non_finite", name)


def _check_ranges(columns: dict[str, np.ndarray]) -> None:
    for f in FIELDS:
        if f.dtype == "int32" and (columns[f.name].min() < f.low or columns[f.name].max() > f.high):
            raise LeftOut("values", f"{f.name} from {columns[f.name].min()} to {columns[f.name].max()}")


def _winner(end, columns: dict[str, np.ndarray], ports: tuple[int, ...]) -> int:
    """Player index of the winner: by recorded placement, by who left, by stocks, then percent; −1 when level."""
    if end is not None and end.players:
        first = [int(p.port) for p in end.players if p.placement == 0]
        if len(first) == 1 and first[0] in ports:
            return ports.index(first[0])
    if end is not None and end.lras_initiator is not None and int(end.lras_initiator) in ports:
        return 1 - ports.index(int(end.lras_initiator))
    for name, sign in (("stocks", 1), ("percent", -1)):
        a, b = (sign * columns[name][-1]).tolist()
        if a != b:
            return int(b > a)
    return -1
