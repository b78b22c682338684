"""A dataset comes back from its archive as it was, to the last bit; what is no whole archive is refused in one line."""

import json
import shutil
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from synthetic import synthetic_game
from wm_runtime.errors import UserError
from wm_runtime.replays import archive as archive_module
from wm_runtime.replays.archive import MAGIC, archive, restore
from wm_runtime.replays.build import build
from wm_runtime.replays.codec import LANE, decode_frames, decode_items, encode_frames, encode_items
from wm_runtime.replays.dataset import Dataset, DatasetWriter
from wm_runtime.replays.game import Game
from wm_runtime.replays.layout import RECORD
from wm_runtime.schema import ITEM_FIELDS
from wm_tools.archive import archive as archive_command
from wm_tools.archive import restore as restore_command

PACK = Path(__file__).parents[3] / "shared" / "replays" / "packs" / "val-02.slppack"
REAL_GAMES = 5
BYTES_A_FRAME = 12
"""At most this, both players and items included, in real games."""
ODD_FLOATS = np.array(
    [0x7FC00000, 0xFFC00001, 0x7F800001, 0x7F800000, 0xFF800000, 0x80000000, 1, 0x807FFFFF, 0xFFFFFFFF, 0x3F800000],
    np.uint32,
).view(np.float32)
"""Quiet and signalling NaN, infinities, −0, subnormal numbers; and 1."""


def with_odd_floats(game: Game) -> Game:
    rng = np.random.default_rng(0)
    for name in ("misc_as", "x", "self_x_air", "knockback_x", "state_age", "percent"):
        odd = rng.random(game.columns[name].shape) < 0.2
        game.columns[name][odd] = rng.choice(ODD_FLOATS, odd.sum())
    return game


def with_items(game: Game, items: int = 300) -> Game:
    """Anything as items, but in the order of frames."""
    rng = np.random.default_rng(1)
    columns = {f.name: rng.integers(0, 100, items).astype(f.store) for f in ITEM_FIELDS}
    columns["frame"] = np.sort(rng.integers(game.first_frame, game.first_frame + len(game), items, dtype=np.int32))
    columns["spawn_id"] = rng.integers(0, 9, items, dtype=np.uint32)
    columns["x"][::7] = np.resize(ODD_FLOATS, len(columns["x"][::7]))
    return Game(game.info, game.columns, game.first_frame, columns)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five games in three shards, and what else a dataset's folder holds."""
    path = tmp_path_factory.mktemp("archive") / "dataset"
    games = [synthetic_game(seed, 200 + 50 * seed) for seed in range(5)]
    with DatasetWriter(path, shard_frames=400) as writer:
        for game in (with_odd_floats(games[0]), games[1], with_items(games[2]), *games[3:]):
            writer.add(game)
    (path / "build_report.json").write_text('{"taken": "ünknown"}')
    return path


@pytest.fixture(scope="module")
def archived(dataset: Path) -> Path:
    path = dataset.parent / "games.mwa"
    archive(dataset, path)
    return path


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def parts(archived: Path) -> dict[str, tuple[int, int]]:
    """Part → where its payload begins and ends."""
    data, at = archived.read_bytes(), len(MAGIC)

    def head() -> dict:
        nonlocal at
        length, _ = struct.unpack_from("<II", data, at)
        at += 8 + length
        return json.loads(data[at - length : at])

    places = {}
    for name in head()["parts"]:
        size = head()["size"]
        places[name] = (at, at + size)
        at += size
    return places


def refused(file: Path, out: Path, match: str) -> None:
    """The file is refused in one line that begins with its name, and nothing is left where it was to be restored."""
    with pytest.raises(UserError, match=match) as error:
        restore(file, out)
    assert str(error.value).startswith(str(file))
    assert "\n" not in str(error.value)
    assert not out.exists()
    assert not list(out.parent.glob(f".{out.name}-*"))


# --- nothing is lost -------------------------------------------------------------------------------------------------


def test_every_file_of_a_dataset_comes_back_as_it_was(dataset, archived, tmp_path) -> None:
    restore(archived, tmp_path / "out")
    assert files(tmp_path / "out") == files(dataset)
    assert len(list(dataset.glob("shards/*.items.arrow"))) == 3
    assert sum(len(Dataset(tmp_path / "out").items(game)["x"]) for game in range(5)) == 300


