"""Captain Falcon's and Ganondorf's dives: how fast they go is their own course and what the stick has made of it.

The game adds so much of the stick a frame to what the stick has made of the velocity so far, up to a share of the
stick; a stick in the middle makes nothing of it. No field holds that part: it is the velocity less what the dive has at
that age where nobody steers. On train 99.85 and 100 % of 56,141 velocities are so, to 0.0003 units a frame. A dive that
turns goes its own course the other way; the stick's part stays. It begins with the stick's part alone: all of 1,285.
"""

from __future__ import annotations

import torch
from torch import Tensor

from wm_runtime.facts import dives
from wm_runtime.schema import FIELD
from wm_train.dynamics.constants import there
from wm_train.dynamics.named import Named

ACTIONS = FIELD["action"].classes or 0
_DIVES = dives()
LAST = len(_DIVES[0].free)
_MOVES = torch.tensor([dive.character * ACTIONS + dive.action for dive in _DIVES])
_FREE = torch.stack([torch.full((LAST,), float("nan")), *(torch.from_numpy(dive.free) for dive in _DIVES)])
"""Row 0: of no dive. Dives begin at rest."""
_FREE[1:, :2] = 0.0
_GAIN = torch.tensor([0.0, *(dive.gain for dive in _DIVES)])
_TOP = torch.tensor([0.0, *(dive.top for dive in _DIVES)])


def steered(before: Named, after: Named, stick: Tensor) -> Tensor:
    """State, the next action and facing, and the stick along x for the next frame (N, 2) → own velocity along x in the
    air, units a frame; NaN where this rule says nothing."""
    moves, free, gain, top = (there(table, stick.device) for table in (_MOVES, _FREE, _GAIN, _TOP))
    move = before["character"] * ACTIONS + after["action"]
    which = ((move[..., None] == moves) * torch.arange(1, 1 + len(_MOVES), device=stick.device)).sum(dim=-1)
    begins, age, facing = before["action"] != after["action"], before["state_age"], before["facing"].float()
    whole = (age - age.round()).abs() < 1e-3
    index = torch.where(begins, 0, age.round().long().clamp(0, LAST - 2))
    rows = free.flatten()
    now, next_ = (rows[which * LAST + index + k] for k in (0, 1))
    so_far = torch.where(begins, 0.0, before["self_x_air"] - now * facing)
    more, most = so_far + gain[which] * stick, (top[which] * stick).abs()
    held = torch.where((more.abs() > most) & (more * stick >= 0), more.sign() * most, more) * (stick != 0)
    ruled = (before["hitlag"] <= 0) & (begins | (whole & (age < LAST - 1)))
    return torch.where(ruled, next_ * after["facing"].float() + held, torch.full_like(stick, float("nan")))
