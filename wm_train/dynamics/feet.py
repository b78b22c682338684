"""How high the feet of fighters in the air are, by move and age: measured from who lands, and who does not yet.

A fighter lands on the frame on which its feet would pass the ground. Whoever lands has its feet lower than a bound, and
who flies on, though its own place is below the ground's height, has them higher: heights are those that break these
bounds least, alike from one age to the next, and near those that walls show (wm_runtime.facts.outlines) where they do.
Fitted to seven games of eight of `train`: 97.9 % of 14,306 landings on the others are below the heights found, and
1.4 % of 19,768 frames in the air; with heights from landings alone, ages apart, 95.7 and 2.2 %.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from wm_runtime.facts import FAMILIES, STAGES, outlines, physics
from wm_runtime.schema import FIELD
from wm_train.dynamics.kinematics import AIR_DODGE, AIR_DODGE_DECAY
from wm_train.dynamics.memory import AIR_JUMPS, LOCKED
from wm_train.dynamics.stale import begins_anew, frames_since

ACTIONS = FIELD["action"].classes or 0
USUAL = 4.0
LOWEST, HIGHEST, FARTHEST = -0.5, 14.0, 11.3
"""Bounds of who lands that are plausible, and the most by which who flies on may be below the ground, units."""
INSIDE = 3.0
"""Frames nearer than that to the ends of a surface, units, are left out."""
DOWN = -0.5
"""A stick held further down lets a fighter through platforms, or fall faster; not one that dodges."""
DODGE, DODGES = 236, 29
"""An air dodge, and the age until which its speed only fades."""
DODGE_BEGINS, DODGE_SPEED, DODGED = 1.0, AIR_DODGE * AIR_DODGE_DECAY, 43
"""The first age of one, its speed, units a frame, and landing from it."""
DODGE_FROM = (*range(25, 35), 38, *range(65, 70))
"""Actions out of which a fighter may dodge and come down on one frame: jumps, falls, attacks in the air."""
CATCH = 252
"""Catching the ledge."""
STEPS, RATE = 800, 0.05
ALIKE, OF_MOVE, OF_WALLS = 0.1, 0.02, 0.3
"""What a unit of difference weighs: from the next age, from the move's usual height, and from what walls show."""


