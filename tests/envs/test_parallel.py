"""Both sides of a match as PettingZoo's agents."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from pettingzoo.test import parallel_api_test, parallel_seed_test

from wm_envs.env import MeleeEnv
from wm_envs.parallel import AGENTS, MeleeParallelEnv, parallel_env
from wm_envs.spaces import ACTION_SPACES, observation_names
from wm_runtime.artifact import Artifact
from wm_runtime.errors import UserError
from wm_runtime.starts import spawn

Make = Callable[..., MeleeParallelEnv]


@pytest.fixture
def make(artifact: Artifact) -> Make:
    return lambda **arguments: parallel_env(**{"model": artifact, **arguments})


@pytest.mark.parametrize("action_space", ACTION_SPACES)
def test_pettingzoos_tests_have_nothing_to_say(action_space: str, make: Make) -> None:
    arguments: dict[str, Any] = {"action_space": action_space, "stage": ["BATTLEFIELD", "DREAM_LAND"]}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parallel_api_test(make(time_limit=60, **arguments), num_cycles=200)
        parallel_seed_test(lambda: make(time_limit=25, **arguments), num_cycles=80)


def test_what_one_wins_the_other_loses(make: Make) -> None:
    env = make(stage="BATTLEFIELD")
    observations, infos = env.reset(seed=0)
    space = env.observation_space("player_1")
    assert all(space.contains(o) for o in observations.values())
    for agent in AGENTS:
        env.action_space(agent).seed(1 + AGENTS.index(agent))
    env.matches.state["percent"] = (20, 70)
    for _ in range(40):
        observations, rewards, *_, infos = env.step({a: env.action_space(a).sample() for a in AGENTS})
        assert rewards["player_1"] == pytest.approx(-rewards["player_2"])
        assert infos["player_1"]["percent"] == infos["player_2"]["percent"][::-1]
        terms = [infos[a]["reward_terms"] for a in AGENTS]
        assert terms[0]["damage_dealt"] == terms[1]["damage_taken"]
    half = sum(name.startswith("self.") for name in observation_names())
    first, second = (observations[a] for a in AGENTS)
    assert np.array_equal(first[:half], second[half : 2 * half])
    assert not np.array_equal(first[:half], second[:half])


def test_a_match_is_the_same_as_against_a_callable(make: Make, artifact: Artifact) -> None:
    env = make()
    actions = {agent: env.action_space(agent) for agent in AGENTS}
    actions["player_2"].seed(4)
    held = actions["player_2"].sample()
    single = MeleeEnv(model=artifact, opponent=lambda observations: held[None])
    env.reset(seed=0)
    single.reset(seed=0)
    actions["player_1"].seed(5)
    for _ in range(20):
        mine = actions["player_1"].sample()
        both, alone = env.step({"player_1": mine, "player_2": held}), single.step(mine)
        assert np.array_equal(both[0]["player_1"], alone[0])
        assert both[1]["player_1"] == alone[1]
        assert both[4]["player_1"] == alone[4]


def test_both_leave_when_the_match_ends(make: Make) -> None:
    start = spawn("BATTLEFIELD", ("FOX", "FALCO"))
    env = make(starts=start, time_limit=1)
    env.reset(seed=0)
    actions = {agent: env.action_space(agent).sample() for agent in AGENTS}
    with pytest.raises(ValueError, match=r"actions of \['player_1'\]: give one for each of player_1, player_2"):
        env.step({"player_1": actions["player_1"]})
    _, _, terminated, truncated, infos = env.step(actions)
    assert terminated == dict.fromkeys(AGENTS, False)
    assert truncated == dict.fromkeys(AGENTS, True)
    assert infos["player_2"]["truncated_by"] == "time limit"
    assert env.agents == []
    with pytest.raises(ResetNeeded):
        env.step(actions)
    env.reset()
    assert env.agents == list(AGENTS)


def test_an_opponent_is_no_argument_here(make: Make) -> None:
    with pytest.raises(UserError, match="unknown arguments opponent"):
        make(opponent="random")
