"""Games made up from a seed: two players who walk, dash, jump, shield, hit each other, die and come back.

No replay and no game data but `wm_runtime.facts` is needed. What the models rely on holds as in real games: controllers
lie on their grids and cause what happens; position is the previous position plus velocity unless a contact says
otherwise; nothing moves in hitlag; knockback decays by 0.051 a frame; a stock lost is followed by 60 dead frames, 60 of
rebirth, the wait on the platform and 120 of invulnerability. Speeds and frame counts are plausible, not the game's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wm_runtime.facts import TIMING, Stage, character
from wm_runtime.facts import stage as find_stage
from wm_runtime.replays.game import COLUMNS, Game, GameInfo
from wm_runtime.replays.writer import NO_CONTEST, write_slp
from wm_runtime.schema import FIELD, FIELDS, FIRST_FRAME, NO_GROUND, NO_PLAYER

REPLAYS = Path(__file__).parents[2] / "shared" / "replays"
"""Real replays, where they are at hand."""
GAME_SET = 2
DEAD_DOWN, DEAD_LEFT, DEAD_RIGHT, DEAD_UP = 0, 1, 2, 4
REBIRTH, REBIRTH_WAIT = 12, 13
WAIT, WALK, DASH, RUN, JUMP_SQUAT, JUMP, DOUBLE_JUMP, FALL, TUMBLE, LANDING = 14, 15, 20, 21, 24, 25, 27, 29, 38, 42
JAB, AERIAL, AERIAL_LANDING, DAMAGE_AIR, DAMAGE_FLY, SHIELD, SHIELD_OFF = 44, 65, 70, 84, 88, 179, 180
ENTRY, ENTRY_START, ENTRY_END = 322, 323, 324

LASTS = {JUMP_SQUAT: 3, LANDING: 4, AERIAL_LANDING: 15, JAB: 16, AERIAL: 30, SHIELD_OFF: 15, DASH: 12}
"""Frames for which an action cannot be left (a dash only by running on)."""
FALLING = {1: (0.23, 2.8, 3.68), 22: (0.17, 3.1, 4.1)}
"""Internal character id → gravity, terminal speed, jump speed, units a frame."""
USUAL_FALLING = (0.1, 2.1, 2.8)
DEATHS = {DEAD_DOWN: "dead_down", DEAD_LEFT: "dead_left", DEAD_RIGHT: "dead_right", DEAD_UP: "dead_fly_star"}
PLANS = ("stand", "walk", "dash", "jump", "jump", "shield", "attack", "attack", "attack", "attack")
A, X, R = 0x0100, 0x0400, 0x0020


@dataclass(frozen=True)
class Move:
    """An attack: its id, the ages at which it hits, damage in percent, reach in units."""

    attack: int
    active: range
    damage: float
    reach: float


MOVES = {JAB: Move(2, range(2, 5), 4.37, 14), AERIAL: Move(13, range(4, 14), 11.3, 14)}


def synthetic_game(seed: int, frames: int = 600, stage: int = 32, characters: tuple[int, int] = (1, 22)) -> Game:
    """A game of `frames` frames, fewer where a player runs out of stocks before. The same arguments make the same game.

    In frame 80, and every 450 frames after that, the players in turn run off the stage and lose a stock.
    """
    rng = np.random.default_rng([seed, stage, *characters])
    place = find_stage(stage)
    fighters = [Fighter(i, c, place) for i, c in enumerate(characters)]
    players = [Player(rng, fighters[0], fighters[1], leaves=80), Player(rng, fighters[1], fighters[0], leaves=530)]
    states, pads = [], []
    for frame in range(FIRST_FRAME, FIRST_FRAME + frames):
        pressed = [player.press(frame) for player in players]
        if frame > FIRST_FRAME:
            for fighter, other, pad in zip(fighters, fighters[::-1], pressed, strict=True):
                fighter.step(pad, frame, other)
            strike(*fighters)
        states.append([[getattr(fighter, f.name) for f in FIELDS] for fighter in fighters])
        pads.append([pad.recorded() for pad in pressed])
        if min(fighter.stocks for fighter in fighters) == 0:
            break
    columns = {f.name: np.array(states, np.float64)[..., i].astype(COLUMNS[f.name]) for i, f in enumerate(FIELDS)}
    columns |= {name: np.array([[p[name] for p in row] for row in pads], COLUMNS[name]) for name in pads[0][0]}
    scores = [(fighter.stocks, -fighter.percent) for fighter in fighters]
    info = GameInfo(
        stage=stage,
        characters=characters,
        source=f"synthetic-{seed}",
        date="2024-01-01T00:00:00Z",
        end_method=GAME_SET if min(scores)[0] == 0 else NO_CONTEST,
        winner=-1 if scores[0] == scores[1] else int(scores[1] > scores[0]),
        names=("one", "two"),
    )
    return Game(info, columns)


def write_corpus(folder: str | Path, n: int, *, first_seed: int = 0, **kwargs: object) -> list[Path]:
    """Writes `n` games as `synthetic-SEED.slp` into `folder`, which is made; `kwargs` go to `synthetic_game`."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"synthetic-{seed:04d}.slp" for seed in range(first_seed, first_seed + n)]
    for seed, path in enumerate(paths, first_seed):
        write_slp(path, synthetic_game(seed, **kwargs))  # type: ignore[arg-type]
    return paths


