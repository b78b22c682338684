"""Who is thrown is where the throw's age says, and where it is let go by its knockback further on."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from synthetic import REPLAYS
from wm_runtime.facts import character, throws
from wm_runtime.replays.dataset import Dataset
from wm_train.dynamics.throws import Throws, _pace
from wm_train.measure_throws import frames_of, places

FALCO = character("FALCO").internal_id
UP, HELD, TUMBLES, WAITS = 221, 241, 90, 216


def match(action: int, age: float, **fields: tuple[float, float]) -> dict[str, torch.Tensor]:
    """A Falco that throws another one up, facing left; the second player is thrown."""
    values = {"state_age": (age, 1.0), "x": (10.0, 99.0), "y": (5.0, 99.0), "facing": (-1, 1),
              "knockback_x": (0.0, 0.0), "knockback_y": (0.0, 0.0), **fields}  # fmt: skip
    state = {name: torch.tensor([value]) for name, value in values.items()}
    return state | {"action": torch.tensor([[UP, action]]), "character": torch.full((1, 2), FALCO)}


def known(age: int, free: int) -> np.ndarray:
    facts = throws()
    (row,) = facts.place[(facts.key == (FALCO, UP, FALCO, free, age)).all(axis=1)]
    return row


def test_who_is_thrown_is_beside_its_thrower() -> None:
    rule, ahead = Throws(), known(250, 0)
    x, y = rule(match(HELD, 1.25), match(HELD, 2.5))
    assert x[0].tolist() == pytest.approx([10.0, 10.0 - ahead[0]], abs=1e-4)
    assert y[0].tolist() == pytest.approx([5.0, 5.0 + ahead[1]], abs=1e-4)


def test_who_is_let_go_flies_on_from_there() -> None:
    rule, ahead = Throws(), known(750, 1)
    after = match(TUMBLES, 7.5, knockback_x=(0.0, 0.5), knockback_y=(0.0, 3.0))
    x, y = rule(match(HELD, 6.25), after)
    assert x[0, 1].item() == pytest.approx(10.0 - ahead[0] + 0.5, abs=1e-4)
    assert y[0, 1].item() == pytest.approx(5.0 + ahead[1] + 3.0, abs=1e-4)
    x, y = rule(match(TUMBLES, 6.25), after)  # long since let go
    assert (x[0, 1].item(), y[0, 1].item()) == (99.0, 99.0)


@pytest.mark.parametrize(("stick", "turned"), [((0.0, 0.0), 0.0), ((1.0, 0.0), -18.0), ((-0.5, 0.0), 4.5)])
def test_who_is_let_go_is_launched_and_turned_by_its_stick(stick: tuple[float, float], turned: float) -> None:
    before = match(HELD, 6.25) | {"percent": torch.tensor([[0.0, 40.7]])}
    after = match(TUMBLES, 7.5) | {"hitlag": torch.zeros(1, 2)}
    pads = torch.zeros(1, 2, 13)
    pads[0, 1, :2] = torch.tensor(stick)
    x, y, stun, free = Throws().launch(before, after, torch.tensor([[0.0, 1.84]]), pads)
    kb = 1.1 * (1.4 * (41.84 / 10 + 41.84 * 2 / 20) + 18) + 75  # Falco's up throw: two percent, upward
    speed, way = kb * 0.03 - 0.051, np.deg2rad(90 + turned)
    assert free.tolist() == [[False, True]]
    assert (x[0, 1].item(), y[0, 1].item()) == pytest.approx((speed * np.cos(way), speed * np.sin(way)), abs=1e-4)
    assert stun[0, 1].item() == np.floor(kb * 0.4)


@pytest.mark.parametrize("changed", [{"action": UP}, {"hitlag": 4.0}, {"rise": 0.0}])
def test_who_is_struck_otherwise_is_not_launched_by_the_throw(changed: dict[str, float]) -> None:
    after = match(TUMBLES, 7.5) | {"hitlag": torch.full((1, 2), changed.get("hitlag", 0.0))}
    before = match(int(changed.get("action", HELD)), 6.25) | {"percent": torch.zeros(1, 2)}
    rise = torch.tensor([[0.0, changed.get("rise", 2.0)]])
    assert not Throws().launch(before, after, rise, torch.zeros(1, 2, 13))[3].any()


@pytest.mark.parametrize("age", [2.0, 7.5, 300.0, -2.5])
def test_where_nothing_is_known_the_place_stays_as_it_was_chosen(age: float) -> None:
    x, y = Throws()(match(HELD, 1.25), match(HELD, age))
    assert (x[0, 1].item(), y[0, 1].item()) == (99.0, 99.0)


def test_a_pace_is_found_in_rounded_ages() -> None:
    for pace in (0.9174, 1.25, 1.3333):
        assert _pace(np.round(pace * np.arange(1, 18), 2)) == pytest.approx(pace, abs=1e-3)


def test_places_are_those_that_frames_agree_on() -> None:
    rng = np.random.default_rng(0)
    age = rng.integers(1, 6, 400)
    seen = {"thrower": np.full(400, 1), "action": np.full(400, UP), "victim": np.full(400, 2), "age": age * 1.25,
            "free": age == 5, "ahead": age * 2.0, "above": np.where(age == 3, rng.normal(size=400), -age)}  # fmt: skip
    key, place = places(seen)
    assert key[:, 4].tolist() == [125, 250, 500, 625]  # at the third age they do not
    assert key[:, 3].tolist() == [0, 0, 0, 1]
    assert place.tolist() == [[2, -1], [4, -2], [8, -4], [10, -5]]


@pytest.mark.skipif(not REPLAYS.exists(), reason="needs real games")
def test_throws_of_games_are_as_the_facts_say(true_games: Dataset) -> None:
    parts = [frames_of(true_games.columns(game)) for game in range(min(len(true_games), 24))]
    seen = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    facts = throws()
    where = {tuple(key): place for key, place in zip(facts.key.tolist(), facts.place, strict=True)}
    keys = zip(seen["thrower"], seen["action"], seen["victim"], seen["free"], np.round(seen["age"] * 100), strict=True)
    told = [where.get(tuple(map(int, key))) for key in keys]
    off = [
        max(abs(place[0] - x), abs(place[1] - y))
        for place, x, y in zip(told, seen["ahead"], seen["above"], strict=True)
        if place is not None
    ]
    if len(off) < 100:
        pytest.skip("too few are thrown in the games at hand")
    assert (np.array(off) < 0.02).mean() > 0.95


def test_a_throws_clock_goes_by_its_pair_and_others_are_left_alone() -> None:
    rule, chosen = Throws(), torch.full((1, 2), -9.0)
    before = {**match(HELD, 2.5), "hitlag": torch.zeros(1, 2)}
    assert rule.clock(before, before["action"], chosen).tolist() == [[3.75, -9.0]]
    waits = {**before, "action": torch.tensor([[WAITS, HELD]])}
    assert rule.clock(waits, before["action"], chosen).tolist() == [[1.25, -9.0]]
    assert rule.clock({**before, "hitlag": torch.ones(1, 2)}, before["action"], chosen).tolist() == [[-9.0, -9.0]]
    bowser = {**before, "character": torch.full((1, 2), character("BOWSER").internal_id)}
    assert rule.clock(bowser, before["action"], chosen).tolist() == [[-9.0, -9.0]]


def test_throws_of_real_games_go_by_these_clocks(true_games: Dataset) -> None:
    if not REPLAYS.exists():
        pytest.skip("made-up games throw nobody as the game does")
    rule, right = Throws(), []
    for game in range(8):
        columns = true_games.columns(game)
        frames = np.flatnonzero(((columns["action"] >= 219) & (columns["action"] <= 222)).any(axis=1)[1:]) + 1
        before = {n: torch.from_numpy(columns[n][frames - 1]) for n in ("action", "character", "state_age", "hitlag")}
        told = rule.clock(before, torch.from_numpy(columns["action"][frames]), torch.full((len(frames), 2), torch.nan))
        same = (told - torch.from_numpy(columns["state_age"][frames])).abs() < 0.01
        right += same[~told.isnan() & (torch.from_numpy(columns["hitlag"][frames]) <= 0)].tolist()
    assert len(right) > 50
    assert all(right)
