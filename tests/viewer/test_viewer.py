"""What the viewer shows of a frame, that pictures need no display, and that a window opens, draws and closes."""

import numpy as np
import pygame
import pytest

from wm_runtime.facts import STAGES, Stage, character, stage
from wm_runtime.schema import C_, CONTROL_NAMES, MATCH_FRAMES, State
from wm_viewer.draw import Window, render
from wm_viewer.primitives import HEIGHT, PLAYER_COLOURS, WIDTH, Box, Line, Scene, Text
from wm_viewer.scene import CAMERAS, scene_of


def standing(where: Stage, frame: int = 0) -> State:
    """Both players, Fox and Falco, where they have landed from the entry."""
    state = State.zeros(1)
    state["stage"], state["frame"] = where.id, frame
    state["character"] = [[character("FOX").internal_id, character("FALCO").internal_id]]
    state["stocks"], state["shield"], state["action"] = 4, 60.0, 14
    for name in ("x", "y", "ground", "facing"):
        state[name] = [[getattr(player, name) for player in where.standing]]
    return state


def text(scene: Scene, tag: str) -> str:
    (shape,) = scene.tagged(tag)
    assert isinstance(shape, Text)
    return shape.text


def pixel(picture: np.ndarray, point: tuple[float, float]) -> np.ndarray:
    return picture[round(point[1]), round(point[0])].astype(int)


every_stage = pytest.mark.parametrize("where", STAGES, ids=lambda s: s.name)


@every_stage
def test_a_scene_holds_both_fighters_and_every_surface(where: Stage) -> None:
    scene = scene_of(standing(where))
    for player in (1, 2):
        (body,) = scene.tagged(f"fighter {player}")
        at = where.standing[player - 1]
        assert isinstance(body, Box)
        assert body.centre[0] == pytest.approx(at.x)
        assert body.centre[1] - body.half[1] == pytest.approx(at.y)
    for surface in where.surfaces:
        (line,) = scene.tagged(f"surface {surface.id}")
        assert isinstance(line, Line)
        assert np.ravel(line.points) == pytest.approx(surface.at(0), abs=1e-3)
    assert scene.tagged("blast zone")


@every_stage
@pytest.mark.parametrize("camera", CAMERAS)
def test_every_camera_shows_both_fighters_between_clock_and_panels(where: Stage, camera: str) -> None:
    state = standing(where)
    state["x"] = [[where.blast.left + 15, 0]]
    state["y"] = [[-60, where.rebirth.y_from]]
    scene = scene_of(state, camera=camera)
    for player in (1, 2):
        x, y = scene.camera.project(scene.tagged(f"fighter {player}")[0].centre)
        assert 0 < x < WIDTH
        assert 30 < y < HEIGHT - 60


@every_stage
def test_the_default_camera_holds_still_over_the_stage(where: Stage) -> None:
    state = standing(where)
    before = scene_of(state).camera
    state["x"] = [[0, where.edge_stand]]
    assert scene_of(state).camera == before


@every_stage
def test_the_picture_shows_each_fighter_in_its_colour(where: Stage) -> None:
    state = standing(where)
    picture = render(state)
    assert (picture.shape, picture.dtype) == ((HEIGHT, WIDTH, 3), np.uint8)
    scene = scene_of(state)
    for player in (1, 2):
        place = scene.camera.project(scene.tagged(f"fighter {player}")[0].centre)
        assert np.abs(pixel(picture, place) - PLAYER_COLOURS[player - 1]).max() < 8


def test_pictures_open_no_display() -> None:
    render(standing(stage("BATTLEFIELD")), 0, np.zeros((1, 2, len(CONTROL_NAMES)), np.float32), size=(320, 180))
    assert not pygame.display.get_init()


@pytest.mark.parametrize("size", [(640, 360), (320, 180), (84, 84), (1280, 500)])
def test_pictures_come_in_any_size(size: tuple[int, int]) -> None:
    picture = render(standing(stage("BATTLEFIELD")), size=size)
    assert picture.shape == (size[1], size[0], 3)
    assert picture.flags.c_contiguous


