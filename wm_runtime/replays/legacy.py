"""Parsed datasets of older projects → a dataset: what they hold, what they lack, what is left out and why.

    DIR/meta.json      an array, one entry a game: slp_md5, stage, and more
    DIR/games/MD5      the game: parquet, compressed once more with zlib; one struct column, a row a frame

The layouts are facts taken from vladfi1/slippi-ai (slippi_ai/types.py; slippi_db/parse_peppi.py, parse_local.py) and
ScavieFae/nojohns (worldmodel/scripts/build_dataset.py, parse_archive.py): the struct has p0 and p1 with the names of
FIELDS_OF, sticks run from 0 to 1, and frames have no numbers, the first being −123. `stage` in the frames is libmelee's
id, a replay's id or 0, so that of meta.json is taken, which is a replay's.

No layout has START, the d-pad but for up, the triggers before the game's dead zone, items, or a rolled-back frame's
last copy: slippi-ai kept the first and nojohns all of them, which `mwm replays audit` shows as breaks. Columns that are
filled in are named in the game's `derived`.
"""

from __future__ import annotations

import io
import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from wm_runtime.errors import UserError
from wm_runtime.facts import STAGES, character
from wm_runtime.replays.build import BuildReport, FileRow, content_key
from wm_runtime.replays.dataset import DatasetWriter, write_text
from wm_runtime.replays.game import COLUMNS, Game, GameInfo
from wm_runtime.replays.layout import StoredGame
from wm_runtime.replays.reasons import REASONS as _OF_REPLAYS
from wm_runtime.replays.reasons import LeftOut
from wm_runtime.replays.rules import stock_due
from wm_runtime.schema import AXES, BUTTONS, CONTROLS, FIELD, FIELDS, FIRST_FRAME, NO_GROUND, NO_PLAYER, RECORDED

REASONS = {
    **{name: _OF_REPLAYS[name] for name in (
        "players", "ice_climbers", "cpu", "stage", "gaps", "non_finite", "values", "duplicate", "same_game",
    )},
    "entry": "its entry in meta.json names no game",
    "not_parsed": "meta.json says that it was not taken",
    "no_file": "meta.json names it, but games/ does not hold it",
    "not_listed": "in games/, but not in meta.json",
    "unreadable": "not zlib-compressed parquet, or damaged",
    "layout": "a column is missing that every layout has",
    "off_grid": "a stick or trigger lies off the controller's grid",
}  # fmt: skip
"""Why a game is left out: key → what it means."""
GRID_ERROR = 1e-4
"""How far from the grid a stick may be, in −1 to 1: what storing it as 0 to 1 costs is 1e-7."""
LARGEST = 1 << 29
"""Bytes beyond which a decompressed file is no game (ten minutes take 15 MB)."""


class Source(NamedTuple):
    """What a field is called in the layouts (the first that is there counts), and its value where it is in none."""

    names: tuple[str, ...]
    neutral: float | None = 0
    """None: every layout has it."""


FIELDS_OF: Mapping[str, Source] = {
    "x": Source(("x",), None),
    "y": Source(("y",), None),
    "percent": Source(("percent",), None),
    "shield": Source(("shield_strength",), None),
    "action": Source(("action",), None),
    "jumps": Source(("jumps_left",), None),
    "character": Source(("character",)),
    "stocks": Source(("stock", "stocks")),
    "state_age": Source(("state_age",)),
    "misc_as": Source(("misc_as",)),
    "self_x_air": Source(("speed_air_x_self", "speed_air_x")),
    "self_y": Source(("speed_y_self", "speed_y")),
    "self_x_ground": Source(("speed_ground_x_self", "speed_ground_x")),
    "knockback_x": Source(("speed_x_attack", "speed_attack_x")),
    "knockback_y": Source(("speed_y_attack", "speed_attack_y")),
    "hitlag": Source(("hitlag", "hitlag_left")),
    "ground": Source(("ground",), NO_GROUND),
    "hurtbox": Source(("hurtbox_state",)),
    "l_cancel": Source(("l_cancel",)),
    "last_attack": Source(("last_attack_landed",)),
    "last_hit_by": Source((), NO_PLAYER),
    "combo_count": Source(("combo_count",)),
    **{f"flags_{i}": Source((f"state_flags_{i - 1}",)) for i in range(1, 6)},
}
"""Field → its source; facing, airborne and the controller are named below."""
AXES_OF = {
    "main_x": ("main_stick", "x"), "main_y": ("main_stick", "y"), "c_x": ("c_stick", "x"), "c_y": ("c_stick", "y"),
}  # fmt: skip
BUTTONS_OF = {name: name.removesuffix("_button").upper() for name in BUTTONS}


