"""Older parsed datasets come over: what they hold exactly, what they lack named, no game unaccounted for."""

import io
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import typer
from typer.testing import CliRunner

from synthetic import synthetic_game
from wm_runtime.errors import UserError
from wm_runtime.replays.audit import audit
from wm_runtime.replays.dataset import Dataset
from wm_runtime.replays.game import COLUMNS, Game
from wm_runtime.replays.legacy import REASONS, ImportReport, import_legacy, read_game
from wm_runtime.schema import CONTROLS, FIELDS, NO_GROUND, NO_PLAYER
from wm_tools import replays_look

GAME = synthetic_game(3, 700, 31, (1, 22))
BUTTONS = {"A": 0x0100, "B": 0x0200, "X": 0x0400, "Y": 0x0800, "Z": 0x0010, "L": 0x0040, "R": 0x0020, "D_UP": 0x0008}
SPEEDS = {
    "slippi": {"self_x_air": "speed_air_x_self", "self_x_ground": "speed_ground_x_self", "self_y": "speed_y_self",
               "knockback_x": "speed_x_attack", "knockback_y": "speed_y_attack", "stocks": "stock"},
    "nojohns": {"self_x_air": "speed_air_x", "self_x_ground": "speed_ground_x", "self_y": "speed_y",
                "knockback_x": "speed_attack_x", "knockback_y": "speed_attack_y", "stocks": "stocks"},
}  # fmt: skip
LATER = {"hitlag": "hitlag", "state_age": "state_age", "l_cancel": "l_cancel", "hurtbox": "hurtbox_state",
         "ground": "ground", "last_attack": "last_attack_landed", "combo_count": "combo_count"}  # fmt: skip
RECORDED = ("trigger_l", "trigger_r", "raw_x", "raw_y")

Edit = Callable[[dict[str, Any]], None]


def struct(values: dict[str, Any]) -> pa.StructArray:
    arrays = [struct(v) if isinstance(v, dict) else pa.array(v) for v in values.values()]
    return pa.StructArray.from_arrays(arrays, names=list(values))


def controller(columns: dict[str, np.ndarray], player: int, signed: bool) -> dict[str, Any]:
    def axis(name: str) -> np.ndarray:
        values = columns[name][:, player]
        return values if signed else values / np.float32(2) + np.float32(0.5)

    return {
        "main_stick": {"x": axis("main_x"), "y": axis("main_y")},
        "c_stick": {"x": axis("c_x"), "y": axis("c_y")},
        "shoulder": columns["shoulder"][:, player],
        "buttons": {name: (columns["buttons"][:, player] & bit) != 0 for name, bit in BUTTONS.items()},
    }


def early(game: Game = GAME, signed: bool = False) -> dict[str, Any]:
    """slippi-ai's layout: whole percents, no velocities, libmelee's stage id."""
    c = game.columns
    players = {
        f"p{i}": {
            "percent": c["percent"][:, i].astype(np.uint16),
            "facing": c["facing"][:, i] > 0,
            "x": c["x"][:, i],
            "y": c["y"][:, i],
            "action": c["action"][:, i].astype(np.uint16),
            "invulnerable": c["hurtbox"][:, i] != 0,
            "character": c["character"][:, i].astype(np.uint8),
            "jumps_left": c["jumps"][:, i].astype(np.uint8),
            "shield_strength": c["shield"][:, i],
            "on_ground": c["airborne"][:, i] == 0,
            "controller": controller(c, i, signed),
            "nana": {"exists": np.zeros(len(game), bool)},
        }
        for i in (0, 1)
    }
    return {**players, "stage": np.full(len(game), 24, np.uint8), "randall": {"x": c["x"][:, 0], "y": c["y"][:, 0]}}


