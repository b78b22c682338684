"""Measures how each move launches, by the damage that it does when it is fresh, and writes it into the facts.

    python -m wm_train.measure_blows data/train

A hit launches with KB = growth · X + fixed · Z + base, where Z is 200 / (weight + 100) and X what dynamics.launch.grown
says, at an angle of whole degrees: dynamics.blows.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch

import wm_runtime.facts
from wm_runtime.facts import FAMILIES
from wm_runtime.replays.dataset import Dataset
from wm_runtime.replays.rules import REBIRTH_WAIT
from wm_train.dynamics.blows import AGES, CROUCHES, DAMAGES, ELECTRIC, SAKURAI, flung, lag
from wm_train.dynamics.launch import SPEED, grown, weighed, weights
from wm_train.dynamics.stale import freshness, hit_by_other, struck_in_game

WHOLE = 6e-3
"""A move's damage when it is fresh is a whole percent, to so much."""
STILL = 1e-4
"""Knockback below that is none: hits of who is still flying are not measured."""
LEAST, SHARE = 3, 0.04
"""A way to launch is known that so many hits show, and such a share of those that a move has of that damage."""
PAIRS = 300
NEAR, EXACT = 0.05, 0.01
"""KB so near a line is on it; and a launch so near a way, units a frame along x and y together."""
AGREE = 0.5
"""A move is electric, or its fighter is stopped as well, that is so more often."""


