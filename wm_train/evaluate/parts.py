"""Where a model is right and wrong: every field by itself, and the game's subsystems.

Fields: at 1 and at 20 frames after the start, mean absolute error of floats and share right of whole numbers. Fields
that a model does not predict are scored like any other. Subsystems: position by the situation in which a window starts;
events of one step from true states (which frames claim one, and which truly have one); what a hit does; shields.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np

from wm_runtime.facts import FAMILIES, action_name
from wm_runtime.schema import FIELD, FIELDS
from wm_train.evaluate.figures import Case, Figure, Sums, difference, field_error, mean_of, share

AHEAD = (1, 20)
HITSTUN = 0x02
"""Bit of flags_4."""
LAST_DYING = 10

_FAMILY = {name: np.isin(np.arange(FIELD["action"].classes or 0), ids) for name, ids in FAMILIES.items()}


def _field_share(name: str, k: int) -> Callable[[Case], Sums]:
    return lambda case: mean_of(case.prediction.free[name][:, k - 1] == case.true(name)[:, k - 1])


PER_FIELD: dict[str, Figure] = {
    (f"{f.name}_mae@{k}" if f.dtype == "float32" else f"{f.name}_acc@{k}"): (
        Figure(field_error(f.name, k), "lower") if f.dtype == "float32" else Figure(_field_share(f.name, k), "higher")
    )
    for f in FIELDS
    for k in AHEAD
}
"""Two figures a field of the field table, NAME_mae@K or NAME_acc@K."""


# --- movement --------------------------------------------------------------------------------------------------------

SITUATIONS: dict[str, Callable[[Case], np.ndarray]] = {
    "grounded": lambda case: case.before("airborne") == 0,
    "airborne": lambda case: case.before("airborne") == 1,
    "ledge": lambda case: _FAMILY["ledge"][case.before("action")],
    "hitlag": lambda case: case.before("hitlag") > 0,
    "hitstun": lambda case: (case.before("flags_4") & HITSTUN) != 0,
}
"""What a player is in at the start of its window, (B, 2); one may be in several."""


def _rc_from(situation: Callable[[Case], np.ndarray]) -> Callable[[Case], Sums]:
    def sums(case: Case) -> Sums:
        counted = situation(case)
        return case.error()[:, :20].mean(axis=1) * counted, counted

    return sums


# --- events of one step ----------------------------------------------------------------------------------------------

Frame = Mapping[str, np.ndarray]


def _enters(*families: str) -> Callable[[Frame, Frame], np.ndarray]:
    member = np.logical_or.reduce([_FAMILY[family] for family in families])
    return lambda before, after: ~member[before["action"]] & member[after["action"]]


EVENTS: dict[str, Callable[[Frame, Frame], np.ndarray]] = {
    "hit": lambda before, after: after["percent"] > before["percent"],
    "action_change": lambda before, after: after["action"] != before["action"],
    "takeoff": lambda before, after: (before["airborne"] == 0) & (after["airborne"] == 1),
    "landing": lambda before, after: (before["airborne"] == 1) & (after["airborne"] == 0),
    "ledge_catch": _enters("ledge"),
    "shield": _enters("shield"),
    "grab": _enters("grabbed", "captured"),
    "throw": _enters("thrown"),
    "death": _enters("dead"),
}
"""Event → where it happens between a true frame and the next, (B, S, 2)."""
_EVENT_FIELDS = ("percent", "action", "airborne")


def _event(name: str, of: Literal["recall", "precision", "f1"]) -> Callable[[Case], Sums]:
    """Recall, precision, or their harmonic mean. Deaths are counted of all frames, the rest among the living."""

    def sums(case: Case) -> Sums:
        fields = {field: case.steps(field) for field in _EVENT_FIELDS}
        before, after, predicted = ({f: values[i] for f, values in fields.items()} for i in range(3))
        counted = np.True_ if name == "death" else case.alive()
        true, claimed = EVENTS[name](before, after) & counted, EVENTS[name](before, predicted) & counted
        if of == "f1":
            return 2 * (true & claimed).sum(axis=1), true.sum(axis=1) + claimed.sum(axis=1)
        return share(true & claimed, true if of == "recall" else claimed)

    return sums


def _change_precision(case: Case) -> Sums:
    """Of the changes of action that are claimed, those to the action that follows."""
    before, after, predicted = case.steps("action")
    return share(predicted == after, (before != predicted) & case.alive())


# --- what a hit does, shields ----------------------------------------------------------------------------------------


DAMAGE, KNOCKBACK = {"percent": 0.02}, {"knockback_x": 0.01, "knockback_y": 0.01}
"""Fields that a hit sets, and to how much they are right, percent and units a frame."""


def _on_hits(fields: tuple[str, ...], found: bool) -> Callable[[Case], Sums]:
    """Mean error of fields on true hit frames; `found`: on those alone that the model foresaw."""

    def sums(case: Case) -> Sums:
        before, after, predicted = case.steps("percent")
        counted = (after > before) & case.alive()
        if found:
            counted = counted & (predicted > before)
        errors = [difference(guess, true) for _, true, guess in map(case.steps, fields)]
        return (np.mean(errors, axis=0) * counted).sum(axis=1), counted.sum(axis=1)

    return sums


def _exact_on_found_hits(tolerances: dict[str, float]) -> Callable[[Case], Sums]:
    """Share of the true hit frames that the model foresaw on which these fields are right, each to so much."""

    def sums(case: Case) -> Sums:
        before, after, predicted = case.steps("percent")
        found = (after > before) & (predicted > before) & case.alive()
        right = np.ones(found.shape, bool)
        for field, tolerance in tolerances.items():
            _, true, guess = case.steps(field)
            right &= difference(guess, true) < tolerance
        return share(right, found)

    return sums


def _shield_error(case: Case) -> Sums:
    _, action, _ = case.steps("action")
    _, true, predicted = case.steps("shield")
    counted = _FAMILY["shield"][action] & case.alive()
    return (difference(predicted, true) * counted).sum(axis=1), counted.sum(axis=1)


SUBSYSTEMS: dict[str, Figure] = {
    **{f"RC@20_{name}": Figure(_rc_from(of), "lower") for name, of in SITUATIONS.items()},
    "change_precision": Figure(_change_precision, "higher"),
    "hit_f1": Figure(_event("hit", "f1"), "higher"),
    **{
        f"{name}_{of}": Figure(_event(name, of), "higher")
        for name in EVENTS
        if name != "hit"
        for of in ("recall", "precision")
    },
    "hit_damage_mae": Figure(_on_hits(("percent",), found=False), "lower"),
    "hit_knockback_mae": Figure(_on_hits(("knockback_x", "knockback_y"), found=False), "lower"),
    "found_hit_damage_mae": Figure(_on_hits(("percent",), found=True), "lower"),
    "found_hit_knockback_mae": Figure(_on_hits(("knockback_x", "knockback_y"), found=True), "lower"),
    "found_hit_damage_exact": Figure(_exact_on_found_hits(DAMAGE), "higher"),
    "found_hit_knockback_exact": Figure(_exact_on_found_hits(KNOCKBACK), "higher"),
    "found_hit_exact": Figure(_exact_on_found_hits({**DAMAGE, **KNOCKBACK, "hitlag": 0.5, "action": 0.5}), "higher"),
    "shielding_mae": Figure(_shield_error, "lower"),
}  # fmt: skip


# --- action transitions ----------------------------------------------------------------------------------------------


def confusions(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """(M, 3) actions before, true and predicted of the living frames whose next action is predicted wrongly, and (M,)
    the window of each."""
    before, after, predicted = case.steps("action")
    wrong = (predicted != after) & case.alive()
    return np.stack([before[wrong], after[wrong], predicted[wrong]], axis=1), np.nonzero(wrong)[0]


def commonest(wrong: np.ndarray, count: int = 30) -> list[dict[str, Any]]:
    """(M, 3) → the commonest rows: from, to (true) and predicted action by name, how many, and their share of all."""
    return [
        {"from": action_name(before), "to": action_name(true), "predicted": action_name(predicted),
         "count": times, "share": times / len(wrong)}
        for (before, true, predicted), times in Counter(map(tuple, wrong.tolist())).most_common(count)
    ]  # fmt: skip
