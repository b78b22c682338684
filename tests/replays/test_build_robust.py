"""A build adds each game once and accounts for every file, whatever it is given and however often it is stopped."""

import gzip
import io
import json
import os
import random
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import IO

import build_child
import numpy as np
import py7zr
import pytest
from damage import Damage, damages
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from synthetic import GAME_SET, synthetic_game, write_corpus
from wm_runtime.errors import UserError
from wm_runtime.replays.build import BuildReport, FileRow, build
from wm_runtime.replays.dataset import Dataset, DatasetWriter
from wm_runtime.replays.events import events_of, structure
from wm_runtime.replays.game import Game
from wm_runtime.replays.layout import StoredGame, pack, unpack
from wm_runtime.replays.reasons import REASONS, LeftOut
from wm_runtime.replays.slp import ReadOptions, read_stored
from wm_runtime.replays.writer import write_slp
from wm_runtime.schema import FIELD
from wm_tools.cli import app

REPLAYS = Path(__file__).parents[3] / "shared" / "replays"
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at processes as Linux shows them")


def outcomes(report: BuildReport) -> dict[str, str]:
    """File → taken, present, or the reason why it is left out. No file comes twice."""
    found = {row.file: row.reason or row.outcome for row in report.rows}
    assert len(found) == len(report.rows)
    return found


def index_of(data: Dataset) -> list[dict]:
    """What the index says of every game, but for where its frames lie."""
    return [{k: v for k, v in data.record(i).items() if k not in ("shard", "row")} for i in range(len(data))]


def assert_same(data: Dataset, expected: Dataset, games: int | None = None) -> None:
    """The first `games` games are those of `expected`, in the same order, bit for bit."""
    games = len(expected) if games is None else games
    assert index_of(data) == index_of(expected)[:games]
    for i in range(games):
        assert data.records(i).tobytes() == expected.records(i).tobytes()
        assert {n: c.tobytes() for n, c in data.items(i).items()} == {
            n: c.tobytes() for n, c in expected.items(i).items()
        }


# --- games that are the same -----------------------------------------------------------------------------------------


def saved_again(game: Game) -> Game:
    """As the other player's recorder might: other names, date and end, and without the last frames."""
    info = replace(game.info, names=("other", "one"), date="2025-05-05T05:05:05Z", end_method=GAME_SET, winner=0)
    return replace(game, info=info, columns={name: column[:-7] for name, column in game.columns.items()})


@pytest.mark.parametrize("first", ["mine", "theirs"])
def test_a_game_that_both_players_saved_is_kept_once_whichever_comes_first(first: str, tmp_path: Path) -> None:
    game = synthetic_game(0, 700)
    rematch = synthetic_game(1, 700)  # same stage, characters, ports and random seed
    assert (rematch.info.stage, rematch.info.random_seed) == (game.info.stage, game.info.random_seed) == (32, 0)
    second = "theirs" if first == "mine" else "mine"
    for folder, games in {"mine": [game, rematch], "theirs": [saved_again(game), saved_again(rematch)]}.items():
        (tmp_path / folder).mkdir()
        for name, one in zip(("game", "rematch"), games, strict=True):
            write_slp(tmp_path / folder / f"{name}.slp", one)
    report = build([tmp_path / first, tmp_path / second], tmp_path / "data")
    assert outcomes(report) == {
        f"{first}/game.slp": "taken", f"{first}/rematch.slp": "taken",
        f"{second}/game.slp": "same_game", f"{second}/rematch.slp": "same_game",
    }  # fmt: skip
    kept = {row.file: row.md5 for row in report.rows if row.outcome == "taken"}
    assert Dataset(tmp_path / "data").md5 == list(kept.values())
    for row in report.rows[2:]:
        assert row.detail == f"as in the file with MD5 {kept[f'{first}/{Path(row.file).name}']}"


# --- filters ---------------------------------------------------------------------------------------------------------


def test_the_command_takes_only_the_stages_characters_and_versions_asked_for(tmp_path: Path) -> None:
    FOX, FALCO, MARIO = 1, 22, 0
    for name, stage, characters, version in [
        ("right", 32, (FOX, FALCO), (3, 16, 0)), ("a ditto", 31, (FALCO, FALCO), (3, 12, 0)),
        ("stage", 3, (FOX, FALCO), (3, 16, 0)), ("character", 32, (FOX, MARIO), (3, 16, 0)),
        ("version", 32, (FOX, FALCO), (3, 11, 9)),
    ]:  # fmt: skip
        folder = tmp_path / "inputs" / name
        folder.mkdir(parents=True)
        write_slp(folder / "game.slp", synthetic_game(len(name), 130, stage, characters), version=version)
    wanted = ["--stages", "battlefield,final_destination", "--characters", "fox,falco", "--min-version", "3.12.0"]
    done = CliRunner().invoke(
        app, ["replays", "build", str(tmp_path / "inputs"), "--out", str(tmp_path / "data"), "--workers", "1", *wanted]
    )
    assert done.exit_code == 0, done.output
    report = json.loads((tmp_path / "data" / "build_report.json").read_text())
    assert {row["file"].split("/")[1]: row["reason"] or row["outcome"] for row in report["files"]} == {
        "right": "taken", "a ditto": "taken", "stage": "filtered", "character": "filtered", "version": "filtered",
    }  # fmt: skip
    assert sorted(Dataset(tmp_path / "data").stage) == [31, 32]


