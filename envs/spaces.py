"""Action and observation spaces: small functions over batched arrays, shared by every form of the environment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from wm_runtime.facts import FAMILIES, STAGES, action_family
from wm_runtime.schema import (
    AXES,
    BUTTONS,
    C_,
    CONTROL_NAMES,
    CONTROLS,
    F_,
    FIELD,
    FLOAT_FIELDS,
    I_,
    INT_FIELDS,
    MATCH_FIELDS,
    MATCH_FRAMES,
    PLAYERS,
    VELOCITIES,
    State,
)

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

    def checked(self, actions: Any, batched: spaces.Space) -> Any:
        """N actions as arrays; `batched` is N of the space. Raises ValueError with the first one that is outside."""
        if isinstance(actions, dict):
            actions = {name: np.asarray(value) for name, value in actions.items()}
        else:
            actions = np.asarray(actions)
        if batched.contains(actions):
            return actions
        found, wanted = _shapes(actions), _shapes(batched.sample())
        if found != wanted:
            raise ValueError(f"actions of shape {found}: give {wanted}, as many actions of {self.space} as matches")
        for n in range(len(next(iter(actions.values())) if isinstance(actions, dict) else actions)):
            action = {name: value[n] for name, value in actions.items()} if isinstance(actions, dict) else actions[n]
            if not self.space.contains(action):
                raise ValueError(f"match {n}: {refusal(action, self.space)}")
        raise ValueError(refusal(actions, self.space))


def refusal(action: Any, space: spaces.Space) -> str:
    """The line that says what is wrong with an action outside a space."""
    parts = action.values() if isinstance(action, dict) else [action]
    kinds = ", ".join(str(np.asarray(part).dtype) for part in parts)
    return f"{action!r} ({kinds}) is not in the action space {space}"


def _shapes(actions: Any) -> Any:
    if isinstance(actions, dict):
        return {name: value.shape for name, value in sorted(actions.items())}
    return actions.shape


def _held(columns: tuple[str, ...], rows: np.ndarray) -> np.ndarray:
    """What choices (K, columns) of some controls hold of all, (K, 13) float32."""
    out = np.zeros((len(rows), len(CONTROL_NAMES)), np.float32)
    out[:, [C_[name] for name in columns]] = rows
    return out


_DIGITAL = np.array([0, 0, 1], np.float32)
STICK_ROWS = (
    _held(("main_x", "main_y"), MAIN_STICK), _held(("c_x", "c_y"), C_STICK),
    _held(("shoulder", "l"), np.stack([SHOULDER, _DIGITAL], axis=1)),
)  # fmt: skip
"""Of the multidiscrete main stick, C-stick and shoulder: what each choice holds of a controller, (choices, 13)."""
BUTTON_ROWS = _held(MULTIDISCRETE_BUTTONS, np.eye(len(MULTIDISCRETE_BUTTONS)))
"""The same of each of its buttons, (4, 13)."""


def _from_multidiscrete(actions: np.ndarray, out: np.ndarray) -> None:
    """(N, 7): main stick, C-stick, shoulder, then A, B, X, Z."""
    np.matmul(actions[:, len(STICK_ROWS) :].astype(np.float32), BUTTON_ROWS, out=out)
    for i, pads in enumerate(STICK_ROWS):
        out += pads[actions[:, i]]


def _from_controller(actions: dict[str, np.ndarray], out: np.ndarray) -> None:
    """{"axes": (N, 5) float32, "buttons": (N, 8)}; axes are set to the game's own grid."""
    grid = np.array([c.grid for c in CONTROLS if not c.bit], np.float32)
    out[:, : len(AXES)] = np.rint(actions["axes"] * grid) / grid
    out[:, len(AXES) :] = actions["buttons"]


