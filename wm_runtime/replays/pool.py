"""Work over processes that may crash or hang: each item costs itself only, results come in the order of the items."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from typing import Any, Generic, TypeVar

from wm_runtime.replays.answers import Answers, answer_channel

T = TypeVar("T")
R = TypeVar("R")

WORKER_MEMORY = 4 << 30
"""Bytes of address space that a worker may take, where the system can limit it: a file that asks for more fails."""
KEPT_MEMORY = 64 << 20
"""Bytes of freed memory that a worker keeps for its next items, where the C library is glibc."""
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Options of glibc's mallopt."""
START_LIMIT = 60.0
"""Seconds that a process may take to start, which do not count against its first item's time limit."""


@dataclass(frozen=True)
class Crash:
    """What stands in for a result: the worker died, or was stopped at the time limit."""

    reason: str


@dataclass
class _Worker:
    process: Any
    answers: Answers
    started: bool = False
    """It has said so; its next answers are results."""
    number: int | None = None
    """Of the item that it works on."""
    deadline: float = 0.0


@dataclass
class OrderedPool(Generic[T, R]):
    """`work(item)` in `workers` processes, started afresh for every one that dies or takes longer than `time_limit` s.

    `work` must be importable and not raise (that counts as dying); `prepare`, if given, runs once in each new process.
    At most `ahead` items are begun beyond the oldest unfinished one, which bounds memory.
    """

    work: Callable[[T], R]
    workers: int
    time_limit: float = 60.0
    ahead: int = 64
    prepare: Callable[[], None] | None = None
    _alive: list[_Worker] = field(default_factory=list)

    def run(self, items: Iterable[T]) -> Iterator[tuple[T, R | Crash]]:
        """Each item with its result, in the order of `items`. Leaving the loop early stops the workers."""
        source = enumerate(items)
        begun: deque[tuple[int, T]] = deque()
        done: dict[int, R | Crash] = {}
        exhausted = False
        try:
            self._alive = [self._start() for _ in range(self.workers)]
            while True:
                for worker in self._alive:
                    if worker.number is None and not exhausted and len(begun) < self.ahead:
                        try:
                            number, item = next(source)
                        except StopIteration:
                            exhausted = True
                            break
                        begun.append((number, item))
                        self._give(worker, number, item)
                while begun and begun[0][0] in done:
                    number, item = begun.popleft()
                    yield item, done.pop(number)
                if not begun and exhausted:
                    return
                self._collect(done)
        finally:
            for worker in self._alive:
                _stop(worker)
            self._alive = []

    def _start(self) -> _Worker:
        context = multiprocessing.get_context("spawn")
        here, there = answer_channel(context)
        process = context.Process(target=_serve, args=(there, self.work, self.prepare), daemon=True)
        with _interrupts_held():
            process.start()
        there.pipe.close()
        return _Worker(process, here)

    def _give(self, worker: _Worker, number: int, item: object) -> None:
        worker.number = number
        worker.deadline = time.monotonic() + self.time_limit + (0.0 if worker.started else START_LIMIT)
        with suppress(BrokenPipeError, ConnectionResetError):  # a dead worker is found by _collect
            worker.answers.pipe.send(item)

    def _collect(self, done: dict[int, R | Crash]) -> None:
        """Waits until a worker answers, dies or runs out of time, and keeps what came of its item."""
        busy = [w for w in self._alive if w.number is not None]
        if not busy:
            return
        patience = max(0.0, min(w.deadline for w in busy) - time.monotonic())
        ready = wait([w.answers.pipe for w in busy], timeout=patience)
        for worker in busy:
            assert worker.number is not None
            if worker.answers.pipe in ready:
                try:
                    answer = worker.answers.receive()
                    if worker.started:
                        done[worker.number], worker.number = answer, None
                    else:
                        worker.started, worker.deadline = True, time.monotonic() + self.time_limit
                except (EOFError, OSError):
                    worker.process.join(1)
                    self._replace(worker, done, f"the parser crashed ({_exit(worker.process.exitcode)})")
            elif time.monotonic() >= worker.deadline:
                self._replace(worker, done, f"not read within {self.time_limit:g} s")

    def _replace(self, worker: _Worker, done: dict[int, R | Crash], reason: str) -> None:
        assert worker.number is not None
        done[worker.number] = Crash(reason)
        _stop(worker)
        self._alive[self._alive.index(worker)] = self._start()


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """What is started meanwhile never sees a Ctrl-C, and so dies without a word; the parent sees it afterwards."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # its start, else a part of the first process's, lets interrupts through
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(answers: Answers, work: Callable, prepare: Callable[[], None] | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (WORKER_MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _keep_freed_memory()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # a panic in the parser prints before it is raised
    if prepare:
        prepare()
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        answers.send(None)  # started
        while True:
            answers.send(work(answers.pipe.recv()))


def _keep_freed_memory() -> None:
    """The next item takes about as much memory as the last one, and to fetch it anew from the system takes a while."""
    with suppress(AttributeError, OSError, TypeError):  # where the C library is another one
        set_option = ctypes.CDLL(None).mallopt
        set_option(_TRIM_THRESHOLD, KEPT_MEMORY)
        set_option(_MMAP_THRESHOLD, KEPT_MEMORY // 2)


def _stop(worker: _Worker) -> None:
    worker.answers.close()
    worker.process.kill()
    worker.process.join()


def _exit(code: int | None) -> str:
    return f"signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"
