"""Measures where fighters are while they are thrown, where they are let go and how that launches them, and writes it
into the facts.

    python -m wm_train.measure_throws data/train
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import wm_runtime.facts
from wm_runtime.facts import FAMILIES
from wm_runtime.replays.dataset import Dataset
from wm_train.dynamics.kinematics import DECAY
from wm_train.dynamics.launch import SPEED, TURN, grown

THROWS, THROWN = FAMILIES["throw"], FAMILIES["thrown"]
HURT = FAMILIES["damage"]
ENOUGH, ALIKE, SAME = 2, 0.02, 0.75
"""A place is known that so many frames show, so much of which lie within so many units of each other."""
FLIES, ALL, CLOSE = 5, 0.95, 0.005
"""A throw's launch is known that so many frames show, so much of them to so many units a frame."""
ROUNDS, ALMOST = 6, 0.7
"""A line is found through so many of the frames, so often anew."""


def frames_of(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Frames (P,) on which a fighter is held in a throw or let go (`free`): `thrower`, its `action` and `age`,
    `victim`, and where that is, `ahead` of and `above` the thrower, units; where it is let go, less its knockback, and
    that, `along` and `up`, with the `percent` that counts for it, what that `rises` by, and the victim's stick,
    `tilted` and `raised`, all as the thrower faces."""
    then, now = ({n: v[part] for n, v in columns.items()} for part in (slice(0, -1), slice(1, None)))
    parts: dict[str, list[np.ndarray]] = {}
    for who, by in ((0, 1), (1, 0)):
        throws = np.isin(now["action"][:, by], THROWS) & (now["hitlag"][:, by] == 0) & (now["hitlag"][:, who] == 0)
        held = throws & np.isin(now["action"][:, who], THROWN)
        free = throws & np.isin(then["action"][:, who], THROWN) & np.isin(now["action"][:, who], HURT)
        at = held | free
        facing = now["facing"][at, by].astype(np.float64)
        flies = free[at].astype(np.float64)
        x, y = (now[axis][at, who].astype(np.float64) - now[axis][at, by] for axis in ("x", "y"))
        rise = (now["percent"] - then["percent"])[at, who].astype(np.float64)
        x, y = x - now["knockback_x"][at, who] * flies, y - now["knockback_y"][at, who] * flies
        found = {
            "thrower": now["character"][at, by], "action": now["action"][at, by], "age": now["state_age"][at, by],
            "victim": now["character"][at, who], "free": free[at], "ahead": x * facing, "above": y,
            "along": now["knockback_x"][at, who] * facing, "up": now["knockback_y"][at, who],
            "percent": np.floor(then["percent"][at, who]) + rise, "rises": rise,
            "tilted": then["main_x"][at, who] * facing, "raised": then["main_y"][at, who],
        }  # fmt: skip
        for name, value in found.items():
            parts.setdefault(name, []).append(value)
    return {name: np.concatenate(part) for name, part in parts.items()}


def places(seen: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """What is known, (K, 5) int16: thrower, action, victim, whether that is let go, hundredths of the thrower's age;
    and where the victim is then, ahead and above (K, 2) float32, units."""
    age = np.round(seen["age"] * 100).astype(np.int64)
    key = np.stack([seen["thrower"], seen["action"], seen["victim"], seen["free"], age], axis=1).astype(np.int16)
    where = np.stack([seen["ahead"], seen["above"]], axis=1)
    unique, index = np.unique(key, axis=0, return_inverse=True)
    order = np.argsort(index, kind="stable")
    parts = np.split(where[order], np.cumsum(np.bincount(index))[:-1])
    middle = np.array([np.median(part, axis=0) for part in parts])
    same = [(np.abs(part - m).max(axis=1) < ALIKE).mean() for part, m in zip(parts, middle, strict=True)]
    known = (np.array(same) > SAME) & (np.array([len(part) for part in parts]) >= ENOUGH)
    return unique[known], middle[known].astype(np.float32)


def launches(seen: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Of each throw that let go FLIES times and more, and whose launches are ALL alike: thrower and action (T, 2)
    int16; its damage, growth, base and angle in degrees, as facts.Throws has them, (T, 4) float32."""
    lets_go = seen["free"] & (seen["rises"] > 0)
    key, found = [], []
    for thrower, action in np.unique(np.stack([seen["thrower"], seen["action"]])[:, lets_go], axis=1).T:
        of = {n: v[lets_go & (seen["thrower"] == thrower) & (seen["action"] == action)] for n, v in seen.items()}
        speed = np.hypot(of["along"], of["up"]) + DECAY
        damage = of["rises"].max().round()
        grows = np.stack([grown(of["percent"], damage), np.ones(len(speed))], axis=1)
        near = np.ones(len(speed), bool)
        for _ in range(ROUNDS):
            line, *_ = np.linalg.lstsq(grows[near], speed[near] / SPEED, rcond=None)
            off = np.abs(grows @ line * SPEED - speed)
            near = off <= np.quantile(off, ALMOST)
        rate, base = round(line[0], 2), round(line[1])
        ways = np.deg2rad(np.arange(-180, 180)).reshape(-1, 1)
        across = np.cos(ways) * of["raised"] - np.sin(ways) * of["tilted"]
        ways = ways + across * np.abs(across) * TURN
        speed = (grown(of["percent"], damage) * rate + base) * SPEED - DECAY
        off = np.hypot(speed * np.cos(ways) - of["along"], speed * np.sin(ways) - of["up"])
        right = (off < CLOSE).mean(axis=1)
        if len(speed) >= FLIES and right.max() >= ALL:
            key.append((thrower, action))
            found.append((damage, rate, base, right.argmax() - 180.0))
    return np.array(key, np.int16), np.array(found, np.float32)


def main(folder: Path) -> None:
    dataset = Dataset(folder)
    parts = [frames_of(dataset.columns(game)) for game in range(len(dataset.frames))]
    seen = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    key, place = places(seen)
    path = Path(wm_runtime.facts.__file__).parent / "throws.npz"
    thrown, launch = launches(seen)
    np.savez_compressed(path, key=key, place=place, thrown=thrown, launch=launch)
    pairs = len(np.unique(key[:, :3], axis=0))
    print(f"{len(seen['age']):,} frames: {len(key):,} places of {pairs} pairs, {len(thrown)} launches: {path}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
