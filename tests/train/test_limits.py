"""Limits: what no step of the game does is undone, and what games really do is left alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wm_runtime.schema import FLOAT_FIELDS, INT_FIELDS
from wm_train.dynamics.limits import Limits
from wm_train.dynamics.named import Named, named

LIMITS = Limits()
FALL, STAND, NAIR, HURT, THROWN, LEDGE_CATCH = 29, 14, 65, 88, 239, 252
FINAL_DESTINATION = 32


def one(**fields: float) -> Named:
    """Two Foxes in the air of Final Destination, far apart; `fields` are those of the first."""
    floats, ints = (torch.zeros(1, 2, len(names)) for names in (FLOAT_FIELDS, INT_FIELDS))
    state = named(floats, ints.int())
    usual = {"character": 1, "action": FALL, "airborne": 1, "jumps": 1, "shield": 60, "stocks": 4}
    for name, value in {**usual, **fields}.items():
        state[name][:, : 2 if name in usual and name not in fields else 1] = value
    for name, value in usual.items():
        state[name][:, 1] = value
    return state


def limited(before: Named, after: Named, name: str) -> float:
    return LIMITS(before, after, torch.tensor([FINAL_DESTINATION]))[name][0, 0].item()


@pytest.mark.parametrize(
    ("name", "before", "after", "expected"),
    [
        ("x", {}, {"x": 14.0, "self_x_air": 1.5}, 1.5),
        ("x", {}, {"x": 14.0, "self_x_air": 13.5}, 14.0),
        ("x", {}, {"x": 14.0, "percent": 3.0}, 14.0),
        ("x", {}, {"x": 14.0, "action": THROWN}, 14.0),
        ("x", {}, {"x": 45.0, "action": THROWN, "self_x_air": 2.0}, 2.0),
        ("x", {"action": 12}, {"x": 100.0}, 100.0),
        ("jumps", {"jumps": 0}, {"jumps": 1}, 0),
        ("jumps", {"jumps": 0}, {"jumps": 1, "action": LEDGE_CATCH}, 1),
        ("jumps", {"airborne": 0}, {"jumps": 5}, 2),
        ("knockback_x", {"knockback_x": 1.0}, {"knockback_x": 2.0}, 1.0),
        ("knockback_x", {"knockback_x": 1.0}, {"knockback_x": 2.0, "hitlag": 4.0}, 2.0),
        ("knockback_x", {"knockback_x": 1.0, "action": THROWN}, {"knockback_x": 2.0}, 2.0),
        ("hitlag", {"hitlag": 5.0, "action": STAND}, {"hitlag": 2.0, "action": STAND}, 4.0),
        ("hitlag", {"hitlag": 5.0, "action": STAND}, {"hitlag": 9.0, "action": STAND}, 4.0),
        ("hitlag", {"hitlag": 5.0, "action": NAIR}, {"hitlag": 9.0, "action": NAIR}, 9.0),
        ("hitlag", {"hitlag": 5.0}, {"hitlag": 2.0, "percent": 3.0, "action": HURT}, 2.0),
        ("hitlag", {}, {"percent": 13.0, "action": HURT}, 7.0),  # nobody is hurt without
        ("hitlag", {}, {"percent": 3.0, "action": HURT}, 0.0),  # but by Fox's lasers,
        ("hitlag", {}, {"percent": 1.0}, 0.0),  # the magnifying glass,
        ("hitlag", {"action": THROWN}, {"percent": 9.0, "action": HURT}, 0.0),  # and throws
        ("hitlag", {"hitlag": 1.0}, {"percent": 9.0, "action": HURT}, 0.0),
        ("flags_2", {}, {"percent": 13.0, "action": HURT}, 0x20),
        ("flags_2", {}, {"hitlag": 3.0, "flags_2": 0x04, "action": NAIR}, 0x24),
        ("flags_2", {}, {"flags_2": 0x24}, 0x04),
        ("state_age", {}, {"state_age": -40.0}, -2.0),
    ],
)
def test_what_no_step_does_is_undone(name: str, before: dict, after: dict, expected: float) -> None:
    assert limited(one(**before), one(**after), name) == pytest.approx(expected, abs=1e-5)


def test_real_games_are_left_as_they_are(real_dataset) -> None:
    for game in real_dataset:
        state = game.state()
        before, after = (state.rows(rows) for rows in (slice(0, -1), slice(1, None)))
        states = [named(torch.from_numpy(s.floats), torch.from_numpy(s.ints)) for s in (before, after)]
        result = LIMITS(*states, torch.from_numpy(after["stage"].astype(np.int64)))
        for name, value in result.items():
            true = after[name]
            near = 0.011 if name.startswith("knockback") else 1e-4
            changed = np.abs(value.numpy().astype(np.float64) - true) > near
            assert not (changed & (true == true)).any(), (name, np.argwhere(changed)[:3])
