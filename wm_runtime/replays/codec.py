"""Columns of frames and items to few bytes and back, bit for bit.

A column is coded after the columns that its prediction looks at, as up to three streams: the gaps between the places
where the first prediction fails, which other prediction is right there, and the values where none is. Gaps and values
are taken in an order that brings like to like (frames: those of each action together), if the table says so, and each
stream is packed by LZMA, which is told how wide its elements are. Two kinds of columns:

- *held* ones keep their value, or their difference from a function of other columns, until it changes;
- *moving* ones (floats) are predicted from the two rows before and from columns of their own row. They are decoded row
  by row, but cut into lanes of LANE rows that go side by side: a step is a few numpy calls for all lanes together.

Predictions are made of +, −, ×, ÷ and √ of float32 alone, which IEEE 754 fixes to the last bit, so that any machine
decodes what another one encoded. A prediction that is NaN never counts as right: of NaN, only the kind is fixed.
"""

from __future__ import annotations

import lzma
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from wm_runtime.replays.layout import BITS, GROUP_DTYPES, GROUP_WIDTHS, GROUPS, RECORD
from wm_runtime.schema import PLAYERS

LANE = 1024
"""Rows of a lane. Its first row has none before it."""
THREADS = 4
"""That pack streams; LZMA lets go of the interpreter."""
NONE = 15
"""Says of a value of a moving column that no prediction is right."""

Columns = Mapping[str, np.ndarray]
"""Name → values (rows,)."""
Predict = Callable[[Columns, Columns, Columns], tuple[np.ndarray, ...]]
"""(this row, the one before, the one before that) → predictions, the likeliest first. Arrays of any one shape."""


@dataclass(frozen=True)
class Held:
    """A column that keeps its value, or its difference from `given` (columns coded before it → integers)."""

    name: str
    given: Callable[[Columns], np.ndarray] | None = None
    ordered: bool = False


@dataclass(frozen=True)
class Moving:
    """A float32 column that is predicted. `relative`: a value that no prediction hits is stored as how many floats
    lie between it and the first prediction."""

    name: str
    predict: Predict
    relative: bool = False
    ordered: bool = True


@dataclass(frozen=True)
class Table:
    """How columns are coded, in this order: `held`, then columns that no row names as Held(ordered=True), `moving`.

    `seen` are the held columns that predictions of moving ones look at; `order(columns)` is the order of ordered ones,
    from the columns of `held` that are not ordered.
    """

    held: tuple[Held, ...]
    moving: tuple[Moving, ...]
    seen: tuple[str, ...] = ()
    order: Callable[[Columns], np.ndarray] | None = None


# --- frames ----------------------------------------------------------------------------------------------------------

DEAD_ZONE, RIM = 23, 80
"""Nearer to the middle the game reads a stick as 0, and none further out. In 80ths."""
TRIGGER_DEAD_ZONE, TRIGGER_FULL, CLICKED = 43, 140, 0x0060
"""The same of triggers, in 140ths; the bits of `buttons` that say that L or R is pressed all the way."""
KNOCKBACK_DECAY = np.float32(0.051)
AIRBORNE = 1 << BITS["airborne"][0]


def _shoulder(c: Columns) -> np.ndarray:
    deeper = np.maximum(c["trigger_l"], c["trigger_r"])
    return np.where(c["buttons"] & CLICKED, TRIGGER_FULL, np.where(deeper < TRIGGER_DEAD_ZONE, 0, deeper))


def _stick(raw: str, other: str) -> Callable[[Columns], np.ndarray]:
    """An axis from what the pad said and the other axis: from beyond the rim, the game pulls a stick back onto it."""

    def given(c: Columns) -> np.ndarray:
        outside = np.where(np.abs(c[raw].astype(np.int16)) < DEAD_ZONE, 0, c[raw])
        rim = np.sqrt(np.maximum(RIM**2 - c[other].astype(np.int32) ** 2, 0)).astype(np.int32)
        return np.clip(outside, -rim, rim)

    return given


def _on(name: str, before: Columns, earlier: Columns) -> np.ndarray:
    """The column goes on changing as it did."""
    return before[name] + (before[name] - earlier[name])


def _keeps(name: str) -> Predict:
    return lambda now, before, earlier: (before[name], _on(name, before, earlier))


def _counts(name: str, step: float) -> Predict:
    return lambda now, before, earlier: (before[name] + np.float32(step), before[name], _on(name, before, earlier))


def _misc_as(now: Columns, before: Columns, earlier: Columns) -> tuple[np.ndarray, ...]:
    """Hitstun counts down; some actions keep a variable there, others count."""
    misc = before["misc_as"]
    return misc, misc - np.float32(1), _on("misc_as", before, earlier)


