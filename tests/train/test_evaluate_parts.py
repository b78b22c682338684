"""Long windows, free rollouts, play, comparison, substitution and quick figures keep what docs/fidelity.md says."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from wm_runtime.artifact import Artifact
from wm_runtime.errors import UserError
from wm_runtime.facts import FAMILIES, STAGES
from wm_runtime.replays.dataset import Dataset
from wm_runtime.replays.rules import RULE, RULES
from wm_runtime.schema import CONTROL_NAMES, FIELDS, MATCH_FRAMES, VELOCITIES, State
from wm_runtime.simulator import Simulator
from wm_runtime.starts import Start
from wm_train.evaluate import horizon
from wm_train.evaluate.bootstrap import Scores, resampled
from wm_train.evaluate.compare import paired
from wm_train.evaluate.figures import HEADLINE, UNBOUNDED, Case, difference
from wm_train.evaluate.free import LISTED, Rollout, roll, table, true_rollout, violations
from wm_train.evaluate.parts import commonest, confusions
from wm_train.evaluate.play import STATISTICS, compared, play_out, playing, real_statistics, spawns, statistics
from wm_train.evaluate.plot import check_picture, plot_curves
from wm_train.evaluate.quick import headline, quick, quick_windows
from wm_train.evaluate.report import Extent, evaluate
from wm_train.evaluate.rollout import hold, run_model, substituted, truth
from wm_train.evaluate.windows import Window, read_windows, sample_starts
from wm_train.export import as_shipped
from wm_train.training.checkpoint import load_checkpoint

HISTORY, HORIZON, SCORED = 64, 20, 32


class Idle:
    """Presses nothing."""

    def reset(self, mask: np.ndarray | None = None) -> None:
        pass

    def act(self, state: State) -> np.ndarray:
        return np.zeros((len(state), len(CONTROL_NAMES)), np.float32)


class Scripted:
    """N matches whose states are told beforehand: what a model that is `change`d truth would be."""

    def __init__(self, window: Window, change: Callable[[State], None] = lambda state: None):
        self._window, self._change, self._row = window, change, 0
        self.state = window.at(0)
        self.carry: dict[str, np.ndarray] = {}

    def reset(self, start: Start) -> None:
        self._row, self.state = 0, self._window.at(0)

    def step(self, controllers: np.ndarray) -> None:
        self._row += 1
        self.state = self._window.at(self._row)
        self._change(self.state)


@pytest.fixture(scope="module")
def window(true_games: Dataset) -> Window:
    return read_windows(true_games, *sample_starts(true_games, 60, HORIZON, seed=2), HISTORY, HORIZON)


# --- figures by part -------------------------------------------------------------------------------------------------


def test_a_value_that_is_not_finite_is_a_large_error_and_no_nan() -> None:
    found = difference(np.array([np.nan, np.inf, 1, np.nan]), np.array([1.0, 1, 3, np.nan]))
    assert found.tolist() == [UNBOUNDED, UNBOUNDED, 2, 0]


def test_the_commonest_wrong_transitions_are_listed_by_name(window: Window) -> None:
    case = Case(window, hold(window, SCORED))
    wrong, of = confusions(case)
    before, after, _ = case.steps("action")
    assert len(wrong) == len(of) == int(((before != after) & case.alive()).sum())
    rows = commonest(wrong)
    assert rows[0]["count"] == max(row["count"] for row in rows)
    assert all(row["from"] == row["predicted"] or row["from"].startswith("SPECIAL") for row in rows)
    assert sum(row["share"] for row in rows) <= 1 + 1e-9


def test_the_truth_scores_perfectly_beyond_a_second(true_games: Dataset) -> None:
    long = read_windows(true_games, *sample_starts(true_games, 120, horizon.HORIZON, seed=5), 1, horizon.HORIZON)
    case = Case(long, truth(long, 1, horizon.FIELDS))
    for name, figure in horizon.FIGURES.items():
        top, bottom = figure.of(case)
        assert bottom.sum() > 0, name
        assert top.sum() == (0 if figure.better == "lower" else bottom.sum()), name
    curves = horizon.Curves()
    curves.add("truth", case)
    report = curves.report()
    assert len(report["frames"]) == horizon.HORIZON
    assert not any(report["truth"]["position_error_mean"])
    assert set(report["truth"]["action_right"]) == {1.0}


@pytest.mark.parametrize(("late", "found"), [(0, True), (10, True), (-10, True), (11, False), (-11, False)])
def test_a_stock_loss_is_found_within_ten_frames_on_the_same_player(late: int, found: bool) -> None:
    length = HISTORY + 1 + 100
    state = State.zeros(length)
    state["stocks"] = 4
    state["stocks"][HISTORY + 50 :, 1] = 3
    one = Window(np.zeros(1, int), state, np.zeros((1, length, 2, 13), np.float32), HISTORY, 100)
    said = truth(one, 1, horizon.FIELDS)
    said.free["stocks"][:] = 4
    said.free["stocks"][:, 49 + late :, 1] = 3
    for player, right in ((1, found), (0, False)):
        if player == 0:
            said.free["stocks"] = said.free["stocks"][:, :, ::-1].copy()
        for of in ("recall", "precision"):
            top, bottom = horizon.FIGURES[f"stock_loss_{of}"].of(Case(one, said))
            assert (top.sum(), bottom.sum()) == (int(right), 1)


# --- substitution ----------------------------------------------------------------------------------------------------


def test_groups_and_fields_can_be_named_and_nothing_else() -> None:
    assert substituted("velocity, action") == (*VELOCITIES, "action")
    assert substituted("") == ()
    with pytest.raises(UserError, match="cannot substitute 'speed': choose of position, velocity"):
        substituted("speed")


def test_what_is_substituted_is_the_truth_at_every_free_step(artifact: Artifact, window: Window) -> None:
    seen: list[np.ndarray] = []

    class Watched(Simulator):
        def step(self, controllers: np.ndarray) -> State:
            seen.append(self.state["action"].copy())
            return super().step(controllers)

    def actions(substitute: tuple[str, ...]) -> np.ndarray:
        seen.clear()
        run_model(Watched(artifact, len(window), threads=1), window, 1, substitute=substitute)
        return np.stack(seen, axis=1)[:, HISTORY:]

    true = window.field("action")[:, HISTORY:-1]
    assert np.array_equal(actions(("action",)), true)
    assert not np.array_equal(actions(()), true)


def test_substituting_everything_leaves_one_step_errors(artifact: Artifact, window: Window) -> None:
    every = tuple(f.name for f in FIELDS)
    free = run_model(Simulator(artifact, len(window), threads=1), window, 1)
    fed = run_model(Simulator(artifact, len(window), threads=1), window, 1, substitute=every)
    assert Case(window, fed).error().mean() < Case(window, free).error().mean()
    assert np.array_equal(fed.free["x"][:, 0], free.free["x"][:, 0])


# --- free rollouts ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def minutes(true_games: Dataset) -> Rollout:
    """Ten seconds of some games."""
    some = read_windows(true_games, *sample_starts(true_games, 24, 500, seed=3), 0, 500)
    return true_rollout(some)


def test_real_games_keep_every_rule(real_dataset: Dataset) -> None:
    some = read_windows(real_dataset, *sample_starts(real_dataset, 60, 1200, seed=3), 0, 1200)
    found = table(violations(true_rollout(some)), some.game)
    assert {name: row["value"] for name, row in found.items()} == dict.fromkeys(found, 0)
    assert set(LISTED) <= set(RULE)
    assert set(found) == {"violations", "violations_all", *(f"broken_{rule.name}" for rule in RULES)}


def test_breaks_are_counted_by_match_per_thousand_frames(minutes: Rollout) -> None:
    before = violations(minutes)
    columns = {name: values.copy() for name, values in minutes.columns.items()}
    columns["facing"][101, 5] = 0
    columns["facing"][301:303, 5, 1] = 0
    after = violations(Rollout(columns, minutes.stage))
    facing = [rule.name for rule in RULES].index("facing")
    assert (after - before)[5, facing, 0] == 3 * 1000
    found = table(after, np.arange(len(after)))
    assert found["broken_facing"]["value"] == pytest.approx(3000 / before[:, 0, 1].sum())
    assert found["violations"]["value"] >= found["broken_facing"]["value"]


def test_frames_after_the_end_of_a_match_do_not_count() -> None:
    stocks = np.full((6, 2, 2), 1)
    stocks[3:, 1, 0] = 0
    live = Rollout({"stocks": stocks}, np.zeros(2, int)).live()
    assert live.tolist() == [[True, True], [True, True], [True, True], [True, False], [True, False]]


def test_a_rollout_is_fed_its_own_states_and_begins_with_its_start(artifact: Artifact, true_games: Dataset) -> None:
    start = spawns(true_games, 6, seed=1)
    rollout = roll(Simulator(artifact, 6, threads=1), start, playing((Idle(), Idle())), 5)
    simulator = Simulator(artifact, 6, threads=1)
    simulator.reset(start)
    for k in range(6):
        assert np.array_equal(rollout.columns["y"][k], simulator.state["y"])
        simulator.step(np.zeros((6, 2, 13), np.float32))
    assert sorted(rollout.stage.tolist()) == sorted(s.id for s in STAGES)


# --- play ------------------------------------------------------------------------------------------------------------


def test_characters_are_drawn_as_the_dataset_has_them(true_games: Dataset) -> None:
    pairs = {tuple(pair) for pair in true_games.characters.tolist()}
    found = {tuple(pair) for pair in spawns(true_games, 30, seed=4).states["character"].tolist()}
    assert found <= pairs
    assert len(found) > 1 or len(pairs) == 1


def test_statistics_are_means_over_player_frames(minutes: Rollout) -> None:
    found = statistics(minutes)
    live, columns = minutes.live(), minutes.columns
    assert found[:, 0, 1].sum() == 2 * live.sum()
    by_hand = sum(((columns["airborne"][1:, :, p] == 1) & live).sum() for p in range(2))
    assert found[:, 0, 0].sum() == by_hand
    rises = np.maximum(np.diff(columns["percent"].astype(np.float64), axis=0), 0) * live[:, :, None]
    damage = list(STATISTICS).index("damage_per_minute")
    assert found[:, damage, 0].sum() == pytest.approx(3600 * rises.sum())
    np.testing.assert_allclose(found[:, len(STATISTICS) :, 0].sum(axis=1), found[:, 0, 1])


def test_a_dataset_is_like_itself(true_games: Dataset) -> None:
    real = real_statistics(true_games, 400)
    ours, theirs = compared(real, real)
    assert ours["families_tv"]["value"] == 0
    for name in STATISTICS:
        if theirs[name]["value"]:
            assert ours[f"{name}_ratio"]["value"] == pytest.approx(1)
    assert sum(theirs[f"family_{name}"]["value"] for name in FAMILIES) == pytest.approx(1)
    assert 0 < theirs["families_tv"]["value"] < 1


def test_a_match_ends_when_a_side_is_out_of_stocks_or_at_the_limit() -> None:
    length = 31
    state = State.zeros(3 * length)
    state["stocks"] = 1
    state["stocks"][length + 7 : 2 * length, 0] = 0
    state.floats[2 * length + 20, 0, 0] = np.nan
    told = Window(np.zeros(3, int), state, np.zeros((3, length, 2, 13), np.float32), 0, length - 1)
    idle = playing((Idle(), Idle()))
    end, finite = play_out(Scripted(told), told.start(last=0), idle, limit=length - 1)
    assert end.tolist() == [30, 7, 30]
    assert finite.tolist() == [True, True, False]
    assert MATCH_FRAMES == 8 * 60 * 60


# --- comparison ------------------------------------------------------------------------------------------------------


def scored(window: Window, shift: float) -> Scores:
    said = truth(window, SCORED)
    said.free["x"] += shift * (1 + window.game % 3)[:, None, None]
    sums = np.stack([np.stack(figure.of(Case(window, said)), axis=-1) for figure in HEADLINE.values()], axis=2)
    return Scores(tuple(HEADLINE), sums, window.game)


def test_a_paired_difference_has_less_noise_than_two_tables(window: Window) -> None:
    everywhere = np.ones(len(window), bool)
    near, far = scored(window, 1.0), scored(window, 1.1)
    row = paired(near, far, HEADLINE, everywhere)["RC@20"]
    assert row["value"] == pytest.approx(near.table()["RC@20"]["value"] - far.table()["RC@20"]["value"])
    assert row["low"] <= row["value"] <= row["high"] < 0
    assert near.table()["RC@20"]["high"] > far.table()["RC@20"]["low"]
    assert (row["better"], row["worse"]) == (1, 0)
    assert set(paired(near, near, HEADLINE, everywhere)["RC@20"].values()) == {0}


def test_a_table_counts_only_what_it_is_asked_to(window: Window) -> None:
    scores = scored(window, 1.0)
    chosen = np.zeros((len(window), 2), bool)
    chosen[:7, 1] = True
    by_hand = scores.sums[:7, 1, list(HEADLINE).index("RC@20"), 0].mean()
    assert scores.table(chosen, ("RC@20",))["RC@20"]["value"] == pytest.approx(by_hand)


def test_games_are_resampled_whole() -> None:
    by_game = np.array([[1.0, 1], [0, 1], [0, 1]])
    drawn = resampled(by_game)
    assert set(np.unique(drawn[:, 1])) == {3}
    assert set(np.unique(drawn[:, 0])) == {0, 1, 2, 3}


# --- quick figures, the whole report ---------------------------------------------------------------------------------


def test_quick_windows_are_the_same_every_time_without_deaths_and_of_the_games_named(true_games: Dataset) -> None:
    games = [0, 2, 5]
    windows, again = (quick_windows(true_games, 40, games) for _ in range(2))
    assert windows.no_death().all()
    assert 20 < len(windows) <= 40
    assert set(windows.game) <= set(games)
    assert np.array_equal(windows.truth.floats, again.truth.floats)


def test_quick_figures_are_those_of_whatever_steps(true_games: Dataset) -> None:
    windows = quick_windows(true_games, 40)

    def drift(state: State) -> None:
        state["x"] += 0.5

    assert headline(Scripted(windows), windows)["RC@20"] == 0
    assert headline(Scripted(windows, drift), windows)["RC@20"] == pytest.approx(0.25, rel=1e-4)


def test_a_model_in_memory_scores_what_its_artifact_does(run: Path, artifact: Artifact, true_games: Dataset) -> None:
    windows = quick_windows(true_games, 60)
    model = as_shipped(load_checkpoint(run / "best.pt")[0]).train()
    found, shipped = quick(model, windows), headline(Simulator(artifact, len(windows), threads=1), windows)
    assert model.training
    assert set(found) == set(HEADLINE)
    assert 0.1 < found["RC@20"] < 100
    for name in ("RC@1", "RC@5", "RC@20", "change_acc", "action@20"):
        assert found[name] == pytest.approx(shipped[name], rel=0.01), name


def test_the_whole_report_is_made_of_numbers_or_none_and_can_be_drawn(
    artifact: Artifact, dataset: Dataset, tmp_path: Path
) -> None:
    found = evaluate(
        artifact, dataset, Extent(24, 8, rollouts=4, rollout_frames=60), other=replace(artifact),
        players=lambda matches, seed: (Idle(), Idle()),
    )  # fmt: skip
    json.dumps(found, allow_nan=False)
    assert {"no_death", "all", "baselines", "measured", "breakdown", "confusions", "curves", "compare", "other", "real",
            "free_true", "free_policy", "play"} <= set(found)  # fmt: skip
    assert found["other"]["all"] == found["all"]
    assert all(row["value"] in (0, None) for row in found["compare"]["all"].values())
    assert found["curves"]["frames"] == list(range(1, 301))
    assert "stock_loss_recall" in found["all"]
    players = sum(row["windows"] for row in found["breakdown"]["stage"].values())
    assert players == 2 * found["measured"]["windows"]["no_death"]
    plot_curves(found, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]


def test_a_picture_of_no_known_format_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"curves.xyz: no format for pictures"):
        check_picture(tmp_path / "curves.xyz")
