"""Mamba-2 in plain PyTorch: three forms of the same weights.

| form | for | cost of L frames |
|---|---|---|
| `chunked_scan` (SSD) | training | matrix products within chunks, a loop over chunks |
| `sequential_scan` | the reference | a loop over frames |
| `Mamba2Block.step` | play and export | one frame; what is remembered goes in and comes out |

A layer keeps, for each of its heads, a matrix h of (headdim, d_state). A frame brings x (headdim,), B and C (d_state,)
and a time step dt > 0: h ← exp(dt·A)·h + dt·x Bᵀ and y = h C + D·x. (Dao and Gu, "Transformers are SSMs", 2024.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wm_train.encoding import Encoder, EncodingConfig
from wm_train.models.heads import Heads, HeadsModel, heads_of
from wm_train.models.precision import full_precision

try:
    from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined as fused_scan
except ImportError:
    fused_scan = None

Memory = tuple[Tensor, Tensor]
"""What a layer remembers: its last convolution inputs (B, d_conv − 1, conv_dim) and h (B, heads, headdim, d_state)."""
EPSILON = 1e-5
TIME_STEPS = (0.001, 0.1)
"""Between these lie the time steps of a fresh layer."""
CHUNK = 64
SLOWEST, FASTEST = 1.0, 16.0
"""−A of the heads of a fresh layer."""


@dataclass(frozen=True)
class Mamba2Sizes:
    """Widths of a Mamba-2 network. Raises ValueError for what cannot be built."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    d_model: int = 256
    d_state: int = 64
    layers: int = 2
    headdim: int = 64
    expand: int = 2
    d_conv: int = 4
    chunk_size: int | None = None
    """Frames of a chunk; None for CHUNK, or all where they are fewer. What a scan says does not depend on it."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}: at least 1")
        if self.d_inner % self.headdim:
            raise ValueError(
                f"d_model {self.d_model} times expand {self.expand} is {self.d_inner}, which heads of headdim "
                f"{self.headdim} do not divide"
            )

    @property
    def d_inner(self) -> int:
        return self.expand * self.d_model

    @property
    def heads(self) -> int:
        return self.d_inner // self.headdim

    @property
    def conv_dim(self) -> int:
        """Channels of the convolution: x, B and C."""
        return self.d_inner + 2 * self.d_state

    @property
    def memory_shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shapes of a layer's Memory, without the batch."""
        return (self.d_conv - 1, self.conv_dim), (self.heads, self.headdim, self.d_state)


class RMSNorm(nn.Module):
    """Division by the root mean square. In plain operators, which export."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + EPSILON) * self.weight


def sequential_scan(x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """The recurrence, frame by frame.

    x (B, L, H, P), dt (B, L, H), a (H,) negative, b and c (B, L, N), h (B, H, P, N) → y (B, L, H, P), h after.
    """
    ys = []
    for t in range(x.shape[1]):
        y, h = recurrence(x[:, t], dt[:, t], a, b[:, t], c[:, t], h)
        ys.append(y)
    return torch.stack(ys, dim=1), h


def recurrence(x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """One frame: x (…, H, P), dt (…, H), a (H,), b and c (…, N), h (…, H, P, N) → y (…, H, P), h after."""
    decay = torch.exp(dt * a)[..., None, None]
    h = h * decay + (x * dt[..., None])[..., None] * b[..., None, None, :]
    return torch.matmul(h, c[..., None, :, None])[..., 0], h


def chunked_scan(
    x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, h: Tensor, chunk_size: int
) -> tuple[Tensor, Tensor]:
    """The same numbers as `sequential_scan`, by matrix products within chunks of Q = `chunk_size` frames.

    The last chunk is filled up with frames of dt 0, which change nothing.
    """
    _, length, heads, headdim = x.shape
    size = min(chunk_size, length)
    chunks = -(-length // size)
    missing = chunks * size - length
    if missing:
        x, dt = F.pad(x, (0, 0, 0, 0, 0, missing)), F.pad(dt, (0, 0, 0, missing))
        b, c = F.pad(b, (0, 0, 0, missing)), F.pad(c, (0, 0, 0, missing))
    x, dt, b, c = (t.unflatten(1, (chunks, size)) for t in (x * dt[..., None], dt, b, c))  # (B, chunks, Q, …)

    precise = torch.float32 if x.device.type == "mps" else torch.float64  # for differences of sums; MPS has no float64
    passed = torch.cumsum((dt * a).transpose(2, 3).to(precise), dim=-1)  # log of the decay since the chunk began
    later = torch.ones(size, size, dtype=torch.bool, device=x.device).triu(1)
    between = (passed[..., :, None] - passed[..., None, :]).float().masked_fill(later, -math.inf)  # (…, H, Q, Q)
    alike = torch.matmul(c, b.transpose(-1, -2))[:, :, None]  # (B, chunks, 1, Q, Q)
    within = torch.matmul(alike * torch.exp(between), x.transpose(2, 3)).transpose(2, 3)  # (B, chunks, Q, H, P)

    to_end = torch.exp(passed[..., -1:] - passed).float().transpose(2, 3)[..., None]  # (B, chunks, Q, H, 1)
    added = torch.matmul((x * to_end).flatten(3).transpose(2, 3), b)  # (B, chunks, H · P, N)
    added = added.unflatten(2, (heads, headdim))
    over = torch.exp(passed[..., -1]).float()[..., None, None]  # (B, chunks, H, 1, 1)
    before = []
    for chunk in range(chunks):
        before.append(h)
        h = h * over[:, chunk] + added[:, chunk]
    entering = torch.stack(before, dim=1).flatten(2, 3)  # (B, chunks, H · P, N)
    carried = torch.matmul(c, entering.transpose(2, 3)).unflatten(3, (heads, headdim))
    y = within + carried * torch.exp(passed).float().transpose(2, 3)[..., None]
    return y.flatten(1, 2)[:, :length], h


def fused(x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, h: Tensor, chunk_size: int) -> tuple[Tensor, Tensor]:
    """The same numbers as `sequential_scan`, by mamba-ssm's kernels (`make fused` compares them)."""
    size = max(16, 1 << (chunk_size - 1).bit_length())  # its chunks are powers of two
    return fused_scan(x, dt, a, b[:, :, None], c[:, :, None], size, initial_states=h, return_final_states=True)


