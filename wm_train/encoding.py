"""Encoding: raw game values → network inputs. Every width and slice is derived from EncodingConfig and the field table.

The presets reproduce the layouts of the published frame-stack models of this game (v2, v2.1, v2.2 and variants).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from wm_runtime.schema import BUTTONS, C_, CONTROL_NAMES, F_, FIELD, I_, INT_FIELDS, M_, PLAYERS, VELOCITIES

SCALES = {
    "percent": 0.01, "x": 0.05, "y": 0.05, "shield": 0.01, "state_age": 0.01, "hitlag": 0.1, "stocks": 0.25,
    "combo_count": 0.1, **dict.fromkeys(VELOCITIES, 0.05),
}  # fmt: skip
"""Field → factor of its encoded float."""
STAGE_VOCABULARY, STAGE_WIDTH = 33, 4
AGE_VOCABULARY = 150
MAX_GAIN = 30.0
"""Limit of the factor that standardises an input: one that hardly ever changes is not blown up."""
FLAG_BYTES = tuple(name for name in INT_FIELDS if name.startswith("flags_"))
BITS = tuple(1 << i for i in range(8))
HITSTUN_BYTE, HITSTUN_BIT = "flags_4", 0x02
"""With this bit set, misc_as is the hitstun left; otherwise it is a variable of the action."""
HITSTUN_SCALE, HITSTUN_LIMIT = 0.02, 300.0
"""Hitstun is clamped to the limit, frames, then scaled."""
STICK_THRESHOLDS = {
    "main_x": (0.2875, 0.6, 0.8), "main_y": (0.2875, 0.6625), "c_x": (0.2875, 0.8), "c_y": (0.2875, 0.6625),
}  # fmt: skip
"""Stick positions, of each sign, at which the game does something else."""
MIRRORED = ("x", "self_x_air", "knockback_x", "self_x_ground", "facing", "controller.main_x", "controller.c_x")
"""Inputs and outputs that change sign with the direction from which they are seen."""
SPAN, SPAN_FINE = 60, 8
"""Explicit memory tells nothing that is so many frames ago or more; what is nearer than the second, it tells finely."""
MEMORY_COUNTERS = (
    "frames_in_action", "since_hurtbox", "since_airborne", "since_hitlag", "since_ledge", "since_trigger", "since_hit",
    "since_landing",
)  # fmt: skip
"""Counters of dynamics.memory that explicit memory tells."""
MEMORY_ACTIONS, MEMORY_CONTROLLERS = 2, 8
"""Actions before the present one, and latest controllers, that it tells."""


@dataclass(frozen=True)
class Embedding:
    """A categorical input: the field it reads, the number of its values and the width of its vectors."""

    field: str
    vocabulary: int
    width: int


@dataclass(frozen=True)
class EncodingConfig:
    """Which inputs a model sees. Raises ValueError for what cannot be combined.

    | flag | inputs |
    |---|---|
    | `frames` | length K of the frame stack, and of a training sequence |
    | `extended` | v2.1's further fields |
    | `input_conditioned` | the target frame's controllers (v2.2) |
    | `state_age_as_embed` | variant 1a: age as an embedding instead of a float |
    | `press_events` | variant 2a: rising edges of the buttons of each of those controllers |
    | `lookahead` | variant 3a: the target is so many frames further from the stack; all controllers between are seen |
    | `state_flags` | the 40 state flag bits |
    | `misc_as` | hitstun left, which `state_flags` tell from the action's own variable |
    | `stick_thresholds` | which thresholds each stick of those controllers is beyond |
    | `own_frame` | each player's view of the match: itself first, mirrored so that it faces right; both are rows |
    | `memory` | the past as numbers: frames since what happened last, previous actions, latest controllers |

    With `lookahead` d, frames t − K … t − 1 and the controllers of t … t + d predict frame t + d. In play, whose next
    frame is t + d, the stack ends d frames before the present one: a step still takes one frame's controllers.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    frames: int = 10
    extended: bool = True
    input_conditioned: bool = True
    state_age_as_embed: bool = False
    press_events: bool = False
    lookahead: int = 0
    state_flags: bool = False
    misc_as: bool = False
    stick_thresholds: bool = False
    own_frame: bool = False
    memory: bool = False

    def __post_init__(self) -> None:
        if self.frames < 1 or self.lookahead < 0:
            raise ValueError(f"frames {self.frames}, lookahead {self.lookahead}: at least 1 and 0")
        if not self.input_conditioned and (self.press_events or self.lookahead or self.stick_thresholds):
            raise ValueError("press_events, lookahead and stick_thresholds need input_conditioned")
        if self.misc_as and not self.state_flags:
            raise ValueError("misc_as needs state_flags, which tell hitstun from what else it holds")
        if self.memory and self.lookahead:
            raise ValueError("memory and lookahead exclude each other: memory tells of the frame that lookahead hides")

    @property
    def float_names(self) -> tuple[str, ...]:
        """Floats of one player of one frame, in order: state, then the controller that produced it."""
        dynamics = ("state_age", "hitlag", "stocks") + (("combo_count",) if self.extended else ())
        if self.state_age_as_embed:
            dynamics = dynamics[1:]
        names = ("percent", "x", "y", "shield", *VELOCITIES, *dynamics, "facing", "invulnerable", "on_ground")
        if self.misc_as:
            names += ("hitstun",)
        if self.state_flags:
            names += tuple(f"{byte}.{bit:#04x}" for byte in FLAG_BYTES for bit in BITS)
        return names + tuple(f"controller.{name}" for name in CONTROL_NAMES)

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
    def control_names(self) -> tuple[str, ...]:
        """Inputs made of one player's controller of one frame, in order."""
        names = CONTROL_NAMES if self.input_conditioned else ()
        if self.press_events:
            names += tuple(f"press.{name}" for name in BUTTONS)
        if self.stick_thresholds:
            names += tuple(f"{stick}{s}{t}" for stick, ts in STICK_THRESHOLDS.items() for s in (">", "<-") for t in ts)
        return names

    @property
    def control_dim(self) -> int:
        """Width of the controllers up to the target frame's."""
        return (1 + self.lookahead) * PLAYERS * len(self.control_names)

    @property
    def memory_dim(self) -> int:
        """Width of the explicit memory of both players."""
        if not self.memory:
            return 0
        counters, actions = 2 * len(MEMORY_COUNTERS), MEMORY_ACTIONS * self.embeddings[0].width
        return PLAYERS * (counters + actions + MEMORY_CONTROLLERS * len(CONTROL_NAMES))

    @property
    def input_dim(self) -> int:
        """Width of a frame stack's input: one for both players, or with `own_frame` one for each."""
        return self.frames * self.frame_dim + self.control_dim + self.memory_dim

    @property
    def past(self) -> int:
        """Frames before the present one that an input is made of. The memory's first only tells what changed next."""
        return max(self.frames + self.lookahead - 1, SPAN + 1 if self.memory else 0)

    @property
    def controller_columns(self) -> slice:
        """Where a frame's floats hold the controller that produced it, as it is."""
        return slice(len(self.float_names) - len(CONTROL_NAMES), len(self.float_names))

    @property
    def history(self) -> int:
        """How many frames' controllers an input is made of: the target's, those between, and the one before."""
        return 2 + self.lookahead