def _self_x_air(now: Columns, before: Columns, earlier: Columns) -> tuple[np.ndarray, ...]:
    """On the ground it is `self_x_ground` times the slope's cosine: the same on level ground but for a float or two."""
    own = before["self_x_air"]
    level = np.where(now["bits"] & AIRBORNE, own, now["self_x_ground"])
    near = tuple((level.view(np.int32) + floats).view(np.float32) for floats in (-1, 1, -2, 2))
    return level, _on("self_x_air", before, earlier), own, *near


def _knockback(name: str) -> Predict:
    def predict(now: Columns, before: Columns, earlier: Columns) -> tuple[np.ndarray, ...]:
        x, y, own = before["knockback_x"], before["knockback_y"], before[name]
        size = np.sqrt(x * x + y * y)
        decayed = np.where(size > KNOCKBACK_DECAY, own - KNOCKBACK_DECAY * (own / size), np.float32(0))
        return decayed, own, _on(name, before, earlier), np.zeros_like(own)

    return predict


def _moved(name: str, *velocities: str) -> Predict:
    def predict(now: Columns, before: Columns, earlier: Columns) -> tuple[np.ndarray, ...]:
        moved = before[name]
        for velocity in velocities:
            moved = moved + now[velocity]
        return moved, before[name]

    return predict


def _action_order(c: Columns) -> np.ndarray:
    """Frames of each character's action together, those on which it begins in front; in time apart from that."""
    action = c["action"]
    goes_on = np.zeros(len(action), bool)
    goes_on[1:] = action[1:] == action[:-1]
    return np.lexsort((goes_on, c["character"].astype(np.uint16) << 9 ^ action))


FRAMES = Table(
    held=(
        Held("action"),
        Held("character"),
        Held("buttons"),
        Held("trigger_l"),
        Held("trigger_r"),
        Held("shoulder", _shoulder),
        Held("raw_x"),
        Held("raw_y"),
        Held("main_y", _stick("raw_y", "raw_x")),
        Held("main_x", _stick("raw_x", "main_y")),
        Held("c_x"),
        Held("c_y"),
        Held("hitlag"),
        Held("combo_count"),
    ),
    moving=(
        Moving("self_x_ground", _keeps("self_x_ground")),
        Moving("self_x_air", _self_x_air, relative=True),
        Moving("self_y", _keeps("self_y")),
        Moving("knockback_x", _knockback("knockback_x")),
        Moving("knockback_y", _knockback("knockback_y")),
        Moving("x", _moved("x", "self_x_air", "knockback_x"), relative=True),
        Moving("y", _moved("y", "self_y", "knockback_y")),
        Moving("state_age", _counts("state_age", 1)),
        Moving("misc_as", _misc_as),
        Moving("shield", _keeps("shield"), ordered=False),
    ),
    seen=("bits",),
    order=_action_order,
)
_PLACES: Mapping[str, tuple[str, int]] = {
    "bits" if g == "bits" else rows[i].name: (g, i) for g, rows in GROUPS.items() for i in range(GROUP_WIDTHS[g])
}
"""Column of a record → its group and place there; packed fields stay together, as the column `bits`."""


def encode_frames(records: np.ndarray, starts: Iterable[int]) -> bytes:
    """Records (T, 2) of layout.RECORD, of games whose first rows are `starts`, → bytes. First rows are stored whole."""
    columns = {name: records[g][..., i].T.reshape(-1) for name, (g, i) in _PLACES.items()}
    first = np.zeros((PLAYERS, len(records)), bool)
    first[:, list(starts)] = True
    return encode(columns, FRAMES, first.reshape(-1))


