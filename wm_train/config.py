"""An experiment: one YAML file. Unknown keys and impossible values are refused with one line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from wm_runtime.errors import UserError
from wm_runtime.schema import FIRST_FRAME
from wm_train.encoding import PRESETS, EncodingConfig
from wm_train.models.mamba2 import Mamba2Sizes

EXPERIMENTS = Path(__file__).parent / "experiments"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelConfig(_Strict):
    """A network with classic heads. `encoding`: the name of a preset, or flags and the `preset` that they change
    (v2.2); left out, it is that of new experiments: v4, or v3 for mamba2."""

    kind: Literal["frame_stack_mlp", "residual_mlp", "mamba2"] = "frame_stack_mlp"
    encoding: EncodingConfig
    dropout: float = Field(default=0.0, ge=0, lt=1)
    trunk: tuple[int, ...] = Field(default=(512, 256), min_length=1)
    """Widths of frame_stack_mlp's layers."""
    width: int = Field(default=512, ge=1)
    blocks: int = Field(default=2, ge=0)
    """Of residual_mlp."""
    mamba2: Mamba2Sizes = Mamba2Sizes()
    causal: bool = True
    """Every frame of mamba2's training sequences is a target, not the last alone."""

    @model_validator(mode="before")
    @classmethod
    def _new(cls, values: Any) -> Any:
        if not isinstance(values, dict) or "encoding" in values:
            return values
        return {**values, "encoding": "v3" if values.get("kind") == "mamba2" else "v4"}

    @field_validator("encoding", mode="before")
    @classmethod
    def _preset(cls, value: object) -> object:
        if isinstance(value, EncodingConfig):
            return value
        flags = {"preset": value} if isinstance(value, str) else value
        if not isinstance(flags, dict):
            raise ValueError("name a preset, or give a mapping of flags")
        name, changes = flags.get("preset", "v2.2"), {k: v for k, v in flags.items() if k != "preset"}
        if name not in PRESETS:
            raise ValueError(f"no encoding {name!r}; choose of {', '.join(PRESETS)}")
        return {**asdict(PRESETS[name]), **changes}

    @model_validator(mode="after")
    def _possible(self) -> ModelConfig:
        longest = -FIRST_FRAME
        window = self.encoding.past + 1
        if window > longest:
            raise ValueError(f"encoding: {window} frames before a target, but games begin {longest} before frame 0")
        if self.kind == "mamba2":
            if self.encoding.lookahead or not self.encoding.input_conditioned:
                raise ValueError("mamba2 needs an encoding that is input_conditioned and has no lookahead")
            if self.encoding.own_frame or self.encoding.memory:
                raise ValueError("mamba2 has a memory of its own, and sees both players at once: leave out own_frame "
                                 "and memory")  # fmt: skip
            if (self.mamba2.chunk_size or 1) > self.encoding.frames:
                raise ValueError(
                    f"mamba2: chunk_size {self.mamba2.chunk_size} is more than the {self.encoding.frames} frames of a "
                    "sequence; lower it, or raise encoding.frames"
                )
        return self


class ResidualTrunk(_Strict):
    """One frame and explicit memory; nothing else is remembered."""

    kind: Literal["residual"] = "residual"


class FrameStackTrunk(_Strict):
    """The last `frames` frames, as the network sees them, through ReLU layers of these widths and a linear one."""

    kind: Literal["frame_stack"]
    frames: int = Field(default=6, ge=2, le=-FIRST_FRAME)
    widths: tuple[Annotated[int, Field(ge=8)], ...] = Field(default=(512,), min_length=1)


class Mamba2Trunk(_Strict):
    """Mamba-2 on each player's own view, its d_model the network's width; other sizes as in Mamba2Sizes."""

    kind: Literal["mamba2"]
    layers: int = 1
    d_state: int = 32
    headdim: int = 64
    expand: int = 2
    d_conv: int = 4
    chunk_size: int | None = None
    warmup: int = Field(default=16, ge=0, lt=-FIRST_FRAME)
    """True frames before a training window that are seen first."""

    def sizes(self, width: int) -> Mamba2Sizes:
        return Mamba2Sizes(width, self.d_state, self.layers, self.headdim, self.expand, self.d_conv, self.chunk_size)


