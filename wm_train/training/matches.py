"""A model in training as a batch of matches: what the evaluation steps, without an export."""

from __future__ import annotations

import numpy as np
import torch

from wm_runtime.schema import State
from wm_runtime.starts import Start
from wm_train.dynamics.step import WorldModel


class Matches:
    """N matches of a WorldModel (see evaluate.rollout.Steps). `state` may be written to between steps."""

    def __init__(self, model: WorldModel, device: torch.device):
        self.model, self.device = model, device
        self.state = State.zeros(0)

    def reset(self, start: Start) -> State:
        """Begins as many matches at the last frame of a start, of whose past nothing is remembered."""
        self.state = start.at(-1)
        layout = self.model.carry_layout.items()
        self._carry = {
            name: torch.zeros((len(start), *shape), dtype=getattr(torch, kind), device=self.device)
            for name, (shape, kind) in layout
        }
        return self.state

    @torch.no_grad()
    def step(self, controllers: np.ndarray) -> State:
        arrays = (self.state.floats, self.state.ints, self.state.match, controllers)
        inputs = [torch.from_numpy(array).to(self.device) for array in arrays]
        after, self._carry, _ = self.model(*inputs, self._carry)
        self.state = State(*(values.cpu().numpy() for values in after))
        return self.state
