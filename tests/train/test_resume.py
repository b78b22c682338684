"""A run that was stopped, however it was, goes on as if nothing had happened."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from wm_runtime.errors import UserError
from wm_runtime.replays.dataset import Dataset
from wm_train.config import Experiment
from wm_train.training.metrics import read_metrics
from wm_train.training.trainer import train

SETTINGS = {
    "epochs": 4, "frames_per_epoch": 192, "batch_size": 64, "rollouts": 8, "long_rollouts": 0, "log_interval": 2,
    "scheduled_sampling": {"annealing_epochs": 2}, "unroll": {"share": 0.5, "lengths": (2, 3)},
}  # fmt: skip


@pytest.fixture(scope="module")
def eventful(experiment: Experiment) -> Experiment:
    """Four short epochs of everything that draws at random: dropout, noise, unrolled batches."""
    values = experiment.model_dump()
    values["model"]["dropout"] = 0.1
    return Experiment(**{**values, "training": {**values["training"], **SETTINGS}})


@pytest.fixture(scope="module")
def whole(eventful: Experiment, dataset: Dataset, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("whole")
    train(eventful, dataset, out)
    return out


def changed(experiment: Experiment, **training: object) -> Experiment:
    return experiment.model_copy(update={"training": experiment.training.model_copy(update=training)})


def state(folder: Path) -> dict:
    content = torch.load(folder / "last.pt", weights_only=True)
    return {"model": content["model"], "optimiser": content["progress"]["optimiser"], **content["progress"]["random"]}


def equal(one: object, other: object) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other


def without_times(rows: list[dict]) -> list[dict]:
    return [{k: v for k, v in row.items() if k not in ("seconds", "frames_per_second")} for row in rows]


def same_run(one: Path, other: Path) -> bool:
    return equal(state(one), state(other)) and without_times(read_metrics(one)) == without_times(read_metrics(other))


def test_two_epochs_and_two_more_are_four_bit_for_bit(eventful, dataset, whole, tmp_path) -> None:
    assert train(eventful, dataset, tmp_path, stop_after=2)["status"] == "paused"
    assert not equal(state(tmp_path), state(whole))
    assert train(eventful, dataset, tmp_path, resume=True)["status"] == "finished"
    assert same_run(tmp_path, whole)


@pytest.mark.parametrize("step", [1, 8])
def test_a_run_interrupted_in_an_epoch_goes_on_with_the_next_batch(step, eventful, dataset, whole, tmp_path) -> None:
    def stop(at: int, steps: int, loss: float) -> None:
        if at == step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(eventful, dataset, tmp_path, on_step=stop)
    train(eventful, dataset, tmp_path, resume=True)
    assert same_run(tmp_path, whole)


def test_a_run_killed_outright_goes_on_from_its_last_checkpoint(eventful, dataset, whole, tmp_path) -> None:
    class Killed(BaseException):
        pass

    def die(at: int, steps: int, loss: float) -> None:
        if at == 8:
            raise Killed

    with pytest.raises(Killed):
        train(eventful, dataset, tmp_path, on_step=die)
    assert torch.load(tmp_path / "last.pt", weights_only=True)["progress"]["at"]["step"] == 6
    train(eventful, dataset, tmp_path, resume=True)
    assert same_run(tmp_path, whole)


def test_a_streamed_run_goes_on_exactly_too(eventful, dataset, tmp_path) -> None:
    streamed = changed(eventful, data="streaming", buffer_size=700)
    train(streamed, dataset, tmp_path / "whole")

    def stop(at: int, steps: int, loss: float) -> None:
        if at == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(streamed, dataset, tmp_path / "parts", on_step=stop)
    train(changed(streamed, data="auto"), dataset, tmp_path / "parts", resume=True)
    assert same_run(tmp_path / "parts", tmp_path / "whole")


def test_a_checkpoint_is_written_every_so_many_minutes(eventful, dataset, tmp_path) -> None:
    seen = []

    def look(at: int, steps: int, loss: float) -> None:
        seen.append(torch.load(tmp_path / "last.pt", weights_only=True)["progress"]["at"]["step"])
        if at == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(changed(eventful, save_minutes=1e-9), dataset, tmp_path, on_step=look)
    assert seen == [0, 1, 2]


def test_what_may_not_be_resumed_is_said(eventful, dataset, whole, tmp_path) -> None:
    with pytest.raises(UserError, match=r"no last\.pt to go on from; begin the run without --resume"):
        train(eventful, dataset, tmp_path / "new", resume=True)
    with pytest.raises(UserError, match="holds a run; go on with it by --resume"):
        train(eventful, dataset, whole)
    with pytest.raises(UserError, match=r"training\.learning_rate was 0\.003, is 1\.0"):
        train(changed(eventful, learning_rate=1.0), dataset, whole, resume=True)
    with pytest.raises(UserError, match=r"training\.max_games was None, is 6; data were"):
        train(changed(eventful, max_games=6), dataset, whole, resume=True)


def test_ctrl_c_on_the_command_line_saves_and_exits_with_130(dataset, eventful, tmp_path) -> None:
    (tmp_path / "long.yaml").write_text(json.dumps({
        "model": {"trunk": [8]}, "training": {"epochs": 500, "batch_size": 64, "rollouts": 8, "log_interval": 1},
    }))  # fmt: skip
    command = [sys.executable, "-m", "wm_tools.cli", "train", "--config", "long.yaml", "--dataset", str(dataset.path),
               "--no-wandb", "-v"]  # fmt: skip
    run = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ}
    )
    assert run.stdout is not None
    for line in run.stdout:
        if line.startswith("step 3 "):
            run.send_signal(signal.SIGINT)
            break
    rest, err = run.communicate(timeout=60)
    assert run.returncode == 130
    assert "Traceback" not in err
    assert rest.endswith("saved runs/long/last.pt; go on with --resume\n")
    at = torch.load(tmp_path / "runs" / "long" / "last.pt", weights_only=True)["progress"]["at"]
    assert at["step"] >= 3
