"""Every rule holds in whole, lawful games, is broken where a break was made, and knows the exceptions of real games."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from synthetic import synthetic_game
from wm_runtime.facts import STAGES, TIMING, character, stage
from wm_runtime.replays.audit import LABELS, SITUATIONS, audit
from wm_runtime.replays.dataset import Dataset, DatasetWriter
from wm_runtime.replays.game import COLUMNS, Game, GameInfo
from wm_runtime.replays.rules import RULE, RULES, reads
from wm_runtime.schema import NO_PLAYER
from wm_tools import replays_look

Columns = dict[str, np.ndarray]
STAND, DASH, TURN, SHIELD, JAB, THROWN, LEDGE_CATCH, BOUNCE = 14, 20, 18, 179, 44, 239, 252, 247
FALL, LASER, TEETER, ROLL, SHIELD_BREAK, TUMBLE = 29, 341, 245, 233, 205, 38
HURT, SPIN, DOWN, LEDGE_ROLL, LEDGE_JUMP, CAPTURED, THROW = 79, 91, 191, 259, 263, 276, 221
FOX, FALCO, MARIO, SAMUS, ZELDA, SHEIK = (
    character(name).internal_id for name in ("FOX", "FALCO", "MARIO", "SAMUS", "ZELDA", "SHEIK")
)
FINAL_DESTINATION, STADIUM = stage(32), stage(3)
AT = 3
"""The frame on which a case happens."""


def standing(frames: int = 8) -> Columns:
    """Mario and Falco stand on Final Destination and do nothing."""
    columns = {name: np.zeros((frames, 2), dtype) for name, dtype in COLUMNS.items()}
    columns["x"][:] = (-20, 20)
    columns["facing"][:] = (1, -1)
    columns["character"][:] = (MARIO, FALCO)
    columns["last_hit_by"][:] = NO_PLAYER
    for name, value in {"y": 0.0001, "shield": 60, "action": STAND, "ground": 1, "jumps": 2, "stocks": 4}.items():
        columns[name][:] = value
    return columns


def put(**values: object) -> Callable[[Columns], None]:
    """Player 1 has these values from frame AT on; a tuple gives them frame by frame, from AT - 1 on, and then stays."""

    def change(columns: Columns) -> None:
        for name, value in values.items():
            steps = value if isinstance(value, tuple) else (columns[name][AT - 1, 0], value)
            for frame, step in enumerate(steps, AT - 1):
                columns[name][frame:, 0] = step

    return change


def always(**values: object) -> Callable[[Columns], None]:
    """Player 1 has these values on every frame."""

    def change(columns: Columns) -> None:
        for name, value in values.items():
            columns[name][:, 0] = value

    return change


def breaks(name: str, columns: Columns, place=FINAL_DESTINATION) -> list[list[int]]:
    """[frame, player] of every break of a rule."""
    checked, broken = RULE[name].check(columns, place)
    assert checked.shape == broken.shape == columns["x"][1:].shape
    assert checked.dtype == broken.dtype == bool
    assert not (broken & ~checked).any()
    return [[frame + 1, *rest] for frame, *rest in np.argwhere(broken).tolist()]


def every_break(columns: Columns, place=FINAL_DESTINATION) -> dict[str, list[list[int]]]:
    found = {rule.name: breaks(rule.name, columns, place) for rule in RULES}
    return {name: where for name, where in found.items() if where}


def dying(action: int, frames: int, stock_at: int) -> Columns:
    """Player 1 dies on frame AT, comes back, waits on the platform and falls from it."""
    rebirth, wait = TIMING["rebirth"], 20
    columns = standing(AT + frames + rebirth + wait + 5)
    place = FINAL_DESTINATION.rebirth
    first, back = AT, AT + frames
    column = {name: values[:, 0] for name, values in columns.items()}
    column["action"][first:back] = action
    column["stocks"][first + stock_at :] = 3
    column["x"][first:back], column["y"][first:back], column["airborne"][first:] = 250, 0, 1
    column["percent"][:back] = 80
    column["action"][back : back + rebirth] = 12
    column["self_y"][back : back + rebirth] = (place.y_platform - place.y_from) / (rebirth - 1)
    column["x"][back:] = place.x[0]
    column["y"][back:] = np.linspace(place.y_from, place.y_platform, rebirth)[-1]
    column["y"][back : back + rebirth] = np.linspace(place.y_from, place.y_platform, rebirth)
    column["self_y"][back + rebirth :] = 0
    column["action"][back + rebirth : back + rebirth + wait] = 13
    column["action"][back + rebirth + wait :] = FALL
    return columns


def test_nothing_breaks_a_rule_where_nothing_happens():
    assert every_break(standing()) == {}


@pytest.mark.parametrize("place", STAGES, ids=lambda place: place.name)
def test_made_up_games_keep_every_rule(place):
    game = synthetic_game(place.id, 1000, place.id, characters=(22, 9))
    assert every_break(game.columns, place) == {}


@pytest.mark.parametrize(("action", "frames", "stock_at"), [(0, 60, 0), (1, 60, 0), (2, 60, 0), (4, 176, 131)])
def test_a_death_and_rebirth_as_real_ones_keep_every_rule(action, frames, stock_at):
    assert every_break(dying(action, frames, stock_at)) == {}


def test_a_death_onto_the_screen_keeps_every_rule():
    columns = dying(6, 129, 51 + 43)
    columns["action"][AT + 51 : AT + 129, 0] = 7
    assert every_break(columns) == {}


REST = list(range(AT, 8))
BROKEN = {
    "in_range": (put(last_attack=300), REST),
    "facing": (put(facing=(1, 0, 1)), [AT]),
    "shield": (put(shield=(60, -1, 60)), [AT]),
    "shield_regrows": (put(shield=(50, 51)), [AT]),
    "character": (put(character=(MARIO, SHEIK)), [AT]),
    "percent_falls": (put(percent=(30, 20)), [AT]),
    "stocks_fall": (put(stocks=3), [AT]),
    "death_costs_a_stock": (put(action=1), [AT]),
    "blast_zone": (put(x=(240, 250, 240)), [AT]),
    "lies_still": (put(action=(1, 1), x=(250, 251)), [AT]),
    "hitlag_counts_down": (put(hitlag=(6, 4, 3, 2, 1, 0)), [AT]),
    "hitlag_flag": (put(hitlag=(0, 4, 3, 2, 1, 0)), [AT, AT + 1, AT + 2, AT + 3]),
    "hit_has_hitlag": (put(percent=5), [AT]),
    "knockback_from_hits": (put(knockback_x=2), [AT]),
    "no_teleport": (put(x=0), [AT]),
    "on_a_surface": (put(y=(0.0001, 1, 0.0001)), [AT]),
    "air_jumps": (put(airborne=(1, 1), jumps=(0, 1)), [AT]),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_rule_is_broken_on_the_frame_that_breaks_it(name):
    change, frames = BROKEN[name]
    columns = standing()
    change(columns)
    assert breaks(name, columns) == [[frame, 0] for frame in frames]


def test_every_rule_has_a_case():
    assert {*BROKEN, "death_lasts", "reborn"} == set(RULE)


@pytest.mark.parametrize(
    ("edit", "frame"),
    [
        (lambda c: c["action"].__setitem__((AT + 50, 0), 12), AT + 50),  # too early
        (lambda c: c["action"].__setitem__((slice(AT + 60, AT + 62), 0), 2), AT + 60),  # too late
        (lambda c: c["action"].__setitem__((slice(AT + 60, None), 0), STAND), AT + 60),  # no rebirth
    ],
)
def test_dying_takes_its_time_and_leads_to_rebirth(edit, frame):
    columns = dying(2, 60, 0)
    edit(columns)
    assert breaks("death_lasts", columns)[0] == [frame, 0]


@pytest.mark.parametrize(("name", "value"), [("percent", 80), ("x", -3), ("y", 0), ("stocks", 0), ("action", STAND)])
def test_rebirth_is_above_the_stage_without_percent_after_a_death(name, value):
    columns, back = dying(2, 60, 0), AT + 60
    rows = slice(back - 1, back) if name == "action" else slice(back, None)
    columns[name][rows, 0] = value
    assert breaks("reborn", columns) == [[back, 0]]


def test_the_platform_does_not_last():
    columns = dying(2, 60, 0)
    columns = {name: np.concatenate([c[:-5], np.repeat(c[-6:-5], 240, axis=0)]) for name, c in columns.items()}
    assert breaks("death_lasts", columns)[0] == [AT + 60 + 60 + TIMING["rebirth_wait"], 0]


def test_a_death_that_began_before_the_first_row_may_cost_its_stock_at_any_time():
    columns = standing()
    put(action=(4, 4), stocks=(3, 2))(columns)
    columns["action"][: AT - 1, 0], columns["stocks"][: AT - 1, 0] = 4, 3
    assert breaks("stocks_fall", columns) == []


EXCUSED = {
    "a shield break sets the shield": ("shield_regrows", put(action=(SHIELD_BREAK, STAND), shield=(0.07, 30))),
    "Zelda becomes Sheik": ("character", put(character=(ZELDA, SHEIK))),
    "a jump past the top": ("blast_zone", put(y=(180, 195), action=FALL, knockback_y=1)),
    "little knockback past the top": ("blast_zone", put(y=(180, 195), action=TUMBLE, knockback_y=2.3)),
    "hit again in hitlag": ("hitlag_counts_down", put(hitlag=(2, 5, 4, 3, 2, 1), percent=(10, 14))),
    "a shield hit again": ("hitlag_counts_down", put(hitlag=(2, 5, 4, 3, 2, 1), shield=(50, 45))),
    "one laser after another": ("hitlag_counts_down", put(action=(HURT, HURT), hitlag=(1, 3, 2, 1, 0))),
    "hit while the own attack is stopped": (
        "hitlag_counts_down", put(action=(JAB, HURT), hitlag=(6, 3, 2, 1, 0), percent=(10, 12)),
    ),
    "an attack meets a projectile": ("hitlag_counts_down", put(action=(JAB, JAB), hitlag=(2, 5, 4, 3, 2, 1))),
    "a throw's damage": ("hit_has_hitlag", put(action=(THROWN, TUMBLE), percent=4)),
    "the magnifying glass": ("hit_has_hitlag", put(percent=1)),
    "hitlag of the attacker alone": (
        "hit_has_hitlag", lambda c: (put(percent=5)(c), c["hitlag"].__setitem__((AT, 1), 4)),
    ),
    "hitlag on the frame before": ("hit_has_hitlag", put(percent=5, hitlag=(1, 0))),
    "knockback of a hit": ("knockback_from_hits", put(knockback_x=3, hitlag=4)),
    "knockback of a throw": ("knockback_from_hits", put(knockback_x=3, action=(THROWN, TUMBLE))),
    "a wall": ("knockback_from_hits", put(knockback_x=(-1, 2), action=(TUMBLE, BOUNCE))),
    "Kirby's throw": ("in_range", put(action=(THROW, THROW), self_y=34)),
    "thrown below": ("blast_zone", put(action=(THROWN, THROWN), y=(-130, -160))),
    "velocity": ("no_teleport", put(airborne=(1, 1, 1), self_x_air=(0, 15, 0), x=(-20, -5))),
    "thrown far": ("no_teleport", put(action=(THROWN, THROWN), x=(-20, 0))),
    "shifted out of hitlag": ("no_teleport", put(hitlag=(1, 0), x=(-20, -7))),
    "landing from a spin": ("no_teleport", put(action=(SPIN, DOWN), airborne=(1, 0), y=(-14, 0.0001))),
    "climbing the ledge": ("no_teleport", put(action=(LEDGE_ROLL, LEDGE_ROLL), y=(-20, 0.0001))),
    "the ledge": ("no_teleport", put(action=LEDGE_CATCH, x=(-20, -5))),
    "a teleport": ("no_teleport", put(action=(LASER, LASER), x=(-20, 10))),
    "teetering": ("on_a_surface", put(action=(STAND, TEETER, STAND), y=(0.0001, -2, 0.0001))),
    "Samus rolls": ("on_a_surface", lambda c: (always(character=SAMUS)(c), put(action=(ROLL, ROLL), y=(-2, -2))(c))),
    "a jump from the ledge": ("on_a_surface", put(action=(LEDGE_JUMP, LEDGE_JUMP), y=(-10, 4))),
    "held": ("on_a_surface", put(action=(THROWN, THROWN), y=(4, 4))),
    "jumps back from the ledge": ("air_jumps", put(airborne=(1, 1), jumps=(0, 1), action=LEDGE_CATCH)),
    "jumps back on being caught": ("air_jumps", put(airborne=(1, 1), jumps=(0, 1), action=CAPTURED)),
    "jumps back from a hit": ("air_jumps", put(airborne=(1, 1), jumps=(0, 1), hitlag=4)),
}


@pytest.mark.parametrize("what", EXCUSED)
def test_what_real_games_do_is_no_break(what):
    name, change = EXCUSED[what]
    columns = standing()
    change(columns)
    assert [frame for frame in breaks(name, columns) if frame == [AT, 0]] == []


def test_no_step_is_longer_than_any_real_one_whatever_the_reason():
    columns = standing()
    put(action=(LASER, LASER), x=(-20, 30))(columns)
    assert breaks("no_teleport", columns) == [[AT, 0]]


def test_a_platform_that_emerges_takes_its_fighter_with_it():
    columns, fountain = standing(), stage("FOUNTAIN_OF_DREAMS")
    moving, main = (next(s.id for s in fountain.surfaces if s.moves == moves) for moves in (True, False))
    put(y=13)(columns)
    columns["ground"][:, 0] = main
    assert breaks("no_teleport", columns, fountain) == [[AT, 0]]
    columns["ground"][:, 0] = moving
    assert breaks("no_teleport", columns, fountain) == []


def test_lasers_are_excused_only_for_fox():
    columns = standing()
    put(percent=3)(columns)
    assert breaks("hit_has_hitlag", columns) == [[AT, 0]]
    columns["character"][:, 1] = FOX
    assert breaks("hit_has_hitlag", columns) == []


def test_surfaces_off_the_table_are_known_only_on_stadium():
    columns = standing()
    columns["ground"][:, 0] = 200
    assert len(breaks("on_a_surface", columns)) == 7
    columns["ground"][:] = 200
    assert breaks("on_a_surface", columns, STADIUM) == []


def test_a_batch_of_rollouts_is_checked_as_each_by_itself():
    games = [standing(), standing(), standing()]
    put(x=0, stocks=3)(games[1])
    put(action=1)(games[2])
    batch = {name: np.stack([game[name] for game in games], axis=1) for name in COLUMNS}
    for rule in RULES:
        checked, broken = rule.check(batch, FINAL_DESTINATION)
        for i, game in enumerate(games):
            alone = rule.check(game, FINAL_DESTINATION)
            np.testing.assert_array_equal(checked[:, i], alone[0])
            np.testing.assert_array_equal(broken[:, i], alone[1])


def test_a_rule_says_what_it_reads():
    assert reads(RULE["percent_falls"]) == {"action", "percent"}


# --- the audit of a dataset ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """A lawful game, one in which hitlag was filled in, and one with a break on frame -120 of player 2."""
    path = tmp_path_factory.mktemp("broken")
    with DatasetWriter(path) as writer:
        for number in range(3):
            columns = standing(60)
            if number == 1:
                put(percent=5)(columns)
            if number == 2:
                columns["percent"][:AT, 1], columns["percent"][AT:, 1] = 30, 20
            derived = ("hitlag",) if number == 1 else ()
            writer.add(Game(GameInfo(32, (MARIO, FALCO), md5=f"{number}" * 32, derived=derived), columns))
    return Dataset(path)


def test_the_audit_names_the_game_frame_and_player_of_a_break(broken):
    rows = {row["name"]: row for row in audit(broken)["rules"]}
    row = rows["percent_falls"]
    assert (row["checked"], row["broken"], row["rate"]) == (3 * 59 * 2, 1, pytest.approx(1 / 354))
    assert row["example"] == {"md5": "2" * 32, "game": 2, "frame": AT - 123, "player": 1}
    assert all(row["broken"] == 0 for name, row in rows.items() if name != "percent_falls")


def test_rules_are_not_asked_of_columns_that_were_filled_in(broken):
    rows = {row["name"]: row for row in audit(broken)["rules"]}
    assert {name for name, row in rows.items() if row["skipped"]} == {
        rule.name for rule in RULES if "hitlag" in reads(rule)
    } - {"in_range"}
    assert rows["hit_has_hitlag"]["broken"] == 0


def test_games_of_hardly_any_frames_can_be_audited(tmp_path):
    with DatasetWriter(tmp_path) as writer:
        for frames in (1, 2, 3):
            writer.add(Game(GameInfo(32, (MARIO, FALCO), md5=f"{frames}" * 32), standing(frames)))
    assert audit(Dataset(tmp_path))["rules"][0]["checked"] == 2 * (0 + 1 + 2)


def test_some_games_only(broken):
    assert audit(broken, games=2)["games"] == 2
    assert audit(broken, games=99)["games"] == 3


def test_made_up_games_are_sound(dataset):
    found = audit(dataset)
    assert sum(row["broken"] for row in found["rules"]) == 0
    shares = {row["name"]: row for row in found["kinematics"]}
    assert list(shares) == [situation.name for situation in SITUATIONS]
    assert sum(row["frames"] for row in shares.values()) == 2 * (found["frames"] - len(dataset))
    assert shares["airborne"]["both"] == 1
    assert shares["hitlag"]["still"] == 1
    assert shares["grounded"]["x"] == 1


def test_real_games_are_sound(real_dataset):
    for row in audit(real_dataset)["rules"]:
        assert row["rate"] is None or row["rate"] < 1e-4, row


def labels(tmp_path: Path, *games: Columns) -> dict[str, tuple[int, int]]:
    with DatasetWriter(tmp_path / "labels") as writer:
        for number, columns in enumerate(games):
            writer.add(Game(GameInfo(32, (MARIO, FALCO), md5=f"{number}" * 32), columns))
    return {row["name"]: (row["count"], row["frames"]) for row in audit(Dataset(tmp_path / "labels"))["labels"]}


def test_a_change_of_action_is_unprompted_when_the_controller_stays_as_it_is(tmp_path):
    prompted, unprompted = standing(), standing()
    put(action=DASH, main_x=1)(prompted)
    put(action=DASH)(unprompted)
    assert labels(tmp_path, prompted, unprompted)["unprompted"] == (1, 2)


def test_an_action_of_one_frame_between_two_of_another_flickers(tmp_path):
    flickering, not_so = standing(), standing()
    put(action=(DASH, TURN, DASH))(flickering)
    put(action=(DASH, TURN, SHIELD))(not_so)
    assert labels(tmp_path, flickering, not_so)["flicker"] == (1, 6)


def test_twins_disagree_when_the_same_frame_goes_on_in_two_ways(tmp_path):
    games = [standing(3), standing(3), standing(3)]
    for game in games:
        game["state_age"][:, 0], game["state_age"][:, 1] = (0, 1, 2), (10, 11, 12)
    games[2]["action"][1:, 0] = DASH
    games[2]["state_age"][1:, 0] = (30, 31)
    count, frames = labels(tmp_path, *games)["twins"]
    assert (count, frames) == (1, 3 + 2 + 3 + 3)


def test_every_label_measure_is_reported_and_defined(dataset):
    assert [row["name"] for row in audit(dataset)["labels"]] == list(LABELS)


def test_the_command_prints_a_row_a_rule_and_json(broken):
    app = typer.Typer()
    app.command()(replays_look.audit)
    text = CliRunner().invoke(app, [str(broken.path)])
    assert text.exit_code == 0, text.output
    assert "22222222 --frame -120, player 2" in text.stdout
    assert all(f"\n{rule.name} " in text.stdout for rule in RULES)
    found = json.loads(CliRunner().invoke(app, [str(broken.path), "--json", "--games", "1"]).stdout)
    assert found["games"] == 1
    assert {row["name"] for row in found["rules"]} == set(RULE)
