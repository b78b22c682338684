"""Lasers in the memory: they leave as the game's do, fly, and are spent on who they hurt."""

from __future__ import annotations

import pytest
import torch
from states import one
from torch import Tensor

from wm_runtime.facts import character
from wm_runtime.replays.dataset import Dataset
from wm_runtime.schema import FIRST_FRAME, INT_FIELDS
from wm_train.dynamics.lasers import (
    BACK,
    FLOATING,
    FLYING,
    KINDS,
    LANDING,
    LONGEST,
    SHOTS,
    STANDING,
    UP,
    beside,
    flown,
    kinds,
    nearest,
    next_shots,
)
from wm_train.training.whole_games import WholeGames

FALCO, FOX, SHEIK = (character(name).internal_id for name in ("FALCO", "FOX", "SHEIK"))
FALCOS_LASER, FOXS_LASER = 55, 54
WAIT, FALL = 14, 29


def none() -> Tensor:
    return torch.zeros(1, 2, FLYING, len(SHOTS))


def test_a_laser_leaves_flies_and_is_spent_on_who_it_hurts() -> None:
    aims = one(character=[FALCO, FOX], action=[FLOATING, WAIT], state_age=[7, 1], x=[-20, 30], y=[9, 0])
    shoots = {**aims, "state_age": torch.tensor([[8.0, 2.0]]), "x": torch.tensor([[-19.0, 30.0]])}
    waits = {**shoots, "action": torch.tensor([[FALL, WAIT]])}
    shots = flown(none(), aims, shoots)
    assert shots[0, 0, 0].tolist() == pytest.approx([-20 + 14.641, 9 + 9.313, 5, 0, 0])
    assert not shots[0, 1].any()
    for _ in range(3):
        shots = flown(shots, waits, waits)
    assert shots[0, 0, 0].tolist() == pytest.approx([-20 + 14.641 + 15, 9 + 9.313, 5, 0, 15])
    hurt = {**waits, "percent": torch.tensor([[0.0, 3.0]])}
    assert flown(shots, waits, hurt)[0, 0].any()  # hurt far from it, by something else
    for _ in range(3):
        shots = flown(shots, waits, waits)
    assert not flown(shots, waits, hurt).any()
    for _ in range(60):
        shots = flown(shots, waits, waits)
    assert not shots.any()


def test_a_laser_leaves_who_lands_on_that_frame() -> None:
    aims = one(character=[FALCO, FOX], action=[FLOATING, FLOATING], state_age=[7, 4], y=[1, 40])
    lands = {**aims, "action": torch.tensor([[LANDING, LANDING]]), "state_age": torch.zeros(1, 2)}
    assert flown(none(), aims, lands)[0, :, 0, 2].tolist() == [5, 7]
    early = {**aims, "state_age": torch.tensor([[6.0, 3.0]])}
    assert not flown(none(), early, lands).any()
    falls = {**lands, "action": torch.tensor([[FALL, FALL]])}
    assert not flown(none(), aims, falls).any()


def test_a_laser_is_a_beam_from_where_it_left_until_it_is_as_long_as_it_gets() -> None:
    state = one(character=[FALCO, FOX], action=[WAIT, WAIT], y=[0, -90])
    shots = none()
    shots[0, 0, 0] = torch.tensor([0.0, 10.0, 5.0, 0.0, 0.0])
    for frame in range(1, 12):
        shots = flown(shots, state, state)
        head, length = shots[0, 0, 0, 0].item(), shots[0, 0, 0, 4].item()
        assert (head, length) == (5 * frame, min(5 * frame, LONGEST["FALCO"]))
        places = torch.tensor([[head + 4, 10], [head - length / 2, 17], [head - length - 6, 10]])
        apart = beside(shots[0, 0, 0], places[:, 0], places[:, 1])
        assert apart.tolist() == pytest.approx([4, 7, 6], abs=0.01)


def test_who_is_struck_stops_the_laser_that_is_beside_it() -> None:
    shots, state = none(), one(character=[FALCO, FOX], x=[-90, 0], y=[0, 0])
    shots[0, 0, 0] = torch.tensor([-60.0, 8.0, 5.0, 0.0, 10.0])
    shots[0, 0, 1] = torch.tensor([20.0, 8.0, 5.0, 0.0, 33.0])  # its head is past, it is not
    shield = {**state, "hitlag": torch.tensor([[0.0, 3.0]])}
    for struck in ({**state, "percent": torch.tensor([[0.0, 3.0]])}, shield):
        assert flown(shots, state, struck)[0, 0, :, 2].tolist() == [5, 0, 0]
    leaves = one(character=[FOX, FALCO], action=[UP, WAIT], state_age=[17, 0], x=[0, 1], y=[0, 22])
    then = {**leaves, "state_age": torch.tensor([[18.0, 1.0]])}
    assert flown(none(), leaves, then)[0, 0, 0, 3] == pytest.approx(6.999)
    assert not flown(none(), leaves, {**then, "percent": torch.tensor([[0.0, 2.0]])}).any()  # at once


