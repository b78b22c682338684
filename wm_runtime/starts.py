"""Where a match begins: standing at the stage's spawn points, or at a moment of a real game with its past."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wm_runtime.errors import UserError
from wm_runtime.facts import character, stage
from wm_runtime.schema import CONTROL_NAMES, FIELD, FIRST_FRAME, NO_PLAYER, PLAYERS, State

if TYPE_CHECKING:
    from wm_runtime.replays.dataset import Dataset
    from wm_runtime.replays.game import Game

WAIT = 14
"""Action state of a fighter that stands."""
STOCKS = 4


@dataclass
class Start:
    """N matches about to begin: W consecutive frames of each, the last being the present one.

    states: State of N·W matches, row n·W + w is frame w of match n · controllers: (N, W, 2, 13) float32, those that
    produced each frame. W is 1 where nothing is known of the past.
    """

    states: State
    controllers: np.ndarray

    def __len__(self) -> int:
        return len(self.controllers)

    @property
    def length(self) -> int:
        """W, frames known of each match."""
        return self.controllers.shape[1]

    def rows(self, index: np.ndarray) -> Start:
        """The matches (K,) of `index`, in that order and as often as they are named."""
        frames = (np.asarray(index)[:, None] * self.length + np.arange(self.length)).reshape(-1)
        return Start(self.states.rows(frames), self.controllers[index])

    def at(self, frame: int) -> State:
        """The N states of the window's frame `frame` (0 … W − 1, or negative from the end), a copy."""
        return self.states.rows(np.arange(len(self)) * self.length + frame % self.length)


def spawn(stage_name: str | int, characters: tuple[str | int, str | int]) -> Start:
    """One match at frame 0: both fighters stand where the stage's entry leaves them, free to act. Raises UserError."""
    place = stage(stage_name)
    fighters = tuple(character(c) for c in characters)
    state = State.zeros(1)
    state["frame"], state["stage"] = 0, place.id
    shared = {"stocks": STOCKS, "action": WAIT, "shield": FIELD["shield"].high, "last_hit_by": NO_PLAYER}
    for name, value in shared.items():
        state[name] = value
    columns = {
        "x": [s.x for s in place.standing],
        "y": [s.y for s in place.standing],
        "ground": [s.ground for s in place.standing],
        "facing": [s.facing for s in place.standing],
        "character": [f.internal_id for f in fighters],
        "jumps": [f.jumps for f in fighters],
    }
    for name, values in columns.items():
        state[name] = np.asarray(values)
    return Start(state, np.zeros((1, 1, PLAYERS, len(CONTROL_NAMES)), np.float32))


def game_start(game: Game, frame: int, history: int) -> Start:
    """One match at `frame` of a game, with up to `history` true frames before it. Raises UserError."""
    row = frame - game.first_frame
    if not 0 <= row < len(game):
        last = game.first_frame + len(game) - 1
        raise UserError(f"{game.info.source}: no frame {frame}; it has {game.first_frame} to {last}")
    first = max(0, row - history)
    states = game.state().rows(slice(first, row + 1))
    return Start(states, game.controllers()[None, first : row + 1])


def dataset_starts(dataset: Dataset, games: np.ndarray, frames: np.ndarray, history: int) -> Start:
    """N matches at frames (N,) of games (N,) of a dataset, each with `history` true frames before it.

    Every frame must be at least FIRST_FRAME + history and lie in its game. Raises ValueError.
    """
    first = np.asarray(frames) - FIRST_FRAME - history
    if (first < 0).any() or (first + history >= dataset.frames[games]).any():
        raise ValueError(f"frames must have {history} frames before them and lie in their game")
    states, controllers = dataset.windows(np.asarray(games), first, history + 1)
    return Start(states, controllers.reshape(len(first), history + 1, PLAYERS, len(CONTROL_NAMES)))


def stack(starts: list[Start]) -> Start:
    """Several starts of the same length as one. Raises ValueError if their lengths differ."""
    if len({s.length for s in starts}) != 1:
        raise ValueError("starts with histories of different lengths")
    parts = [s.states for s in starts]
    states = State(*(np.concatenate([getattr(p, name) for p in parts]) for name in vars(parts[0])))
    return Start(states, np.concatenate([s.controllers for s in starts]))
