"""Weights between two checkpoints of one model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from wm_runtime.errors import UserError
from wm_runtime.schema import field_table_hash
from wm_tools.cli import app
from wm_train.config import Experiment
from wm_train.training.blend import blend
from wm_train.training.checkpoint import build_model, load_checkpoint, save_checkpoint


def saved(path: Path, width: int = 8) -> Path:
    experiment = Experiment.model_validate({"name": path.stem, "model": {"trunk": [width]}})
    torch.manual_seed(hash(path.stem) % 1000)
    manifest = {"experiment": experiment.model_dump(mode="json"), "field_table": field_table_hash()}
    save_checkpoint(path, build_model(experiment), manifest)
    return path


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_every_weight_lies_between(share: float, tmp_path: Path) -> None:
    one, other, out = saved(tmp_path / "one.pt"), saved(tmp_path / "other.pt"), tmp_path / "out.pt"
    done = CliRunner().invoke(app, ["blend", str(one), str(other), "--share", str(share), "--out", str(out)])
    assert done.exit_code == 0, done.output
    made, manifest = load_checkpoint(out)
    assert manifest["blended"]["share"] == share
    pairs = zip(*(load_checkpoint(path)[0].parameters() for path in (one, other)), made.parameters(), strict=True)
    for a, b, between in pairs:
        assert torch.allclose(between, (1 - share) * a + share * b, atol=1e-6)


def test_what_cannot_be_blended_is_refused(tmp_path: Path) -> None:
    one, wider = saved(tmp_path / "one.pt"), saved(tmp_path / "wider.pt", 9)
    with pytest.raises(UserError, match="not of the model"):
        blend(one, wider, 0.5)
    with pytest.raises(UserError, match="not a share"):
        blend(one, one, 1.5)
