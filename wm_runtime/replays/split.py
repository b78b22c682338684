"""Which games are trained on and which are held out: decided by a hash, so that it stays as games are added."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import PurePosixPath

import numpy as np

from wm_runtime.errors import UserError
from wm_runtime.replays.dataset import Dataset


def _content(dataset: Dataset) -> list[tuple[str, ...]]:
    return [(key,) for key in dataset.content]


def _source(dataset: Dataset) -> list[tuple[str, ...]]:
    return [(PurePosixPath(name).parts[0],) for name in dataset.column("source")]


def _players(dataset: Dataset) -> list[tuple[str, ...]]:
    return [tuple(name for name in names if name) for names in dataset.column("names")]


KEYS: dict[str, Callable[[Dataset], list[tuple[str, ...]]]] = {
    "content": _content,
    "source": _source,
    "player": _players,
}
"""What is held out together: a game's content (near-duplicates have the same), the folder or archive that it came from,
its players (a game is held out if any of its named players is)."""


def split(dataset: Dataset, holdout: float, by: str = "content", seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(train, held out) game numbers, about `holdout` (0 … 1) of the keys held out.

    A key's side depends on the key and `seed` alone. Raises UserError for an unknown `by`.
    """
    if by not in KEYS:
        raise UserError(f"cannot split by {by!r}: choose one of {', '.join(KEYS)}")
    held = np.array([any(_share(key, seed) < holdout for key in keys) for keys in KEYS[by](dataset)], bool)
    return np.flatnonzero(~held), np.flatnonzero(held)


def _share(key: str, seed: int) -> float:
    """A number in 0 … 1 that a key has for ever."""
    digest = hashlib.blake2b(f"{seed}:{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
