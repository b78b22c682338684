"""`mwm prune`: a trained exact core → a smaller one, to be trained a little further."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def prune(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint of an exact core, or a model that ships.")],
    config: Annotated[str, typer.Option(help="Experiment of the smaller one, which may also narrow it.")] = "fast",
    dataset: Annotated[Path, typer.Option(help="Dataset whose training games show what matters.")] = Path("data/train"),
    out: Annotated[Path, typer.Option(help="Checkpoint to write; begin with it: mwm train --start-from.")] = Path(
        "pruned.pt"
    ),
) -> None:
    """A smaller model from a trained one: what its layers say least about real frames is left out."""
    from wm_runtime.replays.dataset import Dataset
    from wm_train.config import load_experiment
    from wm_train.training.checkpoint import load_checkpoint, save_checkpoint
    from wm_train.training.data import split_games
    from wm_train.training.prune import prune

    experiment, data = load_experiment(config), Dataset(dataset)
    model, manifest = load_checkpoint(checkpoint)
    train_games, _ = split_games(data, experiment.training.holdout, experiment.training.max_games)
    small = prune(model, experiment, data, train_games)
    manifest = {**manifest, "experiment": experiment.model_dump(mode="json"), "pruned_from": manifest}
    save_checkpoint(out, small, manifest)
    before, after = (sum(p.numel() for p in m.core.network.parameters()) for m in (model, small))
    print(f"{out}: {after:,} weights of {before:,}")
