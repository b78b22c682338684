"""Actions that the state and the controllers decide: which are ruled out, and that real games do without those."""

from __future__ import annotations

import pytest
import torch
from states import but, one

from wm_runtime.replays.dataset import Dataset
from wm_runtime.schema import C_, CONTROL_NAMES
from wm_train.dynamics.contact import LANDING
from wm_train.dynamics.decided import (
    HELD,
    QUICK,
    RAISED,
    REFLECTING,
    RELEASE,
    SLOW,
    Decided,
    hurt_in_air,
    stays_up,
)
from wm_train.dynamics.named import named
from wm_train.training.whole_games import WholeGames

HANGS, HURT_2, WAIT = 253, 85, 14


def ruled_out(trigger: float = 0.0, click: float = 0.0, **fields: float) -> set[int]:
    """Actions that a fighter does not take next."""
    pads = torch.zeros(1, 2, len(CONTROL_NAMES))
    pads[..., C_["shoulder"]], pads[..., C_["l"]] = trigger, click
    state = one(**{name: [value, value] for name, value in fields.items()})
    return set(Decided()(state, pads)[0, 0].nonzero()[:, 0].tolist())


@pytest.mark.parametrize(
    ("action", "misc_as", "trigger", "out"),
    [
        (HELD, 3.0, 0.0, {RELEASE}),  # too early
        (RAISED, 6.0, 0.0, {RELEASE}),
        (REFLECTING, 6.0, 0.0, {RELEASE}),
        (HELD, 7.0, 0.0, {RAISED, HELD}),  # let go
        (RAISED, 12.0, 0.0, {RAISED, HELD}),
        (REFLECTING, 7.0, 0.0, set()),
        (HELD, 12.0, 0.35, {RELEASE}),  # pulled a little
        (WAIT, 12.0, 0.0, set()),
    ],
)
def test_a_shield_is_held_for_eight_frames_and_then_as_long_as_the_trigger(
    action: int, misc_as: float, trigger: float, out: set[int]
) -> None:
    assert ruled_out(trigger, action=action, misc_as=misc_as) == out
    if action == HELD:
        assert ruled_out(click=1.0, action=action, misc_as=misc_as) == {RELEASE}
        assert ruled_out(trigger, action=action, misc_as=misc_as, hitlag=3.0) == set()


def test_who_has_taken_a_hundred_percent_climbs_slowly() -> None:
    assert ruled_out(action=HANGS, percent=99.9) == set(SLOW)
    assert ruled_out(action=HANGS, percent=100.0) == set(QUICK)
    assert set(SLOW) == {254, 256, 258, 260, 261}
    assert set(QUICK) == {255, 257, 259, 262, 263}


def test_who_is_hurt_and_comes_down_lands_for_it_if_it_is_fast() -> None:
    slow = {"action": HURT_2, "airborne": 1, "state_age": 10.0, "knockback_y": -0.5}
    assert ruled_out(**slow) == {LANDING}
    assert ruled_out(**{**slow, "knockback_y": -0.56}) == set()
    assert ruled_out(**{**slow, "state_age": 23.0}) == set()  # its animation is over
    assert ruled_out(**{**slow, "airborne": 0}) == ruled_out(**{**slow, "hitlag": 2.0}) == set()

    up, down, comes = (torch.full((1, 2), value) for value in (1, 0, True))
    state = one(**{name: [value, value] for name, value in slow.items()})
    fast = but(state, knockback_y=[-0.56, -0.56])
    assert stays_up(state, state, up, comes)[0, 0] == 0
    assert stays_up(state, state, up, ~comes)[0, 0] == 1
    assert stays_up(state, state, down, ~comes)[0, 0] == 0
    assert stays_up(fast, fast, down, comes)[0, 0] == 1  # it would have landed
    assert stays_up(fast, but(fast, action=[LANDING, LANDING]), down, comes)[0, 0] == 0
    stopped = but(state, hitlag=[3.0, 3.0])
    assert stays_up(stopped, but(stopped, action=[WAIT, WAIT]), down, comes)[0, 0] == 1


def test_real_games_do_without_what_is_ruled_out(real_dataset: Dataset) -> None:
    corpus = WholeGames(real_dataset, list(range(len(real_dataset))))
    before, after = (named(corpus.floats[part], corpus.ints[part]) for part in (slice(0, -1), slice(1, None)))
    out = Decided()(before, corpus.controllers[1:])
    free = (after["percent"] <= before["percent"]) & (before["action"] > 13) & (after["action"] > 13)
    free[corpus.first[1:] - 1] = False  # from one game to another
    speaks = out.any(dim=-1) & free
    broken = out.gather(-1, after["action"][..., None].long())[..., 0] & speaks
    assert speaks.sum() > 10_000
    assert broken.sum() < 1e-3 * speaks.sum()
    hurt, lands = hurt_in_air(before)
    comes = hurt & free & (after["airborne"] == 0) & (before["state_age"] < 11)
    assert comes.sum() > 50
    said = stays_up(before, after, after["airborne"], after["airborne"] == 0)
    assert (said == after["airborne"])[comes].float().mean() > 0.98
    assert ((after["action"] == LANDING) == lands)[comes].float().mean() > 0.98
