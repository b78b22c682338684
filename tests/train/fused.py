"""mamba-ssm's fused scan against this project's own forms: `make fused`.

With a GPU the kernels run on it; without one Triton's interpreter runs the same kernels on the CPU, which shows their
numbers and not their speed. A script rather than a test: it needs Triton (280 MB) and mamba-ssm, which `make fused`
installs into an environment of their own.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

GPU = torch.cuda.is_available()
if not GPU:
    os.environ["TRITON_INTERPRET"] = "1"

SHAPES = ((2, 10, 8, 64, 64, 10), (2, 60, 8, 64, 64, 60), (1, 70, 6, 64, 32, 16), (1, 130, 8, 64, 64, 64))
"""Sequences, frames, heads, headdim, d_state, chunk_size: of mamba2-1a, mamba2-1a-k60, exact-mamba2, and longer."""
CLOSE = 1e-5
"""Largest difference, as a share of the largest number."""
NAMES = ("x", "dt", "a", "b", "c", "h")


def interpreted(origin: str) -> None:
    """Lets the kernels of mamba-ssm, whose `__init__.py` is `origin`, be imported and run where no GPU is: without
    its compiled extensions, and each kernel in the first of its configurations instead of the fastest, which the
    interpreter cannot time."""
    import triton

    class First:
        def __init__(self, configs: list[Any], kernel: Any) -> None:
            self.configs, self.best_config, self.kernel = configs, configs[0], kernel

        def __getitem__(self, grid: Any) -> Callable[..., Any]:
            chosen = dict(self.best_config.kwargs)

            def call(*args: Any, **names: Any) -> Any:
                of = {**names, **chosen}
                if self.best_config.pre_hook:  # clears what is added up
                    self.best_config.pre_hook({**dict(zip(self.kernel.arg_names, args, strict=False)), **of})
                return self.kernel[grid({**of}) if callable(grid) else grid](*args, **of)

            return call

    triton.autotune = lambda configs, **_: lambda kernel: First(configs, kernel)
    torch.cuda.device = lambda *_: contextlib.nullcontext()  # type: ignore[assignment,misc]
    torch.cuda.get_device_properties = lambda _: types.SimpleNamespace(multi_processor_count=1)  # type: ignore[assignment]
    package = types.ModuleType("mamba_ssm")
    package.__path__ = [str(Path(origin).parent)]  # its __init__ would load the extensions
    sys.modules["mamba_ssm"] = package


def main() -> int:
    found = importlib.util.find_spec("mamba_ssm")
    if found is None or found.origin is None:
        print("mamba-ssm is not installed: make fused", file=sys.stderr)
        return 2
    if not GPU:
        interpreted(found.origin)
    from wm_train.models import mamba2

    print("mamba-ssm's kernels on", torch.cuda.get_device_name() if GPU else "the CPU, by Triton's interpreter")
    worst = 0.0
    for shape in SHAPES:
        of = {name: value.requires_grad_() for name, value in drawn(*shape[:5]).items()}
        size = shape[-1]
        forms = {
            "sequential": run(of, mamba2.sequential_scan),
            "chunked": run(of, lambda *given, size=size: mamba2.chunked_scan(*given, size)),
            "fused": run(of, lambda *given, size=size: mamba2.fused(*given, size)),
        }
        for form in ("chunked", "fused"):
            apart = {name: difference(forms[form][name], value) for name, value in forms["sequential"].items()}
            print(f"{shape!s:28} {form:8}", " ".join(f"{name} {value:.0e}" for name, value in apart.items()))
            worst = max(worst, *apart.values())
    print(f"largest difference from the sequential scan: {worst:.1e} of the largest number (bar {CLOSE:.0e})")
    return int(worst > CLOSE)


def drawn(batch: int, length: int, heads: int, headdim: int, d_state: int) -> dict[str, torch.Tensor]:
    """Inputs of a scan, as `sequential_scan` takes them."""
    rng = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=rng)

    values = {
        "x": normal(batch, length, heads, headdim),
        "dt": torch.nn.functional.softplus(normal(batch, length, heads) - 3),
        "a": -torch.linspace(1, 16, heads),
        "b": normal(batch, length, d_state),
        "c": normal(batch, length, d_state),
        "h": normal(batch, heads, headdim, d_state),
    }
    return {name: value.to("cuda" if GPU else "cpu") for name, value in values.items()}


def run(of: dict[str, torch.Tensor], scan: Callable[..., tuple[torch.Tensor, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Outputs, the memory after them, and gradients by every input."""
    y, after = scan(*(of[name] for name in NAMES))
    grads = torch.autograd.grad(y.sin().sum() + after.sin().sum(), [of[name] for name in NAMES])
    return {"y": y, "after": after, **{f"d{name}": grad for name, grad in zip(NAMES, grads, strict=True)}}


def difference(found: torch.Tensor, true: torch.Tensor) -> float:
    """The largest, as a share of the largest number."""
    return float(((found - true).abs().max() / true.abs().max()).detach())


if __name__ == "__main__":
    sys.exit(main())
