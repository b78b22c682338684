"""Action and observation spaces: small functions over batched arrays, shared by every form of the environment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from wm_runtime.facts import FAMILIES, STAGES, action_family
from wm_runtime.schema import AXES, BUTTONS, C_, CONTROL_NAMES, CONTROLS, FIELD, MATCH_FRAMES, VELOCITIES, State

_GRID = 80
_FULL = [(80, 0), (56, 56), (0, 80), (-56, 56), (-80, 0), (-56, -56), (0, -80), (56, -56)]
MAIN_STICK = np.array([(0, 0), *_FULL, *((x // 2, y // 2) for x, y in _FULL)], np.float32) / _GRID
"""The 17 positions of the main stick: centre, eight directions at full tilt, the same at half tilt."""
C_STICK = np.array([(0, 0), (80, 0), (0, 80), (-80, 0), (0, -80)], np.float32) / _GRID
SHOULDER = np.array([0, 49, 140], np.float32) / 140
"""Nothing, a light press, a full press (with the digital button)."""
MULTIDISCRETE_BUTTONS = ("a", "b", "x_button", "z")


@dataclass(frozen=True)
class ActionSpace:
    """A space of one agent's actions and `controllers(actions, out)`, which writes N of them into (N, 13) float32."""

    space: spaces.Space
    controllers: Callable[[Any, np.ndarray], None]


def _from_multidiscrete(actions: np.ndarray, out: np.ndarray) -> None:
    """(N, 7): main stick, C-stick, shoulder, then A, B, X, Z."""
    out[:] = 0
    out[:, [C_["main_x"], C_["main_y"]]] = MAIN_STICK[actions[:, 0]]
    out[:, [C_["c_x"], C_["c_y"]]] = C_STICK[actions[:, 1]]
    out[:, C_["shoulder"]] = SHOULDER[actions[:, 2]]
    out[:, C_["l"]] = actions[:, 2] == len(SHOULDER) - 1
    for i, name in enumerate(MULTIDISCRETE_BUTTONS):
        out[:, C_[name]] = actions[:, 3 + i]


def _from_controller(actions: dict[str, np.ndarray], out: np.ndarray) -> None:
    """{"axes": (N, 5) float32, "buttons": (N, 8)}; axes are set to the game's own grid."""
    grid = np.array([c.grid for c in CONTROLS if not c.bit], np.float32)
    out[:, : len(AXES)] = np.rint(actions["axes"] * grid) / grid
    out[:, len(AXES) :] = actions["buttons"]


_AXES_LOW = np.array([c.low for c in CONTROLS if not c.bit], np.float32)
ACTION_SPACES: dict[str, Callable[[], ActionSpace]] = {
    "multidiscrete": lambda: ActionSpace(
        spaces.MultiDiscrete([len(MAIN_STICK), len(C_STICK), len(SHOULDER), *[2] * len(MULTIDISCRETE_BUTTONS)]),
        _from_multidiscrete,
    ),
    "controller": lambda: ActionSpace(
        spaces.Dict({
            "axes": spaces.Box(_AXES_LOW, np.ones_like(_AXES_LOW)),
            "buttons": spaces.MultiBinary(len(BUTTONS)),
        }),
        _from_controller,
    ),
}  # fmt: skip
"""Name → the action space; for a single environment, one action without the axis N."""

assert CONTROL_NAMES[: len(AXES)] == AXES

OBSERVATION_LIMIT = 5.0
_FLOAT_SCALES = {
    "x": 0.01, "y": 0.01, "percent": 0.01, "shield": 1 / 60, "state_age": 0.02, "hitlag": 0.1,
    **dict.fromkeys(VELOCITIES, 0.25), "facing": 1.0, "airborne": 1.0, "stocks": 0.25, "jumps": 1 / 6,
}  # fmt: skip
_ONE_HOT = ("hurtbox", "l_cancel", "character")
_FAMILY_NAMES = tuple(FAMILIES)
_FAMILY = np.array([_FAMILY_NAMES.index(action_family(a)) for a in range(FIELD["action"].classes or 0)])
_STAGE_IDS = np.array([s.id for s in STAGES])


def observation_names() -> tuple[str, ...]:
    """What each number of an observation is: `self.`, `opponent.` and `match.` entries in their order."""
    player = [*_FLOAT_SCALES]
    player += [f"{name}.{i}" for name in _ONE_HOT for i in range(FIELD[name].classes or 0)]
    player += [f"action.{name}" for name in _FAMILY_NAMES]
    match = ["time", "dx", "dy", *(f"stage.{s.name}" for s in STAGES)]
    return tuple(f"{who}.{n}" for who in ("self", "opponent") for n in player) + tuple(f"match.{n}" for n in match)


def observation_space() -> spaces.Box:
    """A flat box of the numbers named by observation_names."""
    return spaces.Box(-OBSERVATION_LIMIT, OBSERVATION_LIMIT, (len(observation_names()),), np.float32)


def observe(state: State, player: int) -> np.ndarray:
    """Observations (N, D) float32 of `player` (0 or 1): itself first, then the opponent, whose controller is hidden."""
    parts = []
    for who in (player, 1 - player):
        parts += [(state[name][:, who] * scale)[:, None] for name, scale in _FLOAT_SCALES.items()]
        parts += [np.eye(FIELD[name].classes or 0)[state[name][:, who]] for name in _ONE_HOT]
        parts.append(np.eye(len(_FAMILY_NAMES))[_FAMILY[state["action"][:, who]]])
    for axis in ("x", "y"):
        parts.append((state[axis][:, 1 - player] - state[axis][:, player])[:, None] * _FLOAT_SCALES[axis])
    parts.insert(-2, (state["frame"] / MATCH_FRAMES)[:, None])
    parts.append(state["stage"][:, None] == _STAGE_IDS)
    flat = np.concatenate(parts, axis=1, dtype=np.float32, casting="unsafe")
    return np.clip(flat, -OBSERVATION_LIMIT, OBSERVATION_LIMIT, out=flat)
