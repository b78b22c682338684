"""Facts of the game: characters, stages, action states. Numbers and their sources live in the json files here.

Units are those of `wm_runtime.schema`: game units, frames of 1/60 s, the ids of Slippi's replays.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, NamedTuple, TypeVar

import numpy as np

from wm_runtime.errors import UserError


@dataclass(frozen=True)
class Character:
    """A fighter. `internal_id` is the `character` of frames; `selection_id` that of a replay's start block, None for
    Nana, who is never selected. `jumps` are those left while standing. `height` in units is rough, for drawing;
    `weight` is what knockback is divided by."""

    name: str
    display: str
    internal_id: int
    selection_id: int | None
    jumps: int
    height: float
    weight: float


class Segment(NamedTuple):
    """A surface's two ends, units."""

    x_left: float
    y_left: float
    x_right: float
    y_right: float


@dataclass(frozen=True)
class Path:
    """The route of a moving platform: every `period` frames it passes `keys`, rows of (frame, x of its left end, y),
    in straight lines between them."""

    period: int
    width: float
    keys: tuple[tuple[float, float, float], ...]

    def at(self, frame: int) -> Segment:
        """Where the platform is in this frame of a match."""
        times, xs, ys = zip(*self.keys, strict=True)
        x = float(np.interp(frame, times, xs, period=self.period))
        y = float(np.interp(frame, times, ys, period=self.period))
        return Segment(x, y, x + self.width, y)


@dataclass(frozen=True)
class Surface:
    """What a fighter can stand on. `id` is the `ground` of frames; `x` and `y` are (left, right), y's differing on
    slopes. A `platform` lets fighters through from below. Of a surface that `moves`, x and y are those of frame 0."""

    id: int
    x: tuple[float, float]
    y: tuple[float, float]
    platform: bool = False
    moves: bool = False
    path: Path | None = None
    """Set where the position follows from the frame number."""

    def at(self, frame: int) -> Segment:
        """Where the surface is in this frame, as far as the frame number tells."""
        return self.path.at(frame) if self.path else Segment(self.x[0], self.y[0], self.x[1], self.y[1])


@dataclass(frozen=True)
class Blast:
    """Beyond these coordinates a fighter dies."""

    left: float
    right: float
    top: float
    bottom: float


@dataclass(frozen=True)
class Standing:
    """A player who has landed from the entry and has not moved: position, `ground`, facing −1 or 1."""

    x: float
    y: float
    ground: int
    facing: int


@dataclass(frozen=True)
class Rebirth:
    """Where a lost stock comes back: `x` of (player 1, player 2), down from `y_from` to `y_platform`."""

    x: tuple[float, float]
    y_from: float
    y_platform: float


@dataclass(frozen=True)
class Stage:
    """A stage by its replay id. Pairs are (player 1, player 2). `edge_hang` and `edge_stand` are |x| of a fighter that
    hangs on the edge and that teeters on it; `entry` is (x, y) at frame −123, `standing` where that leads."""

    id: int
    name: str
    display: str
    surfaces: tuple[Surface, ...]
    edge_hang: float
    edge_stand: float
    blast: Blast
    entry: tuple[tuple[float, float], tuple[float, float]]
    standing: tuple[Standing, Standing]
    facing: tuple[int, int]
    rebirth: Rebirth

    def surface(self, ground: int) -> Surface | None:
        """The surface with this id; None off the table (a transformed Stadium, a fighter that never stood)."""
        return next((s for s in self.surfaces if s.id == ground), None)


def character(name_or_internal_id: str | int) -> Character:
    """A fighter by name, display name or internal id; case and punctuation do not matter. Raises UserError."""
    return _find("character", name_or_internal_id, _CHARACTER_OF, [c.name for c in CHARACTERS])


def stage(name_or_id: str | int) -> Stage:
    """A stage by name, display name or replay id; case and punctuation do not matter. Raises UserError."""
    return _find("stage", name_or_id, _STAGE_OF, [s.name for s in STAGES])


@dataclass(frozen=True)
class Hitboxes:
    """Hitboxes of the moves, one row for each (character, action, whole state_age) on which one is active.

    key: (R, 3) int16, sorted, internal ids · box: (R, 4, 3) float32, x ahead of and y above the attacker's position
    and the radius, units; radius 0 for none. Source: framedata.csv of the PyPI package melee 0.47.6.
    """

    key: np.ndarray
    box: np.ndarray


