"""Sticks as the game reads them: full where UCF makes them so, as recorded otherwise."""

from __future__ import annotations

import numpy as np
import pytest

from synthetic import synthetic_game
from wm_runtime.facts import FAMILIES, STAGES, physics
from wm_runtime.replays.dataset import Dataset, DatasetWriter
from wm_runtime.replays.sticks import GRID, LEAST, NEARLY, OFF, as_read
from wm_runtime.schema import C_

ALMOST = NEARLY / GRID


@pytest.mark.parametrize(
    ("x", "raw", "read"),
    [
        (ALMOST, (100, 3), 1.0),
        (-ALMOST, (-128, -OFF), -1.0),
        (ALMOST, (100, OFF + 1), ALMOST),  # too far off
        (ALMOST, (100, 0), ALMOST),  # a replay that has no raw stick along y
        (ALMOST, (LEAST - 1, 3), ALMOST),
        (0.95, (100, 3), 0.95),
    ],
)
def test_a_stick_that_is_pushed_all_the_way_is_full(x: float, raw: tuple[int, int], read: float) -> None:
    raw_x, raw_y = (np.array([value], np.int8) for value in raw)
    stick, nothing = np.array([x], np.float32), np.zeros(1, np.float32)
    assert as_read(stick, nothing, raw_x, raw_y)[0][0] == np.float32(read)
    assert as_read(nothing, stick, raw_y, raw_x)[1][0] == np.float32(read)


def test_a_dataset_keeps_what_was_recorded_and_reads_it_as_the_game_does(tmp_path) -> None:
    game = synthetic_game(1, 200, STAGES[0].id)
    game.columns["main_x"][5], game.columns["raw_x"][5], game.columns["raw_y"][5] = np.float32(ALMOST), 90, 2
    with DatasetWriter(tmp_path) as writer:
        writer.add(game)
    dataset = Dataset(tmp_path)
    assert (dataset.columns(0)["main_x"][5] == np.float32(ALMOST)).all()
    _, pads = dataset.windows(np.array([0]), np.array([5]), 1)
    assert (pads[..., C_["main_x"]] == 1.0).all()
    assert (game.controllers()[5, :, C_["main_x"]] == 1.0).all()


def test_real_fighters_drift_as_fast_as_a_full_stick_makes_them(real_dataset: Dataset) -> None:
    flies = [action for family in ("jump", "double_jump", "fall", "aerial") for action in FAMILIES[family]]
    fast = full = 0
    for game in real_dataset:
        of, read = game.columns, game.controllers()[..., C_["main_x"]]
        most = physics("air_speed")[of["character"]]
        ahead = of["self_x_air"] * np.sign(read)
        told = (np.abs(read) == 1) & (np.abs(of["main_x"]) < 1) & np.isin(of["action"], flies)
        at_top, below = (np.abs(ahead - most * share) < 1e-4 for share in (1.0, ALMOST))
        fast, full = fast + int((told & (at_top | below)).sum()), full + int((told & at_top).sum())
    if fast < 20:
        pytest.skip("no raw sticks along y in the games at hand")
    assert full > 0.9 * fast
