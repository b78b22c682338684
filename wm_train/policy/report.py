"""What an exported policy is worth: how often it is right about the next controller, against "same as last frame", and
how often it presses what, against the players of the same games."""

from __future__ import annotations

from typing import Any

import numpy as np

from wm_runtime.artifact import Artifact
from wm_runtime.engines.onnx import OnnxEngine
from wm_runtime.facts import character
from wm_runtime.policy import GRAPH_INPUTS, PolicyPlayer
from wm_runtime.replays.dataset import Dataset
from wm_runtime.schema import BUTTONS, C_, CONTROL_NAMES, FIRST_FRAME, I_, M_, MATCH_FIELDS, PLAYERS
from wm_train.policy.codebook import COLUMNS, HEADS, Codebook
from wm_train.policy.config import PolicyExperiment
from wm_train.policy.data import KNOWS_ALL, Rows
from wm_train.policy.network import Seen

DELAYS = (0, 18)
"""Reaction delays that are reported, in frames."""
NO_PAST = "no own past"
WHICH = ("all frames", "changes")
FIGURES: tuple[str, ...] = (*BUTTONS, "buttons", "main", "c", "shoulder", "controller")
PRESSES: tuple[str, ...] = (*BUTTONS, "main", "c", "shoulder", "controller changes")
PACE_MATCHES, PACE_FRAMES = 128, 600
_BATCH = 2048


def measure(policy: Artifact, dataset: Dataset, games: list[int], count: int) -> dict[str, Any]:
    """All figures of a policy on `games` of a dataset, `count` controllers each; see accuracy and pace."""
    rows = rows_of(policy, dataset, games)
    found = {f"delay {delay}": accuracy(policy, rows, count, delay) for delay in DELAYS}
    found[NO_PAST] = accuracy(policy, rows, count, 0, forget=True)
    about = {"dataset": dataset.path.name, "games": len(games)}
    return {**about, "accuracy": found, "pace": pace(policy, dataset, PACE_MATCHES, PACE_FRAMES, games)}


def rows_of(policy: Artifact, dataset: Dataset, games: list[int]) -> Rows:
    """Every controller in `games` of the fighters whose play the policy learned. Raises UserError for none."""
    manifest = policy.metadata["manifest"]
    experiment = PolicyExperiment.model_validate(manifest["experiment"])
    return Rows(dataset, games, experiment.model, Codebook.from_json(manifest["codebook"]), experiment.characters)


def accuracy(policy: Artifact, rows: Rows, count: int, delay: int, forget: bool = False) -> dict[str, Any]:
    """The likeliest next controller (head after head) against the true one, on `count` rows drawn at random.

    {"all frames" and "changes" → {"policy", "last frame" → figure → share right}}. A button is right if it is pressed
    or not as in truth; `buttons` if all are; a stick or shoulder if its class is; `controller` if everything is.
    "changes" are the frames on which the true controller is of other classes than the last one. "characters" → name →
    the same `controller` shares, and how many rows are that fighter's. `forget`: the own controllers are not seen.
    """
    index = np.sort(np.random.default_rng(0).choice(rows.index, min(count, len(rows)), replace=False))
    session = OnnxEngine(policy).session
    codes = Codebook.from_json(policy.metadata["manifest"]["codebook"]).codes["buttons"]
    right: dict[str, list[np.ndarray]] = {"policy": [], "last frame": []}
    changes, fighters = [], []
    for part in np.array_split(index, max(1, len(index) // _BATCH)):
        batch = rows.read(part, np.full(len(part), delay), np.full(len(part), 0 if forget else KNOWS_ALL))
        likeliest = session.run(["classes"], _inputs(batch.seen))[0]
        for name, guess in (("policy", likeliest), ("last frame", batch.last.numpy())):
            right[name].append(_right(codes, guess, batch.target.numpy()))
        changes.append((batch.last != batch.target).any(dim=-1).numpy())
        fighters.append(batch.seen.ints[:, 0, 0, I_["character"]].numpy())
    changed, fighter = np.concatenate(changes), np.concatenate(fighters)
    found = {name: np.concatenate(parts) for name, parts in right.items()}
    out: dict[str, Any] = {"rows": len(index), "share_of_changes": float(changed.mean())}
    for which, where in zip(WHICH, (np.ones_like(changed), changed), strict=True):
        shares = {name: values[where].mean(axis=0).tolist() for name, values in found.items()}
        out[which] = {name: dict(zip(FIGURES, values, strict=True)) for name, values in shares.items()}
    whole = {name: values[:, FIGURES.index("controller")] for name, values in found.items()}
    return out | {"characters": _by_character(fighter, changed, whole)}


def _inputs(seen: Seen) -> dict[str, np.ndarray]:
    """What a graph takes, without chance: at temperature 0 it gives the likeliest classes."""
    n = len(seen.floats)
    match = np.zeros((n, len(MATCH_FIELDS)), np.int32)
    match[:, M_["stage"]] = seen.stage.numpy()
    whole = (array.numpy().astype(np.int32) for array in (seen.past, seen.known, seen.delay))
    noise = np.full((n, len(HEADS)), 0.5, np.float32)
    values = (seen.floats.numpy(), seen.ints.numpy(), match, *whole, np.zeros(n, np.float32), noise)
    return dict(zip(GRAPH_INPUTS, values, strict=True))


def _right(button_sets: np.ndarray, guess: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Classes (N, 4) → (N, figures) whether right."""
    pressed, truly = (button_sets[classes[:, 0]] for classes in (guess, target))
    heads = guess == target
    return np.concatenate([pressed == truly, heads, heads.all(axis=1, keepdims=True)], axis=1)


def _by_character(fighter: np.ndarray, changed: np.ndarray, right: dict[str, np.ndarray]) -> dict[str, Any]:
    """The commonest first; the share on changes is None where there are none."""
    ids, counts = np.unique(fighter, return_counts=True)
    out = {}
    for i in np.argsort(-counts, kind="stable"):
        own = fighter == ids[i]
        shares = {
            which: {name: float(values[own & where].mean()) if (own & where).any() else None
                    for name, values in right.items()}
            for which, where in zip(WHICH, (np.ones_like(changed), changed), strict=True)
        }  # fmt: skip
        out[character(int(ids[i])).name] = {"rows": int(counts[i]), **shares}
    return out


def pace(
    policy: Artifact, dataset: Dataset, matches: int, frames: int, among: list[int], seed: int = 0
) -> dict[str, dict[str, float]]:
    """Shares of frames on which the policy and the true players press each button, tilt a stick, or change anything.

    The policy sees the states of real games; the own controllers it sees are those it chose. The true controllers are
    put into the policy's classes first. {"policy", "true" → figure → share}. The first second does not count: in it
    the policy knows few own controllers.
    """
    rng = np.random.default_rng(seed)
    chosen = np.asarray(among)
    able = chosen[dataset.frames[chosen] > frames - FIRST_FRAME]
    games = rng.choice(able if len(able) else chosen, matches)
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
