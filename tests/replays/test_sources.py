"""Every replay in a source comes out once, whatever it is packed in; what cannot be read comes with a reason."""

import bz2
import gzip
import io
import lzma
import pickle
import random
import sys
import tarfile
import tempfile
import tracemalloc
import weakref
import zipfile
from functools import cache

import py7zr
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synthetic import synthetic_game
from wm_runtime.errors import UserError
from wm_runtime.replays import sources
from wm_runtime.replays.reasons import LeftOut
from wm_runtime.replays.sources import Input, count_inputs, open_inputs
from wm_runtime.replays.writer import write_slp

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

COMPRESS = {"gz": gzip.compress, "xz": lzma.compress, "zst": zstd.compress, "bz2": bz2.compress}
ARCHIVES = (".zip", ".7z", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
LISTED = (".zip", ".7z", ".tar")
COPY = [{"id": py7zr.FILTER_COPY}]
FAST = [{"id": py7zr.FILTER_LZMA2, "preset": 0}]
FILES = {"b/2.slp": b"two" * 1000, "a/1.slp": b"one" * 1000, "b/10.SLP": b"ten", "empty.slp": b""}


def pack(suffix: str, files: dict[str, bytes], **options) -> bytes:
    """An archive of `files`, in the order given."""
    out = io.BytesIO()
    if suffix == ".zip":
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in files.items():
                archive.writestr(name, data)
    elif suffix == ".7z":
        with py7zr.SevenZipFile(out, "w", **options) as archive:
            for name, data in files.items():
                archive.writestr(data, name)
    else:
        with tarfile.open(fileobj=out, mode="w") as archive:
            for name, data in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        codec = {".tar": "", ".tgz": "gz"}.get(suffix, suffix.rpartition(".")[2])
        return COMPRESS[codec](out.getvalue()) if codec else out.getvalue()
    return out.getvalue()


def contents(*given_sources) -> dict[str, bytes]:
    """Name → bytes of all inputs, none of which may have an error."""
    return {item.name: item.read() for item in open_inputs(given_sources)}


def errors(*given_sources) -> dict[str, str]:
    """Name → error of those inputs that have one."""
    found = {item.name: item.error for item in open_inputs(given_sources) if item.error}
    assert all("\n" not in error for error in found.values())
    return found


@pytest.fixture
def noise():
    return random.Random(1).randbytes


@pytest.mark.parametrize("suffix", ARCHIVES)
def test_every_archive_gives_its_replays_and_nothing_else(tmp_path, suffix):
    others = {"readme.txt": b"no", "__MACOSX/a/1.slp": b"no", "b/._2.slp": b"no", "1.slp.txt": b"no"}
    path = tmp_path / f"dump{suffix}"
    path.write_bytes(pack(suffix, {"video.mp4": b"no" * 10_000, **FILES, **others}))
    before = path.read_bytes()
    assert contents(path) == {f"dump{suffix}/{name}": data for name, data in FILES.items()}
    assert count_inputs([path]) == (len(FILES) if suffix in LISTED else None)
    assert path.read_bytes() == before


@pytest.mark.parametrize("suffix", ARCHIVES)
def test_zips_come_sorted_and_streams_in_their_own_order(tmp_path, suffix):
    files = {name: FILES[name] for name in ("b/2.slp", "a/1.slp", "b/10.SLP")}
    (tmp_path / f"dump{suffix}").write_bytes(pack(suffix, files))
    names = [item.name.partition("/")[2] for item in open_inputs([tmp_path / f"dump{suffix}"])]
    assert names == (sorted(files) if suffix == ".zip" else list(files))


@pytest.mark.parametrize("codec", ["gz", "xz", "zst"])
def test_a_compressed_replay_reads_the_same_alone_and_in_an_archive(tmp_path, codec):
    game = tmp_path / "game.slp"
    write_slp(game, synthetic_game(1, 120))
    packed = COMPRESS[codec](game.read_bytes())
    (tmp_path / f"a.slp.{codec}").write_bytes(packed)
    (tmp_path / "b.zip").write_bytes(pack(".zip", {f"x.slp.{codec}": packed}))
    alone, inside, plain = open_inputs([tmp_path])
    assert (alone.codec, alone.path, alone.data) == (codec, tmp_path / f"a.slp.{codec}", None)
    assert (inside.codec, inside.path, inside.name) == (codec, None, f"{tmp_path.name}/b.zip/x.slp.{codec}")
    assert alone.read() == inside.read() == plain.read() == game.read_bytes()


def test_a_folder_is_searched_through_and_sorted(tmp_path):
    for name in ("z.slp", "b/a.slp", "b/deep/er/x.SLP", "B.slp", "no.txt", "b/__MACOSX/x.slp", "b/._a.slp"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    (tmp_path / "in/b/dump.7z").write_bytes(pack(".7z", {"m.slp": b"m"}))
    (tmp_path / "in/b/loop").symlink_to(tmp_path / "in")
    found = list(open_inputs([tmp_path / "in"]))
    assert [item.name for item in found] == [
        "in/B.slp", "in/b/a.slp", "in/b/deep/er/x.SLP", "in/b/dump.7z/m.slp", "in/z.slp",
    ]  # fmt: skip
    assert {item.source for item in found} == {str(tmp_path / "in")}
    assert count_inputs([tmp_path / "in"]) == len(found)


def test_a_file_named_explicitly_is_always_an_input(tmp_path):
    (tmp_path / "replay.bin").write_bytes(b"x")
    (tmp_path / "replay.gz").write_bytes(gzip.compress(b"y"))
    assert contents(tmp_path / "replay.bin", tmp_path / "replay.gz") == {"replay.bin": b"x", "replay.gz": b"y"}


def test_names_are_unique_and_say_which_source(tmp_path):
    for folder in ("one/replays", "two/replays", "three"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "a.slp").write_bytes(folder.encode())
    with zipfile.ZipFile(tmp_path / "twice.zip", "w") as archive:
        archive.writestr("a.slp", b"first")
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("a.slp", b"second")
    given_sources = [tmp_path / name for name in ("one/replays", "two/replays", "three", "three/a.slp", "twice.zip")]
    assert contents(*given_sources) == {
        f"{tmp_path}/one/replays/a.slp": b"one/replays",
        f"{tmp_path}/two/replays/a.slp": b"two/replays",
        "three/a.slp": b"three",  # named twice: as a file and in its folder
        "twice.zip/a.slp": b"first",
        "twice.zip/a.slp (2)": b"second",
    }
    assert count_inputs(given_sources) == 5


def test_names_can_be_printed(tmp_path):
    (tmp_path / "dump.tar").write_bytes(pack(".tar", {"line\nbreak.slp": b"x", "byte\udcff.slp": b"y"}))
    names = list(contents(tmp_path / "dump.tar"))
    assert names == ["dump.tar/line\ufffdbreak.slp", "dump.tar/byte\ufffd.slp"]


def test_an_input_can_be_sent_to_another_process(tmp_path):
    (tmp_path / "a.slp").write_bytes(b"plain")
    (tmp_path / "b.7z").write_bytes(pack(".7z", {"x.slp": b"packed"}))
    found = list(open_inputs([tmp_path]))
    assert pickle.loads(pickle.dumps(found)) == found
    assert "packed" not in repr(found)


@pytest.mark.parametrize("inner", ARCHIVES)
@pytest.mark.parametrize("outer", [".zip", ".7z", ".tar.gz"])
def test_archives_inside_archives_are_read_one_level_deep(tmp_path, outer, inner):
    deepest = pack(".zip", {"x.slp": b"x"})
    files = {"a.slp": b"a", f"in{inner}": pack(inner, {"b.slp": b"b", "deep.zip": deepest}), "z.slp": b"z"}
    path = tmp_path / f"out{outer}"
    path.write_bytes(pack(outer, files))
    found = {item.name: item.error or item.read() for item in open_inputs([path])}
    name = path.name
    assert found == {
        f"{name}/a.slp": b"a",
        f"{name}/in{inner}/b.slp": b"b",
        f"{name}/in{inner}/deep.zip": "an archive too deep inside others; unpack one of them",
        f"{name}/z.slp": b"z",
    }
    assert count_inputs([path]) is None


@pytest.mark.parametrize("suffix", ARCHIVES)
def test_an_archive_without_replays_is_one_input_with_an_error(tmp_path, suffix):
    (tmp_path / f"photos{suffix}").write_bytes(pack(suffix, {"a.jpg": b"x"}))
    assert errors(tmp_path) == {f"{tmp_path.name}/photos{suffix}": "no replays in this archive"}
    assert count_inputs([tmp_path]) == (1 if suffix in LISTED else None)


def test_a_source_that_is_not_there_or_empty_is_the_users_error(tmp_path):
    (tmp_path / "notes.txt").write_text("no replay")
    for look in (open_inputs, count_inputs):
        with pytest.raises(UserError, match="no replays in this folder"):
            look([tmp_path])
        with pytest.raises(UserError, match=r"gone\.slp: no such file or folder"):
            look([tmp_path / "gone.slp"])


@pytest.mark.parametrize("suffix", ARCHIVES)
def test_a_truncated_archive_keeps_what_lies_before_the_cut_and_stops_nothing(tmp_path, suffix, noise):
    files = {f"{i}.slp": noise(50_000) for i in range(10)}
    whole = pack(suffix, files)
    (tmp_path / f"a{suffix}").write_bytes(whole[: len(whole) * 2 // 3])
    (tmp_path / "b.slp").write_bytes(b"after")
    found = list(open_inputs([tmp_path]))
    assert found[-1].read() == b"after"
    assert any(item.error.startswith("damaged") for item in found)
    readable = [item for item in found[:-1] if not item.error]
    assert all(item.read() == files[item.name.rpartition("/")[2]] for item in readable)
    assert len(readable) == (0 if suffix in (".zip", ".7z") else 6) or suffix == ".tar.bz2"
    count_inputs([tmp_path])


@pytest.mark.parametrize("suffix", ARCHIVES)
def test_every_cut_of_an_archive_is_noticed(tmp_path, suffix):
    whole = pack(suffix, {"a.slp": b"a" * 700, "b.slp": bytes(512)})
    path = tmp_path / f"x{suffix}"
    end = 4 * 512 if suffix == ".tar" else len(whole) - 1  # behind the members a tar has zeros to the end of its record
    for cut in range(0, end, 7):
        path.write_bytes(whole[:cut])
        assert errors(path), cut


SMALL = {f"{i}.slp": random.Random(i).randbytes(300) for i in range(4)}


@cache
def small_archive(suffix):
    return pack(suffix, SMALL)


@pytest.mark.parametrize("suffix", ARCHIVES)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_no_damage_raises_and_no_damaged_member_passes_as_good(suffix, data):
    whole = bytearray(small_archive(suffix))
    for _ in range(data.draw(st.integers(1, 8))):
        whole[int(data.draw(st.floats(0, 0.999999)) * len(whole))] ^= data.draw(st.integers(1, 255))
    found = [item for item in sources._unpack(lambda: io.BytesIO(whole), suffix, "x", "x") if not item.error]
    if suffix in (".zip", ".7z"):  # these keep a checksum of every member
        assert all(item.data in SMALL.values() for item in found)


def test_one_damaged_member_of_a_zip_or_an_unpacked_7z_leaves_the_others(tmp_path, noise):
    files = {f"{i}.slp": noise(2000) for i in range(3)}
    for suffix, options in ((".zip", {}), (".7z", {"filters": COPY})):
        whole = bytearray(pack(suffix, files, **options))
        whole[whole.index(files["1.slp"][500:600])] ^= 1
        path = tmp_path / f"x{suffix}"
        path.write_bytes(whole)
        assert list(errors(path)) == [f"x{suffix}/1.slp"]
        assert sum(not item.error for item in open_inputs([path])) == count_inputs([path]) - 1 == 2


def test_damage_in_one_solid_block_of_a_7z_leaves_the_blocks_after_it(tmp_path, noise):
    path, files = tmp_path / "x.7z", {f"{i}.slp": noise(3000) for i in range(6)}
    for mode, names in (("w", ("0.slp", "1.slp", "2.slp")), ("a", ("3.slp", "4.slp", "5.slp"))):
        with py7zr.SevenZipFile(path, mode, filters=FAST) as archive:
            for name in names:
                archive.writestr(files[name], name)
    whole = bytearray(path.read_bytes())
    whole[32] = 0x7F  # no LZMA2 chunk begins so
    path.write_bytes(whole)
    assert list(errors(path)) == ["x.7z/0.slp", "x.7z/1.slp", "x.7z/2.slp"]
    assert {i.name: i.read() for i in open_inputs([path]) if not i.error} == {
        f"x.7z/{n}.slp": files[f"{n}.slp"] for n in (3, 4, 5)
    }


@pytest.mark.parametrize("method", [
    [{"id": py7zr.FILTER_LZMA, "preset": 0}], FAST, [{"id": py7zr.FILTER_BZIP2}], [{"id": py7zr.FILTER_DEFLATE}],
    [{"id": py7zr.FILTER_ZSTD}], [{"id": py7zr.FILTER_X86}, *FAST], [{"id": py7zr.FILTER_DELTA}, *FAST], COPY,
])  # fmt: skip
def test_all_methods_of_7z(tmp_path, method, noise):
    files = {f"{i}.slp": noise(10_000) + bytes(50_000 + i) for i in range(30)}
    files["skipped.txt"] = noise(1000)
    files["last.slp"] = noise(1_200_000)
    (tmp_path / "x.7z").write_bytes(pack(".7z", files, filters=method))
    del files["skipped.txt"]
    assert list(contents(tmp_path / "x.7z").values()) == list(files.values())


def test_encrypted_members_are_inputs_with_an_error(tmp_path):
    files = {"a.slp": b"a" * 100, "b.slp": b"b" * 100}
    (tmp_path / "open_list.7z").write_bytes(pack(".7z", files, password="secret"))
    (tmp_path / "hidden_list.7z").write_bytes(pack(".7z", files, password="secret", header_encryption=True))
    whole = bytearray(pack(".zip", files))
    for at in (6, whole.rindex(b"PK\1\2") + 8):  # the flags of the first member's header, and of the last one's listing
        whole[at] |= 1
    (tmp_path / "some.zip").write_bytes(whole)
    assert errors(*sorted(tmp_path.iterdir())) == dict.fromkeys(
        ("hidden_list.7z", "open_list.7z/a.slp", "open_list.7z/b.slp", "some.zip/b.slp"),
        "encrypted: unpack it with its password first",
    )
    assert count_inputs([tmp_path]) == 1 + 2 + 2


@pytest.mark.parametrize("suffix", ARCHIVES)
def test_a_member_beyond_the_limit_is_an_error_and_the_next_is_read(tmp_path, suffix, monkeypatch):
    monkeypatch.setattr(sources, "LIMIT", 1_000_000)
    (tmp_path / f"bomb{suffix}").write_bytes(pack(suffix, {"a.slp": bytes(3_000_000), "b.slp": b"good"}))
    first, second = open_inputs([tmp_path])
    assert first.error == "too big for a replay: 3,000,000 bytes or more, at most 1,000,000 are read"
    assert second.read() == b"good"


@pytest.mark.parametrize("codec", ["gz", "xz", "zst"])
def test_a_compressed_bomb_or_stump_is_left_out_when_read(tmp_path, codec, monkeypatch, noise):
    monkeypatch.setattr(sources, "LIMIT", 1_000_000)
    (tmp_path / f"bomb.slp.{codec}").write_bytes(COMPRESS[codec](bytes(3_000_000)))
    (tmp_path / f"stump.slp.{codec}").write_bytes(COMPRESS[codec](noise(3000))[:2000])
    (tmp_path / f"wrong.slp.{codec}").write_bytes(b"not compressed at all")
    details = []
    for item in open_inputs([tmp_path]):
        with pytest.raises(LeftOut) as left_out:
            item.read()
        assert left_out.value.reason == "unreadable"
        details.append(left_out.value.detail)
    assert details[0].startswith("too big")
    assert details[1] == "damaged: cut short"
    assert details[2].startswith("damaged: ")


def test_an_error_is_raised_by_read_as_the_reason_for_leaving_it_out():
    with pytest.raises(LeftOut, match="unreadable: encrypted"):
        Input("x", "x", error="encrypted").read()


@pytest.mark.parametrize("suffix", [".zip", ".7z", ".tar.gz", ".tar.zst"])
def test_memory_holds_a_few_members_and_little_of_the_archive(tmp_path, suffix, noise):
    files = {f"{i}.slp": noise(50_000) + bytes(150_000) for i in range(150)}
    (tmp_path / f"x{suffix}").write_bytes(pack(suffix, files, filters=FAST))
    del files
    inputs = open_inputs([tmp_path])
    next(inputs)  # allocates the decoders
    given_out, most = [], 0
    tracemalloc.start()
    for item in inputs:
        assert not item.error
        given_out.append(weakref.ref(item))
        most = max(most, sum(ref() is not None for ref in given_out))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most <= 2
    assert peak < 4_000_000, "of 30 MB, packed to 7.5 MB"


def test_nothing_is_written_to_disk(tmp_path, monkeypatch):
    packed = tmp_path / "in"
    packed.mkdir()
    for suffix in ARCHIVES:
        (packed / f"x{suffix}").write_bytes(pack(suffix, {"a.slp": b"a" * 100_000, "in.zip": pack(".zip", FILES)}))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.chdir(scratch)
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    changed = [folder.stat().st_mtime_ns for folder in (tmp_path, packed, scratch)]
    assert len(contents(packed)) == len(ARCHIVES) * (1 + len(FILES))
    assert [folder.stat().st_mtime_ns for folder in (tmp_path, packed, scratch)] == changed


def test_reading_may_stop_halfway(tmp_path):
    for suffix in ARCHIVES:
        (tmp_path / f"x{suffix}").write_bytes(pack(suffix, FILES))
        inputs = open_inputs([tmp_path / f"x{suffix}"])
        next(inputs)
        inputs.close()
        (tmp_path / f"x{suffix}").unlink()
