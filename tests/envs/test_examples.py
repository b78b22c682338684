"""The examples run, learn something or search somewhere, and say what came of it."""

from __future__ import annotations

from pathlib import Path

import cleanrl_ppo
import numpy as np
import plan
import pytest
import train_ppo
from baselines import BASELINES, baseline, returns

from wm_envs.spaces import DISCRETE
from wm_runtime.artifact import Artifact
from wm_runtime.schema import C_
from wm_runtime.simulator import Simulator
from wm_runtime.starts import spawn


def test_ppo_in_one_file_runs(artifact: Artifact, capsys: pytest.CaptureFixture) -> None:
    cleanrl_ppo.main(total_steps=384, model=str(artifact.path), num_envs=4, num_steps=48, seconds=1)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["192", "384"]
    assert "nan" not in lines[-1]


def test_stable_baselines_example_runs(artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_ppo, "SECONDS", 1)
    model = str(artifact.path)
    train_ppo.main(
        tmp_path, minutes=0.05, model=model, second=model, opponent="random", num_envs=4, episodes=2, engine="onnx"
    )
    assert {path.name for path in tmp_path.iterdir()} == {"policy.zip", "curve.png", "play.gif"}


def test_search_prefers_what_pays(artifact: Artifact) -> None:
    start = spawn("BATTLEFIELD", ("FOX", "FALCO"))
    matches, planner = Simulator(artifact, 2, threads=1), Simulator(artifact, 6, threads=1)
    matches.reset(start)
    before = matches.save()
    plans = np.random.default_rng(0).integers(len(DISCRETE), size=(2, 3, 2))
    plans[1] = plans[0]
    paid = plan.worth(planner, before, plans, 3)
    assert paid.shape == (2, 3)
    assert np.allclose(paid[0], paid[1], atol=1e-4)
    assert np.array_equal(matches.state.floats, before.state.floats)
    assert planner.state["frame"].tolist() == [6] * 6


def test_planning_runs(artifact: Artifact, capsys: pytest.CaptureFixture) -> None:
    plan.main(model=str(artifact.path), matches=2, seconds=1, candidates=4, decisions=2)
    assert "mean return against the attacker" in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_play_the_agents_side(name: str, artifact: Artifact) -> None:
    env, agent = baseline(name, num_envs=3, model=artifact, time_limit=30)
    assert returns(env, agent).shape == (3,)
    assert env.controllers[:, 0].any() == (name != "neutral")
    if name == "attacker":
        assert (env.controllers[:, 0, C_["main_x"]] >= 0).all()