class ImportReport(BuildReport):
    """One row for every entry of meta.json, and for every file that it does not name."""

    def by_reason(self) -> list[tuple[str, int, str]]:
        counts = Counter(row.reason for row in self.rows if row.outcome == "left_out")
        return [(reason, n, REASONS[reason]) for reason, n in counts.most_common()]


def import_legacy(
    folder: str | Path, out: str | Path, on_game: Callable[[ImportReport, int], None] | None = None
) -> ImportReport:
    """Adds the games of a parsed dataset to the dataset `out`, which may exist.

    `import_report.json` says what became of each; `on_game(report, total)` is called after each. Raises UserError for a
    folder that is no such dataset, and where no game of it is or was taken: nothing is written then.
    """
    folder, out = Path(folder), Path(out)
    entries = _entries(folder)
    report = ImportReport()
    with DatasetWriter(out) as writer:
        listed = {row["md5"] for row in writer.index}
        content = {row["content"]: row["md5"] for row in writer.index}
        met: set[str] = set()
        for entry in entries:
            row = FileRow(f"games/{_md5(entry)}" if _md5(entry) else "meta.json", str(folder), "left_out")
            report.rows.append(row)
            try:
                row.md5 = _name(entry)
                if row.md5 in met:
                    raise LeftOut("duplicate")
                met.add(row.md5)
                if row.md5 in listed:
                    row.outcome = "present"
                else:
                    game = _stored(folder, entry)
                    key = content_key(game)
                    if key in content:
                        raise LeftOut("same_game", f"as the one with MD5 {content[key]}")
                    writer.add(game, key)
                    content[key] = row.md5
                    row.outcome, row.frames = "taken", len(game)
            except LeftOut as why:
                row.reason, row.detail = why.reason, why.detail
            if on_game:
                on_game(report, len(entries))
        report.rows += _unlisted(folder, met)
        if not (report.count("taken") or report.count("present") or writer.index):
            counts = ", ".join(f"{n} {reason} ({meaning})" for reason, n, meaning in report.by_reason()) or "no games"
            raise UserError(f"{folder}: nothing to take: {counts}; nothing was written")
    write_text(out / "import_report.json", json.dumps(report.to_json(), indent=1))
    return report


def _entries(folder: Path) -> list[Any]:
    path = folder / "meta.json"
    try:
        entries = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; name a folder with meta.json and games/") from None
    except ValueError as error:
        raise UserError(f"{path}: no JSON ({error}); name a folder with meta.json and games/") from None
    if not isinstance(entries, list):
        raise UserError(f"{path}: not an array of games; name a folder of a parsed dataset")
    return entries


def _md5(entry: Any) -> str:
    return str(entry.get("slp_md5") or "") if isinstance(entry, dict) else ""


def _name(entry: Any) -> str:
    """The MD5, which is also the name of a file in games/ and may lead nowhere else. Raises LeftOut."""
    md5 = _md5(entry)
    if not md5 or Path(md5).name != md5 or md5 in (".", ".."):
        raise LeftOut("entry", f"slp_md5 {md5!r}")
    return md5


def _stored(folder: Path, entry: Mapping[str, Any]) -> StoredGame:
    try:
        game = read_game(folder, entry)
    except (LeftOut, MemoryError):
        raise
    except Exception as error:  # whatever a malformed entry or file brings about costs that game only
        raise LeftOut("unreadable", f"{type(error).__name__}: {' '.join(str(error).split())[:200]}") from None
    try:
        return StoredGame.of(game)
    except ValueError as error:
        raise LeftOut("values", str(error)) from None


def _unlisted(folder: Path, listed: set[str]) -> Iterator[FileRow]:
    games = folder / "games"
    for path in sorted(games.iterdir()) if games.is_dir() else ():
        if path.name not in listed:
            yield FileRow(f"games/{path.name}", str(folder), "left_out", "not_listed")


# --- one game --------------------------------------------------------------------------------------------------------


