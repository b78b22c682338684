"""Of a recording that broke off, --salvage takes the whole frames and no others; --derive works out what is missing."""

import io
import struct
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from damage import Damage, damages
from hypothesis import example, given, settings
from hypothesis import strategies as st

from synthetic import synthetic_game
from wm_runtime.replays.events import EVENTS, events_of, structure
from wm_runtime.replays.game import COLUMNS, Game
from wm_runtime.replays.layout import StoredGame
from wm_runtime.replays.reasons import LeftOut
from wm_runtime.replays.repair import NotRepairable, is_cut, lengthen_bookends, salvage, version_of
from wm_runtime.replays.slp import ReadOptions, read_bytes
from wm_runtime.replays.writer import Oddities, write_slp
from wm_runtime.schema import FIRST_FRAME, ITEM_FIELDS

Version = tuple[int, int, int]
NEW: Version = (3, 16, 0)
HEAD = 15
"""Bytes of a replay before its first event; the last four are the length of all events."""
SALVAGE, DERIVE, BOTH = ReadOptions(salvage=True), ReadOptions(derive=True), ReadOptions(salvage=True, derive=True)
ROLLBACKS = ((FIRST_FRAME, 2), (FIRST_FRAME + 10, 7), (FIRST_FRAME + 12, 3), (FIRST_FRAME + 30, 6))


def with_items(game: Game) -> Game:
    """An item on every second frame, two on every sixth."""
    rows = np.arange(len(game))
    frame = FIRST_FRAME + np.sort(np.concatenate([rows[::2], rows[::6]]))
    items = {f.name: (np.arange(len(frame)) % 100).astype(f.store) for f in ITEM_FIELDS}
    items |= {"frame": frame.astype(np.int32), "owner": (np.arange(len(frame)) % 3 - 1).astype(np.int8)}
    return replace(game, items=items)


def written(game: Game, version: Version = NEW, **oddities: object) -> bytes:
    file = io.BytesIO()
    write_slp(file, game, version=version, oddities=Oddities(**oddities))  # type: ignore[arg-type]
    return file.getvalue()


def frames_sent(content: bytes, version: Version = NEW) -> Iterator[tuple[int, int]]:
    """Number of every frame in the order in which they were sent, and the offset at which it is whole."""
    sizes = {EVENTS[name].command: structure(name, version).itemsize for name in events_of(version)}
    at = HEAD + 1 + content[HEAD + 1]
    while content[at] in sizes:
        command, start = content[at], at
        at += sizes[command]
        if command == EVENTS["bookend"].command:
            yield struct.unpack_from(">i", content, start + 1)[0], at


def final_frames(content: bytes, version: Version = NEW) -> tuple[list[int], list[int]]:
    """Offsets at which frames are whole, and how many frames from the first on have by then been sent for good."""
    frames, ends = zip(*frames_sent(content, version), strict=True)
    to_come = np.minimum.accumulate([*frames[1:], frames[-1] + 1][::-1])[::-1]
    return list(ends), (np.minimum(np.array(frames) + 1, to_come) - FIRST_FRAME).tolist()


def outcome(content: bytes, options: ReadOptions | None = None) -> StoredGame | LeftOut:
    try:
        return read_bytes(content, "test", options)
    except LeftOut as reason:
        return reason


def left_out(content: bytes, options: ReadOptions | None = None) -> tuple[str, str]:
    found = outcome(content, options)
    assert isinstance(found, LeftOut)
    return found.reason, found.detail


def assert_begins_as(found: StoredGame | LeftOut, whole: StoredGame, frames: int) -> None:
    """Bit for bit, items included."""
    assert isinstance(found, StoredGame), found
    assert len(found) == frames
    assert found.records.tobytes() == whole.records[:frames].tobytes()
    items = np.searchsorted(whole.items["frame"], FIRST_FRAME + frames)
    assert {n: c.tobytes() for n, c in found.items.items()} == {n: c[:items].tobytes() for n, c in whole.items.items()}


GAME = with_items(synthetic_game(3, 60))
CONTENTS = {"one copy of every frame": written(GAME), "rolled back": written(GAME, resent=ROLLBACKS)}
UNCUT = read_bytes(CONTENTS["one copy of every frame"], "test")


