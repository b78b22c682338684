"""The facts of the game are complete, consistent, and found by name or id."""

import re
from importlib.resources import files

import numpy as np
import pytest

from wm_runtime.errors import UserError
from wm_runtime.facts import (
    ACTION_NAMES,
    CHARACTERS,
    FAMILIES,
    STAGES,
    TIMING,
    action_family,
    action_name,
    character,
    stage,
)
from wm_runtime.schema import FIELD


@pytest.mark.parametrize("name", ["characters.json", "stages.json", "actions.json"])
def test_data_files_are_in_the_package_and_name_their_source(name: str) -> None:
    assert '"source"' in files("wm_runtime.facts").joinpath(name).read_text(encoding="utf-8")


def test_ids_and_names_of_characters_are_unique() -> None:
    for column in ("name", "display", "internal_id"):
        values = [getattr(c, column) for c in CHARACTERS]
        assert len(set(values)) == len(values)
    assert sorted(c.selection_id for c in CHARACTERS if c.selection_id is not None) == list(range(26))
    assert all(re.fullmatch(r"[A-Z]+(_[A-Z]+)*", c.name) for c in CHARACTERS)


@pytest.mark.parametrize(
    ("name", "internal", "selection", "jumps"),
    [("FOX", 1, 2, 2), ("FALCO", 22, 20, 2), ("CAPTAIN_FALCON", 2, 0, 2), ("SHEIK", 7, 19, 2), ("MARTH", 18, 9, 2),
     ("JIGGLYPUFF", 15, 15, 6), ("KIRBY", 4, 4, 6), ("ICE_CLIMBERS", 10, 14, 2)],
)
def test_known_characters(name: str, internal: int, selection: int, jumps: int) -> None:
    found = character(name)
    assert (found.internal_id, found.selection_id, found.jumps) == (internal, selection, jumps)
    assert character(internal) is found


@pytest.mark.parametrize("spelling", ["mr. game & watch", "Mr-Game-And-Watch", 24, "24", np.int32(24)])
def test_a_character_is_found_by_any_spelling(spelling: object) -> None:
    assert character(spelling).name == "MR_GAME_AND_WATCH"  # type: ignore[arg-type]


def test_unknown_names_tell_the_choices() -> None:
    with pytest.raises(UserError, match=r"unknown character 'Sonic': choose one of .*FOX, CAPTAIN_FALCON"):
        character("Sonic")
    with pytest.raises(UserError, match=r"unknown character 99"):
        character(99)
    with pytest.raises(UserError, match=r"unknown stage 'Hyrule': choose one of .*BATTLEFIELD"):
        stage("Hyrule")


def test_six_stages_with_unique_ids_and_surfaces() -> None:
    assert [s.id for s in STAGES] == [2, 3, 8, 28, 31, 32]
    assert stage("battlefield") is stage(31)
    assert stage("pokémon stadium") is stage("Pokemon_Stadium")
    for s in STAGES:
        ids = [surface.id for surface in s.surfaces]
        assert len(set(ids)) == len(ids)


def test_numbers_fit_the_field_table() -> None:
    assert max(c.internal_id for c in CHARACTERS) < FIELD["character"].classes
    assert max(c.jumps for c in CHARACTERS) < FIELD["jumps"].classes
    assert max(i for ids in FAMILIES.values() for i in ids) < FIELD["action"].classes


@pytest.mark.parametrize("s", STAGES, ids=lambda s: s.name)
def test_surfaces_edges_and_rebirth_lie_within_the_blast_zone(s) -> None:
    assert s.blast.left < -s.edge_hang < -s.edge_stand < s.edge_stand < s.edge_hang < s.blast.right
    assert s.blast.bottom < 0 < s.rebirth.y_platform < s.rebirth.y_from < s.blast.top
    for surface in s.surfaces:
        for frame in (-123, 0, 500, 10_000):
            at = surface.at(frame)
            assert s.blast.left < at.x_left < at.x_right < s.blast.right
            assert s.blast.bottom < min(at.y_left, at.y_right)


@pytest.mark.parametrize("s", STAGES, ids=lambda s: s.name)
def test_fighters_stand_on_the_surface_below_their_entry(s) -> None:
    for entry, standing, facing in zip(s.entry, s.standing, s.facing, strict=True):
        surface = s.surface(standing.ground)
        assert surface.x[0] < standing.x < surface.x[1]
        assert standing.y == pytest.approx(surface.y[0] + 1e-4, abs=1e-4)
        assert standing.x == pytest.approx(entry[0], abs=1e-4)
        assert standing.y < entry[1]
        assert standing.facing == facing == -np.sign(standing.x)


def test_slopes_join_their_neighbours() -> None:
    slope = stage("YOSHIS_STORY").surface(2)
    assert (slope.y, stage(8).surface(3).y) == ((-3.5, 0.0), (0.0, 0.0))


def test_the_cloud_repeats_every_1200_frames() -> None:
    cloud = stage("YOSHIS_STORY").surface(0)
    assert cloud.moves
    assert cloud.at(-123) == pytest.approx(cloud.at(1077))
    assert cloud.at(600).y_left == pytest.approx(-13.65)
    assert cloud.at(0).y_left == pytest.approx(-33.249)
    steps = [abs(np.subtract(cloud.at(f + 1), cloud.at(f))).max() for f in range(1200)]
    assert max(steps) < 0.5


def test_every_action_has_a_name_and_one_family() -> None:
    assert sorted(i for ids in FAMILIES.values() for i in ids) == list(range(FIELD["action"].classes))
    assert len(set(ACTION_NAMES)) == len(ACTION_NAMES) == 341
    assert (action_name(14), action_name(65), action_name(236)) == ("STANDING", "NAIR", "AIRDODGE")
    assert (action_name(341), action_family(341)) == ("SPECIAL_341", "special")
    known = {0: "dead", 12: "respawn", 14: "wait", 20: "dash", 65: "aerial", 75: "damage", 179: "shield", 212: "grab",
             253: "ledge", 322: "entry"}
    assert {action: action_family(action) for action in known} == known


def test_timing_is_whole_frames() -> None:
    assert TIMING["rebirth"] == 60
    assert TIMING["invulnerable"] == 120
    assert all(isinstance(frames, int) for frames in TIMING.values())
