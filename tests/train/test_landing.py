"""Who comes down, by where the feet are and where gravity takes them."""

from __future__ import annotations

import pytest
import torch
from states import one

from wm_runtime.facts import STAGES
from wm_runtime.schema import C_
from wm_train.dynamics.feet import DODGE, DODGED
from wm_train.dynamics.geometry import Geometry, Surfaces
from wm_train.dynamics.landing import CANNOT, COMES, DODGE_ODDS, Landing
from wm_train.dynamics.platforms import unknown

FALL, JUMP, WAIT, LANDS = 29, 25, 14, 42
GRAVITY, TERMINAL, FAST = 0.1, 2.0, 3.0
STAGE = {stage.name: stage for stage in STAGES}


def surfaces(stage: str) -> Surfaces:
    state = one()
    return Geometry().surfaces(torch.tensor([STAGE[stage].id]), torch.zeros(1), unknown(state))


def odds(
    y: float, speed: float = -1.0, feet: float = 0.0, stick: tuple[float, float] = (0, 0), meant: int = FALL,
    stage: str = "FINAL_DESTINATION", **fields: float,
) -> float:  # fmt: skip
    """Of coming down, of who falls there, its feet so far above its place."""
    given = {"y": y, "self_y": speed, "airborne": 1, "action": FALL, **fields}
    before = one(**{name: [value, 0.0] for name, value in given.items()})
    pads = torch.zeros(1, 2, 13)
    pads[0, 0, [C_["main_x"], C_["main_y"]]] = torch.tensor(stick, dtype=torch.float32)
    height, fact = torch.full((1, 2), feet), [torch.full((1, 2), value) for value in (GRAVITY, TERMINAL, FAST)]
    return float(Landing()(before, torch.tensor([[meant, WAIT]]), (height, height), surfaces(stage), pads, *fact)[0, 0])


@pytest.mark.parametrize(
    ("y", "fields", "said"),
    [
        (0.5, {}, COMES),  # 0.6 units below the floor on the next frame
        (0.5, {"feet": 2.5}, 0.0),  # its feet are not, unless it begins to fall fast
        (4.5, {}, -CANNOT),  # nor if it does
        (0.5, {"speed": 2.0}, 0.0),
        (8.0, {"speed": 1.0}, -CANNOT),
        (0.5, {"hitlag": 3.0}, 0.0),  # the rule says nothing
        (0.5, {"airborne": 0.0}, 0.0),
        (-1.0, {}, -CANNOT),  # below the floor already
        (0.5, {"x": 120.0}, -CANNOT),  # beside the stage
        (0.5, {"knockback_y": 2.0, "speed": -1.0, "knockback_x": 0.1}, 0.0),  # is thrown up
    ],
)
def test_feet_that_cross_the_ground_come_down(y: float, fields: dict[str, float], said: float) -> None:
    assert odds(y, **fields) == said


def test_a_stick_that_is_held_down_lets_a_fighter_through_a_platform_but_not_through_the_floor() -> None:
    platform = {"stage": "BATTLEFIELD", "x": 0.0}
    assert odds(54.9, **platform) == COMES
    assert odds(54.9, stick=(0, -1), **platform) == 0
    assert odds(0.5, stick=(0, -1)) == COMES


def test_a_dodge_goes_as_its_stick_says_and_no_gravity_is_in_it() -> None:
    """Its first step is 3.1 · 0.9 units, and so much less each frame."""
    assert odds(2.0, meant=DODGE, stick=(0, -1)) == DODGE_ODDS
    assert odds(2.0, meant=DODGE, stick=(1, 0)) == -DODGE_ODDS
    on = {"action": DODGE, "meant": DODGE, "state_age": 3.0}
    assert odds(1.6, speed=-2.0, **on) == DODGE_ODDS
    assert odds(1.95, speed=-2.0, **on) == -DODGE_ODDS
    assert odds(1.6, speed=-2.0, **{**on, "state_age": 30.0}) == 0


@pytest.mark.parametrize(
    ("action", "meant", "said"),
    [(FALL, LANDS, FALL), (JUMP, DODGED, DODGE), (DODGE, DODGED, DODGE), (FALL, JUMP, JUMP), (FALL, FALL, FALL)],
)
def test_what_is_done_before_coming_down(action: int, meant: int, said: int) -> None:
    told = Landing().before_landing(torch.tensor([[action, action]]), torch.tensor([[meant, meant]]))
    assert told.tolist() == [[said, said]]
