"""A dump is fetched once, whole, and as recorded: against a real server on this machine."""

import hashlib
import json
import os
import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
import typer
from typer.testing import CliRunner

from wm_runtime.errors import UserError
from wm_runtime.replays import fetch as module
from wm_runtime.replays.fetch import DUMPS, fetch
from wm_tools.fetch import fetch as command

BODY = random.Random(1).randbytes(3_000_000)
OTHER = random.Random(2).randbytes(2_500_000)
FILE = "gang-replays.7z"


@dataclass
class Server:
    """What the server has and how it behaves; what was asked of it."""

    url: str
    body: bytes = BODY
    validators: dict[str, str] = field(default_factory=lambda: {"ETag": '"one"'})
    ranges: bool = True
    statuses: list[int] = field(default_factory=list)
    """Answers to the first requests, 200 where none is left."""
    cuts: list[int | None] = field(default_factory=list)
    """Bytes after which the first answers break off."""
    says_length: bool = True
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    """(method, Range) of every request."""
    sent: int = 0


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.answer()

        def do_GET(self):
            self.answer()

        def answer(self):
            wanted = self.headers.get("Range")
            state.asked.append((self.command, wanted))
            status = state.statuses.pop(0) if state.statuses else 200
            if self.path != f"/dump/{FILE}":
                status = 404
            if status != 200:
                self.send_error(status)
                return
            size, start = len(state.body), 0
            if wanted and state.ranges and self.headers.get("If-Range") in state.validators.values():
                start = int(wanted.removeprefix("bytes=").removesuffix("-"))
                if start >= size:
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{size}")
                    self.end_headers()
                    return
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
            else:
                self.send_response(200)
            for name, value in state.validators.items():
                self.send_header(name, value)
            if state.says_length:
                self.send_header("Content-Length", str(size - start))
            self.end_headers()
            if self.command == "GET":
                cut = state.cuts.pop(0) if state.cuts else None
                rest = state.body[start:][:cut]
                state.sent += len(rest)
                self.wfile.write(rest)

        def log_message(self, *args):
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state = Server(f"http://127.0.0.1:{httpd.server_port}")
    threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    monkeypatch.setattr(module, "BACKOFF", 0.0)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield state
    httpd.shutdown()
    httpd.server_close()


def test_a_fetched_dump_is_recorded_and_not_fetched_again(server, tmp_path):
    seen = []
    path = fetch("gang", tmp_path / "new" / "dumps", server.url, lambda done, total: seen.append((done, total)))
    assert path == tmp_path / "new" / "dumps" / FILE
    assert path.read_bytes() == BODY
    assert seen[0] == (0, len(BODY))
    assert seen[-1] == (len(BODY), len(BODY))
    assert seen == sorted(seen)
    assert json.loads((path.parent / "checksums.json").read_text()) == {"gang": {
        "file": FILE, "url": f"{server.url}/dump/{FILE}", "size": len(BODY),
        "sha256": hashlib.sha256(BODY).hexdigest(), "etag": '"one"',
    }}  # fmt: skip
    assert fetch("gang", path.parent, server.url) == path
    assert server.asked == [("GET", None)]
    assert sorted(os.listdir(path.parent)) == ["checksums.json", FILE]


def test_a_broken_connection_is_taken_up_where_it_broke(server, tmp_path):
    server.cuts = [1_000_000, 500_000]
    assert fetch("gang", tmp_path, server.url).read_bytes() == BODY
    assert server.asked == [("GET", None), ("GET", "bytes=1000000-"), ("GET", "bytes=1500000-")]
    assert server.sent == len(BODY)


def test_an_interrupted_download_is_gone_on_with_by_the_next_fetch(server, tmp_path):
    def interrupt(done, total):
        if done >= 1_000_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch("gang", tmp_path, server.url, interrupt)
    have = (tmp_path / f"{FILE}.part").stat().st_size
    assert not (tmp_path / FILE).exists()
    before, seen = server.sent, []
    assert fetch("gang", tmp_path, server.url, lambda done, total: seen.append((done, total))).read_bytes() == BODY
    assert server.asked[1:] == [("GET", f"bytes={have}-")]
    assert seen[0] == (have, len(BODY))
    assert server.sent - before == len(BODY) - have
    assert sorted(os.listdir(tmp_path)) == ["checksums.json", FILE]


