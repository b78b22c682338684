"""`mwm train-policy`: a player that learns from replays, exported, with its figures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wm_tools.progress import progress_bar

if TYPE_CHECKING:
    from wm_runtime.replays.dataset import Dataset
    from wm_train.policy.config import PolicyExperiment
    from wm_train.policy.network import PolicyNetwork

LOG_STEPS = 500
"""Steps between lines of a log, where there is no progress bar."""
PACE_MATCHES, PACE_FRAMES = 128, 600


def train_policy(
    dataset: Annotated[Path, typer.Option(help="Dataset folder, made by `mwm replays build`.")],
    out: Annotated[Path, typer.Option(help="Folder for NAME.onnx, policy.pt and manifest.json.")],
    config: Annotated[str, typer.Option(help="Settings: a YAML file, or the name of one that ships.")] = "policy-small",
    report: Annotated[
        Path | None, typer.Option(help="Dataset to report figures on; without it, the games held out of --dataset.")
    ] = None,
    characters: Annotated[
        list[str] | None, typer.Option(help="Learn only from players of this fighter; may be repeated.")
    ] = None,
    rows: Annotated[int | None, typer.Option(min=1, help="Controllers to learn from.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1)] = None,
    learning_rate: Annotated[float | None, typer.Option(min=1e-9)] = None,
    max_games: Annotated[int | None, typer.Option(min=2, help="Use only the first games of the dataset.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights and draws.")] = None,
    report_rows: Annotated[int, typer.Option(min=1, help="Controllers to report accuracy on.")] = 200_000,
    device: Annotated[str, typer.Option(help="cpu, cuda or mps.")] = "cpu",
) -> None:
    """Train a policy that plays like the players of a dataset, export it, and report how often it is right."""
    from wm_runtime.replays.dataset import Dataset
    from wm_train.policy.config import load_policy_experiment
    from wm_train.policy.train import train_policy as run

    experiment = load_policy_experiment(config)
    given: dict[str, Any] = {
        "rows": rows, "batch_size": batch_size, "learning_rate": learning_rate, "max_games": max_games, "seed": seed,
    }  # fmt: skip
    experiment = experiment.changed({name: value for name, value in given.items() if value is not None}, characters)
    data = Dataset(dataset)
    reported = Dataset(report) if report else None
    with progress_bar() as progress:
        task = progress.add_task(experiment.name, total=None)

        def on_step(step: int, steps: int, loss: float) -> None:
            progress.update(task, completed=step, total=steps, description=f"{experiment.name}  loss {loss:.3f}")
            if progress.disable and (step % LOG_STEPS == 0 or step == steps):
                print(f"step {step} of {steps}, loss {loss:.4f}", flush=True)

        network, manifest = run(experiment, data, out, device, on_step)
    finish(experiment, network, manifest, data, reported, out, report_rows)


def finish(
    experiment: PolicyExperiment,
    network: PolicyNetwork,
    manifest: dict[str, Any],
    dataset: Dataset,
    reported: Dataset | None,
    out: Path,
    report_rows: int,
) -> None:
    """Exports a trained policy, measures it and writes the figures into its manifest and metadata."""
    import json

    from wm_runtime.artifact import with_metadata
    from wm_runtime.policy import open_policy
    from wm_runtime.replays.dataset import write_text
    from wm_train.policy.data import Rows
    from wm_train.policy.export import export_policy
    from wm_train.policy.report import DELAYS, accuracy, pace
    from wm_train.policy.train import save_policy

    path = out / f"{experiment.name}.onnx"
    export_policy(network, manifest, path)
    source, games = reported or dataset, list(range(len(reported))) if reported else None
    games = games or [dataset.find(md5) for md5 in manifest["data"]["held_out_md5"]]
    held = Rows(source, games, experiment.model, network.codebook, experiment.characters)
    figures: dict[str, Any] = {"dataset": source.path.name, "games": len(games)}
    figures["accuracy"] = {f"delay {delay}": accuracy(network, held, report_rows, delay) for delay in DELAYS}
    figures["accuracy"]["no own past"] = accuracy(network, held, report_rows, 0, forget=True)
    figures["pace"] = pace(open_policy(path), source, PACE_MATCHES, PACE_FRAMES)
    manifest["figures"] = figures
    with_metadata(open_policy(path), {"manifest": manifest})
    save_policy(out / "policy.pt", network, manifest)
    write_text(out / "manifest.json", json.dumps(manifest, indent=1))
    _print(figures)
    print(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB), {out}/policy.pt and manifest.json")


def _print(figures: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    from wm_train.policy.report import FIGURES, PRESSES, WHICH

    console = Console()
    settings = figures["accuracy"]
    any_setting = next(iter(settings.values()))
    for which in WHICH:
        share = "" if which == WHICH[0] else f", {any_setting['share_of_changes']:.1%} of all"
        title = f"right about the next controller, % of {which}{share} ({figures['dataset']}, {figures['games']} games)"
        table = Table("", "same as last frame", *settings, title=title)
        for name in FIGURES:
            values = [any_setting[which]["last frame"][name], *(s[which]["policy"][name] for s in settings.values())]
            table.add_row(name, *(f"{100 * value:.2f}" for value in values))
        console.print(table)
    table = Table("", "true players", "policy", title="% of frames pressed or tilted, policy on its own controllers")
    for name in PRESSES:
        table.add_row(name, *(f"{100 * figures['pace'][who][name]:.2f}" for who in ("true", "policy")))
    console.print(table)
