"""Controllers as classes: which sets of buttons, stick positions and shoulder depths a policy chooses among.

Positions are taken from the training games, mirrored pairs together, so that mirroring a controller exchanges classes
and changes nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from wm_runtime.schema import AXES, BUTTONS, C_, CONTROL_NAMES, CONTROLS

HEADS: tuple[str, ...] = ("buttons", "main", "c", "shoulder")
"""What is chosen, in this order: each choice sees the earlier ones."""
COLUMNS: Mapping[str, tuple[int, ...]] = {
    "buttons": tuple(C_[name] for name in BUTTONS),
    "main": (C_["main_x"], C_["main_y"]),
    "c": (C_["c_x"], C_["c_y"]),
    "shoulder": (C_["shoulder"],),
}
"""Columns of a controller that each head decides."""
MIRRORED: tuple[int, ...] = (C_["main_x"], C_["c_x"])
"""Columns that change sign when left and right are exchanged."""
SHOULDERS = (0, 49, 94, 140)
"""Depths in 140ths: none, that of Z, between, full."""
GRID, SHOULDER_GRID = CONTROLS[C_["main_x"]].grid, CONTROLS[C_["shoulder"]].grid
_X_THRESHOLDS, _Y_THRESHOLDS = (1, 64), (-53, -22, 23, 54)
"""In 80ths: aside at all, a dash; the dead zone, a tap jump or fast fall. No position stands for one beyond."""
_CROSSING = (100_000, 900)
"""Squared distance that crossing a threshold of x, of y counts as. The former is more than any other: what is straight
up or down stays so, and is its own mirror image."""
_CANDIDATES, _ROUNDS = 400, 5


@dataclass(frozen=True)
class Codebook:
    """Head → (K, columns) whole numbers: 0/1 for buttons, 80ths for sticks, 140ths for the shoulder."""

    codes: Mapping[str, np.ndarray]

    @property
    def sizes(self) -> dict[str, int]:
        return {head: len(self.codes[head]) for head in HEADS}

    def table(self, head: str) -> np.ndarray:
        """(K, 13) float32: the controller that each class of a head stands for, 0 in the columns of other heads."""
        out = np.zeros((len(self.codes[head]), len(CONTROL_NAMES)), np.float32)
        for i, column in enumerate(COLUMNS[head]):
            grid = CONTROLS[column].grid if CONTROL_NAMES[column] in AXES else 1
            out[:, column] = self.codes[head][:, i].astype(np.float32) / np.float32(grid)
        return out

    def mirror(self, head: str) -> np.ndarray:
        """(K,) the class that each class becomes when left and right are exchanged."""
        codes = self.codes[head]
        if head not in ("main", "c"):
            return np.arange(len(codes))
        return np.array([int(np.flatnonzero((codes == (-x, y)).all(axis=1))[0]) for x, y in codes.tolist()])

    def classes(self, controllers: np.ndarray) -> np.ndarray:
        """Controllers (..., 13) → (..., 4) uint8, the nearest class of each head."""
        out = np.empty((*controllers.shape[:-1], len(HEADS)), np.uint8)
        bits = (controllers[..., COLUMNS["buttons"]] > 0.5) @ (1 << np.arange(len(BUTTONS)))
        out[..., 0] = self._button_classes()[bits]
        for i, head in ((1, "main"), (2, "c")):
            x, y = (np.rint(controllers[..., column] * GRID).astype(np.int16) + GRID for column in COLUMNS[head])
            out[..., i] = self._stick_classes(head)[x, y]
        depth = np.rint(controllers[..., C_["shoulder"]] * SHOULDER_GRID)
        out[..., 3] = np.abs(depth[..., None] - self.codes["shoulder"][:, 0]).argmin(axis=-1)
        return out

    def controllers(self, classes: np.ndarray) -> np.ndarray:
        """Classes (..., 4) → controllers (..., 13) float32."""
        parts = [self.table(head)[classes[..., i]] for i, head in enumerate(HEADS)]
        return np.asarray(np.sum(parts, axis=0, dtype=np.float32))

    def to_json(self) -> dict[str, list]:
        return {head: codes.tolist() for head, codes in self.codes.items()}

    @classmethod
    def from_json(cls, rows: Mapping[str, list]) -> Codebook:
        return cls({head: np.array(rows[head], np.int64) for head in HEADS})

    def _button_classes(self) -> np.ndarray:
        """(256,) the set of buttons nearest to each; the commoner of two that are equally near."""
        pressed = (np.arange(1 << len(BUTTONS))[:, None] >> np.arange(len(BUTTONS))) & 1
        return (pressed[:, None] != self.codes["buttons"]).sum(axis=-1).argmin(axis=1).astype(np.uint8)

    def _stick_classes(self, head: str) -> np.ndarray:
        """(161, 161) the class nearest to each position (x + 80, y + 80); mirrored exactly."""
        codes = self.codes[head]
        right = np.flatnonzero(codes[:, 0] >= 0)
        x, y = np.meshgrid(np.arange(GRID + 1), np.arange(-GRID, GRID + 1), indexing="ij")
        points = np.stack([x.ravel(), y.ravel()], axis=1)
        nearest = right[_distance(points, codes[right]).argmin(axis=1)].reshape(x.shape)
        return np.concatenate([self.mirror(head)[nearest[:0:-1]], nearest]).astype(np.uint8)


def make_codebook(controllers: np.ndarray, main_sticks: int, c_sticks: int, button_sets: int) -> Codebook:
    """The codebook of controllers (N, 13) with about so many classes; fewer where fewer positions occur."""
    bits = (controllers[:, COLUMNS["buttons"]] > 0.5) @ (1 << np.arange(len(BUTTONS)))
    found, counts = np.unique(bits, return_counts=True)
    common = found[np.argsort(-counts, kind="stable")[:button_sets]]
    return Codebook(
        {
            "buttons": (common[:, None] >> np.arange(len(BUTTONS))) & 1,
            "main": _positions(controllers[:, COLUMNS["main"]], main_sticks),
            "c": _positions(controllers[:, COLUMNS["c"]], c_sticks),
            "shoulder": np.array(SHOULDERS)[:, None],
        }
    )


def _positions(stick: np.ndarray, size: int) -> np.ndarray:
    """About `size` of the positions (N, 2) held: one after another the one that brings all others nearest, then the
    commonest of each one's neighbours. First those with x ≥ 0, then the mirrored ones; centre is always the first."""
    codes = np.rint(np.abs(stick, where=[True, False], out=stick.copy()) * GRID).astype(np.int64)
    points, counts = np.unique(np.concatenate([codes, [[0, 0]]]), axis=0, return_counts=True)
    weight = np.sqrt(counts)
    candidates = points[np.argsort(-counts, kind="stable")[:_CANDIDATES]]
    distance = _distance(points, candidates)
    chosen = [int(np.flatnonzero((candidates == 0).all(axis=1))[0])]
    error = distance[:, chosen[0]]
    while sum(1 + (candidates[i][0] > 0) for i in chosen) < size:
        gain = weight @ (error[:, None] - distance).clip(min=0)
        if gain.max() <= 0:
            break
        chosen.append(int(gain.argmax()))
        error = np.minimum(error, distance[:, chosen[-1]])
    right = candidates[chosen]
    for _ in range(_ROUNDS):
        nearest = _distance(points, right).argmin(axis=1)
        right = np.stack([points[nearest == i][counts[nearest == i].argmax()] for i in range(len(right))])
    return np.concatenate([right, right[right[:, 0] > 0] * (-1, 1)])


def _distance(points: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """(P, 2) and (K, 2) with x ≥ 0 → (P, K) squared distances in 80ths, with _CROSSING for each threshold between."""
    out = np.zeros((len(points), len(codes)))
    for axis, (thresholds, cost) in enumerate(zip((_X_THRESHOLDS, _Y_THRESHOLDS), _CROSSING, strict=True)):
        a, b = points[:, None, axis], codes[None, :, axis]
        out += (a - b) ** 2 + cost * np.abs(np.digitize(a, thresholds) - np.digitize(b, thresholds))
    return out
