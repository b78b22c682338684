"""What is said of a dataset is what is in it; a frame is shown as it was recorded, with what changed."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from synthetic import synthetic_game
from wm_runtime.errors import UserError
from wm_runtime.facts import action_name
from wm_runtime.replays.dataset import Dataset, DatasetWriter
from wm_runtime.replays.describe import describe, draw, find_game, frame_view
from wm_runtime.replays.game import COLUMNS, Game
from wm_runtime.schema import FIELDS, FIRST_FRAME, ITEM_FIELDS
from wm_tools import replays_look

MD5S = ("ab" * 16, "ac" * 16, "77" * 16)


def games() -> list[Game]:
    made = [synthetic_game(seed, 200 + 50 * seed, stage, (1, 22)) for seed, stage in enumerate((32, 31, 32))]
    for game, md5 in zip(made, MD5S, strict=True):
        game.info.md5 = md5
    made[1].info = replace(made[1].info, date="2026-01-02T00:00:00Z", winner=1, end_method=1, version=(3, 9, 0))
    unknown = {"date": "", "winner": -1, "end_method": 0, "names": ("", "")}
    made[2].info = replace(made[2].info, **unknown, derived=("hitlag",), cut=True)  # type: ignore[arg-type]
    made[0].columns["misc_as"][5, 1] = np.nan
    made[1].columns["percent"][7, 0] = 1000
    item = {f.name: np.array([3], f.store) for f in ITEM_FIELDS} | {"frame": np.array([FIRST_FRAME + 5], np.int32)}
    made[0].items = item
    return made


@pytest.fixture(scope="module")
def looked_at(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    path = tmp_path_factory.mktemp("looked_at") / "dataset"
    with DatasetWriter(path) as writer:
        for game in games():
            writer.add(game)
    return Dataset(path)


@pytest.fixture(scope="module")
def app() -> typer.Typer:
    app = typer.Typer()
    app.command()(replays_look.info)
    app.command()(replays_look.show)
    return app


def test_counts_are_those_of_the_games(looked_at):
    found = describe(looked_at)
    assert (found["games"], found["frames"]) == (3, 200 + 250 + 300)
    assert found["characters"] == {"FOX": 3, "FALCO": 3}
    assert found["matrix"] == {"BATTLEFIELD": {"FOX": 1, "FALCO": 1}, "FINAL_DESTINATION": {"FOX": 2, "FALCO": 2}}
    assert found["stages"] == {"FINAL_DESTINATION": 2, "BATTLEFIELD": 1}
    assert list(found["versions"]) == ["3.9.0", "3.16.0"]
    assert (found["lengths"]["shortest"], found["lengths"]["median"], found["lengths"]["longest"]) == (200, 250, 300)
    assert found["ends"] == {"no contest": 1, "time": 1, "not recorded": 1}
    assert found["winners"]["player 2"] >= 1
    assert found["dates"] == {"first": "2024-01-01T00:00:00Z", "last": "2026-01-02T00:00:00Z"}
    assert found["missing"] == {"date": 1, "names": 1, "winner": found["winners"]["not told"], "end": 1}
    assert (found["cut"], found["derived"]) == (1, 1)
    assert found["bytes"] == sum(p.stat().st_size for p in looked_at.path.rglob("*") if p.is_file())


def test_every_column_has_the_range_that_numpy_finds(looked_at):
    rows = {row["name"]: row for row in describe(looked_at)["fields"]}
    assert set(rows) == set(COLUMNS)
    for name, row in rows.items():
        values = np.concatenate([game.columns[name].reshape(-1) for game in looked_at])
        finite = values[np.isfinite(values)]
        assert (row["min"], row["max"]) == (finite.min(), finite.max())
        assert row["mean"] == pytest.approx(finite.mean(dtype=np.float64), rel=1e-6, abs=1e-9)
    assert {name: row["not_finite"] for name, row in rows.items() if row["not_finite"]} == {"misc_as": 1}
    assert {name: row["outside"] for name, row in rows.items() if row["outside"]} == {"percent": 1}
    assert {name: row["derived"] for name, row in rows.items() if row["derived"]} == {"hitlag": 1}


def test_what_is_said_is_plain_json(looked_at):
    json.dumps(describe(looked_at), allow_nan=False)
    json.dumps(frame_view(looked_at, 0, FIRST_FRAME + 5), allow_nan=False)


def test_each_game_is_announced_once(looked_at):
    seen: list[tuple[int, int]] = []
    describe(looked_at, lambda number, total: seen.append((number, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_the_picture_is_drawn(looked_at, tmp_path):
    pytest.importorskip("matplotlib")
    draw(looked_at, describe(looked_at), tmp_path / "look.png")
    assert (tmp_path / "look.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UserError, match="cannot be written"):
        draw(looked_at, describe(looked_at), tmp_path / "missing" / "look.png")


def test_matplotlib_is_imported_only_for_the_picture(looked_at):
    code = (
        "import sys; from wm_runtime.replays.dataset import Dataset; from wm_runtime.replays.describe import describe;"
        f"describe(Dataset({str(looked_at.path)!r})); sys.exit('matplotlib' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_frame_is_shown_as_it_was_recorded(looked_at):
    frame = FIRST_FRAME + 90
    view, game = frame_view(looked_at, 1, frame), looked_at.game(1)
    for player, side in enumerate(view["players"]):
        for name, cell in {**side["fields"], **side["controls"]}.items():
            assert (cell["before"], cell["value"]) == tuple(game.columns[name][89:91, player].tolist()), name
        assert side["fields"]["action"]["name"] == action_name(int(game.columns["action"][90, player]))
    assert set(view["players"][0]["fields"]) == {f.name for f in FIELDS}
    assert (view["stage"], view["frame"], view["last_frame"]) == ("BATTLEFIELD", frame, FIRST_FRAME + 249)


def test_items_are_shown_on_their_frame(looked_at):
    assert frame_view(looked_at, 0, FIRST_FRAME + 4)["items"] == []
    (item,) = frame_view(looked_at, 0, FIRST_FRAME + 5)["items"]
    assert (item["frame"], item["type"], item["x"]) == (FIRST_FRAME + 5, 3, 3.0)


def test_the_first_frame_has_none_before(looked_at):
    assert frame_view(looked_at, 0, FIRST_FRAME)["players"][0]["fields"]["x"]["before"] is None


@pytest.mark.parametrize(("text", "game"), [("0", 0), ("2", 2), ("ab", 0), ("ac" * 16, 1), ("77", 2)])
def test_a_game_is_named_by_number_or_md5(looked_at, text, game):
    assert find_game(looked_at, text) == game


@pytest.mark.parametrize("text", ["3", "zz", "a", "-1"])
def test_a_game_that_is_not_one_is_refused(looked_at, text):
    with pytest.raises(UserError):
        find_game(looked_at, text)


@pytest.mark.parametrize("frame", [FIRST_FRAME - 1, FIRST_FRAME + 200])
def test_a_frame_that_the_game_does_not_have_is_refused(looked_at, frame):
    with pytest.raises(UserError, match=rf"no frame {frame}; its frames are -123 to 76"):
        frame_view(looked_at, 0, frame)


def test_info_prints_text_json_and_a_picture(looked_at, app, tmp_path):
    text = CliRunner().invoke(app, ["info", str(looked_at.path)])
    assert text.exit_code == 0, text.output
    assert "3: 750 frames" in text.stdout
    assert all(f"\n{name} " in text.stdout for name in COLUMNS)
    found = json.loads(CliRunner().invoke(app, ["info", str(looked_at.path), "--json"]).stdout)
    assert found["games"] == 3
    pytest.importorskip("matplotlib")
    picture = tmp_path / "look.png"
    assert f"wrote {picture}" in CliRunner().invoke(app, ["info", str(looked_at.path), "--plot", str(picture)]).stdout
    assert picture.exists()


def test_show_marks_what_changed(looked_at, app):
    text = CliRunner().invoke(app, ["show", str(looked_at.path), "ac", "--frame", str(FIRST_FRAME + 3)])
    assert text.exit_code == 0, text.output
    lines = {line.split()[0]: line for line in text.stdout.splitlines() if line}
    assert "<" not in lines["character"]
    columns: dict[str, np.ndarray] = looked_at.columns(1, 2, 4)
    for name, column in columns.items():
        assert lines[name].count(" < ") == int((column[0] != column[1]).sum()), name
    shown = json.loads(CliRunner().invoke(app, ["show", str(looked_at.path), "0", "--frame", "0", "--json"]).stdout)
    assert shown["md5"] == MD5S[0]


def test_an_empty_dataset_can_be_looked_at(tmp_path: Path, app):
    with DatasetWriter(tmp_path / "empty"):
        pass
    found = describe(Dataset(tmp_path / "empty"))
    assert (found["games"], found["frames"], found["fields"][0]["outside"]) == (0, 0, 0)
    assert CliRunner().invoke(app, ["info", str(tmp_path / "empty")]).exit_code == 0