# --- cut recordings --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CONTENTS)
@given(kept=st.floats(0, 1, exclude_max=True))
@settings(max_examples=60, deadline=None)
@example(kept=0.0)
@example(kept=0.9999)
def test_wherever_a_recording_is_cut_exactly_its_whole_frames_are_salvaged(kind: str, kept: float) -> None:
    content = CONTENTS[kind]
    cut = content[: int(kept * len(content))]
    reason, detail = left_out(cut)
    assert reason == "unreadable"
    assert is_cut(cut) == detail.startswith("cut: ") == (len(cut) >= HEAD)
    assert detail.endswith("--salvage takes its whole frames") or len(cut) < HEAD
    ends, final = final_frames(content)
    whole = bisect_right(ends, len(cut))
    frames = final[whole - 1] if whole else 0
    found = outcome(cut, SALVAGE)
    if frames:
        assert_begins_as(found, UNCUT, frames)
        assert isinstance(found, StoredGame)
        assert (found.info.cut, found.info.end_method, found.info.date) == (True, 0, "")
    else:
        assert isinstance(found, LeftOut)
        assert found.reason == "unreadable"
        assert found.detail.startswith("cut, and ") or len(cut) < HEAD


def test_a_cut_within_a_rollback_leaves_no_frame_that_would_have_been_sent_again() -> None:
    content = CONTENTS["rolled back"]
    ends, final = final_frames(content)
    assert sum(frame + 1 - FIRST_FRAME != n for (frame, _), n in zip(frames_sent(content), final, strict=True)) >= 15
    for end, frames in zip(ends, final, strict=True):
        if frames:
            assert_begins_as(outcome(content[: end + 1], SALVAGE), UNCUT, frames)


def test_a_recorder_that_was_stopped_leaves_a_file_that_can_be_salvaged() -> None:
    """It had not yet written the length of the events."""
    stopped = written(GAME, cut=True)
    assert is_cut(stopped)
    assert left_out(stopped)[1].startswith("cut: ")
    assert_begins_as(outcome(stopped, SALVAGE), UNCUT, len(GAME) - 1)


@pytest.mark.parametrize("length", [0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF], ids=hex)
def test_a_file_that_claims_gigabytes_is_a_cut_one(length: int) -> None:
    content = CONTENTS["rolled back"]
    claims = content[: HEAD - 4] + struct.pack(">I", length) + content[HEAD:]
    assert left_out(claims)[1].startswith("cut: ")
    assert_begins_as(outcome(claims, SALVAGE), UNCUT, len(GAME))


def test_options_change_nothing_about_a_sound_replay() -> None:
    for content in CONTENTS.values():
        assert not is_cut(content)
        found = outcome(content, BOTH)
        assert_begins_as(found, UNCUT, len(GAME))
        assert isinstance(found, StoredGame)
        assert found.info == replace(UNCUT.info, md5=found.info.md5)


@pytest.mark.parametrize("content", [b"", b"Dear diary", bytes(1000), b"{U\x03raw[$U#l\0\0\0\0"[:-1]], ids=len)
def test_what_is_no_replay_is_no_cut_one_either(content: bytes) -> None:
    assert not is_cut(content)
    assert not left_out(content, BOTH)[1].startswith("cut")
    with pytest.raises(NotRepairable):
        salvage(content)


# --- versions that lack something ------------------------------------------------------------------------------------


def with_hitlag(runs: list[list[tuple[int, int]]], frames: int) -> Game:
    """GAME with hitlag that counts down in runs of (frames without before, length) for each player, and its flag."""
    game = synthetic_game(3, frames)
    hitlag = np.zeros((frames, 2), np.float32)
    for player, player_runs in enumerate(runs):
        at = 0
        for gap, length in player_runs:
            at += gap
            if at + length < frames:
                hitlag[at : at + length, player] = np.arange(length, 0, -1)
            at += length
    flags = np.where(hitlag > 0, game.columns["flags_2"] | 0x20, game.columns["flags_2"] & ~0x20).astype(np.int32)
    return replace(game, columns={**game.columns, "hitlag": hitlag, "flags_2": flags})


RUNS = st.lists(st.tuples(st.integers(1, 12), st.integers(1, 20)), max_size=8)


@pytest.mark.parametrize("version", [(3, 5, 0), (3, 6, 0), (3, 6, 1), (3, 7, 0)], ids=str)
@given(runs=st.tuples(RUNS, RUNS).map(list))
@settings(max_examples=15, deadline=None)
@example(runs=[[(1, 20), (1, 1), (1, 5)], [(3, 4)]])
def test_derived_hitlag_is_the_true_one_and_all_else_as_recorded(version: Version, runs: list) -> None:
    game = with_hitlag(runs, 80)
    content = written(game, version=version, resent=ROLLBACKS)
    found = outcome(content, DERIVE)
    assert isinstance(found, StoredGame), found
    assert (found.info.derived, found.info.version, found.info.cut) == (("hitlag",), version, False)
    columns = found.game().columns
    unrecorded = {"raw_y": np.zeros_like(game.columns["raw_y"])}
    for name in COLUMNS:
        assert columns[name].tobytes() == {**game.columns, **unrecorded}[name].tobytes(), name


