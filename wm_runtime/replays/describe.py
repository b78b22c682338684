"""What a dataset holds: its games, what lies in its columns, every value of one frame. Read one game at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from wm_runtime.errors import UserError
from wm_runtime.facts import FAMILIES, STAGES, Stage, action_name, character, stage
from wm_runtime.replays.dataset import Dataset, data_fingerprint
from wm_runtime.replays.rules import LAST_DEAD, REBIRTH_WAIT
from wm_runtime.schema import BUTTONS, CONTROLS, FIELD, FIELDS, ITEM_FIELDS, NO_PLAYER, PLAYERS, RECORDED

OnGame = Callable[[int, int], None]
QUANTILES = {"shortest": 0.0, "5 %": 0.05, "25 %": 0.25, "median": 0.5, "75 %": 0.75, "95 %": 0.95, "longest": 1.0}
ENDS = {0: "not recorded", 1: "time", 2: "game", 3: "resolved", 7: "no contest"}
"""Slippi's game end methods."""
CONTROL_UNITS = {"raw_x": "raw", "raw_y": "raw", "buttons": "bits"}


def describe(data: Dataset, on_game: OnGame | None = None) -> dict[str, Any]:
    """Counts, lengths, ends, dates, sizes, and what lies in every column; plain values, ready for JSON.

    `matrix`: stage → character → player-games. `fields`: a row for each column of frames with the range that the field
    table gives (`low`, `high`), what was seen (`min`, `mean`, `max`), how many values lie `outside`, how many are
    `not_finite` and in how many games they are `derived`. `missing`: games without a value in the index.
    `on_game(number, total)` is called after each game.
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


_CONTROLS = tuple(c for c in (*CONTROLS, *RECORDED) if not c.bit)


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
    columns |= {c.name: _Column(CONTROL_UNITS.get(c.name, ""), c.low, c.high) for c in _CONTROLS}
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

    `players`: for each, {"name", "character", "fields", "controls"}; fields and controls are name → {"value",
    "before"}, the latter that of the frame before (None on the first), with a "name" where the number stands for
    something. `items`: a row for each, as in schema.ITEM_FIELDS. What is not finite is text.
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
                "controls": {c.name: _value(columns, c.name, player, at) for c in _CONTROLS},
            }
            for player in range(PLAYERS)
        ],
        "items": [
            {f.name: items[f.name][number].item() for f in ITEM_FIELDS} for number in range(len(items["frame"]))
        ],
    }  # fmt: skip


_BUTTON_BITS = {**{0x0001: "d_left", 0x0002: "d_right", 0x0004: "d_down", 0x1000: "start"},
                **{c.bit: c.name.removesuffix("_button") for c in CONTROLS if c.name in BUTTONS}}  # fmt: skip


def _value(columns: Mapping[str, np.ndarray], name: str, player: int, at: int) -> dict[str, Any]:
    """A column's value on the last of the rows given, and on the one before where there is one."""
    value, before = columns[name][-1, player].item(), columns[name][0, player].item() if at else None
    out = {"value": _plain(value), "before": _plain(before)}
    said = _said(name, value)
    return {**out, "name": said} if said else out


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not np.isfinite(value) else value


def _said(name: str, value: Any) -> str:
    if name == "action":
        return action_name(value)
    if name == "character":
        return character(value).name
    if name == "buttons":
        return " ".join(button for bit, button in sorted(_BUTTON_BITS.items()) if value & bit)
    if name.startswith("flags_") and value:
        return f"{value:#04x}"
    if name == "misc_as" and 0 < abs(value) < _LEAST_NORMAL:
        return f"counter {np.float32(value).view(np.int32)}"
    return "nobody" if name == "last_hit_by" and value == NO_PLAYER else ""


_LEAST_NORMAL = float(np.finfo(np.float32).tiny)
"""A float below it is the bits of an integer."""


# --- the picture -----------------------------------------------------------------------------------------------------

