"""Writes hitboxes.npz, roots.npz and physics.json here from the data files of the PyPI package `melee` 0.47.6.

    pip download melee==0.47.6 --no-deps && unzip melee-*.whl -d melee
    python -m wm_runtime.facts.make_moves melee/melee
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np

HITBOXES = 4
PHYSICS = {
    "friction": "Friction", "gravity": "Gravity", "terminal": "TerminalVelocity", "walk": "MaxWalkSpeed",
    "fast_fall": "FastFallSpeed", "air_speed": "AirSpeed", "air_friction": "AirFriction",
    "air_mobility": "AirMobility", "size": "size",
}  # fmt: skip
ROOTS = {
    **dict.fromkeys((50, 60, 188, 196, 233, 254, 255, 256, 257, 258, 259), (1, 0)),
    **dict.fromkeys((189, 197, 234), (-1, 0)), 200: (1, -1), 201: (-1, -1),
}  # fmt: skip
"""Actions in which who stands goes as fast as its animation → ±1 as that is listed ahead, and how many frames later:
attacks in a dash, smashes forward, rolls, techs that roll, and climbing onto the stage. Of 620,000 frames of train
99.9 % are so."""
SPECIAL_ROOTS = {(1, 348), (1, 349), (2, 347), (2, 349), (2, 357), (4, 351), (5, 347), (15, 363), (22, 348), (22, 349),
                 (25, 349), (25, 357)}  # fmt: skip
"""Special moves that are so as well, by fighter: each seen 40 times and more, and never otherwise."""
TURNS, TECHS = 233, (200, 201)
"""Rolling forward, in which who rolls turns around; and techs whose first frame is of another course."""
NOT_SO = {(3, 60), (9, 200), (9, 201), (14, 60), (17, 196), (17, 200), (22, 200)}
"""By fighter: what games show of these is another course."""


def main(source: Path) -> None:
    """`source` is the package's folder, with framedata.csv, actiondata.csv and characterdata.csv."""
    here = Path(__file__).parent
    with (source / "actiondata.csv").open() as file:
        from_zero = {(int(r["character"]), int(r["action"])) for r in csv.DictReader(file) if r["zeroindex"] == "True"}
    keys, boxes = [], []
    ends: dict[tuple[int, int], int] = {}
    interruptible: dict[tuple[int, int], int] = {}
    roots: dict[tuple[int, int], dict[int, float]] = {}
    with (source / "framedata.csv").open() as file:
        for row in csv.DictReader(file):
            move = int(row["character"]), int(row["action"])
            age = int(row["frame"]) - (move in from_zero)
            ends[move] = max(age, ends.get(move, 0))
            if row["iasa"] == "True":
                interruptible[move] = min(age, interruptible.get(move, age))
            if (move[1] in ROOTS or move in SPECIAL_ROOTS) and move not in NOT_SO:
                way, later = ROOTS.get(move[1], (1, 0))
                turned = move[1] == TURNS and row["facing_changed"] == "True"
                speed = float(row["locomotion_x"]) * way * (-1 if turned else 1)
                if not (move[1] in TECHS and age - later <= 1):
                    roots.setdefault(move, {})[age - later] = speed
            active = [i for i in range(1, HITBOXES + 1) if row[f"hitbox_{i}_status"] == "True"]
            if not active:
                continue
            keys.append((*move, age))
            boxes.append(
                [
                    [float(row[f"hitbox_{i}_{part}"]) if i in active else 0.0 for part in ("x", "y", "size")]
                    for i in range(1, HITBOXES + 1)
                ]
            )
    order = sorted(range(len(keys)), key=keys.__getitem__)
    np.savez_compressed(
        here / "hitboxes.npz",
        key=np.array(keys, np.int16)[order],
        box=np.array(boxes, np.float32)[order],
        move=np.array(sorted(ends), np.int16),
        ends=np.array([ends[move] for move in sorted(ends)], np.int16),
        interruptible=np.array([interruptible.get(move, 0) for move in sorted(ends)], np.int16),
    )
    roots = {move: speeds for move, speeds in roots.items() if any(speeds.values())}
    spans = {move: (min(speeds), max(speeds) - min(speeds) + 1) for move, speeds in sorted(roots.items())}
    np.savez_compressed(
        here / "roots.npz",
        move=np.array(list(spans), np.int16),
        span=np.array(list(spans.values()), np.int16),
        speed=np.array([roots[m].get(a + i, np.nan) for m, (a, n) in spans.items() for i in range(n)], np.float32),
    )
    with (source / "characterdata.csv").open() as file:
        rows = {int(r["CharacterIndex"]): {k: float(r[v]) for k, v in PHYSICS.items()} for r in csv.DictReader(file)}
    text = {"source": "characterdata.csv of the PyPI package melee 0.47.6; units a frame", "characters": rows}
    (here / "physics.json").write_text(json.dumps(text, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