Trunk = ResidualTrunk | FrameStackTrunk | Mamba2Trunk
TRUNKS = frozenset(("residual", "frame_stack", "mamba2"))


class ExactConfig(_Strict):
    """Own-frame network with candidates: its trunk, width of that and of the later stages, residual blocks between the
    trunk and the choice of the action, and inner width of the last stage."""

    kind: Literal["exact"] = "exact"
    trunk: Trunk = Field(default=ResidualTrunk(), discriminator="kind")
    width: int = Field(default=384, ge=8)
    blocks: int = Field(default=1, ge=0)
    late: int = Field(default=192, ge=8)

    @model_validator(mode="after")
    def _possible(self) -> ExactConfig:
        if isinstance(self.trunk, Mamba2Trunk):
            try:
                self.trunk.sizes(self.width)
            except ValueError as error:
                raise ValueError(f"trunk: {str(error).replace('d_model', 'width')}") from None
        return self


class Phase(_Strict):
    """A stretch of training of the exact core: `steps` of `batch_size` windows, each a rollout of `frames` frames; one
    frame is a step from a true state, more are rolled out with the model's own choices."""

    steps: int = Field(ge=1)
    frames: int = Field(default=1, ge=1)
    batch_size: int = Field(default=1024, ge=1)
    share: float = Field(default=1.0, gt=0, le=1)
    """Share of the frames that is learned from: those that the model is wrong about are chosen oftener."""
    updates: int = Field(default=1, ge=1)
    """Steps of the optimiser on the frames of a batch, each on its own part of them."""
    teacher_forcing: bool = False
    """Every frame of a window is a step from a true state, its later stages told the truth."""

    @model_validator(mode="after")
    def _possible(self) -> Phase:
        if self.teacher_forcing and self.share < 1:
            raise ValueError("teacher_forcing learns from every frame: leave share at 1")
        return self

    @property
    def told(self) -> bool:
        """Whether later stages are told the truth."""
        return self.frames == 1 or self.teacher_forcing

    @property
    def rolled_out(self) -> bool:
        """Whether the model steps through the windows before it learns from them."""
        return not self.told or self.share < 1


KINDS = tuple(kind for model in (ModelConfig, ExactConfig) for kind in get_args(model.model_fields["kind"].annotation))


class ScheduledSampling(_Strict):
    """Noise on the newest frames of a stack: inputs as uncertain as a model's own frames, labels of the true game."""

    rate: float = Field(default=0.30, gt=0, le=1)
    """Share of windows that are disturbed."""
    noise: float = Field(default=0.10, gt=0)
    """Standard deviation, in units of encoded inputs (encoding.SCALES)."""
    frames: int = Field(default=3, ge=1)
    annealing_epochs: int = Field(default=3, ge=0)
    """Epochs in which rate and noise rise from nothing; the first is clean."""


class Unroll(_Strict):
    """Training on the model's own frames: hard choices fed back, labels of the true game."""

    share: float = Field(default=0.5, gt=0, le=1)
    """Of the batches."""
    lengths: tuple[Annotated[int, Field(ge=1, le=512)], ...] = Field(default=(4, 8, 16), min_length=1)
    """Targets of a window; the run is divided evenly among them, in this order."""


class Wandb(_Strict):
    enabled: bool = True
    """Only where the package is installed; offline where no key is known."""
    project: str = "melee-world-model"
    entity: str | None = None


