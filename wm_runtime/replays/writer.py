"""Writes a Game as a .slp replay that peppi-py and Slippi's own tools read."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from wm_runtime.errors import UserError
from wm_runtime.facts import character
from wm_runtime.replays.events import EVENTS, PAYLOADS, PLAYER_SETUP, PORTS, Version, events_of, structure
from wm_runtime.replays.game import Game
from wm_runtime.schema import FIRST_FRAME, MATCH_FRAMES, NO_PLAYER, PLAYERS

Columns = Mapping[str, np.ndarray]
HUMAN, CPU, DEMO, EMPTY = range(4)
"""Player types of the start block."""
NO_CONTEST = 7
"""End method of a match that a player quit."""
POPO, NANA = 10, 11
"""Internal ids of the Ice Climbers' leader and follower."""


@dataclass(frozen=True)
class Oddities:
    """What real replays hold and a dataset of two-player games does not; for tests of whoever reads them.

    Other stages, ports and values that are not finite need no oddity: put them into the Game.
    """

    resent: tuple[tuple[int, int], ...] = ()
    """Rollbacks (frame, count): that many frames from `frame` on are sent with wrong values before they are sent."""
    missing: tuple[int, ...] = ()
    """Frames that are not sent at all."""
    absent: tuple[int, ...] = ()
    """Frames that are sent without the second player's events."""
    types: tuple[int, int] = (HUMAN, HUMAN)
    third_player: bool = False
    """A copy of the first player at a free port."""
    ice_climbers: int | None = None
    """Index of a player who becomes Popo, with Nana as follower."""
    teams: bool = False
    item_spawn_frequency: int = -1
    """−1 items are off, 0 very low … 4 very high."""
    cut: bool = False
    """Recording broke off: length 0, an incomplete last event, no game end, no metadata."""


def write_slp(
    path_or_file: str | Path | BinaryIO,
    game: Game,
    *,
    version: Version = (3, 16, 0),
    oddities: Oddities | None = None,
) -> None:
    """Writes `game` in the format of `version` (2.0 to 3.17; later ones without the stage events that those added).

    What the game does not hold is written as 0. A file is written under a temporary name, then renamed. Raises
    UserError where it cannot be written.
    """
    replay = _replay(game, version, oddities or Oddities())
    if not isinstance(path_or_file, (str, Path)):
        path_or_file.write(replay)
        return
    path = Path(path_or_file)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        unfinished.write_bytes(replay)
        unfinished.replace(path)
    except OSError as error:
        with suppress(OSError):
            unfinished.unlink()
        raise UserError(f"cannot write {path}: {error.strerror}; choose a folder that can be written") from error


def _replay(game: Game, version: Version, odd: Oddities) -> bytes:
    sizes = b"".join(
        struct.pack(">BH", EVENTS[name].command, structure(name, version).itemsize - 1) for name in events_of(version)
    )
    raw = struct.pack(">BB", PAYLOADS, len(sizes) + 1) + sizes
    raw += _game_start(game, version, odd) + _frames(game, version, odd)
    if odd.cut:
        return _head(0) + raw[:-1]
    if game.info.end_method:
        raw += _game_end(game, version)
    return _head(len(raw)) + raw + _ubjson({"metadata": _metadata(game)})[1:]


def _head(length: int) -> bytes:
    """The file up to the events; `length` is that of the events, 0 while a game is being recorded."""
    return b"{U\x03raw[$U#l" + struct.pack(">i", length)


def _event(name: str, version: Version, count: int, values: Mapping[str, Any]) -> np.ndarray:
    """(count,) events; those of `values` that this version has a field for, 0 elsewhere."""
    event = np.zeros(count, structure(name, version))
    for field in event.dtype.names or ():
        if field in values:
            event[field] = values[field]
    event["command"] = EVENTS[name].command
    return event


# --- before and after the frames -------------------------------------------------------------------------------------

_PLAYER_DEFAULTS = {
    "type": EMPTY, "stocks": 4, "handicap": 9, "name_tag_slot": 0x78, "bitfield": 0xC0, "cpu_level": 1,
    "offense_ratio": 1, "defense_ratio": 1, "model_scale": 1,
}  # fmt: skip
"""A port that nobody plays at, as real replays have it."""
_MATCH = {
    "bitfield": (0x32, 0x01, 0x86, 0x4C), "self_destruct_score": -1, "timer": MATCH_FRAMES // 60, "damage_ratio": 1,
    "item_spawn_bitfield": 0xFF, "controller_fixes": 1, "minor_scene": 2, "major_scene": 8, "language": 1,
}  # fmt: skip
"""The rules of a tournament match played online (stocks, countdown, UCF), as real replays have them."""


