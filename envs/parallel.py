"""Both players of one match as agents: PettingZoo's parallel form, for self-play."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from gymnasium.utils import seeding
from gymnasium.vector.utils import batch_space

from wm_envs.env import one
from wm_envs.matches import Matches, Settings
from wm_envs.rewards import total
from wm_envs.screen import RENDER_MODES, Screen
from wm_envs.vector import masked, of_match
from wm_runtime.errors import UserError

try:
    from pettingzoo import ParallelEnv
except ImportError:
    raise UserError("PettingZoo is not installed: pip install 'melee-world-model[pettingzoo]'") from None

AGENTS = ("player_1", "player_2")
_ALL = np.ones(1, bool)


class MeleeParallelEnv(ParallelEnv):
    """`MeleeEnv` with an agent on either side, `player_1` (on the left) and `player_2`.

    Spaces, rewards, starts, ends and arguments are those of `MeleeEnv`, without `opponent` and `replay`. Each agent
    sees itself first, also in the pairs of `info`. Both leave `agents` when the match ends.
    """

    metadata: ClassVar[dict[str, Any]] = {  # type: ignore[misc]
        "name": "melee_world_model_v0",
        "render_modes": list(RENDER_MODES),
        "render_fps": 60,
        "is_parallelizable": True,
    }

    def __init__(self, render_mode: str | None = None, **settings: Any):
        self._screen = Screen(render_mode)
        self.render_mode = render_mode
        self.matches = Matches(1, Settings.of(settings))
        self.possible_agents = list(AGENTS)
        self.agents: list[str] = []
        self.action_spaces = {agent: deepcopy(self.matches.actions.space) for agent in AGENTS}
        self.observation_spaces = {agent: deepcopy(self.matches.observations.space) for agent in AGENTS}
        self._batched = batch_space(self.matches.actions.space, 1)
        self._rng, _ = seeding.np_random()

    def observation_space(self, agent: str) -> spaces.Space:
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> spaces.Space:
        return self.action_spaces[agent]

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, dict]]:
        """Begins a match anew. PettingZoo asks that `options` be taken; there are none."""
        if seed is not None:
            self._rng, _ = seeding.np_random(seed)
            self.matches.starts.forget()
        self.matches.reset(_ALL, self._rng)
        self.agents = list(AGENTS)
        self._screen.stepped(self.matches)
        return self._observations(), {agent: self._info(agent) for agent in AGENTS}

    def step(
        self, actions: dict[str, Any]
    ) -> tuple[dict[str, Any], dict[str, float], dict[str, bool], dict[str, bool], dict[str, dict]]:
        if not self.agents:
            raise ResetNeeded("the match has not begun, or has ended: reset it before the next step")
        if set(actions) != set(AGENTS):
            raise ValueError(f"actions of {sorted(actions)}: give one for each of {', '.join(AGENTS)}")
        pressed = [self.matches.actions.checked(_batch(actions[agent]), self._batched) for agent in AGENTS]

        def press(frame: int) -> None:
            for player, action in enumerate(pressed):
                self.matches.actions.controllers(action, self.matches.controllers[:, player])

        outcome = self.matches.step(press, ~_ALL)
        terms = {agent: outcome.terms(player) for player, agent in enumerate(AGENTS)}
        said: dict[str, Any] = {"truncated_by": outcome.reason[0]} if outcome.truncated[0] else {}
        infos = {
            agent: self._info(agent) | {"reward_terms": of_match(masked(terms[agent], _ALL), 0)} | said
            for agent in AGENTS
        }
        if outcome.ended[0]:
            self.agents = []
        self._screen.stepped(self.matches)
        return (
            self._observations(),
            {agent: float(total(terms[agent], self.matches.weights)[0]) for agent in AGENTS},
            dict.fromkeys(AGENTS, bool(outcome.terminated[0])),
            dict.fromkeys(AGENTS, bool(outcome.truncated[0])),
            infos,
        )

    def render(self) -> np.ndarray | None:
        """(H, W, 3) uint8 in `rgb_array`; in `human` the window is brought up to date."""
        pictures = self._screen.draw(self.matches)
        return None if pictures is None else pictures[0]

    def close(self) -> None:
        self._screen.close()

    def _observations(self) -> dict[str, Any]:
        return {agent: one(self.matches.observe(player)) for player, agent in enumerate(AGENTS)}

    def _info(self, agent: str) -> dict[str, Any]:
        info = of_match(masked(self.matches.describe(), _ALL), 0)
        if agent == AGENTS[1]:
            for values in (info, info["model"]):
                values |= {name: pair[::-1] for name, pair in values.items() if isinstance(pair, tuple)}
        return info


def _batch(action: Any) -> Any:
    return {k: np.asarray(v)[None] for k, v in action.items()} if isinstance(action, dict) else np.asarray(action)[None]


def parallel_env(**arguments: Any) -> MeleeParallelEnv:
    """PettingZoo's usual name for the constructor."""
    return MeleeParallelEnv(**arguments)
