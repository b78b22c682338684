"""The stream over real sockets: every client gets a header and exact frames, and none can hold up the publisher."""

import itertools
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import msgpack
import numpy as np
import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from typer.testing import CliRunner

from wm_runtime import facts
from wm_runtime.errors import UserError
from wm_runtime.recording import RecordingWriter
from wm_runtime.schema import CONTROLS, FIELDS, FLOAT_FIELDS, PLAYERS, State, field_table_hash
from wm_runtime.stream import publisher as publishing
from wm_runtime.stream.protocol import (
    decode_frames,
    end_message,
    frame_message,
    match_message,
    pack,
    read_messages,
)
from wm_runtime.stream.publisher import Publisher
from wm_runtime.stream.subscriber import subscribe
from wm_tools.stream import field_tables, fields, publish_frames, serve, watch

HOST = "127.0.0.1"
ANY_FLOAT32 = arrays(np.float32, (1, PLAYERS, len(FLOAT_FIELDS)), elements=st.floats(width=32, allow_nan=False))
ANY_CONTROLS = arrays(np.float32, (1, PLAYERS, len(CONTROLS)), elements=st.floats(-1, 1, width=32))


def standing(frame=0):
    """Fox against Marth on Battlefield, one match."""
    state = State.zeros(1)
    state["character"] = [[facts.character("FOX").internal_id, facts.character("MARTH").internal_id]]
    state["facing"] = [[1, -1]]
    state["stocks"] = 4
    state["percent"] = [[12.34, 0.0]]
    state["x"] = [[-38.8, 38.8]]
    state["action"] = 14
    state["stage"] = facts.stage("BATTLEFIELD").id
    state["frame"] = frame
    return state


def wait_for(condition, seconds=5.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.005)


def collect(messages):
    """A thread that reads `messages` to their end, and the list they go to."""
    seen = []
    thread = threading.Thread(target=lambda: seen.extend(messages), daemon=True)
    thread.start()
    return thread, seen


@pytest.fixture
def publisher():
    with Publisher(HOST, 0) as server:
        yield server


# The messages


@settings(max_examples=100, deadline=None)
@given(floats=ANY_FLOAT32, controllers=ANY_CONTROLS, frame=st.integers(-123, 28800))
def test_a_frame_arrives_bit_for_bit(floats, controllers, frame):
    state = standing(frame)
    state.floats[:] = floats
    controllers[..., [bool(c.bit) for c in CONTROLS]] = controllers[..., [bool(c.bit) for c in CONTROLS]] > 0
    match = match_message(state, 0)
    message = msgpack.unpackb(pack(frame_message(state, 0, controllers)))
    read, read_controllers = decode_frames(match, [message])
    assert read.floats.tobytes() == state.floats.tobytes()
    assert read.ints.tobytes() == state.ints.tobytes()
    assert read.match.tobytes() == state.match.tobytes()
    assert read_controllers.tobytes() == controllers.tobytes()


def test_a_match_message_says_what_is_played():
    assert match_message(standing(), 0, {"model": "any", "seed": 7}) == {
        "type": "match",
        "protocol": "melee-frames",
        "version": 1,
        "field_table": field_table_hash(),
        "stage": "BATTLEFIELD",
        "stage_id": 31,
        "players": [{"character": "FOX", "character_id": 1}, {"character": "MARTH", "character_id": 18}],
        "source": {"model": "any", "seed": 7},
    }


def test_a_frame_message_holds_every_field_and_control_in_its_natural_type():
    frame = frame_message(standing(), 0, np.ones((1, PLAYERS, len(CONTROLS)), np.float32))
    for player in frame["players"]:
        assert list(player) == [*(f.name for f in FIELDS), "controller"]
        assert list(player["controller"]) == [c.name for c in CONTROLS]
    first = frame["players"][0]
    assert [type(first[name]) for name in ("percent", "stocks", "airborne")] == [float, int, bool]
    assert first["controller"]["a"] is True
    assert frame_message(standing(), 0)["players"][0]["controller"] is None


