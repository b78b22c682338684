"""Results come in the order of the items; a worker that dies or hangs costs its item; nothing is left running."""

import itertools
import math
import multiprocessing
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pool_work
import pytest

from wm_runtime.replays.pool import Crash, OrderedPool

TIME_LIMIT = 1.0


def test_results_come_in_the_order_of_the_items_however_long_each_takes(tmp_path: Path) -> None:
    """The first item ends once the fourth is worked on: the others do not wait for it."""
    items = [(number, 3, tmp_path / "gate") for number in range(7)]
    found = list(OrderedPool(pool_work.open_or_wait, workers=2).run(items))
    assert found == [(item, item[0]) for item in items]


def test_a_worker_that_dies_or_hangs_costs_its_item_only() -> None:
    expected = {
        "abort": "the parser crashed (signal SIGABRT)",
        "exit": "the parser crashed (exit code 3)",
        "hang": f"not read within {TIME_LIMIT:g} s",
        "raise": "the parser crashed (exit code 1)",
        "answer what cannot be sent": "the parser crashed (exit code 1)",
    }
    deeds = ["work", *itertools.chain.from_iterable((bad, "work", "work") for bad in expected)]
    found = list(OrderedPool(pool_work.do, workers=2, time_limit=TIME_LIMIT).run(deeds))
    assert found == [(deed, Crash(expected[deed]) if deed in expected else "done") for deed in deeds]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the system does not limit memory")
def test_a_worker_cannot_take_all_memory() -> None:
    deeds = ["take too much memory", "work"]
    found = list(OrderedPool(pool_work.do, workers=1).run(deeds))
    assert found == [(deeds[0], Crash("the parser crashed (exit code 1)")), (deeds[1], "done")]


def test_the_time_that_a_process_takes_to_start_is_not_its_items() -> None:
    pool = OrderedPool(pool_work.do, workers=1, time_limit=TIME_LIMIT, prepare=pool_work.start_slowly)
    assert list(pool.run(["work"])) == [("work", "done")]


def test_of_a_source_without_end_no_more_is_begun_than_asked_for(tmp_path: Path) -> None:
    ahead, drawn = 5, []

    def source() -> Iterator[tuple[int, int, Path]]:
        for number in itertools.count():
            drawn.append(number)
            yield number, ahead - 1, tmp_path / "gate"

    results = OrderedPool(pool_work.open_or_wait, workers=2, ahead=ahead).run(source())
    assert next(results)[1] == 0
    assert len(drawn) == ahead
    assert [answer for _, answer in itertools.islice(results, 20)] == list(range(1, 21))
    assert len(drawn) <= 21 + ahead
    results.close()


def is_alive(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    return True


def breaks_off(seen: list) -> Iterator[int]:
    yield from itertools.takewhile(lambda _: len(seen) < 5, itertools.count())
    raise OSError("the disk is gone")


@pytest.mark.parametrize("end", ["the consumer breaks off", "the source breaks off"])
def test_whatever_ends_the_loop_early_ends_the_processes_too(end: str) -> None:
    seen: list[object] = []
    processes: set[object] = set()

    def consume(items: Iterable[int], at_most: float) -> None:
        for _, process in OrderedPool(pool_work.process, workers=2).run(items):
            seen.append(process)
            processes.update(child.pid for child in multiprocessing.active_children())
            if len(seen) >= at_most:
                break

    if end == "the consumer breaks off":
        consume(itertools.count(), at_most=5)
        assert len(seen) == 5
    else:
        with pytest.raises(OSError, match="the disk is gone"):
            consume(breaks_off(seen), at_most=math.inf)
    assert len(processes) == 2
    assert set(seen) <= processes
    assert not any(map(is_alive, processes))


def test_no_items_give_no_results() -> None:
    assert list(OrderedPool(pool_work.do, workers=1).run([])) == []
