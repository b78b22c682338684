"""`MeleeWorldModel-v0`, one match: the batch of one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np

from wm_envs.opponents import Opponent, opponent
from wm_envs.rewards import WEIGHTS, reward_terms, total
from wm_envs.spaces import ACTION_SPACES, observation_space, observe
from wm_runtime.artifact import DEFAULT_MODEL
from wm_runtime.errors import UserError
from wm_runtime.schema import CONTROL_NAMES, MATCH_FRAMES, PLAYERS
from wm_runtime.simulator import Simulator
from wm_runtime.starts import Start, spawn


class MeleeEnv(gym.Env):
    """
    ## Description
    A match of Super Smash Bros. Melee, two players on a tournament stage, stepped by a learned model of the game. One
    step is one frame of 1/60 s. The agent is player 1 (on the left), its opponent player 2.

    ## Action Space
    `multidiscrete` (default): `MultiDiscrete([17, 5, 3, 2, 2, 2, 2])`: main stick (centre, eight directions at full
    tilt, eight at half), C-stick (centre, right, up, left, down), shoulder (none, light, full), A, B, X, Z.
    `controller`: `Dict(axes: Box(5), buttons: MultiBinary(8))`: main x, main y, C x, C y in −1 … 1, shoulder in 0 … 1;
    A, B, X, Y, Z, L, R, D-pad up.

    ## Observation Space
    `Box(-5, 5, (D,), float32)`: the numbers named by `wm_envs.spaces.observation_names()`, about 1 in size: the agent
    first, then the opponent (its controller hidden), then time, distance and stage.

    ## Rewards
    0.01 a percent of damage dealt, −0.01 a percent taken, 1 a stock taken, −1 a stock lost; `reward_weights` changes
    them. `info["reward_terms"]` holds each term unweighted.

    ## Starting State
    Both fighters stand where the stage's entry leaves them, four stocks, frame 0, free to act. `start` begins at
    another moment (`wm_runtime.starts`).

    ## Episode End
    Terminated when a side has no stocks left. Truncated after eight minutes of game time.

    ## Arguments
    | name | default | |
    |---|---|---|
    | `characters` | `("FOX", "FALCO")` | of player 1 and 2 |
    | `stage` | `"FINAL_DESTINATION"` | |
    | `model` | the default model that ships | name or artifact file |
    | `opponent` | `"neutral"` | `neutral`, `random`, `policy`, a policy's .onnx file, `replay`, or an `Opponent` |
    | `replay` | None | .slp or .mwr file for the opponent `replay` |
    | `start` | None | a `Start` of one match instead of the spawn points |
    | `action_space` | `"multidiscrete"` | or `controller` |
    | `reward_weights` | see Rewards | those given replace the default ones |
    | `device`, `threads` | `"cpu"`, 1 | of onnxruntime |

    `policy` is a learned player that ships; `wm_envs.opponents.Policy(delay=18)` is one that reacts 18 frames late.

    `info` also holds `frame`, `stocks` and `percent` of (agent, opponent) and `model`: the action entropy of both
    fighters' predicted actions, in nats.
    """

    metadata: ClassVar[dict[str, Any]] = {  # type: ignore[misc]
        "render_modes": ["rgb_array", "human"],
        "render_fps": 60,
    }

    def __init__(
        self,
        characters: tuple[str, str] = ("FOX", "FALCO"),
        stage: str = "FINAL_DESTINATION",
        model: str = DEFAULT_MODEL,
        opponent: str | Opponent = "neutral",
        replay: str | Path | None = None,
        start: Start | None = None,
        action_space: str = "multidiscrete",
        reward_weights: Mapping[str, float] | None = None,
        device: str = "cpu",
        threads: int = 1,
        render_mode: str | None = None,
    ):
        if action_space not in ACTION_SPACES:
            raise UserError(f"unknown action space {action_space!r}: choose one of {', '.join(ACTION_SPACES)}")
        unknown = set(reward_weights or {}) - set(WEIGHTS)
        if unknown:
            raise UserError(f"unknown reward terms {sorted(unknown)}: choose among {', '.join(WEIGHTS)}")
        self._start = start if start is not None else spawn(stage, characters)
        self._weights = {**WEIGHTS, **(reward_weights or {})}
        self._opponent = _opponent(opponent, replay)
        self._actions = ACTION_SPACES[action_space]()
        self.action_space = self._actions.space
        self.observation_space = observation_space()
        self.simulator = Simulator(model, 1, device, threads)
        self.controllers = np.zeros((1, PLAYERS, len(CONTROL_NAMES)), np.float32)
        """(1, 2, 13) that produced the present frame."""
        self.render_mode = render_mode
        self._window: Any = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        state = self.simulator.reset(self._start)
        self._opponent.reset(np.ones(1, bool), self.np_random)
        self.controllers[:] = 0
        if self.render_mode == "human":
            self.render()
        return observe(state, 0)[0], self._info()

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        if not self.action_space.contains(action):
            raise ValueError(f"{action!r} is not in the action space {self.action_space}")
        before = self.simulator.state
        percent, stocks = before["percent"].copy(), before["stocks"].copy()
        batch = {k: v[None] for k, v in action.items()} if isinstance(action, dict) else np.asarray(action)[None]
        self._actions.controllers(batch, self.controllers[:, 0])
        self._opponent.act(before, self.controllers[:, 1])
        state = self.simulator.step(self.controllers)
        terms = reward_terms(percent, stocks, state, 0)
        terminated = bool((state["stocks"] <= 0).any())
        truncated = bool(state["frame"][0] >= MATCH_FRAMES) and not terminated
        if self.render_mode == "human":
            self.render()
        info = self._info() | {"reward_terms": {name: float(term[0]) for name, term in terms.items()}}
        return observe(state, 0)[0], float(total(terms, self._weights)[0]), terminated, truncated, info

    def render(self) -> np.ndarray | None:
        """(H, W, 3) uint8 in `rgb_array`; in `human` the window is brought up to date."""
        if self.render_mode is None:
            return None
        from wm_viewer import draw

        if self.render_mode == "rgb_array":
            return draw.render(self.simulator.state, 0, self.controllers)
        self._window = self._window or draw.Window()
        self._window.draw(self.simulator.state, 0, self.controllers)
        return None

    def close(self) -> None:
        if self._window is not None:
            self._window.close()
            self._window = None

    def _info(self) -> dict[str, Any]:
        state = self.simulator.state
        return {
            "frame": int(state["frame"][0]),
            "stocks": tuple(state["stocks"][0].tolist()),
            "percent": tuple(state["percent"][0].tolist()),
            "model": {"action_entropy": tuple(self.simulator.aux["action_entropy"][0].tolist())},
        }


_opponent = opponent
"""The function, under a name that the argument of the same name does not hide."""
