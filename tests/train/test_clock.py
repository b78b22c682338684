"""Clocks by rule: walks, grabs by whose turn comes first, mashing, throws, landings cancelled."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from synthetic import REPLAYS
from wm_runtime.facts import ACTION_NAMES, character
from wm_runtime.replays.dataset import Dataset
from wm_runtime.schema import C_, CONTROL_NAMES
from wm_train.dynamics.candidates import POWER_FLAG, SHIELD_STUN
from wm_train.dynamics.clock import LENGTHS, RUN, RUN_LENGTH, THROWN, WAITING, Clock, cancelled
from wm_train.dynamics.memory import (
    CONTROLLERS,
    MASHED,
    NEVER,
    PULLED,
    Past,
    advance,
    beginning,
    recall,
)
from wm_train.dynamics.named import Named, is_of
from wm_train.measure_ends import ends, steps_of
from wm_train.training.whole_games import WholeGames

WALKS = [ACTION_NAMES.index(name) for name in ("WALK_SLOW", "WALK_MIDDLE", "WALK_FAST")]
NAIR, NAIR_LANDING, HURT = (ACTION_NAMES.index(name) for name in ("NAIR", "NAIR_LANDING", "DAMAGE_FLY_TOP"))


def fighters(**values: object) -> Named:
    """One match of two Foxes."""
    fields = {"character": character("FOX").internal_id, "action": 0, "state_age": 0.0, "hitlag": 0.0, "facing": 1,
              "percent": 0.0, "airborne": 0, "hurtbox": 0, "last_attack": 0, "x": 0.0, "y": 0.0, "shield": 60.0,
              "self_x_ground": 0.0, "flags_4": 0}  # fmt: skip
    return {name: torch.tensor(value).expand(1, 2).clone() for name, value in {**fields, **values}.items()}


def past(last: Named, controllers: Tensor | None = None, **numbers: int) -> Past:
    kept = {**beginning(last), **{name: torch.full((1, 2), value) for name, value in numbers.items()}}
    empty = torch.zeros(1, CONTROLLERS, 2, len(CONTROL_NAMES))
    return Past(kept, last, empty, empty, empty, empty if controllers is None else controllers)


def age_of(before: Named, action: int, frames: int = 5, pace: float = 4.0, **numbers: int) -> Tensor:
    """Its next age, −9 where no rule says one."""
    of = past(before, frames_in_action=frames, **numbers)
    chosen, next_ = torch.full((1, 2), -9.0), torch.full((1, 2), action)
    return Clock()(before, of, next_, chosen, torch.full((1, 2), pace))


def test_a_walk_goes_on_by_its_speed_and_begins_anew_at_its_end() -> None:
    slow, length = WALKS[0], LENGTHS["FOX"][0]
    assert age_of(fighters(action=slow, state_age=7.0, self_x_ground=0.5), slow).tolist() == [[9.0, 9.0]]
    assert age_of(fighters(action=slow, state_age=7.0, self_x_ground=0.5), slow, frames=0).tolist() == [[8.0, 8.0]]
    late = fighters(action=slow, state_age=float(length) - 1, self_x_ground=0.5)
    assert age_of(late, slow).tolist() == [[1.0, 1.0]]
    backward = fighters(action=slow, state_age=7.0, self_x_ground=-0.5)
    assert age_of(backward, slow).tolist() == [[7.0, 7.0]]


def test_a_run_begins_anew_at_its_end_but_its_first_frame_is_not_known() -> None:
    before = fighters(action=RUN, state_age=RUN_LENGTH - 0.5, self_x_ground=1.5)
    assert age_of(before, RUN, pace=1.0).tolist() == [[1.0, 1.0]]
    assert age_of(before, RUN, pace=1.0, frames=0).tolist() == [[-9.0, -9.0]]
    before["character"] = torch.full((1, 2), character("SHEIK").internal_id)
    before["state_age"] = torch.full((1, 2), 11.0)
    assert age_of(before, RUN, pace=1.0).tolist() == [[0.5, 0.5]]


def test_a_walk_becomes_another_at_the_same_share_of_its_length_at_a_whole_frame() -> None:
    slow, middle, _ = WALKS
    at, (old, new, _) = fighters(action=slow, state_age=10.4, self_x_ground=0.5), LENGTHS["FOX"]
    expected = 1 + np.floor(12.4 / old * new)
    assert age_of(at, middle).tolist() == [[expected, expected]]


def test_who_has_no_lengths_and_who_does_not_walk_is_left_alone() -> None:
    slow, middle, _ = WALKS
    bowser = fighters(action=slow, state_age=10.0, character=character("BOWSER").internal_id)
    for before, action in ((bowser, middle), (fighters(action=slow), NAIR), (fighters(action=NAIR), slow)):
        assert age_of(before, action).tolist() == [[-9.0, -9.0]]
    assert age_of(fighters(action=slow, hitlag=3.0), slow).tolist() == [[-9.0, -9.0]]


def test_a_second_player_that_is_grabbed_or_let_go_is_a_frame_ahead() -> None:
    for pulled in PULLED:
        for waiting in WAITING:
            assert age_of(fighters(action=pulled, state_age=2.0), waiting).tolist() == [[0.0, 1.0]]
    for thrown in THROWN:
        assert age_of(fighters(action=thrown, state_age=7.5), HURT).tolist() == [[1.0, 2.0]]
    assert age_of(fighters(action=PULLED[0]), HURT).tolist() == [[-9.0, -9.0]]


def held(pads: list[dict[str, float]], pulled: int = 2) -> list[list[int]]:
    """Frames of two fighters that are grabbed, and their controllers → by how much their clocks go on (frames, 2), from
    the first on which both are held."""
    rows = torch.zeros(len(pads), 1, 2, len(CONTROL_NAMES))
    for t, pad in enumerate(pads):
        for name, value in pad.items():
            rows[t, 0, :, C_[name]] = value
    steps, numbers = [], beginning(fighters(action=PULLED[0]))
    last = fighters(action=PULLED[0], state_age=0.0)
    for t in range(1, len(pads)):
        caught = t > pulled
        state = fighters(action=WAITING[0] if caught else PULLED[0], state_age=float(t))
        numbers = advance(numbers, last, state, rows[t - 1 : t + 1].transpose(0, 1))
        if caught:
            age = Clock()(
                state, Past(numbers, last, *[rows] * 4), state["action"], state["state_age"], torch.ones(1, 2)
            )
            steps.append((age - state["state_age"])[0].int().tolist())
        last = state
    return steps


def test_the_clock_of_who_mashes_runs_twice_as_fast_for_ten_frames() -> None:
    quiet = held([{}] * 20)
    assert quiet == [[1, 1]] * len(quiet)
    pressed = held([{}] * 6 + [{"a": 1.0}] * 20)
    assert pressed[:4] == [[1, 1]] * 4
    assert pressed[4 : 4 + MASHED] == [[2, 2]] * MASHED
    assert pressed[4 + MASHED :] == [[1, 1]] * len(pressed[4 + MASHED :])


def test_what_is_held_when_the_grab_begins_mashes_and_more_does_not_add_to_it() -> None:
    stick = held([{"main_x": 0.9}] * 20)
    assert stick[0] == [1, 2]  # the second player was grabbed a frame before
    assert [one for one, _ in stick[1 : 1 + MASHED]] == [2] * MASHED
    assert [two for _, two in stick[:MASHED]] == [2] * MASHED
    assert stick[1 + MASHED] == [1, 1]
    again = held([{"main_x": 0.9}] * 8 + [{"main_x": 0.9, "b": 1.0}] * 12)
    assert again == stick
    assert held([{"main_x": 0.4}] * 20) == [[1, 1]] * 17


def test_a_trigger_in_time_cancels_a_landing_and_hitlag_holds_it() -> None:
    before, landing = fighters(action=NAIR), torch.full((1, 2), NAIR_LANDING)
    pads, chosen = torch.zeros(1, 2, len(CONTROL_NAMES)), torch.zeros(1, 2, dtype=torch.int32)

    def says(controllers: Tensor, since: int, action: Tensor = landing) -> int:
        return int(cancelled(before, past(before, since_cancel=since), action, controllers, chosen)[0, 0])

    assert [says(pads, since) for since in (0, 5, 6, NEVER)] == [1, 1, 2, 2]
    now = pads.clone()
    now[..., C_["l"]] = 1.0
    assert says(now, NEVER) == 1
    assert says(now, NEVER, torch.full((1, 2), NAIR)) == 0
    press = torch.zeros(1, 2, 2, len(CONTROL_NAMES))
    press[:, 1, :, C_["r"]] = 1.0
    lag, none = fighters(action=NAIR, hitlag=4.0), torch.zeros_like(press)
    numbers = advance(beginning(lag), lag, lag, press)
    for _ in range(3):
        numbers = advance(numbers, lag, lag, none)
    assert numbers["since_cancel"].tolist() == [[0, 0]]
    assert advance(numbers, lag, before, none)["since_cancel"].tolist() == [[1, 1]]
    numbers = advance(beginning(before), before, before, press)
    assert advance(numbers, before, lag, none)["since_cancel"].tolist() == [[1, 1]]  # made before it: not held


def test_real_games_go_by_these_clocks(true_games: Dataset) -> None:
    if not REPLAYS.exists():
        pytest.skip("made-up games do not keep the game's clocks")
    corpus, clock = WholeGames(true_games, [0, 1]), Clock()
    right: dict[str, list[int]] = {}
    for first, frames in zip(corpus.first, corpus.frames, strict=True):
        window = corpus.read(np.arange(first + 123, first + frames - 2), 2)
        before, after = window.state(0), window.state(1)
        of = recall({name: value[0] for name, value in window.carry.items()}, before)
        nothing = torch.full_like(before["state_age"], torch.nan)
        told = clock(before, of, after["action"], nothing, nothing)
        fine = (told - after["state_age"]).abs() < 0.01
        for name, named in (("grabbed", PULLED), ("waits", WAITING), ("let go", THROWN)):
            counted = is_of(before["action"], named) & ~told.isnan() & (after["hitlag"] <= 0)
            right.setdefault(name, []).extend(fine[counted].tolist())
        lands = cancelled(before, of, after["action"], window.controllers[1], torch.zeros_like(after["l_cancel"]))
        right.setdefault("cancels", []).extend((lands == after["l_cancel"])[lands > 0].tolist())
    assert len(right["cancels"]) > 20
    for name, found in right.items():
        assert sum(found) >= 0.98 * len(found), name


# --- animations that end, and paces ----------------------------------------------------------------------------------


def goes_on(action: int, age: float, chosen: float, rose: float = 1.0, lag: float = 0.0, who: str = "FOX") -> float:
    """The next age of the first fighter, who goes on in this action, whose age rose so much last."""
    now = fighters(action=action, state_age=age, character=character(who).internal_id)
    last = fighters(action=action, state_age=age - rose, hitlag=lag)
    of = past(last, frames_in_action=5)
    told = Clock()(now, of, now["action"], torch.full((1, 2), chosen), torch.zeros(1, 2))
    return float(told[0, 0])


STANDING, HANGING, TUMBLE, SMASH, PEACHS_FALL = (
    ACTION_NAMES.index(name) for name in ("STANDING", "EDGE_HANGING", "DAMAGE_FLY_NEUTRAL", "UPSMASH", "FALLING")
)


def test_what_is_even_goes_on_at_its_pace_unless_it_begins_anew() -> None:
    assert goes_on(NAIR, 12.0, chosen=12.0) == 13
    assert goes_on(NAIR_LANDING, 6.0, chosen=6.0, rose=1.5) == 7.5
    assert goes_on(NAIR, 12.0, chosen=12.0, rose=0.0, lag=1.0) == 13  # hitlag has ended
    assert goes_on(NAIR, 30.0, chosen=1.0) == 1  # another one
    assert goes_on(SMASH, 2.0, chosen=2.0) == 2  # is charged
    assert goes_on(PEACHS_FALL, 3.0, chosen=5.0, who="PEACH") == 5


@pytest.mark.parametrize(
    ("action", "age", "chosen", "next_"),
    [(STANDING, 118.0, 0.0, 119.0), (STANDING, 119.0, 120.0, 0.0), (HANGING, 49.0, 50.0, 0.0),
     (TUMBLE, 29.0, 30.0, 29.0), (TUMBLE, 28.0, 28.0, 29.0), (TUMBLE, 29.0, 1.0, 1.0)],
)  # fmt: skip
def test_an_animation_that_ends_begins_anew_or_stays(action: int, age: float, chosen: float, next_: float) -> None:
    """Fox's; who stays in it may be struck again."""
    assert goes_on(action, age, chosen) == next_


