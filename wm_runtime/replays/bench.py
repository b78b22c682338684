"""How fast and how large building and reading datasets is, beside parsing alone in the same run."""

from __future__ import annotations

import math
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from wm_runtime.errors import UserError
from wm_runtime.replays.build import build
from wm_runtime.replays.dataset import Dataset

WINDOWS, LENGTH = 512, 64
"""Windows a batch, frames a window."""


def bench_build(replays: Path, workers: int, rounds: int = 3) -> dict[str, float]:
    """Files a second of parsing alone and of building, both over `workers` processes and the same files, taken in turn
    `rounds` times: the best of each and their ratio. The same as milliseconds of processor time a file, which other
    work on the machine disturbs less (0 where it is not told). And a build's peak memory in bytes, parent and workers:
    of one more build before these, since to look at it holds up the processes."""
    files = sorted(replays.rglob("*.slp"))
    if not files:
        raise UserError(f"{replays}: no .slp files in this folder; name a folder that holds replays")
    up = min(workers, len(files))
    peak = _peak_memory(replays, workers)  # all files are in the page cache from here on
    parsing, building = 0.0, 0.0
    parsing_cpu, building_cpu = math.inf, math.inf
    for _ in range(rounds):
        with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
            list(pool.map(_parse, files[:workers]))  # processes are up before the clock starts
            started, spent = time.perf_counter(), _processor_time()
            list(pool.map(_parse, files, chunksize=4))
            parsing = max(parsing, len(files) / (time.perf_counter() - started))
            parsing_cpu = min(parsing_cpu, (_processor_time() - spent) / len(files))
        times: list[float] = []
        cpu: list[float] = []

        def on_file(report, times=times, cpu=cpu) -> None:
            if len(report.rows) in (up, len(files)):  # once each process has done a file, and at the end
                times.append(time.perf_counter())
                cpu.append(_processor_time())

        with tempfile.TemporaryDirectory() as folder:
            build([replays], Path(folder) / "dataset", workers=workers, on_file=on_file)
        timed = len(files) - up
        building = max(building, timed / (times[-1] - times[0]) if timed else 0.0)
        building_cpu = min(building_cpu, (cpu[-1] - cpu[0]) / max(timed, 1))
    return {
        "parsing_files_per_second": parsing,
        "building_files_per_second": building,
        "ratio": building / parsing,
        "parsing_cpu_ms": parsing_cpu * 1e3,
        "building_cpu_ms": building_cpu * 1e3,
        "cpu_ratio": parsing_cpu / building_cpu if building_cpu else 0.0,
        "peak_memory_bytes": peak,
    }


def bench_windows(dataset: Path, seconds: float = 5.0) -> dict[str, float]:
    """Batches of random windows a second: `cold` with the dataset's files dropped from the page cache before every
    eight batches (where the system can), `warm` without; as they are `stored`, and `decoded` into states and
    controllers; milliseconds of processor time that each takes; microseconds to open the dataset and to read one
    window."""
    speeds: dict[str, float] = {}
    for cache in ("cold", "warm"):
        for form in ("stored", "decoded"):
            speed, cpu = _speed_of_batches(dataset, seconds, cache == "cold", form == "decoded")
            speeds |= {f"{cache}_{form}_batches_per_second": speed, f"{cache}_{form}_cpu_ms": cpu * 1e3}
    started = time.perf_counter()
    data = Dataset(dataset)
    opening = time.perf_counter() - started
    rng = np.random.default_rng(1)
    games = rng.integers(0, len(data), 2000)
    rows = (rng.random(2000) * (data.frames[games] - LENGTH)).astype(int)
    for game, row in zip(games, rows, strict=True):
        data.records(int(game), int(row), int(row) + LENGTH)
    started = time.perf_counter()
    for game, row in zip(games, rows, strict=True):
        data.records(int(game), int(row), int(row) + LENGTH).tobytes()
    single = (time.perf_counter() - started) / len(games)
    return {
        **speeds,
        "open_us": opening * 1e6,
        "window_us": single * 1e6,
    }


def _peak_memory(replays: Path, workers: int) -> int:
    """Most memory that a build took, looked at after the first file and every eighth from there."""
    peak = 0

    def on_file(report) -> None:
        nonlocal peak
        if len(report.rows) % 8 == 1:
            peak = max(peak, _memory())

    with tempfile.TemporaryDirectory() as folder:
        build([replays], Path(folder) / "dataset", workers=workers, on_file=on_file)
    return peak


def _speed_of_batches(path: Path, seconds: float, drop: bool, decode: bool) -> tuple[float, float]:
    """(Batches a second, seconds of processor time a batch). Each is announced while the one before it is decoded, as a
    loader does."""
    rng = np.random.default_rng(0)
    spent, cpu, batches, rounds = 0.0, 0.0, 0, 8
    while spent < seconds:
        data = Dataset(path)
        for number in np.unique(data.shard_numbers):
            data.shard(int(number))
        if drop:
            _drop_from_cache(path)
        drawn = []
        for _ in range(rounds):
            games = rng.choice(len(data), WINDOWS, p=data.frames / data.frames.sum())
            drawn.append((games, (rng.random(WINDOWS) * np.maximum(data.frames[games] - LENGTH, 1)).astype(int)))
        started, started_cpu = time.perf_counter(), time.process_time()
        data.announce(*drawn[0], LENGTH)
        for current, following in zip(drawn, [*drawn[1:], None], strict=True):
            if following:
                data.announce(*following, LENGTH)
            (data.windows if decode else data.stored_windows)(*current, LENGTH)
        spent += time.perf_counter() - started
        cpu += time.process_time() - started_cpu
        batches += rounds
    return batches / spent, cpu / batches


def _drop_from_cache(path: Path) -> None:
    for file in path.glob("shards/*.arrow"):
        with suppress(AttributeError, OSError), open(file, "rb") as handle:
            os.fsync(handle.fileno())
            os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _parse(path: Path) -> int:
    import peppi_py

    return len(peppi_py.read_slippi(str(path)).frames.id)


def _processor_time() -> float:
    """Seconds of processor time of this process and its children so far; 0 where /proc does not tell."""
    if not sys.platform.startswith("linux"):
        return 0.0
    ticks = 0
    for pid in _family(os.getpid()):
        with suppress(OSError):
            user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
            ticks += int(user) + int(system)
    return ticks / os.sysconf("SC_CLK_TCK")


def _memory() -> int:
    """Proportional resident memory of this process and its children, bytes; 0 where /proc does not tell."""
    if not sys.platform.startswith("linux"):
        return 0
    return sum(_pss(pid) for pid in _family(os.getpid()))


def _family(pid: int) -> Iterator[int]:
    yield pid
    with suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            yield from _family(int(child))


def _pss(pid: int) -> int:
    with suppress(OSError, ValueError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0
