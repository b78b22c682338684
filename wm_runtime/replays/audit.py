"""How sound a dataset is: rules that real games keep, how exactly velocity says where a fighter goes, noise in labels.

One game is looked at at a time, so memory does not grow with the dataset.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from wm_runtime.facts import FAMILIES, stage
from wm_runtime.replays.dataset import Dataset
from wm_runtime.replays.game import GameInfo
from wm_runtime.replays.rules import RULES, Columns, Rule, reads, velocity_step
from wm_runtime.schema import AXES, CONTROLS, FIELD, FIELDS, VELOCITIES

EXACT = 2e-3
"""Units: how near a step must be to velocity to be called equal."""
TWIN_FRAMES = 4_000_000
"""Frames of which the key is kept for `twins`, about; of a larger dataset a part of all keys, whole groups each."""


def audit(data: Dataset, games: int | None = None, on_game: Callable[[int, int], None] | None = None) -> dict[str, Any]:
    """Checks all games, or `games` of them spread evenly. → {"games", "frames", "rules", "kinematics", "labels"}.

    rules: a row for each of RULES: name, definition, checked and broken (player-frames), rate, example of a break
    {"md5", "game", "frame", "player" (0 or 1)}, skipped (games in which a column that it reads was not recorded).
    kinematics: a row for each of SITUATIONS: name, definition, frames, and the shares of them on which the step equals
    velocity within EXACT: x, y, both; still: the share on which the fighter did not move.
    labels: a row for each measure of LABELS: name, definition, frames, count, rate.
    `on_game(number, total)` is called after each game.
    """
    chosen = np.arange(len(data))
    if games is not None and games < len(data):
        chosen = np.unique(np.linspace(0, len(data) - 1, games).astype(int))
    rules, kinematics = _Rules(), _Kinematics()
    labels = _Labels(int(data.frames[chosen].sum()))
    for at, game in enumerate(chosen.tolist(), 1):
        info, columns = data.info(game), data.columns(game)
        rules.add(columns, info, game, int(data.record(game)["first_frame"]))
        if not _STEP_READS & set(info.derived):
            kinematics.add(columns)
        if not _LABEL_READS & set(info.derived):
            labels.add(columns)
        if on_game:
            on_game(at, len(chosen))
    return {
        "games": len(chosen),
        "frames": int(data.frames[chosen].sum()),
        "rules": rules.rows(),
        "kinematics": kinematics.rows(),
        "labels": labels.rows(),
    }


class _Rules:
    """Checked and broken, by rule."""

    def __init__(self) -> None:
        self._reads = {rule.name: reads(rule) for rule in RULES}
        self._checked: Counter[str] = Counter()
        self._broken: Counter[str] = Counter()
        self._skipped: Counter[str] = Counter()
        self._example: dict[str, dict[str, Any]] = {}

    def add(self, columns: Columns, info: GameInfo, game: int, first_frame: int) -> None:
        place = stage(info.stage)
        for rule in RULES:
            if not self._applies(rule, info):
                self._skipped[rule.name] += 1
                continue
            checked, broken = rule.check(columns, place)
            self._checked[rule.name] += int(checked.sum())
            self._broken[rule.name] += int(broken.sum())
            if rule.name not in self._example and broken.any():
                row, player = np.argwhere(broken)[0].tolist()
                frame = first_frame + 1 + row
                self._example[rule.name] = {"md5": info.md5, "game": game, "frame": frame, "player": player}

    def _applies(self, rule: Rule, info: GameInfo) -> bool:
        """A rule says nothing of values that were filled in, except one that looks at each field by itself."""
        looked_at = self._reads[rule.name]
        return not looked_at & set(info.derived) or len(looked_at) >= len(FIELDS) - 1

    def rows(self) -> list[dict[str, Any]]:
        return [
            {
                "name": rule.name,
                "definition": rule.definition,
                "checked": self._checked[rule.name],
                "broken": self._broken[rule.name],
                "rate": _share(self._broken[rule.name], self._checked[rule.name]),
                "example": self._example.get(rule.name),
                "skipped": self._skipped[rule.name],
            }
            for rule in RULES
        ]


# --- kinematics ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Situation:
    """`of(before, now, hit)` → where it applies; the first that applies counts. Arrays are (T - 1, 2), `before` and
    `now` by column name, `hit` where the percent rises or hitlag begins."""

    name: str
    definition: str
    of: Callable[[Columns, Columns, np.ndarray], np.ndarray]


def _family(columns: Columns, *families: str) -> np.ndarray:
    return np.isin(columns["action"], [action for family in families for action in FAMILIES[family]])


HELD = ("grabbed", "thrown", "captured")
S = Situation
SITUATIONS: tuple[Situation, ...] = (
    S("dying", "action states 0 to 10", lambda before, now, hit: _family(now, "dead")),
    S("respawn", "on the platform (11 to 13)", lambda before, now, hit: _family(now, "absent", "respawn")),
    S("entry", "coming into the match (322 to 324)", lambda before, now, hit: _family(now, "entry")),
    S("held", "grabbed, thrown or captured, on this frame or the one before",
      lambda before, now, hit: _family(before, *HELD) | _family(now, *HELD)),
    S("ledge", "on a ledge, on this frame or the one before",
      lambda before, now, hit: _family(before, "ledge") | _family(now, "ledge")),
    S("hit", "the percent rises or hitlag begins", lambda before, now, hit: hit),
    S("hitlag", "hitlag on this frame and the one before",
      lambda before, now, hit: (before["hitlag"] > 0) & (now["hitlag"] > 0)),
    S("hitlag_ends", "hitlag on the frame before only", lambda before, now, hit: before["hitlag"] > 0),
    S("lands", "from the air to the ground",
      lambda before, now, hit: (before["airborne"] == 1) & (now["airborne"] == 0)),
    S("takes_off", "from the ground to the air",
      lambda before, now, hit: (before["airborne"] == 0) & (now["airborne"] == 1)),
    S("grounded", "on the ground on both", lambda before, now, hit: now["airborne"] == 0),
    S("airborne", "in the air on both", lambda before, now, hit: now["airborne"] == 1),
)  # fmt: skip
_STEP_READS = {"x", "y", "action", "airborne", "hitlag", "percent", *VELOCITIES}


class _Kinematics:
    """How often the step is the velocity, by situation."""

    def __init__(self) -> None:
        self._counts = np.zeros((len(SITUATIONS), 5), np.int64)

    def add(self, columns: Columns) -> None:
        before = {name: columns[name][:-1] for name in _STEP_READS}
        now = {name: columns[name][1:] for name in _STEP_READS}
        hit = (now["percent"] > before["percent"]) | ((now["hitlag"] > 0) & (before["hitlag"] == 0))
        which = np.full(hit.shape, len(SITUATIONS))
        for number, situation in reversed(list(enumerate(SITUATIONS))):
            which[situation.of(before, now, hit)] = number
        vx, vy = velocity_step(columns)
        dx, dy = (np.diff(columns[name].astype(np.float64), axis=0) for name in ("x", "y"))
        x, y = np.abs(dx - vx) <= EXACT, np.abs(dy - vy) <= EXACT
        for column, mask in enumerate((np.ones_like(hit), x, y, x & y, (dx == 0) & (dy == 0))):
            self._counts[:, column] += np.bincount(which[mask], minlength=len(SITUATIONS) + 1)[:-1]

    def rows(self) -> list[dict[str, Any]]:
        return [
            {
                "name": situation.name,
                "definition": situation.definition,
                "frames": frames,
                **{name: _share(n, frames) for name, n in zip(("x", "y", "both", "still"), counts, strict=True)},
            }
            for situation, (frames, *counts) in zip(SITUATIONS, self._counts.tolist(), strict=True)
        ]


# --- labels ----------------------------------------------------------------------------------------------------------

LABELS = {
    "unprompted": "Of the frames on which a living fighter's action changes: those on which its controller is as on "
                  "the frame before, it has no hitlag, stays in the air or on the ground and nobody's percent rises. "
                  "These changes can only be told from how long something has lasted, or from far contacts.",
    "twins": "Of the frames that share with another one the fighter, action, its age, facing, jumps left, ground or "
             "air, and the controller now and before (no hitlag, no hit, no landing or take-off): those whose action "
             "is not the commonest of their group. What sees no more than that is wrong at least so often.",
    "flicker": "Of the runs of an action of a living fighter: those of a single frame between two of one and the same "
               "action. Real games have 2.5 %, dashes turned around; more means that copies of rolled-back frames "
               "were left in.",
}  # fmt: skip
"""Name → definition of the measures of label noise."""
_TWIN_FIELDS = ("character", "action", "state_age", "facing", "jumps", "airborne")
_LABEL_READS = {*_TWIN_FIELDS, "hitlag", "percent", "buttons", *AXES}


class _Labels:
    """What makes the next action hard to tell, whatever looks at it."""

    def __init__(self, frames: int) -> None:
        self._counts = dict.fromkeys(LABELS, (0, 0))
        self._part = np.uint64(max(1, 2 * frames // TWIN_FRAMES))
        self._keys: list[np.ndarray] = []
        self._next: list[np.ndarray] = []

    def add(self, columns: Columns) -> None:
        action = columns["action"]
        alive = (action[:-1] > 13) & (action[1:] > 13)
        rise = np.diff(columns["percent"], axis=0) > 0
        lag = (columns["hitlag"][:-1] > 0) | (columns["hitlag"][1:] > 0)
        calm = alive & ~lag & ~(rise | rise[:, ::-1]) & (np.diff(columns["airborne"], axis=0) == 0)
        changes = alive & (action[1:] != action[:-1])
        pads = _controllers(columns)
        self._count("unprompted", changes & calm & (pads[1:] == pads[:-1]), changes)
        single = changes[:-1] & changes[1:]
        self._count("flicker", single & (action[:-2] == action[2:]), changes[:-1])
        key = _mix([columns[name][:-1] for name in _TWIN_FIELDS] + [pads[:-1], pads[1:]])
        kept = calm & (key % self._part == 0)
        self._keys.append(key[kept])
        self._next.append(action[1:][kept].astype(np.uint16))

    def _count(self, name: str, count: np.ndarray, of: np.ndarray) -> None:
        counted, total = self._counts[name]
        self._counts[name] = counted + int(count.sum()), total + int(of.sum())

    def rows(self) -> list[dict[str, Any]]:
        self._counts["twins"] = _disagreeing(self._keys, self._next)
        return [
            {"name": name, "definition": text, "frames": of, "count": count, "rate": _share(count, of)}
            for (name, text), (count, of) in zip(LABELS.items(), self._counts.values(), strict=True)
        ]


def _controllers(columns: Columns) -> np.ndarray:
    """(T, 2) uint64: a hash of the controls that a model sees."""
    seen = sum(control.bit for control in CONTROLS)
    axes = [np.rint(columns[c.name] * c.grid).astype(np.int32) for c in CONTROLS if not c.bit]
    return _mix([*axes, columns["buttons"].astype(np.int32) & seen])


def _mix(columns: list[np.ndarray]) -> np.ndarray:
    """Columns of one shape → a uint64 hash of each element."""
    key = np.full(columns[0].shape, 0x9E3779B97F4A7C15, np.uint64)
    for column in columns:
        bits = np.ascontiguousarray(column).view(f"u{column.dtype.itemsize}").astype(np.uint64)
        key = (key ^ bits) * np.uint64(0xBF58476D1CE4E5B9)
        key ^= key >> np.uint64(29)
    return key


def _disagreeing(keys: list[np.ndarray], actions: list[np.ndarray]) -> tuple[int, int]:
    """(elements whose action is not their key's commonest, elements whose key is not the only one)."""
    if not keys:
        return 0, 0
    _, key = np.unique(np.concatenate(keys), return_inverse=True)
    classes = FIELD["action"].classes or 0
    pairs, count = np.unique(key.astype(np.int64) * classes + np.concatenate(actions), return_counts=True)
    groups, first = np.unique(pairs // classes, return_index=True)
    if not len(groups):
        return 0, 0
    size, most = np.add.reduceat(count, first), np.maximum.reduceat(count, first)
    shared = size > 1
    return int((size - most)[shared].sum()), int(size[shared].sum())


def _share(count: int, of: int) -> float | None:
    return count / of if of else None