def read_game(folder: Path, entry: Mapping[str, Any]) -> Game:
    """The game that an entry of meta.json names. Raises LeftOut."""
    _check_entry(entry)
    root = _root(folder / "games" / _name(entry))
    players = [_part(root, f"p{i}") for i in (0, 1)]
    frames = len(root)
    last = entry.get("lastFrame")
    if frames < 2 or (isinstance(last, int) and frames not in (last, last + 1 - FIRST_FRAME)):
        raise LeftOut("gaps", f"{frames} frames, while meta.json gives lastFrame {last}")
    columns: dict[str, np.ndarray] = {}
    derived: list[str] = []
    _read_fields(columns, derived, players, entry)
    _read_controllers(columns, derived, [_part(player, "controller") for player in players])
    _check_values(columns)
    columns = {name: columns[name].astype(dtype) for name, dtype in COLUMNS.items()}
    fighters = columns["character"][0].tolist()
    if set(columns["character"].reshape(-1).tolist()) & set(_ICE_CLIMBERS):
        raise LeftOut("ice_climbers")
    return Game(_info(entry, fighters, str(folder), tuple(name for name in COLUMNS if name in derived)), columns)


_ICE_CLIMBERS = tuple(character(name).internal_id for name in ("ICE_CLIMBERS", "NANA"))
_STAGE_IDS = {place.id for place in STAGES}
_MET_IN_BITS = {c.name: c.bit for c in CONTROLS if c.bit}


def _check_entry(entry: Mapping[str, Any]) -> None:
    players = _players(entry)
    if entry.get("valid") is False or entry.get("is_training") is False:
        raise LeftOut("not_parsed", str(entry.get("not_training_reason") or entry.get("reason") or ""))
    if entry.get("is_teams") or entry.get("num_players", 2) != 2 or (players and len(players) != 2):
        raise LeftOut("players", f"{entry.get('num_players', len(players))} players")
    if any(player.get("type", 0) != 0 for player in players):
        raise LeftOut("cpu")
    if entry.get("stage") not in _STAGE_IDS:
        raise LeftOut("stage", f"stage {entry.get('stage')}")


def _players(entry: Mapping[str, Any]) -> list[dict[str, Any]]:
    players = entry.get("players")
    return [p for p in players if isinstance(p, dict)] if isinstance(players, list) else []


def _root(path: Path) -> Any:
    """The struct array of a game file. Raises LeftOut."""
    import pyarrow.parquet as parquet

    if not path.is_file():
        raise LeftOut("no_file")
    try:
        data = path.read_bytes()
        if not data.startswith(b"PAR1"):
            inflate = zlib.decompressobj()
            data = inflate.decompress(data, LARGEST)
            if not inflate.eof:
                raise ValueError("cut, or far larger than a game")
        root = parquet.read_table(io.BytesIO(data)).column(0).combine_chunks()
        root.field("p0")
    except Exception as error:  # zlib, Arrow and malformed parquet raise many types
        raise LeftOut("unreadable", " ".join(str(error).split())[:200]) from None
    return root


def _part(struct: Any, name: str) -> Any:
    if struct.type.get_field_index(name) < 0:
        raise LeftOut("layout", name)
    part = struct.field(name)
    if part.null_count:
        raise LeftOut("gaps", f"{name} is missing on {part.null_count} frames")
    return part


def _column(structs: list[Any], name: str) -> np.ndarray:
    """(T, 2) of a column of both players' structs. Raises LeftOut."""
    sides = [np.asarray(_part(struct, name).to_numpy(zero_copy_only=False)) for struct in structs]
    values = np.stack(sides, axis=1)
    if values.dtype.kind not in "biuf":
        raise LeftOut("layout", f"{name} is no number")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise LeftOut("non_finite", name)
    return values


def _has(structs: list[Any], name: str) -> bool:
    return all(struct.type.get_field_index(name) >= 0 for struct in structs)


def _read_fields(
    columns: dict[str, np.ndarray], derived: list[str], players: list[Any], entry: Mapping[str, Any]
) -> None:
    columns["facing"] = np.where(_column(players, "facing") > 0, 1, -1)
    columns["airborne"] = _column(players, "on_ground") == 0
    for field, source in FIELDS_OF.items():
        name = next((name for name in source.names if _has(players, name)), None)
        if name or source.neutral is None:
            columns[field] = _column(players, name or source.names[0])
        else:
            columns[field] = np.full(columns["facing"].shape, source.neutral)
            derived.append(field)
    if columns["percent"].dtype.kind != "f":
        derived.append("percent")
    if "stocks" in derived:
        columns["stocks"] = _stocks(columns["action"])
    if "hurtbox" in derived and _has(players, "invulnerable"):
        columns["hurtbox"] = _column(players, "invulnerable") != 0
    if "misc_as" in derived and _has(players, "hitstun_remaining"):
        columns["misc_as"] = _column(players, "hitstun_remaining")
    if "character" in derived:
        columns["character"] = columns["character"] + _characters(entry)


