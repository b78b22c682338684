"""The windows on which a model is measured: true frames of a dataset, their past, and the controllers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wm_runtime.errors import UserError
from wm_runtime.replays.dataset import Dataset
from wm_runtime.schema import CONTROL_NAMES, FIRST_FRAME, PLAYERS, State
from wm_runtime.starts import Start
from wm_train.dynamics.stale import LOSSES, struck_in_game

LAST_DEATH_ACTION = 13
"""Action states 0 to 13 are dying and respawning."""


@dataclass
class Window:
    """B windows of `history` frames, the start frame and `horizon` frames after it.

    game: (B,) number of each window's game · truth: State of B · length matches, window by window ·
    controllers: (B, length, 2, 13), those that produced each frame · struck: (B, 2, 1 + 9) int32, what the whole game
    before a window's first frame leaves in a memory of stale moves (the last columns of memory.NUMBERS); None where
    that is not known.
    """

    game: np.ndarray
    truth: State
    controllers: np.ndarray
    history: int
    horizon: int
    struck: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.game)

    @property
    def length(self) -> int:
        return self.history + 1 + self.horizon

    def field(self, name: str) -> np.ndarray:
        """A player field of every frame, (B, length, 2)."""
        return self.truth[name].reshape(len(self), self.length, PLAYERS)

    def stage(self) -> np.ndarray:
        """(B,) stage id."""
        return self.truth["stage"].reshape(len(self), self.length)[:, self.history]

    def at(self, row: int) -> State:
        """The true states of row `row` (`history` is the start frame)."""
        return self.truth.rows(np.arange(len(self)) * self.length + row)

    def start(self, last: int) -> Start:
        """Matches at row `last`, of whose past nothing is known."""
        return Start(self.at(last), self.controllers[:, last : last + 1])

    def select(self, chosen: np.ndarray) -> Window:
        """The windows of these numbers, a copy."""
        rows = (np.asarray(chosen)[:, None] * self.length + np.arange(self.length)).reshape(-1)
        return Window(
            self.game[chosen], self.truth.rows(rows), self.controllers[chosen], self.history, self.horizon,
            None if self.struck is None else self.struck[chosen],
        )  # fmt: skip

    def no_death(self) -> np.ndarray:
        """(B,) bool: no player is dying or respawning from the start frame to the horizon."""
        return np.all(self.field("action")[:, self.history :] > LAST_DEATH_ACTION, axis=(1, 2))


def sample_starts(
    dataset: Dataset, count: int, horizon: int, seed: int = 0, games: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(games, start frames), `count` drawn evenly and without replacement from all t ≥ 0 with `horizon` frames after,
    of `games` (default: all). Fewer where there are not so many. Raises UserError for a dataset without any.
    """
    chosen_games = np.arange(len(dataset)) if games is None else np.asarray(games)
    starts = np.maximum(dataset.frames[chosen_games] + FIRST_FRAME - horizon, 0)
    ends = np.cumsum(starts)
    if len(ends) == 0 or ends[-1] == 0:
        raise UserError(f"{dataset.path}: no game lasts {horizon} frames; measure on whole games")
    chosen = np.sort(np.random.default_rng(seed).permutation(int(ends[-1]))[:count])
    at = np.searchsorted(ends, chosen, side="right")
    return chosen_games[at], chosen - (ends[at] - starts[at])


def read_windows(dataset: Dataset, game: np.ndarray, frame: np.ndarray, history: int, horizon: int) -> Window:
    """The windows that start at `frame` (B,) of `game` (B,). `history` is at most −FIRST_FRAME: no frame of a game
    comes before that."""
    length = history + 1 + horizon
    first = frame - FIRST_FRAME - history
    truth, controllers = dataset.windows(game, first, length)
    struck = np.zeros((len(game), PLAYERS, 1 + len(LOSSES)), np.int32)
    for number in np.unique(game):
        of = game == number
        since, queue = struck_in_game(dataset.columns(int(number))).at(first[of])
        struck[of] = np.concatenate([since[..., None], queue], axis=-1)
    controllers = controllers.reshape(-1, length, PLAYERS, len(CONTROL_NAMES))
    return Window(game, truth, controllers, history, horizon, struck)
