"""Actions that the state and the controllers leave no choice about: what cannot come next.

A shield that is raised is held until it has been up for eight frames (`misc_as` counts them), and let go on the frame
on which the trigger is: of 1,304 frames of the shields of every third game of train with a trigger let go after that
1,300 let go of the shield, and two of 3,800 before it. Who has taken 100 % climbs the ledge the slow way, below that
the quick one: all 1,014 climbs.
Who is hurt in the air, does not fly and comes down lands where what is left of its knockback is half a unit a frame
or more; below that it goes on being hurt on the ground, as long as its animation does: 5,452 of 5,456 times on 400
games of train.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wm_runtime.facts import ACTION_NAMES, FAMILIES
from wm_runtime.schema import FIELD
from wm_train.dynamics.contact import LANDING
from wm_train.dynamics.guard import SHIELDS, TOUCHED
from wm_train.dynamics.hurt import FLIES
from wm_train.dynamics.kinematics import blown, length
from wm_train.dynamics.ledge import ON_LEDGE
from wm_train.dynamics.memory import pulled
from wm_train.dynamics.named import Named, is_of

ACTIONS = FIELD["action"].classes or 0
RAISED, HELD, _, REFLECTING = SHIELDS
RELEASE = 180
"""Letting go of a shield."""
HELD_FOR = 7
"""`misc_as` of a shield from which on it may be let go."""
HEAVY = 100.0
SLOW, QUICK = (
    tuple(i for i, name in enumerate(ACTION_NAMES) if name.startswith("EDGE_") and name.endswith(way))
    for way in ("SLOW", "QUICK")
)
"""Climbing the ledge from HEAVY percent on, and below."""
HURT = tuple(action for action in FAMILIES["damage"] if action not in FLIES)
"""Being hurt without flying."""
LAST_AGE = (11.0, 23.0, 29.0)
"""Of the animations of being hurt, by how hard: on that frame they are over."""
LANDS_FROM = 0.5
"""How fast knockback has to be for landing, units a frame."""


class Decided(nn.Module):
    """Tables (actions,): bool, what is ruled out together; and the last age of the animations of HURT."""

    last: Tensor
    release: Tensor
    hold: Tensor
    slow: Tensor
    quick: Tensor
    landing: Tensor

    def __init__(self) -> None:
        super().__init__()
        groups = {"release": (RELEASE,), "hold": (RAISED, HELD), "slow": SLOW, "quick": QUICK, "landing": (LANDING,)}
        for name, actions in groups.items():
            table = torch.zeros(ACTIONS, dtype=torch.bool)
            table[list(actions)] = True
            self.register_buffer(name, table, persistent=False)
        last = torch.zeros(ACTIONS)
        for action in HURT:
            last[action] = LAST_AGE[int(ACTION_NAMES[action][-1]) - 1]
        self.register_buffer("last", last, persistent=False)

    def forward(self, before: Named, controllers: Tensor) -> Tensor:
        """State and controllers of the next frame (N, 2, 13) → the actions that cannot be next, (N, 2, actions)
        bool."""
        action, held_for = before["action"], before["misc_as"] > HELD_FOR - 0.5
        pulls, free = pulled(controllers) > TOUCHED, before["hitlag"] <= 0
        on_ledge, heavy = is_of(action, ON_LEDGE), before["percent"] >= HEAVY
        shields = is_of(action, (RAISED, HELD, REFLECTING))
        hurt, lands = hurt_in_air(before)
        goes_on = before["state_age"] < self.last[action.long()] - 0.5
        return (
            (free & shields & (pulls | ~held_for))[..., None] & self.release
            | (free & is_of(action, (RAISED, HELD)) & ~pulls & held_for)[..., None] & self.hold
            | (on_ledge & heavy)[..., None] & self.quick
            | (on_ledge & ~heavy)[..., None] & self.slow
            | (hurt & ~lands & goes_on)[..., None] & self.landing
        )


def stays_up(before: Named, after: Named, airborne: Tensor, comes_down: Tensor) -> Tensor:
    """State, the next action, the airborne state that is said of it and who comes down by what is said of actions
    (N, 2) → the next airborne state, (N, 2) int32: nobody leaves the ground or comes down in hitlag (7 of 26,658
    frames of a sample of val), and who goes on being hurt as it comes down is on the ground if it does not land for it.
    """
    hurt, lands = hurt_in_air(before)
    hurt = hurt & (after["action"] == before["action"])
    down = torch.where(lands, torch.ones_like(airborne), torch.where(comes_down, torch.zeros_like(airborne), airborne))
    return torch.where(before["hitlag"] > 1, before["airborne"], torch.where(hurt, down, airborne))


def hurt_in_air(before: Named) -> tuple[Tensor, Tensor]:
    """State → who is hurt in the air without flying, and is not stopped; and who lands for it if it comes down, (N, 2)
    each."""
    along, up = before["knockback_x"], before["knockback_y"]
    left = blown(along, up)
    hurt = is_of(before["action"], HURT) & (before["airborne"] == 1) & (before["hitlag"] <= 0)
    return hurt, length(along * left, up * left) >= LANDS_FROM
