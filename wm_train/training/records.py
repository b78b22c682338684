"""Frames as a dataset stores them → the raw values that models read, as tensor operations on the device.

Stored, a frame is wm_runtime.replays.layout.FRAME_BYTES bytes: that is what a device holds, and what is sent to it.
Decoded, its values are those of wm_runtime.replays.layout, bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from wm_runtime.replays.layout import BITS, GROUPS, RECORD
from wm_runtime.schema import AXES, CONTROLS, FIELD, FLOAT_FIELDS, INT_FIELDS, M_, PLAYERS

_TYPES = {"f4": torch.float32, "u2": torch.int16, "u1": torch.uint8, "i1": torch.int8, "bits": torch.int16}
_PLACE = {row.name: (group, i) for group, rows in GROUPS.items() for i, row in enumerate(rows)}
"""Field or control → its group and its column in it."""


@dataclass
class Batch:
    """B windows of L raw frames: floats (B, L, 2, F), ints (B, L, 2, I), match (B, L, M), controllers (B, L, 2, 13)."""

    floats: Tensor
    ints: Tensor
    match: Tensor
    controllers: Tensor

    def __len__(self) -> int:
        return len(self.match)

    def to(self, device: torch.device) -> Batch:
        return Batch(*(t.to(device, non_blocking=True) for t in vars(self).values()))


@dataclass
class Stored:
    """B windows of L frames as they are stored: records (B, L, FRAME_BYTES) uint8; first frame and stage of each, (B,)
    int64."""

    records: Tensor
    frame: Tensor
    stage: Tensor

    def __len__(self) -> int:
        return len(self.frame)

    def to(self, device: torch.device) -> Stored:
        return Stored(*(t.to(device, non_blocking=True) for t in vars(self).values()))

    def pinned(self) -> Stored:
        """The same in memory that an accelerator can fetch from meanwhile."""
        return Stored(*(t.pin_memory() for t in vars(self).values()))

    def decode(self) -> Batch:
        """The same windows as raw values, on the device on which the records are."""
        windows, length = self.records.shape[:2]
        tables = _tables(self.records.device)
        groups = _groups(self.records.unflatten(-1, (PLAYERS, RECORD.itemsize)), tables)
        axes = _columns(groups, AXES, torch.float32) / tables.grid
        buttons = (_columns(groups, ("buttons",), torch.int32) & tables.buttons) != 0
        columns = {
            "frame": self.frame[:, None] + torch.arange(length, device=self.frame.device),
            "stage": self.stage[:, None].expand(windows, length),
        }
        return Batch(
            _columns(groups, FLOAT_FIELDS, torch.float32),
            _columns(groups, INT_FIELDS, torch.int32),
            torch.stack([columns[name] for name in M_], dim=-1).int(),
            torch.cat([axes, buttons.float()], dim=-1),
        )


def on_device(read: Stored | Batch, device: torch.device) -> Batch:
    """What was read, decoded already or not → raw values on the device."""
    there = read.to(device)
    return there.decode() if isinstance(there, Stored) else there


def _groups(records: Tensor, tables: _Tables) -> dict[str, Tensor]:
    """(..., bytes of a player) uint8 → group → (..., its values), packed fields a column each."""
    out = {}
    for name, kind in _TYPES.items():
        width, at = RECORD.fields[name][:2]  # type: ignore[index]
        out[name] = records[..., at : at + width.itemsize].contiguous().view(kind)
        if kind == torch.int16:
            out[name] = out[name].int() & 0xFFFF  # stored unsigned
    out["bits"] = (out["bits"] >> tables.shifts) & tables.masks
    for name, meanings in tables.meanings.items():
        column = out["bits"][..., list(BITS).index(name)]
        column.copy_(meanings[column])
    return out


def _columns(groups: dict[str, Tensor], names: tuple[str, ...], kind: torch.dtype) -> Tensor:
    """(..., fields or controls) of these names, in their order."""
    return torch.cat([groups[group][..., first:end].to(kind) for group, first, end in _runs(names)], dim=-1)


@cache
def _runs(names: tuple[str, ...]) -> list[tuple[str, int, int]]:
    """Where these columns are, neighbours together: (group, first column, end)."""
    runs: list[tuple[str, int, int]] = []
    for group, i in (_PLACE[name] for name in names):
        if runs and runs[-1][0] == group and runs[-1][2] == i:
            runs[-1] = (group, runs[-1][1], i + 1)
        else:
            runs.append((group, i, i + 1))
    return runs


@dataclass(frozen=True)
class _Tables:
    """Constants of decoding, on one device. grid: (axes,) · buttons: (buttons,) bits · shifts, masks: (packed fields,)
    · meanings: packed field → what its codes stand for, where that is not the code itself."""

    grid: Tensor
    buttons: Tensor
    shifts: Tensor
    masks: Tensor
    meanings: dict[str, Tensor]


@cache
def _tables(device: torch.device) -> _Tables:
    def ints(values: list[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int32, device=device)

    return _Tables(
        grid=torch.tensor([float(c.grid) for c in CONTROLS if not c.bit], device=device),
        buttons=ints([c.bit for c in CONTROLS if c.bit]),
        shifts=ints([at for at, _ in BITS.values()]),
        masks=ints([(1 << width) - 1 for _, width in BITS.values()]),
        meanings={name: ints(list(FIELD[name].values or ())) for name in BITS if FIELD[name].values},
    )
