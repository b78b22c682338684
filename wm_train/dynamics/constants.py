"""Small tables on the device where they are needed. On an accelerator each is sent there once: a CUDA graph records
what kernels do, and cannot record that something is sent."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

Values = tuple[int, ...] | tuple[float, ...]


def constant(values: Values, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """The numbers as a tensor (len(values),)."""
    if device.type == "cuda":
        return _made(values, device, dtype)
    return torch.tensor(values, device=device, dtype=dtype)


def there(table: Tensor, device: torch.device) -> Tensor:
    """A table that is made once for all, on the device."""
    return _sent(table, device) if device.type == "cuda" else table.to(device)


@cache
def _made(values: Values, device: torch.device, dtype: torch.dtype | None) -> Tensor:
    return torch.tensor(values, device=device, dtype=dtype)


@cache
def _sent(table: Tensor, device: torch.device) -> Tensor:
    return table.to(device)