def decode_frames(data: bytes) -> np.ndarray:
    """The records that were encoded. `data` must be undamaged: that is checked before (see archive.py)."""
    columns = decode(data, {name: GROUP_DTYPES[g] for name, (g, _) in _PLACES.items()}, FRAMES)
    records = np.empty((len(columns["bits"]) // PLAYERS, PLAYERS), RECORD)
    for name, (g, i) in _PLACES.items():
        records[g][..., i] = columns[name].reshape(PLAYERS, -1).T
    return records


# --- items -----------------------------------------------------------------------------------------------------------

ITEM_KEYS = Table(held=(Held("row_step"), Held("spawn_id")), moving=())
ITEMS = Table(
    held=(),
    moving=(
        Moving("self_x", _keeps("self_x")),
        Moving("self_y", _keeps("self_y")),
        Moving("x", _moved("x", "self_x")),
        Moving("y", _moved("y", "self_y")),
        Moving("timer", _counts("timer", -1)),
    ),
)


def encode_items(columns: Columns) -> bytes:
    """Columns (E,) of a shard's items, in the order of its rows, → bytes. Any columns beside `row` and `spawn_id`."""
    steps = np.diff(columns["row"], prepend=columns["row"].dtype.type(0))
    keys = encode({"row_step": steps, "spawn_id": columns["spawn_id"]}, ITEM_KEYS)
    by_item = np.argsort(columns["spawn_id"], kind="stable")
    rest = {name: column[by_item] for name, column in columns.items() if name not in ("row", "spawn_id")}
    return np.uint32(len(keys)).tobytes() + keys + encode(rest, ITEMS)


def decode_items(data: bytes, dtypes: Mapping[str, np.dtype]) -> dict[str, np.ndarray]:
    """The columns that were encoded; `dtypes` are theirs, by name."""
    end = 4 + int(np.frombuffer(data, "<u4", 1)[0])
    keys = decode(data[4:end], {"row_step": dtypes["row"], "spawn_id": dtypes["spawn_id"]}, ITEM_KEYS)
    row, spawn_id = np.cumsum(keys["row_step"], dtype=dtypes["row"]), keys["spawn_id"]
    by_item = np.argsort(spawn_id, kind="stable")
    columns = {"row": row, "spawn_id": spawn_id}
    rest = {name: dtype for name, dtype in dtypes.items() if name not in columns}
    for name, column in decode(data[end:], rest, ITEMS).items():
        columns[name] = np.empty_like(column)
        columns[name][by_item] = column
    return {name: columns[name] for name in dtypes}


# --- any columns -----------------------------------------------------------------------------------------------------


def encode(columns: Columns, table: Table, first: np.ndarray | None = None) -> bytes:
    """Columns (N,), all as long, → bytes. Where `first` (N,) is True, values are stored whole."""
    length = len(next(iter(columns.values())))
    first = np.zeros(length, bool) if first is None else first
    first[:1] = True
    out = _Writer(length)
    order = _Order(columns, table)
    for held in _held(table, columns):
        at = order.of(held)
        values = _bits(columns[held.name])
        if held.given:
            values = values - held.given(columns).astype(values.dtype)
        changed = first.copy()
        changed[1:] |= values[1:] != values[:-1]
        out.gaps(changed[at])
        out.put(values[at][changed[at]])
    lanes = {name: _lanes(columns[name]) for name in (*(moving.name for moving in table.moving), *table.seen)}
    before, earlier = ({name: _delayed(lane, rows) for name, lane in lanes.items()} for rows in (1, 2))
    for moving in table.moving:
        at = order.of(moving)
        with np.errstate(all="ignore"):
            predictions = moving.predict(lanes, before, earlier)
        true = lanes[moving.name]
        whole = _bits(true) - _base(predictions[0]) if moving.relative else _bits(true)
        right = np.full(true.shape, NONE, np.uint8)
        for i, prediction in reversed(list(enumerate(predictions))):
            right[(_bits(prediction) == _bits(true)) & ~np.isnan(true)] = i
        right = np.where(first, np.uint8(NONE), _flat(right, length))[at]
        out.gaps(right > 0)
        out.put(right[right > 0] << 4)  # LZMA's literal coder looks at the high bits of the byte before
        out.put(_flat(whole, length)[at][right == NONE])
    return out.bytes()


def decode(data: bytes, dtypes: Mapping[str, np.dtype], table: Table) -> dict[str, np.ndarray]:
    """The columns that `encode` was given with the same table; `dtypes` are theirs, by name."""
    streams = _Reader(data)
    index = np.arange(streams.length)
    columns: dict[str, np.ndarray] = {}
    order = _Order(columns, table)
    for held in _held(table, dtypes):
        dtype = dtypes[held.name]
        places = index[order.of(held)][streams.gaps()]
        values, since = np.zeros(len(index), f"u{dtype.itemsize}"), np.zeros_like(index)
        values[places] = streams.take(values.dtype)
        since[places] = places
        values = values[np.maximum.accumulate(since)]
        if held.given:
            values += held.given(columns).astype(values.dtype)
        columns[held.name] = values.view(dtype)
    lanes = {name: _lanes(columns[name]) for name in table.seen}
    right, whole = {}, {}
    for moving in table.moving:
        at = index[order.of(moving)]
        r, w = np.zeros(len(index), np.uint8), np.zeros(len(index), np.uint32)
        places = at[streams.gaps()]
        r[places] = streams.take(r.dtype) >> 4
        w[at[r[at] == NONE]] = streams.take(w.dtype)
        right[moving.name], whole[moving.name] = _lanes(r), _lanes(w)
        lanes[moving.name] = np.zeros(whole[moving.name].shape, np.float32)
    with np.errstate(all="ignore"):
        _step_through(table.moving, lanes, right, whole, rows=min(LANE, len(index)))
    return columns | {name: _flat(lanes[name], len(index)) for name in right}


def _step_through(moving: tuple[Moving, ...], lanes: Columns, right: Columns, whole: Columns, rows: int) -> None:
    """Fills the moving columns of `lanes` (LANE, lanes), a row of all lanes at a time, up to `rows`."""
    now = before = {name: np.zeros_like(lane[0]) for name, lane in lanes.items()}
    for t in range(rows):
        earlier, before, now = before, now, {name: lane[t] for name, lane in lanes.items()}
        for column in moving:
            predictions = column.predict(now, before, earlier)
            stored, which = whole[column.name][t], right[column.name][t]
            value = now[column.name]
            value[:] = (stored + _base(predictions[0]) if column.relative else stored).view(np.float32)
            for i, prediction in enumerate(predictions):
                np.copyto(value, prediction, where=which == i)


def _held(table: Table, names: Iterable[str]) -> tuple[Held, ...]:
    named = {held.name for held in table.held} | {moving.name for moving in table.moving}
    return (*table.held, *(Held(name, ordered=True) for name in names if name not in named))


class _Order:
    """The order of ordered columns, found out when the first of them is met."""

    def __init__(self, columns: Columns, table: Table):
        self._columns, self._table = columns, table
        self._found: np.ndarray | None = None

    def of(self, column: Held | Moving) -> np.ndarray | slice:
        if not (column.ordered and self._table.order):
            return slice(None)
        if self._found is None:
            self._found = self._table.order(self._columns)
        return self._found


def _lanes(column: np.ndarray) -> np.ndarray:
    """(N,) → (LANE, lanes), filled up with zeros."""
    out = np.zeros(-(-len(column) // LANE) * LANE, column.dtype)
    out[: len(column)] = column
    return np.ascontiguousarray(out.reshape(-1, LANE).T)


def _flat(lanes: np.ndarray, length: int) -> np.ndarray:
    """The inverse of `_lanes`."""
    return np.ascontiguousarray(lanes.T).reshape(-1)[:length]


def _delayed(lanes: np.ndarray, rows: int) -> np.ndarray:
    return np.concatenate([np.zeros_like(lanes[:rows]), lanes[:-rows]])


def _bits(values: np.ndarray) -> np.ndarray:
    return values.view(f"u{values.itemsize}")


def _base(prediction: np.ndarray) -> np.ndarray:
    return _bits(np.where(np.isnan(prediction), np.float32(0), prediction))


# --- streams ---------------------------------------------------------------------------------------------------------


class _Writer:
    """Streams one after another; in front (uint32) how many numbers follow, then rows, elements and bytes of each."""

    def __init__(self, length: int):
        self._length = length
        self._streams: list[np.ndarray] = []

    def put(self, values: np.ndarray) -> None:
        self._streams.append(values.astype(values.dtype.newbyteorder(">")))

    def gaps(self, marked: np.ndarray) -> None:
        """Which of the rows are marked: rows passed over before each one that is, a byte plane after another."""
        gaps = np.diff(np.flatnonzero(marked), prepend=-1) - 1
        self.put(np.ascontiguousarray(gaps.astype("<u4").view(np.uint8).reshape(-1, 4).T).reshape(-1))

    def bytes(self) -> bytes:
        with ThreadPoolExecutor(THREADS) as pool:
            packed = list(pool.map(_compress, self._streams))
        sizes = [size for stream, data in zip(self._streams, packed, strict=True) for size in (len(stream), len(data))]
        return np.array([1 + len(sizes), self._length, *sizes], "<u4").tobytes() + b"".join(packed)


class _Reader:
    """Reads the streams back, in the same order."""

    def __init__(self, data: bytes):
        head = np.frombuffer(data, "<u4", 1 + int(np.frombuffer(data, "<u4", 1)[0]))
        self.length, self._sizes = int(head[1]), iter(head[2:].tolist())
        self._data, self._at = data, head.nbytes

    def take(self, dtype: np.dtype) -> np.ndarray:
        elements, size = next(self._sizes), next(self._sizes)
        packed = self._data[self._at : self._at + size]
        self._at += size
        raw = lzma.decompress(packed, lzma.FORMAT_RAW, filters=_filters(dtype.itemsize)) if size else b""
        return np.frombuffer(raw, dtype.newbyteorder(">"), elements).astype(dtype)

    def gaps(self) -> np.ndarray:
        """Rows that are marked."""
        planes = self.take(np.dtype(np.uint8)).reshape(4, -1)
        gaps = np.ascontiguousarray(planes.T).view("<u4").reshape(-1)
        return np.cumsum(gaps.astype(np.int64) + 1) - 1


def _compress(values: np.ndarray) -> bytes:
    return lzma.compress(values.tobytes(), lzma.FORMAT_RAW, filters=_filters(values.itemsize)) if len(values) else b""


def _filters(width: int) -> list[dict]:
    """LZMA for elements of `width` bytes, most significant first: what it learns, it learns by the place in them."""
    places = width.bit_length() - 1
    return [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 1 << 20, "lc": 4 - places, "lp": places, "pb": places}]
