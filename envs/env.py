"""`MeleeWorldModel-v0`, one match: the batch of one."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode

from wm_envs.screen import RENDER_MODES
from wm_envs.spaces import refusal
from wm_envs.vector import MeleeVectorEnv, of_match
from wm_runtime.simulator import Simulator


class MeleeEnv(gym.Env):
    """
    ## Description
    A match of Super Smash Bros. Melee, two players on a tournament stage, stepped by a learned model of the game. One
    step is one frame of 1/60 s (`frame_skip` of them). The agent is player 1 (on the left), its opponent player 2.

    ## Action Space
    | `action_space` | |
    |---|---|
    | `multidiscrete` (default) | `MultiDiscrete([17, 5, 3, 2, 2, 2, 2])`: main stick (centre, eight directions at full tilt, eight at half), C-stick (centre, right, up, left, down), shoulder (none, light, full), A, B, X, Z |
    | `controller` | `Dict(axes: Box(5), buttons: MultiBinary(8))`: main x, main y, C x, C y in −1 … 1, shoulder in 0 … 1, set to the game's own grid; A, B, X, Y, Z, L, R, D-pad up |
    | `discrete` | `Discrete(39)`: useful inputs, named in order by `wm_envs.spaces.DISCRETE` |

    ## Observation Space
    | `observation` | |
    |---|---|
    | `flat` (default) | `Box(-5, 5, (D,), float32)`: the numbers named by `wm_envs.spaces.observation_names()`, about 1 in size |
    | `dict` | the same by part: `self`, `opponent` (`PLAYER_NUMBERS`), `match` (`MATCH_NUMBERS`), `controller` (13), and the ids `action` and `character` of both as `MultiDiscrete` |
    | `state` | raw game values: `floats` (2, F), `ints` (2, I), `match` (frame, stage), `controller` (13); columns as in `wm_runtime.schema` |

    The agent comes first, then the opponent; `controller` is what the agent itself holds. The opponent's is hidden.

    ## Rewards
    0.01 a percent of damage dealt, −0.01 a percent taken, 1 a stock taken, −1 a stock lost, summed over the frames of a
    step. `reward_weights` changes them by name: `damage_dealt`, `damage_taken`, `stocks_taken`, `stocks_lost`.
    `info["reward_terms"]` holds each term unweighted.

    ## Starting State
    Every reset draws a start. `starts="spawn"`: both fighters stand where the stage's entry leaves them, four stocks,
    frame 0, free to act; characters and stage are drawn from those given. A dataset (folder or `Dataset`): any frame of
    its games, with the past that the model remembers, in games with the characters and stages given (default: all). A
    `wm_runtime.starts.Start` or a `Snapshot` of `env.unwrapped.simulator.save()`: one of its matches.

    ## Episode End
    Terminated when a side has no stocks left: nothing is to come. Truncated, so that a value may be bootstrapped from the
    last observation, with the reason in `info["truncated_by"]`:
    - after eight minutes of game time, or `time_limit` frames of the episode;
    - when `info["model"]["uncertainty"]` exceeds `max_uncertainty`: agents must not farm the model's mistakes;
    - when a model predicts a number that is not finite. The match is left at the frame before.

    A match that has ended must be reset: `step` raises `gymnasium.error.ResetNeeded`.

    ## Information
    | key | |
    |---|---|
    | `frame`, `stocks`, `percent` | of the present frame; pairs are (agent, opponent) |
    | `reward_terms` | after a step |
    | `model` | `action_entropy`: of both fighters' predicted actions, nats · `disagreement`, with an ensemble: how far its members' next positions lie apart (standard deviation, units, mean over both fighters) · `uncertainty`: the disagreement, or without an ensemble the larger entropy |
    | `truncated_by` | where truncated: the reason |

    ## Arguments
    | name | default | |
    |---|---|---|
    | `characters` | `("FOX", "FALCO")` | of player 1 and 2; each a name or a list to draw from |
    | `stage` | `"FINAL_DESTINATION"` | a name or a list to draw from |
    | `model` | the default model that ships | name or artifact file |
    | `opponent` | `"neutral"` | `neutral`, `random`, `attacker` (a script), `policy` (a learned player), a policy's .onnx file, `replay`, an `Opponent`; a callable, observations (N, …) as player 2 sees them → actions (N, …), for self-play; or a list of these, of which each match draws one |
    | `replay` | None | .slp or .mwr file for the opponent `replay`, or a list to draw from |
    | `starts` | `"spawn"` | see Starting State |
    | `action_space`, `observation` | `"multidiscrete"`, `"flat"` | see there |
    | `reward_weights` | see Rewards | those given replace the default ones |
    | `frame_skip` | 1 | frames that an action is held |
    | `reaction_delay` | 0 | 0 … 30 frames after which the agent sees what happened; its own `controller` it knows at once |
    | `time_limit` | None | frames of an episode |
    | `ensemble` | `()` | 1 to 4 further models that predict the same steps; `model` decides what happens |
    | `max_uncertainty` | None | see Episode End |
    | `domain` | 1.5 | warns of characters whose RC@20 in the model card is above this many times the model's average, or who were not measured; None for silence |
    | `device`, `threads` | `"cpu"`, 1 | of the engine |
    | `engine` | `"onnx"` | what steps the model: `onnx` (onnxruntime), `torch`, or `compiled` (C++ for this machine, the fastest on its processor; needs a C++ compiler) |
    | `precision` | `"float32"` | of the network's products; the engine `compiled` has `bf16` and `int8`, `torch` `bf16` and `float16`, both `auto` |

    `wm_envs.opponents.Policy(delay=18)` is a learned opponent that reacts 18 frames late. Bad arguments raise `UserError`,
    actions outside the space `ValueError`, each with one line that says what to do.

    ## Vectorized environment
    `gymnasium.make_vec("MeleeWorldModel-v0", num_envs=N)`: see `wm_envs.vector.MeleeVectorEnv`. This class is N = 1.
    """  # noqa: E501

    metadata: ClassVar[dict[str, Any]] = {  # type: ignore[misc]
        "render_modes": list(RENDER_MODES),
        "render_fps": 60,
    }

    def __init__(self, render_mode: str | None = None, **arguments: Any):
        self._batch = MeleeVectorEnv(1, AutoresetMode.DISABLED, render_mode=render_mode, **arguments)
        self.render_mode = render_mode
        self.action_space = self._batch.single_action_space
        self.observation_space = self._batch.single_observation_space

    @property
    def simulator(self) -> Simulator:
        return self._batch.simulator

    @property
    def controllers(self) -> np.ndarray:
        """(1, 2, 13) float32 that produced the present frame."""
        return self._batch.controllers

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        observations, infos = self._batch.reset(seed=seed, options=options)
        return one(observations), of_match(infos, 0)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if not self.action_space.contains(action):
            raise ValueError(refusal(action, self.action_space))
        actions = {k: np.asarray(v)[None] for k, v in action.items()} if isinstance(action, dict) else [action]
        observations, rewards, terminated, truncated, infos = self._batch.step(actions)
        return one(observations), float(rewards[0]), bool(terminated[0]), bool(truncated[0]), of_match(infos, 0)

    def render(self) -> np.ndarray | None:
        """(H, W, 3) uint8 in `rgb_array`; in `human` the window is brought up to date."""
        pictures = self._batch.render()
        return None if pictures is None else pictures[0]

    def close(self) -> None:
        self._batch.close()


def one(observations: Any) -> Any:
    """The observation of a batch of one."""
    return {k: v[0] for k, v in observations.items()} if isinstance(observations, dict) else observations[0]