def _game_start(game: Game, version: Version, odd: Oddities) -> bytes:
    return _event("game_start", version, 1, {
        **_MATCH,
        "version": (*version, 0),
        "is_teams": odd.teams,
        "item_spawn_frequency": odd.item_spawn_frequency,
        "stage": game.info.stage,
        "random_seed": game.info.random_seed,
        "players": _players(game, odd).view(np.uint8),
        "names": _by_port(game, [_shift_jis(name[:15]) for name in game.info.names], b""),
        "name_tags": _by_port(game, [_shift_jis(name[:7]) for name in game.info.names], b""),
    }).tobytes()  # fmt: skip


def _players(game: Game, odd: Oddities) -> np.ndarray:
    players = np.zeros(6, PLAYER_SETUP)
    for field, value in _PLAYER_DEFAULTS.items():
        players[field] = value
    for index, port in enumerate(game.info.ports):
        internal = POPO if odd.ice_climbers == index else game.info.characters[index]
        players["character"][port] = character(internal).selection_id
        players["type"][port] = odd.types[index]
        players["team"][port] = index
    if odd.third_player:
        players[_free_port(game)] = players[game.info.ports[0]]
    return players


def _game_end(game: Game, version: Version) -> bytes:
    info = game.info
    decided = info.winner >= 0
    return _event("game_end", version, 1, {
        "method": info.end_method,
        "lras": info.ports[1 - info.winner] if decided and info.end_method == NO_CONTEST else -1,
        "placements": _by_port(game, [int(decided and index != info.winner) for index in range(PLAYERS)], -1),
    }).tobytes()  # fmt: skip


def _metadata(game: Game) -> dict:
    info = game.info
    players = {
        str(port): {"names": {"netplay": name, "code": ""}, "characters": {str(internal): len(game)}}
        for port, name, internal in zip(info.ports, info.names, info.characters, strict=True)
    }
    start = {"startAt": info.date} if info.date else {}
    return start | {"lastFrame": game.first_frame + len(game) - 1, "players": players, "playedOn": "dolphin"}


def _ubjson(value: dict | str | int) -> bytes:
    if isinstance(value, int):
        return b"l" + struct.pack(">i", value)
    if isinstance(value, str):
        return b"S" + _ubjson_text(value)
    return b"{" + b"".join(_ubjson_text(key) + _ubjson(item) for key, item in value.items()) + b"}"


def _ubjson_text(text: str) -> bytes:
    """A length of one byte, so at most 63 characters of up to four."""
    data = text[:63].encode()
    return b"U" + bytes([len(data)]) + data


def _shift_jis(text: str) -> bytes:
    return text.encode("shift_jis", "replace")


def _by_port(game: Game, values: list, default: object) -> list:
    """Values of the two players → values of the four ports."""
    out = [default] * PORTS
    for port, value in zip(game.info.ports, values, strict=True):
        out[port] = value
    return out


def _free_port(game: Game) -> int:
    return next(port for port in range(PORTS) if port not in game.info.ports)


# --- frames ----------------------------------------------------------------------------------------------------------

_UNANIMATED = (*range(11), *range(322, 325))
"""Action states without an animation: dead, and entry."""
_NO_ANIMATION = 0xFFFF_FFFF
_A, _Z, _ANY_TRIGGER = 0x0100, 0x0010, 0x8000_0000
_DIRECTIONS = (("main_x", "main_y", 0x1_0000), ("c_x", "c_y", 0x10_0000))
"""A stick's axes and the processed button of up; those of down, left and right are the next three bits."""
_PUSHED = 0.35
"""Travel of a stick from which it counts as a button (24 real replays: from 0.3 to 0.4, with hysteresis)."""


def _frames(game: Game, version: Version, odd: Oddities) -> bytes:
    """The events of all frames in the order in which a game sends them."""
    row, wrong = _sent(game, odd)
    frame = row + game.first_frame
    since = frame - FIRST_FRAME
    pre, post = _fighter_columns(game, row, wrong)
    every = np.arange(len(row))
    present = (every, np.flatnonzero(~np.isin(frame, odd.absent)))
    known = events_of(version)
    blocks: list[tuple[np.ndarray, np.ndarray]] = []

    def add(event: str, at: np.ndarray, values: Mapping[str, Any]) -> None:
        if event in known:
            blocks.append((_event(event, version, len(at), values), at))

    def add_fighters(event: str, columns: Columns) -> None:
        for index, who in _fighters(game, odd):
            at = present[index]
            values = {name: column[at, index] for name, column in columns.items()}
            add(event, at, {**values, "frame": frame[at], "random_seed": _seed(since[at]), **who})

    add("frame_start", every, {"frame": frame, "random_seed": _seed(since), "scene_frame": since})
    add_fighters("pre", pre)
    add("item", *_items(game, frame))
    add_fighters("post", post)
    add("bookend", every, {"frame": frame, "latest_finalized": _finalized(frame)})
    return _interleaved(blocks)