@settings(max_examples=50, deadline=None)
@given(size=st.integers(1, 3000))
def test_messages_are_the_same_however_the_bytes_are_cut(size):
    state = standing()
    messages = [match_message(state, 0), frame_message(state, 0), frame_message(state, 0), end_message("over")]
    whole = b"".join(map(pack, messages))
    chunks = [whole[i : i + size] for i in range(0, len(whole), size)]
    assert [m["type"] for m in read_messages(chunks, "here")] == ["match", "frame", "frame", "end"]


# Publisher and subscribers


def test_several_subscribers_get_the_same_frames(publisher):
    publisher.publish(match_message(standing(), 0))
    readers = [collect(subscribe(HOST, publisher.port)) for _ in range(4)]
    wait_for(lambda: publisher.clients == 4)
    for frame in range(50):
        publisher.publish(frame_message(standing(frame), 0))
    publisher.close("over")
    for thread, seen in readers:
        thread.join(5)
        assert [m["type"] for m in seen] == ["match", *["frame"] * 50, "end"]
        assert [m["frame"] for m in seen[1:-1]] == list(range(50))
        assert seen[-1] == {"type": "end", "reason": "over"}
    assert publisher.dropped == 0


def test_a_late_joiner_gets_the_present_header_at_once(publisher):
    fox, marth = standing(), standing()
    marth["character"] = facts.character("MARTH").internal_id
    for state in (fox, marth):
        publisher.publish(match_message(state, 0))
        publisher.publish(frame_message(state, 0))
    messages = subscribe(HOST, publisher.port)
    assert next(messages) == match_message(marth, 0)
    publisher.publish(frame_message(standing(99), 0))
    assert next(messages)["frame"] == 99


def test_a_subscriber_may_come_before_the_match(publisher):
    messages = subscribe(HOST, publisher.port)
    wait_for(lambda: publisher.clients == 1)
    publisher.publish(match_message(standing(), 0))
    assert next(messages)["type"] == "match"


def test_the_next_match_has_a_header_of_its_own(publisher):
    thread, seen = collect(subscribe(HOST, publisher.port))
    wait_for(lambda: publisher.clients == 1)
    for _ in range(2):
        publisher.publish(match_message(standing(), 0))
        publisher.publish(frame_message(standing(), 0))
    publisher.close()
    thread.join(5)
    assert [m["type"] for m in seen] == ["match", "frame", "match", "frame", "end"]


def test_a_client_that_never_reads_holds_up_nobody(publisher):
    publisher.publish(match_message(standing(), 0))
    with closing(socket.create_connection((HOST, publisher.port))) as stuck:
        stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        wait_for(lambda: publisher.clients == 1)
        packed = frame_message(standing(), 0)
        frames = 10_000
        started = time.monotonic()
        for _ in range(frames):
            publisher.publish(packed)
        assert time.monotonic() - started < 10
        assert 0 < publisher.dropped <= frames - publishing.QUEUED_MESSAGES

        thread, seen = collect(subscribe(HOST, publisher.port))
        wait_for(lambda: publisher.clients == 2)
        publisher.publish(frame_message(standing(7), 0))
        wait_for(lambda: len(seen) == 2)
        started = time.monotonic()
        publisher.close()
        assert time.monotonic() - started < publishing.CLOSE_SECONDS + 2
        thread.join(5)
        assert [m["type"] for m in seen] == ["match", "frame", "end"]


def test_a_slow_client_loses_its_oldest_frames_and_no_header(publisher, monkeypatch):
    monkeypatch.setattr(publishing, "QUEUED_MESSAGES", 8)
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect((HOST, publisher.port))
    wait_for(lambda: publisher.clients == 1)
    frames = 6000
    for frame in range(frames):
        if frame in (0, frames - 50):
            publisher.publish(match_message(standing(frame), 0, {"first": frame}))
        publisher.publish(frame_message(standing(frame), 0))
    dropped = publisher.dropped
    with closing(connection):
        messages = list(read_until_end(connection, publisher))
    sent = [m["frame"] for m in messages if m["type"] == "frame"]
    assert dropped > 0
    assert sent == sorted(sent)
    assert sent[-1] == frames - 1
    assert [m["source"]["first"] for m in messages if m["type"] == "match"] == [0, frames - 50]


