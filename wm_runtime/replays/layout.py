"""How the columns of a game lie on disk: grouped by type, small fields packed into bits. Derived from the field table.

A frame of both players takes FRAME_BYTES bytes, every value exactly as recorded. Grouping (rather than a file column a
field) keeps a window of frames on a handful of memory pages, so that random windows cost few disk reads.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from wm_runtime.replays.game import COLUMNS
from wm_runtime.schema import CONTROLS, FIELDS, PLAYERS, RECORDED, Control, Field


def _groups() -> dict[str, tuple[Field | Control, ...]]:
    groups: dict[str, list] = {"f4": [], "u2": [], "u1": [], "i1": [], "bits": []}
    rows: list[Field | Control] = [*FIELDS, *CONTROLS, *RECORDED]
    for row in rows:
        if row.store:
            groups[row.store.partition(":")[0]].append(row)
    return {name: tuple(rows) for name, rows in groups.items()}


GROUPS: Mapping[str, tuple[Field | Control, ...]] = _groups()
"""Group → its rows of the field table, in their order in the group's last axis."""


def _bit_offsets() -> dict[str, tuple[int, int]]:
    at, out = 0, {}
    for row in GROUPS["bits"]:
        width = int(row.store.partition(":")[2])
        out[row.name] = (at, width)
        at += width
    if at > 16:
        raise ValueError("packed fields take more than 16 bits")
    return out


BITS: Mapping[str, tuple[int, int]] = _bit_offsets()
"""Packed field → (first bit, number of bits) in a uint16."""
GROUP_DTYPES: Mapping[str, np.dtype] = {name: np.dtype("u2" if name == "bits" else name) for name in GROUPS}
GROUP_WIDTHS: Mapping[str, int] = {name: 1 if name == "bits" else len(rows) for name, rows in GROUPS.items()}
FRAME_BYTES: int = PLAYERS * sum(GROUP_WIDTHS[g] * GROUP_DTYPES[g].itemsize for g in GROUPS)
"""Bytes of one frame on disk, both players."""
_PLACE: Mapping[str, tuple[str, int]] = {row.name: (g, i) for g, rows in GROUPS.items() for i, row in enumerate(rows)}


def pack(columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Columns (T, 2) → groups (T, 2, width). Raises ValueError naming the field if a value would not come back."""
    frames = len(columns["x"])
    out = {g: np.zeros((frames, PLAYERS, GROUP_WIDTHS[g]), GROUP_DTYPES[g]) for g in GROUPS}
    for g, rows in GROUPS.items():
        for i, row in enumerate(rows):
            codes = _encode(row, columns[row.name])
            if g == "bits":
                at, width = BITS[row.name]
                if codes.max(initial=0) >= 1 << width:
                    raise ValueError(f"{row.name} up to {codes.max()}")
                out[g][..., 0] |= codes.astype(np.uint16) << at
            else:
                out[g][..., i] = codes
    for name, column in columns.items():
        if not np.array_equal(unpack(out, (name,))[name].view(_exact(column)), column.view(_exact(column))):
            raise ValueError(f"{name} does not fit its stored type")
    return out


def unpack(groups: Mapping[str, np.ndarray], names: Iterable[str] = tuple(COLUMNS)) -> dict[str, np.ndarray]:
    """Groups (..., 2, width) → columns (..., 2) of the types in COLUMNS."""
    return {name: _decode(groups, name) for name in names}


def _exact(column: np.ndarray) -> np.dtype:
    """The integer type through which floats compare bit for bit (NaN and −0 included)."""
    return np.dtype(f"u{column.dtype.itemsize}")


def _encode(row: Field | Control, column: np.ndarray) -> np.ndarray:
    if isinstance(row, Control):
        return np.rint(column * row.grid) if row.grid > 1 else column
    if row.values:
        return np.searchsorted(row.values, column)
    return column


def _decode(groups: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    group, i = _PLACE[name]
    row = GROUPS[group][i]
    if group == "bits":
        at, width = BITS[name]
        codes = (groups[group][..., 0] >> at) & ((1 << width) - 1)
        assert isinstance(row, Field)
        return np.asarray(row.values, np.int32)[codes] if row.values else codes.astype(COLUMNS[name])
    codes = groups[group][..., i]
    if isinstance(row, Control) and row.grid > 1:
        return (codes.astype(np.float32) / np.float32(row.grid)).astype(np.float32)
    return codes.astype(COLUMNS[name], copy=False)
