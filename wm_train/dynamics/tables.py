"""Tables of what happens oftenest: in a move at an age, to a character. Measured on training games, part of the model.

Quantities along x are mirrored by the facing before the step: positive is ahead.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from wm_runtime.facts import FAMILIES, physics
from wm_runtime.replays.dataset import Dataset
from wm_runtime.schema import FIELD, VELOCITIES
from wm_train.dynamics.beams import near_lasers
from wm_train.dynamics.blows import LEAST_LIKELY, RARE
from wm_train.dynamics.common import GRID, commonest
from wm_train.dynamics.feet import bounds_of_game, heights, shown_by_walls
from wm_train.dynamics.geometry import Geometry
from wm_train.dynamics.going import GOES, JUMP_BITS, KEEPS, LEAPS, SQUAT, TAPPED, usual_velocities
from wm_train.dynamics.heights import Heights
from wm_train.dynamics.launch import Launches, weights
from wm_train.dynamics.memory import AIR_JUMPS, AT_PLACE, LOCKED
from wm_train.dynamics.named import Named
from wm_train.dynamics.stale import frames_since, freshness, struck_in_game
from wm_train.dynamics.strikes import BOXES, Strikes, near_of_game

CHARACTERS, ACTIONS = FIELD["character"].classes or 0, FIELD["action"].classes or 0
AGES = 120
"""Ages of a move beyond this share a row."""
SEEN = 5
"""What was seen so often is told."""
KEPT = 8
"""Rows are kept to the last age that was seen so often."""
MIRRORED = ("self_x_air", "self_x_ground", "knockback_x", "x")
MOVE_COLUMNS: tuple[str, ...] = (
    *(f"{name}.value" for name in VELOCITIES), *(f"{name}.change" for name in VELOCITIES), "x.change", "y.change",
    "misc_as.value", "edge_x.value", "edge_y.value",
)  # fmt: skip
HELD_COLUMNS = ("held_x.value", "held_y.value")
"""Where a fighter is that another one holds: ahead of and above the holder, by the holder's move and age."""
CHANGES, VALUES = 24, 8
"""Commonest changes and values of a velocity that are kept of a character."""
AGE_STARTS, AGE_RATES = 3, 3
"""Commonest first ages and rates that are kept of a move."""
KINDS = ("value", "change")
LOOP_SLACK = 0.01
"""A loop begins again at an age that is so much beyond its last one."""
DAMAGES = 6
"""Commonest rises of percent that are kept of an attacker's move."""
SAME_DAMAGE = 0.02
"""Damages so near each other are the same, percent."""
WALKS, DASH, RUN = (15, 16, 17), 20, 21
USUAL_DASH, MOST_DASH = (0.06, 0.02), 0.3
"""What a dash gains where it could not be measured, for each unit of stick and beside; more than that is no measure."""
RUN_SHARE = 0.4
"""A run gains this share of a dash's acceleration."""
HOLDS = ("grabbed", "thrown", "captured")
LEDGE_ACTIONS = tuple(range(252, 264))
BY_AGE = ("moves", "held", "spin", "feet", "goes", "odds", "following", "seen")
BY_RUN = ("run_odds", "run_following", "run_seen")
BY_MOVE = ("lasts", "known")
"""Buffers with a row for each age of a move, each number of frames in it, each move; the first two are as long as the
games make them."""
SIZED = (*BY_AGE, *BY_RUN, "vectors", "run_vectors")
KNOWN = 4
"""Level of `seen` from which a row has a vector of its own: fifteen frames."""
SLOWED = ("speed_air.change", "speed_ground.change", "length.change")
ENTRY_SHARES = (0.25, 1 / 3, 0.5, 2 / 3, 0.75, 0.8, 0.9, 1.0)
"""Shares of the velocity along x in the air that moves leave as they begin."""
DRIFT_ACTIONS = tuple(range(25, 35))
"""Jumping and falling, where only the stick moves a fighter along x."""