class TrainingConfig(_Strict):
    phases: tuple[Phase, ...] = ()
    """Of the exact core, which is trained in these instead of epochs."""
    folds: int = Field(default=0, ge=0, le=32)
    """Of the games of an exact core: tables are measured without each once more, and its games are told those."""
    vector_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of an exact core's vectors of moves, and of their ages, that are hidden while it learns."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of what is within an exact core's blocks that is hidden while it learns."""
    epochs: int = Field(default=4, ge=1)
    frames_per_epoch: int | None = Field(default=None, ge=1)
    """Windows an epoch draws; all of them when absent."""
    batch_size: int = Field(default=1024, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    warmup_steps: int = Field(default=200, ge=0)
    gradient_clip: float = Field(default=1.0, gt=0)
    amp: Annotated[Literal["auto", "bf16", "off"], BeforeValidator(lambda v: "off" if v is False else v)] = "auto"
    """Half precision of a network's products; features and positions stay float32. auto: where the device has it."""
    compile: bool = False
    """torch.compile of the network, or of the exact core's steps (minutes before the first one)."""
    scheduled_sampling: ScheduledSampling | None = None
    unroll: Unroll | None = None
    data: Literal["auto", "device", "ram", "streaming"] = "auto"
    """Where frames are kept. auto: the first of these that they fit into."""
    buffer_size: int = Field(default=262_144, ge=1)
    """Windows in the shuffle buffer when streaming."""
    holdout: float = Field(default=0.02, gt=0, lt=0.5)
    """Share of the dataset's games, by content, that choose `best.pt` and are not trained on."""
    rollouts: int = Field(default=512, ge=1)
    """Windows of 20 frames of those games that are rolled out for every verdict: after an epoch, or 600 steps."""
    long_rollouts: int = Field(default=48, ge=0)
    """Windows of 300 frames, for stock losses and broken rules."""
    max_games: int | None = Field(default=None, ge=2)
    seed: int = 0
    log_interval: int = Field(default=100, ge=1)
    """Steps between rows of metrics.jsonl."""
    save_minutes: float = Field(default=10.0, gt=0)
    """Time between checkpoints within an epoch."""
    wandb: Wandb = Wandb()

    @model_validator(mode="after")
    def _possible(self) -> TrainingConfig:
        if self.unroll and list(self.unroll.lengths) != sorted(set(self.unroll.lengths)):
            raise ValueError("unroll.lengths must rise")
        if self.scheduled_sampling and self.scheduled_sampling.annealing_epochs >= self.epochs:
            raise ValueError("scheduled_sampling.annealing_epochs must be fewer than epochs")
        return self


class Experiment(_Strict):
    name: str
    description: str = ""
    model: ModelConfig | ExactConfig = Field(default=ModelConfig.model_validate({}), discriminator="kind")
    training: TrainingConfig = TrainingConfig()

    @field_validator("model", mode="before")
    @classmethod
    def _known(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        value = {"kind": "frame_stack_mlp", **value}
        if value["kind"] not in KINDS:
            raise ValueError(f"no kind of model {value['kind']!r}; choose of {', '.join(KINDS)}")
        return value

    @model_validator(mode="after")
    def _possible(self) -> Experiment:
        trunk = self.model.trunk
        if isinstance(trunk, Mamba2Trunk) and self.training.phases:
            longest = trunk.warmup + max(phase.frames for phase in self.training.phases)
            if (trunk.chunk_size or 1) > longest:
                raise ValueError(
                    f"model.trunk: chunk_size {trunk.chunk_size} is more than the {longest} frames of the longest "
                    "sequence; lower it, or raise warmup or a phase's frames"
                )
        return self


def load_experiment(name_or_path: str | Path, changes: Mapping[str, Any] = MappingProxyType({})) -> Experiment:
    """An experiment by path, or by name among those shipped. The file's name is the experiment's. Raises UserError.

    `changes`: values that replace the file's, by dotted name (training.learning_rate).
    """
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
    values = {"name": path.stem, **values}
    for name, value in changes.items():
        _put(values, name.split("."), value)
    try:
        return Experiment.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = [str(part) for part in first["loc"]]
        if where[:1] == ["model"]:  # then comes the kind, which no file has there
            del where[1:2]
        if where[:2] == ["model", "trunk"] and TRUNKS.issuperset(where[2:3]):
            del where[2:3]
        reason = first["msg"].removeprefix("Value error, ")
        raise UserError(": ".join(part for part in (str(path), ".".join(where), reason) if part)) from None


def parse_changes(settings: Sequence[str]) -> dict[str, Any]:
    """["training.unroll.lengths=[2, 4]", …] → {"training.unroll.lengths": [2, 4], …}. Raises UserError."""
    changes = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        try:
            changes[name.strip()] = yaml.safe_load(value)
        except yaml.YAMLError:
            equals = ""
        if not equals or not name.strip():
            raise UserError(f"{setting!r}: not a setting; write one as training.learning_rate=1e-3")
    return changes


def _put(values: dict[str, Any], keys: list[str], value: object) -> None:
    for key in keys[:-1]:
        if not isinstance(values.get(key), dict):
            values[key] = {}
        values = values[key]
    values[keys[-1]] = value