def later(names: str, game: Game = GAME) -> dict[str, Any]:
    """The layouts with velocities and more: whole numbers as int64, percent as float."""
    root, c = early(game), game.columns
    for i in (0, 1):
        player = root[f"p{i}"]
        player["percent"] = c["percent"][:, i]
        player["facing"] = (c["facing"][:, i] > 0).astype(np.float32)
        for field, name in {**SPEEDS[names], **LATER}.items():
            column = c[field][:, i]
            player[name] = column.astype(np.int64) if column.dtype.kind == "i" else column
        if names == "nojohns":
            player.update({f"state_flags_{n}": c[f"flags_{n + 1}"][:, i].astype(np.uint8) for n in range(5)})
            player["hitstun_remaining"] = c["misc_as"][:, i]
    return {**root, "stage": np.full(len(game), 31, np.int64)}


def entry(md5: str, **more: Any) -> dict[str, Any]:
    players = [{"port": port, "character": c, "type": 0, "netplay": {"name": name}, "name_tag": ""}
               for port, c, name in ((1, 1, "one"), (3, 22, "two"))]  # fmt: skip
    return {"slp_md5": md5, "stage": 31, "num_players": 2, "players": players, "is_training": True, **more}


def write(folder: Path, games: dict[str, dict[str, Any]], entries: list[Any], compressed: bool = True) -> Path:
    (folder / "games").mkdir(parents=True, exist_ok=True)
    for md5, root in games.items():
        file = io.BytesIO()
        parquet.write_table(pa.table({"root": struct(root)}), file)
        data = file.getvalue()
        (folder / "games" / md5).write_bytes(zlib.compress(data) if compressed else data)
    (folder / "meta.json").write_text(json.dumps(entries))
    return folder


def imported(tmp_path: Path, root: dict[str, Any], compressed: bool = True, **more: Any) -> Game:
    folder = write(tmp_path / "legacy", {"a" * 32: root}, [entry("a" * 32, **more)], compressed)
    report = import_legacy(folder, tmp_path / "out")
    assert [row.outcome for row in report.rows] == ["taken"], report.rows
    return Dataset(tmp_path / "out").game(0)


def assert_same(game: Game, names: set[str]) -> None:
    for name in names:
        np.testing.assert_array_equal(game.columns[name], GAME.columns[name], err_msg=name)


def test_the_early_layout_gives_what_it_holds_and_names_the_rest(tmp_path):
    game = imported(tmp_path, early())
    held = {"x", "y", "shield", "action", "jumps", "character", "facing", "airborne", "buttons", "stocks"}
    assert_same(game, held | {c.name for c in CONTROLS if not c.bit})
    np.testing.assert_array_equal(game.columns["percent"], np.floor(GAME.columns["percent"]))
    np.testing.assert_array_equal(game.columns["hurtbox"] != 0, GAME.columns["hurtbox"] != 0)
    assert (game.columns["ground"] == NO_GROUND).all()
    assert (game.columns["last_hit_by"] == NO_PLAYER).all()
    assert (game.columns["self_y"] == 0).all()
    recorded = {"x", "y", "shield", "action", "jumps", "character", "facing", "airborne"}
    assert set(game.info.derived) == {f.name for f in FIELDS} - recorded | set(RECORDED)
    assert list(game.info.derived) == [name for name in COLUMNS if name in game.info.derived]


@pytest.mark.parametrize("names", SPEEDS)
def test_the_later_layouts_give_velocities_and_more(tmp_path, names):
    game = imported(tmp_path, later(names))
    missing = {"last_hit_by", "misc_as", *RECORDED}
    if names == "slippi":
        missing |= {f"flags_{i}" for i in range(1, 6)}
    assert set(game.info.derived) == missing
    assert_same(game, set(COLUMNS) - missing - {"buttons"})
    if names == "nojohns":
        assert_same(game, {"misc_as"})


def test_what_was_imported_is_audited_without_what_was_filled_in(tmp_path):
    imported(tmp_path, later("nojohns"))
    assert sum(row["broken"] for row in audit(Dataset(tmp_path / "out"))["rules"]) == 0


