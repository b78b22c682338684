"""Measures where fighters are while they are thrown and where they are let go, and writes it into the facts.

    python -m wm_train.measure_throws data/train
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import wm_runtime.facts
from wm_runtime.facts import FAMILIES
from wm_runtime.replays.dataset import Dataset

THROWS, THROWN = FAMILIES["throw"], FAMILIES["thrown"]
HURT = FAMILIES["damage"]
ENOUGH, ALIKE, SAME = 2, 0.02, 0.75
"""A place is known that so many frames show, so much of which lie within so many units of each other."""


def frames_of(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Frames (P,) on which a fighter is held in a throw or let go (`free`): `thrower`, its `action` and `age`,
    `victim`, and where that is, `ahead` of and `above` the thrower, units; where it is let go, less its knockback."""
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
        x, y = x - now["knockback_x"][at, who] * flies, y - now["knockback_y"][at, who] * flies
        found = {
            "thrower": now["character"][at, by], "action": now["action"][at, by], "age": now["state_age"][at, by],
            "victim": now["character"][at, who], "free": free[at], "ahead": x * facing, "above": y,
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


def main(folder: Path) -> None:
    dataset = Dataset(folder)
    parts = [frames_of(dataset.columns(game)) for game in range(len(dataset.frames))]
    seen = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    key, place = places(seen)
    path = Path(wm_runtime.facts.__file__).parent / "throws.npz"
    np.savez_compressed(path, key=key, place=place)
    print(f"{len(seen['age']):,} frames: {len(key):,} places of {len(np.unique(key[:, :3], axis=0))} pairs: {path}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
