"""The environment keeps Gymnasium's contract, pays for damage and stocks, ends with its match, takes any opponent."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import gymnasium as gym
import numpy as np
import pygame
import pytest
from gymnasium.utils.env_checker import check_env

from synthetic import synthetic_game
from wm_envs.env import MeleeEnv
from wm_envs.opponents import Opponent, Policy, Random
from wm_envs.rewards import losses, reward_terms, total
from wm_envs.spaces import ACTION_SPACES, OBSERVATION_SPACES, observation_names, observe_flat
from wm_runtime.artifact import Artifact
from wm_runtime.errors import UserError
from wm_runtime.facts import stage
from wm_runtime.recording import RecordingWriter
from wm_runtime.replays.writer import write_slp
from wm_runtime.schema import BUTTONS, C_, FIRST_FRAME, MATCH_FRAMES, State
from wm_runtime.starts import Start, game_start, spawn
from wm_runtime.stream.protocol import match_message

Make = Callable[..., MeleeEnv]
NOTHING = np.zeros(7, int)
every_action_space = pytest.mark.parametrize("action_space", ACTION_SPACES)


@pytest.fixture
def make(artifact: Artifact):
    """MeleeEnv(**arguments) on the small artifact, closed when the test ends."""
    made: list[MeleeEnv] = []

    def make_one(**arguments: object) -> MeleeEnv:
        made.append(MeleeEnv(model=artifact.path, **arguments))  # type: ignore[arg-type]
        return made[-1]

    yield make_one
    for env in made:
        env.close()


def play(env: MeleeEnv, seed: int, frames: int) -> list[tuple]:
    """(observation, reward, terminated, truncated) of random actions of a seed."""
    env.action_space.seed(seed)
    first, _ = env.reset(seed=seed)
    return [(first, 0.0, False, False)] + [env.step(env.action_space.sample())[:4] for _ in range(frames)]


def trajectory(env: MeleeEnv, actions: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Raw floats (T, 2, F) and controllers (T, 2, 13) of given actions."""
    env.reset(seed=seed)
    frames = [(env.simulator.state.floats[0].copy(), env.controllers[0].copy())]
    for action in actions:
        env.step(action)
        frames.append((env.simulator.state.floats[0].copy(), env.controllers[0].copy()))
    floats, controllers = zip(*frames, strict=True)
    return np.stack(floats), np.stack(controllers)


def actions_of(env: MeleeEnv, count: int, seed: int = 0) -> np.ndarray:
    env.action_space.seed(seed)
    return np.stack([env.action_space.sample() for _ in range(count)])


def begin(**fields: float) -> Start:
    """Fox and Falco on Battlefield, `fields` being those of Fox, or (Fox's, Falco's)."""
    start = spawn("BATTLEFIELD", ("FOX", "FALCO"))
    for name, value in fields.items():
        if name == "frame" or isinstance(value, tuple):
            start.states[name] = value
        else:
            start.states[name][:, 0] = value
    return start


# --- Gymnasium -------------------------------------------------------------------------------------------------------


