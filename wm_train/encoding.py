"""Encoding: raw game values → network inputs. Every width and slice is derived from EncodingConfig and the field table.

The presets reproduce the layouts of the published frame-stack models of this game (v2, v2.1, v2.2 and variants).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wm_runtime.schema import BUTTONS, C_, CONTROL_NAMES, F_, FIELD, I_, M_, PLAYERS, VELOCITIES

SCALES = {
    "percent": 0.01, "x": 0.05, "y": 0.05, "shield": 0.01, "state_age": 0.01, "hitlag": 0.1, "stocks": 0.25,
    "combo_count": 0.1, **dict.fromkeys(VELOCITIES, 0.05),
}  # fmt: skip
"""Field → factor of its encoded float."""
STAGE_VOCABULARY, STAGE_WIDTH = 33, 4
AGE_VOCABULARY = 150
MAX_GAIN = 30.0
"""Limit of the factor that standardises an input: one that hardly ever changes is not blown up."""


@dataclass(frozen=True)
class Embedding:
    """A categorical input: the field it reads, the number of its values and the width of its vectors."""

    field: str
    vocabulary: int
    width: int


@dataclass(frozen=True)
class EncodingConfig:
    """Which inputs a model sees.

    frames: length K of the frame stack · extended: v2.1's further fields · input_conditioned: the target frame's
    controllers are an input (v2.2) · state_age_as_embed: variant 1a · press_events: variant 2a, rising button edges.
    """

    frames: int = 10
    extended: bool = True
    input_conditioned: bool = True
    state_age_as_embed: bool = False
    press_events: bool = False

    @property
    def float_names(self) -> tuple[str, ...]:
        """Floats of one player of one frame, in order: state, then the controller that produced it."""
        dynamics = ("state_age", "hitlag", "stocks") + (("combo_count",) if self.extended else ())
        if self.state_age_as_embed:
            dynamics = dynamics[1:]
        state = ("percent", "x", "y", "shield", *VELOCITIES, *dynamics, "facing", "invulnerable", "on_ground")
        return state + tuple(f"controller.{name}" for name in CONTROL_NAMES)

    @property
    def embeddings(self) -> tuple[Embedding, ...]:
        """Categorical inputs of one player of one frame, in order."""
        rows = [Embedding("action", 400, 32), Embedding("jumps", 8, 4), Embedding("character", 33, 8)]
        if self.extended:
            rows += [Embedding("l_cancel", 3, 2), Embedding("hurtbox", 3, 2), Embedding("ground", 64, 4)]
            rows += [Embedding("last_attack", 128, 8)]
        if self.state_age_as_embed:
            rows += [Embedding("state_age", AGE_VOCABULARY, 8)]
        return tuple(rows)

    @property
    def player_dim(self) -> int:
        return len(self.float_names) + sum(e.width for e in self.embeddings)

    @property
    def frame_dim(self) -> int:
        return PLAYERS * self.player_dim + STAGE_WIDTH

    @property
    def control_dim(self) -> int:
        """Width of the target frame's controllers."""
        if not self.input_conditioned:
            return 0
        return PLAYERS * (len(CONTROL_NAMES) + (len(BUTTONS) if self.press_events else 0))

    @property
    def input_dim(self) -> int:
        return self.frames * self.frame_dim + self.control_dim


PRESETS = {
    "v2": EncodingConfig(extended=False, input_conditioned=False),
    "v2.1": EncodingConfig(input_conditioned=False),
    "v2.2": EncodingConfig(),
    "v2.2-1a": EncodingConfig(state_age_as_embed=True),
    "v2.2-2a": EncodingConfig(press_events=True),
}


