"""A tidied graph has fewer nodes and says the same, bit for bit where nothing is multiplied and added at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn

from wm_train.tidy import tidy

MATCHES = 7


class Step(nn.Module):
    """A function of x (N, 2, 5) and the whole numbers index (N, 2), as a module."""

    def __init__(self, run: Callable[[Step, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.run = run
        self.register_buffer("table", torch.arange(60.0).view(20, 3))
        self.linear = nn.Linear(5, 4)

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        return self.run(self, x, index)


CASES: dict[str, tuple[Callable[[Step, Tensor, Tensor], Tensor], set[str]]] = {
    "columns": (lambda m, x, i: torch.stack([x[..., k] + 1 for k in range(5)], dim=-1), {"Unsqueeze"}),
    "columns among others": (
        lambda m, x, i: torch.cat([x, torch.stack([x[..., k] * 2 for k in range(4)], dim=-1), x.flip(1)], dim=-1),
        {"Unsqueeze"},
    ),
    "two columns": (lambda m, x, i: torch.stack([x[..., 0], x[..., 1] * 3], dim=-1), set()),
    "a table": (lambda m, x, i: m.table[i], {"GatherND", "Unsqueeze"}),
    "a number": (lambda m, x, i: torch.where(x > 0, x, torch.full_like(x, 3.0)), {"Expand", "Shape"}),
    "numbers alone": (lambda m, x, i: torch.full_like(x, 3.0) + torch.zeros_like(x), set()),
    "a square": (lambda m, x, i: x.square().sum(dim=-1), {"Pow"}),
    "a product": (lambda m, x, i: m.linear(x), {"MatMul"}),
}


def exported(name: str, folder: Path) -> bytes:
    batch = torch.export.Dim("matches", min=1)
    torch.manual_seed(0)
    torch.onnx.export(
        Step(CASES[name][0]).eval(), (torch.zeros(3, 2, 5), torch.zeros(3, 2, dtype=torch.int64)),
        folder / "step.onnx", input_names=["x", "index"], output_names=["y"], opset_version=18, dynamo=True,
        dynamic_shapes=(({0: batch}, {0: batch})), external_data=False, verbose=False,
    )  # fmt: skip
    return (folder / "step.onnx").read_bytes()


def operators(graph: bytes) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load_from_string(graph).graph.node)


@pytest.mark.parametrize("name", CASES)
def test_it_says_the_same(name: str, tmp_path: Path) -> None:
    before = exported(name, tmp_path)
    after = tidy(before)
    assert not CASES[name][1] & set(operators(after))
    rng = np.random.default_rng(0)
    for matches in (1, MATCHES):
        x = rng.normal(size=(matches, 2, 5)).astype(np.float32)
        feed = {"x": x, "index": rng.integers(0, 20, (matches, 2))}
        one, other = (_run(graph, feed) for graph in (before, after))
        if name == "a product":
            np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)
        else:
            assert one.tobytes() == other.tobytes()


def _run(graph: bytes, feed: dict[str, np.ndarray]) -> np.ndarray:
    session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
    return session.run(None, {i.name: feed[i.name] for i in session.get_inputs()})[0]
