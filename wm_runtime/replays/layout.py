"""How the columns of a game lie on disk: grouped by type, small fields packed into bits. Derived from the field table.

A frame of both players is one record of FRAME_BYTES bytes, every value exactly as recorded. Records (rather than a
file column a field) keep a window of frames on three or four pages in a row, so that a random window is one disk read.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import groupby

import numpy as np

from wm_runtime.replays.game import COLUMNS, Game, GameInfo
from wm_runtime.replays.sticks import as_read
from wm_runtime.schema import (
    C_,
    CONTROLS,
    FIELDS,
    FIRST_FRAME,
    FLOAT_FIELDS,
    INT_FIELDS,
    PLAYERS,
    RECORDED,
    Control,
    Field,
    State,
    state_layout,
)


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
RECORD = np.dtype([(g, GROUP_DTYPES[g].newbyteorder("<"), (GROUP_WIDTHS[g],)) for g in GROUPS])
"""One player of one frame on disk; its fields are the groups."""
_FLAT = [(row.name, RECORD[g].base) for g in GROUPS if g != "bits" for row in GROUPS[g]]
BY_NAME = np.dtype([*_FLAT, ("bits", RECORD["bits"].base)])
"""The same bytes with a field for every row, but for those that are packed into bits."""
FRAME_BYTES: int = PLAYERS * RECORD.itemsize
"""Bytes of one frame on disk, both players."""
_PLACE: Mapping[str, tuple[str, int]] = {row.name: (g, i) for g, rows in GROUPS.items() for i, row in enumerate(rows)}


@dataclass
class StoredGame:
    """A game in the form in which it is stored: `records` (T, 2) of RECORD instead of columns."""

    info: GameInfo
    records: np.ndarray
    items: dict[str, np.ndarray]
    first_frame: int = FIRST_FRAME

    @classmethod
    def of(cls, game: Game) -> StoredGame:
        """Raises ValueError naming the field if a value would not come back."""
        return cls(game.info, pack(game.columns), game.items, game.first_frame)

    def game(self) -> Game:
        return Game(self.info, unpack(self.records), self.first_frame, self.items)

    def __len__(self) -> int:
        return len(self.records)


def pack(columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """Columns (T, 2) → records (T, 2) of RECORD. Raises ValueError naming the field if a value would not come back."""
    out = np.zeros((len(columns["x"]), PLAYERS), RECORD)
    put(out, {name: columns[name] for name in COLUMNS})
    return out


def put(records: np.ndarray, columns: Mapping[str, np.ndarray]) -> None:
    """Writes columns (T, 2) into records (T, 2) that hold 0 there so far. Raises ValueError naming the field if a value
    would not come back."""
    bits = np.zeros(records.shape, np.uint16)
    for name, values in columns.items():
        group, i = _PLACE[name]
        codes = _encode(GROUPS[group][i], group, values)
        if group == "bits":
            bits |= codes.astype(np.uint16) << np.uint16(BITS[name][0])
        else:
            records[group][..., i] = codes
    records["bits"][..., 0] |= bits


def unpack(records: np.ndarray, names: Iterable[str] = tuple(COLUMNS)) -> dict[str, np.ndarray]:
    """Records (..., 2) → columns (..., 2) of the types in COLUMNS."""
    return {name: _decode(records, name) for name in names}


def _runs(names: tuple[str, ...]) -> tuple[tuple[str, slice, slice], ...]:
    """Columns that stand together, in the same order, in a group too: (group, columns in it, columns of `names`)."""
    places = [(at, *_PLACE[name]) for at, name in enumerate(names) if _PLACE[name][0] != "bits"]
    runs = []
    for _, found in groupby(places, lambda place: (place[1], place[0] - place[2])):
        run = list(found)
        (at, group, i), many = run[0], len(run)
        runs.append((group, slice(i, i + many), slice(at, at + many)))
    return tuple(runs)


_RUNS_OF_FLOATS, _RUNS_OF_INTS = _runs(FLOAT_FIELDS), _runs(INT_FIELDS)


def unpack_batch(records: np.ndarray, frame: np.ndarray, stage: np.ndarray) -> tuple[State, np.ndarray]:
    """Records (T, 2), frame numbers and stage ids (T,) → State of T matches and their controllers (T, 2, 13).

    All in one piece of memory: of several, as large as a batch's are, the C library would give some back to the system
    after every batch, and to have them anew takes longer than to fill them.
    """
    layout = [*state_layout(len(records)).values(), ((*records.shape, len(CONTROLS)), np.float32)]
    sizes = [math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in layout]
    pieces = np.split(np.empty(sum(sizes), np.uint8), np.cumsum(sizes)[:-1])
    arrays = [piece.view(dtype).reshape(shape) for piece, (shape, dtype) in zip(pieces, layout, strict=True)]
    state = unpack_state(records, frame, stage, State(*arrays[:-1]))
    return state, unpack_controllers(records, arrays[-1])


def unpack_state(records: np.ndarray, frame: np.ndarray, stage: np.ndarray, out: State | None = None) -> State:
    """Records (T, 2), frame numbers and stage ids (T,) → State of T matches, written over `out` if that is given."""
    state = State.zeros(len(records)) if out is None else out
    for values, runs in ((state.floats, _RUNS_OF_FLOATS), (state.ints, _RUNS_OF_INTS)):
        for group, of_group, of_values in runs:
            values[..., of_values] = records[group][..., of_group]
    bits = np.ascontiguousarray(records["bits"][..., 0])
    for row in GROUPS["bits"]:
        state[row.name] = _from_bits(row, bits)
    state["frame"], state["stage"] = frame, stage
    return state


def unpack_controllers(records: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Records (T, 2) → controllers (T, 2, 13) float32 as the game reads them (`sticks`), written over `out` if that is
    given."""
    out = np.empty((*records.shape, len(CONTROLS)), np.float32) if out is None else out
    buttons = np.ascontiguousarray(_decode(records, "buttons"))
    for i, control in enumerate(CONTROLS):
        out[..., i] = (buttons & control.bit) != 0 if control.bit else _decode(records, control.name)
    x, y = C_["main_x"], C_["main_y"]
    out[..., x], out[..., y] = as_read(out[..., x], out[..., y], _decode(records, "raw_x"), _decode(records, "raw_y"))
    return out