def _stocks(action: np.ndarray) -> np.ndarray:
    """Four, less one for each death, from the frame on which it costs it."""
    due, _ = stock_due(action)
    lost = np.concatenate([np.zeros((1, 2), np.int64), np.cumsum(due, axis=0)])
    return np.maximum(4 - lost, 0)


def _characters(entry: Mapping[str, Any]) -> list[int]:
    found = [player.get("character") for player in _players(entry)]
    if len(found) != 2 or not all(isinstance(c, int) for c in found):
        raise LeftOut("layout", "character, neither in the frames nor in meta.json")
    return found  # type: ignore[return-value]


def _read_controllers(columns: dict[str, np.ndarray], derived: list[str], pads: list[Any]) -> None:
    sticks = {name: _column([_part(pad, stick) for pad in pads], axis) for name, (stick, axis) in AXES_OF.items()}
    from_zero = min(values.min() for values in sticks.values()) >= 0 and np.median(sticks["c_x"]) > 0.25
    for name, values in sticks.items():
        columns[name] = _on_grid(name, (values.astype(np.float64) - 0.5) * 2 if from_zero else values, 80)
    columns["shoulder"] = _on_grid("shoulder", _column(pads, "shoulder"), 140)
    buttons = [_part(pad, "buttons") for pad in pads]
    columns["buttons"] = sum(
        np.where(_column(buttons, BUTTONS_OF[name]) != 0, bit, 0) for name, bit in _MET_IN_BITS.items()
    )  # type: ignore[assignment]
    for control in RECORDED:
        if control.name != "buttons":
            columns[control.name] = np.zeros(columns["buttons"].shape)
            derived.append(control.name)


def _on_grid(name: str, values: np.ndarray, grid: int) -> np.ndarray:
    """The values as whole `grid`-ths, as replays have them. Raises LeftOut for one that is none."""
    steps = np.rint(values.astype(np.float64) * grid)
    off = np.abs(values - steps / grid)
    if off.max() > GRID_ERROR:
        row, player = np.argwhere(off > GRID_ERROR)[0]
        raise LeftOut("off_grid", f"{name} {values[row, player]:.6f} of player {player + 1} on row {row}")
    return steps.astype(np.float32) / np.float32(grid)


def _check_values(columns: Mapping[str, np.ndarray]) -> None:
    for f in FIELDS:
        low, high = columns[f.name].min(), columns[f.name].max()
        if f.dtype == "int32" and (low < f.low or high > f.high):
            raise LeftOut("values", f"{f.name} from {low} to {high}")
    for name in AXES:
        if np.abs(columns[name]).max() > 1:
            raise LeftOut("values", f"{name} up to {np.abs(columns[name]).max()}")
    hitlag = columns["hitlag"]
    if (hitlag != np.rint(hitlag)).any() or hitlag.min() < 0 or hitlag.max() > FIELD["hitlag"].high:
        raise LeftOut("values", f"hitlag from {hitlag.min()} to {hitlag.max()}")


def _info(entry: Mapping[str, Any], fighters: list[int], folder: str, derived: tuple[str, ...]) -> GameInfo:
    players = _players(entry)
    ports = [player.get("port") for player in players]
    known = len(set(ports)) == 2 and all(isinstance(port, int) and 0 <= port <= 3 for port in ports)
    version = entry.get("slippi_version")
    parts = version if isinstance(version, list) and all(isinstance(v, int) and 0 <= v < 256 for v in version) else []
    winner, end = entry.get("winner"), entry.get("game_end_method")
    names = [str((p.get("netplay") or {}).get("name") or p.get("name_tag") or "") for p in players]
    return GameInfo(
        stage=int(entry["stage"]),
        characters=(fighters[0], fighters[1]),
        ports=(ports[0], ports[1]) if known else (0, 1),  # type: ignore[arg-type]
        md5=_md5(entry),
        source=str(entry.get("source_file") or entry.get("source") or entry.get("name") or folder),
        version=(*parts, 0, 0, 0)[:3],  # type: ignore[arg-type]
        date=str(entry.get("startAt") or ""),
        end_method=end if isinstance(end, int) else 0,
        winner=int(winner) if winner in (0, 1) else -1,
        names=(names[0], names[1]) if len(names) == 2 else ("", ""),
        derived=derived,
    )
