"""What hits do, by rule: launches are the game's own, to a hundredth of a unit a frame."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from states import but, first, one

from wm_runtime.facts import blows
from wm_runtime.facts import character as fighter
from wm_runtime.replays.dataset import Dataset
from wm_train.dynamics.blows import (
    AGES,
    BOUNCE,
    CHARACTERS,
    CROUCH,
    ELECTRIC,
    FLIES,
    MERGES,
    SAKURAI,
    Blows,
    Launch,
    both,
    flung,
    lag,
)
from wm_train.dynamics.launch import grown, weighed, weights
from wm_train.dynamics.memory import COMPARED_FLOATS, COMPARED_INTS, advance, beginning
from wm_train.dynamics.tables import ACTIONS, as_others
from wm_train.measure_blows import EXACT, hits_of, ways_of

BLOWS = Blows()
FOX, FALCO, GANONDORF = (fighter(name).internal_id for name in ("FOX", "FALCO", "GANONDORF"))
WAIT, CROUCHING, SQUAT, JUMPS, UP_SMASH, FALLS = 14, 40, 24, 25, 11, 29
DOWN_AIR, BACK_AIR, JAB = 17, 15, 2


def hit(attacker: int, attack: int, rise: float, since: int = 99, left: tuple[float, float] = (0, 0), meant: int = WAIT,
        **fields: list[float]) -> Launch:  # fmt: skip
    """What an attack of the second player, who stands right of the first, a Fox, does to that."""
    state = {"x": [0, 5], "percent": [30.9, 0], "action": [WAIT, WAIT], **fields}
    before = one(character=[FOX, attacker], **state)
    after = but(before, hitlag=[5, 5])
    per_player = (torch.tensor([values]) for values in ((attack, 0), (rise, 0.0), (1.0, 1.0)))
    rest = tuple(torch.tensor([[value, 0.0]]) for value in left)
    return BLOWS(before, after, torch.tensor([[meant, WAIT]]), *per_player, rest, torch.tensor([[since, 99]]))


def kb_of(growth: float, base: float, rise: float, damage: float, percent: float = 30) -> float:
    """KB of a Fox that had `percent`."""
    return growth * grown(np.float64(percent + rise), damage, weighed(np.float64(weights()[FOX]))) + base


def test_foxs_up_smash_launches_as_the_game_does() -> None:
    """Growth 112, base 30, 18 percent, 80 degrees: frame data that everybody knows."""
    ways = blows().way[(blows().key == (FOX, UP_SMASH, 18)).all(axis=1)]
    assert ways[0][:4] == pytest.approx((1.12, 0, 30, 80))
    told = hit(FOX, UP_SMASH, 18.0)
    speed = 0.03 * kb_of(1.12, 30, 18, 18)
    assert (first(told.x), first(told.y)) == pytest.approx(
        (-speed * np.cos(np.deg2rad(80)), speed * np.sin(np.deg2rad(80))), abs=1e-4
    )
    assert first(told.stun) == int(0.4 * kb_of(1.12, 30, 18, 18))
    assert [first(value) for value in (told.struck, told.airborne, told.facing, told.hitlag)] == [1, 1, 1, 9]
    assert told.stops[0].tolist() == [0, 9]
    assert not told.struck[0, 1]


@pytest.mark.parametrize(
    ("kb", "angle", "air", "away", "up"),
    [(100.0, SAKURAI, True, 45, 45), (100.0, SAKURAI, False, 44, 44), (31.9, SAKURAI, False, 0, 0)],
)
def test_an_angle_of_361_is_what_the_ground_makes_of_it(
    kb: float, angle: float, air: bool, away: float, up: float
) -> None:
    x, y = flung(torch.tensor(kb), torch.tensor(angle), torch.tensor(air))
    assert x.item() == pytest.approx(0.03 * kb * np.cos(np.deg2rad(away)), abs=1e-4)
    assert y.item() == pytest.approx(0.03 * kb * np.sin(np.deg2rad(up)), abs=1e-4)


def test_who_is_launched_into_the_ground_bounces_or_lies_flat() -> None:
    """Falco's down air, 12 percent, growth 100, base 10, 70 degrees down."""
    down = np.sin(np.deg2rad(70)) * 0.03
    assert first(hit(FALCO, DOWN_AIR, 12.0).y) == 0
    kb = kb_of(1.0, 10, 12, 12, percent=90)
    assert kb > FLIES
    assert first(hit(FALCO, DOWN_AIR, 12.0, percent=[90, 0]).y) == pytest.approx(BOUNCE * down * kb, abs=1e-4)
    flies = hit(FALCO, DOWN_AIR, 12.0, percent=[90, 0], airborne=[1, 0], action=[FALLS, WAIT], meant=FALLS)
    assert first(flies.y) == pytest.approx(-down * kb, abs=1e-4)
    jumps = hit(FALCO, DOWN_AIR, 12.0, percent=[90, 0], action=[SQUAT, WAIT], meant=JUMPS)
    assert first(jumps.y) == first(flies.y)


def test_who_crouches_takes_two_thirds() -> None:
    stands, crouches = hit(FOX, UP_SMASH, 18.0), hit(FOX, UP_SMASH, 18.0, meant=CROUCHING)
    assert first(crouches.y) == pytest.approx(CROUCH * first(stands.y), abs=1e-4)
    assert (first(crouches.hitlag), crouches.stops[0, 1]) == (6, 9)


def test_electric_moves_stop_whom_they_strike_longer() -> None:
    shock = hit(GANONDORF, JAB, 7.0)
    assert (first(shock.hitlag), shock.stops[0, 1]) == (int(5 * ELECTRIC), 5)


