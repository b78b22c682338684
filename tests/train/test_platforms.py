"""What a match shows of Fountain's side platforms: heights of who stands on them, kept while nobody does."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from wm_runtime.replays.dataset import Dataset
from wm_runtime.schema import FIELD, FIRST_FRAME, FLOAT_FIELDS, INT_FIELDS
from wm_train.dynamics.contact import Contact
from wm_train.dynamics.geometry import Geometry, support
from wm_train.dynamics.named import Named, named
from wm_train.dynamics.platforms import (
    AT_FIRST,
    FOUNTAIN,
    HIGHEST,
    LOWEST,
    REST,
    RISES,
    SIDES,
    SINKS,
    UNKNOWN,
    forgotten,
    next_heights,
    unknown,
    watched,
)
from wm_train.training.whole_games import WholeGames

WAIT, FALL, GRABBED, NOWHERE = 14, 29, 227, 65535
LATER = AT_FIRST + 1


def standing(left: float | None, action: int = WAIT) -> Named:
    """A match whose first player stands on the left platform at this height, or falls; the second one falls."""
    state = named(torch.zeros(1, 2, len(FLOAT_FIELDS)), torch.zeros(1, 2, len(INT_FIELDS), dtype=torch.int32))
    on = left is not None
    state["action"] = torch.tensor([[action if on else FALL, FALL]], dtype=torch.int32)
    state["airborne"] = torch.tensor([[0 if on else 1, 1]], dtype=torch.int32)
    state["ground"] = torch.tensor([[0 if on else NOWHERE, NOWHERE]], dtype=torch.int32)
    state["y"] = torch.tensor([[(left or 0.0) + REST, 40.0]])
    return state


def after(*heights: float | None) -> Tensor:
    """What is known once a match has shown these heights of the left platform, one a frame."""
    platforms = unknown(standing(None))
    for height in heights:
        platforms = watched(platforms, standing(height))
    return platforms


def heights(platforms: Tensor, stage: int = FOUNTAIN.id, frame: int = LATER) -> tuple[list[float], list[bool]]:
    height, known = next_heights(platforms, torch.tensor([stage]), torch.tensor([frame]))
    return height[0].tolist(), known[0].tolist()


def test_a_platform_is_where_somebody_stands_on_it_and_stays_there_when_left() -> None:
    height, known = heights(after(19.875))
    assert height[0] == pytest.approx(19.875)
    assert known == [True, False]
    left = after(19.875, *[None] * 200)
    assert heights(left)[0][0] == pytest.approx(19.875)
    assert left[0, :, 2].tolist() == [200, UNKNOWN]


@pytest.mark.parametrize(("pace", "end"), [(SINKS, LOWEST), (RISES, HIGHEST)])
def test_a_platform_that_moves_goes_on_to_the_end_of_its_way(pace: float, end: float) -> None:
    moving = after(19.875, 19.875 + pace, 19.875 + 2 * pace)
    assert heights(moving)[0][0] == pytest.approx(19.875 + 3 * pace, abs=1e-4)
    for _ in range(400):
        moving = watched(moving, standing(None))
    assert heights(moving)[0][0] == pytest.approx(end)


def test_a_platform_found_elsewhere_than_expected_rests() -> None:
    moved = after(19.875, 19.875 + SINKS, None, None, 12.375)
    assert moved[0, 0].tolist() == pytest.approx([12.375, 0, 0])


def test_who_is_held_or_flies_shows_nothing() -> None:
    held = watched(unknown(standing(None)), standing(19.875, GRABBED))
    assert held[0, 0, 2] == UNKNOWN
    assert heights(after(None))[1] == [False, False]


def test_platforms_begin_where_the_facts_say_and_are_on_fountain_alone() -> None:
    height, known = heights(after(None), frame=AT_FIRST - 1)
    assert height == pytest.approx([side.y[0] for side in SIDES])
    assert known == [True, True]
    assert heights(after(19.875), stage=31)[1] == [False, False]


def test_who_came_late_knows_what_was_seen_since() -> None:
    seen = after(19.875, *[None] * 50)
    assert torch.equal(forgotten(seen, 50), seen)
    assert forgotten(seen, 49)[0, 0, 2] == UNKNOWN


def test_a_known_platform_is_a_surface() -> None:
    geometry, stage, frame = Geometry(), torch.tensor([FOUNTAIN.id]), torch.tensor([LATER])
    x, y = torch.tensor([[-35.0, 35.0]]), torch.tensor([[30.0, 30.0]])
    gap, left, right, solid = support(geometry.surfaces(stage, frame, after(19.875)), x, y)
    assert gap[0].tolist() == pytest.approx([30 - 19.875, 30], abs=0.01)
    assert [left[0, 0].item(), right[0, 0].item()] == pytest.approx(SIDES[0].x)
    assert solid[0].tolist() == [0, 1]


def test_riders_are_where_the_platform_was_expected(true_games: Dataset) -> None:
    games = [game for game in range(len(true_games)) if true_games.stage[game] == FOUNTAIN.id][:4]
    if not games:
        pytest.skip("no game on Fountain among the games at hand")
    corpus, right, rides = WholeGames(true_games, games), 0, 0
    for first, frames in zip(corpus.first, corpus.frames, strict=True):
        rows = slice(int(first), int(first + frames))
        state, platforms = named(corpus.floats[rows], corpus.ints[rows]), corpus.platforms[rows]
        number = torch.arange(FIRST_FRAME + 1, FIRST_FRAME + int(frames))
        height, known = next_heights(platforms[:-1], torch.full_like(number, FOUNTAIN.id), number)
        on = (state["airborne"] == 0) & (state["ground"] < 2) & (state["action"] > 13) & (state["action"] < 200)
        rides_on = on[1:] & on[:-1] & (state["ground"][1:] == state["ground"][:-1])
        at = state["ground"][1:].clamp(0, 1).long()
        exact = (height.gather(1, at) - state["y"][1:]).abs() < 0.02
        rides += int(rides_on.sum())
        right += int((rides_on & exact & known.gather(1, at)).sum())
    assert right >= 0.98 * rides


def test_a_corpus_forgets_for_windows_that_were_entered_late(true_games: Dataset) -> None:
    corpus = WholeGames(true_games, [0])
    rows = corpus.draw(64, 3, np.random.default_rng(0))
    corpus.platforms[..., 2] = torch.where(corpus.platforms[..., 2] > 200, 300.0, corpus.platforms[..., 2])
    forget = np.arange(64) % 2 == 0
    told = corpus.read(rows, 3, forget=forget).carry["platforms"][..., 2]
    whole = corpus.read(rows, 3).carry["platforms"][..., 2]
    assert torch.equal(told[:, ~forget], whole[:, ~forget])
    assert (told[:, forget] <= 123).logical_or(told[:, forget] == UNKNOWN).all()


def test_who_is_on_a_side_platform_is_on_that_of_its_side() -> None:
    x, stages = torch.tensor([[-35.0, 35.0]]), torch.tensor([FOUNTAIN.id])
    state = {name: torch.zeros(1, 2) if field.classes is None else torch.zeros(1, 2, dtype=torch.int32)
             for name, field in FIELD.items()}  # fmt: skip
    state |= {"x": x, "y": torch.full((1, 2), 12.0), "action": torch.full((1, 2), WAIT, dtype=torch.int32)}
    for said in ([0, 0], [1, 1], [1, 0]):
        state["ground"] = torch.tensor([said], dtype=torch.int32)
        assert Contact()(state, state, stages)["ground"].tolist() == [[0, 1]]
    heights = Geometry().surfaces(stages, torch.tensor([LATER]), after(12.0)).heights_here(x)
    assert heights[0, 0, -2:].tolist() == pytest.approx([12, 12])
    assert (heights[0, 1, -2:] < -1e8).all()
