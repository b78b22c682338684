"""Training frames are the same from wherever they are read, and every way of drawing them draws the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wm_runtime.replays.dataset import Dataset
from wm_runtime.schema import FIRST_FRAME
from wm_train.training.corpus import Mapped, Resident
from wm_train.training.data import Windows
from wm_train.training.order import BLOCK, buffered, shuffled

CPU = torch.device("cpu")
GAMES = [5, 0, 3]


@pytest.mark.parametrize("corpus", ["mapped", "resident"])
def test_a_batch_holds_what_the_dataset_decodes_bit_for_bit(dataset: Dataset, corpus: str) -> None:
    source = Mapped(dataset) if corpus == "mapped" else Resident(dataset, GAMES, CPU)
    windows = Windows(dataset, GAMES, 11, source)
    batch = windows.read(np.arange(len(windows)))
    per_game = len(windows) // 3
    start = np.tile(np.arange(per_game) - FIRST_FRAME - 10, 3)
    state, controllers = dataset.windows(np.repeat(GAMES, per_game), start, 11)
    for name, array in (*vars(state).items(), ("controllers", controllers)):
        read = getattr(batch, name).flatten(0, 1).numpy()
        assert read.dtype == array.dtype, name
        assert np.array_equal(read.view(np.int32), array.view(np.int32)), name


@pytest.mark.parametrize("corpus", ["mapped", "resident"])
def test_further_targets_follow_and_a_window_at_the_end_of_its_game_begins_earlier(dataset, corpus: str) -> None:
    source = Mapped(dataset) if corpus == "mapped" else Resident(dataset, GAMES, CPU)
    windows = Windows(dataset, GAMES, 11, source, steps=8)
    batch = windows.read(np.arange(len(windows)), steps=8)
    frame = batch.match[..., 0]
    assert frame.shape[1] == 18
    assert (frame.diff(dim=1) == 1).all()
    wanted = torch.arange(700 + FIRST_FRAME).clamp(max=700 + FIRST_FRAME - 8).repeat(3)
    assert torch.equal(frame[:, 10], wanted.int())


def test_games_too_short_for_the_further_targets_have_no_windows(dataset: Dataset) -> None:
    assert len(Windows(dataset, GAMES, 11, steps=577)) == 3 * 577
    with pytest.raises(Exception, match="no game"):
        Windows(dataset, GAMES, 11, steps=578)


@given(count=st.integers(1, 3000), part=st.floats(0.01, 1), buffer=st.integers(1, 5000), seed=st.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_an_order_takes_as_many_windows_as_asked_each_at_most_once(count, part, buffer, seed) -> None:
    total = max(1, int(part * count))
    for order in (
        shuffled(count, total, np.random.default_rng(seed)),
        buffered(count, total, buffer, np.random.default_rng(seed)),
    ):
        assert len(order) == len(set(order.tolist())) == total
        assert 0 <= order.min() <= order.max() < count


@pytest.mark.parametrize("part", [1.0, 0.3])
def test_all_orders_draw_the_same_distribution(part: float) -> None:
    """How often each window is among the first few of an epoch, over many epochs: the same for all, in both orders."""
    count, epochs = 8 * BLOCK, 400
    total = int(part * count)
    first = total // 4
    seen = {"shuffled": np.zeros(count), "buffered": np.zeros(count)}
    for epoch in range(epochs):
        seen["shuffled"][shuffled(count, total, np.random.default_rng(epoch))[:first]] += 1
        seen["buffered"][buffered(count, total, 3 * BLOCK, np.random.default_rng(epoch))[:first]] += 1
    for drawn in seen.values():
        expected = epochs * first / count
        by_place = drawn.reshape(-1, BLOCK)  # blocks × places in a block
        assert by_place.mean(axis=1) == pytest.approx(expected, rel=0.25)
        assert by_place.mean(axis=0) == pytest.approx(expected, rel=0.35)


def test_a_streamed_epoch_reads_a_moving_part_of_the_disk() -> None:
    """A window leaves the buffer before `buffer` and a block more have entered, and neighbours are torn apart."""
    count, buffer = 100 * BLOCK, 10 * BLOCK
    order = buffered(count, count, buffer, np.random.default_rng(1))
    _, entered = np.unique(order // BLOCK, return_index=True)
    _, left = np.unique((order // BLOCK)[::-1], return_index=True)
    lingers = (count - 1 - left) - entered
    assert lingers.max() <= buffer + BLOCK
    assert (np.abs(np.diff(order)) < BLOCK).mean() < 0.2


def test_batches_of_all_modes_have_the_same_contents(dataset: Dataset) -> None:
    """Over an epoch, what a model is shown is the same set of windows, whatever the mode."""
    mapped, resident = (Windows(dataset, GAMES, 11, c) for c in (Mapped(dataset), Resident(dataset, GAMES, CPU)))
    count = len(mapped)
    orders = (
        (resident, shuffled(count, count, np.random.default_rng(3))),
        (mapped, buffered(count, count, 500, np.random.default_rng(3))),
    )
    seen = []
    for windows, order in orders:
        target = windows.stored(order).records[:, -1]
        stage = windows.stored(order).stage
        seen.append(sorted(zip(stage.tolist(), map(bytes, target.numpy()), strict=True)))
    assert seen[0] == seen[1]