def hits_of(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A game's columns → hits (H,) of fighters that fly nowhere, neither thrown nor crouching, by fighters that are not
    hit on that frame: `attacker` and id of its `attack`; `damage` when fresh; `weight` of the victim, `percent` that
    counts, whether that is in the air (`air`), and its knockback away from the attacker and up (`away`, `up`), units a
    frame; hitlag of the victim over its usual, and of the attacker (`lags`, `stops`); and that one's `age`."""
    then, now = ({n: v[part] for n, v in columns.items()} for part in (slice(0, -1), slice(1, None)))
    rise, stop = np.diff(columns["percent"].astype(np.float64), axis=0), now["hitlag"]
    hit = hit_by_other(rise, stop, stop[:, ::-1]) & (then["action"] > REBIRTH_WAIT)
    struck = struck_in_game(columns)
    parts: dict[str, list[np.ndarray]] = defaultdict(list)
    for who, by in ((0, 1), (1, 0)):
        flies = np.hypot(then["knockback_x"][:, who], then["knockback_y"][:, who]) > STILL
        held = np.isin(then["action"][:, who], (*FAMILIES["thrown"], *CROUCHES))
        at = np.flatnonzero(hit[:, who] & ~hit[:, by] & ~flies & ~held)
        attack = now["last_attack"][at, by].astype(np.int64)
        queue = struck.at(at)[1][:, by]
        whole = rise[at, who] / freshness(torch.from_numpy(queue), torch.from_numpy(attack)).numpy()
        damage = np.round(whole)
        known = (np.abs(whole - damage) < WHOLE) & (damage < DAMAGES)
        at, attack, damage = at[known], attack[known], damage[known]
        side = np.sign(now["x"][at, who].astype(np.float64) - now["x"][at, by])
        found = {
            "attacker": now["character"][at, by], "attack": attack, "damage": damage,
            "weight": weights()[now["character"][at, who]],
            "percent": np.floor(then["percent"][at, who]) + rise[at, who], "air": then["airborne"][at, who] == 1,
            "away": now["knockback_x"][at, who] * side, "up": now["knockback_y"][at, who],
            "lags": stop[at, who] / np.maximum(lag(torch.from_numpy(rise[at, who])).numpy(), 1),
            "stops": stop[at, by], "age": now["state_age"][at, by],
        }  # fmt: skip
        for name, value in found.items():
            parts[name].append(value)
    return {name: np.concatenate(part) for name, part in parts.items()}


def line_of(kb: np.ndarray, x: np.ndarray, z: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, tuple]:
    """KB of hits of one move (H,), and what it may grow with → which of them lie on one line, as many as can be, (H,)
    bool, and that: growth in whole hundredths and base, or what is fixed but for weight, and base."""
    first, second = rng.integers(0, len(kb), (2, PAIRS))
    with np.errstate(divide="ignore", invalid="ignore"):
        grows = np.round((kb[first] - kb[second]) / (x[first] - x[second]), 2)
        fixed = (kb[first] - kb[second]) / (z[first] - z[second])
    grows = np.where(np.isfinite(grows) & (grows > 0) & (np.abs(x[first] - x[second]) > 3), grows, np.nan)
    fixed = np.where(np.isfinite(fixed) & (np.abs(z[first] - z[second]) > 0.01), fixed, 0.0)
    fixed = np.where(fixed >= 0, fixed, np.nan)
    best, best_line = np.zeros(len(kb), bool), (0.0, 0.0, 0.0)
    for by, with_, places in ((grows, x, 0), (fixed, z, 5)):
        base = np.round(kb[first] - by * with_[first], places)
        on = np.abs(by[:, None] * with_ + base[:, None] - kb) < NEAR
        i = on.sum(axis=1).argmax()
        if on[i].sum() > best.sum() + (LEAST if places else 0):
            best, best_line = on[i], (by[i], 0.0, base[i]) if not places else (0.0, by[i], base[i])
    return best, best_line


def angles_of(kb: np.ndarray, hits: dict[str, np.ndarray]) -> list[tuple[float, int]]:
    """KB of hits on one line and those → the angles that tell them, degrees, and how many each."""
    true = np.stack([hits["away"], hits["up"]])
    tried = np.unique(np.round(np.degrees(np.arctan2(true[1], true[0]))))
    tried = np.concatenate([[SAKURAI], tried[~np.isin(tried, (44, 45, 0))], [0, 44, 45]])
    all_kb, all_tried = (torch.from_numpy(v) for v in map(np.copy, np.broadcast_arrays(kb, tried[:, None])))
    told = np.zeros((len(tried), len(kb)), bool)
    for air in (False, True):
        way = torch.stack(flung(all_kb, all_tried, torch.full_like(all_kb, air, dtype=torch.bool))).numpy()
        told |= np.abs(way - true[:, None]).sum(axis=0) < EXACT
    left, found = np.ones(len(kb), bool), []
    while (count := (told & left).sum(axis=1)).max() >= max(LEAST, SHARE * len(kb)):
        best = int(count.argmax())
        found.append((float(tried[best]), int(count[best])))
        left &= ~told[best]
    return found


def ways_of(hits: dict[str, np.ndarray], rng: np.random.Generator) -> list[tuple[float, ...]]:
    """Hits of one move and damage → its ways to launch, the commonest first: growth, fixed, base, angle, share."""
    kb = np.hypot(hits["away"], hits["up"]) / SPEED
    z = weighed(hits["weight"])
    x = grown(hits["percent"], hits["damage"], z)
    left, found = np.arange(len(kb)), []
    kb_whole = _unbounced(kb, hits)
    while len(left) >= LEAST:
        on, line = line_of(kb_whole[left], x[left], z[left], rng)
        if on.sum() < max(LEAST, SHARE * len(kb)):
            break
        at = left[on]
        told = line[0] * x[at] + line[1] * z[at] + line[2]
        found += [(*line, *way) for way in angles_of(told, {n: v[at] for n, v in hits.items()})]
        left = left[~on]
    return [(*way[:-1], way[-1] / len(kb)) for way in sorted(found, key=lambda way: -way[-1])]


def _unbounced(kb: np.ndarray, hits: dict[str, np.ndarray]) -> np.ndarray:
    """KB (H,) of launches, without those of fighters on the ground, where a move launches others downward: what the
    ground took of them is not known."""
    down = (hits["up"] < -EXACT).mean() > SHARE
    return np.where(down & ~hits["air"], np.nan, kb)


def main(folder: Path) -> None:
    dataset = Dataset(folder)
    parts = [hits_of(dataset.columns(game)) for game in range(len(dataset.frames))]
    hits = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    moves = np.stack([hits["attacker"], hits["attack"], hits["damage"]], axis=1).astype(np.int16)
    unique, index = np.unique(moves, axis=0, return_inverse=True)
    rng = np.random.default_rng(0)
    key, way = [], []
    ages = np.zeros((len(unique), AGES), np.uint16)
    for i, move in enumerate(unique):
        mine = {name: value[index == i] for name, value in hits.items()}
        age = mine["age"][mine["stops"] > 0].round().astype(int)
        ages[i] = np.bincount(age[(age >= 0) & (age < AGES)], minlength=AGES)
        electric = (np.abs(mine["lags"] - ELECTRIC) < 0.25).mean() > AGREE
        stops = (mine["stops"] > 0).mean() > AGREE
        for found in ways_of(mine, rng):
            key.append(move)
            way.append((*found, electric, stops))
    path = Path(wm_runtime.facts.__file__).parent / "blows.npz"
    often = ages.sum(axis=1) >= LEAST
    np.savez_compressed(
        path, key=np.array(key, np.int16), way=np.array(way, np.float32), hit=unique[often], age=ages[often]
    )
    print(f"{len(hits['damage']):,} hits: {len(key)} ways to launch of {len(np.unique(key, axis=0))} moves: {path}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
