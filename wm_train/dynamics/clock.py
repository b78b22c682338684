"""A move's clock where its pace is the game's and no table's: walks, who is grabbed, who is let go, landings cancelled,
animations that end before their action does; and what goes on at one pace goes on at it.

Measured on games of train, each on the frames that the rule names. The game takes fighters one after the other: who
is grabbed or let go by a fighter that comes before it has its turn on that very frame, so that its clock is a frame
ahead of that of a first player: each of 4,661 grabs and 5,053 throws.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from wm_runtime.facts import character, ends
from wm_runtime.schema import FIELD, PLAYERS
from wm_train.dynamics.candidates import SHIELD_PUSH, SHIELD_STUN, stun_pace
from wm_train.dynamics.hurt import Hurt
from wm_train.dynamics.memory import PRESSED_NOW, PULLED, Past, triggered
from wm_train.dynamics.named import Named, is_of
from wm_train.dynamics.walk import FAST, SLOW

LENGTHS = {
    "CAPTAIN_FALCON": (54, 40, 25), "DR_MARIO": (60, 45, 30), "FALCO": (50, 35, 29), "FOX": (50, 35, 29),
    "GANONDORF": (54, 40, 40), "JIGGLYPUFF": (45, 45, 30), "MARIO": (60, 45, 30), "MARTH": (50, 35, 30),
    "MEWTWO": (100, 50, 30), "MR_GAME_AND_WATCH": (60, 42, 30), "PEACH": (70, 40, 30), "PIKACHU": (40, 30, 30),
    "ROY": (50, 35, 30), "SAMUS": (90, 50, 40), "SHEIK": (70, 50, 26), "YOSHI": (50, 24, 18),
    "YOUNG_LINK": (50, 30, 25),
}  # fmt: skip
"""Frames of the slow, middle and fast walks, after which they begin anew. A walk that becomes another goes on at the
same share of its length, at a whole frame: 98.8 % of 9,207 such changes."""
RUN, RUN_LENGTH = 21, 20.0
RUN_LENGTHS = {
    "MR_GAME_AND_WATCH": 26.0, "NESS": 16.0, "PICHU": 14.0, "PIKACHU": 14.0, "SAMUS": 25.0, "SHEIK": 12.0,
    "YOSHI": 16.0,
}  # fmt: skip
"""Frames of a run, after which it begins anew: each of 1,336 times on all games of train that it did."""
NUDGE = 1e-3
"""Shares of a walk's length are rounded down, but for so much of a frame."""
WAITING = (224, 227)
"""Held, high and low: until the first blow the clock runs twice as fast while the fighter mashes (memory.mashed)."""
LOOPS_FROM = 33.0
"""From this age on it may begin anew, which is not known."""
THROWN = (239, 240, 241, 242, 275)
"""Let go of these, a fighter's clock begins at 1, and at 2 for a second player: each of 5,053 throws."""
UNEVEN = (*range(15, 18), 19, *range(21, 24), *range(60, 65), 224, 227, *range(239, 243), 247, 277, 323)
"""Actions whose pace changes, or which wait: walks and runs, smashes that are charged, who is grabbed, thrown, …"""
PACED = (SHIELD_STUN, *range(70, 75), *range(219, 223))
"""Struck shields, landings and throws, whose pace is not 1 as hitlag ends: that of all others is, in all of 29,017."""
UNLESS = {29: "PEACH", 32: "PEACH", 35: "PEACH"}
"""Falls, whose pace is even but for hers."""
AERIALS, LANDINGS = (65, 69), (70, 74)
CANCELS = 6
"""A trigger that was pressed at most so many frames before cancels a landing, and hitlag holds a press made in it:
7,709 of 7,710 landings of every sixth game."""


