"""state_age by rule: where an action's age starts, how fast it runs and where it loops, by character and action."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from wm_runtime.replays.dataset import Dataset
from wm_runtime.schema import FIELD
from wm_train.dynamics.named import Named

CHARACTERS, ACTIONS = FIELD["character"].classes or 0, FIELD["action"].classes or 0
TABLES = {"start": 0.0, "rate": 1.0, "loop_end": 1e9, "loop_to": 0.0}
"""Table → its value where nothing was measured."""


class StateAge(nn.Module):
    """Tables (characters · actions,): commonest start age, change a frame, last age of a loop and first age after."""

    start: Tensor
    rate: Tensor
    loop_end: Tensor
    loop_to: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name, default in TABLES.items():
            self.register_buffer(name, torch.full((CHARACTERS * ACTIONS,), default))

    def forward(self, before: Named, action: Tensor) -> Tensor:
        """State before and next action (N, 2) → next state_age (N, 2): held in hitlag, restarted by another action."""
        row = (before["character"] * ACTIONS + action).long()
        age = before["state_age"]
        goes_on = torch.where(before["hitlag"] > 1, age, age + self.rate[row])
        loops = (goes_on > self.loop_end[row] + 1e-3) & (before["hitlag"] <= 1)
        goes_on = torch.where(loops, self.loop_to[row], goes_on)
        return torch.where(action == before["action"], goes_on, self.start[row])

    @torch.no_grad()
    def measure(self, dataset: Dataset, games: list[int]) -> None:
        """Fills the tables from the commonest values in `games` of a dataset."""
        pairs: dict[str, list[np.ndarray]] = {"start": [], "rate": [], "loop_end": [], "loop_to": []}
        for game in games:
            c = dataset.columns(game)
            row = (c["character"] * ACTIONS + c["action"])[1:].ravel()
            age, previous = c["state_age"][1:].ravel(), c["state_age"][:-1].ravel()
            same = (c["action"][1:] == c["action"][:-1]).ravel()
            # a hit restarts an action (and brings hitlag): that is no loop
            free = ((c["hitlag"][1:] == 0) & (c["hitlag"][:-1] == 0)).ravel() & same
            runs, loops = free & (age >= previous), free & (age < previous)
            chosen = {"start": (~same, age), "rate": (runs, age - previous), "loop_end": (loops, previous)}
            for name, (mask, value) in {**chosen, "loop_to": (loops, age)}.items():
                pairs[name].append(np.stack([row[mask], np.round(value[mask], 4)], axis=1))
        for name, chunks in pairs.items():
            rows, values = _commonest(np.concatenate(chunks))
            getattr(self, name)[torch.from_numpy(rows)] = torch.from_numpy(values)


def _commonest(pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(row, value) pairs (P, 2) → each row that occurs and its commonest value."""
    unique, counts = np.unique(pairs, axis=0, return_counts=True)
    order = np.lexsort((counts, unique[:, 0]))
    rows = unique[order, 0].astype(np.int64)
    last = np.flatnonzero(np.diff(rows, append=-1))
    return rows[last], unique[order, 1][last].astype(np.float32)
