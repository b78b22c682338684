"""The device of a run: found by name, held by one run at a time, with half precision where it has it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from wm_runtime.errors import UserError

SIZE, ROUNDS, PAYS = 512, 8, 0.9
"""Width of the products by which a CPU's bf16 is timed, how often, and the share of float32's time below which it
pays."""


def find_device(name: str) -> torch.device:
    """cpu, cuda, cuda:1, mps; or auto, the best there is. Raises UserError."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"{name!r}: no device; use cpu, cuda, cuda:1, mps or auto") from None
    count = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if (device.index or 0) >= count.get(device.type, 0):
        raise UserError(f"{name}: not on this machine; use --device cpu or auto")
    return torch.device("cuda", device.index or 0) if device.type == "cuda" else device


@contextmanager
def device_lock(device: torch.device) -> Iterator[None]:
    """Holds an accelerator, so that no second run begins on it. Raises UserError where one is under way."""
    if device.type == "cpu":
        yield
        return
    name = str(device).replace(":", "-")
    lock = FileLock(Path(tempfile.gettempdir()) / f"mwm-train-{name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(f"{device}: another run is training on it; wait for it, or name another --device") from None
    try:
        yield
    finally:
        lock.release()


def amp_type(setting: str, device: torch.device) -> torch.dtype | None:
    """The type of a network's products for training.amp; None for float32."""
    if setting == "auto":
        setting = "bf16" if _has_bf16(device) else "off"
    return torch.bfloat16 if setting == "bf16" else None


def _has_bf16(device: torch.device) -> bool:
    """Whether bf16 is arithmetic of the hardware, and of a CPU's the faster one."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        return (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()) and bf16_pays()
    return False


@lru_cache
def bf16_pays() -> bool:
    """Whether this CPU multiplies in bf16 faster than in float32: a few milliseconds tell. Some take twice as long."""
    return _product_seconds(torch.bfloat16) < PAYS * _product_seconds(torch.float32)


def _product_seconds(dtype: torch.dtype) -> float:
    """Seconds of a product, the fastest of some."""
    a, found = torch.ones(SIZE, SIZE, dtype=dtype), []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        torch.mm(a, a)
        found.append(time.perf_counter() - begun)
    return min(found)
