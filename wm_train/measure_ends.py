"""Measures the last ages of actions that outlast their animation, and writes them into the facts.

    python -m wm_train.measure_ends data/train
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import wm_runtime.facts
from wm_runtime.replays.dataset import Dataset

EVEN, ENOUGH = 0.01, 3
"""Ages that differ by less are the same; an end is known that so many frames show, and that none belies."""
GOES_ON, ANEW, STAYS = range(3)


def steps_of(columns: dict[str, np.ndarray]) -> np.ndarray:
    """Frames (P, 4) on which a fighter without hitlag goes on as it did: character, action, age, GOES_ON, ANEW or
    STAYS; those of other steps, of strikes for one, are not among them."""
    then, now = ({n: v[part] for n, v in columns.items()} for part in (slice(0, -1), slice(1, None)))
    change = now["state_age"] - then["state_age"]
    same = (now["action"] == then["action"]) & (then["hitlag"] <= 0) & (now["hitlag"] <= 0) & (then["state_age"] >= 0)
    way = np.full(change.shape, -1)
    way[np.abs(change - 1) < EVEN] = GOES_ON
    way[np.abs(change) < EVEN] = STAYS
    way[(np.abs(now["state_age"]) < EVEN) & (change < -EVEN)] = ANEW
    at = same & (way >= 0)
    return np.stack([then["character"][at], then["action"][at], then["state_age"][at], way[at]], axis=1)


def ends(steps: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`steps_of` games → what is known: character and action (E, 2) int16, the last age (E,) float32, and whether the
    animation begins anew then, or stays there, (E,) bool."""
    key, last, anew = [], [], []
    move = steps[:, 0].astype(np.int64) * 1000 + steps[:, 1].astype(np.int64)
    order = np.argsort(move, kind="stable")
    for part in np.split(order, np.flatnonzero(np.diff(move[order])) + 1):
        age, way = steps[part, 2], steps[part, 3]
        at_end = age[way != GOES_ON]
        if len(at_end) < ENOUGH or len(np.unique(way[way != GOES_ON])) > 1 or np.ptp(at_end) > EVEN:
            continue
        if not (age[way == GOES_ON] > at_end[0] - EVEN).any():
            key.append(steps[part[0], :2])
            last.append(at_end[0])
            anew.append((way == ANEW).any())
    return np.array(key, np.int16), np.array(last, np.float32), np.array(anew, bool)


def main(folder: Path) -> None:
    dataset = Dataset(folder)
    steps = np.concatenate([steps_of(dataset.columns(game)) for game in range(len(dataset.frames))])
    key, last, anew = ends(steps)
    path = Path(wm_runtime.facts.__file__).parent / "ends.npz"
    np.savez_compressed(path, key=key, last=last, anew=anew)
    print(f"{len(steps):,} frames: {len(key)} ends, after {anew.sum()} of which it begins anew: {path}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