@pytest.mark.parametrize("since", [MERGES - 1, MERGES])
def test_a_launch_is_merged_with_what_is_left_of_one_that_is_long_past(since: int) -> None:
    alone = hit(FALCO, BACK_AIR, 15.0)
    merged = hit(FALCO, BACK_AIR, 15.0, since, (0.5, 9.0))
    if since < MERGES:
        assert (first(merged.x), first(merged.y)) == (first(alone.x), first(alone.y))
    else:
        assert (first(merged.x), first(merged.y)) == pytest.approx((first(alone.x) + 0.5, 9.0))
    assert (first(merged.along), first(merged.up)) == (first(alone.x), first(alone.y))


def test_two_speeds_one_way_are_the_greater_and_two_ways_their_sum() -> None:
    new, old = torch.tensor([2.0, -2.0, 2.0, -1.0]), torch.tensor([1.0, 1.0, -3.0, -3.0])
    assert both(new, old).tolist() == [2.0, -1.0, -1.0, -3.0]


@pytest.mark.parametrize(("rise", "frames"), [(8.91, 5), (9.0, 6), (15.0, 8), (1.82, 3)])
def test_hitlag_follows_the_whole_part_of_damage(rise: float, frames: int) -> None:
    assert lag(torch.tensor(rise)).item() == frames


def test_memory_counts_the_frames_since_a_hit_but_for_hitlag() -> None:
    controllers = torch.zeros(1, 2, 2, 13)
    before = one()
    numbers, counted = beginning(before), []
    percent, hitlag = [0, 9, 9, 9, 9, 10, 10], [0, 3, 2, 1, 0, 0, 0]  # the last rise is the magnifying glass's
    for t in range(1, len(percent)):
        state = but(before, percent=[percent[t], 0], hitlag=[hitlag[t], 0])
        last = {name: before[name] for name in (*COMPARED_INTS, *COMPARED_FLOATS)}
        numbers, before = advance(numbers, last, state, controllers), state
        counted.append(int(numbers["since_blow"][0, 0]))
    assert counted == [0, 0, 0, 1, 2, 3]


def test_what_is_not_known_of_a_fighter_is_as_others_have_it() -> None:
    table = torch.full((CHARACTERS * ACTIONS, 2), torch.nan)
    by_fighter = table[:, 0].view(CHARACTERS, ACTIONS)
    by_fighter[:4, WAIT] = torch.tensor([1.0, 1.0, 0.0, torch.nan])
    as_others(table)
    assert by_fighter[:5, WAIT].tolist() == [1, 1, 0, 1, 1]
    assert by_fighter[:, CROUCHING].isnan().all()


def test_a_damage_that_no_move_does_is_left_alone() -> None:
    assert not hit(FOX, UP_SMASH, 17.3).struck.any()
    assert not hit(FOX, UP_SMASH, 1.0).struck.any()


def test_how_much_a_move_does_goes_by_its_age() -> None:
    """Falco's back air does 15 percent on its first frames and 9 later."""
    who, attack = torch.full((1, 2), FALCO), torch.full((1, 2), BACK_AIR)
    damage = torch.tensor([[[15.0, 9.0]] * 2])
    early, late = BLOWS.by_age(who, attack, torch.tensor([[4.0, 12.0]]), damage)[0]
    assert early[0] > early[1] + 2
    assert late[1] > late[0] + 2
    assert BLOWS.likely.shape[0] % AGES == 0
    assert BLOWS.by_age(who, attack + 40, torch.full((1, 2), 4.0), damage).abs().sum() == 0


def test_made_up_hits_are_measured_as_they_were_made() -> None:
    """Growth 100, base 20, 361 degrees, of fighters of all weights; a tenth of the hits is something else."""
    rng = np.random.default_rng(0)
    count = 200
    weight, percent = rng.integers(60, 118, count).astype(float), rng.integers(0, 150, count).astype(float)
    air = rng.random(count) < 0.5
    kb = torch.from_numpy(grown(percent, np.full(count, 9.0), weighed(weight)) + 20)
    away, up = (v.numpy() for v in flung(kb, torch.full_like(kb, SAKURAI), torch.from_numpy(air)))
    away[:20] += 1.0
    made = {"away": away, "up": up, "percent": percent, "damage": np.full(count, 9.0), "weight": weight, "air": air}
    (way, *_) = ways_of(made, rng)
    assert way[:4] == pytest.approx((1.0, 0, 20, SAKURAI))
    assert way[4] == pytest.approx(0.9)


def test_real_hits_launch_as_they_are_told(real_dataset: Dataset) -> None:
    """Of fighters that fly nowhere; those whose move and damage is known."""
    told = known = 0
    facts = blows()
    for game in range(len(real_dataset)):
        hits = hits_of(real_dataset.columns(game))
        for i in range(len(hits["damage"])):
            ways = facts.way[(facts.key == [hits[n][i] for n in ("attacker", "attack", "damage")]).all(axis=1)]
            if not len(ways):
                continue
            growth, fixed, base, angle = ways.astype(np.float64).T[:4]
            z = weighed(hits["weight"][i])
            kb = torch.from_numpy(growth * grown(hits["percent"][i], hits["damage"][i], z) + fixed * z + base)
            off = np.inf
            for air in (False, True):
                away, up = flung(kb, torch.from_numpy(angle), torch.full_like(kb, air, dtype=torch.bool))
                off = min(off, ((away - hits["away"][i]).abs() + (up - hits["up"][i]).abs()).min().item())
            known += 1
            told += off < EXACT
    assert known > 100
    assert told / known > 0.9
