"""What a scene is made of: shapes, text, the camera, colours. No pygame.

A scene is composed on a canvas of 640 × 360 whatever the picture's size. Shapes of its `world` are in game units, y up;
those of its `overlay` in canvas pixels, y down. Line widths and text sizes are canvas pixels in both.
"""

from __future__ import annotations

from dataclasses import dataclass

WIDTH, HEIGHT = 640, 360

Point = tuple[float, float]
Colour = tuple[int, int, int] | tuple[int, int, int, int]
"""Red, green, blue and, optionally, opacity, 0 to 255."""

PLAYER_COLOURS: tuple[Colour, Colour] = ((240, 92, 92), (82, 156, 255))
WHITE: Colour = (245, 247, 255)
INK: Colour = (24, 26, 40)


@dataclass(frozen=True)
class Line:
    points: tuple[Point, ...]
    colour: Colour
    width: float = 1.0
    tag: str = ""


@dataclass(frozen=True)
class Polygon:
    points: tuple[Point, ...]
    colour: Colour
    tag: str = ""


@dataclass(frozen=True)
class Box:
    """A rectangle with round corners; with `radius` as large as it goes, a capsule or a circle. `half` is half of
    (width, height)."""

    centre: Point
    half: Point
    radius: float
    fill: Colour | None = None
    outline: Colour | None = None
    width: float = 1.0
    tag: str = ""


@dataclass(frozen=True)
class Text:
    """`anchor` says which part of the text lies at `at`: a pygame.Rect attribute such as "center" or "midleft"."""

    at: Point
    text: str
    size: float
    colour: Colour = WHITE
    anchor: str = "center"
    tag: str = ""


Primitive = Line | Polygon | Box | Text


@dataclass(frozen=True)
class Camera:
    """World point `at` appears at canvas point `centre`, a game unit `scale` canvas pixels large."""

    at: Point
    scale: float
    centre: Point = (WIDTH / 2, HEIGHT / 2)

    def project(self, point: Point) -> Point:
        """World → canvas."""
        return (
            self.centre[0] + (point[0] - self.at[0]) * self.scale,
            self.centre[1] - (point[1] - self.at[1]) * self.scale,
        )


@dataclass(frozen=True)
class Scene:
    """One picture. `world` is drawn first, through `camera`; `overlay` above it. In drawing order."""

    camera: Camera
    world: tuple[Primitive, ...]
    overlay: tuple[Primitive, ...]

    def tagged(self, tag: str) -> tuple[Primitive, ...]:
        """The primitives with this tag, such as "fighter 1", "surface 5", "percent 2" or "clock"."""
        return tuple(p for p in (*self.world, *self.overlay) if p.tag == tag)


def circle(centre: Point, radius: float, **look: object) -> Box:
    """A disc or ring."""
    return Box(centre, (radius, radius), radius, **look)  # type: ignore[arg-type]


def fade(colour: Colour, opacity: int) -> Colour:
    """The same colour at another opacity."""
    return (*colour[:3], opacity)


def blend(a: Colour, b: Colour, share: float) -> Colour:
    """`a` with this share of `b` mixed in."""
    red, green, blue = (round(x + (y - x) * share) for x, y in zip(a[:3], b[:3], strict=True))
    return (red, green, blue)
