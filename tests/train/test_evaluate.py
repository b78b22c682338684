"""The evaluator scores the truth as perfect, and its baselines as numpy does on the same windows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from wm_runtime.artifact import Artifact
from wm_runtime.errors import UserError
from wm_runtime.replays.dataset import Dataset, DatasetWriter, data_fingerprint
from wm_runtime.schema import FIRST_FRAME, State
from wm_runtime.simulator import Simulator
from wm_train.evaluate.bootstrap import Scores
from wm_train.evaluate.figures import HEADLINE, Case
from wm_train.evaluate.report import FIGURES, Extent, evaluate
from wm_train.evaluate.rollout import ALL_FIELDS, Prediction, constant_velocity, hold, run_model, truth
from wm_train.evaluate.windows import Window, read_windows, sample_starts

HISTORY, HORIZON, SCORED = 64, 20, 32
COUNT = 300


@pytest.fixture(scope="module")
def window(true_games: Dataset) -> Window:
    return read_windows(true_games, *sample_starts(true_games, COUNT, HORIZON, seed=1), HISTORY, HORIZON)


@pytest.fixture(scope="module")
def report(artifact: Artifact, true_games: Dataset) -> dict[str, Any]:
    return evaluate(artifact, true_games, Extent(COUNT, seed=1))


def scores(window: Window, prediction: Prediction) -> dict[str, float]:
    """Every figure over all windows."""
    sums = {name: figure.of(Case(window, prediction)) for name, figure in FIGURES.items()}
    return {name: top.sum() / bottom.sum() if bottom.sum() else np.nan for name, (top, bottom) in sums.items()}


def by_hand(dataset: Dataset, games: np.ndarray, frames: np.ndarray, steps: int, speed: float) -> np.ndarray:
    """RC@steps of each window, straight from the games' columns: the position at t plus k · speed · its last change."""
    out = []
    for game, frame in zip(games, frames, strict=True):
        columns, row = dataset.columns(int(game)), int(frame) - FIRST_FRAME
        errors = []
        for k in range(1, steps + 1):
            for player in range(2):
                guess = [v[row] + k * speed * (v[row] - v[row - 1]) for v in (columns["x"], columns["y"])]
                true = [v[row + k] for v in (columns["x"], columns["y"])]
                errors.append(sum(abs(float(g[player]) - float(t[player])) for g, t in zip(guess, true, strict=True)))
        out.append(np.mean(errors) / 2)
    return np.array(out)


