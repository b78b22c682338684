"""A file is read into exactly the game that was written, or left out for the reason that it deserves."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from synthetic import GAME_SET, synthetic_game
from wm_runtime.replays.game import COLUMNS, Game
from wm_runtime.replays.reasons import REASONS, LeftOut
from wm_runtime.replays.slp import ReadOptions, read_slp
from wm_runtime.replays.writer import CPU, DEMO, NO_CONTEST, Oddities, write_slp
from wm_runtime.schema import FIRST_FRAME, ITEM_FIELDS, NO_PLAYER

REPLAYS = Path(__file__).parents[3] / "shared" / "replays"
GAME = synthetic_game(7, 300)
LAST = FIRST_FRAME + len(GAME) - 1


def with_column(name: str, value: object, at: tuple[int, int] = (20, 1)) -> Game:
    """GAME with one value replaced."""
    column = GAME.columns[name].copy()
    column[at] = value
    return Game(GAME.info, {**GAME.columns, name: column})


def with_info(**changes: object) -> Game:
    return replace(GAME, info=replace(GAME.info, **changes))


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., Game]:
    """(game, options of write_slp) → what `read_slp` reads of it."""

    def write_and_read(game: Game, **kwargs: object) -> Game:
        write_slp(tmp_path / "game.slp", game, **kwargs)  # type: ignore[arg-type]
        return read_slp(tmp_path / "game.slp")

    return write_and_read


def assert_same_columns(game: Game, columns: dict[str, np.ndarray]) -> None:
    """Bit for bit, and of the types that a game has."""
    assert set(game.columns) == set(COLUMNS)
    for name, column in game.columns.items():
        assert column.dtype == COLUMNS[name], name
        assert column.tobytes() == columns[name].tobytes(), name


# --- what is read ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [(3, 8, 0), (3, 12, 0), (3, 16, 0), (3, 19, 1)], ids=str)
def test_a_game_is_read_as_it_was_written(version, read) -> None:
    game = read(GAME, version=version)
    raw_y = GAME.columns["raw_y"] if version >= (3, 15, 0) else np.zeros((len(GAME), 2), np.int8)
    assert_same_columns(game, {**GAME.columns, "raw_y": raw_y})
    assert (game.first_frame, len(game)) == (FIRST_FRAME, len(GAME))
    assert game.info.version == version


def test_before_raw_y_was_recorded_it_is_zero(read) -> None:
    game = with_column("raw_y", -7)
    assert read(game, version=(3, 15, 0)).columns["raw_y"][20, 1] == -7
    assert not read(game, version=(3, 14, 0)).columns["raw_y"].any()


def test_what_is_known_of_the_game_is_read_too(tmp_path) -> None:
    path = tmp_path / "a game.slp"
    write_slp(path, with_info(stage=31, ports=(1, 3), names=("アリス", "bob"), date="2020-02-03T04:05:06Z"))
    info = read_slp(path).info
    assert (info.stage, info.characters, info.ports) == (31, (1, 22), (1, 3))
    assert (info.names, info.date, info.end_method) == (("アリス", "bob"), "2020-02-03T04:05:06Z", NO_CONTEST)
    assert (info.source, read_slp(path, source="archive/a.slp").info.source) == ("a game.slp", "archive/a.slp")
    assert len(info.md5) == 32
    write_slp(path, with_info(names=("x", "y")))
    assert read_slp(path).info.md5 != info.md5


def test_the_last_copy_of_a_rolled_back_frame_wins(read) -> None:
    resent = ((FIRST_FRAME, 2), (10, 7), (12, 3), (100, 1), (100, 1), (LAST, 1))
    assert_same_columns(read(GAME, oddities=Oddities(resent=resent)), GAME.columns)


def test_values_that_are_not_finite_are_read_where_they_mean_nothing(read) -> None:
    """`misc_as` holds whatever the action keeps there: any bits."""
    misc = GAME.columns["misc_as"].copy()
    misc[:4, 0] = np.array([0x7FC00001, 0xFFC00000, 0x7F800000, 0x80000000], np.uint32).view(np.float32)
    assert_same_columns(read(Game(GAME.info, {**GAME.columns, "misc_as": misc})), {**GAME.columns, "misc_as": misc})


@pytest.mark.parametrize("ports", [(0, 1), (1, 2), (0, 3), (2, 3)], ids=str)
def test_who_hit_last_is_a_player_index_whatever_the_ports(ports, read) -> None:
    hit_by = np.resize([0, 1, NO_PLAYER], GAME.columns["last_hit_by"].shape).astype(np.int32)
    game = with_info(ports=ports)
    game.columns = {**GAME.columns, "last_hit_by": hit_by}
    found = read(game)
    assert found.info.ports == ports
    assert np.array_equal(found.columns["last_hit_by"], hit_by)


def test_players_stand_in_the_order_of_their_ports(read) -> None:
    hit_by = np.resize([0, 1, NO_PLAYER], GAME.columns["last_hit_by"].shape).astype(np.int32)
    game = with_info(ports=(2, 0), names=("third port", "first port"), end_method=GAME_SET, winner=0)
    game.columns = {**GAME.columns, "last_hit_by": hit_by}
    found = read(game)
    assert (found.info.ports, found.info.names, found.info.winner) == ((0, 2), ("first port", "third port"), 1)
    assert found.info.characters == GAME.info.characters[::-1]
    assert np.array_equal(found.columns["x"], GAME.columns["x"][:, ::-1])
    assert np.array_equal(found.columns["last_hit_by"], np.array([1, 0, *[NO_PLAYER] * 5])[hit_by[:, ::-1]])


@pytest.mark.parametrize("ports", [(0, 1), (1, 3)], ids=str)
def test_items_are_those_of_the_last_copies_their_owners_player_indices(ports, read) -> None:
    n = np.arange(6)
    items = {f.name: n.astype(f.store) for f in ITEM_FIELDS}
    items["frame"] = np.array([10, 10, 11, 12, 12, LAST], np.int32)
    items["owner"] = np.array([0, 1, -1, 1, 0, -1], np.int8)
    game = replace(with_info(ports=ports), items=items)
    found = read(game, oddities=Oddities(resent=((10, 3), (LAST, 1)))).items
    assert set(found) == set(items)
    for name, column in found.items():
        assert column.tobytes() == items[name].tobytes(), name


def test_a_recording_that_broke_off_can_be_salvaged_up_to_its_last_whole_frame(tmp_path) -> None:
    write_slp(tmp_path / "cut.slp", GAME, oddities=Oddities(cut=True))
    game = read_slp(tmp_path / "cut.slp", options=ReadOptions(salvage=True))
    assert (game.info.cut, len(game)) == (True, len(GAME) - 1)
    assert_same_columns(game, {name: column[:-1] for name, column in GAME.columns.items()})


@pytest.mark.parametrize("version", [(3, 5, 0), (3, 6, 0), (3, 7, 0)], ids=str)
def test_where_only_hitlag_is_missing_it_can_be_worked_out(version, tmp_path) -> None:
    write_slp(tmp_path / "old.slp", GAME, version=version)
    game = read_slp(tmp_path / "old.slp", options=ReadOptions(derive=True))
    assert (game.info.derived, game.info.version) == (("hitlag",), version)
    assert GAME.columns["hitlag"].max() > 1
    recorded = {"raw_y": np.zeros((len(GAME), 2), np.int8), "hitlag": game.columns["hitlag"]}
    assert_same_columns(game, {**GAME.columns, **recorded})
    assert np.array_equal(game.columns["hitlag"] > 0, GAME.columns["flags_2"] & 0x20 > 0)


# --- who won ---------------------------------------------------------------------------------------------------------

NO_PLACEMENTS = (3, 9, 0)
"""A version that records who quit, and no placements."""


def ending(stocks: tuple[int, int], percent: tuple[float, float], **info: object) -> Game:
    """GAME that ends so."""
    columns = {name: GAME.columns[name].copy() for name in ("stocks", "percent")}
    columns["stocks"][-1], columns["percent"][-1] = stocks, percent
    return Game(replace(GAME.info, **info), {**GAME.columns, **columns})


@pytest.mark.parametrize("winner", [0, 1])
@pytest.mark.parametrize("ports", [(0, 1), (1, 3)], ids=str)
def test_the_recorded_placement_says_who_won_before_all_else(winner, ports, read) -> None:
    stocks = (1, 4) if winner == 0 else (4, 1)
    game = ending(stocks, (0, 0), ports=ports, end_method=GAME_SET, winner=winner)
    assert read(game, version=(3, 16, 0)).info.winner == winner


@pytest.mark.parametrize("winner", [0, 1])
@pytest.mark.parametrize("ports", [(0, 1), (1, 3)], ids=str)
def test_without_placements_who_quits_has_lost(winner, ports, read) -> None:
    stocks = (1, 4) if winner == 0 else (4, 1)
    game = ending(stocks, (0, 0), ports=ports, end_method=NO_CONTEST, winner=winner)
    assert read(game, version=NO_PLACEMENTS).info.winner == winner


@pytest.mark.parametrize(
    ("stocks", "percent", "winner"),
    [((2, 1), (99, 0), 0), ((1, 2), (0, 99), 1), ((2, 2), (30, 31), 0), ((2, 2), (31, 30), 1), ((2, 2), (30, 30), -1)],
)
@pytest.mark.parametrize("end_method", [0, GAME_SET])
def test_without_either_stocks_decide_then_percent(stocks, percent, winner, end_method, read) -> None:
    game = ending(stocks, percent, end_method=end_method, winner=-1)
    assert read(game, version=NO_PLACEMENTS).info.winner == winner


def test_placements_that_are_level_leave_it_to_the_stocks(read) -> None:
    assert read(ending((1, 3), (0, 0), end_method=NO_CONTEST, winner=-1), version=(3, 16, 0)).info.winner == 1


# --- what is left out ------------------------------------------------------------------------------------------------


def left_out(path: Path) -> LeftOut:
    with pytest.raises(LeftOut) as caught:
        read_slp(path)
    assert caught.value.reason in REASONS
    assert "\n" not in str(caught.value)
    return caught.value


EVERY_FRAME = tuple(range(FIRST_FRAME, LAST + 1))
ODD = {
    "before velocities": ("version", GAME, {"version": (2, 0, 0)}),
    "before hitlag": ("version", GAME, {"version": (3, 7, 0)}),
    "three players": ("players", GAME, {"oddities": Oddities(third_player=True)}),
    "teams": ("players", GAME, {"oddities": Oddities(teams=True)}),
    "a demo": ("players", GAME, {"oddities": Oddities(types=(DEMO, DEMO))}),
    "a computer at the first port": ("cpu", GAME, {"oddities": Oddities(types=(CPU, 0))}),
    "a computer at the second port": ("cpu", GAME, {"oddities": Oddities(types=(0, CPU))}),
    "few items": ("items", GAME, {"oddities": Oddities(item_spawn_frequency=0)}),
    "many items": ("items", GAME, {"oddities": Oddities(item_spawn_frequency=4)}),
    "Ice Climbers": ("ice_climbers", GAME, {"oddities": Oddities(ice_climbers=0)}),
    "two Ice Climbers rolled back": ("ice_climbers", GAME, {"oddities": Oddities(ice_climbers=1, resent=((5, 3),))}),
    "another stage": ("stage", with_info(stage=14), {}),
    "a frame missing": ("gaps", GAME, {"oddities": Oddities(missing=(50,))}),
    "the first frame missing": ("gaps", GAME, {"oddities": Oddities(missing=(FIRST_FRAME,))}),
    "no frames": ("gaps", GAME, {"oddities": Oddities(missing=EVERY_FRAME)}),
    "a player missing for a frame": ("gaps", GAME, {"oddities": Oddities(absent=(50,))}),
    "a position that is no number": ("non_finite", with_column("x", np.nan), {}),
    "an infinite velocity": ("non_finite", with_column("knockback_y", -np.inf), {}),
    "a stick that is no number": ("non_finite", with_column("c_x", np.nan), {}),
    "more jumps than anyone has": ("values", with_column("jumps", 7), {}),
    "an unknown action": ("values", with_column("action", 400), {}),
    "five stocks": ("values", with_column("stocks", 5), {}),
    "bookends that peppi-py panics on": ("unreadable", GAME, {"version": (3, 2, 0)}),
    "the same, with velocities": ("unreadable", GAME, {"version": (3, 6, 0)}),
    "a recording that broke off": ("unreadable", GAME, {"oddities": Oddities(cut=True)}),
}


@pytest.mark.parametrize("case", ODD)
def test_what_does_not_belong_is_left_out_for_its_reason(case: str, tmp_path) -> None:
    reason, game, options = ODD[case]
    write_slp(tmp_path / "odd.slp", game, **options)
    assert left_out(tmp_path / "odd.slp").reason == reason


def test_every_reason_but_that_of_a_build_is_reached() -> None:
    assert {reason for reason, _, _ in ODD.values()} == set(REASONS) - {"duplicate", "same_game", "filtered"}


def test_a_value_that_is_not_finite_is_named(tmp_path) -> None:
    write_slp(tmp_path / "odd.slp", with_column("percent", np.inf))
    assert left_out(tmp_path / "odd.slp").detail == "percent"


def test_a_direction_that_is_no_number_is_not_finite(tmp_path) -> None:
    """It is recorded as a float and kept as an integer."""
    columns = {**GAME.columns, "facing": GAME.columns["facing"].astype(np.float32)}
    columns["facing"][3, 0] = np.nan
    write_slp(tmp_path / "odd.slp", Game(GAME.info, columns))
    assert (left_out(tmp_path / "odd.slp").reason, left_out(tmp_path / "odd.slp").detail) == ("non_finite", "facing")


@pytest.mark.parametrize("content", [b"", b"Marth beats Fox.\n", b"{U\x03raw[$U#l", bytes(range(256)) * 40], ids=len)
def test_what_is_no_replay_is_unreadable(content: bytes, tmp_path) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    assert left_out(path).reason == "unreadable"


def test_a_folder_and_a_file_that_is_not_there_are_unreadable(tmp_path) -> None:
    assert left_out(tmp_path).reason == "unreadable"
    assert left_out(tmp_path / "nothing.slp").reason == "unreadable"


@pytest.mark.parametrize("kept", [0.02, 0.5, 0.99])
def test_a_truncated_replay_is_unreadable(kept: float, tmp_path) -> None:
    write_slp(tmp_path / "game.slp", GAME)
    content = (tmp_path / "game.slp").read_bytes()
    (tmp_path / "game.slp").write_bytes(content[: int(len(content) * kept)])
    assert left_out(tmp_path / "game.slp").reason == "unreadable"


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("short") / "game.slp"
    write_slp(path, synthetic_game(1, 5))
    return path.read_bytes()


@given(changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=4))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_damaged_the_outcome_is_a_whole_game_or_a_reason(changes, short, tmp_path) -> None:
    content = bytearray(short)
    for place, value in changes:
        content[int(place * len(content))] = value
    path = tmp_path / "damaged.slp"
    path.write_bytes(content)
    try:
        shapes = {column.shape for column in read_slp(path).columns.values()}
        reason = None
    except LeftOut as error:
        shapes, reason = set(), error.reason
    assert reason in REASONS or (len(shapes) == 1 and shapes.pop()[1] == 2)


# --- real replays ----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not REPLAYS.exists(), reason="no real replays beside the repository")
@pytest.mark.parametrize("split", ["real", "broken"])
def test_every_real_replay_has_the_outcome_that_its_manifest_names(split: str, tmp_path) -> None:
    sys.path.insert(0, str(REPLAYS))
    from slppack import unpack

    manifest = json.loads((REPLAYS / "manifest.json").read_text())[split]
    wrong, seen, path = {}, set(), tmp_path / "replay.slp"
    for info, content in unpack(REPLAYS / "packs" / f"{split}.slppack"):
        expected = manifest[info["name"]]
        seen.add(info["name"])
        path.write_bytes(content)
        try:
            game = read_slp(path)
            right = expected["expected"] == "taken" and game.info.md5 == expected["md5"]
            outcome = "taken"
        except LeftOut as error:
            right = expected["expected"] == "left_out" and error.reason in expected["reasons"]
            outcome = error.reason
        if not right:
            wrong[info["name"]] = outcome
    assert wrong == {}
    assert seen == set(manifest)
