"""Contact with the stage: who stands, stands on its surface; nobody sinks through solid ground."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wm_runtime.facts import STAGES, Stage
from wm_runtime.schema import State
from wm_train.dynamics.contact import FALL, LANDING, SINK, Contact
from wm_train.dynamics.named import named
from wm_train.dynamics.platforms import REST

FOX, THROWN = 1, 239
DAMAGE_FLY_HIGH = 87
CONTACT = Contact()
every_stage = pytest.mark.parametrize("where", STAGES, ids=lambda s: s.name)


def settled(before: State, after: State) -> dict[str, np.ndarray]:
    """What contact makes of two states."""
    stage = torch.from_numpy(before["stage"].astype(np.int64))
    states = (named(torch.from_numpy(s.floats), torch.from_numpy(s.ints)) for s in (before, after))
    return {name: value.numpy() for name, value in CONTACT(*states, stage).items()}


def one(where: Stage, **fields: float) -> State:
    """A match on a stage, both fighters alike."""
    state = State.zeros(1)
    state["stage"], state["action"], state["facing"] = where.id, 14, 1
    for name, value in fields.items():
        state[name] = value
    return state


@every_stage
def test_who_stands_is_set_on_its_surface(where: Stage) -> None:
    for surface in (s for s in where.surfaces if not s.moves):
        x = np.mean(surface.x)
        height = np.mean(surface.y) + REST
        for off in (-3.0, 0.5):
            state = one(where, x=x, y=height + off, ground=surface.id)
            assert settled(state, state)["y"] == pytest.approx(height, abs=1e-3)


@every_stage
def test_who_sank_through_solid_ground_lands_on_it(where: Stage) -> None:
    floor = next(s for s in where.surfaces if not s.platform and s.x[0] < 0 < s.x[1])
    before = one(where, y=floor.y[0] - SINK + 1, airborne=1, self_y=-3, action=29, ground=65535)
    after = one(where, y=floor.y[0] - SINK - 2, airborne=1, self_y=-3, action=29, ground=65535)
    landed = settled(before, after)
    assert landed["y"] == pytest.approx(floor.y[0] + REST, abs=1e-3)
    assert {name: landed[name][0, 0] for name in ("airborne", "self_y", "action", "ground")} == {
        "airborne": 0, "self_y": 0, "action": LANDING, "ground": floor.id,
    }  # fmt: skip


def test_a_fighter_falls_through_platforms_and_beside_the_stage() -> None:
    where = next(s for s in STAGES if s.name == "BATTLEFIELD")
    platform = next(s for s in where.surfaces if s.platform)
    for x, y in ((np.mean(platform.x), platform.y[0] - SINK), (80.0, -SINK)):
        before, after = (one(where, x=x, y=y + d, airborne=1, action=29, ground=65535) for d in (1, -2))
        result = settled(before, after)
        assert (result["y"] == after["y"]).all()
        assert (result["airborne"] == 1).all()


@every_stage
def test_who_stands_where_nothing_is_falls(where: Stage) -> None:
    floor = next(s for s in where.surfaces if not s.platform and s.x[0] < 0 < s.x[1])
    last = max((s for s in where.surfaces if not s.platform), key=lambda s: s.x[1])
    for x, y in ((last.x[1] + 1, last.y[1]), (0.0, floor.y[0] + 60)):
        state = one(where, x=x, y=y, ground=floor.id, self_x_ground=1.5, jumps=2)
        state["character"] = FOX
        fallen = settled(state, state)
        assert {name: fallen[name][0, 0] for name in ("airborne", "action", "jumps", "self_x_air")} == {
            "airborne": 1, "action": FALL, "jumps": 1, "self_x_air": 1.5,
        }  # fmt: skip
        assert fallen["y"] == pytest.approx(y, abs=1e-3)
    hurt = one(where, x=last.x[1] + 1, y=last.y[1], ground=floor.id, action=DAMAGE_FLY_HIGH, state_age=7)
    flung = settled(hurt, hurt)
    assert (flung["airborne"] == 1).all()
    assert (flung["action"] == DAMAGE_FLY_HIGH).all()
    assert (flung["state_age"] == 7).all()
    held = one(where, x=last.x[1] + 1, y=last.y[1], ground=floor.id, action=THROWN)
    assert (settled(held, held)["airborne"] == 0).all()


def test_nobody_lands_on_what_is_far_above() -> None:
    where = next(s for s in STAGES if s.name == "BATTLEFIELD")
    before = one(where, x=-58, y=-14.6, airborne=1, action=29, ground=1)
    after = one(where, x=-58, y=-8, action=43, ground=1)
    result = settled(before, after)
    assert [result[name][0, 0] for name in ("airborne", "action", "y")] == [1, FALL, -8]


def test_nobody_lands_on_what_is_far_below_where_they_fall_to() -> None:
    where = next(s for s in STAGES if s.name == "BATTLEFIELD")
    for from_y, airborne in ((54.4 + 20, 1), (54.4 + 10, 0)):
        before = one(where, x=0, y=from_y, airborne=1, action=29, ground=1)
        after = one(where, x=0, y=54.4, action=43, ground=3, self_y=-3)
        assert settled(before, after)["airborne"][0, 0] == airborne


def test_real_games_are_left_as_they_are(real_dataset) -> None:
    """But for first frames of teetering and a few moves whose feet are elsewhere; nobody is ever made to land."""
    moved = frames = 0
    for game in real_dataset:
        state = game.state()
        before, after = state.rows(slice(0, -1)), state.rows(slice(1, None))
        result = settled(before, after)
        assert np.array_equal(result["airborne"], after["airborne"])
        assert np.array_equal(result["action"], after["action"])
        moved += int((np.abs(result["y"] - after["y"]) > 0.002).sum())
        frames += result["y"].size
    assert moved / frames < 1e-3