class Mamba2Block(nn.Module):
    """One layer, (B, L, d_model) → (B, L, d_model), with one group of B and C for all heads."""

    def __init__(self, sizes: Mamba2Sizes):
        super().__init__()
        self.sizes = sizes
        self.in_proj = nn.Linear(sizes.d_model, sizes.d_inner + sizes.conv_dim + sizes.heads, bias=False)
        limit = sizes.d_conv**-0.5
        self.conv_weight = nn.Parameter(torch.empty(sizes.conv_dim, sizes.d_conv).uniform_(-limit, limit))
        self.conv_bias = nn.Parameter(torch.empty(sizes.conv_dim).uniform_(-limit, limit))
        low, high = (math.log(t) for t in TIME_STEPS)
        step = torch.exp(torch.rand(sizes.heads) * (high - low) + low)
        self.dt_bias = nn.Parameter(step + torch.log(-torch.expm1(-step)))  # softplus of it is the step
        self.A_log = nn.Parameter(torch.linspace(SLOWEST, FASTEST, sizes.heads).log())
        self.D = nn.Parameter(torch.ones(sizes.heads))
        self.norm = RMSNorm(sizes.d_inner)
        self.out_proj = nn.Linear(sizes.d_inner, sizes.d_model, bias=False)

    def forward(self, u: Tensor, memory: Memory, chunk_size: int | None = None) -> tuple[Tensor, Memory]:
        """A sequence u (B, L, d_model) after `memory` → its outputs and the memory after it.

        `chunk_size` is that of the sizes where None; 0 is the sequential scan.
        """
        past, h = memory
        gate, inputs, dt = self._project(u)
        inputs = torch.cat([past, inputs], dim=1)
        length, keep = u.shape[1], self.sizes.d_conv - 1
        mixed = self.conv_bias + inputs[:, :length] * self.conv_weight[:, 0]
        for i in range(1, self.sizes.d_conv):
            mixed = mixed + inputs[:, i : i + length] * self.conv_weight[:, i]
        x, b, c = self._split(F.silu(mixed))
        size = (self.sizes.chunk_size or CHUNK) if chunk_size is None else chunk_size
        with full_precision(h):
            y, h = self._scan(x, dt, b, c, h, size)
        return self._finish(y, x, gate), (inputs[:, inputs.shape[1] - keep :], h)

    def step(self, u: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """One frame u (…, d_model) → its output (…, d_model) and the memory after it."""
        past, h = memory
        gate, inputs, dt = self._project(u)
        inputs = torch.cat([past, inputs[..., None, :]], dim=-2)  # (…, d_conv, conv_dim)
        mixed = (inputs * self.conv_weight.T).sum(dim=-2) + self.conv_bias
        x, b, c = self._split(F.silu(mixed))
        with full_precision(h):
            y, h = recurrence(x, dt, -torch.exp(self.A_log), b, c, h)
        return self._finish(y, x, gate), (inputs[..., 1:, :], h)

    def _project(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gate, inputs of the convolution, and dt > 0."""
        widths = [self.sizes.d_inner, self.sizes.conv_dim, self.sizes.heads]
        gate, inputs, dt = torch.split(self.in_proj(u), widths, dim=-1)
        return gate, inputs, F.softplus(dt + self.dt_bias)

    def _split(self, mixed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x (…, H, P), B and C (…, N)."""
        widths = [self.sizes.d_inner, self.sizes.d_state, self.sizes.d_state]
        x, b, c = torch.split(mixed, widths, dim=-1)
        return x.unflatten(-1, (self.sizes.heads, self.sizes.headdim)), b, c

    def _scan(self, x: Tensor, dt: Tensor, b: Tensor, c: Tensor, h: Tensor, chunk_size: int) -> tuple[Tensor, Tensor]:
        a = -torch.exp(self.A_log)
        if chunk_size == 0:
            return sequential_scan(x, dt, a, b, c, h)
        if fused_scan is not None and x.is_cuda:
            return fused(x, dt, a, b, c, h, chunk_size)
        return chunked_scan(x, dt, a, b, c, h, chunk_size)

    def _finish(self, y: Tensor, x: Tensor, gate: Tensor) -> Tensor:
        """Skip connection, gated norm, projection: y and x (…, H, P), gate (…, d_inner) → (…, d_model)."""
        y = (y + x * self.D[:, None]).flatten(-2)
        return self.out_proj(self.norm(y * F.silu(gate)))


class Mamba2(nn.Module):
    """Layers of RMSNorm → Mamba2Block → residual, and a last norm. (B, L, d_model) → (B, L, d_model)."""

    def __init__(self, sizes: Mamba2Sizes):
        super().__init__()
        self.sizes = sizes
        self.norms = nn.ModuleList(RMSNorm(sizes.d_model) for _ in range(sizes.layers))
        self.blocks = nn.ModuleList(Mamba2Block(sizes) for _ in range(sizes.layers))
        self.norm = RMSNorm(sizes.d_model)

    def forward(
        self, u: Tensor, memory: list[Memory] | None = None, chunk_size: int | None = None
    ) -> tuple[Tensor, list[Memory]]:
        """A sequence (B, L, d_model) after `memory`, one for each layer (None: after nothing) → outputs, and the memory
        after it."""
        memory, after = memory or self.nothing(u), []
        for norm, block, past in zip(self.norms, self.blocks, memory, strict=True):
            out, kept = block(norm(u), past, chunk_size)
            u = u + out
            after.append(kept)
        return self.norm(u), after

    def nothing(self, like: Tensor) -> list[Memory]:
        """The memory of sequences that have not begun, for as many as `like` (B, …). It is float32 or wider."""
        precise = torch.promote_types(like.dtype, torch.float32)
        conv, h = (like.new_zeros(like.shape[0], *shape, dtype=precise) for shape in self.sizes.memory_shapes)
        return [(conv, h)] * self.sizes.layers

    def step(self, u: Tensor, memory: list[Memory]) -> tuple[Tensor, list[Memory]]:
        """One frame (…, d_model) → its output, and the memory after it."""
        after = []
        for i, norm in enumerate(self.norms):
            out, kept = cast(Mamba2Block, self.blocks[i]).step(norm(u), memory[i])
            u = u + out
            after.append(kept)
        return self.norm(u), after


class Mamba2Model(HeadsModel):
    """Mamba-2 on frames, with the controllers of the frame after each: at its input, and again before the heads."""

    def __init__(self, encoding: EncodingConfig, sizes: Mamba2Sizes, dropout: float = 0.0):
        super().__init__()
        self.encoder = Encoder(encoding)
        self.sizes = sizes
        self.inputs = nn.Linear(encoding.frame_dim + encoding.control_dim, sizes.d_model)
        self.dropout = nn.Dropout(dropout)
        self.trunk = Mamba2(sizes)
        self.controls = nn.Linear(encoding.control_dim, sizes.d_model, bias=False)
        self.heads = Heads(sizes.d_model, heads_of(encoding))

    def forward(
        self, floats: Tensor, classes: Tensor, stage: Tensor, controllers: Tensor, targets: int
    ) -> dict[str, Tensor]:
        """Frames (B, L, 2, ·), stage (B,), controllers (B, L, history, 2, 13) up to the frame after each → heads of the
        frames after the last `targets` of them, B · targets of them."""
        controls = self.encoder.controls(controllers)
        hidden, _ = self.trunk(self._enter(floats, classes, stage, controls))
        return self.heads(hidden[:, -targets:] + self.controls(controls[:, -targets:]))

    def remember(self, floats: Tensor, classes: Tensor, stage: Tensor, controllers: Tensor) -> list[Memory]:
        """The same inputs, of no frames or more → the memory after the last."""
        if not floats.shape[1]:
            return self.trunk.nothing(floats)
        return self.trunk(self._enter(floats, classes, stage, self.encoder.controls(controllers)))[1]

    def step(
        self, floats: Tensor, classes: Tensor, stage: Tensor, controllers: Tensor, memory: list[Memory]
    ) -> tuple[dict[str, Tensor], list[Memory]]:
        """One frame (B, 2, ·), stage (B,), controllers (B, history, 2, 13), memory → heads, and the memory after it."""
        controls = self.encoder.controls(controllers)
        entering = self._enter(floats[:, None], classes[:, None], stage, controls[:, None])
        hidden, memory = self.trunk.step(entering[:, 0], memory)
        return self.heads(hidden + self.controls(controls)), memory

    def _enter(self, floats: Tensor, classes: Tensor, stage: Tensor, controls: Tensor) -> Tensor:
        frames = self.encoder.embedded(floats, classes, stage)
        with full_precision(floats):
            return self.dropout(self.inputs(torch.cat([frames, controls], dim=-1)))
