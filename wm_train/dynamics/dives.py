"""Captain Falcon's and Ganondorf's dives: how fast they go is their own course and what the stick has made of it.

The game adds so much of the stick a frame to what the stick has made of the velocity so far, up to a share of the
stick; a stick in the middle makes nothing of it. No field holds that part: it is the velocity less what the dive has at
that age where nobody steers. On train 99.85 and 100 % of 56,141 velocities are so, to 0.0003 units a frame.
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
"""Row 0: of no dive."""
_GAIN = torch.tensor([0.0, *(dive.gain for dive in _DIVES)])
_TOP = torch.tensor([0.0, *(dive.top for dive in _DIVES)])
_TURNS = _DIVES[0].turns


def steered(before: Named, move: Tensor, stick: Tensor) -> Tensor:
    """State, the next move (character · ACTIONS + action) and the stick ahead for the next frame (N, 2) → own velocity
    ahead in the air, units a frame; NaN where this rule says nothing."""
    moves, free, gain, top = (there(table, stick.device) for table in (_MOVES, _FREE, _GAIN, _TOP))
    which = ((move[..., None] == moves) * torch.arange(1, 1 + len(_MOVES), device=stick.device)).sum(dim=-1)
    goes_on = (before["character"] * ACTIONS + before["action"] == move) & (before["hitlag"] <= 0)
    age = before["state_age"]
    whole = (age - age.round()).abs() < 1e-3
    index = age.round().long().clamp(0, LAST - 2)
    rows = free.flatten()
    now, next_ = (rows[which * LAST + index + k] for k in (0, 1))
    so_far = before["self_x_air"] * before["facing"].float() - now
    more, most = so_far + gain[which] * stick, (top[which] * stick).abs()
    held = torch.where((more.abs() > most) & (more * stick >= 0), more.sign() * most, more) * (stick != 0)
    ruled = goes_on & whole & (index + 1 != _TURNS) & (index + 1 != _TURNS + 1) & (age < LAST - 1)
    return torch.where(ruled, next_ + held, torch.full_like(stick, float("nan")))
