"""Knockback at a hit and its direction after hitlag: the game's own formulas, their constants measured from games.

A hit launches with KB = α + β · P / (w + 100) + γ / (w + 100), where P is the victim's percent, the whole part of what
it had plus the damage of the hit, and w its weight; its speed is 0.03 · KB. α, β, γ and the angle are the move's.
Hitstun is 0.4 · KB, and how long that is says which action a fighter is hurt in (`hurt_level`). On the ground a launch
loses what goes down or little up, and hitstun is still that of the whole: `more` says by how much.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from wm_runtime.facts import CHARACTERS as FIGHTERS
from wm_runtime.schema import C_, FIELD
from wm_train.dynamics.kinematics import length
from wm_train.dynamics.named import Named

CHARACTERS, ACTIONS = FIELD["character"].classes or 0, FIELD["action"].classes or 0
LAUNCHES = 5
"""Ways that a move launches, the commonest first."""
SPEED, STUN = 0.03, 0.4
"""Speed in units a frame, and frames of hitstun, for each unit of KB."""
TURN = np.deg2rad(18.0)
"""The most by which a stick turns a launch when hitlag ends (directional influence)."""
EXACT = 0.05
"""KB so near a line is on it."""
HURT_LEVELS = (10.0, 21.0, 32.0)
"""Frames of hitstun from which on a fighter is hurt more, the last of which throws it through the air: the game's."""
STEEPEST = 86
"""Degrees of the steepest launch that may be left flat."""
SAME = 0.01
"""Knockback so near a way to launch is that, units a frame along x and y together."""
LEAST, SHARE = 5, 0.05
"""A way to launch has been seen so often, and in so large a share of its move's hits."""
PAIRS = 150
WEIGHT = 100.0
"""Weight of a fighter of whom none is known."""
Number = TypeVar("Number", Tensor, np.ndarray)


