"""A dataset gives back what was added to it, whatever stopped the writing, and a damaged one says what is wrong."""

import json
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synthetic import synthetic_game
from wm_runtime.errors import UserError
from wm_runtime.facts import STAGES
from wm_runtime.replays.dataset import Dataset, DatasetWriter, data_fingerprint, write_text
from wm_runtime.replays.game import COLUMNS, Game, GameInfo
from wm_runtime.schema import FIRST_FRAME, ITEM_FIELDS

LENGTHS = (130, 260, 3, 200, 150, 90)
SHARD_FRAMES = 300
"""Few enough for three shards."""


def made_up(seed: int, frames: int) -> Game:
    """A game with items, a few NaN of unusual bits, and everything in its information told apart by the seed."""
    game = synthetic_game(seed, frames, STAGES[seed % len(STAGES)].id, characters=(seed, 25 - seed))
    game.columns["misc_as"][: seed % 3, 1] = np.array([0xFFC01234 + seed], np.uint32).view(np.float32)
    game.items = {f.name: np.arange(seed % 4, dtype=f.store) for f in ITEM_FIELDS}
    game.items["frame"] = np.sort(game.items["frame"] % frames).astype(np.int32) + FIRST_FRAME
    game.info = GameInfo(
        stage=game.info.stage, characters=game.info.characters, ports=(seed % 2, 3), md5=f"{seed:x}" * 32,
        source=f"archive/{seed}.slp", version=(3, 9, seed), date=f"2024-01-0{seed + 1}", end_method=2,
        winner=seed % 3 - 1, names=("アリス", f"player {seed}"), random_seed=2**32 - 1 - seed, cut=bool(seed % 2),
        derived=("hitlag",) * (seed % 2),
    )  # fmt: skip
    return game


GAMES = [made_up(seed, frames) for seed, frames in enumerate(LENGTHS)]


def write(path: Path, games: list[Game]) -> Path:
    with DatasetWriter(path, SHARD_FRAMES) as writer:
        for game in games:
            writer.add(game, content=f"content of {game.info.md5}")
    return path


def assert_holds(path: Path, games: list[Game]) -> None:
    """The dataset has these games, bit for bit and of the same types."""
    data = Dataset(path)
    assert data.md5 == [game.info.md5 for game in games]
    assert data.frames.tolist() == [len(game) for game in games]
    for found, game in zip(data, games, strict=True):
        assert found.info == game.info
        assert found.first_frame == game.first_frame
        for name, column in found.columns.items():
            assert column.dtype == COLUMNS[name], name
            assert column.tobytes() == game.columns[name].tobytes(), name
        for name, column in found.items.items():
            assert column.dtype == game.items[name].dtype, name
            assert column.tobytes() == game.items[name].tobytes(), name
        assert set(found.columns) == set(COLUMNS)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("dataset") / "data", GAMES)


@pytest.fixture(scope="module")
def data(path: Path) -> Dataset:
    return Dataset(path)


# --- what is written is what is read ---------------------------------------------------------------------------------


def test_what_is_written_is_what_is_read(path) -> None:
    assert_holds(path, GAMES)


def test_games_lie_in_several_shards_and_nothing_else_is_left(path) -> None:
    files = sorted(p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file())
    shards = [f"shards/{n:06d}{kind}.arrow" for n in range(3) for kind in ("", ".items")]
    assert files == ["dataset.json", "index.arrow", *shards]


def test_a_frame_takes_what_the_layout_says(path) -> None:
    size = sum(p.stat().st_size for p in path.glob("shards/00000?.arrow"))
    assert 140 <= size / sum(LENGTHS) < 160


def test_stages_and_characters_are_at_hand_without_reading_games(data) -> None:
    assert data.stage.tolist() == [game.info.stage for game in GAMES]
    assert data.characters.tolist() == [list(game.info.characters) for game in GAMES]
    assert data.content == [f"content of {game.info.md5}" for game in GAMES]


