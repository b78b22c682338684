"""Recordings: what is written is read back bit for bit, and nothing else is taken for a recording."""

import gzip
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wm_runtime import facts, recording
from wm_runtime.errors import UserError
from wm_runtime.recording import RecordingWriter, read_recording
from wm_runtime.schema import AXES, C_, CONTROLS, FIELDS, PLAYERS, State
from wm_runtime.stream.protocol import end_message, frame_message, match_message, pack

STAGE = facts.stage("FINAL_DESTINATION").id


def played(frames, seed=0):
    """`frames` frames of random values, every bit pattern of a float32 among them but NaN, and their controllers."""
    rng = np.random.default_rng(seed)
    state = State.zeros(frames)
    floats = rng.integers(0, 2**32, state.floats.shape, np.uint32).view(np.float32)
    state.floats[:] = np.where(np.isnan(floats), np.float32(0.1), floats)
    for field in FIELDS:
        if field.dtype == "int32":
            choices = field.values or range(int(field.low), int(field.high) + 1)
            state[field.name] = rng.choice(choices, (frames, PLAYERS))
    state["character"] = [facts.character("FOX").internal_id, facts.character("MARTH").internal_id]
    state["frame"] = np.arange(-123, frames - 123)
    state["stage"] = STAGE
    controllers = rng.integers(0, 2, (frames, PLAYERS, len(CONTROLS))).astype(np.float32)
    controllers[..., : len(AXES)] = rng.integers(-80, 81, (frames, PLAYERS, len(AXES))) / np.float32(80)
    return state, controllers


def write(path, state, controllers, **source):
    with RecordingWriter(path, match_message(state, 0, source)) as out:
        for index in range(len(state)):
            out.write(state, index, controllers)
    return path


@settings(max_examples=25, deadline=None)
@given(frames=st.integers(1, 40), seed=st.integers(0, 2**32 - 1))
def test_what_is_written_is_read_back_bit_for_bit(tmp_path_factory, frames, seed):
    state, controllers = played(frames, seed)
    path = write(tmp_path_factory.mktemp("exact") / "match.mwr", state, controllers, model="any", seed=seed, rate=0.1)
    read = read_recording(path)
    assert read.states.floats.tobytes() == state.floats.tobytes()
    assert read.states.ints.tobytes() == state.ints.tobytes()
    assert read.states.match.tobytes() == state.match.tobytes()
    assert read.controllers.tobytes() == controllers.tobytes()
    assert read.header == match_message(state, 0, {"model": "any", "seed": seed, "rate": 0.1})


def test_iteration_yields_what_a_writer_takes(tmp_path):
    first = read_recording(write(tmp_path / "first.mwr", *played(5)))
    with RecordingWriter(tmp_path / "second.mwr", first.header) as out:
        for state, index, controllers in first:
            out.write(state, index, controllers)
    assert (tmp_path / "first.mwr").read_bytes() == (tmp_path / "second.mwr").read_bytes()


def test_a_recording_longer_than_a_chunk_is_whole(tmp_path):
    frames = 2 * recording.CHUNK_FRAMES
    read = read_recording(write(tmp_path / "long.mwr", *played(frames)))
    assert len(read) == frames
    assert read.states["frame"].tolist() == list(range(-123, frames - 123))


def test_a_recording_without_frames_is_a_recording(tmp_path):
    state, _ = played(1)
    with RecordingWriter(tmp_path / "empty.mwr", match_message(state, 0), reason="nobody played"):
        pass
    read = read_recording(tmp_path / "empty.mwr")
    assert (len(read), read.controllers.shape, read.reason) == (0, (0, PLAYERS, len(CONTROLS)), "nobody played")


def test_unknown_controllers_are_neutral(tmp_path):
    state, _ = played(3)
    read = read_recording(write(tmp_path / "match.mwr", state, None))
    assert not read.controllers.any()
    assert read.controllers[..., C_["main_x"]].shape == (3, PLAYERS)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_writer_leaves_no_file(tmp_path, error):
    with pytest.raises(error):
        interrupt_writing(tmp_path / "match.mwr", error)
    assert os.listdir(tmp_path) == []


