"""Made-up states of one match, by name."""

from __future__ import annotations

import torch
from torch import Tensor

from wm_runtime.schema import FLOAT_FIELDS, INT_FIELDS
from wm_train.dynamics.named import Named, named


def one(**fields: list[float]) -> Named:
    """Zeros but for these fields of both players, who face right."""
    floats, ints = (torch.zeros(1, 2, len(names)) for names in (FLOAT_FIELDS, INT_FIELDS))
    return but({**named(floats, ints.int()), "facing": torch.ones(1, 2, dtype=torch.int32)}, **fields)


def but(state: Named, **fields: list[float]) -> Named:
    """A state with these fields of both players."""
    return {**state, **{name: torch.tensor([value]).to(state[name].dtype) for name, value in fields.items()}}


def first(value: Tensor) -> float:
    """Of the first player."""
    return float(value[0, 0])