def test_a_record_is_all_that_the_index_says(data) -> None:
    record = data.record(3)
    assert (record["md5"], record["frames"], record["first_frame"]) == ("3" * 32, 200, FIRST_FRAME)
    assert (record["names"], record["source"]) == (["アリス", "player 3"], "archive/3.slp")
    assert record["version"] == [3, 9, 3]
    assert record["content"] == f"content of {'3' * 32}"


@pytest.mark.parametrize(("start", "stop"), [(0, None), (10, 20), (0, 1), (-5, None), (100, 10_000), (20, 20)])
def test_a_part_of_a_game_is_a_slice_of_it(start: int, stop: int | None, data) -> None:
    columns = data.columns(1, start, stop)
    for name in COLUMNS:
        assert columns[name].tobytes() == GAMES[1].columns[name][start:stop].tobytes(), name


def test_items_of_a_part_are_those_of_its_frames(data) -> None:
    frames = GAMES[3].items["frame"]
    assert frames.tolist() == [FIRST_FRAME, FIRST_FRAME + 1, FIRST_FRAME + 2]
    for start, stop in [(0, 1), (1, 3), (2, None), (5, 9)]:
        assert data.items(3, start, stop)["frame"].tolist() == frames[start:stop].tolist()


def test_games_of_another_first_frame_keep_it(tmp_path) -> None:
    game = replace(made_up(3, 50), first_frame=700)
    game.items["frame"] += 700 - FIRST_FRAME
    assert_holds(write(tmp_path / "data", [GAMES[0], game]), [GAMES[0], game])
    state, _ = Dataset(tmp_path / "data").windows(np.array([1, 0]), np.array([5, 5]), 2)
    assert state["frame"].tolist() == [705, 706, FIRST_FRAME + 5, FIRST_FRAME + 6]


@st.composite
def asked(draw: st.DrawFn) -> tuple[list[int], list[int], int]:
    """Games in any order, also repeated, first rows, and a length that all of them have."""
    length = draw(st.integers(1, 80))
    games = draw(st.lists(st.sampled_from([g for g, n in enumerate(LENGTHS) if n >= length]), min_size=1, max_size=8))
    return games, [draw(st.integers(0, LENGTHS[g] - length)) for g in games], length


@given(asked=asked())
@settings(max_examples=60, deadline=None)
def test_windows_are_slices_of_games_across_shards(asked: tuple[list[int], list[int], int], data) -> None:
    games, starts, length = asked
    state, controllers = data.windows(np.array(games), np.array(starts), length)
    for i, (game, start) in enumerate(zip(games, starts, strict=True)):
        here = slice(i * length, (i + 1) * length)
        true, pads = GAMES[game].state().rows(slice(start, start + length)), GAMES[game].controllers()
        assert state.floats[here].tobytes() == true.floats.tobytes()
        assert np.array_equal(state.ints[here], true.ints)
        assert np.array_equal(state.match[here], true.match)
        assert np.array_equal(controllers[here], pads[start : start + length])
    assert (state.floats.dtype, state.ints.dtype, state.match.dtype) == (np.float32, np.int32, np.int32)
    assert controllers.dtype == np.float32


def test_a_game_is_found_by_the_beginning_of_its_md5(data) -> None:
    assert [data.find(game.info.md5[:5]) for game in GAMES] == list(range(len(GAMES)))


@pytest.mark.parametrize(("md5", "hits"), [("f", 0), ("", len(GAMES))])
def test_no_game_or_several_are_a_user_error(md5: str, hits: int, data) -> None:
    with pytest.raises(UserError, match=f"{hits} games have an MD5 that starts with '{md5}'"):
        data.find(md5)


def test_a_fingerprint_is_of_the_games_whatever_their_order() -> None:
    md5 = [game.info.md5 for game in GAMES]
    assert data_fingerprint(md5) == data_fingerprint(md5[::-1])
    assert data_fingerprint(md5) != data_fingerprint(md5[1:])


def test_a_dataset_may_hold_no_game(tmp_path) -> None:
    assert len(Dataset(write(tmp_path / "data", []))) == 0


# --- adding, and being interrupted -----------------------------------------------------------------------------------