def _sent(game: Game, odd: Oddities) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the game in the order they are sent, (S,), and which of those are sent with wrong values, (S,) bool."""
    rows = np.arange(len(game))
    again = [rows[first - game.first_frame :][:count] for first, count in odd.resent]
    row = np.concatenate([*again, rows])
    due = np.concatenate([*(np.full_like(run, run[0]) for run in again), rows])
    order = np.argsort(due, kind="stable")
    order = order[~np.isin(row[order] + game.first_frame, odd.missing)]
    return row[order], order < len(row) - len(rows)


def _fighter_columns(game: Game, row: np.ndarray, wrong: np.ndarray) -> tuple[Columns, Columns]:
    """Columns (S, 2) of the pre- and post-frame events of the sent rows. A pre-frame event holds the new controller and
    what the frame before left of the fighter."""
    sent = {name: column[row] for name, column in game.columns.items()}
    for column in sent.values():
        if column.dtype == np.float32:
            column[wrong] += 1
    sent["buttons"][wrong] ^= _A
    before = np.maximum(row - 1, 0)
    pre = {
        **sent,
        **{name: game.columns[name][before] for name in ("action", "x", "y", "facing", "percent")},
        "processed_buttons": _processed_buttons(sent),
    }
    post = {
        **sent,
        "animation": np.where(np.isin(sent["action"], _UNANIMATED), _NO_ANIMATION, sent["action"]),
        "last_hit_by": np.append(game.info.ports, range(PLAYERS, NO_PLAYER + 1))[sent["last_hit_by"]],
    }
    return pre, post


def _processed_buttons(columns: Columns) -> np.ndarray:
    """What the game makes of a controller: z presses a too, a stick presses the direction it points to most."""
    out = columns["buttons"].astype(np.uint32)
    out |= np.where(out & _Z, _A, 0).astype(np.uint32)
    for x_name, y_name, up in _DIRECTIONS:
        x, y = columns[x_name], columns[y_name]
        pushed, sideways = np.hypot(x, y) >= _PUSHED, np.abs(x) > np.abs(y)
        directions = (~sideways & (y > 0), ~sideways & (y < 0), sideways & (x < 0), sideways & (x > 0))
        for shift, pointed in enumerate(directions):
            out |= np.where(pushed & pointed, up << shift, 0).astype(np.uint32)
    out |= np.where(columns["shoulder"] > 0, _ANY_TRIGGER, 0).astype(np.uint32)
    return out


def _fighters(game: Game, odd: Oddities) -> Iterator[tuple[int, dict[str, int]]]:
    """Who has events in a frame: player index that the values are of, and what differs from those."""
    for index, port in enumerate(game.info.ports):
        if odd.ice_climbers == index:
            yield index, {"port": port, "character": POPO}
            yield index, {"port": port, "character": NANA, "is_follower": 1}
        else:
            yield index, {"port": port}
    if odd.third_player:
        yield 0, {"port": _free_port(game)}


def _seed(since: np.ndarray) -> np.ndarray:
    """The random seed that Slippi's netplay sets at the start of each frame counts up by 65536."""
    return since << 16 & 0xFFFF_FFFF


def _items(game: Game, frame: np.ndarray) -> tuple[np.ndarray, Columns]:
    """The sent frame that each item event belongs to, (E,) ascending, and the events' fields."""
    items = game.items
    first, after = (np.searchsorted(items["frame"], frame, side) for side in ("left", "right"))
    at = np.repeat(np.arange(len(frame)), after - first)
    nth = np.arange(len(at)) - np.searchsorted(at, at)
    rows = first[at] + nth
    sent = {name: column[rows] for name, column in items.items()}
    sent["owner"] = np.append(game.info.ports, -1)[sent["owner"]]
    return at, sent


def _finalized(frame: np.ndarray) -> np.ndarray:
    """Per sent frame, the last frame that will not be sent again."""
    earliest_to_come = np.minimum.accumulate(np.append(frame[1:], MATCH_FRAMES)[::-1])[::-1]
    return np.minimum(frame, earliest_to_come - 1)


def _interleaved(blocks: list[tuple[np.ndarray, np.ndarray]]) -> bytes:
    """Blocks of (events (E,), the sent frame of each (E,) ascending) → bytes, frame after frame; within a frame the
    blocks in their order."""
    at = np.concatenate([at for _, at in blocks])
    size = np.concatenate([np.full(len(events), events.itemsize) for events, _ in blocks])
    order = np.argsort(at, kind="stable")
    begin = np.empty_like(size)
    begin[order] = np.cumsum(size[order]) - size[order]
    out = np.empty(size.sum(), np.uint8)
    done = 0
    for events, _ in blocks:
        to = begin[done : done + len(events)]
        done += len(events)
        out[to[:, None] + np.arange(events.itemsize)] = events.view(np.uint8).reshape(len(events), events.itemsize)
    return out.tobytes()