PRESETS = {
    "v2": EncodingConfig(extended=False, input_conditioned=False),
    "v2.1": EncodingConfig(input_conditioned=False),
    "v2.2": EncodingConfig(),
    "v2.2-1a": EncodingConfig(state_age_as_embed=True),
    "v2.2-2a": EncodingConfig(press_events=True),
    "v2.2-3a": EncodingConfig(lookahead=1),
    "v3": EncodingConfig(state_age_as_embed=True, state_flags=True, misc_as=True, stick_thresholds=True),
    "v4": EncodingConfig(
        state_age_as_embed=True, state_flags=True, misc_as=True, stick_thresholds=True, own_frame=True, memory=True
    ),
}
"""v2 … v2.2-3a are the published ones. New experiments have v4, all that came after, or v3, that of it which is for
models with a memory of their own."""


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
    _mirrored_floats: Tensor
    _mirrored_controls: Tensor

    def __init__(self, config: EncodingConfig):
        super().__init__()
        self.config = config
        self.register_buffer("mean", torch.zeros(len(config.float_names)))
        self.register_buffer("gain", torch.ones(len(config.float_names)))
        self.embed = nn.ModuleDict({e.field: nn.Embedding(e.vocabulary, e.width) for e in config.embeddings})
        self.embed_stage = nn.Embedding(STAGE_VOCABULARY, STAGE_WIDTH)
        controls = tuple(f"controller.{name}" for name in CONTROL_NAMES)
        for where, names in (("floats", config.float_names), ("controls", controls)):
            mirrored = torch.tensor([name in MIRRORED for name in names])
            self.register_buffer(f"_mirrored_{where}", mirrored, persistent=False)

    def frame(self, floats: Tensor, ints: Tensor, controllers: Tensor) -> tuple[Tensor, Tensor]:
        """Raw floats (..., 2, F), ints (..., 2, I) and the controllers (..., 2, 13) that produced them → a frame."""
        names = self.config.float_names
        scalars = [name for name in names if name in SCALES or name in BINARY]
        parts = [torch.stack([_float_input(name, floats, ints) for name in scalars], dim=-1)]
        if self.config.misc_as:
            parts.append(hitstun(floats, ints)[..., None] * HITSTUN_SCALE)
        if self.config.state_flags:
            bits = torch.tensor(BITS, dtype=torch.int32, device=ints.device)
            parts += [((ints[..., I_[byte], None] & bits) > 0).float() for byte in FLAG_BYTES]
        columns = torch.cat([*parts, controllers], dim=-1)
        assert columns.shape[-1] == len(names), f"made {columns.shape[-1]} inputs of {len(names)}"
        classes = [_class_input(e, floats, ints) for e in self.config.embeddings]
        return columns, torch.stack(classes, dim=-1)

    @torch.no_grad()
    def measure(self, floats: Tensor, ints: Tensor, controllers: Tensor) -> None:
        """Fills `mean` and `gain` from a sample of raw frames, (N, 2, F), (N, 2, I) and (N, 2, 13)."""
        inputs = self.frame(floats, ints, controllers)[0].flatten(0, 1).double()
        mean, spread = inputs.mean(dim=0), inputs.std(dim=0)
        if self.config.own_frame:  # what is seen from either side is as often on one side as on the other
            middle = torch.tensor([0.5 if name in BINARY else 0.0 for name in self.config.float_names])
            mean = torch.where(self._mirrored_floats, middle, mean)
            spread = torch.where(self._mirrored_floats, (inputs - mean).square().mean(dim=0).sqrt(), spread)
        self.mean.copy_(mean)
        self.gain.copy_((1 / spread.clamp(min=1e-6)).clamp(max=MAX_GAIN))

    def embedded(self, floats: Tensor, classes: Tensor, stage: Tensor) -> Tensor:
        """Frames (B, L, 2, ·) and stage (B,) → (B, L, frame_dim)."""
        return self._with_stage(torch.cat([self._even(floats), self._vectors(classes)], dim=-1), stage)

    def stack(self, floats: Tensor, classes: Tensor, stage: Tensor) -> Tensor:
        """K frames: (B, K, 2, ·) and stage (B,) → (B, K · frame_dim)."""
        return self.embedded(floats, classes, stage).flatten(1)

    def inputs(self, floats: Tensor, classes: Tensor, stage: Tensor, controllers: Tensor, *memory: Tensor) -> Tensor:
        """K frames (B, K, 2, ·), stage (B,), controllers of the latest `history` frames (B, history, 2, 13), the
        target's last, and with `memory` what `Recollection` holds → (B, input_dim); with `own_frame` (B, 2, input_dim),
        a row for each player."""
        if not self.config.own_frame:
            parts = [self.stack(floats, classes, stage), self.controls(controllers)]
            return torch.cat([*parts, *(part.flatten(1) for part in self._memory(*memory))], dim=-1)
        facing = self.facing(floats)
        even = _views(self._even(floats), facing, self._mirrored_floats)
        frames = torch.cat([even, _views(self._vectors(classes))], dim=-1)  # (B, 2, K, 2, player_dim)
        seen = _views(controllers, facing, self._mirrored_controls)
        parts = [self._with_stage(frames, stage).flatten(2), self.controls(seen)]
        if self.config.memory:
            counters, actions, pads = memory
            seen = _views(pads, facing, self._mirrored_controls).flatten(0, 1)
            views = (_views(counters).flatten(0, 1), _views(actions).flatten(0, 1), seen)
            parts += [part.flatten(1).unflatten(0, (-1, PLAYERS)) for part in self._memory(*views)]
        return torch.cat(parts, dim=-1)

    def facing(self, floats: Tensor) -> Tensor:
        """Encoded frames (B, L, 2, ·) → 1 or −1, the direction in which each player faces in the last, (B, 2)."""
        return floats[:, -1, :, self.config.float_names.index("facing")] * 2 - 1

    def _even(self, floats: Tensor) -> Tensor:
        return (floats - self.mean) * self.gain

    def _vectors(self, classes: Tensor) -> Tensor:
        """(…, 2, embeddings) → (…, 2, their widths)."""
        return torch.cat([self.embed[e.field](classes[..., i]) for i, e in enumerate(self.config.embeddings)], dim=-1)

    def _with_stage(self, players: Tensor, stage: Tensor) -> Tensor:
        """(B, …, 2, player_dim) and stage (B,) → (B, …, frame_dim)."""
        frames = players.flatten(-2)
        stages = self.embed_stage(stage).view(-1, *[1] * (frames.dim() - 2), STAGE_WIDTH)
        return torch.cat([frames, stages.expand(*frames.shape[:-1], STAGE_WIDTH)], dim=-1)

    def _memory(self, *memory: Tensor) -> list[Tensor]:
        """Counters (B, 2, ·), actions (B, 2, ·), −1 if forgotten, and controllers (B, T, 2, 13) → parts (B, 2, ·)."""
        if not self.config.memory:
            return []
        counters, actions, pads = memory
        near = counters.clamp(max=SPAN_FINE).float() / SPAN_FINE
        vectors = self.embed["action"](actions.clamp(min=0)) * (actions >= 0).float()[..., None]
        return [counters.float() / SPAN, near, vectors.flatten(2), pads.transpose(1, 2).flatten(2)]

    def controls(self, controllers: Tensor) -> Tensor:
        """Controllers of the latest `history` frames, the target's last, (…, history, 2, 13) → (…, control_dim)."""
        now, before = controllers[..., 1:, :, :], controllers[..., :-1, :, :]
        parts = [now] if self.config.input_conditioned else [now[..., :0]]
        if self.config.press_events:
            first = C_[BUTTONS[0]]
            parts.append(((now > 0.5) & (before < 0.5)).float()[..., first:])
        if self.config.stick_thresholds:
            for stick, thresholds in STICK_THRESHOLDS.items():
                limits = torch.tensor(thresholds, device=now.device)
                value = now[..., C_[stick], None]
                parts += [(value >= limits).float(), (-value >= limits).float()]
        return torch.cat(parts, dim=-1).flatten(-3)


