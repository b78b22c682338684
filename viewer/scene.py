"""What to draw of a frame: the stage, both fighters, the clock and the players' panels. Pure functions, no pygame."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from wm_runtime.facts import Segment, Stage, stage
from wm_runtime.schema import PLAYERS, State
from wm_viewer.fighters import Fighter, draw_fighter, read_fighter
from wm_viewer.hud import draw_clock, draw_controller, draw_panel
from wm_viewer.primitives import WIDTH, Camera, Colour, Line, Point, Polygon, Primitive, Scene

VIEW, VIEW_CENTRE = (WIDTH - 24, 256), (WIDTH / 2, 162)
"""Canvas pixels: (width, height) and middle of what lies between clock and panels, where a camera shows its bounds."""
ROCK: Colour = (54, 60, 92)
ROCK_EDGE: Colour = (78, 86, 126)
TURF: Colour = (208, 216, 240)
PLATFORM: Colour = (142, 154, 204)
BLAST_ZONE: Colour = (96, 102, 142)
ROCK_DEPTH = 26.0
"""Units; how far down the stage's body is drawn, which the replays do not tell."""

Bounds = tuple[float, float, float, float]
"""Left, right, top, bottom in units."""


def scene_of(state: State, index: int = 0, controllers: np.ndarray | None = None, camera: str = "stage") -> Scene:
    """The picture of match `index`.

    controllers: (N, 2, 13) float32 or None, shown beside the panels. camera: a name in CAMERAS.
    """
    where = stage(int(state["stage"][index]))
    frame = int(state["frame"][index])
    fighters = [read_fighter(state, index, player) for player in range(PLAYERS)]
    pads = [] if controllers is None else [*enumerate(controllers[index])]
    return Scene(
        camera=_fit(CAMERAS[camera](where, fighters)),
        world=(
            *_draw_stage(where, frame, fighters),
            *(shape for fighter in fighters for shape in draw_fighter(fighter, where)),
        ),
        overlay=(
            *draw_clock(frame, where),
            *(shape for fighter in fighters for shape in draw_panel(fighter)),
            *(shape for player, pad in pads for shape in draw_controller(player, pad)),
        ),
    )


def _stage_bounds(where: Stage, fighters: Sequence[Fighter]) -> Bounds:
    """The stage and some air around it, wider while a fighter is further out."""
    reach = where.edge_stand + 32.0
    top = max(s.y[0] for s in where.surfaces) + 28.0
    return _union((-reach, reach, top, -32.0), fighters, margin=14.0)


def _blast_bounds(where: Stage, fighters: Sequence[Fighter]) -> Bounds:
    """All of the blast zone."""
    blast = where.blast
    return blast.left, blast.right, blast.top, blast.bottom


def _follow_bounds(where: Stage, fighters: Sequence[Fighter]) -> Bounds:
    """Both fighters, close."""
    x, y = (sum(f.x for f in fighters) / PLAYERS, sum(f.y for f in fighters) / PLAYERS)
    return _union((x - 55.0, x + 55.0, y + 30.0, y - 20.0), fighters, margin=24.0)


CAMERAS: Mapping[str, Callable[[Stage, Sequence[Fighter]], Bounds]] = {
    "stage": _stage_bounds,
    "blast": _blast_bounds,
    "follow": _follow_bounds,
}
"""Name → what has to be in the picture."""


def _union(bounds: Bounds, fighters: Sequence[Fighter], margin: float) -> Bounds:
    left, right, top, bottom = bounds
    return (
        min(left, *(f.x - margin for f in fighters)),
        max(right, *(f.x + margin for f in fighters)),
        max(top, *(f.y + f.character.height + margin for f in fighters)),
        min(bottom, *(f.y - margin for f in fighters)),
    )


def _fit(bounds: Bounds) -> Camera:
    """The camera that shows these bounds as large as the view allows."""
    left, right, top, bottom = bounds
    scale = min(VIEW[0] / (right - left), VIEW[1] / (top - bottom))
    return Camera(((left + right) / 2, (top + bottom) / 2), scale, VIEW_CENTRE)


def _draw_stage(where: Stage, frame: int, fighters: Sequence[Fighter]) -> Iterator[Primitive]:
    """Blast zone, body, then every surface, tagged "surface" and its id."""
    left, right, top, bottom = _blast_bounds(where, fighters)
    corners = ((left, top), (right, top), (right, bottom), (left, bottom), (left, top))
    yield Line(corners, BLAST_ZONE, 1.0, tag="blast zone")
    yield from _draw_body(where)
    for surface in where.surfaces:
        at = surface.at(frame)
        if surface.moves and surface.path is None:
            at = _under_feet(surface.id, at, fighters)
        colour, width = (PLATFORM, 3.0) if surface.platform else (TURF, 2.5)
        yield Line(((at.x_left, at.y_left), (at.x_right, at.y_right)), colour, width, tag=f"surface {surface.id}")


def _under_feet(ground: int, at: Segment, fighters: Sequence[Fighter]) -> Segment:
    """A frame does not hold the height of the Fountain's platforms: whoever stands on one tells it."""
    heights = [f.y for f in fighters if f.ground == ground and not f.airborne]
    return at._replace(y_left=heights[0], y_right=heights[0]) if heights else at


def _draw_body(where: Stage) -> Iterator[Primitive]:
    """The rock below the ground: its top is measured, the rest is there to look like a stage."""
    ground = sorted((s for s in where.surfaces if not s.platform), key=lambda s: s.x[0])
    top: list[Point] = [(x, y) for s in ground for x, y in zip(s.x, s.y, strict=True)]
    (left, left_y), (right, right_y) = top[0], top[-1]
    inset, floor = 0.22 * (right - left), -ROCK_DEPTH
    lip = 0.16 * ROCK_DEPTH
    under: list[Point] = [
        (right, right_y - lip), (right - 0.45 * inset, 0.55 * floor), (right - inset, floor),
        (left + inset, floor), (left + 0.45 * inset, 0.55 * floor), (left, left_y - lip),
    ]
    yield Polygon((*top, *under), ROCK, tag="body")
    yield Line((top[-1], *under, top[0]), ROCK_EDGE, 1.5)