class Encoder(nn.Module):
    """Embeddings and arithmetic that turn raw frames into inputs.

    A frame is (floats, classes): `floats` (..., 2, floats) float32, `classes` (..., 2, embeddings) int32;
    these are what a carry remembers of it. `stack` standardises the floats with the mean and spread that `measure`
    finds in the training games: inputs of one size learn at one pace.
    """

    mean: Tensor
    """(floats,): of each float input."""
    gain: Tensor
    """(floats,): 1 / standard deviation, at most MAX_GAIN."""

    def __init__(self, config: EncodingConfig):
        super().__init__()
        self.config = config
        self.register_buffer("mean", torch.zeros(len(config.float_names)))
        self.register_buffer("gain", torch.ones(len(config.float_names)))
        self.embed = nn.ModuleDict({e.field: nn.Embedding(e.vocabulary, e.width) for e in config.embeddings})
        self.embed_stage = nn.Embedding(STAGE_VOCABULARY, STAGE_WIDTH)

    def frame(self, floats: Tensor, ints: Tensor, controllers: Tensor) -> tuple[Tensor, Tensor]:
        """Raw floats (..., 2, F), ints (..., 2, I) and the controllers (..., 2, 13) that produced them → a frame."""
        columns = [_float_input(name, floats, ints, controllers) for name in self.config.float_names]
        classes = [_class_input(e, floats, ints) for e in self.config.embeddings]
        return torch.stack(columns, dim=-1), torch.stack(classes, dim=-1)

    @torch.no_grad()
    def measure(self, floats: Tensor, ints: Tensor, controllers: Tensor) -> None:
        """Fills `mean` and `gain` from a sample of raw frames, (N, 2, F), (N, 2, I) and (N, 2, 13)."""
        inputs = self.frame(floats, ints, controllers)[0].flatten(0, 1).double()
        self.mean.copy_(inputs.mean(dim=0))
        self.gain.copy_((1 / inputs.std(dim=0).clamp(min=1e-6)).clamp(max=MAX_GAIN))

    def stack(self, floats: Tensor, classes: Tensor, stage: Tensor) -> Tensor:
        """K frames: (B, K, 2, ·) and stage (B,) → (B, K · frame_dim)."""
        batch, frames = floats.shape[0], self.config.frames
        even = (floats - self.mean) * self.gain
        parts = [even] + [self.embed[e.field](classes[..., i]) for i, e in enumerate(self.config.embeddings)]
        players = torch.cat(parts, dim=-1).reshape(batch, frames, PLAYERS * self.config.player_dim)
        stages = self.embed_stage(stage)[:, None].expand(batch, frames, STAGE_WIDTH)
        return torch.cat([players, stages], dim=-1).reshape(batch, frames * self.config.frame_dim)

    def controls(self, controllers: Tensor, previous: Tensor) -> Tensor:
        """Controllers of the target frame and of the one before, (B, 2, 13) each → (B, control_dim)."""
        parts = [controllers]
        if self.config.press_events:
            first = C_[BUTTONS[0]]
            parts.append(((controllers > 0.5) & (previous < 0.5)).float()[..., first:])
        return torch.cat(parts, dim=-1).flatten(1)


def _float_input(name: str, floats: Tensor, ints: Tensor, controllers: Tensor) -> Tensor:
    if name.startswith("controller."):
        return controllers[..., C_[name.partition(".")[2]]]
    if name == "facing":
        return (ints[..., I_["facing"]] > 0).float()
    if name == "invulnerable":
        return (ints[..., I_["hurtbox"]] != 0).float()
    if name == "on_ground":
        return (ints[..., I_["airborne"]] == 0).float()
    raw = floats[..., F_[name]] if name in F_ else ints[..., I_[name]].float()
    return raw * SCALES[name]


def _class_input(e: Embedding, floats: Tensor, ints: Tensor) -> Tensor:
    raw = floats[..., F_[e.field]].floor().int() if e.field in F_ else ints[..., I_[e.field]]
    return raw.clamp(0, e.vocabulary - 1)


def stage_of(match: Tensor) -> Tensor:
    """(N, M) match ints → stage id (N,) int64."""
    return match[..., M_["stage"]].clamp(0, STAGE_VOCABULARY - 1).long()


assert all(name in FIELD for name in SCALES)
