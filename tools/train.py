"""`mwm train`: experiments and a dataset → checkpoints, metrics and manifests."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wm_runtime.errors import UserError
from wm_tools.progress import progress_bar

if TYPE_CHECKING:
    from wm_runtime.replays.dataset import Dataset
    from wm_train.config import Experiment


def train(
    configs: Annotated[
        list[str] | None, typer.Argument(help="Experiments: YAML files, or names of some that ship. Run in turn.")
    ] = None,
    config: Annotated[list[str] | None, typer.Option(help="The same, as an option; may be repeated.")] = None,
    dataset: Annotated[Path, typer.Option(help="Dataset folder, made by `mwm replays build`.")] = Path("data/train"),
    save_dir: Annotated[Path, typer.Option(help="Folder of the runs; each has its own, of its name.")] = Path("runs"),
    run_name: Annotated[str | None, typer.Option(help="Name of the run; default: the experiment's.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run, instead of SAVE_DIR/RUN_NAME.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in that folder, exactly.")] = False,
    start_from: Annotated[Path | None, typer.Option(help="Checkpoint, or shipped model, to begin with.")] = None,
    allow_partial: Annotated[bool, typer.Option("--allow-partial", help="Take what fits of it.")] = False,
    stop_after: Annotated[int | None, typer.Option(min=1, help="Stop after this epoch, to be resumed.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps, or auto: the best there is.")] = "auto",
    epochs: Annotated[int | None, typer.Option(help="Instead of the experiment's; so are the next ones.")] = None,
    frames_per_epoch: Annotated[int | None, typer.Option(help="Windows an epoch draws.")] = None,
    batch_size: Annotated[int | None, typer.Option()] = None,
    max_games: Annotated[int | None, typer.Option(help="Use only the first games of the dataset.")] = None,
    learning_rate: Annotated[float | None, typer.Option()] = None,
    streaming: Annotated[bool, typer.Option("--streaming", help="Read from disk through a shuffle buffer.")] = False,
    buffer_size: Annotated[int | None, typer.Option(help="Windows in that buffer.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Any setting: training.learning_rate=1e-3. May be repeated.")
    ] = None,
    no_wandb: Annotated[bool, typer.Option("--no-wandb", help="Not to Weights & Biases.")] = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Every head's loss.")] = False,
) -> None:
    """Train models on a dataset."""
    from wm_runtime.replays.dataset import Dataset
    from wm_train.config import load_experiment, parse_changes

    flags = {
        "epochs": epochs, "frames_per_epoch": frames_per_epoch, "batch_size": batch_size, "max_games": max_games,
        "learning_rate": learning_rate, "data": "streaming" if streaming else None, "buffer_size": buffer_size,
        "wandb.enabled": False if no_wandb else None,
    }  # fmt: skip
    changes: dict[str, Any] = {f"training.{name}": value for name, value in flags.items() if value is not None}
    changes |= parse_changes(set_ or [])
    experiments = [load_experiment(name, changes) for name in [*(configs or []), *(config or [])]]
    if not experiments:
        raise UserError("no experiment is named; `mwm train baseline-v22 --dataset DIR` trains the one that ships")
    if len(experiments) > 1 and (out or run_name):
        raise UserError("--out and --run-name are for one experiment; several are saved under their own names")
    data = Dataset(dataset)
    options = {"device": device, "start_from": start_from, "resume": resume, "allow_partial": allow_partial,
               "stop_after": stop_after}  # fmt: skip
    failed: list[str] = []
    for experiment in experiments:
        folder = out or save_dir / (run_name or experiment.name)
        try:
            _train(experiment, data, folder, options, verbose)
        except UserError as error:
            if len(experiments) == 1:
                raise
            failed.append(experiment.name)
            print(f"mwm: {experiment.name}: {error}", file=sys.stderr)
    if failed:
        raise UserError(f"{len(failed)} of {len(experiments)} runs failed: {', '.join(failed)}")


def _train(experiment: Experiment, data: Dataset, folder: Path, options: dict[str, Any], verbose: bool) -> None:
    from rich.progress import TextColumn

    from wm_train.config import ExactConfig
    from wm_train.training.trainer import Watch
    from wm_train.training.trainer import train as run

    if isinstance(experiment.model, ExactConfig):
        _train_phases(experiment, data, folder, **options)
        return
    columns = ("loss {task.fields[loss]:.3f}", "{task.fields[speed]} frames/s")
    with progress_bar(*map(TextColumn, columns), usual=True) as progress:
        task = progress.add_task(experiment.name, total=None, loss=float("nan"), speed="–")

        def say(text: str) -> None:
            progress.console.print(text, highlight=False) if not progress.disable else print(text, flush=True)

        def on_step(step: int, steps: int, loss: float) -> None:
            progress.update(task, completed=step, total=steps, loss=loss)

        def on_row(row: dict[str, Any]) -> None:
            if "figures" in row:
                say(_epoch_line(experiment.name, row))
                return
            progress.update(task, speed=f"{row['frames_per_second']:,}")
            if verbose or progress.disable:
                say(_step_line(row, verbose))

        try:
            manifest = run(experiment, data, folder, watch=Watch(on_step, on_row, say), **options)
        except KeyboardInterrupt:
            say(f"saved {folder}/last.pt; go on with --resume")
            raise
    print(f"{manifest['status']}: {folder} holds best.pt (epoch {manifest['best']['epoch']}), last.pt, manifest.json")


def _train_phases(
    experiment: Experiment, data: Dataset, folder: Path, device: str, start_from: Path | None, resume: bool,
    allow_partial: bool, stop_after: int | None,
) -> None:  # fmt: skip
    from wm_train.training.device import device_lock, find_device
    from wm_train.training.phases import train_phases

    if stop_after:
        raise UserError(f"{experiment.name}: the exact core is trained in phases, not epochs; leave out --stop-after")
    where = find_device(device)
    with device_lock(where), progress_bar() as progress:
        task = progress.add_task(experiment.name, total=None)

        def on_step(step: int, steps: int, loss: float) -> None:
            progress.update(task, completed=step, total=steps, description=f"{experiment.name}  loss {loss:.3f}")
            if progress.disable and (step % experiment.training.log_interval == 0 or step == steps):
                print(f"step {step} of {steps}, loss {loss:.4f}", flush=True)

        train_phases(
            experiment, data, folder, str(where), start_from, on_step, resume=resume, allow_partial=allow_partial
        )
    print(f"wrote {folder}/best.pt, last.pt, final.pt and manifest.json")


def _epoch_line(name: str, row: dict[str, Any]) -> str:
    figures = row["figures"]
    return (
        f"{name}, epoch {row['epoch']}: {row['frames']:,} frames at {row['frames_per_second']:,}/s; held out: "
        f"loss {row['held_out']['loss']:.4f}, RC@20 {figures['RC@20']:.3f}, action@20 {figures['action@20']:.3f}, "
        f"change_acc {figures['change_acc'] or 0:.3f}"
    )


def _step_line(row: dict[str, Any], verbose: bool) -> str:
    kind = f", unrolled {row['targets']}" if row["targets"] > 1 else ""
    line = f"step {row['step']} of {row['steps']}{kind}, loss {row['loss']:.4f}, {row['frames_per_second']:,} frames/s"
    if not verbose:
        return line
    known = ("step", "steps", "epoch", "targets", "loss", "frames_per_second")
    return line + ": " + ", ".join(f"{name} {value:.4g}" for name, value in row.items() if name not in known)