def lives(dataset: Dataset, games: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """Windows in which nobody is in an action state 0 to 13 from t to t + 20."""
    rows = [slice(f - FIRST_FRAME, f - FIRST_FRAME + HORIZON + 1) for f in frames]
    actions = [dataset.columns(int(g), r.start, r.stop)["action"] for g, r in zip(games, rows, strict=True)]
    return np.array([(a > 13).all() for a in actions])


# --- windows ---------------------------------------------------------------------------------------------------------


def test_starts_are_drawn_from_all_frames_with_a_future(dataset: Dataset) -> None:
    everything = sample_starts(dataset, 10**9, HORIZON)
    assert len(everything[0]) == sum(frames + FIRST_FRAME - HORIZON for frames in dataset.frames)
    assert len(set(zip(*(a.tolist() for a in everything), strict=True))) == len(everything[0])
    assert everything[1].min() == 0
    assert (everything[1] + HORIZON == dataset.frames[everything[0]] + FIRST_FRAME - 1).any()
    some, same, other = (sample_starts(dataset, 50, HORIZON, seed) for seed in (1, 1, 2))
    assert np.array_equal(some, same)
    assert not np.array_equal(some, other)


def test_a_window_holds_its_past_and_its_future(true_games: Dataset, window: Window) -> None:
    games, frames = sample_starts(true_games, COUNT, HORIZON, seed=1)
    for i in (0, COUNT // 2, COUNT - 1):
        first = frames[i] - FIRST_FRAME - HISTORY
        columns = true_games.columns(int(games[i]), first, first + HISTORY + 1 + HORIZON)
        for name in ("x", "percent", "action"):
            assert np.array_equal(window.field(name)[i], columns[name])
        assert window.at(HISTORY)["frame"][i] == frames[i]


@pytest.mark.parametrize(("row", "counts"), [(HISTORY - 1, False), (HISTORY, True), (HISTORY + HORIZON, True)])
@pytest.mark.parametrize(("action", "dying"), [(0, True), (13, True), (14, False)])
def test_a_death_counts_from_the_start_frame_to_the_last(row: int, counts: bool, action: int, dying: bool) -> None:
    length = HISTORY + 1 + HORIZON
    truth = State.zeros(2 * length)
    truth["action"] = 20
    truth["action"][length + row, 1] = action
    two = Window(np.zeros(2, int), truth, np.zeros((2, length, 2, 13), np.float32), HISTORY, HORIZON)
    assert two.no_death().tolist() == [True, not (counts and dying)]


def test_games_that_are_too_short_are_a_user_error(dataset: Dataset, tmp_path) -> None:
    game = dataset.game(0)
    game.columns = {name: column[:130] for name, column in game.columns.items()}
    with DatasetWriter(tmp_path) as writer:
        writer.add(game)
    with pytest.raises(UserError, match="no game lasts 20 frames"):
        sample_starts(Dataset(tmp_path), 10, HORIZON)


# --- figures ---------------------------------------------------------------------------------------------------------


def test_the_truth_scores_perfectly(window: Window) -> None:
    found = scores(window, truth(window, SCORED))
    for name, value in found.items():
        if not np.isnan(value):
            assert value == (0 if FIGURES[name].better == "lower" else 1), name
    assert all(not np.isnan(found[name]) for name in HEADLINE)
    assert len(found) >= len(ALL_FIELDS) * 2 + len(HEADLINE)


def changed(window: Window, change: Callable[[Prediction], None]) -> dict[str, float]:
    prediction = truth(window, SCORED)
    change(prediction)
    return scores(window, prediction)


def test_a_known_error_is_measured_as_it_is(window: Window) -> None:
    def shift(p: Prediction) -> None:
        p.free["x"][:, :, 0] += 0.5
        p.free["y"][:, 10:, 1] -= 2.0
        p.free["percent"][:, -1] += 3

    found = changed(window, shift)
    assert found["RC@1"] == pytest.approx(0.5 / 4, rel=1e-4)
    assert found["RC@5"] == pytest.approx(0.5 / 4, rel=1e-4)
    assert found["RC@20"] == pytest.approx((0.5 + 2.0 / 2) / 4, rel=1e-4)
    assert found["percent_mae@20"] == pytest.approx(3, rel=1e-4)
    assert found["exact@20"] == 0
    assert found["action@20"] == 1


def test_one_inexact_frame_makes_a_player_inexact(window: Window) -> None:
    def slip(p: Prediction) -> None:
        p.free["y"][::2, 7, 1] += 0.3

    assert changed(window, slip)["exact@20"] == pytest.approx(1 - (COUNT // 2) / (2 * COUNT))


def test_age_counts_where_the_action_is_right(window: Window) -> None:
    def wrong(p: Prediction) -> None:
        p.free["state_age"][:, -1, 0] += 0.5
        p.free["action"][: COUNT // 2, -1, 0] += 1

    found = changed(window, wrong)
    assert found["age@20"] == pytest.approx(COUNT / (COUNT + COUNT - COUNT // 2))
    assert found["action@20"] == pytest.approx(1 - 0.5 / 40)


def test_changes_are_counted_among_the_living_alone(window: Window) -> None:
    def held(p: Prediction) -> None:
        p.one_step.update(hold(window, SCORED).one_step)

    assert changed(window, held)["change_acc"] == 0
    assert changed(window, held)["hit_recall"] == 0
    assert np.isnan(changed(window, held)["hit_precision"])

    def dead_wrong(p: Prediction) -> None:
        now = window.field("action")[:, HISTORY + 2 - SCORED : HISTORY + 2]
        before = window.field("action")[:, HISTORY + 1 - SCORED : HISTORY + 1]
        dying = ((now <= 13) | (before <= 13)).any(axis=2)
        assert dying.any()
        p.one_step["action"][dying] = 399

    assert changed(window, dead_wrong)["change_acc"] == 1


def test_false_hits_cost_precision_and_missed_ones_recall(window: Window) -> None:
    def invent(p: Prediction) -> None:
        p.one_step["percent"] += 1

    assert changed(window, invent)["hit_recall"] == 1
    assert 0 < changed(window, invent)["hit_precision"] < 0.2


# --- baselines -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("baseline", "speed"), [(hold, 0.0), (constant_velocity, 1.0)])
@pytest.mark.parametrize("steps", [1, 5, 20])
def test_baselines_equal_numpy_on_the_same_windows(baseline, speed, steps, true_games: Dataset, window: Window) -> None:
    games, frames = sample_starts(true_games, COUNT, HORIZON, seed=1)
    found, _ = FIGURES[f"RC@{steps}"].of(Case(window, baseline(window, SCORED)))
    np.testing.assert_allclose(
        found.mean(axis=1), by_hand(true_games, games, frames, steps, speed), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("baseline", [hold, constant_velocity])
def test_a_baseline_of_one_step_starts_from_the_true_frame_before(baseline, window: Window) -> None:
    prediction = baseline(window, SCORED)
    true = {name: window.field(name) for name in ALL_FIELDS}
    for s in range(SCORED):
        before = HISTORY + 1 - SCORED + s
        expected = true["x"][:, before]
        if baseline is constant_velocity:
            expected = expected + (true["x"][:, before] - true["x"][:, before - 1])
        np.testing.assert_allclose(prediction.one_step["x"][:, s], expected, atol=1e-5)
        assert np.array_equal(prediction.one_step["action"][:, s], true["action"][:, before])


# --- the model -------------------------------------------------------------------------------------------------------


def test_a_model_is_run_from_its_history_and_then_fed_back(artifact: Artifact, window: Window) -> None:
    some = window.select(np.arange(4))
    found = run_model(Simulator(artifact, 4, threads=1), some, SCORED)
    simulator = Simulator(artifact, 4, threads=1)
    simulator.reset(some.start(last=0))
    for row in range(HISTORY + 1):
        for name, array in vars(simulator.state).items():
            np.copyto(array, getattr(some.at(row), name))
        simulator.step(np.ascontiguousarray(some.controllers[:, row + 1]))
        if row >= HISTORY + 1 - SCORED:
            assert np.array_equal(found.one_step["x"][:, row - HISTORY - 1 + SCORED], simulator.state["x"])
    for k in range(HORIZON):
        assert np.array_equal(found.free["y"][:, k], simulator.state["y"])
        if k + 1 < HORIZON:
            simulator.step(np.ascontiguousarray(some.controllers[:, HISTORY + 2 + k]))
    assert found.free["x"].shape == (4, HORIZON, 2)
    assert found.one_step["x"].shape == (4, SCORED, 2)


# --- the report ------------------------------------------------------------------------------------------------------


def test_every_figure_lies_in_its_interval(report: dict[str, Any]) -> None:
    tables = [report, *report["baselines"].values()]
    cells = [table[kind][figure] for table in tables for kind in ("no_death", "all") for figure in FIGURES]
    measured = [c for c in cells if c["value"] is not None]
    assert len(measured) > len(cells) / 2
    assert all(c["low"] - 1e-9 <= c["value"] <= c["high"] + 1e-9 for c in measured)
    assert sum(c["low"] < c["high"] for c in measured) > len(measured) / 3


def test_the_report_says_what_was_measured(report: dict[str, Any], artifact: Artifact, true_games: Dataset) -> None:
    games, frames = sample_starts(true_games, COUNT, HORIZON, seed=1)
    assert report["measured"] == {
        "model": artifact.name,
        "dataset": data_fingerprint(true_games.md5),
        "games": len(true_games),
        "windows": {"no_death": int(lives(true_games, games, frames).sum()), "all": COUNT},
        "rollouts": 0,
        "matches": 0,
        "one_step_frames": COUNT * SCORED * 2,
        "seed": 1,
    }
    assert report["measured"]["windows"]["no_death"] < COUNT


@pytest.mark.parametrize("kind", ["no_death", "all"])
@pytest.mark.parametrize(("baseline", "speed"), [("hold", 0.0), ("constant_velocity", 1.0)])
@pytest.mark.parametrize("steps", [5, 20])
def test_the_reported_baselines_equal_numpy(kind, baseline, speed, steps, report, true_games: Dataset) -> None:
    games, frames = sample_starts(true_games, COUNT, HORIZON, seed=1)
    mask = lives(true_games, games, frames) if kind == "no_death" else np.ones(COUNT, bool)
    expected = by_hand(true_games, games[mask], frames[mask], steps, speed).mean()
    assert report["baselines"][baseline][kind][f"RC@{steps}"]["value"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("baseline", "known"), [
    (hold, {"RC@20": 6.14, "RC@5": 1.93}), (constant_velocity, {"RC@20": 5.79, "RC@5": 0.90}),
])  # fmt: skip
def test_real_baselines_are_what_all_of_val_has_within_sampling_error(baseline, known, real_dataset: Dataset) -> None:
    """Known are the means over every no-death start of 98 games; these are windows of 23 of them."""
    window = read_windows(real_dataset, *sample_starts(real_dataset, 1500, HORIZON), HISTORY, HORIZON)
    window = window.select(np.flatnonzero(window.no_death()))
    case = Case(window, baseline(window, 1))
    sums = np.stack([np.stack(HEADLINE[name].of(case), axis=-1) for name in known], axis=2)
    found = Scores(tuple(known), sums, window.game).table()
    for name, value in known.items():
        spread = found[name]["high"] - found[name]["low"]
        assert spread < 0.35 * value
        assert abs(found[name]["value"] - value) < spread
