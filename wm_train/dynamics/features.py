"""Features of the own-frame network: each player's view of the match, mirrored so that it always faces right.

Both players are rows of one batch: what is left and right, self and other, is the same physics.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from wm_runtime.facts import move_lengths, physics
from wm_runtime.schema import AXES, C_, FIELD, M_, VELOCITIES
from wm_train.dynamics.constants import constant
from wm_train.dynamics.geometry import Geometry, ceiling, crosses, support
from wm_train.dynamics.guard import guard
from wm_train.dynamics.hitboxes import HitboxDistance
from wm_train.dynamics.kinematics import AIR_DODGE, AIR_DODGE_DECAY, length, velocity
from wm_train.dynamics.lasers import nearest, next_shots
from wm_train.dynamics.laws import HITSTUN_FLAG
from wm_train.dynamics.memory import CONTROLLERS, COUNTERS, Past, pressed, struck_with
from wm_train.dynamics.named import Named, bounded
from wm_train.dynamics.platforms import FOUNTAIN, UNKNOWN, next_heights
from wm_train.dynamics.stale import freshness
from wm_train.dynamics.strikes import moved_on
from wm_train.dynamics.tables import MOVE_COLUMNS, MoveTables
from wm_train.dynamics.wind import ABOVE, BELOW, BOXES, DREAM_LAND, GUST
from wm_train.encoding import BITS, STAGE_VOCABULARY, stage_of

CHARACTERS, ACTIONS = FIELD["character"].classes or 0, FIELD["action"].classes or 0
FLAGS = ("flags_1", "flags_2", "flags_3", "flags_4", "flags_5")
THRESHOLDS = {"main_x": (0.2875, 0.6, 0.8), "main_y": (0.2875, 0.6625), "c_x": (0.2875, 0.8), "c_y": (0.2875, 0.6625)}
"""Stick positions, of each sign, at which the game does something else."""
HELD = (
    *((name, sign, least) for name, *thresholds in (("main_x", 0.2875, 0.8), ("main_y", 0.2875, 0.6625), ("c_x", 0.8),
                                                    ("c_y", 0.6625)) for least in thresholds for sign in (1.0, -1.0)),
    *((name, 1.0, 0.5) for name in ("a", "b", "x_button", "y_button", "z", "l", "r")), ("shoulder", 1.0, 0.3),
)  # fmt: skip
"""(control, sign, least value) of what is timed while it is held."""
FINITE = 3.4e38
AGES = 96
"""Vocabulary of ages and run lengths."""
MIRRORED = ("main_x", "c_x")
SCALES = (50.0, 5.0, 0.5)
"""Distances are seen at these scales, units: each is clamped to ±1."""
CARRIED = (1.0, 0.2)
"""Scales of what moves a fighter beside its velocities, units a frame."""
TECH_WINDOW = 20
"""Frames after a press that counts in which who comes down techs."""
ROWS, RUN_ROWS = -1, -2
"""Vocabularies that are as large as the tables that were measured: rows by age, and by frames in the action."""


@dataclass(frozen=True)
class Embedded:
    """A categorical input: of whom ("self" or "other"), its vocabulary and the width of its vectors."""

    name: str
    vocabulary: int
    width: int


EMBEDDED: tuple[Embedded, ...] = (
    Embedded("self_move", CHARACTERS * ACTIONS, 24),
    Embedded("other_move", CHARACTERS * ACTIONS, 16),
    Embedded("self_action", ACTIONS, 32),
    Embedded("other_action", ACTIONS, 24),
    Embedded("self_action_1", ACTIONS, 12),
    Embedded("self_action_2", ACTIONS, 8),
    Embedded("self_character", CHARACTERS, 12),
    Embedded("other_character", CHARACTERS, 8),
    Embedded("self_age", AGES, 16),
    Embedded("other_age", AGES, 12),
    Embedded("self_frames_in_action", AGES, 16),
    Embedded("self_ground", 64, 4),
    Embedded("self_last_attack", 64, 4),
    Embedded("self_jumps", 8, 4),
    Embedded("stage", STAGE_VOCABULARY, 6),
    Embedded("self_following", ACTIONS, 12),
    Embedded("self_run_following", ACTIONS, 12),
    Embedded("self_row", ROWS, 12),
    Embedded("self_run_row", RUN_ROWS, 12),
    Embedded("other_row", ROWS, 6),
)


def scaled(distance: Tensor, scales: tuple[float, ...] = SCALES) -> list[Tensor]:
    """A distance at several scales, each clamped to ±1."""
    return [(distance / s).clamp(-1.0, 1.0) for s in scales]


class Features(nn.Module):
    """`numbers` of a state and its past; `classes` for the embeddings."""

    drift: Tensor
    gravity: Tensor
    terminal: Tensor
    fast_fall: Tensor
    ends: Tensor
    """(characters · actions,): the age that frame data list as a move's last; 0 where they list none."""
    interruptible: Tensor
    """(characters · actions,): and from which on it may be interrupted."""

    def __init__(self, tables: MoveTables) -> None:
        super().__init__()
        self.tables = tables
        self.geometry = Geometry()
        self.hitbox = HitboxDistance()
        constants = {"gravity": 0.1, "terminal": 2.0, "fast_fall": 2.5, "air_mobility": 0.05}
        for name, default in constants.items():
            table = torch.full((CHARACTERS,), default)
            known = torch.from_numpy(physics(name))
            table[: len(known)] = torch.where(known.isnan(), table[: len(known)], known)
            self.register_buffer("drift" if name == "air_mobility" else name, table, persistent=False)
        listed = move_lengths()
        move = torch.from_numpy(listed.key.astype(np.int64)) @ torch.tensor([ACTIONS, 1])
        for name, ages in (("ends", listed.ends), ("interruptible", listed.interruptible)):
            table = torch.zeros(CHARACTERS * ACTIONS)
            table[move] = torch.from_numpy(ages.astype(np.float32))
            self.register_buffer(name, table, persistent=False)

    def numbers(self, state: Named, past: Past, match: Tensor, controllers: Tensor) -> Tensor:
        """Present state, its past, match (N, M), controllers of the next frame (N, 2, 13) → (N, 2, features)."""
        fighter, rows = self._fighter(state), self._rows(state, past)
        columns = [
            *fighter,
            *[column.flip(1) for column in fighter],
            *self._relation(state),
            *self._memory(state, past, rows),
            *self._contact(state, past, match, controllers),
            *self._hits(state, past),
        ]
        parts = [torch.stack(columns, dim=-1), *self._controllers(state, past, controllers), self._flags(state)]
        laser = nearest(past.shots, state)
        fine = [*self._feet(state, past, match, controllers), *self._shots(state, laser), *self._left(state, past)]
        fine += self._stale(state, past) + self._tech(state, past, controllers) + self._carried(state, past)
        fine += self._seen(rows) + self._listed(state, past) + self._platforms(state, past, match)
        fine += self._shots_then(state, laser) + self._wind(state, past, match)
        fine += self._presses(state, past, controllers) + self._beams(state, past, rows, controllers)
        parts.append(torch.stack(fine, dim=-1))
        return torch.cat(parts, dim=-1)

    def classes(self, state: Named, past: Past, match: Tensor) -> dict[str, Tensor]:
        """Embedded input → (N, 2) int64."""
        move = self.known_move(state["character"], state["action"])
        rows = self._rows(state, past)
        age = (state["state_age"] + 1.001).clamp(0, AGES - 1).int()
        own = {
            "self_move": move,
            "self_action": state["action"],
            "self_action_1": past.numbers["action_1"],
            "self_action_2": past.numbers["action_2"],
            "self_character": state["character"],
            "self_age": age,
            "self_frames_in_action": past.numbers["frames_in_action"].float().clamp(max=AGES - 1),
            "self_ground": state["ground"].clamp(max=63),
            "self_last_attack": state["last_attack"].clamp(max=63),
            "self_jumps": state["jumps"].clamp(max=7),
            "self_row": self.tables.vector(rows["self_row"]),
            "self_run_row": self.tables.vector(rows["self_run_row"], run=True),
            "self_following": self.tables.of("following")[rows["self_row"]],
            "self_run_following": self.tables.of("run_following")[rows["self_run_row"]],
        }
        both = ("move", "action", "character", "age", "row")
        other = {f"other_{name}": own[f"self_{name}"].flip(1) for name in both}
        found = {**own, **other, "stage": stage_of(match)[:, None].expand(-1, 2)}
        return {e.name: found[e.name].long() for e in EMBEDDED}

    def known_move(self, character: Tensor, action: Tensor) -> Tensor:
        """Row of a move (N, 2) in an embedding of moves; 0 for one that was never seen."""
        move = (character * ACTIONS + action).long()
        return torch.where(self.tables.of("known")[self.tables.move(character, action)], move, torch.zeros_like(move))

    def _rows(self, state: Named, past: Past) -> Named:
        """Rows of the tables by the present age of the move and by the frames that it has lasted, (N, 2)."""
        character, action = state["character"], state["action"]
        return {
            "self_row": self.tables.row(character, action, state["state_age"]),
            "self_run_row": self.tables.run_row(character, action, past.numbers["frames_in_action"]),
        }

    def _fighter(self, state: Named) -> list[Tensor]:
        facing = state["facing"].float()
        stunned = (state["flags_4"] & HITSTUN_FLAG) > 0
        misc = bounded(state["misc_as"])
        hitstun = torch.where(stunned, misc, torch.zeros_like(misc)).clamp(0.0, 200.0)
        mirror = {"self_x_air": facing, "self_x_ground": facing, "knockback_x": facing}
        columns = [state["x"] * facing * 0.02, state["y"] * 0.02, state["percent"] * 0.01, state["shield"] / 60]
        for name in VELOCITIES:
            velocity = state[name] * mirror.get(name, 1.0)
            columns += [velocity * 0.4, (velocity * 4.0).clamp(-1.0, 1.0), (velocity * 30.0).clamp(-1.0, 1.0)]
        columns += [(state["state_age"] - state["state_age"].floor()), state["state_age"].clamp(-2, 200) * 0.02]
        columns += [state["hitlag"] * 0.1, (state["hitlag"] > 0).float(), (state["hitlag"] == 1).float()]
        columns += [hitstun * 0.02, (hitstun * 0.2).clamp(max=1.0), stunned.float(), (hitstun <= 1).float()]
        columns += [state["airborne"].float(), (state["hurtbox"] == 1).float(), (state["hurtbox"] == 2).float()]
        columns += [(state["stocks"] > 0).float(), (state["combo_count"] > 0).float()]
        columns += [(state["l_cancel"] == 1).float(), (state["l_cancel"] == 2).float()]
        columns += [(state["last_hit_by"] == 6).float(), (state["misc_as"].abs() < FINITE).float()]
        columns += [misc.clamp(-10.0, 300.0) * 0.02]
        return columns

    def _relation(self, state: Named) -> list[Tensor]:
        facing = state["facing"].float()
        dx = (state["x"].flip(1) - state["x"]) * facing
        dy = state["y"].flip(1) - state["y"]
        return [
            *scaled(dx, (60.0, 12.0, 3.0)), *scaled(dy, (60.0, 12.0, 3.0)), ((dx.square() + dy.square()).sqrt() * 0.02),
            facing * facing.flip(1), (dx > 0).float(),
        ]  # fmt: skip

    def _memory(self, state: Named, past: Past, rows: Named) -> list[Tensor]:
        columns = []
        for name in COUNTERS:
            since = past.numbers[name].float()
            columns += [(since / 60).clamp(max=4.0), 1 / (1 + since)]
        for name in ("frames_in_action", "since_hitlag", "since_hurtbox", "since_hit"):
            columns.append(1 / (1 + past.numbers[name].flip(1).float()))
        facing = state["facing"].float()
        columns += [(state["x"] - past.last["x"]) * facing * 0.3, (state["y"] - past.last["y"]) * 0.3]
        columns.append((state["state_age"] - past.last["state_age"]).clamp(-2.0, 3.0))
        columns.append((past.last["hitlag"] > 0).float())
        for odds in (self.tables.of("odds")[rows["self_row"]], self.tables.of("run_odds")[rows["self_run_row"]]):
            ends = odds[..., 0]
            columns += [ends, (ends > 0.5).float(), (ends > 0.98).float(), (ends / 0.05).clamp(max=1.0), odds[..., 1]]
        return columns

    def _usual(self, state: Named, past: Past) -> tuple[Tensor, Tensor]:
        """Position change along x (not mirrored) and y that is the commonest if the action goes on, (N, 2) each."""
        rate = pace(state, past)
        usual = self.tables.of("moves")[self.tables.row(state["character"], state["action"], state["state_age"] + rate)]
        x, y = (torch.nan_to_num(usual[..., MOVE_COLUMNS.index(name)], 0.0) for name in ("x.change", "y.change"))
        return x * state["facing"].float(), y

    def _contact(self, state: Named, past: Past, match: Tensor, controllers: Tensor) -> list[Tensor]:
        stage, frame = stage_of(match), match[..., M_["frame"]]
        surfaces = self.geometry.surfaces(stage, frame + 1, past.platforms)
        places = self.geometry.places(stage)
        x, y, facing, character = state["x"], state["y"], state["facing"].float(), state["character"].long()
        vx, vy = velocity(state)
        fall = torch.maximum(state["self_y"] - self.gravity[character], -self.terminal[character])
        fall = torch.minimum(fall, torch.maximum(state["self_y"], -self.terminal[character])) + state["knockback_y"]
        fast = -self.fast_fall[character] + state["knockback_y"]
        drift = vx + controllers[..., C_["main_x"]] * self.drift[character]
        ways = ((vx, vy), (vx, fall), (vx, fast), (drift, fall), self._usual(state, past))

        gap, left, right, solid = support(surfaces, x, y)
        ahead = torch.where(facing > 0, right - x, x - left)
        behind = torch.where(facing > 0, x - left, right - x)
        columns = [*scaled(gap), *scaled(ahead), *scaled(behind), solid, *scaled(ceiling(surfaces, x, y))]
        for way_x, way_y in ways:
            through, through_solid = crosses(surfaces, x, y, x + way_x, y + way_y)
            columns += [through.float(), through_solid.float()]
        for way_x, way_y in (ways[0], ways[3], ways[4]):
            columns += scaled(support(surfaces, x + way_x, y + way_y)[0], (5.0, 0.5))
            columns += scaled(torch.minimum(right - x - way_x, x + way_x - left), (5.0, 0.5))
        side = torch.where(x >= 0, 1.0, -1.0)
        columns += [side * facing, *scaled(x.abs() - places["edge_hang"], (50.0, 10.0, 1.0)), *scaled(y, (50.0, 10.0))]
        columns += scaled(x.abs() - places["edge_stand"], (5.0, 0.5))
        columns += [
            ((places["blast_right"] - x) * 0.02).clamp(max=2.0), ((x - places["blast_left"]) * 0.02).clamp(max=2.0),
            ((places["blast_top"] - y) * 0.02).clamp(max=2.0), ((y - places["blast_bottom"]) * 0.02).clamp(max=2.0),
        ]  # fmt: skip
        return columns

    def _feet(self, state: Named, past: Past, match: Tensor, controllers: Tensor) -> list[Tensor]:
        """Where the feet are and would be in a frame, if the action goes on, falls, or is an air dodge: to a few
        hundredths of a unit; and where a ledge is."""
        stage, frame = stage_of(match), match[..., M_["frame"]]
        surfaces = self.geometry.surfaces(stage, frame + 1, past.platforms)
        places = self.geometry.places(stage)
        x, y, character, action = state["x"], state["y"], state["character"].long(), state["action"]
        facing = state["facing"].float()
        rate = pace(state, past)
        feet, next_feet = (
            self.tables.feet_of(character, action, state["state_age"] + rate * k, past.numbers, k) for k in (0, 1)
        )
        feet, next_feet = (of * state["airborne"].float() for of in (feet, next_feet))
        vx, vy = state["self_x_air"], state["self_y"]
        kx, ky = state["knockback_x"], state["knockback_y"]
        fall = torch.maximum(vy - self.gravity[character], -self.terminal[character])
        fall = torch.minimum(fall, torch.maximum(vy, -self.terminal[character]))
        stick, tilt = controllers[..., C_["main_x"]], controllers[..., C_["main_y"]]
        dodge = AIR_DODGE * AIR_DODGE_DECAY / length(stick, tilt)
        x_change, y_change = self._usual(state, past)
        ways = (
            (vx + kx, fall + ky), (vx + kx, ky - self.fast_fall[character]), (stick * dodge, tilt * dodge),
            (vx * AIR_DODGE_DECAY, vy * AIR_DODGE_DECAY), (x_change, y_change), (vx + kx, vy + ky),
        )  # fmt: skip
        above = support(surfaces, x, y + feet)[0]
        columns = [feet * 0.2, next_feet * 0.2, *scaled(above, (5.0, 0.5))]
        for way_x, way_y in ways:
            to_x, to_y = x + way_x, y + way_y + next_feet
            through, through_solid = crosses(surfaces, x, y + feet, to_x, to_y)
            columns += [through.float(), through_solid.float()]
            columns += scaled(above + way_y + next_feet - feet, (3.0, 0.3, 0.03))
        side = torch.where(x >= 0, 1.0, -1.0)
        for way_x, way_y in ways[:2]:
            columns += scaled((x + way_x) * side - places["edge_stand"], (4.0, 1.0))
            columns += scaled(y + way_y - places["edge_y"], (8.0, 2.0))
        columns.append((facing * side < 0).float() * (vy < 0).float())
        columns += [(state["shield"] - past.last["shield"]) * 0.3, past.last["self_x_ground"] * facing * 0.4]
        return columns

    def _shots(self, state: Named, laser: tuple[Tensor, ...]) -> list[Tensor]:
        """The other fighter's `nearest` laser as it comes, and this one's as it flies to the other."""
        from_x, from_y, speed_x, speed_y = laser
        flies, speed = ((speed_x != 0) | (speed_y != 0)).float(), length(speed_x, speed_y)
        way_x, way_y = speed_x / speed, speed_y / speed
        vx, vy = velocity(state)
        ahead = from_x * way_x + from_y * way_y
        then = ahead + vx.flip(1) * way_x + vy.flip(1) * way_y - speed * flies
        side = torch.where(way_x < 0, -1.0, 1.0)
        beside = (from_y * way_x - from_x * way_y) * side
        mine = [flies, way_x * state["facing"].float()]
        for distance, scales in ((ahead, (60.0, 15.0)), (then, (60.0, 15.0, 4.0)), (beside, (30.0, 10.0, 3.0))):
            mine += [column * flies for column in scaled(distance, scales)]
        own = way_x * state["facing"].flip(1).float()
        return [*mine, *(column.flip(1) for column in [mine[0], own, *mine[2:]])]

    def _shots_then(self, state: Named, laser: tuple[Tensor, ...]) -> list[Tensor]:
        """The same lasers: how steep they are, and how far beside the other fighter they will be in a frame."""
        from_x, from_y, speed_x, speed_y = laser
        vx, vy = velocity(state)
        flies = ((speed_x != 0) | (speed_y != 0)).float()
        to_x, to_y = from_x + (vx.flip(1) - speed_x) * flies, from_y + (vy.flip(1) - speed_y) * flies
        mine = [speed_y / 7, *scaled(to_x * state["facing"].float(), (8.0,)), *scaled(to_y, (10.0, 3.0))]
        return [*mine, *(column.flip(1) for column in mine)]

    def _beams(self, state: Named, past: Past, rows: Named, controllers: Tensor) -> list[Tensor]:
        """The odds, as a logit, that this fighter's lasers miss the other fighter in a frame, and the reverse."""
        lasers = next_shots(past.shots, state, pace(state, past))
        guarding = guard(state, past.numbers["frames_in_action"], past.controllers, controllers)
        misses = self.tables.strikes.reach(
            lasers, state, rows["self_row"], moved_on(state), guarding, self.tables.fold
        )
        mine = scaled(misses, (8.0, 3.0, 1.0))
        return [*mine, *(column.flip(1) for column in mine)]

    def _left(self, state: Named, past: Past) -> list[Tensor]:
        """What is left of the move: ages, and frames at its present pace."""
        lasts = self.tables.of("lasts")[self.tables.move(state["character"], state["action"])]
        rate = pace(state, past, 10.0)
        left = torch.where(lasts.isnan(), torch.zeros_like(rate), lasts - state["state_age"])
        frames = left / rate.clamp(min=0.05)
        return [*scaled(left, (20.0, 3.0)), *scaled(left - rate, (5.0, 1.0)), *scaled(frames, (10.0, 2.0))]

    def _stale(self, state: Named, past: Past) -> list[Tensor]:
        """How stale the present move of each fighter is."""
        move = (state["character"] * ACTIONS + state["action"]).long()
        lost = 1 - freshness(struck_with(past.numbers), self.tables.last_attack[move])
        return [lost * 4, lost.flip(1) * 4]

    def _tech(self, state: Named, past: Past, controllers: Tensor) -> list[Tensor]:
        """Frames since L or R was pressed so that it counts for a tech, the next frame included."""
        pair = torch.stack([past.controllers[:, -1], controllers], dim=1)
        counts = pressed(past.numbers, pair, state["hitlag"] > 1)[1]
        since = past.numbers["since_tech"] + 1
        since = since.masked_fill(counts, 0).float()
        return [(since / 40).clamp(max=2.0), (since < TECH_WINDOW).float(), 1 / (1 + since)]

    def _carried(self, state: Named, past: Past) -> list[Tensor]:
        """By how much more each fighter moved last than its velocities say: wind, a platform that moves, a push."""
        vx, vy = velocity(state)
        moves = (state["hitlag"] == 0).float()
        along = (state["x"] - past.last["x"] - vx) * moves
        up = (state["y"] - past.last["y"] - vy) * moves
        facing = state["facing"].float()
        columns = []
        for x, y in ((along * facing, up), (along.flip(1) * facing, up.flip(1))):
            columns += [*scaled(x, CARRIED), *scaled(y, CARRIED)]
        return columns

    def _seen(self, rows: Named) -> list[Tensor]:
        """How often the rows of the tables were seen."""
        return [self.tables.of("seen")[rows["self_row"]] / 16, self.tables.of("run_seen")[rows["self_run_row"]] / 16]

    def _listed(self, state: Named, past: Past) -> list[Tensor]:
        """What is left of the move until it ends, and until it may be interrupted, as frame data list it."""
        move = (state["character"] * ACTIONS + state["action"]).long()
        columns = []
        for table in (self.ends, self.interruptible):
            listed = table[move]
            left = torch.where(listed > 0, listed - state["state_age"], torch.zeros_like(state["state_age"]))
            columns += [(listed > 0).float(), *scaled(left, (20.0, 3.0)), (left < 0).float()]
        return columns

    def _platforms(self, state: Named, past: Past, match: Tensor) -> list[Tensor]:
        """Of Fountain's platform on this side of the stage: whether and since when its height is known, how far above
        it the fighter is, and whether it moves."""
        heights, known = next_heights(past.platforms, stage_of(match), match[..., M_["frame"]] + 1)
        right = state["x"] >= 0
        _, speed, since = past.platforms.unbind(dim=-1)
        height, speed, since, is_known = (
            torch.where(right, of[:, 1:], of[:, :1]) for of in (heights, speed, since, known.float())
        )
        columns = [is_known, 1 / (1 + since / 30), (since < UNKNOWN).float(), (since / 300).clamp(max=2.0)]
        columns += [*scaled(state["y"] - height, (10.0, 1.0, 0.1)), speed * 8]
        on_fountain = (stage_of(match) == FOUNTAIN.id)[:, None].float()
        return [column * (on_fountain if i in (1, 2, 3) else is_known) for i, column in enumerate(columns)]

    def _wind(self, state: Named, past: Past, match: Tensor) -> list[Tensor]:
        """Dream Land's wind: the way it blows, how far the fighter is within its reach, and since when it blows."""
        blows, since, from_start, *still = (column[:, None].expand_as(state["x"]) for column in past.wind.unbind(-1))
        here = (stage_of(match) == DREAM_LAND.id)[:, None].float()
        blowing = here * blows.abs()
        facing = state["facing"].float()
        x, y = state["x"] * blows, state["y"]
        boxes = zip(*BOXES.values(), strict=True)
        behind, ahead = (torch.where(blows < 0, to_left, to_right) for to_left, to_right in boxes)
        inside = torch.minimum(torch.minimum(ahead - x, x - behind), torch.minimum(ABOVE - y, y - BELOW))
        left = (GUST - since) * from_start
        columns = [blows * facing * here, blows * facing * (inside > 0).float() * here]
        for distance in (ahead - x, x - behind, ABOVE - y, y - BELOW):
            columns.append((distance / 4).clamp(-1.0, 1.0) * blowing)
        columns += [since / GUST * blowing, from_start * blowing, (left / 20).clamp(0.0, 1.0) * blowing]
        columns += [(left == 1).float() * blowing, (since / 600).clamp(max=1.0) * (here - blowing)]
        right = torch.where(facing > 0, still[1], still[0])
        return [*columns, right * here, torch.where(facing > 0, still[0], still[1]) * here]

    def _presses(self, state: Named, past: Past, controllers: Tensor) -> list[Tensor]:
        """For how many frames the controller has been as it is, the next one included: stick beyond thresholds of the
        game, buttons down. Most of what is timed by the stick counts from there."""
        facing = state["facing"].float()
        pads = torch.cat([past.controllers, controllers[:, None]], dim=1)  # (N, T, 2, 13)
        values = torch.stack([pads[..., C_[name]] * sign for name, sign, _ in HELD], dim=-1)
        turned = torch.stack([facing if name in MIRRORED else torch.ones_like(facing) for name, *_ in HELD], dim=-1)
        least = constant(tuple(least for *_, least in HELD), facing.device)
        held = (values * turned[:, None] >= least).float()
        frames = held[:, 0]
        for t in range(1, CONTROLLERS + 1):
            frames = (frames + 1) * held[:, t]
        columns = torch.cat([frames / (CONTROLLERS + 1), (frames == 1).float(), (frames == 2).float(),
                             ((frames >= 1) & (frames <= 4)).float()], dim=-1)  # fmt: skip
        return list(columns.unbind(dim=-1))

    def _hits(self, state: Named, past: Past) -> list[Tensor]:
        """Nearness of hitboxes, and whether this action of either has hit already."""
        free = (state["hitlag"] <= 1).float()
        vx, vy = velocity(state)
        x, y = state["x"] + vx * free, state["y"] + vy * free
        mine = self.hitbox(state, x, y)
        theirs = mine.flip(1)
        spent = (past.numbers["since_hitlag"] <= past.numbers["frames_in_action"]).float()
        columns = [spent, spent.flip(1)]
        for distance in (*mine.unbind(-1), *theirs.unbind(-1)):
            columns += scaled(distance, (40.0, 5.0))
        for of in (mine, theirs):
            columns += scaled(of.amin(dim=-1), (40.0, 10.0, 2.0))
        return columns

    def _controllers(self, state: Named, past: Past, controllers: Tensor) -> list[Tensor]:
        facing = state["facing"].float()
        sign = torch.ones_like(controllers)
        sign = torch.stack(
            [facing if name in MIRRORED else torch.ones_like(facing) for name in C_], dim=-1
        )  # (N, 2, 13)
        now = controllers * sign
        before = past.controllers * sign[:, None]  # (N, T, 2, 13)
        history = before.permute(0, 2, 1, 3).flatten(2)  # (N, 2, T · 13)
        first_button = len(AXES)
        pressed = ((now[..., first_button:] > 0.5) & (before[:, -1, :, first_button:] < 0.5)).float()
        over = [
            (sign_ * now[..., C_[name]] >= threshold).float()
            for name, thresholds in THRESHOLDS.items()
            for threshold in thresholds
            for sign_ in (1.0, -1.0)
        ]
        assert history.shape[-1] == CONTROLLERS * len(C_)
        other = controllers.flip(1) * sign  # as seen from here
        return [now, now - before[:, -1], pressed, torch.stack(over, dim=-1), history, other]

    def _flags(self, state: Named) -> Tensor:
        """The 40 flag bits of self, (N, 2, 40)."""
        bits = constant(BITS, state["x"].device, torch.int32)
        return torch.cat([((state[name][..., None] & bits) > 0).float() for name in FLAGS], dim=-1)


def pace(state: Named, past: Past, most: float = 2.0) -> Tensor:
    """By how much the move's age rose last, at most `most`; 1 on its first frame."""
    rise = (state["state_age"] - past.last["state_age"]).clamp(0.0, most)
    return torch.where(past.numbers["frames_in_action"] > 0, rise, torch.ones_like(rise))
