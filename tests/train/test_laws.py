"""Laws of motion along x, held against real games and against states that are made up."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from states import but, first, one
from torch import Tensor

from wm_runtime.facts import STAGES, roots
from wm_runtime.facts import character as fighter
from wm_runtime.replays.dataset import Dataset
from wm_runtime.schema import C_
from wm_train.dynamics.candidates import Candidates
from wm_train.dynamics.edges import pieces
from wm_train.dynamics.geometry import Geometry, slope_at
from wm_train.dynamics.laws import (
    CAME_BACK,
    ENDS_ODDS,
    HELD_LEDGE,
    HITSTUN_FLAG,
    NO_LIMIT,
    REVERSES,
    SHINES_FOR,
    SHOOTS,
    TURN_SHARE,
    Laws,
    ends,
    hops,
    leaps,
    on_slope,
    turns,
    untouched,
)
from wm_train.dynamics.memory import CONTROLLERS, Past, advance, beginning
from wm_train.dynamics.named import Named, named
from wm_train.dynamics.platforms import PLATFORMS
from wm_train.dynamics.slides import ROUGHER, Slides
from wm_train.dynamics.tables import MoveTables

LAWS, SLIDES = Laws(), Slides()
FOX, MARTH = (fighter(name).internal_id for name in ("FOX", "MARTH"))
FINAL_DESTINATION, FOUNTAIN = 32, 2
WAIT, DASH, TURN, SQUAT, FALL, NAIR, HURT, DODGE = 14, 20, 18, 24, 29, 65, 86, 236
HELPLESS, SLASH, LIES, JUMP, LANDS = 35, 368, 183, 25, 43
SHINE, SHOOT = 361, 342


def real(dataset: Dataset) -> Iterator[tuple[Named, Named, Tensor]]:
    """Each game's frames, the next ones, and the stage (T,)."""
    for game in dataset:
        state = game.state()
        floats, ints = torch.from_numpy(state.floats), torch.from_numpy(state.ints)
        stage = torch.from_numpy(state["stage"].astype(np.int64))[:-1]
        yield named(floats[:-1], ints[:-1]), named(floats[1:], ints[1:]), stage


def shares(dataset: Dataset, rule: Callable[[Named, Named, Tensor], tuple[Tensor, Tensor]]) -> tuple[int, float]:
    """Of how many fighters' frames a rule speaks, and the share on which it is right: `rule` gives both, (T, 2)."""
    spoken = right = 0
    for before, after, stage in real(dataset):
        told, speaks = rule(before, after, stage)
        spoken += int(speaks.sum())
        right += int((told & speaks).sum())
    return spoken, right / max(spoken, 1)


# --- on the ground ---------------------------------------------------------------------------------------------------


def test_rolls_go_as_their_animation_does(real_dataset: Dataset) -> None:
    def rule(before: Named, after: Named, stage: Tensor) -> tuple[Tensor, Tensor]:
        told = LAWS.animated(before, after)
        return (told - after["self_x_ground"]).abs() < 2e-3, ~told.isnan()

    spoken, right = shares(real_dataset, rule)
    assert spoken > 1_000
    assert right > 0.98


def test_an_animation_says_nothing_of_who_flies_begins_or_is_in_hitlag() -> None:
    known = roots()
    character, action = (int(n) for n in known.move[0])
    start = int(known.span[0, 0])
    before = one(character=[character, character], action=[action, action], state_age=[start, start])
    after = but(before, state_age=[start + 1, start + 1], facing=[1, -1])
    expected = float(known.speed[1])
    assert LAWS.animated(before, after)[0].tolist() == pytest.approx([expected, -expected])
    for changed in ({"airborne": [1, 1]}, {"hitlag": [3, 3]}, {"action": [WAIT, WAIT]}, {"state_age": [0.5, 0.5]}):
        assert LAWS.animated(but(before, **changed), after).isnan().all(), changed


@pytest.mark.parametrize(("facing", "speed"), [(1, 2.2), (-1, -2.2)])
def test_who_leaves_a_dash_faster_than_its_run_keeps_a_quarter_of_that(facing: int, speed: float) -> None:
    most, friction = torch.full((1, 2), 2.0), torch.full((1, 2), 0.08)
    before = one(action=[DASH, WAIT], self_x_ground=[speed, speed], facing=[facing, facing])
    told = LAWS.grounded(before, but(before, action=[TURN, TURN]), most, friction)
    assert first(told) == pytest.approx(facing * (2.0 * TURN_SHARE - 0.08))
    assert told[0, 1].isnan()
    slow = but(before, self_x_ground=[facing * 1.9, 0.0])
    assert LAWS.grounded(slow, but(slow, action=[TURN, TURN]), most, friction).isnan().all()


