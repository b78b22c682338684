"""The one table of fields. What is stored, stepped, streamed, shown and encoded is derived from its rows.

Units are the game's own: position in units (a fighter is about 10 tall), velocity in units a frame, percent in percent,
time in frames of 1/60 s. Values are those of Slippi's post-frame event ("source" names the peppi-py column), the
controllers those of its pre-frame event. Source: Slippi replay format, SPEC.md of project-slippi/slippi-wiki; ranges
and exact grids (sticks are multiples of 1/80, triggers of 1/140, hitlag whole) were measured on 171 real games.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np

PLAYERS = 2
FIRST_FRAME = -123
"""Slippi's number of a game's first frame; players have control from frame 0 at the latest."""
MATCH_FRAMES = 8 * 60 * 60
"""Length of a match's timer in frames, from frame 0."""
NO_GROUND = 65535
"""`ground` of a fighter that has stood on nothing yet."""
NO_PLAYER = 6
"""`last_hit_by` of a fighter that nobody has hit."""


@dataclass(frozen=True)
class Field:
    """One per-player field of the game's state.

    `dtype` is its type in a state (float32 or int32), `store` its type on disk: a numpy type code, or `bits:N` for N
    bits of a packed byte. `offset` is added before bits are packed (facing is −1 or 1). `classes` is the number of
    values of a categorical field. `role` is "state" for what changes from frame to frame, "constant" for the rest.
    """

    name: str
    dtype: Literal["float32", "int32"]
    store: str
    source: str
    unit: str
    low: float
    high: float
    doc: str
    classes: int | None = None
    role: Literal["state", "constant"] = "state"
    values: tuple[int, ...] | None = None
    """For packed fields: the values that the codes 0, 1, … stand for (default: the code itself)."""


F = Field
FIELDS: tuple[Field, ...] = (
    F("x", "float32", "f4", "post.position.x", "units", -300, 300, "horizontal position"),
    F("y", "float32", "f4", "post.position.y", "units", -300, 300, "vertical position of the feet"),
    F("percent", "float32", "f4", "post.percent", "percent", 0, 999, "damage taken in this stock"),
    F("shield", "float32", "f4", "post.shield", "shield health", 0, 60, "size of the shield"),
    F("state_age", "float32", "f4", "post.state_age", "frames", -2, 1000, "animation frame of the action state"),
    F("misc_as", "float32", "f4", "post.misc_as", "", -np.inf, np.inf, "hitstun left, or a variable of the action"),
    F("self_x_air", "float32", "f4", "post.velocities.self_x_air", "units/frame", -20, 20, "own velocity x, airborne"),
    F("self_y", "float32", "f4", "post.velocities.self_y", "units/frame", -20, 20, "own velocity y"),
    F("knockback_x", "float32", "f4", "post.velocities.knockback_x", "units/frame", -20, 20, "knockback velocity x"),
    F("knockback_y", "float32", "f4", "post.velocities.knockback_y", "units/frame", -20, 20, "knockback velocity y"),
    F("self_x_ground", "float32", "f4", "post.velocities.self_x_ground", "units/frame", -20, 20,
      "own velocity x, grounded"),
    F("hitlag", "float32", "u1", "post.hitlag", "frames", 0, 30, "frames of hitlag left"),
    F("action", "int32", "u2", "post.state", "id", 0, 399, "action state", classes=400),
    F("ground", "int32", "u2", "post.ground", "id", 0, NO_GROUND, "surface last stood on"),
    F("character", "int32", "u1", "post.character", "internal id", 0, 32, "fighter", classes=33, role="constant"),
    F("last_attack", "int32", "u1", "post.last_attack_landed", "id", 0, 255, "move that last hit", classes=128),
    F("combo_count", "int32", "u1", "post.combo_count", "hits", 0, 255, "hits landed in the present combo"),
    F("flags_1", "int32", "u1", "post.state_flags.0", "bits", 0, 255, "state flag byte 1"),
    F("flags_2", "int32", "u1", "post.state_flags.1", "bits", 0, 255, "state flag byte 2: 0x08 fast fall, 0x20 hitlag"),
    F("flags_3", "int32", "u1", "post.state_flags.2", "bits", 0, 255, "state flag byte 3 (0x80 shielding)"),
    F("flags_4", "int32", "u1", "post.state_flags.3", "bits", 0, 255, "state flag byte 4 (0x02 hitstun)"),
    F("flags_5", "int32", "u1", "post.state_flags.4", "bits", 0, 255, "state flag byte 5 (0x40 dead, 0x80 off screen)"),
    F("facing", "int32", "bits:1", "post.direction", "sign", -1, 1, "−1 left, 1 right", classes=2, values=(-1, 1)),
    F("airborne", "int32", "bits:1", "post.airborne", "bool", 0, 1, "1 in the air", classes=2),
    F("hurtbox", "int32", "bits:2", "post.hurtbox_state", "id", 0, 2, "0 vulnerable, 1 invulnerable, 2 intangible",
      classes=3),
    F("l_cancel", "int32", "bits:2", "post.l_cancel", "id", 0, 2, "0 none, 1 done, 2 missed; on the frame of landing",
      classes=3),
    F("jumps", "int32", "bits:3", "post.jumps", "jumps", 0, 6, "jumps left", classes=7),
    F("stocks", "int32", "bits:3", "post.stocks", "stocks", 0, 4, "stocks left", classes=5),
    F("last_hit_by", "int32", "bits:3", "post.last_hit_by", "id", 0, NO_PLAYER,
      "player index that last hit, 6 for nobody", classes=7),
)
FLOAT_FIELDS: tuple[str, ...] = tuple(f.name for f in FIELDS if f.dtype == "float32")
INT_FIELDS: tuple[str, ...] = tuple(f.name for f in FIELDS if f.dtype == "int32")
FIELD: Mapping[str, Field] = {f.name: f for f in FIELDS}
F_: Mapping[str, int] = {name: i for i, name in enumerate(FLOAT_FIELDS)}
"""Column of each float field in `State.floats`."""
I_: Mapping[str, int] = {name: i for i, name in enumerate(INT_FIELDS)}
"""Column of each int field in `State.ints`."""