def test_a_dataset_without_games_comes_back_too(tmp_path) -> None:
    with DatasetWriter(tmp_path / "dataset"):
        pass
    archive(tmp_path / "dataset", tmp_path / "empty.mwa")
    restore(tmp_path / "empty.mwa", tmp_path / "out")
    assert files(tmp_path / "out") == files(tmp_path / "dataset")


def test_only_what_the_index_lists_is_archived(dataset, tmp_path) -> None:
    shutil.copytree(dataset, tmp_path / "dataset")
    for stray in ("shards/000003.arrow", "shards/000000.arrow.tmp", "notes.txt"):
        (tmp_path / "dataset" / stray).write_bytes(b"stray")
    archive(tmp_path / "dataset", tmp_path / "games.mwa")
    restore(tmp_path / "games.mwa", tmp_path / "out")
    assert files(tmp_path / "out") == files(dataset)


def add_column(path: Path, name: str, value: object) -> None:
    batch = pa.ipc.open_file(path.read_bytes()).get_batch(0)
    batch = pa.record_batch([*batch.columns, pa.array([value] * len(batch))], [*batch.schema.names, name])
    with pa.ipc.new_file(str(path), batch.schema) as writer:
        writer.write_batch(batch)


def test_files_and_columns_of_later_versions_are_carried(dataset, tmp_path) -> None:
    shutil.copytree(dataset, tmp_path / "dataset")
    add_column(tmp_path / "dataset" / "index.arrow", "tournament", "ü")
    add_column(tmp_path / "dataset" / "shards" / "000001.items.arrow", "spin", 0.1)
    add_column(tmp_path / "dataset" / "shards" / "000002.items.arrow", "word", "none of the numbers")
    (tmp_path / "dataset" / "split.json").write_text("{}")
    archive(tmp_path / "dataset", tmp_path / "games.mwa")
    restore(tmp_path / "games.mwa", tmp_path / "out")
    assert files(tmp_path / "out") == files(tmp_path / "dataset")


@given(data=st.data(), frames=st.integers(1, 6))
@settings(max_examples=30, deadline=None)
def test_any_bits_of_frames_come_back(data: st.DataObject, frames: int) -> None:
    byte = st.sampled_from([0, 1, 0x3F, 0x7F, 0x80, 0xFF]) | st.integers(0, 255)
    raw = data.draw(arrays(np.uint8, frames * 2 * RECORD.itemsize, elements=byte))
    records = raw.view(RECORD).reshape(-1, 2)
    starts = data.draw(st.sets(st.integers(0, frames - 1)))
    assert decode_frames(encode_frames(records, starts)).tobytes() == records.tobytes()


