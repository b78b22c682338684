"""The split of a dataset into games to train on and games to hold out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from synthetic import synthetic_game
from wm_runtime.errors import UserError
from wm_runtime.replays.dataset import Dataset, DatasetWriter
from wm_runtime.replays.split import split

GAMES = 40


def dataset_of(folder, numbers) -> Dataset:
    game = synthetic_game(0, 20)
    with DatasetWriter(folder) as writer:
        for i in numbers:
            names = (f"player {i % 7}", f"player {i % 11}")
            info = replace(game.info, md5=f"{i:032x}", source=f"event {i % 5}/{i}.slp", names=names)
            writer.add(replace(game, info=info), content=f"content {i}")
    return Dataset(folder)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Dataset:
    return dataset_of(tmp_path_factory.mktemp("split") / "dataset", range(GAMES))


def test_every_game_is_on_one_side(dataset) -> None:
    train, held = split(dataset, 0.3)
    assert sorted([*train, *held]) == list(range(GAMES))
    assert 0 < len(held) < len(train)


def test_a_game_stays_on_its_side_as_games_are_added(dataset, tmp_path) -> None:
    _, held = split(dataset, 0.3)
    larger = dataset_of(tmp_path / "larger", [*range(100, 160), *range(GAMES)])
    _, held_later = split(larger, 0.3)
    before = {dataset.md5[g] for g in held}
    assert before == {larger.md5[g] for g in held_later} & set(dataset.md5)


def test_a_larger_share_holds_out_what_a_smaller_one_did(dataset) -> None:
    few, many = (set(split(dataset, share)[1].tolist()) for share in (0.2, 0.5))
    assert few < many


def test_games_of_the_same_content_are_on_the_same_side(tmp_path) -> None:
    game = synthetic_game(0, 20)
    with DatasetWriter(tmp_path / "twins") as writer:
        for i in range(60):
            writer.add(replace(game, info=replace(game.info, md5=f"{i:032x}")), content=f"content {i // 2}")
    _, held = split(Dataset(tmp_path / "twins"), 0.4)
    sides = np.isin(np.arange(60), held).reshape(30, 2)
    assert (sides[:, 0] == sides[:, 1]).all()
    assert 0 < len(held) < 60


KEYS = {"source": lambda record: [record["source"].split("/")[0]], "player": lambda record: record["names"]}


@pytest.mark.parametrize(("by", "key"), KEYS.items(), ids=KEYS)
def test_a_source_or_player_that_is_held_out_is_not_trained_on(dataset, by, key) -> None:
    for seed in range(5):
        train, held = split(dataset, 0.3, by, seed)
        if len(held) and len(train):
            break
    trained = {k for g in train for k in key(dataset.record(int(g)))}
    assert all(set(key(dataset.record(int(g)))) - trained for g in held)


def test_another_kind_of_split_is_refused(dataset) -> None:
    with pytest.raises(UserError, match="choose one of content, source, player"):
        split(dataset, 0.1, "stage")
