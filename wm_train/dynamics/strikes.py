"""Whom a move would strike: how far its hitboxes are from the other fighter's body.

Hitboxes are those of package `melee` (dynamics.hitboxes). Bodies are in no table: each fighter is CIRCLES circles, by
its move and age, and its shield another, all estimated from who was struck and who was not. On train, games that the
estimate had not seen, frames on which a hitbox is near a fighter that can be hit: by two circles of one shape a
character F1 0.77 of hits, by those of a move 0.80, of a move and age 0.804, by three 0.814; of shields 0.84. Hitboxes
that may be elsewhere and larger than listed, by move: mean loss of the odds 0.1036 before, 0.1002 then. Lasers, whose
places are known to hundredths of a unit, tell outlines as well (`beams`): of an eighth of the games, not seen, F1 of
hits by lasers of throws 0.77 to 0.90 (Fox) and 0.64 to 0.79 (Falco), by hitboxes 0.828 to 0.831. Fitted to seven games
of eight of every second one: where fighters are as they were to be by their velocities, 0.850 of the eighth; where they
were, 0.856; and with poses held back more, 0.857 and a loss of 0.0802, where it was 0.0822.

Ages of a move differ in where its circles are and not in how large they are: limbs do not grow. Shields lean the way of
the stick and are larger where the trigger is pressed less (`guard`): F1 of shields, without frames on which somebody
who held one let go of it, 0.872 to 0.903, loss 0.178 to 0.138.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wm_runtime.facts import FAMILIES, character
from wm_runtime.schema import FIELD
from wm_train.dynamics.guard import LEANS, LIGHT, SHIELDS, Guard, guard_of_game, leaning
from wm_train.dynamics.heights import BOXES, contact_of
from wm_train.dynamics.hitboxes import FAR, HitboxDistance
from wm_train.dynamics.kinematics import velocity
from wm_train.dynamics.lasers import KINDS, WIDE, beside, kinds
from wm_train.dynamics.named import Named, is_of
from wm_train.dynamics.stale import Struck, begins_anew, frames_since, freshness, struck_in_game

CHARACTERS, ACTIONS = FIELD["character"].classes or 0, FIELD["action"].classes or 0
CIRCLES = 3
HEIGHTS = (0.2, 0.5, 0.8)
"""Where the circles are before anything is known, shares of a fighter's height."""
RADIUS = 2.0
NEAR = 45.0
"""Fighters further apart than this, along x or y, do not strike each other, units."""
SOFT = 2.0
"""Sharpness, 1/unit, of the minimum over hitboxes and circles."""
NEVER = -12.0
"""Logit of a strike where no hitbox is."""
COLUMNS, ACTIVE, FRESH, LOGIT_SCALE = 7, 2, 3, 0.25
"""Numbers about each direction of striking: the first is the logit of a strike by that scale, two more are whether a
hitbox is there and whether it has not hit already."""
TOUCHES = 0.25
"""A hitbox that is so near to a body touches it, units; anything from 0 to half a unit says much the same. Of several
that do the first one listed strikes: on val it says the damage of 88 % of the hits that might do several, and their age
alone that of 74 %."""
BUBBLE = (0.0, 7.0, 9.0)
"""Shield ahead of and above a fighter's place, and its radius, before anything is known, units."""
LEFT = 0.15
"""Share of its radius that a shield which is used up has: the game's."""
SHIELD_FULL = 60.0
"""Shield of who has not used it."""
GRABS = (212, 214)
"""Grabbing, standing and running: who is reached is held on the next frame, on which the grab is over already."""
CAUGHT = (*FAMILIES["grabbed"], *FAMILIES["captured"])
BODY_GRID, ROW_GRID = 1 / 8, 1 / 16
"""A move's circles, and what a row's differ by, are kept to so much, units: in a byte each."""
EPOCHS, BATCH, RATE, FADES = 10, 8192, 0.05, 0.8
AGES = 64
"""Ages of an action at which a pose that all characters share is told apart; the last stands for all later ones."""
KIN = (
    ("FOX", "FALCO"), ("CAPTAIN_FALCON", "GANONDORF"), ("MARIO", "DR_MARIO"), ("MARTH", "ROY"), ("LINK", "YOUNG_LINK"),
    ("PIKACHU", "PICHU"),
)  # fmt: skip
"""Fighters whose moves look alike: of what a pose differs by from what all share, a part is one for both."""
HELD_BACK = (0.002, 1.0, 3e-6, 0.15)
"""Penalty on what a move's, and a row's, circles differ by: rows are seen seldom; on the sum over moves of what their
hitboxes differ by from those that are listed; and on what all characters', or kin's, circles differ by at an age of an
action."""
ALIKE_ROWS, ALIKE_POSES = 3.0, 2.0
"""Poses of ages that are near each other are alike: width of the kernel that joins rows of a move, and ages of a pose
that all characters share, frames."""
JITTER = 0.3
"""Noise on where fighters are while bodies are estimated, units: so few hits tell no pose more finely than that."""


