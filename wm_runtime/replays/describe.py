"""What a dataset holds: its games, what lies in its columns, every value of one frame. Read one game at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from wm_runtime.errors import UserError
from wm_runtime.facts import ACTION_NAMES, action_name, character, stage
from wm_runtime.replays.dataset import Dataset, data_fingerprint
from wm_runtime.schema import BUTTONS, CONTROLS, FIELD, FIELDS, ITEM_FIELDS, PLAYERS, RECORDED

OnGame = Callable[[int, int], None]
QUANTILES = {"shortest": 0.0, "5 %": 0.05, "25 %": 0.25, "median": 0.5, "75 %": 0.75, "95 %": 0.95, "longest": 1.0}
ENDS = {0: "not recorded", 1: "time", 2: "game", 3: "resolved", 7: "no contest"}
"""Slippi's game end methods."""
CONTROL_UNITS = {"raw_x": "raw", "raw_y": "raw", "buttons": "bits"}


def describe(data: Dataset, on_game: OnGame | None = None) -> dict[str, Any]:
    """Counts, lengths, ends, dates, sizes, and what lies in every column; plain values, ready for JSON.

    `matrix`: stage → character → player-games. `fields`: a row for each column of frames with the range that the field
    table gives (`low`, `high`), what was seen (`min`, `max`, `mean`), how many values lie `outside`, how many are `not_finite`
    and in how many games they are `derived`. `missing`: games without a value in the index. `on_game(number, total)`
    is called after each game.
    """
    rows = [data.record(game) for game in range(len(data))]
    matrix: dict[str, Counter[str]] = {}
    for row in rows:
        matrix.setdefault(stage(row["stage"]).name, Counter()).update(character(c).name for c in row["characters"])
    fighters = sum(matrix.values(), Counter[str]())
    dates = sorted(row["date"] for row in rows if row["date"])
    derived = Counter(name for row in rows for name in row["derived"])
    size = sum(path.stat().st_size for path in data.path.rglob("*") if path.is_file())
    frames = int(data.frames.sum())
    return {
        "games": len(rows),
        "frames": frames,
        "hours": round(frames / 60 / 3600, 2),
        "bytes": size,
        "fingerprint": data_fingerprint(data.md5),
        "characters": dict(fighters.most_common()),
        "stages": dict(Counter(stage(row["stage"]).name for row in rows).most_common()),
        "matrix": {name: dict(counts.most_common()) for name, counts in sorted(matrix.items())},
        "versions": dict(sorted(Counter(".".join(map(str, row["version"])) for row in rows).items(), key=_version)),
        "lengths": _lengths(data.frames),
        "ends": dict(Counter(ENDS.get(row["end_method"], str(row["end_method"])) for row in rows).most_common()),
        "winners": {
            name: sum(row["winner"] == who for row in rows)
            for name, who in (("player 1", 0), ("player 2", 1), ("not told", -1))
        },
        "dates": {"first": dates[0], "last": dates[-1]} if dates else {},
        "missing": {
            "date": len(rows) - len(dates),
            "names": sum(not any(row["names"]) for row in rows),
            "winner": sum(row["winner"] < 0 for row in rows),
            "end": sum(row["end_method"] == 0 for row in rows),
        },
        "cut": sum(row["cut"] for row in rows),
        "derived": sum(bool(row["derived"]) for row in rows),
        "fields": _fields(data, derived, on_game),
    }


def _version(row: tuple[str, int]) -> list[int]:
    return [int(part) for part in row[0].split(".")]


def _lengths(frames: np.ndarray) -> dict[str, int]:
    """Quantiles of the games' lengths in frames."""
    return {name: int(np.quantile(frames, q)) for name, q in QUANTILES.items()} if len(frames) else {}


class _Column:
    """What was seen in a column."""

    def __init__(self, unit: str, low: float, high: float):
        self.unit, self.low, self.high = unit, low, high
        self.min, self.max, self.sum = np.inf, -np.inf, 0.0
        self.count = self.outside = self.not_finite = 0

    def add(self, values: np.ndarray) -> None:
        if values.dtype.kind == "f":
            finite = np.isfinite(values)
            if not finite.all():
                self.not_finite += int((~finite).sum())
                values = values[finite]
        if not values.size:
            return
        low, high = float(values.min()), float(values.max())
        self.min, self.max = min(self.min, low), max(self.max, high)
        self.sum += float(values.sum(dtype=np.float64))
        self.count += values.size
        if low < self.low or high > self.high:
            self.outside += int(((values < self.low) | (values > self.high)).sum())

    def row(self, name: str, derived: int) -> dict[str, Any]:
        seen = {"min": self.min, "mean": self.sum / self.count, "max": self.max} if self.count else {}
        bounds = {"low": self.low, "high": self.high} if np.isfinite(self.low) else {}
        return {
            "name": name, "unit": self.unit, **bounds, **seen,
            "outside": self.outside, "not_finite": self.not_finite, "derived": derived,
        }  # fmt: skip


