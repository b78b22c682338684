"""The frames of an ordinary replay straight from its bytes: all events found, checked and read at once.

A frame of an ordinary match is a frame start, a pre-frame event of each player, events of the stage, items, a
post-frame event of each player, and a bookend. Where every frame of a file is that, the distances between frame starts
tell where each event lies. Nothing is taken on trust: the command, frame number and player of every event are compared
with what must be there, so that whoever walks from event to event comes by the same places. peppi-py reads all other
files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from wm_runtime.replays.events import EVENTS, Version, structure
from wm_runtime.replays.layout import BY_NAME, RECORD
from wm_runtime.replays.repair import GAME_START, NotRepairable, event_sizes
from wm_runtime.schema import CONTROLS, FIELDS, PLAYERS, RECORDED

SPLITTER = 0x10
"""Carries a part of what is too long for an event: the codes that alter the game, between game start and frames."""
OF_THE_STAGE = (0x3F, 0x40, 0x41)
"""Platforms of Fountain of Dreams, wind of Dream Land, transformations of Stadium (3.18 and later)."""
_FRAME, _PLAYER = 0xFFFF_FFFF << 8, 0xFFFF << 40
"""Frame number, and port and follower, in the first eight bytes of an event, read as a little-endian number."""


@dataclass(frozen=True)
class LocatedFrames:
    """Where the events of F frames, as sent, lie in `data`. Of pre- and post-frame events there are two in a row, in
    the order of ports; of items `item_counts` in a row."""

    ids: np.ndarray
    """(F,) int32 numbers of the frames."""
    data: bytes
    version: Version
    pre: np.ndarray
    post: np.ndarray
    items: np.ndarray
    """(F,) offsets of the first event of each kind."""
    item_counts: np.ndarray
    followers = False

    def read(self, rows: np.ndarray | slice) -> tuple[np.ndarray, dict[str, np.ndarray], set[str]]:
        """The frames in `rows`: records (T, 2) of layout.RECORD that hold what is stored as it is recorded, else 0;
        name → values (T, 2) as recorded; the names of those that the records hold."""
        columns: dict[str, np.ndarray] = {}
        records, stored = np.zeros((len(self.pre[rows]), PLAYERS), RECORD), set()
        for event, at in (("pre", self.pre), ("post", self.post)):
            events = _gather(self.data, at[rows], structure(event, self.version), PLAYERS)
            names = [name for name in events.dtype.names or () if _EVENT.get(name) == event]
            alike = [name for name in names if _is_stored_as(name, events.dtype[name])]
            records.view(BY_NAME)[alike] = events[alike]
            stored |= set(alike)
            for name in names:
                native = events.dtype[name].newbyteorder("=")
                columns[name] = events[name] if name in stored else np.ascontiguousarray(events[name], native)
        return records, columns, stored

    def items_of(self, rows: np.ndarray | slice) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """How many items each of the frames in `rows` has, (T,), and name → (E,) values of all of them."""
        kind, counts = structure("item", self.version), self.item_counts[rows]
        events = _gather(self.data, _each(self.items[rows], counts, kind.itemsize), kind)
        return counts, {name: events[name] for name in kind.names or ()}


_EVENT = {row.name: row.source.partition(".")[0] for rows in (FIELDS, CONTROLS, RECORDED) for row in rows if row.store}
"""Name → the event that records it."""


def _is_stored_as(name: str, dtype: np.dtype) -> bool:
    return name in (BY_NAME.names or ()) and BY_NAME[name] == dtype.newbyteorder("<")


def locate_frames(data: bytes, version: Version, ports: tuple[int, int]) -> LocatedFrames | None:
    """Where the frames of a match between two `ports` lie in a replay's bytes; None if it is no ordinary one."""
    size = {name: structure(name, version).itemsize for name in EVENTS}
    span = _span(data, size)
    if span is None:
        return None
    begin, stop, sizes = span
    fixed = size["frame_start"] + PLAYERS * (size["pre"] + size["post"]) + size["bookend"]
    starts = _frame_starts(data, begin, stop - fixed + 1, size)
    if not len(starts) or starts[0] != begin:
        return None
    pre = starts + size["frame_start"]
    first_of_stage = pre + PLAYERS * size["pre"]
    item_counts, rest = np.divmod(np.diff(starts, append=stop) - fixed, size["item"])
    if item_counts.min() < 0:
        return None
    stage_size, stage_command = 1, 0
    if rest.any():
        stage_command = data[first_of_stage[rest > 0][0]]
        stage_size = sizes.get(stage_command, 1)
        if stage_command not in OF_THE_STAGE:
            return None
    stage_counts, rest = np.divmod(rest, stage_size)
    items = first_of_stage + stage_counts * stage_size
    post = items + item_counts * size["item"]

    heads = np.ndarray(len(data) - 7, "<u8", data, strides=(1,))
    frame = heads[starts] & _FRAME

    def all_are(command: int, at: np.ndarray, of: np.ndarray = frame, player: int | None = None) -> bool:
        expected, mask = of | command, 0xFF | _FRAME
        if player is not None:
            expected, mask = expected | (player << 40), mask | _PLAYER
        return bool(((heads[at] & mask) == expected).all())

    whole = not rest.any() and all_are(EVENTS["bookend"].command, post + PLAYERS * size["post"])
    for place, port in enumerate(ports):
        whole = whole and all_are(EVENTS["pre"].command, pre + place * size["pre"], player=port)
        whole = whole and all_are(EVENTS["post"].command, post + place * size["post"], player=port)
    for command, at, counts, step in (
        (EVENTS["item"].command, items, item_counts, size["item"]),
        (stage_command, first_of_stage, stage_counts, stage_size),
    ):
        whole = whole and all_are(command, _each(at, counts, step), np.repeat(frame, counts))
    if not whole:
        return None
    ids = (frame >> 8).astype("<u4").view(">i4").astype(np.int32)
    return LocatedFrames(ids, data, version, pre, post, items, item_counts)


