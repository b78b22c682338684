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
    from wm_runtime.replays.dataset import Dataset

    Dataset(dataset)  # raises, if it is none, before a minute of building
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
        stored, decoded = (
            f"{found[f'{cache}_{form}_batches_per_second']:.0f} {form}, {found[f'{cache}_{form}_cpu_ms']:.1f} ms of "
            "processor time each"
            for form in ("stored", "decoded")
        )
        print(f"  {cache} cache  {stored}; {decoded}")
    print(f"open a dataset {found['open_us']:.0f} µs, one window {found['window_us']:.1f} µs")


@app.command()
def runtime(
    model: Annotated[list[str] | None, typer.Option(help="Models to measure, the first also by batch.")] = None,
    int8: Annotated[str | None, typer.Option(help="The first model, its trunk in int8, beside it.")] = None,
    engine: Annotated[str, typer.Option(help="What steps them: onnx, torch or compiled.")] = "onnx",
    precision: Annotated[str, typer.Option(help="Of the engine compiled: float32, bf16, int8 or auto.")] = "float32",
    matches: Annotated[int, typer.Option(min=1, help="Matches of a batch.")] = 1024,
    threads: Annotated[int, typer.Option(min=1, help="Threads of the engine.")] = os.cpu_count() or 1,
    seconds: Annotated[float, typer.Option(min=0.01, help="About what each measurement takes.")] = 3.0,
    most: Annotated[int, typer.Option(min=1, help="Matches up to which the cost by batch is measured.")] = 65536,
    limit: Annotated[float, typer.Option(min=0, help="Seconds after which no larger batch is begun.")] = 300.0,
    json: Annotated[Path | None, typer.Option(help="Also write the figures to this file.")] = None,
) -> None:
    """Steps a second of simulator and environment as a share of this machine's products, beside their bars."""
    from wm_runtime.artifact import DEFAULT_MODEL
    from wm_runtime.errors import UserError
    from wm_tools.bench_runtime import Engine, bench_runtime, lines

    if json is not None and not json.parent.is_dir():
        raise UserError(f"{json}: its folder does not exist; make it or name another place")
    by = Engine(engine, precision)
    found = bench_runtime(model or [DEFAULT_MODEL], matches, threads, seconds, most, limit, int8, by)
    for line in lines(found):
        print(line)
    if json is not None:
        json.write_text(json_.dumps(found, indent=1))
        print(f"wrote {json}")


@app.command()
def device(
    model: Annotated[str | None, typer.Option(help="Model to measure.")] = None,
    device: Annotated[str, typer.Option(help="Where its matches stay, as torch names it.")] = "cuda",
    matches: Annotated[list[int] | None, typer.Option(min=1, help="Batches to measure.")] = None,
    seconds: Annotated[float, typer.Option(min=0.01, help="About what each measurement takes.")] = 3.0,
    compiled: Annotated[bool, typer.Option(help="By torch.compile: minutes first.")] = False,
    precision: Annotated[str, typer.Option(help="Of products: float32, bf16, float16 or auto.")] = "float32",
    json: Annotated[Path | None, typer.Option(help="Also write the figures to this file.")] = None,
) -> None:
    """Steps a second of matches that stay on a device: the model alone, and the environment."""
    from wm_runtime.artifact import DEFAULT_MODEL
    from wm_runtime.errors import UserError
    from wm_tools.bench_device import bench_device, lines

    if json is not None and not json.parent.is_dir():
        raise UserError(f"{json}: its folder does not exist; make it or name another place")
    found = bench_device(model or DEFAULT_MODEL, device, matches or [4096, 65536], seconds, compiled, precision)
    for line in lines(found):
        print(line)
    if json is not None:
        json.write_text(json_.dumps(found, indent=1))
        print(f"wrote {json}")


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
    title = f"{found['experiment']} on {found['device']}, {found['amp']}: {found['parameters']:,} parameters"
    if "phases" in found:
        print(title)
        for row in found["phases"]:
            kind = f"{row['frames']:2d} frames, batches of {row['batch_size']:,}, share {row['share']:g}"
            print(f"{kind:42s} {row['frames_per_second']:8,.0f} frames/s, model busy {row['busy']:.1%}, "
                  f"a step alone / with its data {row['kept_up']:.1%}")  # fmt: skip
        return
    print(f"{title}, batches of {found['batch_size']:,}")
    print(f"one-step target frames/s    {found['one_step_frames_per_second']:10,.0f}")
    for length, speed in found["unrolled_frames_per_second"].items():
        print(f"unrolled {length:2d}, frames/s       {speed:10,.0f}")
    for name, share in found["busy"].items():
        kept_up = found["kept_up"][name]
        print(f"model busy, data in {name:4s}    {share:10.1%}, a step alone / with its data {kept_up:.1%}")
    print(f"a step / sampling its batch {found['sampling_ratio']:10.1f}")