@pytest.mark.parametrize("version", [(3, 5, 0), (3, 6, 0)], ids=str)
def test_before_3_6_items_are_nobodys(version: Version) -> None:
    found = outcome(written(GAME, version=version), DERIVE)
    assert isinstance(found, StoredGame), found
    owner = GAME.items["owner"] if version >= (3, 6, 0) else np.full_like(GAME.items["owner"], -1)
    assert np.array_equal(found.items["owner"], owner)
    assert np.array_equal(found.items["spawn_id"], GAME.items["spawn_id"])


def test_hitlag_that_is_recorded_is_not_derived() -> None:
    game = synthetic_game(3, 80)
    game.columns["hitlag"] = game.columns["hitlag"] + np.float32(1)  # as no flag would have it
    found = outcome(written(game, version=(3, 8, 0)), DERIVE)
    assert isinstance(found, StoredGame)
    assert found.info.derived == ()
    assert np.array_equal(found.game().columns["hitlag"], game.columns["hitlag"])


@pytest.mark.parametrize("version", [(3, 5, 0), (3, 6, 0), (3, 6, 1), (3, 7, 0)], ids=str)
def test_what_only_lacks_hitlag_is_left_out_with_a_hint_unless_derive_is_asked_for(version: Version) -> None:
    """The reason is `version` from 3.7 on; before, peppi-py panics, and `unreadable` is what the manifest expects."""
    reason, detail = left_out(written(GAME, version=version), SALVAGE)
    assert reason == ("version" if version >= (3, 7, 0) else "unreadable")
    assert detail == ".".join(map(str, version)) + ": only hitlag is missing; --derive works it out"


@pytest.mark.parametrize("version", [(2, 0, 0), (3, 0, 0), (3, 1, 0), (3, 2, 0), (3, 3, 0), (3, 4, 0)], ids=str)
def test_what_lacks_velocities_is_left_out_whatever_is_asked_for(version: Version) -> None:
    content = written(GAME, version=version)
    assert left_out(content) == left_out(content, BOTH)
    assert left_out(content)[0] in ("version", "unreadable")
    assert not left_out(content)[1].startswith("cut")


@pytest.mark.parametrize("version", [(3, 6, 0), (3, 7, 0)], ids=str)
def test_a_cut_recording_of_an_old_version_needs_both(version: Version) -> None:
    content = written(GAME, version=version, cut=True)
    assert left_out(content)[1].startswith("cut: ")
    assert left_out(content, DERIVE)[1].startswith("cut: ")
    assert left_out(content, SALVAGE)[1].endswith("--derive works it out")
    found = outcome(content, BOTH)
    assert isinstance(found, StoredGame), found
    assert (len(found), found.info.cut, found.info.derived) == (len(GAME) - 1, True, ("hitlag",))


def test_bookends_are_lengthened_in_3_5_and_3_6_only() -> None:
    for version in [(3, 5, 0), (3, 6, 2)]:
        content = written(GAME, version=version)
        longer = lengthen_bookends(content)
        assert (version_of(content), version_of(longer)) == (version, (3, 7, 0))
        assert list(frame for frame, _ in frames_sent(longer, (3, 7, 0))) == list(range(FIRST_FRAME, FIRST_FRAME + 60))
        assert longer.endswith(content[content.index(b"U\x08metadata") :])
    for version in [(3, 4, 9), (3, 7, 0), NEW]:
        content = written(GAME, version=version)
        assert version_of(content) == version
        with pytest.raises(NotRepairable, match=r"not of version 3\.5 or 3\.6"):
            lengthen_bookends(content)


# --- damaged bytes ---------------------------------------------------------------------------------------------------

SHORT = written(synthetic_game(1, 4), version=(3, 6, 0))


@given(damage=st.lists(damages(SHORT), min_size=1, max_size=3))
@settings(max_examples=300, deadline=None)
@example(damage=[Damage(SHORT.index(b"\x36\x01") + 1, 2, b"\xff\xff"), Damage(1000, 0, bytes(70_000))])
@example(damage=[Damage(HEAD + 2, 10**6, b"\x36\x00\x00")])
def test_the_worst_that_damaged_bytes_do_to_a_repair_is_that_there_is_none(damage: list[Damage]) -> None:
    content = SHORT
    for each in damage:
        content = each.of(content)
    assert is_cut(content) in (True, False)
    assert version_of(content) is None or len(version_of(content)) == 3
    for repair in (salvage, lengthen_bookends):
        try:
            repaired = repair(content)
        except NotRepairable:
            continue
        assert repaired.startswith(content[: HEAD - 4])
        assert not is_cut(repaired) or repair is lengthen_bookends
