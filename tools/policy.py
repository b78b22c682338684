"""`mwm train-policy` and `mwm evaluate-policy`: players that learn from replays, and what they are worth."""

from __future__ import annotations

import json as json_
from pathlib import Path
from typing import Annotated, Any

import typer

from wm_runtime.errors import UserError
from wm_tools.progress import counted, progress_bar

LOG_STEPS = 500
"""Steps between lines of a log, where there is no progress bar."""
REPORT_ROWS = 200_000
ROLLOUTS = 48


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
    report_rows: Annotated[int, typer.Option(min=1, help="Controllers to report accuracy on.")] = REPORT_ROWS,
    device: Annotated[str, typer.Option(help="cpu, cuda or mps.")] = "cpu",
) -> None:
    """Train a policy that plays like the players of a dataset, export it, and report how often it is right."""
    from wm_runtime.artifact import with_metadata
    from wm_runtime.policy import open_policy
    from wm_runtime.replays.dataset import Dataset, write_text
    from wm_train.policy.config import load_policy_experiment
    from wm_train.policy.export import export_policy
    from wm_train.policy.report import measure
    from wm_train.policy.train import save_policy
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
    path = out / f"{experiment.name}.onnx"
    export_policy(network, manifest, path)
    source = reported or data
    games = range(len(source)) if reported else [data.find(md5) for md5 in manifest["data"]["held_out_md5"]]
    manifest["figures"] = measure(open_policy(path), source, list(games), report_rows)
    with_metadata(open_policy(path), {"manifest": manifest})
    save_policy(out / "policy.pt", network, manifest)
    write_text(out / "manifest.json", json_.dumps(manifest, indent=1))
    _print(manifest["figures"])
    print(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB), {out}/policy.pt and manifest.json")


def evaluate_policy(
    policy: Annotated[str, typer.Argument(help="Policy file, or the name of one that ships.")],
    dataset: Annotated[Path, typer.Option(help="Dataset of games that the policy did not learn from.")],
    rows: Annotated[int, typer.Option(min=1, help="Controllers to measure accuracy on.")] = REPORT_ROWS,
    play: Annotated[str, typer.Option(help="World model in which it also plays a minute against itself.")] = "",
    rollouts: Annotated[int, typer.Option(min=1, help="Rollouts of a minute (--play).")] = ROLLOUTS,
    json: Annotated[Path | None, typer.Option(help="Also write the figures to this file.")] = None,
) -> None:
    """Measure how often an exported policy is right about the next controller, how often it presses what, and how it
    plays."""
    from wm_runtime.artifact import open_artifact
    from wm_runtime.policy import open_policy
    from wm_runtime.replays.dataset import Dataset, write_text
    from wm_train.evaluate.play import minute_of_play, policy_players
    from wm_train.evaluate.rollout import Model
    from wm_train.policy.report import measure

    if json and not json.parent.is_dir():
        raise UserError(f"{json}: its folder does not exist; make it or name another place")
    opened, data = open_policy(policy), Dataset(dataset)
    world = Model(open_artifact(play)) if play else None
    learned = set(opened.metadata["manifest"]["data"]["md5"])
    seen = sum(md5 in learned for md5 in data.md5)
    figures = measure(opened, data, list(range(len(data))), rows)
    _print(figures)
    if world:
        with counted(opened.name) as on_batch:
            figures |= minute_of_play(world, data, policy_players(policy), rollouts, on_batch=on_batch)
        _print_play(figures["play"], figures["real"])
    if seen:
        print(f"warning: the policy learned from {seen} of these {len(data)} games")
    if json:
        write_text(json, json_.dumps(figures, indent=1))
        print(f"wrote {json}")


def _print_play(play: dict[str, Any], real: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("", "policy", "real games", title="a minute from spawn, policy against policy")
    for name, row in play.items():
        table.add_row(name, *("" if f is None else f"{f['value']:.3f} ({f['low']:.3f} … {f['high']:.3f})"
                              for f in (row, real.get(name))))  # fmt: skip
    Console().print(table)


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
    table = Table(
        "", "rows", "same as last frame", "policy", "policy, changes",
        title="right about the whole controller, % (delay 0)",
    )  # fmt: skip
    for name, row in any_setting["characters"].items():
        shares = (row[WHICH[0]]["last frame"], row[WHICH[0]]["policy"], row[WHICH[1]]["policy"])
        table.add_row(name, f"{row['rows']:,}", *("–" if s is None else f"{100 * s:.2f}" for s in shares))
    console.print(table)
    table = Table("", "true players", "policy", title="% of frames pressed or tilted, policy on its own controllers")
    for name in PRESSES:
        table.add_row(name, *(f"{100 * figures['pace'][who][name]:.2f}" for who in ("true", "policy")))
    console.print(table)
