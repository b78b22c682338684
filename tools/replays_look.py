"""What is in a dataset, and whether it is sound: `mwm replays info`, `show`, `audit`; `import-legacy` fills one."""

from __future__ import annotations

import json as json_
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from wm_tools.progress import counted

DatasetFolder = Annotated[Path, typer.Argument(help="Dataset folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def info(
    dataset: DatasetFolder,
    json: AsJson = False,
    plot: Annotated[Path | None, typer.Option(help="Also draw the distributions, FILE.png.")] = None,
) -> None:
    """Say what a dataset holds: games, fighters, stages, lengths, and what lies in every column."""
    from wm_runtime.replays.dataset import Dataset
    from wm_runtime.replays.describe import describe, draw

    data = Dataset(dataset)
    with counted("frames") as on_game:
        found = describe(data, on_game)
    if plot:
        with counted("picture") as on_game:
            draw(data, found, plot, on_game)
    if json:
        print(json_.dumps(found, indent=1))
        return
    print_info(dataset, found)
    if plot:
        print(f"\nwrote {plot}")


def show(
    dataset: DatasetFolder,
    game: Annotated[str, typer.Argument(help="Number of the game, or how its MD5 begins.")],
    frame: Annotated[int, typer.Option(help="Frame number; a game begins at −123, control at 0.")],
    json: AsJson = False,
) -> None:
    """Show everything of one frame, and what changed since the one before."""
    from wm_runtime.replays.dataset import Dataset
    from wm_runtime.replays.describe import find_game, frame_view

    data = Dataset(dataset)
    view = frame_view(data, find_game(data, game), frame)
    if json:
        print(json_.dumps(view, indent=1))
    else:
        print_frame(view)


def audit(
    dataset: DatasetFolder,
    json: AsJson = False,
    games: Annotated[int | None, typer.Option(min=1, help="Check so many games, spread evenly. Default: all.")] = None,
) -> None:
    """Check that a dataset keeps the rules of the game, and how noisy it is."""
    from wm_runtime.replays.audit import audit as run
    from wm_runtime.replays.dataset import Dataset

    with counted("games") as on_game:
        found = run(Dataset(dataset), games, on_game)
    if json:
        print(json_.dumps(found, indent=1))
    else:
        print_audit(found)


def import_legacy(
    folder: Annotated[Path, typer.Argument(help="Parsed dataset: meta.json and games/, as slippi-ai makes them.")],
    out: Annotated[Path, typer.Option(help="Dataset folder; new games are added to one that exists.")],
) -> None:
    """Take over a parsed dataset of the older layout; what it lacks is filled in and named."""
    from wm_runtime.replays.legacy import import_legacy as run

    with counted("games") as on_game:
        report = run(folder, out, lambda report, total: on_game(len(report.rows), total))
    print(f"taken     {report.count('taken'):6d} games, {report.frames:,} frames")
    if report.count("present"):
        print(f"present   {report.count('present'):6d} games were in the dataset already")
    for reason, games, meaning in report.by_reason():
        print(f"left out  {games:6d} {reason}: {meaning}")
    print(f"wrote {out}; what became of each game is in {out}/import_report.json")


# --- text ------------------------------------------------------------------------------------------------------------


def print_info(dataset: Path, found: dict[str, Any]) -> None:
    """The result of `describe` as text."""
    lines = {
        "dataset": f"{dataset}, fingerprint {found['fingerprint']}",
        "games": f"{found['games']:,}: {found['frames']:,} frames, {found['hours']:,} hours, {_size(found['bytes'])}",
        "stages": _counts(found["stages"]),
        "versions": _counts(found["versions"]),
        "lengths": ", ".join(f"{name} {_clock(frames)}" for name, frames in found["lengths"].items()) + " (minutes)",
        "ends": _counts(found["ends"]),
        "winners": _counts(found["winners"]),
        "dates": " to ".join(date[:10] for date in found["dates"].values()) or "none",
        "missing": _counts(found["missing"]) + " (games without)",
        "cut": f"{found['cut']:,} games ({_share(found['cut'], found['games'])})",
        "derived": f"{found['derived']:,} games ({_share(found['derived'], found['games'])}) have columns filled in",
    }
    for name, text in lines.items():
        print(textwrap.fill(text, 118, initial_indent=f"{name:10s}", subsequent_indent=" " * 10))
    places = list(found["stages"])
    print("\nplayers, by fighter and stage")
    rows = [
        (name, *(found["matrix"][place].get(name, 0) or "." for place in places), total)
        for name, total in found["characters"].items()
    ]
    _table(("", *(place[:12] for place in places), "all"), rows)
    print("\ncolumns")
    _table(
        ("", "unit", "from", "to", "min", "mean", "max", "outside", "not finite", "derived in"),
        (
            (
                row["name"], row["unit"], *(_number(row.get(key)) for key in ("low", "high", "min", "mean", "max")),
                *(f"{row[key]:,}" if row[key] else "." for key in ("outside", "not_finite", "derived")),
            )
            for row in found["fields"]
        ),
        left=2,
    )  # fmt: skip


def print_frame(view: dict[str, Any]) -> None:
    """The result of `frame_view` as text."""
    one, two = view["players"]
    print(f"game {view['game']}  {view['md5']}  {view['source']}")
    print(f"{view['stage']}, frame {view['frame']} of {view['last_frame']} ({_clock(max(view['frame'], 0), 100)})")
    print("where a value changed, `<` says what it was on the frame before")
    if view["derived"]:
        print(textwrap.fill("filled in: " + ", ".join(view["derived"]), 118))
    heads = [f"{p['character']} {p['name']}".strip() for p in (one, two)]
    for group in ("fields", "controls"):
        print(f"\n{group:14s}  {'1 ' + heads[0]:48.48s}  {'2 ' + heads[1]:.48s}")
        for name in one[group]:
            print(f"{name:14s}  {_cell(one[group][name]):48s}  {_cell(two[group][name])}".rstrip())
    if view["items"]:
        print("\nitems")
        names = list(view["items"][0])
        _table(names, ([_number(item[name]) for name in names] for item in view["items"]), left=0)


def print_audit(found: dict[str, Any]) -> None:
    """The result of `audit` as text."""
    print(f"{found['games']:,} games, {found['frames']:,} frames of two players\n")
    print(f"{'rule':24s}{'checked':>12s}{'broken':>9s}{'rate':>10s}  example")
    for row in found["rules"]:
        print(f"{row['name']:24s}{row['checked']:12,}{row['broken']:9,}{_rate(row):>10s}  {_example(row)}".rstrip())
        print(textwrap.indent(textwrap.fill(row["definition"], 112), "    "))
        if row["skipped"]:
            print(f"    Not asked of {row['skipped']:,} games in which a column that it reads was filled in.")
    print("\nstep = own velocity + knockback, within 0.002 (% of frames)")
    _table(
        ("situation", "", "frames", "x", "y", "both", "still"),
        (
            (row["name"], row["definition"], f"{row['frames']:,}", *map(_percent, (row[k] for k in _SHARES)))
            for row in found["kinematics"]
        ),
        left=2,
    )
    print(f"\n{'labels':24s}{'frames':>12s}{'count':>9s}{'rate':>10s}")
    for row in found["labels"]:
        print(f"{row['name']:24s}{row['frames']:12,}{row['count']:9,}{_percent(row['rate']) + ' %':>10s}")
        print(textwrap.indent(textwrap.fill(row["definition"], 112), "    "))


_SHARES = ("x", "y", "both", "still")


def _table(head: Iterable[Any], rows: Iterable[Iterable[Any]], left: int = 1) -> None:
    """Prints columns of text, the first `left` of them to the left."""
    cells = [[str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        text = (f"{c:{w}s}" if i < left else f"{c:>{w}s}" for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        print("  ".join(text).rstrip())


def _cell(row: dict[str, Any]) -> str:
    text = _number(row["value"]) + (f" {row['name']}" if "name" in row else "")
    changed = row["before"] is not None and row["before"] != row["value"]
    return f"{text:26s} < {_number(row['before'])}" if changed else text


def _number(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else "" if value is None else str(value)


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {n:,}" for name, n in counts.items()) or "none"


def _clock(frames: int, parts: int = 0) -> str:
    """Minutes and seconds; with `parts` (100) hundredths too."""
    minutes, rest = divmod(frames, 3600)
    return f"{minutes}:{rest // 60:02d}" + (f".{rest % 60 * parts // 60:02d}" if parts else "")


def _size(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def _share(count: int, of: int) -> str:
    return f"{100 * count / of:.1f} %" if of else "–"


def _percent(share: float | None) -> str:
    return f"{100 * share:.2f}" if share is not None else "–"


def _rate(row: dict[str, Any]) -> str:
    return "–" if row["rate"] is None else f"{row['rate']:.1e}" if row["broken"] else "0"


def _example(row: dict[str, Any]) -> str:
    example = row["example"]
    if not example:
        return ""
    return f"{example['md5'][:8]} --frame {example['frame']}, player {example['player'] + 1}"