def bounds_of_game(columns: dict[str, np.ndarray], stage: int) -> dict[str, np.ndarray]:
    """A game's columns (T, 2) → of P frames: move, state_age, how far the fighter's place is below the ground, units,
    and whether it lands."""
    surfaces = [s for arena in STAGES if arena.id == stage for s in arena.surfaces if not s.moves]
    now, then = ({name: value[part] for name, value in columns.items()} for part in (slice(2, None), slice(1, -1)))
    grounded = columns["airborne"] == 0
    leaps = begins_anew(columns) & np.isin(columns["action"], AIR_JUMPS)
    in_air = np.minimum(frames_since(grounded), frames_since(leaps) + 1)[1:-1]
    elsewhere = [action for family in ("ledge", "grabbed", "thrown", "captured") for action in FAMILIES[family]]
    flies = (then["airborne"] == 1) & (then["hitlag"] <= 1) & (now["hitlag"] == 0) & (in_air >= LOCKED)
    flies &= (now["percent"] == then["percent"]) & (np.abs(now["y"] - then["y"]) < HIGHEST)
    for state in (now, then):
        flies &= (state["action"] > 13) & ~np.isin(state["action"], elsewhere)

    next_speed, falls_fast = falling(then)
    dodges = (then["action"] == DODGE) & (then["state_age"] < DODGES)
    next_speed = np.where(dodges, then["self_y"] * AIR_DODGE_DECAY, next_speed)
    blown = np.hypot(then["knockback_x"], then["knockback_y"])
    rise = next_speed + then["knockback_y"] * (1 - 0.051 / np.maximum(blown, 0.051))
    lands = flies & (now["airborne"] == 0) & ((now["main_y"] > DOWN) | falls_fast | dodges)
    lands &= (now["action"] != CATCH) & (now["action"] != DODGE) & (then["action"] != CATCH)
    below = now["y"] - then["y"] - rise
    lands &= (below > LOWEST) & (below < HIGHEST)
    before = columns["state_age"][:-2]
    pace = np.where(columns["action"][:-2] == then["action"], np.clip(then["state_age"] - before, 0, 3), 1.0)
    at_once = (now["action"] == DODGED) & np.isin(then["action"], DODGE_FROM)  # a dodge that comes down as it begins
    found = [(then, then["state_age"] + pace, below, lands & ~at_once, np.ones_like(lands))]
    tilt = now["main_y"] / np.maximum(np.hypot(now["main_x"], now["main_y"]), 1e-6)
    below = now["y"] - then["y"] - tilt * DODGE_SPEED
    at_once &= flies & (now["airborne"] == 0) & (below > LOWEST) & (below < HIGHEST)
    begun = {**then, "action": np.full_like(then["action"], DODGE)}
    found.append((begun, np.full_like(then["state_age"], DODGE_BEGINS), below, at_once, np.ones_like(lands)))
    above = now["y"] - then["y"]  # on the frame before, feet of who lands were above the ground
    over = (lands | at_once) & (above > 0) & (above < FARTHEST)
    found.append((then, then["state_age"], above, over, np.zeros_like(over)))

    for surface in surfaces:
        slope = (surface.y[1] - surface.y[0]) / (surface.x[1] - surface.x[0])
        height = surface.y[0] + slope * (now["x"] - surface.x[0])
        over = flies & (now["airborne"] == 1)
        for state in (now, then):
            over &= (state["x"] > surface.x[0] + INSIDE) & (state["x"] < surface.x[1] - INSIDE)
        if surface.platform:
            over &= (then["y"] >= height - 0.01) & (dodges | ((now["main_y"] > DOWN) & (then["main_y"] > DOWN)))
        below = height - now["y"]
        over &= (below > 0) & (below < FARTHEST)
        found.append((now, now["state_age"], below, over, np.zeros_like(over)))
    parts = [
        {"move": state["character"].astype(np.int64)[m] * ACTIONS + state["action"][m], "age": age[m], "below": gap[m],
         "lands": landed[m]}
        for state, age, gap, m, landed in found
    ]  # fmt: skip
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def falling(state: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Fields of fighters in the air (…) → their own velocity up a frame later where only gravity acts, units a frame,
    and whether they fall fast."""
    character = np.minimum(state["character"], len(physics("gravity")) - 1)
    gravity, terminal, fast = (np.nan_to_num(physics(n)[character]) for n in ("gravity", "terminal", "fast_fall"))
    speed = state["self_y"]
    falls_fast = np.abs(speed + fast) < 0.01
    return np.where(falls_fast, speed, np.maximum(speed - gravity, np.minimum(-terminal, speed))), falls_fast


@torch.enable_grad()
def heights(bounds: dict[str, np.ndarray], row: np.ndarray, of_row: np.ndarray, walls: dict[int, float]) -> Tensor:
    """Bounds and the row of each (P,); the move of rows 1, 2, … (R,), and what walls show of some → (1 + R,) units."""
    whose = torch.from_numpy(np.concatenate([of_row[:1] * 0 - 1, of_row]))
    moves, move = torch.unique(whose, return_inverse=True)
    known = torch.from_numpy(row > 0)
    at, below = torch.from_numpy(row)[known], torch.from_numpy(bounds["below"].astype(np.float32))[known]
    lands = torch.from_numpy(bounds["lands"].astype(bool))[known]
    same = (whose[1:] == whose[:-1]).float()
    shown = torch.tensor(list(walls), dtype=torch.int64)
    by_walls = torch.tensor(list(walls.values()))
    height = torch.full((len(whose),), USUAL).requires_grad_()
    usual = torch.full((len(moves),), USUAL).requires_grad_()
    optimizer = torch.optim.Adam([height, usual], lr=RATE)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = RATE * (1 - 0.97 * step / STEPS)
        over = torch.where(lands, height[at] - below, below - height[at])
        # what is far off at first may come near; later it is something else than these feet
        loss = over.clamp(min=0.0, max=max(0.7, 4 - 5 * step / STEPS)).sum()
        loss = loss + ALIKE * ((height[1:] - height[:-1]).abs() * same).sum()
        loss = loss + OF_MOVE * (height - usual[move]).abs().sum()
        loss = loss + OF_WALLS * (height[shown] - by_walls).abs().clamp(max=1.5).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = height.detach()
    found[0] = 0.0
    return found


def shown_by_walls() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Moves, ages and heights of feet (P,) that the outlines know."""
    known = outlines()
    first = np.cumsum(known.span[:, 1]) - known.span[:, 1]
    move, age, height = [], [], []
    for (character, action, by_heading), (start, count), at in zip(known.move, known.span, first, strict=True):
        if not by_heading:
            move += [int(character) * ACTIONS + int(action)] * int(count)
            age += list(range(int(start), int(start + count)))
            height += known.row[at : at + count, 2].tolist()
    known_ = np.isfinite(height)
    return np.array(move)[known_], np.array(age)[known_], np.array(height, np.float32)[known_]