@pytest.mark.parametrize(("pace", "frame"), [(1.0, 1), (5 / 4, 1), (5 / 3, 1), (4 / 3, 2)])
def test_the_second_laser_of_an_up_throw_is_late_at_one_pace(pace: float, frame: int) -> None:
    ages = [18.6, 20.0, 20 + pace] if pace == 5 / 3 else [20 - pace, 20.0, 20 + pace]
    states = [one(character=[FOX, FOX], action=[UP, WAIT], state_age=[age, 1], y=[0, 90]) for age in ages]
    shots = none()
    for step in (1, 2):
        shots = flown(shots, states[step - 1], states[step])
        assert shots[0, 0].any() == (step >= frame)


def test_lasers_of_the_next_frame_are_those_that_will_be() -> None:
    state = one(character=[FALCO, SHEIK], action=[FLOATING, 344], state_age=[7, 2], x=[-60, 60], y=[5, 0])
    state["facing"] = torch.tensor([[1, -1]], dtype=torch.int32)
    shots = none()
    shots[0, 0, 0] = torch.tensor([-60.0, 8.0, 5.0, 0.0, 10.0])
    then = next_shots(shots, state, torch.ones(1, 2))
    later = {**state, "state_age": state["state_age"] + 1}
    assert torch.equal(then[:, 0, :FLYING], flown(shots, state, later)[:, 0])
    assert then[0, 1, 0].tolist() == pytest.approx([52, 8, -4, 0, 0])
    still = next_shots(shots, state, torch.zeros(1, 2))
    assert not still[:, :, 0].any()


def test_lasers_are_told_apart_by_who_sends_them_and_how_they_fly() -> None:
    lasers = torch.zeros(3, 2, 1 + FLYING, len(SHOTS))
    lasers[:, :, 1:, 3] = 7.0
    found = kinds(lasers, torch.tensor([[FOX, FALCO], [SHEIK, WAIT], [FALCO, FOX]]))
    assert found[0, :, :2].tolist() == [[1, 2], [5, 6]]
    assert found[1, :, 2].tolist() == [10, 10]
    assert found.min() >= 0
    assert found.max() < KINDS


def test_an_up_throw_sends_three_lasers_each_of_which_hits_once() -> None:
    shots, before = none(), one(character=[FALCO, FOX], action=[UP, WAIT], state_age=[16.25, 1], y=[0, 60])
    for frame in range(1, 8):
        now = {**before, "state_age": before["state_age"] + torch.tensor([1.25, 1.0])}
        shots, before = flown(shots, before, now), now
        assert (shots[0, 0, :, 3] != 0).sum() == sum(frame >= left for left in (2, 3, 7)), frame
    hits = 0
    while shots.any():
        from_x, from_y, _, speed_y = nearest(shots, before)
        now = before if from_y[0, 0] > 8 else {**before, "percent": before["percent"] + torch.tensor([0.0, 2.0])}
        hits += int(from_y[0, 0] <= 8)
        assert speed_y[0, 0] > 4.9
        assert abs(from_x[0, 0]) < 6
        shots, before = flown(shots, before, now), now
    assert hits == 3


def test_the_next_laser_is_told_not_the_latest() -> None:
    shots = none()
    shots[0, 0, 0] = torch.tensor([-40.0, 8.0, 5.0, 0.0, 0.0])
    shots[0, 0, 1] = torch.tensor([10.0, 8.0, 5.0, 0.0, 0.0])
    shots[0, 0, 2] = torch.tensor([80.0, 8.0, 5.0, 0.0, 0.0])  # past
    state = one(x=[-60, 30], y=[0, 0])
    assert [part[0, 0].item() for part in nearest(shots, state)] == [20, -8, 5, 0]
    assert [part[0, 1].item() for part in nearest(shots, state)] == [0, 0, 0, 0]


def test_lasers_are_where_replays_have_them(true_games: Dataset) -> None:
    seen = right = 0
    for game in range(len(true_games)):
        if seen > 300:
            break
        who = [int(c) for c in true_games.characters[game]]
        items = true_games.items(game)
        if not {FALCO, FOX} & set(who) or not len(items["type"]):
            continue
        corpus = WholeGames(true_games, [game])
        for shooter, other in ((0, 1), (1, 0)):
            kind = {FALCO: FALCOS_LASER, FOX: FOXS_LASER}.get(who[shooter], -1)
            if kind == {FALCO: FALCOS_LASER, FOX: FOXS_LASER}.get(who[other], -2):
                continue  # whose it is, items of older replays do not say
            of = items["type"] == kind
            rows = items["frame"][of] - FIRST_FRAME
            action = corpus.ints[rows][:, shooter, INT_FIELDS.index("action")]
            shooting = (action == STANDING) | (action == FLOATING) | (action == UP) | (action == BACK)
            x, y = (torch.from_numpy(items[axis][of]) for axis in ("x", "y"))
            shots = corpus.shots[rows, shooter]
            off = (shots[..., 0] - x[:, None]).abs() + (shots[..., 1] - y[:, None]).abs()
            seen += int(shooting.sum())
            right += int((shooting & (off.amin(dim=-1) < 2.5)).sum())
    if seen < 100:
        pytest.skip("too few lasers among the games at hand")
    assert right > 0.9 * seen  # the rest: reflected, or gone through who was hurt by something else
