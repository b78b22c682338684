"""Explicit memory: what a match's past means for its next frame, as numbers that rules keep. A few hundred bytes.

A carry holds the memory of the frame before the present one and what of that frame the rules compare with; `recall`
brings it up to the present state. A carry of zeros means that nothing is remembered. The same rules, run over whole
games, give training its memory at every frame.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from wm_runtime.schema import C_, CONTROL_NAMES, PLAYERS
from wm_train.dynamics.lasers import FLYING, SHOTS, flown
from wm_train.dynamics.named import Named, is_of
from wm_train.dynamics.platforms import PLATFORMS, SIDES, unknown, watched
from wm_train.dynamics.stale import DYING, LOSSES, NEVER, counted, hit_by_other
from wm_train.dynamics.wind import WIND, calm, felt

Carry = dict[str, Tensor]
CONTROLLERS = 8
"""Past controllers that are kept."""
COUNTERS: tuple[str, ...] = (
    "frames_in_action", "since_hurtbox", "since_airborne", "since_hitlag", "since_ledge", "since_trigger", "since_hit",
    "since_landing",
)  # fmt: skip
"""Frames since: the action, hurtbox or airborne state became what it is; hitlag last began; the fighter last held a
ledge; shoulder, L or R was last pressed; percent last rose; the fighter last came down from the air."""
STRUCK_WITH: tuple[str, ...] = tuple(f"struck_with_{i + 1}" for i in range(len(LOSSES)))
"""Ids of the moves with which the fighter hit last, 0 for none: see dynamics.stale."""
NUMBERS: tuple[str, ...] = (
    *COUNTERS, "action_1", "action_2", "since_begun", "since_press", "since_tech", "since_leap", "since_cancel",
    "mash", "locked_action", "locked_age", "tilt", "since_tilt", "since_b", "shines", "since_blow",
    "since_struck", *STRUCK_WITH,
)  # fmt: skip
"""Columns of the memory's integers: the counters, the two actions before the present one, frames since the action
began or began anew, since L or R went all the way down, since that counted for a tech, since the fighter's feet
were locked, since a trigger was pressed that may cancel a landing, how a fighter that is grabbed mashes (`mashed`),
the action and age of the pose that its feet were locked in, the side (±1, 0 for none yet) to which the stick left the
middle last, and frames since it did, since B was pressed, for which a reflector has been out but for hitlag, without
hitlag since the fighter was hit, since a hit of the fighter landed, and its moves that hit."""
AIR_JUMPS = (27, 28)
"""Jumps in the air, forward and backward."""
LOCKED, AT_PLACE = 9, 0
"""Who leaves the ground has its feet locked at its own place, and who jumps in the air where they are: after so many
frames they are where the animation has them. On train, of 156 landings seven frames after such a jump of who was locked
no more 34 % differ by a tenth of a unit and more from where the animation would have them, and 8 % from where it had
them before; of 989 landings one to six frames later, none. AT_PLACE: the `locked_action` of who left the ground."""
LEAST_STALE = 21
"""A memory of so many columns or more ends with since_struck and STRUCK_WITH, in artifacts of before as well."""
TECH_LOCK = 40
"""A press counts for a tech if for so many frames before none was made, and not in hitlag. On 160 games of train nobody
teched more than 20 frames after one that counts, and of those who came down within them 98 % did."""
LIMIT = 1000
"""Counters stop here."""
COMPARED_INTS, COMPARED_FLOATS = ("action", "hurtbox", "airborne"), (
    "hitlag", "percent", "x", "y", "state_age", "shield", "self_x_ground",
)  # fmt: skip
"""Fields of the frame before that are kept as they were."""
LEDGE = (252, 253)
PULLED, HELD = (223, 226), (224, 225, 227, 228)
"""Actions of who is grabbed: pulled in, and then held or pummeled, high and low."""
FAR = 0.5
"""A stick that goes so far along an axis mashes, as A, B, X, Y and a trigger do."""
SHINES = (360, 361, 362, 365, 366, 367)
"""Fox's and Falco's reflectors, on the ground and in the air: beginning, held, reflecting."""
TILTED = 0.25
"""A stick that is so far to a side has left the middle."""
MASHED, PRESSED_NOW = 10, 16
"""Frames for which a fighter mashes once it does; what is added to `mash` where it begins to on this frame."""
PRESSED = 0.3
A_TO_Y, L_AND_R = slice(C_["a"], C_["y_button"] + 1), slice(C_["l"], C_["r"] + 1)
"""Of the controls."""


def carry_layout() -> dict[str, tuple[tuple[int, ...], str]]:
    """Name → (shape without the match axis, dtype) of the carry, in the artifact's order."""
    return {
        "numbers": ((PLAYERS, len(NUMBERS)), "int32"),
        "last_ints": ((PLAYERS, len(COMPARED_INTS)), "int32"),
        "last_floats": ((PLAYERS, len(COMPARED_FLOATS)), "float32"),
        "shots": ((PLAYERS, FLYING, len(SHOTS)), "float32"),
        "platforms": ((len(SIDES), len(PLATFORMS)), "float32"),
        "wind": ((len(WIND),), "float32"),
        "controllers": ((CONTROLLERS, PLAYERS, len(CONTROL_NAMES)), "float32"),
        "steps": ((1,), "int32"),
    }