def test_importing_gymnasium_is_enough(artifact: Artifact) -> None:
    code = f"""
import sys, gymnasium
assert not any(m in sys.modules for m in ("torch", "pygame", "wm_runtime.simulator"))
env = gymnasium.make("MeleeWorldModel-v0", model={str(artifact.path)!r})
env.reset(seed=0)
many = gymnasium.make_vec("MeleeWorldModel-v0", num_envs=2, model={str(artifact.path)!r})
many.reset(seed=0)
many.step(many.action_space.sample())
unused = ("torch", "pygame", "pettingzoo", "stable_baselines3", "pyarrow")
print(env.step(env.action_space.sample())[4]["frame"], env.unwrapped.spec.id, [m for m in unused if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "MeleeWorldModel-v0", "[]"]


@every_action_space
@pytest.mark.parametrize("observation", OBSERVATION_SPACES)
def test_gymnasiums_checker_has_nothing_to_say(
    observation: str, action_space: str, artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    arguments = {"model": artifact.path, "action_space": action_space, "observation": observation, "opponent": "random"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gym.make("MeleeWorldModel-v0", render_mode="rgb_array", **arguments)
        check_env(env.unwrapped)
        env.close()


@every_action_space
def test_the_same_seed_and_actions_give_the_same_trajectory(action_space: str, make: Make) -> None:
    one, other = (make(action_space=action_space, opponent="random") for _ in range(2))
    first, again, elsewhere = play(one, 7, 50), play(other, 7, 50), play(one, 8, 50)
    assert all(np.array_equal(a[0], b[0]) and a[1:] == b[1:] for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a[0], b[0]) for a, b in zip(first, elsewhere, strict=True))
    back = play(one, 7, 50)
    assert all(np.array_equal(a[0], b[0]) and a[1:] == b[1:] for a, b in zip(first, back, strict=True))


def test_an_observation_is_in_its_space_and_named(make: Make) -> None:
    env = make(opponent="random")
    names = observation_names()
    assert len(set(names)) == len(names) == env.observation_space.shape[0]
    for observation, *_ in play(env, 3, 30):
        assert env.observation_space.contains(observation)
    state, seen = env.simulator.state, dict(zip(names, observation, strict=True))
    assert seen["match.time"] == pytest.approx(30 / MATCH_FRAMES)
    assert seen["match.stage.FINAL_DESTINATION"] == 1
    assert seen["self.percent"] == pytest.approx(state["percent"][0, 0] / 100)
    assert seen["match.dx"] == pytest.approx(np.clip((state["x"][0, 1] - state["x"][0, 0]) / 100, -5, 5), abs=1e-6)
    own = {name: value for name, value in seen.items() if name.startswith("controller.")}
    assert list(own.values()) == env.controllers[0, 0].tolist()
    other_side = observe_flat(state, env.controllers[:, 1], 1)[0]
    size = len([name for name in names if name.startswith("self.")])
    assert np.array_equal(other_side[:size], observation[size : 2 * size])
    assert np.array_equal(other_side[size : 2 * size], observation[:size])


def test_info_says_frame_stocks_percent_and_entropy(make: Make) -> None:
    env = make(starts=begin(percent=(12.5, 40.0), stocks=(2, 3)))
    _, info = env.reset(seed=0)
    assert (info["frame"], info["stocks"], info["percent"]) == (0, (2, 3), (12.5, 40.0))
    assert info["model"]["action_entropy"] == (0, 0)
    *_, info = env.step(NOTHING)
    assert info["frame"] == 1
    assert all(entropy > 0 for entropy in info["model"]["action_entropy"])
    assert env.reset(seed=0)[1]["model"]["action_entropy"] == (0, 0)


def test_an_action_outside_the_space_is_refused(make: Make) -> None:
    env = make()
    env.reset(seed=0)
    for wrong in (np.array([17, 0, 0, 0, 0, 0, 0]), np.zeros(6, int), 3):
        with pytest.raises(ValueError, match="is not in the action space"):
            env.step(wrong)


def test_actions_become_controllers(make: Make) -> None:
    env = make()
    env.reset(seed=0)
    env.step(np.array([3, 4, 2, 1, 0, 1, 0]))
    pressed = {name: value for name, i in C_.items() if (value := env.controllers[0, 0, i].item())}
    assert pressed == {"main_y": 1, "c_y": -1, "shoulder": 1, "l": 1, "a": 1, "x_button": 1}
    env = make(action_space="controller")
    env.reset(seed=0)
    axes = np.array([0.503, -1, 0, 0.249, 0.5], np.float32)
    env.step({"axes": axes, "buttons": np.eye(len(BUTTONS), dtype=np.int8)[1]})
    pressed = {name: value for name, i in C_.items() if (value := env.controllers[0, 0, i].item())}
    assert pressed == {"main_x": 0.5, "main_y": -1, "c_y": 0.25, "shoulder": 0.5, "b": 1}


# --- rewards ---------------------------------------------------------------------------------------------------------


def test_reward_is_damage_dealt_less_damage_taken_and_stocks() -> None:
    before, after = State.zeros(3), State.zeros(3)
    before["percent"], after["percent"] = [[10, 50], [80, 0], [30, 120]], [[13, 62], [80, 0], [30, 0]]
    before["stocks"], after["stocks"] = [[4, 4], [3, 2], [1, 1]], [[4, 4], [2, 2], [1, 0]]
    lost = losses(before["percent"], before["stocks"], after)
    terms = reward_terms(*lost, 0)
    assert terms["damage_dealt"].tolist() == [12, 0, 0]
    assert terms["damage_taken"].tolist() == [3, 0, 0]
    assert terms["stocks_taken"].tolist() == [0, 0, 1]
    assert terms["stocks_lost"].tolist() == [0, 1, 0]
    weights = {"damage_dealt": 0.01, "damage_taken": -0.01, "stocks_taken": 1.0, "stocks_lost": -1.0}
    assert total(terms, weights) == pytest.approx([0.12 - 0.03, -1, 1])
    other = reward_terms(*lost, 1)
    assert total(other, weights) == pytest.approx([0.03 - 0.12, 1, -1])


def test_the_reward_of_a_step_follows_from_the_states_around_it(make: Make) -> None:
    start = begin(x=stage("BATTLEFIELD").blast.left - 50, airborne=1)
    env = make(starts=start, opponent="random", reward_weights={"damage_taken": -0.5, "stocks_lost": -2.0})
    env.reset(seed=0)
    paid = 0.0
    for action in actions_of(env, 60):
        before = env.simulator.state.copy()
        _, reward, _, _, info = env.step(action)
        after = env.simulator.state
        rise = np.maximum(after["percent"] - before["percent"], 0)[0]
        lost = (before["stocks"] - after["stocks"])[0]
        expected = 0.01 * rise[1] - 0.5 * rise[0] + lost[1] - 2.0 * lost[0]
        assert reward == pytest.approx(expected, abs=1e-5)
        terms = info["reward_terms"]
        assert terms == pytest.approx(
            {"damage_dealt": rise[1], "damage_taken": rise[0], "stocks_taken": lost[1], "stocks_lost": lost[0]}
        )
        paid += abs(reward)
    assert paid >= 2


def test_a_lost_stock_costs_one(make: Make) -> None:
    env = make(starts=begin(x=stage("BATTLEFIELD").blast.left - 50, percent=77, airborne=1))
    env.reset(seed=0)
    _, reward, terminated, truncated, info = env.step(NOTHING)
    assert info["reward_terms"]["stocks_lost"] == 1
    assert reward == pytest.approx(-1 + 0.01 * (info["percent"][1]))
    assert info["stocks"] == (3, 4)
    assert not terminated
    assert not truncated


# --- the end ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loser", [0, 1])
def test_the_match_is_over_when_a_side_has_no_stocks(loser: int, make: Make) -> None:
    stocks = (1, 3) if loser == 0 else (3, 1)
    x = tuple(stage("BATTLEFIELD").blast.right + 50 if player == loser else 0.0 for player in range(2))
    env = make(starts=begin(stocks=stocks, x=x, airborne=(1, 1)))
    env.reset(seed=0)
    _, _, terminated, truncated, info = env.step(NOTHING)
    assert (terminated, truncated) == (True, False)
    assert info["stocks"][loser] == 0
    assert info["reward_terms"]["stocks_lost" if loser == 0 else "stocks_taken"] == 1


def test_a_match_is_cut_off_after_eight_minutes(make: Make) -> None:
    env = make(starts=begin(frame=MATCH_FRAMES - 3))
    env.reset(seed=0)
    ends = [env.step(NOTHING)[2:4] for _ in range(3)]
    assert ends == [(False, False), (False, False), (False, True)]
    assert MATCH_FRAMES == 8 * 60 * 60


# --- opponents -------------------------------------------------------------------------------------------------------


def test_a_neutral_opponent_touches_nothing(make: Make) -> None:
    env = make(opponent="neutral")
    _, controllers = trajectory(env, actions_of(env, 30))
    assert not controllers[:, 1].any()
    assert controllers[:, 0].any()


def test_a_random_opponent_holds_its_inputs_for_some_frames(make: Make) -> None:
    env = make(opponent="random")
    _, controllers = trajectory(env, actions_of(env, 300), seed=1)
    held = controllers[1:, 1]
    changes = np.flatnonzero((held[1:] != held[:-1]).any(axis=1)) + 1
    assert 15 < len(changes) < 150
    assert np.diff(changes).min() >= Random.HOLD[0]
    _, others = trajectory(env, actions_of(env, 300), seed=2)
    assert not np.array_equal(controllers[:, 1], others[:, 1])


def test_a_policy_opponent_plays_as_the_seed_decides_and_as_late_as_it_is_told(make: Make) -> None:
    prompt, late = make(opponent="policy"), make(opponent=Policy(delay=18))
    actions = actions_of(prompt, 90)
    (_, one), (_, again), (_, other) = (trajectory(prompt, actions, seed) for seed in (1, 1, 2))
    assert np.array_equal(one, again)
    assert not np.array_equal(one[:, 1], other[:, 1])
    assert np.unique(one[:, 1], axis=0).shape[0] > 5
    _, slow = trajectory(late, actions, seed=1)
    assert not np.array_equal(one[:, 1], slow[:, 1])


def test_an_opponent_from_a_replay_presses_what_was_pressed(make: Make, tmp_path: Path) -> None:
    game = synthetic_game(3, 260)
    write_slp(tmp_path / "game.slp", game)
    env = make(opponent="replay", replay=tmp_path / "game.slp")
    for _ in range(2):
        _, controllers = trajectory(env, actions_of(env, 150))
        played = game.controllers()[-FIRST_FRAME:, 1]
        assert played[1:].any()
        assert np.array_equal(controllers[1 : len(played), 1], played[1:])
        assert not controllers[len(played) :, 1].any()


def test_a_replay_goes_on_from_where_the_match_begins(make: Make, tmp_path: Path) -> None:
    game = synthetic_game(3, 400)
    write_slp(tmp_path / "game.slp", game)
    env = make(opponent="replay", replay=tmp_path / "game.slp", starts=game_start(game, 100, 20))
    _, controllers = trajectory(env, actions_of(env, 40))
    assert np.array_equal(controllers[1:, 1], game.controllers()[101 - FIRST_FRAME : 141 - FIRST_FRAME, 1])


def test_a_recorded_match_is_played_back_exactly(make: Make, tmp_path: Path) -> None:
    env = make(opponent="random")
    actions = actions_of(env, 80)
    env.reset(seed=4)
    with RecordingWriter(tmp_path / "match.mwr", match_message(env.simulator.state, 0)) as out:
        out.write(env.simulator.state, 0, env.controllers)
        for action in actions:
            env.step(action)
            out.write(env.simulator.state, 0, env.controllers)
    recorded = env.simulator.state.copy()
    again = make(opponent="replay", replay=tmp_path / "match.mwr")
    trajectory(again, actions)
    assert np.array_equal(again.simulator.state.floats, recorded.floats)
    assert np.array_equal(again.simulator.state.ints, recorded.ints)


def test_an_opponent_of_ones_own_is_asked_each_frame(make: Make) -> None:
    class Jumper(Opponent):
        def reset(self, mask: np.ndarray, rng: np.random.Generator) -> None:
            self.begun = mask.tolist()

        def act(self, state: State, out: np.ndarray) -> None:
            out[:] = 0
            out[:, C_["x_button"]] = state["frame"] % 2

    jumper = Jumper()
    env = make(opponent=jumper)
    _, controllers = trajectory(env, actions_of(env, 4))
    assert jumper.begun == [True]
    assert controllers[1:, 1, C_["x_button"]].tolist() == [0, 1, 0, 1]


def test_either_engine_plays_the_same_match(make: Make) -> None:
    one, other = (play(make(engine=engine, opponent="random"), 7, 20) for engine in ("onnx", "torch"))
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a[0], b[0], atol=1e-4)


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"opponent": "nobody"}, "unknown opponent 'nobody': choose one of neutral, random, replay"),
        ({"opponent": "replay"}, "needs `replay`"),
        ({"opponent": "replay", "replay": "none.slp"}, r"none\.slp: cannot be played back"),
        ({"opponent": "replay", "replay": "none.mwr"}, r"none\.mwr does not exist"),
        ({"characters": ("FOX", "GOKU")}, "unknown character 'GOKU': choose one of"),
        ({"stage": "HYRULE"}, "unknown stage 'HYRULE': choose one of"),
        ({"action_space": "keyboard"}, "unknown action space 'keyboard': choose one of multidiscrete, controller"),
        ({"reward_weights": {"style": 1.0}}, r"unknown reward terms \['style'\]: choose among damage_dealt"),
        ({"device": "toaster"}, "device 'toaster' is not available"),
        ({"engine": "abacus"}, "unknown engine 'abacus': choose one of onnx, torch"),
    ],
)
def test_unknown_names_are_user_errors(arguments: dict, message: str, make: Make) -> None:
    with pytest.raises(UserError, match=message):
        make(**arguments)


def test_an_unknown_model_is_a_user_error() -> None:
    with pytest.raises(UserError, match="no such model"):
        MeleeEnv(model="nobody")


def test_an_empty_recording_is_a_user_error(make: Make, tmp_path: Path) -> None:
    with RecordingWriter(tmp_path / "empty.mwr", match_message(begin().states, 0)):
        pass
    with pytest.raises(UserError, match="holds no frames"):
        make(opponent="replay", replay=tmp_path / "empty.mwr")


# --- pictures --------------------------------------------------------------------------------------------------------


def test_a_picture_needs_no_display(make: Make) -> None:
    env = make(render_mode="rgb_array")
    env.reset(seed=0)
    first = env.render()
    for _ in range(20):
        env.step(np.array([1, 0, 0, 0, 0, 1, 0]))
    later = env.render()
    for picture in (first, later):
        assert picture.dtype == np.uint8
        assert picture.ndim == 3
        assert picture.shape[2] == 3
        assert picture.std() > 5
    assert not np.array_equal(first, later)
    assert not pygame.display.get_init()


def test_without_a_render_mode_there_is_no_picture(make: Make) -> None:
    env = make()
    env.reset(seed=0)
    assert env.render() is None


def test_human_mode_shows_every_frame_in_a_window(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    env = make(render_mode="human")
    try:
        env.reset(seed=0)
        shown = pygame.surfarray.array3d(pygame.display.get_surface())
        for _ in range(10):
            env.step(np.array([1, 0, 0, 0, 0, 1, 0]))
        assert os.environ["SDL_VIDEODRIVER"] == pygame.display.get_driver()
        assert not np.array_equal(shown, pygame.surfarray.array3d(pygame.display.get_surface()))
    finally:
        env.close()
    assert not pygame.display.get_init()
