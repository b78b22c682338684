"""stable-baselines3 trains on the batch as it is: same-step resets, terminal observations, truncation told apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecMonitor, VecNormalize

from wm_envs.sb3 import MeleeVecEnv
from wm_envs.vector import MeleeVectorEnv
from wm_runtime.artifact import Artifact
from wm_runtime.facts import stage
from wm_runtime.starts import spawn, stack

Make = Callable[..., MeleeVecEnv]
N = 4


@pytest.fixture
def make(artifact: Artifact) -> Make:
    return lambda num_envs=N, **arguments: MeleeVecEnv(num_envs, **{"model": artifact, **arguments})


def test_an_ended_match_tells_its_last_observation_and_whether_it_was_cut_off(make: Make, artifact: Artifact) -> None:
    start = spawn("BATTLEFIELD", ("FOX", "FALCO"))
    start.states["x"][:, 0] = stage("BATTLEFIELD").blast.left - 50
    start.states["airborne"][:, 0] = 1
    arguments: dict[str, Any] = {"starts": stack([start]), "time_limit": 3}
    env, twin = make(**arguments), MeleeVectorEnv(N, "NextStep", model=artifact, **arguments)
    first = env.reset()
    twin.reset()
    for batch in (env.batch, twin):
        batch.simulator.state["stocks"][1, 0] = 1
    nothing = np.zeros((N, 7), int)
    observations, rewards, dones, infos = env.step(nothing)
    expected = twin.step(nothing)
    assert dones.tolist() == [False, True, False, False]
    assert infos[0] == {}
    assert infos[1]["TimeLimit.truncated"] is False
    assert infos[1]["reward_terms"]["stocks_lost"] == 1
    assert np.array_equal(infos[1]["terminal_observation"], expected[0][1])
    assert np.array_equal(rewards, expected[1])
    assert np.array_equal(observations[1], first[1])
    assert np.array_equal(env.batch_info["frame"], [1, 0, 1, 1])
    env.step(nothing)
    _, _, dones, infos = env.step(nothing)
    assert dones.tolist() == [True, False, True, True]
    assert infos[0]["TimeLimit.truncated"] is True
    assert infos[0]["truncated_by"] == "time limit"


def test_a_seed_decides_everything(make: Make) -> None:
    plays = []
    for seed in (1, 1, 2):
        env = make(opponent="random", stage=["BATTLEFIELD", "DREAM_LAND"], time_limit=9)
        env.seed(seed)
        env.action_space.seed(0)
        rows = [env.reset()] + [env.step(np.stack([env.action_space.sample()] * N))[0] for _ in range(30)]
        plays.append(np.stack(rows))
    assert np.array_equal(plays[0], plays[1])
    assert not np.array_equal(plays[0], plays[2])


@pytest.mark.parametrize(
    ("observation", "action_space", "policy"),
    [("flat", "multidiscrete", "MlpPolicy"), ("dict", "discrete", "MultiInputPolicy")],
)
def test_ppo_trains(observation: str, action_space: str, policy: str, make: Make) -> None:
    arguments = {"observation": observation, "action_space": action_space, "time_limit": 20, "opponent": "random"}
    env = VecMonitor(make(**arguments))
    model = PPO(policy, env, n_steps=32, batch_size=64, n_epochs=1, seed=0, device="cpu")
    before = [p.detach().clone() for p in model.policy.parameters()]
    model.learn(2 * 32 * N)
    assert model.num_timesteps == 2 * 32 * N
    assert any((a != b).any() for a, b in zip(before, model.policy.parameters(), strict=True))
    assert {episode["l"] for episode in model.ep_info_buffer or []} == {20}
    mean, _ = evaluate_policy(model, env, n_eval_episodes=4)
    assert np.isfinite(mean)


def test_wrappers_and_self_play_fit(make: Make) -> None:
    learner = PPO("MlpPolicy", make(), n_steps=8, batch_size=32, device="cpu")
    env = VecNormalize(make(opponent=lambda seen: learner.predict(seen)[0], render_mode="rgb_array"))
    env.reset()
    observations, *_ = env.step(np.zeros((N, 7), int))
    assert np.isfinite(observations).all()
    assert env.get_attr("render_mode", [0, 2]) == ["rgb_array"] * 2
    assert len(env.get_images()) == N
    env.close()
