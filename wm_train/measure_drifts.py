"""Measures how far the stick drives fighters in the actions in which not everybody drifts alike, and writes it into the
facts.

    python -m wm_train.measure_drifts data/train
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

import wm_runtime.facts
from wm_runtime.facts import FAMILIES, physics
from wm_runtime.replays.dataset import Dataset
from wm_runtime.replays.layout import unpack_controllers
from wm_runtime.schema import C_
from wm_train.dynamics.candidates import driven
from wm_train.dynamics.laws import DEAD_FALL, DRIFTS, NO_LIMIT
from wm_train.dynamics.memory import AIR_JUMPS
from wm_train.dynamics.tables import drift_of

ENOUGH, ALL, CLOSE, CONTROL = 100, 0.985, 1e-3, 14
"""A law holds that so many frames show, such a share of them to so many units a frame (full sticks that only a raw one
tells, which replays before 3.17 have not, are among the rest); actions from CONTROL on."""
SURELY = 0.9995
"""Where a law tells such a share of all frames, no other is looked for."""
PARTS = [k / 20 for k in range(1, 27)]
LAWS = ((0, 0, 0, 1), (1, 1, 1, 1), (0, 0, 0, 0.5), *((k, 0, k, 1) for k in PARTS),
        *((k, 0, top, 1) for k in PARTS for top in PARTS if k != top))  # fmt: skip
"""Shares of what the stick's tilt adds, and its side, of the speed that it leads to, and of friction: friction alone,
the whole, half of the friction, a part of the drift without what the side adds, and such a part of another speed."""
JUMPS, FEW, MANY = (*AIR_JUMPS, *range(341, 346)), 8, 0.85
"""Jumps in the air, of Jigglypuff and Kirby as well; so many of them with the stick to a side tell, and such a share of
them is by the stick of their first frame (those out of hitstun are not)."""
SPEEDS = [round(0.2 + k / 100, 2) for k in range(131)]
MOST, FALLS = 20_000, [k / 20 for k in range(2, 20)]
"""Frames of an action that are looked at; shares of the speed that a helpless fall may be held to."""


class Fighter(NamedTuple):
    """A character, and what the stick's tilt and its side add to its velocity along x, units a frame."""

    character: int
    adds: tuple[float, float]