def _encode(row: Field | Control, group: str, column: np.ndarray) -> np.ndarray:
    """The codes that are stored for a column. Raises ValueError for a value that they cannot stand for."""
    if group == "f4":
        return column
    if isinstance(row, Field) and row.values:
        codes, known = np.zeros(column.shape, np.uint8), np.zeros(column.shape, bool)
        for code, value in enumerate(row.values):
            alike = column == value
            codes += np.uint8(code) * alike
            known |= alike
        if not known.all():
            raise ValueError(f"{row.name} has values other than {row.values}")
        return codes
    if column.dtype.kind == "f":
        column = _on_grid(row, np.float32(row.grid if isinstance(row, Control) else 1), GROUP_DTYPES[group], column)
    low, high = (0, (1 << BITS[row.name][1]) - 1) if group == "bits" else _limits(GROUP_DTYPES[group])
    if not all_within(column, low, high):
        raise ValueError(f"{row.name} from {column.min()} to {column.max()}, stored in {low} to {high}")
    return column


def _on_grid(row: Field | Control, grid: np.float32, dtype: np.dtype, column: np.ndarray) -> np.ndarray:
    """How many `grid`-ths each value is, as `dtype`. Whatever does not come back bit for bit, −0 and NaN included, is
    refused: that also tells what is out of range."""
    with np.errstate(invalid="ignore"):
        codes = np.rint(column * grid).astype(dtype)
    if ((codes / grid).view(np.uint32) != np.ascontiguousarray(column).view(np.uint32)).any():
        low, high = _limits(dtype)
        raise ValueError(f"{row.name} has values that are no whole number of 1/{grid:g}, or none from {low} to {high}")
    return codes


@cache
def _limits(dtype: np.dtype) -> tuple[int, int]:
    info = np.iinfo(dtype)
    return int(info.min), int(info.max)


def all_within(values: np.ndarray, low: float, high: float) -> bool:
    """Whether no value is below `low` or above `high`, nor NaN. Looks only where the type leaves a doubt."""
    least, most = _limits(values.dtype) if values.dtype.kind in "iu" else (-np.inf, np.inf)
    if not values.size:
        return True
    return (least >= low or bool(values.min() >= low)) and (most <= high or bool(values.max() <= high))


def _decode(records: np.ndarray, name: str) -> np.ndarray:
    group, i = _PLACE[name]
    row = GROUPS[group][i]
    if group == "bits":
        return _from_bits(row, records[group][..., 0]).astype(COLUMNS[name], copy=False)
    codes = records[group][..., i]
    if isinstance(row, Control) and row.grid > 1:
        return codes / np.float32(row.grid)
    return codes.astype(COLUMNS[name], copy=False)


def _from_bits(row: Field | Control, bits: np.ndarray) -> np.ndarray:
    """A packed field's values, from the uint16 that all of them share."""
    at, width = BITS[row.name]
    codes = (bits >> at) & ((1 << width) - 1)
    return np.asarray(row.values, np.int32)[codes] if isinstance(row, Field) and row.values else codes
