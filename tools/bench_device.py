"""`mwm bench device`: match-steps a second of matches that stay on a device, and what the environment adds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from wm_envs.device import MeleeDeviceEnv
from wm_runtime.schema import CONTROL_NAMES, PLAYERS

ROUNDS = 3


def bench_device(
    model: str, device: str, matches: list[int], seconds: float, compiled: bool, precision: str = "float32"
) -> dict[str, Any]:
    """Milliseconds of a step of the model alone and of the environment, by number of matches, the best of ROUNDS."""
    rows = []
    for count in matches:
        settings = {"model": model, "precision": precision, "domain": None}
        env = MeleeDeviceEnv(count, device, pool=min(count, 256), compiled=compiled, **settings)
        env.reset(seed=0)
        env.action_space.seed(0)
        actions = torch.from_numpy(env.action_space.sample()).to(env.device)
        pads = torch.zeros(count, PLAYERS, len(CONTROL_NAMES), device=env.device)
        alone = _milliseconds(lambda e=env, p=pads: e._engine.advance(e.matches, p), env.device, seconds)  # type: ignore[misc]
        whole = _milliseconds(lambda e=env, a=actions: e.step(a), env.device, seconds)  # type: ignore[misc]
        rows.append({
            "matches": count, "model_ms": alone, "env_ms": whole, "steps_per_second": count / whole * 1e3,
            "env_cost": whole / alone - 1,
        })  # fmt: skip
        env.close()
    where = torch.device(device)
    name = torch.cuda.get_device_name(where) if where.type == "cuda" else str(where)
    return {"device": name, "torch": torch.__version__, "model": model, "compiled": compiled, "precision": precision,
            "batches": rows}  # fmt: skip


def lines(found: dict[str, Any]) -> Iterator[str]:
    how = "compiled" if found["compiled"] else "eager"
    with_ = f"{how}, products in {found['precision']}"
    yield f"{found['model']} on {found['device']}, torch {found['torch']}, {with_}; a step as the environment takes it"
    yield f"{'matches':>8}  {'model, ms':>10}  {'env, ms':>10}  {'above it':>8}  {'match-steps/s':>14}"
    for row in found["batches"]:
        yield (
            f"{row['matches']:>8,}  {row['model_ms']:>10.2f}  {row['env_ms']:>10.2f}  {row['env_cost']:>8.0%}  "
            f"{row['steps_per_second']:>14,.0f}"
        )


def _milliseconds(call: Callable[[], Any], device: torch.device, seconds: float) -> float:
    """Of one call, the device's work included."""

    def timed(times: int) -> float:
        _wait(device)
        begun = time.perf_counter()
        for _ in range(times):
            call()
        _wait(device)
        return (time.perf_counter() - begun) / times

    timed(2)  # compiles, and finds its kernels
    times = max(1, int(seconds / ROUNDS / timed(1)))
    return min(timed(times) for _ in range(ROUNDS)) * 1e3


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
