"""What is written as .slp comes back through peppi-py exactly, and each oddity is what peppi-py then sees."""

import io
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import peppi_py
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from peppi_py._peppi import read_slippi as read_arrow

from synthetic import synthetic_game
from wm_runtime.errors import UserError
from wm_runtime.facts import CHARACTERS, STAGES, character
from wm_runtime.replays.game import COLUMNS, Game, GameInfo
from wm_runtime.replays.writer import CPU, Oddities, write_slp
from wm_runtime.schema import CONTROLS, FIELD, FIELDS, FIRST_FRAME, NO_PLAYER, RECORDED

REPLAYS = Path(__file__).parents[3] / "shared" / "replays"
VERSIONS = [(2, 0, 0), (2, 2, 0), (3, 7, 0), (3, 8, 0), (3, 9, 1), (3, 12, 0), (3, 14, 0), (3, 16, 0), (3, 19, 1)]
PAYLOADS = {
    (2, 0, 0): {0x36: 418, 0x37: 63, 0x38: 51, 0x39: 2},
    (2, 2, 0): {0x36: 418, 0x37: 63, 0x38: 52, 0x39: 2, 0x3A: 8},
    (3, 0, 0): {0x36: 418, 0x37: 63, 0x38: 52, 0x39: 2, 0x3A: 8, 0x3B: 37, 0x3C: 4},
    (3, 7, 0): {0x36: 420, 0x37: 63, 0x38: 72, 0x39: 2, 0x3A: 8, 0x3B: 42, 0x3C: 8},
    (3, 9, 1): {0x36: 584, 0x37: 63, 0x38: 76, 0x39: 2, 0x3A: 8, 0x3B: 42, 0x3C: 8},
    (3, 12, 0): {0x36: 701, 0x37: 63, 0x38: 80, 0x39: 2, 0x3A: 12, 0x3B: 42, 0x3C: 8},
    (3, 14, 0): {0x36: 760, 0x37: 63, 0x38: 80, 0x39: 6, 0x3A: 12, 0x3B: 42, 0x3C: 8},
    (3, 16, 0): {0x36: 760, 0x37: 64, 0x38: 84, 0x39: 6, 0x3A: 12, 0x3B: 44, 0x3C: 8},
    (3, 17, 0): {0x36: 760, 0x37: 66, 0x38: 84, 0x39: 6, 0x3A: 12, 0x3B: 44, 0x3C: 8},
}
"""Payload sizes that real replays of these versions state (of 3.0, none of which is at hand, those of SPEC.md)."""
GAME = synthetic_game(7, 600)
SOURCES = {row.name: row.source for row in (*FIELDS, *(c for c in CONTROLS if not c.bit), *RECORDED)}


def written(game: Game, **kwargs: object) -> bytes:
    file = io.BytesIO()
    write_slp(file, game, **kwargs)  # type: ignore[arg-type]
    return file.getvalue()


@pytest.fixture
def read(tmp_path: Path):
    """(game, options of write_slp) → what peppi-py reads of it."""

    def write_and_read(game: Game, **kwargs: object) -> peppi_py.Game:
        write_slp(tmp_path / "game.slp", game, **kwargs)  # type: ignore[arg-type]
        return peppi_py.read_slippi(str(tmp_path / "game.slp"))

    return write_and_read


def columns_of(replay: peppi_py.Game, ports: tuple[int, int] = (0, 1)) -> dict[str, np.ndarray]:
    """Columns (rows of the file, 2) of what was recorded; `last_hit_by` as player index."""
    columns = {}
    for name, source in SOURCES.items():
        sides = []
        for port in replay.frames.ports[:2]:
            value = port.leader
            for part in source.split("."):
                value = value and (value[int(part)] if part.isdigit() else getattr(value, part))
            sides.append(value)
        if sides[0] is not None:
            columns[name] = np.stack([side.to_numpy(zero_copy_only=False) for side in sides], 1).astype(COLUMNS[name])
    index = {port: i for i, port in enumerate(ports)} | {NO_PLAYER: NO_PLAYER}
    columns["last_hit_by"] = np.vectorize(index.get)(columns["last_hit_by"])
    return columns


def last_copies(replay: peppi_py.Game) -> np.ndarray:
    """Rows that count, in the order of frames."""
    row_of = {frame: row for row, frame in enumerate(replay.frames.id.to_pylist())}
    return np.array([row_of[frame] for frame in sorted(row_of)])


