"""Directional influence: how sticks move who is hurt."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from wm_runtime.facts import STAGES
from wm_runtime.replays.dataset import Dataset
from wm_runtime.schema import C_, CONTROL_NAMES, FLOAT_FIELDS, INT_FIELDS, M_
from wm_train.dynamics.geometry import Geometry, Surfaces
from wm_train.dynamics.influence import NUDGE, SHIELD_STUN, SHIELDED, SHIFT, Influence, influence
from wm_train.dynamics.kinematics import displacement
from wm_train.dynamics.memory import CONTROLLERS, Past, recall
from wm_train.dynamics.named import Named, named
from wm_train.dynamics.platforms import unknown
from wm_train.training.whole_games import WholeGames

WAIT, HURT = 14, 86
(FINAL_DESTINATION,) = [stage for stage in STAGES if stage.name == "FINAL_DESTINATION"]
Stick = tuple[float, float]


def floor(frames: int = 1) -> Surfaces:
    state = named(torch.zeros(frames, 2, len(FLOAT_FIELDS)), torch.zeros(frames, 2, len(INT_FIELDS)).int())
    stage = torch.full((frames,), FINAL_DESTINATION.id)
    return Geometry().surfaces(stage, torch.zeros(frames), unknown(state))


def moved(
    *sticks: Stick, since: int = 20, y: float = 30.0, lag: tuple[int, int] = (4, 3), **fields: int
) -> list[float]:
    """By how much the first fighter, hurt in the air, is moved, its stick having been there, the next frame last: x, y,
    or nothing where no rule says."""
    before = named(torch.zeros(1, 2, len(FLOAT_FIELDS)), torch.zeros(1, 2, len(INT_FIELDS), dtype=torch.int32))
    given = {"y": y, "action": HURT, "airborne": 1, "hitlag": lag[0], **fields}
    before |= {name: torch.tensor([[value, 0]]).to(before[name].dtype) for name, value in given.items()}
    after = {**before, "hitlag": torch.tensor([[float(lag[1]), 0.0]])}
    pads = torch.zeros(1, CONTROLLERS + 1, 2, len(CONTROL_NAMES))
    for ago, stick in enumerate(reversed(sticks)):
        pads[0, -1 - ago, 0, [C_["main_x"], C_["main_y"]]] = torch.tensor(stick, dtype=torch.float32)
    past = Past({"since_hitlag": torch.tensor([[since, since]])}, {}, *[torch.empty(0)] * 3, pads[:, :-1])
    found = influence(before, after, past, pads[:, -1], floor())
    assert not found.ruled[0, 1]
    return [float(found.x[0, 0]), float(found.y[0, 0])] if found.ruled[0, 0] else []


@pytest.mark.parametrize(
    ("sticks", "by"),
    [
        ([(0, 0), (1, 0)], (1, 0)),
        ([(0, 0), (0.3, 0), (0.5, 0), (0.6, 0.4)], (0.6, 0.4)),  # it left the middle three frames ago
        ([(0, 0), (0.3, 0), (0.4, 0), (0.4, 0), (0.5, 0), (0.8, 0)], (0, 0)),  # too long ago
        ([(0, 0), (1, 0), (1, 0)], (0, 0)),  # it has moved the fighter already
        ([(0, 0), (1, 0), (0.7, 0.7)], (0.7, 0.7)),  # and does again, by the other axis
        ([(1, 0), (-1, 0)], (-1, 0)),
        ([(0, 0), (0.6, 0.2)], (0, 0)),  # not far enough
        ([(1, 0)] * 9, (0, 0)),
    ],
)
def test_a_stick_that_leaves_the_middle_moves_once(sticks: list[Stick], by: Stick) -> None:
    assert moved(*sticks) == pytest.approx([NUDGE * by[0], NUDGE * by[1]])


def test_a_stick_that_had_left_it_when_the_blow_struck_does_not_move() -> None:
    sticks = [(0, 0), (0.5, 0), (0.5, 0), (1, 0)]
    assert moved(*sticks, since=2)[0] == pytest.approx(NUDGE)
    assert moved(*sticks, since=1) == [0, 0]


def test_the_floor_stops_and_the_ground_keeps() -> None:
    assert moved((0, 0), (0, -1), y=0.0001) == [0, 0]
    assert moved((0, 0), (0, -1), y=3.0) == [0, -NUDGE]
    assert moved((0, 0), (0.7, 0.7), airborne=0) == pytest.approx([0.7 * NUDGE, 0])


def test_a_stick_that_is_held_moves_as_hitlag_ends() -> None:
    assert moved(*[(0.8, 0.4)] * 3, (0, 0), lag=(1, 0)) == pytest.approx([0.8 * SHIFT, 0.4 * SHIFT])
    assert moved(*[(0.5, 0.4)] * 3, lag=(1, 0)) == [0, 0]
    assert moved(*[(0.8, 0.4)] * 3, lag=(1, 0), airborne=0) == []


@pytest.mark.parametrize("other", [{"lag": (0, 0)}, {"lag": (3, 5)}, {"action": WAIT}])
def test_nobody_else_is_ruled(other: dict) -> None:
    assert moved((0, 0), (1, 0), **other) == []


def hurt_frames(games: Dataset) -> tuple[Named, Named, Influence, Tensor]:
    corpus = WholeGames(games, list(range(min(12, len(games)))))
    state = named(corpus.floats, corpus.ints)
    lags = (state["hitlag"] > 0).any(dim=1) & (state["action"] >= HURT).any(dim=1)
    later = np.zeros(len(lags), bool)
    for start, room in zip(corpus._starts, corpus._room, strict=True):
        later[start : start + room] = True
    window = corpus.read(np.flatnonzero(lags.numpy() & later), 2)
    before, after = (window.state(slice(t, t + 1)) for t in (0, 1))
    past = recall({name: value[0] for name, value in window.carry.items()}, before)
    match, controllers = window.match[0], window.controllers[1]
    surfaces = Geometry().surfaces(match[:, M_["stage"]].long(), match[:, M_["frame"]] + 1, past.platforms)
    return before, after, influence(before, after, past, controllers, surfaces), match[:, M_["stage"]]


def test_who_is_hurt_in_games_moves_as_the_rule_says(true_games: Dataset) -> None:
    before, after, rule, _ = hurt_frames(true_games)
    if rule.ruled.sum() < 500:
        pytest.skip("too few are hurt in the games at hand")
    beside = after["x"] - before["x"] - displacement(before, after)[0]
    right = (beside - rule.x).abs() < 0.02
    by_stick = rule.ruled & (rule.x.abs() > 0.3)
    assert right[rule.ruled].float().mean() > 0.95
    assert right[by_stick].float().mean() > 0.9
    assert (by_stick & right).sum() > 0.9 * (rule.ruled & (beside.abs() > 0.3)).sum()


def test_behind_a_shield_a_stick_moves_less_and_along_x_alone() -> None:
    """The share of it is small, up and down do nothing, and a stick counts that is far out along x."""
    behind = {"action": SHIELD_STUN, "airborne": 0}
    assert moved((0, 0), (1, 0), **behind) == pytest.approx([SHIELDED * NUDGE, 0])
    assert moved((0, 0), (0.6, 0.8), **behind) == [0, 0]
    assert moved(*[(-0.8, 0.6)] * 2, (0, 0), lag=(1, 0), **behind) == pytest.approx([-0.8 * SHIELDED * SHIFT, 0])