# --- controllers -----------------------------------------------------------------------------------------------------


@dataclass
class Pad:
    """A controller: sticks in 80ths, triggers in 140ths, buttons as the physical mask."""

    main_x: int = 0
    main_y: int = 0
    c_x: int = 0
    trigger_l: int = 0
    trigger_r: int = 0
    buttons: int = 0

    @property
    def shoulder(self) -> int:
        """The deeper trigger, once past the game's dead zone."""
        deeper = max(self.trigger_l, self.trigger_r)
        return deeper if deeper >= 43 else 0

    @property
    def attacks(self) -> bool:
        return bool(self.buttons & A) or self.c_x != 0

    def recorded(self) -> dict[str, float]:
        """The columns of a game, but for float32."""
        sticks = {"main_x": self.main_x, "main_y": self.main_y, "c_x": self.c_x, "c_y": 0}
        triggers = {"shoulder": self.shoulder, "trigger_l": self.trigger_l, "trigger_r": self.trigger_r}
        return {
            **{name: value / 80 for name, value in sticks.items()},
            **{name: value / 140 for name, value in triggers.items()},
            "raw_x": self.main_x,
            "raw_y": self.main_y,
            "buttons": self.buttons,
        }


class Player:
    """Presses buttons: makes a plan for some frames, then another; returns to the stage; leaves it when it is time."""

    def __init__(self, rng: np.random.Generator, fighter: Fighter, other: Fighter, leaves: int) -> None:
        self.rng, self.fighter, self.other, self.leaves = rng, fighter, other, leaves
        self.plan, self.left, self.tilt = "stand", 0, 0

    def press(self, frame: int) -> Pad:
        """The controller of this frame, from what the last frame shows."""
        me = self.fighter
        if me.action in DEATHS and frame >= self.leaves:
            self.leaves += 900
        if me.action <= REBIRTH or (me.action == REBIRTH_WAIT and me.lasted < self.tilt):
            return Pad()
        if frame >= self.leaves:
            return Pad(main_x=80 if me.x > 0 else -80)
        outside = me.stage.edge_stand * 0.7
        inwards = -80 if me.x > 0 else 80
        if me.airborne and abs(me.x) > outside:
            jump = X if me.self_y < 0 and me.y < 10 and me.state_age % 8 == 7 else 0
            return Pad(main_x=inwards, main_y=0, buttons=jump)
        if abs(me.x) > outside:
            return Pad(main_x=inwards)
        if self.left == 0:
            self.plan = str(self.rng.choice(PLANS))
            self.left = int(self.rng.integers(8, 40))
            self.tilt = int(self.rng.integers(24, 60))
        self.left -= 1
        return getattr(self, "_" + self.plan)(1 if self.other.x > me.x else -1)

    def _stand(self, towards: int) -> Pad:
        return Pad(trigger_l=self.tilt // 2)

    def _walk(self, towards: int) -> Pad:
        return Pad(main_x=towards * self.tilt)

    def _dash(self, towards: int) -> Pad:
        return Pad(main_x=towards * 80)

    def _jump(self, towards: int) -> Pad:
        jump = X if self.left % 16 == 7 else 0
        return Pad(main_x=towards * self.tilt, main_y=-80 if self.left < 3 else 0, buttons=jump)

    def _attack(self, towards: int) -> Pad:
        near = abs(self.other.x - self.fighter.x) < 12
        if not near:
            return Pad(main_x=towards * 80)
        return Pad(c_x=towards * 80) if self.tilt % 2 else Pad(buttons=A)

    def _shield(self, towards: int) -> Pad:
        return Pad(trigger_r=140, buttons=R) if self.tilt % 2 else Pad(trigger_l=100 + self.tilt % 40)


# --- fighters --------------------------------------------------------------------------------------------------------


def f32(value: float) -> float:
    return float(np.float32(value))


def counter(frames: int) -> float:
    """A count of frames as `misc_as` shows it: an integer's bits, read as a float."""
    return float(np.int32(frames).view(np.float32))


class Fighter:
    """One fighter's state, an attribute for each row of the field table, and how it goes on from frame to frame."""

    def __init__(self, index: int, internal_id: int, stage: Stage) -> None:
        for f in FIELDS:
            setattr(self, f.name, 0.0 if f.dtype == "float32" else 0)
        self.index, self.stage, self.character = index, stage, internal_id
        self.gravity, self.terminal, self.jump_speed = FALLING.get(internal_id, USUAL_FALLING)
        self.all_jumps = character(internal_id).jumps
        self.x, self.y = map(f32, stage.entry[index])
        self.shield, self.stocks, self.facing = FIELD["shield"].high, 4, stage.facing[index]
        self.last_hit_by, self.ground, self.airborne, self.jumps = NO_PLAYER, NO_GROUND, 1, self.all_jumps - 1
        self.invulnerable, self.has_hit = 0, False
        self.enter(ENTRY, -1)

    def enter(self, action: int, age: float = 0) -> None:
        self.action, self.state_age, self.lasted, self.misc_as, self.has_hit = action, age, 0, 0.0, False

    def still(self) -> None:
        self.self_x_air = self.self_y = self.knockback_x = self.knockback_y = self.self_x_ground = 0.0

    @property
    def alive(self) -> bool:
        return self.action > REBIRTH_WAIT and self.action not in (ENTRY, ENTRY_START, ENTRY_END)

    @property
    def stunned(self) -> bool:
        return bool(self.flags_4 & 0x02)

    def step(self, pad: Pad, frame: int, other: Fighter) -> None:
        """The next frame, but for being hit."""
        self.invulnerable = max(self.invulnerable - 1, 0)
        self.hurtbox = int(self.invulnerable > 0)
        if self.hitlag:
            self.hitlag -= 1
            if self.hitlag:
                return
            self.flags_2 &= ~0x30
        before, self.lasted = self.action, self.lasted + 1
        if self.alive:
            self._act(pad, frame)
        else:
            self._wait_for_control(pad, frame, other)
        if self.action == before and self.lasted and before not in (*DEATHS, ENTRY, ENTRY_END):
            self.state_age += 1

    def _wait_for_control(self, pad: Pad, frame: int, other: Fighter) -> None:
        """Entry, death, rebirth."""
        if self.action in DEATHS:
            if self.lasted < TIMING[DEATHS[self.action]]:
                self.misc_as = counter(TIMING[DEATHS[self.action]] - self.lasted)
            else:
                self._be_reborn(other)
        elif self.action == REBIRTH:
            if self.lasted < TIMING["rebirth"]:
                self.y, self.misc_as = f32(self.y + self.self_y), counter(TIMING["rebirth"] - self.lasted)
            else:
                self.still()
                self.enter(REBIRTH_WAIT)
                self.misc_as = counter(TIMING["rebirth_wait"])
        elif self.action == REBIRTH_WAIT:
            self.misc_as = counter(TIMING["rebirth_wait"] - self.lasted)
            if pad != Pad() or self.lasted == TIMING["rebirth_wait"]:
                self.invulnerable, self.hurtbox = TIMING["invulnerable"], 1
                self._fall(0)
                self._move(frame)
        else:
            self._enter_match(frame)

    def _enter_match(self, frame: int) -> None:
        end = TIMING[f"entry_end_player_{self.index + 1}"]
        if self.action == ENTRY and frame == FIRST_FRAME + 5 * (self.index + 1):
            self.enter(ENTRY_START)
        elif self.action == ENTRY_START and frame == end - 20:
            self.enter(ENTRY_END, -1)
        elif frame == end:
            self._fall(0)
            self._move(frame)
        self.flags_5 = 0x40 if self.action == ENTRY else 0

    def _be_reborn(self, other: Fighter) -> None:
        rebirth = self.stage.rebirth
        crowded = rebirth.x[self.index] == 0 and other.action in (REBIRTH, REBIRTH_WAIT)
        self.enter(REBIRTH)
        self.misc_as = counter(TIMING["rebirth"])
        self.x, self.y = f32(16.0 if crowded else rebirth.x[self.index]), f32(rebirth.y_from)
        self.self_y = f32((rebirth.y_platform - rebirth.y_from) / (TIMING["rebirth"] - 1))
        self.percent, self.shield, self.ground, self.last_hit_by = 0.0, FIELD["shield"].high, NO_GROUND, NO_PLAYER
        self.flags_5 = self.last_attack = self.combo_count = 0
        self.jumps, self.facing = self.all_jumps - 1, 1 if self.x <= 0 else -1

    def _act(self, pad: Pad, frame: int) -> None:
        """A fighter under control, or stunned."""
        self.l_cancel = 0
        if self.stunned:
            self.misc_as -= 1
            if self.misc_as <= 0:
                self.flags_4 &= ~0x02
                self.enter(TUMBLE)
        if self.airborne:
            self._fly(pad)
        else:
            self._stand(pad)
        self.flags_3 = 0x80 if self.action == SHIELD else 0
        self.shield = f32(max(self.shield - 0.28, 1) if self.flags_3 else min(self.shield + 0.07, FIELD["shield"].high))
        self._decay_knockback()
        self._move(frame)
        self._die()

    def _fly(self, pad: Pad) -> None:
        free = not self.stunned and self.lasted >= LASTS.get(self.action, 0)
        if free and pad.attacks:
            self.enter(AERIAL)
        elif free and pad.buttons & X and self.jumps:
            self.enter(DOUBLE_JUMP)
            self.jumps -= 1
            self.flags_2 &= ~0x08
            self.self_y, self.self_x_air = self.jump_speed, f32(pad.main_x / 80)
            return
        elif free and self.action not in (FALL, TUMBLE) and self.self_y < 0:
            self.enter(FALL)
        if not self.stunned:
            drift = self.self_x_air + 0.06 * pad.main_x / 80
            self.self_x_air = f32(min(max(drift, -0.9), 0.9))
            if pad.main_y <= -53 and self.self_y < 0:
                self.flags_2 |= 0x08
        fast = bool(self.flags_2 & 0x08)
        self.self_y = f32(-1.2 * self.terminal if fast else max(self.self_y - self.gravity, -self.terminal))

    def _stand(self, pad: Pad) -> None:
        if self.action == JUMP_SQUAT and self.lasted >= LASTS[JUMP_SQUAT]:
            self.enter(JUMP)
            self.airborne, self.jumps = 1, self.all_jumps - 1
            self.self_y, self.self_x_air, self.self_x_ground = self.jump_speed, f32(0.9 * pad.main_x / 80), 0.0
            return
        self.self_y = 0.0
        if self.lasted >= LASTS.get(self.action, 0) or (self.action == DASH and pad.main_x * self.facing <= 0):
            self._choose(pad)
        if self.action in (DASH, RUN, WALK):
            speed = 1.9 * self.facing if self.action != WALK else pad.main_x / 80
        else:
            speed = math.copysign(max(abs(self.self_x_ground) - 0.08, 0), self.self_x_ground)
        self.self_x_ground = self.self_x_air = f32(speed)

    def _choose(self, pad: Pad) -> None:
        if pad.main_x and not pad.attacks:
            self.facing = 1 if pad.main_x > 0 else -1
        wanted = (
            SHIELD if pad.shoulder
            else SHIELD_OFF if self.action == SHIELD
            else JUMP_SQUAT if pad.buttons & X
            else JAB if pad.attacks
            else RUN if abs(pad.main_x) >= 64 and self.action in (DASH, RUN)
            else DASH if abs(pad.main_x) >= 64
            else WALK if pad.main_x
            else WAIT
        )  # fmt: skip
        if wanted != self.action:
            self.enter(wanted)

    def _decay_knockback(self) -> None:
        size = math.hypot(self.knockback_x, self.knockback_y)
        keep = 1 - 0.051 / size if size > 0.051 else 0.0
        self.knockback_x, self.knockback_y = f32(keep * self.knockback_x), f32(keep * self.knockback_y)

    def _move(self, frame: int) -> None:
        """Position plus velocity; then landing, or the end of what the fighter stands on."""
        was_y = self.y
        self.x = f32(self.x + (self.self_x_air if self.airborne else self.self_x_ground) + self.knockback_x)
        if self.airborne:
            self.y = f32(self.y + self.self_y + self.knockback_y)
            below = [(y, g) for y, g in self._heights(frame) if self.y <= y <= was_y]
            if below:
                self._land(*max(below))
            return
        level = [(abs(y - self.y), y, g) for y, g in self._heights(frame) if abs(y - self.y) < 0.7]
        if level:
            _, y, self.ground = min(level)
            self.y = f32(y + 0.0001)
        else:
            self.airborne, self.jumps = 1, self.all_jumps - 1
            self.enter(FALL)

    def _heights(self, frame: int) -> list[tuple[float, int]]:
        """(height, ground id) of all surfaces above or below the fighter; the moving cloud is left out."""
        ends = [(s.id, s.at(frame)) for s in self.stage.surfaces if not s.path]
        return [
            (e.y_left + (e.y_right - e.y_left) * (self.x - e.x_left) / (e.x_right - e.x_left), ground)
            for ground, e in ends
            if e.x_left <= self.x <= e.x_right
        ]

    def _land(self, y: float, ground: int) -> None:
        self.y, self.ground, self.airborne, self.jumps = f32(y + 0.0001), ground, 0, self.all_jumps
        self.l_cancel = 2 * int(self.action == AERIAL)
        self.enter(AERIAL_LANDING if self.action == AERIAL else LANDING)
        self.self_x_ground, self.knockback_x, self.knockback_y = f32(self.self_x_air + self.knockback_x), 0.0, 0.0
        self.flags_2 &= ~0x08
        self.flags_4 &= ~0x02

    def _fall(self, speed: float) -> None:
        self.enter(FALL)
        self.self_x_air, self.self_y = 0.0, f32(speed - self.gravity)

    def _die(self) -> None:
        blast = self.stage.blast
        crossed = {
            DEAD_DOWN: self.y < blast.bottom,
            DEAD_LEFT: self.x < blast.left,
            DEAD_RIGHT: self.x > blast.right,
            DEAD_UP: self.y > blast.top and self.knockback_y > 0,
        }
        for action in (action for action, out in crossed.items() if out):
            self.enter(action, -1)
            self.still()
            self.misc_as = counter(TIMING[DEATHS[action]])
            self.flags_2, self.flags_3, self.flags_4, self.flags_5 = 0, 0, 0, 0xC0
            self.invulnerable = self.hurtbox = 0
            self.stocks -= 1
            return

    def be_hit(self, by: Fighter, move: Move) -> None:
        """Percent, hitlag for both, and either knockback and hitstun, or a smaller shield."""
        self.hitlag = by.hitlag = float(int(move.damage / 3 + 3))
        self.flags_2, by.flags_2 = self.flags_2 | 0x30, by.flags_2 | 0x20
        if self.action == SHIELD:
            self.shield = f32(max(self.shield - move.damage, 1))
            return
        by.last_attack, by.combo_count = move.attack, by.combo_count + 1 if self.stunned else 1
        self.percent, self.last_hit_by = f32(self.percent + move.damage), by.index
        launch = 0.9 + 0.02 * self.percent + 0.06 * move.damage
        away = 1 if self.x > by.x else -1
        self.enter(DAMAGE_FLY if launch > 2 else DAMAGE_AIR)
        self.still()
        self.knockback_x, self.knockback_y = f32(away * 0.7 * launch), f32(0.7 * launch)
        self.facing, self.airborne, self.jumps = -away, 1, min(self.jumps, self.all_jumps - 1)
        self.misc_as, self.flags_4, self.flags_3 = float(int(13 * launch)), self.flags_4 | 0x02, 0


def strike(one: Fighter, two: Fighter) -> None:
    """The hits of a frame; both may hit at once."""
    pairs = [(one, two), (two, one)]
    hits = [(by, hit, MOVES[by.action]) for by, hit in pairs if by.action in MOVES and _connects(by, hit)]
    for by, hit, move in hits:
        by.has_hit = True
        hit.be_hit(by, move)


def _connects(by: Fighter, hit: Fighter) -> bool:
    move = MOVES[by.action]
    near = abs(by.x - hit.x) < move.reach and abs(by.y - hit.y) < move.reach
    return near and by.state_age in move.active and not by.has_hit and hit.alive and not hit.hurtbox
