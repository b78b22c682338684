"""`mwm experiments`: the experiments that ship, what each sets, and where two of them differ."""

from __future__ import annotations

from typing import Annotated, Any

import typer

app = typer.Typer(help="The experiments that ship, and any YAML file of one.", no_args_is_help=True)
Config = Annotated[str, typer.Argument(help="Experiment: a YAML file, or the name of one that ships.")]


@app.command("list")
def list_experiments() -> None:
    """The experiments that ship."""
    from wm_train.config import EXPERIMENTS, load_experiment

    for path in sorted(EXPERIMENTS.glob("*.yaml")):
        print(f"{path.stem:24s} {' '.join(load_experiment(path).description.split())}")


@app.command()
def show(config: Config) -> None:
    """Every setting of an experiment as YAML, defaults included, and the size of its model."""
    import yaml

    from wm_train.config import load_experiment
    from wm_train.training.checkpoint import build_model

    experiment = load_experiment(config)
    parameters = sum(p.numel() for p in build_model(experiment).parameters())
    print(yaml.safe_dump(experiment.model_dump(mode="json"), sort_keys=False, default_flow_style=None), end="")
    print(f"# {parameters:,} parameters")


@app.command()
def diff(one: Config, other: Config) -> None:
    """The settings in which two experiments differ, a line each."""
    from wm_train.config import load_experiment

    mine, theirs = (_flat(load_experiment(name).model_dump(mode="json")) for name in (one, other))
    differing = [key for key in {**mine, **theirs} if mine.get(key) != theirs.get(key) and key not in _NAMES]
    width = max(map(len, differing), default=0)
    for key in differing:
        print(f"{key:{width}s}  {mine.get(key)} → {theirs.get(key)}")


_NAMES = ("name", "description")


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings → dotted name → value."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found
