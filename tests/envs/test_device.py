"""Matches on a device are the matches of the other forms: same observations, rewards and ends, as tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from test_vector import doomed

from wm_envs.device import MeleeDeviceEnv
from wm_envs.matches import NOT_FINITE, TIME
from wm_envs.vector import MeleeVectorEnv
from wm_runtime.artifact import Artifact
from wm_runtime.errors import UserError
from wm_runtime.starts import spawn, stack

N = 4


def pair(artifact: Artifact, **arguments: Any) -> tuple[MeleeDeviceEnv, MeleeVectorEnv]:
    """The same matches as tensors and as arrays, begun."""
    arguments = {"model": artifact, "domain": None, **arguments}
    device, arrays = MeleeDeviceEnv(N, "cpu", pool=8, **arguments), MeleeVectorEnv(N, engine="torch", **arguments)
    seen, _ = device.reset(seed=0)
    assert np.array_equal(seen.numpy(), arrays.reset(seed=0)[0])
    return device, arrays


@pytest.mark.parametrize("limit", [None, 7])
def test_play_is_that_of_the_other_forms_bit_for_bit(artifact: Artifact, limit: int | None) -> None:
    device, arrays = pair(artifact, time_limit=limit, starts=spawn("BATTLEFIELD", ("FOX", "MARTH")))
    arrays.action_space.seed(1)
    ends = 0
    for _ in range(40):
        actions = arrays.action_space.sample()
        found, expected = device.step(torch.from_numpy(actions)), arrays.step(actions)
        for mine, theirs in zip(found[:4], expected[:4], strict=True):
            assert mine.numpy().dtype == theirs.dtype
            assert np.array_equal(mine.numpy(), theirs)
        for name in ("frame", "stocks", "percent"):
            assert np.array_equal(found[4][name].numpy(), expected[4][name])
        assert np.array_equal(found[4]["action_entropy"].numpy(), expected[4]["model"]["action_entropy"])
        ends += int(found[3].sum())
        if found[3].any():
            assert device.reason(found[4], 0) == TIME == expected[4]["truncated_by"][0]
    assert ends == (0 if limit is None else 5 * N)


def test_a_match_that_loses_its_last_stock_ends_and_begins_anew(artifact: Artifact) -> None:
    device, arrays = pair(artifact, starts=doomed(1, (1,)), reward_weights={"stocks_lost": -3.0})
    nothing = np.zeros((N, 7), np.int64)
    ended = 0
    for _ in range(6):
        found, expected = device.step(torch.from_numpy(nothing)), arrays.step(nothing)
        for mine, theirs in zip(found[:4], expected[:4], strict=True):
            assert np.array_equal(mine.numpy(), theirs)
        ended += int(found[2].sum())
        if found[2].any():
            assert found[1].tolist() == [-3.0] * N
            assert found[4]["reward_terms"]["stocks_lost"].tolist() == [1.0] * N
    assert ended == 3 * N


def test_what_is_not_finite_is_cut_off_and_the_batch_goes_on(broken_artifact: Artifact) -> None:
    start = stack([spawn("BATTLEFIELD", ("FOX", "FALCO"))] * 2)
    start.states["percent"][1, 0] = 950
    device = MeleeDeviceEnv(64, "cpu", pool=32, model=broken_artifact, starts=start, domain=None)
    device.reset(seed=0)
    high = device.matches.state["floats"][:, 0].amax(dim=1) > 900
    assert 0 < high.sum() < 64
    seen, rewards, terminated, truncated, info = device.step(torch.zeros(64, 7, dtype=torch.int64))
    assert torch.equal(truncated, high)
    assert torch.equal(info["not_finite"], high)
    assert not terminated.any()
    assert seen.isfinite().all()
    assert rewards.isfinite().all()
    assert device.reason(info, int(high.nonzero()[0])) == NOT_FINITE


def test_an_opponent_plays_by_what_it_sees(artifact: Artifact) -> None:
    def jumps(seen: torch.Tensor) -> torch.Tensor:
        assert seen.shape == (N, device.single_observation_space.shape[0])
        facing_it.append(seen)
        actions = torch.zeros(N, 7, dtype=torch.int64)
        actions[:, 5] = 1
        return actions

    facing_it: list[torch.Tensor] = []
    device = MeleeDeviceEnv(N, "cpu", jumps, pool=1, model=artifact, domain=None)
    device.reset(seed=0)
    assert torch.equal(device.observe(1), device.observe(1))
    device.step(torch.zeros(N, 7, dtype=torch.int64))
    assert len(facing_it) == 1
    assert device.controllers[:, 1].sum(dim=1).tolist() == [1.0] * N
    assert device.controllers[:, 0].abs().sum() == 0


def test_starts_are_drawn_from_the_pool_and_the_seed_says_which(artifact: Artifact) -> None:
    device = MeleeDeviceEnv(64, "cpu", pool=128, model=artifact, domain=None, stage=["BATTLEFIELD", "DREAMLAND"])
    first, _ = device.reset(seed=5)
    stages = device.matches.state["match"][:, 1]
    assert len(stages.unique()) == 2
    assert not torch.equal(device.reset()[0], first)
    assert torch.equal(device.reset(seed=5)[0], first)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"frame_skip": 2}, "frame_skip"), ({"observation": "dict"}, "observation"), ({"pool": 0}, "pool 0"),
        ({"num_envs": 0}, "num_envs 0"), ({"device": "cuda:77"}, "cuda:77"), ({"colour": 1}, "colour"),
    ],
)  # fmt: skip
def test_what_this_form_has_not_is_refused(artifact: Artifact, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        MeleeDeviceEnv(**{"num_envs": 2, "device": "cpu", "model": artifact, **arguments})
