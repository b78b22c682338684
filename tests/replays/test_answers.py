"""Whatever a process sends comes to its parent as it was, arrays included, and what came does not change any more."""

import multiprocessing

import answer_work
import numpy as np
import pytest

from wm_runtime.replays.answers import BLOCK, answer_channel


def test_arrays_come_as_they_were_and_stay_so_when_the_next_ones_come() -> None:
    context = multiprocessing.get_context("spawn")
    here, there = answer_channel(context)
    process = context.Process(target=answer_work.answer, args=(there,))
    process.start()
    there.pipe.close()
    here.pipe.send(3)
    first = here.receive()
    here.pipe.send(BLOCK // 8 + 1)  # more than fits the shared memory
    second = here.receive()
    here.pipe.send(0)
    third = here.receive()
    process.join()
    for n, (name, numbers, more) in ((3, first), (BLOCK // 8 + 1, second), (0, third)):
        assert name == str(n)
        assert np.array_equal(numbers, np.arange(n))
        assert more["halves"].tobytes() == (np.arange(5, dtype=np.float32) / 2 + n).tobytes()
    with pytest.raises(EOFError):
        here.receive()
    here.close()
