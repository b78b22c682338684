"""`mwm`: one command line, one module a command group. A command imports what it needs when it runs."""

from __future__ import annotations

import sys

import typer

from wm_runtime.errors import UserError
from wm_tools import (
    bench,
    blend,
    demo,
    evaluate,
    experiments,
    models,
    policy,
    prune,
    replays,
    rollout,
    run_card,
    runs,
    stream,
    train,
)

app = typer.Typer(
    name="mwm", help="Melee World Model: a learned simulator of Super Smash Bros. Melee.", no_args_is_help=True,
    rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False,
)  # fmt: skip
app.add_typer(replays.app, name="replays")
app.add_typer(models.app, name="models")
app.add_typer(experiments.app, name="experiments")
app.add_typer(bench.app, name="bench")
app.add_typer(runs.app, name="runs")
COMMANDS = (
    demo.demo, train.train, prune.prune, blend.blend, run_card.run_card, models.export, evaluate.evaluate,
    policy.train_policy, policy.evaluate_policy, rollout.rollout, stream.serve, stream.watch, stream.fields,
)  # fmt: skip
for command in COMMANDS:
    app.command()(command)


def main() -> None:
    """Runs the command line. What a user did wrong is one line on stderr and exit code 2; Ctrl-C is 130."""
    try:
        app()
    except UserError as error:
        print(f"mwm: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("mwm: interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
