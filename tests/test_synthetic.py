"""The made-up games keep the rules that they are made up for."""

import numpy as np
import pytest

from synthetic import synthetic_game, write_corpus
from wm_runtime.facts import STAGES, TIMING
from wm_runtime.replays.game import COLUMNS
from wm_runtime.replays.layout import pack, unpack
from wm_runtime.replays.slp import read_slp
from wm_runtime.schema import AXES, CONTROLS, FIELDS, Field

GAMES = {stage.id: synthetic_game(seed, 900, stage.id) for seed, stage in enumerate(STAGES)}


@pytest.fixture(params=GAMES)
def columns(request: pytest.FixtureRequest) -> dict[str, np.ndarray]:
    return GAMES[request.param].columns


def test_the_same_seed_makes_the_same_game_and_another_seed_another() -> None:
    one, again, other = (synthetic_game(seed, 300).columns for seed in (1, 1, 2))
    assert all(np.array_equal(one[name], again[name]) for name in COLUMNS)
    assert not np.array_equal(one["x"], other["x"])


@pytest.mark.parametrize("field", FIELDS, ids=lambda f: f.name)
def test_values_lie_in_the_ranges_of_the_field_table(field: Field, columns: dict[str, np.ndarray]) -> None:
    assert columns[field.name].dtype == COLUMNS[field.name]
    assert columns[field.name].min() >= field.low
    assert columns[field.name].max() <= field.high


def test_the_dataset_layout_holds_every_value(columns: dict[str, np.ndarray]) -> None:
    held = unpack(pack(columns))
    assert all(np.array_equal(held[name], columns[name]) for name in COLUMNS)


@pytest.mark.parametrize("control", [c for c in CONTROLS if c.name in AXES], ids=lambda c: c.name)
def test_axes_lie_on_their_grids(control, columns: dict[str, np.ndarray]) -> None:
    steps = np.rint(columns[control.name] * control.grid).astype(np.float32)
    assert np.array_equal(columns[control.name], steps / np.float32(control.grid))


def test_position_is_the_previous_one_plus_velocity_but_for_contacts(columns: dict[str, np.ndarray]) -> None:
    c = columns
    own_x = np.where(c["airborne"], c["self_x_air"], c["self_x_ground"])
    frozen = (c["hitlag"][:-1] > 0) & (c["hitlag"][1:] > 0)
    struck = np.diff(c["percent"], axis=0) > 0
    free = (c["action"][1:] > 13) & (c["action"][:-1] > 13) & ~struck
    move_x, move_y = np.diff(c["x"], axis=0), np.diff(c["y"], axis=0)
    np.testing.assert_allclose(np.where(frozen, 0, (own_x + c["knockback_x"])[1:])[free], move_x[free], atol=2e-3)
    flying = free & (c["airborne"][1:] == 1) & (c["airborne"][:-1] == 1)
    np.testing.assert_allclose(
        np.where(frozen, 0, (c["self_y"] + c["knockback_y"])[1:])[flying], move_y[flying], atol=2e-3
    )


def test_a_stock_is_lost_with_dead_frames_rebirth_and_invulnerability_after_it(columns: dict[str, np.ndarray]) -> None:
    lost, player = np.argwhere(np.diff(columns["stocks"], axis=0) == -1)[0]
    later = {name: column[lost + 1 :, player] for name, column in columns.items()}
    action = later["action"]
    assert (action[:60] == action[0]).all()
    assert (action[60:120] == 12).all()
    assert action[0] <= 2 < action[120] == 13
    assert (later["percent"][60:121] == 0).all()
    left = int(np.argmax(action > 13))
    assert (later["hurtbox"][left : left + TIMING["invulnerable"]] == 1).all()
    assert set(np.diff(columns["stocks"], axis=0).ravel().tolist()) == {0, -1}


def test_hitlag_counts_down_and_percent_falls_only_in_death(columns: dict[str, np.ndarray]) -> None:
    hitlag, percent = columns["hitlag"], columns["percent"]
    assert hitlag.max() > 0
    assert ((hitlag[1:] == hitlag[:-1] - 1) | (hitlag[:-1] == 0)).all()
    assert (columns["action"][1:][np.diff(percent, axis=0) < 0] == 12).all()


def test_a_corpus_is_a_folder_of_replays(tmp_path) -> None:
    paths = write_corpus(tmp_path / "corpus", 2, frames=200, stage=31)
    games = [read_slp(path) for path in paths]
    assert [len(game) for game in games] == [200, 200]
    assert all(game.info.stage == 31 for game in games)
