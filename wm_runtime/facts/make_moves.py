"""Writes hitboxes.npz and physics.json here from the data files of the PyPI package `melee` (libmelee) 0.47.6.

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


def main(source: Path) -> None:
    """`source` is the package's folder, with framedata.csv, actiondata.csv and characterdata.csv."""
    here = Path(__file__).parent
    with (source / "actiondata.csv").open() as file:
        from_zero = {(int(r["character"]), int(r["action"])) for r in csv.DictReader(file) if r["zeroindex"] == "True"}
    keys, boxes = [], []
    ends: dict[tuple[int, int], int] = {}
    interruptible: dict[tuple[int, int], int] = {}
    with (source / "framedata.csv").open() as file:
        for row in csv.DictReader(file):
            move = int(row["character"]), int(row["action"])
            age = int(row["frame"]) - (move in from_zero)
            ends[move] = max(age, ends.get(move, 0))
            if row["iasa"] == "True":
                interruptible[move] = min(age, interruptible.get(move, age))
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
    with (source / "characterdata.csv").open() as file:
        rows = {int(r["CharacterIndex"]): {k: float(r[v]) for k, v in PHYSICS.items()} for r in csv.DictReader(file)}
    text = {"source": "characterdata.csv of the PyPI package melee 0.47.6; units a frame", "characters": rows}
    (here / "physics.json").write_text(json.dumps(text, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
