"""What the stick does to a velocity: pushes, speeds that it leads to, and friction, as the game and the tables say."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from synthetic import REPLAYS
from wm_runtime.facts import character, physics
from wm_runtime.replays.dataset import Dataset
from wm_runtime.schema import FIELD, INT_FIELDS
from wm_train.dynamics.candidates import DODGED, SQUAT, Candidates, driven
from wm_train.dynamics.influence import Influence
from wm_train.dynamics.tables import DASH, RUN, USUAL_DASH, MoveTables, drift_of
from wm_train.dynamics.walk import FAST, MIDDLE, SLOW, Walk
from wm_train.dynamics.wind import PACE

FOX, PEACH = character("FOX").internal_id, character("PEACH").internal_id
GAIN, BESIDE, TOP = 0.1, 0.02, 1.3


@pytest.mark.parametrize(
    ("v", "push", "top", "friction", "expected"),
    [
        (0.5, 0.1, 1.0, 0.02, 0.6),  # on its way
        (0.95, 0.1, 1.0, 0.02, 1.0),  # arrives
        (1.05, 0.1, 1.0, 0.02, 1.03),  # too fast: slowed by friction, however near
        (1.01, 0.1, 1.0, 0.02, 1.0),  # and no further than the top
        (-0.5, 0.1, 1.0, 0.02, -0.4),  # against its way
        (-1.05, -0.1, -1.0, 0.02, -1.03),
        (-0.95, -0.1, -1.0, 0.02, -1.0),
        (0.5, 0.0, 0.0, 0.02, 0.48),  # no stick
        (0.01, 0.0, 0.0, 0.02, 0.0),
    ],
)
def test_a_velocity_is_driven_towards_what_the_stick_says(
    v: float, push: float, top: float, friction: float, expected: float
) -> None:
    result = driven(*(torch.tensor([[value]]) for value in (v, push, top, friction)))
    assert result.item() == pytest.approx(expected, abs=1e-6)


def dashes(count: int, fast: float, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Steps of dashes from speeds up to `fast`, by the rule."""
    stick = rng.integers(30, 81, count) / 80
    speed = rng.uniform(0, fast, count)
    driven_ = driven(*(torch.from_numpy(of) for of in (speed, GAIN * stick + BESIDE, TOP * stick, 0 * stick + 0.1)))
    action = np.where(np.arange(count) % 2, DASH, RUN)
    action[speed < TOP * stick] = DASH  # a run that is not at its top gains a share
    value = driven_.numpy()
    return {"stick": stick, "action": action, "self_x_ground.value": value, "self_x_ground.change": value - speed,
            "same_kind": np.ones(count, bool)}  # fmt: skip


def test_tables_find_how_a_dash_gains_and_how_fast_it_gets() -> None:
    tables = MoveTables()
    tables._measure_ground(dashes(4_000, 1.5, np.random.default_rng(0)), PEACH, np.ones(4_000, bool))
    assert tables.ground[PEACH, 2:].tolist() == pytest.approx([GAIN, BESIDE, TOP], abs=2e-3)


def test_who_was_never_seen_on_the_way_up_dashes_as_usual() -> None:
    step = dashes(4_000, 1.5, np.random.default_rng(0))
    at_top = np.abs(step["self_x_ground.value"] - TOP * step["stick"]) < 1e-6
    tables = MoveTables()
    tables._measure_ground({name: value[at_top] for name, value in step.items()}, PEACH, np.ones(at_top.sum(), bool))
    assert tables.ground[PEACH, 2:].tolist() == pytest.approx([*USUAL_DASH, TOP], abs=2e-3)
    assert drift_of(np.ones(10), np.ones(10)) is None


def test_peach_drifts_as_replays_say() -> None:
    assert physics("air_friction")[PEACH] == pytest.approx(0.005)


def places_along_x(**fields: list[float] | list[int]) -> Callable[..., torch.Tensor]:
    """Of a match in such a state: fields of the next state → candidates of x, (1, 2, …)."""
    candidates = Candidates(MoveTables())
    zero, whole = torch.zeros(1, 2), torch.zeros(1, 2, dtype=torch.int32)
    state = {name: whole if name in INT_FIELDS else zero for name, field in FIELD.items() if field.role == "state"}
    state |= {name: torch.tensor([value]) for name, value in fields.items()}
    places = {name: zero[:, :1] for name in ("edge_hang", "edge_stand", "edge_y")}
    row, pads = torch.zeros(1, 2, dtype=torch.long), torch.zeros(1, 2, 13)
    no_stick = Influence(whole > 0, zero, zero, whole > 0)

    def of(regressed: float = 0.0, **after: list[float] | list[int]) -> torch.Tensor:
        next_ = {**state, **{name: torch.tensor([value]) for name, value in after.items()}}
        return candidates.x(
            state, next_, state, row, row, row, places, torch.ones(1, 2), pads, pads, zero + regressed, no_stick
        )

    return of


def test_wind_blows_away_from_the_middle_whichever_way_a_fighter_faces() -> None:
    of = places_along_x(x=[-40.0, 30.0], facing=[1, 1], character=[FOX, FOX])
    right, left = (of(facing=[way, way]) for way in (1, -1))
    blown = torch.tensor([[-40.0 - PACE, 30.0 + PACE]])
    columns = ((right - blown[..., None]).abs() < 1e-5).all(dim=1)
    assert columns.any()
    assert torch.equal(columns, ((left - blown[..., None]).abs() < 1e-5).all(dim=1))


