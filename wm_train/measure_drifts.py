"""Measures how far the stick drives fighters in the actions in which not everybody drifts alike, and writes it into the
facts.

    python -m wm_train.measure_drifts data/train
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

import wm_runtime.facts
from wm_runtime.facts import physics
from wm_runtime.replays.dataset import Dataset
from wm_train.dynamics.candidates import driven
from wm_train.dynamics.laws import DRIFTS
from wm_train.dynamics.tables import drift_of

ENOUGH, ALL, CLOSE, CONTROL = 200, 0.9995, 1e-3, 14
"""A law holds that so many frames show, such a share of them to so many units a frame; actions from CONTROL on."""
LAWS = ((0, 0, 0, 1), (1, 1, 1, 1), (0, 0, 0, 0.5), *((k / 20, 0, k / 20, 1) for k in range(2, 20)))
"""Shares of what the stick's tilt adds, and its side, of the speed that it leads to, and of friction: friction alone,
the whole, half of the friction, and a part of the drift without what the side adds."""


def drifts_of(columns: dict[str, np.ndarray]) -> Iterator[tuple[int, np.ndarray]]:
    """Character and its frames (P, 4) without hitlag in the air, in actions that go on: action, velocity along x, that
    of the next frame, and its stick."""
    then, now = ({n: v[part] for n, v in columns.items()} for part in (slice(0, -1), slice(1, None)))
    flies = (then["airborne"] == 1) & (now["airborne"] == 1) & (then["hitlag"] <= 0) & (now["hitlag"] <= 0)
    flies &= (then["action"] == now["action"]) & (now["action"] >= CONTROL)
    for who in (0, 1):
        at = flies[:, who]
        of = (then["action"], then["self_x_air"], now["self_x_air"], now["main_x"])
        yield int(columns["character"][0, who]), np.stack([value[at, who] for value in of], axis=1)


def laws_of(frames: np.ndarray, character: int) -> tuple[list[int], list[tuple[float, ...]]]:
    """A character's frames (P, 4) → actions of which one of LAWS tells every step, and that."""
    action, velocity, next_, stick = frames.T
    everywhere = np.isin(action, DRIFTS)
    fit = drift_of(stick[everywhere], (next_ - velocity)[everywhere])
    actions: list[int] = []
    found: list[tuple[float, ...]] = []
    for one in np.unique(action[~everywhere]):
        at = action == one
        v, true, tilt = (torch.from_numpy(of[at].astype(np.float32)) for of in (velocity, next_, stick))
        friction = torch.full_like(v, float(physics("air_friction")[character]))
        for by_tilt, by_side, of_top, of_friction in LAWS:
            if at.sum() < ENOUGH or (fit is None and by_tilt):
                continue
            a, b = fit or (0.0, 0.0)
            push = tilt * a * by_tilt + tilt.sign() * b * by_side
            top = tilt * float(physics("air_speed")[character]) * of_top
            if ((driven(v, push, top, friction * of_friction) - true).abs() < CLOSE).float().mean() >= ALL:
                actions.append(int(one))
                found.append((by_tilt, by_side, of_top, of_friction))
                break
    return actions, found


def main(folder: Path) -> None:
    dataset = Dataset(folder)
    frames: defaultdict[int, list[np.ndarray]] = defaultdict(list)
    for game in range(len(dataset.frames)):
        for character, part in drifts_of(dataset.columns(game)):
            frames[character].append(part)
    key: list[tuple[int, int]] = []
    share: list[tuple[float, ...]] = []
    for character, parts in sorted(frames.items()):
        actions, found = laws_of(np.concatenate(parts), character)
        key += [(character, action) for action in actions]
        share += found
    path = Path(wm_runtime.facts.__file__).parent / "drifts.npz"
    np.savez_compressed(path, key=np.array(key, np.int16), share=np.array(share, np.float32))
    print(f"{len(key)} moves, in {sum(law == LAWS[1] for law in share)} of which the stick drives as ever: {path}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
