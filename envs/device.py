"""`MeleeWorldModel-v0`, N matches that never leave an accelerator: observations and rewards are tensors there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor

from wm_envs import spaces
from wm_envs.matches import NOT_FINITE, TIME, Settings, warn_outside_domain
from wm_envs.rewards import WEIGHTS, reward_terms
from wm_envs.starts import make_starts
from wm_envs.vector import AGENT, OPPONENT
from wm_runtime.engines.torch import Matches, TorchEngine
from wm_runtime.errors import UserError
from wm_runtime.schema import CONTROL_NAMES, F_, I_, M_, MATCH_FRAMES, PLAYERS
from wm_runtime.simulator import Simulator

UNSUPPORTED: Mapping[str, object] = {
    "action_space": "multidiscrete", "observation": "flat", "frame_skip": 1, "reaction_delay": 0, "ensemble": (),
    "max_uncertainty": None, "engine": "torch", "threads": 0,
}  # fmt: skip
"""Arguments of MeleeEnv that this form has at one value only."""


class MeleeDeviceEnv(VectorEnv):
    """N matches as tensors on a device; `MeleeEnv` is the specification of each.

    | call | what it gives, tensors on the device |
    |---|---|
    | `reset(seed=…)` | observations (N, D) float32, info |
    | `step(actions)` | of (N, 7) int64: observations, rewards (N,) float32, terminated and truncated (N,) bool, info |

    Actions are those of `multidiscrete`, observations the `flat` ones, autoreset is that of `NextStep`: the next `step`
    begins a match anew that has ended, whatever its action; reward 0, not ended. Nothing waits for the device, so that
    actions are not checked: an index out of range is an error of torch's.

    `opponent`: None, which touches nothing; or a callable, observations (N, D) as player 2 sees them → actions (N, 7),
    both on the device: self-play. `pool` starts are drawn when all begin, and every match that begins takes one of
    them at random; `refill()` draws others. `compiled`: see `wm_runtime.engines.torch.TorchEngine`; the first step
    then takes minutes. `info`: `frame` (N,), `stocks`, `percent`, `action_entropy` (N, 2), `reward_terms` by name and
    `not_finite` (N,) bool, truncated because the model predicted a number that is not finite. Other arguments are
    those of `MeleeEnv`: characters, stage, model, starts, reward_weights, time_limit, domain.

    Raises UserError for an argument that another form of the environment has and this one has not, and for a device
    that torch does not have here.
    """

    metadata: ClassVar[dict[str, Any]] = {"autoreset_mode": AutoresetMode.NEXT_STEP, "render_modes": []}  # type: ignore[misc]

    def __init__(
        self,
        num_envs: int = 1,
        device: str = "cuda",
        opponent: Callable[[Tensor], Tensor] | None = None,
        pool: int = 1024,
        compiled: bool = False,
        **settings: Any,
    ):
        for name, only in UNSUPPORTED.items():
            if settings.pop(name, only) != only:
                raise UserError(f"{name}: matches on a device have {only!r} only; use gymnasium.make_vec for others")
        for name, value in (("num_envs", num_envs), ("pool", pool)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise UserError(f"{name} {value!r}: give a whole number, 1 or more")
        self.settings = Settings.of(settings)
        self._warm = Simulator(self.settings.model, 1)
        self.settings = replace(self.settings, model=self._warm.artifact, device=device)
        self._engine = TorchEngine(self._warm.artifact, device, precision=self.settings.precision, compiled=compiled)
        self.device = self._engine.device
        self.starts = make_starts(self.settings.starts, self.settings.characters, self.settings.stage, [self._warm])
        if self.settings.domain is not None:
            warn_outside_domain(self._warm.artifact, self.starts.characters, self.settings.domain)
        self.weights = {**WEIGHTS, **self.settings.reward_weights}
        self.num_envs, self.pool, self._opponent = num_envs, pool, opponent
        self.single_action_space = spaces.ACTION_SPACES["multidiscrete"]().space
        self.single_observation_space = spaces.OBSERVATION_SPACES["flat"]().space
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self._tables = _Tables(self.device)
        self._random = torch.Generator(self.device)
        self._pool: Matches | None = None
        self.matches: Matches
        """The present frame of all matches: kept, it is a snapshot."""
        self.controllers = torch.zeros(num_envs, PLAYERS, len(CONTROL_NAMES), device=self.device)
        self._frames = torch.zeros(num_envs, dtype=torch.int32, device=self.device)
        self._ended = torch.zeros(num_envs, dtype=torch.bool, device=self.device)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Tensor, dict[str, Any]]:
        """Begins all matches anew."""
        if options:
            raise ValueError(f"options {sorted(options)}: matches on a device have none")
        if seed is not None:
            super().reset(seed=seed)
            self.starts.forget()
        if seed is not None or self._pool is None:
            self._random.manual_seed(int(self.np_random.integers(1 << 62)))
            self.refill()
        self.matches = self._fresh()
        self.controllers.zero_()
        self._frames.zero_()
        self._ended.zero_()
        zero = torch.zeros(self.num_envs, PLAYERS, device=self.device)
        return self.observe(AGENT), self._info(zero)

    def refill(self) -> None:
        """Draws the starts anew that matches begin from."""
        (drawn,) = self.starts.draw(self.pool, self.np_random)
        self._pool = self._engine.put(drawn.state, drawn.carry)

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Any]]:
        """One frame of every match."""
        if self._pool is None:
            raise ResetNeeded("no match has begun yet: reset before the first step")
        due = self._ended
        with torch.no_grad():
            pads = [self._tables.controllers(actions), torch.zeros_like(self.controllers[:, OPPONENT])]
            if self._opponent is not None:
                pads[OPPONENT] = self._tables.controllers(self._opponent(self.observe(OPPONENT)))
            pressed = torch.stack(pads, dim=1) * ~due[:, None, None]
            before = self.matches
            after, aux = self._engine.advance(before, pressed)
            broken = ~torch.isfinite(sum(t.flatten(1).sum(dim=1) for t in _predicted(after))) & ~due  # type: ignore[arg-type]
            after = after.where(broken, before)
            damage, stocks = (lost * ~due[:, None] for lost in _losses(before.state, after.state))
            terms = reward_terms(damage, stocks, AGENT)  # type: ignore[arg-type]
            rewards: Tensor = sum(float(self.weights[name]) * term for name, term in terms.items())  # type: ignore[assignment]
            self._frames = torch.where(due, torch.zeros_like(self._frames), self._frames + 1)
            terminated = (after.state["ints"][..., I_["stocks"]] <= 0).any(dim=1) & ~due & ~broken
            late = after.state["match"][:, M_["frame"]] >= MATCH_FRAMES
            if self.settings.time_limit is not None:
                late = late | (self._frames >= self.settings.time_limit)
            truncated = (broken | late) & ~terminated & ~due
            self.matches = after.where(due, self._fresh())
            self.controllers = pressed
            self._ended = terminated | truncated
            entropy = aux["action_entropy"] * ~due[:, None]
            info = self._info(entropy) | {"reward_terms": terms, "not_finite": broken}
            return self.observe(AGENT), rewards, terminated, truncated, info

    def observe(self, player: int) -> Tensor:
        """(N, D) float32: what a player sees, as `wm_envs.spaces.observe_flat`."""
        return self._tables.observe(self.matches.state, self.controllers[:, player], player)

    def reason(self, info: dict[str, Any], match: int) -> str:
        """Why a match was truncated, of the `info` of that step."""
        return NOT_FINITE if bool(info["not_finite"][match]) else TIME

    def _fresh(self) -> Matches:
        """As many starts of the pool as there are matches."""
        assert self._pool is not None
        rows = torch.randint(self.pool, (self.num_envs,), generator=self._random, device=self.device)
        return self._pool.rows(rows)

    def _info(self, entropy: Tensor) -> dict[str, Any]:
        state = self.matches.state
        return {
            "frame": state["match"][:, M_["frame"]],
            "stocks": state["ints"][..., I_["stocks"]],
            "percent": state["floats"][..., F_["percent"]],
            "action_entropy": entropy,
        }


class _Tables:
    """The tables of wm_envs.spaces on a device."""

    def __init__(self, device: torch.device):
        put: Callable[[np.ndarray], Tensor] = partial(torch.tensor, device=device)
        self.sticks = [put(rows) for rows in spaces.STICK_ROWS]
        self.buttons = put(spaces.BUTTON_ROWS)
        self.floats, self.float_scale = put(spaces.FLOAT_COLUMNS), put(spaces.FLOAT_SCALE)
        self.ints, self.int_scale = put(spaces.INT_COLUMNS), put(spaces.INT_SCALE)
        self.one_hot = {I_[name]: put(spaces.ONE_HOT_ROWS[name]) for name in (*spaces.ONE_HOT, "character")}
        self.families, self.stages = put(spaces.FAMILY_ROWS), put(spaces.STAGE_ROWS)
        self.apart = put(np.array([spaces.FLOAT_SCALES[axis] for axis in ("x", "y")], np.float32))

    def controllers(self, actions: Tensor) -> Tensor:
        """Actions (N, 7) of the multidiscrete space → controllers (N, 13)."""
        held = actions[:, len(self.sticks) :].float() @ self.buttons
        for i, rows in enumerate(self.sticks):
            held = held + rows[actions[:, i]]
        return held

    def observe(self, state: Mapping[str, Tensor], controllers: Tensor, player: int) -> Tensor:
        """As `wm_envs.spaces.observe_flat`, of the arrays of a state by name."""
        floats, ints, match = state["floats"], state["ints"], state["match"]
        if player:
            floats, ints = floats.flip(1), ints.flip(1)
        limit = spaces.OBSERVATION_LIMIT
        parts = [(floats[..., self.floats] * self.float_scale).clamp(-limit, limit)]
        parts.append(ints[..., self.ints].float() * self.int_scale)
        parts += [rows[ints[..., column].long()] for column, rows in self.one_hot.items()]
        parts.append(self.families[ints[..., I_["action"]].long()])
        places = torch.stack([floats[..., F_[axis]] for axis in ("x", "y")], dim=-1)  # a list would be sent each time
        time = match[:, M_["frame"], None] / MATCH_FRAMES
        seen = torch.cat([time, (places[:, 1] - places[:, 0]) * self.apart], dim=1).clamp(-limit, limit)
        stage = self.stages[match[:, M_["stage"]].long()]
        return torch.cat([torch.cat(parts, dim=-1).flatten(1), seen, stage, controllers], dim=1)


def _predicted(matches: Matches) -> list[Tensor]:
    """The tensors in which a number may not be finite."""
    return [t for t in (matches.state["floats"], *matches.carry.values()) if t.is_floating_point()]


def _losses(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """As wm_envs.rewards.losses: damage in percent and stocks, (N, 2) float32 each."""
    percent, stocks = F_["percent"], I_["stocks"]
    damage = (after["floats"][..., percent] - before["floats"][..., percent]).clamp(min=0)
    return damage, (before["ints"][..., stocks] - after["ints"][..., stocks]).clamp(min=0).float()