@pytest.mark.parametrize("change", ["etag", "date"])
def test_a_file_that_changed_on_the_server_starts_over(server, tmp_path, change):
    name = "ETag" if change == "etag" else "Last-Modified"
    server.validators = {name: '"one"' if change == "etag" else "Mon, 01 Jan 2024 00:00:00 GMT"}
    server.cuts = [1_000_000] + [0] * 4
    with pytest.raises(UserError, match=rf"broke off after .* fetch again later and it goes on from .*{FILE}\.part"):
        fetch("gang", tmp_path, server.url)
    server.body = OTHER
    server.validators = {name: '"two"' if change == "etag" else "Tue, 02 Jan 2024 00:00:00 GMT"}
    assert fetch("gang", tmp_path, server.url).read_bytes() == OTHER
    assert server.asked[-1] == ("GET", "bytes=1000000-")


@pytest.mark.parametrize("lack", ["ranges", "validators", "strong validators"])
def test_a_server_that_cannot_resume_starts_over(server, tmp_path, lack):
    server.ranges = lack != "ranges"
    if lack != "ranges":
        server.validators = {} if lack == "validators" else {"ETag": 'W/"weak"'}
    server.cuts = [1_000_000]
    assert fetch("gang", tmp_path, server.url).read_bytes() == BODY
    assert server.sent == 1_000_000 + len(BODY)


def test_a_body_that_is_always_too_short_is_given_up(server, tmp_path):
    server.ranges, server.cuts = False, [1000] * 20
    with pytest.raises(UserError, match="the connection broke off after 1,000 of 3,000,000 bytes; fetch again later"):
        fetch("gang", tmp_path, server.url)
    assert len(server.asked) == module.TRIES
    assert not (tmp_path / FILE).exists()


def test_a_download_that_gets_on_is_never_given_up(server, tmp_path):
    server.cuts = [200_000] * 14
    assert fetch("gang", tmp_path, server.url).read_bytes() == BODY
    assert len(server.asked) == 15


def test_a_download_that_was_whole_but_not_renamed_is_not_repeated(server, tmp_path):
    (tmp_path / f"{FILE}.part").write_bytes(BODY)
    (tmp_path / f"{FILE}.part.etag").write_text('"one"')
    assert fetch("gang", tmp_path, server.url).read_bytes() == BODY
    assert server.sent == 0


def test_a_part_longer_than_the_file_starts_over(server, tmp_path):
    (tmp_path / f"{FILE}.part").write_bytes(BODY + b"more")
    (tmp_path / f"{FILE}.part.etag").write_text('"one"')
    assert fetch("gang", tmp_path, server.url).read_bytes() == BODY


def test_a_server_that_says_no_length_is_believed(server, tmp_path):
    server.says_length = False
    totals = []
    assert fetch("gang", tmp_path, server.url, lambda done, total: totals.append(total)).read_bytes() == BODY
    assert set(totals) == {None}


def test_a_server_in_trouble_is_asked_again_a_few_times(server, tmp_path):
    server.statuses = [503, 429, 500]
    assert fetch("gang", tmp_path, server.url).read_bytes() == BODY
    server.statuses = [503] * 20
    with pytest.raises(UserError, match="the server answers 503 Service Unavailable; fetch again later"):
        fetch("gang", tmp_path / "other", server.url)
    assert len(server.statuses) == 20 - module.TRIES


@pytest.mark.parametrize("status", [403, 404, 416])
def test_a_refusal_is_final(server, tmp_path, status):
    server.statuses = [status] * 2
    with pytest.raises(UserError, match=f"the server answers {status} .* download it by hand"):
        fetch("gang", tmp_path, server.url)
    assert len(server.asked) == 1


def test_without_a_network_it_ends_at_once_in_one_line(server, tmp_path):
    with pytest.raises(UserError, match=r"no answer .*; check the network") as error:
        fetch("gang", tmp_path, "http://127.0.0.1:1")
    assert "\n" not in str(error.value)