def _press(main: tuple[float, float] = (0, 0), *buttons: str, c: tuple[float, float] = (0, 0), shoulder: float = 0):
    """One controller (13,) float32: sticks in −1 … 1, set to the grid."""
    out = np.zeros(len(CONTROL_NAMES), np.float32)
    sticks = np.rint(np.array([*main, *c]) * _GRID) / _GRID
    out[[C_[axis] for axis in ("main_x", "main_y", "c_x", "c_y")]] = sticks
    out[C_["shoulder"]] = shoulder
    out[[C_[name] for name in buttons]] = 1
    return out


_WAYS = {"right": (1, 0), "up": (0, 1), "left": (-1, 0), "down": (0, -1)}
_SLANTS = {"up_right": (0.7, 0.7), "up_left": (-0.7, 0.7), "down_left": (-0.7, -0.7), "down_right": (0.7, -0.7)}
_DODGE = {"down_left": (-0.95, -0.2875), "down_right": (0.95, -0.2875)}
"""The angle of a long wavedash."""
DISCRETE: dict[str, np.ndarray] = {
    "nothing": _press(),
    **{f"stick_{way}": _press(to) for way, to in {**_WAYS, **_SLANTS}.items()},
    **{f"walk_{way}": _press((0.5 * _WAYS[way][0], 0)) for way in ("right", "left")},
    "a": _press((0, 0), "a"),
    **{f"tilt_{way}": _press((0.5 * x, 0.5 * y), "a") for way, (x, y) in _WAYS.items()},
    **{f"c_{way}": _press(c=to) for way, to in _WAYS.items()},
    "b": _press((0, 0), "b"),
    **{f"b_{way}": _press(to, "b") for way, to in _WAYS.items()},
    **{f"b_{way}": _press(to, "b") for way, to in _SLANTS.items() if way.startswith("up")},
    "jump": _press((0, 0), "x_button"),
    **{f"jump_{way}": _press(_WAYS[way], "x_button") for way in ("right", "left")},
    "grab": _press((0, 0), "z"),
    "shield": _press((0, 0), "l", shoulder=1),
    **{f"shield_{way}": _press(to, "l", shoulder=1) for way, to in {**_WAYS, **_DODGE}.items()},
    "light_shield": _press(shoulder=SHOULDER[1]),
}
"""The `discrete` space: name → controller (13,). `stick_*` dash, crouch and drift, `c_*` are smashes on the ground and
aerials off it, `shield_*` roll, dodge and, right after a jump, wavedash."""
_DISCRETE = np.stack(list(DISCRETE.values()))


def _from_discrete(actions: np.ndarray, out: np.ndarray) -> None:
    """(N,): rows of DISCRETE."""
    out[:] = _DISCRETE[actions]


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
    "discrete": lambda: ActionSpace(spaces.Discrete(len(DISCRETE)), _from_discrete),
}  # fmt: skip
"""Name → the action space; for a single environment, one action without the axis N."""

assert CONTROL_NAMES[: len(AXES)] == AXES

OBSERVATION_LIMIT = 5.0
FLOAT_SCALES = {
    "x": 0.01, "y": 0.01, "percent": 0.01, "shield": 1 / 60, "state_age": 0.02, "hitlag": 0.1,
    **dict.fromkeys(VELOCITIES, 0.25),
}  # fmt: skip
_INT_SCALES = {"facing": 1.0, "airborne": 1.0, "stocks": 0.25, "jumps": 1 / 6}
ONE_HOT = ("hurtbox", "l_cancel")
_FAMILY_NAMES = tuple(FAMILIES)
_FAMILY = np.array([_FAMILY_NAMES.index(action_family(a)) for a in range(FIELD["action"].classes or 0)])

