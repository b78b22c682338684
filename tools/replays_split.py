"""`mwm replays split`: which games of a dataset are held out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def split(
    dataset: Annotated[Path, typer.Argument(help="Dataset folder.")],
    holdout: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share to hold out.")] = 0.1,
    by: Annotated[str, typer.Option(help="What stays together: content, source or player.")] = "content",
    seed: Annotated[int, typer.Option(help="Another number, another split.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print JSON, with the MD5 of every game.")] = False,
) -> None:
    """Say which games a split trains on and which it holds out. It stays the same as games are added."""
    import json as json_

    from wm_runtime.replays.dataset import Dataset, data_fingerprint
    from wm_runtime.replays.split import split as run

    data = Dataset(dataset)
    md5 = data.md5
    sides = dict(zip(("train", "held_out"), run(data, holdout, by, seed), strict=True))
    found = {
        name: {
            "games": len(games),
            "frames": int(data.frames[games].sum()),
            "fingerprint": data_fingerprint([md5[g] for g in games]),
            "md5": [md5[g] for g in games],
        }
        for name, games in sides.items()
    }
    if json:
        print(json_.dumps(found, indent=1))
        return
    for name, side in found.items():
        print(f"{name:9s} {side['games']:6d} games, {side['frames']:,} frames, fingerprint {side['fingerprint']}")