def test_a_damaged_file_is_noticed(server, tmp_path):
    path = fetch("gang", tmp_path, server.url)
    path.write_bytes(BODY[:-1] + b"?")
    with pytest.raises(UserError, match=r"damaged or changed .* delete it and fetch again"):
        fetch("gang", tmp_path, server.url)
    path.unlink()
    assert fetch("gang", tmp_path, server.url).read_bytes() == BODY


def test_a_server_with_another_file_than_recorded_is_noticed(server, tmp_path):
    fetch("gang", tmp_path, server.url).unlink()
    server.body, server.validators = OTHER, {"ETag": '"two"'}
    with pytest.raises(UserError, match=r"not the file that was recorded .* remove 'gang' from .*checksums\.json"):
        fetch("gang", tmp_path, server.url)
    assert os.listdir(tmp_path) == ["checksums.json"]
    (tmp_path / "checksums.json").write_text("{}")
    assert fetch("gang", tmp_path, server.url).read_bytes() == OTHER


def test_a_checksum_known_to_the_package_counts_from_the_first_download(server, tmp_path, monkeypatch):
    right = hashlib.sha256(BODY).hexdigest()
    monkeypatch.setitem(DUMPS, "gang", module.Dump(f"dump/{FILE}", "The Gang", 3561, sha256=right))
    server.body = OTHER
    with pytest.raises(UserError, match="not the file that was recorded"):
        fetch("gang", tmp_path, server.url)
    server.body = BODY
    assert fetch("gang", tmp_path, server.url).read_bytes() == BODY


def test_a_file_put_there_by_hand_is_taken_if_its_size_is_the_servers(server, tmp_path):
    (tmp_path / FILE).write_bytes(BODY[:-1])
    with pytest.raises(UserError, match="2,999,999 bytes, 3,000,000 on the server; delete it and fetch again"):
        fetch("gang", tmp_path, server.url)
    with pytest.raises(UserError, match="the server cannot be asked"):
        fetch("gang", tmp_path, "http://127.0.0.1:1")
    (tmp_path / FILE).write_bytes(BODY)
    fetch("gang", tmp_path, server.url)
    assert json.loads((tmp_path / "checksums.json").read_text())["gang"]["etag"] == '"one"'
    assert server.sent == 0


@pytest.mark.parametrize("text", ["{", "[]", '{"gang": {}}', '{"gang": 3}'])
def test_a_damaged_ledger_is_the_users_error(server, tmp_path, text):
    (tmp_path / "checksums.json").write_text(text)
    with pytest.raises(UserError, match=r"checksums\.json: damaged; delete it"):
        fetch("gang", tmp_path, server.url)


def test_a_folder_that_cannot_be_is_the_users_error(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file.*; choose another folder"):
        fetch("gang", tmp_path / "file" / "dumps", server.url)


def test_a_disk_too_small_is_noticed_before_the_download(server, tmp_path, monkeypatch):
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: SimpleNamespace(free=5))
    with pytest.raises(UserError, match="3,000,000 bytes are to come, 5 are free"):
        fetch("gang", tmp_path, server.url)


def test_an_unknown_name_is_the_users_error(tmp_path):
    with pytest.raises(UserError, match="genesis: no dump of this name; there are gang, full-bloom-5"):
        fetch("genesis", tmp_path)


def test_the_command_lists_and_fetches(server, tmp_path):
    app = typer.Typer()
    app.command()(command)
    listed = CliRunner().invoke(app, ["--list"])
    assert "https://storage.googleapis.com/slippi.appspot.com/dump/national-melee-arcadian-2.7z" in listed.output
    assert all(name in listed.output for name in DUMPS)
    assert isinstance(CliRunner().invoke(app, []).exception, UserError)
    fetched = CliRunner().invoke(app, ["gang", "--out", str(tmp_path), "--server", f"{server.url}/"])
    assert fetched.exit_code == 0, fetched.output
    assert (tmp_path / FILE).read_bytes() == BODY
