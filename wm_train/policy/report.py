"""What a policy is worth: how often it is right about the next controller, against "same as last frame", and how often
it presses what, against the players it learned from."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from wm_runtime.artifact import Artifact
from wm_runtime.policy import PolicyPlayer
from wm_runtime.replays.dataset import Dataset
from wm_runtime.schema import BUTTONS, C_, CONTROL_NAMES, FIRST_FRAME, PLAYERS
from wm_train.policy.codebook import COLUMNS, HEADS, Codebook
from wm_train.policy.data import KNOWS_ALL, Rows
from wm_train.policy.network import COLDEST, PolicyNetwork
from wm_train.policy.train import batch_loss

DELAYS = (0, 18)
"""Reaction delays that are reported, in frames."""
WHICH = ("all frames", "changes")
FIGURES: tuple[str, ...] = (*BUTTONS, "buttons", "main", "c", "shoulder", "controller")
PRESSES: tuple[str, ...] = (*BUTTONS, "main", "c", "shoulder", "controller changes")
_BATCH = 2048


@torch.no_grad()
def accuracy(network: PolicyNetwork, rows: Rows, count: int, delay: int, forget: bool = False) -> dict[str, Any]:
    """The likeliest next controller (head after head) against the true one, on `count` rows drawn at random.

    {"all frames" and "changes" → {"policy", "last frame" → figure → share right}, "loss" → head → nats}. A button is
    right if it is pressed or not as in truth; `buttons` if all are; a stick or shoulder if its class is; `controller`
    if everything is. "changes" are the frames on which the true controller is of other classes than the last one.
    """
    index = np.sort(np.random.default_rng(0).choice(rows.index, min(count, len(rows)), replace=False))
    right: dict[str, list[np.ndarray]] = {"policy": [], "last frame": []}
    changes, losses = [], np.zeros(len(HEADS))
    for part in np.array_split(index, max(1, len(index) // _BATCH)):
        known = np.full(len(part), 0 if forget else KNOWS_ALL)
        batch = rows.read(part, np.full(len(part), delay), known)
        cold, even = torch.full((len(part),), COLDEST), torch.full((len(part), len(HEADS)), 0.5)
        likeliest, _ = network.draw(*network.hidden(batch.seen), even, cold)
        guesses = {"policy": network.mirrored(likeliest, batch.seen.side), "last frame": batch.last}
        for name, guess in guesses.items():
            right[name].append(_right(network, guess.numpy(), batch.target.numpy()))
        changes.append((batch.last != batch.target).any(dim=-1).numpy())
        losses += batch_loss(network, batch).sum(dim=0).numpy()
    changed = np.concatenate(changes)
    out: dict[str, Any] = {"rows": len(index), "share_of_changes": float(changed.mean())}
    for which, where in zip(WHICH, (np.ones_like(changed), changed), strict=True):
        shares = {name: np.concatenate(rows)[where].mean(axis=0).tolist() for name, rows in right.items()}
        out[which] = {name: dict(zip(FIGURES, values, strict=True)) for name, values in shares.items()}
    return out | {"loss": dict(zip(HEADS, (losses / len(index)).tolist(), strict=True))}


def _right(network: PolicyNetwork, guess: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Classes (N, 4) → (N, figures) whether right."""
    pressed, truly = (network.codebook.codes["buttons"][classes[:, 0]] for classes in (guess, target))
    heads = guess == target
    return np.concatenate([pressed == truly, heads, heads.all(axis=1, keepdims=True)], axis=1)


def pace(policy: Artifact, dataset: Dataset, matches: int, frames: int, seed: int = 0) -> dict[str, dict[str, float]]:
    """Shares of frames on which the policy and the true players press each button, tilt a stick, or change anything.

    The policy sees the states of real games; the own controllers it sees are those it chose. The true controllers are
    put into the policy's classes first. {"policy", "true" → figure → share}. The first second does not count: in it
    the policy knows few own controllers.
    """
    rng = np.random.default_rng(seed)
    able = np.flatnonzero(dataset.frames > frames - FIRST_FRAME)
    games = rng.choice(able if len(able) else np.arange(len(dataset)), matches)
    frames = int(min(frames, dataset.frames[games].min() + FIRST_FRAME - 1))
    first = rng.integers(-FIRST_FRAME, dataset.frames[games] - frames)
    states, true = dataset.windows(games, first, frames)
    true = true.reshape(matches, frames, PLAYERS, len(CONTROL_NAMES))
    codebook = Codebook.from_json(policy.metadata["manifest"]["codebook"])
    true = codebook.controllers(codebook.classes(true))
    skip = min(60, frames // 2)
    shares: dict[str, list[np.ndarray]] = {"policy": [], "true": []}
    for side in range(PLAYERS):
        player = PolicyPlayer(policy, matches, side, seed=seed + side)
        rows = np.arange(matches) * frames
        held = np.stack([player.act(states.rows(rows + t)).copy() for t in range(frames)], axis=1)
        shares["policy"].append(_presses(held[:, skip:]))
        shares["true"].append(_presses(true[:, skip:, side]))
    return {name: dict(zip(PRESSES, np.mean(values, axis=0).tolist(), strict=True)) for name, values in shares.items()}


def _presses(held: np.ndarray) -> np.ndarray:
    """Controllers (N, T, 13) → shares of frames, in the order of PRESSES."""
    pressed = [held[..., C_[name]] > 0.5 for name in BUTTONS]
    pressed += [(held[..., COLUMNS[head]] != 0).any(axis=-1) for head in ("main", "c", "shoulder")]
    changed = (held[:, 1:] != held[:, :-1]).any(axis=-1)
    return np.array([*(p.mean() for p in pressed), changed.mean()])
