"""One match as arrays: what a .slp file is read into, what the dataset stores, what the .slp writer writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from wm_runtime.replays.sticks import as_read
from wm_runtime.schema import (
    AXES,
    CONTROLS,
    FIELDS,
    FIRST_FRAME,
    FLOAT_FIELDS,
    INT_FIELDS,
    ITEM_FIELDS,
    RECORDED,
    State,
    state_layout,
)

COLUMNS: Mapping[str, np.dtype] = {
    **{f.name: np.dtype(f.dtype) for f in FIELDS},
    **{c.name: np.dtype(np.float32) for c in CONTROLS if not c.bit},
    **{c.name: np.dtype(c.store if c.grid == 1 else np.float32) for c in RECORDED},
}
"""Name → dtype of the columns of a game: every field, every axis, and what else is recorded of a controller."""


def no_items() -> dict[str, np.ndarray]:
    """The items of a game without any."""
    return {row.name: np.empty(0, row.store) for row in ITEM_FIELDS}


@dataclass
class GameInfo:
    """What is known of a game beside its frames. Players stand in the order of their ports."""

    stage: int
    characters: tuple[int, int]
    """Internal ids at the first frame."""
    ports: tuple[int, int] = (0, 1)
    md5: str = ""
    source: str = ""
    version: tuple[int, int, int] = (3, 16, 0)
    date: str = ""
    end_method: int = 0
    """Slippi's game end method: 0 none recorded, 1 time, 2 game, 7 no contest."""
    winner: int = -1
    """Player index, −1 where it cannot be told."""
    names: tuple[str, str] = ("", "")
    random_seed: int = 0
    """Of the game's start block; both players' replays of one match have the same."""
    cut: bool = False
    """The recording broke off; these are its whole frames."""
    derived: tuple[str, ...] = ()
    """Columns that were not recorded but worked out, or filled in where nothing is known."""


@dataclass
class Game:
    """`columns`: name → (T, 2) arrays as in COLUMNS; row 0 is frame `first_frame`, the rest follow without gaps."""

    info: GameInfo
    columns: dict[str, np.ndarray]
    first_frame: int = FIRST_FRAME
    items: dict[str, np.ndarray] = field(default_factory=no_items)
    """Name → (E,) arrays as in schema.ITEM_FIELDS, a row for each item on each frame, in the order of frames."""

    def __len__(self) -> int:
        return len(self.columns["x"])

    def state(self) -> State:
        """All T frames as a batch of T states."""
        return state_of(self.columns, np.arange(self.first_frame, self.first_frame + len(self)), self.info.stage)

    def controllers(self) -> np.ndarray:
        """(T, 2, 13) float32, the controllers that produced each frame."""
        return controllers_of(self.columns)


def state_of(columns: Mapping[str, np.ndarray], frame: np.ndarray, stage: int | np.ndarray) -> State:
    """Columns of (T, 2) → a State of T matches; `frame` and `stage` are (T,) or scalars."""
    n = len(columns["x"])
    floats = np.stack([columns[name] for name in FLOAT_FIELDS], axis=-1, dtype=np.float32)
    ints = np.stack([columns[name] for name in INT_FIELDS], axis=-1, dtype=np.int32, casting="unsafe")
    match = np.empty(state_layout(n)["match"][0], np.int32)
    state = State(floats, ints, match)
    state["frame"] = frame
    state["stage"] = stage
    return state


def controllers_of(columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """Columns of (T, 2) → controllers (T, 2, 13) float32 as the game reads them (`sticks`)."""
    buttons = columns["buttons"]
    x, y = as_read(*(columns[name] for name in ("main_x", "main_y", "raw_x", "raw_y")))
    read = {**columns, "main_x": x, "main_y": y}
    return np.stack(
        [read[c.name] if c.name in AXES else (buttons & c.bit) != 0 for c in CONTROLS], axis=-1, dtype=np.float32,
        casting="unsafe",
    )
