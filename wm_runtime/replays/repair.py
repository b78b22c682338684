"""Byte-level help for replays that peppi-py cannot read though their frames are sound: cut files and old bookends.

Layout of the format: SPEC.md of project-slippi/slippi-wiki.
"""

from __future__ import annotations

import struct

from wm_runtime.schema import FIRST_FRAME

RAW_HEAD = b"{U\x03raw[$U#l"
_RAW = len(RAW_HEAD) + 4
"""Offset of the first event."""
PAYLOADS, GAME_START, ITEM, BOOKEND = 0x35, 0x36, 0x3B, 0x3C
OF_A_FRAME = frozenset((0x37, 0x38, 0x3A, ITEM, BOOKEND, 0x3F, 0x40, 0x41))
"""Events that begin with the number of their frame: pre, post, frame start, item, bookend, and three of stages."""
VELOCITIES = (3, 5)
"""Version since which a post-frame event has all that it has in 3.7."""
BOOKEND_FINALIZED = (3, 7)
"""Version since which a bookend names the last finalised frame; peppi-py panics on shorter ones."""
ITEM_OWNER = (3, 6)
"""Version since which an item says whose it is."""
SCENE, NOBODY = bytes(2), b"\xff"
"""What 3.7 added to the game start (numbers of the scene, here none) and 3.6 to an item."""


class NotRepairable(ValueError):
    """The bytes hold no whole frame of a replay."""


def is_cut(data: bytes) -> bool:
    """Whether the recorder was stopped before it could write the length of the events, or bytes are missing behind it.

    To be asked of a file that peppi-py cannot read: braces in players' names may mislead.
    """
    if not data.startswith(RAW_HEAD) or len(data) < _RAW:
        return False
    end = _end_of_events(data)
    return end == _RAW or end > len(data) or data.count(b"}", end) <= data.count(b"{", end)


def is_short(data: bytes) -> bool:
    """Whether events are missing. peppi-py would take memory for as many as the file says, 4 GB at worst, then fail."""
    return data.startswith(RAW_HEAD) and len(data) >= _RAW and _end_of_events(data) > len(data)


def _end_of_events(data: bytes) -> int:
    """Offset behind the last event, as the file says; that of the first one while it is being recorded."""
    return _RAW + struct.unpack_from(">I", data, len(RAW_HEAD))[0]


def salvage(data: bytes) -> bytes:
    """A cut replay → one that ends after its last whole frame, without game end. Raises NotRepairable.

    Frames that a rollback would have sent again are no whole frames: their values are guesses.
    """
    events, whole, last = [], 0, FIRST_FRAME - 1
    for command, start, end in _events(data):
        events.append((command, start, end))
        if command == BOOKEND:
            whole, last = len(events), max(last, _last_final(data, start, end))
    if last < FIRST_FRAME:
        raise NotRepairable("no whole frame")
    kept = (data[a:b] for command, a, b in events[:whole] if command not in OF_A_FRAME or _frame(data, a, b) <= last)
    return _assemble(b"".join(kept), b"")


def lengthen_bookends(data: bytes) -> bytes:
    """A replay of version 3.5 or 3.6 → the same in the format of 3.7. Raises NotRepairable."""
    version = version_of(data)
    if version is None or not VELOCITIES <= version[:2] < BOOKEND_FINALIZED:
        raise NotRepairable("not of version 3.5 or 3.6")
    longer = {GAME_START: SCENE, BOOKEND: bytes(4), ITEM: NOBODY if version[:2] < ITEM_OWNER else b""}
    out, end_of_events = bytearray(), _RAW
    for command, start, end in _events(data):
        event = bytearray(data[start:end])
        if command == PAYLOADS:
            for i in range(2, len(event), 3):
                size = struct.unpack_from(">H", event, i + 1)[0] + len(longer.get(event[i], b""))
                if size > 0xFFFF:
                    raise NotRepairable("has an event too long to be lengthened")
                struct.pack_into(">H", event, i + 1, size)
        elif command == GAME_START:
            event[1:4] = bytes((*BOOKEND_FINALIZED, 0))
        out += event + (event[1:5] if command == BOOKEND else longer.get(command, b""))
        end_of_events = end
    tail = data[end_of_events:] if end_of_events == _end_of_events(data) else b""
    return _assemble(bytes(out), tail)


def version_of(data: bytes) -> tuple[int, int, int] | None:
    """The format version in the game start event; None where there is none, and before 3.0."""
    try:
        for command, start, end in _events(data):
            if command == GAME_START and end - start > 3:
                return (data[start + 1], data[start + 2], data[start + 3])
    except NotRepairable:
        pass
    return None


def _last_final(data: bytes, start: int, end: int) -> int:
    """Number of the last frame that will not be sent again, as a bookend says; where it does not, that of its frame."""
    return struct.unpack_from(">i", data, start + 5)[0] if end - start >= 9 else _frame(data, start, end)


def _frame(data: bytes, start: int, end: int) -> int:
    """Number of the frame that an event is of. Raises NotRepairable."""
    if end - start < 5:
        raise NotRepairable("has an event without a frame number")
    return struct.unpack_from(">i", data, start + 1)[0]


def event_sizes(data: bytes) -> tuple[dict[int, int], int, int]:
    """Command of each event → its size, command included; offset of the first event behind this table, and the one
    behind the last byte that can belong to one. Raises NotRepairable."""
    if not data.startswith(RAW_HEAD) or len(data) < _RAW + 2 or data[_RAW] != PAYLOADS:
        raise NotRepairable("does not begin like a replay")
    end = _end_of_events(data)
    limit = min(len(data), end) if end > _RAW else len(data)
    first = _RAW + 1 + data[_RAW + 1]
    if first > limit or (data[_RAW + 1] - 1) % 3:
        raise NotRepairable("its table of events is cut")
    sizes = {data[i]: 1 + struct.unpack_from(">H", data, i + 1)[0] for i in range(_RAW + 2, first, 3)}
    if BOOKEND not in sizes:
        raise NotRepairable("has no frame bookends (before version 3.0)")
    return sizes, first, limit


def _events(data: bytes):
    """(command, start, end) of every whole event, in order; stops at the first that is cut or unknown."""
    sizes, at, limit = event_sizes(data)
    yield PAYLOADS, _RAW, at
    while at < limit and data[at] in sizes and at + sizes[data[at]] <= limit:
        end = at + sizes[data[at]]
        yield data[at], at, end
        at = end


def _assemble(events: bytes, tail: bytes) -> bytes:
    """Events and what follows them (metadata and the closing brace, made where there is nothing) → a replay."""
    return RAW_HEAD + struct.pack(">i", len(events)) + events + (tail or b"U\x08metadata{}}")
