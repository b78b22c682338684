"""Speed of Mamba-2: its chunked scan against the sequential one, and causal training against a frame stack's."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from wm_runtime.schema import CONTROL_NAMES, FLOAT_FIELDS, I_, INT_FIELDS, MATCH_FIELDS, PLAYERS
from wm_train.dynamics.recurrent import MambaCore
from wm_train.encoding import PRESETS
from wm_train.models.mamba2 import Mamba2, Mamba2Model, Mamba2Sizes
from wm_train.training.losses import weighted
from wm_train.training.records import Batch

LENGTHS = (10, 60, 256)
STACK, SEQUENCE = 10, 64
"""Frames of a frame stack, and of a causal training sequence."""


def bench_ssd(batch: int, rounds: int, device: str) -> list[dict[str, float]]:
    """A row for each of LENGTHS: frames, the largest difference of the chunked and of the one-frame form from the
    sequential one, and ms of a forward and backward pass of `batch` sequences, chunked and sequential."""
    torch.manual_seed(0)
    model = Mamba2(Mamba2Sizes()).to(device)
    rows = []
    for length in LENGTHS:
        u = torch.randn(batch, length, model.sizes.d_model, device=device)
        with torch.no_grad():
            expected = model(u, chunk_size=0)[0]
            chunked = (model(u)[0] - expected).abs().max().item()
            stepped = (_stepped(model, u) - expected).abs().max().item()
        ssd, sequential = fastest([partial(_pass, model, u, None), partial(_pass, model, u, 0)], rounds, device)
        rows.append(
            {
                "frames": length, "ssd_difference": chunked, "step_difference": stepped,
                "ssd_ms": 1e3 * ssd, "sequential_ms": 1e3 * sequential,
            }
        )  # fmt: skip
    return rows


def bench_causal(targets: int, rounds: int, device: str) -> dict[str, float]:
    """µs of training (forward, backward, AdamW) a target frame: mamba2-1a with every frame of SEQUENCE a target, and
    as a stack of STACK frames whose last alone is, `targets` a step."""
    torch.manual_seed(0)
    steps: list[Callable[[], None]] = []
    for causal, frames in ((True, SEQUENCE), (False, STACK)):
        encoding = replace(PRESETS["v2.2-1a"], frames=frames)
        core = MambaCore(Mamba2Model(encoding, Mamba2Sizes()), causal).to(device)
        batch = random_batch(targets // frames if causal else targets, frames + 1, device)
        optimiser = torch.optim.AdamW(core.parameters(), 1e-4)
        steps.append(partial(_step, core, batch, optimiser))
    made = (targets // SEQUENCE * SEQUENCE, targets)
    seconds = fastest(steps, rounds, device)
    found = {"causal_us": 1e6 * seconds[0] / made[0], "frame_stack_us": 1e6 * seconds[1] / made[1]}
    return {**found, "ratio": found["frame_stack_us"] / found["causal_us"]}


def fastest(calls: Sequence[Callable[[], object]], rounds: int, device: str) -> list[float]:
    """Seconds of the fastest of `rounds` of each call, taken in turn: on a CPU, of its time on all cores, which other
    programs do not disturb; on an accelerator, by the clock."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    best = [float("inf")] * len(calls)
    for _ in range(rounds + 1):  # the first warms up
        for i, call in enumerate(calls):
            started = clock()
            call()
            if device.startswith("cuda"):
                torch.cuda.synchronize()
            best[i] = min(best[i], clock() - started)
    return best


def random_batch(windows: int, length: int, device: str) -> Batch:
    """Windows of frames that are no game's, but have the shapes and types of one."""
    ints = torch.zeros(windows, length, PLAYERS, len(INT_FIELDS), dtype=torch.int32, device=device)
    ints[..., I_["action"]] = torch.randint(14, 340, ints.shape[:3], dtype=torch.int32, device=device)
    return Batch(
        torch.rand(windows, length, PLAYERS, len(FLOAT_FIELDS), device=device),
        ints,
        torch.zeros(windows, length, len(MATCH_FIELDS), dtype=torch.int32, device=device),
        torch.rand(windows, length, PLAYERS, len(CONTROL_NAMES), device=device),
    )


def _stepped(model: Mamba2, u: Tensor) -> Tensor:
    memory = model.nothing(u)
    outputs = []
    for t in range(u.shape[1]):
        y, memory = model.step(u[:, t], memory)
        outputs.append(y)
    return torch.stack(outputs, dim=1)


def _pass(model: Mamba2, u: Tensor, chunk_size: int | None) -> None:
    model.zero_grad(set_to_none=True)
    model(u, chunk_size=chunk_size)[0].sum().backward()


def _step(core: MambaCore, batch: Batch, optimiser: torch.optim.Optimizer) -> None:
    optimiser.zero_grad(set_to_none=True)
    weighted(core.losses(batch), core.weights).backward()
    optimiser.step()