class Meeting(NamedTuple):
    """How fighters' hitboxes meet each other: hitboxes (N, 2, BOXES, 3); how far ahead of and above each fighter the
    other is, units, and 1 or -1 as they face alike or not; whether a hitbox is out and near; and the logit that it
    strikes, NEVER where none is, (N, 2)."""

    now: Tensor
    ahead: Tensor
    up: Tensor
    turned: Tensor
    active: Tensor
    logit: Tensor


class Strikes(nn.Module):
    """Bodies, and the odds of a strike."""

    body: Tensor
    """(characters · actions, CIRCLES, 3): ahead of and above a fighter's place, and radius."""
    body_row: Tensor
    """(rows of MoveTables, CIRCLES, 2): what is added to where those are at an age."""
    bubble: Tensor
    """(characters, 3): a full shield, as a circle of `body`."""
    lean: Tensor
    """(3,): by how much it leans ahead and up for a stick that is held all the way, units, and by what share it is
    larger where a trigger is hardly pressed."""
    bias: Tensor
    """(characters · actions,) of the attacker's moves."""
    nudge: Tensor
    """(characters · actions, 3): by how much the hitboxes of its move are further ahead, higher and larger than listed,
    units."""
    shape: Tensor
    """(3,): steepness of the odds, 1/unit; share of a hitbox's listed radius; by how much the place where a hitbox was
    on the frame before counts as further away, units."""
    beam: Tensor
    """(KINDS of lasers, 3): how much further than its head a laser reaches, units; steepness of the odds, 1/unit; and
    what is added to them."""
    folds: dict[str, Tensor]
    """As those of MoveTables."""

    def __init__(self, rows: int = 1) -> None:
        super().__init__()
        self.hitbox = HitboxDistance()
        body = torch.zeros(CHARACTERS, CIRCLES, 3)
        body[..., 1] = self.hitbox.height[:, None] * torch.tensor(HEIGHTS)
        body[..., 2] = RADIUS
        self.register_buffer("body", body.repeat_interleave(ACTIONS, dim=0))
        self.register_buffer("body_row", torch.zeros(rows, CIRCLES, 2))
        self.register_buffer("bubble", torch.tensor(BUBBLE).repeat(CHARACTERS, 1))
        self.register_buffer("lean", torch.tensor([*LEANS, LIGHT]))
        self.register_buffer("bias", torch.zeros(CHARACTERS * ACTIONS))
        self.register_buffer("nudge", torch.zeros(CHARACTERS * ACTIONS, 3))
        self.register_buffer("shape", torch.tensor([1.0, 1.0, 1.0]))
        rises = torch.arange(KINDS) // 2 % 2
        self.register_buffer("beam", torch.stack([torch.zeros(KINDS), torch.ones(KINDS), rises * WIDE], dim=-1))
        self.folds = {}

    def told_apart(self, parts: Sequence[Strikes], rows: Sequence[Tensor]) -> None:
        """As MoveTables.told_apart; `rows` are those of the parts."""
        others = [part.body_row[row] for part, row in zip(parts, rows, strict=True)]
        self.folds = {"body_row": torch.cat([self.body_row, *others])}
        for name in ("body", "bias", "nudge"):
            self.folds[name] = torch.cat([getattr(part, name) for part in (self, *parts)])

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs) -> None:
        if f"{prefix}body_row" in state_dict:
            self.body_row = torch.empty_like(state_dict[f"{prefix}body_row"])
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def forward(
        self, state: Named, row: Tensor, action: Tensor, age: Tensor, spent: Tensor, places: tuple[Tensor, Tensor],
        guard: Guard, fold: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """State and row of the tables (N, 2); next action and age, whether that has hit already, where fighters will be
        if nobody is struck (N, 2), and how they would hold shields → numbers about each fighter striking the other,
        (N, 2, COLUMNS), the hitbox with which it would, (N, 2) int64, and `heights.contact_of` that, (N, 2, CONTACT).
        `fold`: that of MoveTables."""
        grabs = (action == GRABS[0]) | (action == GRABS[1])
        body = self._bodies(state, row, shielding(action) & ~grabs.flip(1), guard, fold).flip(1)
        meet = self._meet(state, action, age, places, body, fold)
        logit, active, where = meet.logit, meet.active, (meet.now, meet.ahead, meet.up, meet.turned, body)
        fresh = (~spent).float()
        at_x, at_y = _where_struck(*where)
        columns = [logit.clamp(NEVER, 8.0) * LOGIT_SCALE, (logit * 0.7).clamp(-1.0, 1.0), active.float(), fresh,
                   logit.sigmoid() * fresh, at_x * active, at_y * active]  # fmt: skip
        return torch.stack(columns, dim=-1), *first_box(*where, self.shape[1])

    def standing(self, state: Named, row: Tensor, guard: Guard, fold: Tensor | None = None) -> Tensor:
        """State, row of the tables (N, 2), and how shields are held → logit that a fighter's move strikes the other
        where both are, NEVER where it has no hitbox out, (N, 2)."""
        body = self._bodies(state, row, shielding(state["action"]), guard, fold).flip(1)
        return self._meet(state, state["action"], state["state_age"], (state["x"], state["y"]), body, fold).logit

    def _meet(
        self, state: Named, action: Tensor, age: Tensor, places: tuple[Tensor, Tensor], body: Tensor,
        fold: Tensor | None,
    ) -> Meeting:  # fmt: skip
        """State; what fighters do, at which age, and where they are (N, 2); the circles of whom each would strike
        (N, 2, CIRCLES, 3) → how their hitboxes meet those."""
        move = (state["character"] * ACTIONS + action).long()
        (x, y), facing = places, state["facing"].float()
        told, shift = self._told(fold)
        now, before = (nudged(box, told["nudge"][move + shift]) for box in self._boxes(move, age))
        ahead, up, turned = (x.flip(1) - x) * facing, y.flip(1) - y, facing * facing.flip(1)
        logit = self._logit(now, before, move + shift, ahead, up, turned, body, told["bias"], *self.shape.unbind())
        active = (now[..., 2] > 0).any(dim=-1) & (ahead.abs() < NEAR)
        return Meeting(now, ahead, up, turned, active, torch.where(active, logit, torch.full_like(logit, NEVER)))

    def boxes_of(self, near: dict[str, np.ndarray]) -> tuple[Tensor, Tensor]:
        """Frames of `near_of_game` and their `row` (P,) → the hitbox that strikes, (P,), if one does, and
        `heights.contact_of` that, (P, CONTACT)."""
        of = {name: torch.from_numpy(np.ascontiguousarray(near[name])) for name in near}
        now = nudged(self._boxes(of["move"], of["age"])[0], self.nudge[of["move"]])
        body = posed(self.body[of["victim"]], self.body_row[of["row"]])
        return first_box(now, of["ahead"], of["up"], of["turned"], body, self.shape[1])

    def reach(
        self, lasers: Tensor, state: Named, row: Tensor, places: tuple[Tensor, Tensor], guard: Guard,
        fold: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Lasers of the next frame (N, 2, 1 + FLYING, SHOTS), the present state and its row of the tables (N, 2), where
        fighters will be if nobody is struck, and how they would hold shields → the odds that a fighter's lasers miss
        the other fighter: the logit of the likeliest to strike (N, 2); FAR for none."""
        x, y, facing = (of.flip(1)[..., None] for of in (*places, state["facing"].float()))
        body = self._bodies(state, row, shielding(state["action"]), guard, fold).flip(1)  # (N, 2, CIRCLES, 3)
        logit = _laser_logit(lasers, self.beam[kinds(lasers, state["character"])], x, y, facing, body[:, :, None])
        flies = (lasers[..., 2] != 0) | (lasers[..., 3] != 0)
        return torch.where(flies, -logit, torch.full_like(logit, FAR)).amin(dim=-1)

    def _told(self, fold: Tensor | None) -> tuple[dict[str, Tensor], Tensor | int]:
        """The tables that matches of these folds are told, and where theirs begin."""
        if fold is None:
            return {"body": self.body, "body_row": self.body_row, "bias": self.bias, "nudge": self.nudge}, 0
        return self.folds, fold * len(self.body)

    def _bodies(self, state: Named, row: Tensor, shielded: Tensor, guard: Guard, fold: Tensor | None) -> Tensor:
        """Circles of the fighters (N, 2, CIRCLES, 3); of who is `shielded` (N, 2), its shield."""
        told, shift = self._told(fold)
        stands = (state["character"] * ACTIONS + state["action"]).long()
        body = posed(told["body"][stands + shift], told["body_row"][row])
        bubble = leaning(shrunk(self.bubble[state["character"].long()], state["shield"]), guard, self.lean)
        return torch.where(shielded[..., None, None], bubble[..., None, :], body)

    def _boxes(self, move: Tensor, age: Tensor) -> tuple[Tensor, Tensor]:
        """Hitboxes of moves at ages and on the frame before, (…, 4, 3) each; radius 0 where there is none."""
        first, count = self.hitbox.first[move], self.hitbox.count[move]
        rows = []
        for back in (0, 1):
            index = (age + 1e-3).floor().long() - self.hitbox.age[move] - back
            inside = (index >= 0) & (index < count)
            rows.append(self.hitbox.box[torch.where(inside, first + index, torch.zeros_like(index))])
        return rows[0], rows[1]

    @staticmethod
    def _logit(
        now: Tensor, before: Tensor, move: Tensor, ahead: Tensor, up: Tensor, turned: Tensor, body: Tensor,
        bias: Tensor, steep: Tensor, share: Tensor, further: Tensor,
    ) -> Tensor:  # fmt: skip
        """Hitboxes (…, 4, 3), the attacker's move, where the other fighter is in its frame, ±1 as that faces the same
        way or not (…), and its circles (…, CIRCLES, 3) → logit of a strike (…)."""
        gaps = []
        for box in (now, before):
            gap = _apart(box, ahead, up, turned, body) - box[..., 2, None] * share - body[..., None, :, 2]
            gap = torch.where(box[..., 2, None] > 0, gap, torch.full_like(gap, FAR))
            gaps.append(-(gap.flatten(-2) * -SOFT).logsumexp(dim=-1) / SOFT)
        return bias[move] - steep * torch.minimum(gaps[0], gaps[1] + further)

    @staticmethod
    def _circles(of: dict[str, Tensor], some: Tensor, body: Tensor, bubble: Tensor, lean: Tensor) -> Tensor:
        """What is struck on frames `some`, bodies (P, CIRCLES, 3) or their shields."""
        shield = shrunk(bubble[of["victim"][some] // ACTIONS], of["shield"][some])
        shield = leaning(shield, Guard(*(of[name][some] for name in Guard._fields)), lean)
        return torch.where(of["shields"][some][:, None, None], shield[:, None], body)

    def measure(self, near: dict[str, np.ndarray], owner: np.ndarray, shot: dict[str, np.ndarray]) -> None:
        """Estimates bodies from frames on which a hitbox (`near_of_game`) or a laser (`beams.near_lasers`) is near a
        fighter that can be hit, and `row`, that of MoveTables of the victim, all (P,); `owner` is the move of each row
        (rows,), those of a move one after the other by age."""
        rows = len(owner)
        of, by_laser = (
            {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in found.items()}
            for found in (near, shot)
        )
        self.body_row = torch.zeros(rows, CIRCLES, 2)
        fighter = torch.arange(CHARACTERS).repeat_interleave(ACTIONS)
        base = self.body.view(CHARACTERS, ACTIONS, CIRCLES, 3)[:, 0].clone().requires_grad_()
        free = (self.body, self.body_row, self.bias, self.nudge)
        by_move, by_row, bias, nudge = (torch.zeros_like(table).requires_grad_() for table in free)
        pose, of_kin = (torch.zeros(n * ACTIONS, CIRCLES, 3).requires_grad_() for n in (1, CHARACTERS))
        pose_at, of_kin_at = (torch.zeros(n * ACTIONS * AGES, CIRCLES, 2).requires_grad_() for n in (1, CHARACTERS))
        kin = _kin()
        alike = torch.zeros(ACTIONS).requires_grad_()
        shape, beam = torch.zeros(3).requires_grad_(), torch.zeros(KINDS, 3).requires_grad_()
        bubble = torch.tensor(BUBBLE).repeat(CHARACTERS, 1).requires_grad_()
        lean = torch.tensor([*LEANS, LIGHT]).requires_grad_()
        joined, weight = _joined(torch.from_numpy(owner), ALIKE_ROWS)
        joined_ages, weight_ages = _joined(torch.zeros(AGES, dtype=torch.int64), ALIKE_POSES)

        def poses(of: dict[str, Tensor], some: Tensor) -> tuple[Tensor, Tensor]:
            """Circles of the victims of frames `some` (P, CIRCLES, 3), and the penalty on what those add up from."""
            victim, row = of["victim"][some], of["row"][some]
            action, age = victim % ACTIONS, of["victim_age"][some].long().clamp(0, AGES - 1)
            kind = kin[fighter[victim]] * ACTIONS + action
            often = by_move[victim], pose[action], of_kin[kind]
            shared, akin = (
                part[at[:, None] * AGES + joined_ages[age]] for part, at in ((pose_at, action), (of_kin_at, kind))
            )
            rare = by_row[joined[row]]
            at_age = _mixed(rare, weight[row]) + _mixed(shared + akin, weight_ages[age])
            body = posed(base[fighter[victim]] + sum(often), at_age)
            held = HELD_BACK[0] * sum(part.square().mean() for part in often) + HELD_BACK[1] * rare.square().mean()
            return body, held + HELD_BACK[3] * (shared.square().mean() + akin.square().mean())

        optimiser = torch.optim.Adam([base, shape, bubble, beam], RATE)
        optimiser.add_param_group(
            {
                "params": [by_move, by_row, bias, nudge, pose, pose_at, of_kin, of_kin_at, alike, lean],
                "lr": RATE * 0.6,
            }
        )
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimiser, FADES)
        rng = torch.Generator().manual_seed(0)
        with torch.enable_grad():
            for _ in range(EPOCHS):
                for some in torch.randperm(len(of["hit"]), generator=rng).split(BATCH):
                    move = of["move"][some]
                    now, before = (nudged(box, nudge[move]) for box in self._boxes(move, of["age"][some]))
                    body, held = poses(of, some)
                    ahead, up = (
                        of[name][some] + JITTER * torch.randn(len(some), generator=rng) for name in ("ahead", "up")
                    )
                    logit = self._logit(
                        now, before, move, ahead, up, of["turned"][some],
                        self._circles(of, some, body, bubble, lean),
                        bias + alike.repeat(CHARACTERS), *self._shape(shape).unbind(),
                    )  # fmt: skip
                    held = held + HELD_BACK[0] * bias[move].square().mean() + HELD_BACK[2] * nudge.square().sum()
                    loss = F.binary_cross_entropy_with_logits(logit, of["hit"][some].float()) + held
                    shots = len(by_laser["hit"]) * len(some) // len(of["hit"])
                    if shots:  # as many as there are for each of the others
                        drawn = torch.randint(len(by_laser["hit"]), (shots,), generator=rng)
                        kind, x, y, facing = (by_laser[name][drawn] for name in ("kind", "x", "y", "facing"))
                        flies = self._beam(beam)[kind]
                        logit = _laser_logit(by_laser["shot"][drawn], flies, x, y, facing, poses(by_laser, drawn)[0])
                        struck = by_laser["hit"][drawn].float()
                        loss = loss + F.binary_cross_entropy_with_logits(logit, struck) * shots / len(some)
                    optimiser.zero_grad()
                    loss.backward()
                    optimiser.step()
                schedule.step()
        kind = (kin[:, None] * ACTIONS + torch.arange(ACTIONS)).flatten()
        body = (base[fighter] + by_move + pose.repeat(CHARACTERS, 1, 1) + of_kin[kind]).detach()
        self.body = (body / BODY_GRID).round() * BODY_GRID
        seen = torch.zeros(rows, dtype=torch.long)
        for found in (of, by_laser):
            at = found["victim"] * AGES + found["victim_age"].long().clamp(0, AGES - 1)
            seen.scatter_(0, found["row"], at)
        seen[0] = 0  # of which nothing is known
        move, age = seen // AGES, seen % AGES
        shared, akin = (
            part.detach()[at[:, None] * AGES + joined_ages[age]]
            for part, at in ((pose_at, move % ACTIONS), (of_kin_at, kind[move]))
        )
        shared_at = _mixed(shared + akin, weight_ages[age]) * (seen > 0)[:, None, None]
        by_row = _mixed(by_row.detach()[joined], weight) + shared_at
        self.body_row = (by_row / ROW_GRID).round().clamp(-127, 127) * ROW_GRID
        self.bubble, self.lean, self.bias = bubble.detach(), lean.detach(), (bias + alike.repeat(CHARACTERS)).detach()
        self.nudge = (nudge.detach() / ROW_GRID).round() * ROW_GRID
        self.shape, self.beam = self._shape(shape).detach(), self._beam(beam).detach()

    @staticmethod
    def _beam(free: Tensor) -> Tensor:
        """Free numbers (KINDS, 3) → `beam`, steepness around 1."""
        return torch.stack([free[:, 0], free[:, 1].exp(), free[:, 2]], dim=-1)

    @staticmethod
    def _shape(free: Tensor) -> Tensor:
        """Three free numbers → steepness and share, around 1, and what is added for the frame before, above 0."""
        return torch.stack([free[0].exp(), free[1] + 1, 2 * F.softplus(free[2])])


def _kin() -> Tensor:
    """The fighter that stands for each and its kin, (CHARACTERS,)."""
    kin = torch.arange(CHARACTERS)
    for one, other in KIN:
        kin[character(other).internal_id] = character(one).internal_id
    return kin


def _joined(owner: Tensor, width: float) -> tuple[Tensor, Tensor]:
    """Owners of rows (R,), and the width of a kernel over rows of one owner → rows that each is a mixture of, and their
    weights, (R, 2 · reach + 1); squares of the weights sum to 1, so that penalties mean what they mean for single rows.
    """
    reach, row = int(3 * width) + 1, torch.arange(len(owner))
    offset = torch.arange(-reach, reach + 1)
    other = (row[:, None] + offset).clamp(0, len(owner) - 1)
    inside = (row[:, None] + offset == other) & (owner[other] == owner[:, None])
    weight = torch.where(inside, torch.exp(-0.5 * (offset / width).square()), torch.zeros(()))
    return torch.where(inside, other, row[:, None]), weight / weight.square().sum(dim=-1, keepdim=True).sqrt()


def _mixed(values: Tensor, weight: Tensor) -> Tensor:
    """Values (P, W, CIRCLES, 2) by their weights (P, W) → (P, CIRCLES, 2)."""
    return torch.einsum("pwck,pw->pck", values, weight)


def _laser_logit(shot: Tensor, kind: Tensor, x: Tensor, y: Tensor, facing: Tensor, body: Tensor) -> Tensor:
    """Lasers (…, SHOTS) and `Strikes.beam` of their kind (…, 3), where the other fighter is and its facing (…), its
    circles (…, CIRCLES, 3) → logit of a strike (…)."""
    forth, steep, bias = kind.unbind(dim=-1)
    head_x, head_y, speed_x, speed_y, length = shot.unbind(dim=-1)
    speed = (speed_x.square() + speed_y.square()).sqrt().clamp(min=1e-6)
    longer = [head_x + forth * speed_x / speed, head_y + forth * speed_y / speed, speed_x, speed_y, length + forth]
    beam = torch.stack(longer, dim=-1)[..., None, :]
    gap = beside(beam, x[..., None] + facing[..., None] * body[..., 0], y[..., None] + body[..., 1]) - body[..., 2]
    return bias - steep * -(gap * -SOFT).logsumexp(dim=-1) / SOFT


def posed(body: Tensor, moved: Tensor) -> Tensor:
    """Circles (…, CIRCLES, 3) and by how much they are elsewhere at an age (…, CIRCLES, 2) → where they are."""
    return torch.cat([body[..., :2] + moved, body[..., 2:]], dim=-1)


def shielding(action: Tensor) -> Tensor:
    """Whether these actions (…) are those of SHIELDS (…)."""
    return is_of(action, SHIELDS)


def moved_on(state: Named) -> tuple[Tensor, Tensor]:
    """Where fighters are in a frame if they go on as they move, (N, 2) each."""
    free = (state["hitlag"] <= 1).float()
    vx, vy = velocity(state)
    return state["x"] + vx * free, state["y"] + vy * free


def shrunk(bubble: Tensor, shield: Tensor) -> Tensor:
    """Full shields (…, 3) and what is left of them (…) → the circles that they are."""
    share = LEFT + (1 - LEFT) * (shield / SHIELD_FULL).clamp(0.0, 1.0)
    return torch.cat([bubble[..., :2], bubble[..., 2:] * share[..., None]], dim=-1)


def nudged(box: Tensor, nudge: Tensor) -> Tensor:
    """Hitboxes (…, 4, 3) and by how much those of the move differ from what is listed (…, 3) → where they are."""
    return box + nudge[..., None, :] * (box[..., 2:] > 0)


def _apart(box: Tensor, ahead: Tensor, up: Tensor, turned: Tensor, body: Tensor) -> Tensor:
    """As `Strikes._logit` → how far the middles of hitboxes and of circles are apart, (…, 4, CIRCLES)."""
    x, y = ahead[..., None] + body[..., 0] * turned[..., None], up[..., None] + body[..., 1]
    aside = (box[..., 0, None] - x[..., None, :]).square() + (box[..., 1, None] - y[..., None, :]).square()
    return (aside + 1e-6).sqrt()


def _where_struck(now: Tensor, ahead: Tensor, up: Tensor, turned: Tensor, body: Tensor) -> tuple[Tensor, Tensor]:
    """As `Strikes._logit` → where the hitbox that reaches deepest is, ahead of and above the victim's place, in tens of
    units (…)."""
    gap = _apart(now, ahead, up, turned, body) - now[..., 2, None] - body[..., None, :, 2]
    gap = torch.where(now[..., 2, None] > 0, gap, torch.full_like(gap, FAR)).amin(dim=-1)  # (…, 4)
    deepest = gap.argmin(dim=-1, keepdim=True)
    box_x, box_y = (now[..., i].gather(-1, deepest)[..., 0] for i in (0, 1))
    return ((box_x - ahead) * turned * 0.1).clamp(-2.0, 2.0), ((box_y - up) * 0.1).clamp(-2.0, 2.0)


def first_box(
    now: Tensor, ahead: Tensor, up: Tensor, turned: Tensor, body: Tensor, share: Tensor
) -> tuple[Tensor, Tensor]:
    """As `Strikes._logit` → the first hitbox that touches a circle, or else the nearest, (…) int64, and
    `heights.contact_of` that."""
    gaps = _apart(now, ahead, up, turned, body) - body[..., None, :, 2] - now[..., 2, None] * share
    gap = torch.where(now[..., 2] > 0, gaps.amin(dim=-1), torch.full_like(now[..., 2], FAR))  # (…, 4)
    order = torch.arange(BOXES, device=gap.device, dtype=gap.dtype)
    box = torch.where(gap < TOUCHES, order - BOXES, gap).argmin(dim=-1)
    chosen = box[..., None] == torch.arange(BOXES, device=gap.device)  # (…, 4)
    x, y = ((now[..., i] * chosen).sum(dim=-1) for i in (0, 1))
    near = (gaps * chosen[..., None]).sum(dim=-2)
    return box, contact_of((x - ahead) * turned, y - up, near)


def near_of_game(columns: dict[str, np.ndarray], strikes: Strikes) -> dict[str, np.ndarray]:
    """A game's columns → frames on which a move's hitbox is near a fighter that it could hit: `move` and `age` of the
    attacker, `ahead` and `up` where the victim is, `turned`, `victim` its move and `victim_age`, `shields` whether
    its shield is what would be struck, `shield` and the fields of Guard, `hit`, `hurt` the victim's next action, and
    the `damage` of the hit, percent of the move when fresh, (P,) each. Who lets go of a shield is left out: what is
    struck then nobody knows."""
    before, after = ({n: v[part] for n, v in columns.items()} for part in (slice(None, -1), slice(1, None)))
    found: dict[str, list[np.ndarray]] = {}
    x, y = after["x"], after["y"]  # who is struck has moved on before
    begins = begins_anew(columns)[1:]
    time = np.arange(len(begins))[:, None]
    began = time - frames_since(begins)
    lags = (after["hitlag"] > 0) & (after["hitlag"] >= before["hitlag"])
    lagged = np.maximum.accumulate(np.where(lags, time, -1), axis=0)
    spent = np.zeros_like(lags)
    spent[1:] = lagged[:-1] >= began[1:]
    grabs = np.isin(before["action"], GRABS)
    move = after["character"].astype(np.int64) * ACTIONS + np.where(grabs, before["action"], after["action"])
    age = np.where(grabs, before["state_age"], after["state_age"]).astype(np.float32)
    boxes = strikes._boxes(torch.from_numpy(move), torch.from_numpy(age))[0]
    same = (after["state_age"] == before["state_age"]) & (after["action"] == before["action"])
    stands = same & (after["hitlag"] <= 0) & ~grabs  # as Sheik's clock does while she is gone
    active = (boxes[..., 2] > 0).any(dim=-1).numpy() & ~stands
    held, shields = (np.isin(state["action"], SHIELDS) for state in (before, after))  # who raises one is behind it
    guard = guard_of_game(columns)
    blocked = np.isin(after["action"], SHIELDS[2:]) & (after["hitlag"] > 0) & (before["hitlag"] <= 1)
    struck = after["percent"] - before["percent"] > 0.01
    struck |= np.isin(after["action"], CAUGHT) & ~np.isin(before["action"], CAUGHT)
    hits, rise = struck_in_game(columns), after["percent"] - before["percent"]
    for a, v in ((0, 1), (1, 0)):
        ahead, up = (x[:, v] - x[:, a]) * after["facing"][:, a], y[:, v] - y[:, a]
        chosen = active[:, a] & ~spent[:, a] & (before["hitlag"][:, a] <= 1) & (before["hurtbox"][:, v] == 0)
        chosen &= (np.abs(ahead) < NEAR) & (np.abs(up) < NEAR)
        stopped = shields[:, v] & ~grabs[:, a]
        chosen &= (before["action"][:, v] > 13) & (after["action"][:, v] > 13)
        chosen &= (after["hurtbox"][:, v] == 0) | struck[:, v]
        chosen &= grabs[:, a] | shields[:, v] | ~held[:, v]
        values = {
            "move": move[:, a], "age": age[:, a], "ahead": ahead.astype(np.float32),
            "up": up.astype(np.float32), "turned": (before["facing"][:, v] * after["facing"][:, a]).astype(np.float32),
            "victim": before["character"][:, v].astype(np.int64) * ACTIONS + before["action"][:, v],
            "victim_age": before["state_age"][:, v].astype(np.float32),
            "shields": stopped, "shield": before["shield"][:, v].astype(np.float32),
            **{name: of[:, v] for name, of in guard.items()},
            "hurt": after["action"][:, v], "hit": np.where(stopped, blocked[:, v], struck[:, v]),
            "damage": _damage(hits, rise, after, a),
        }  # fmt: skip
        for name, value in values.items():
            found.setdefault(name, []).append(value[chosen])
    return {name: np.concatenate(parts) for name, parts in found.items()}


def _damage(hits: Struck, rise: np.ndarray, after: dict[str, np.ndarray], attacker: int) -> np.ndarray:
    """What a game says of its hits, rises of percent (T, 2), the columns of the frames on which those are, and the
    number of who attacks → percent of its moves when fresh, (T,)."""
    queue = torch.from_numpy(hits.at(np.arange(len(rise)))[1][:, attacker])
    attack = torch.from_numpy(after["last_attack"][:, attacker].astype(np.int32))
    return (rise[:, 1 - attacker] / freshness(queue, attack).numpy()).astype(np.float32)