def test_what_meta_json_says_of_a_game_is_kept(tmp_path):
    more = {"startAt": "2023-05-06T07:08:09Z", "slippi_version": [3, 14, 0], "winner": 1, "name": "a/b.slp"}
    info = imported(tmp_path, early(), lastFrame=len(GAME) - 124, game_end_method=2, **more).info
    assert (info.md5, info.source, info.stage, info.characters) == ("a" * 32, "a/b.slp", 31, (1, 22))
    assert (info.ports, info.names, info.version) == ((1, 3), ("one", "two"), (3, 14, 0))
    assert (info.date, info.winner, info.end_method) == ("2023-05-06T07:08:09Z", 1, 2)


def test_an_entry_may_say_hardly_anything(tmp_path):
    info = imported(tmp_path, later("nojohns"), players=None, num_players=2).info
    assert (info.ports, info.names, info.version, info.winner) == ((0, 1), ("", ""), (0, 0, 0), -1)


def test_sticks_from_minus_one_to_one_and_plain_parquet_are_read_too(tmp_path):
    assert_same(imported(tmp_path, early(signed=True), compressed=False), {"main_x", "main_y", "c_x", "c_y"})


def test_sticks_a_little_off_the_grid_are_put_back_on_it(tmp_path):
    root = early()
    root["p1"]["controller"]["main_stick"]["x"] += np.float32(4e-5)
    assert_same(imported(tmp_path, root), {"main_x"})


def edited(change: Edit, base: Callable[[], dict[str, Any]] = early) -> dict[str, Any]:
    root = base()
    change(root["p0"])
    return root


def off_grid(player: dict[str, Any]) -> None:
    stick = player["controller"]["main_stick"]
    stick["x"] = stick["x"].copy()
    stick["x"][9] = 0.6034


NANA = {"character": np.full(len(GAME), 10, np.uint8)}
WRONG_GAMES = {
    "off_grid": edited(off_grid),
    "layout": edited(lambda player: player.pop("shield_strength")),
    "non_finite": edited(lambda player: player.update(x=np.full(len(GAME), np.nan, np.float32))),
    "values": edited(lambda player: player.update(action=np.full(len(GAME), 4000, np.uint16))),
    "gaps": edited(lambda player: player.update(y=[None] + [0.0] * (len(GAME) - 1))),
    "ice_climbers": edited(lambda player: player.update(NANA)),
}
WRONG_ENTRIES: dict[str, Any] = {
    "stage": {"stage": 24},
    "cpu": {"players": [{"type": 0}, {"type": 1}]},
    "players": {"num_players": 4},
    "not_parsed": {"is_training": False, "not_training_reason": "game length too short"},
    "gaps": {"lastFrame": len(GAME) + 100},
}


@pytest.mark.parametrize("reason", WRONG_GAMES)
def test_a_game_that_cannot_be_taken_is_left_out_for_a_reason(tmp_path, reason):
    games = {"a" * 32: WRONG_GAMES[reason], "b" * 32: early()}
    report = import_legacy(write(tmp_path / "legacy", games, [entry(md5) for md5 in games]), tmp_path / "out")
    assert [(row.outcome, row.reason) for row in report.rows] == [("left_out", reason), ("taken", "")]
    assert report.by_reason() == [(reason, 1, REASONS[reason])]


@pytest.mark.parametrize("reason", WRONG_ENTRIES)
def test_an_entry_that_cannot_be_taken_is_left_out_for_a_reason(tmp_path, reason):
    entries = [entry("a" * 32, **WRONG_ENTRIES[reason]), entry("b" * 32)]
    folder = write(tmp_path / "legacy", {"a" * 32: early(), "b" * 32: early()}, entries)
    report = import_legacy(folder, tmp_path / "out")
    assert [(row.outcome, row.reason) for row in report.rows] == [("left_out", reason), ("taken", "")]


