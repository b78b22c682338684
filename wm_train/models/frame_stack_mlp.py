"""FrameStackMLP: the last K frames and the target frame's controllers through one multilayer perceptron."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from wm_train.encoding import Encoder, EncodingConfig
from wm_train.models.heads import Heads, HeadsModel, heads_of


class FrameStackMLP(HeadsModel):
    """Trunk of linear layers with ReLU on the concatenated stack, then the classic heads."""

    def __init__(self, encoding: EncodingConfig, trunk: Sequence[int] = (512, 256), dropout: float = 0.0):
        super().__init__()
        self.encoder = Encoder(encoding)
        widths = (encoding.input_dim, *trunk)
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            layers += [nn.Linear(inputs, outputs), nn.ReLU(), nn.Dropout(dropout)]
        self.trunk = nn.Sequential(*layers)
        self.heads = Heads(widths[-1], heads_of(encoding))

    def forward(self, floats: Tensor, classes: Tensor, stage: Tensor, controllers: Tensor) -> dict[str, Tensor]:
        """Frames (B, K, 2, ·), stage (B,), the latest controllers (B, history, 2, 13), the target's last → heads."""
        inputs = [self.encoder.stack(floats, classes, stage), self.encoder.controls(controllers)]
        return self.heads(self.trunk(torch.cat(inputs, dim=-1)))
