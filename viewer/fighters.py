"""How a fighter looks: its state read from a frame, the colours and postures that tell what it is doing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import hypot

from wm_runtime.facts import Character, Stage, action_family, character
from wm_runtime.schema import State
from wm_viewer.primitives import (
    INK,
    PLAYER_COLOURS,
    WHITE,
    Box,
    Colour,
    Line,
    Polygon,
    Primitive,
    Text,
    blend,
    circle,
    fade,
)

HITSTUN_BIT = 0x02
SHIELD_BIT = 0x80
FULL_SHIELD = 60.0
ATTACKS = frozenset({"jab", "dash_attack", "tilt", "smash", "aerial"})
LAGS = frozenset({"aerial_landing", "landing_special", "special_fall", "rebound", "slip_off", "shield_break"})
GRABS = frozenset({"grab", "throw"})
HELD = frozenset({"grabbed", "thrown", "captured", "bound"})
DODGES = frozenset({"roll", "spot_dodge", "air_dodge", "tech"})
HIDDEN = frozenset({"absent"})


@dataclass(frozen=True)
class Fighter:
    """One player of one frame. Position in units, velocity in units a frame, `player` 0 or 1."""

    player: int
    character: Character
    x: float
    y: float
    vx: float
    vy: float
    percent: float
    shield: float
    stocks: int
    facing: int
    action: int
    family: str
    ground: int
    airborne: bool
    hitlag: bool
    hitstun: bool
    shielding: bool
    invulnerable: bool

    @property
    def colour(self) -> Colour:
        return PLAYER_COLOURS[self.player]

    @property
    def half(self) -> tuple[float, float]:
        """Half of the drawn (width, height) in units, in the present posture."""
        wide, high = POSTURES.get(self.family, (1.0, 1.0))
        height = self.character.height
        return 0.25 * height * wide, 0.5 * height * high

    @property
    def centre(self) -> tuple[float, float]:
        return self.x, self.y + self.half[1]


def read_fighter(state: State, index: int, player: int) -> Fighter:
    """Player `player` of match `index`."""

    def of(name: str) -> float:
        return state[name][index, player].item()

    airborne = bool(of("airborne"))
    return Fighter(
        player=player,
        character=character(int(of("character"))),
        x=of("x"),
        y=of("y"),
        vx=of("self_x_air" if airborne else "self_x_ground") + of("knockback_x"),
        vy=airborne * (of("self_y") + of("knockback_y")),
        percent=of("percent"),
        shield=of("shield"),
        stocks=int(of("stocks")),
        facing=int(of("facing")),
        action=int(of("action")),
        family=action_family(int(of("action"))),
        ground=int(of("ground")),
        airborne=airborne,
        hitlag=of("hitlag") > 0,
        hitstun=bool(int(of("flags_4")) & HITSTUN_BIT),
        shielding=bool(int(of("flags_3")) & SHIELD_BIT),
        invulnerable=of("hurtbox") > 0,
    )


POSTURES: Mapping[str, tuple[float, float]] = {
    "crouch": (1.35, 0.65),
    "jump_squat": (1.25, 0.75),
    "landing": (1.2, 0.8),
    "landing_special": (1.25, 0.75),
    "aerial_landing": (1.25, 0.75),
    "dash": (1.2, 0.92),
    "run": (1.2, 0.92),
    "downed": (2.4, 0.42),
    "roll": (1.3, 0.7),
    "tech": (1.5, 0.6),
    "shield": (1.1, 0.85),
}
"""Family → (width, height) as a share of standing."""

LOOKS: tuple[tuple[str, Callable[[Fighter], bool], Colour], ...] = (
    ("hitlag", lambda f: f.hitlag, (255, 255, 255)),
    ("hitstun", lambda f: f.hitstun, (255, 94, 214)),
    ("attack", lambda f: f.family in ATTACKS, (255, 206, 64)),
    ("special", lambda f: f.family == "special", (186, 132, 255)),
    ("grab", lambda f: f.family in GRABS, (74, 222, 158)),
    ("held", lambda f: f.family in HELD, (46, 150, 108)),
    ("dodge", lambda f: f.family in DODGES, (170, 240, 255)),
    ("lag", lambda f: f.family in LAGS, (122, 128, 150)),
)
"""(name, when, outline colour); the first that holds tells how the outline is drawn."""
REACHING = frozenset({"attack", "special", "grab"})
"""Looks in which a fighter holds something out in front."""
INVULNERABLE: Colour = (150, 236, 255)
SHIELDS: tuple[Colour, Colour] = ((255, 120, 120), (110, 176, 255))


def look_of(fighter: Fighter) -> tuple[str, Colour]:
    """(name, outline colour) of what the fighter is doing."""
    for name, holds, colour in LOOKS:
        if holds(fighter):
            return name, colour
    return "plain", blend(fighter.colour, INK, 0.45)


def draw_fighter(fighter: Fighter, stage: Stage) -> Iterator[Primitive]:
    """World primitives of a fighter, back to front. The body carries the tag "fighter 1" or "fighter 2"."""
    if fighter.family in HIDDEN:
        return
    yield from (_burst if fighter.family == "dead" else _body)(fighter, stage)


def _body(fighter: Fighter, stage: Stage) -> Iterator[Primitive]:
    (x, y), (wide, high), colour = fighter.centre, fighter.half, fighter.colour
    name, outline = look_of(fighter)
    forward = fighter.facing
    yield from _trail(fighter)
    yield from _footing(fighter, stage)
    if fighter.invulnerable:
        yield Box((x, y), (wide + 1.6, high + 1.6), 99, fill=fade(INVULNERABLE, 70), outline=INVULNERABLE, width=1.2)
    if name in REACHING:
        tip = x + forward * (wide + 0.45 * fighter.character.height)
        yield Polygon(((x, y + 0.35 * high), (tip, y + 0.1 * high), (x, y - 0.25 * high)), outline)
    yield Box((x, y), (wide, high), 99, fill=colour, outline=outline, width=2.0, tag=f"fighter {fighter.player + 1}")
    eye = (x + forward * 0.42 * wide, y + 0.42 * high)
    size = 0.085 * fighter.character.height
    yield circle(eye, size * 1.35, fill=WHITE)
    yield circle((eye[0] + forward * 0.5 * size, eye[1]), size * 0.75, fill=INK)
    cheek, nose = x + forward * 0.96 * wide, x + forward * (wide + 0.1 * fighter.character.height)
    yield Polygon(((cheek, eye[1] + size), (nose, eye[1]), (cheek, eye[1] - size)), outline)
    if fighter.shielding:
        radius = 0.72 * fighter.character.height * (0.35 + 0.65 * fighter.shield / FULL_SHIELD)
        tint = SHIELDS[fighter.player]
        yield circle((x, y), radius, fill=fade(tint, 96), outline=blend(tint, WHITE, 0.5), width=1.5, tag="shield")
    top = fighter.y + 2 * high
    yield Text((x, top + 6.0), f"P{fighter.player + 1}", 11, colour, "midbottom")
    yield Polygon(((x - 1.6, top + 5.4), (x + 1.6, top + 5.4), (x, top + 2.8)), colour)


def _trail(fighter: Fighter) -> Iterator[Primitive]:
    """A tail as long as the way of the last four frames."""
    speed = hypot(fighter.vx, fighter.vy)
    if speed < 1.0:
        return
    (x, y), wide = fighter.centre, fighter.half[0]
    across = -fighter.vy / speed * wide, fighter.vx / speed * wide
    tail = x - 4 * fighter.vx, y - 4 * fighter.vy
    yield Polygon(((x + across[0], y + across[1]), tail, (x - across[0], y - across[1])), fade(fighter.colour, 80))


def _footing(fighter: Fighter, stage: Stage) -> Iterator[Primitive]:
    """The rebirth platform, or a mark for ground that the stage's table does not know."""
    if fighter.family == "respawn":
        yield Box((fighter.x, fighter.y - 0.8), (7.0, 0.8), 99, fill=INVULNERABLE, tag="rebirth platform")
    elif not fighter.airborne and stage.surface(fighter.ground) is None:
        yield Line(((fighter.x - 6, fighter.y), (fighter.x + 6, fighter.y)), fade(WHITE, 120), 1.5)


def _burst(fighter: Fighter, stage: Stage) -> Iterator[Primitive]:
    """A dead fighter: rays from where it crossed the blast zone towards the stage."""
    blast = stage.blast
    x = min(max(fighter.x, blast.left), blast.right)
    y = min(max(fighter.y, blast.bottom), blast.top)
    away = hypot(x, y) or 1.0
    inward = -x / away, -y / away
    for turn, reach in ((-0.35, 34.0), (-0.17, 48.0), (0.0, 60.0), (0.17, 48.0), (0.35, 34.0)):
        tip = x + reach * (inward[0] - turn * inward[1]), y + reach * (inward[1] + turn * inward[0])
        side = -inward[1] * 2.2, inward[0] * 2.2
        yield Polygon(
            ((x + side[0], y + side[1]), tip, (x - side[0], y - side[1])), fade(fighter.colour, 150),
            tag=f"fighter {fighter.player + 1}",
        )
