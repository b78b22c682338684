"""One trainer for every core with classic heads; what a core cannot be trained with is refused at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from wm_runtime.errors import UserError
from wm_runtime.replays.dataset import Dataset
from wm_train.config import Experiment
from wm_train.training.checkpoint import build_model, load_checkpoint
from wm_train.training.phases import train_phases
from wm_train.training.trainer import train

MAMBA: dict[str, Any] = {
    "kind": "mamba2", "encoding": {"preset": "v2.2-1a", "frames": 8},
    "mamba2": {"d_model": 32, "d_state": 8, "headdim": 16, "chunk_size": 4},
}  # fmt: skip
LOOKAHEAD: dict[str, Any] = {"encoding": {"preset": "v2.2-3a", "frames": 4}, "trunk": (16,)}
OWN: dict[str, Any] = {"kind": "residual_mlp", "encoding": {"preset": "v4", "frames": 1}, "width": 16, "blocks": 1}
EXACT: dict[str, Any] = {"kind": "exact", "width": 16, "late": 8}
NOISE, UNROLL = {"scheduled_sampling": {"annealing_epochs": 0}}, {"unroll": {"lengths": [2]}}


def of(model: dict[str, Any], **training: Any) -> Experiment:
    usual = {"epochs": 1, "batch_size": 32, "frames_per_epoch": 64, "holdout": 0.25, "rollouts": 16, "warmup_steps": 1,
             "long_rollouts": 0}  # fmt: skip
    return Experiment(name="tried", model=model, training={**usual, **training})  # type: ignore[arg-type]


@pytest.mark.parametrize(("model", "targets"), [(MAMBA, 8), ({**MAMBA, "causal": False}, 1), (LOOKAHEAD, 1)])
def test_every_core_with_heads_is_trained_and_resumed(model, targets, dataset: Dataset, tmp_path: Path) -> None:
    experiment = of(model, epochs=2)
    train(experiment, dataset, tmp_path, stop_after=1)
    manifest = train(experiment, dataset, tmp_path, resume=True)
    assert manifest["status"] == "finished"
    assert [row["frames"] for row in manifest["epochs"]] == [64 * targets, 64 * targets]
    load_checkpoint(tmp_path / "best.pt")


@pytest.mark.parametrize("model", [MAMBA, {**MAMBA, "causal": False}, LOOKAHEAD, OWN])
def test_every_core_with_heads_is_trained_on_its_own_frames_with_noise_and_in_half_precision(
    model, dataset: Dataset, tmp_path: Path
) -> None:
    experiment = of(model, epochs=2, amp="bf16", unroll={"lengths": [2, 3], "share": 0.8}, **NOISE)
    train(experiment, dataset, tmp_path / "once")
    train(experiment, dataset, tmp_path / "twice", stop_after=1)
    manifest = train(experiment, dataset, tmp_path / "twice", resume=True)
    assert "unrolled" in manifest["epochs"][0]
    once, twice = (load_checkpoint(tmp_path / name / "last.pt")[0].state_dict() for name in ("once", "twice"))
    assert all(torch.equal(value, twice[name]) for name, value in once.items())


def test_phases_are_for_the_exact_core_alone(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"training\.phases is not possible with mamba2"):
        train(of(MAMBA, phases=[{"steps": 1}]), dataset, tmp_path)


@pytest.mark.parametrize("way", [NOISE, UNROLL])
def test_the_exact_core_is_trained_in_phases_alone(way, dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="trained in phases"):
        train(of(EXACT), dataset, tmp_path)
    with pytest.raises(UserError, match=rf"training\.{next(iter(way))} is not possible with exact"):
        train_phases(of(EXACT, phases=[{"steps": 1}], **way), dataset, tmp_path)


def test_a_checkpoint_without_progress_is_loaded_and_begun_with(run, experiment, dataset, tmp_path) -> None:
    model, manifest = load_checkpoint(run / "best.pt")
    torch.save({"model": model.state_dict(), "manifest": manifest}, tmp_path / "final.pt")
    loaded = load_checkpoint(tmp_path / "final.pt")[0].state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in model.state_dict().items())
    assert loaded.keys() == build_model(experiment).state_dict().keys()
    settings = experiment.training.model_copy(update={"epochs": 1, "frames_per_epoch": 128})
    shorter = experiment.model_copy(update={"training": settings})
    assert train(shorter, dataset, tmp_path / "next", start_from=tmp_path / "final.pt")["status"] == "finished"