def _fields(data: Dataset, derived: Mapping[str, int], on_game: OnGame | None) -> list[dict[str, Any]]:
    columns = {f.name: _Column(f.unit, f.low, f.high) for f in FIELDS}
    columns |= {c.name: _Column(CONTROL_UNITS.get(c.name, ""), c.low, c.high) for c in (*CONTROLS, *RECORDED) if not c.bit}
    for game in range(len(data)):
        values = data.columns(game)
        for name, column in columns.items():
            column.add(values[name])
        if on_game:
            on_game(game + 1, len(data))
    return [column.row(name, derived.get(name, 0)) for name, column in columns.items()]


# --- one frame -------------------------------------------------------------------------------------------------------


def find_game(data: Dataset, text: str) -> int:
    """A game by its number or the beginning of its MD5. Raises UserError."""
    if text.isdigit() and int(text) < len(data):
        return int(text)
    if not any(md5.startswith(text) for md5 in data.md5):
        raise UserError(
            f"{data.path}: no game {text!r}; give a number from 0 to {len(data) - 1}, or how an MD5 begins"
        )
    return data.find(text)


def frame_view(data: Dataset, game: int, frame: int) -> dict[str, Any]:
    """Everything of one frame, ready for JSON. Raises UserError for a frame that the game does not have.

    `players`: for each, {"name", "character", "fields", "controls"}; fields and controls are name → {"value", "before"},
    `before` being that of the frame before (None on the first), with a "name" where the number is an id. `items`: a row
    for each, as in schema.ITEM_FIELDS.
    """
    row = data.record(game)
    at, last = frame - row["first_frame"], row["first_frame"] + row["frames"] - 1
    if not 0 <= at < row["frames"]:
        raise UserError(
            f"{data.path}: game {game} has no frame {frame}; its frames are {row['first_frame']} to {last}"
        )
    columns = data.columns(game, max(at - 1, 0), at + 1)
    items = data.items(game, at, at + 1)
    return {
        "game": game, "md5": row["md5"], "source": row["source"], "stage": stage(row["stage"]).name,
        "frame": frame, "last_frame": last, "cut": row["cut"], "derived": list(row["derived"]),
        "players": [
            {
                "name": row["names"][player],
                "character": character(int(columns["character"][-1, player])).name,
                "fields": {f.name: _value(columns, f.name, player, at) for f in FIELDS},
                "controls": {name: _value(columns, name, player, at) for name in _CONTROLS},
            }
            for player in range(PLAYERS)
        ],
        "items": [
            {f.name: items[f.name][number].item() for f in ITEM_FIELDS} for number in range(len(items["frame"]))
        ],
    }  # fmt: skip


_CONTROLS = tuple(c.name for c in (*CONTROLS, *RECORDED) if not c.bit)
_BUTTON_BITS = {**{0x0001: "d_left", 0x0002: "d_right", 0x0004: "d_down", 0x1000: "start"},
                **{c.bit: c.name.removesuffix("_button") for c in CONTROLS if c.name in BUTTONS}}  # fmt: skip


def _value(columns: Mapping[str, np.ndarray], name: str, player: int, at: int) -> dict[str, Any]:
    """A column's value on the last of the rows given, and on the one before where there is one."""
    value, before = columns[name][-1, player].item(), columns[name][0, player].item() if at else None
    out = {"value": value, "before": before}
    said = _said(name, value)
    return {**out, "name": said} if said else out


def _said(name: str, value: int) -> str:
    if name == "action":
        return action_name(value) if value < len(ACTION_NAMES) else f"SPECIAL_{value}"
    if name == "character":
        return character(value).name
    if name == "buttons":
        return " ".join(button for bit, button in sorted(_BUTTON_BITS.items()) if value & bit)
    if name.startswith("flags_"):
        return f"{value:#04x}" if value else ""
    return "nobody" if name == "last_hit_by" and value == FIELD[name].high else ""
