"""FrameStackMLP: the last K frames and the target frame's controllers through one multilayer perceptron."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from wm_train.encoding import Encoder, EncodingConfig
from wm_train.models.heads import Heads, StackModel, heads_of


class FrameStackMLP(StackModel):
    """Trunk of linear layers with ReLU on the concatenated stack, then the classic heads."""

    def __init__(self, encoding: EncodingConfig, trunk: Sequence[int] = (512, 256), dropout: float = 0.0):
        super().__init__()
        self.encoder = Encoder(encoding)
        widths = (encoding.input_dim, *trunk)
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            layers += [nn.Linear(inputs, outputs), nn.ReLU(), nn.Dropout(dropout)]
        self.trunk = nn.Sequential(*layers)
        self.heads = Heads(widths[-1], heads_of(encoding), encoding.own_frame)
