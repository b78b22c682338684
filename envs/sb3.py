"""N matches as stable-baselines3 wants them: its own VecEnv, one batch, no wrapper around single environments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode

from wm_envs.vector import MeleeVectorEnv, of_match
from wm_runtime.errors import UserError

try:
    from stable_baselines3.common.vec_env import VecEnv
except ImportError:
    raise UserError("stable-baselines3 is not installed: pip install 'melee-world-model[sb3]'") from None


class MeleeVecEnv(VecEnv):
    """`MeleeVectorEnv` for stable-baselines3; arguments and spaces are those of `MeleeEnv`.

    A match that ends begins anew within the same step. Its info then is that of its last frame, with
    `terminal_observation` and `TimeLimit.truncated` (true where truncated: stable-baselines3 bootstraps there). Matches
    that go on have an empty info; `batch_info` holds everything of the last step as arrays, first axis the match.

    `get_attr`, `set_attr` and `env_method` act on the one batch that all matches are.
    """

    def __init__(self, num_envs: int = 1, **arguments: Any):
        self.batch = MeleeVectorEnv(num_envs, AutoresetMode.SAME_STEP, **arguments)
        self.batch_info: dict[str, Any] = {}
        self._actions: Any = None
        super().__init__(num_envs, self.batch.single_observation_space, self.batch.single_action_space)

    def reset(self) -> Any:
        observations, self.batch_info = self.batch.reset(seed=self._seeds[0])
        self._reset_seeds()
        self._reset_options()
        self.reset_infos = [of_match(self.batch_info, match) for match in range(self.num_envs)]
        return observations

    def step_async(self, actions: Any) -> None:
        self._actions = actions

    def step_wait(self) -> tuple[Any, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        observations, rewards, terminated, truncated, self.batch_info = self.batch.step(self._actions)
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for match in np.flatnonzero(terminated | truncated).tolist():
            infos[match] = of_match(self.batch_info["final_info"], match) | {
                "terminal_observation": self.batch_info["final_obs"][match],
                "TimeLimit.truncated": bool(truncated[match]),
            }
        return observations, rewards, terminated | truncated, infos

    def close(self) -> None:
        self.batch.close()

    def get_images(self) -> Sequence[np.ndarray | None]:
        return self.batch.render() or [None] * self.num_envs

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [getattr(self.batch, attr_name)] * len(list(self._get_indices(indices)))

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        setattr(self.batch, attr_name, value)

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        result = getattr(self.batch, method_name)(*method_args, **method_kwargs)
        return [result] * len(list(self._get_indices(indices)))

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
        return [False] * len(list(self._get_indices(indices)))