@dataclass
class Past:
    """What is remembered at the present frame."""

    numbers: Named
    """NUMBERS by name, (N, 2) int32."""
    last: Named
    """COMPARED fields of the frame before, (N, 2)."""
    shots: Tensor
    """(N, 2, FLYING, SHOTS)."""
    platforms: Tensor
    """(N, 2, PLATFORMS)."""
    wind: Tensor
    """(N, WIND)."""
    controllers: Tensor
    """(N, CONTROLLERS, 2, 13): those that produced this frame and the ones before, the latest last."""


def recall(carry: Carry, state: Named) -> Past:
    """The carry and the present state → the memory at the present state."""
    fresh = carry["steps"] == 0  # (N, 1)
    numbers = {name: carry["numbers"][..., i] for i, name in enumerate(NUMBERS)}
    last = {name: carry["last_ints"][..., i] for i, name in enumerate(COMPARED_INTS)}
    last |= {name: carry["last_floats"][..., i] for i, name in enumerate(COMPARED_FLOATS)}
    last = {name: torch.where(fresh, state[name], value) for name, value in last.items()}
    first = beginning(state)
    numbers = {name: torch.where(fresh, first[name], value) for name, value in numbers.items()}
    advanced = advance(numbers, last, state, carry["controllers"][:, -2:])
    numbers = {name: torch.where(fresh, numbers[name], value) for name, value in advanced.items()}
    platforms = watched(torch.where(fresh[..., None], unknown(state), carry["platforms"]), state)
    wind = torch.where(fresh, calm(state), felt(carry["wind"], last, state))
    return Past(numbers, last, flown(carry["shots"], last, state), platforms, wind, carry["controllers"])


_STATES = {"frames_in_action": "action", "since_hurtbox": "hurtbox", "since_airborne": "airborne"}
"""Counter → the field that it watches."""


def beginning(state: Named) -> Named:
    """NUMBERS of a state of whose past nothing is known."""
    first = {name: torch.full_like(state["action"], 0 if name in _STATES else NEVER) for name in COUNTERS}
    none = torch.zeros_like(state["action"])
    first |= {"action_1": state["action"], "action_2": state["action"], "since_begun": none}
    first |= {"since_press": none + NEVER, "since_tech": none + NEVER, "since_leap": none + NEVER}
    first |= {"since_cancel": none + NEVER, "mash": none, "locked_action": none + AT_PLACE, "locked_age": none}
    first |= {"tilt": none, "since_tilt": none + NEVER, "since_b": none + NEVER, "shines": none + LIMIT}
    first["since_blow"] = none + NEVER
    return {**first, "since_struck": none + NEVER, **dict.fromkeys(STRUCK_WITH, none)}