def _span(data: bytes, size: Mapping[str, int]) -> tuple[int, int, Mapping[int, int]] | None:
    """Offsets of the first frame start and behind the last bookend, and the sizes of events by their commands; None if
    events have other sizes than `size`, or something else lies around the frames."""
    try:
        sizes, at, end = event_sizes(data)
    except NotRepairable:
        return None
    if any(sizes.get(event.command) != size[name] for name, event in EVENTS.items()):
        return None
    stop = end - size["game_end"]
    if stop <= at or data[at] != GAME_START:
        return None
    at += size["game_start"]
    while at < stop and data[at] == SPLITTER and SPLITTER in sizes:
        at += sizes[SPLITTER]
    if at >= stop or data[at] != EVENTS["frame_start"].command or data[stop] != EVENTS["game_end"].command:
        return None
    return at, stop, sizes


def _frame_starts(data: bytes, begin: int, stop: int, size: Mapping[str, int]) -> np.ndarray:
    """Offsets from `begin` to `stop` that look like frame starts: behind a bookend, but for the first, and before two
    pre-frame events. What lies in between must show whether they are."""
    raw = np.frombuffer(data, np.uint8)
    at = np.flatnonzero(raw[begin : max(begin, stop)] == EVENTS["frame_start"].command) + begin
    like = raw[at - size["bookend"]] == EVENTS["bookend"].command
    like[:1] = True
    for place in range(PLAYERS):
        like &= raw[at + size["frame_start"] + place * size["pre"]] == EVENTS["pre"].command
    return at[like]


def _each(first: np.ndarray, counts: np.ndarray, step: int) -> np.ndarray:
    """Offsets of all events of runs of `counts` events, `step` bytes apart, the first ones at `first`."""
    before = np.cumsum(counts) - counts
    return np.repeat(first - before * step, counts) + np.arange(counts.sum()) * step


def _gather(data: bytes, at: np.ndarray, kind: np.dtype, in_a_row: int = 1) -> np.ndarray:
    """Events at the offsets `at` (N,) → (N,) of `kind`, or (N, in_a_row)."""
    width = kind.itemsize * in_a_row
    everywhere = np.ndarray(len(data) - width + 1, f"V{width}", data, strides=(1,))
    events = everywhere[at].view(kind)
    return events.reshape(-1, in_a_row) if in_a_row > 1 else events
