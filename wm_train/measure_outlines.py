"""Measures the outlines of fighters in the air by where walls hold them back, and writes them into the facts.

    python -m wm_train.measure_outlines data/train

Walls are known (wm_runtime/facts/walls.json). Where a fighter ends further out than its velocities would have taken it,
the outline of its move at that age touches the wall: outlines are those of the least absolute error, by gradient
descent. Those that leave most of the error that there is without walls are dropped.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import wm_runtime.facts
from wm_runtime.facts import Outlines, character
from wm_runtime.replays.dataset import Dataset
from wm_train.dynamics.named import Named
from wm_train.dynamics.walls import DEGREES, Walls, touching

SEEN = 3
"""Frames on which a move at an age was held back, from which on it is measured."""
FLYING = (("FOX", 356), ("FALCO", 356))
"""Moves whose outlines go by heading."""
FIELDS = (
    "x", "y", "self_x_air", "self_x_ground", "self_y", "knockback_x", "knockback_y", "airborne", "hitlag", "action",
    "state_age", "facing", "character", "percent",
)  # fmt: skip
BEYOND = 14.0
"""Frames further out than the stage, units, are left out."""
HELD, LEVEL = 0.01, 0.02
"""Who ends so much further out than its velocities say, and so exactly as high, was held back, units."""
STEPS, RATE = 1500, 0.05
USUAL = (3.5, 3.5, 4.5, 3.5)
ALIKE, FACING_ALIKE = 0.08, 0.02
"""Units of error that a unit of difference between an age and the next weighs, and between the two widths."""
NOTHING = Outlines(np.zeros((0, 3), np.int32), np.zeros((0, 2), np.int32), np.zeros((0, 4), np.float32))
USEFUL = 0.6
"""Rows that leave more of the error than this share are dropped."""


def measure(dataset: Dataset, games: list[int]) -> Outlines:
    """Outlines of the moves of these games."""
    before, after, stage = flights(dataset, games)
    first = _empty(before, after, stage)
    walls = Walls(first)
    at, next_, share = (part[:, 0] for part in walls.between(after))
    side, free, _ = (part[:, 0] for part in walls.met(before, after, stage))
    height = after["y"][:, 0] - before["y"][:, 0] - after["self_y"][:, 0] - after["knockback_y"][:, 0]
    out = after["x"][:, 0] * side
    held = (out - free > HELD) & (height.abs() < LEVEL) & (at > 0)
    corners = walls.corners[stage, (side > 0).long()]
    away = (after["facing"][:, 0] * side > 0).long()
    y = after["y"][:, 0]
    rows = _fitted(len(first.row) + 1, [part[held] for part in (at, next_, share, corners, away, y, out)])

    known = torch.zeros(len(rows))
    known.index_add_(0, torch.where(share < 0.5, at, next_)[held], torch.ones(int(held.sum())))
    rows[known < SEEN] = float("nan")
    walls = Walls(Outlines(first.move, first.span, rows[1:].numpy()))
    return _useful(walls, first, rows, before, after, stage)


def flights(dataset: Dataset, games: list[int]) -> tuple[Named, Named, Tensor]:
    """Frames of fighters in the air near the side of a stage, and the frames after, (F, 1) each, and stages (F,)."""
    walls = Walls(NOTHING)
    parts: list[tuple[Named, Named, Tensor]] = []
    for game in games:
        number = int(dataset.stage[game])
        if number >= len(walls.corners) or walls.corners[number, 0, 0, 0] < 0:
            continue
        columns = dataset.columns(game)
        state = {name: torch.from_numpy(np.ascontiguousarray(columns[name])) for name in FIELDS}
        before, after = ({n: v[s] for n, v in state.items()} for s in (slice(0, -1), slice(1, None)))
        near = walls.may(before, after) & (after["x"].abs() < walls.corners[number, 0, 0, 0] + BEYOND)
        near &= after["percent"] == before["percent"]
        kept = [{n: v[near][:, None] for n, v in part.items()} for part in (before, after)]
        parts.append((kept[0], kept[1], torch.full((int(near.sum()),), number)))
    befores, afters, stages = zip(*parts, strict=True)
    before, after = ({n: torch.cat([part[n] for part in them]) for n in FIELDS} for them in (befores, afters))
    return before, after, torch.cat(stages)


def _empty(before: Named, after: Named, stage: Tensor) -> Outlines:
    """Moves and their ages, the rows not yet known."""
    blank = Walls(NOTHING)
    side, free, _ = blank.met(before, after, stage)
    held = ((after["x"] * side - free) > HELD)[:, 0]
    who, action, age = (after[n][held, 0].numpy() for n in ("character", "action", "state_age"))
    headed = {(character(name).internal_id, move) for name, move in FLYING}
    moves, spans = [], []
    for pair in np.unique(np.stack([who, action], axis=1), axis=0):
        ages = np.floor(age[(who == pair[0]) & (action == pair[1])])
        ages = ages[(ages >= 0) & (ages < 250)]
        by_heading = tuple(int(v) for v in pair) in headed
        if by_heading or len(ages) >= SEEN:
            moves.append((*pair, int(by_heading)))
            spans.append((0, int(360 / DEGREES) + 1) if by_heading else (int(ages.min()), int(np.ptp(ages)) + 1))
    span = np.array(spans, np.int32)
    return Outlines(np.array(moves, np.int32), span, np.full((int(span[:, 1].sum()), 4), np.nan, np.float32))


def _fitted(count: int, frames: list[Tensor]) -> Tensor:
    """How many rows, and of F frames: two rows and the way between them, corners, the way a fighter looks, its height,
    and how far out it was held → rows (count, 4)."""
    at, next_, share, corners, away, y, out = frames
    rows = torch.tensor(USUAL).repeat(count, 1).requires_grad_()
    optimizer = torch.optim.Adam([rows], lr=RATE)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = RATE * (1 - 0.985 * step / STEPS)
        outline = rows[at] * (1 - share[:, None]) + rows[next_] * share[:, None]
        width = torch.where(away == 1, outline[:, 1], outline[:, 0])
        wall = touching(corners, y, width.clamp(min=0.5), outline[:, 2], outline[:, 3].clamp(min=0.5))
        # what is far off at first may come near; later it is something else than a wall
        loss = (wall - out).abs().clamp(max=max(0.5, 5 - 6 * step / STEPS)).sum()
        loss = loss + ALIKE * (rows[1:] - rows[:-1]).abs().sum() + FACING_ALIKE * (rows[:, 0] - rows[:, 1]).abs().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return rows.detach()


def _useful(walls: Walls, first: Outlines, rows: Tensor, before: Named, after: Named, stage: Tensor) -> Outlines:
    """Rows that bring places nearer, on all frames on which they say that a wall is met."""
    found = walls.met(before, after, stage)
    side, free, wall = (part[:, 0] for part in found)
    met = walls.holds(before, after, found)[:, 0]
    at, next_, share = (part[:, 0] for part in walls.between(after))
    row = torch.where(share < 0.5, at, next_)[met]
    out = (after["x"][:, 0] * side)[met]
    error = [torch.zeros(len(rows)).index_add_(0, row, (value[met] - out).abs()) for value in (free, wall)]
    times = torch.zeros(len(rows)).index_add_(0, row, torch.ones(len(row)))
    good = (error[1] < USEFUL * error[0]) & (times >= SEEN)
    kept = torch.where(good[:, None], rows, torch.full_like(rows, float("nan")))[1:].numpy()
    return Outlines(first.move, first.span, kept.round(3))


def main(folder: Path) -> None:
    dataset = Dataset(folder)
    found = measure(dataset, list(range(len(dataset.frames))))
    path = Path(wm_runtime.facts.__file__).parent / "outlines.npz"
    np.savez_compressed(path, move=found.move.astype(np.int16), span=found.span.astype(np.int16), row=found.row)
    print(f"{np.isfinite(found.row[:, 0]).sum():,} outlines of {len(found.move)} moves: {path}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