def hitboxes() -> Hitboxes:
    """Every hitbox that is known; projectiles and throws have none."""
    return Hitboxes(*_arrays("hitboxes.npz", "key", "box"))


@dataclass(frozen=True)
class MoveLengths:
    """How long moves last: attacks, dodges and specials, 1,592 of them.

    key: (M, 2) internal character and action · ends: (M,) state_age of the last frame that is listed ·
    interruptible: (M,) from which on anything else may be done, 0 where nothing is listed. Source: as Hitboxes.
    """

    key: np.ndarray
    ends: np.ndarray
    interruptible: np.ndarray


def move_lengths() -> MoveLengths:
    """Every move whose frames are listed."""
    return MoveLengths(*_arrays("hitboxes.npz", "move", "ends", "interruptible"))


@dataclass(frozen=True)
class Roots:
    """How fast fighters on the ground go in moves whose animation says so. Source: as Hitboxes.

    move: (M, 2) internal character and action · span: (M, 2) the first state_age and the number of ages, which follow
    each other · speed: (R,) ahead at each, units a frame; NaN where it is not listed."""

    move: np.ndarray
    span: np.ndarray
    speed: np.ndarray


def roots() -> Roots:
    """Every such move."""
    return Roots(*_arrays("roots.npz", "move", "span", "speed"))


def physics(name: str) -> np.ndarray:
    """A constant of every character, by internal id, NaN where there is none: friction, gravity, terminal, walk,
    fast_fall, air_speed, air_friction, air_mobility (units a frame), size (units)."""
    table = _load("physics.json")["characters"]
    out = np.full(1 + max(map(int, table)), np.nan, np.float32)
    for internal_id, row in table.items():
        out[int(internal_id)] = row[name]
    return out


@dataclass(frozen=True)
class LaserStart:
    """How a laser leaves Fox or Falco, or a needle Sheik, where the move is at `state_age`, which has reached
    `leaves`: where, units ahead of and above the fighter's place on the frame before, and its velocity ahead and up,
    units a frame."""

    character: int
    action: int
    leaves: float
    state_age: float
    ahead: float
    above: float
    forth: float
    up: float


def laser_starts() -> list[LaserStart]:
    """Every one that is known, by fighter, move and age; of a throw, that age depends on its victim's weight."""
    return [
        LaserStart(character(laser["character"]).internal_id, laser["action"], laser["leaves"], *row)
        for laser in _load("lasers.json")["lasers"]
        for row in laser["rows"]
    ]


