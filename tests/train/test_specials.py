"""Special moves that the stick of one moment steers, against made-up states and against real games."""

from __future__ import annotations

import math

import pytest
import torch
from states import but, first, one
from torch import Tensor

from wm_runtime.facts import character as fighter
from wm_runtime.replays.dataset import Dataset
from wm_runtime.schema import C_
from wm_train.dynamics.memory import CONTROLLERS, Past, beginning
from wm_train.dynamics.named import Named, named
from wm_train.dynamics.specials import LEAN, MARTH, RISES, SLASH, SPEED, VANISHINGS, slashed, vanished

SHEIK = fighter("SHEIK").internal_id
(SHEIKS,) = [of for of in VANISHINGS if of.who == "SHEIK"]
FRICTION = torch.full((1, 2), 0.04)


def past_of(state: Named, x: float, y: float, frames: int = 5) -> Past:
    pads = torch.zeros(1, CONTROLLERS, 2, 13)
    pads[..., C_["main_x"]], pads[..., C_["main_y"]] = x, y
    numbers = {**beginning(state), "frames_in_action": torch.full((1, 2), frames)}
    return Past(numbers, state, *[torch.empty(0)] * 3, pads)


@pytest.mark.parametrize(
    ("stick", "velocity"),
    [((1.0, 0.0), (2.0, 0.0)), ((0.0, -0.5), (0.0, -1.5)), ((0.6, 0.8), (1.2, 1.6)), ((0.0, 0.0), (0.0, 2.0))],
)
def test_who_vanishes_flies_the_way_of_the_stick(
    stick: tuple[float, float], velocity: tuple[float, float]
) -> None:
    gone = one(character=[SHEIK, MARTH], action=[SHEIKS.before[1]] * 2, airborne=[1, 1])
    x, y = vanished(gone, but(gone, action=[SHEIKS.flight[1]] * 2), past_of(gone, *stick), FRICTION)
    assert (first(x), first(y)) == pytest.approx(velocity, abs=1e-5)
    assert x[0, 1].isnan()


def test_who_appears_again_keeps_a_part_and_less_if_nothing_stopped_it() -> None:
    flies = one(character=[SHEIK] * 2, action=[SHEIKS.flight[1]] * 2, self_x_air=[-2.0] * 2, self_y=[1.0] * 2)
    ends = but(flies, action=[SHEIKS.end] * 2)
    for frames, velocity in ((SHEIKS.frames - 1, (-0.56, 0.27)), (4, (-0.6, 0.3))):
        x, y = vanished(flies, ends, past_of(flies, 0.0, 0.0, frames), FRICTION)
        assert (first(x), first(y)) == pytest.approx(velocity, abs=1e-5)


def test_a_slash_leans_the_way_of_the_stick_where_it_begins_to_rise() -> None:
    cuts = one(character=[MARTH] * 2, action=[SLASH] * 2, state_age=[RISES - 1] * 2, facing=[-1, -1])
    rises = but(cuts, state_age=[RISES] * 2)
    for stick, lean in ((0.0, LEAN), (-0.4, LEAN), (-1.0, LEAN + 20.0)):
        x, y = slashed(cuts, rises, past_of(cuts, stick, 0.0))
        assert math.degrees(math.atan2(-first(x), first(y))) == pytest.approx(lean, abs=1e-3)
        assert math.hypot(first(x), first(y)) == pytest.approx(SPEED, abs=1e-4)
    assert slashed(rises, rises, past_of(cuts, 0.0, 0.0))[0].isnan().all()


def test_real_fighters_vanish_and_slash_so(true_games: Dataset) -> None:
    spoken = right = 0
    for game in true_games:
        state, pads = game.state(), torch.from_numpy(game.controllers())
        whole = named(torch.from_numpy(state.floats), torch.from_numpy(state.ints))
        before, after = ({name: of[part] for name, of in whole.items()} for part in (slice(-1), slice(1, None)))
        frames = torch.zeros_like(before["action"])
        for t in range(1, len(frames)):
            frames[t] = (frames[t - 1] + 1) * (before["action"][t] == before["action"][t - 1])
        past = Past({"frames_in_action": frames}, before, *[torch.empty(0)] * 3, pads[:-1, None])
        friction = torch.where(before["character"] == SHEIK, 0.04, 0.0)
        for x, y in (vanished(before, after, past, friction), slashed(before, after, past)):
            told = ~x.isnan() & (after["airborne"] == 1) & (after["hitlag"] == 0)
            wrong: Tensor = (x - after["self_x_air"]).abs() + (y - after["self_y"]).abs()
            spoken, right = spoken + int(told.sum()), right + int((told & (wrong < 2e-3)).sum())
    if spoken < 20:
        pytest.skip("nobody vanishes or slashes in the games at hand")
    assert right >= 0.75 * spoken
