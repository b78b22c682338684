"""For how many frames sticks and buttons have been where they are."""

from __future__ import annotations

import torch

from wm_runtime.schema import C_, CONTROL_NAMES, FLOAT_FIELDS, INT_FIELDS
from wm_train.dynamics.core import zeros
from wm_train.dynamics.features import HELD, Features
from wm_train.dynamics.memory import CONTROLLERS, carry_layout, recall
from wm_train.dynamics.named import named
from wm_train.dynamics.tables import MoveTables


def held(history: list[tuple[str, list[float]]], facing: int = 1) -> dict[tuple[str, float, float], float]:
    """Controllers of the last frames and the next one, by name (others 0) → frames that each of HELD has lasted."""
    state = named(torch.zeros(1, 2, len(FLOAT_FIELDS)), torch.zeros(1, 2, len(INT_FIELDS), dtype=torch.int32))
    state["facing"] = torch.full((1, 2), facing, dtype=torch.int32)
    pads = torch.zeros(1, CONTROLLERS + 1, 2, len(CONTROL_NAMES))
    for name, values in history:
        pads[0, -len(values) :, 0, C_[name]] = torch.tensor(values)
    past = recall(zeros(carry_layout(), 1), state)
    past.controllers = pads[:, :-1]
    columns = Features(MoveTables())._presses(state, past, pads[:, -1])
    frames = torch.stack(columns[: len(HELD)], dim=-1)[0, 0] * (CONTROLLERS + 1)
    return dict(zip(HELD, frames.round().tolist(), strict=True))


def test_a_stick_is_timed_from_where_it_crossed_a_threshold() -> None:
    found = held([("main_x", [0.0, 0.5, 0.9, 1.0])])
    assert found["main_x", 1.0, 0.2875] == 3
    assert found["main_x", 1.0, 0.8] == 2
    assert found["main_x", -1.0, 0.2875] == 0


def test_forward_and_back_are_as_the_fighter_faces() -> None:
    found = held([("main_x", [-1.0, -1.0]), ("main_y", [0.0, -0.7])], facing=-1)
    assert found["main_x", 1.0, 0.8] == 2
    assert found["main_x", -1.0, 0.8] == 0
    assert found["main_y", -1.0, 0.6625] == 1


def test_what_was_let_go_counts_anew_and_what_is_held_for_long_is_capped() -> None:
    found = held([("a", [1.0, 0.0, 1.0]), ("b", [1.0] * (CONTROLLERS + 1)), ("x_button", [1.0, 0.0])])
    assert (found["a", 1.0, 0.5], found["b", 1.0, 0.5], found["x_button", 1.0, 0.5]) == (1, CONTROLLERS + 1, 0)
