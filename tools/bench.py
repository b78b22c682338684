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
    print(f"peppi_py.read_slippi alone  {found['parsing_files_per_second']:8.1f} files/s")
    print(f"mwm replays build           {found['building_files_per_second']:8.1f} files/s")
    print(f"ratio                       {found['ratio']:8.2f}")
    print(f"peak memory of the build    {found['peak_memory_bytes'] / 2**20:8.0f} MiB")
    print(f"batches of {WINDOWS} random windows of {LENGTH} frames a second:")
    for cache in ("cold", "warm"):
        stored, decoded = (found[f"{cache}_{form}_batches_per_second"] for form in ("stored", "decoded"))
        print(f"  {cache} cache  {stored:8.0f} as stored, {decoded:.0f} decoded into states and controllers")
    print(f"open a dataset {found['open_us']:.0f} µs, one window {found['window_us']:.1f} µs")


@app.command()
def train(
    dataset: Annotated[Path, typer.Option(help="Dataset whose windows are learned from.")],
    config: Annotated[str, typer.Option(help="Experiment: a YAML file, or the name of one.")] = "baseline-v22",
    device: Annotated[str, typer.Option(help="cpu, cuda, mps or auto.")] = "auto",
    set_: Annotated[list[str] | None, typer.Option("--set", help="Any setting: training.amp=off.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps of each measurement.")] = 30,
    rounds: Annotated[int, typer.Option(min=1, help="Measurements, of which the best counts.")] = 3,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Frames a second of training, and whether the data keep up with the model."""
    from wm_train.config import load_experiment, parse_changes
    from wm_train.training.bench import bench_train
    from wm_train.training.device import device_lock, find_device

    where = find_device(device)
    with device_lock(where):
        found = bench_train(load_experiment(config, parse_changes(set_ or [])), dataset, where, steps, rounds)
    if json:
        print(json_.dumps(found, indent=1))
        return
    size = f"{found['parameters']:,} parameters, batches of {found['batch_size']:,}"
    print(f"{found['experiment']} on {found['device']}, {found['amp']}: {size}")
    print(f"one-step target frames/s    {found['one_step_frames_per_second']:10,.0f}")
    for length, speed in found["unrolled_frames_per_second"].items():
        print(f"unrolled {length:2d}, frames/s       {speed:10,.0f}")
    for name, share in found["busy"].items():
        print(f"model busy, data in {name:4s}    {share:10.1%}")
    print(f"a step / sampling its batch {found['sampling_ratio']:10.1f}")
