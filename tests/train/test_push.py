"""Who pushes whom, as the rule says and as the choice of x follows it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wm_runtime.facts import STAGES, character
from wm_runtime.replays.dataset import Dataset
from wm_runtime.schema import CONTROL_NAMES, FLOAT_FIELDS, INT_FIELDS
from wm_train.dynamics.candidates import PUSH, PUSHED, UNPUSHED, Candidates
from wm_train.dynamics.geometry import Geometry
from wm_train.dynamics.influence import Influence
from wm_train.dynamics.kinematics import velocity
from wm_train.dynamics.named import Named, named
from wm_train.dynamics.push import Push
from wm_train.dynamics.tables import MoveTables
from wm_train.training.whole_games import WholeGames

FOX, PEACH = (character(name).internal_id for name in ("FOX", "PEACH"))
WAIT, ROLL, SQUAT, JUMP, HURT, DODGED, THROW, THROWN = 14, 233, 24, 25, 90, 43, 219, 239
FOUNTAIN = 2
(FINAL_DESTINATION,) = [stage for stage in STAGES if stage.name == "FINAL_DESTINATION"]
HERE = torch.tensor([FINAL_DESTINATION.id])


def pair(apart: float, other: int = FOX, action: int = WAIT, **fields: list[float]) -> Named:
    state = named(torch.zeros(1, 2, len(FLOAT_FIELDS)), torch.zeros(1, 2, len(INT_FIELDS), dtype=torch.int32))
    given = {"x": [0.0, apart], "character": [FOX, other], "action": [action, WAIT], **fields}
    return {**state, **{name: torch.tensor([value]).to(state[name].dtype) for name, value in given.items()}}


@pytest.mark.parametrize(
    ("state", "pushed"),
    [
        (pair(6.5), [True, True]),
        (pair(6.7), [False, False]),
        (pair(6.5, PEACH), [False, False]),
        (pair(6.1, PEACH), [True, True]),
        (pair(6.5, action=ROLL), [False, True]),
        (pair(6.5, y=[0.0, 5.0]), [False, False]),
        (pair(6.5, airborne=[0, 1]), [False, False]),
        (pair(6.5, hitlag=[4, 0]), [False, True]),
    ],
)
def test_fighters_on_the_ground_push_each_other_where_their_radii_meet(state: Named, pushed: list[bool]) -> None:
    assert Push()(state, state, HERE)[0].tolist() == pushed


@pytest.mark.parametrize(
    ("who", "next_", "airborne", "pushed"),
    [
        (0, JUMP, 1, [False, False]),  # the first is gone when the second has its turn
        (1, JUMP, 1, [True, False]),
        (0, HURT, 1, [True, True]),  # who is struck was pushed before
        (0, DODGED, 0, [False, False]),
        (1, DODGED, 0, [True, False]),
    ],
)
def test_who_jumps_is_not_pushed_nor_pushes_who_comes_later(
    who: int, next_: int, airborne: int, pushed: list[bool]
) -> None:
    before, after = pair(3.0, action=SQUAT), pair(3.0)
    before["action"][0], after["action"][0] = WAIT, WAIT
    before["action"][0, who], after["action"][0, who], after["airborne"][0, who] = SQUAT, next_, airborne
    assert Push()(before, after, HERE)[0].tolist() == pushed


def test_fighters_push_on_surfaces_that_touch() -> None:
    main, beside, far = 5, 4, 3
    for grounds, pushed in (([main, main], True), ([main, beside], True), ([main, far], False)):
        state = pair(3.0, ground=grounds)
        assert Push()(state, state, torch.tensor([FOUNTAIN]))[0].tolist() == [pushed, pushed]


def test_a_roll_is_moved_on_the_frame_on_which_it_begins_and_on_that_after_it() -> None:
    stands, rolls = pair(3.0), pair(3.0, action=ROLL)
    for before, after, pushed in ((stands, rolls, True), (rolls, rolls, False), (rolls, stands, True)):
        assert bool(Push()(before, after, HERE)[0, 0]) == pushed


def test_who_throws_is_not_pushed_while_it_holds_somebody() -> None:
    for other, pushed in ((THROWN, False), (WAIT, True)):
        state = pair(3.0, action=THROW)
        state["action"][0, 1] = other
        assert bool(Push()(state, state, HERE)[0, 0]) == pushed


def test_places_with_a_push_differ_from_those_without_by_one() -> None:
    state = pair(4.0, self_x_ground=[0.5, -0.25], knockback_x=[0.1, 0.0])
    nothing = torch.zeros(1, 2)
    places = Geometry().places(torch.tensor([FINAL_DESTINATION.id]))
    row, pads = torch.zeros(1, 2, dtype=torch.int64), torch.zeros(1, 2, len(CONTROL_NAMES))
    no_stick = Influence(nothing > 0, nothing, nothing, nothing > 0)
    options = Candidates(MoveTables()).x(
        state, state, state, row, row, row, places, torch.ones(1, 2), pads, pads, nothing, no_stick
    )  # fmt: skip
    by = options[..., list(PUSHED)] - options[..., list(UNPUSHED)]
    assert torch.allclose(by, torch.tensor([[[-PUSH], [PUSH]]]).expand_as(by), atol=1e-6)
    assert len(PUSHED) == len(UNPUSHED)
    assert not set(PUSHED) & set(UNPUSHED)


def test_who_is_pushed_in_games_is_pushed_by_the_rule(true_games: Dataset) -> None:
    corpus = WholeGames(true_games, list(range(min(8, len(true_games)))))
    state = named(corpus.floats, corpus.ints)
    before, after = ({name: value[part] for name, value in state.items()} for part in (slice(-1), slice(1, None)))
    stage = torch.from_numpy(np.repeat(corpus.stage, corpus.frames))[:-1].long()
    rule = Push()(before, after, stage)
    away = torch.where(before["x"] >= before["x"].flip(1), 1.0, -1.0)
    beside = (after["x"] - before["x"] - velocity(after)[0]) * away
    grounded = ((before["airborne"] == 0) & (after["airborne"] == 0)).all(dim=-1, keepdim=True)
    free = grounded & (before["action"] > 13) & (before["hitlag"] == 0) & (after["hitlag"] == 0)
    pushed, still = (beside - PUSH).abs() < 0.004, beside.abs() < 0.004
    if (free & pushed).sum() < 100:
        pytest.skip("nobody is pushed in the games at hand")
    assert (free & pushed & rule).sum() >= 0.97 * (free & pushed).sum()
    assert (free & rule & pushed).sum() >= 0.97 * (free & rule & (pushed | still)).sum()