def test_games_are_added_behind_those_of_an_existing_dataset(tmp_path) -> None:
    write(tmp_path / "data", GAMES[:2])
    before = {p: p.read_bytes() for p in tmp_path.glob("data/shards/*")}
    assert_holds(write(tmp_path / "data", GAMES[2:]), GAMES)
    assert {p: p.read_bytes() for p in before} == before


def test_values_that_the_layout_cannot_hold_are_refused_and_add_nothing(tmp_path) -> None:
    wrong = made_up(0, 20)
    wrong.columns["stocks"][3, 1] = 9
    with DatasetWriter(tmp_path / "data") as writer:
        writer.add(GAMES[0])
        with pytest.raises(ValueError, match=r"^stocks "):
            writer.add(wrong)
        writer.add(GAMES[1])
    assert_holds(tmp_path / "data", GAMES[:2])


class Stopped(Exception):
    pass


def interrupted(path: Path, games: list[Game]) -> None:
    with suppress(Stopped), DatasetWriter(path, SHARD_FRAMES) as writer:
        for game in games:
            writer.add(game)
        raise Stopped


def test_an_interrupted_writer_leaves_the_games_that_were_listed(tmp_path) -> None:
    path = write(tmp_path / "data", GAMES[:2])
    interrupted(path, GAMES[2:3])
    assert_holds(path, GAMES[:2])


def test_the_first_full_shard_of_an_interrupted_writer_is_listed(tmp_path) -> None:
    interrupted(tmp_path / "data", GAMES)
    assert_holds(tmp_path / "data", GAMES[:2])


def test_an_interrupted_writer_takes_the_shard_away_that_it_was_filling(tmp_path) -> None:
    interrupted(tmp_path / "data", GAMES)
    assert not list(tmp_path.glob("data/shards/*.tmp"))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the size of files is not limited")
def test_a_shard_for_which_there_is_no_room_is_refused_in_one_line_and_costs_nothing_that_is_listed(tmp_path) -> None:
    import resource

    path = write(tmp_path / "data", GAMES[:2])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(UserError, match=r"000001\.arrow: cannot be written \(File too large\)"):
            write(path, GAMES[2:])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert_holds(path, GAMES[:2])
    assert not list(path.glob("shards/*.tmp"))


def test_after_an_interruption_the_rest_can_be_added_and_no_stray_file_stays(tmp_path) -> None:
    interrupted(tmp_path / "data", GAMES)
    (tmp_path / "data" / "shards" / "000009.arrow").write_bytes(b"of a writer that was killed")
    (tmp_path / "data" / "index.arrow.tmp").write_bytes(b"of the same")
    assert_holds(write(tmp_path / "data", GAMES[2:]), GAMES)
    listed = {record["shard"] for record in map(Dataset(tmp_path / "data").record, range(len(GAMES)))}
    assert {int(p.name[:6]) for p in tmp_path.glob("data/shards/*")} == listed
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_writer_that_was_killed_before_its_first_listing_can_be_started_again(tmp_path) -> None:
    write(tmp_path / "data", GAMES)
    (tmp_path / "data" / "dataset.json").unlink()
    assert_holds(write(tmp_path / "data", GAMES[:3]), GAMES[:3])


def test_a_dataset_that_is_open_stays_as_it_was_while_games_are_added(tmp_path) -> None:
    data = Dataset(write(tmp_path / "data", GAMES[:2]))
    write(tmp_path / "data", GAMES[2:])
    assert len(data) == 2
    assert np.array_equal(data.columns(1)["x"], GAMES[1].columns["x"])


# --- what cannot be read or written ----------------------------------------------------------------------------------


def change(name: str, value: object) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        meta = json.loads((path / "dataset.json").read_text())
        (path / "dataset.json").write_text(json.dumps({**meta, name: value}))

    return edit


def overwrite(name: str, content: bytes) -> Callable[[Path], None]:
    def replace_content(path: Path) -> None:
        (path / name).write_bytes(content)

    return replace_content


def truncate(name: str, kept: float) -> Callable[[Path], None]:
    def cut(path: Path) -> None:
        content = (path / name).read_bytes()
        (path / name).write_bytes(content[: int(len(content) * kept)])

    return cut


