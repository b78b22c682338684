"""Who holds the other controller: batched, one call a frame for all matches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.vector.utils import batch_space

from wm_envs.spaces import ACTION_SPACES, ActionSpace
from wm_runtime.errors import UserError
from wm_runtime.facts import STAGES
from wm_runtime.policy import DEFAULT_POLICY, PolicyPlayer, open_policy
from wm_runtime.schema import C_, CONTROL_NAMES, State

_EDGES = np.zeros(max(s.id for s in STAGES) + 1, np.float32)
_EDGES[[s.id for s in STAGES]] = [s.edge_stand for s in STAGES]
"""Stage id → |x| of the edge, units."""


class Opponent(ABC):
    """Writes one controller a match. `reset` begins the matches of `mask` (N,) bool anew."""

    @abstractmethod
    def reset(self, mask: np.ndarray, rng: np.random.Generator) -> None: ...

    @abstractmethod
    def act(self, state: State, out: np.ndarray) -> None:
        """The controllers (N, 13) float32 that lead to the next frame, written into `out`."""


class Neutral(Opponent):
    """Touches nothing."""

    def reset(self, mask: np.ndarray, rng: np.random.Generator) -> None:
        pass

    def act(self, state: State, out: np.ndarray) -> None:
        out[:] = 0


class Random(Opponent):
    """Holds a random input of the multidiscrete space for 2 to 20 frames, then takes another.

    Buttons and shoulder are mostly left alone, as people leave them, so that it walks and jumps rather than mashes.
    """

    HOLD = (2, 20)
    BUSY = 0.15
    """Chance that a held input has any given button, C-stick or shoulder in it."""

    def __init__(self) -> None:
        self._left = np.zeros(0, int)

    def reset(self, mask: np.ndarray, rng: np.random.Generator) -> None:
        if len(self._left) != len(mask):
            self._left = np.zeros(len(mask), int)
            self._held = np.zeros((len(mask), len(CONTROL_NAMES)), np.float32)
        self._rng = rng
        self._left[mask] = 0

    def act(self, state: State, out: np.ndarray) -> None:
        space = ACTION_SPACES["multidiscrete"]()
        over = np.flatnonzero(self._left <= 0)
        if len(over):
            choices = self._rng.integers(0, space.space.nvec, (len(over), len(space.space.nvec)))  # type: ignore[attr-defined]
            choices[:, 1:] *= self._rng.random(choices[:, 1:].shape) < self.BUSY
            held = np.zeros((len(over), len(CONTROL_NAMES)), np.float32)
            space.controllers(choices, held)
            self._held[over] = held
            self._left[over] = self._rng.integers(*self.HOLD, len(over))
        self._left -= 1
        out[:] = self._held


class Replay(Opponent):
    """Plays what a player of a real game pressed for each frame, by the frame's number, whatever happens here; before
    and after that game, touches nothing.

    `path`: a replay (.slp) or a recording (.mwr) · `player`: whose controller, 0 or 1.
    """

    def __init__(self, path: str | Path, player: int = 1):
        path = Path(path)
        if path.suffix == ".slp":
            from wm_runtime.replays.slp import LeftOut, read_slp

            try:
                game = read_slp(path)
            except LeftOut as reason:
                raise UserError(f"{path}: cannot be played back ({reason})") from None
            self._first, controllers = game.first_frame, game.controllers()
        else:
            from wm_runtime.recording import read_recording

            recording = read_recording(path)
            if len(recording) == 0:
                raise UserError(f"{path}: holds no frames to play back; choose another recording")
            self._first, controllers = int(recording.states["frame"][0]), recording.controllers
        self._track = controllers[:, player]

    def reset(self, mask: np.ndarray, rng: np.random.Generator) -> None:
        pass

    def act(self, state: State, out: np.ndarray) -> None:
        row = state["frame"] + 1 - self._first
        known = (row >= 0) & (row < len(self._track))
        out[:] = 0
        out[known] = self._track[row[known]]


class Policy(Opponent):
    """A learned player: the policy that ships, or any that `mwm train-policy` made.

    `policy`: name or .onnx file · `player`: which side it plays, 0 or 1 · `temperature`, `delay` (frames of reaction
    time): see wm_runtime.policy.PolicyPlayer. Raises UserError for a file that is no policy and for other settings.
    """

    def __init__(
        self, policy: str | Path = DEFAULT_POLICY, player: int = 1, temperature: float = 1.0, delay: int = 0
    ):
        self._make = partial(
            PolicyPlayer, open_policy(policy), player=player, temperature=temperature, delay=delay
        )
        self._player: PolicyPlayer | None = self._make(num_matches=1)

    def __getstate__(self) -> dict[str, Any]:
        """Settings alone: a copy, as gymnasium.make keeps, has a session of its own once its matches begin."""
        return {"_make": self._make, "_player": None}

    def reset(self, mask: np.ndarray, rng: np.random.Generator) -> None:
        if self._player is None or self._player.num_matches != len(mask):
            self._player = self._make(num_matches=len(mask))
        self._player.reset(mask, rng)

    def act(self, state: State, out: np.ndarray) -> None:
        assert self._player is not None, "reset begins a match"
        out[:] = self._player.act(state)


class Attacker(Opponent):
    """A script: runs at the other fighter and attacks when near, jumps after it, and comes back when off the stage.

    `player`: which side it plays, 0 or 1.
    """

    NEAR = 14.0
    """Units within which it attacks."""
    RHYTHM = 8
    """Frames from one press of a button to the next: a held button does nothing."""

    def __init__(self, player: int = 1):
        self._player = player

    def reset(self, mask: np.ndarray, rng: np.random.Generator) -> None:
        pass

    def act(self, state: State, out: np.ndarray) -> None:
        me, other = self._player, 1 - self._player
        x, y, airborne = state["x"], state["y"], state["airborne"][:, me] == 1
        edge = _EDGES[state["stage"]]
        target = np.clip(x[:, other], -edge + 5, edge - 5)
        off = (np.abs(x[:, me]) > edge) & airborne
        dx, dy = np.where(off, -x[:, me], target - x[:, me]), y[:, other] - y[:, me]
        press = state["frame"] % self.RHYTHM < 2
        near = (np.abs(x[:, other] - x[:, me]) < self.NEAR) & (np.abs(dy) < 2 * self.NEAR) & ~off
        above = near & (dy > self.NEAR / 2)
        jumps = state["jumps"][:, me] > 0
        out[:] = 0
        out[:, C_["main_x"]] = np.where(near & ~airborne, 0, np.sign(dx))
        out[:, C_["c_x"]] = near & ~above & press
        out[:, C_["c_x"]] *= np.sign(x[:, other] - x[:, me])
        out[:, C_["c_y"]] = above & airborne & press
        out[:, C_["x_button"]] = press & ((above & ~airborne) | (off & jumps & (y[:, me] < 0)))
        falling = off & ~jumps & (y[:, me] < 0)
        out[:, C_["main_y"]] = falling
        out[:, C_["main_x"]] *= ~falling
        out[:, C_["b"]] = falling & press


class SelfPlay(Opponent):
    """A callable of one's own: observations of all matches, as player 2 sees them → actions for all of them.

    `choose` sees what an agent on that side would see (`observe()`) and acts in the agent's action space, on the frames
    that are `due()`; in between it holds on. The agent's own network makes it self-play.
    """

    def __init__(
        self,
        choose: Callable[[Any], Any],
        observe: Callable[[], Any],
        actions: ActionSpace,
        due: Callable[[], bool] = lambda: True,
    ):
        self._choose, self._observe, self._actions, self._due = choose, observe, actions, due

    def reset(self, mask: np.ndarray, rng: np.random.Generator) -> None:
        pass

    def act(self, state: State, out: np.ndarray) -> None:
        if self._due():
            batched = batch_space(self._actions.space, len(out))
            self._actions.controllers(self._actions.checked(self._choose(self._observe()), batched), out)


class Mixed(Opponent):
    """Several opponents, one of which each match draws when it begins. Each plays all of its matches in one call."""

    def __init__(self, opponents: Sequence[Opponent]):
        if not opponents:
            raise UserError("opponent: an empty list; name one at least")
        self._opponents = opponents
        self.playing = np.zeros(0, int)
        """(N,) number of the opponent that plays each match."""

    def reset(self, mask: np.ndarray, rng: np.random.Generator) -> None:
        if len(self.playing) != len(mask):
            self.playing = np.zeros(len(mask), int)
            self._held = [np.zeros((len(mask), len(CONTROL_NAMES)), np.float32) for _ in self._opponents]
        self.playing[mask] = rng.integers(len(self._opponents), size=np.count_nonzero(mask))
        for i, opponent in enumerate(self._opponents):
            self._held[i][mask] = 0
            opponent.reset(mask, rng)

    def act(self, state: State, out: np.ndarray) -> None:
        for i, (opponent, held) in enumerate(zip(self._opponents, self._held, strict=True)):
            rows = self.playing == i
            if rows.any():
                opponent.act(state, held)
                out[rows] = held[rows]


OPPONENTS: dict[str, Callable[..., Opponent]] = {
    "neutral": Neutral, "random": Random, "replay": Replay, "policy": Policy, "attacker": Attacker,
}  # fmt: skip
Which = str | Path | Opponent | Callable[[Any], Any] | Sequence["Which"]


def opponent(
    which: Which,
    replay: str | Path | Sequence[str | Path] | None = None,
    self_play: Callable[[Callable[[Any], Any]], Opponent] | None = None,
) -> Opponent:
    """An opponent by name, the policy in a .onnx file, a callable, or several of these to draw from.

    `replay` is the file that "replay" plays back, or several to draw from; `self_play` makes an opponent of a callable.
    Raises UserError.
    """
    if isinstance(which, Opponent):
        return which
    if isinstance(which, list | tuple):
        return Mixed([opponent(one, replay, self_play) for one in which])
    if callable(which) and self_play is not None:
        return self_play(which)
    if str(which).endswith(".onnx"):
        return Policy(which)  # type: ignore[arg-type]
    if which == "self":
        raise UserError('opponent "self": give the callable itself, from observations (N, …) to actions (N, …)')
    if which not in OPPONENTS:
        known = f"{', '.join(OPPONENTS)}, a policy's .onnx file, a callable or a list of these"
        raise UserError(f"unknown opponent {which!r}: choose one of {known}")
    if which != "replay":
        return OPPONENTS[which]()  # type: ignore[index]
    if replay is None:
        raise UserError('opponent "replay" needs `replay`, a .slp or .mwr file to play back')
    if isinstance(replay, list | tuple):
        return Mixed([Replay(path) for path in replay])
    return Replay(replay)  # type: ignore[arg-type]