BINARY: Mapping[str, Callable[[Tensor], Tensor]] = {
    "facing": lambda ints: ints[..., I_["facing"]] > 0,
    "invulnerable": lambda ints: ints[..., I_["hurtbox"]] != 0,
    "on_ground": lambda ints: ints[..., I_["airborne"]] == 0,
}
"""Inputs of 0 or 1 → raw ints (…, 2, I) to (…, 2) bool."""


def _views(values: Tensor, facing: Tensor | None = None, mirrored: Tensor | None = None) -> Tensor:
    """(B, …, 2, C) → (B, 2, …, 2, C): as each player sees them, itself first, `mirrored` columns (C,) times the
    direction that it faces, (B, 2)."""
    views = torch.stack([values, values.flip(-2)], dim=1)
    if facing is None or mirrored is None:
        return views
    sign = facing.view(-1, PLAYERS, *[1] * (values.dim() - 1))
    return torch.where(mirrored, views * sign, views)


def _float_input(name: str, floats: Tensor, ints: Tensor) -> Tensor:
    if name in BINARY:
        return BINARY[name](ints).float()
    raw = floats[..., F_[name]] if name in F_ else ints[..., I_[name]].float()
    return raw * SCALES[name]


def hitstun(floats: Tensor, ints: Tensor) -> Tensor:
    """Frames of hitstun left, from raw floats (…, 2, F) and ints (…, 2, I): (…, 2)."""
    stunned = (ints[..., I_[HITSTUN_BYTE]] & HITSTUN_BIT) > 0
    left = floats[..., F_["misc_as"]].masked_fill(~stunned, 0.0)
    return torch.nan_to_num(left, 0.0, 0.0, 0.0).clamp(0.0, HITSTUN_LIMIT)


def _class_input(e: Embedding, floats: Tensor, ints: Tensor) -> Tensor:
    raw = floats[..., F_[e.field]].floor().int() if e.field in F_ else ints[..., I_[e.field]]
    return raw.clamp(0, e.vocabulary - 1)


def stage_of(match: Tensor) -> Tensor:
    """(N, M) match ints → stage id (N,) int64."""
    return match[..., M_["stage"]].clamp(0, STAGE_VOCABULARY - 1).long()


assert all(name in FIELD for name in SCALES)
