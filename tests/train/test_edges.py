"""Edges: who rolls stops at the end of the ground, who walks falls; the cloud carries who stands on it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from states import but, first, one

from wm_runtime.facts import STAGES, Stage
from wm_runtime.facts import character as fighter
from wm_runtime.replays.dataset import Dataset
from wm_runtime.replays.rules import TEETER
from wm_train.dynamics.edges import BEYOND, TOUCHING, Edges, pieces
from wm_train.dynamics.named import Named, named

EDGES = Edges()
STAGE = {stage.name: stage for stage in STAGES}
WAIT, WALK, DASH, ROLL, FALCON_KICK = 14, 15, 20, 233, 349


def after(before: Named, stage: Stage, frame: int = 0, **fields: list[float]) -> Named:
    return EDGES(before, but(before, **fields), torch.tensor([stage.id]), torch.tensor([float(frame)]))


@pytest.mark.parametrize("stage", STAGES, ids=lambda s: s.name)
def test_surfaces_that_touch_are_one_piece_of_ground(stage: Stage) -> None:
    solid = sorted((s for s in stage.surfaces if not s.platform), key=lambda s: s.x)
    whole = pieces(stage)
    for left, right in itertools.pairwise(solid):
        touches = abs(left.x[1] - right.x[0]) < TOUCHING and abs(left.y[1] - right.y[0]) < TOUCHING
        assert (whole[left.id] == whole[right.id]) == touches
    for platform in (s for s in stage.surfaces if s.platform and s.path is None):
        assert whole[platform.id] == (platform, platform)


@pytest.mark.parametrize(
    ("action", "speed", "x"),
    [(ROLL, 2.0, -20.0), (ROLL, -2.0, -23.0), (ROLL, 0.5, -20.5), (ROLL, 1.0 + 0.9 * BEYOND, -19.91), (DASH, 2.0, -19)],
)
def test_who_rolls_over_the_end_stops_there(action: int, speed: float, x: float) -> None:
    """On the left platform of Battlefield, whose right end is at -20."""
    before = one(x=[-21, -50], y=[27.2, 27.2], ground=[2, 2], action=[action, WAIT])
    told = after(before, STAGE["BATTLEFIELD"], self_x_ground=[speed, 0], x=[-21 + speed, -50])
    assert first(told["x"]) == pytest.approx(x, abs=1e-5)


def test_it_stops_on_the_surface_at_the_end_and_not_at_a_seam() -> None:
    """Final Destination's floor is three surfaces."""
    middle, end = one(x=[74, 0], ground=[1, 1], action=[ROLL, WAIT]), one(x=[84, 0], ground=[2, 1], action=[ROLL, WAIT])
    fast = {"self_x_ground": [3.0, 0.0]}
    over = after(middle, STAGE["FINAL_DESTINATION"], x=[77, 0], **fast)
    assert first(over["x"]) == 77
    stopped = after(end, STAGE["FINAL_DESTINATION"], x=[87, 0], ground=[65535, 1], **fast)
    assert [first(stopped[name]) for name in ("x", "ground")] == pytest.approx([85.5657, 2], abs=1e-4)


def test_nobody_is_taken_to_the_end_of_a_surface_elsewhere() -> None:
    """`ground` says the left platform of Battlefield, and the fighter is at the right one."""
    before = one(x=[57.9, 0], y=[27.2, 27.2], ground=[2, 1], action=[ROLL, WAIT])
    assert first(after(before, STAGE["BATTLEFIELD"], x=[58.9, 0], self_x_ground=[1.0, 0.0])["x"]) == pytest.approx(58.9)


def test_special_moves_stop_by_fighter() -> None:
    for name, expected in (("CAPTAIN_FALCON", 85.5657), ("MARTH", 87.0)):
        who = fighter(name).internal_id
        before = one(x=[84, 0], ground=[2, 1], action=[FALCON_KICK, WAIT], character=[who, who])
        told = after(before, STAGE["FINAL_DESTINATION"], x=[87, 0], self_x_ground=[3.0, 0.0])
        assert first(told["x"]) == pytest.approx(expected, abs=1e-4)


def test_who_begins_to_teeter_stands_at_the_end() -> None:
    before = one(x=[-84, 0], ground=[0, 1], action=[WALK, WAIT])
    told = after(before, STAGE["FINAL_DESTINATION"], action=[TEETER, WAIT], x=[-84.5, 0], self_x_ground=[-0.5, 0])
    assert first(told["x"]) == pytest.approx(-85.5657, abs=1e-4)
    going_on = but(before, action=[TEETER, WAIT])
    told = after(going_on, STAGE["FINAL_DESTINATION"], x=[-84.5, 0], self_x_ground=[-0.5, 0])
    assert first(told["x"]) == -84.5


@pytest.mark.parametrize("action", [WAIT, ROLL])
def test_the_cloud_carries_who_stands_on_it_and_ends_as_ground_does(action: int) -> None:
    path, t = EDGES.path, 10
    right = float(path[t, 1]) - 1
    before = one(x=[right, 0], y=[-33, 0], ground=[0, 3], action=[action, WAIT])
    told = after(before, STAGE["YOSHIS_STORY"], t, x=[right, 0])
    step = float(path[t + 1, 0] - path[t, 0])
    assert step != 0
    assert first(told["x"]) == pytest.approx(right + step, abs=1e-4)
    fast = after(before, STAGE["YOSHIS_STORY"], t, x=[right + 2, 0], self_x_ground=[2.0, 0.0])
    end = float(path[t + 1, 1])
    assert first(fast["x"]) == pytest.approx(end if action == ROLL else right + 2 + step, abs=1e-4)
    elsewhere = after(before, STAGE["BATTLEFIELD"], t, x=[right, 0])
    assert first(elsewhere["x"]) == right


def test_in_real_games_whoever_it_stops_had_stopped(real_dataset: Dataset) -> None:
    moved = wrong = frames = 0
    for game in real_dataset:
        state = game.state()
        floats, ints = torch.from_numpy(state.floats), torch.from_numpy(state.ints)
        before, true = named(floats[:-1], ints[:-1]), named(floats[1:], ints[1:])
        stage = torch.from_numpy(state["stage"].astype(np.int64))[:-1]
        frame = torch.from_numpy(np.arange(len(stage), dtype=np.float32) - 123)
        free = before["x"] + torch.where(before["airborne"] == 1, true["self_x_air"], true["self_x_ground"])
        told = EDGES(before, {**true, "x": free + true["knockback_x"]}, stage, frame)
        rule = (told["x"] - free - true["knockback_x"]).abs() > 0.05
        moved += int(rule.sum())
        wrong += int((rule & ((told["x"] - true["x"]).abs() > 0.05)).sum())
        frames += rule.numel()
    assert moved > 50
    assert wrong / moved < 0.05
    assert frames > 1e5
