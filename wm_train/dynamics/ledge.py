"""Catching the ledge: who falls past it, facing it, within a box that is each character's own, catches it.

Box and moves: wm_runtime.facts.ledge_catches. A catch needs a free ledge, COOLED frames since the fighter last let go
of one, and a stick that is not held down. On the games of train 99.4 % of 9,912 catches face the ledge, and all but
four fall; among Falco's 1,427 in plain falls, and the frames just below the top of his box, that is wrong for 29.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wm_runtime.facts import FAMILIES, STAGES, ledge_catches, physics, walls
from wm_runtime.facts import character as fighter_named
from wm_runtime.schema import C_, FIELD
from wm_train.dynamics.memory import Past
from wm_train.dynamics.named import Named

CHARACTERS, ACTIONS = FIELD["character"].classes or 0, FIELD["action"].classes or 0
CATCH, ON_LEDGE = 252, (252, 253)
FALLING = (*range(25, 39), 244, 251)
"""Actions in which a fighter falls as gravity has it."""
COOLED = 30
HELD_DOWN = -0.6
"""A stick so far down catches nothing."""
LEDGE_Y = {stage.id: 0.62 for stage in STAGES if stage.name == "FOUNTAIN_OF_DREAMS"}
"""Stage → height of the ledge, units, where that is not 0."""
OFTEN, SELDOM, SEEN = 0.85, 0.06, 20
"""Moves that catch in so many of the frames in the box always do, and never, if so many frames were seen."""
CREEPS, CREEPS_FROM = {("FOX", 350): 0.0167, ("FOX", 354): 0.015, ("FALCO", 354): 0.016}, 15.0
"""By how much faster who charges these moves falls each frame from an age on, units a frame, and not at all before: all
of 55,000 frames of every third game of train. They come down to the ledge so slowly that it tells on which frame they
catch it."""
SURE, SURELY, BESIDE = 0.02, 0.003, 3.0
"""What is so far below the top of the box is in it, for who creeps past it so far; and what is so far above or beside
it is not, units."""
ODDS = 8.0
"""Added to the logit of catching, or taken from it."""


class Ledge(nn.Module):
    """The rule."""

    box: Tensor
    """(characters, 3): top, bottom, reach; NaN where no box is known."""
    may: Tensor
    """(characters · actions,): 1 for moves that catch, −1 for those that do not, 0 where that is not known."""
    falls: Tensor
    gravity: Tensor
    terminal: Tensor
    fast_fall: Tensor
    edge: Tensor
    """(stages, 2): how far out the ledge is, and how high; far out where there is none."""
    ledge: Tensor
    creep: Tensor
    """(characters · actions,): see CREEPS; NaN for others."""

    def __init__(self) -> None:
        super().__init__()
        known = ledge_catches()
        box = torch.full((CHARACTERS, 3), float("nan"))
        may = torch.zeros(CHARACTERS, ACTIONS)
        for fighter, its in known.box.items():
            box[fighter] = torch.tensor(its)
        for character, action, share, frames in known.moves:
            says = 1.0 if share >= OFTEN else -1.0 if share <= SELDOM and frames >= SEEN else 0.0
            may[slice(None) if character is None else character, action] = says
        falls, ledge = torch.zeros(ACTIONS, dtype=torch.bool), torch.zeros(ACTIONS, dtype=torch.bool)
        falls[list(FALLING)], ledge[list(FAMILIES["ledge"])] = True, True
        edge = torch.full((1 + max(stage.id for stage in STAGES), 2), 1e4)
        for stage, (_, right) in walls().items():
            edge[stage] = torch.tensor([float(right[0, 0]), LEDGE_Y.get(stage, 0.0)])
        creep = torch.full((CHARACTERS, ACTIONS), float("nan"))
        for (who, action), faster in CREEPS.items():
            creep[fighter_named(who).internal_id, action] = faster
        found = {"box": box, "may": may.flatten(), "falls": falls, "edge": edge, "ledge": ledge}
        found["creep"] = creep.flatten()
        for name in ("gravity", "terminal", "fast_fall"):
            table = torch.zeros(CHARACTERS)
            constants = torch.from_numpy(physics(name))
            table[: len(constants)] = constants.nan_to_num()
            found[name] = table
        for name, table in found.items():
            self.register_buffer(name, table, persistent=False)

    def forward(self, state: Named, past: Past, stage: Tensor, controllers: Tensor) -> Tensor:
        """State, its past, stage (N,) and controllers of the next frame (N, 2, 13) → what to add to the logit of
        catching the ledge, (N, 2)."""
        character, action = state["character"].long(), state["action"].long()
        speed, fast = state["self_y"], self.fast_fall[character]
        fall = torch.maximum(speed - self.gravity[character], torch.minimum(-self.terminal[character], speed))
        goes_on = ((speed + fast).abs() < 0.01) | ~self.falls[action]
        creep = self.creep[character * ACTIONS + action]
        creeps = ~torch.isnan(creep)
        crept = speed - creep * (state["state_age"] >= CREEPS_FROM)
        rise = torch.where(creeps, crept, torch.where(goes_on, speed, fall)) + state["knockback_y"]
        side = torch.where(state["x"] < 0, -1.0, 1.0)
        edge = self.edge[stage][:, None]
        out = (state["x"] + state["self_x_air"] + state["knockback_x"]) * side - edge[..., 0]
        high = state["y"] + rise - edge[..., 1]
        top, bottom, reach = self.box[character].unbind(dim=-1)
        taken = self.ledge[action].flip(1) & (side == side.flip(1))
        cooled = past.numbers["since_ledge"] >= COOLED
        down = controllers[..., C_["main_y"]] <= HELD_DOWN
        free = (state["airborne"] == 1) & ~self.ledge[action] & (state["hitlag"] <= 0)
        may = self.may[character * ACTIONS + action]

        sure, faster = torch.where(creeps, SURELY, SURE), self.gravity[character] * ~creeps
        inside = (high < top - sure) & (high > bottom) & (out > 0) & (out < reach) & (rise < -sure)
        catches = inside & (may > 0) & cooled & ~down & ~taken & (state["facing"] * side < 0)
        away = (high > top + faster + sure) | (out > reach + BESIDE)
        away = away | (rise > self.gravity[character] + SURE)
        not_ = away | (may < 0) | ~cooled | (controllers[..., C_["main_y"]] < HELD_DOWN - 0.1)
        not_ = not_ & ~torch.isnan(top)
        return ODDS * ((free & catches).float() - (free & not_ & ~catches).float())
