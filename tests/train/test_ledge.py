"""Catching the ledge: within a box, facing it, falling."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wm_runtime.facts import STAGES, character, ledge_catches
from wm_runtime.replays.dataset import Dataset
from wm_runtime.schema import C_, CONTROL_NAMES, FLOAT_FIELDS, INT_FIELDS
from wm_train.dynamics.ledge import CATCH, COOLED, ODDS, Ledge
from wm_train.dynamics.memory import CONTROLLERS, Past
from wm_train.dynamics.named import named
from wm_train.measure_ledges import approaches, boxes, shares

FALCO, MARTH, LINK = (character(name).internal_id for name in ("FALCO", "MARTH", "LINK"))
WAIT, FALL, BAIR, HANG = 14, 29, 67, 253
(FINAL_DESTINATION,) = [stage.id for stage in STAGES if stage.name == "FINAL_DESTINATION"]


def odds(since: int = 500, stick: float = 0.0, other: int = WAIT, other_x: float = -80.0, **fields: float) -> float:
    """What the rule says of Falco, who falls past the right ledge, 3 units out; the other is on the left."""
    state = named(torch.zeros(1, 2, len(FLOAT_FIELDS)), torch.zeros(1, 2, len(INT_FIELDS), dtype=torch.int32))
    given = {
        "x": 88.5, "y": -8.0, "self_y": -2.0, "character": FALCO, "action": FALL, "airborne": 1, "facing": -1, **fields,
    }  # fmt: skip
    state |= {name: torch.tensor([[value, 0]]).to(state[name].dtype) for name, value in given.items()}
    state["action"][0, 1], state["x"][0, 1] = other, other_x
    pads = torch.zeros(1, CONTROLLERS + 1, 2, len(CONTROL_NAMES))
    pads[0, -1, 0, C_["main_y"]] = stick
    past = Past({"since_ledge": torch.tensor([[since, 500]])}, {}, *[torch.empty(0)] * 3, pads[:, :-1])
    return float(Ledge()(state, past, torch.tensor([FINAL_DESTINATION]), pads[:, -1])[0, 0])


def test_who_falls_past_the_ledge_catches_it() -> None:
    assert odds() == ODDS
    assert odds(x=-88.5, facing=1) == ODDS
    assert odds(character=MARTH) == -ODDS  # his box begins further down
    assert odds(character=MARTH, y=-11.0) == ODDS


@pytest.mark.parametrize(
    "but",
    [
        {"y": -5.0}, {"x": 104.0}, {"self_y": 1.0}, {"action": BAIR}, {"since": COOLED - 1}, {"stick": -1.0},
    ],
)  # fmt: skip
def test_nobody_else_does(but: dict[str, float]) -> None:
    assert odds(**but) == -ODDS


@pytest.mark.parametrize(
    "but",
    [
        {"facing": 1}, {"other": HANG, "other_x": 87.0}, {"character": LINK}, {"airborne": 0}, {"hitlag": 3},
        {"y": -20.0},
    ],
)  # fmt: skip
def test_where_nothing_is_known_nothing_is_said(but: dict[str, float]) -> None:
    assert odds(**but) == 0


def test_a_ledge_across_the_stage_is_free() -> None:
    assert odds(other=HANG, other_x=-87.0) == ODDS


def test_boxes_are_found_from_who_catches_and_who_does_not() -> None:
    rng = np.random.default_rng(0)
    high, out = rng.uniform(-25, 0, 20_000), rng.uniform(0, 20, 20_000)
    inside = (high < -8.5) & (high > -18) & (out < 13)
    action = np.where(rng.random(20_000) < 0.9, FALL, BAIR)
    seen = {
        "high": high, "out": out, "action": action, "character": np.full(20_000, FALCO),
        "catches": inside & (action == FALL),
    }  # fmt: skip
    box = boxes(seen)
    assert set(box) == {"FALCO"}
    its = box["FALCO"]
    assert [its["top"], its["bottom"], its["reach"]] == pytest.approx([-8.5, -18, 13], abs=0.5)
    of = shares(seen, box)["all"]
    assert of[str(FALL)][0] > 0.98
    assert of[str(BAIR)][0] == 0


def test_facts_are_whole() -> None:
    known = ledge_catches()
    assert len(known.box) >= 12
    assert all(bottom < top < 0 < reach for top, bottom, reach in known.box.values())
    assert {move.action for move in known.moves if move.character is None and move.share > 0.9} >= {FALL}


def test_catches_in_games_are_in_the_box(true_games: Dataset) -> None:
    seen = approaches(true_games, list(range(len(true_games))))
    known = ledge_catches().box
    box = np.array([known.get(int(who), (np.nan,) * 3) for who in seen["character"]])
    falls = (seen["action"] == FALL) & ~np.isnan(box[:, 0])
    if (falls & seen["catches"]).sum() < 50:
        pytest.skip("too few catch a ledge in the games at hand")
    inside = (seen["high"] < box[:, 0]) & (seen["high"] > box[:, 1]) & (seen["out"] > 0) & (seen["out"] < box[:, 2])
    assert inside[falls & seen["catches"]].mean() > 0.9
    assert seen["catches"][falls & inside].mean() > 0.9
    assert CATCH == 252


@pytest.mark.parametrize(("age", "y", "said"), [(20.0, -8.28, ODDS), (20.0, -8.27, -ODDS), (14.0, -8.28, -ODDS)])
def test_who_creeps_past_the_ledge_catches_it_on_the_very_frame(age: float, y: float, said: float) -> None:
    """The box of Fox begins 8.5 units below the ledge."""
    fields = {"character": character("FOX").internal_id, "action": 354, "state_age": age}
    assert odds(y=y, self_y=-0.21, **fields) == said
