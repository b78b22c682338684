"""`mwm evaluate`: an artifact's fidelity, as tables, JSON and a picture."""

from __future__ import annotations

import json as json_
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from wm_runtime.errors import UserError
from wm_tools.progress import counted

LONG_WINDOWS, ROLLOUTS = 1536, 48
NOBODY = "none"
KIND_TITLES = {
    "free_true": "free rollouts of a minute with the controllers of real games, breaks per 1,000 frames",
    "free_policy": "free rollouts of a minute, policy against policy, breaks per 1,000 frames",
    "play": "play statistics, policy against policy for a minute from spawn",
    "matches": "matches of four stocks, policy against policy",
}


def evaluate(
    artifact: Annotated[str, typer.Argument(help="Artifact file, or the name of a model that ships.")],
    dataset: Annotated[Path, typer.Option(help="Dataset of games that the model was not trained on.")],
    windows: Annotated[int, typer.Option(min=1, help="Windows to draw.")] = 6144,
    seed: Annotated[int, typer.Option(help="Which windows are drawn.")] = 0,
    full: Annotated[bool, typer.Option("--full", help="Also windows of 300 frames and rollouts of a minute.")] = False,
    long_windows: Annotated[int, typer.Option(min=1, help="Windows of 300 frames (--full, --plot).")] = LONG_WINDOWS,
    rollouts: Annotated[int, typer.Option(min=1, help="Rollouts of a minute (--full).")] = ROLLOUTS,
    matches: Annotated[int, typer.Option(min=0, help="Matches to play to their end.")] = 0,
    policy: Annotated[str, typer.Option(help="Who plays both sides (--full, --matches); none: leave it out.")] = "",
    compare: Annotated[str | None, typer.Option(help="Another artifact, on the same windows.")] = None,
    substitute: Annotated[str, typer.Option(help="Parts that are fed the truth: action,velocity, …")] = "",
    engine: Annotated[str, typer.Option(help="What steps the artifact: onnx, torch or compiled.")] = "onnx",
    precision: Annotated[str, typer.Option(help="Of products: bf16, float16, int8, auto.")] = "float32",
    tables: Annotated[bool, typer.Option("--tables", help="Also print fields, breakdown and confusions.")] = False,
    json: Annotated[Path | None, typer.Option(help="Also write the figures to this file.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Picture of the curves over 300 frames (.png, .svg).")] = None,
    write: Annotated[bool, typer.Option("--write", help="Keep the figures in the artifact's metadata.")] = False,
) -> None:
    """Measure an artifact's fidelity (definitions: docs/fidelity.md), baselines in the same table."""
    from wm_runtime.artifact import open_artifact, with_metadata
    from wm_runtime.policy import DEFAULT_POLICY
    from wm_runtime.replays.dataset import Dataset, write_text
    from wm_train.evaluate.play import policy_players
    from wm_train.evaluate.plot import check_picture, plot_curves
    from wm_train.evaluate.report import Extent
    from wm_train.evaluate.report import evaluate as run
    from wm_train.evaluate.rollout import substituted

    fields = substituted(substitute)
    if fields and (full or matches or write):
        raise UserError("--substitute measures windows, not the model: leave out --full, --matches and --write")
    if write and (engine, precision) != ("onnx", "float32"):
        raise UserError("--write keeps the figures of the model itself: leave out --engine and --precision")
    for path in filter(None, (json, plot)):
        if not path.parent.is_dir():
            raise UserError(f"{path}: its folder does not exist; make it or name another place")
    if plot:
        check_picture(plot)
    opened, data = open_artifact(artifact), Dataset(dataset)
    other = open_artifact(compare) if compare else None
    extent = Extent(windows, long_windows if full or plot else 0, rollouts if full else 0, matches, seed)
    players = policy_players(policy or DEFAULT_POLICY) if (full or matches) and policy != NOBODY else None
    trained_on = set(opened.metadata["manifest"]["data"]["md5"])
    seen = sum(md5 in trained_on for md5 in data.md5)
    with counted(opened.name) as on_batch:
        found = run(opened, data, extent, other, fields, players, on_batch, engine, precision)
    found["measured"]["games_trained_on"] = seen
    _print_report(found, tables)
    if seen:
        print(f"warning: the model was trained on {seen} of these {len(data)} games; this is no measure of fidelity")
    if json:
        write_text(json, json_.dumps(found, indent=1))
        print(f"wrote {json}")
    if plot:
        plot_curves(found, plot)
        print(f"wrote {plot}")
    if write:
        with_metadata(opened, {"fidelity": found})
        print(f"wrote the figures into {opened.path}")


