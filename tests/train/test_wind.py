"""Dream Land's wind in the memory: which way it blows, since when, and until when."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from wm_runtime.replays.dataset import Dataset
from wm_runtime.schema import FLOAT_FIELDS, INT_FIELDS
from wm_train.dynamics.kinematics import velocity
from wm_train.dynamics.named import Named, named
from wm_train.dynamics.wind import BOXES, DREAM_LAND, EDGE, GUST, PACE, WIND, blown_by, calm, felt, lately, within
from wm_train.training.whole_games import WholeGames

WAIT, THROWN = 14, 239


def at(*x: float) -> Named:
    """Two fighters who stand at these places."""
    state = named(torch.zeros(1, 2, len(FLOAT_FIELDS)), torch.zeros(1, 2, len(INT_FIELDS), dtype=torch.int32))
    return {**state, "x": torch.tensor([x]), "action": torch.full((1, 2), WAIT, dtype=torch.int32)}


def blown(first: float, second: float, frames: list[tuple[float, float]]) -> Tensor:
    """What is known once two fighters who stand still were moved by so much, frame by frame."""
    wind, last = calm(at(first, second)), at(first, second)
    for one, other in frames:
        state = at(last["x"][0, 0].item() + one, last["x"][0, 1].item() + other)
        wind, last = felt(wind, last, state), state
    return dict(zip(WIND, wind[0].tolist(), strict=True))


def test_a_gust_is_known_from_the_first_whom_it_moves() -> None:
    nothing = blown(20, -80, [(0, 0)] * 3)
    assert (nothing["blows"], nothing["still_right"], nothing["still_left"]) == (0, 1, 0)
    begun = blown(20, -80, [(0, 0)] * 3 + [(PACE, 0)])
    assert (begun["blows"], begun["since"], begun["from_start"]) == (1, 0, 1)
    later = blown(20, -80, [(0, 0)] * 3 + [(PACE, 0)] * 30)
    assert (later["blows"], later["since"], later["from_start"]) == (1, 29, 1)
    assert blown(20, -30, [(0, 0), (0, -PACE)])["blows"] == -1


def test_a_gust_that_was_not_seen_to_begin_may_be_older() -> None:
    found = blown(100, -100, [(0, 0)] * 3 + [(-30, 0)] + [(PACE, 0)] * 5)
    assert (found["blows"], found["from_start"]) == (1, 0)


def test_a_gust_lasts_its_time_or_until_somebody_in_its_way_stands_still() -> None:
    gust = [(0.0, 0.0)] * 3 + [(PACE, 0.0)]
    away = [(200.0, 0.0)]  # nobody is in its way any more
    assert blown(20, -80, [*gust, *away, *[(0.0, 0.0)] * (GUST - 3)])["blows"] == 1
    assert blown(20, -80, [*gust, *away, *[(0.0, 0.0)] * (GUST - 1)])["blows"] == 0
    over = blown(20, -80, [*gust, (PACE, 0.0), (0.0, 0.0)])
    assert (over["blows"], over["since"]) == (0, 0)


@pytest.mark.parametrize("way", [-1, 1])
def test_a_gust_moves_whoever_ends_in_its_box_until_it_is_over(way: int) -> None:
    near, far = BOXES[way]
    x = torch.tensor([[[way * (near + 0.1)], [way * (far + 0.1)]]])
    state, high = at(0.0, 0.0), torch.zeros(1, 2)

    def told(since: float, stage: int = DREAM_LAND.id, **fields: float) -> list[float]:
        after = {**state, **{name: torch.full_like(state[name], value) for name, value in fields.items()}}
        wind = torch.tensor([[float(way), since, 1.0, 0.0, 0.0]])
        return blown_by(wind, state, after, x, high, torch.tensor([stage])).flatten().tolist()

    assert told(3.0) == pytest.approx([way * PACE, 0.0])
    assert told(3.0, hitlag=5.0) == pytest.approx([way * PACE, 0.0])  # on the frame of a blow
    assert told(GUST - 1.0) == [0.0, 0.0]
    assert told(3.0, stage=DREAM_LAND.id + 1) == [0.0, 0.0]
    assert told(3.0, action=THROWN) == [0.0, 0.0]


def test_who_enters_late_does_not_know_when_an_old_gust_began() -> None:
    young, old = (torch.tensor([[1.0, since, 1.0, 0.0, 0.0]]) for since in (100.0, 200.0))
    assert torch.equal(lately(young, 123), young)
    assert lately(old, 123)[0].tolist() == [1, 123, 0, 0, 0]


def test_fighters_in_the_way_of_a_known_gust_are_moved(true_games: Dataset) -> None:
    games = [game for game in range(len(true_games)) if true_games.stage[game] == DREAM_LAND.id][:6]
    if not games:
        pytest.skip("no game on Dream Land among the games at hand")
    corpus = WholeGames(true_games, games)
    state = named(corpus.floats, corpus.ints)
    beside = state["x"][1:] - state["x"][:-1] - velocity(state)[0][1:]
    free = (state["hitlag"][1:] == 0) & (state["hitlag"][:-1] == 0) & (state["action"][1:] == WAIT)
    free &= (corpus.wind[1:, 1] > 0)[:, None]  # not on its first frame, and within one game
    blows = corpus.wind[:-1, :1]
    along, up = velocity(state)
    x, y = state["x"][:-1] + along[1:], state["y"][:-1] + up[1:]
    known = free & (((blows > 0) & within(x, y, 1, EDGE)) | ((blows < 0) & within(x, y, -1, EDGE)))
    moved = (beside * blows - PACE).abs() < 0.01
    if not known.any():
        pytest.skip("nobody stands in the wind in the games at hand")
    assert (known & moved).sum() >= 0.85 * known.sum()
    anyhow = free & ((beside.abs() - PACE).abs() < 0.003)
    assert (anyhow & known & moved).sum() >= 0.8 * anyhow.sum()


def test_a_corpus_tells_the_wind_of_the_frame_before(true_games: Dataset) -> None:
    corpus = WholeGames(true_games, [0])
    rows = corpus.draw(8, 3, np.random.default_rng(0))
    told = corpus.read(rows, 3).carry["wind"]
    assert torch.equal(told[1], corpus.wind[torch.from_numpy(rows)])