# --- in the air ------------------------------------------------------------------------------------------------------


def test_who_drifts_by_the_law() -> None:
    flies = one(airborne=[1, 1], action=[NAIR, NAIR], character=[FOX, FOX])
    for after, expected in (
        (flies, (True, False)),
        (but(flies, action=[FALL, FALL]), (True, True)),
        (but(flies, action=[DODGE, DODGE]), (False, False)),
        (but(flies, airborne=[0, 0]), (False, False)),
    ):
        assert tuple(bool(of[0, 0]) for of in LAWS.drifts(flies, after, flies["action"])[:2]) == expected
    assert not LAWS.drifts(but(flies, hitlag=[2, 2]), flies, flies["action"])[0].any()


@pytest.mark.parametrize(
    ("who", "action", "share"),
    [
        ("JIGGLYPUFF", 341, (0.8, 0, 0.8, 1)),  # her jumps
        ("FALCO", 345, (1, 1, 1, 1)),  # shoots
        ("FOX", 354, (0, 0, 0, 1)),  # gathers fire
        ("MARTH", 358, (0, 0, 0, 0.5)),
    ],
)
def test_the_stick_drives_some_special_moves_less(who: str, action: int, share: tuple[float, ...]) -> None:
    flies = one(airborne=[1, 1], action=[action, FALL], character=[fighter(who).internal_id] * 2)
    law, _, found = LAWS.drifts(flies, flies, flies["action"])
    assert law.all()
    assert found[0, 0].tolist() == pytest.approx([*share, NO_LIMIT])
    assert found[0, 1].tolist() == [1, 1, 1, 1, NO_LIMIT]
    assert not LAWS.drifts(but(flies, action=[FALL, FALL]), flies, flies["action"])[0][0, 0]  # which begins


def test_some_moves_drift_from_an_age_on() -> None:
    for age, law in ((10, False), (30, True)):
        slashes = one(airborne=[1, 1], action=[SLASH, SLASH], character=[MARTH, MARTH], state_age=[age, age])
        assert bool(LAWS.drifts(slashes, slashes, slashes["action"])[0].all()) == law


def test_a_helpless_fall_after_some_moves_is_held_to_a_share_of_the_speed() -> None:
    falls = one(airborne=[1, 1], action=[HELPLESS, HELPLESS], character=[MARTH, MARTH])
    former = torch.tensor([[SLASH, DODGE]])
    law, _, share = LAWS.drifts(falls, falls, former)
    assert law.all()
    assert share[0, :, 4].tolist() == pytest.approx([0.4, NO_LIMIT])
    pads = torch.zeros(1, 2, 13)
    pads[..., C_["main_x"]] = 1.0
    candidates = Candidates(MoveTables())
    most = float(candidates.air_speed[MARTH])
    fast = but(falls, self_x_air=[0.4 * most, 0.4 * most])
    candidates.tables.drift[MARTH] = torch.tensor([0.03, 0.02])
    told = candidates.drifted(fast, pads, torch.zeros(1, 2, dtype=torch.bool), share)
    assert told[0].tolist() == pytest.approx([0.4 * most, 0.4 * most + 0.05], abs=1e-5)


def test_who_is_hurt_drifts_when_its_hitstun_is_over_and_who_slides_off_does_not_yet() -> None:
    hurt = one(airborne=[1, 1], action=[HURT, HURT], flags_4=[HITSTUN_FLAG, HITSTUN_FLAG], misc_as=[5, 1])
    law, _, share = LAWS.drifts(hurt, hurt, hurt["action"])
    assert law.all()
    assert share[0].tolist() == [[0, 0, 0, 1, NO_LIMIT], [1, 1, 1, 1, NO_LIMIT]]
    lies = one(airborne=[1, 1], action=[LIES, LIES])
    _, _, share = LAWS.drifts(lies, but(lies, action=[FALL, FALL]), lies["action"])
    assert not share.any()