# --- tables ----------------------------------------------------------------------------------------------------------


def _print_report(found: dict[str, Any], everything: bool) -> None:
    from wm_train.evaluate.figures import HEADLINE
    from wm_train.evaluate.parts import PER_FIELD, SUBSYSTEMS

    columns = {"model": found, **({"other": found["other"]} if "other" in found else {}), **found["baselines"]}
    counts = found["measured"]["windows"]
    of = f"of {found['measured']['games']} games"
    for kind in ("no_death", "all"):
        print(f"\n{kind}: {counts[kind]:,} windows {of}")
        if kind == "all" and "long" in counts:
            print(f"(stock losses and figures _at_k: {counts['long']:,} windows of 300 frames)")
        hidden = set() if everything else {*PER_FIELD, *SUBSYSTEMS} - set(HEADLINE)
        _print_figures({name: column[kind] for name, column in columns.items()}, hidden)
    for kind, title in KIND_TITLES.items():
        if kind in found:
            real = found["real"].get(kind)
            print(f"\n{kind}: {title}")
            _print_figures({"model": found[kind], **({"real games": real} if real else {})}, set())
    if "compare" in found:
        _print_comparison(found["compare"], found["measured"])
    if everything:
        _print_breakdown(found["breakdown"])
        _print_confusions(found["confusions"]["all"])


def _print_figures(columns: Mapping[str, Mapping[str, Any]], hidden: set[str]) -> None:
    print(f"{'':24s}" + "".join(f"{name:>28s}" for name in columns))
    for figure in next(iter(columns.values())):
        if figure not in hidden:
            cells = (_cell(column.get(figure)) for column in columns.values())
            print(f"{figure:24s}" + "".join(f"{cell:>28s}" for cell in cells))


def _print_comparison(compare: Mapping[str, Any], measured: Mapping[str, Any]) -> None:
    for kind, figures in compare.items():
        print(f"\n{kind}: {measured['model']} minus {measured['other']}, on the same windows")
        print(f"{'':24s}{'difference':>28s}{'better on':>12s}{'worse on':>12s}")
        for figure, row in figures.items():
            if row["value"] or row["low"] != row["high"]:
                print(f"{figure:24s}{_cell(row):>28s}{_percent(row['better']):>12s}{_percent(row['worse']):>12s}")


def _print_breakdown(breakdown: Mapping[str, Mapping[str, Any]]) -> None:
    for part, rows in breakdown.items():
        figures = [name for name in next(iter(rows.values())) if name != "windows"]
        print(f"\nno_death by {part}")
        print(f"{'':24s}{'player-windows':>16s}" + "".join(f"{name:>28s}" for name in figures))
        for name, row in rows.items():
            print(f"{name:24s}{row['windows']:>16,}" + "".join(f"{_cell(row[figure]):>28s}" for figure in figures))


def _print_confusions(rows: Iterable[Mapping[str, Any]]) -> None:
    print("\nthe commonest wrong transitions of one step")
    print(f"{'from':28s}{'to':28s}{'predicted':28s}{'count':>8s}{'share':>8s}")
    for row in rows:
        print(f"{row['from']:28s}{row['to']:28s}{row['predicted']:28s}{row['count']:8,}{_percent(row['share']):>8s}")


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"


def _cell(figure: Mapping[str, float | None] | None) -> str:
    if figure is None or figure["value"] is None:
        return "–"
    return f"{figure['value']:.3f} ({figure['low']:.3f} … {figure['high']:.3f})"
