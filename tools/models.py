"""`mwm export` and `mwm models`: checkpoints into artifacts, and what artifacts say of themselves."""

from __future__ import annotations

import json as json_
from pathlib import Path
from typing import Annotated

import typer

from wm_runtime.errors import UserError

app = typer.Typer(help="The models that ship, and any artifact.", no_args_is_help=True)


def export(
    checkpoint: Annotated[Path, typer.Argument(help="best.pt or last.pt of a run.")],
    out: Annotated[Path, typer.Option(help="Artifact to write, FILE.onnx.")],
    int8: Annotated[bool, typer.Option("--int8", help="Trunk in 8-bit whole numbers; needs --dataset.")] = False,
    dataset: Annotated[Path | None, typer.Option(help="Games that the scales of --int8 are found with.")] = None,
) -> None:
    """Turn a checkpoint into an artifact: the whole step as one ONNX graph."""
    from wm_runtime.replays.dataset import Dataset
    from wm_train.export import export as run
    from wm_train.training.checkpoint import load_checkpoint

    if not out.parent.is_dir():
        raise UserError(f"{out}: its folder does not exist; make it or name another place")
    if int8 != (dataset is not None):
        raise UserError("--int8 and --dataset go together: scales are found with real games, data/train say")
    model, manifest = load_checkpoint(checkpoint)
    run(model, manifest, out, Dataset(dataset) if dataset is not None else None)
    print(f"wrote {out} ({out.stat().st_size / 1e6:.1f} MB)")


@app.command("list")
def list_models() -> None:
    """The models and policies that ship."""
    from wm_runtime.artifact import models, open_artifact, policies

    for kind, files in (("model", models()), ("policy", policies())):
        for name, path in files.items():
            parameters = open_artifact(path, None).metadata["parameters"]
            print(f"{kind:7s} {name:14s} {parameters:>10,} parameters  {path}")


@app.command()
def info(model: Annotated[str, typer.Argument(help="Artifact file, or the name of one that ships.")]) -> None:
    """What an artifact says of itself, as JSON (lists of training games and weights left out)."""
    from wm_runtime.artifact import open_artifact

    hidden = ("weights", "weight_types")  # of use to programs alone
    metadata = {name: value for name, value in open_artifact(model, None).metadata.items() if name not in hidden}
    data = metadata["manifest"]["data"]
    metadata["manifest"] = {
        **metadata["manifest"],
        "data": {name: value for name, value in data.items() if not name.endswith("md5")},
    }
    print(json_.dumps(metadata, indent=1))