class Clock(nn.Module):
    """The rules."""

    length: Tensor
    """(characters · 3,): frames of its walks, NaN where unknown."""
    run_length: Tensor
    """(characters,)."""
    hurt: Tensor
    """(actions,) bool."""
    even: Tensor
    """(characters · actions,) bool: who goes on in these does so at one pace."""
    last: Tensor
    """(characters · actions,): the last age of the animation, infinite where none is known."""
    anew: Tensor
    """(characters · actions,) bool: it begins anew after that."""

    def __init__(self) -> None:
        super().__init__()
        length = torch.full((FIELD["character"].classes or 0, FAST - SLOW + 1), torch.nan)
        for name, frames in LENGTHS.items():
            length[character(name).internal_id] = torch.tensor(frames, dtype=torch.float32)
        run = torch.full((len(length),), RUN_LENGTH)
        for name, frames_ in RUN_LENGTHS.items():
            run[character(name).internal_id] = frames_
        self.register_buffer("length", length.flatten(), persistent=False)
        self.register_buffer("run_length", run, persistent=False)
        self.register_buffer("hurt", Hurt().kinds, persistent=False)
        self.actions = FIELD["action"].classes or 0
        even = torch.ones(len(run), self.actions, dtype=torch.bool)
        even[:, list(UNEVEN)] = False
        for action, name in UNLESS.items():
            even[character(name).internal_id, action] = False
        known = ends()
        last, anew = torch.full(even.shape, torch.inf), torch.zeros_like(even)
        stride = np.isin(known.key[:, 1], (*range(SLOW, FAST + 1), RUN))
        at = tuple(known.key[~stride].T.astype(int))
        last[at], anew[at] = torch.from_numpy(known.last[~stride]), torch.from_numpy(known.anew[~stride])
        for name, table in (("even", even), ("last", last), ("anew", anew)):
            self.register_buffer(name, table.flatten(), persistent=False)

    def forward(self, before: Named, past: Past, action: Tensor, age: Tensor, pace: Tensor) -> Tensor:
        """State and its past, the next action and the age that was chosen for it, and by how much the present action
        ages a unit of speed (N, 2) → its age (N, 2)."""
        now = before["action"]
        order = torch.arange(PLAYERS, device=age.device, dtype=age.dtype)
        age = torch.where(is_of(now, PULLED) & is_of(action, WAITING), order, age)
        age = torch.where(is_of(now, THROWN) & self.hurt[action.long()], 1 + order, age)
        goes_on = (now == action) & (before["hitlag"] <= 0)
        twice = (past.numbers["mash"] % PRESSED_NOW) > 0
        waits = goes_on & is_of(now, WAITING) & is_of(past.numbers["action_1"], PULLED)
        waits = waits & (before["state_age"] < LOOPS_FROM)
        age = torch.where(waits, before["state_age"] + 1 + twice, age)
        age = torch.where(goes_on, self._even(before, past, age), age)
        stunned = (now == SHIELD_STUN) & (action == now) & (before["hitlag"] <= 1) & (before["state_age"] < 0.01)
        stunned &= before["self_x_ground"].abs() < SHIELD_PUSH[2] - 1e-3
        age = torch.where(stunned, stun_pace(before), age)
        steps = self._steps(before, past, action, pace)
        return torch.where(steps.isnan(), age, steps)

    def _even(self, before: Named, past: Past, age: Tensor) -> Tensor:
        """Of who goes on in an action, and the age that was chosen (N, 2) → its age: what was even goes on as it did
        unless it begins anew; after its last age an animation does, or stays there."""
        now = before["state_age"]
        move = (before["character"] * self.actions + before["action"]).long()
        rose = now - past.last["state_age"]
        lagged = (past.last["hitlag"] > 0) & ~is_of(before["action"], PACED)
        rose = torch.where(lagged, torch.ones_like(rose), rose)
        lasts = (past.numbers["frames_in_action"] > 0) & (rose > 0.01)
        last, anew = self.last[move], self.anew[move]
        again = ~anew & (age < now - 0.5)
        goes_on = lasts & self.even[move] & ~again
        age = torch.where(goes_on, now + rose, age)
        at_end = torch.where(anew, torch.zeros_like(now), now)
        return torch.where((now > last - 0.01) & ~again, at_end, age)

    def _steps(self, before: Named, past: Past, action: Tensor, pace: Tensor) -> Tensor:
        """Age of a walk that follows upon a walk and of a run upon a run, NaN where none does or is not known."""
        now, who = before["action"], before["character"].long()
        old, new = (
            self.length[who * (FAST - SLOW + 1) + (a.long() - SLOW).clamp(0, FAST - SLOW)] for a in (now, action)
        )
        old = torch.where(now == RUN, self.run_length[who], old)
        ahead = (past.last["self_x_ground"] * before["facing"]).clamp(min=0.0)
        first = past.numbers["frames_in_action"] == 0
        on = before["state_age"] + torch.where(first, torch.ones_like(pace), pace * ahead)
        on = on - old * (on / old).floor()
        found = torch.where(now == action, on, 1 + (on / old * new + NUDGE).floor())
        walks = (now >= SLOW) & (now <= FAST) & (action >= SLOW) & (action <= FAST)
        runs = (now == RUN) & (action == RUN) & ~first
        return torch.where((walks | runs) & (before["hitlag"] <= 0), found, torch.full_like(found, torch.nan))


def cancelled(before: Named, past: Past, action: Tensor, controllers: Tensor, chosen: Tensor) -> Tensor:
    """State and its past, the next action (N, 2), the controllers of the next frame (N, 2, 13) and the `l_cancel` that
    was chosen (N, 2) → `l_cancel`: 1 for a landing that is cancelled, 2 for one that is not."""
    down, was = triggered(controllers), triggered(past.controllers[:, -1])
    in_time = (down & ~was) | (past.numbers["since_cancel"] < CANCELS)
    now = before["action"]
    lands = (now >= AERIALS[0]) & (now <= AERIALS[1]) & (action >= LANDINGS[0]) & (action <= LANDINGS[1])
    return torch.where(lands, torch.where(in_time, torch.ones_like(chosen), torch.full_like(chosen, 2)), chosen)