# --- workers and sources ---------------------------------------------------------------------------------------------


def test_the_number_of_workers_changes_nothing(tmp_path: Path) -> None:
    """Long and short files in turn, so that two workers end out of order."""
    (tmp_path / "inputs").mkdir()
    for number in range(10):
        game = synthetic_game(number, 130)
        if number % 3 == 0:
            game = replace(game, columns={n: np.tile(c, (60, 1)) for n, c in game.columns.items()})
        write_slp(tmp_path / "inputs" / f"{number}.slp", game)
    (tmp_path / "inputs" / "4 copy.slp").write_bytes((tmp_path / "inputs" / "4.slp").read_bytes())
    reports = [build([tmp_path / "inputs"], tmp_path / str(workers), workers=workers) for workers in (1, 2)]
    assert reports[0] == reports[1]
    assert Counter(outcomes(reports[0]).values()) == {"taken": 10, "duplicate": 1}
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / n).rglob("*.arrow")} for n in ("1", "2"))
    assert one == two
    assert "index.arrow" in one


def test_one_command_over_folders_and_archives_accounts_for_every_file_in_them(tmp_path: Path) -> None:
    write_corpus(tmp_path / "games", 6, frames=130)
    replays = [path.read_bytes() for path in sorted((tmp_path / "games").iterdir())]
    zero, one, two, three, four, five = replays
    folder = tmp_path / "folder"
    (folder / "deep").mkdir(parents=True)
    (folder / "0.slp").write_bytes(zero)
    (folder / "deep" / "1.slp").write_bytes(one)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("0 again.slp", zero)
        archive.writestr("x/2.slp", two)
        archive.writestr("x/broken.slp", b"Dear diary")
    with py7zr.SevenZipFile(tmp_path / "b.7z", "w", filters=[{"id": py7zr.FILTER_COPY}]) as archive:
        archive.writestr(three, "3.slp")
        archive.writestr(two, "2 again.slp")
    with tarfile.open(tmp_path / "c.tar.gz", "w:gz") as archive:
        for name, content in {"4.slp": four, "4 again.slp": four, "cut.slp": five[:-500], "notes.txt": b"no"}.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    (tmp_path / "5.slp.gz").write_bytes(gzip.compress(five))
    sources = [folder, *(tmp_path / name for name in ("a.zip", "b.7z", "c.tar.gz", "5.slp.gz"))]
    report = build(sources, tmp_path / "data")
    assert outcomes(report) == {
        "folder/0.slp": "taken", "folder/deep/1.slp": "taken",
        "a.zip/0 again.slp": "duplicate", "a.zip/x/2.slp": "taken", "a.zip/x/broken.slp": "unreadable",
        "b.7z/3.slp": "taken", "b.7z/2 again.slp": "duplicate",
        "c.tar.gz/4.slp": "taken", "c.tar.gz/4 again.slp": "duplicate", "c.tar.gz/cut.slp": "unreadable",
        "5.slp.gz": "taken",
    }  # fmt: skip
    assert {source: sum(counts.values()) for source, counts in report.by_source().items()} == dict(
        zip(map(str, sources), (2, 3, 2, 3, 1), strict=True)
    )
    build([tmp_path / "games"], tmp_path / "plain")
    data, plain = Dataset(tmp_path / "data"), Dataset(tmp_path / "plain")
    assert data.md5 == plain.md5
    assert all(data.records(i).tobytes() == plain.records(i).tobytes() for i in range(6))


# --- stopped builds --------------------------------------------------------------------------------------------------


