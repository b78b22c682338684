"""`mwm export`, `mwm evaluate` and `mwm models`: checkpoints into artifacts, and what artifacts are worth."""

from __future__ import annotations

import json as json_
from pathlib import Path
from typing import Annotated, Any

import typer

from wm_runtime.errors import UserError
from wm_tools.progress import counted

app = typer.Typer(help="The models that ship, and any artifact.", no_args_is_help=True)


def export(
    checkpoint: Annotated[Path, typer.Argument(help="best.pt or final.pt of a run.")],
    out: Annotated[Path, typer.Option(help="Artifact to write, FILE.onnx.")],
) -> None:
    """Turn a checkpoint into an artifact: the whole step as one ONNX graph."""
    from wm_train.export import export as run
    from wm_train.training.checkpoint import load_checkpoint

    if not out.parent.is_dir():
        raise UserError(f"{out}: its folder does not exist; make it or name another place")
    model, manifest = load_checkpoint(checkpoint)
    run(model, manifest, out)
    print(f"wrote {out} ({out.stat().st_size / 1e6:.1f} MB)")


def evaluate(
    artifact: Annotated[str, typer.Argument(help="Artifact file, or the name of a model that ships.")],
    dataset: Annotated[Path, typer.Option(help="Dataset of games that the model was not trained on.")],
    windows: Annotated[int, typer.Option(min=1, help="Windows to draw.")] = 6144,
    seed: Annotated[int, typer.Option(help="Which windows are drawn.")] = 0,
    json: Annotated[Path | None, typer.Option(help="Also write the figures to this file.")] = None,
    write: Annotated[bool, typer.Option("--write", help="Keep the figures in the artifact's metadata.")] = False,
) -> None:
    """Measure an artifact's fidelity (definitions: docs/models.md), baselines in the same table."""
    from wm_runtime.artifact import open_artifact, with_metadata
    from wm_runtime.replays.dataset import Dataset, write_text
    from wm_train.evaluate.report import evaluate as run

    opened, data = open_artifact(artifact), Dataset(dataset)
    trained_on = set(opened.metadata["manifest"]["data"]["md5"])
    seen = sum(md5 in trained_on for md5 in data.md5)
    with counted(opened.name) as on_batch:
        found = run(opened, data, windows, seed, on_batch)
    found["measured"]["games_trained_on"] = seen
    _print_table(found)
    if seen:
        print(f"warning: the model was trained on {seen} of these {len(data)} games; this is no measure of fidelity")
    if json:
        write_text(json, json_.dumps(found, indent=1))
        print(f"wrote {json}")
    if write:
        with_metadata(opened, {"fidelity": found})
        print(f"wrote the figures into {opened.path}")


@app.command("list")
def list_models() -> None:
    """The models that ship."""
    from wm_runtime.artifact import models, open_artifact

    for name, path in models().items():
        print(f"{name:12s} {open_artifact(path).metadata['parameters']:>10,} parameters  {path}")


@app.command()
def info(model: Annotated[str, typer.Argument(help="Artifact file, or the name of a model that ships.")]) -> None:
    """What an artifact says of itself, as JSON (the list of training games left out)."""
    from wm_runtime.artifact import open_artifact

    metadata = dict(open_artifact(model).metadata)
    data = metadata["manifest"]["data"]
    metadata["manifest"] = {
        **metadata["manifest"],
        "data": {name: value for name, value in data.items() if not name.endswith("md5")},
    }
    print(json_.dumps(metadata, indent=1))


def _print_table(found: dict[str, Any]) -> None:
    rows = {"model": found, **found["baselines"]}
    for kind in ("no_death", "all"):
        print(f"\n{kind}: {found['measured']['windows'][kind]:,} windows of {found['measured']['games']} games")
        print(f"{'':16s}" + "".join(f"{name:>28s}" for name in rows))
        for figure in found[kind]:
            cells = [table[kind][figure] for table in rows.values()]
            print(f"{figure:16s}" + "".join(f"{_cell(c):>28s}" for c in cells))


def _cell(figure: dict[str, float | None]) -> str:
    if figure["value"] is None:
        return "–"
    return f"{figure['value']:.3f} ({figure['low']:.3f} … {figure['high']:.3f})"