INK, PAPER, NIGHT, ACCENT = "#22252e", "#fbfaf7", "#10121a", "#3b6fb6"
CELL = 2.0
"""Units: side of a cell of the maps of positions."""


class _Seen:
    """What the picture shows of the frames."""

    def __init__(self, data: Dataset, on_game: OnGame | None):
        self.families = np.zeros(len(FAMILIES), np.int64)
        self.percent: list[np.ndarray] = []
        self.cells = {place.id: np.zeros(_cells(place), np.int64) for place in STAGES}
        for game in range(len(data)):
            self._add(data.columns(game), stage(int(data.stage[game])))
            if on_game:
                on_game(game + 1, len(data))

    def _add(self, columns: Mapping[str, np.ndarray], place: Stage) -> None:
        action = columns["action"]
        counts = np.bincount(action.reshape(-1), minlength=FIELD["action"].classes or 0)
        self.families += [counts[list(ids)].sum() for ids in FAMILIES.values()]
        dies = (action[1:] <= LAST_DEAD) & (action[:-1] > LAST_DEAD)
        self.percent.append(columns["percent"][1:][dies])
        alive, (rows, wide) = action > REBIRTH_WAIT, self.cells[place.id].shape
        x = ((columns["x"][alive] - place.blast.left) / CELL).astype(np.int64)
        y = ((columns["y"][alive] - place.blast.bottom) / CELL).astype(np.int64)
        inside = (x >= 0) & (x < wide) & (y >= 0) & (y < rows)
        cells = np.bincount(y[inside] * wide + x[inside], minlength=rows * wide)
        self.cells[place.id] += cells.reshape(rows, wide)


def _cells(place: Stage) -> tuple[int, int]:
    blast = place.blast
    return int((blast.top - blast.bottom) / CELL) + 1, int((blast.right - blast.left) / CELL) + 1