@app.command()
def ssd(
    batch: Annotated[int, typer.Option(min=1, help="Sequences.")] = 4,
    rounds: Annotated[int, typer.Option(min=1, help="The fastest of so many counts.")] = 3,
    device: Annotated[str, typer.Option(help="cpu, cuda or mps.")] = "cpu",
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Mamba-2's chunked scan against the sequential one: that they agree, then what they cost."""
    from wm_train.models.bench import bench_ssd

    found = bench_ssd(batch, rounds, device)
    if json:
        print(json_.dumps(found, indent=1))
        return
    print("largest difference from the sequential scan:")
    for row in found:
        chunked, stepped = row["ssd_difference"], row["step_difference"]
        print(f"  {row['frames']:3.0f} frames  {chunked:.1e} chunked, {stepped:.1e} frame by frame")
    print(f"ms a batch of {batch}, forward and backward ({'CPU time' if device == 'cpu' else device}):")
    for row in found:
        chunked, sequential = row["ssd_ms"], row["sequential_ms"]
        times = sequential / chunked
        print(f"  {row['frames']:3.0f} frames  {chunked:8.1f} chunked, {sequential:8.1f} sequential: {times:.1f} times")


@app.command()
def causal(
    targets: Annotated[int, typer.Option(min=64, help="Target frames of a training step.")] = 512,
    rounds: Annotated[int, typer.Option(min=1, help="The fastest of so many counts.")] = 3,
    device: Annotated[str, typer.Option(help="cpu, cuda or mps.")] = "cpu",
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """What a target frame costs causal Mamba-2, and its frame-stack form of 10 frames."""
    from wm_train.models.bench import bench_causal

    found = bench_causal(targets, rounds, device)
    if json:
        print(json_.dumps(found, indent=1))
        return
    print(f"µs a target frame of a training step ({'CPU time' if device == 'cpu' else device}):")
    print(f"  mamba2-1a, causal            {found['causal_us']:8.0f}")
    print(f"  mamba2-1a, stack of 10       {found['frame_stack_us']:8.0f}")
    print(f"  ratio                        {found['ratio']:8.1f}")


@app.command()
def candidates(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint of an exact core.")],
    dataset: Annotated[Path, typer.Option(help="Dataset of games that it was not trained on.")],
    windows: Annotated[int, typer.Option(min=1, help="Frames drawn.")] = 100_000,
    games: Annotated[int, typer.Option(min=1, help="Games drawn from, evenly spaced.")] = 40,
) -> None:
    """How often the next value of each field is among its candidates, and where it is not."""
    import numpy as np

    from wm_runtime.replays.dataset import Dataset
    from wm_train.evaluate.coverage import coverage
    from wm_train.training.checkpoint import load_checkpoint

    data = Dataset(dataset)
    chosen = np.unique(np.linspace(0, len(data) - 1, games).astype(int)).tolist()
    for name, row in coverage(load_checkpoint(checkpoint)[0], data, chosen, windows).items():
        misses = ", ".join(f"{before} → {after} {count}" for before, after, count in row.misses)
        print(f"{name:14s}{100 * row.share:7.2f} % of {row.frames:,}   {misses}")
