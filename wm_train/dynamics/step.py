"""The step that ships: (state, carry, controllers) → (state', carry', aux), one function, traced whole.

Training, evaluation and the exported artifact run this same function, so they cannot disagree.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wm_runtime.schema import M_
from wm_train.dynamics.contact import Contact
from wm_train.dynamics.core import Carry, Core, Proposal
from wm_train.dynamics.edges import Edges
from wm_train.dynamics.named import Named, named, raw
from wm_train.dynamics.rules import Rules, match_over
from wm_train.dynamics.walls import Walls
from wm_train.encoding import stage_of

AUX = {"action_entropy": "float32", "stock_lost": "bool", "match_over": "bool"}
"""Name → dtype of what a step says beside the state: (N, 2) nats of the action head, (N, 2), (N,)."""


class WorldModel(nn.Module):
    """A learned core and the rules around it."""

    core: Core

    def __init__(self, core: Core):
        super().__init__()
        self.core = core
        self.edges = Edges()
        self.contact = Contact()
        self.walls = Walls()
        self.rules = Rules()

    @property
    def carry_layout(self) -> dict[str, tuple[tuple[int, ...], str]]:
        return self.core.carry_layout

    def forward(
        self, floats: Tensor, ints: Tensor, match: Tensor, controllers: Tensor, carry: Carry
    ) -> tuple[tuple[Tensor, Tensor, Tensor], Carry, dict[str, Tensor]]:
        """Raw state (floats (N, 2, F), ints (N, 2, I), match (N, M)), controllers (N, 2, 13) of the next frame, carry.

        Returns the next state in the same form, the next carry and aux as listed in AUX.
        """
        before = named(floats, ints)
        proposal = self.core(floats, ints, match, before, controllers, carry)
        state, aux = self.finish(before, match, proposal)
        return state, proposal.carry, aux

    def settle(self, before: Named, proposed: Named, match: Tensor, frames_in_action: Tensor) -> Named:
        """State, proposal, match, frames that the present action has lasted → the next state: edges, contact, walls,
        rules."""
        stage = stage_of(match)
        after = self.contact(before, self.edges(before, proposed, stage, match[..., M_["frame"]]), stage)
        after = self.walls(before, after, stage)
        return self.rules(before, after, stage, frames_in_action)

    def finish(
        self, before: Named, match: Tensor, proposal: Proposal
    ) -> tuple[tuple[Tensor, Tensor, Tensor], dict[str, Tensor]]:
        """What becomes of a proposal: the next state as contact and rules leave it, raw, and aux."""
        after = self.settle(before, proposal.after, match, proposal.frames_in_action)

        frame = match[..., M_["frame"]] + 1
        columns = {"frame": frame, "stage": match[..., M_["stage"]]}
        next_match = torch.stack([columns[name] for name in M_], dim=-1)
        aux = {
            "action_entropy": proposal.entropy,
            "stock_lost": after["stocks"] < before["stocks"],
            "match_over": match_over(after, frame),
        }
        return (*raw(after), next_match), aux
