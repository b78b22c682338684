"""Scenes as pictures and in a window. The one module of the viewer that imports pygame.

Pictures need no display: a scene is painted at twice its size on a surface in memory and scaled down, which smooths
every edge.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import lru_cache
from itertools import pairwise

import numpy as np

os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
import pygame

from wm_runtime.schema import State
from wm_viewer.hud import FPS
from wm_viewer.primitives import HEIGHT, WIDTH, Box, Colour, Line, Point, Polygon, Scene, Text
from wm_viewer.scene import scene_of

SMOOTHING = 2
SKY: tuple[Colour, Colour] = ((38, 42, 78), (12, 13, 26))
"""Colour at the top and at the bottom of the background."""

Size = tuple[int, int]
Projection = Callable[[Point], Point]


def render(
    state: State, index: int = 0, controllers: np.ndarray | None = None, size: Size = (WIDTH, HEIGHT),
    camera: str = "stage",
) -> np.ndarray:
    """(H, W, 3) uint8 picture of match `index`; size is (width, height). Opens no display.

    controllers: (N, 2, 13) float32 or None. camera: a name in `wm_viewer.scene.CAMERAS`.
    """
    picture = paint(scene_of(state, index, controllers, camera), size)
    return np.ascontiguousarray(pygame.surfarray.pixels3d(picture).swapaxes(0, 1))


def paint(scene: Scene, size: Size) -> pygame.Surface:
    """The scene as a surface of (width, height) pixels, in the middle of it if the shape is not 16:9."""
    width, height = size[0] * SMOOTHING, size[1] * SMOOTHING
    target = _sky((width, height)).copy()
    pixel = min(width / WIDTH, height / HEIGHT)
    left, top = (width - WIDTH * pixel) / 2, (height - HEIGHT * pixel) / 2

    def on_canvas(point: Point) -> Point:
        return left + point[0] * pixel, top + point[1] * pixel

    def in_world(point: Point) -> Point:
        return on_canvas(scene.camera.project(point))

    for shapes, project, unit in (
        (scene.world, in_world, pixel * scene.camera.scale),
        (scene.overlay, on_canvas, pixel),
    ):
        for shape in shapes:
            PAINTERS[type(shape)](target, shape, project, unit, pixel)
    return pygame.transform.smoothscale(target, size)


class Window:
    """Frames in a window, at 60 a second. The display opens with the first frame.

    `draw` returns False once the user has closed the window; `keys` are the keys pressed since the frame before, by
    pygame's names ("space", "left", "q").
    """

    def __init__(self, size: Size = (960, 540), title: str = "Melee World Model", camera: str = "stage") -> None:
        self.size = size
        self.title = title
        self.camera = camera
        self.keys: tuple[str, ...] = ()
        self.closed = False
        self._screen: pygame.Surface | None = None
        self._clock = pygame.time.Clock()

    def draw(self, state: State, index: int = 0, controllers: np.ndarray | None = None) -> bool:
        """Shows match `index`, then waits until the frame's sixtieth of a second is over."""
        if self.closed:
            return False
        if self._screen is None:
            pygame.display.init()
            pygame.display.set_caption(self.title)
            self._screen = pygame.display.set_mode(self.size)
        events = pygame.event.get()
        if any(event.type == pygame.QUIT for event in events):
            self.close()
            return False
        self.keys = tuple(pygame.key.name(event.key) for event in events if event.type == pygame.KEYDOWN)
        self._screen.blit(paint(scene_of(state, index, controllers, self.camera), self.size), (0, 0))
        pygame.display.flip()
        self._clock.tick(FPS)
        return True

    def close(self) -> None:
        """Closes the window; drawing does nothing afterwards."""
        if self._screen is not None:
            pygame.display.quit()
        self._screen = None
        self.closed = True


