"""What a policy sees of a frame: numbers about 1 in size, from the acting player's side, left and right exchanged where
it faces left."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wm_runtime.facts import STAGES
from wm_runtime.schema import F_, FIELD, I_, PLAYERS

FIGHTER: tuple[tuple[str, float, bool], ...] = (
    ("x", 0.01, True), ("y", 0.01, False), ("percent", 0.01, False), ("shield", 1 / 60, False),
    ("state_age", 0.02, False), ("hitlag", 0.1, False), ("self_x_air", 0.5, True), ("self_y", 0.3, False),
    ("knockback_x", 0.3, True), ("knockback_y", 0.3, False), ("self_x_ground", 0.5, True), ("stocks", 0.25, False),
    ("jumps", 0.3, False), ("airborne", 1.0, False), ("hurtbox", 0.5, False), ("facing", 1.0, True),
)  # fmt: skip
"""Field, factor, whether it changes sign with the direction faced. Only what every world model here predicts: flags and
`misc_as` stand still in some of them."""
LIMIT = 4.0
"""Size beyond which an input is cut off: a state that no game ever showed stays near those that were learned."""
CHARACTERS, STAGE_IDS, AGES = FIELD["character"].classes or 0, 33, 64
SHARED_ACTIONS, ACTIONS = 341, FIELD["action"].classes or 0
"""Action states below this mean the same for all fighters; those from it on have a row for each."""
NEAR = 10.0
"""Units within which a distance is told finely."""
FOOT = 0.5
"""Units that a fighter may be below a surface's mean height and still stand on it: slopes."""
NOTHING = 200.0
"""Units to a surface where there is none."""


class View(nn.Module):
    """Raw states → (…, width). `edge` is |x| of the stage's edge, `surfaces` (stages, P, 3) are left end, right end and
    height of what one can stand on (platforms that move: as in frame 0), by stage id."""

    edge: Tensor
    surfaces: Tensor

    def __init__(self) -> None:
        super().__init__()
        edge = torch.full((STAGE_IDS,), 70.0)
        for place in STAGES:
            edge[place.id] = place.edge_stand
        self.register_buffer("edge", edge, persistent=False)
        self.register_buffer("surfaces", _surfaces(), persistent=False)
        self.action = nn.Embedding(SHARED_ACTIONS + CHARACTERS * (ACTIONS - SHARED_ACTIONS), 24)
        self.move = nn.Embedding(CHARACTERS * ACTIONS, 12)
        self.age = nn.Embedding(AGES, 8)
        self.phase = nn.Embedding(AGES, self.move.embedding_dim)
        """What a frame of a move means, as factors of the move: when it hits and when it is over differ by fighter."""
        self.character = nn.Embedding(CHARACTERS, 12)
        self.stage = nn.Embedding(STAGE_IDS, 6)

    @property
    def width(self) -> int:
        """Numbers of one frame."""
        embedded = self.action.embedding_dim + self.age.embedding_dim + 2 * self.move.embedding_dim
        return PLAYERS * (len(FIGHTER) + 6 + 4 + embedded) + 7

    @property
    def setting_width(self) -> int:
        """Numbers of what does not change in a match: both fighters and the stage."""
        return PLAYERS * self.character.embedding_dim + self.stage.embedding_dim

    def forward(self, floats: Tensor, ints: Tensor, stage: Tensor, side: Tensor) -> Tensor:
        """Floats (…, 2, F) and ints (…, 2, I), the acting player first; stage (…) ids; side (…) 1 or −1, the direction
        in which it faces → (…, width)."""
        edge = self.edge[stage.clamp(0, STAGE_IDS - 1)][..., None]
        out = []
        for p in range(PLAYERS):
            own_floats, own_ints = floats[..., p, :], ints[..., p, :]
            columns = [
                (own_floats[..., F_[name]] if name in F_ else own_ints[..., I_[name]].float())
                * (factor * side if mirrored else factor)
                for name, factor, mirrored in FIGHTER
            ]
            x, y = (side * own_floats[..., F_["x"]])[..., None], own_floats[..., F_["y"]][..., None]
            near = [torch.tanh(d / NEAR) for d in (edge - x, edge + x, y)]
            far = [(edge - x) / 50, (edge + x) / 50, (x.abs() - edge).clamp(min=0) / 30]
            heights = self._heights(own_floats[..., F_["x"], None], y, stage)
            out += [torch.stack(columns, dim=-1), *near, *far, heights, self._actions(own_floats, own_ints)]
        apart = floats[..., 1, :] - floats[..., 0, :]
        dx, dy = (side * apart[..., F_["x"]])[..., None], apart[..., F_["y"]][..., None]
        distance = torch.sqrt(dx * dx + dy * dy)
        out += [dx / 50, dy / 50, distance / 50, *(torch.tanh(d / NEAR) for d in (dx, dy, dx / 3, dy / 3))]
        return torch.cat(out, dim=-1).clamp(-LIMIT, LIMIT)

    def setting(self, ints: Tensor, stage: Tensor) -> Tensor:
        """Ints (…, 2, I), the acting player first, and stage ids (…) → (…, setting_width)."""
        fighters = self.character(ints[..., I_["character"]].clamp(0, CHARACTERS - 1).long())
        return torch.cat([fighters.flatten(-2), self.stage(stage.clamp(0, STAGE_IDS - 1).long())], dim=-1)

    def _actions(self, floats: Tensor, ints: Tensor) -> Tensor:
        action = ints[..., I_["action"]].clamp(0, ACTIONS - 1).long()
        fighter = ints[..., I_["character"]].clamp(0, CHARACTERS - 1).long()
        special = action + fighter * (ACTIONS - SHARED_ACTIONS)
        row = torch.where(action < SHARED_ACTIONS, action, special)
        age = floats[..., F_["state_age"]].clamp(0, AGES - 1).long()
        move = self.move(fighter * ACTIONS + action)
        return torch.cat([self.action(row), self.age(age), move, move * self.phase(age)], dim=-1)

    def _heights(self, x: Tensor, y: Tensor, stage: Tensor) -> Tensor:
        """x, y (…, 1) → (…, 4): how far below the next surface is, and above, each at two scales. Both halves of a
        stage are taken for its right one, so that mirrored play sees the same."""
        x = x.abs()
        left, right, height = self.surfaces[stage.clamp(0, STAGE_IDS - 1)].unbind(-1)  # (…, P)
        over = (x >= left) & (x <= right)
        above = y - height + FOOT
        below = torch.where(over & (above >= 0), above, NOTHING).amin(dim=-1, keepdim=True)
        ahead = torch.where(over & (above < 0), -above, NOTHING).amin(dim=-1, keepdim=True)
        return torch.cat([torch.tanh(d / scale) for d in (below, ahead) for scale in (NEAR / 2, 4 * NEAR)], dim=-1)


def _surfaces() -> Tensor:
    """(STAGE_IDS, P, 3), rows that nobody can stand on where a stage has fewer."""
    out = torch.tensor([1.0, -1.0, 0.0]).repeat(STAGE_IDS, max(len(place.surfaces) for place in STAGES), 1)
    for place in STAGES:
        for i, surface in enumerate(place.surfaces):
            out[place.id, i] = torch.tensor([min(surface.x), max(surface.x), sum(surface.y) / 2])
    return out