MATCH_FIELDS: tuple[str, ...] = ("frame", "stage")
"""Per-match int32 columns: frame number (−123 …) and stage id of the replays."""
M_: Mapping[str, int] = {name: i for i, name in enumerate(MATCH_FIELDS)}

VELOCITIES: tuple[str, ...] = ("self_x_air", "self_y", "knockback_x", "knockback_y", "self_x_ground")


@dataclass(frozen=True)
class Control:
    """One column of a controller: an axis (a whole number of `grid`-ths, stored as that number) or a button (a bit of
    the physical mask `buttons`, which is what is stored)."""

    name: str
    source: str
    low: float
    high: float
    store: str = ""
    grid: int = 1
    bit: int = 0


C = Control
CONTROLS: tuple[Control, ...] = (
    C("main_x", "pre.joystick.x", -1, 1, "i1", grid=80),
    C("main_y", "pre.joystick.y", -1, 1, "i1", grid=80),
    C("c_x", "pre.cstick.x", -1, 1, "i1", grid=80),
    C("c_y", "pre.cstick.y", -1, 1, "i1", grid=80),
    C("shoulder", "pre.triggers", 0, 1, "u1", grid=140),
    C("a", "buttons", 0, 1, bit=0x0100),
    C("b", "buttons", 0, 1, bit=0x0200),
    C("x_button", "buttons", 0, 1, bit=0x0400),
    C("y_button", "buttons", 0, 1, bit=0x0800),
    C("z", "buttons", 0, 1, bit=0x0010),
    C("l", "buttons", 0, 1, bit=0x0040),
    C("r", "buttons", 0, 1, bit=0x0020),
    C("d_up", "buttons", 0, 1, bit=0x0008),
)
"""The 13 numbers of a controller that a model sees, in the order of its columns."""
RECORDED: tuple[Control, ...] = (
    C("trigger_l", "pre.triggers_physical.l", 0, 1, "u1", grid=140),
    C("trigger_r", "pre.triggers_physical.r", 0, 1, "u1", grid=140),
    C("raw_x", "pre.raw_analog_x", -128, 127, "i1"),
    C("raw_y", "pre.raw_analog_y", -128, 127, "i1"),
    C("buttons", "pre.buttons_physical", 0, 0x1FFF, "u2"),
)
"""What a replay records of a controller beyond those; kept in datasets, unseen by models."""
CONTROL_NAMES: tuple[str, ...] = tuple(c.name for c in CONTROLS)
AXES: tuple[str, ...] = tuple(c.name for c in CONTROLS if not c.bit)
BUTTONS: tuple[str, ...] = tuple(c.name for c in CONTROLS if c.bit)
C_: Mapping[str, int] = {name: i for i, name in enumerate(CONTROL_NAMES)}
"""Column of each control in a controller array `(N, 2, 13)` float32."""