def read_until_end(connection, publisher):
    """Read with a slow client's own socket while the publisher closes."""
    thread = threading.Thread(target=publisher.close, daemon=True)
    thread.start()
    yield from read_messages(iter(lambda: connection.recv(65536), b""), "slow client")
    thread.join(5)


def test_a_client_that_leaves_is_forgotten(publisher):
    publisher.publish(match_message(standing(), 0))
    messages = subscribe(HOST, publisher.port)
    next(messages)
    messages.close()

    def gone():
        publisher.publish(frame_message(standing(), 0))
        return publisher.clients == 0

    wait_for(gone)


def test_closing_twice_is_closing_once(publisher):
    publisher.close("first")
    publisher.close("second")
    with pytest.raises(UserError, match="nothing listens"):
        subscribe(HOST, publisher.port)


def test_closing_leaves_no_thread_behind():
    with Publisher(HOST, 0) as server:
        messages = subscribe(HOST, server.port)
        wait_for(lambda: server.clients == 1)
    assert [m["type"] for m in messages] == ["end"]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("publisher")]


# Errors that a user can cause


def test_nothing_listens_there():
    with closing(socket.create_server((HOST, 0))) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(UserError, match=f"nothing listens at {HOST}:{port}"):
        subscribe(HOST, port)
    with pytest.raises(UserError, match="check host and port"):
        subscribe(HOST, 99999)


def test_the_port_is_taken(publisher):
    with pytest.raises(UserError, match="choose another host or port"):
        Publisher(HOST, publisher.port)
    with pytest.raises(UserError, match="choose another host or port"):
        Publisher(HOST, 99999)


@pytest.mark.parametrize(
    ("sent", "says"),
    [
        (pack(match_message(standing(), 0)), "broke off"),
        (pack(match_message(standing(), 0))[:50], "broke off"),
        (b"", "broke off"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "no melee-frames sequence"),
        (b"\xc1", "not msgpack"),
        (pack({**match_message(standing(), 0), "version": 2}), "version 2, not 1"),
        (pack({**match_message(standing(), 0), "field_table": "0"}), "field_table '0'"),
    ],
)
def test_a_stream_of_another_kind_is_refused(sent, says):
    with closing(socket.create_server((HOST, 0))) as server:
        messages = subscribe(HOST, server.getsockname()[1])
        with closing(server.accept()[0]) as connection:
            connection.sendall(sent)
        with pytest.raises(UserError, match=says) as error:
            list(messages)
        assert "\n" not in str(error.value)


def test_silence_is_an_error_after_the_timeout(publisher):
    with pytest.raises(UserError, match=r"sent nothing for 0\.2 s"):
        next(subscribe(HOST, publisher.port, timeout=0.2))


# The command line


@pytest.fixture
def app():
    commands = typer.Typer()
    for command in (serve, watch, fields):
        commands.command()(command)
    return commands


@pytest.fixture
def recording(tmp_path):
    path = tmp_path / "match.mwr"
    with RecordingWriter(path, match_message(standing(), 0, {"seed": 1})) as out:
        for frame in range(30):
            out.write(standing(frame), 0, np.zeros((1, PLAYERS, len(CONTROLS)), np.float32))
    return path


SERVE = """
import signal, typer
from wm_tools.stream import serve
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where tests run in the background of a shell
typer.run(serve)
"""


