"""A policy plays N matches as one batch: seeded, late by its delay, and with valid controllers from any state."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from wm_envs.opponents import Policy, opponent
from wm_runtime.artifact import models, open_artifact, policies
from wm_runtime.errors import UserError
from wm_runtime.policy import DEFAULT_POLICY, PolicyPlayer, open_policy
from wm_runtime.replays.dataset import Dataset
from wm_runtime.schema import AXES, C_, CONTROLS, State
from wm_runtime.simulator import Simulator
from wm_runtime.starts import spawn

MATCHES, FRAMES = 8, 120


@pytest.fixture(scope="module")
def states(dataset: Dataset) -> list[State]:
    """Frames 0 to 119 of eight games, as a batch of matches each."""
    games = np.arange(MATCHES)
    state, _ = dataset.windows(games, np.full(MATCHES, 123), FRAMES)
    return [state.rows(games * FRAMES + t) for t in range(FRAMES)]


def played(player: PolicyPlayer, states: list[State]) -> np.ndarray:
    """(T, N, 13)"""
    return np.stack([player.act(state).copy() for state in states])


def test_a_small_policy_ships() -> None:
    assert DEFAULT_POLICY in policies()
    assert policies()[DEFAULT_POLICY].stat().st_size <= 4.5e6
    figures = open_policy().metadata["manifest"]["figures"]["accuracy"]["delay 0"]
    for which in ("all frames", "changes"):
        assert figures[which]["policy"]["controller"] > figures[which]["last frame"]["controller"]


def test_controllers_are_valid_and_not_always_the_same(states: list[State]) -> None:
    held = played(PolicyPlayer(num_matches=MATCHES), states)
    assert held.shape == (FRAMES, MATCHES, len(CONTROLS))
    assert held.dtype == np.float32
    for i, control in enumerate(CONTROLS):
        column = held[..., i]
        assert control.low <= column.min()
        assert column.max() <= control.high
        steps = np.rint(column * control.grid).astype(np.float32)
        assert np.array_equal(steps / np.float32(control.grid), column)
    changes = (held[1:] != held[:-1]).any(axis=-1).mean()
    assert 0.02 < changes < 0.6
    assert all(held[..., C_[axis]].any() for axis in AXES[:2])


def test_the_same_seed_plays_the_same(states: list[State]) -> None:
    one, other, else_ = (played(PolicyPlayer(num_matches=MATCHES, seed=seed), states[:40]) for seed in (3, 3, 4))
    assert np.array_equal(one, other)
    assert not np.array_equal(one, else_)


def test_cold_play_has_no_chance_in_it(states: list[State]) -> None:
    one, other = (played(PolicyPlayer(num_matches=MATCHES, seed=s, temperature=0), states[:40]) for s in (3, 4))
    assert np.array_equal(one, other)


def test_what_happened_within_the_delay_is_not_seen(states: list[State]) -> None:
    delay, change = 12, 30
    changed = [state.copy() for state in states]
    for state in changed[change:]:
        state["x"] += 40
        state["action"] = 29
    plays = []
    for seen in (states, changed):
        player = PolicyPlayer(num_matches=MATCHES, delay=delay)
        plays.append(np.stack([(player.act(state), player.logits.copy())[1] for state in seen[:60]]))
    before, after = (plays[0] == plays[1]).all(axis=(1, 2))[: change + delay], plays[0][change + delay]
    assert before.all()
    assert not np.array_equal(after, plays[1][change + delay])


def test_both_sides_see_the_match_from_their_own(states: list[State]) -> None:
    swapped = [State(s.floats[:, ::-1].copy(), s.ints[:, ::-1].copy(), s.match) for s in states[:40]]
    first = played(PolicyPlayer(num_matches=MATCHES, player=0), states[:40])
    assert np.array_equal(first, played(PolicyPlayer(num_matches=MATCHES, player=1), swapped))
    assert not np.array_equal(first, played(PolicyPlayer(num_matches=MATCHES, player=1), states[:40]))


def test_a_match_begun_anew_remembers_nothing_and_disturbs_no_other(states: list[State]) -> None:
    fresh, used = (PolicyPlayer(num_matches=MATCHES, temperature=0, delay=9) for _ in range(2))
    undisturbed = PolicyPlayer(num_matches=MATCHES, temperature=0, delay=9)
    mask = np.arange(MATCHES) < 3
    played(used, states[60:90])
    played(undisturbed, states[60:90])
    used.reset(mask)
    new, after, going_on = (
        np.stack([(player.act(state), player.logits.copy())[1] for state in states[:40]])
        for player in (fresh, used, undisturbed)
    )
    assert np.array_equal(new[:, mask], after[:, mask])
    assert np.array_equal(going_on[:, ~mask], after[:, ~mask])
    assert not np.array_equal(new[:, ~mask], after[:, ~mask])


def test_any_state_at_all_gives_finite_logits() -> None:
    rng = np.random.default_rng(0)
    state = State.zeros(64)
    state.floats[:] = rng.normal(0, 1e5, state.floats.shape)
    state.ints[:] = rng.integers(-(2**31), 2**31 - 1, state.ints.shape)
    state.match[:] = rng.integers(-(2**31), 2**31 - 1, state.match.shape)
    player = PolicyPlayer(num_matches=64)
    for _ in range(20):
        assert np.abs(player.act(state)).max() <= 1
        assert np.isfinite(player.logits).all()


def test_two_policies_play_a_match_in_the_simulator() -> None:
    simulator, start = Simulator(num_matches=4, threads=1), spawn("BATTLEFIELD", ("FOX", "FALCO"))
    state = simulator.reset(start)
    sides = [PolicyPlayer(num_matches=4, player=p, seed=p) for p in range(2)]
    for _ in range(60):
        state = simulator.step(np.stack([side.act(state) for side in sides], axis=1))
    assert np.isfinite(state.floats).all()
    assert (state["x"] != start.states["x"]).any(axis=0).all()


def test_the_opponent_plays_as_the_policy_does(states: list[State]) -> None:
    by_name, by_file = opponent("policy"), opponent(str(policies()[DEFAULT_POLICY]))
    player = PolicyPlayer(num_matches=MATCHES)
    out = np.zeros((MATCHES, len(CONTROLS)), np.float32)
    player.reset(rng=np.random.default_rng(5))
    expected = played(player, states[:20])
    for other in (by_name, by_file):
        assert isinstance(other, Policy)
        other.reset(np.ones(MATCHES, bool), np.random.default_rng(5))
        for t in range(20):
            other.act(states[t], out)
            assert np.array_equal(out, expected[t])


def test_playing_needs_no_torch() -> None:
    code = "import sys; from wm_runtime.policy import PolicyPlayer; PolicyPlayer(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"policy": "nobody"}, "nobody: no such policy; give a file or one of policy-small"),
        ({"delay": 31}, "delay 31: policy-small can react 0 to 30 frames late"),
        ({"delay": -1}, "delay -1"),
        ({"temperature": -0.5}, "temperature -0.5: give a number from 0 to 10"),
        ({"temperature": float("nan")}, "temperature nan"),
        ({"player": 2}, "player 2: give 0 or 1"),
    ],
)
def test_wrong_settings_are_user_errors(arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        PolicyPlayer(**arguments)


def test_a_policy_is_no_world_model() -> None:
    assert DEFAULT_POLICY not in models()
    with pytest.raises(UserError, match="a policy, not a model of the game"):
        Simulator(DEFAULT_POLICY)
    assert open_artifact(DEFAULT_POLICY, None).metadata == open_policy().metadata


def test_a_world_model_is_no_policy(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a model of the game, not a policy"):
        PolicyPlayer(open_artifact().path)
    (tmp_path / "cut.onnx").write_bytes(policies()[DEFAULT_POLICY].read_bytes()[:-1])
    with pytest.raises(UserError, match=r"cut\.onnx: not a model of this project"):
        PolicyPlayer(tmp_path / "cut.onnx")
