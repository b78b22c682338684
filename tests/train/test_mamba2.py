"""Mamba-2: the chunked, the sequential and the one-frame form say the same, and what others' Mamba-2 says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from wm_train.models.mamba2 import Mamba2, Mamba2Block, Mamba2Sizes, Memory, chunked_scan, sequential_scan

TOLERANCE = 1e-5
SIZES = Mamba2Sizes(d_model=32, d_state=8, headdim=16)


def lively(sizes: Mamba2Sizes, seed: int = 0) -> Mamba2:
    """A network whose time steps are as far apart as training can make them: some frames forget all, some nothing."""
    torch.manual_seed(seed)
    model = Mamba2(sizes)
    with torch.no_grad():
        for block in model.blocks:
            block.dt_bias.uniform_(-6, 2)
            block.in_proj.weight *= 2
    return model.eval()


def frames(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def stepped(model: Mamba2, u: Tensor, memory: list[Memory] | None = None) -> tuple[Tensor, list[Memory]]:
    memory = memory or model.nothing(u)
    outputs = []
    for t in range(u.shape[1]):
        y, memory = model.step(u[:, t], memory)
        outputs.append(y)
    return torch.stack(outputs, dim=1), memory


def assert_same(one: Tensor | list[Memory], other: Tensor | list[Memory]) -> None:
    if isinstance(one, Tensor):
        torch.testing.assert_close(one, other, rtol=0, atol=TOLERANCE)
    else:
        for mine, theirs in zip(one, other, strict=True):
            for a, b in zip(mine, theirs, strict=True):
                torch.testing.assert_close(a, b, rtol=TOLERANCE, atol=TOLERANCE)


@torch.no_grad()
def test_the_three_forms_agree_over_2000_frames() -> None:
    model, u = lively(Mamba2Sizes()), frames(1, 2000, 256)
    chunked, after_chunked = model(u)
    sequential, after_sequential = model(u, chunk_size=0)
    one_by_one, after_steps = stepped(model, u)
    assert sequential.abs().mean() > 0.1
    assert_same(chunked, sequential)
    assert_same(one_by_one, sequential)
    assert_same(after_chunked, after_sequential)
    assert_same(after_steps, after_sequential)


@settings(max_examples=40, deadline=None)
@given(length=st.integers(1, 70), chunk_size=st.integers(1, 80), seed=st.integers(0, 99))
def test_any_length_and_any_chunk_size_give_the_same_from_any_state(length: int, chunk_size: int, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    x, h = torch.randn(2, length, 3, 4, generator=rng), torch.randn(2, 3, 4, 5, generator=rng)
    b, c = torch.randn(2, 2, length, 5, generator=rng)
    dt, a = torch.rand(2, length, 3, generator=rng) ** 4 * 3, -torch.rand(3, generator=rng) * 16
    expected, expected_h = sequential_scan(x, dt, a, b, c, h)
    found, found_h = chunked_scan(x, dt, a, b, c, h, chunk_size)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=3e-5)
    torch.testing.assert_close(found_h, expected_h, rtol=1e-5, atol=3e-5)


@torch.no_grad()
@pytest.mark.parametrize("cut", [1, 2, 3, 17, 63])
def test_a_sequence_can_be_cut_anywhere_and_gone_on_with_in_any_form(cut: int) -> None:
    model, u = lively(SIZES), frames(2, 64, 32)
    whole, after = model(u)
    first, memory = model(u[:, :cut])
    rest = u[:, cut:]
    for second, end in (model(rest, memory), model(rest, memory, chunk_size=0), stepped(model, rest, memory)):
        assert_same(torch.cat([first, second], dim=1), whole)
        assert_same(end, after)


@torch.no_grad()
def test_no_frame_sees_what_comes_after_it() -> None:
    model, u = lively(SIZES), frames(1, 40, 32)
    changed = u.clone()
    changed[:, 25:] += 1
    before, after = model(u)[0], model(changed)[0]
    assert torch.equal(before[:, :25], after[:, :25])
    assert not torch.isclose(before[:, 25:], after[:, 25:]).all(dim=-1).any()


def test_gradients_of_the_chunked_form_are_those_of_the_sequential_one() -> None:
    model = lively(SIZES)
    gradients = []
    for chunk_size in (0, 7):
        model.zero_grad()
        u = frames(2, 30, 32).requires_grad_()
        (model(u, chunk_size=chunk_size)[0] * frames(2, 30, 32, seed=2)).sum().backward()
        gradients.append([u.grad, *(p.grad for p in model.parameters())])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3 * float(other.abs().max()))


# --- another implementation -------------------------------------------------------------------------------------------


def mixer_of(block: Mamba2Block, chunk_size: int) -> torch.nn.Module:
    """transformers' Mamba-2 layer with this layer's weights."""
    from transformers import Mamba2Config
    from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

    s = block.sizes
    config = Mamba2Config(
        hidden_size=s.d_model, state_size=s.d_state, num_heads=s.heads, head_dim=s.headdim, expand=s.expand,
        conv_kernel=s.d_conv, n_groups=1, chunk_size=chunk_size, layer_norm_epsilon=1e-5, use_bias=False,
        use_conv_bias=True, num_hidden_layers=1, vocab_size=8,
    )  # fmt: skip
    mixer = Mamba2Mixer(config, layer_idx=0)
    weights = {
        "in_proj.weight": block.in_proj.weight, "out_proj.weight": block.out_proj.weight, "A_log": block.A_log,
        "conv1d.weight": block.conv_weight[:, None], "conv1d.bias": block.conv_bias, "D": block.D,
        "dt_bias": block.dt_bias, "norm.weight": block.norm.weight,
    }  # fmt: skip
    mixer.load_state_dict(weights)
    return mixer.eval()


@torch.no_grad()
@pytest.mark.parametrize(("length", "chunk_size"), [(10, 10), (60, 32), (257, 64)])
def test_a_layer_says_what_that_of_transformers_says(length: int, chunk_size: int) -> None:
    model, u = lively(Mamba2Sizes()), frames(2, length, 256)
    for block in model.blocks:
        block.norm.weight.uniform_(0.5, 1.5)
        block.D.uniform_(-1, 2)
        theirs = mixer_of(block, chunk_size)(u)
        theirs = theirs[0] if isinstance(theirs, tuple) else theirs
        assert theirs.abs().mean() > 0.05
        for size in (0, 7, chunk_size):
            assert_same(block(u, model.nothing(u)[0], size)[0], theirs)


# --- sizes -----------------------------------------------------------------------------------------------------------


def test_the_published_sizes_are_the_default() -> None:
    sizes = Mamba2Sizes()
    assert (sizes.d_model, sizes.d_state, sizes.layers) == (256, 64, 2)
    assert (sizes.headdim, sizes.expand, sizes.d_conv) == (64, 2, 4)
    assert (sizes.d_inner, sizes.heads, sizes.conv_dim) == (512, 8, 640)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"headdim": 48}, "d_model 256 times expand 2 is 512, which heads of headdim 48 do not divide"),
        ({"d_model": 250}, "heads of headdim 64 do not divide"),
        ({"chunk_size": 0}, "chunk_size is 0: at least 1"),
        ({"layers": 0}, "layers is 0"),
    ],
)
def test_sizes_that_cannot_be_built_are_refused(given: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Mamba2Sizes(**given)


def test_a_fresh_layer_has_time_steps_of_all_lengths() -> None:
    torch.manual_seed(0)
    blocks = [Mamba2Block(Mamba2Sizes()) for _ in range(20)]
    steps = torch.cat([torch.nn.functional.softplus(b.dt_bias) for b in blocks]).detach().numpy()
    assert 0.001 <= steps.min() < 0.003
    assert 0.03 < steps.max() <= 0.1001
    assert np.allclose(torch.exp(blocks[0].A_log).detach().numpy()[[0, -1]], [1, 16])
