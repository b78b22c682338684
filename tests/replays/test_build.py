"""A build accounts for every file it is given, adds each game once, and leaves nothing half-written behind."""

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from synthetic import synthetic_game
from wm_runtime.errors import UserError
from wm_runtime.replays.build import BuildOptions, build, read_input
from wm_runtime.replays.dataset import Dataset
from wm_runtime.replays.game import Game
from wm_runtime.replays.reasons import REASONS, LeftOut
from wm_runtime.replays.slp import read_slp
from wm_runtime.replays.sources import Input
from wm_runtime.replays.writer import CPU, Oddities, write_slp

GAMES = {name: synthetic_game(seed, 150, stage) for name, seed, stage in [("a", 0, 31), ("b", 1, 32), ("c", 2, 2)]}
PANICS = (3, 2, 0)
"""A version that peppi-py 0.8.6 panics on."""


def off_grid(name: str) -> Game:
    game = synthetic_game(5, 60)
    game.columns[name][7, 1] += 0.001
    return game


def write_inputs(folder: Path) -> dict[str, str]:
    """Good, odd, broken and repeated replays → what is to become of each, by its path in the folder."""
    (folder / "deep" / "er").mkdir(parents=True)
    for place, name in [("a.slp", "a"), ("deep/b.slp", "b"), ("deep/er/c.slp", "c")]:
        write_slp(folder / place, GAMES[name])
    shutil.copy(folder / "a.slp", folder / "deep" / "copy of a.slp")
    opponent = replace(GAMES["b"], info=replace(GAMES["b"].info, names=("other", "name"), date="2025-01-01T00:00:00Z"))
    write_slp(folder / "deep" / "saved by the opponent.slp", opponent)
    write_slp(folder / "computer.slp", GAMES["a"], oddities=Oddities(types=(0, CPU)))
    write_slp(folder / "items.slp", GAMES["a"], oddities=Oddities(item_spawn_frequency=2))
    write_slp(folder / "off the grid.slp", off_grid("main_x"))
    write_slp(folder / "old.slp", GAMES["a"], version=(2, 0, 0))
    write_slp(folder / "panics.slp", GAMES["a"], version=PANICS)
    content = (folder / "a.slp").read_bytes()
    (folder / "cut.slp").write_bytes(content[: len(content) // 2])
    (folder / "empty.slp").touch()
    (folder / "text.slp").write_text("Dear diary")
    (folder / "readme.txt").write_text("no input at all")
    return {
        "a.slp": "taken", "deep/b.slp": "taken", "deep/er/c.slp": "taken",
        "deep/copy of a.slp": "duplicate", "deep/saved by the opponent.slp": "same_game",
        "computer.slp": "cpu", "items.slp": "items", "off the grid.slp": "values", "old.slp": "version",
        "panics.slp": "unreadable", "cut.slp": "unreadable", "empty.slp": "unreadable", "text.slp": "unreadable",
    }  # fmt: skip


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A folder with `inputs` and the `data` built of them, and what was to become of each input."""
    folder = tmp_path_factory.mktemp("build")
    expected = write_inputs(folder / "inputs")
    build([folder / "inputs"], folder / "data")
    return folder, expected


def files_below(folder: Path) -> dict[str, bytes]:
    """Content of every file but locks."""
    files = (p for p in folder.rglob("*") if p.is_file() and p.suffix != ".lock")
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


def report_of(data: Path) -> dict:
    return json.loads((data / "build_report.json").read_text())


def test_every_input_is_in_exactly_one_row_of_the_report_with_what_became_of_it(built) -> None:
    folder, expected = built
    rows = report_of(folder / "data")["files"]
    assert len(rows) == len(expected)
    assert {row["file"].removeprefix("inputs/"): row["reason"] or row["outcome"] for row in rows} == expected
    for row in rows:
        assert (row["outcome"], row["reason"]) == ("taken", "") or (
            row["outcome"] == "left_out" and row["reason"] in REASONS
        )


def test_the_totals_of_the_report_are_those_of_its_rows(built) -> None:
    report = report_of(built[0] / "data")
    reasons = [row["reason"] for row in report["files"] if row["outcome"] == "left_out"]
    assert report["left_out"] == {reason: reasons.count(reason) for reason in reasons}
    assert (report["taken"], report["present"], report["frames"]) == (3, 0, 450)
    assert sum(report["sources"][str(built[0] / "inputs")].values()) == len(report["files"])


def test_the_dataset_holds_the_games_that_were_taken(built) -> None:
    folder, _ = built
    data = Dataset(folder / "data")
    assert len(data) == 3
    for game in data:
        name = Path(game.info.source).stem
        written = read_slp(next((folder / "inputs").rglob(f"{name}.slp")), game.info.source)
        assert game.info == written.info
        assert all(game.columns[c].tobytes() == GAMES[name].columns[c].tobytes() for c in game.columns)
    assert len(set(data.content)) == 3


def test_nothing_but_the_dataset_and_its_report_is_left(built) -> None:
    names = {name for name in files_below(built[0]) if not name.startswith("inputs/")}
    shard = {f"data/shards/000000{kind}.arrow" for kind in ("", ".items")}
    assert names == {"data/dataset.json", "data/index.arrow", "data/build_report.json", *shard}


def test_building_again_adds_nothing_whatever_the_number_of_workers(built, tmp_path) -> None:
    folder, expected = built
    shutil.copytree(folder / "data", tmp_path / "data")
    report = build([folder / "inputs"], tmp_path / "data", workers=2)
    before, after = files_below(folder / "data"), files_below(tmp_path / "data")
    assert {n for n in after if after[n] != before.get(n)} == {"build_report.json"}
    again = {"taken": "present", "same_game": "present"}
    outcomes = {row.file.removeprefix("inputs/"): row.reason or row.outcome for row in report.rows}
    assert {name for name, outcome in outcomes.items() if outcome == "taken"} == set()
    for name, outcome in expected.items():
        assert outcomes[name] in (outcome, again.get(outcome)), name
    assert [row.file for row in report.rows] == [row["file"] for row in report_of(folder / "data")["files"]]


def test_files_of_which_none_can_be_taken_are_a_user_error_without_noise_or_a_dataset(tmp_path, capfd) -> None:
    path = tmp_path / "panics.slp"
    write_slp(path, GAMES["a"], version=PANICS)
    (tmp_path / "text.slp").write_text("Dear diary")
    with pytest.raises(LeftOut):
        read_slp(path)
    assert "panicked" in capfd.readouterr().err, "without a build the parser is heard"
    before = files_below(tmp_path)
    with pytest.raises(UserError, match=r"panics\.slp: .*none of the 2 files can be taken: 2 unreadable") as caught:
        build([path, tmp_path / "text.slp"], tmp_path / "data")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")
    assert files_below(tmp_path) == before
    assert not (tmp_path / "data").exists()


def test_an_interrupted_build_can_be_run_again(built, tmp_path) -> None:
    def stop_after_two(report) -> None:
        if len(report.rows) == 2:
            raise KeyboardInterrupt

    inputs = [built[0] / "inputs" / "a.slp", built[0] / "inputs" / "deep" / "b.slp"]
    with pytest.raises(KeyboardInterrupt):
        build(inputs, tmp_path / "data", on_file=stop_after_two)
    assert not [name for name in files_below(tmp_path) if name.endswith(".tmp")]
    assert build(inputs, tmp_path / "data").count("taken") == 2
    assert len(Dataset(tmp_path / "data")) == 2


def empty_folder(at: Path) -> Path:
    (at / "empty").mkdir()
    (at / "empty" / "readme.txt").write_text("nothing else here")
    return at / "empty"


BAD_SOURCES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "an empty folder": (empty_folder, "empty: no replays in this folder; name one"),
    "nothing": (lambda at: at / "nowhere", "nowhere: no such file or folder; name"),
}


@pytest.mark.parametrize("case", BAD_SOURCES)
def test_a_source_without_replays_is_a_user_error_even_beside_good_ones(case: str, built, tmp_path) -> None:
    make, message = BAD_SOURCES[case]
    bad = make(tmp_path)
    with pytest.raises(UserError, match=message):
        build([built[0] / "inputs", bad], tmp_path / "data")
    assert not (tmp_path / "data").exists()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs a folder that refuses even the administrator")
def test_where_nothing_can_be_written_that_is_said(built) -> None:
    with pytest.raises(UserError, match="/proc/data: cannot be written"):
        build([built[0] / "inputs"], "/proc/data")


def test_a_file_that_is_no_replay_is_called_so(tmp_path) -> None:
    (tmp_path / "note.slp").write_text("not a replay")
    with pytest.raises(UserError, match=r"note\.slp: not a replay, or damaged \(does not begin like a replay\)"):
        build([tmp_path / "note.slp"], tmp_path / "data")


def test_a_second_build_into_a_dataset_is_refused_while_the_first_goes_on(built, tmp_path) -> None:
    with FileLock(tmp_path / ".data.lock"), pytest.raises(UserError, match="data: another build is writing"):
        build([built[0] / "inputs"], tmp_path / "data")


# --- what a worker does with one input -------------------------------------------------------------------------------


def outcome_of(path: Path, **options: object) -> str:
    found = read_input(BuildOptions(**options), Input(path.name, "test", path=path))  # type: ignore[arg-type]
    return str(found) if isinstance(found, LeftOut) else "taken"


@pytest.mark.parametrize(
    ("options", "outcome"),
    [
        ({"stages": frozenset({31})}, "taken"),
        ({"stages": frozenset({2, 3})}, "filtered: stage 31"),
        ({"characters": frozenset({1, 22, 5})}, "taken"),
        ({"characters": frozenset({1})}, "filtered: characters 1 and 22"),
        ({"min_version": (3, 16, 0)}, "taken"),
        ({"min_version": (3, 17, 0)}, "filtered: version 3.16.0"),
    ],
)
def test_games_that_were_not_asked_for_are_filtered(options, outcome, built) -> None:
    assert outcome_of(built[0] / "inputs" / "a.slp", **options) == outcome


@pytest.mark.parametrize("name", ["main_x", "c_y", "shoulder", "trigger_r", "hitlag"])
def test_values_that_the_layout_cannot_hold_are_left_out_by_name(name: str, tmp_path) -> None:
    write_slp(tmp_path / "odd.slp", off_grid(name))
    assert outcome_of(tmp_path / "odd.slp").startswith(f"values: {name} ")


def test_files_are_of_the_same_game_if_all_but_what_each_player_saves_is(tmp_path) -> None:
    def content(game: Game) -> str:
        write_slp(tmp_path / "game.slp", game)
        found = read_input(BuildOptions(), Input("game.slp", "test", path=tmp_path / "game.slp"))
        assert not isinstance(found, LeftOut)
        return found[1]

    game = GAMES["a"]
    assert content(game) == content(replace(game, info=replace(game.info, names=("x", "y"), date="2025")))
    rematch = replace(game, info=replace(game.info, random_seed=9))
    moved = replace(game, columns={**game.columns, "x": game.columns["x"] + np.float32(0.01)})
    assert len({content(g) for g in (game, rematch, moved, GAMES["b"])}) == 4