@pytest.mark.parametrize(
    ("who", "before", "jump", "stick", "stunned", "said"),
    [
        ("FOX", FALL, 27, (0.0, 1.0), False, 0.9),
        ("FOX", FALL, 28, (0.0, -0.5), False, -0.45),
        ("FOX", HURT, 27, (0.5, 1.0), True, 0.45),  # its animation had ended before
        ("JIGGLYPUFF", FALL, 341, (0.0, 1.0), False, 0.5),
        ("FOX", FALL, NAIR, (0.0, 1.0), False, None),
    ],
)
def test_jumps_in_the_air_begin_with_the_stick(
    who: str, before: int, jump: int, stick: tuple[float, float], stunned: bool, said: float | None
) -> None:
    flags = [HITSTUN_FLAG * stunned] * 2
    falls = one(airborne=[1, 1], action=[before] * 2, character=[fighter(who).internal_id] * 2, flags_4=flags)
    past, pads = after_sticks([*stick], falls)
    told = LAWS.springs(falls, but(falls, action=[jump] * 2), past, pads)
    assert first(told) == pytest.approx(said, abs=1e-5) if said is not None else told.isnan().all()
    assert LAWS.springs(but(falls, hitlag=[3, 3]), but(falls, action=[jump] * 2), past, pads).isnan().all()


def test_real_fighters_drift_so(real_dataset: Dataset) -> None:
    candidates = Candidates(MoveTables())
    candidates.tables.measure(real_dataset, list(range(len(real_dataset))))
    spoken = right = 0
    for game in real_dataset:
        state = game.state()
        floats, ints = torch.from_numpy(state.floats), torch.from_numpy(state.ints)
        before, after = named(floats[:-1], ints[:-1]), named(floats[1:], ints[1:])
        law, cut, share = LAWS.drifts(before, after, former(before["action"]))
        told = candidates.drifted(before, torch.from_numpy(game.controllers()[1:]), cut, share)
        law &= (after["hitlag"] <= 0) & ~candidates.tables.drift[before["character"].long(), 0].isnan()
        spoken += int(law.sum())
        right += int((law & ((told - after["self_x_air"]).abs() < 3e-3)).sum())
    assert spoken > 50_000
    assert right / spoken > 0.99


def former(action: Tensor) -> Tensor:
    """Actions (T, 2) → the one before each."""
    out = action.clone()
    for t in range(1, len(action)):
        out[t] = torch.where(action[t] == action[t - 1], out[t - 1], action[t - 1])
    return out


def test_fighters_drift_as_fast_as_they_may() -> None:
    candidates = Candidates(MoveTables())
    most = float(candidates.air_speed[MARTH])
    before, pads = one(character=[MARTH, MARTH], self_x_air=[2 * most, 2 * most]), torch.zeros(1, 2, 13)
    told = candidates.drifted(before, pads, torch.tensor([[True, False]]), torch.tensor([1.0, 1.0, 1.0, 1.0, NO_LIMIT]))
    friction = float(candidates.air_friction[MARTH])
    assert told[0].tolist() == pytest.approx([most - friction, 2 * most - friction], abs=1e-5)
    half = candidates.drifted(before, pads, torch.tensor([[True, False]]), torch.tensor([0.0, 0.0, 0.0, 0.5, NO_LIMIT]))
    assert half[0, 0].item() == pytest.approx(most - friction / 2, abs=1e-5)


def test_an_attack_in_the_air_out_of_the_squat_is_a_jump_that_drifts() -> None:
    squat = one(action=[SQUAT, SQUAT])
    rises = but(squat, action=[NAIR, NAIR], airborne=[1, 0])
    assert leaps(squat, rises).tolist() == [[True, False]]
    assert not leaps(but(squat, action=[WAIT, WAIT]), rises).any()


# --- hops, slopes, hurtboxes -----------------------------------------------------------------------------------------


def hopped(pads: Tensor, next_: int = JUMP) -> float:
    """Velocity up after a squat of three frames with these controllers (3, 13)."""
    squats = one(action=[SQUAT, SQUAT])
    kept = torch.zeros(1, CONTROLLERS, 2, 13)
    kept[0, -len(pads) :, 0] = pads
    numbers = {**beginning(squats), "frames_in_action": torch.full((1, 2), len(pads) - 1)}
    past = Past(numbers, squats, *[torch.empty(0)] * 3, kept)
    speeds, gravity = torch.tensor([1.0, 2.0]).expand(1, 2, 2), torch.full((1, 2), 0.1)
    return first(hops(squats, but(squats, action=[next_, next_]), past, speeds, gravity))


