"""What a run will take of the memory of its machine and device, and which way of keeping the data fits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from wm_runtime.errors import UserError
from wm_runtime.replays.layout import FRAME_BYTES
from wm_runtime.schema import CONTROL_NAMES, FLOAT_FIELDS, INT_FIELDS, MATCH_FIELDS, PLAYERS
from wm_train.config import TrainingConfig
from wm_train.training.corpus import Resident

SPARE = 0.1
"""Share of what is free that a run leaves alone."""
STEPS_AHEAD = 6
"""Batches that are read, sent or in use at once."""
PER_WEIGHT = 16
"""Bytes: weight, gradient and two moments, float32."""
DECODED_BYTES = 4 * (PLAYERS * (len(FLOAT_FIELDS) + len(INT_FIELDS) + len(CONTROL_NAMES)) + len(MATCH_FIELDS))
MODES = ("device", "ram", "streaming")
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Need:
    """What a run is made of. frames: of the training games · windows: drawn in an epoch · length: frames of the longest
    window · weights · activations: bytes kept for the backward pass, (whatever the batch, a window)."""

    frames: int
    windows: int
    length: int
    weights: int
    activations: tuple[float, float]


@dataclass(frozen=True)
class Plan:
    """mode: one of MODES · host, device: part → bytes. On a CPU everything is in `host`."""

    mode: str
    host: dict[str, int]
    device: dict[str, int]

    def line(self, device: torch.device) -> str:
        """The plan in words."""
        kept = {"device": f"data in the memory of {device}", "ram": "data in RAM", "streaming": "data streamed"}
        words = [f"RAM {_words(self.host)} of {_size(free(torch.device('cpu')))} free"]
        if self.device:
            words.append(f"{device} {_words(self.device)} of {_size(free(device))} free")
        return f"{kept[self.mode]}; {'; '.join(words)}"


def plan(need: Need, settings: TrainingConfig, device: torch.device, streams: bool | None = None) -> Plan:
    """The first way of keeping the data that fits, or the one that is set. `streams`: whether a run that goes on must
    draw its windows as a stream does, or must not. Raises UserError, with a setting that would fit, where none does."""
    modes = [mode for mode in MODES if settings.data in ("auto", mode)]
    if streams is not None:
        modes = [mode for mode in MODES if (mode == "streaming") == streams]
    if device.type == "cpu":
        modes = list(dict.fromkeys("ram" if mode == "device" else mode for mode in modes))
    for mode in modes:
        found = _plan(need, settings, device, mode, settings.batch_size)
        if _fits(found, device):
            return found
    raise UserError(_refusal(need, settings, device, modes[-1]))


def plan_whole_games(
    frames: int, games: int, weights: int, data: int, mode: str = "auto", device: torch.device = CPU
) -> Plan:
    """What training on whole games takes of this machine and of `device`: `data` bytes for so many `frames` of so many
    `games`, and so many `weights`; batches come on top. Frames are read from the memory of an accelerator where they
    fit into it, or must be (mode "device"). Raises UserError, with a number of games that would fit, where none is
    left."""
    model = weights * PER_WEIGHT
    on_cpu = device.type == "cpu"
    found = Plan("ram", {"data": data, "model": model}, {}) if on_cpu else Plan("ram", {"data": data}, {"model": model})
    resident = Plan("device", {"data": data}, {"data": data, "model": model})
    if not on_cpu and mode in ("auto", "device") and (mode == "device" or _fits(resident, device)):
        found = resident
    if not _fits(found, device):
        holders = (CPU, device) if found.mode == "device" else (CPU,)
        room = (1 - SPARE) * min(map(free, holders)) - model
        fitting = int(games * room / data)
        hint = f"--max-games {fitting} would fit" if fitting > 1 else "a larger machine is needed"
        raise UserError(f"not enough memory for {frames:,} frames: {found.line(device)}; {hint}")
    return found


def _plan(need: Need, settings: TrainingConfig, device: torch.device, mode: str, batch_size: int) -> Plan:
    corpus = Resident.bytes(need.frames)
    stored = batch_size * need.length * FRAME_BYTES
    fixed, each = need.activations
    working = {
        "model": need.weights * PER_WEIGHT,
        "activations": int(fixed + each * batch_size),
        "batches": stored + 2 * batch_size * need.length * DECODED_BYTES,
    }
    host = {"order": 24 * (need.windows + (settings.buffer_size if mode == "streaming" else 0))}
    if mode == "ram":
        host["data"] = corpus
    if mode != "device":
        decoded = batch_size * need.length * DECODED_BYTES if device.type == "cpu" else 0  # ahead of time there
        host["read ahead"] = STEPS_AHEAD * (stored + decoded)
    if device.type == "cpu":
        return Plan(mode, {**host, **working}, {})
    return Plan(mode, host, {**working, "data": corpus} if mode == "device" else working)


def _fits(found: Plan, device: torch.device) -> bool:
    return all(
        sum(parts.values()) <= (1 - SPARE) * free(where)
        for where, parts in ((torch.device("cpu"), found.host), (device, found.device))
        if parts
    )


def _refusal(need: Need, settings: TrainingConfig, device: torch.device, mode: str) -> str:
    text = f"not enough memory: {_plan(need, settings, device, mode, settings.batch_size).line(device)}"
    others = [m for m in MODES if not (device.type == "cpu" and m == "device")]
    for other in others:
        if _fits(_plan(need, settings, device, other, settings.batch_size), device):
            return f"{text}; training.data={other} would fit"
    size = settings.batch_size // 2
    while size:
        if _fits(_plan(need, settings, device, "streaming", size), device):
            return f"{text}; --streaming --batch-size {size} would fit"
        size //= 2
    return f"{text}; no batch size would fit: a smaller model, or a larger machine"


def free(device: torch.device) -> int:
    """Bytes that can still be had, of this machine (or what its container may use) or of an accelerator."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory()
    return min(psutil.virtual_memory().available, _container_limit())


def _container_limit() -> int:
    group = Path("/sys/fs/cgroup")
    try:
        return int((group / "memory.max").read_text()) - int((group / "memory.current").read_text())
    except (OSError, ValueError):  # no limit
        return 1 << 62


def _words(parts: dict[str, int]) -> str:
    listed = " + ".join(f"{name} {_size(part)}" for name, part in parts.items())
    return f"{_size(sum(parts.values()))} ({listed})"


def _size(size: int) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**28 else f"{size / 2**20:.0f} MiB"
