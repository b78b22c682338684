"""`mwm blend`: weights between two checkpoints of one model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def blend(
    one: Annotated[str, typer.Argument(help="Checkpoint, or a model that ships.")],
    other: Annotated[str, typer.Argument(help="Another one of the same model; tables are those of this.")],
    share: Annotated[float, typer.Option(help="Of the other one's weights, 0 … 1.")] = 0.5,
    out: Annotated[Path, typer.Option(help="Checkpoint to write.")] = Path("blended.pt"),
) -> None:
    """Weights between two checkpoints: a run's beginning and its end, say."""
    from wm_train.training.blend import blend
    from wm_train.training.checkpoint import save_checkpoint

    model, manifest = blend(one, other, share)
    save_checkpoint(out, model, manifest)
    print(f"{out}: {1 - share:g} of {one}, {share:g} of {other}")
