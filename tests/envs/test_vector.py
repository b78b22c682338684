"""N matches are one batch that keeps Gymnasium's contract in every autoreset mode; each argument does what it says."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers.vector import RecordEpisodeStatistics

from wm_envs.env import MeleeEnv
from wm_envs.matches import NOT_FINITE, TIME, UNCERTAIN, warn_outside_domain
from wm_envs.opponents import Attacker, Mixed, Neutral, Opponent, Policy, Random
from wm_envs.spaces import ACTION_SPACES, DISCRETE, OBSERVATION_SPACES
from wm_envs.vector import MeleeVectorEnv, of_match
from wm_runtime.artifact import Artifact
from wm_runtime.errors import UserError
from wm_runtime.facts import STAGES, character, stage
from wm_runtime.replays.dataset import Dataset
from wm_runtime.schema import C_, CONTROLS, MATCH_FRAMES, State
from wm_runtime.simulator import Simulator
from wm_runtime.starts import Start, spawn, stack

Make = Callable[..., MeleeVectorEnv]
N = 5


@pytest.fixture
def make(artifact: Artifact) -> Make:
    def make_one(num_envs: int = N, **arguments: Any) -> MeleeVectorEnv:
        return MeleeVectorEnv(num_envs, **{"model": artifact, **arguments})

    return make_one


def doomed(count: int, stocks: tuple[int, ...]) -> Start:
    """Matches on Battlefield whose player 1, with so many stocks, is beyond the blast zone: it loses one next frame."""
    start = stack([spawn("BATTLEFIELD", ("FOX", "FALCO"))] * count)
    start.states["x"][:, 0] = stage("BATTLEFIELD").blast.left - 50
    start.states["airborne"][:, 0] = 1
    start.states["stocks"][:, 0] = stocks
    return start


def actions_of(env: MeleeVectorEnv, count: int, seed: int = 0) -> list[Any]:
    env.action_space.seed(seed)
    return [env.action_space.sample() for _ in range(count)]


def play(env: MeleeVectorEnv, count: int, seed: int = 3) -> list[tuple[np.ndarray, ...]]:
    first, _ = env.reset(seed=seed)
    return [(first,)] + [env.step(action)[:4] for action in actions_of(env, count)]


def same(one: list[tuple], other: list[tuple]) -> bool:
    return all(np.array_equal(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True))


class Watcher(Opponent):
    """Presses nothing and keeps a record of how it was asked."""

    def __init__(self) -> None:
        self.resets: list[list[bool]] = []
        self.batches: list[int] = []

    def reset(self, mask: np.ndarray, rng: np.random.Generator) -> None:
        self.resets.append(mask.tolist())

    def act(self, state: State, out: np.ndarray) -> None:
        self.batches.append(len(state))
        out[:] = 0


# --- the batch -------------------------------------------------------------------------------------------------------


def test_make_vec_makes_one_batch(artifact: Artifact) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gym.make_vec("MeleeWorldModel-v0", num_envs=N, model=artifact.path)
    assert isinstance(env, MeleeVectorEnv)
    assert env.simulator.num_matches == env.num_envs == N
    assert env.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    assert MeleeVectorEnv.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    observations, infos = env.reset(seed=0)
    assert env.observation_space.contains(observations)
    assert infos["stocks"].tolist() == [[4, 4]] * N
    observations, rewards, terminated, truncated, infos = env.step(env.action_space.sample())
    assert env.observation_space.contains(observations)
    assert [a.shape for a in (rewards, terminated, truncated)] == [(N,)] * 3
    assert infos["frame"].tolist() == [1] * N
    assert infos["_frame"].all()
    assert infos["reward_terms"]["_damage_dealt"].all()


def test_whatever_an_argument_is_gymnasium_keeps_it_in_the_spec(artifact: Artifact) -> None:
    earlier = Simulator(artifact, 2, threads=1)
    earlier.reset(spawn("BATTLEFIELD", ("FOX", "FALCO")))
    arguments = {"model": artifact, "starts": earlier.save(), "opponent": [Policy(delay=18), "random"]}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        single = gym.make("MeleeWorldModel-v0", **arguments)
        many = gym.make_vec("MeleeWorldModel-v0", num_envs=2, **arguments)
        again = gym.make(single.spec)
    for env in (single, many, again):
        env.reset(seed=0)
        env.step(env.action_space.sample())
        assert set(arguments) <= set(env.spec.kwargs)


@pytest.mark.parametrize("observation", OBSERVATION_SPACES)
@pytest.mark.parametrize("action_space", ACTION_SPACES)
def test_a_batch_plays_as_its_matches_do_alone(observation: str, action_space: str, make: Make) -> None:
    arguments = {"observation": observation, "action_space": action_space, "frame_skip": 2, "reaction_delay": 3}
    batch, alone = make(**arguments), make(1, **arguments)
    batch.reset(seed=0)
    alone.reset(seed=0)
    for actions in actions_of(batch, 20):
        seen = batch.step(actions)
        mine = {k: v[2:3] for k, v in actions.items()} if isinstance(actions, dict) else actions[2:3]
        expected = alone.step(mine)
        for a, b in zip(parts(seen[0]), parts(expected[0]), strict=True):
            assert np.allclose(a[2], b[0], atol=1e-4)
        assert batch.observation_space.contains(seen[0])
        assert seen[1][2] == pytest.approx(expected[1][0], abs=1e-4)


def parts(observations: Any) -> list[np.ndarray]:
    return list(observations.values()) if isinstance(observations, dict) else [observations]


@pytest.mark.parametrize("mode", AutoresetMode)
def test_the_same_seed_gives_the_same_play(mode: AutoresetMode, make: Make) -> None:
    arguments = {"opponent": ["random", "policy"], "stage": ["BATTLEFIELD", "DREAM_LAND"], "autoreset_mode": mode}
    limit = None if mode is AutoresetMode.DISABLED else 7
    one, other = (make(time_limit=limit, **arguments) for _ in range(2))
    first, again, elsewhere = play(one, 30), play(other, 30), play(other, 30, seed=4)
    assert same(first, again)
    assert not same(first, elsewhere)
    assert same(play(one, 30), first)


def test_a_match_is_the_same_in_the_single_environment(artifact: Artifact, make: Make) -> None:
    single, batch = MeleeEnv(model=artifact, opponent="random"), make(1, opponent="random")
    seen, _ = single.reset(seed=5)
    assert np.array_equal(seen, batch.reset(seed=5)[0][0])
    for actions in actions_of(batch, 30):
        alone, (observations, rewards, *_, infos) = single.step(actions[0]), batch.step(actions)
        assert np.array_equal(alone[0], observations[0])
        assert alone[1] == rewards[0]
        assert alone[4] == of_match(infos, 0)


# --- the end of a match, in each mode --------------------------------------------------------------------------------


def test_next_step_begins_a_match_on_the_step_after_its_end(make: Make) -> None:
    watcher = Watcher()
    env = make(starts=doomed(1, (2,)), opponent=watcher, autoreset_mode=AutoresetMode.NEXT_STEP)
    env.reset(seed=0)
    env.simulator.state["stocks"][[1, 3], 0] = 1
    nothing = np.zeros((N, 7), int)
    observations, rewards, terminated, truncated, infos = env.step(nothing)
    assert terminated.tolist() == [False, True, False, True, False]
    assert not truncated.any()
    assert infos["stocks"][:, 0].tolist() == [1, 0, 1, 0, 1]
    assert (infos["reward_terms"]["stocks_lost"] == 1).all()
    last = observations.copy()
    _, rewards, terminated, truncated, infos = env.step(nothing)
    assert not terminated.any()
    assert not truncated.any()
    assert rewards[[1, 3]].tolist() == [0, 0]
    assert infos["frame"].tolist() == [2, 0, 2, 0, 2]
    assert infos["stocks"][[1, 3], 0].tolist() == [2, 2]
    assert infos["_reward_terms"].tolist() == [True, False, True, False, True]
    assert watcher.resets == [[True] * N, [False, True, False, True, False]]
    assert watcher.batches == [N, N]
    assert np.array_equal(last, observations)
    assert "final_obs" not in infos
    assert env.step(nothing)[4]["frame"].tolist() == [3, 1, 3, 1, 3]


def test_same_step_begins_a_match_at_once_and_gives_its_end_in_info(make: Make) -> None:
    env = make(starts=doomed(1, (2,)), autoreset_mode="SameStep")
    twin = make(starts=doomed(1, (2,)), autoreset_mode=AutoresetMode.NEXT_STEP)
    for one in (env, twin):
        first, _ = one.reset(seed=0)
        one.simulator.state["stocks"][[1, 3], 0] = 1
    nothing = np.zeros((N, 7), int)
    observations, rewards, terminated, _, infos = env.step(nothing)
    expected = twin.step(nothing)
    assert np.array_equal(rewards, expected[1])
    assert terminated.tolist() == [False, True, False, True, False]
    assert infos["_final_obs"].tolist() == infos["_final_info"].tolist() == terminated.tolist()
    for match in range(N):
        if terminated[match]:
            assert np.array_equal(infos["final_obs"][match], expected[0][match])
            assert of_match(infos["final_info"], match) == of_match(expected[4], match)
            assert np.array_equal(observations[match], first[match])
            assert env.single_observation_space.contains(infos["final_obs"][match])
        else:
            assert infos["final_obs"][match] is None
            assert np.array_equal(observations[match], expected[0][match])
    assert infos["frame"].tolist() == [1, 0, 1, 0, 1]
    assert infos["_reward_terms"].tolist() == (~terminated).tolist()
    _, _, terminated, _, infos = env.step(nothing)
    assert "final_obs" not in infos
    assert not terminated.any()
    assert infos["frame"].tolist() == [2, 1, 2, 1, 2]


def test_disabled_waits_for_a_reset_with_a_mask(make: Make) -> None:
    env = make(starts=doomed(1, (2,)), autoreset_mode=AutoresetMode.DISABLED)
    env.reset(seed=0)
    env.simulator.state["stocks"][[1, 3], 0] = 1
    nothing = np.zeros((N, 7), int)
    observations, _, terminated, _, _ = env.step(nothing)
    with pytest.raises(ResetNeeded, match=r"matches \[1, 3\]"):
        env.step(nothing)
    after, infos = env.reset(options={"reset_mask": terminated})
    assert np.array_equal(after[~terminated], observations[~terminated])
    assert not np.array_equal(after[terminated], observations[terminated])
    assert infos["_frame"].tolist() == terminated.tolist()
    assert env.step(nothing)[4]["frame"].tolist() == [2, 1, 2, 1, 2]
    for wrong in (np.ones(N), np.ones(N + 1, bool), np.zeros(N, bool), [True] * N):
        with pytest.raises(ValueError, match="reset_mask: give a bool array of shape"):
            env.reset(options={"reset_mask": wrong})
    with pytest.raises(ValueError, match=r"unknown options \['mask'\]"):
        env.reset(options={"mask": terminated})


def test_a_step_before_the_first_reset_is_refused(make: Make) -> None:
    env = make()
    with pytest.raises(ResetNeeded):
        env.step(env.action_space.sample())
    with pytest.raises(ResetNeeded):
        env.reset(options={"reset_mask": np.eye(N, dtype=bool)[0]})


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_every_reset_draws_a_fresh_start(mode: str, make: Make) -> None:
    names = [s.name for s in STAGES]
    env = make(20, stage=names, characters=(["FOX", "MARTH"], "SHEIK"), time_limit=2, autoreset_mode=mode)
    env.reset(seed=0)
    seen = []
    for actions in actions_of(env, 12):
        env.step(actions)
        seen.append(env.simulator.state["stage"].copy())
    stages = np.stack(seen)
    assert set(np.unique(stages).tolist()) == {stage(name).id for name in names}
    assert all(len(set(column)) > 1 for column in stages.T)
    fighters = env.simulator.state["character"]
    assert set(fighters[:, 0].tolist()) == {character("FOX").internal_id, character("MARTH").internal_id}
    assert set(fighters[:, 1].tolist()) == {character("SHEIK").internal_id}


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_gymnasiums_episode_statistics_count_episodes(mode: str, make: Make) -> None:
    env = RecordEpisodeStatistics(make(3, time_limit=4, autoreset_mode=mode, opponent="random"))
    env.reset(seed=0)
    lengths = []
    for _ in range(15):
        *_, infos = env.step(env.action_space.sample())
        if "episode" in infos:
            lengths += infos["episode"]["l"][infos["_episode"]].tolist()
    assert lengths == [4] * 9


# --- opponents -------------------------------------------------------------------------------------------------------


def test_a_list_of_opponents_is_drawn_from_at_every_reset(make: Make) -> None:
    watchers = [Watcher(), Watcher(), Watcher()]
    mixed = Mixed([*watchers[:2], Random()])
    env = make(40, opponent=mixed, time_limit=3, autoreset_mode="SameStep")
    env.reset(seed=0)
    first = mixed.playing.copy()
    assert set(first.tolist()) == {0, 1, 2}
    for _ in range(3):
        env.step(np.zeros((40, 7), int))
        assert not env.controllers[mixed.playing != 2, 1].any()
    assert not np.array_equal(first, mixed.playing)
    assert [w.batches for w in watchers[:2]] == [[40] * 3] * 2
    assert not watchers[2].batches


def test_self_play_sees_and_acts_as_the_agent_does(make: Make) -> None:
    asked: list[np.ndarray] = []

    def choose(observations: np.ndarray) -> np.ndarray:
        asked.append(observations)
        return np.full((N, 7), [1, 0, 0, 1, 0, 0, 0])

    env = make(opponent=choose, frame_skip=3)
    env.reset(seed=0)
    env.step(np.zeros((N, 7), int))
    env.step(np.zeros((N, 7), int))
    assert [a.shape for a in asked] == [(N, env.single_observation_space.shape[0])] * 2
    assert (env.controllers[:, 1, C_["main_x"]] == 1).all()
    assert (env.controllers[:, 1, C_["a"]] == 1).all()
    assert np.array_equal(asked[1][:, -len(CONTROLS) :], env.controllers[:, 1])
    wrong = make(opponent=lambda observations: np.zeros((2, 7), int))
    wrong.reset(seed=0)
    with pytest.raises(ValueError, match="actions of shape"):
        wrong.step(np.zeros((N, 7), int))


# --- arguments -------------------------------------------------------------------------------------------------------


def test_an_action_is_held_for_frame_skip_frames_and_rewards_are_summed(make: Make) -> None:
    skipping, stepping = make(frame_skip=4, opponent="random"), make(opponent="random")
    skipping.reset(seed=2)
    stepping.reset(seed=2)
    for actions in actions_of(skipping, 15):
        _, reward, *_, infos = skipping.step(actions)
        expected = sum(stepping.step(actions)[1] for _ in range(4))
        assert reward == pytest.approx(expected, abs=1e-5)
    assert infos["frame"].tolist() == [60] * N
    assert np.array_equal(skipping.simulator.state.floats, stepping.simulator.state.floats)


def test_nothing_happens_after_the_end_within_a_step(make: Make) -> None:
    long, short = (make(frame_skip=k, starts=doomed(1, (1,))) for k in (5, 1))
    long.reset(seed=0)
    short.reset(seed=0)
    one, other = long.step(np.zeros((N, 7), int)), short.step(np.zeros((N, 7), int))
    assert one[2].all()
    assert np.array_equal(one[0], other[0])
    assert np.array_equal(one[1], other[1])
    assert one[4]["frame"].tolist() == [1] * N
    mixed = make(2, frame_skip=5, starts=doomed(1, (2,)))
    mixed.reset(seed=0)
    mixed.simulator.state["stocks"][0, 0] = 1
    *_, infos = mixed.step(np.zeros((2, 7), int))
    assert infos["frame"].tolist() == [1, 5]


@pytest.mark.parametrize("delay", [1, 6, 30])
def test_the_agent_sees_what_happened_some_frames_ago(delay: int, make: Make) -> None:
    late = make(reaction_delay=delay, opponent="random", observation="state", time_limit=45, autoreset_mode="SameStep")
    prompt = make(opponent="random", observation="state", time_limit=45, autoreset_mode="SameStep")
    past = [prompt.reset(seed=1)[0]]
    assert np.array_equal(late.reset(seed=1)[0]["floats"], past[0]["floats"])
    for t, actions in enumerate(actions_of(late, 60), start=1):
        seen, _, _, _, infos = late.step(actions)
        now, *_ = prompt.step(actions)
        past = [now] if t % 45 == 0 else [*past, now]
        expected = past[max(0, len(past) - 1 - delay)]
        for name in ("floats", "ints", "match"):
            assert np.array_equal(seen[name], expected[name]), (t, name)
        assert np.array_equal(seen["controller"], now["controller"])
        if t == 45:
            assert infos["final_obs"][0]["match"][0] == 45 - delay


def test_a_match_that_stays_put_sees_nothing_new(make: Make) -> None:
    env = make(2, reaction_delay=3, frame_skip=5, starts=doomed(1, (2,)), observation="state")
    env.reset(seed=0)
    env.simulator.state["stocks"][0, 0] = 1
    seen, *_ = env.step(np.zeros((2, 7), int))
    assert seen["match"][:, 0].tolist() == [0, 2]


def test_a_time_limit_truncates(make: Make) -> None:
    env = make(2, time_limit=10, frame_skip=4, starts=begin_at(50))
    env.reset(seed=0)
    ends = [env.step(np.zeros((2, 7), int)) for _ in range(3)]
    assert [e[3].tolist() for e in ends] == [[False] * 2, [False] * 2, [True] * 2]
    assert not any(e[2].any() for e in ends)
    assert ends[2][4]["frame"].tolist() == [60, 60]
    assert ends[2][4]["truncated_by"].tolist() == [TIME] * 2
    assert "truncated_by" not in ends[1][4]
    timer = make(2, starts=begin_at(MATCH_FRAMES - 1))
    timer.reset(seed=0)
    assert timer.step(np.zeros((2, 7), int))[4]["truncated_by"].tolist() == [TIME] * 2


def begin_at(frame: int) -> Start:
    start = spawn("BATTLEFIELD", ("FOX", "FALCO"))
    start.states["frame"] = frame
    return start


def test_the_last_stock_on_the_last_frame_is_an_end_not_a_cut(make: Make) -> None:
    env = make(2, time_limit=1, starts=doomed(1, (1,)))
    env.reset(seed=0)
    _, _, terminated, truncated, infos = env.step(np.zeros((2, 7), int))
    assert terminated.all()
    assert not truncated.any()
    assert "truncated_by" not in infos


def test_starts_are_random_moments_of_a_dataset(dataset: Dataset, make: Make) -> None:
    env = make(30, starts=dataset.path, opponent="random")
    env.reset(seed=0)
    frames = env.simulator.state["frame"].copy()
    assert (frames >= 0).all()
    assert len(set(frames.tolist())) > 15
    assert set(env.simulator.state["stage"].tolist()) <= set(dataset.stage.tolist())
    assert len(set(env.simulator.state["stage"].tolist())) > 2
    assert any(array.any() for array in env.simulator.carry.values())
    again = make(30, starts=dataset, opponent="random")
    again.reset(seed=0)
    assert np.array_equal(again.simulator.state["frame"], frames)
    env.reset()
    assert not np.array_equal(env.simulator.state["frame"], frames)
    env.reset(seed=0)
    assert np.array_equal(env.simulator.state["frame"], frames)
    one = make(10, starts=dataset, stage="BATTLEFIELD")
    one.reset(seed=0)
    assert set(one.simulator.state["stage"].tolist()) == {stage("BATTLEFIELD").id}
    with pytest.raises(UserError, match="no game has a moment with these characters"):
        make(starts=dataset, characters=("KIRBY", "BOWSER"))


def test_starts_are_saved_states(make: Make, other_artifact: Artifact) -> None:
    earlier = make(3, opponent="random")
    play(earlier, 40)
    saved = earlier.simulator.save()
    env = make(8, starts=saved, opponent="neutral")
    env.reset(seed=0)
    known = {row.tobytes() for row in saved.state.floats}
    assert {row.tobytes() for row in env.simulator.state.floats} == known
    nothing = np.zeros((3, 2, len(CONTROLS)), np.float32)
    following = {row.tobytes() for row in np.round(earlier.simulator.step(nothing).floats, 2)}
    env.step(np.zeros((8, 7), int))
    assert {row.tobytes() for row in np.round(env.simulator.state.floats, 2)} <= following
    with pytest.raises(UserError, match="leave `characters`, `stage` out"):
        make(starts=saved, stage="BATTLEFIELD")
    with pytest.raises(UserError, match="saved from another model"):
        make(starts=replace(saved, carry={}))


def test_an_ensemble_says_how_far_it_disagrees(make: Make, artifact: Artifact, other_artifact: Artifact) -> None:
    env = make(ensemble=[other_artifact], opponent="random")
    alone, twins = make(opponent="random"), make(ensemble=[artifact.path], opponent="random")
    for one in (env, alone, twins):
        one.reset(seed=0)
    members = [Simulator(model, N, threads=1) for model in (artifact, other_artifact)]
    for actions in actions_of(env, 12):
        before = env.simulator.save()
        *_, infos = env.step(actions)
        assert np.array_equal(alone.step(actions)[0], twins.step(actions)[0])
        assert twins.matches.disagreement.tolist() == [0] * N
    assert np.array_equal(env.simulator.state.floats, alone.simulator.state.floats)
    disagreement = infos["model"]["disagreement"]
    assert (disagreement > 0).all()
    assert np.array_equal(infos["model"]["uncertainty"], disagreement)
    members[0].restore(before)
    members[1].restore(replace(before, carry=env.matches._others[0].carry))
    assert members[0].step(env.controllers).floats.tobytes() == env.simulator.state.floats.tobytes()


def test_uncertainty_truncates(make: Make, other_artifact: Artifact) -> None:
    free = make(ensemble=[other_artifact], opponent="random")
    free.reset(seed=0)
    nothing = np.zeros((N, 7), int)
    levels = np.stack([free.step(nothing)[4]["model"]["uncertainty"] for _ in range(6)])
    limit = float(np.median(levels.max(axis=0)))
    bound = make(ensemble=[other_artifact], opponent="random", max_uncertainty=limit, autoreset_mode="Disabled")
    bound.reset(seed=0)
    for level in levels:
        _, _, terminated, truncated, infos = bound.step(nothing)
        assert truncated.tolist() == (level > limit).tolist()
        if truncated.any():
            assert {infos["truncated_by"][n] for n in np.flatnonzero(truncated)} == {UNCERTAIN}
            break
    assert truncated.any()
    assert not terminated.any()


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_a_prediction_that_is_no_number_ends_its_match_alone(mode: str, broken_artifact: Artifact) -> None:
    start = spawn("BATTLEFIELD", ("FOX", "FALCO"))
    env = MeleeVectorEnv(N, mode, model=broken_artifact, starts=start, opponent=["policy", "random"])
    env.reset(seed=0)
    env.step(np.zeros((N, 7), int))
    env.simulator.state["percent"][2, 1] = 950
    observations, rewards, terminated, truncated, infos = env.step(np.zeros((N, 7), int))
    assert truncated.tolist() == [False, False, True, False, False]
    assert not terminated.any()
    assert np.isfinite(observations).all()
    assert np.isfinite(rewards).all()
    final = infos["final_info"] if mode == "SameStep" else infos
    assert of_match(final, 2)["truncated_by"] == NOT_FINITE
    assert of_match(final, 2)["frame"] == 1
    assert env.matches.not_finite == 1
    for _ in range(5):
        observations, *_, infos = env.step(np.zeros((N, 7), int))
        assert np.isfinite(observations).all()
    assert infos["frame"].tolist() == [7, 7, 4 if mode == "NextStep" else 5, 7, 7]
    assert env.matches.not_finite == 1


def test_a_model_warns_of_characters_that_it_is_bad_at(artifact: Artifact) -> None:
    def figure(value: float) -> dict:
        return {"RC@20": {"value": value}}

    fidelity = {"no_death": figure(1.0), "breakdown": {"character": {"FOX": figure(1.1), "LINK": figure(2.0)}}}
    card = replace(artifact, metadata={**artifact.metadata, "fidelity": fidelity})
    ids = {name: character(name).internal_id for name in ("FOX", "LINK", "NESS")}
    with pytest.warns(UserWarning, match=r"tiny cannot be trusted with LINK \(RC@20 2.00\), NESS \(never measured\)"):
        warn_outside_domain(card, set(ids.values()), 1.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_outside_domain(card, {ids["FOX"]}, 1.5)
        warn_outside_domain(card, {ids["FOX"], ids["LINK"]}, 2.5)
        warn_outside_domain(artifact, set(ids.values()), 1.5)


def test_discrete_actions_are_useful_inputs(make: Make) -> None:
    env = make(len(DISCRETE), action_space="discrete")
    env.reset(seed=0)
    env.step(np.arange(len(DISCRETE)))
    assert np.array_equal(env.controllers[:, 0], np.stack(list(DISCRETE.values())))
    assert len(np.unique(env.controllers[:, 0], axis=0)) == len(DISCRETE)
    for _ in range(5):
        env.step(np.arange(len(DISCRETE)))
    assert len(np.unique(env.simulator.state["x"][:, 0])) > 5


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        (np.zeros((N, 6), int), r"actions of shape \(5, 6\): give \(5, 7\)"),
        (np.zeros((N - 1, 7), int), r"actions of shape \(4, 7\): give \(5, 7\)"),
        (np.array([[0] * 7] * 3 + [[17, 0, 0, 0, 0, 0, 0]] * 2), r"match 3: array\(\[17"),
        (np.full((N, 7), np.nan), r"\(float64\) is not in the action space"),
        (np.full((N, 7), "a"), "is not in the action space"),
    ],
)
def test_wrong_actions_are_refused_in_one_line(actions: np.ndarray, message: str, make: Make) -> None:
    env = make()
    env.reset(seed=0)
    with pytest.raises(ValueError, match=message) as refused:
        env.step(actions)
    assert "\n" not in str(refused.value)
    assert env.simulator.state["frame"].tolist() == [0] * N


@pytest.mark.parametrize("axis", [1.5, np.nan])
def test_a_controller_out_of_range_is_refused(axis: float, make: Make) -> None:
    env = make(action_space="controller")
    env.reset(seed=0)
    axes = np.zeros((N, 5), np.float32)
    axes[4, 0] = axis
    with pytest.raises(ValueError, match=r"match 4: .* is not in the action space"):
        env.step({"axes": axes, "buttons": np.zeros((N, 8), np.int8)})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"observation": "pixels"}, "unknown observation 'pixels': choose one of flat, dict, state"),
        ({"frame_skip": 0}, "frame_skip 0: give a whole number, 1 or more"),
        ({"reaction_delay": 31}, "reaction_delay 31: give a whole number, 0 to 30"),
        ({"time_limit": 1.5}, "time_limit 1.5: give a whole number"),
        ({"num_envs": 0}, "num_envs 0: give a whole number"),
        ({"max_uncertainty": -1}, "max_uncertainty -1: give a number above 0"),
        ({"reward_weights": {"damage_dealt": float("nan")}}, "give finite numbers"),
        ({"ensemble": ["a"] * 5}, "give a list of 1 to 4 models"),
        ({"autoreset_mode": "Never"}, "autoreset_mode 'Never': choose one of NextStep, SameStep, Disabled"),
        ({"render_mode": "ascii"}, "render_mode 'ascii': choose one of"),
        ({"stages": "BATTLEFIELD"}, "unknown arguments stages: choose among characters, stage"),
        ({"stage": []}, "an empty list of characters or stages"),
        ({"stage": ["BATTLEFIELD", "HYRULE"]}, "unknown stage 'HYRULE'"),
        ({"characters": "FOX"}, "characters 'FOX': give a pair"),
        ({"starts": "nowhere"}, "nowhere"),
        ({"opponent": "self"}, "give the callable itself"),
        ({"opponent": []}, "an empty list"),
    ],
)
def test_bad_arguments_are_user_errors(arguments: dict, message: str, make: Make) -> None:
    with pytest.raises(UserError, match=message) as refused:
        make(**arguments)
    assert "\n" not in str(refused.value)


def test_an_artifact_edited_by_one_byte_is_refused(artifact: Artifact, tmp_path: Path) -> None:
    content = bytearray(artifact.path.read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "edited.onnx").write_bytes(content)
    with pytest.raises(UserError, match="checksum does not match"):
        MeleeVectorEnv(1, model=tmp_path / "edited.onnx")


def test_a_batch_is_drawn_match_by_match(make: Make) -> None:
    env = make(2, render_mode="rgb_array", opponent=Neutral())
    env.reset(seed=0)
    pictures = env.render()
    assert len(pictures) == 2
    assert all(picture.dtype == np.uint8 and picture.ndim == 3 for picture in pictures)


def test_the_attacker_runs_at_the_other_fighter_and_hits_when_near(make: Make) -> None:
    state = stack([spawn("BATTLEFIELD", ("FOX", "FALCO"))] * 4).states
    state["x"] = [[-30, 30], [20, 30], [40, 30], [30, -90]]
    state["airborne"][3, 1] = 1
    state["y"][3, 1] = -20
    state["jumps"][3, 1] = 0
    held = np.zeros((4, len(CONTROLS)), np.float32)
    attacker = Attacker()
    attacker.act(state, held)
    assert held[:3, C_["main_x"]].tolist() == [-1, 0, 0]
    assert held[:3, C_["c_x"]].tolist() == [0, -1, 1]
    assert (held[3, C_["main_y"]], held[3, C_["b"]]) == (1, 1)
    state["jumps"][3, 1] = 1
    attacker.act(state, held)
    assert (held[3, C_["main_x"]], held[3, C_["x_button"]]) == (1, 1)
