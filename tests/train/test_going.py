"""Where fighters go if nobody strikes them, and how they hold shields: rules one by one, and against games."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from wm_runtime.facts import physics
from wm_runtime.replays.dataset import Dataset
from wm_runtime.schema import C_, CONTROL_NAMES, FIELD
from wm_train.dynamics.going import GOES, KEEPS, SQUAT, full_hop, goes_on, usual_velocities
from wm_train.dynamics.guard import HELD, SHIELDS, Guard, guard, guard_of_game, leaning
from wm_train.dynamics.kinematics import own_x, velocity
from wm_train.dynamics.memory import CONTROLLERS
from wm_train.dynamics.named import Named, named
from wm_train.dynamics.tables import MoveTables, _edge, _steps
from wm_train.training.whole_games import WholeGames

ACTIONS = FIELD["action"].classes or 0
STANDS, LEAPS, FALLS = 14, 25, 29


def placed(usual: tuple[float, ...] = KEEPS, stick: float = 0.0, held: Tensor | None = None, **fields: float):
    """Where Fox goes from (0, 0), by what its move usually does and its controllers."""
    names = ("x", "y", "self_x_air", "self_x_ground", "self_y", "knockback_x", "knockback_y", "hitlag", "airborne")
    state: Named = {name: torch.full((1, 2), float(fields.get(name, 0.0))) for name in names}
    state["facing"] = torch.tensor([[1, -1]])
    state["action"] = torch.full((1, 2), int(fields.get("action", FALLS)))
    controllers = torch.zeros(1, 2, len(CONTROL_NAMES))
    controllers[..., C_["main_y"]] = stick
    sticks = torch.zeros(1, CONTROLLERS, 2, len(CONTROL_NAMES)) if held is None else held
    x, y = goes_on(
        state, torch.full((1, 2), int(fields.get("meant", FALLS))), torch.tensor(usual).expand(1, 2, len(GOES)),
        torch.tensor([2.1, 3.68]).expand(1, 2, 2), full_hop(sticks, torch.full((1, 2), 2)), torch.full((1, 2), 0.8),
        sticks, controllers,
        torch.full((1, 2), 2.8), torch.full((1, 2), 3.4),
    )  # fmt: skip
    return x[0].tolist(), y[0].tolist()


def test_a_move_keeps_its_velocity_or_sets_it_ahead() -> None:
    assert placed(self_x_air=1.5, airborne=1, self_y=0.5) == ([1.5, 1.5], [0.5, 0.5])
    assert placed((0.0, 2.0, 0.0, -1.0), self_x_air=1.5, airborne=1) == ([2.0, -2.0], [-1.0, -1.0])
    assert placed((1.0, 0.25, 1.0, 0.0), self_x_ground=1.0) == ([1.25, 0.75], [0.0, 0.0])
    assert placed(self_x_ground=1.0, hitlag=3.0) == ([0.0, 0.0], [0.0, 0.0])


def test_nobody_falls_faster_than_falling_goes_but_for_a_flick_of_the_stick() -> None:
    falls = (1.0, 0.0, 1.0, -0.23)
    assert placed(falls, airborne=1, self_y=-1.0)[1][0] == pytest.approx(-1.23)
    assert placed(falls, airborne=1, self_y=-2.7)[1][0] == pytest.approx(-2.8)
    assert placed(falls, airborne=1, self_y=-3.4)[1][0] == pytest.approx(-3.4)
    assert placed(falls, airborne=1, self_y=-1.0, stick=-1.0)[1][0] == pytest.approx(-3.4)
    assert placed(falls, airborne=1, self_y=1.0, stick=-1.0)[1][0] == pytest.approx(0.77)
    down = torch.zeros(1, CONTROLLERS, 2, len(CONTROL_NAMES))
    down[..., C_["main_y"]] = -1.0
    assert placed(falls, airborne=1, self_y=-1.0, stick=-1.0, held=down)[1][0] == pytest.approx(-1.23)


def test_a_leap_is_as_high_as_it_was_held() -> None:
    held = torch.zeros(1, CONTROLLERS, 2, len(CONTROL_NAMES))
    held[:, -3:, 0, C_["x_button"]] = 1.0
    held[:, -3:-1, 1, C_["x_button"]] = 1.0
    x, y = placed(held=held, action=SQUAT, meant=LEAPS, self_x_ground=1.5)
    assert y == pytest.approx([3.68, 2.1])
    assert x == pytest.approx([0.8, 0.8])


def test_what_moves_do_to_velocities_is_found() -> None:
    rng = np.random.default_rng(0)
    before = rng.uniform(-2, 2, 4000).astype(np.float32)
    row = np.arange(4000) % 4
    falling = np.maximum(before - 0.25, np.minimum(before, -1))
    after = np.choose(row, [before, before + 0.5, np.full(4000, 1.25), falling])
    found = usual_velocities(row, 5, before, after.astype(np.float32))
    assert found[:3].tolist() == [[1.0, 0.0], [1.0, 0.5], [0.0, 1.25]]
    falls = np.full(4000, 0.25), np.full(4000, 1.0)
    assert usual_velocities(row, 5, before, after.astype(np.float32), falls)[3].tolist() == [1.0, -0.25]
    assert found[4].tolist() == [1.0, 0.0]  # never seen


def test_fighters_are_where_their_moves_take_them(real_dataset: Dataset) -> None:
    games = list(range(min(7, len(real_dataset))))
    steps = [_steps(real_dataset.columns(game), _edge(int(real_dataset.stage[game]))) for game in games[1:]]
    step, tables = {name: np.concatenate([of[name] for of in steps]) for name in steps[0]}, MoveTables()
    tables._measure_moves(step)
    tables._measure_jumps(step)
    tables._measure_going(step)
    count = int(real_dataset.frames[0])
    whole, pads = real_dataset.windows(np.array([0]), np.array([0]), count)
    parts = (whole.floats, whole.ints, pads)
    floats, ints, pads = (torch.from_numpy(of).reshape(count, *of.shape[-2:]) for of in parts)
    state, after = (named(floats[part], ints[part]) for part in (slice(8, -1), slice(9, None)))
    who = state["character"].long()
    usual = tables.goes[tables.row(state["character"], after["action"], after["state_age"])]
    sticks = torch.stack([pads[8 - back : count - 1 - back] for back in (2, 1, 0)], dim=1)
    limits = [torch.from_numpy(np.nan_to_num(physics(name)))[who] for name in ("terminal", "fast_fall")]
    full = after["self_y"] > tables.hop[who].mean(dim=-1)
    x, y = goes_on(state, after["action"], usual, tables.hop[who], full, own_x(after), sticks, pads[9:], *limits)
    free = (after["hitlag"] <= 0) & (state["hitlag"] <= 0) & (state["action"] > 13) & (after["action"] > 13)
    free &= (after["percent"] <= state["percent"]) & (state["airborne"] == 1) & (after["airborne"] == 1)
    free &= ~torch.isin(after["action"], torch.arange(212, 245)) & ~torch.isin(after["action"], torch.arange(252, 264))
    vx, vy = velocity(state)
    off = torch.hypot(x - after["x"], y - after["y"])[free]
    before = torch.hypot(state["x"] + vx - after["x"], state["y"] + vy - after["y"])[free]
    assert (off > 0.25).float().mean() < 0.5 * (before > 0.25).float().mean()


def test_shields_lean_as_the_stick_was_held_since_they_were_raised(true_games: Dataset) -> None:
    alike = checked = 0
    games = list(range(min(4, len(true_games))))
    corpus = WholeGames(true_games, games)
    for game in games:
        columns = true_games.columns(game)
        told = guard_of_game(columns)
        rows = torch.arange(int(corpus.frames[game]))[HELD:-1] + int(corpus.first[game])
        state = named(corpus.floats[rows], corpus.ints[rows])
        sticks = torch.stack([corpus.controllers[rows - back] for back in reversed(range(HELD))], dim=1)
        found = guard(state, corpus.numbers[rows, :, 0].int(), sticks, corpus.controllers[rows + 1])
        raised = np.isin(columns["action"][HELD:-1], SHIELDS)
        for name, value in zip(Guard._fields, found, strict=True):
            same = np.abs(value.numpy() - told[name][HELD:]) < 1e-5
            assert same[~raised].all(), name
            alike += int(same[raised].sum())
            checked += same[raised].size
    assert 0 < 0.97 * checked < alike  # who goes from one beginning to another has held a shield for longer


def test_a_shield_is_where_it_leans_and_as_large_as_it_is_light() -> None:
    shield, lean = torch.tensor([[1.0, 7.0, 10.0]]), torch.tensor([2.5, 3.0, 1.0])
    held = Guard(torch.tensor([1.0]), torch.tensor([-0.5]), torch.tensor([0.4]))
    assert leaning(shield, held, lean)[0].tolist() == pytest.approx([3.5, 5.5, 14.0])
