"""The policy: states and own past controllers → a distribution over the next controller, and a draw from it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from wm_runtime.schema import CONTROL_NAMES, I_
from wm_train.models.mamba2 import Mamba2, Mamba2Sizes
from wm_train.policy.codebook import HEADS, Codebook
from wm_train.policy.config import LONGEST_DELAY, PolicyModel
from wm_train.policy.view import View

COLDEST = 1e-3
"""Least temperature: at it the likeliest class is drawn, whatever the noise."""
MOST = 1 - 1e-6
"""Probability of staying beyond which none is left to change."""
_LAST_WIDTH = 16


@dataclass
class Seen:
    """What N players know when they choose the controller of the next frame.

    floats (N, K, 2, F) and ints (N, K, 2, I): states at the model's `state_offsets`, the acting player first · stage
    (N,) · past (N, C, 4): classes of the own controllers at `control_offsets` · known (N,): how many of the latest own
    controllers are known · delay (N,): frames of reaction delay in the states.
    """

    floats: Tensor
    ints: Tensor
    stage: Tensor
    past: Tensor
    known: Tensor
    delay: Tensor

    @property
    def side(self) -> Tensor:
        """(N,) 1 or −1, the direction that the acting player faces in the newest state."""
        return torch.where(self.ints[:, 0, 0, I_["facing"]] < 0, -1.0, 1.0)


class MlpTrunk(nn.Module):
    """Linear layers, each followed by LayerNorm and SiLU."""

    def __init__(self, inputs: int, widths: tuple[int, ...]):
        super().__init__()
        layers: list[nn.Module] = []
        for a, b in pairwise((inputs, *widths)):
            layers += [nn.Linear(a, b), nn.LayerNorm(b), nn.SiLU()]
        self.layers = nn.Sequential(*layers)
        self.width = widths[-1]

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layers(inputs)


class SideBySide(nn.Module):
    """States (N, K, width), the newest first → (N, K · width)."""

    def __init__(self, states: int, width: int):
        super().__init__()
        self.width = states * width

    def forward(self, states: Tensor) -> Tensor:
        return states.flatten(1)


class OneAfterAnother(nn.Module):
    """States (N, K, width), the newest first → (N, d_model): what Mamba-2 says after reading the newest last."""

    def __init__(self, sizes: Mamba2Sizes, width: int):
        super().__init__()
        self.width = sizes.d_model
        self.enter = nn.Linear(width, sizes.d_model)
        self.layers = Mamba2(sizes)

    def forward(self, states: Tensor) -> Tensor:
        read, _ = self.layers(self.enter(states.flip(1)))
        return read[:, -1]


class PolicyNetwork(nn.Module):
    """Classes here and in the logits are those of the player's own frame: mirrored where it faces left."""

    offsets: Tensor

    def __init__(self, config: PolicyModel, codebook: Codebook):
        super().__init__()
        self.config, self.codebook = config, codebook
        sizes = codebook.sizes
        for head in HEADS:
            self.register_buffer(f"table_{head}", torch.from_numpy(codebook.table(head)), persistent=False)
            self.register_buffer(f"mirror_{head}", torch.from_numpy(codebook.mirror(head)), persistent=False)
        self.register_buffer("offsets", torch.tensor(config.control_offsets), persistent=False)
        self.view = View()
        self.last = nn.ModuleDict({head: nn.Embedding(sizes[head], _LAST_WIDTH) for head in HEADS})
        self.states: SideBySide | OneAfterAnother = (
            OneAfterAnother(config.mamba2, self.view.width)
            if config.kind == "mamba2"
            else SideBySide(len(config.state_offsets), self.view.width)
        )
        past = len(config.control_offsets) * (len(CONTROL_NAMES) + 1) + len(HEADS) * _LAST_WIDTH
        inputs = self.states.width + self.view.setting_width + past + 1
        self.trunk = MlpTrunk(inputs, config.widths)
        width = config.head_width
        self.before = nn.ModuleDict({head: nn.Linear(self.trunk.width, width) for head in HEADS})
        self.given = nn.ModuleDict(
            {f"{h}_{early}": nn.Embedding(sizes[early], width) for i, h in enumerate(HEADS) for early in HEADS[:i]}
        )
        self.after = nn.ModuleDict({head: nn.Linear(width, sizes[head]) for head in HEADS})
        self.repeat = nn.ModuleDict(
            {h: nn.Embedding.from_pretrained(torch.zeros(sizes[h], sizes[h]), freeze=False) for h in HEADS}
        )
        """Logits that follow from the last class alone: mostly, it stays."""

    def hidden(self, seen: Seen) -> tuple[Tensor, list[Tensor]]:
        """→ (N, width), and what the last controller adds to each head's logits, (N, K) each."""
        side = seen.side
        count = seen.floats.shape[1]
        view = self.view(
            seen.floats, seen.ints, seen.stage[:, None].expand(-1, count), side[:, None].expand(-1, count)
        )
        known = (self.offsets < seen.known[:, None]).float()
        past = self.mirrored(seen.past.long(), side)
        held = sum(getattr(self, f"table_{head}")[past[..., i]] for i, head in enumerate(HEADS))
        latest = known[:, :1]
        last = [self.last[head](past[:, 0, i]) * latest for i, head in enumerate(HEADS)]
        repeat = [self.repeat[head](past[:, 0, i]) * latest for i, head in enumerate(HEADS)]
        setting = self.view.setting(seen.ints[:, 0], seen.stage)
        delay = (seen.delay.float() / LONGEST_DELAY)[:, None]
        inputs = [self.states(view), setting, (held * known[..., None]).flatten(1), known, *last, delay]
        return self.trunk(torch.cat(inputs, dim=-1)), repeat

    def logits(self, hidden: Tensor, repeat: list[Tensor], classes: Tensor) -> list[Tensor]:
        """(N, K) for each head as learned, given the classes (N, 4) of the earlier heads."""
        return [self._head(i, hidden, repeat, classes.unbind(-1)[:i]) for i in range(len(HEADS))]

    def draw(
        self, hidden: Tensor, repeat: list[Tensor], held: Tensor, noise: Tensor, temperature: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """Classes (N, 4) drawn with noise (N, 4), uniform in 0 … 1, at a temperature (N,); and their logits. `held`
        (N, 4) as `held` gives it."""
        heat = temperature.clamp(min=COLDEST)[:, None]
        chosen: list[Tensor] = []
        out = []
        for i in range(len(HEADS)):
            logits = self._head(i, hidden, repeat, tuple(chosen))
            if self.config.choice != 1:
                logits = sharpened(logits, held[:, i], self.config.choice)
            reached = torch.cumsum(torch.softmax(logits / heat, dim=-1), dim=-1)
            below = reached < noise[:, i : i + 1] * reached[:, -1:]
            chosen.append(below.long().sum(dim=-1).clamp(max=logits.shape[-1] - 1))
            out.append(logits)
        return torch.stack(chosen, dim=-1), out

    def held(self, seen: Seen) -> Tensor:
        """(N, 4) the classes held in the last frame, in the player's own frame; −1 where they are not known."""
        held = self.mirrored(seen.past.long(), seen.side)[:, 0]
        return torch.where((seen.known > 0)[:, None], held, -1)

    def controllers(self, classes: Tensor) -> Tensor:
        """Classes (N, 4) that are not mirrored → (N, 13)."""
        return sum(getattr(self, f"table_{head}")[classes[..., i]] for i, head in enumerate(HEADS))  # type: ignore[return-value]

    def mirrored(self, classes: Tensor, side: Tensor) -> Tensor:
        """Classes (N, …, 4) of players, seen from (or back from) the own frame of players on side (N,)."""
        flipped = torch.stack([getattr(self, f"mirror_{h}")[classes[..., i]] for i, h in enumerate(HEADS)], dim=-1)
        return torch.where(side.reshape(-1, *[1] * (classes.dim() - 1)) < 0, flipped, classes)

    def _head(self, i: int, hidden: Tensor, repeat: list[Tensor], earlier: tuple[Tensor, ...]) -> Tensor:
        head = HEADS[i]
        inner = self.before[head](hidden)
        for early, classes in zip(HEADS, earlier, strict=False):
            inner = inner + self.given[f"{head}_{early}"](classes)
        return self.after[head](nn.functional.silu(inner)) + repeat[i]


def sharpened(logits: Tensor, held: Tensor, temperature: float) -> Tensor:
    """(N, K) logits with all classes but the one held (N,) at a temperature: what is changed to is surer, when is not.

    Where `held` is −1, as they were. A temperature of the whole distribution would also make staying surer, and who
    stands still then goes on standing still.
    """
    stays = torch.arange(logits.shape[-1], device=logits.device) == held[:, None]
    learned = torch.log_softmax(logits, dim=-1)
    changes = torch.log_softmax((logits / temperature).masked_fill(stays, -torch.inf), dim=-1)
    leaves = torch.log1p(-torch.exp(learned.masked_fill(~stays, -torch.inf)).sum(dim=-1, keepdim=True).clamp(max=MOST))
    return torch.where((held < 0)[:, None] | stays, learned, leaves + changes)
