"""Tables of other games: what a game is told in training is what those say, what play is told is what all say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from wm_runtime.replays.dataset import Dataset
from wm_train.config import ExactConfig
from wm_train.dynamics.exact import OF_MOVES, ExactCore
from wm_train.dynamics.memory import recall
from wm_train.dynamics.tables import ACTIONS, KNOWN, MoveTables
from wm_train.training.folds import measure_folds
from wm_train.training.whole_games import FOLD, Unroll, WholeGames

FOLDS, WINDOWS = 2, 400


@pytest.fixture(scope="module")
def games(true_games: Dataset) -> list[int]:
    return list(range(min(6, len(true_games))))


@pytest.fixture(scope="module")
def core(true_games: Dataset, games: list[int], tmp_path_factory: pytest.TempPathFactory) -> ExactCore:
    torch.manual_seed(0)
    core = ExactCore(ExactConfig(width=16, blocks=0, late=8))
    core.measure(true_games, games)
    measure_folds(core, true_games, games, FOLDS, tmp_path_factory.mktemp("folds") / "folds.pt")
    return core


@pytest.fixture(scope="module")
def window(true_games: Dataset, games: list[int]) -> Unroll:
    corpus = WholeGames(true_games, games, folds=FOLDS)
    return corpus.read(corpus.draw(WINDOWS, 2, np.random.default_rng(0)), 2)


def without(true_games: Dataset, games: list[int], fold: int) -> MoveTables:
    part = MoveTables()
    part.measure(true_games, [game for i, game in enumerate(games) if i % FOLDS != fold])
    return part


def test_a_game_is_told_what_the_other_games_say(
    core: ExactCore, window: Unroll, true_games: Dataset, games: list[int]
) -> None:
    tables, state = core.tables, window.state(0)
    fold = window.carry[FOLD][0]
    assert set(fold.flatten().tolist()) == set(range(1, FOLDS + 1))
    who = (state["character"], state["action"])
    whole_row = tables.row(*who, state["state_age"])
    try:
        tables.fold = fold
        row, move = tables.row(*who, state["state_age"]), tables.move(*who)
        told = {name: tables.of(name)[row] for name in ("odds", "moves", "seen")} | {"lasts": tables.of("lasts")[move]}
        vectors = tables.vector(row)
    finally:
        tables.fold = None
    for i in range(FOLDS):
        part, mine = without(true_games, games, i), fold[:, 0] == i + 1
        row = part.row(*who, state["state_age"]).where(whole_row > 0, 0)
        for name in ("odds", "moves", "seen"):
            assert torch.equal(told[name][mine].nan_to_num(-99), getattr(part, name)[row][mine].nan_to_num(-99)), name
        lasts = part.lasts[(who[0] * ACTIONS + who[1]).long()]
        assert torch.equal(told["lasts"][mine].nan_to_num(-99), lasts[mine].nan_to_num(-99))
        seldom = part.seen[row] < KNOWN
        assert (vectors[mine & seldom.all(dim=1)] == 0).all()
        assert torch.equal(vectors[mine][~seldom[mine]], tables.vectors[whole_row][mine][~seldom[mine]])
    assert not torch.equal(told["odds"], tables.odds[whole_row])


def test_play_is_told_what_all_games_say_and_the_weights_hold_no_folds(core: ExactCore, window: Unroll) -> None:
    core.true_frames(window)
    assert core.tables.fold is not None
    core.tables.fold = None
    again = ExactCore(ExactConfig(width=16, blocks=0, late=8))
    again.load_state_dict(core.state_dict())
    state = window.state(0)
    past = recall({name: value[0] for name, value in window.carry.items()}, state)
    for of in (core.features, again.features):
        classes = of.classes(state, past, window.match[0])
        row = core.tables.row(state["character"], state["action"], state["state_age"])
        assert torch.equal(classes["self_row"], core.tables.vectors[row])
    assert torch.equal(
        *(of.features.numbers(state, past, window.match[0], window.controllers[1]) for of in (core, again))
    )


def test_a_run_that_goes_on_reads_what_was_measured(core: ExactCore, tmp_path: Path, true_games: Dataset) -> None:
    kept = tmp_path / "folds.pt"
    parts = [MoveTables(), MoveTables()]
    for part in parts:
        part.odds += 1
    torch.save([part.state_dict() for part in parts], kept)
    other = ExactCore(ExactConfig(width=16, blocks=0, late=8))
    other.load_state_dict(core.state_dict())
    measure_folds(other, true_games, [0, 1], 2, kept)
    rows = len(other.tables.odds)
    assert torch.equal(other.tables.folds["odds"][:rows], other.tables.odds)
    assert (other.tables.folds["odds"][rows:] == 1).all()


def test_hidden_moves_are_as_moves_that_were_never_seen(core: ExactCore, window: Unroll) -> None:
    state = window.state(0)
    carry = {name: value[0] for name, value in window.carry.items()}
    taken: list[dict] = []
    original = core.network.trunk

    def trunk(numbers, classes, *rest):
        taken.append(classes)
        return original(numbers, classes, *rest)

    core.network.trunk = trunk  # type: ignore[method-assign]
    try:
        torch.manual_seed(0)
        for dropped in (0.0, 0.3):
            core.run(state, recall(carry, state), window.match[0], window.controllers[1], dropped=dropped)
    finally:
        del core.network.trunk
    plain, some = taken
    for name, index in plain.items():
        hidden = (some[name] == 0) & (index != 0)
        assert torch.equal(some[name][~hidden], index[~hidden])
        if name in OF_MOVES:
            assert 0.2 < hidden.sum() / (index != 0).sum() < 0.4, name
        else:
            assert not hidden.any(), name