def advance(numbers: Named, last: Named, state: Named, controllers: Tensor) -> Named:
    """Memory of the frame before, that frame's COMPARED fields, the present state and the controllers (N, 2, 2, 13) of
    both → the memory of the present frame."""
    events = {name: state[field] != last[field] for name, field in _STATES.items()}
    trigger = triggered(controllers)
    events["since_hitlag"] = (state["hitlag"] > 0) & (state["hitlag"] >= last["hitlag"])
    events["since_ledge"] = (state["action"] >= LEDGE[0]) & (state["action"] <= LEDGE[1])
    events["since_trigger"] = trigger[:, 1] & ~trigger[:, 0]
    events["since_hit"] = state["percent"] > last["percent"]
    events["since_landing"] = (state["airborne"] == 0) & (last["airborne"] == 1)
    events["since_press"], events["since_tech"] = pressed(numbers, controllers, state["hitlag"] > 0)
    events["since_begun"] = events["frames_in_action"] | (state["state_age"] < last["state_age"] - 0.5)
    air_jump = (state["action"] == AIR_JUMPS[0]) | (state["action"] == AIR_JUMPS[1])
    leaps = events["since_begun"] & air_jump
    events["since_leap"] = events["since_airborne"] | leaps
    after = {n: torch.where(e, torch.zeros_like(numbers[n]), (numbers[n] + 1)) for n, e in events.items()}
    held = (numbers["since_cancel"] == 0) & (last["hitlag"] > 0) & (state["hitlag"] > 0)  # hitlag holds what it saw
    since = torch.where(held, torch.zeros_like(numbers["since_cancel"]), numbers["since_cancel"] + 1)
    after["since_cancel"] = torch.where(events["since_trigger"], torch.zeros_like(since), since)
    after = {n: counter.clamp(max=LIMIT) for n, counter in after.items()}
    after["mash"] = mashed(numbers["mash"], last, state, controllers, events["since_trigger"])
    after["tilt"], after["since_tilt"] = tilted(numbers, controllers)
    b = controllers[..., C_["b"]] > FAR  # (N, 2 frames, 2)
    since_b = (numbers["since_b"] + 1).clamp(max=LIMIT)
    after["since_b"] = torch.where(b[:, 1] & ~b[:, 0], torch.zeros_like(since), since_b)
    shines = numbers["shines"] + (last["hitlag"] <= 1).to(since.dtype)
    begins = is_of(state["action"], SHINES[:1] + SHINES[3:4]) & ~is_of(last["action"], SHINES)
    after["shines"] = torch.where(begins, torch.zeros_like(since), shines.clamp(max=LIMIT))
    free = leaps & (numbers["since_leap"] >= LOCKED)
    age = last["state_age"].round().clamp(-1, LIMIT).int()
    for name, pose in (("locked_action", last["action"]), ("locked_age", age)):
        kept = torch.where(free, pose, numbers[name])
        after[name] = torch.where(events["since_airborne"], torch.full_like(kept, AT_PLACE), kept)
    changed = events["frames_in_action"]
    after["action_1"] = torch.where(changed, last["action"], numbers["action_1"])
    after["action_2"] = torch.where(changed, numbers["action_1"], numbers["action_2"])
    lag = state["hitlag"]
    struck = hit_by_other(state["percent"] - last["percent"], lag, lag.flip(1))
    flies = (lag <= 0).to(since.dtype)
    after["since_blow"] = torch.where(struck, flies, (numbers["since_blow"] + flies).clamp(max=LIMIT))
    queue, since = counted(
        struck_with(numbers), numbers["since_struck"], after["since_begun"], state["last_attack"], struck.flip(1),
        state["action"] <= DYING,
    )  # fmt: skip
    after |= dict(zip(STRUCK_WITH, queue.unbind(-1), strict=True)) | {"since_struck": since.clamp(max=LIMIT)}
    return {name: after[name] for name in NUMBERS}


def mashed(mash: Tensor, last: Named, state: Named, controllers: Tensor, trigger: Tensor) -> Tensor:
    """`mash` of the frame before, COMPARED fields of that, the present state, controllers of both (N, 2, 2, 13) and who
    presses a trigger (N, 2) → `mash`: frames for which the clock of who is grabbed runs at twice its pace, and
    PRESSED_NOW where that begins anew with the next frame. What is held when the grab begins counts as pressed; the
    second player is grabbed a frame earlier than the first, who has had its turn by then. On every twentieth game of
    train 1,327 of 1,328 steps of such clocks are so, before the first blow."""
    left = torch.where(mash >= PRESSED_NOW, torch.full_like(mash, MASHED), (mash - 1).clamp(min=0))
    action, second = state["action"], torch.arange(PLAYERS, device=mash.device) == 1
    pulled, held = is_of(action, PULLED), is_of(action, HELD)
    begins = (second & pulled) | (~second & held & is_of(last["action"], PULLED))
    left = torch.where(begins | ~held, torch.zeros_like(left), left)
    stick = controllers[..., :2]  # (N, 2 frames, 2, 2)
    far = stick.abs() >= FAR
    flicked = far[:, 1] & ~(far[:, 0] & (stick[:, 0] * stick[:, 1] > 0))
    down = controllers[..., A_TO_Y] > FAR
    press = (down[:, 1] & ~down[:, 0]).any(dim=-1) | trigger
    moved = (begins & far[:, 1].any(dim=-1)) | flicked.any(dim=-1)
    return left + PRESSED_NOW * ((press | moved) & (begins | held) & (left <= 1)).to(left.dtype)


