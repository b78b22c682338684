"""What lies over the picture: clock, panels with percent and stocks, controllers. In canvas pixels, y down."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import floor

import numpy as np

from wm_runtime.facts import Stage, action_name
from wm_runtime.schema import C_, MATCH_FRAMES
from wm_viewer.fighters import Fighter
from wm_viewer.primitives import (
    HEIGHT,
    INK,
    PLAYER_COLOURS,
    WHITE,
    WIDTH,
    Box,
    Colour,
    Line,
    Point,
    Primitive,
    Text,
    blend,
    circle,
    fade,
)

FPS = 60
MUTED: Colour = (160, 168, 198)
PANEL: Colour = (10, 12, 24, 170)
PANEL_AT = (WIDTH / 2 - 106, WIDTH / 2 + 106)
PAD_AT = (52, WIDTH - 52)
ROW = HEIGHT - 32
"""Canvas y of the middle of panels and controllers."""
PERCENT_COLOURS: tuple[tuple[float, Colour], ...] = (
    (0, (255, 255, 255)), (50, (255, 224, 130)), (100, (255, 148, 66)), (150, (232, 58, 58)), (999, (160, 24, 40)),
)
"""(percent, colour), blended in between."""
BUTTONS: Mapping[str, tuple[Point, float, Colour]] = {
    "a": ((22, 2), 5.5, (70, 214, 150)),
    "b": ((12, 10), 3.6, (240, 86, 86)),
    "x_button": ((32, 0), 3.6, (220, 224, 236)),
    "y_button": ((20, -8), 3.6, (220, 224, 236)),
    "z": ((33, -13), 3.6, (150, 110, 255)),
    "l": ((-36, -18), 3.6, (220, 224, 236)),
    "r": ((22, -18), 3.6, (220, 224, 236)),
    "d_up": ((-10, 13), 3.0, (220, 224, 236)),
}
"""Button → place relative to the controller's middle, radius, colour while pressed."""
STICKS: tuple[tuple[str, str, Point, float, Colour], ...] = (
    ("main_x", "main_y", (-24, 0), 13.0, (230, 234, 246)),
    ("c_x", "c_y", (3, 0), 8.0, (255, 206, 64)),
)
"""x and y control, place, radius, colour of the knob."""


def draw_clock(frame: int, where: Stage) -> Iterator[Primitive]:
    """Time left of the eight minutes, the stage's name and the frame's number."""
    left = max(0, MATCH_FRAMES - max(frame, 0))
    minutes, frames = divmod(left, 60 * FPS)
    seconds, rest = divmod(frames, FPS)
    middle = WIDTH / 2
    yield Text((middle + 15, 20), f"{minutes}:{seconds:02d}", 30, WHITE, "midright", tag="clock")
    yield Text((middle + 17, 24), f".{rest * 100 // FPS:02d}", 18, MUTED, "midleft")
    yield Text((12, 16), where.display, 15, MUTED, "midleft", tag="stage")
    yield Text((WIDTH - 12, 16), f"frame {frame}", 15, MUTED, "midright", tag="frame")


def draw_panel(fighter: Fighter) -> Iterator[Primitive]:
    """Character, percent without its fraction, stocks, and the name of the action."""
    number, x = fighter.player + 1, PANEL_AT[fighter.player]
    colour = fighter.colour
    yield Box((x, ROW), (98, 25), 9, fill=PANEL, outline=fade(colour, 150), width=1.2)
    yield Box((x - 92, ROW), (2, 17), 2, fill=colour)
    yield Text((x - 82, ROW - 10), fighter.character.display, 17, WHITE, "midleft", tag=f"name {number}")
    yield Text((x - 82, ROW + 14), action_name(fighter.action), 12, MUTED, "midleft", tag=f"action {number}")
    for stock in range(fighter.stocks):
        yield circle((x - 78 + 11 * stock, ROW + 2), 3.6, fill=colour, tag=f"stock {number}")
    yield Text((x + 88, ROW), f"{floor(fighter.percent)}%", 36, _percent_colour(fighter.percent), "midright",
               tag=f"percent {number}")


def draw_controller(player: int, pad: np.ndarray) -> Iterator[Primitive]:
    """pad: (13,) float32, what the player holds in this frame."""
    x, y = PAD_AT[player], ROW
    yield Box((x, y), (44, 25), 9, fill=PANEL, outline=fade(PLAYER_COLOURS[player], 150), width=1.2)
    for along, across, (dx, dy), radius, colour in STICKS:
        tilt_x, tilt_y = float(pad[C_[along]]), float(pad[C_[across]])
        yield circle((x + dx, y + dy), radius, fill=INK, outline=blend(INK, colour, 0.45), width=1.2)
        knob = (x + dx + 0.75 * radius * tilt_x, y + dy - 0.75 * radius * tilt_y)
        yield Line(((x + dx, y + dy), knob), blend(INK, colour, 0.6), 2.0)
        yield circle(knob, 0.45 * radius, fill=colour, tag=f"{along} {player + 1}")
    for name, ((dx, dy), radius, colour) in BUTTONS.items():
        pressed = pad[C_[name]] > 0
        yield circle(
            (x + dx, y + dy), radius, fill=colour if pressed else INK, outline=blend(INK, colour, 0.55),
            tag=f"{name} {player + 1}",
        )
    depth = 20 * float(pad[C_["shoulder"]])
    yield Box((x - 7, y - 18), (20, 2), 2, fill=INK)
    if depth > 0:
        yield Box((x - 27 + depth, y - 18), (depth, 2), 2, fill=(170, 240, 255), tag=f"shoulder {player + 1}")


def _percent_colour(percent: float) -> Colour:
    stops, colours = zip(*PERCENT_COLOURS, strict=True)
    red, green, blue = (round(float(np.interp(percent, stops, channel))) for channel in zip(*colours, strict=True))
    return (red, green, blue)