def walls() -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Stage id → the sides of its ground, left and right: corners (C, 2) from the top down, how far out from the middle
    of the stage and how high, units."""
    stages = {stage.name: stage.id for stage in STAGES}
    found = {}
    for name, sides in _load("walls.json")["stages"].items():
        left, right = (np.array(sides.get(side) or sides["both"], np.float32) for side in ("left", "right"))
        found[stages[name]] = left, right
    return found


@dataclass(frozen=True)
class Outlines:
    """What of fighters in the air meets walls: diamonds, by move and state_age, or by the way they fly.

    move: (M, 3) internal character and action, 1 where rows go by heading, else 0 · span: (M, 2) the first
    state_age (or tenth of degrees, from −180 on) and the number of rows, which follow each other · row: (R, 4), units:
    how far the side's corner is out where the fighter faces the stage, and where it looks away, the bottom above the
    fighter's place, and the side above the bottom, as far as the top above the side; NaN where nothing is known.
    """

    move: np.ndarray
    span: np.ndarray
    row: np.ndarray


def outlines() -> Outlines:
    """Measured on the games of train, by `python -m wm_train.measure_outlines`."""
    return Outlines(*_arrays("outlines.npz", "move", "span", "row"))


@dataclass(frozen=True)
class Throws:
    """Where fighters are that are thrown. key: (K, 5) thrower, its action, victim (internal ids), 1 where that is let
    go, and the thrower's state_age in hundredths · place: (K, 2) how far the victim is then ahead of and above the
    thrower, units; where it is let go, less its knockback · thrown: (T, 2) thrower and action · launch: (T, 4) how that
    launches: its damage, percent, by how much KB grows, and is greater, and its angle as the thrower faces, degrees."""

    key: np.ndarray
    place: np.ndarray
    thrown: np.ndarray
    launch: np.ndarray


def throws() -> Throws:
    """Measured on the games of train, by `python -m wm_train.measure_throws`."""
    return Throws(*_arrays("throws.npz", "key", "place", "thrown", "launch"))


@dataclass(frozen=True)
class Ends:
    """Where animations end that an action outlasts. key: (E, 2) character (internal id) and action · last: (E,) the
    last state_age · anew: (E,) whether the animation begins anew after it, at 0, or stays there."""

    key: np.ndarray
    last: np.ndarray
    anew: np.ndarray


def ends() -> Ends:
    """Measured on the games of train, by `python -m wm_train.measure_ends`."""
    return Ends(*_arrays("ends.npz", "key", "last", "anew"))


@dataclass(frozen=True)
class Drifts:
    """How far the stick drives fighters in the air. key: (D, 2) character (internal id) and action · share: (D, 5) of
    what its tilt adds to the speed along x elsewhere, of what its side adds, of the speed that it leads to, and of
    friction; the first three are 0 where friction alone acts; and the age from which on this is so · falls: (F, 3)
    character, the action before a helpless fall, and the share of the speed that the stick leads to at most then ·
    springs: (J, 3) character, a jump in the air, and the speed that a full stick begins it with, units a frame."""

    key: np.ndarray
    share: np.ndarray
    falls: np.ndarray
    springs: np.ndarray


def drifts() -> Drifts:
    """Measured on the games of train, by `python -m wm_train.measure_drifts`."""
    return Drifts(*_arrays("drifts.npz", "key", "share", "falls", "springs"))


@dataclass(frozen=True)
class Blows:
    """How moves launch whom they strike. key: (B, 3) attacker (internal id), its attack (`last_attack`), and the damage
    that this does when it is fresh, percent · way: (B, 7) growth, fixed and base of its KB (wm_train.dynamics.blows),
    its angle in degrees, the share of such hits that it launches so, and 1 where it is electric and where it stops its
    fighter as well. Ways of one key stand one after the other, the commonest first. hit: (H, 3) as `key`, and age:
    (H, 64) how often that hit at each state_age of its fighter."""

    key: np.ndarray
    way: np.ndarray
    hit: np.ndarray
    age: np.ndarray


def blows() -> Blows:
    """Measured on the games of train, by `python -m wm_train.measure_blows`."""
    return Blows(*_arrays("blows.npz", "key", "way", "hit", "age"))


class Move(NamedTuple):
    """Of the frames within a fighter's box on which it might catch the ledge in this action, the share on which it
    does, and how many there were; `character` None for all."""

    character: int | None
    action: int
    share: float
    frames: int


@dataclass(frozen=True)
class LedgeCatches:
    """Where and in which moves fighters catch the ledge. box: internal id → top and bottom of the fighter's place above
    the ledge, and how far out from it, units."""

    box: dict[int, tuple[float, float, float]]
    moves: tuple[Move, ...]


def ledge_catches() -> LedgeCatches:
    """Measured on the games of train, by `python -m wm_train.measure_ledges`."""
    known = _load("ledges.json")
    box = {character(n).internal_id: (its["top"], its["bottom"], its["reach"]) for n, its in known["box"].items()}
    moves = [
        Move(None if name == "all" else character(name).internal_id, int(action), *share)
        for name, of in known["shares"].items()
        for action, share in of.items()
    ]
    return LedgeCatches(box, tuple(moves))


@dataclass(frozen=True)
class Dive:
    """A move through the air that the stick steers. gain, top: what a full stick adds to its velocity ahead a frame,
    and the most that it makes of it, units a frame · free: (ages,) that velocity by state_age where nobody steers, NaN
    where that is not known · turns: the age on which it may turn round."""

    character: int
    action: int
    turns: int
    gain: float
    top: float
    free: np.ndarray


def dives() -> tuple[Dive, ...]:
    """Measured on the games of train, by `python -m wm_train.measure_dives`."""
    known = _load("dives.json")
    return tuple(
        Dive(character(name).internal_id, known["action"], known["turns"], its["gain"], its["top"],
             np.array([np.nan if v is None else v for v in its["free"]], np.float32))
        for name, its in known["dives"].items()
    )  # fmt: skip


def action_name(action: int) -> str:
    """Name of an action state; "SPECIAL_341" and so on where it depends on the character."""
    return ACTION_NAMES[action] if 0 <= action < len(ACTION_NAMES) else f"SPECIAL_{action}"


def action_family(action: int) -> str:
    """The family in FAMILIES that an action state belongs to."""
    return _FAMILY_OF.get(action, "special")


def _arrays(file: str, *names: str) -> list[np.ndarray]:
    """Arrays of an npz file beside this one."""
    with np.load(str(files(__package__).joinpath(file))) as arrays:
        return [arrays[name] for name in names]


def _key(name: object) -> str:
    """One spelling for "Mr. Game & Watch", "mr-game-and-watch" and "MR_GAME_AND_WATCH"."""
    return re.sub(r"[^A-Z0-9]+", "_", str(name).replace("&", "and").upper()).strip("_")


T = TypeVar("T")


def _find(kind: str, wanted: object, table: Mapping[str, T], choices: list[str]) -> T:
    found = table.get(_key(wanted))
    if found is None:
        raise UserError(f"unknown {kind} {wanted!r}: choose one of {', '.join(choices)}")
    return found


def _load(name: str) -> dict[str, Any]:
    return json.loads(files(__package__).joinpath(name).read_text(encoding="utf-8"))


def _surface(row: dict[str, Any]) -> Surface:
    route = row.get("path")
    path = Path(route["period"], route["width"], tuple(map(tuple, route["keys"]))) if route else None
    rest: dict[str, Any] = {"x": row["x"], "y": [row["y"]] * 2, **row.get("rest", {})}
    if path:
        start = path.at(0)
        rest = {"x": start[0::2], "y": start[1::2], "moves": True}
    return Surface(
        id=row["id"], x=tuple(rest["x"]), y=tuple(rest["y"]), platform=row.get("platform", False),
        moves=rest.get("moves", False), path=path,
    )


def _stage(stage_id: int, row: dict[str, Any]) -> Stage:
    spawn, rebirth = row["spawn"], row["rebirth"]
    first, second = (
        Standing(at["x"], at["y"], at["ground"], facing)
        for at, facing in zip(spawn["standing"].values(), spawn["facing"], strict=True)
    )
    return Stage(
        id=stage_id,
        name=row["name"],
        display=row["display"],
        surfaces=tuple(map(_surface, row["surfaces"])),
        edge_hang=row["edge_hang"],
        edge_stand=row["edge_stand"],
        blast=Blast(*row["blast"]),
        entry=(tuple(spawn["player_1"]), tuple(spawn["player_2"])),
        standing=(first, second),
        facing=tuple(spawn["facing"]),
        rebirth=Rebirth(tuple(rebirth["x"]), rebirth["y_from"], rebirth["y_platform"]),
    )


_STAGE_TABLE = _load("stages.json")
_ACTION_TABLE = _load("actions.json")

CHARACTERS: tuple[Character, ...] = tuple(Character(**row) for row in _load("characters.json")["characters"])
STAGES: tuple[Stage, ...] = tuple(_stage(int(i), row) for i, row in _STAGE_TABLE["stages"].items())
TIMING: Mapping[str, int] = _STAGE_TABLE["frames"]
"""Frames that death, rebirth, invulnerability and the entry take; what each means is said in stages.json, `timing`."""
ACTION_NAMES: tuple[str, ...] = tuple(_ACTION_TABLE["names"])
"""Names of the action states that all characters share; the position is the id."""
FAMILIES: Mapping[str, tuple[int, ...]] = {
    name: tuple(i for first, last in ranges for i in range(first, last + 1))
    for name, ranges in _ACTION_TABLE["families"].items()
}
"""Family → ids of its action states. Every id from 0 to 399 is in one family."""

_FAMILY_OF = {i: family for family, ids in FAMILIES.items() for i in ids}
_CHARACTER_OF = {_key(k): c for c in CHARACTERS for k in (c.name, c.display, c.internal_id)}
_STAGE_OF = {_key(k): s for s in STAGES for k in (s.name, s.display, s.id)}
