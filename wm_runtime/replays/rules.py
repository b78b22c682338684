"""Rules that real games keep. A game, or a rollout, that breaks one is damaged or no Melee.

Each rule is a function of a game's columns: name → (T, ..., 2) arrays, frames first, players last, so that a batch of
rollouts on one stage is checked at once. It answers with two (T - 1, ..., 2) bool arrays for the frames 1 to T - 1:
where it could be checked, and where it is broken. The exceptions are those that 969 real games (8.4 million frames)
show; none of them breaks a rule.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from wm_runtime.facts import CHARACTERS, FAMILIES, STAGES, TIMING, Stage, character
from wm_runtime.schema import FIELD, FIELDS

Columns = Mapping[str, np.ndarray]
Check = Callable[[Columns, Stage], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Rule:
    """`check(columns, stage)` → (checked, broken), see above; what was not checked is not broken."""

    name: str
    definition: str
    check: Check


DEAD_DOWN, DEAD_LEFT, DEAD_RIGHT, DEAD_STAR, DEAD_FLY, DEAD_SPLAT, DEAD_SPLAT_FLAT = 0, 1, 2, 4, 6, 7, 8
LAST_DEAD, REBIRTH, REBIRTH_WAIT = 10, 12, 13
LEDGE_CATCH, TEETER, DAMAGE_FLY_ROLL = 252, 245, 91
FOX, SAMUS = (character(name).internal_id for name in ("FOX", "SAMUS"))
HURT_THEMSELVES = tuple(character(name).internal_id for name in ("PICHU", "MR_GAME_AND_WATCH"))
ZELDA_OR_SHEIK = tuple(character(name).internal_id for name in ("ZELDA", "SHEIK"))
POKEMON_STADIUM = 3

LASTS = {
    **dict.fromkeys(range(DEAD_DOWN, DEAD_RIGHT + 1), TIMING["dead_down"]),
    DEAD_STAR: TIMING["dead_fly_star"],
    DEAD_FLY: 51,
    DEAD_SPLAT: TIMING["dead_fly"] - 51,
    DEAD_SPLAT_FLAT: TIMING["dead_fly"] - 51,
    REBIRTH: TIMING["rebirth"],
}
"""Action → frames that it lasts, always. Measured on 5,635 deaths in 969 games, without an exception."""
STOCK_LOST = {**dict.fromkeys(range(DEAD_DOWN, DEAD_RIGHT + 1), 0), DEAD_STAR: 131, DEAD_SPLAT: 43, DEAD_SPLAT_FLAT: 43}
"""Action → its frame (0 the first) on which the stock goes. Measured on the same deaths, without an exception."""
TOP_KNOCKBACK = 2.4
"""Past the top a fighter dies if its upward knockback is greater: 2.50 the least of 565 who died, 2.38 the most of the
1,097 frames on which others went there and lived."""
FAR, FARTHEST = 12.0, 40.0
"""Units a frame: a step that needs a reason, and one that has none (33.6 is the longest seen)."""
RESTS, BESIDE = 0.002, 0.25
"""Units: how far a standing fighter may be from its surface's height, and beyond its ends (0.0012 and 0.2 seen)."""
FOUNTAIN_HEIGHTS = (0.37, 27.38)
"""The Fountain's side platforms: lowest and highest at which a fighter stands on them (0.3750 and 27.3751 seen)."""
REBIRTH_PLACES = (16.0, 40.0)
"""|x| of rebirth beside those in the facts: a second platform beside an occupied one, and ports 3 and 4."""


def reads(rule: Rule) -> frozenset[str]:
    """The columns that a rule looks at."""
    seen: set[str] = set()
    columns = _Noted(seen, {f.name: np.zeros((2, 2), f.dtype) for f in FIELDS})
    rule.check(columns, STAGES[0])
    return frozenset(seen)


class _Noted(dict[str, np.ndarray]):
    """Columns that note in `seen` which of them are asked for."""

    def __init__(self, seen: set[str], columns: Columns):
        super().__init__(columns)
        self._seen = seen

    def __getitem__(self, name: str) -> np.ndarray:
        self._seen.add(name)
        return super().__getitem__(name)


# --- what the rules are made of --------------------------------------------------------------------------------------


def _in(action: np.ndarray, *families: str) -> np.ndarray:
    """Where an action is of one of these families."""
    return np.logical_or.reduce([_MEMBER[family] for family in families])[action]


