"""What the other examples share: opponents of the environment as agents, and the mean return of any agent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from wm_envs.opponents import Attacker, Neutral, Opponent, Policy, Random
from wm_envs.vector import MeleeVectorEnv
from wm_runtime.schema import AXES

Agent = Callable[[Any, MeleeVectorEnv], Any]
"""(observations, environment) → actions of all matches."""
BASELINES: dict[str, Callable[[], Opponent]] = {
    "neutral": Neutral, "random": Random, "attacker": lambda: Attacker(player=0), "policy": lambda: Policy(player=0),
}  # fmt: skip


def returns(env: MeleeVectorEnv, agent: Agent, seed: int = 0) -> np.ndarray:
    """(N,) undiscounted return of one episode of every match. `env` has a time limit."""
    observations, _ = env.reset(seed=seed)
    total, running = np.zeros(env.num_envs), np.ones(env.num_envs, bool)
    while running.any():
        observations, rewards, terminated, truncated, _ = env.step(agent(observations, env))
        total += rewards * running
        running &= ~(terminated | truncated)
    return total


def baseline(name: str, **arguments: Any) -> tuple[MeleeVectorEnv, Agent]:
    """An environment whose agent is played by an opponent of that name, for `returns`."""
    env = MeleeVectorEnv(**{**arguments, "action_space": "controller"})
    player, held = BASELINES[name](), np.zeros_like(env.controllers[:, 0])
    player.reset(np.ones(env.num_envs, bool), np.random.default_rng(0))

    def agent(observations: Any, env: MeleeVectorEnv) -> dict[str, np.ndarray]:
        player.act(env.simulator.state, held)
        return {"axes": held[:, : len(AXES)].copy(), "buttons": held[:, len(AXES) :].astype(np.int8)}

    return env, agent


def interval(values: np.ndarray) -> str:
    """Mean and the half-width of its 95 % interval."""
    return f"{values.mean():+.3f} ± {1.96 * values.std(ddof=1) / np.sqrt(len(values)):.3f}"
