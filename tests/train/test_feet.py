"""Heights of feet: from who lands, and who flies on."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wm_runtime.facts import STAGES, character, physics
from wm_runtime.replays.dataset import Dataset
from wm_train.dynamics.feet import ACTIONS, DODGE, bounds_of_game, heights, shown_by_walls
from wm_train.dynamics.kinematics import AIR_DODGE_DECAY
from wm_train.dynamics.memory import AIR_JUMPS, LOCKED, advance, beginning
from wm_train.dynamics.tables import MoveTables

FOX = character("FOX").internal_id
FALL, LANDING, DODGED = 29, 42, 43
STAGE = {stage.name: stage.id for stage in STAGES}
GRAVITY, TERMINAL = (float(physics(name)[FOX]) for name in ("gravity", "terminal"))


def test_heights_are_those_that_break_the_bounds_least() -> None:
    rng = np.random.default_rng(0)
    true = np.array([3.0, 3.5, 4.0, 6.0, 6.0], np.float32)  # rows 1 to 3 are of one move, 4 and 5 of another
    row = rng.integers(0, 5, 4_000)
    below = true[row] + rng.uniform(-2, 2, len(row)).astype(np.float32)
    lands = below > true[row]
    lands[:40] ^= True  # something else now and then
    bounds = {"below": below, "lands": lands}
    found = heights(bounds, row + 1, np.array([7, 7, 7, 9, 9]), {})
    assert found[1:].tolist() == pytest.approx(true.tolist(), abs=0.1)
    # an age that nobody was seen at is like the ages beside it; what walls show counts where nothing else does
    seen = row != 1
    part = {name: value[seen] for name, value in bounds.items()}
    assert 2.9 < heights(part, row[seen] + 1, np.array([7, 7, 7, 9, 9]), {})[2] < 4.1
    alone = np.zeros(0, np.int64)
    nothing = {"below": np.zeros(0, np.float32), "lands": np.zeros(0, bool)}
    assert heights(nothing, alone, np.array([7, 9]), {1: 2.5})[1] == pytest.approx(2.5, abs=0.05)


def falling(frames: int, feet: float, stick: float = 0.0, stage: str = "FINAL_DESTINATION") -> dict[str, np.ndarray]:
    """A game in which a fighter falls onto the ground from 40 units up, its feet so high; the other stands."""
    columns = {name: np.zeros((frames, 2), np.float32) for name in (
        "x", "y", "percent", "state_age", "self_y", "knockback_x", "knockback_y", "hitlag", "main_x", "main_y",
    )}  # fmt: skip
    columns |= {name: np.zeros((frames, 2), np.int32) for name in ("action", "airborne", "character")}
    columns["action"][:], columns["character"][:], columns["main_y"][:, 0] = 14, FOX, stick
    y, speed, lands = 40.0, 0.0, False
    for t in range(frames):
        columns["y"][t, 0], columns["self_y"][t, 0] = y, 0 if lands else speed
        columns["action"][t, 0], columns["airborne"][t, 0] = (LANDING, 0) if lands else (FALL, 1)
        columns["state_age"][t, 0] = 0 if lands else t
        speed = max(speed - GRAVITY, -TERMINAL)
        lands = lands or y + speed + feet < 0
        y = 0.0 if lands else y + speed
    return columns


def test_who_falls_bounds_its_feet_from_both_sides() -> None:
    found = bounds_of_game(falling(40, 4.5), STAGE["FINAL_DESTINATION"])
    assert found["lands"].sum() == 1
    assert set(found["move"]) == {FOX * ACTIONS + FALL}
    landed = found["lands"].astype(bool)
    assert 4.5 < found["below"][landed][0] <= 4.5 + TERMINAL
    assert found["below"][~landed].max(initial=0) <= 4.5
    assert found["age"][landed][0] == found["age"].max()


def test_a_stick_held_down_says_nothing() -> None:
    assert not bounds_of_game(falling(40, 4.5, stick=-1.0), STAGE["FINAL_DESTINATION"])["lands"].any()


def dodging(feet: float, high: float, stick: float = -1.0) -> dict[str, np.ndarray]:
    """A game in which a fighter, long in the air, dodges down to the ground from so high; as `falling`."""
    columns = falling(20, feet, stick)
    y, speed, lands = high, -2.0, False
    for t in range(20):
        columns["y"][t, 0], columns["self_y"][t, 0] = y, 0 if lands else speed
        columns["action"][t, 0], columns["airborne"][t, 0] = (DODGED, 0) if lands else (DODGE, 1)
        columns["state_age"][t, 0] = 0 if lands else t + 1
        speed *= AIR_DODGE_DECAY
        lands = lands or y + speed + feet < 0
        y = 0.0 if lands else y + speed
    return columns


def test_an_air_dodge_lands_whatever_the_stick_and_its_speed_only_fades() -> None:
    found = bounds_of_game(dodging(4.5, 8.0), STAGE["FINAL_DESTINATION"])
    landed = found["lands"].astype(bool)
    assert landed.sum() == 1
    assert set(found["move"]) == {FOX * ACTIONS + DODGE}
    assert 4.5 < found["below"][landed][0] <= 6.5
    assert found["below"][~landed].max(initial=0) <= 4.5


def test_feet_that_a_jump_in_the_air_locked_anew_say_nothing() -> None:
    columns = dodging(4.5, 8.0)
    lands = np.flatnonzero(columns["airborne"][:, 0] == 0)[0]
    columns["airborne"][: lands - 11, 0] = 0
    assert bounds_of_game(columns, STAGE["FINAL_DESTINATION"])["lands"].sum() == 1
    columns["action"][lands - 8, 0] = AIR_JUMPS[0]
    assert bounds_of_game(columns, STAGE["FINAL_DESTINATION"])["lands"].sum() == 0


@pytest.mark.parametrize(
    ("jumps", "since", "pose"),
    [([], 27, (0, 0)), ([6], 24, (0, 0)), ([12], 18, (0, 0)), ([13], 17, (29, 12)), ([6, 13], 17, (0, 0))],
)
def test_a_jump_in_the_air_locks_feet_where_it_finds_them(jumps: list[int], since: int, pose: tuple[int, int]) -> None:
    def at(t: int) -> dict[str, torch.Tensor]:
        whole = {"action": 27 if t in jumps else 29, "airborne": int(t >= 3), "hurtbox": 0, "last_attack": 0}
        state = {name: torch.full((1, 2), value) for name, value in whole.items()}
        still = {name: torch.zeros(1, 2) for name in ("hitlag", "percent")}
        return {**state, **still, "state_age": torch.full((1, 2), float(t))}

    numbers, pads = beginning(at(0)), torch.zeros(1, 2, 2, 13)
    for t in range(1, 31):
        numbers = advance(numbers, at(t - 1), at(t), pads)
    told = [numbers[name][0, 0].item() for name in ("since_leap", "locked_action", "locked_age")]
    assert told == [since, *pose]


def test_feet_that_are_not_yet_free_say_nothing() -> None:
    columns = falling(40, 4.5)
    columns["airborne"][: -LOCKED - 8, 0] = 0
    assert bounds_of_game(columns, STAGE["FINAL_DESTINATION"])["lands"].sum() == 0


def test_walls_show_feet_at_plausible_heights() -> None:
    move, age, height = shown_by_walls()
    assert len(move) == len(age) == len(height) > 1_000
    assert np.isfinite(height).all()
    assert 2 < np.median(height) < 6


def test_landings_of_games_are_below_the_heights_of_other_games(true_games: Dataset) -> None:
    games = list(range(min(len(true_games), 24)))
    bounds = [bounds_of_game(true_games.columns(game), int(true_games.stage[game])) for game in games]
    if sum(part["lands"].sum() for part in bounds) < 1_000:
        pytest.skip("too few land in the games at hand")
    tables = MoveTables()
    tables.measure(true_games, games[::2])
    of_others = {name: np.concatenate([part[name] for part in bounds[1::2]]) for name in bounds[0]}
    row = tables._rows(of_others["move"], of_others["age"])
    high = torch.from_numpy(of_others["below"]) > tables.feet[torch.from_numpy(row)]
    lands = torch.from_numpy(of_others["lands"].astype(bool))
    known = torch.from_numpy(row > 0)
    assert high[lands & known].float().mean() > 0.9
    assert high[~lands & known].float().mean() < 0.1


def test_a_dodge_that_comes_down_as_it_begins_tells_of_its_first_pose() -> None:
    """Down and forward: nine tenths of 3.1 units a frame along the stick."""
    columns = falling(40, 4.5)
    t = int(np.flatnonzero(columns["airborne"][1:, 0] == 0)[0])  # the last frame in the air
    columns["action"][t + 1 :, 0] = DODGED
    columns["main_x"][t + 1, 0], columns["main_y"][t + 1, 0] = 0.6, -0.8
    found = bounds_of_game(columns, STAGE["FINAL_DESTINATION"])
    (i,) = np.flatnonzero(found["lands"])
    assert (found["move"][i], found["age"][i]) == (FOX * ACTIONS + DODGE, 1.0)
    assert found["below"][i] == pytest.approx(0 - columns["y"][t, 0] + 0.8 * 3.1 * AIR_DODGE_DECAY, abs=1e-5)
