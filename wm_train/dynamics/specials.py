"""Special moves whose velocity follows from the stick at one moment.

Sheik and Zelda vanish and fly the way of the stick of the frame before, the faster the further it is pushed, and keep
a part of that at the end; of Sheik's 275 flights in the air on `train` all begin so, and all 186 that end in the air.
Marth's Dolphin Slash leans the way of the stick of the frame before where its rise begins.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from wm_runtime.facts import character as fighter
from wm_runtime.schema import C_
from wm_train.dynamics.kinematics import AIR_DODGE_DECAY, length
from wm_train.dynamics.laws import slower
from wm_train.dynamics.memory import Past
from wm_train.dynamics.named import Named, is_of


@dataclass(frozen=True)
class Vanishing:
    """A fighter's disappearance: the actions before it, it (on the ground, in the air), and its end in the air; its
    speed with the stick at rest, which is then up at `most`, and what a full stick adds, units a frame; what is left
    at its end; and the frames that it lasts if nothing stops it, after which friction acts at once."""

    who: str
    before: tuple[int, ...]
    flight: tuple[int, int]
    end: int
    least: float
    more: float
    left: float
    frames: int = 20

    @property
    def most(self) -> float:
        return self.least + self.more


VANISHINGS = (
    Vanishing("SHEIK", (355, 358), (356, 359), 360, 1.0, 1.0, 0.3),
    Vanishing("ZELDA", (349, 352), (350, 353), 354, 2.0, 2.2, 0.2),
)
MARTH, SLASH, RISES = fighter("MARTH").internal_id, 368, 6.0
"""The Dolphin Slash in the air, and the age on which its rise begins."""
SPEED, LEAN, MORE_LEAN, FROM = 14.4355, 3.0057, 40.0, 0.5
"""Its speed then, units a frame; how far it leans ahead, degrees, and how much further for each unit of the stick from
there on."""


def vanished(before: Named, after: Named, past: Past, friction: Tensor) -> tuple[Tensor, Tensor]:
    """State, the next action, its past and fighters' friction in the air (N, 2) → own velocity along x and y, units a
    frame, of who begins or ends to fly unseen, NaN of others, (N, 2) each."""
    stick_x, stick_y = (past.controllers[:, -1, :, C_[name]] for name in ("main_x", "main_y"))
    far, action = length(stick_x, stick_y), after["action"]
    pushed, rests = far.clamp(max=1.0), far < 1e-3
    x = y = torch.full_like(stick_x, torch.nan)
    for of in VANISHINGS:
        who = (before["character"] == fighter(of.who).internal_id) & (before["hitlag"] <= 0)
        begins = who & is_of(before["action"], of.before) & is_of(action, of.flight)
        speed = of.least + of.more * pushed
        x = torch.where(begins, torch.where(rests, torch.zeros_like(x), speed * stick_x / far), x)
        y = torch.where(begins, torch.where(rests, torch.full_like(y, of.most), speed * stick_y / far), y)
        ends = who & (before["action"] == of.flight[1]) & (action == of.end)
        over = past.numbers["frames_in_action"] + 1 >= of.frames
        along, up = before["self_x_air"] * of.left, before["self_y"] * of.left
        x = torch.where(ends, torch.where(over, slower(along, friction), along), x)
        y = torch.where(ends, torch.where(over, up * AIR_DODGE_DECAY, up), y)
    return x, y


def slashed(before: Named, after: Named, past: Past) -> tuple[Tensor, Tensor]:
    """State, the next action, age and facing, and its past → own velocity along x and y of a Dolphin Slash that begins
    to rise, NaN of others, (N, 2) each."""
    rises = (before["character"] == MARTH) & (before["action"] == SLASH) & (after["action"] == SLASH)
    rises = rises & (after["state_age"] == RISES) & (before["state_age"] < RISES) & (before["hitlag"] <= 0)
    stick = past.controllers[:, -1, :, C_["main_x"]].abs()
    lean = torch.deg2rad(LEAN + MORE_LEAN * (stick - FROM).clamp(min=0.0))
    nothing = torch.full_like(stick, torch.nan)
    x = SPEED * lean.sin() * after["facing"].float()
    return torch.where(rises, x, nothing), torch.where(rises, SPEED * lean.cos(), nothing)
