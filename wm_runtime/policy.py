"""A learned player: an exported policy that holds one controller in each of N matches, one call a frame for all.

Its graph takes, for every match (first axis),

    state.floats (K, 2, F), state.ints (K, 2, I)   states at the policy's `state_offsets`, the acting player first
    state.match (M,)                                of the present state
    past (C, heads) int32                           classes of the own controllers at its `control_offsets`
    known () int32                                  how many of the latest own controllers are known
    delay () int32, temperature () float32          settings
    noise (heads) float32                           uniform in 0 … 1: all the chance there is

and gives `controllers` (13), their `classes` (heads) int32, and `logits`. The file is an artifact whose metadata say
`kind: policy`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort

from wm_runtime.artifact import POLICY, Artifact, open_artifact
from wm_runtime.engines.onnx import OnnxEngine
from wm_runtime.errors import UserError
from wm_runtime.schema import CONTROL_NAMES, FLOAT_FIELDS, INT_FIELDS, MATCH_FIELDS, PLAYERS, State

DEFAULT_POLICY = "policy-small"
GRAPH_INPUTS = ("state.floats", "state.ints", "state.match", "past", "known", "delay", "temperature", "noise")
GRAPH_OUTPUTS = ("controllers", "classes", "logits")


def open_policy(policy: str | Path = DEFAULT_POLICY) -> Artifact:
    """The policy at a path, or the shipped one of that name. Raises UserError as open_artifact does."""
    return open_artifact(policy, POLICY)


class PolicyPlayer:
    """One side of N matches, played by a policy.

    | call | what it does |
    |---|---|
    | `reset(mask, rng)` | forgets the past of matches `mask` (N,) bool (default: all); `rng` replaces the seed |
    | `act(state)` | the controllers (N, 13) float32 that lead to the next frame, valid ones on the game's grid |

    `policy`: name, file or opened artifact · `player`: which side it plays, 0 or 1 · `temperature`: 1 plays like those
    it learned from, less is steadier, 0 always takes the likeliest · `delay`: frames of reaction time, in which the
    match goes on unseen · `seed`: the same seed and states give the same play. Call `act` once a frame; the array that
    it returns is reused by the next call. Raises UserError for settings out of range.
    """

    def __init__(
        self,
        policy: str | Path | Artifact = DEFAULT_POLICY,
        num_matches: int = 1,
        player: int = 1,
        seed: int = 0,
        temperature: float = 1.0,
        delay: int = 0,
        device: str = "cpu",
        threads: int = 1,
    ):
        self.artifact = policy if isinstance(policy, Artifact) else open_policy(policy)
        about = self.artifact.metadata
        if not 0 <= delay <= about["longest_delay"]:
            raise UserError(f"delay {delay}: {self.artifact.name} can react 0 to {about['longest_delay']} frames late")
        if not 0 <= temperature <= 10:
            raise UserError(f"temperature {temperature}: give a number from 0 to 10")
        if player not in range(PLAYERS):
            raise UserError(f"player {player}: give 0 or 1")
        self.num_matches, self.player = num_matches, player
        self._rng = np.random.default_rng(seed)
        self._state_ages = delay + np.array(about["state_offsets"])
        self._control_ages = 1 + np.array(about["control_offsets"])
        n, heads = num_matches, about["heads"]
        floats, ints = (n, PLAYERS, len(FLOAT_FIELDS)), (n, PLAYERS, len(INT_FIELDS))
        self._floats = np.zeros((self._state_ages.max() + 1, *floats), np.float32)
        self._ints = np.zeros((self._state_ages.max() + 1, *ints), np.int32)
        self._classes = np.zeros((self._control_ages.max(), n, len(heads)), np.int32)
        """The latest states and own choices, written round and round: row `frame` modulo their number."""
        self._frame = 0
        self._fresh = np.ones(n, bool)
        self._noise = np.zeros((n, len(heads)), np.float32)
        self._inputs = {
            "state.floats": np.zeros((n, len(self._state_ages), *floats[1:]), np.float32),
            "state.ints": np.zeros((n, len(self._state_ages), *ints[1:]), np.int32),
            "state.match": np.zeros((n, len(MATCH_FIELDS)), np.int32),
            "past": np.zeros((n, len(self._control_ages), len(heads)), np.int32),
            "known": np.zeros(n, np.int32),
            "delay": np.full(n, delay, np.int32),
            "temperature": np.full(n, temperature, np.float32),
            "noise": self._noise,
        }
        self._outputs = {
            "controllers": np.zeros((n, len(CONTROL_NAMES)), np.float32),
            "classes": np.zeros((n, len(heads)), np.int32),
            "logits": np.zeros((n, sum(head["classes"] for head in heads)), np.float32),
        }
        self._session = OnnxEngine(self.artifact, device, threads).session
        self._binding = self._bind()

    @property
    def logits(self) -> np.ndarray:
        """(N, classes of all heads) of the last `act`, in the player's own frame: mirrored where it faces left."""
        return self._outputs["logits"]

    def reset(self, mask: np.ndarray | None = None, rng: np.random.Generator | None = None) -> None:
        self._fresh[slice(None) if mask is None else mask] = True
        self._rng = rng or self._rng

    def act(self, state: State) -> np.ndarray:
        self._see(state)
        inputs, outputs = self._inputs, self._outputs
        for k, age in enumerate(self._state_ages.tolist()):
            row = (self._frame - age) % len(self._floats)
            inputs["state.floats"][:, k], inputs["state.ints"][:, k] = self._floats[row], self._ints[row]
        for k, age in enumerate(self._control_ages.tolist()):
            inputs["past"][:, k] = self._classes[(self._frame - age) % len(self._classes)]
        inputs["state.match"][:] = state.match
        self._rng.random(out=self._noise, dtype=np.float32)
        self._session.run_with_iobinding(self._binding)
        self._classes[self._frame % len(self._classes)] = outputs["classes"]
        np.minimum(inputs["known"] + 1, len(self._classes), out=inputs["known"])
        self._frame += 1
        return outputs["controllers"]

    def _see(self, state: State) -> None:
        """The state becomes the newest one remembered; in a match that has just begun, all that is remembered."""
        order = slice(None) if self.player == 0 else slice(None, None, -1)
        for memory, values in ((self._floats, state.floats), (self._ints, state.ints)):
            memory[self._frame % len(memory)] = values[:, order]
            if self._fresh.any():
                memory[:, self._fresh] = values[self._fresh][:, order]
        self._inputs["known"][self._fresh] = 0
        self._fresh[:] = False

    def _bind(self) -> ort.IOBinding:
        """All arrays are allocated once, so that they can be bound once."""
        binding = self._session.io_binding()
        for name, array in self._inputs.items():
            binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        for name, array in self._outputs.items():
            binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        return binding