@pytest.mark.parametrize(
    ("held", "by", "full"),
    [
        ((1, 1, 1), "x_button", True),
        ((1, 1, 0), "x_button", False),
        ((1, 1, 1), "main_y", True),
        ((1, 0.4, 1), "main_y", False),
        ((1, 1, 1), "c_y", True),
        ((1, 0, 0), "c_y", False),
    ],
)
def test_a_hop_is_full_if_what_it_was_begun_with_is_held(held: tuple[float, ...], by: str, full: bool) -> None:
    pads = torch.zeros(3, 13)
    pads[:, C_[by]] = torch.tensor(held)
    assert hopped(pads) == (2.0 if full else 1.0)
    assert hopped(pads, NAIR) == pytest.approx((2.0 if full else 1.0) - 0.1)


def test_a_button_that_is_let_go_counts_whatever_the_stick_does() -> None:
    pads = torch.zeros(3, 13)
    pads[0, C_["x_button"]], pads[1:, C_["main_y"]] = 1.0, 1.0
    assert hopped(pads) == 1.0
    assert np.isnan(hopped(pads, FALL))


def test_who_stays_on_a_slope_goes_as_it_does() -> None:
    stands = one(action=[DASH, DASH])
    assert on_slope(stands, stands).all()
    assert not on_slope(but(stands, action=[WAIT, WAIT]), stands).any()  # a dash that begins
    assert not on_slope(one(action=[SQUAT, SQUAT]), but(stands, action=[LANDS, LANDS])).any()
    for changed in ({"airborne": [1, 1]}, {"hitlag": [4, 4]}):
        assert not on_slope(stands, but(stands, **changed)).any(), changed


def test_real_fighters_on_slopes_go_so(real_dataset: Dataset) -> None:
    geometry = Geometry()

    def rule(before: Named, after: Named, stage: Tensor) -> tuple[Tensor, Tensor]:
        surfaces = geometry.surfaces(stage, torch.zeros_like(stage), torch.zeros(len(stage), 2, len(PLATFORMS)))
        _, sine = slope_at(surfaces, before["x"], before["y"])
        speaks = on_slope(before, after) & (sine != 0) & (before["action"] > WAIT)
        return (after["self_x_ground"] * sine - after["self_y"]).abs() < 2e-3, speaks

    spoken, right = shares(real_dataset, rule)
    assert spoken > 1_000
    assert right > 0.99


@pytest.mark.parametrize(
    ("hurtbox", "since", "next_", "said"),
    [
        (1, CAME_BACK - 2, WAIT, 1),
        (1, CAME_BACK - 1, FALL, 0),
        (2, HELD_LEDGE - 2, NAIR, 2),
        (2, HELD_LEDGE - 1, NAIR, 0),
        (2, HELD_LEDGE, NAIR, None),  # of something else
        (2, 3, FALL, None),  # after a dodge, say
        (0, 3, WAIT, None),
    ],
)
def test_a_hurtbox_comes_back_after_so_many_frames(hurtbox: int, since: int, next_: int, said: int | None) -> None:
    state = one(hurtbox=[hurtbox, hurtbox])
    told, speaks = untouched(state, but(state, action=[next_, next_]), torch.full((1, 2), since))
    assert bool(speaks[0, 0]) == (said is not None)
    assert said is None or int(told[0, 0]) == said


# --- shots and reflectors --------------------------------------------------------------------------------------------


def after_sticks(sticks: list[float], state: Named) -> tuple[Past, Tensor]:
    """The past of a state after the first player's stick was there, frame by frame, and the controllers of the last."""
    pads = torch.zeros(len(sticks), 1, 2, 13)
    pads[:, 0, 0, C_["main_x"]] = torch.tensor(sticks)
    numbers = beginning(state)
    for t in range(1, len(sticks) - 1):
        numbers = advance(numbers, state, state, torch.stack([pads[t - 1], pads[t]], dim=1))
    kept = torch.zeros(1, CONTROLLERS, 2, 13)
    kept[:, -1] = pads[-2]
    return Past(numbers, state, *[torch.empty(0)] * 3, kept), pads[-1]


@pytest.mark.parametrize(
    ("sticks", "turned"),
    [
        ([0, 0, -0.5], True),
        ([0, 0, 0.5], False),
        ([0, 0, -0.2], False),  # not out of the middle
        ([0, -1, *[0] * (REVERSES - 1)], True),
        ([0, -1, *[0] * REVERSES], False),  # too long ago
        ([0, -1, 0, 1, 0], False),  # the last side counts
    ],
)
def test_a_stick_to_the_back_turns_who_shoots_in_the_air(sticks: list[float], turned: bool) -> None:
    falls = one(character=[FOX, MARTH], action=[FALL, FALL], airborne=[1, 1])
    told, ruled = turns(falls, but(falls, action=[SHOOTS, SHOOTS]), *after_sticks([0.0, *sticks], falls))
    assert ruled.tolist() == [[True, False]]
    assert bool(told[0, 0]) == turned