FLOAT_COLUMNS = np.array([F_[name] for name in FLOAT_SCALES])
FLOAT_SCALE = np.array(list(FLOAT_SCALES.values()), np.float32)
INT_COLUMNS = np.array([I_[name] for name in _INT_SCALES])
INT_SCALE = np.array(list(_INT_SCALES.values()), np.float32)
ONE_HOT_ROWS = {name: np.eye(FIELD[name].classes or 0, dtype=np.float32) for name in (*ONE_HOT, "character")}
FAMILY_ROWS = np.eye(len(_FAMILY_NAMES), dtype=np.float32)[_FAMILY]
STAGE_ROWS = np.zeros((max(s.id for s in STAGES) + 1, len(STAGES)), np.float32)
STAGE_ROWS[[s.id for s in STAGES], np.arange(len(STAGES))] = 1

PLAYER_NUMBERS: tuple[str, ...] = (
    *FLOAT_SCALES, *_INT_SCALES, *(f"{name}.{i}" for name in ONE_HOT for i in range(FIELD[name].classes or 0)),
)  # fmt: skip
"""What `self` and `opponent` of a dict observation hold; position in 100 units, percent in 100, velocity in 4 units a
frame, state_age in 50 frames."""
MATCH_NUMBERS: tuple[str, ...] = ("time", "dx", "dy", *(f"stage.{s.name}" for s in STAGES))
"""What `match` holds: share of the timer that has passed, opponent − self in 100 units, which stage."""
_CHARACTERS, _ACTIONS = FIELD["character"].classes or 0, FIELD["action"].classes or 0


def observation_names() -> tuple[str, ...]:
    """What each number of a flat observation is: `self.`, `opponent.`, `match.` and `controller.` entries in order."""
    player = [*PLAYER_NUMBERS, *(f"character.{i}" for i in range(_CHARACTERS))]
    player += [f"action.{name}" for name in _FAMILY_NAMES]
    parts = {"self": player, "opponent": player, "match": MATCH_NUMBERS, "controller": CONTROL_NAMES}
    return tuple(f"{part}.{name}" for part, names in parts.items() for name in names)


FLAT_SIZE = len(observation_names())


@dataclass(frozen=True)
class ObservationSpace:
    """A space of one agent's observations and `observe(state, controllers, player)`, N of them as `player` (0 or 1)
    sees the match: itself first, then the opponent, whose controller is hidden. `controllers`: its own (N, 13)."""

    space: spaces.Space
    observe: Callable[[State, np.ndarray, int], Any]


def observe_flat(state: State, controllers: np.ndarray, player: int) -> np.ndarray:
    """(N, D) float32, D numbers as in observation_names."""
    out = np.empty((len(state), FLAT_SIZE), np.float32)
    numbers, characters = len(PLAYER_NUMBERS), len(PLAYER_NUMBERS) + _CHARACTERS
    ends = PLAYERS * (characters + len(_FAMILY_NAMES))
    players = out[:, :ends].reshape(len(state), PLAYERS, -1)  # a view
    floats, ints = _as_seen(state, player)
    _write_players(floats, ints, players[..., :numbers])
    players[..., numbers:characters] = np.take(ONE_HOT_ROWS["character"], ints[..., I_["character"]], axis=0)
    players[..., characters:] = np.take(FAMILY_ROWS, ints[..., I_["action"]], axis=0)
    _write_match(state, player, out[:, ends : ends + len(MATCH_NUMBERS)])
    out[:, ends + len(MATCH_NUMBERS) :] = controllers
    return out


def observe_dict(state: State, controllers: np.ndarray, player: int) -> dict[str, np.ndarray]:
    """The same numbers by part, action states and characters as ids (N, 2) int64."""
    order = [player, 1 - player]
    numbers = np.empty((PLAYERS, len(state), len(PLAYER_NUMBERS)), np.float32)
    _write_players(*_as_seen(state, player), numbers.swapaxes(0, 1))
    out = dict(zip(("self", "opponent"), numbers, strict=True))
    out["match"] = np.empty((len(state), len(MATCH_NUMBERS)), np.float32)
    _write_match(state, player, out["match"])
    ids = {name: state[name][:, order].astype(np.int64) for name in ("action", "character")}
    return {**out, **ids, "controller": np.array(controllers)}


