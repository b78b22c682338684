"""Reads one .slp replay into a Game, or says why it is left out."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wm_runtime.facts import STAGES
from wm_runtime.replays.game import COLUMNS, Game, GameInfo
from wm_runtime.replays.layout import StoredGame, all_within, put, unpack
from wm_runtime.replays.located import locate_frames
from wm_runtime.replays.parsed import Replay, parse
from wm_runtime.replays.reasons import LeftOut
from wm_runtime.replays.repair import RAW_HEAD, NotRepairable, is_cut, is_short, lengthen_bookends, salvage, version_of
from wm_runtime.schema import FIELD, FIRST_FRAME, INT_FIELDS, ITEM_FIELDS, NO_PLAYER, PLAYERS

MIN_VERSION = (3, 8, 0)
"""First format version that records both velocities and hitlag."""
MIN_VERSION_DERIVED = (3, 5, 0)
"""First one that records velocities: hitlag can be worked out from a flag."""
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
        if not data.startswith(RAW_HEAD):
            raise LeftOut("unreadable", "does not begin like a replay")
        if is_short(data):
            raise LeftOut("unreadable", "events are missing")
        replay = ordinary(data, path) or parse(data, path)
    except LeftOut as failed:
        cut = is_cut(data)
        replay = _cut(data, options) if cut else _old_bookends(data, failed, options)
    game = game_of(replay, source, options)
    game.info.md5, game.info.cut = md5, cut
    return game


def ordinary(data: bytes, path: Path | None = None) -> Replay | None:
    """A replay of the usual kind, of which peppi-py reads all but the frames; None for any other."""
    try:
        replay = parse(data, path, with_frames=False)
    except LeftOut:
        return None
    ports = replay.ports
    if replay.version < MIN_VERSION or len(ports) != PLAYERS:
        return None
    replay.frames = locate_frames(data, replay.version, (ports[0], ports[1]))
    return replay if replay.frames else None


def _cut(data: bytes, options: ReadOptions) -> Replay:
    if not options.salvage:
        raise LeftOut("unreadable", "cut: the recording broke off; --salvage takes its whole frames")
    try:
        whole = salvage(data)
    except NotRepairable as why:
        raise LeftOut("unreadable", f"cut, and {why}") from None
    try:
        return parse(whole)
    except LeftOut as failed:
        return _old_bookends(whole, failed, options)


def _old_bookends(data: bytes, failed: LeftOut, options: ReadOptions) -> Replay:
    """A sound replay of version 3.5 or 3.6, on which peppi-py panics; raises `failed` for any other."""
    try:
        replay = parse(lengthen_bookends(data))
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


_STAGE_IDS = {s.id for s in STAGES}
_OPTIONAL = "raw_y"
"""A column that a later version added: 0 where a replay does not have it."""
_HITLAG_FLAG = 0x20
"""Bit of flags_2 that is set while hitlag lasts."""
_END_METHODS = {"Unresolved": 0, "Time": 1, "Game": 2, "Resolved": 3, "NoContest": 7}


def game_of(replay: Replay, source: str, options: ReadOptions) -> StoredGame:
    """What is stored of a replay. Raises LeftOut if it does not belong in a dataset."""
    start, frames, version = replay.start, replay.frames, replay.version
    _check_setup(start, version, options)
    if frames is None or not len(frames.ids):
        raise LeftOut("gaps", "no frames")
    if frames.followers:
        raise LeftOut("ice_climbers")
    rows = _last_copies(frames.ids)
    ports = replay.ports
    derived = ("hitlag",) if version < MIN_VERSION else ()
    records, columns, stored = frames.read(rows)
    if missing := COLUMNS.keys() - columns.keys() - {*derived, _OPTIONAL}:
        raise LeftOut("gaps", f"{', '.join(sorted(missing))} not recorded")
    columns["last_hit_by"] = _player_index(columns["last_hit_by"], ports, NO_PLAYER)
    try:
        _check_ranges(columns)
        put(records, {name: values for name, values in columns.items() if name not in stored})
    except ValueError as error:
        odd = _not_finite(columns)
        raise (LeftOut("non_finite", ", ".join(odd)) if odd else LeftOut("values", str(error))) from None
    if not np.isfinite(records["f4"]).all() and (odd := _not_finite(columns)):
        raise LeftOut("non_finite", ", ".join(odd))
    if derived:
        put(records, {"hitlag": hitlag_from_flags(unpack(records, ("flags_2",))["flags_2"])})
    last = unpack(records[[0, -1]], ("character", "stocks", "percent"))
    info = GameInfo(
        stage=int(start["stage"]),
        characters=(int(last["character"][0, 0]), int(last["character"][0, 1])),
        ports=(ports[0], ports[1]),
        source=source,
        version=version,
        date=str((replay.metadata or {}).get("startAt", "")),
        end_method=_END_METHODS.get(replay.end["method"], 0) if replay.end else 0,
        winner=_winner(replay.end, last, ports),
        names=tuple((p.get("netplay") or {}).get("name") or p.get("name_tag") or "" for p in start["players"]),  # type: ignore[arg-type]
        random_seed=int(start["random_seed"]),
        derived=derived,
    )
    return StoredGame(info, records, _items(*frames.items_of(rows), ports))


def _check_setup(start: dict, version: tuple[int, ...], options: ReadOptions) -> None:
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


def _last_copies(ids: np.ndarray) -> np.ndarray | slice:
    """Rows of the last copy of every frame, in the order of frames. Raises LeftOut where frames are missing."""
    if ids[0] == FIRST_FRAME and (np.diff(ids) == 1).all():
        return slice(None)
    first, last = int(ids.min()), int(ids.max())
    rows = np.full(min(last - first + 1, len(ids)), -1)
    if first == FIRST_FRAME and len(rows) == last - first + 1:
        rows[ids - first] = np.arange(len(ids))  # of several copies the last one stays
        if rows.min() >= 0:
            return rows
    raise LeftOut("gaps", f"{len(np.unique(ids))} of frames {first} to {last}")


def _check_ranges(columns: Mapping[str, np.ndarray]) -> None:
    """Raises ValueError for whole numbers that the field table does not allow."""
    for name in INT_FIELDS:
        values, field = columns[name], FIELD[name]
        if not all_within(values, field.low, field.high):
            raise ValueError(f"{name} from {values.min()} to {values.max()}")


def _not_finite(columns: Mapping[str, np.ndarray]) -> list[str]:
    """The floats that are not; `misc_as` may be anything."""
    floats = (name for name, values in columns.items() if values.dtype.kind == "f" and name != "misc_as")
    return sorted(name for name in floats if not np.isfinite(columns[name]).all())


def _items(counts: np.ndarray, columns: Mapping[str, np.ndarray], ports: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Items of frames that have `counts` (T,) of them, from columns (E,) as recorded; owners as player indices."""
    out = {"frame": np.repeat(np.arange(FIRST_FRAME, FIRST_FRAME + len(counts), dtype=np.int32), counts)}
    for row in ITEM_FIELDS[1:]:
        recorded = columns.get(row.name)
        out[row.name] = np.zeros(counts.sum(), row.store) if recorded is None else recorded.astype(row.store)
    out["owner"] = _player_index(out["owner"].view(np.uint8), ports, -1)
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


def _player_index(port: np.ndarray, ports: tuple[int, ...], nobody: int) -> np.ndarray:
    """Port numbers, uint8 → player indices, int8; `nobody` for everything else."""
    index = np.full(256, nobody, np.int8)
    index[list(ports)] = range(len(ports))
    return index[port]


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