def test_an_interrupted_writer_leaves_the_earlier_file(tmp_path):
    path = write(tmp_path / "match.mwr", *played(2))
    before = path.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        interrupt_writing(path, KeyboardInterrupt)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["match.mwr"]


def interrupt_writing(path, error):
    state, controllers = played(2, seed=1)
    with RecordingWriter(path, match_message(state, 0)) as out:
        out.write(state, 0, controllers)
        raise error


@settings(max_examples=60, deadline=None)
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_recording_cut_short_is_refused(tmp_path_factory, share):
    path = write(tmp_path_factory.mktemp("cut") / "match.mwr", *played(4))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    refused(path, path.name)


@settings(max_examples=60, deadline=None)
@given(content=st.binary(max_size=400))
def test_foreign_bytes_are_refused(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("foreign") / "match.mwr"
    path.write_bytes(content)
    refused(path, path.name)
    path.write_bytes(gzip.compress(content))
    refused(path, path.name)


def message_sequences():
    state, controllers = played(2)
    match, frame = match_message(state, 0), frame_message(state, 0, controllers)
    end = end_message("over")
    fox, marth = frame["players"]
    return {
        "no match": [end],
        "frame before match": [frame, match, end],
        "two matches": [match, frame, match, frame, end],
        "goes on after the end": [match, frame, end, frame],
        "no end": [match, frame],
        "other protocol": [{**match, "protocol": "chess"}, end],
        "other version": [{**match, "version": 2}, end],
        "other fields": [{**match, "field_table": "0" * 16}, end],
        "other type": [match, {"type": "pause"}, end],
        "type that is none": [match, {"type": ["frame"]}, end],
        "header without players": [{k: v for k, v in match.items() if k != "players"}, end],
        "stage that is no id": [{**match, "stage_id": "x"}, end],
        "one player": [match, {**frame, "players": [fox]}, end],
        "missing field": [match, {**frame, "players": [fox, {k: v for k, v in marth.items() if k != "x"}]}, end],
        "text for a number": [match, {**frame, "players": [fox, {**marth, "x": "left"}]}, end],
        "list for a number": [match, {**frame, "players": [fox, {**marth, "x": [1.0]}]}, end],
        "nothing for a number": [match, {**frame, "players": [fox, {**marth, "stocks": None}]}, end],
        "fraction for an int": [match, {**frame, "players": [fox, {**marth, "stocks": 1.5}]}, end],
        "int beyond 32 bits": [match, {**frame, "players": [fox, {**marth, "stocks": 2**40}]}, end],
        "int beyond 63 bits": [match, {**frame, "players": [fox, {**marth, "stocks": 2**64 - 1}]}, end],
        "frame beyond 32 bits": [match, {**frame, "frame": 2**40}, end],
        "half a controller": [match, {**frame, "players": [fox, {**marth, "controller": {"a": True}}]}, end],
        "text in a controller": [
            match, {**frame, "players": [fox, {**marth, "controller": {**marth["controller"], "a": "yes"}}]}, end
        ],
        "no reason": [match, {"type": "end"}],
    }


@pytest.mark.parametrize("case", message_sequences())
def test_what_is_no_sequence_of_one_match_is_refused(tmp_path, case):
    path = tmp_path / "match.mwr"
    path.write_bytes(gzip.compress(b"".join(pack(message) for message in message_sequences()[case])))
    refused(path, path.name)


def test_a_missing_file_is_refused(tmp_path):
    refused(tmp_path / "nowhere.mwr", "does not exist")
    refused(tmp_path, "cannot be read")


def test_a_path_that_cannot_be_written_is_refused(tmp_path):
    header = match_message(played(1)[0], 0)
    with pytest.raises(UserError, match="choose such a name"):
        RecordingWriter(tmp_path / "match.zip", header)
    with pytest.raises(UserError, match="choose a folder"), RecordingWriter(tmp_path / "no" / "match.mwr", header):
        pass


def refused(path, part):
    """Reading `path` is a user's error of one line that says `part`."""
    with pytest.raises(UserError) as error:
        read_recording(path)
    assert part in str(error.value)
    assert "\n" not in str(error.value)
