"""How a worker's answers reach its parent: through a pipe, but for the arrays in them, which lie in shared memory.

A pipe takes an array in many small pieces, each of which wakes the other side and is copied anew.
"""

from __future__ import annotations

import mmap
import os
import pickle
from contextlib import suppress
from multiprocessing import reduction
from multiprocessing.connection import Connection
from typing import Any

BLOCK = 32 << 20
"""Bytes of shared memory a worker; of a system that gives what is used. A game of eight minutes has 4 MB of frames."""


class Answers:
    """One end: `send` objects, the other end `receive`s them, one at a time: what is sent next overwrites the arrays of
    what was sent before, so the other end must have asked for it, through `pipe`."""

    def __init__(self, pipe: Connection, number: int | None):
        self.pipe = pipe
        self._number = number
        """File descriptor of the shared memory; None where the system has none of that kind."""
        self._block = None if number is None else mmap.mmap(number, BLOCK)

    def __reduce__(self) -> tuple:
        """On its way to a new process."""
        return _arrived, (self.pipe, None if self._number is None else reduction.DupFd(self._number))

    def send(self, answer: Any) -> None:
        sizes: list[int] = []

        def keep_inside(buffer: pickle.PickleBuffer) -> bool:
            data = buffer.raw()
            begin = sum(sizes)
            if self._block is None or begin + data.nbytes > BLOCK:
                return True
            self._block[begin : begin + data.nbytes] = data
            sizes.append(data.nbytes)
            return False

        pickled = pickle.dumps(answer, protocol=5, buffer_callback=keep_inside)
        self.pipe.send((pickled, sizes))

    def receive(self) -> Any:
        """Raises EOFError or OSError if the other end is gone."""
        pickled, sizes = self.pipe.recv()
        buffers, at = [], 0
        for size in sizes:
            assert self._block is not None
            buffers.append(self._block[at : at + size])
            at += size
        return pickle.loads(pickled, buffers=buffers)

    def close(self) -> None:
        self.pipe.close()
        if self._block is not None:
            self._block.close()
        if self._number is not None:
            with suppress(OSError):
                os.close(self._number)
            self._number = None


def answer_channel(context: Any) -> tuple[Answers, Answers]:
    """The parent's end and the worker's, which is to be given to a process of `context`."""
    here, there = context.Pipe()
    number = None
    if hasattr(os, "memfd_create"):
        number = os.memfd_create("answers")
        os.ftruncate(number, BLOCK)
    return Answers(here, number), Answers(there, number)


def _arrived(pipe: Connection, number: Any) -> Answers:
    return Answers(pipe, None if number is None else number.detach())
