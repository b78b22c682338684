"""`mwm bench`: speed and memory, as ratios within one run."""

from __future__ import annotations

import json as json_
import os
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Speed and memory, as ratios within one run.", no_args_is_help=True)


@app.command()
def replays(
    source: Annotated[Path, typer.Argument(help="Folder of .slp replays to build from.")],
    dataset: Annotated[Path, typer.Option(help="Dataset whose windows are read.")],
    workers: Annotated[int, typer.Option(min=1)] = os.cpu_count() or 1,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Building a dataset against parsing alone, and random windows of one."""
    from wm_runtime.replays.bench import LENGTH, WINDOWS, bench_build, bench_windows

    found = {**bench_build(source, workers), **bench_windows(dataset)}
    if json:
        print(json_.dumps(found, indent=1))
        return
    print(f"with {workers} processes:")
    for title, name in (("peppi_py.read_slippi alone", "parsing"), ("mwm replays build", "building")):
        speed, cpu = found[f"{name}_files_per_second"], found[f"{name}_cpu_ms"]
        print(f"{title:26}  {speed:8.1f} files/s, {cpu:.1f} ms of processor time a file")
    print(f"ratio                       {found['ratio']:8.2f}, of processor time {found['cpu_ratio']:.2f}")
    print(f"peak memory of the build    {found['peak_memory_bytes'] / 2**20:8.0f} MiB")
    print(f"batches of {WINDOWS} random windows of {LENGTH} frames a second:")
    for cache in ("cold", "warm"):
        stored, decoded = (found[f"{cache}_{form}_batches_per_second"] for form in ("stored", "decoded"))
        print(f"  {cache} cache  {stored:8.0f} as stored, {decoded:.0f} decoded into states and controllers")
    print(f"open a dataset {found['open_us']:.0f} µs, one window {found['window_us']:.1f} µs")