def assert_same(columns: dict[str, np.ndarray], game: Game, rows: np.ndarray | slice = slice(None)) -> None:
    """Bit for bit, so that NaN equals itself and −0 differs from 0."""
    for name, column in columns.items():
        assert column[rows].tobytes() == game.columns[name].astype(column.dtype).tobytes(), name


def payload_sizes(replay: bytes) -> dict[int, int]:
    table = replay[17 : 16 + replay[16]]
    return {table[i]: int.from_bytes(table[i + 1 : i + 3], "big") for i in range(0, len(table), 3)}


# --- what a replay holds ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS, ids=str)
def test_every_column_that_the_version_has_comes_back_exactly(version, read) -> None:
    replay = read(GAME, version=version)
    columns = columns_of(replay)
    assert tuple(replay.start.slippi.version) == version
    assert replay.frames.id.to_pylist() == list(range(FIRST_FRAME, FIRST_FRAME + len(GAME)))
    assert_same(columns, GAME)
    later = {"hurtbox": (2, 1), "self_x_air": (3, 5), "knockback_y": (3, 5), "hitlag": (3, 8), "raw_y": (3, 15)}
    assert {name for name in later if name in columns} == {name for name, added in later.items() if version >= added}
    assert set(COLUMNS) - set(columns) <= {*later, "self_y", "knockback_x", "self_x_ground"}


@pytest.mark.parametrize("version", [(3, 0, 0), (3, 6, 0)], ids=str)
def test_of_versions_whose_frames_peppi_cannot_hold_the_rest_reads(version, tmp_path) -> None:
    """From 3.0 to 3.6 a bookend holds nothing but its frame, and peppi-py 0.8.6 panics on an empty structure."""
    write_slp(tmp_path / "game.slp", GAME, version=version)
    replay = peppi_py.read_slippi(str(tmp_path / "game.slp"), skip_frames=True)
    assert (tuple(replay.start.slippi.version), int(replay.end.method)) == (version, GAME.info.end_method)
    with pytest.raises(BaseException, match="at least one field"):
        peppi_py.read_slippi(str(tmp_path / "game.slp"))


@pytest.mark.parametrize("version", PAYLOADS, ids=str)
def test_payload_sizes_are_those_of_real_replays(version) -> None:
    assert payload_sizes(written(synthetic_game(0, 5), version=version)) == PAYLOADS[version]


@pytest.mark.parametrize("stage", STAGES, ids=lambda s: s.name)
def test_the_setup_comes_back(stage, read) -> None:
    game = synthetic_game(3, 150, stage.id, characters=(18, 7))
    game.info = replace(game.info, ports=(1, 3), names=("アリス", "bob"), date="2020-02-03T04:05:06Z")
    replay = read(game)
    start = replay.start
    assert (start.stage, start.is_teams, start.item_spawn_frequency, start.timer) == (stage.id, False, -1, 480)
    assert [(int(p.port), p.character, int(p.type), p.stocks) for p in start.players] == [(1, 9, 0, 4), (3, 19, 0, 4)]
    assert [p.netplay.name for p in start.players] == ["アリス", "bob"]
    assert replay.metadata["startAt"] == "2020-02-03T04:05:06Z"
    assert (replay.metadata["lastFrame"], replay.metadata["playedOn"]) == (26, "dolphin")
    assert replay.metadata["players"]["3"] == {"names": {"netplay": "bob", "code": ""}, "characters": {"7": 150}}


@pytest.mark.parametrize("fighter", [c for c in CHARACTERS if c.selection_id is not None], ids=lambda c: c.name)
def test_frames_hold_internal_and_setup_selection_ids(fighter, read) -> None:
    replay = read(synthetic_game(0, 10, characters=(fighter.internal_id, 2)))
    assert replay.start.players[0].character == fighter.selection_id
    assert replay.frames.ports[0].leader.post.character.to_pylist() == [fighter.internal_id] * 10


