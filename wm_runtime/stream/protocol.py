"""`melee-frames`: matches as a sequence of msgpack maps. Streams and recordings are this same sequence.

A sequence is a `match` message, the `frame` messages of that match, perhaps further matches, and an `end` message, one
msgpack object after another with nothing between them. What a frame holds is derived from the field table; the hash
of that table in every `match` message says which. docs/stream.md describes the protocol for other languages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any

import msgpack
import numpy as np

from wm_runtime import facts
from wm_runtime.errors import UserError
from wm_runtime.schema import (
    CONTROL_NAMES,
    CONTROLS,
    FIELDS,
    FLOAT_FIELDS,
    INT_FIELDS,
    PLAYERS,
    State,
    field_table_hash,
    state_layout,
)

PROTOCOL = "melee-frames"
VERSION = 1
MAX_MESSAGE_BYTES = 16 * 2**20
"""Bytes that a reader holds of a message that is not complete yet; a frame is about 900."""

Message = dict[str, Any]

FIELD_KINDS: Mapping[str, type] = {
    f.name: float if f.dtype == "float32" else bool if f.unit == "bool" else int for f in FIELDS
}
"""Field → its type in a frame message."""
CONTROL_KINDS: Mapping[str, type] = {c.name: bool if c.bit else float for c in CONTROLS}
"""Control → its type in a frame message."""


def match_message(state: State, index: int, source: Mapping[str, Any] | None = None) -> Message:
    """The header of the match in row `index`. `source`: whatever msgpack holds (model name, seed, start, …)."""
    stage = int(state["stage"][index])
    return {
        "type": "match",
        "protocol": PROTOCOL,
        "version": VERSION,
        "field_table": field_table_hash(),
        "stage": facts.stage(stage).name,
        "stage_id": stage,
        "players": [
            {"character": facts.character(character).name, "character_id": character}
            for character in state["character"][index].tolist()
        ],
        "source": dict(source or {}),
    }


def frame_message(state: State, index: int, controllers: np.ndarray | None = None) -> Message:
    """Row `index` of a state. `controllers`: (N, 2, 13) float32 that produced it, None where they are not known."""
    return {
        "type": "frame",
        "frame": int(state["frame"][index]),
        "players": [
            {
                **_natural(FIELD_KINDS, FLOAT_FIELDS + INT_FIELDS, [*floats, *ints]),
                "controller": None if controllers is None else _natural(
                    CONTROL_KINDS, CONTROL_NAMES, controllers[index, player].tolist()
                ),
            }
            for player, (floats, ints) in enumerate(
                zip(state.floats[index].tolist(), state.ints[index].tolist(), strict=True)
            )
        ],
    }


def end_message(reason: str) -> Message:
    return {"type": "end", "reason": reason}


def pack(message: Message) -> bytes:
    """A message as msgpack. The floats of a frame are float32, which they are in a state: nothing is rounded."""
    return msgpack.packb(message, use_single_float=message["type"] == "frame")


def decode_frames(match: Message, frames: Sequence[Message], where: str = "the stream") -> tuple[State, np.ndarray]:
    """Frame messages of one match → a State of as many rows and controllers (N, 2, 13) float32.

    Controllers that a message does not know are neutral: zeros. Values of another type raise UserError.
    """
    players = [player for frame in frames for player in frame["players"]]
    layout = {name: shape for name, (shape, _) in state_layout(len(frames)).items()}
    state = State(
        _table(map(_FLOATS, players), FLOAT_FIELDS, np.float32, where).reshape(layout["floats"]),
        _table(map(_INTS, players), INT_FIELDS, np.int32, where).reshape(layout["ints"]),
        np.full(layout["match"], match["stage_id"], np.int32),
    )
    state["frame"] = _table(([frame["frame"]] for frame in frames), ("frame",), np.int32, where)[:, 0]
    controllers = (_CONTROLS(player["controller"] or _NEUTRAL) for player in players)
    shape = (len(frames), PLAYERS, len(CONTROLS))
    return state, _table(controllers, CONTROL_NAMES, np.float32, where).reshape(shape)


def read_messages(chunks: Iterable[bytes], where: str) -> Iterator[Message]:
    """The messages in a sequence of bytes, however it is cut into chunks, each checked for its form and its place.

    `where` names the source in errors. Raises UserError for bytes that are no such sequence, for another version of
    the protocol or the field table, and for a sequence that stops before its `end` message.
    """
    previous = ""
    for message in _objects(chunks, where):
        kind = message.get("type") if isinstance(message, dict) else None
        if kind not in FOLLOWS[previous]:
            wanted = " or ".join(FOLLOWS[previous]) or "nothing"
            found = f"a {kind} message" if kind in tuple(CHECKS) else "something else"
            raise UserError(f"{where} is no {PROTOCOL} sequence: {found} stands where {wanted} should; "
                            "check that mwm wrote it")
        if problem := CHECKS[kind](message):
            raise UserError(f"{where} cannot be read: its {kind} message has {problem}; "
                            "write and read it with the same version of mwm")
        previous = kind
        yield message
    if previous != "end":
        raise UserError(f"{where} broke off before its end message; record it again, or connect again")


def _check_match(message: Message) -> str:
    ours = {"protocol": PROTOCOL, "version": VERSION, "field_table": field_table_hash()}
    for key, wanted in ours.items():
        if message.get(key) != wanted:
            return f"{key} {message.get(key)!r:.40}, not {wanted!r}"
    if not isinstance(message.get("stage"), str) or not isinstance(message.get("source"), dict):
        return "no stage or source"
    players = message.get("players", [])
    if not _are_maps(players, {"character", "character_id"}):
        return f"no {PLAYERS} players with a character each"
    ids = (message.get("stage_id"), *(player["character_id"] for player in players))
    return "" if all(type(i) is int and 0 <= i < 2**16 for i in ids) else "a stage or character that is no id"


def _check_frame(message: Message) -> str:
    players = message.get("players", [])
    if type(message.get("frame")) is not int or not _are_maps(players, {*FIELD_KINDS, "controller"}):
        return f"no frame number or not every field of {PLAYERS} players"
    known = [player["controller"] for player in players if player["controller"] is not None]
    return "" if all(isinstance(c, dict) and c.keys() >= CONTROL_KINDS.keys() for c in known) else "half a controller"


def _check_end(message: Message) -> str:
    return "" if isinstance(message.get("reason"), str) else "no reason"


CHECKS: Mapping[str, Callable[[Message], str]] = {"match": _check_match, "frame": _check_frame, "end": _check_end}
"""Message type → what is wrong with the form of such a message, empty for nothing."""
FOLLOWS: Mapping[str, tuple[str, ...]] = {
    "": ("match", "end"),
    "match": ("match", "frame", "end"),
    "frame": ("match", "frame", "end"),
    "end": (),
}
"""Message type → the types that may come next; the empty one is the beginning."""

_FLOATS, _INTS, _CONTROLS = (itemgetter(*names) for names in (FLOAT_FIELDS, INT_FIELDS, CONTROL_NAMES))
_NEUTRAL: Mapping[str, float] = dict.fromkeys(CONTROL_NAMES, 0.0)


def _natural(kinds: Mapping[str, type], names: Sequence[str], values: Sequence[float]) -> Message:
    return {name: kinds[name](value) for name, value in zip(names, values, strict=True)}


def _are_maps(value: object, keys: set[str]) -> bool:
    """Whether `value` is a list of one map a player, each with at least `keys`."""
    if not isinstance(value, list) or len(value) != PLAYERS:
        return False
    return all(isinstance(v, dict) and v.keys() >= keys for v in value)


def _table(rows: Iterable[Sequence[Any]], names: Sequence[str], dtype: type, where: str) -> np.ndarray:
    """Rows of numbers → (rows, names) of `dtype`; UserError for what is not of its kind or does not fit it."""
    listed = list(rows)
    shape = (len(listed), len(names))
    try:
        found = np.array(listed) if listed else np.empty(shape, dtype)
    except ValueError:  # rows of unlike depth
        found = np.empty(shape, object)
    fits = found.shape == shape and np.can_cast(found.dtype, dtype, "same_kind")
    with np.errstate(over="ignore"):
        table: np.ndarray = found.astype(dtype) if fits else np.empty(0, dtype)
    if not fits or (dtype is np.int32 and not np.array_equal(table, found)):
        raise UserError(f"{where} cannot be read: {names[0]} … {names[-1]} of a frame are not all {dtype.__name__}; "
                        "check that mwm wrote it")
    return table


def _objects(chunks: Iterable[bytes], where: str) -> Iterator[Any]:
    """The msgpack objects in a sequence of bytes."""
    unpacker = msgpack.Unpacker(max_buffer_size=MAX_MESSAGE_BYTES)
    for chunk in chunks:
        try:
            unpacker.feed(chunk)
            found = list(unpacker)
        except (ValueError, msgpack.UnpackException) as error:
            raise UserError(f"{where} is no {PROTOCOL} sequence: its bytes are not msgpack; "
                            "check that mwm wrote it") from error
        yield from found