@pytest.mark.parametrize(("name", "share"), [("MARTH", 0.5), ("SHEIK", 0.5), ("FOX", 1.0)])
def test_who_dodges_into_the_ground_out_of_the_squat_goes_its_velocity_or_half(name: str, share: float) -> None:
    who = character(name).internal_id
    of = places_along_x(x=[10.0, 30.0], facing=[1, 1], character=[who, who], action=[SQUAT, SQUAT])
    x = of(0.3, action=[DODGED, SQUAT], self_x_air=[2.0, 2.0], self_x_ground=[2.0, 2.0])
    assert x[0, 0, 1] == 10.0 + 2.0 * share
    assert x[0, 0, 0] == pytest.approx(x[0, 0, 1] + (0.3 if share == 1 else 0.0))  # the rule is not left to a guess
    assert x[0, 1, 1] == 32.0


def test_a_walk_is_slow_middle_or_fast_by_its_speed() -> None:
    zero = torch.zeros(1, 2, dtype=torch.int32)
    walk, top = Walk(), float(physics("walk")[FOX])
    for speed, expected in ((0.39, SLOW), (0.4, MIDDLE), (0.79, MIDDLE), (0.8, FAST), (1.0, FAST)):
        state = {"character": zero + FOX, "self_x_ground": torch.tensor([[speed * top, -speed * top]])}
        for said in (SLOW, MIDDLE, FAST):
            assert walk(state, zero + said).tolist() == [[expected, expected]]
        assert walk(state, zero + DASH).tolist() == [[DASH, DASH]]


@pytest.mark.skipif(not REPLAYS.exists(), reason="no real games at hand")
def test_walks_of_real_games_are_those_of_their_speed(true_games: Dataset) -> None:
    walk, right, seen = Walk(), 0, 0
    for game in range(min(len(true_games), 8)):
        columns = true_games.columns(game)
        state = {name: torch.from_numpy(columns[name][:-1].copy()) for name in ("character", "self_x_ground")}
        action = torch.from_numpy(columns["action"][1:].astype(np.int32))
        walks = (action >= SLOW) & (action <= FAST)
        right += int((walks & (walk(state, action) == action)).sum())
        seen += int(walks.sum())
    assert right >= 0.99 * seen


def test_a_stick_at_rest_has_a_slope() -> None:
    stick = torch.zeros(1, 1, requires_grad=True)
    result = driven(torch.full((1, 1), 0.5), stick * 0.1, stick * 1.0, torch.full((1, 1), 0.02))
    result.sum().backward()
    assert result.item() == pytest.approx(0.48)
    assert stick.grad is not None
    assert stick.grad.item() == pytest.approx(0.1)


LANDING, DASHES = 43, 20


@pytest.mark.parametrize(
    ("action", "share", "once", "twice"),
    [(LANDING, 1.5, 2, 2), (LANDING, 0.9, 1, 1), (DASHES, 1.5, 1, 2), (DASHES, 0.9, 1, 2)],
)
def test_friction_doubles_for_who_is_faster_than_it_walks(action: int, share: float, once: int, twice: int) -> None:
    """In moves like landing; a dash has both to choose from."""
    candidates = Candidates(MoveTables())
    speed, friction = share * physics("walk")[FOX], physics("friction")[FOX]
    move = torch.tensor([[FOX * (FIELD["action"].classes or 0) + action]])
    rubbed = candidates._rubbed(torch.tensor([[-speed]]), torch.tensor([[FOX]]), move)
    assert [v.item() for v in rubbed] == pytest.approx([-(speed - k * friction) for k in (0.5, once, twice)], abs=1e-5)


@pytest.mark.skipif(not REPLAYS.exists(), reason="needs real games")
def test_friction_of_games_is_as_ruled(true_games: Dataset) -> None:
    candidates = Candidates(MoveTables())
    right = frames = 0
    for game in range(min(10, len(true_games))):
        game_columns, names = true_games.columns(game), ("action", "character", "airborne", "hitlag", "self_x_ground")
        columns = {name: torch.from_numpy(game_columns[name].astype(np.float32)) for name in names}
        before, after = ({n: v[part] for n, v in columns.items()} for part in (slice(-1), slice(1, None)))
        character, action = before["character"].long(), after["action"].long()
        v, friction = before["self_x_ground"], candidates.friction[character]
        free = (before["airborne"] == 0) & (after["airborne"] == 0) & (before["hitlag"] == 0) & (after["hitlag"] == 0)
        free &= (v.abs() > 3 * friction) & candidates.doubles[action]
        lost = (v - after["self_x_ground"]).abs() / friction
        free &= ((lost - 1).abs() < 0.01) | ((lost - 2).abs() < 0.01)
        ruled = candidates._rubbed(v, character, character * candidates.doubles.numel() + action)[1]
        frames += int(free.sum())
        right += int((free & ((ruled - after["self_x_ground"]).abs() < 3e-4)).sum())
    assert right >= 0.998 * frames > 0