@pytest.mark.parametrize("ports", [(0, 1), (0, 3), (2, 3)], ids=str)
def test_who_hit_last_is_a_port_in_the_file_and_an_index_in_the_game(ports, read) -> None:
    game = synthetic_game(1, 300)
    game.info = replace(game.info, ports=ports)
    game.columns["last_hit_by"][:] = np.resize([0, 1, NO_PLAYER], game.columns["last_hit_by"].shape)
    replay = read(game)
    assert set(replay.frames.ports[0].leader.post.last_hit_by.to_pylist()) == {*ports, NO_PLAYER}
    assert_same(columns_of(replay, ports), game)


@pytest.mark.parametrize(
    ("method", "winner", "quitter", "placements"),
    [(2, 0, None, [0, 1]), (1, 1, None, [1, 0]), (7, 1, 0, [1, 0]), (7, -1, None, [0, 0])],
)
def test_the_end_comes_back(method, winner, quitter, placements, read) -> None:
    end = read(replace(GAME, info=replace(GAME.info, end_method=method, winner=winner))).end
    assert (int(end.method), end.lras_initiator) == (method, quitter)
    assert [p.placement for p in end.players] == placements


def test_a_game_without_a_recorded_end_has_none(read) -> None:
    replay = read(replace(GAME, info=replace(GAME.info, end_method=0)))
    assert replay.end is None
    assert replay.metadata["lastFrame"] == FIRST_FRAME + len(GAME) - 1


def test_processed_buttons_follow_from_the_controller(read) -> None:
    game = synthetic_game(1, 6)
    for name in ("main_x", "main_y", "c_x", "c_y", "shoulder", "buttons"):
        game.columns[name][:] = 0
    game.columns["main_x"][1], game.columns["main_y"][2], game.columns["c_x"][3] = 1, -0.5, -0.7
    game.columns["shoulder"][4], game.columns["buttons"][5] = 0.5, 0x0010
    buttons = read(game).frames.ports[1].leader.pre.buttons.to_pylist()
    assert buttons == [0, 0x0008_0000, 0x0002_0000, 0x0040_0000, 0x8000_0000, 0x0110]


def test_a_pre_frame_event_holds_the_new_controller_and_the_state_before(read) -> None:
    leader = read(GAME).frames.ports[0].leader
    before, after = leader.pre.position.x.to_numpy(), leader.post.position.x.to_numpy()
    assert np.array_equal(before[1:], after[:-1])
    assert leader.pre.state.to_pylist()[1:] == leader.post.state.to_pylist()[:-1]


def test_the_dead_and_those_who_enter_have_no_animation(read) -> None:
    post = read(GAME).frames.ports[1].leader.post
    state, animation = post.state.to_numpy(), post.animation_index.to_numpy()
    assert animation[0] == 0xFFFFFFFF
    assert (animation[state == 14] == 14).all()


values = {"float32": st.floats(width=32), "int8": st.integers(-128, 127), "uint16": st.integers(0, 0xFFFF)}


@st.composite
def games(draw: st.DrawFn) -> Game:
    """Two frames of arbitrary values that the field table allows; floats of any kind."""
    columns = {}
    for name, dtype in COLUMNS.items():
        field = FIELD.get(name)
        if field and field.dtype == "int32":
            allowed = st.sampled_from(field.values) if field.values else st.integers(int(field.low), int(field.high))
        else:
            allowed = values[str(dtype)]
        if name == "last_hit_by":
            allowed = st.sampled_from((0, 1, NO_PLAYER))
        columns[name] = np.array(draw(st.lists(allowed, min_size=4, max_size=4)), dtype).reshape(2, 2)
    return Game(GameInfo(stage=31, characters=(0, 26)), columns)


