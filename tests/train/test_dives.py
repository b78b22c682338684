"""The dive that the stick steers: what it makes of the velocity, and where the rule says nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from states import but, first, one

from synthetic import REPLAYS
from wm_runtime.facts import character, dives
from wm_runtime.replays.dataset import Dataset
from wm_train.dynamics.dives import steered
from wm_train.measure_dives import frames_of, measured
from wm_train.measure_dives import steered as by_rule

FALCON = dives()[0]
AGE = 30


def velocity(
    stick: float, so_far: float, age: float = AGE, action: int = FALCON.action, next_: int = FALCON.action,
    turns: int = 1, **fields: float,
) -> float:  # fmt: skip
    """Of a Falcon whose stick has made `so_far` of his velocity, facing left: the way that he faced, a frame later."""
    free = float(np.nan_to_num(FALCON.free[int(age)]))
    state = one(
        facing=[-1, -1], self_x_air=[-(free + so_far)] * 2, state_age=[age, age], character=[FALCON.character] * 2,
        action=[action, action], **{name: [value, value] for name, value in fields.items()},
    )  # fmt: skip
    after = but(state, action=[next_, next_], facing=[-turns, -turns])
    return -first(steered(state, after, torch.full((1, 2), -stick)))


@pytest.mark.parametrize(
    ("stick", "so_far", "makes"),
    [
        (0.0, 0.5, 0.0),  # let go: nothing is left of it
        (1.0, 0.2, 0.2 + FALCON.gain),
        (-0.5, 0.2, 0.2 - 0.5 * FALCON.gain),
        (1.0, FALCON.top - 0.01, FALCON.top),  # no further
        (0.5, FALCON.top, 0.5 * FALCON.top),  # less of the stick: at once
        (-0.4, FALCON.top, FALCON.top - 0.4 * FALCON.gain),  # the other way: slowly
    ],
)
def test_the_stick_makes_of_the_velocity_what_the_game_does(stick: float, so_far: float, makes: float) -> None:
    assert velocity(stick, so_far) == pytest.approx(float(FALCON.free[AGE + 1]) + makes, abs=1e-5)
    rule = by_rule(np.array([so_far]), np.array([stick]), FALCON.gain, FALCON.top)
    assert rule[0] == pytest.approx(makes, abs=1e-6)


def test_a_dive_begins_with_the_stick_and_keeps_its_part_when_it_turns() -> None:
    fell = velocity(0.5, 3.0, age=2, action=FALCON.action - 1)
    assert fell == pytest.approx(0.5 * FALCON.gain, abs=1e-5)
    own = float(FALCON.free[FALCON.turns])
    makes = 0.2 + FALCON.gain
    assert velocity(1.0, 0.2, age=FALCON.turns - 1) == pytest.approx(own + makes, abs=1e-5)
    assert velocity(1.0, 0.2, age=FALCON.turns - 1, turns=-1) == pytest.approx(makes - own, abs=1e-5)


def test_it_says_nothing_of_other_moves_nor_in_hitlag_nor_past_its_end() -> None:
    assert not np.isfinite(velocity(1.0, 0.0, next_=FALCON.action - 1))
    assert not np.isfinite(velocity(1.0, 0.0, hitlag=3.0))
    assert not np.isfinite(velocity(1.0, 0.0, age=len(FALCON.free) - 1))
    assert np.isfinite(velocity(1.0, 0.0, age=FALCON.turns + 1))


def test_what_is_measured_is_what_was_put_in() -> None:
    rng = np.random.default_rng(0)
    free = np.concatenate([[np.nan, np.nan], np.sin(np.arange(2, 60) / 10)])
    age = rng.integers(16, 60, 20_000)
    held, stick = (np.where(rng.random(len(age)) < 0.3, 0, np.round(rng.uniform(-1, 1, len(age)), 2)) for _ in "ab")
    stick[rng.random(len(age)) < 0.3] = 1.0
    so_far = rng.uniform(-0.8, 0.8, len(age)) * np.abs(held)
    then = by_rule(so_far, stick, 0.05, 0.8)
    found = measured({"age": age, "was": free[age - 1] + so_far, "is_": free[age] + then, "held": held, "stick": stick})
    assert found["gain"] == pytest.approx(0.05, abs=1e-4)
    assert found["top"] == pytest.approx(0.8, abs=1e-3)
    assert found["right"] > 0.99


@pytest.mark.skipif(not REPLAYS.exists(), reason="needs real games")
def test_dives_of_games_are_as_the_facts_say(true_games: Dataset) -> None:
    games = list(range(len(true_games)))
    for dive in dives():
        if not any(dive.character in true_games.characters[game] for game in games):
            continue
        seen = frames_of(true_games, games, dive.character)
        seen = {name: value[(seen["age"] > dive.turns + 2)] for name, value in seen.items()}
        if len(seen["age"]) < 50:
            continue
        then = by_rule(seen["was"] - dive.free[seen["age"] - 1], seen["stick"], dive.gain, dive.top)
        right = np.abs(dive.free[seen["age"]] + then - seen["is_"]) < 1e-3
        assert right.mean() > 0.97, character(dive.character).name