def test_every_entry_and_file_is_accounted_for(tmp_path):
    other = synthetic_game(4, 200, 31)
    games = {"a" * 32: early(), "b" * 32: early(), "c" * 32: early(other), "f" * 32: early()}
    names = ["a" * 32, "a" * 32, "b" * 32, "c" * 32, "d" * 32, "e" * 32, "../meta.json", ""]
    folder = write(tmp_path / "legacy", games, [*map(entry, names), "no entry"])
    (folder / "games" / ("e" * 32)).write_bytes(zlib.compress(b"PAR1 and then nothing"))
    seen: list[tuple[int, int]] = []

    def on_game(report: ImportReport, total: int) -> None:
        seen.append((len(report.rows), total))

    report = import_legacy(folder, tmp_path / "out", on_game)
    assert [row.reason or row.outcome for row in report.rows] == [
        "taken", "duplicate", "same_game", "taken", "no_file", "unreadable", "entry", "entry", "entry", "not_listed",
    ]  # fmt: skip
    assert seen == [(i + 1, 9) for i in range(9)]
    assert report.frames == len(GAME) + 200
    assert Dataset(tmp_path / "out").md5 == ["a" * 32, "c" * 32]
    written = json.loads((tmp_path / "out" / "import_report.json").read_text())
    assert (written["taken"], len(written["files"])) == (2, 10)


def test_importing_again_adds_nothing(tmp_path):
    folder = write(tmp_path / "legacy", {"a" * 32: early()}, [entry("a" * 32)])
    import_legacy(folder, tmp_path / "out")
    assert import_legacy(folder, tmp_path / "out").count("present") == 1
    assert len(Dataset(tmp_path / "out")) == 1


@pytest.mark.parametrize("damage", [lambda data: data[:500], lambda data: b"", lambda data: data[:-9] + b"123456789"])
def test_a_damaged_file_is_unreadable(tmp_path, damage):
    folder = write(tmp_path / "legacy", {"a" * 32: early(), "b" * 32: early()}, [entry("a" * 32), entry("b" * 32)])
    file = folder / "games" / ("a" * 32)
    file.write_bytes(damage(file.read_bytes()))
    assert [row.reason for row in import_legacy(folder, tmp_path / "out").rows] == ["unreadable", ""]


def test_a_malformed_entry_costs_its_game_only(tmp_path):
    folder = write(tmp_path / "legacy", {"a" * 32: early()}, [entry("c" * 32, stage=[31]), entry("a" * 32)])
    assert [row.outcome for row in import_legacy(folder, tmp_path / "out").rows] == ["left_out", "taken"]


def test_a_character_in_meta_json_will_do(tmp_path):
    def without(player: dict[str, Any]) -> None:
        del player["character"]

    root = early()
    without(root["p0"])
    without(root["p1"])
    folder = write(tmp_path / "legacy", {"a" * 32: root}, [])
    game = read_game(folder, entry("a" * 32))
    assert_same(game, {"character"})
    assert "character" in game.info.derived


@pytest.mark.parametrize(("text", "message"), [(None, "No such file"), ("{", "no JSON"), ("{}", "not an array")])
def test_a_folder_that_is_no_parsed_dataset_is_refused(tmp_path, text, message):
    if text is not None:
        (tmp_path / "meta.json").write_text(text)
    with pytest.raises(UserError, match=message):
        import_legacy(tmp_path, tmp_path / "out")


def test_nothing_is_written_where_nothing_can_be_taken(tmp_path):
    folder = write(tmp_path / "legacy", {}, [entry("a" * 32)])
    with pytest.raises(UserError, match=r"nothing to take: 1 no_file \(meta.json names it"):
        import_legacy(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_sums_up(tmp_path):
    folder = write(tmp_path / "legacy", {"a" * 32: early()}, [entry("a" * 32), entry("b" * 32)])
    app = typer.Typer()
    app.command()(replays_look.import_legacy)
    result = CliRunner().invoke(app, [str(folder), "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert f"taken          1 games, {len(GAME)} frames" in result.stdout
    assert f"left out       1 no_file: {REASONS['no_file']}" in result.stdout
