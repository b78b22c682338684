"""Policy → ONNX: one graph that sees, chooses and says which controller; with its metadata and checksum.

    (states, own past classes, settings, noise) -> (controllers, classes, logits)
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wm_runtime.artifact import FORMAT_VERSION, POLICY, write_artifact
from wm_runtime.policy import GRAPH_INPUTS, GRAPH_OUTPUTS
from wm_runtime.schema import FLOAT_FIELDS, INT_FIELDS, M_, MATCH_FIELDS, PLAYERS, field_table_hash
from wm_train.export import OPSET
from wm_train.policy.codebook import HEADS
from wm_train.policy.config import LONGEST_DELAY
from wm_train.policy.network import PolicyNetwork, Seen


class PolicyStep(nn.Module):
    """What the graph computes; arguments and results as in wm_runtime.policy."""

    def __init__(self, network: PolicyNetwork):
        super().__init__()
        self.network = network

    def forward(
        self,
        floats: Tensor,
        ints: Tensor,
        match: Tensor,
        past: Tensor,
        known: Tensor,
        delay: Tensor,
        temperature: Tensor,
        noise: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        known = known.clamp(max=self.network.config.recall)
        seen = Seen(floats, ints, match[:, M_["stage"]].long(), past, known, delay)
        own, logits = self.network.draw(*self.network.hidden(seen), self.network.held(seen), noise, temperature)
        classes = self.network.mirrored(own, seen.side)
        return self.network.controllers(classes), classes.int(), torch.cat(logits, dim=-1)


def export_policy(network: PolicyNetwork, manifest: dict[str, Any], path: str | Path) -> None:
    """Traces the policy and writes it to `path`. Raises UserError where it cannot be written."""
    step, inputs = PolicyStep(network.eval()), example_inputs(network, 3)
    batch = torch.export.Dim("matches", min=1)
    for noisy in ("onnxscript", "torch.onnx"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        file = Path(folder) / "policy.onnx"
        torch.onnx.export(
            step, inputs, file, input_names=list(GRAPH_INPUTS), output_names=list(GRAPH_OUTPUTS), opset_version=OPSET,
            dynamo=True, dynamic_shapes=tuple({0: batch} for _ in inputs), external_data=False, verbose=False,
        )  # fmt: skip
        graph = file.read_bytes()
    write_artifact(path, graph, metadata(network, manifest))


def example_inputs(network: PolicyNetwork, matches: int) -> tuple[Tensor, ...]:
    """Zeros of the shapes that the graph takes."""
    states, controls = len(network.config.state_offsets), len(network.config.control_offsets)
    return (
        torch.zeros(matches, states, PLAYERS, len(FLOAT_FIELDS)),
        torch.zeros(matches, states, PLAYERS, len(INT_FIELDS)).int(),
        torch.zeros(matches, len(MATCH_FIELDS)).int(),
        torch.zeros(matches, controls, len(HEADS)).int(),
        torch.zeros(matches).int(),
        torch.zeros(matches).int(),
        torch.ones(matches),
        torch.full((matches, len(HEADS)), 0.5),
    )


def metadata(network: PolicyNetwork, manifest: dict[str, Any]) -> dict[str, Any]:
    """What the runtime and its users need to know of a policy."""
    return {
        "format_version": FORMAT_VERSION,
        "field_table": field_table_hash(),
        "kind": POLICY,
        "name": manifest["experiment"]["name"],
        "carry": [],
        "aux": [],
        "state_offsets": list(network.config.state_offsets),
        "control_offsets": list(network.config.control_offsets),
        "longest_delay": LONGEST_DELAY,
        "heads": [{"name": head, "classes": size} for head, size in network.codebook.sizes.items()],
        "characters": manifest["experiment"]["characters"],
        "parameters": sum(p.numel() for p in network.parameters()),
        "manifest": manifest,
    }
