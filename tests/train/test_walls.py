"""Walls: who flies into the side of the ground is held back where its outline touches it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wm_runtime.facts import STAGES, Outlines, character, outlines, walls
from wm_runtime.replays.dataset import Dataset
from wm_runtime.schema import FLOAT_FIELDS, INT_FIELDS
from wm_train.dynamics.named import Named, named
from wm_train.dynamics.walls import Walls, touching
from wm_train.measure_outlines import NOTHING, _fitted, flights

FOX, FALCO, SHEIK = (character(name).internal_id for name in ("FOX", "FALCO", "SHEIK"))
WAIT, JUMP, LEDGE, FIRE_BIRD = 14, 27, 252, 356
STAGE = {stage.name: stage.id for stage in STAGES}
OUTLINES = Outlines(
    move=np.array([(FOX, JUMP, 0), (FALCO, FIRE_BIRD, 1)]),
    span=np.array([(2, 3), (0, 37)]),
    row=np.array([(3, 2, 4, 4), (5, 2, 4, 4), (np.nan,) * 4, *[(2 + i / 10, 2, 4, 4) for i in range(37)]], np.float32),
)


def flying(x: float, y: float, **fields: float) -> Named:
    """Fox, in a jump that is two frames old, faces the stage's middle from there; the other stands."""
    state = named(torch.zeros(1, 2, len(FLOAT_FIELDS)), torch.zeros(1, 2, len(INT_FIELDS), dtype=torch.int32))
    given = {"x": x, "y": y, "character": FOX, "action": JUMP, "state_age": 2, "airborne": 1}
    given["facing"] = 1 if x < 0 else -1
    for name, value in {**given, **fields}.items():
        state[name] = torch.tensor([[value, WAIT if name == "action" else 0]]).to(state[name].dtype)
    return state


def ends(x: float, y: float, speed: float, stage: str = "FINAL_DESTINATION", **fields: float) -> float:
    """Where on x a fighter ends that flies so fast from there, on the level."""
    before = flying(x, y, **fields)
    after = {**before, "self_x_air": before["self_x_air"] + torch.tensor([[speed, 0.0]])}
    after["x"] = before["x"] + torch.tensor([[speed, 0.0]])
    return float(Walls(OUTLINES)(before, after, torch.tensor([STAGE[stage]]))["x"][0, 0])


@pytest.mark.parametrize("side", [-1, 1])
def test_a_fighter_is_held_back_by_its_width(side: int) -> None:
    assert ends(89 * side, -12, -2 * side) == pytest.approx(side * 88.5657)
    assert ends(89 * side, -12, -2 * side, facing=side) == pytest.approx(side * 87.5657)  # it looks away
    assert ends(89 * side, -12, -2 * side, state_age=2.5) == pytest.approx(side * (85.5657 + 4))
    assert ends(92 * side, -12, -2 * side) == pytest.approx(90 * side)


def test_a_corner_holds_where_the_diamond_is_narrow() -> None:
    # bottom at y + 4, side at y + 8: the stage's corner is half way up to the side
    assert ends(89, -6, -2.6) == pytest.approx(85.5657 + 1.5)
    assert ends(89, -3.9, -2.6) == pytest.approx(86.4)


def test_slopes_hold_as_far_in_as_they_are() -> None:
    assert ends(69, -10, -2, "BATTLEFIELD") == pytest.approx(68.4 - 3.4 * 2 / 6 + 3, abs=1e-4)
    left, right = (ends(58 * side, -70, -3 * side, "YOSHIS_STORY") for side in (-1, 1))
    assert (left, right) == pytest.approx((-57.6, 56.72), abs=1e-4)


@pytest.mark.parametrize(
    "state",
    [
        {"state_age": 4}, {"state_age": 5}, {"state_age": 1}, {"character": SHEIK}, {"action": LEDGE}, {"airborne": 0},
        {"hitlag": 3},
    ],
)  # fmt: skip
def test_nobody_else_is_held_back(state: dict[str, float]) -> None:
    assert ends(89, -12, -2, **state) == pytest.approx(87)


def test_who_comes_from_below_is_not_thrown_out() -> None:
    assert ends(70, -12, -2) == pytest.approx(68)
    assert ends(90, -12, -17) == pytest.approx(88.5657)  # it was outside, and fast


def test_outlines_of_a_flight_go_by_heading() -> None:
    state = {"character": FALCO, "action": FIRE_BIRD, "state_age": 9, "facing": -1}
    assert ends(89, -12, -2, **state) == pytest.approx(85.5657 + 2 + 1.8)  # straight ahead: 0°, row 18
    upward = ends(87, -12, -0.0, **state, self_y=1.0)
    assert upward == pytest.approx(85.5657 + 2 + 2.7)  # 90°, row 27


def test_outlines_are_found_from_where_they_were_held() -> None:
    side = torch.from_numpy(walls()[STAGE["FINAL_DESTINATION"]][1])
    y = torch.linspace(-20, -5, 200)
    corners, ones = side.expand(len(y), *side.shape), torch.ones(len(y))
    out = touching(corners, y, 3.2 * ones, 4.1 * ones, 3.8 * ones)
    rows = torch.ones(len(y), dtype=torch.int64)
    found = _fitted(2, [rows, rows, 0 * ones, corners, 0 * rows, y, out])
    assert found[1, [0, 2, 3]].tolist() == pytest.approx([3.2, 4.1, 3.8], abs=0.06)


def test_facts_are_whole() -> None:
    known = outlines()
    assert known.span[:, 1].sum() == len(known.row)
    assert len(np.unique(known.move[:, :2], axis=0)) == len(known.move)
    rows = known.row[np.isfinite(known.row[:, 0])]
    assert len(rows) > 1500
    assert (rows[:, [0, 1, 3]] > 0.3).all()
    assert set(walls()) == set(STAGE.values())


def test_who_is_held_back_in_games_is_where_the_rule_says(true_games: Dataset) -> None:
    before, after, stage = flights(true_games, list(range(len(true_games))))
    rule, nothing = Walls(), Walls(NOTHING)
    assert not nothing.holds(before, after, nothing.met(before, after, stage)).any()
    met = rule.met(before, after, stage)
    side, free, wall = met
    holds, out = rule.holds(before, after, met), after["x"] * side
    if holds.sum() < 100:
        pytest.skip("nobody meets a wall in the games at hand")
    assert ((out - free) > 0.01)[holds].float().mean() > 0.9
    assert ((out - wall).abs() < 0.02)[holds].float().mean() > 0.6
    assert (out - wall).abs()[holds].sum() < 0.4 * (out - free).abs()[holds].sum()