class MoveTables(nn.Module):
    """Buffers whose sizes follow from the games that they were measured on."""

    first: Tensor
    """(characters · actions,): row of a move's age 0; row 0 is that of moves never seen."""
    count: Tensor
    moves: Tensor
    """(rows, MOVE_COLUMNS): NaN where nothing was common."""
    changes: Tensor
    """(characters, velocities, CHANGES)."""
    values: Tensor
    age_start: Tensor
    """(characters · actions, AGE_STARTS)."""
    age_rate: Tensor
    loop: Tensor
    """(characters · actions, 2): last age of a loop and first age after."""
    damage: Tensor
    """(characters · actions, DAMAGES) of the attacker, of a move that is fresh (dynamics.stale)."""
    drift: Tensor
    """(characters, 2): acceleration in the air by the stick, and beside the stick's amount."""
    ground: Tensor
    """(characters, 5): walking acceleration by the stick and beside it, the same of a dash, speed of a run."""
    pace: Tensor
    """(characters · actions,): change of age for each unit of speed on the ground."""
    held: Tensor
    """(rows, HELD_COLUMNS)."""
    slow: Tensor
    """(characters · actions, 3): what a move takes of the speed along x in the air, on the ground, and of the own
    velocity's length, a frame."""
    jump: Tensor
    """(characters, 3): a jump's speed along x for each unit of stick and of speed on the ground, and the most of it."""
    air_jump: Tensor
    """(characters, 2): the same of a jump in the air by the stick, and beside the stick's amount."""
    burst: Tensor
    """(characters · actions,): length of the own velocity with which a move begins in the air, along the stick."""
    steer: Tensor
    """(characters · actions,): what the stick adds a frame to a move's usual change of the velocity along x."""
    kept: Tensor
    """(characters · actions,): share of the own velocity that is left a frame later, in moves that lose a share."""
    spin: Tensor
    """(rows, 2): the own velocity in the air as a complex number (ahead, up), divided by that of the frame before:
    moves that go the way of the stick keep their course turned."""
    entry: Tensor
    """(characters · actions, 2): share of the velocity along x in the air with which a move begins, and what it loses
    then."""
    lasts: Tensor
    """(characters · actions,): the age that a move hardly ever passes."""
    feet: Tensor
    """(rows,): height of the feet above a fighter's own place in the air (dynamics.feet)."""
    goes: Tensor
    """(rows, GOES): what moves and ages do to the own velocity (dynamics.going)."""
    hop: Tensor
    """(characters, 2): speed up of a short and of a full hop."""
    last_attack: Tensor
    """(characters · actions,): id that a move's hit leaves in last_attack."""
    odds: Tensor
    """(rows, 2): share of frames after which a move ends at this age, and of the commonest next action in those."""
    following: Tensor
    """(rows,): that action."""
    seen: Tensor
    """(rows,): on how many frames n, as ⌊log₂(1 + n)⌋."""
    vectors: Tensor
    """(rows,): which vector of an embedding is a row's; those that were seen too seldom share the first."""
    known: Tensor
    """(characters · actions,): whether the move was seen."""
    run_first: Tensor
    """(characters · actions,): as `first`, of rows by the frames for which an action has lasted."""
    run_count: Tensor
    run_odds: Tensor
    run_following: Tensor
    run_seen: Tensor
    run_vectors: Tensor
    folds: dict[str, Tensor]
    """While training: the tables, and after them those that were measured without each fold of the games, by name."""
    fold: Tensor | None
    """While training: which of these a match is told, (N, 1) int64; 0 is the whole."""

    def __init__(self, rows: int = 1, run_rows: int = 1) -> None:
        super().__init__()
        moves = CHARACTERS * ACTIONS
        shapes: dict[str, tuple[int, ...]] = {
            "moves": (rows, len(MOVE_COLUMNS)),
            "changes": (CHARACTERS, len(VELOCITIES), CHANGES),
            "values": (CHARACTERS, len(VELOCITIES), VALUES),
            "age_start": (moves, AGE_STARTS),
            "age_rate": (moves, AGE_RATES),
            "loop": (moves, 2),
            "damage": (moves, DAMAGES),
            "drift": (CHARACTERS, 2),
            "ground": (CHARACTERS, 5),
            "pace": (moves,),
            "held": (rows, len(HELD_COLUMNS)),
            "slow": (moves, 3),
            "jump": (CHARACTERS, 3),
            "air_jump": (CHARACTERS, 2),
            "burst": (moves,),
            "steer": (moves,),
            "kept": (moves,),
            "spin": (rows, 2),
            "entry": (moves, 2),
            "feet": (rows,),
            "goes": (rows, len(GOES)),
            "hop": (CHARACTERS, 2),
            "lasts": (moves,),
        }
        for name, shape in shapes.items():
            self.register_buffer(name, torch.full(shape, float("nan")))
        for name in ("first", "count", "last_attack", "run_first", "run_count"):
            self.register_buffer(name, torch.zeros(moves, dtype=torch.int64))
        for name, size in (("", rows), ("run_", run_rows)):
            self.register_buffer(f"{name}odds", torch.zeros(size, 2))
            self.register_buffer(f"{name}following", torch.zeros(size, dtype=torch.int64))
            self.register_buffer(f"{name}seen", torch.zeros(size))
            self.register_buffer(f"{name}vectors", torch.zeros(size, dtype=torch.int64))
        self.register_buffer("known", torch.zeros(moves, dtype=torch.bool))
        self.register_buffer("by_box", torch.zeros(moves, BOXES * DAMAGES))
        self.folds, self.fold = {}, None
        self.launches = Launches()
        self.strikes, self.heights = Strikes(rows), Heights()

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs) -> None:
        """The number of rows is that of the weights which are loaded."""
        for name in SIZED:
            if f"{prefix}{name}" in state_dict:
                setattr(self, name, torch.empty_like(state_dict[f"{prefix}{name}"]))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def of(self, name: str) -> Tensor:
        """The buffer that rows, or for BY_MOVE moves, are rows of."""
        return getattr(self, name) if self.fold is None else self.folds[name]

    def row(self, character: Tensor, action: Tensor, age: Tensor) -> Tensor:
        """(N, 2) each → row of the buffers BY_AGE, (N, 2) int64."""
        move = (character * ACTIONS + action).long()
        index = (age + 1.001).floor().clamp(0, AGES - 1).long()
        inside = index < self.count[move]
        return self._in_fold(torch.where(inside, self.first[move] + index, torch.zeros_like(index)), self.moves)

    def looped(self, move: Tensor, age: Tensor) -> Tensor:
        """Moves and the ages that they reach (…) → the same ages, but where a loop begins again."""
        last, first = self.loop[move].unbind(dim=-1)
        return torch.where(age > last + LOOP_SLACK, first, age)

    def feet_of(self, character: Tensor, action: Tensor, age: Tensor, numbers: Named, later: int) -> Tensor:
        """Move and age of fighters in the air and their memory.NUMBERS so many frames before (N, 2) → how high their
        feet are above their place, units (N, 2): where the pose has them, unless they are locked."""
        feet = self.of("feet")
        locked = feet[self.row(character, numbers["locked_action"], numbers["locked_age"].float())]
        locked = torch.where(numbers["locked_action"] == AT_PLACE, torch.zeros_like(locked), locked)
        pose = feet[self.row(character, action, age)]
        return torch.where(numbers["since_leap"] + later < LOCKED, locked, pose)

    def run_row(self, character: Tensor, action: Tensor, frames: Tensor) -> Tensor:
        """(N, 2) each → row of the buffers BY_RUN for an action that has lasted `frames`, (N, 2) int64."""
        move = (character * ACTIONS + action).long()
        index = frames.float().clamp(0, AGES - 1).long()
        inside = index < self.run_count[move]
        return self._in_fold(torch.where(inside, self.run_first[move] + index, torch.zeros_like(index)), self.run_odds)

    def move(self, character: Tensor, action: Tensor) -> Tensor:
        """(N, 2) each → row of the buffers BY_MOVE, (N, 2) int64."""
        return self._in_fold((character * ACTIONS + action).long(), self.lasts)

    def vector(self, row: Tensor, run: bool = False) -> Tensor:
        """Rows by age, or by frames in the action, (N, 2) → rows of their embedding, (N, 2)."""
        vectors = self.run_vectors if run else self.vectors
        if self.fold is None:
            return vectors[row]
        seen = self.folds["run_seen" if run else "seen"][row] >= KNOWN
        return torch.where(seen, vectors[row % len(vectors)], torch.zeros_like(row))

    def move_folds(self, device: torch.device) -> None:
        for owner in (self, self.strikes):
            owner.folds = {name: table.to(device) for name, table in owner.folds.items()}

    def _rows_in(self, part: MoveTables, first: str, count: str) -> Tensor:
        """Row of the same move and age of other tables, for each row of these; 0 where it has none."""
        move = torch.arange(len(self.count)).repeat_interleave(getattr(self, count))
        age = torch.arange(len(move)) + 1 - getattr(self, first)[move]
        inside = age < getattr(part, count)[move]
        row = torch.where(inside, getattr(part, first)[move] + age, torch.zeros_like(age))
        return torch.cat([row.new_zeros(1), row])

    def _in_fold(self, row: Tensor, table: Tensor) -> Tensor:
        return row if self.fold is None else row + self.fold * len(table)

    def told_apart(self, parts: Sequence[MoveTables]) -> None:
        """Sets `folds`: these tables, and the parts', each of which was measured without a fold of the games."""
        rows = [self._rows_in(part, "first", "count") for part in parts]
        run_rows = [self._rows_in(part, "run_first", "run_count") for part in parts]
        for names, found in ((BY_AGE, rows), (BY_RUN, run_rows)):
            for name in names:
                others = [getattr(part, name)[row] for part, row in zip(parts, found, strict=True)]
                self.folds[name] = torch.cat([getattr(self, name), *others])
        for name in BY_MOVE:
            self.folds[name] = torch.cat([getattr(part, name) for part in (self, *parts)])
        self.strikes.told_apart([part.strikes for part in parts], rows)

    @torch.no_grad()
    def measure(self, dataset: Dataset, games: list[int]) -> None:
        """Fills the tables from `games` of a dataset."""
        steps, nears, falls = [], [], []
        for game in games:
            columns = dataset.columns(game)
            steps.append(_steps(columns, _edge(int(dataset.stage[game]))))
            nears.append(near_of_game(columns, self.strikes))
            falls.append(bounds_of_game(columns, int(dataset.stage[game])))
        step, near, fall = ({n: np.concatenate([s[n] for s in of]) for n in of[0]} for of in (steps, nears, falls))
        del steps, nears, falls
        self._measure_moves(step)
        self._measure_characters(step)
        self._measure_ages(step)
        self._measure_attacks(step)
        self._measure_jumps(step)
        self._measure_going(step)
        self._measure_odds(step)
        self._measure_steering(step)
        self._measure_courses(step)
        self._measure_feet(fall)
        near, shot = (
            {**of, "row": self._rows(of["victim"], of["victim_age"])} for of in (near, near_lasers(dataset, games))
        )
        self.strikes.measure(near, self._owners(), shot)
        box, contact = self.strikes.boxes_of(near)
        self.heights.measure(near, box, contact)
        self._measure_boxes(near, box.numpy())

    def _measure_moves(self, step: dict[str, np.ndarray]) -> None:
        index = np.clip(np.floor(step["state_age"] + 1.001), 0, AGES - 1).astype(np.int64)
        key = step["move"] * AGES + index
        visits = np.bincount(key, minlength=CHARACTERS * ACTIONS * AGES)
        ages, seen = (visits >= KEPT).reshape(-1, AGES), visits >= SEEN
        count = np.where(ages.any(axis=1), AGES - ages[:, ::-1].argmax(axis=1), 0)
        first = np.cumsum(count) - count + 1
        holder = step["other_move"] * AGES + np.clip(np.floor(step["other_age"] + 1.001), 0, AGES - 1).astype(np.int64)
        for table, names, keys, mask in (
            ("moves", MOVE_COLUMNS, key, None), ("held", HELD_COLUMNS, holder, step["is_held"]),
        ):  # fmt: skip
            found = np.full((1 + int(count.sum()), len(names)), np.nan, np.float32)
            for i, name in enumerate(names):
                chosen = slice(None) if mask is None else mask
                rows, values = _oftenest(keys[chosen], step[name][chosen])
                move, age = np.divmod(rows, AGES)
                keep = seen[rows] & (age < count[move])
                move, age = move[keep], age[keep]
                found[first[move] + age, i] = values[keep]
            setattr(self, table, torch.from_numpy(found))
        self.first, self.count = torch.from_numpy(first), torch.from_numpy(count)

    def _measure_characters(self, step: dict[str, np.ndarray]) -> None:
        free = step["hitlag"] == 0
        for i, name in enumerate(VELOCITIES):
            for table, kind, size in ((self.changes, "change", CHANGES), (self.values, "value", VALUES)):
                value = step[f"{name}.{kind}"]
                mask = free & (np.abs(value) > 5e-4)
                key = step["character"][mask].astype(np.int64)
                (rows, rank), values, _ = commonest(np.stack([key, np.zeros_like(key)]), value[mask], size)
                table[torch.from_numpy(rows), i, torch.from_numpy(rank)] = torch.from_numpy(values)
        for character in np.unique(step["character"]):
            mask = (step["character"] == character) & step["drifts"] & free
            fit = drift_of(step["stick"][mask], step["self_x_air.change"][mask])
            if fit is not None:
                self.drift[int(character)] = torch.tensor(fit)
            self._measure_ground(step, int(character), free & (step["character"] == character))

    def _measure_ground(self, step: dict[str, np.ndarray], character: int, mine: np.ndarray) -> None:
        """A walk gains (a·stick ± b)·(1 − v / (stick · top)), a dash a·stick ± b, a run a share of it; no faster than
        stick · top."""
        stick, change = step["stick"], step["self_x_ground.change"]
        speed = step["self_x_ground.value"] - change
        top = physics("walk")
        if character >= len(top) or np.isnan(top[character]):
            return
        still = mine & step["same_kind"] & (stick > 0.3)
        walks = still & np.isin(step["action"], WALKS)
        rest = 1 - speed[walks] / (stick[walks] * top[character])
        near = rest > 0.05
        walk = drift_of(stick[walks][near], change[walks][near] / rest[near])
        if walk is not None:
            self.ground[character, :2] = torch.tensor(walk)
        goes = still & np.isin(step["action"], (DASH, RUN)) & (np.abs(stick) > 0.5)
        run = _top_speed(stick[goes], step["self_x_ground.value"][goes])
        if run is None:
            return
        self.ground[character, 2:] = torch.tensor([*USUAL_DASH, run])
        gains = still & (step["action"] == DASH) & (change > 1e-3) & (speed + change < stick * run - 2e-3)
        dash = drift_of(stick[gains], change[gains])
        if dash is not None and min(dash) > -1e-3 and max(dash) < MOST_DASH:
            self.ground[character, 2:4] = torch.tensor(dash)

    def _measure_ages(self, step: dict[str, np.ndarray]) -> None:
        same, free = step["same"], (step["hitlag"] == 0) & (step["hitlag_before"] == 0)
        age, change = step["state_age"], step["state_age.change"]
        order = np.lexsort((age, step["move"]))
        moves, begins, counts = np.unique(step["move"][order], return_index=True, return_counts=True)
        self.lasts[torch.from_numpy(moves)] = torch.from_numpy(age[order][begins + (counts - 1) * 995 // 1000])
        loops = same & free & (change < 0)
        speed = step["last_speed"]
        paced = same & free & (change > 0) & (speed > 0.05)
        for i, name in enumerate(SLOWED):
            slows = same & free & (step[name] < -1e-3)
            rows, values = _oftenest(step["move"][slows], step[name][slows])
            self.slow[torch.from_numpy(rows), i] = torch.from_numpy(-values)
        rows, values = _oftenest(step["move"][paced], change[paced] / speed[paced], grid=1e3)
        self.pace[torch.from_numpy(rows)] = torch.from_numpy(values)
        picks = (
            (self.age_start, ~same, age, AGE_STARTS),
            (self.age_rate, same & free & (change > 1e-4), change, AGE_RATES),
            (self.loop[:, :1], loops, age - change, 1),
            (self.loop[:, 1:], loops, age, 1),
        )
        for table, mask, value, size in picks:
            key = step["move"][mask]
            (rows, rank), values, _ = commonest(np.stack([key, np.zeros_like(key)]), value[mask], size)
            table[torch.from_numpy(rows), torch.from_numpy(rank)] = torch.from_numpy(values)
        for table in (self.age_start, self.age_rate):
            as_others(table)

    def _measure_odds(self, step: dict[str, np.ndarray]) -> None:
        ends, followed = ~step["same"], step["action"].astype(np.int64)
        row = self._rows(step["move_before"], step["age_before"])
        self.odds, self.following, self.seen = _odds(row, ends, followed, len(self.moves))
        self.vectors, self.known = _numbered(self.seen >= KNOWN), self.count > 0
        run = np.clip(step["frames_in_action"], 0, AGES - 1).astype(np.int64)
        seen = np.bincount(step["move_before"] * AGES + run, minlength=CHARACTERS * ACTIONS * AGES) >= KEPT
        lasts = seen.reshape(-1, AGES)
        count = np.where(lasts.any(axis=1), AGES - lasts[:, ::-1].argmax(axis=1), 0)
        first = np.cumsum(count) - count + 1
        self.run_first, self.run_count = torch.from_numpy(first), torch.from_numpy(count)
        inside = run < count[step["move_before"]]
        row = np.where(inside, first[step["move_before"]] + run, 0)
        self.run_odds, self.run_following, self.run_seen = _odds(row, ends, followed, 1 + int(count.sum()))
        self.run_vectors = _numbered(self.run_seen >= KNOWN)

    def _rows(self, move: np.ndarray, age: np.ndarray) -> np.ndarray:
        """`row` of moves at ages (P,) while tables are measured."""
        index = np.clip(np.floor(age + 1.001), 0, AGES - 1).astype(np.int64)
        return np.where(index < self.count.numpy()[move], self.first.numpy()[move] + index, 0)

    def _measure_jumps(self, step: dict[str, np.ndarray]) -> None:
        jumps = (step["action_before"] == SQUAT) & np.isin(step["action"], LEAPS)
        leaps = np.isin(step["action"], AIR_JUMPS) & ~step["same"]
        stick, value, ground = step["stick"], step["self_x_air.value"], step["ground_before"]
        held = step["stick_before"]
        for character in np.unique(step["character"]):
            mine = step["character"] == character
            fit = drift_of(stick[mine & leaps], value[mine & leaps])
            if fit is not None:
                self.air_jump[int(character)] = torch.tensor(fit)
            still = mine & jumps & (np.abs(ground) < 1e-4) & (np.abs(held) > 0.3)
            moving = mine & jumps & (np.abs(ground) > 0.2)
            if still.sum() < SEEN or moving.sum() < SEEN:
                continue
            a = _mode(value[still] / held[still])
            most = np.quantile(np.abs(value[mine & jumps]), 0.999)
            free = moving & (np.abs(value) < most - 1e-3)
            if free.sum() >= SEEN:
                b = _mode((value[free] - a * held[free]) / ground[free])
                self.jump[int(character)] = torch.tensor([a, b, most])

    def _measure_going(self, step: dict[str, np.ndarray]) -> None:
        free = (step["hitlag_before"] <= 1) & (step["hitlag"] <= 0) & (step["percent.change"] <= 0)
        free &= (step["airborne_before"] == 0) | (step["airborne"] == 1)
        of = {name: step[name][free] for name in ("move", "state_age", "character", "airborne")}
        of |= {f"{name}.{kind}": step[f"{name}.{kind}"][free] for name in ("own_x", "self_y") for kind in KINDS}
        row, rows = self._rows(of["move"], of["state_age"]), len(self.moves)
        gravity, terminal = (np.nan_to_num(physics(name)) for name in ("gravity", "terminal"))
        who, air = np.minimum(of["character"], len(gravity) - 1), of["airborne"] == 1
        falls = gravity[who] * air, terminal[who] * air
        parts = [
            usual_velocities(row, rows, of[f"{name}.value"] - of[f"{name}.change"], of[f"{name}.value"], fall)
            for name, fall in (("own_x", None), ("self_y", falls))
        ]
        self.goes = torch.from_numpy(np.concatenate(parts, axis=1))
        self.goes[0] = torch.tensor(KEEPS)
        leaps = (step["action_before"] == SQUAT) & np.isin(step["action"], LEAPS)
        for i, high in enumerate((False, True)):
            these = leaps & (step["jump_held"] == high)
            rows_, values = _oftenest(step["character"][these].astype(np.int64), step["self_y.value"][these])
            self.hop[torch.from_numpy(rows_), i] = torch.from_numpy(values)

    def _measure_steering(self, step: dict[str, np.ndarray]) -> None:
        air, free = step["airborne"] == 1, (step["hitlag"] == 0) & (step["hitlag_before"] == 0)
        begins = air & ~step["same"] & (step["length"] > 1.0)
        rows, values = _oftenest(step["move"][begins], step["length"][begins], grid=1e3)
        self.burst[torch.from_numpy(rows)] = torch.from_numpy(values)
        row = self._rows(step["move"], step["state_age"])
        usual = np.nan_to_num(self.moves.numpy()[row, MOVE_COLUMNS.index("self_x_air.change")])
        steered = air & free & step["same"] & (np.abs(step["stick"]) > 0.3)
        pull = (step["self_x_air.change"] - usual)[steered] / step["stick"][steered]
        moved = np.abs(pull) > 2e-3
        rows, values = _oftenest(step["move"][steered][moved], pull[moved], grid=1e3)
        self.steer[torch.from_numpy(rows)] = torch.from_numpy(values)
        slows = air & free & step["same"] & (step["length_before"] > 0.3)
        share = step["length"][slows] / step["length_before"][slows]
        lost = (share > 0.5) & (share < 0.99)
        rows, values = _oftenest(step["move"][slows][lost], share[lost], grid=1e3)
        self.kept[torch.from_numpy(rows)] = torch.from_numpy(values)

    def _measure_courses(self, step: dict[str, np.ndarray]) -> None:
        """`spin` and `entry`."""
        air, free = step["airborne"] == 1, (step["hitlag"] == 0) & (step["hitlag_before"] == 0)
        goes_on = air & free & step["same"] & (step["length_before"] > 0.2)
        own = step["self_x_air.value"] + 1j * step["self_y.value"]
        ratio = own / np.where(goes_on, own - step["self_x_air.change"] - 1j * step["self_y.change"], 1)
        goes_on &= np.abs(ratio) < 4
        row = self._rows(step["move"], step["state_age"])
        near = np.rint(ratio.real * 100 + 500) * 1000 + np.rint(ratio.imag * 100 + 500)  # below 2²⁴: exact in float32
        rows, codes = _oftenest(row[goes_on], near[goes_on], grid=1.0)
        common = np.full(len(self.moves), np.nan, np.float32)
        common[rows] = codes
        chosen = np.flatnonzero(goes_on & (near == common[row]))
        chosen = chosen[np.argsort(row[chosen], kind="stable")]
        found = np.full((len(self.moves), 2), np.nan, np.float32)
        at, begins = np.unique(row[chosen], return_index=True)
        for r, part in zip(at, np.split(ratio[chosen], begins[1:]), strict=True):
            found[r] = np.median(part.real), np.median(part.imag)
        self.spin = torch.from_numpy(found)

        speed, before = np.abs(step["self_x_air.value"]), step["self_x_air.value"] - step["self_x_air.change"]
        begins_ = air & free & ~step["same"] & (np.abs(before) > 0.05) & (step["self_x_air.value"] * before > 0)
        move, counts = step["move"][begins_], np.full(CHARACTERS * ACTIONS, SEEN - 1)
        for share in ENTRY_SHARES:
            loss = share * np.abs(before[begins_]) - speed[begins_]
            slower = loss > -1e-3
            (rows, _), losses, seen = commonest(np.stack([move[slower]] * 2), loss[slower], 1, least=SEEN, grid=1e3)
            better = seen > counts[rows]
            counts[rows[better]] = seen[better]
            self.entry[torch.from_numpy(rows[better])] = torch.from_numpy(
                np.stack([np.full(better.sum(), share), np.maximum(losses[better], 0)], axis=1).astype(np.float32)
            )

    def _owners(self) -> np.ndarray:
        """The move of each row (rows,); −1 that of row 0."""
        return np.concatenate([[-1], np.repeat(np.arange(CHARACTERS * ACTIONS), self.count.numpy())])

    def _measure_feet(self, bounds: dict[str, np.ndarray]) -> None:
        move, age, height = shown_by_walls()
        walls = dict(zip(self._rows(move, age).tolist(), height.tolist(), strict=True))
        walls.pop(0, None)
        reached = self.looped(torch.from_numpy(bounds["move"]), torch.from_numpy(bounds["age"])).numpy()
        self.feet = heights(bounds, self._rows(bounds["move"], reached), self._owners()[1:], walls)

    def _measure_boxes(self, near: dict[str, np.ndarray], box: np.ndarray) -> None:
        """By frames of `near_of_game` and the hitbox that strikes on each (P,): how much likelier each of a move's
        damages is than otherwise where a certain one of its hitboxes strikes, as a logit."""
        at = near["hit"] & ~near["shields"] & (near["damage"] > 0)
        near, box = {name: value[at] for name, value in near.items()}, box[at]
        of = self.damage.numpy()[near["move"]]  # (H, DAMAGES)
        off = np.abs(np.nan_to_num(of, nan=np.inf) - near["damage"][:, None])
        known = off.min(axis=1) < SAME_DAMAGE
        box, rank, move = box[known], off.argmin(axis=1)[known], near["move"][known]
        counts = np.zeros((len(self.damage), BOXES, DAMAGES), np.float32)
        np.add.at(counts, (move, box, rank), 1)
        share = counts.sum(axis=1, keepdims=True) / np.maximum(counts.sum(axis=(1, 2), keepdims=True), 1)
        with np.errstate(divide="ignore", invalid="ignore"):
            told = (counts + RARE * share) / (counts.sum(axis=2, keepdims=True) + RARE) / share
            logit = np.where(share > 0, np.log(told), 0.0).clip(LEAST_LIKELY, -LEAST_LIKELY)
        self.by_box = torch.from_numpy(logit.reshape(len(counts), -1).astype(np.float32))

    def _measure_attacks(self, step: dict[str, np.ndarray]) -> None:
        hit = step["percent.change"] > 0
        key = step["other_move"][hit]
        fresh = step["percent.change"][hit] / step["freshness"][hit]
        (rows, rank), values, _ = commonest(np.stack([key, np.zeros_like(key)]), fresh, DAMAGES, grid=1e3)
        self.damage[torch.from_numpy(rows), torch.from_numpy(rank)] = torch.from_numpy(values)
        struck = hit & step["is_hurt"]
        names = {"move": "other_move", "kb_x": "knockback_x.value", "kb_y": "knockback_y.value", "percent": "struck"}
        names |= {"weight": "weight", "stun": "misc_as.value"}
        self.launches.measure({n: step[of][struck] for n, of in names.items()})
        landed = step["last_attack.change"] != 0
        key = step["move"][landed]
        (rows, _), values, _ = commonest(np.stack([key, np.zeros_like(key)]), step["last_attack"][landed], 1)
        self.last_attack[torch.from_numpy(rows)] = torch.from_numpy(values).long()


def as_others(table: Tensor) -> None:
    """(characters · actions, K): what is not known of a fighter's action, in the first column, becomes what is
    commonest among the fighters of whom it is."""
    first = table[:, 0].view(CHARACTERS, ACTIONS)
    unknown = first.isnan()
    for action in ((~unknown).any(dim=0) & unknown.any(dim=0)).nonzero()[:, 0].tolist():
        values, counts = first[~unknown[:, action], action].unique(return_counts=True)
        first[unknown[:, action], action] = values[counts.argmax()]


def _odds(row: np.ndarray, ends: np.ndarray, followed: np.ndarray, rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """Row, whether the action ends, and the next action (P,) → odds (rows, 2), following and seen (rows,)."""
    visits = np.bincount(row, minlength=rows)
    seen = np.maximum(visits, 1)
    ended = np.bincount(row[ends], minlength=rows)
    (at, _), action, counts = commonest(np.stack([row[ends]] * 2), followed[ends].astype(np.float32), 1, grid=1.0)
    odds, following = np.zeros((rows, 2), np.float32), np.zeros(rows, np.int64)
    odds[:, 0] = ended / seen
    odds[at, 1] = counts / np.maximum(ended[at], 1)
    following[at] = action.astype(np.int64)
    level = np.floor(np.log2(1 + visits)).astype(np.float32)
    level[0] = 0
    return torch.from_numpy(odds), torch.from_numpy(following), torch.from_numpy(level)


def _numbered(chosen: Tensor) -> Tensor:
    """1, 2, … for those that are chosen, 0 for the others."""
    return torch.where(chosen, chosen.cumsum(dim=0), torch.zeros(1, dtype=torch.int64))


def _mode(value: np.ndarray) -> float:
    """The commonest value, to 1e-3."""
    key = np.zeros((2, len(value)), np.int64)
    return float(commonest(key, value, 1, grid=1e3)[1][0])


def _top_speed(stick: np.ndarray, speed: np.ndarray) -> float | None:
    """Sticks and speeds on the ground (P,), mirrored → the ratio of the two that is common to most sticks."""
    if len(stick) < SEEN:
        return None
    ratio, amount = np.rint(1000 * speed / stick).astype(np.int64), np.rint(80 * np.abs(stick)).astype(np.int64)
    pairs, counts = np.unique(np.stack([ratio, amount], axis=1), axis=0, return_counts=True)
    pairs = pairs[counts >= 2]
    ratios, sticks = np.unique(pairs[:, 0], return_counts=True)
    if len(ratios) == 0 or sticks.max() < 4:
        return None
    return float(ratios[sticks.argmax()]) / 1000


def _oftenest(key: np.ndarray, value: np.ndarray, grid: float = GRID) -> tuple[np.ndarray, np.ndarray]:
    """Keys and values (P,), NaN where there is none → each key seen often enough, and its commonest value."""
    known = ~np.isnan(value)
    (rows, _), values, _ = commonest(np.stack([key[known]] * 2), value[known], 1, least=SEEN, grid=grid)
    return rows, values


def drift_of(stick: np.ndarray, change: np.ndarray) -> tuple[float, float] | None:
    """Stick x and change of the air velocity along x, (P,) → (a, b) of the commonest change = a·stick ± b."""
    tilted = (np.abs(stick) >= 0.3) & (change * np.sign(stick) > 1e-3)
    if tilted.sum() < 50:
        return None
    amount = np.rint(np.abs(stick[tilted]) * 80).astype(np.int64)
    (at, _), pushed, counts = commonest(
        np.stack([amount, amount]), change[tilted] * np.sign(stick[tilted]), 1, least=3
    )
    if len(at) < 3:
        return None
    x, y, weight = at / 80, pushed.astype(np.float64), counts.astype(np.float64)
    for _ in range(8):
        a, b = np.polyfit(x, y, 1, w=np.sqrt(weight))
        weight = counts / (1e-4 + np.abs(y - a * x - b))
    return float(a), float(b)


def _edge(stage_id: int) -> tuple[float, float]:
    """|x| of a fighter that hangs on the edge of a stage, and the height of that edge."""
    place = Geometry().place[stage_id]
    return float(place[0]), float(place[6])


def _steps(columns: dict[str, np.ndarray], edge: tuple[float, float]) -> dict[str, np.ndarray]:
    """A game's columns and its stage's edge → what each player's steps change, (2 · (T − 1),) each, but for frames that
    rules decide."""
    before = {n: v[:-1] for n, v in columns.items()}
    after = {n: v[1:] for n, v in columns.items()}
    facing = before["facing"].astype(np.float32)
    out: dict[str, np.ndarray] = {}
    for name in (*VELOCITIES, "x", "y"):
        sign = facing if name in MIRRORED else 1.0
        out[f"{name}.value"] = after[name] * sign
        out[f"{name}.change"] = (after[name] - before[name]) * sign
    out["misc_as.value"] = np.clip(after["misc_as"], -1e4, 1e4)
    ledge = np.isin(after["action"], LEDGE_ACTIONS)
    out["edge_x.value"] = np.where(ledge, np.abs(after["x"]) - edge[0], np.nan)
    out["edge_y.value"] = np.where(ledge, after["y"] - edge[1], np.nan)
    out["is_held"] = np.isin(after["action"], [action for family in HOLDS for action in FAMILIES[family]])
    out["held_x.value"] = (after["x"] - after["x"][:, ::-1]) * after["facing"][:, ::-1]
    out["held_y.value"] = after["y"] - after["y"][:, ::-1]
    out["other_age"] = after["state_age"][:, ::-1]
    out["action"] = after["action"]
    walked = np.isin(before["action"], WALKS) & np.isin(after["action"], WALKS)
    out["same_kind"] = walked | (before["action"] == after["action"])
    move = columns["character"].astype(np.int64) * ACTIONS + columns["action"]
    out |= {"move": move[1:], "other_move": move[1:, ::-1], "character": after["character"]}
    out |= {"state_age": after["state_age"], "state_age.change": after["state_age"] - before["state_age"]}
    out |= {"hitlag": after["hitlag"], "hitlag_before": before["hitlag"], "same": after["action"] == before["action"]}
    out["percent.change"] = after["percent"] - before["percent"]
    out["freshness"] = _freshness(columns)[1:]
    out["last_attack"], out["last_attack.change"] = after["last_attack"], after["last_attack"] - before["last_attack"]
    out["stick"] = after["main_x"] * facing
    out["stick_before"] = before["main_x"] * facing
    out["airborne"] = after["airborne"]
    out["last_speed"] = np.abs(np.concatenate([before["self_x_ground"][:1], before["self_x_ground"][:-1]]))
    out["ground_before"] = before["self_x_ground"] * facing
    out["speed_air.change"] = np.abs(after["self_x_air"]) - np.abs(before["self_x_air"])
    out["speed_ground.change"] = np.abs(after["self_x_ground"]) - np.abs(before["self_x_ground"])
    lengths = [np.hypot(side["self_x_air"], side["self_y"]) for side in (before, after)]
    out["length.change"] = np.where(after["airborne"] == 1, lengths[1] - lengths[0], 0.0)
    out["length_before"], out["length"] = lengths
    out["action_before"], out["age_before"], out["move_before"] = before["action"], before["state_age"], move[:-1]
    out["frames_in_action"] = _run_lengths(columns["action"])[:-1]
    out["is_hurt"] = np.isin(after["action"], FAMILIES["damage"])
    out["struck"] = np.floor(before["percent"]) + out["percent.change"]
    out["weight"] = weights()[after["character"]]
    own = [np.where(of["airborne"] == 1, of["self_x_air"], of["self_x_ground"]) * facing for of in (before, after)]
    out["own_x.value"], out["own_x.change"] = own[1], own[1] - own[0]
    out["airborne_before"] = before["airborne"]
    out["jump_held"] = ((before["buttons"] & JUMP_BITS) > 0) | (before["main_y"] > TAPPED)
    out["drifts"] = np.isin(after["action"], DRIFT_ACTIONS) & np.isin(before["action"], DRIFT_ACTIONS)
    learned = (before["action"] > 12) & (after["action"] > 12)
    return {name: value[learned] for name, value in out.items()}


def _freshness(columns: dict[str, np.ndarray]) -> np.ndarray:
    """A game's columns → for each frame and player (T, 2), what is left of the other fighter's last attack's damage;
    known where that hit."""
    out = np.ones(columns["percent"].shape, np.float32)
    struck = struck_in_game(columns)
    left = freshness(torch.from_numpy(struck.before), torch.from_numpy(struck.attack))
    out[struck.frames] = left.flip(-1).numpy()
    return out


def _run_lengths(action: np.ndarray) -> np.ndarray:
    """Actions (T, 2) → for how many frames each has lasted before this one, (T, 2)."""
    changed = np.ones(action.shape, bool)
    changed[1:] = action[1:] != action[:-1]
    return frames_since(changed)