@pytest.mark.parametrize("frames", [0, 1, LANE // 2 - 1, LANE // 2, LANE // 2 + 1, LANE, 3 * LANE + 1])
@pytest.mark.parametrize("kinds", [2, 2**32])
def test_any_number_of_frames_comes_back(frames: int, kinds: int) -> None:
    """With few values, so that predictions often hold, and with none like another."""
    words = np.random.default_rng(frames).integers(0, kinds, frames * 2 * RECORD.itemsize // 4, dtype=np.uint64)
    records = words.astype(np.uint32).view(RECORD).reshape(-1, 2)
    assert decode_frames(encode_frames(records, range(min(1, frames)))).tobytes() == records.tobytes()


@given(data=st.data(), rows=st.integers(0, 12))
@settings(max_examples=30, deadline=None)
def test_any_columns_of_items_come_back(data: st.DataObject, rows: int) -> None:
    dtypes = {"row": "i4", **{f.name: f.store for f in ITEM_FIELDS[1:]}, "of_a_later_version": "i8", "other": "f8"}
    columns = {}
    for name, dtype in dtypes.items():
        values = st.sampled_from([0, 1]) | st.integers(0, 2 ** (8 * np.dtype(dtype).itemsize) - 1)
        columns[name] = data.draw(arrays(f"u{np.dtype(dtype).itemsize}", rows, elements=values)).view(dtype)
    back = decode_items(encode_items(columns), {name: column.dtype for name, column in columns.items()})
    assert list(back) == list(columns)
    assert all(back[name].tobytes() == column.tobytes() for name, column in columns.items())


# --- it is small -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not PACK.exists():
        pytest.skip("no real replays beside the repository")
    sys.path.insert(0, str(PACK.parents[1]))
    try:
        from slppack import unpack
    finally:
        sys.path.remove(str(PACK.parents[1]))
    folder = tmp_path_factory.mktemp("real")
    for _, (info, content) in zip(range(REAL_GAMES), unpack(PACK), strict=False):
        (folder / info["name"]).write_bytes(content)
    build([folder], folder / "dataset")
    return folder / "dataset"


def test_real_games_take_few_bytes_a_frame_and_come_back(real, tmp_path) -> None:
    summary = archive(real, tmp_path / "real.mwa")
    assert summary.bytes_a_frame == (tmp_path / "real.mwa").stat().st_size / summary.frames <= BYTES_A_FRAME
    restore(tmp_path / "real.mwa", tmp_path / "out")
    assert files(tmp_path / "out") == files(real)


def test_both_ways_say_what_was_done(dataset, tmp_path) -> None:
    done: list[tuple[int, int]] = []
    summary = archive(dataset, tmp_path / "games.mwa", lambda *frames: done.append(frames))
    frames = int(Dataset(dataset).frames.sum())
    assert (summary.games, summary.frames) == (5, frames)
    assert summary.dataset_bytes == sum(map(len, files(dataset).values()))
    assert summary.archive_bytes == (tmp_path / "games.mwa").stat().st_size
    assert summary.ratio == summary.dataset_bytes / summary.archive_bytes
    assert done == sorted(done)
    assert done[-1] == (frames, frames)
    again: list[tuple[int, int]] = []
    assert restore(tmp_path / "games.mwa", tmp_path / "out", lambda *frames: again.append(frames)) == summary
    assert again == done


def test_the_commands_print_bytes_a_frame_and_ratio(dataset, tmp_path, capsys) -> None:
    archive_command(dataset, tmp_path / "games.mwa")
    restore_command(tmp_path / "games.mwa", tmp_path / "out")
    assert files(tmp_path / "out") == files(dataset)
    summary = restore(tmp_path / "games.mwa", tmp_path / "again")
    line = f"{summary.archive_bytes:,} bytes, {summary.bytes_a_frame:.2f} a frame, {summary.ratio:.1f} : 1"
    assert capsys.readouterr().out.count(line) == 2


# --- what is refused -------------------------------------------------------------------------------------------------


def test_damage_in_a_part_names_it(archived, tmp_path) -> None:
    good = archived.read_bytes()
    assert len(parts(archived)) == 9
    for name, (begin, end) in parts(archived).items():
        bad = bytearray(good)
        bad[(begin + end) // 2] ^= 0x10
        (tmp_path / "bad.mwa").write_bytes(bad)
        refused(tmp_path / "bad.mwa", tmp_path / "out", rf"damaged \({name}\)")


@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_every_damaged_byte_is_found(data: st.DataObject, archived) -> None:
    bad = bytearray(archived.read_bytes())
    bad[data.draw(st.integers(0, len(bad) - 1) | st.integers(0, 800))] ^= data.draw(st.integers(1, 255))
    (archived.parent / "bad.mwa").write_bytes(bad)
    refused(archived.parent / "bad.mwa", archived.parent / "out", "damaged|incomplete|no archive")


@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_a_file_that_ends_early_is_refused(data: st.DataObject, archived) -> None:
    whole = archived.read_bytes()
    (archived.parent / "cut.mwa").write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    refused(archived.parent / "cut.mwa", archived.parent / "out", "incomplete|no archive")


def test_a_file_that_goes_on_is_refused(archived, tmp_path) -> None:
    (tmp_path / "long.mwa").write_bytes(archived.read_bytes() + b"\0")
    refused(tmp_path / "long.mwa", tmp_path / "out", "follows")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 a zip", b"\x89PNG\r\n\x1a\n"])
def test_other_files_are_no_archives(content: bytes, tmp_path) -> None:
    (tmp_path / "other.mwa").write_bytes(content)
    refused(tmp_path / "other.mwa", tmp_path / "out", "no archive of a dataset")


def test_folders_and_what_is_not_there_are_no_archives(tmp_path) -> None:
    (tmp_path / "folder").mkdir()
    for name in ("folder", "nothing"):
        refused(tmp_path / name, tmp_path / "out", "cannot be read")


@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        ("field_table_hash", lambda: "0123456789abcdef", "field table 0123456789abcdef, this version has"),
        ("VERSION", 99, "holds format melee-frames 99, this version reads"),
        ("ARCHIVE_VERSION", 99, "archive version 99, this version reads 1"),
    ],
)
def test_archives_of_other_versions_are_refused(name: str, value, match: str, dataset, tmp_path, monkeypatch) -> None:
    with monkeypatch.context() as other:
        other.setattr(archive_module, name, value)
        archive(dataset, tmp_path / "games.mwa")
    refused(tmp_path / "games.mwa", tmp_path / "out", match)


@pytest.mark.parametrize("name", ["../evil.json", "/tmp/evil.json", "shards/../../evil.json", "run.sh", ".hidden.json"])
def test_no_archive_writes_files_that_are_no_datasets(name: str, archived, tmp_path) -> None:
    whole, at = archived.read_bytes(), len(MAGIC)
    length, _ = struct.unpack_from("<II", whole, at)
    header = json.loads(whole[at + 8 : at + 8 + length])
    header["parts"][0] = name
    text = json.dumps(header).encode()
    head = struct.pack("<II", len(text), zlib.crc32(text)) + text
    (tmp_path / "evil.mwa").write_bytes(MAGIC + head + whole[at + 8 + length :])
    refused(tmp_path / "evil.mwa", tmp_path / "out", "names files that no dataset has")


@pytest.mark.parametrize("mine", ["out", "out/mine"])
def test_restore_refuses_a_place_that_is_taken(mine: str, archived, tmp_path) -> None:
    (tmp_path / mine).parent.mkdir(exist_ok=True)
    (tmp_path / mine).write_text("mine")
    before = files(tmp_path)
    with pytest.raises(UserError, match="out: exists already"):
        restore(archived, tmp_path / "out")
    assert files(tmp_path) == before


def test_restore_takes_an_empty_folder_and_makes_those_above_a_new_one(dataset, archived, tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    for out in (tmp_path / "empty", tmp_path / "new" / "folder"):
        restore(archived, out)
        assert files(out) == files(dataset)


def test_an_archive_is_made_only_of_a_dataset_that_is_whole(dataset, tmp_path) -> None:
    with pytest.raises(UserError, match="no dataset here"):
        archive(tmp_path, tmp_path / "games.mwa")
    for name in ("shards/000001.arrow", "shards/000001.items.arrow"):
        shutil.copytree(dataset, tmp_path / "dataset")
        (tmp_path / "dataset" / name).write_bytes(b"cut")
        with pytest.raises(UserError, match=rf"{name}: damaged"):
            archive(tmp_path / "dataset", tmp_path / "games.mwa")
        shutil.rmtree(tmp_path / "dataset")
    shutil.copytree(dataset, tmp_path / "dataset")
    (tmp_path / "dataset" / "shards" / "000002.arrow").unlink()
    with pytest.raises(UserError, match=r"000002\.arrow: missing"):
        archive(tmp_path / "dataset", tmp_path / "games.mwa")
    assert not list(tmp_path.glob("games.mwa*"))


def test_a_place_that_cannot_be_written_is_a_user_error(dataset, archived, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        archive(dataset, tmp_path / "file" / "games.mwa")
    with pytest.raises(UserError, match="cannot be written"):
        restore(archived, tmp_path / "file" / "out")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="folder: cannot be written"):
        archive(dataset, tmp_path / "folder")


# --- interruptions ---------------------------------------------------------------------------------------------------


def interrupt(done: int, total: int) -> None:
    if done:
        raise KeyboardInterrupt


def test_an_interrupted_restore_leaves_nothing(archived, tmp_path) -> None:
    with pytest.raises(KeyboardInterrupt):
        restore(archived, tmp_path / "out", interrupt)
    assert not list(tmp_path.iterdir())


def test_an_interrupted_archive_leaves_the_one_that_was_there(dataset, archived, tmp_path) -> None:
    shutil.copy(archived, tmp_path / "games.mwa")
    with pytest.raises(KeyboardInterrupt):
        archive(dataset, tmp_path / "games.mwa", interrupt)
    assert files(tmp_path) == {"games.mwa": archived.read_bytes()}
