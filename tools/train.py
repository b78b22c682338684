"""`mwm train`: an experiment and a dataset → checkpoints and a manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wm_tools.progress import progress_bar

LOG_STEPS = 500
"""Steps between lines of a log, where there is no progress bar."""


def train(
    config: Annotated[str, typer.Option(help="Experiment: a YAML file, or the name of one that ships.")],
    dataset: Annotated[Path, typer.Option(help="Dataset folder, made by `mwm replays build`.")],
    out: Annotated[Path, typer.Option(help="Folder for best.pt, final.pt and manifest.json.")],
    epochs: Annotated[int | None, typer.Option(min=1, help="Instead of the experiment's.")] = None,
    frames_per_epoch: Annotated[int | None, typer.Option(min=1, help="Target frames an epoch draws.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1)] = None,
    max_games: Annotated[int | None, typer.Option(min=2, help="Use only the first games of the dataset.")] = None,
    learning_rate: Annotated[float | None, typer.Option(min=0.0, help="Instead of the experiment's.")] = None,
    start_from: Annotated[Path | None, typer.Option(help="Checkpoint of the same model to go on from.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or mps.")] = "cpu",
) -> None:
    """Train a model on a dataset."""
    from wm_runtime.replays.dataset import Dataset
    from wm_train.config import ExactConfig, load_experiment
    from wm_train.training.phases import train_phases
    from wm_train.training.trainer import train as train_epochs

    experiment = load_experiment(config)
    given: dict[str, float | None] = {
        "epochs": epochs,
        "frames_per_epoch": frames_per_epoch,
        "batch_size": batch_size,
        "max_games": max_games,
        "learning_rate": learning_rate,
    }
    changes = {name: value for name, value in given.items() if value is not None}
    experiment = experiment.model_copy(update={"training": experiment.training.model_copy(update=changes)})
    run = train_phases if isinstance(experiment.model, ExactConfig) else train_epochs
    data = Dataset(dataset)
    with progress_bar() as progress:
        task = progress.add_task(experiment.name, total=None)

        def on_step(step: int, steps: int, loss: float) -> None:
            progress.update(task, completed=step, total=steps, description=f"{experiment.name}  loss {loss:.3f}")
            if progress.disable and (step % LOG_STEPS == 0 or step == steps):
                print(f"step {step} of {steps}, loss {loss:.4f}", flush=True)

        manifest = run(experiment, data, out, device, start_from, on_step)
    for row in manifest["epochs"] if run is train_epochs else ():
        print(
            f"epoch {row['epoch']}: {row['frames']:,} frames at {row['frames_per_second']:,}/s, "
            f"held-out loss {row['held_out']['loss']:.4f}"
        )
    print(f"wrote {out}/best.pt, final.pt and manifest.json")
