"""The classic heads: what a frame-stack model predicts of the next frame, how it is scored, by name.

Deltas are targets in the units of `scale`; x and y are what velocity and knockback do not explain of the step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wm_runtime.schema import FIELD, PLAYERS, VELOCITIES
from wm_train.encoding import BITS, FLAG_BYTES, MIRRORED, Encoder, EncodingConfig
from wm_train.models.precision import first_in_full


@dataclass(frozen=True)
class Head:
    """A group of outputs. Regressed groups have one output a field and player, class and bit groups `classes`."""

    name: str
    fields: tuple[str, ...]
    kind: str
    """`delta`, `absolute`, `binary`, `bits` or `classes`."""
    weight: float
    scale: tuple[float, ...] = ()
    """Unit of each field's output (regressed groups)."""
    beta: tuple[float, ...] = ()
    """Error of each field, in its unit, from which the loss grows linearly. Small ones regress to the median, which is
    right for what is nearly always exact; events that are rare (a hit) would never be predicted by it."""
    classes: int = 1

    @property
    def width(self) -> int:
        return PLAYERS * len(self.fields) * self.classes


HEADS: tuple[Head, ...] = (
    Head("continuous", ("percent", "x", "y", "shield"), "delta", 1.0, scale=(5.0, 1.0, 1.0, 1.0),
         beta=(1.0, 0.1, 0.1, 0.1)),
    Head("velocity", VELOCITIES, "delta", 0.5, scale=(0.5,) * 5, beta=(0.1,) * 5),
    Head("dynamics", ("hitlag", "stocks", "combo_count"), "absolute", 0.5, scale=(5.0, 1.0, 1.0), beta=(1.0, 0.1, 0.1)),
    Head("binary", ("facing", "invulnerable", "on_ground"), "binary", 0.5),
    Head("action", ("action",), "classes", 2.0, classes=400),
    Head("jumps", ("jumps",), "classes", 0.5, classes=7),
    Head("l_cancel", ("l_cancel",), "classes", 0.3, classes=3),
    Head("hurtbox", ("hurtbox",), "classes", 0.3, classes=3),
    Head("ground", ("ground",), "classes", 0.3, classes=64),
    Head("last_attack", ("last_attack",), "classes", 0.3, classes=FIELD["last_attack"].classes or 0),
)
NO_GROUND_CLASS = 63
"""Class of the ground head that stands for 65535."""


FLAGS = Head("flags", FLAG_BYTES, "bits", 0.5, classes=len(BITS))
HITSTUN = Head("hitstun", ("misc_as",), "absolute", 0.5, scale=(20.0,), beta=(0.5,))
"""misc_as of fighters in hitstun."""
HEAD: Mapping[str, Head] = {h.name: h for h in (*HEADS, FLAGS, HITSTUN)}


def heads_of(config: EncodingConfig) -> tuple[Head, ...]:
    """The heads of a model that sees these inputs: what it sees and no rule keeps, it has to predict."""
    further = ((FLAGS, config.state_flags), (HITSTUN, config.misc_as))
    return HEADS + tuple(head for head, seen in further if seen)


class Heads(nn.Module):
    """One linear layer whose outputs are the heads' slices, in their order: of both players, or with `own_frame` of
    one, as it sees them."""

    def __init__(self, width: int, heads: tuple[Head, ...] = HEADS, own_frame: bool = False):
        super().__init__()
        self.heads = heads
        self.rows = PLAYERS if own_frame else 1
        self.linear = nn.Linear(width, sum(h.width for h in heads) // self.rows)

    def forward(self, hidden: Tensor, facing: Tensor | None = None) -> dict[str, Tensor]:
        """(…, width) → name → (B, 2, fields) for regressed and binary heads, (B, 2, classes) for classes, (B, 2, bits)
        for bits, float32; B is the product of the leading dimensions. In own frames, hidden is (B, 2, width), and what
        is said of left and right is turned back by `facing` (B, 2)."""
        split = torch.split(self.linear(hidden).float(), [h.width // self.rows for h in self.heads], dim=-1)
        said = {h.name: out.reshape(-1, PLAYERS, h.width // PLAYERS) for h, out in zip(self.heads, split, strict=True)}
        if facing is None:
            return said
        return {h.name: _turned(said[h.name], h.fields, facing) for h in self.heads}


def _turned(out: Tensor, fields: tuple[str, ...], facing: Tensor) -> Tensor:
    """(B, 2, fields) as seen by each player → as they are."""
    if not any(name in MIRRORED for name in fields):
        return out
    mirrored = torch.tensor([name in MIRRORED for name in fields], device=out.device)
    return torch.where(mirrored, out * facing[..., None], out)


class HeadsModel(nn.Module):
    """A network that encodes frames and ends in the classic heads."""

    encoder: Encoder
    heads: Heads


class StackModel(HeadsModel):
    """One whose `trunk` reads a frame stack."""

    trunk: nn.Sequential

    def forward(
        self, floats: Tensor, classes: Tensor, stage: Tensor, controllers: Tensor, *memory: Tensor
    ) -> dict[str, Tensor]:
        """Frames (B, K, 2, ·), stage (B,), the latest controllers (B, history, 2, 13), the target's last, and the
        memory of an encoding that has one (dynamics.recollection) → heads."""
        hidden = first_in_full(self.trunk, self.encoder.inputs(floats, classes, stage, controllers, *memory))
        return self.heads(hidden, self.encoder.facing(floats) if self.encoder.config.own_frame else None)
