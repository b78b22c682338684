"""`mwm rollout`: let a model play on from a start and keep what it does; and the live match that `mwm serve` sends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from wm_runtime.artifact import DEFAULT_MODEL, open_artifact
from wm_runtime.errors import UserError
from wm_runtime.recording import RecordingWriter
from wm_runtime.replays.game import Game
from wm_runtime.schema import CONTROL_NAMES, PLAYERS, State
from wm_runtime.starts import Start, game_start, spawn
from wm_runtime.stream.protocol import Message, match_message

if TYPE_CHECKING:
    from wm_runtime.simulator import Simulator

SPAWN = "spawn"
PLAYER_KINDS = ("random", "neutral", "policy")
Players = Callable[[State, int], np.ndarray]
"""(present state, number of the step) → the controllers (1, 2, 13) that lead to the next frame."""


def rollout(
    frames: Annotated[int, typer.Option(min=1, help="Frames to predict.")],
    out: Annotated[Path, typer.Option(help="Recording to write, FILE.mwr.")],
    model: Annotated[str, typer.Option(help="Artifact file, or the name of a model that ships.")] = DEFAULT_MODEL,
    start: Annotated[
        str, typer.Option(help="`spawn`, FILE.slp:FRAME, or DATASET:GAME:FRAME (GAME a number or an MD5's beginning).")
    ] = SPAWN,
    stage: Annotated[str, typer.Option(help="From spawn: the stage.")] = "FINAL_DESTINATION",
    characters: Annotated[tuple[str, str], typer.Option(help="From spawn: both fighters.")] = ("FOX", "FALCO"),
    players: Annotated[str, typer.Option(help="From spawn: who plays, `random`, `neutral` or `policy`.")] = "random",
    teacher_forced: Annotated[
        bool, typer.Option("--teacher-forced", help="Predict each frame from the true one before it.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of whatever the players leave to chance.")] = 0,
) -> None:
    """Write a recording of what a model does from a start. From a real game, its own controllers go on."""
    from wm_runtime.simulator import Simulator

    artifact = open_artifact(model)
    if start == SPAWN:
        if teacher_forced:
            raise UserError("--teacher-forced needs true frames; give --start FILE.slp:FRAME or DATASET:GAME:FRAME")
        begin, truth = spawn(stage, characters), None
        held = played(players, seed)
    else:
        game, frame = _moment(start)
        row = frame - game.first_frame
        left = len(game) - 1 - row
        begin = game_start(game, frame, artifact.warmup)
        if frames > left:
            raise UserError(f"{start}: only {left} frames follow; ask for no more with --frames")
        truth = game.state().rows(slice(row, row + frames)) if teacher_forced else None
        held = _recorded(game.controllers()[row + 1 : row + 1 + frames])
    simulator = Simulator(artifact, 1)
    state = simulator.reset(begin)
    source = {"model": artifact.name, "start": start, "teacher_forced": teacher_forced, "seed": seed}
    with RecordingWriter(out, match_message(state, 0, source)) as recording:
        recording.write(state, 0, begin.controllers[:, -1])
        for t in range(frames):
            if truth is not None:
                for name, array in vars(simulator.state).items():
                    np.copyto(array, getattr(truth, name)[t : t + 1])
            controllers = np.ascontiguousarray(held(simulator.state, t))
            recording.write(simulator.step(controllers), 0, controllers)
    state = simulator.state
    print(f"{frames} frames of {artifact.name} from {start}: percent {state['percent'][0].round(1).tolist()}, "
          f"stocks {state['stocks'][0].tolist()}")  # fmt: skip
    print(f"wrote {out}")


def live_frames(
    model: str | None, stage: str | None, characters: tuple[str, str] | None, seed: int
) -> tuple[Message, Iterator[tuple[State, int, np.ndarray]]]:
    """Random players in a model, match after match, for ever: the first header, and (state, 0, controllers) a frame."""
    from wm_runtime.simulator import Simulator

    artifact = open_artifact(model or DEFAULT_MODEL)
    begin = spawn(stage or "FINAL_DESTINATION", characters or ("FOX", "FALCO"))
    header = match_message(begin.at(-1), 0, {"model": artifact.name, "players": "random", "seed": seed})
    return header, _matches(Simulator(artifact, 1), begin, seed)


def played(kind: str, seed: int) -> Players:
    """Two players of one kind. Raises UserError for an unknown kind."""
    from wm_envs.opponents import OPPONENTS, Policy

    if kind not in PLAYER_KINDS:
        raise UserError(f"unknown players {kind!r}: choose one of {', '.join(PLAYER_KINDS)}")
    sides = [Policy(player=p) if kind == "policy" else OPPONENTS[kind]() for p in range(PLAYERS)]
    for side, stream in zip(sides, np.random.default_rng(seed).spawn(PLAYERS), strict=True):
        side.reset(np.ones(1, bool), stream)
    controllers = np.zeros((1, PLAYERS, len(CONTROL_NAMES)), np.float32)

    def held(state: State, t: int) -> np.ndarray:
        for p, side in enumerate(sides):
            side.act(state, controllers[:, p])
        return controllers

    return held


def _recorded(track: np.ndarray) -> Players:
    return lambda state, t: track[None, t]


def _matches(simulator: Simulator, begin: Start, seed: int) -> Iterator[tuple[State, int, np.ndarray]]:
    held = played("random", seed)
    while True:
        state = simulator.reset(begin)
        yield state, 0, begin.controllers[:, -1]
        while not simulator.aux["match_over"][0]:
            controllers = held(simulator.state, 0)
            yield simulator.step(controllers), 0, controllers
        simulator.aux["match_over"][:] = False


def _moment(start: str) -> tuple[Game, int]:
    """FILE.slp:FRAME or DATASET:GAME:FRAME → the game and the frame. Raises UserError."""
    where, _, frame = start.rpartition(":")
    if not where or not frame.lstrip("-").isdigit():
        raise UserError(f"--start {start}: give `spawn`, FILE.slp:FRAME or DATASET:GAME:FRAME")
    if where.endswith(".slp"):
        from wm_runtime.replays.slp import LeftOut, read_slp

        if not Path(where).exists():
            raise UserError(f"{where}: no such replay")
        try:
            return read_slp(where), int(frame)
        except LeftOut as reason:
            raise UserError(f"{where}: no start can be taken from it ({reason})") from None
    from wm_runtime.replays.dataset import Dataset

    folder, _, game = where.rpartition(":")
    if not folder:
        raise UserError(f"--start {start}: give `spawn`, FILE.slp:FRAME or DATASET:GAME:FRAME")
    dataset = Dataset(folder)
    number = int(game) if game.isdigit() and int(game) < len(dataset) else dataset.find(game)
    return dataset.game(number), int(frame)
