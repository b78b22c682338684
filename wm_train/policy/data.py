"""Rows to learn a policy from: what one player saw and held, and the controller that came next. Both players of every
game are rows; states are read from the memory-mapped dataset, controllers are kept as classes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from wm_runtime.errors import UserError
from wm_runtime.facts import character
from wm_runtime.replays.dataset import Dataset
from wm_runtime.replays.layout import unpack_controllers, unpack_state
from wm_runtime.schema import FIRST_FRAME, PLAYERS
from wm_train.policy.codebook import Codebook, make_codebook
from wm_train.policy.config import PolicyModel, PolicyTraining
from wm_train.policy.network import Seen

SAMPLED_GAMES = 60
"""Games whose controllers the codebook is made of."""
KNOWS_ALL = 1000
"""More frames than a policy looks back."""
FIRST_CONTROL = -38
"""Frame by which players have landed from the entry and begin to act."""
LONGEST_PAST = 40
"""Frames of a match that has just begun, and own controllers known where they are cut short, at most."""


@dataclass
class Batch:
    """N rows: what was seen, and the classes that were held in the last frame and come next, (N, 4) each, as recorded
    (not mirrored); `weight` (N,) is what each counts."""

    seen: Seen
    last: Tensor
    target: Tensor
    weight: Tensor


def codebook_of(dataset: Dataset, games: list[int], model: PolicyModel) -> Codebook:
    """The codebook of a policy that learns from these games."""
    chosen = np.random.default_rng(0).permutation(games)[:SAMPLED_GAMES]
    held = [unpack_controllers(dataset.records(int(g), -FIRST_FRAME)) for g in chosen]
    controllers = np.concatenate(held).reshape(-1, held[0].shape[-1])
    return make_codebook(controllers, model.main_sticks, model.c_sticks, model.button_sets)


class Rows:
    """Every (frame, player) of `games` in which the player has control, from frame FIRST_CONTROL on.

    `characters`: names of the fighters whose players are learned from, all when empty. Raises UserError if there is no
    row.
    """

    def __init__(
        self,
        dataset: Dataset,
        games: list[int],
        model: PolicyModel,
        codebook: Codebook,
        characters: tuple[str, ...] = (),
    ):
        self.dataset, self.games = dataset, np.asarray(games)
        self._states, self._controls = np.array(model.state_offsets), np.array(model.control_offsets)
        wanted = [character(name).internal_id for name in characters]
        self._first = np.cumsum([0, *dataset.frames[self.games]])
        self._classes = np.concatenate(
            [codebook.classes(unpack_controllers(dataset.records(int(g)))) for g in self.games]
        )  # (T, 2, 4)
        rows = []
        for first, g in zip(self._first.tolist(), self.games.tolist(), strict=False):
            frames = np.arange(first + FIRST_CONTROL - FIRST_FRAME, first + int(dataset.frames[g]))
            players = [p for p in range(PLAYERS) if not wanted or dataset.characters[g, p] in wanted]
            rows += [frames * PLAYERS + p for p in players]
        self.index = np.concatenate([np.zeros(0, np.int64), *rows])
        """(R,) row numbers: frame, of all games put together, times 2, plus player."""
        if len(self.index) == 0:
            who = f" of {', '.join(characters)}" if characters else ""
            raise UserError(f"{dataset.path}: no frames{who} to learn from; build a dataset with whole games of them")
        frame, player = np.divmod(self.index, PLAYERS)
        self.changes = (self._classes[frame, player] != self._classes[frame - 1, player]).any(axis=-1)
        """(R,) whether the controller is another one than in the frame before."""

    def __len__(self) -> int:
        return len(self.index)

    def read(
        self,
        index: np.ndarray,
        delay: np.ndarray,
        known: np.ndarray,
        begun: np.ndarray | None = None,
        weight: np.ndarray | None = None,
    ) -> Batch:
        """Rows `index` (B,) of row numbers, seen with `delay` (B,) frames of reaction delay and the `known` (B,) latest
        own controllers, by players who saw the first state of the match `begun` (B,) frames ago (default: long ago):
        what was before it is to them as it was then."""
        frame, player = np.divmod(index, PLAYERS)
        game = np.searchsorted(self._first, frame, side="right") - 1
        present = frame - 1 - self._first[game]  # row in its game of the frame that is played on
        age = delay[:, None] + self._states
        if begun is not None:
            age, known = np.minimum(age, begun[:, None]), np.minimum(known, begun)
        floats, ints = self._read_states(game, present[:, None] - age, player)
        past = np.maximum(present[:, None] - self._controls, 0) + self._first[game][:, None]
        stage = self.dataset.stage[self.games[game]]
        seen = Seen(
            torch.from_numpy(floats),
            torch.from_numpy(ints),
            torch.from_numpy(stage.astype(np.int64)),
            torch.from_numpy(self._classes[past, player[:, None]].astype(np.int64)),
            torch.from_numpy(known.astype(np.int64)),
            torch.from_numpy(delay.astype(np.int64)),
        )
        last, target = (torch.from_numpy(self._classes[at, player].astype(np.int64)) for at in (frame - 1, frame))
        even = np.ones(len(index)) if weight is None else weight
        return Batch(seen, last, target, torch.from_numpy(even.astype(np.float32)))

    def drawn(self, count: int, settings: PolicyTraining, longest_delay: int, rng: np.random.Generator) -> Batch:
        """`count` rows to train on, drawn with changes at their share in `settings` and weighted back."""
        changing = rng.random(count) < settings.changes
        share = self.changes.mean()
        weight = np.where(changing, settings.tempo * share / settings.changes, (1 - share) / (1 - settings.changes))
        index = np.empty(count, np.int64)
        for value in (True, False):
            pool = self._pool(value)
            here = changing == value
            index[here] = pool[rng.integers(0, len(pool), int(here.sum()))]
        delay = np.where(rng.random(count) < settings.prompt, 0, rng.integers(0, longest_delay + 1, count))
        # Most matches have gone on for long, some have just begun; and of some the own controllers are not known.
        begun = np.where(rng.random(count) < settings.begun, rng.integers(0, LONGEST_PAST, count), KNOWS_ALL)
        short = np.where(rng.random(count) < settings.shorten, rng.integers(1, LONGEST_PAST, count), KNOWS_ALL)
        known = np.where(rng.random(count) < settings.forget, 0, short)
        return self.read(index, delay, known, begun, weight)

    def _pool(self, changing: bool) -> np.ndarray:
        """Row numbers on which the controller changes, or does not; all rows where there is none such."""
        if not hasattr(self, "_pools"):
            self._pools = {value: self.index[self.changes == value] for value in (True, False)}
        pool = self._pools[changing]
        return pool if len(pool) else self.index

    def _read_states(self, game: np.ndarray, row: np.ndarray, player: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows (B, K) of games (B,) → floats (B, K, 2, F) and ints (B, K, 2, I), the acting player first."""
        row = np.maximum(row, 0)
        last = row.max(axis=1)
        length = int((last - row.min(axis=1)).max()) + 1
        first = np.maximum(last - length + 1, 0)  # not the oldest row: a window must not run past its game's end
        windows = self.dataset.stored_windows(self.games[game], first, length)
        records = np.take_along_axis(windows, (row - first[:, None])[..., None], axis=1)  # (B, K, 2)
        swap = player == 1
        records[swap] = records[swap][:, :, ::-1]
        flat = records.reshape(-1, PLAYERS)
        zero = np.zeros(len(flat), np.int32)
        state = unpack_state(flat, zero, zero)
        return state.floats.reshape(*row.shape, PLAYERS, -1), state.ints.reshape(*row.shape, PLAYERS, -1)