@dataclass(frozen=True)
class ItemField:
    """One column of the items (projectiles, turnips, …) that a replay records; `store` is its numpy type."""

    name: str
    store: str
    source: str
    unit: str
    doc: str


ITEM_FIELDS: tuple[ItemField, ...] = (
    ItemField("frame", "i4", "frame", "frame", "number of the frame"),
    ItemField("type", "u2", "type", "id", "kind of item"),
    ItemField("state", "u1", "state", "id", "state of the item, by kind"),
    ItemField("facing", "f4", "direction", "sign", "−1 left, 1 right"),
    ItemField("x", "f4", "position.x", "units", "horizontal position"),
    ItemField("y", "f4", "position.y", "units", "vertical position"),
    ItemField("self_x", "f4", "velocity.x", "units/frame", "velocity x"),
    ItemField("self_y", "f4", "velocity.y", "units/frame", "velocity y"),
    ItemField("damage", "u2", "damage", "percent", "damage that the item has taken"),
    ItemField("timer", "f4", "timer", "frames", "frames until it expires"),
    ItemField("spawn_id", "u4", "id", "id", "number of the item in its game, from 0"),
    ItemField("misc_0", "u1", "misc.0", "", "missile kind (Samus), or face of a turnip (Peach)"),
    ItemField("misc_1", "u1", "misc.1", "", "see misc_0"),
    ItemField("misc_2", "u1", "misc.2", "", "whether a charge shot was launched"),
    ItemField("misc_3", "u1", "misc.3", "", "how far a charge shot is charged"),
    ItemField("owner", "i1", "owner", "player index", "0 or 1, −1 for nobody"),
    ItemField("instance", "u2", "instance_id", "id", "Slippi's instance id (3.16 and later, else 0)"),
)
"""Items as columns, a row for each item on each frame, in the order of frames."""


@dataclass
class State:
    """N matches at one moment, raw game values, two players.

    floats: (N, 2, len(FLOAT_FIELDS)) float32 · ints: (N, 2, len(INT_FIELDS)) int32 · match: (N, 2) int32.
    """

    floats: np.ndarray
    ints: np.ndarray
    match: np.ndarray

    @classmethod
    def zeros(cls, n: int) -> State:
        """`n` matches with every value 0."""
        return cls(*(np.zeros(shape, dtype) for shape, dtype in state_layout(n).values()))

    def __len__(self) -> int:
        return len(self.match)

    def __getitem__(self, name: str) -> np.ndarray:
        """A view of a field by name: (N, 2) for players' fields, (N,) for `frame` and `stage`."""
        if name in F_:
            return self.floats[..., F_[name]]
        if name in I_:
            return self.ints[..., I_[name]]
        return self.match[..., M_[name]]

    def __setitem__(self, name: str, value: object) -> None:
        self[name][...] = value

    def rows(self, index: object) -> State:
        """The matches that `index` selects, as a copy for fancy indices and a view for slices."""
        return State(self.floats[index], self.ints[index], self.match[index])  # type: ignore[call-overload]

    def copy(self) -> State:
        return State(self.floats.copy(), self.ints.copy(), self.match.copy())


def state_layout(n: int) -> dict[str, tuple[tuple[int, ...], type]]:
    """Name → (shape, dtype) of the arrays that make up a state of `n` matches, in the artifact's order."""
    return {
        "floats": ((n, PLAYERS, len(FLOAT_FIELDS)), np.float32),
        "ints": ((n, PLAYERS, len(INT_FIELDS)), np.int32),
        "match": ((n, len(MATCH_FIELDS)), np.int32),
    }


def field_table_hash() -> str:
    """Sixteen hex digits that change whenever a row, its order, type or meaning of columns changes."""
    rows = [{k: v for k, v in asdict(f).items() if k != "doc"} for f in FIELDS]
    table = {"fields": rows, "match": MATCH_FIELDS, "controls": [asdict(c) for c in CONTROLS]}
    return hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()[:16]
