"""Measures within which box fighters catch the ledge, and in which moves, and writes both into the facts.

    python -m wm_train.measure_ledges data/train
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import wm_runtime.facts
from wm_runtime.facts import CHARACTERS, FAMILIES, STAGES, walls
from wm_runtime.replays.dataset import Dataset
from wm_train.dynamics.feet import falling
from wm_train.dynamics.ledge import CATCH, COOLED, FALLING, HELD_DOWN, LEDGE_Y, ON_LEDGE
from wm_train.dynamics.stale import frames_since

NEAR, INSIDE, ABOVE, BELOW = 28.0, 12.0, 14.0, 45.0
"""Frames so far outside the ledge, inside, above and below it are looked at, units."""
OWN = 341
"""First of the actions that are each character's own."""
ENOUGH, MANY, FEW = 8, 60, 6
"""Catches from which on a character's box is told, and from which on all its ends are its own; frames of a move."""
LEAST, USUAL = 6.0, 9.0
"""A box is at least so high, and so high where too few catches show it, units."""


def approaches(dataset: Dataset, games: list[int]) -> dict[str, np.ndarray]:
    """Frames (P,) on which a fighter near a ledge, facing it, falls and could catch it: whether it `catches` it, its
    `character` and `action`, how far `out` it would be and how `high` above the ledge, units."""
    parts = [part for game in games for part in _of_game(dataset.columns(game), int(dataset.stage[game]))]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _of_game(columns: dict[str, np.ndarray], stage: int) -> Iterator[dict[str, np.ndarray]]:
    if stage not in {arena.id for arena in STAGES}:
        return
    edge, ledge_y = float(walls()[stage][1][0, 0]), LEDGE_Y.get(stage, 0.0)
    now, then = ({name: value[part] for name, value in columns.items()} for part in (slice(1, None), slice(0, -1)))
    side = np.where(then["x"] < 0, -1.0, 1.0)
    hangs = np.isin(columns["action"], ON_LEDGE)
    since = frames_since(hangs)[:-1]
    taken = np.isin(then["action"], FAMILIES["ledge"])[:, ::-1] & (side == side[:, ::-1])
    able = (then["airborne"] == 1) & (then["hitlag"] == 0) & (now["hitlag"] == 0) & ~taken & (since >= COOLED)
    able &= ~np.isin(then["action"], FAMILIES["ledge"]) & (then["action"] > 13) & (now["action"] > 13)
    able &= (then["facing"] * side < 0) & (now["percent"] == then["percent"]) & (now["main_y"] > HELD_DOWN)
    catches = now["action"] == CATCH
    able &= catches | ((now["airborne"] == 1) & (now["action"] == then["action"]))

    rise = np.where(catches, falling(then)[0], now["self_y"]) + then["knockback_y"]
    ahead = np.where(catches, then["self_x_air"] + then["knockback_x"], now["x"] - then["x"])
    out, high = (then["x"] + ahead) * side - edge, then["y"] + rise - ledge_y
    able &= (rise < 0) & (out > -INSIDE) & (out < NEAR) & (high < ABOVE) & (high > -BELOW)
    names = {"character": then["character"], "action": then["action"], "out": out, "high": high, "catches": catches}
    yield {name: value[able] for name, value in names.items()}


def boxes(seen: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """Character → top, bottom and reach of its box, units, and on how many catches that stands."""
    falls = np.isin(seen["action"], FALLING)
    found = {}
    for fighter in CHARACTERS:
        mine = falls & (seen["character"] == fighter.internal_id)
        close = mine & (seen["out"] > 0.5) & (seen["out"] < 10)
        caught, missed = (np.sort(seen["high"][close & (seen["catches"] == is_)]) for is_ in (True, False))
        if len(caught) < ENOUGH:
            continue
        tops = np.unique(np.concatenate([caught, missed]))
        tops = tops[(tops < -2) & (tops > -30)]
        # wrong: who catches above it, and who is just below and does not
        wrong = [(caught > top).sum() + ((missed < top) & (missed > top - 4)).sum() for top in tops]
        top = tops[int(np.argmin(np.where(tops > -16, wrong, len(seen["high"]))))]
        edge_of = (caught[caught <= top].max() + missed[missed > top].min()) / 2
        inside = mine & seen["catches"] & (seen["high"] < top)
        many = inside.sum() > MANY
        reach = np.quantile(seen["out"][inside], 0.97 if many else 1.0)
        lows = tops[tops < top - LEAST]
        deep = (missed > lows[:, None]) & (missed < top - 1) if len(lows) else np.zeros((1, 1))
        wrong = [(caught < low).sum() + row.sum() for low, row in zip(lows, deep, strict=False)]
        bottom = lows[int(np.argmin(wrong))] if many and len(lows) else top - USUAL
        found[fighter.name] = {
            "top": round(float(edge_of), 3), "bottom": round(float(bottom), 2), "reach": round(float(reach), 2),
            "catches": len(caught),
        }  # fmt: skip
    return found


def shares(seen: dict[str, np.ndarray], box: dict[str, dict[str, float]]) -> dict[str, dict[str, list[float]]]:
    """Character, or `all` for the moves that all have → action → share of frames in the box that catch, and frames."""
    found: dict[str, dict[str, list[float]]] = {}
    for fighter in CHARACTERS:
        if fighter.name not in box:
            continue
        its = box[fighter.name]
        inside = (seen["character"] == fighter.internal_id) & (seen["out"] > 0) & (seen["out"] < its["reach"])
        inside &= (seen["high"] < its["top"]) & (seen["high"] > its["bottom"])
        for action in np.unique(seen["action"][inside]):
            name = fighter.name if action >= OWN else "all"
            here = inside & (seen["action"] == action)
            was = found.setdefault(name, {}).setdefault(str(action), [0, 0])
            was[0], was[1] = was[0] + int(seen["catches"][here].sum()), was[1] + int(here.sum())
    return {
        name: {action: [round(caught / frames, 3), frames] for action, (caught, frames) in of.items() if frames >= FEW}
        for name, of in found.items()
    }


def main(folder: Path) -> None:
    dataset = Dataset(folder)
    seen = approaches(dataset, list(range(len(dataset.frames))))
    box = boxes(seen)
    by_move = shares(seen, box)
    text = {
        "source": f"{len(dataset.frames)} games of train: {int(seen['catches'].sum()):,} catches of the ledge by who "
        "faces it and falls; python -m wm_train.measure_ledges",
        "units": "top, bottom: of the fighter's place above the ledge; reach: out from it",
        "box": box,
        "shares": by_move,
    }
    path = Path(wm_runtime.facts.__file__).parent / "ledges.json"
    path.write_text(json.dumps(text, indent=1) + "\n")
    print(f"{len(box)} boxes, {sum(len(of) for of in by_move.values())} moves: {path}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