def frames_of(dataset: Dataset, game: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Character and its frames (P, 6) without hitlag in the air: action, its age on the next frame, velocity along x,
    that of the next frame, its stick, and the action before; of actions that go on, and of jumps that begin there (the
    action is the jump then, and the one before that which it began out of)."""
    columns = dataset.columns(game)
    stick = unpack_controllers(dataset.records(game))[1:, :, C_["main_x"]]
    then, now = ({n: v[part] for n, v in columns.items()} for part in (slice(0, -1), slice(1, None)))
    flies = (then["airborne"] == 1) & (now["airborne"] == 1) & (then["hitlag"] <= 0)
    same = then["action"] == now["action"]
    goes_on = flies & same & (now["hitlag"] <= 0) & (now["action"] >= CONTROL)
    jumps = flies & ~same & np.isin(now["action"], JUMPS)
    for who in (0, 1):
        action = columns["action"][:, who]
        begun = np.maximum.accumulate(np.where(np.diff(action, prepend=-1) != 0, np.arange(len(action)), 0))[:-1]
        former = np.where(same[:, who], action[np.maximum(begun - 1, 0)], action[:-1])
        of = (now["action"], now["state_age"], then["self_x_air"], now["self_x_air"], stick)
        frames = np.stack([*(value[:, who] for value in of), former], axis=1).astype(np.float32)
        yield int(columns["character"][0, who]), frames[goes_on[:, who]], frames[jumps[:, who]]


def told(law: tuple[float, ...], frames: np.ndarray, fighter: Fighter, most: float = NO_LIMIT) -> np.ndarray:
    """Whether a law tells the next velocity of frames (P, 6) of a fighter whose stick may lead it to a share of its
    speed, `most`, (P,)."""
    by_tilt, by_side, of_top, of_friction = law
    v, true, tilt = (torch.from_numpy(np.ascontiguousarray(frames[:, i])) for i in (2, 3, 4))
    a, b = fighter.adds
    fastest = float(physics("air_speed")[fighter.character])
    top = (tilt * fastest * of_top).clamp(-most * fastest, most * fastest)
    friction = torch.full_like(v, float(physics("air_friction")[fighter.character]) * of_friction)
    next_ = driven(v, tilt * a * by_tilt + tilt.sign() * b * by_side, top, friction)
    return ((next_ - true).abs() < CLOSE).numpy()


def law_of(frames: np.ndarray, fighter: Fighter) -> tuple[float, ...]:
    """Frames (P, 6) of a fighter's action → the law of LAWS that tells the most of them, from an age on from which it
    tells nearly all, and that age; nothing where none does. Simple laws come first."""
    ages = np.floor(frames[:, 1])
    best: tuple[float, ...] = ()
    most = ENOUGH * ALL
    for law in LAWS:
        right = told(law, frames, fighter)
        for since in np.unique(ages):
            at = ages >= since
            if at.sum() < ENOUGH or right[at].sum() <= most:
                break
            if right[at].mean() >= ALL:
                best, most = (*law, float(since) if since > ages.min() else 0.0), right[at].sum()
                break
        if best and most >= SURELY * len(frames):
            break
    return best


def laws_of(frames: np.ndarray, fighter: Fighter) -> tuple[list[int], list[tuple[float, ...]]]:
    """A fighter's frames (P, 6) → actions of which one of LAWS tells every step from an age on, and both."""
    action = frames[:, 0]
    actions: list[int] = []
    found: list[tuple[float, ...]] = []
    for one in np.unique(action[~np.isin(action, [*DRIFTS, *FAMILIES["damage"]])]):
        of = frames[action == one]
        law = law_of(of[:: 1 + len(of) // MOST], fighter)
        if law:
            actions.append(int(one))
            found.append(law)
    return actions, found


def falls_of(frames: np.ndarray, fighter: Fighter) -> list[tuple[int, float]]:
    """A fighter's frames (P, 6) → actions after which its helpless fall is held to a share of its speed, and that."""
    found = []
    for former in np.unique(frames[frames[:, 0] == DEAD_FALL][:, 5]):
        of = frames[(frames[:, 0] == DEAD_FALL) & (frames[:, 5] == former)]
        if told((1, 1, 1, 1), of, fighter).mean() >= ALL:
            continue
        share = max(FALLS, key=lambda most: told((1, 1, 1, 1), of, fighter, most).mean())
        if told((1, 1, 1, 1), of, fighter, share).mean() >= ALL:
            found.append((int(former), share))
    return found


def springs_of(jumps: np.ndarray, laws: dict[int, tuple[float, ...]], fighter: Fighter) -> list[tuple[int, float]]:
    """A fighter's frames (P, 6) on which an action begins in the air, the laws of its actions → jumps, and the speed
    that a full stick begins them with."""
    found = []
    for action in np.unique(jumps[:, 0]):
        of, law = jumps[jumps[:, 0] == action], laws.get(int(action), LAWS[1])[:4]
        if (np.abs(of[:, 4]) > 0.3).sum() < FEW:
            continue

        def right(speed: float, of: np.ndarray = of, law: tuple[float, ...] = law) -> float:
            begun = of.copy()
            begun[:, 2] = speed * of[:, 4]
            return float(told(law, begun, fighter).mean())

        speed = max(SPEEDS, key=right)
        if right(speed) >= MANY:
            found.append((int(action), speed))
    return found


def main(folder: Path) -> None:
    dataset = Dataset(folder)
    frames: defaultdict[int, list[np.ndarray]] = defaultdict(list)
    jumps: defaultdict[int, list[np.ndarray]] = defaultdict(list)
    for game in range(len(dataset.frames)):
        for character, goes_on, begins in frames_of(dataset, game):
            frames[character].append(goes_on)
            jumps[character].append(begins)
    key: list[tuple[int, int]] = []
    share: list[tuple[float, ...]] = []
    falls: list[tuple[float, ...]] = []
    springs: list[tuple[float, ...]] = []
    for character, parts in sorted(frames.items()):
        of = np.concatenate(parts)
        everywhere = of[np.isin(of[:, 0], DRIFTS)]
        adds = drift_of(everywhere[:, 4], everywhere[:, 3] - everywhere[:, 2])
        if not adds:  # its games do not show how it drifts
            continue
        fighter = Fighter(character, adds)
        actions, found = laws_of(of, fighter)
        key += [(character, action) for action in actions]
        share += found
        falls += [(character, *fall) for fall in falls_of(of, fighter)]
        laws = dict(zip(actions, found, strict=True))
        springs += [(character, *jump) for jump in springs_of(np.concatenate(jumps[character]), laws, fighter)]
    path = Path(wm_runtime.facts.__file__).parent / "drifts.npz"
    np.savez_compressed(
        path, key=np.array(key, np.int16), share=np.array(share, np.float32),
        falls=np.array(falls, np.float32).reshape(-1, 3), springs=np.array(springs, np.float32),
    )  # fmt: skip
    whole = sum(law[:4] == LAWS[1] for law in share)
    print(f"{len(key)} moves, {whole} of which drift as ever, {len(falls)} falls, {len(springs)} jumps: {path}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
