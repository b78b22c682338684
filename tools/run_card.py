"""`mwm run-card`: what a run is for, what it will take and when to stop it, written before it starts."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer


def run_card(
    config: Annotated[str, typer.Argument(help="Experiment: a YAML file, or the name of one that ships.")],
    dataset: Annotated[Path, typer.Option(help="Dataset folder, made by `mwm replays build`.")],
    out: Annotated[Path | None, typer.Option(help="File to write; default: SAVE_DIR/NAME.card.md.")] = None,
    save_dir: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("runs"),
    device: Annotated[str, typer.Option(help="cpu, cuda, mps or auto.")] = "auto",
    price: Annotated[float, typer.Option(min=0.0, help="Of an hour of this machine.")] = 0.0,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Any setting: training.epochs=8.")] = None,
) -> None:
    """Write the run card of an experiment: goal, targets, data, time, cost, memory, kill criteria, prior runs."""
    from wm_runtime.replays.dataset import Dataset, write_text
    from wm_train.config import load_experiment, parse_changes
    from wm_train.training.device import device_lock, find_device
    from wm_train.training.run_card import run_card as write

    experiment = load_experiment(config, parse_changes(set_ or []))
    where = find_device(device)
    launch = ["mwm", "train", config, "--dataset", str(dataset), "--save-dir", str(save_dir), "--device", str(where)]
    launch += [part for setting in set_ or [] for part in ("--set", setting)]
    with device_lock(where):
        text = write(experiment, Dataset(dataset), where, save_dir, price, shlex.join(launch))
    path = out or save_dir / f"{experiment.name}.card.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)
    print(f"wrote {path}")