def tilted(numbers: Named, controllers: Tensor) -> tuple[Tensor, Tensor]:
    """Memory of a frame, its controllers and those of the next (N, 2, 2, 13) → `tilt` and `since_tilt` then, (N, 2)."""
    x = controllers[..., C_["main_x"]]  # (N, 2 frames, 2)
    side = (x >= TILTED).int() - (x <= -TILTED).int()
    begins = (side[:, 1] != 0) & (side[:, 1] != side[:, 0])
    since = torch.where(begins, torch.zeros_like(numbers["since_tilt"]), numbers["since_tilt"] + 1)
    return torch.where(begins, side[:, 1], numbers["tilt"]), since.clamp(max=LIMIT)


def pulled(controllers: Tensor) -> Tensor:
    """Controllers (…, 13) → how far a trigger is pulled, 1 where L or R is down, (…)."""
    return torch.maximum(controllers[..., C_["shoulder"]], controllers[..., L_AND_R].amax(dim=-1))


def triggered(controllers: Tensor) -> Tensor:
    """Controllers (…, 13) → whether a trigger is down, light or whole, (…)."""
    return pulled(controllers) > PRESSED


def pressed(numbers: Named, controllers: Tensor, lagging: Tensor) -> tuple[Tensor, Tensor]:
    """Memory of a frame, its controllers and those of the next (N, 2, 2, 13), and who is in hitlag on that (N, 2) →
    whether L or R goes down then, and whether that counts for a tech, (N, 2)."""
    down = controllers[..., L_AND_R] > 0.5  # (N, 2 frames, 2, 2)
    press = (down[:, 1] & ~down[:, 0]).any(dim=-1)
    return press, press & (numbers["since_press"] >= TECH_LOCK) & ~lagging


def struck_with(numbers: Named) -> Tensor:
    """The moves that hit last, the latest first, (N, 2, 9) int32."""
    return torch.stack([numbers[name] for name in STRUCK_WITH], dim=-1)


def remember(past: Past, carry: Carry, state: Named, controllers: Tensor) -> Carry:
    """The carry after a step from `state` with `controllers` (N, 2, 13), those of the next frame."""
    numbers = torch.stack([past.numbers[name] for name in NUMBERS], dim=-1)
    history = torch.cat([past.controllers[:, 1:], controllers[:, None]], dim=1)
    carried = carry_of(state, numbers, past.shots, past.platforms, past.wind, history)
    return {**carried, "steps": (carry["steps"] + 1).clamp(max=LIMIT)}


def carry_of(
    state: Named, numbers: Tensor, shots: Tensor, platforms: Tensor, wind: Tensor, controllers: Tensor
) -> Carry:
    """The carry after a step from `state`: its memory `numbers` (N, 2, NUMBERS) int32, `shots` (N, 2, FLYING, SHOTS),
    `platforms` (N, 2, PLATFORMS) and `wind` (N, WIND), and controllers (N, CONTROLLERS, 2, 13) up to those of the next
    frame."""
    return {
        "numbers": numbers,
        "last_ints": torch.stack([state[name] for name in COMPARED_INTS], dim=-1),
        "last_floats": torch.stack([state[name] for name in COMPARED_FLOATS], dim=-1),
        "shots": shots,
        "platforms": platforms,
        "wind": wind,
        "controllers": controllers,
        "steps": torch.ones((numbers.shape[0], 1), dtype=torch.int32, device=numbers.device),
    }


@torch.no_grad()
def remembered(states: Iterable[Named], controllers: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Frames of N matches, one after the other, and their controllers (T, N, 2, 13) → NUMBERS (N, 2, …), shots
    (N, 2, FLYING, SHOTS), platforms (N, 2, PLATFORMS) and wind (N, WIND) at each."""
    numbers: Named = {}
    last: Named = {}
    shots = platforms = wind = torch.empty(0)
    for t, state in enumerate(states):
        if t == 0:
            numbers = beginning(state)
            shots = torch.zeros((*state["x"].shape, FLYING, len(SHOTS)))
            platforms, wind = watched(unknown(state), state), calm(state)
        else:
            pair = torch.stack([controllers[t - 1], controllers[t]], dim=1)
            numbers = advance(numbers, last, state, pair)
            shots = flown(shots, last, state)
            platforms, wind = watched(platforms, state), felt(wind, last, state)
        last = state
        yield torch.stack([numbers[name] for name in NUMBERS], dim=-1), shots, platforms, wind