def test_a_recording_is_served_and_watched_until_ctrl_c(app, recording):
    command = [sys.executable, "-u", "-c", SERVE, str(recording), "--port", "0", "--loop", "--fps", "300"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            port = re.search(r":(\d+),", server.stdout.readline())[1]
            thread, seen = collect(subscribe(HOST, int(port)))
            watched = CliRunner().invoke(app, ["watch", "--port", port, "--frames", "60"])
            server.send_signal(signal.SIGINT)
            thread.join(10)
            assert server.wait(10) == 0
            assert re.search(r"published \d+ frames, 0 dropped", server.stdout.read())
        finally:
            server.kill()
    assert seen[-1] == {"type": "end", "reason": "interrupted"}
    assert watched.exception is None
    header, *lines = watched.output.splitlines()
    assert header == "match: FOX against MARTH on BATTLEFIELD"
    frames = [line for line in lines if line != header]
    assert len(frames) == 60
    name = facts.action_name(14)
    assert f"BATTLEFIELD  FOX 12.3% 4 stocks (-38.80, 0.00) {name}  MARTH 0.0% 4 stocks" in frames[0]


def test_a_recording_without_frames_is_not_served(tmp_path):
    path = tmp_path / "empty.mwr"
    with RecordingWriter(path, match_message(standing(), 0)):
        pass
    with pytest.raises(UserError, match="holds no frame"):
        serve(path, port=0)


def test_without_a_recording_a_live_match_is_served(monkeypatch, capsys):
    def live_frames(model, stage, characters, seed):
        asked.append((model, stage, characters, seed))
        return match_message(standing(), 0, {"seed": seed}), ((standing(frame), 0, None) for frame in itertools.count())

    asked = []
    monkeypatch.setitem(sys.modules, "wm_tools.rollout", SimpleNamespace(live_frames=live_frames))
    serve(port=0, fps=1000.0, frames=5, stage="BATTLEFIELD", characters=("FOX", "MARTH"), seed=3)
    assert asked == [(None, "BATTLEFIELD", ("FOX", "MARTH"), 3)]
    assert "published 5 frames" in capsys.readouterr().out


def test_frames_come_at_the_rate_asked_for_with_a_header_before_each_match(publisher):
    thread, seen = collect(subscribe(HOST, publisher.port))
    wait_for(lambda: publisher.clients == 1)
    frames = [(standing(frame), 0, None) for frame in [*range(30), *range(30)]]
    started = time.monotonic()
    assert publish_frames(publisher, match_message(standing(), 0, {"seed": 3}), frames, fps=120.0) == 60
    assert time.monotonic() - started >= 0.5
    thread.join(5)
    assert [m["type"] for m in seen] == [*(["match", *["frame"] * 30] * 2), "end"]
    assert seen[31]["source"] == {"seed": 3}
    assert seen[-1]["reason"] == "end of match"


def test_ctrl_c_ends_the_stream_with_its_end_message(publisher):
    def interrupted():
        yield standing(), 0, None
        raise KeyboardInterrupt

    thread, seen = collect(subscribe(HOST, publisher.port))
    wait_for(lambda: publisher.clients == 1)
    assert publish_frames(publisher, match_message(standing(), 0), interrupted(), fps=60.0) == 1
    thread.join(5)
    assert seen[-1] == {"type": "end", "reason": "interrupted"}


def test_json_lines_are_strict_json(app, publisher):
    state = standing()
    state["misc_as"] = np.nan
    publisher.publish(match_message(state, 0))

    def keep_publishing():
        while publisher.clients < 1:
            time.sleep(0.005)
        publisher.publish(frame_message(state, 0))
        publisher.close()

    threading.Thread(target=keep_publishing, daemon=True).start()
    result = CliRunner().invoke(app, ["watch", "--port", str(publisher.port), "--json"])
    lines = [json.loads(line, parse_constant=pytest.fail) for line in result.output.splitlines()]
    assert [line["type"] for line in lines] == ["match", "frame", "end"]
    assert lines[1]["players"][0]["misc_as"] is None


def test_the_document_lists_the_fields_there_are():
    document = Path(__file__).parents[2] / "docs" / "stream.md"
    text = document.read_text(encoding="utf-8")
    for table in field_tables().split("\n\n"):
        assert table in text, "paste what `mwm fields` prints"
