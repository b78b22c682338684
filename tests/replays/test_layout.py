"""What is stored of a frame comes back exactly, in 140 bytes, and what would not come back is refused by name."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from synthetic import synthetic_game
from wm_runtime.replays.game import COLUMNS
from wm_runtime.replays.layout import BITS, FRAME_BYTES, GROUPS, pack, unpack
from wm_runtime.schema import CONTROLS, FIELDS, RECORDED, Control, Field

STORED: dict[str, Field | Control] = {
    row.name: row for row in (*FIELDS, *(c for c in CONTROLS if not c.bit), *RECORDED)
}
FRAMES = 3
ANY_BITS = arrays(np.uint32, (FRAMES, 2), elements=st.integers(0, 2**32 - 1)).map(lambda bits: bits.view(np.float32))
"""Floats of every kind: NaN with any payload, infinities, subnormal numbers, −0."""


def values_of(row: Field | Control) -> st.SearchStrategy[np.ndarray]:
    """A column (FRAMES, 2) of what a row may hold."""
    dtype = COLUMNS[row.name]
    if row.store == "f4":
        return ANY_BITS
    if isinstance(row, Field) and row.values:
        return arrays(dtype, (FRAMES, 2), elements=st.sampled_from(row.values))
    steps = st.integers(int(row.low * grid_of(row)), int(row.high * grid_of(row)))
    return arrays(np.int32, (FRAMES, 2), elements=steps).map(lambda n: (n / np.float32(grid_of(row))).astype(dtype))


def grid_of(row: Field | Control) -> int:
    return row.grid if isinstance(row, Control) else 1


@given(columns=st.fixed_dictionaries({name: values_of(row) for name, row in STORED.items()}))
@settings(max_examples=100, deadline=None)
def test_every_value_that_the_field_table_allows_comes_back_exactly(columns: dict[str, np.ndarray]) -> None:
    held = unpack(pack(columns))
    assert list(held) == list(COLUMNS)
    for name, column in held.items():
        assert column.dtype == COLUMNS[name], name
        assert column.tobytes() == columns[name].tobytes(), name


@pytest.fixture(scope="module")
def columns() -> dict[str, np.ndarray]:
    return synthetic_game(3, 250).columns


def test_a_frame_of_both_players_takes_140_bytes(columns) -> None:
    records = pack(columns)
    assert FRAME_BYTES == 140
    assert (records.shape, records.nbytes) == ((len(columns["x"]), 2), 140 * len(columns["x"]))


def test_every_stored_row_of_the_table_has_one_place() -> None:
    assert sorted(row.name for rows in GROUPS.values() for row in rows) == sorted(STORED) == sorted(COLUMNS)


def test_packed_fields_share_no_bit() -> None:
    taken = [bit for first, width in BITS.values() for bit in range(first, first + width)]
    assert len(taken) == len(set(taken))
    assert max(taken) < 16


def test_columns_can_be_unpacked_alone_and_from_a_part_of_the_frames(columns) -> None:
    held = unpack(pack(columns)[50:60], ("percent", "facing", "main_x"))
    assert set(held) == {"percent", "facing", "main_x"}
    assert all(np.array_equal(column, columns[name][50:60]) for name, column in held.items())


def test_columns_that_do_not_lie_in_one_piece_are_packed_too(columns) -> None:
    views = {name: column[::-2] for name, column in columns.items()}
    assert all(np.array_equal(column, views[name]) for name, column in unpack(pack(views)).items())


def outside(row: Field | Control) -> list[float]:
    """Values that the column of a row can have and its place on disk cannot."""
    if row.store.startswith("bits:"):
        width = int(row.store.removeprefix("bits:"))
        return [-1, 1 << width] if not isinstance(row, Field) or not row.values else [0, 2, -2]
    limits = np.iinfo(row.store)
    past = [limits.min - 1, limits.max + 1]
    if COLUMNS[row.name] == np.float32:
        steps = [*past, 0.5, np.nan, np.inf]
        return [*(step / grid_of(row) for step in steps), -0.0]
    return past if COLUMNS[row.name] == np.int32 else []


OUTSIDE = [(name, value) for name, row in STORED.items() if row.store != "f4" for value in outside(row)]


@pytest.mark.parametrize(("name", "value"), OUTSIDE, ids=lambda part: str(part))
@pytest.mark.filterwarnings("error")
def test_a_value_that_would_not_come_back_is_refused_by_name(name: str, value: float, columns) -> None:
    wrong = columns[name].copy()
    wrong[5, 1] = value
    with pytest.raises(ValueError, match=rf"^{name} "):
        pack({**columns, name: wrong})
