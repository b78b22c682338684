"""Frames on which a laser is near a fighter that it could strike: what bodies are estimated from, beside hitboxes.

A laser is thin and its place is known to hundredths of a unit, so that who it strikes tells a body's outline finer than
a hitbox does.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from wm_runtime.facts import character
from wm_runtime.replays.dataset import Dataset
from wm_train.dynamics.lasers import CHEST, FLYING, GONE, SHOTS, beside, flies_on, kinds, leaves_now, next_shots
from wm_train.dynamics.named import Named
from wm_train.dynamics.select import LAST_RULED_ACTION
from wm_train.dynamics.strikes import ACTIONS, shielding

WHO = ("FOX", "FALCO", "SHEIK")
"""Fighters whose shots are followed."""
NEAR = 30.0
"""Lasers further than this from the middle of a fighter are left out, units."""
FASTEST = 3.0
"""Ages grow by no more than this a frame."""
TOGETHER, CHUNK = 128, 512
"""Games that are followed side by side, and frames that are looked at together."""
NAMES = (
    "x", "y", "facing", "action", "state_age", "character", "percent", "hitlag", "hurtbox", "airborne",
    "self_x_air", "self_x_ground", "self_y", "knockback_x", "knockback_y",
)  # fmt: skip


def near_lasers(dataset: Dataset, games: list[int]) -> dict[str, np.ndarray]:
    """Games of a dataset → frames on which a laser is near a fighter that it could strike: the nearest `shot` of the
    next frame (P, SHOTS) and its `kind`; `x`, `y` and `facing` of the victim, its move `victim` and `victim_age`, and
    `hit`, (P,) each."""
    shooters = [character(name).internal_id for name in WHO]
    games = [game for game in games if np.isin(dataset.columns(game, stop=1)["character"], shooters).any()]
    games.sort(key=lambda game: int(dataset.frames[game]))
    parts = [_nothing()]
    for at in range(0, len(games), TOGETHER):
        parts += _near(dataset, games[at : at + TOGETHER])
    return {name: torch.cat([part[name] for part in parts]).numpy() for name in parts[0]}


def _nothing() -> dict[str, Tensor]:
    """No frames."""
    numbers, whole = torch.empty(0), torch.empty(0, dtype=torch.int64)
    floats = dict.fromkeys(("x", "y", "facing", "victim_age"), numbers)
    return {"shot": torch.empty(0, len(SHOTS)), **floats, "kind": whole, "victim": whole, "hit": whole.bool()}


@torch.no_grad()
def _near(dataset: Dataset, games: list[int]) -> list[dict[str, Tensor]]:
    """Those of games of about one length, side by side; shorter ones stand still at their end."""
    frames = np.asarray(dataset.frames)[games]
    row = np.minimum(np.arange(int(frames.max()))[:, None], frames - 1)  # (T, games)
    columns = [dataset.columns(game) for game in games]
    whole: Named = {}  # (T, games, 2)
    for name in NAMES:
        value = torch.from_numpy(np.stack([of[name][row[:, i]] for i, of in enumerate(columns)], axis=1))
        whole[name] = value if value.is_floating_point() else value.int()
    ends = torch.from_numpy(frames - 1)
    found = []
    shots = torch.zeros(*whole["x"].shape[1:], FLYING, len(SHOTS))
    for start in range(1, len(row) - 1, CHUNK):
        stop = min(start + CHUNK, len(row) - 1)
        last, now, after = ({name: value[start + i : stop + i] for name, value in whole.items()} for i in (-1, 0, 1))
        new, leaves = leaves_now(last, now)
        flying = []
        for t in range(stop - start):
            two = ({name: of[name][t] for name in ("x", "y", "percent", "hitlag", "character")} for of in (last, now))
            shots = flies_on(shots, new[t], leaves[t], *two)
            flying.append(shots)
        grown = after["state_age"] - now["state_age"]
        grown = torch.where(after["action"] == now["action"], grown, torch.ones_like(grown)).clamp(0.0, FASTEST)
        goes_on = torch.arange(start, stop)[:, None] < ends
        state, then = ({name: value.flatten(0, 1) for name, value in of.items()} for of in (now, after))
        lasers = next_shots(torch.stack(flying).flatten(0, 1), state, grown.flatten(0, 1))
        found.append(_chosen(lasers, state, then, goes_on.flatten()))
    return found


def _chosen(lasers: Tensor, state: Named, after: Named, goes_on: Tensor) -> dict[str, Tensor]:
    """Lasers of the next frame (N, 2, 1 + FLYING, SHOTS), two frames and whether the match goes on (N,) → those of
    `near_lasers`."""
    victim, then = ({name: value.flip(1) for name, value in of.items()} for of in (state, after))
    x, y = then["x"], then["y"]  # who is struck has moved on before
    apart = beside(lasers, x[..., None], y[..., None] + CHEST)
    flies = (lasers[..., 2] != 0) | (lasers[..., 3] != 0)
    apart, nearest = torch.where(flies, apart, torch.full_like(apart, GONE)).min(dim=-1)
    could = (apart < NEAR) & goes_on[:, None] & (victim["hurtbox"] == 0)
    could &= (victim["action"] > LAST_RULED_ACTION) & (state["action"] > LAST_RULED_ACTION)
    could &= ~shielding(victim["action"])
    swings = after["hitlag"] > state["hitlag"].clamp(min=0)
    kind = kinds(lasers, state["character"]).gather(-1, nearest[..., None])[..., 0]
    values = {
        "shot": lasers.gather(2, nearest[..., None, None].expand(-1, -1, 1, len(SHOTS)))[:, :, 0], "kind": kind,
        "x": x, "y": y, "facing": victim["facing"].float(),
        "victim": (victim["character"] * ACTIONS + victim["action"]).long(), "victim_age": victim["state_age"],
        "hit": (then["percent"] - victim["percent"] > 0.01) & ~swings,
    }  # fmt: skip
    return {name: value[could] for name, value in values.items()}
