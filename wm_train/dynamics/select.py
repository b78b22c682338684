"""Classic heads → the next state: each output becomes a game value, before the rules have their say."""

from __future__ import annotations

import torch
from torch import Tensor

from wm_runtime.facts import FAMILIES
from wm_runtime.schema import NO_GROUND
from wm_train.dynamics.age import StateAge
from wm_train.dynamics.constants import constant
from wm_train.dynamics.kinematics import displacement
from wm_train.dynamics.named import Named
from wm_train.encoding import BITS, FLAG_BYTES, HITSTUN_BIT, HITSTUN_BYTE, HITSTUN_LIMIT
from wm_train.models.heads import HEAD, NO_GROUND_CLASS

PERCENT_FLOOR = 2.0
"""Smallest predicted rise of percent that counts as a hit; below it, percent stays."""
DAMAGE = (FAMILIES["damage"][0], FAMILIES["damage"][-1])
"""First and last action state of being hit."""
HIT_PERCENT, HIT_LAG = (1.0, 30.0), (2.0, 20.0)
"""Percent and hitlag of a hit are no less and no more."""
LAST_RULED_ACTION, REBIRTH_WAIT = 12, 13
"""Actions 0 to 12 (dying, rebirth) are entered by rule, never by the action head; 13, the wait on the platform of
rebirth, only from 12."""


def select(heads: dict[str, Tensor], before: Named, age: StateAge) -> tuple[Named, Tensor]:
    """Head outputs and the present state → proposed next state, and the action head's entropy (N, 2) in nats."""
    logits = heads["action"]
    action = torch.arange(logits.shape[-1], device=logits.device)
    on_platform = (before["action"] == LAST_RULED_ACTION) | (before["action"] == REBIRTH_WAIT)
    ruled = (action <= LAST_RULED_ACTION) | ((action == REBIRTH_WAIT) & ~on_platform[..., None])
    logits = logits.masked_fill(ruled, -1e9)
    probability = logits.softmax(dim=-1)
    entropy = -(probability * logits.log_softmax(dim=-1)).sum(dim=-1)

    after = dict(before)
    after["action"] = logits.argmax(dim=-1).int()
    for name in ("jumps", "l_cancel", "last_attack"):
        after[name] = heads[name].argmax(dim=-1).int()
    ground = heads["ground"].argmax(dim=-1).int()
    after["ground"] = torch.where(ground == NO_GROUND_CLASS, torch.full_like(ground, NO_GROUND), ground)

    binary = {name: heads["binary"][..., i] > 0 for i, name in enumerate(HEAD["binary"].fields)}
    after["facing"] = binary["facing"].int() * 2 - 1
    after["airborne"] = 1 - binary["on_ground"].int()
    hurtbox = heads["hurtbox"][..., 1:].argmax(dim=-1).int() + 1
    after["hurtbox"] = torch.where(binary["invulnerable"], hurtbox, torch.zeros_like(hurtbox))

    value = {name: heads["dynamics"][..., i] * s for i, (name, s) in enumerate(_scales("dynamics"))}
    after["hitlag"] = _next_hitlag(before["hitlag"], value["hitlag"])
    after["combo_count"] = value["combo_count"].round().clamp(min=0).int()

    for i, (name, scale) in enumerate(_scales("velocity")):
        after[name] = before[name] + heads["velocity"][..., i] * scale
    delta = {name: heads["continuous"][..., i] * s for i, (name, s) in enumerate(_scales("continuous"))}
    dx, dy = displacement(before, after)
    after["x"] = before["x"] + dx + delta["x"]
    after["y"] = before["y"] + dy + delta["y"]
    hit, chance = _enters_damage(before["action"], after["action"], probability)
    rise = torch.where(delta["percent"] >= PERCENT_FLOOR, delta["percent"], torch.zeros_like(dx))
    damage = (delta["percent"] / chance).clamp(*HIT_PERCENT)
    after["percent"] = before["percent"] + torch.where(hit, damage, rise)
    lag = (value["hitlag"] / chance).clamp(*HIT_LAG).round()
    after["hitlag"] = torch.where(hit & (after["hitlag"] == 0), lag, after["hitlag"])
    after["shield"] = (before["shield"] + delta["shield"]).clamp(0.0, 60.0)
    after["state_age"] = age(before, after["action"])
    if "flags" in heads:
        after |= _flags(heads["flags"])
    if "hitstun" in heads:
        after["misc_as"] = _hitstun(before, after, heads["hitstun"][..., 0] * HEAD["hitstun"].scale[0])
    return after, entropy


def _flags(logits: Tensor) -> Named:
    """Bits (N, 2, bytes · 8) → the bytes that hold them."""
    bits = constant(BITS, logits.device, torch.int32)
    bytes_ = ((logits > 0).int().unflatten(-1, (len(FLAG_BYTES), len(BITS))) * bits).sum(dim=-1).int()
    return dict(zip(FLAG_BYTES, bytes_.unbind(-1), strict=True))


def _hitstun(before: Named, after: Named, predicted: Tensor) -> Tensor:
    """misc_as: a hit starts hitstun as predicted, which counts down but in hitlag; without hitstun it stays."""
    was, stunned = ((state[HITSTUN_BYTE] & HITSTUN_BIT) > 0 for state in (before, after))
    hit = after["hitlag"] > before["hitlag"]
    left = torch.where(before["hitlag"] > 1, before["misc_as"], (before["misc_as"] - 1).clamp(min=0.0))
    left = torch.where(was & ~hit, left, predicted.round().clamp(1.0, HITSTUN_LIMIT))
    return torch.where(stunned, left, before["misc_as"])


def _enters_damage(before: Tensor, after: Tensor, probability: Tensor) -> tuple[Tensor, Tensor]:
    """Who is hit: it enters a damage action, (N, 2) bool; and how likely that was, (N, 2), at least 0.05.

    A regressed rise is the mean of hit and no hit: divided by the chance of a hit, it is the mean of a hit.
    """
    first, last = DAMAGE
    was_hurt = (before >= first) & (before <= last)
    stays = probability.gather(-1, before.long()[..., None])[..., 0]
    chance = probability[..., first : last + 1].sum(dim=-1) - torch.where(was_hurt, stays, torch.zeros_like(stays))
    hit = (after >= first) & (after <= last) & (after != before)
    return hit, chance.clamp(min=0.05)


def _scales(head: str) -> list[tuple[str, float]]:
    return list(zip(HEAD[head].fields, HEAD[head].scale, strict=True))


def _next_hitlag(before: Tensor, predicted: Tensor) -> Tensor:
    """Hitlag counts down by one unless a new hit is predicted; a prediction under 1.5 frames is none."""
    counted = (before - 1).clamp(min=0)
    begun = torch.where(predicted >= 1.5, predicted.round(), torch.zeros_like(predicted))
    return torch.where(before > 0, torch.where(predicted > before + 0.5, begun, counted), begun)
