"""An experiment: one YAML file. Unknown keys and impossible values are refused with one line."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from wm_runtime.errors import UserError
from wm_train.encoding import PRESETS, EncodingConfig

EXPERIMENTS = Path(__file__).parent / "experiments"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelConfig(_Strict):
    kind: Literal["frame_stack_mlp"] = "frame_stack_mlp"
    encoding: Literal["v2", "v2.1", "v2.2", "v2.2-1a", "v2.2-2a"] = "v2.2"
    trunk: tuple[int, ...] = Field(default=(512, 256), min_length=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)

    @property
    def encoding_config(self) -> EncodingConfig:
        return PRESETS[self.encoding]


class ExactConfig(_Strict):
    """Own-frame network with candidates: width of its trunk and later stages, residual blocks before the action is
    chosen, and inner width of the last stage."""

    kind: Literal["exact"] = "exact"
    width: int = Field(default=384, ge=8)
    blocks: int = Field(default=1, ge=0)
    late: int = Field(default=192, ge=8)


class Phase(_Strict):
    """A stretch of training of the exact core: `steps` of `batch_size` windows, each a rollout of `frames` frames; one
    frame is a step from a true state, more are rolled out with the model's own choices."""

    steps: int = Field(ge=1)
    frames: int = Field(default=1, ge=1)
    batch_size: int = Field(default=1024, ge=1)


class TrainingConfig(_Strict):
    phases: tuple[Phase, ...] = ()
    """Of the exact core, which is trained in these instead of epochs."""
    compile: bool = False
    """Compile the steps of training (minutes before the first one)."""
    epochs: int = Field(default=4, ge=1)
    frames_per_epoch: int | None = Field(default=None, ge=1)
    """Target frames an epoch draws; all of them when absent."""
    batch_size: int = Field(default=1024, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    warmup_steps: int = Field(default=200, ge=0)
    gradient_clip: float = Field(default=1.0, gt=0)
    holdout: float = Field(default=0.02, gt=0, lt=0.5)
    """Share of the dataset's games, by content, that choose `best.pt` and are not trained on."""
    max_games: int | None = Field(default=None, ge=2)
    seed: int = 0


class Experiment(_Strict):
    name: str
    description: str = ""
    model: ModelConfig | ExactConfig = Field(default=ModelConfig(), discriminator="kind")
    training: TrainingConfig = TrainingConfig()


def load_experiment(name_or_path: str | Path) -> Experiment:
    """An experiment by path, or by name among those shipped. The file's name is the experiment's. Raises UserError."""
    path = Path(name_or_path)
    if not path.exists() and path.suffix != ".yaml":
        path = EXPERIMENTS / f"{path.name}.yaml"
    try:
        values = yaml.safe_load(path.read_text())
    except OSError:
        names = ", ".join(sorted(p.stem for p in EXPERIMENTS.glob("*.yaml")))
        raise UserError(f"{name_or_path}: no such experiment; give a YAML file, or one of {names}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not YAML ({' '.join(str(error).split())})") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: holds no settings; see wm_train/experiments for examples")
    try:
        return Experiment.model_validate({"name": path.stem, **values})
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