def observe_state(state: State, controllers: np.ndarray, player: int) -> dict[str, np.ndarray]:
    """Raw game values: copies of the state's arrays, the player first, and its own controller."""
    order = [player, 1 - player]
    return {
        "floats": state.floats[:, order],
        "ints": state.ints[:, order],
        "match": state.match.copy(),
        "controller": np.array(controllers),
    }


def _as_seen(state: State, player: int) -> tuple[np.ndarray, np.ndarray]:
    """Floats and ints (N, 2, …), the player first: views."""
    step = -1 if player else 1
    return state.floats[:, ::step], state.ints[:, ::step]


def _write_players(floats: np.ndarray, ints: np.ndarray, out: np.ndarray) -> None:
    """PLAYER_NUMBERS of both players of N matches, into (N, 2, numbers)."""
    at, to = len(FLOAT_COLUMNS), len(FLOAT_COLUMNS) + len(INT_COLUMNS)
    numbers = np.take(floats, FLOAT_COLUMNS, axis=2, mode="clip")
    numbers *= FLOAT_SCALE
    _limited(numbers)
    out[..., :at] = numbers
    counts = np.take(ints, INT_COLUMNS, axis=2, mode="clip").astype(np.float32)
    counts *= INT_SCALE
    out[..., at:to] = counts
    for name in ONE_HOT:
        at, to = to, to + len(ONE_HOT_ROWS[name])
        out[..., at:to] = np.take(ONE_HOT_ROWS[name], ints[..., I_[name]], axis=0)


def _limited(numbers: np.ndarray) -> None:
    """Brings numbers within OBSERVATION_LIMIT, in place."""
    numbers.clip(-OBSERVATION_LIMIT, OBSERVATION_LIMIT, out=numbers)


def _write_match(state: State, player: int, out: np.ndarray) -> None:
    """MATCH_NUMBERS of N matches."""
    out[:, 0] = state["frame"] / MATCH_FRAMES
    for column, axis in enumerate(("x", "y"), start=1):
        place = state[axis]
        out[:, column] = (place[:, 1 - player] - place[:, player]) * FLOAT_SCALES[axis]
    _limited(out[:, :3])
    out[:, 3:] = STAGE_ROWS[state["stage"]]


def _box(*shape: int) -> spaces.Box:
    return spaces.Box(-OBSERVATION_LIMIT, OBSERVATION_LIMIT, shape, np.float32)


def _any(shape: tuple[int, ...], dtype: type[np.float32] | type[np.int32]) -> spaces.Box:
    """Any number of a type that a state can hold."""
    limits: Any = np.finfo(dtype) if issubclass(dtype, np.floating) else np.iinfo(dtype)
    return spaces.Box(limits.min, limits.max, shape, dtype)


OBSERVATION_SPACES: dict[str, Callable[[], ObservationSpace]] = {
    "flat": lambda: ObservationSpace(_box(FLAT_SIZE), observe_flat),
    "dict": lambda: ObservationSpace(
        spaces.Dict({
            "self": _box(len(PLAYER_NUMBERS)), "opponent": _box(len(PLAYER_NUMBERS)), "match": _box(len(MATCH_NUMBERS)),
            "action": spaces.MultiDiscrete([_ACTIONS] * PLAYERS),
            "character": spaces.MultiDiscrete([_CHARACTERS] * PLAYERS),
            "controller": _box(len(CONTROL_NAMES)),
        }),
        observe_dict,
    ),
    "state": lambda: ObservationSpace(
        spaces.Dict({
            "floats": _any((PLAYERS, len(FLOAT_FIELDS)), np.float32),
            "ints": _any((PLAYERS, len(INT_FIELDS)), np.int32),
            "match": _any((len(MATCH_FIELDS),), np.int32),
            "controller": _box(len(CONTROL_NAMES)),
        }),
        observe_state,
    ),
}  # fmt: skip
"""Name → the observation space; for a single environment, one observation without the axis N."""