def test_a_struck_shields_clock_is_told_by_its_slide() -> None:
    def of(speed: float, flags: int = 0) -> float:
        struck = fighters(action=SHIELD_STUN, hitlag=1.0, self_x_ground=speed, flags_4=flags)
        return float(Clock()(struck, past(struck), struck["action"], torch.full((1, 2), -9.0), torch.ones(1, 2))[0, 0])

    assert of(0.888) == pytest.approx(2.716, abs=1e-3)  # 12 percent
    assert of(1.21, POWER_FLAG) == pytest.approx(3.322, abs=1e-3)  # 9 percent, reflected
    assert of(2.0) == -9  # the slide of many moves


def test_real_clocks_are_left_as_they_are(true_games: Dataset) -> None:
    corpus = WholeGames(true_games, list(range(len(true_games.frames))))
    window = corpus.read(corpus.draw(4_000, 2, np.random.default_rng(0)), 2)
    state, after = window.state(0), window.state(1)
    of = recall({name: value[0] for name, value in window.carry.items()}, state)
    same = (state["action"] == after["action"]) & (state["hitlag"] <= 0) & (state["action"] > 13)
    told = Clock()._even(state, of, after["state_age"])
    wrong = same & ((told - after["state_age"]).abs() > 0.01)
    assert same.sum() > 1_000
    if REPLAYS.exists():
        assert wrong.float().sum() / same.sum() < 1e-3


def test_ends_are_found_where_nothing_belies_them() -> None:
    ages = np.arange(40) % 10.0
    frames = {
        "character": np.zeros((40, 2), int), "action": np.tile([29, 88], (40, 1)), "hitlag": np.zeros((40, 2)),
        "state_age": np.stack([ages, np.minimum(np.arange(40.0), 29)], axis=1),
    }  # fmt: skip
    key, last, anew = ends(steps_of(frames))
    assert (key.tolist(), last.tolist(), anew.tolist()) == ([[0, 29], [0, 88]], [9, 29], [True, False])
    frames["state_age"][25:, 0] = np.arange(15)  # beyond, once
    assert ends(steps_of(frames))[0].tolist() == [[0, 88]]
