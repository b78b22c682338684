"""`MeleeWorldModel-v0`, N matches: what gymnasium.make_vec makes, and what every other form is made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space, iterate

from wm_envs.matches import Matches, Outcome, Settings
from wm_envs.opponents import SelfPlay, Which, opponent
from wm_envs.rewards import total
from wm_envs.screen import RENDER_MODES, Screen
from wm_runtime.errors import UserError
from wm_runtime.simulator import Simulator

AGENT, OPPONENT = 0, 1
"""Players of the agent and of its opponent."""


class MeleeVectorEnv(VectorEnv):
    """N matches as one batch; `MeleeEnv` is the specification of each, and of the arguments.

    ## Vectorized environment
    `gymnasium.make_vec("MeleeWorldModel-v0", num_envs=N)`. First axis of everything is the match; opponents, starts and
    rewards are computed for all matches at once. `info` follows Gymnasium: arrays, and a mask `_name` beside each
    `name`.

    `autoreset_mode` (a `gymnasium.vector.AutoresetMode` or its value; it is in `metadata["autoreset_mode"]`) says what
    happens to a match that has ended:
    - `NextStep` (default): the next `step` begins it anew, whatever its action; reward 0, not ended.
    - `SameStep`: the same `step` begins it anew; `info["final_obs"]` (an object array, None where nothing ended) and
      `info["final_info"]` are what it ended with.
    - `Disabled`: `reset(options={"reset_mask": mask})` begins it anew; stepping it before raises ResetNeeded.

    Every reset draws a fresh start. `reset(seed=n)` seeds the generator from which everything is drawn for all matches:
    the same seed, calls and actions give the same play, bit for bit, on the same machine with the same versions.
    `render()` gives a tuple of N pictures; `human` shows the first match.
    """

    metadata: ClassVar[dict[str, Any]] = {  # type: ignore[misc]
        "render_modes": list(RENDER_MODES),
        "render_fps": 60,
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }

    def __init__(
        self,
        num_envs: int = 1,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        opponent: Which = "neutral",
        replay: str | Path | Sequence[str | Path] | None = None,
        render_mode: str | None = None,
        **settings: Any,
    ):
        try:
            self._mode = AutoresetMode(autoreset_mode)
        except ValueError:
            modes = ", ".join(mode.value for mode in AutoresetMode)
            raise UserError(f"autoreset_mode {autoreset_mode!r}: choose one of {modes}") from None
        self._screen = Screen(render_mode)
        self.num_envs = num_envs
        self.matches = Matches(num_envs, Settings.of(settings))
        self.metadata = {**self.metadata, "autoreset_mode": self._mode}  # type: ignore[misc]
        self.render_mode = render_mode
        self.single_action_space = self.matches.actions.space
        self.single_observation_space = self.matches.observations.space
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self._first_frame = True
        self._opponent = _opponent(opponent, replay, self._self_play)
        self._ended = np.zeros(num_envs, bool)
        self._begun = False

    @property
    def simulator(self) -> Simulator:
        return self.matches.simulator

    @property
    def controllers(self) -> np.ndarray:
        """(N, 2, 13) float32 that produced the present frame."""
        return self.matches.controllers

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begins all matches, or those of `options["reset_mask"]` (N,) bool, anew. Returns observations of all."""
        mask = self._reset_mask(options or {})
        if seed is not None:
            super().reset(seed=seed)
            self.matches.starts.forget()
        self._reset(mask)
        self._begun = True
        self._screen.stepped(self.matches)
        return self.matches.observe(AGENT), masked(self.matches.describe(), mask)

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """One step of every match."""
        if not self._begun or (self._mode is AutoresetMode.DISABLED and self._ended.any()):
            which = np.flatnonzero(self._ended).tolist() if self._begun else "all"
            raise ResetNeeded(f"matches {which} have not begun, or have ended: reset them before the next step")
        actions = self.matches.actions.checked(actions, self.action_space)
        due = self._ended
        outcome = self.matches.step(partial(self._press, actions), due)
        rewards = total(outcome.terms(AGENT), self.matches.weights)
        fresh = due
        if self._mode is AutoresetMode.NEXT_STEP and due.any():
            self._reset(due)
        self._ended = outcome.ended
        infos: dict[str, Any] = {}
        if self._mode is AutoresetMode.SAME_STEP and self._ended.any():
            fresh = self._ended
            infos = self._final(fresh, outcome)
            self._reset(fresh)
            self._ended = np.zeros(self.num_envs, bool)
        infos |= masked(self.matches.describe(), np.ones(self.num_envs, bool)) | self._of_step(outcome, ~fresh)
        self._screen.stepped(self.matches)
        return self.matches.observe(AGENT), rewards, outcome.terminated, outcome.truncated, infos

    def render(self) -> tuple[np.ndarray, ...] | None:
        """N pictures (H, W, 3) uint8 in `rgb_array`; in `human` the window is brought up to date."""
        return self._screen.draw(self.matches)

    def close_extras(self, **kwargs: Any) -> None:
        self._screen.close()

    def _press(self, actions: Any, frame: int) -> None:
        """Both players' controllers for a frame of the step."""
        self._first_frame = frame == 0
        self._opponent.act(self.matches.state, self.controllers[:, OPPONENT])
        if self._first_frame:
            self.matches.actions.controllers(actions, self.controllers[:, AGENT])

    def _self_play(self, choose: Callable[[Any], Any]) -> SelfPlay:
        observe = partial(self.matches.observe, OPPONENT)
        return SelfPlay(choose, observe, self.matches.actions, lambda: self._first_frame)

    def _reset(self, mask: np.ndarray) -> None:
        self.matches.reset(mask, self.np_random)
        self._opponent.reset(mask, self.np_random)
        self._ended = self._ended & ~mask

    def _reset_mask(self, options: dict[str, Any]) -> np.ndarray:
        unknown = sorted(set(options) - {"reset_mask"})
        if unknown:
            raise ValueError(f"unknown options {unknown}: `reset_mask` is the only one")
        everything = np.ones(self.num_envs, bool)
        mask = options.get("reset_mask", everything)
        if not isinstance(mask, np.ndarray) or mask.dtype != bool or mask.shape != everything.shape or not mask.any():
            raise ValueError(f"reset_mask: give a bool array of shape {everything.shape}, true somewhere; got {mask!r}")
        if not self._begun and not mask.all():
            raise ResetNeeded("no match has begun yet: the first reset is of all, without a reset_mask")
        return mask

    def _of_step(self, outcome: Outcome, mask: np.ndarray) -> dict[str, Any]:
        """What `info` says of a step, for the matches of `mask`."""
        said = masked({"reward_terms": outcome.terms(AGENT)}, mask) if mask.any() else {}
        cut = outcome.truncated & mask
        return said | masked({"truncated_by": outcome.reason}, cut) if cut.any() else said

    def _final(self, ended: np.ndarray, outcome: Outcome) -> dict[str, Any]:
        """`final_obs` and `final_info` of the matches that have ended."""
        rows = np.flatnonzero(ended)
        final_obs = np.full(self.num_envs, None, object)
        seen = iterate(batch_space(self.single_observation_space, len(rows)), self.matches.observe(AGENT, rows))
        for row, observation in zip(rows, seen, strict=True):
            final_obs[row] = observation
        final_info = masked(self.matches.describe(), ended) | self._of_step(outcome, ended)
        return {"final_obs": final_obs, "_final_obs": ended, "final_info": final_info, "_final_info": ended}


_opponent = opponent
"""The function, under a name that the argument of the same name does not hide."""


def masked(values: dict[str, Any], mask: np.ndarray) -> dict[str, Any]:
    """An info with its masks: `_name` (N,) bool beside every `name`, in dicts within it as well."""
    out: dict[str, Any] = {}
    for name, value in values.items():
        out[name] = masked(value, mask) if isinstance(value, dict) else value
        out[f"_{name}"] = mask.copy()
    return out


def of_match(infos: dict[str, Any], match: int) -> dict[str, Any]:
    """The info of one match: plain numbers and tuples."""
    out: dict[str, Any] = {}
    for name, value in infos.items():
        if name.startswith("_") or not infos[f"_{name}"][match]:
            continue
        if isinstance(value, dict):
            out[name] = of_match(value, match)
        elif value.ndim == 1:
            out[name] = value[match].item() if value.dtype != object else value[match]
        else:
            out[name] = tuple(value[match].tolist())
    return out
