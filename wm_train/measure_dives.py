"""Measures how fast Captain Falcon's and Ganondorf's dives go of themselves and by the stick, and writes it.

    python -m wm_train.measure_dives data/train
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

import wm_runtime.facts
from wm_runtime.facts import character
from wm_runtime.replays.dataset import Dataset

WHO = ("CAPTAIN_FALCON", "GANONDORF")
DIVE, TURNS, LAST = 354, 13, 59
"""The action; the age on which it may turn; the last age that is measured."""
ENOUGH = 6
TOPS = np.arange(0.3, 1.3, 0.001)
EXACT = 3e-4


def frames_of(dataset: Dataset, games: list[int], fighter: int) -> dict[str, np.ndarray]:
    """Frames (P,) of a dive that goes on: `age` of the next, own velocity ahead now (`was`) and then (`is_`), the stick
    ahead now (`held`) and for the next frame (`stick`)."""
    parts: dict[str, list[np.ndarray]] = {}
    for game in games:
        if fighter not in dataset.characters[game]:
            continue
        columns = dataset.columns(game)
        then, now = ({n: v[part] for n, v in columns.items()} for part in (slice(0, -1), slice(1, None)))
        goes_on = (then["character"] == fighter) & (then["action"] == DIVE) & (now["action"] == DIVE)
        goes_on &= (then["hitlag"] == 0) & (now["hitlag"] == 0) & (now["state_age"] == then["state_age"] + 1)
        goes_on &= (now["state_age"] <= LAST) & (now["facing"] == then["facing"])
        facing = then["facing"].astype(np.float32)
        values = {"age": now["state_age"].astype(int), "was": then["self_x_air"] * facing,
                  "is_": now["self_x_air"] * facing, "held": then["main_x"] * facing,
                  "stick": now["main_x"] * facing}  # fmt: skip
        for name, value in values.items():
            parts.setdefault(name, []).append(value[goes_on])
    return {name: np.concatenate(part) for name, part in parts.items()}


def steered(by_stick: np.ndarray, stick: np.ndarray, gain: float, top: float) -> np.ndarray:
    """What of the velocity is the stick's, a frame later."""
    more = by_stick + gain * stick
    most = np.abs(top * stick)
    return np.where((np.abs(more) > most) & (more * stick >= 0), np.sign(more) * most, more) * (stick != 0)


def measured(seen: dict[str, np.ndarray]) -> dict[str, object]:
    """The velocity by age that nobody steers, what a full stick adds a frame, and the most that it makes of it."""
    free = np.full(LAST + 1, np.nan)
    for age in range(1, LAST + 1):
        alone = (seen["age"] == age) & (seen["stick"] == 0) & (seen["held"] == 0)
        if alone.sum() >= ENOUGH:
            free[age] = np.median(seen["is_"][alone])
    was, is_ = seen["was"] - free[seen["age"] - 1], seen["is_"] - free[seen["age"]]
    known = np.isfinite(was) & np.isfinite(is_) & (seen["age"] != TURNS) & (seen["age"] != TURNS + 1)
    full = known & (np.abs(seen["stick"]) > 0.95) & (np.abs(was) < 0.3)
    gain = float(np.median(((is_ - was) / np.where(seen["stick"] == 0, 1, seen["stick"]))[full]))
    was, is_, stick = was[known], is_[known], seen["stick"][known]
    right = [(np.abs(steered(was, stick, gain, top) - is_) < 10 * EXACT).mean() for top in TOPS]
    about = TOPS[int(np.argmax(right))] * np.abs(stick)
    at_top = (np.abs(np.abs(is_) - about) < 10 * EXACT) & (np.abs(was) > about - 10 * EXACT) & (np.abs(stick) > 0.5)
    top = float(np.median(np.abs(is_[at_top] / stick[at_top])))
    return {
        "gain": round(gain, 5), "top": round(top, 4), "frames": int(known.sum()),
        "right": round(float((np.abs(steered(was, stick, gain, top) - is_) < EXACT).mean()), 4),
        "free": [None if np.isnan(v) else round(float(v), 5) for v in free],
    }  # fmt: skip


def main(folder: Path) -> None:
    dataset = Dataset(folder)
    games = list(range(len(dataset.frames)))
    found = {name: measured(frames_of(dataset, games, character(name).internal_id)) for name in WHO}
    text = {
        "source": f"{len(games)} games of train; python -m wm_train.measure_dives",
        "units": "free: velocity ahead by state_age where nobody steers, units a frame; gain: what a full stick adds "
        "to it a frame; top: the most that a full stick makes of it; right: share of frames that this gives exactly",
        "action": DIVE,
        "turns": TURNS,
        "dives": found,
    }
    path = Path(wm_runtime.facts.__file__).parent / "dives.json"
    path.write_text(json.dumps(text, indent=1) + "\n")
    for name, its in found.items():
        print(name, {k: v for k, v in its.items() if k != "free"})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