class Launches(nn.Module):
    """Table (characters · actions, LAUNCHES, 5) of the attacker's moves: α, β, γ, angle, more; NaN where none is
    known."""

    table: Tensor
    weight: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.full((CHARACTERS * ACTIONS, LAUNCHES, 5), float("nan")))
        self.register_buffer("weight", torch.from_numpy(weights()), persistent=False)

    def forward(self, before: Named, rise: Tensor, attack: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """State, rise of percent and the other fighter's move (N, 2) → speeds |x| and y of each way in units a frame,
        and its frames of hitstun, (N, 2, LAUNCHES).

        Zero where none is known.
        """
        constants = self.table[attack]  # (N, 2, LAUNCHES, 5)
        struck = before["percent"].floor() + rise
        weight = self.weight[before["character"].long()] + 100
        kb = constants[..., 0] + (constants[..., 1] * struck[..., None] + constants[..., 2]) / weight[..., None]
        kb = torch.nan_to_num(kb, 0.0).clamp(0.0, 500.0)
        angle, more = torch.nan_to_num(constants[..., 3], 0.0), torch.nan_to_num(constants[..., 4], 1.0)
        stun = (kb * more * STUN + 1e-3).floor()
        return kb * SPEED * angle.cos(), kb * SPEED * angle.sin(), stun

    def hitstun(self, before: Named, after: Named, rise: Tensor, attack: Tensor) -> tuple[Tensor, Tensor]:
        """State, the next knockback, rise of percent and the other fighter's move → whole frames of hitstun, and
        whether the knockback is a new launch by that move, (N, 2): hitstun is then that of the launch, else by its
        length."""
        x, y = after["knockback_x"], after["knockback_y"]
        along, up, stun = self(before, rise, attack)
        off, way = ((x.abs()[..., None] - along).abs() + (y[..., None] - up).abs()).min(dim=-1)
        launched = (off < SAME) & (rise > 0) & (x.abs() + y.abs() > SAME)
        return torch.where(launched, stun.gather(-1, way[..., None])[..., 0], hitstun(x, y)), launched

    @torch.no_grad()
    def measure(self, hits: dict[str, np.ndarray]) -> None:
        """hits: move of the attacker, kb_x, kb_y, percent (whole part before, plus the rise), weight, stun (frames of
        hitstun), (H,) each."""
        kb = np.hypot(hits["kb_x"], hits["kb_y"]) / SPEED
        angle = np.arctan2(hits["kb_y"], np.abs(hits["kb_x"]))
        heavy = hits["weight"].astype(np.float64) + 100
        order = np.argsort(hits["move"], kind="stable")
        moves, begins = np.unique(hits["move"][order], return_index=True)
        rng = np.random.default_rng(0)
        for move, rows in zip(moves, np.split(order, begins[1:]), strict=True):
            rows = rows[kb[rows] > 1]
            growing, fixed = hits["percent"][rows] / heavy[rows], 1 / heavy[rows]
            found = _lines(growing, fixed, kb[rows], angle[rows], rng)
            for i, (a, b, c, to) in enumerate(found[:LAUNCHES]):
                on = np.abs(a + b * growing + c * fixed - kb[rows]) < EXACT
                on &= np.abs(angle[rows] - to) < 1e-3
                more = _more(kb[rows][on], hits["stun"][rows][on])
                self.table[int(move), i] = torch.tensor((a, b, c, to, more))


def turned(x: Tensor, y: Tensor, controllers: Tensor) -> tuple[Tensor, Tensor]:
    """Knockback (N, 2) and the controllers (N, 2, 13) at the end of hitlag → the same, turned by the stick."""
    stick_x, stick_y = controllers[..., C_["main_x"]], controllers[..., C_["main_y"]]
    across = (x * stick_y - y * stick_x) / length(x, y)
    turn = across * across.abs() * TURN
    cosine, sine = turn.cos(), turn.sin()
    return x * cosine - y * sine, x * sine + y * cosine


def hitstun(x: Tensor, y: Tensor) -> Tensor:
    """Whole frames of hitstun of a knockback."""
    return (length(x, y) * (STUN / SPEED) + 1e-3).floor()


def hurt_level(stun: Tensor) -> Tensor:
    """Frames of hitstun → 0 to 3, of which 3 flies: which of its kind the action is that a fighter is hurt in."""
    return torch.stack([stun >= least for least in HURT_LEVELS]).sum(dim=0)


def grown(percent: Number, damage: Number | float, by_weight: Number | float = 1.0) -> Number:
    """What a KB grows by, for each unit of a move's growth: percent, the whole part of what the victim had and the
    damage of the hit; damage of the move when fresh; `weighed` of the victim, that of a weight of 100 if not given."""
    return 1.4 * (percent * damage / 20 + percent / 10) * by_weight + 18


def weighed(weight: Number) -> Number:
    """What a KB goes by for a victim of this weight."""
    return 200 / (weight + 100)


def weights() -> np.ndarray:
    """Weight of every character by internal id, (characters,) float32."""
    out = np.full(CHARACTERS, WEIGHT, np.float32)
    for fighter in FIGHTERS:
        out[fighter.internal_id] = fighter.weight
    return out


def _lines(
    growing: np.ndarray, fixed: np.ndarray, kb: np.ndarray, angle: np.ndarray, rng: np.random.Generator
) -> list[tuple[float, float, float, float]]:
    """Hits of one move → (α, β, γ, angle), the commonest first: lines in P / (w + 100) or in 1 / (w + 100) through as
    many hits as can be, and the commonest angles on each."""
    left = np.arange(len(kb))
    found: list[tuple[int, tuple[float, ...]]] = []
    while len(left) >= LEAST and len(found) < 2 * LAUNCHES:
        best, best_line = np.zeros(0, np.int64), (0.0, 0.0, 0.0)
        for kind, z in enumerate((growing, fixed)):
            first, second = rng.choice(left, PAIRS), rng.choice(left, PAIRS)
            slope = _slopes(kb, z, first, second)
            rising = slope >= 0
            start = np.append((kb[first] - slope * z[first])[rising], np.median(kb[left]))
            slope = np.append(slope[rising], 0.0)
            on = np.abs(start[:, None] + slope[:, None] * z[left] - kb[left]) < EXACT  # (pairs, hits)
            i = on.sum(axis=1).argmax()
            if on[i].sum() > len(best):
                best = left[on[i]]
                best_line = (start[i], slope[i], 0.0) if kind == 0 else (start[i], 0.0, slope[i])
        if len(best) < max(LEAST, SHARE * len(kb)):
            break
        left = np.setdiff1d(left, best)
        rounded, counts = np.unique(np.round(angle[best], 3), return_counts=True)
        for i in np.argsort(-counts)[:2]:
            if counts[i] >= max(LEAST, SHARE * len(kb)):
                near = best[np.round(angle[best], 3) == rounded[i]]
                found.append((int(counts[i]), (*best_line, float(np.median(angle[near])))))
    return [tuple(map(float, line)) for _, line in sorted(found, key=lambda row: -row[0])]  # type: ignore[misc]


def _more(kb: np.ndarray, stun: np.ndarray) -> float:
    """KB as launched (H,) and hitstun → by how much KB was more before the launch was left flat: 1, or what brings more
    of the hits to their hitstun."""
    tried = np.concatenate([[1.0], 1 / np.cos(np.deg2rad(np.arange(1, STEEPEST)))])
    right = (np.floor(kb * tried[:, None] * STUN + 1e-3) == stun).sum(axis=1)
    return float(tried[right.argmax()])


def _slopes(kb: np.ndarray, z: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Slopes of the lines through pairs of hits, 0 where they are at one place."""
    run = z[first] - z[second]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(np.abs(run) > 1e-6, (kb[first] - kb[second]) / run, 0.0)
