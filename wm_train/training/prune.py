"""A smaller exact core out of a trained one: what its layers say least about real frames is left out.

The stream that the blocks read and write is only ever read through a LayerNorm, so it can be turned: it is turned into
the directions that vary most over real frames, and the last of them are dropped; of a block's inner units the least
important are dropped, their means kept. At the same width nothing changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wm_runtime.errors import UserError
from wm_runtime.replays.dataset import Dataset
from wm_train.config import ExactConfig, Experiment
from wm_train.dynamics.exact import ExactCore
from wm_train.dynamics.memory import recall
from wm_train.dynamics.step import WorldModel
from wm_train.models.own_frame import Block, OwnFrameNetwork, RowEmbedding
from wm_train.training.checkpoint import build_model
from wm_train.training.whole_games import WholeGames

FRAMES, GAMES = 6000, 64
"""Frames, and games at most, over which the layers are looked at."""


@torch.no_grad()
def prune(model: WorldModel, experiment: Experiment, dataset: Dataset, games: list[int]) -> WorldModel:
    """A trained exact core and the experiment of a smaller one (same number of blocks) → that one, its weights made
    from frames of `games`. Raises UserError for another kind of core, and for one that is not smaller."""
    core, config = model.core, experiment.model
    if not isinstance(core, ExactCore) or not isinstance(config, ExactConfig):
        raise UserError("only an exact core can be pruned, to an exact core")
    big = core.network
    if big.remembers is not None or config.trunk.kind != "residual":
        raise UserError("only an exact core with the trunk `residual` can be pruned, to one with the same")
    width, late = big.from_numbers.out_features, _blocks(big)[-1].into.out_features
    if config.width > width or config.late > late or config.blocks != len(big.blocks):
        raise UserError(
            f"cannot prune width {width}, late {late}, {len(big.blocks)} blocks to {config.width}, {config.late}, "
            f"{config.blocks}: the number of blocks stays, the rest may not grow"
        )
    few = [games[int(i)] for i in np.unique(np.linspace(0, len(games) - 1, GAMES).astype(int))]
    corpus = WholeGames(dataset, few)
    frames = core.true_frames(corpus.read(corpus.draw(FRAMES, 2, np.random.default_rng(0)), 2))
    with _watched(big) as (stream, inner):
        core.run(frames.before, recall(frames.carry, frames.before), frames.match, frames.controllers)
    turn = _turn(stream, config.width)

    small_model = build_model(experiment)
    assert isinstance(small_model.core, ExactCore)
    small_model.core.tables.load_state_dict(core.tables.state_dict())
    small = small_model.core.network
    for embeddings, to_embeddings in ((big.embed, small.embed), (big, small)):
        for (_, embed), (_, to_embed) in zip(_rows(embeddings), _rows(to_embeddings), strict=True):
            to_embed.weight = nn.Parameter(embed.weight.clone())
    small.from_numbers.weight.copy_(turn @ big.from_numbers.weight)
    small.from_numbers.bias.copy_(turn @ big.from_numbers.bias)
    small.from_classes.weight.copy_(turn @ big.from_classes.weight)
    _plain(small.norm)
    _read(big.action, big.norm, small.action, turn)
    _read(big.intent, None, small.intent, turn)
    for of_head, to_head in zip(_heads(big), _heads(small), strict=True):
        _read(of_head, None, to_head, turn)
    for of, to in zip(_blocks(big), _blocks(small), strict=True):
        said = inner[of]
        importance = said.var(dim=0).sqrt() * of.out.weight.norm(dim=0)
        kept = importance.topk(to.into.out_features).indices.sort().values
        dropped = torch.ones(len(importance), dtype=torch.bool).index_fill_(0, kept, False)
        _plain(to.norm)
        _read(of.into, of.norm, to.into, turn, kept)
        if to.given is not None and of.given is not None:
            to.given.weight.copy_(of.given.weight[kept])
        to.out.weight.copy_(turn @ of.out.weight[:, kept])
        to.out.bias.copy_(turn @ (of.out.bias + of.out.weight[:, dropped] @ said[:, dropped].mean(dim=0)))
    return small_model.eval()


def _blocks(network: OwnFrameNetwork) -> list[Block]:
    blocks = [*network.blocks, network.decided, *(network.later[stage] for stage in network.STAGES)]
    return [block for block in blocks if isinstance(block, Block)]


def _heads(network: OwnFrameNetwork) -> list[nn.Linear]:
    return [head for head in network.heads.children() if isinstance(head, nn.Linear)]


def _rows(parent: nn.Module) -> list[tuple[str, RowEmbedding]]:
    return [(name, child) for name, child in parent.named_children() if isinstance(child, RowEmbedding)]


@contextmanager
def _watched(network: OwnFrameNetwork) -> Iterator[tuple[list[Tensor], dict[Block, Tensor]]]:
    """While it lasts: what goes into and out of every block, (frames, width) each, and what its inner units say."""
    stream: list[Tensor] = []
    inner: dict[Block, Tensor] = {}

    def see(block: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        stream.extend([inputs[0].flatten(0, -2), output.flatten(0, -2)])

    hooks = [block.register_forward_hook(see) for block in _blocks(network)]

    def hear(block: Block) -> None:
        hooks.append(block.out.register_forward_pre_hook(lambda _, x: inner.update({block: x[0].flatten(0, -2)})))

    for block in _blocks(network):
        hear(block)
    try:
        yield stream, inner
    finally:
        for hook in hooks:
            hook.remove()


def _turn(stream: list[Tensor], width: int) -> Tensor:
    """(width, old width): the directions in which the stream varies most, none of which changes the mean of what comes
    out: a LayerNorm then finds the same deviation."""
    old = stream[0].shape[1]
    covariance = torch.zeros(old, old, dtype=torch.float64)
    for h in stream:
        seen = F.layer_norm(h.double(), (old,))
        covariance += seen.T @ seen / len(seen)
    _, directions = torch.linalg.eigh(covariance)
    level = torch.linalg.qr(torch.cat([torch.ones(width, 1), torch.eye(width)[:, 1:]], dim=1).double())[0][:, 1:]
    return (level @ directions.flip(1)[:, : width - 1].T).float()


def _plain(norm: nn.LayerNorm) -> None:
    norm.weight.fill_(1.0)
    norm.bias.zero_()


def _read(of: nn.Linear, norm: nn.LayerNorm | None, to: nn.Linear, turn: Tensor, rows: Tensor | None = None) -> None:
    """A layer that reads the stream through a norm → the same of the turned stream; `rows` of its outputs."""
    weight: Tensor = of.weight
    bias: Tensor = of.bias
    if norm is not None:
        weight, bias = weight * norm.weight, bias + weight @ norm.bias
    weight = weight @ turn.T * (turn.shape[1] / turn.shape[0]) ** 0.5
    to.weight.copy_(weight if rows is None else weight[rows])
    to.bias.copy_(bias if rows is None else bias[rows])