def remove(name: str) -> Callable[[Path], None]:
    return lambda path: (path / name).unlink()


DAMAGE = {
    "another field table": (change("field_table", "0123456789abcdef"), "field table 0123456789abcdef.*build it again"),
    "a later format version": (change("version", 99), "melee-frames 99, this version reads.*build it again"),
    "another format": (change("format", "parquet"), "parquet.*build it again"),
    "no dataset.json": (remove("dataset.json"), "no dataset here; make one with"),
    "half a dataset.json": (truncate("dataset.json", 0.5), "dataset.json: damaged"),
    "an empty dataset.json": (overwrite("dataset.json", b""), "dataset.json: damaged"),
    "a dataset.json that is no text": (overwrite("dataset.json", bytes(range(256))), "dataset.json: damaged"),
    "a dataset.json without keys": (overwrite("dataset.json", b"{}"), "dataset.json: damaged"),
    "a dataset.json that is a list": (overwrite("dataset.json", b"[1, 2]"), "dataset.json: damaged"),
    "no index": (remove("index.arrow"), "index.arrow: missing"),
    "half an index": (truncate("index.arrow", 0.5), "index.arrow: damaged"),
    "an index cut by a little": (truncate("index.arrow", 0.99), "index.arrow: damaged"),
    "an empty index": (truncate("index.arrow", 0), "index.arrow: damaged"),
    "no shard": (remove("shards/000001.arrow"), "000001.arrow: missing"),
    "half a shard": (truncate("shards/000001.arrow", 0.5), "000001.arrow: damaged"),
    "a shard cut by a little": (truncate("shards/000001.arrow", 0.999), "000001.arrow: damaged"),
    "an empty shard": (truncate("shards/000001.arrow", 0), "000001.arrow: damaged"),
    "half the items of a shard": (truncate("shards/000001.items.arrow", 0.5), "000001.items.arrow: damaged"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_dataset_is_refused_with_one_line(damage: str, tmp_path) -> None:
    path = write(tmp_path / "data", GAMES)
    break_it, message = DAMAGE[damage]
    break_it(path)
    with pytest.raises(UserError, match=message) as caught:
        list(Dataset(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["nothing", "a file"])
def test_what_is_no_folder_is_no_dataset(name: str, tmp_path) -> None:
    (tmp_path / "a file").write_text("not a folder")
    with pytest.raises(UserError, match=f"{name}: no dataset here"):
        Dataset(tmp_path / name)


def test_a_writer_refuses_a_dataset_of_another_field_table_and_leaves_it_alone(tmp_path) -> None:
    path = write(tmp_path / "data", GAMES[:1])
    change("field_table", "0123456789abcdef")(path)
    before = {p: p.read_bytes() for p in path.rglob("*") if p.is_file()}
    with pytest.raises(UserError, match="field table 0123456789abcdef"):
        DatasetWriter(path)
    assert {p: p.read_bytes() for p in path.rglob("*") if p.is_file()} == before


def test_a_writer_refuses_a_folder_of_something_else(tmp_path) -> None:
    (tmp_path / "thesis.txt").write_text("chapter 1")
    with pytest.raises(UserError, match="not empty and no dataset"):
        DatasetWriter(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("place", ["file", "file/below", "file/far/below"])
def test_a_writer_refuses_a_place_that_cannot_be_written_before_any_game(place: str, tmp_path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=f"{place}: cannot be written"):
        DatasetWriter(tmp_path / place)


def test_text_replaces_an_older_file_and_leaves_nothing_where_it_cannot_be_written(tmp_path) -> None:
    write_text(tmp_path / "a.json", "old")
    write_text(tmp_path / "a.json", "new")
    (tmp_path / "folder").mkdir()
    for place in ("folder", "nowhere/b.json", "a.json/b.json"):
        with pytest.raises(UserError, match=rf"{place}: cannot be written \(.+\)"):
            write_text(tmp_path / place, "text")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.json", "folder"]
    assert (tmp_path / "a.json").read_text() == "new"
