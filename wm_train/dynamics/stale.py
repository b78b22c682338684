"""Stale moves: a move among the last nine that hit does less damage, and with it less of everything.

Each of a fighter's last nine moves that hit is remembered by its id (`last_attack`); one that hits several times counts
once, shields do not count, and dying forgets them. Measured on train, 218 games: damage divided by its freshness is
the commonest value of the attacker's move in 79 % of 16,278 hits, as it is in 43 %.
"""

from __future__ import annotations

import torch
from torch import Tensor

LOSSES = (0.09, 0.08, 0.07, 0.06, 0.05, 0.04, 0.03, 0.02, 0.01)
"""Share of damage that a move loses for each place where it stands, the last one first (SmashWiki, Stale-move
negation)."""


def freshness(queue: Tensor, attack: Tensor) -> Tensor:
    """Ids of the last moves that hit (…, 9) and that of a move (…) → what is left of its damage, 0.55 … 1."""
    losses = torch.tensor(LOSSES, device=queue.device)
    return 1 - ((queue == attack[..., None]).float() * losses).sum(dim=-1)


def counted(
    queue: Tensor, since: Tensor, begun: Tensor, attack: Tensor, lands: Tensor, dies: Tensor
) -> tuple[Tensor, Tensor]:
    """Queue (…, 9), frames since a hit of this fighter landed and since its action began, id of its last attack,
    whether a hit of it lands now and whether it is dying (…) → the queue and the frames since a hit landed, now."""
    since = since + 1
    again = (queue[..., 0] == attack) & (since <= begun)
    pushed = torch.cat([attack[..., None].to(queue.dtype), queue[..., :-1]], dim=-1)
    queue = torch.where((lands & ~again)[..., None], pushed, queue)
    return queue.masked_fill(dies[..., None], 0), since.masked_fill(lands, 0)
