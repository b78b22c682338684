"""Builds datasets in processes that a test kills. Run as a script: it imports everything once, then forks.

A line of standard input, "INPUTS OUT WORKERS", starts a build in a process group of its own. Lines of standard output:
"started PID", the outcome of every file as it is done, "ended" when the process has, however that came about.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path

from wm_runtime.replays.build import BuildReport, build
from wm_runtime.replays.dataset import DatasetWriter

SHARD_EVERY_GAME = partial(DatasetWriter, shard_frames=1, index_seconds=0.0)
"""As often as can be, so that a process that is killed at random is often killed between two steps of writing."""


def say(text: str) -> None:
    print(text, flush=True)


def tell(report: BuildReport) -> None:
    say(report.rows[-1].outcome)


def main() -> None:
    for line in sys.stdin:
        inputs, out, workers = line.split()
        child = os.fork()
        if child == 0:
            os.setsid()
            say(f"started {os.getpid()}")
            build([Path(inputs)], out, workers=int(workers), on_file=tell, open_writer=SHARD_EVERY_GAME)
            os._exit(0)
        os.waitpid(child, 0)
        say("ended")


if __name__ == "__main__":
    main()