def draw(data: Dataset, found: Mapping[str, Any], path: str | Path, on_game: OnGame | None = None) -> None:
    """Draws `found` (of `describe`) and how frames are distributed. Raises UserError without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        raise UserError("--plot: matplotlib is missing; install it with `pip install matplotlib`") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    seen = _Seen(data, on_game)
    style: Any = {"font.size": 9, "text.color": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK,
                  "axes.edgecolor": "#b9b7b0", "axes.facecolor": PAPER, "figure.facecolor": PAPER,
                  "axes.titleweight": "bold", "axes.titlesize": 10, "axes.titlelocation": "left"}  # fmt: skip
    with pyplot.rc_context(style):
        figure: Any = pyplot.figure(figsize=(17, 11))
        left, right = figure.add_gridspec(1, 2, width_ratios=(1, 2.1), left=0.085, right=0.985, top=0.9, bottom=0.055,
                                          wspace=0.13)  # fmt: skip
        upper, lower = left.subgridspec(2, 1, height_ratios=(1, 1), hspace=0.3)
        _draw_matrix(figure.add_subplot(upper), found)
        _draw_families(figure.add_subplot(lower), seen)
        top, maps = right.subgridspec(2, 1, height_ratios=(1, 2.6), hspace=0.2)
        lengths, percents = top.subgridspec(1, 2, wspace=0.12)
        _draw_lengths(figure.add_subplot(lengths), data.frames)
        _draw_percents(figure.add_subplot(percents), np.concatenate(seen.percent) if seen.percent else np.zeros(0))
        for place, spot in zip(STAGES, maps.subgridspec(2, 3, wspace=0.06, hspace=0.13), strict=True):
            _draw_stage(figure.add_subplot(spot), place, seen.cells[place.id], found["stages"].get(place.name, 0))
        figure.suptitle(str(data.path), x=0.085, y=0.975, ha="left", fontsize=16, fontweight="bold")
        text = f"{found['games']:,} games · {found['frames']:,} frames · {found['hours']:,} hours of play"
        figure.text(0.085, 0.932, f"{text} · {found['bytes'] / 1e6:,.0f} MB", fontsize=10.5, color="#6a6c74")
        try:
            figure.savefig(path, dpi=110)
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: cannot be written ({error}); name another file, NAME.png") from None
        finally:
            pyplot.close(figure)


def _draw_matrix(axes: Any, found: Mapping[str, Any]) -> None:
    fighters, places = list(found["characters"]), [place for place in STAGES if place.name in found["matrix"]]
    counts = np.array([[found["matrix"][p.name].get(f, 0) for p in places] for f in fighters]).reshape(-1, len(places))
    if counts.size:
        axes.imshow(np.log1p(counts), aspect="auto", cmap="YlGnBu", vmin=0)
    for row, column in np.argwhere(counts):
        dark = np.log1p(counts[row, column]) > 0.62 * np.log1p(counts.max())
        axes.text(column, row, counts[row, column], ha="center", va="center", fontsize=7.5, color="w" if dark else INK)
    axes.set_xticks(range(len(places)), [place.display.replace(" ", "\n", 1) for place in places], fontsize=7.5)
    axes.set_yticks(range(len(fighters)), [character(name).display for name in fighters], fontsize=7.5)
    axes.tick_params(length=0)
    axes.set_title("Players, by fighter and stage")
    _bare(axes)


def _draw_families(axes: Any, seen: _Seen) -> None:
    share = 100 * seen.families / max(seen.families.sum(), 1)
    order = [i for i in np.argsort(share)[::-1] if share[i] > 0][:24]
    names = [list(FAMILIES)[i].replace("_", " ") for i in order]
    axes.barh(range(len(order)), share[order], color=ACCENT, height=0.72)
    axes.set_yticks(range(len(order)), names, fontsize=7.5)
    axes.set_ylim(len(order) - 0.4, -0.6)
    for at, value in enumerate(share[order]):
        axes.text(value, at, f" {value:.1f}", va="center", fontsize=7.5)
    axes.tick_params(axis="y", length=0)
    axes.set_title("Time spent, by family of actions (%)")
    _bare(axes)


def _draw_lengths(axes: Any, frames: np.ndarray) -> None:
    minutes = frames / 3600
    axes.hist(minutes, bins=np.linspace(0, 1.02 * float(minutes.max(initial=0.1)), 49), color=ACCENT)
    if len(minutes):
        middle = float(np.median(minutes))
        axes.axvline(middle, color=INK, lw=1)
        axes.text(middle, axes.get_ylim()[1], f" median {middle:.1f}", va="top", fontsize=8)
    axes.set_title("Games, by length (minutes)")
    _bare(axes)


def _draw_percents(axes: Any, percent: np.ndarray) -> None:
    axes.hist(percent, bins=np.linspace(0, 1.02 * float(percent.max(initial=1)), 51), color="#c4574c")
    if len(percent):
        middle = float(np.median(percent))
        axes.axvline(middle, color=INK, lw=1)
        axes.text(middle, axes.get_ylim()[1], f" median {middle:.0f} %", va="top", fontsize=8)
    axes.set_title("Deaths, by percent")
    _bare(axes)


def _draw_stage(axes: Any, place: Stage, cells: np.ndarray, games: int) -> None:
    from matplotlib.colors import LogNorm

    blast = place.blast
    axes.set_facecolor(NIGHT)
    if cells.any():
        extent = (blast.left, blast.left + CELL * cells.shape[1], blast.bottom, blast.bottom + CELL * cells.shape[0])
        axes.imshow(np.ma.masked_equal(cells, 0), extent=extent, origin="lower", cmap="inferno", aspect="auto",
                    norm=LogNorm(0.4, max(2, cells.max())), interpolation="nearest")  # fmt: skip
    for surface in place.surfaces:
        line = surface.at(0)
        axes.plot((line.x_left, line.x_right), (line.y_left, line.y_right), color="w", lw=1.3, alpha=0.9,
                  ls=":" if surface.moves else "-")  # fmt: skip
    axes.set_xlim(blast.left, blast.right)
    axes.set_ylim(blast.bottom, blast.top)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(f"{place.display}, {games:,} games")
    _bare(axes)


def _bare(axes: Any) -> None:
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)
