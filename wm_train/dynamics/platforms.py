"""Where Fountain of Dreams' side platforms are: what a match has shown of them.

No field says it, but who stands on one is as high as it is. They rest where they are for hundreds of frames, then sink
or rise at one pace to another height, which the game draws by lot. Paces and heights are those of the platform events
of four replays of `train` (Slippi 3.18; height in units of a stage = 0.75 · that of the event + 1.125). Where two looks
at a platform that rests lie up to 500 frames apart, it is at the same height in four of five (139 games of `train`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from wm_runtime.facts import FAMILIES, STAGES
from wm_runtime.schema import FIELD, FIRST_FRAME
from wm_train.dynamics.constants import constant, there
from wm_train.dynamics.named import Named

PLATFORMS = ("height", "speed", "since")
"""What is kept of each of the two, the left one first: height and speed along y as far as is known, units (a frame),
and frames since somebody stood on it, UNKNOWN where nobody is known to have."""
UNKNOWN = 1000.0
SINKS, RISES = -0.075, 0.1125
"""Paces, units a frame."""
ALIKE = 2e-3
"""Two heights or paces that differ by less are the same, units."""
LOWEST, HIGHEST = 0.375, 27.375
"""Heights at the ends of their ways: under water, and on top, units."""
AT_FIRST = 480
"""Up to this frame of a match they are where they began. On 139 games of train none was elsewhere before frame 504."""
REST = 0.0001
"""Height of a fighter at rest above its surface, units."""
ASTRAY = ("grabbed", "thrown", "captured", "entry", "special", "ledge", "dead", "absent", "respawn")
"""Families of actions in which a fighter's height does not say how high its surface is."""
(FOUNTAIN,) = [stage for stage in STAGES if stage.name == "FOUNTAIN_OF_DREAMS"]
SIDES = tuple(sorted((s for s in FOUNTAIN.surfaces if s.moves), key=lambda s: s.id))
"""The left and the right one, ids 0 and 1."""

_STANDS = torch.ones(FIELD["action"].classes or 0, dtype=torch.bool)
_STANDS[[action for family in ASTRAY for action in FAMILIES[family]]] = False


def unknown(state: Named) -> Tensor:
    """Platforms (N, 2, PLATFORMS) of which nothing is known."""
    nothing = torch.zeros_like(state["x"])
    return torch.stack([nothing, nothing, nothing + UNKNOWN], dim=-1)


def watched(platforms: Tensor, state: Named) -> Tensor:
    """Platforms (N, 2, PLATFORMS) of the frame before and the present state → the platforms at present. Surfaces 0 and
    1 of other stages are watched as well; nobody asks for those."""
    height, speed, since = platforms.unbind(dim=-1)  # (N, platforms)
    stands = (state["airborne"] == 0) & there(_STANDS, height.device)[state["action"].long()]
    number = torch.arange(len(SIDES), device=height.device)[:, None]
    on = stands[:, None] & (state["ground"][:, None] == number)  # (N, platforms, players)
    seen = on.any(dim=-1)
    y = torch.where(on, state["y"][:, None], torch.full_like(height, -1e9)[..., None]).amax(dim=-1) - REST
    expected = _ahead(height, speed)
    change = y - height
    sinks, rises = (change - SINKS).abs() < ALIKE, (change - RISES).abs() < ALIKE
    shown = sinks.float() * SINKS + rises.float() * RISES
    as_expected = (y - expected).abs() < ALIKE
    pace = torch.where(since == 0, shown, torch.where(as_expected, speed, torch.zeros_like(speed)))
    return torch.stack(
        [
            torch.where(seen, y, expected), torch.where(seen, pace, speed),
            torch.where(seen, torch.zeros_like(since), (since + 1).clamp(max=UNKNOWN)),
        ],
        dim=-1,
    )  # fmt: skip


def next_heights(platforms: Tensor, stage: Tensor, frame: Tensor) -> tuple[Tensor, Tensor]:
    """Platforms (N, 2, PLATFORMS) at present, stage ids and the number (N,) of the next frame → heights in that frame
    (N, 2), and whether they are known. On other stages than Fountain they are not."""
    height, speed, since = platforms.unbind(dim=-1)
    never = since >= UNKNOWN
    still = (frame < AT_FIRST)[:, None]
    first = constant(tuple(side.y[0] for side in SIDES), height.device)
    found = torch.where(never, first.expand_as(height), _ahead(height, speed))
    return found, (~never | still) & (stage == FOUNTAIN.id)[:, None]


def forgotten(platforms: Tensor, within: int = -FIRST_FRAME) -> Tensor:
    """Platforms (…, 2, PLATFORMS) as who has only seen the last `within` frames knows them."""
    since = platforms[..., 2]
    since = torch.where(since > within, torch.full_like(since, UNKNOWN), since)
    return torch.stack([platforms[..., 0], platforms[..., 1], since], dim=-1)


def _ahead(height: Tensor, speed: Tensor) -> Tensor:
    """Heights a frame later, if the platforms go on as they do."""
    return (height + speed).clamp(LOWEST, HIGHEST)