def test_shots_go_on_if_b_was_pressed_since_the_last() -> None:
    shoots = one(character=[FOX, MARTH], action=[SHOOT, SHOOT])
    for since_b, said in ((3, -ENDS_ODDS), (30, 0.0)):
        past, _ = after_sticks([0.0, 0.0], shoots)
        past.numbers["since_b"], past.numbers["since_begun"] = (torch.full((1, 2), n) for n in (since_b, 10))
        end, odds = ends(shoots, past)
        assert [first(end), *odds[0].tolist()] == [SHOOT + 1, said, 0.0]


@pytest.mark.parametrize(
    ("frames", "held", "said"),
    [(SHINES_FOR, 0, 1), (SHINES_FOR - 1, 0, -1), (SHINES_FOR, 1, -1), (SHINES_FOR + 30, 0, 1)],
)
def test_a_reflector_is_out_for_so_long_and_while_b_is_down(frames: int, held: int, said: int) -> None:
    def at(t: int, lag: float = 0.0) -> Named:
        return one(character=[FOX, FOX], action=[360 if t < 3 else SHINE, WAIT], hitlag=[lag, 0], state_age=[t, t])

    pads = torch.zeros(1, 2, 2, 13)
    pads[:, :, 0, C_["b"]] = held
    state = one(character=[FOX, FOX], action=[WAIT, WAIT])
    numbers, last = beginning(state), state
    lags = [0.0, 4.0, 3.0, 2.0, 1.0]  # hitlag does not count
    for t in range(1, frames + len(lags) - 1):
        state = at(t, lags[t] if t < len(lags) else 0.0)
        numbers, last = advance(numbers, last, state, pads), state
    kept = torch.zeros(1, CONTROLLERS, 2, 13)
    kept[:, -1] = pads[:, 1]
    end, odds = ends(state, Past(numbers, last, *[torch.empty(0)] * 3, kept))
    assert [first(end), first(odds)] == [SHINE + 2, said * ENDS_ODDS]


# --- knockback on the ground -----------------------------------------------------------------------------------------


def test_real_fighters_that_are_struck_slide_so(real_dataset: Dataset) -> None:
    friction = Candidates(MoveTables()).friction

    def rule(before: Named, after: Named, stage: Tensor) -> tuple[Tensor, Tensor]:
        x, y, slides = SLIDES(before, after, stage, friction[before["character"].long()])
        wrong = (x - after["knockback_x"]).abs() + (y - after["knockback_y"]).abs()
        return wrong < 5e-3, slides & (after["percent"] <= before["percent"])

    spoken, right = shares(real_dataset, rule)
    assert spoken > 1_000
    assert right > 0.97


def test_some_ground_rubs_more_and_nobody_slides_back() -> None:
    friction = torch.full((1, 2), 0.1)
    struck = one(x=[60, 0], ground=[7, 5], knockback_x=[1.0, -1.0], action=[HURT, HURT])
    x, y, slides = SLIDES(struck, struck, torch.tensor([FOUNTAIN]), friction)
    assert slides.all()
    assert x[0].tolist() == pytest.approx([1.0 - 0.1 * ROUGHER, -0.9])
    assert not y.any()
    slow = but(struck, knockback_x=[0.05, -0.05])
    assert not SLIDES(slow, slow, torch.tensor([FINAL_DESTINATION]), friction)[0].any()
    flies = but(struck, airborne=[1, 1])
    assert not SLIDES(flies, struck, torch.tensor([FOUNTAIN]), friction)[2].any()


def test_knockback_follows_a_slope() -> None:
    stage = next(stage for stage in STAGES if stage.name == "YOSHIS_STORY")
    slope = next(s for s in stage.surfaces if not s.platform and s.y[1] > s.y[0])
    assert pieces(stage)[slope.id][0] == slope
    rise = (slope.y[1] - slope.y[0]) / (slope.x[1] - slope.x[0])
    middle = float(np.mean(slope.x))
    struck = one(x=[middle, 0], ground=[slope.id, slope.id], knockback_x=[1.0, 0.0], knockback_y=[rise, 0.0])
    x, y, _ = SLIDES(struck, struck, torch.tensor([stage.id]), torch.full((1, 2), 0.1))
    assert first(y) == pytest.approx(first(x) * rise)
    assert np.hypot(first(x), first(y)) == pytest.approx(np.hypot(1.0, rise) - 0.1, abs=1e-5)
