"""`mwm serve` and `mwm watch`: publish a recording or a live match, and watch one."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from wm_runtime import facts
from wm_runtime.errors import UserError
from wm_runtime.recording import Recording, read_recording
from wm_runtime.schema import CONTROLS, FIELDS, State
from wm_runtime.stream.protocol import CONTROL_KINDS, FIELD_KINDS, Message, frame_message, match_message
from wm_runtime.stream.publisher import Publisher
from wm_runtime.stream.subscriber import subscribe

PORT = 51480
"""Where `serve` listens and `watch` looks unless told otherwise."""

Frame = tuple[State, int, np.ndarray]
"""A match at one moment: a state, the row of the match in it, controllers (N, 2, 13)."""

Host = Annotated[str, typer.Option(help="Address of the publisher.")]
Port = Annotated[int, typer.Option(help="TCP port of the publisher.", min=0, max=65535)]
Frames = Annotated[int | None, typer.Option(help="Stop after so many frames.", min=1)]


def serve(
    recording: Annotated[Path | None, typer.Argument(help="Recording (.mwr) to publish, else a live match.")] = None,
    host: Host = "127.0.0.1",
    port: Port = PORT,
    fps: Annotated[float, typer.Option(help="Frames a second.", min=1.0)] = 60.0,
    loop: Annotated[bool, typer.Option("--loop", help="Begin the recording again when it ends.")] = False,
    frames: Frames = None,
    model: Annotated[str | None, typer.Option(help="Live: the model that plays on.")] = None,
    stage: Annotated[str | None, typer.Option(help="Live: stage name.")] = None,
    characters: Annotated[tuple[str, str] | None, typer.Option(help="Live: the two fighters.")] = None,
    seed: Annotated[int, typer.Option(help="Live: seed of the match.")] = 0,
) -> None:
    """Publish a recording, or a live match, to every client that connects. Ctrl-C ends it."""
    if recording:
        played = read_recording(recording)
        if not len(played):
            raise UserError(f"recording {recording} holds no frame; choose another")
        header, source = played.header, _repeated(played) if loop else iter(played)
    else:
        from wm_tools.rollout import live_frames

        header, source = live_frames(model, stage, characters, seed)
    with Publisher(host, port) as publisher:
        typer.echo(f"publishing at {publisher.host}:{publisher.port}, Ctrl-C ends")
        published = publish_frames(publisher, header, islice(source, frames), fps)
    typer.echo(f"published {published} frames, {publisher.dropped} dropped for slow clients")


def watch(
    host: Host = "127.0.0.1",
    port: Port = PORT,
    frames: Frames = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print every message as one line of JSON.")] = False,
) -> None:
    """Print a line for every frame that a publisher sends."""
    print_line = _json_line if as_json else _text_line
    match: Message = {}
    seen = 0
    try:
        for message in subscribe(host, port):
            match = message if message["type"] == "match" else match
            typer.echo(print_line(match, message))
            seen += message["type"] == "frame"
            if seen == frames:
                return
    except KeyboardInterrupt:
        return


def fields() -> None:
    """Print what a frame message holds of each player, as tables in Markdown."""
    typer.echo(field_tables())


def publish_frames(publisher: Publisher, header: Message, frames: Iterable[Frame], fps: float) -> int:
    """Publish frames at `fps` until they end or Ctrl-C; returns how many. Closes the publisher with the reason.

    A frame that does not follow the one before it begins another match: a header of its own comes before it, with the
    `source` of `header`.
    """
    published, expected, reason = 0, None, "end of match"
    due = time.perf_counter()
    try:
        for state, index, controllers in frames:
            message = frame_message(state, index, controllers)
            if message["frame"] != expected:
                publisher.publish(match_message(state, index, header["source"]))
            publisher.publish(message)
            published, expected = published + 1, message["frame"] + 1
            due = max(due + 1 / fps, time.perf_counter())
            time.sleep(max(0.0, due - time.perf_counter()))
    except KeyboardInterrupt:
        reason = "interrupted"
    publisher.close(reason)
    return published


def field_tables() -> str:
    """Markdown tables of every field and every control of a player in a frame message."""
    names = {float: "float32", int: "int", bool: "bool"}
    rows = [f"| `{f.name}` | {names[FIELD_KINDS[f.name]]} | {f.unit} | {f.doc} |" for f in FIELDS]
    controls = [f"| `{c.name}` | {names[CONTROL_KINDS[c.name]]} | {c.low} to {c.high} |" for c in CONTROLS]
    return "\n".join([
        "| field | type | unit | meaning |", "|---|---|---|---|", *rows, "",
        "| control | type | range |", "|---|---|---|", *controls,
    ])


def _repeated(recording: Recording) -> Iterator[Frame]:
    return chain.from_iterable(repeat(recording))


def _text_line(match: Message, message: Message) -> str:
    if message["type"] == "match":
        fighters = " against ".join(player["character"] for player in message["players"])
        return f"match: {fighters} on {message['stage']}"
    if message["type"] == "end":
        return f"end: {message['reason']}"
    return "  ".join([f"{message['frame']:6d}", match["stage"], *map(_player_text, message["players"])])


def _player_text(player: Message) -> str:
    return (
        f"{facts.character(player['character']).name} {player['percent']:.1f}% {player['stocks']} stocks"
        f" ({player['x']:.2f}, {player['y']:.2f}) {facts.action_name(player['action'])}"
    )


def _json_line(match: Message, message: Message) -> str:
    """JSON has no NaN or infinity: null stands for them."""
    return json.dumps(json.loads(json.dumps(message), parse_constant=lambda name: None))