@given(game=games())
@settings(max_examples=60, deadline=None)
def test_any_values_of_the_field_table_come_back(game: Game, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "any.slp"
    write_slp(path, game)
    assert_same(columns_of(peppi_py.read_slippi(str(path))), game)


def test_values_that_are_not_finite_come_back(read) -> None:
    game = synthetic_game(2, 20)
    game.columns["x"][5, 0], game.columns["percent"][6, 1], game.columns["c_y"][7, 0] = np.nan, np.inf, -np.inf
    assert_same(columns_of(read(game)), game)


# --- projectiles -----------------------------------------------------------------------------------------------------


def items(frames: list[int]) -> dict[str, np.ndarray]:
    """A column for each field of the item event, a different value in each row."""
    n = np.arange(len(frames))
    return {
        "frame": np.array(frames), "type": 0x36 + n, "state": n, "facing": np.where(n % 2, 1.0, -1.0),
        "self_x": n * 0.5, "self_y": -n * 0.25, "x": n - 40.0, "y": n + 3.0, "damage": n, "timer": 100.0 - n,
        "spawn_id": n // 2, "misc_0": n, "misc_1": n + 1, "misc_2": n + 2, "misc_3": n + 3, "owner": n % 3 - 1,
        "instance": n + 9,
    }  # fmt: skip


def test_projectiles_come_back_frame_by_frame(tmp_path) -> None:
    game = synthetic_game(2, 60)
    game.info = replace(game.info, ports=(0, 2))
    sent = items([-120, -120, -119, -100, -100, -100, FIRST_FRAME + 59])
    write_slp(tmp_path / "game.slp", replace(game, items=sent))
    rows = read_arrow(str(tmp_path / "game.slp"), False).frames.field("item").to_pylist()
    assert [FIRST_FRAME + i for i, row in enumerate(rows) for _ in row] == sent["frame"].tolist()
    for i, item in enumerate(item for row in rows for item in row):
        assert (item["type"], item["state"], item["id"], item["damage"]) == (0x36 + i, i, i // 2, i)
        assert (item["direction"], item["timer"]) == (1 if i % 2 else -1, 100 - i)
        assert item["velocity"] == {"x": i * 0.5, "y": -i * 0.25}
        assert item["position"] == {"x": i - 40, "y": i + 3}
        assert list(item["misc"].values()) == [i, i + 1, i + 2, i + 3]
        assert item["owner"] == (-1, 0, 2)[i % 3]
        assert item["instance_id"] == i + 9


def test_versions_before_projectiles_leave_them_out(read) -> None:
    assert_same(columns_of(read(replace(GAME, items=items([0, 1])), version=(2, 2, 0))), GAME)


# --- oddities --------------------------------------------------------------------------------------------------------


def odd(**kwargs: object) -> dict[str, Oddities]:
    return {"oddities": Oddities(**kwargs)}  # type: ignore[arg-type]


def test_a_rolled_back_frame_is_sent_wrong_first_and_right_last(read) -> None:
    replay = read(GAME, **odd(resent=((10, 3), (100, 1), (100, 2))))
    ids = replay.frames.id.to_pylist()
    assert [frame for frame in ids if frame in range(9, 15)] == [9, 10, 11, 12, 10, 11, 12, 13, 14]
    assert [frame for frame in ids if frame in range(99, 103)] == [99, 100, 100, 101, 100, 101, 102]
    columns = columns_of(replay)
    assert_same(columns, GAME, last_copies(replay))
    first = ids.index(10)
    for name in ("x", "percent", "main_x", "buttons"):
        assert (columns[name][first] != GAME.columns[name][10 - FIRST_FRAME]).all(), name


def test_a_frame_is_final_only_when_it_is_not_sent_again(tmp_path) -> None:
    write_slp(tmp_path / "game.slp", GAME, **odd(resent=((10, 3),)))
    frames = read_arrow(str(tmp_path / "game.slp"), False).frames
    final = frames.field("end").field("latest_finalized_frame").to_pylist()
    ids = frames.field("id").to_pylist()
    at = ids.index(9)
    assert list(zip(ids, final, strict=True))[at : at + 6] == [(9, 9), (10, 9), (11, 9), (12, 9), (10, 10), (11, 11)]


def test_missing_frames_are_missing(read) -> None:
    ids = read(GAME, **odd(missing=(5, 6, 200))).frames.id.to_pylist()
    assert set(range(FIRST_FRAME, FIRST_FRAME + len(GAME))) - set(ids) == {5, 6, 200}


def test_a_file_may_have_no_frames(read) -> None:
    assert len(read(GAME, **odd(missing=tuple(range(-123, 600)))).frames.id) == 0


def test_an_absent_player_has_no_values_there(read) -> None:
    ports = read(GAME, **odd(absent=(50, 51))).frames.ports
    assert [port.leader.post.percent.null_count for port in ports] == [0, 2]


def test_a_computer_player_is_one(read) -> None:
    players = read(GAME, **odd(types=(0, CPU))).start.players
    assert [(int(p.type), p.cpu_level) for p in players] == [(0, None), (1, 1)]


def test_a_third_player_takes_a_free_port(read) -> None:
    game = replace(GAME, info=replace(GAME.info, ports=(0, 2)))
    replay = read(game, **odd(third_player=True))
    assert [int(p.port) for p in replay.start.players] == [0, 1, 2]
    assert len(replay.frames.ports) == 3
    assert replay.frames.ports[1].leader.post.position.x.equals(replay.frames.ports[0].leader.post.position.x)


def test_ice_climbers_have_a_follower(read) -> None:
    replay = read(GAME, **odd(ice_climbers=1))
    assert replay.start.players[1].character == character("ICE_CLIMBERS").selection_id
    first, second = replay.frames.ports
    assert first.follower is None
    assert set(second.follower.post.character.to_pylist()) == {11}
    assert set(second.leader.post.character.to_pylist()) == {10}
    assert second.follower.pre.joystick.x.equals(second.leader.pre.joystick.x)


def test_teams_and_items_are_on_where_asked(read) -> None:
    start = read(GAME, **odd(teams=True, item_spawn_frequency=3)).start
    assert (start.is_teams, start.item_spawn_frequency) == (True, 3)
    assert [p.team.color for p in start.players] == [0, 1]


def test_a_cut_file_has_no_length_and_does_not_read(tmp_path) -> None:
    path = tmp_path / "cut.slp"
    write_slp(path, GAME, **odd(cut=True))
    assert path.read_bytes()[11:15] == b"\0\0\0\0"
    assert b"metadata" not in path.read_bytes()
    with pytest.raises(OSError, match="fill whole buffer"):
        peppi_py.read_slippi(str(path))


# --- the file --------------------------------------------------------------------------------------------------------


def test_a_file_object_gets_the_same_bytes_as_a_path(tmp_path) -> None:
    write_slp(tmp_path / "game.slp", GAME)
    assert (tmp_path / "game.slp").read_bytes() == written(GAME)


def test_nothing_is_left_beside_the_file_and_it_replaces_an_older_one(tmp_path) -> None:
    (tmp_path / "game.slp").write_text("old")
    write_slp(tmp_path / "game.slp", GAME)
    assert [path.name for path in tmp_path.iterdir()] == ["game.slp"]
    assert (tmp_path / "game.slp").stat().st_size > 10_000


@pytest.mark.parametrize("folder", ["nowhere", "file"])
def test_a_folder_that_is_none_is_a_user_error(folder: str, tmp_path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=rf"cannot write .*{folder}.*choose a folder"):
        write_slp(tmp_path / folder / "game.slp", GAME)


def test_writing_does_not_change_the_game() -> None:
    game = synthetic_game(4, 50)
    before = {name: column.copy() for name, column in game.columns.items()}
    written(game, **odd(resent=((-100, 5),)))
    assert all(np.array_equal(before[name], column) for name, column in game.columns.items())


# --- real replays ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real_replays() -> dict[str, bytes]:
    """A real replay of each version that is in the first pack of `val`."""
    sys.path.insert(0, str(REPLAYS))
    from slppack import unpack

    versions = {
        name: entry["version"] for name, entry in json.loads((REPLAYS / "manifest.json").read_text())["val"].items()
    }
    return {versions[info["name"]]: data for info, data in unpack(REPLAYS / "packs" / "val-00.slppack")}


@pytest.mark.skipif(not REPLAYS.exists(), reason="no real replays beside the repository")
@pytest.mark.parametrize("version", ["3.9.0", "3.13.0", "3.14.0", "3.15.0", "3.19.1"])
def test_real_games_come_back_exactly(version: str, real_replays, read, tmp_path) -> None:
    (tmp_path / "real.slp").write_bytes(real_replays[version])
    real = peppi_py.read_slippi(str(tmp_path / "real.slp"))
    ports = tuple(int(p.port) for p in real.start.players)
    rows = last_copies(real)
    columns = {name: column[rows] for name, column in columns_of(real, ports).items()}
    columns.setdefault("raw_y", np.zeros((len(rows), 2), np.int8))
    internal = tuple(columns["character"][0].tolist())
    game = Game(GameInfo(stage=real.start.stage, characters=internal, ports=ports), columns)
    again = read(game, version=tuple(real.start.slippi.version))
    assert_same(columns_of(again, ports), game)
    assert again.start.stage == real.start.stage
    assert [p.character for p in again.start.players] == [p.character for p in real.start.players]
