"""ResidualMLP: the frame stack, or one frame and explicit memory, and the target frame's controllers through residual
blocks of one width."""

from __future__ import annotations

from torch import Tensor, nn

from wm_train.encoding import Encoder, EncodingConfig
from wm_train.models.heads import Heads, StackModel, heads_of


class ResidualBlock(nn.Module):
    """x + MLP(LayerNorm(x)), twice as wide inside."""

    def __init__(self, width: int, dropout: float = 0.0):
        super().__init__()
        wide = [nn.Linear(width, 2 * width), nn.SiLU(), nn.Dropout(dropout)]
        self.layers = nn.Sequential(nn.LayerNorm(width), *wide, nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class ResidualMLP(StackModel):
    """A linear layer, residual blocks of its width, LayerNorm, then the classic heads."""

    def __init__(self, encoding: EncodingConfig, width: int = 512, blocks: int = 2, dropout: float = 0.0):
        super().__init__()
        self.encoder = Encoder(encoding)
        inner = [ResidualBlock(width, dropout) for _ in range(blocks)]
        self.trunk = nn.Sequential(nn.Linear(encoding.input_dim, width), *inner, nn.LayerNorm(width))
        self.heads = Heads(width, heads_of(encoding), encoding.own_frame)
