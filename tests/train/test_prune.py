"""A pruned core of the same size is the same core; a smaller one is still much of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from wm_runtime.errors import UserError
from wm_runtime.replays.dataset import Dataset
from wm_train.config import Experiment
from wm_train.dynamics.exact import ExactCore
from wm_train.dynamics.memory import recall
from wm_train.dynamics.step import WorldModel
from wm_train.training.checkpoint import build_model, load_checkpoint, save_checkpoint
from wm_train.training.prune import prune
from wm_train.training.whole_games import WholeGames


def experiment(width: int, late: int = 12, blocks: int = 1) -> Experiment:
    model = {"kind": "exact", "width": width, "blocks": blocks, "late": late}
    return Experiment(name="pruned", model=model, training={"phases": [{"steps": 1}], "holdout": 0.25})


@pytest.fixture(scope="module")
def big(dataset: Dataset) -> WorldModel:
    torch.manual_seed(3)
    model = build_model(experiment(24)).eval()
    assert isinstance(model.core, ExactCore)
    model.core.measure(dataset, list(range(6)))
    for name, weight in model.core.network.named_parameters():
        if name.endswith("norm.weight") or name.endswith("norm.bias"):
            weight.data.add_(torch.randn_like(weight) * 0.2)
    return model


def said(model: WorldModel, dataset: Dataset) -> dict[str, torch.Tensor]:
    corpus = WholeGames(dataset, [6, 7])
    core = model.core
    assert isinstance(core, ExactCore)
    frames = core.true_frames(corpus.read(corpus.draw(300, 2, np.random.default_rng(1)), 2))
    with torch.no_grad():
        past = recall(frames.carry, frames.before)
        return core.run(frames.before, past, frames.match, frames.controllers, frames.truth.after).logits


def test_at_the_same_width_nothing_changes(big: WorldModel, dataset: Dataset) -> None:
    same = prune(big, experiment(24), dataset, list(range(6)))
    before, after = said(big, dataset), said(same, dataset)
    assert before.keys() == after.keys()
    for name, logits in before.items():
        assert torch.allclose(logits, after[name], atol=2e-3), name


def test_a_smaller_one_says_much_the_same_and_more_than_chance(big: WorldModel, dataset: Dataset) -> None:
    small = prune(big, experiment(16, 8), dataset, list(range(6)))
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in big.parameters())
    before, after = (said(model, dataset)["action"].flatten(0, 1)[:, 14:] for model in (big, small))
    alike = torch.nn.functional.cosine_similarity(before, after, dim=-1)
    assert alike.mean() > 0.8


@pytest.mark.parametrize(("width", "late", "blocks"), [(32, 12, 1), (24, 16, 1), (16, 8, 2)])
def test_what_is_not_smaller_is_refused(big: WorldModel, dataset: Dataset, width: int, late: int, blocks: int) -> None:
    with pytest.raises(UserError, match="may not grow"):
        prune(big, experiment(width, late, blocks), dataset, [0])


def test_mwm_prune_writes_a_checkpoint_to_train_from(big: WorldModel, dataset: Dataset, tmp_path: Path) -> None:
    from wm_tools.cli import app
    from wm_train.training.manifest import new_manifest

    of = experiment(24)
    save_checkpoint(tmp_path / "big.pt", big, new_manifest(of, dataset, [0], [1], "cpu"))
    (tmp_path / "small.yaml").write_text("model: {kind: exact, width: 16, blocks: 1, late: 8}\n"
                                         "training: {phases: [{steps: 1}]}\n")  # fmt: skip
    done = CliRunner().invoke(app, ["prune", str(tmp_path / "big.pt"), "--config", str(tmp_path / "small.yaml"),
                                    "--dataset", str(dataset.path), "--out", str(tmp_path / "small.pt")])  # fmt: skip
    assert done.exit_code == 0, done.output
    model, manifest = load_checkpoint(tmp_path / "small.pt")
    assert model.core.network.from_numbers.out_features == 16  # type: ignore[union-attr]
    assert manifest["pruned_from"]["experiment"]["model"]["width"] == 24
