"""What the workers of test_pool.py do. Processes started afresh import it, so it imports little."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from wm_runtime.replays.pool import WORKER_MEMORY

DEEDS: dict[str, Callable[[], object]] = {
    "work": lambda: "done",
    "abort": os.abort,
    "exit": lambda: os._exit(3),
    "hang": lambda: time.sleep(600),
    "raise": lambda: 1 // 0,
    "answer what cannot be sent": lambda: lambda: None,
    "take too much memory": lambda: len(bytearray(WORKER_MEMORY)),
}


def do(deed: str) -> object:
    return DEEDS[deed]()


def process(item: object) -> int:
    """Number of the process that works."""
    return os.getpid()


def start_slowly() -> None:
    time.sleep(1.5)


def open_or_wait(item: tuple[int, int, Path]) -> int:
    """Number 0 waits for the gate, which the `last` number opens."""
    number, last, gate = item
    if number == last:
        gate.touch()
    while number == 0 and not gate.exists():
        time.sleep(0.01)
    return number