_MEMBER = {name: np.isin(np.arange(FIELD["action"].classes or 0), ids) for name, ids in FAMILIES.items()}
_ATTACKS = ("jab", "dash_attack", "tilt", "smash", "aerial", "aerial_landing", "special")
_HELD = ("grabbed", "thrown", "captured")


def _steps(columns: Columns, name: str) -> np.ndarray:
    return np.diff(columns[name].astype(np.float64), axis=0)


def _pair(columns: Columns, name: str) -> tuple[np.ndarray, np.ndarray]:
    """(the frame before, this frame)."""
    return columns[name][:-1], columns[name][1:]


def _alive(columns: Columns) -> np.ndarray:
    """Neither dying nor being reborn, on this frame and the one before."""
    before, now = _pair(columns, "action")
    return (before > REBIRTH_WAIT) & (now > REBIRTH_WAIT)


def _either(mask: np.ndarray) -> np.ndarray:
    """True for both players where it is for one."""
    return mask | mask[..., ::-1]


def _everywhere(columns: Columns) -> np.ndarray:
    return np.ones_like(columns["action"][1:], bool)


def frames_in_action(action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(T, ..., 2) → frames that the action has lasted, 0 on its first; and whether that first frame is among the T."""
    rows = np.arange(len(action)).reshape(-1, *(1,) * (action.ndim - 1))
    new = np.zeros(action.shape, bool)
    new[1:] = action[1:] != action[:-1]
    first = np.maximum.accumulate(np.where(new, rows, 0), axis=0)
    return rows - first, np.maximum.accumulate(new, axis=0)


# --- values ----------------------------------------------------------------------------------------------------------


def _in_range(columns: Columns, stage: Stage) -> tuple[np.ndarray, np.ndarray]:
    broken = ~_everywhere(columns)
    throws = _in(columns["action"][1:], "throw")
    for f in FIELDS:
        if np.isfinite(f.low):
            values = columns[f.name][1:]
            outside = ~((values >= f.low) & (values <= f.high))
            broken |= outside & ~throws if f.name == "self_y" else outside
    return _everywhere(columns), broken


def _facing(columns: Columns, stage: Stage) -> tuple[np.ndarray, np.ndarray]:
    return _everywhere(columns), np.abs(columns["facing"][1:]) != 1


def _shield(columns: Columns, stage: Stage) -> tuple[np.ndarray, np.ndarray]:
    shield = columns["shield"][1:]
    return _everywhere(columns), ~((shield >= 0) & (shield <= FIELD["shield"].high))


def _shield_regrows(columns: Columns, stage: Stage) -> tuple[np.ndarray, np.ndarray]:
    before, now = _pair(columns, "action")
    checked = _alive(columns) & ~_in(before, "shield_break") & ~_in(now, "shield_break")
    return checked, checked & (_steps(columns, "shield") > 0.0701)


def _character(columns: Columns, stage: Stage) -> tuple[np.ndarray, np.ndarray]:
    before, now = _pair(columns, "character")
    transforms = np.isin(before, ZELDA_OR_SHEIK) & np.isin(now, ZELDA_OR_SHEIK)
    return _everywhere(columns), (before != now) & ~transforms


# --- percent and stocks ----------------------------------------------------------------------------------------------


def _percent_falls(columns: Columns, stage: Stage) -> tuple[np.ndarray, np.ndarray]:
    checked = _alive(columns)
    return checked, checked & (_steps(columns, "percent") < 0)


def stock_due(action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(T, ..., 2) → (where a stock goes for certain, where one may, the death having begun before the first row), both
    of the frames 1 to T - 1."""
    lasted, known = frames_in_action(action)
    due, may = np.zeros(action.shape, bool), np.zeros(action.shape, bool)
    for death, at in STOCK_LOST.items():
        due |= (action == death) & known & (lasted == at)
        may |= (action == death) & ~known
    return due[1:], may[1:] & (action[1:] > DEAD_RIGHT)


def _stocks_fall(columns: Columns, stage: Stage) -> tuple[np.ndarray, np.ndarray]:
    due, may = stock_due(columns["action"])
    change = _steps(columns, "stocks")
    return _everywhere(columns), (change != 0) & ~((change == -1) & (due | may))


def _death_costs_a_stock(columns: Columns, stage: Stage) -> tuple[np.ndarray, np.ndarray]:
    due, _ = stock_due(columns["action"])
    return due, due & (_steps(columns, "stocks") != -1)


# --- death and rebirth -----------------------------------------------------------------------------------------------


def _blast_zone(columns: Columns, stage: Stage) -> tuple[np.ndarray, np.ndarray]:
    checked, blast = _alive(columns) & ~_in(columns["action"][1:], *_HELD), stage.blast
    x, y = columns["x"][1:], columns["y"][1:]
    launched = columns["knockback_y"][1:] > TOP_KNOCKBACK
    outside = (x < blast.left) | (x > blast.right) | (y < blast.bottom) | ((y > blast.top) & launched)
    return checked, checked & outside


def _death_lasts(columns: Columns, stage: Stage) -> tuple[np.ndarray, np.ndarray]:
    action = columns["action"]
    before, now = _pair(columns, "action")
    lasted, known = frames_in_action(action)
    limit = np.full(FIELD["action"].classes or 0, np.iinfo(np.int64).max)
    limit[list(LASTS)] = list(LASTS.values())
    limit = limit[before]
    left, over = before != now, lasted[:-1] + 1 >= limit
    leads_on = np.where(before == DEAD_FLY, (now == DEAD_SPLAT) | (now == DEAD_SPLAT_FLAT), now == REBIRTH)
    checked = np.isin(before, list(LASTS)) & known[:-1] & (columns["stocks"][1:] > 0)
    wrong = (left != over) | (left & (before <= LAST_DEAD) & ~leads_on)
    waits_on = (now == REBIRTH_WAIT) & known[1:]
    overstays = waits_on & (lasted[1:] >= TIMING["rebirth_wait"])
    return checked | waits_on, (checked & wrong) | overstays


def _reborn(columns: Columns, stage: Stage) -> tuple[np.ndarray, np.ndarray]:
    before, now = _pair(columns, "action")
    checked = (now == REBIRTH) & (before != REBIRTH)
    x, y = np.abs(columns["x"][1:]), columns["y"][1:]
    place = np.abs(x[..., None] - np.abs([*stage.rebirth.x, *REBIRTH_PLACES])).min(axis=-1) < 0.1
    as_new = (columns["percent"][1:] == 0) & (columns["stocks"][1:] > 0) & (before <= LAST_DEAD)
    return checked, checked & ~(place & (np.abs(y - stage.rebirth.y_from) < 0.1) & as_new)


def _lies_still(columns: Columns, stage: Stage) -> tuple[np.ndarray, np.ndarray]:
    before, now = _pair(columns, "action")
    checked = (before == now) & ((now <= DEAD_RIGHT) | (now == REBIRTH) | (now == REBIRTH_WAIT))
    fall = np.where(now == REBIRTH, columns["self_y"][1:], 0.0)
    return checked, checked & ((_steps(columns, "x") != 0) | (np.abs(_steps(columns, "y") - fall) > 0.002))


# --- hits ------------------------------------------------------------------------------------------------------------


def _hitlag_counts_down(columns: Columns, stage: Stage) -> tuple[np.ndarray, np.ndarray]:
    before, _ = _pair(columns, "hitlag")
    checked, change = before > 0, _steps(columns, "hitlag")
    hit = _either((_steps(columns, "percent") > 0) | (_steps(columns, "shield") < -0.5))
    # A projectile may stop its victim a frame before its damage is dealt, or stop it and deal none.
    again = hit | _in(columns["action"][1:], *_ATTACKS, "damage")
    return checked, checked & (((change < -1) & ~hit) | ((change > -1) & ~again))


def _hitlag_flag(columns: Columns, stage: Stage) -> tuple[np.ndarray, np.ndarray]:
    return _everywhere(columns), ((columns["flags_2"][1:] & 0x20) != 0) != (columns["hitlag"][1:] > 0)


def _hit_has_hitlag(columns: Columns, stage: Stage) -> tuple[np.ndarray, np.ndarray]:
    rise = _steps(columns, "percent")
    held, own = _either(_in(columns["action"][:-1], *_HELD)), columns["character"][1:]
    laser = (own[..., ::-1] == FOX) & (rise < 4)
    magnifier = np.abs(rise - 1) < 0.01
    own_move = np.isin(own, HURT_THEMSELVES) & _in(columns["action"][:-1], "special")
    checked = _alive(columns) & (rise > 0) & ~(held | laser | magnifier | own_move)
    before, now = _pair(columns, "hitlag")
    return checked, checked & (before <= 0) & ~_either(now > 0)


def _knockback_from_hits(columns: Columns, stage: Stage) -> tuple[np.ndarray, np.ndarray]:
    before, now = _pair(columns, "hitlag")
    action, next_action = _pair(columns, "action")
    excused = (before > 0) | _either((now > 0) | _in(action, *_HELD)) | _in(next_action, "bounce")
    checked = _alive(columns) & ~excused
    speed = np.hypot(columns["knockback_x"].astype(np.float64), columns["knockback_y"])
    return checked, checked & (np.diff(speed, axis=0) > 0.01)


# --- movement --------------------------------------------------------------------------------------------------------


def velocity_step(columns: Columns) -> tuple[np.ndarray, np.ndarray]:
    """(dx, dy), (T - 1, ..., 2) each, of frames 1 to T - 1: own velocity, of air or ground, plus knockback."""
    now = {name: columns[name][1:].astype(np.float64) for name in ("self_x_air", "self_x_ground", "self_y")}
    own = np.where(columns["airborne"][1:] == 1, now["self_x_air"], now["self_x_ground"])
    return own + columns["knockback_x"][1:], now["self_y"] + columns["knockback_y"][1:]


def _no_teleport(columns: Columns, stage: Stage) -> tuple[np.ndarray, np.ndarray]:
    dx, dy = _steps(columns, "x"), _steps(columns, "y")
    vx, vy = velocity_step(columns)
    step, unexplained = np.hypot(dx, dy), np.hypot(dx - vx, dy - vy) > 1
    before, now = _pair(columns, "action")
    was_up, is_up = _pair(columns, "airborne")
    was_stopped, is_stopped = (hitlag > 0 for hitlag in _pair(columns, "hitlag"))
    hit = _steps(columns, "percent") > 0
    rising = np.isin(columns["ground"][1:], [surface.id for surface in stage.surfaces if surface.moves])
    excused = _in(before, *_HELD, "special", "ledge") | _in(now, *_HELD, "ledge") | hit
    excused |= rising & (was_up == 0) & (is_up == 0)
    excused |= (before == DAMAGE_FLY_ROLL) & (was_up == 1) & (is_up == 0)
    excused |= was_stopped & ~is_stopped
    checked = _alive(columns)
    return checked, checked & ((step > FARTHEST) | ((step > FAR) & unexplained & ~excused))


def _on_a_surface(columns: Columns, stage: Stage) -> tuple[np.ndarray, np.ndarray]:
    action, ground = columns["action"][1:], columns["ground"][1:]
    x, y = columns["x"][1:], columns["y"][1:]
    excused = _in(action, *_HELD, "entry", "special", "ledge") | (action == TEETER)
    excused |= (columns["character"][1:] == SAMUS) & _in(action, "roll")
    grounded = _alive(columns) & (columns["airborne"][1:] == 0) & ~excused
    known, broken = np.zeros_like(grounded), np.zeros_like(grounded)
    for surface in stage.surfaces:
        on = grounded & (ground == surface.id)
        known |= on
        (left, right), (y_left, y_right) = surface.x, surface.y
        if surface.path:
            low, high = (pick(key[2] for key in surface.path.keys) for pick in (min, max))
            level = (y > low - RESTS) & (y < high + RESTS)
        elif surface.moves:
            level = (y > FOUNTAIN_HEIGHTS[0]) & (y < FOUNTAIN_HEIGHTS[1])
        else:
            share = np.clip((x - left) / (right - left), 0, 1)
            level = np.abs(y - (y_left + (y_right - y_left) * share)) < RESTS
        inside = bool(surface.path) | ((x > left - BESIDE) & (x < right + BESIDE))
        broken |= on & ~(level & inside)
    checked = known if stage.id == POKEMON_STADIUM else grounded
    return checked, broken | (checked & ~known)


def _air_jumps(columns: Columns, stage: Stage) -> tuple[np.ndarray, np.ndarray]:
    before, now = _pair(columns, "action")
    was_up, is_up = _pair(columns, "airborne")
    _, hitlag = _pair(columns, "hitlag")
    excused = _in(before, *_HELD, "special") | _in(now, *_HELD) | (now == LEDGE_CATCH) | (hitlag > 0)
    checked = _alive(columns) & (was_up == 1) & (is_up == 1) & ~excused
    most = _MOST_JUMPS[columns["character"][1:]]
    rises = checked & (_steps(columns, "jumps") > 0)
    return _everywhere(columns), rises | (columns["jumps"][1:] > most)


_MOST_JUMPS = np.full(FIELD["character"].classes or 0, FIELD["jumps"].high, np.int32)
_MOST_JUMPS[[c.internal_id for c in CHARACTERS]] = [c.jumps for c in CHARACTERS]


# --- the table -------------------------------------------------------------------------------------------------------

R = Rule
RULES: tuple[Rule, ...] = (
    R("in_range", "Every field lies in the range that the field table gives it; not asked of the upward velocity "
      "of who throws (Kirby rises by 34 units a frame).", _in_range),
    R("facing", "Facing is −1 or 1.", _facing),
    R("shield", "Shield health stays in 0 … 60.", _shield),
    R("shield_regrows", "A living fighter's shield grows by at most 0.07 a frame, but for the end of a shield break, "
      "which sets it to 30.", _shield_regrows),
    R("character", "A fighter stays who it is, but for Zelda and Sheik, who turn into each other.", _character),
    R("percent_falls", "Percent never falls while alive.", _percent_falls),
    R("stocks_fall", "Stocks change only by −1, on the frame on which the death takes them: the first of dying past "
      "the side or bottom, the 132nd of a star K.O., the 44th of splashing onto the screen.", _stocks_fall),
    R("death_costs_a_stock", "On each such frame a stock is lost.", _death_costs_a_stock),
    R("blast_zone", "Nobody alive and free is past the left, right or bottom blast zone, nor past the top with an "
      "upward knockback above 2.4 (jumps and lesser knockback come back from there: 1,097 frames seen).", _blast_zone),
    R("death_lasts", "Dying takes 60 frames, 176 as a star, 51 + 78 onto the screen, and leads to rebirth; rebirth "
      "takes 60, the platform lasts at most 240. Not asked of the last stock.", _death_lasts),
    R("reborn", "Rebirth follows a death, at the stage's place above it, with percent 0 and a stock left.", _reborn),
    R("lies_still", "Whoever died past the side or bottom, and whoever waits on the platform, does not move; the "
      "platform descends by its own velocity.", _lies_still),
    R("hitlag_counts_down", "Hitlag counts down by one. It starts anew where something is hit: a percent rises or a "
      "shield loses more than 0.5; it may grow, too, while the fighter attacks (its move meets a projectile or an "
      "item) or is being hurt (by one projectile after another).", _hitlag_counts_down),
    R("hitlag_flag", "Bit 0x20 of flags_2 is set exactly while hitlag lasts.", _hitlag_flag),
    R("hit_has_hitlag", "A living fighter whose percent rises has hitlag then or the frame before, or its attacker has "
      "(Dr. Mario's and Game & Watch's special moves stop only themselves). Not so for what throws, pummels and "
      "captures deal to either, Fox's lasers (below 4), the 1 % of the magnifying glass, and what Pichu's and Game "
      "& Watch's own moves cost them.", _hit_has_hitlag),
    R("knockback_from_hits", "Knockback speed grows only in hitlag, one's own or the other's, when a hold ends, or "
      "by bouncing off a wall or ceiling.", _knockback_from_hits),
    R("no_teleport", "A living fighter's step above 12 units is its velocity (within 1), unless it is held or thrown, "
      "catches or leaves a ledge, is hit, comes out of hitlag (the sticks shift it), lands from a spinning flight (its "
      "feet are set on the ground), stands on a platform that emerges, or is in a special move (illusions stop at "
      "ledges, teleports); none is above 40 (33.6 seen, in a throw).", _no_teleport),
    R("on_a_surface", "A grounded fighter is on the surface that `ground` names: within 0.002 of its height and 0.25 "
      "of its ends. Not asked of the held, of special moves (Samus's and Dr. Mario's leave the ground without saying "
      "so), of a jump from the ledge (once seen to do the same), Samus's roll (2 units low), the first frame of "
      "teetering (up to 4 units low), the entry, and surfaces of a transformed Stadium.", _on_a_surface),
    R("air_jumps", "Jumps left do not grow in the air, but by a ledge, a hit, someone's hold or a special move "
      "(Falcon's and Ganondorf's kicks), and are never more than the fighter has.", _air_jumps),
)  # fmt: skip
RULE: Mapping[str, Rule] = {rule.name: rule for rule in RULES}