def _paint_line(target: pygame.Surface, line: Line, project: Projection, unit: float, pixel: float) -> None:
    """A strip a segment and a disc a joint: pygame's own thick lines end slanted."""
    points = [project(p) for p in line.points]
    half = line.width * pixel / 2

    def strokes(onto: pygame.Surface, dx: float, dy: float) -> None:
        for (ax, ay), (bx, by) in pairwise(points):
            length = max(np.hypot(bx - ax, by - ay), 1e-6)
            nx, ny = (by - ay) / length * half, (ax - bx) / length * half
            corners = ((ax + nx, ay + ny), (bx + nx, by + ny), (bx - nx, by - ny), (ax - nx, ay - ny))
            pygame.draw.polygon(onto, line.colour, [(x - dx, y - dy) for x, y in corners])
        for x, y in points:
            pygame.draw.circle(onto, line.colour, (x - dx, y - dy), half)

    _through(target, line.colour, _bounds(points, half), strokes)


def _paint_polygon(target: pygame.Surface, shape: Polygon, project: Projection, unit: float, pixel: float) -> None:
    points = [project(p) for p in shape.points]

    def fill(onto: pygame.Surface, dx: float, dy: float) -> None:
        pygame.draw.polygon(onto, shape.colour, [(x - dx, y - dy) for x, y in points])

    _through(target, shape.colour, _bounds(points, 1), fill)


def _paint_box(target: pygame.Surface, box: Box, project: Projection, unit: float, pixel: float) -> None:
    x, y = project(box.centre)
    half_x, half_y = box.half[0] * unit, box.half[1] * unit
    radius = min(box.radius * unit, half_x, half_y)
    edge = box.width * pixel

    def rect(colour: Colour, grow: float) -> None:
        area = pygame.Rect(0, 0, round(2 * (half_x + grow)), round(2 * (half_y + grow)))
        area.center = round(x), round(y)

        def fill(onto: pygame.Surface, dx: float, dy: float) -> None:
            width = 0 if grow == 0 else round(edge)
            pygame.draw.rect(onto, colour, area.move(-dx, -dy), width, border_radius=round(radius + grow))

        _through(target, colour, area, fill)

    if box.fill is not None:
        rect(box.fill, 0.0)
    if box.outline is not None:
        rect(box.outline, edge / 2)


def _paint_text(target: pygame.Surface, text: Text, project: Projection, unit: float, pixel: float) -> None:
    drawn = _font(max(1, round(text.size * pixel))).render(text.text, True, text.colour)
    x, y = project(text.at)
    target.blit(drawn, drawn.get_rect(**{text.anchor: (round(x), round(y))}))


PAINTERS: Mapping[type, Callable[..., None]] = {
    Line: _paint_line,
    Polygon: _paint_polygon,
    Box: _paint_box,
    Text: _paint_text,
}


def _through(
    target: pygame.Surface, colour: Colour, area: pygame.Rect, fill: Callable[[pygame.Surface, float, float], None]
) -> None:
    """Opaque colours straight onto the target; others onto a layer of the size of `area`, laid over it."""
    area = area.clip(target.get_rect())
    if not area.size[0] or not area.size[1]:
        return
    if len(colour) == 3:
        fill(target, 0, 0)
        return
    layer = pygame.Surface(area.size, pygame.SRCALPHA)
    fill(layer, area.left, area.top)
    target.blit(layer, area)


def _bounds(points: list[Point], margin: float) -> pygame.Rect:
    xs, ys = zip(*points, strict=True)
    left, top = min(xs) - margin, min(ys) - margin
    return pygame.Rect(left, top, max(xs) + margin - left + 1, max(ys) + margin - top + 1)


@lru_cache(maxsize=4)
def _sky(size: Size) -> pygame.Surface:
    """The background's gradient."""
    rows = np.linspace(0, 1, size[1])[None, :, None]
    colours = np.array(SKY[0]) * (1 - rows) + np.array(SKY[1]) * rows
    sky = pygame.Surface(size, depth=32)
    pygame.surfarray.blit_array(sky, np.broadcast_to(colours, (*size, 3)).astype(np.uint8))
    return sky


def _font(size: int) -> pygame.font.Font:
    if not pygame.font.get_init():
        pygame.font.init()
        _fonts.cache_clear()
    return _fonts(size)


@lru_cache(maxsize=64)
def _fonts(size: int) -> pygame.font.Font:
    return pygame.font.Font(None, size)