def test_percent_loses_its_fraction_and_stocks_are_counted() -> None:
    state = standing(stage("BATTLEFIELD"))
    state["percent"], state["stocks"] = [[99.9, 0.0]], [[3, 1]]
    scene = scene_of(state)
    assert (text(scene, "percent 1"), text(scene, "percent 2")) == ("99%", "0%")
    assert [len(scene.tagged(f"stock {player}")) for player in (1, 2)] == [3, 1]
    assert (text(scene, "name 1"), text(scene, "action 2")) == ("Fox", "STANDING")


@pytest.mark.parametrize(
    ("frame", "shown"), [(-123, "8:00"), (0, "8:00"), (1, "7:59"), (60 * 60, "7:00"), (MATCH_FRAMES, "0:00")]
)
def test_the_clock_counts_down_from_eight_minutes(frame: int, shown: str) -> None:
    assert text(scene_of(standing(stage("BATTLEFIELD"), frame)), "clock") == shown


def test_what_a_fighter_does_is_seen() -> None:
    state = standing(stage("BATTLEFIELD"))
    plain = scene_of(state).tagged("fighter 1")[0]
    state["flags_3"], state["flags_4"] = [[0, 0x80]], [[0x02, 0]]
    state["action"] = [[88, 179]]
    scene = scene_of(state)
    assert scene.tagged("fighter 1")[0].outline != plain.outline
    assert len(scene.tagged("shield")) == 1
    state["action"] = [[12, 1]]
    scene = scene_of(state)
    assert scene.tagged("rebirth platform")
    assert not any(isinstance(shape, Box) for shape in scene.tagged("fighter 2"))


def test_a_moving_platform_is_drawn_under_who_stands_on_it() -> None:
    state = standing(stage("FOUNTAIN_OF_DREAMS"))
    state["y"] = [[27.375, 22.125]]
    (platform,) = scene_of(state).tagged("surface 0")
    assert platform.points[0][1] == platform.points[1][1] == 27.375


def test_surfaces_that_no_table_knows_draw_too() -> None:
    state = standing(stage("POKEMON_STADIUM"))
    state["ground"] = 20
    assert len(scene_of(state).world) == len(scene_of(standing(stage("POKEMON_STADIUM"))).world) + 2


def test_controllers_are_shown_when_given() -> None:
    state = standing(stage("BATTLEFIELD"))
    pads = np.zeros((1, 2, len(CONTROL_NAMES)), np.float32)
    assert not scene_of(state).tagged("main_x 1")
    still = scene_of(state, 0, pads)
    pads[0, 0, C_["main_x"]] = 1.0
    pads[0, 1, [C_["a"], C_["shoulder"]]] = 1.0
    moved = scene_of(state, 0, pads)
    assert moved.tagged("main_x 1")[0].centre[0] > still.tagged("main_x 1")[0].centre[0]
    assert moved.tagged("a 2")[0].fill != still.tagged("a 2")[0].fill
    assert moved.tagged("shoulder 2")
    assert not still.tagged("shoulder 2")


@pytest.fixture
def window(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    window = Window(size=(320, 180))
    yield window
    window.close()
    assert not pygame.display.get_init()


def test_a_window_opens_with_the_first_frame_and_closes(window: Window) -> None:
    state = standing(stage("DREAMLAND"))
    assert not pygame.display.get_init()
    assert window.draw(state)
    assert pygame.display.get_surface().get_size() == (320, 180)
    shown = pygame.surfarray.array3d(pygame.display.get_surface()).swapaxes(0, 1)
    np.testing.assert_array_equal(shown, render(state, size=(320, 180)))
    window.close()
    assert not window.draw(state)


def test_a_window_tells_keys_and_obeys_its_close_button(window: Window) -> None:
    state = standing(stage("DREAMLAND"))
    window.draw(state)
    pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=pygame.K_SPACE))
    assert window.draw(state)
    assert window.keys == ("space",)
    pygame.event.post(pygame.event.Event(pygame.QUIT))
    assert not window.draw(state)
    assert window.closed


def test_a_window_shows_sixty_frames_a_second(window: Window) -> None:
    state = standing(stage("DREAMLAND"))
    window.draw(state)
    before = pygame.time.get_ticks()
    for _ in range(12):
        window.draw(state)
    assert pygame.time.get_ticks() - before >= 11 * 15