def running_in(group: int) -> list[str]:
    """Processes of a group; not those that have ended and that nobody has asked about yet."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            name, _, rest = path.read_text().rpartition(")")
            state, _, its_group = rest.split()[:3]
            if int(its_group) == group and state != "Z":
                found.append(name)
    return found


def wait_until(true: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@contextmanager
def kept_waiting(fifo: Path) -> Iterator[None]:
    """From when a process opens the pipe to read, it gets nothing; at the end it gets the end."""
    ends: list[int] = []

    def is_read() -> bool:
        with suppress(OSError):  # nobody has opened it yet
            ends.append(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))
        return bool(ends)

    wait_until(is_read)
    try:
        yield
    finally:
        os.close(ends[0])


@linux
@pytest.mark.parametrize(("stop", "code"), [("Ctrl-C", 130), ("kill -9", -signal.SIGKILL)])
def test_a_build_that_goes_on_is_alone_and_one_that_was_stopped_leaves_a_dataset(stop, code, tmp_path: Path) -> None:
    """The last input is a pipe that gives nothing, so that the command goes on until it is stopped."""
    games, data, pipe = tmp_path / "games", tmp_path / "data", tmp_path / "pipe.slp.gz"
    (first,) = write_corpus(games, 1, frames=130)
    build([games], data)
    before = Dataset(data).md5
    write_corpus(games, 5, first_seed=1, frames=130)
    os.mkfifo(pipe)
    command = [sys.executable, "-m", "wm_tools.cli", "replays", "build", games, pipe, "--out", data, "--workers", "2"]
    running = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    with kept_waiting(pipe):
        with pytest.raises(UserError, match="another build is writing to this dataset") as refused:
            build([games], data)
        assert "\n" not in str(refused.value)
        if stop == "Ctrl-C":  # the terminal sends it to all
            os.killpg(running.pid, signal.SIGINT)
        else:
            os.kill(running.pid, signal.SIGKILL)
        assert running.wait(timeout=30) == code
    noise = running.communicate(timeout=30)[1].decode()
    assert "Traceback" not in noise
    goes_on = "mwm: interrupted; the same command goes on from here\n"
    assert noise == (goes_on if stop == "Ctrl-C" else "")
    wait_until(lambda: not running_in(running.pid))
    assert Dataset(data).md5 == before
    assert outcomes(build([games], data)) == {f"games/{p.name}": "taken" for p in games.iterdir()} | {
        f"games/{first.name}": "present"
    }
    build([games], tmp_path / "clean")
    assert_same(Dataset(data), Dataset(tmp_path / "clean"))


KILLS, GAMES = 20, 60


@pytest.fixture
def builder() -> Iterator[subprocess.Popen]:
    """The process of build_child.py; none that it started outlives the test."""
    server = subprocess.Popen(
        [sys.executable, build_child.__file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    try:
        yield server
    finally:
        server.kill()
        server.communicate()


def outcomes_of_build(server: subprocess.Popen, *arguments: object) -> tuple[int, Iterator[str]]:
    """Starts a build: its process group, and the outcomes of its files as they come; they end when the process does."""
    assert server.stdin is not None
    server.stdin.write(" ".join(map(str, arguments)) + "\n")
    lines: IO[str] = server.stdout  # type: ignore[assignment]
    group = int(lines.readline().removeprefix("started "))
    return group, iter(lambda: lines.readline().strip(), "ended")


@linux
def test_killed_at_any_moment_a_build_leaves_whole_games_and_goes_on_where_it_was(builder, tmp_path: Path) -> None:
    inputs, data = tmp_path / "inputs", tmp_path / "data"
    write_corpus(inputs, GAMES, frames=130)
    _, files = outcomes_of_build(builder, inputs, tmp_path / "clean", 1)
    times = [time.monotonic() for _ in files]
    pace = (times[-1] - times[0]) / GAMES
    clean = Dataset(tmp_path / "clean")
    assert len(clean) == GAMES
    rng = random.Random(0)
    found = []
    for kill in range(KILLS):
        group, files = outcomes_of_build(builder, inputs, data, 1 + kill % 2)
        waits_for = rng.choice(["a file", "a new game", "a new game"])
        for outcome in files:
            if waits_for == "a file" or outcome == "taken":
                break
        time.sleep(rng.uniform(0, 3 * pace))
        os.killpg(group, signal.SIGKILL)
        for _ in files:
            pass
        if (data / "dataset.json").exists():
            opened = Dataset(data)
            assert_same(opened, clean, len(opened))
            found.append(len(opened))
        else:
            found.append(0)
    assert found == sorted(found), "what was listed is never lost"
    assert sum(0 < n < GAMES for n in found) >= 10, found
    _, files = outcomes_of_build(builder, inputs, data, 2)
    assert sorted(files) == ["present"] * found[-1] + ["taken"] * (GAMES - found[-1])
    assert_same(Dataset(data), clean)
    shards = {f"{n:06d}{kind}.arrow" for n in Dataset(data).shard_numbers for kind in ("", ".items")}
    assert {path.name for path in (data / "shards").iterdir()} == shards
    assert {p.name for p in data.iterdir()} == {"shards", "index.arrow", "dataset.json", "build_report.json"}


@pytest.mark.parametrize("left", ["index.arrow.tmp", "dataset.json.tmp", "shards/000000.arrow.tmp", "index.arrow"])
def test_what_a_build_leaves_that_is_killed_before_it_lists_its_first_game_is_cleared_away(left, tmp_path) -> None:
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "000000.arrow").write_bytes(b"some of a shard")
    (tmp_path / left).write_bytes(b"some of it")
    game = synthetic_game(0, 130)
    with DatasetWriter(tmp_path) as writer:
        writer.add(game)
    (found,) = Dataset(tmp_path)
    assert all(found.columns[name].tobytes() == game.columns[name].tobytes() for name in game.columns)
    assert not list(tmp_path.rglob("*.tmp"))


# --- damaged files ---------------------------------------------------------------------------------------------------

ROUNDS = 7
LONG = synthetic_game(2, 600, 2)
LONG = replace(LONG, columns={name: np.tile(column, (ROUNDS, 1)) for name, column in LONG.columns.items()})
"""4,200 frames, 70 seconds."""


def bytes_of(game: Game) -> bytes:
    file = io.BytesIO()
    write_slp(file, game)
    return file.getvalue()


def rows_touched(damage: Damage, content: bytes) -> set[int]:
    """Rows of the frames of which bytes are no longer there."""
    size = {name: structure(name, (3, 16, 0)).itemsize for name in events_of((3, 16, 0))}
    first = content.index(b"\x36", content.index(b"\x36") + 1) + size["game_start"]
    frame = size["frame_start"] + 2 * size["pre"] + 2 * size["post"] + size["bookend"]
    return set(range((damage.at - first) // frame, (damage.at + damage.drop - 1 - first) // frame + 1))


CONTENT, WHOLE = bytes_of(LONG), pack(LONG.columns)


def read(path: Path, options: ReadOptions) -> StoredGame | LeftOut:
    try:
        return read_stored(path, "test", options)
    except LeftOut as reason:
        return reason


@given(damage=damages(CONTENT), salvaged=st.booleans())
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_replay_is_left_out_or_right_where_it_is_undamaged(damage: Damage, salvaged: bool, tmp_path) -> None:
    (tmp_path / "damaged.slp").write_bytes(damage.of(CONTENT))
    found = read(tmp_path / "damaged.slp", ReadOptions(salvaged))
    if isinstance(found, LeftOut):
        event(found.reason)
        assert found.reason in REASONS
        assert "\n" not in str(found)
        return
    event("salvaged" if found.info.cut else "taken")
    assert len(found) == len(WHOLE) or (found.info.cut and len(found) < len(WHOLE))
    changed = {row for row in range(len(found)) if found.records[row].tobytes() != WHOLE[row].tobytes()}
    assert changed <= rows_touched(damage, CONTENT)
    for name, column in unpack(found.records).items():
        if column.dtype.kind == "f":
            assert name == "misc_as" or np.isfinite(column).all(), name
        elif name in FIELD:
            assert FIELD[name].low <= column.min() <= column.max() <= FIELD[name].high, name


# --- real replays ----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not REPLAYS.exists(), reason="no real replays beside the repository")
def test_a_build_of_real_replays_comes_out_as_their_manifest_says(tmp_path: Path) -> None:
    sys.path.insert(0, str(REPLAYS))
    from slppack import unpack as unpack_replays

    manifest = json.loads((REPLAYS / "manifest.json").read_text())
    expected = {f"{split}/{name}": row for split in ("real", "broken") for name, row in manifest[split].items()}
    for split in ("real", "broken"):
        (tmp_path / split).mkdir()
        for info, content in unpack_replays(REPLAYS / "packs" / f"{split}.slppack"):
            (tmp_path / split / info["name"]).write_bytes(content)
    report = build([tmp_path / "real", tmp_path / "broken"], tmp_path / "data", workers=2)
    assert [row.file for row in report.rows] == sorted(expected, key=lambda name: (name.startswith("broken"), name))

    def is_right(row: FileRow) -> bool:
        named = expected[row.file]
        return row.outcome == named["expected"] and (row.outcome == "taken" or row.reason in named["reasons"])

    assert [row for row in report.rows if not is_right(row)] == []
    taken = [row for row in report.rows if row.outcome == "taken"]
    assert [row.md5 for row in taken] == [expected[row.file]["md5"] for row in taken] == Dataset(tmp_path / "data").md5
    assert [row.frames for row in taken] == [expected[row.file]["frames"] for row in taken]
