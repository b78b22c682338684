"""Stale moves and whom a move would strike: both forms of one rule agree, and estimates find what made the data."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wm_runtime.facts import character, hitboxes
from wm_runtime.replays.dataset import Dataset
from wm_runtime.schema import FIELD, FLOAT_FIELDS, INT_FIELDS
from wm_train.dynamics.beams import WHO, near_lasers
from wm_train.dynamics.guard import SHIELDS, Guard
from wm_train.dynamics.hitboxes import FAR, LATER
from wm_train.dynamics.lasers import CHEST, FLYING, SHOTS, beside, next_shots
from wm_train.dynamics.memory import LEAST_STALE, NUMBERS, STRUCK_WITH
from wm_train.dynamics.named import named
from wm_train.dynamics.stale import LOSSES, NEVER, counted, freshness, hit_by_other, struck_in_game
from wm_train.dynamics.strikes import (
    GRABS,
    LOGIT_SCALE,
    Strikes,
    first_box,
    near_of_game,
    nudged,
    posed,
    shrunk,
)
from wm_train.dynamics.strikes import NEVER as NO_STRIKE
from wm_train.training.whole_games import WholeGames

ACTIONS = FIELD["action"].classes or 0
NAIR, STANDS = 65, 14


def one(value: int) -> torch.Tensor:
    return torch.tensor([value])


def flags(value: bool) -> torch.Tensor:
    return torch.tensor([value])


def test_a_move_is_the_staler_the_oftener_and_the_later_it_hit() -> None:
    queue = torch.zeros(1, 9, dtype=torch.int32)
    assert freshness(queue, one(13)).item() == 1
    queue[0, 0] = 13
    assert freshness(queue, one(13)).item() == pytest.approx(0.91)
    assert freshness(queue, one(14)).item() == 1
    queue[0, 8] = 13
    assert freshness(queue, one(13)).item() == pytest.approx(0.90)
    assert freshness(torch.full((1, 9), 13), one(13)).item() == pytest.approx(1 - sum(LOSSES))


def test_a_use_of_a_move_counts_once_and_dying_forgets() -> None:
    queue, since = torch.zeros(1, 9, dtype=torch.int32), one(NEVER)
    lands, misses = flags(True), flags(False)
    queue, since = counted(queue, since, one(5), one(17), lands, misses)
    queue, since = counted(queue, since, one(6), one(17), misses, misses)
    queue, since = counted(queue, since, one(7), one(17), lands, misses)  # the same use hits again
    assert queue[0, :2].tolist() == [17, 0]
    queue, since = counted(queue, since, one(0), one(17), lands, misses)  # another use of it
    assert queue[0, :3].tolist() == [17, 17, 0]
    queue, since = counted(queue, since, one(1), one(9), lands, misses)  # within its action, but another move
    assert queue[0, :3].tolist() == [9, 17, 17]
    assert since.item() == 0
    queue, since = counted(queue, since, one(1), one(9), misses, lands)
    assert not queue.any()


def test_the_magnifying_glass_is_no_hit() -> None:
    rise, none = torch.tensor([[1.0, 0.0]]), torch.zeros(1, 2)
    assert hit_by_other(rise, none, none).tolist() == [[False, False]]
    assert hit_by_other(rise, torch.tensor([[3.0, 3.0]]), torch.tensor([[3.0, 3.0]])).tolist() == [[True, False]]
    assert hit_by_other(torch.tensor([[1.82, 0.0]]), none, none).tolist() == [[True, False]]  # a laser of a throw


def test_a_whole_game_leaves_what_its_frames_leave_one_after_the_other(true_games: Dataset) -> None:
    games = list(range(min(6, len(true_games))))
    corpus = WholeGames(true_games, games)
    tail = len(NUMBERS) - 1 - len(STRUCK_WITH)
    assert NUMBERS[tail:] == ("since_struck", *STRUCK_WITH)  # what the evaluator writes, into artifacts of before too
    assert len(NUMBERS) >= LEAST_STALE
    found = 0
    for game in games:
        rows = slice(int(corpus.first[game]), int(corpus.first[game] + corpus.frames[game]))
        numbers = corpus.numbers[rows].numpy()
        since, queue = struck_in_game(true_games.columns(game)).at(np.arange(len(numbers)))
        assert np.array_equal(queue, numbers[..., tail + 1 :])
        assert np.array_equal(since, np.minimum(numbers[..., tail], NEVER))
        found += int((queue > 0).any(axis=(1, 2)).sum())
    assert found > 0


def test_damage_divided_by_its_freshness_is_a_moves_own(real_dataset: Dataset) -> None:
    raw, fresh, moves = [], [], []
    for game in range(len(real_dataset)):
        columns = real_dataset.columns(game)
        struck = struck_in_game(columns)
        rise = np.zeros(columns["percent"].shape)
        rise[1:] = np.diff(columns["percent"], axis=0)
        left = freshness(torch.from_numpy(struck.before), torch.from_numpy(struck.attack)).numpy()
        for player in (0, 1):
            hit = rise[struck.frames, 1 - player]
            lands = hit > 0.5
            raw += hit[lands].tolist()
            fresh += (hit[lands] / left[lands, player]).tolist()
            move = columns["character"][struck.frames, player] * 1000 + columns["action"][struck.frames, player]
            moves += move[lands].tolist()

    def commonest_share(values: list[float]) -> float:
        code, of = np.rint(np.array(values) * 100), np.array(moves)
        return sum(np.unique(code[of == m], return_counts=True)[1].max() for m in np.unique(of)) / len(of)

    assert len(raw) > 1000
    assert commonest_share(fresh) > 0.7
    assert commonest_share(raw) < 0.6


def near(
    strikes: Strikes, ahead: np.ndarray, hit: np.ndarray, victim: int, shield: float | None = None
) -> dict[str, np.ndarray]:
    """Frames on which Fox's neutral air is active beside a fighter so far ahead who stands, or shields."""
    count, move = len(ahead), character("FOX").internal_id * ACTIONS + NAIR
    zero = np.zeros(count, np.float32)
    return {
        "move": np.full(count, move), "age": zero + 6, "ahead": ahead.astype(np.float32), "up": zero,
        "turned": zero + 1, "victim": np.full(count, victim), "row": np.zeros(count, np.int64), "hit": hit,
        "shields": np.full(count, shield is not None), "shield": zero + (shield or 0.0), "victim_age": zero,
        "lean_x": zero, "lean_y": zero, "light": zero,
    }  # fmt: skip


def level_shots(ahead: np.ndarray, hit: np.ndarray, victim: int) -> dict[str, np.ndarray]:
    """Frames on which Falco's laser comes at the face of a fighter whose middle is so far past its head."""
    count = len(ahead)
    zero, whole = np.zeros(count, np.float32), np.zeros(count, np.int64)
    shot = np.stack([-ahead, zero + 8, zero + 5, zero, zero + 33], axis=-1).astype(np.float32)
    return {
        "shot": shot, "kind": whole + 4, "x": zero, "y": zero, "facing": zero - 1, "victim": whole + victim,
        "victim_age": zero, "row": whole, "hit": hit,
    }  # fmt: skip


NO_SHOTS = level_shots(np.empty(0), np.empty(0, bool), 0)


def measure(
    strikes: Strikes, parts: list[dict[str, np.ndarray]], owner: np.ndarray | None = None,
    shot: dict[str, np.ndarray] = NO_SHOTS,
) -> None:  # fmt: skip
    near = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    strikes.measure(near, np.array([-1]) if owner is None else owner, shot)


def odds(strikes: Strikes, frames: dict[str, np.ndarray]) -> torch.Tensor:
    of = {name: torch.from_numpy(values) for name, values in frames.items()}
    now, before = (nudged(box, strikes.nudge[of["move"]]) for box in strikes._boxes(of["move"], of["age"]))
    body = posed(strikes.body[of["victim"]], strikes.body_row[of["row"]])
    body = strikes._circles(of, torch.arange(len(of["row"])), body, strikes.bubble, strikes.lean)
    return strikes._logit(
        now, before, of["move"], of["ahead"], of["up"], of["turned"], body, strikes.bias, *strikes.shape.unbind()
    )


def test_bodies_are_found_from_who_was_struck() -> None:
    strikes, rng = Strikes(), np.random.default_rng(0)
    wide, narrow = (character(name).internal_id * ACTIONS + STANDS for name in ("BOWSER", "MARTH"))
    parts = []
    for victim, reach in ((wide, 16.0), (narrow, 8.0)):
        ahead = rng.uniform(0, 30, 20_000)
        parts.append(near(strikes, ahead, ahead < reach, victim))
    measure(strikes, parts)
    for victim, reach in ((wide, 16.0), (narrow, 8.0)):
        ahead = np.array([reach - 2, reach + 2])
        inside, outside = odds(strikes, near(strikes, ahead, ahead < reach, victim)).tolist()
        assert inside > 0 > outside, reach


def test_lasers_tell_bodies_and_of_whom_they_strike() -> None:
    strikes, rng = Strikes(), np.random.default_rng(0)
    falco, marth = (character(name).internal_id for name in ("FALCO", "MARTH"))
    far = rng.uniform(20, 30, 20_000)
    ahead = {pose: rng.uniform(-10, 20, 10_000) for pose in (STANDS, STANDS + 100)}
    reach = {STANDS: 1.0, STANDS + 100: 6.0}
    shots = [level_shots(ahead[pose], ahead[pose] < reach[pose], marth * ACTIONS + pose) for pose in ahead]
    shot = {name: np.concatenate([part[name] for part in shots]) for name in shots[0]}
    measure(strikes, [near(strikes, far, far < 0, marth * ACTIONS + STANDS)], shot=shot)
    for pose, at in reach.items():
        floats, ints = (torch.zeros(2, 2, len(names)) for names in (FLOAT_FIELDS, INT_FIELDS))
        state = {**named(floats, ints.int()), "character": torch.tensor([[falco, marth]]).expand(2, 2)}
        state |= {"action": torch.tensor([[STANDS, pose]]).expand(2, 2), "facing": torch.tensor([[1, -1]]).expand(2, 2)}
        lasers = torch.zeros(2, 2, 1 + FLYING, len(SHOTS))
        for i, behind in enumerate((-2.0, 2.0)):
            lasers[i, 0, 1] = torch.tensor([-(at + behind), 8.0, 5.0, 0.0, 33.0])
        misses = strikes.reach(
            lasers, state, torch.zeros(2, 2, dtype=torch.int64), (state["x"], state["y"]), Guard(*torch.zeros(3, 2, 2))
        )
        assert misses[0, 0] < 0 < misses[1, 0], pose
        assert (misses[:, 1] == FAR).all()  # Marth sends none


def test_lasers_that_are_near_are_those_of_the_memory(true_games: Dataset) -> None:
    games = list(range(min(4, len(true_games))))
    found = near_lasers(true_games, games)
    assert len({len(values) for values in found.values()}) == 1
    frames = 0
    for game in games:
        if not np.isin(true_games.characters[game], [character(name).internal_id for name in WHO]).any():
            continue
        corpus = WholeGames(true_games, [game])
        state, after = (named(corpus.floats[part], corpus.ints[part]) for part in (slice(None, -1), slice(1, None)))
        grown = torch.where(after["action"] == state["action"], after["state_age"] - state["state_age"], 1.0)
        lasers = next_shots(corpus.shots[:-1], state, grown.clamp(0.0, 3.0))
        flies = (lasers[..., 2] != 0) | (lasers[..., 3] != 0)
        x, y = after["x"].flip(1)[..., None], after["y"].flip(1)[..., None]
        near_ = (flies & (beside(lasers, x, y + CHEST) < 30)).any(dim=-1)
        near_ &= (state["hurtbox"].flip(1) == 0) & (state["action"] > 13).all(dim=-1, keepdim=True)
        near_ &= ~torch.isin(state["action"].flip(1), torch.tensor(SHIELDS))
        frames += int(near_.sum())
    assert len(found["hit"]) == frames
    assert found["hit"].sum() <= frames


def test_a_pose_that_others_were_struck_in_is_told_of_who_was_not() -> None:
    strikes, rng = Strikes(), np.random.default_rng(0)
    seen = ("MARIO", "LUIGI", "PEACH", "YOSHI", "NESS", "ZELDA", "MARTH", "ROY")
    lies, new = STANDS + 100, character("LINK").internal_id * ACTIONS
    parts = []
    for victim in (character(name).internal_id * ACTIONS for name in seen):
        for pose, reach in ((STANDS, 10.0), (lies, 16.0)):
            ahead = rng.uniform(0, 30, 4000)
            parts.append(near(strikes, ahead, ahead < reach, victim + pose))
    ahead = rng.uniform(0, 30, 4000)
    parts.append(near(strikes, ahead, ahead < 10, new + STANDS))
    measure(strikes, parts)
    between = np.array([13.0])
    stands, lies_down, knows_nothing = (
        odds(strikes, near(strikes, between, between < 0, new + pose)).item() for pose in (STANDS, lies, STANDS + 200)
    )
    assert lies_down > stands + 2
    assert lies_down > knows_nothing + 1


def test_a_shared_pose_at_an_age_is_in_the_rows_of_that_age_and_not_in_what_no_row_is_known_of() -> None:
    strikes, rng = Strikes(), np.random.default_rng(0)
    victim, parts = character("MARTH").internal_id * ACTIONS + STANDS, []
    for row, age, reach in ((1, 3.0, 8.0), (2, 9.0, 16.0)):
        ahead = rng.uniform(0, 30, 20_000)
        part = near(strikes, ahead, ahead < reach, victim)
        parts.append({**part, "row": part["row"] + row, "victim_age": part["victim_age"] + age})
    measure(strikes, parts, np.array([-1, 0, 1]))
    at = np.array([12.0])
    frame = near(strikes, at, at < 0, victim)
    short, long = (odds(strikes, {**frame, "row": np.array([row])}).item() for row in (1, 2))
    assert short < 0 < long
    assert not strikes.body_row[0].any()


def test_a_row_that_nobody_was_seen_in_is_like_those_beside_it_of_its_move_and_no_other() -> None:
    strikes, rng = Strikes(), np.random.default_rng(0)
    victim, parts = character("MARTH").internal_id * ACTIONS + STANDS, []
    for row, reach in ((1, 16.0), (4, 8.0)):
        ahead = rng.uniform(0, 30, 20_000)
        part = near(strikes, ahead, ahead < reach, victim)
        parts.append({**part, "row": part["row"] + row})
    owner = np.array([-1, 7, 7, 9, 9])
    measure(strikes, parts, owner)
    at = np.array([12.0])
    frame = near(strikes, at, at < 0, victim)
    beside_long, beside_short = (odds(strikes, {**frame, "row": np.array([row])}).item() for row in (2, 3))
    assert beside_short < 0 < beside_long


def test_chains_strike_a_frame_later_than_listed(true_games: Dataset) -> None:
    strikes, listed = Strikes(), hitboxes()
    jab = character("CAPTAIN_FALCON").internal_id, 45
    ages = [int(row[2]) for row in listed.key if (row[0], row[1]) == jab]
    at = torch.tensor([jab[0] * ACTIONS + jab[1]])
    active = [(strikes._boxes(at, torch.tensor([float(age)]))[0][..., 2] > 0).any().item() for age in range(40)]
    assert [age for age, is_ in enumerate(active) if is_] == [age + 1 for age in ages]
    moves = [character(name).internal_id * ACTIONS + action for name, of in LATER.items() for action in of]
    hits = found = 0
    for game in range(len(true_games)):
        columns = true_games.columns(game)
        before, after = ({n: v[part] for n, v in columns.items()} for part in (slice(None, -1), slice(1, None)))
        move = after["character"].astype(np.int64) * ACTIONS + after["action"]
        struck = (after["percent"] > before["percent"]).astype(bool)[:, ::-1]
        strikes_now = struck & (after["hitlag"] > 0) & (before["hitlag"] <= 0) & np.isin(move, moves)
        move, age = (torch.from_numpy(values[strikes_now].copy()) for values in (move, after["state_age"]))
        hits += len(move)
        found += int((strikes._boxes(move, age)[0][..., 2] > 0).any(dim=-1).sum())
    if hits < 5:
        pytest.skip("too few second jabs among the games at hand")
    assert found > 0.9 * hits


def test_shields_are_found_from_what_they_stopped_and_shrink() -> None:
    strikes, rng = Strikes(), np.random.default_rng(0)
    victim = character("MARTH").internal_id * ACTIONS + SHIELDS[1]
    parts = []
    for shield, reach in ((60.0, 20.0), (30.0, 20.0 - 10.0 * 0.85 / 2)):  # of a radius of 10
        ahead = rng.uniform(0, 40, 20_000)
        parts.append(near(strikes, ahead, ahead < reach, victim, shield))
    measure(strikes, parts)
    for shield, reach in ((60.0, 20.0), (30.0, 15.75)):
        ahead = np.array([reach - 2, reach + 2])
        inside, outside = odds(strikes, near(strikes, ahead, ahead < reach, victim, shield)).tolist()
        assert inside > 0 > outside, shield
    assert shrunk(torch.tensor([[1.0, 2.0, 10.0]]), torch.tensor([0.0]))[0].tolist() == pytest.approx([1, 2, 1.5])


def test_how_shields_lean_is_found_from_what_they_stopped() -> None:
    strikes, rng = Strikes(), np.random.default_rng(0)
    victim = character("MARTH").internal_id * ACTIONS + SHIELDS[1]
    parts = []
    for lean, light, reach in ((0.0, 0.0, 20.0), (-1.0, 0.0, 24.0), (0.0, 0.5, 23.0)):  # of a radius of 10
        ahead = rng.uniform(0, 40, 20_000)
        part = near(strikes, ahead, ahead < reach, victim, 60.0)
        parts.append({**part, "lean_x": part["lean_x"] + np.float32(lean), "light": part["light"] + np.float32(light)})
    measure(strikes, parts)
    ahead, _, larger = strikes.lean.tolist()
    assert ahead == pytest.approx(4.0, abs=0.8)  # the attacker looks the way that the shield's holder does
    radius = strikes.bubble[victim // ACTIONS, 2].item()
    assert larger * 0.5 * radius == pytest.approx(3.0, abs=0.8)


def test_who_lets_go_of_a_shield_is_left_out(true_games: Dataset) -> None:
    for game in range(min(12, len(true_games))):
        columns = true_games.columns(game)
        held = np.isin(columns["action"], SHIELDS)
        found = near_of_game(columns, Strikes())
        of = np.isin(found["victim"] % ACTIONS, SHIELDS) & ~np.isin(found["move"] % ACTIONS, GRABS)
        assert found["shields"][of].all()
        assert of.sum() <= (held[:-1] & held[1:]).sum()


def test_who_does_not_age_strikes_nobody(true_games: Dataset) -> None:
    fox, up_smash = character("FOX").internal_id, 63
    ages = [int(row[2]) for row in hitboxes().key if (row[0], row[1]) == (fox, up_smash)]
    columns = {name: values[:4].copy() for name, values in true_games.columns(0).items()}
    still = {"character": fox, "y": 0, "hitlag": 0, "hurtbox": 0, "self_x_air": 0, "self_x_ground": 0, "self_y": 0}
    for name, value in {**still, "knockback_x": 0, "knockback_y": 0, "facing": 1, "percent": 0}.items():
        columns[name][:] = value
    columns["x"][:], columns["action"][:] = (0, 5), (up_smash, 14)
    for goes_on in (True, False):
        columns["state_age"][:] = ages[0] + np.arange(4)[:, None] * goes_on
        assert bool(len(near_of_game(columns, Strikes())["hit"])) == goes_on


def test_who_is_near_an_active_hitbox_is_looked_at_and_nobody_else(true_games: Dataset) -> None:
    strikes = Strikes()
    frames = hits = grabs = 0
    for game in range(min(12, len(true_games))):
        found = near_of_game(true_games.columns(game), strikes)
        assert len({len(values) for values in found.values()}) == 1
        of = {name: torch.from_numpy(values) for name, values in found.items()}
        assert (strikes._boxes(of["move"], of["age"])[0][..., 2] > 0).any(dim=-1).all()
        assert (of["ahead"].abs() < 45).all()
        frames, hits = frames + len(found["hit"]), hits + int(found["hit"].sum())
        grabs += int((found["hit"] & np.isin(found["move"] % ACTIONS, GRABS)).sum())
        assert (found["shield"] <= 60).all()
    if len(true_games) > 8:  # real ones
        assert 0.05 < hits / frames < 0.3
        assert grabs > 10


def test_a_strike_is_likelier_where_a_hitbox_meets_a_body() -> None:
    strikes = Strikes()
    fields = {name: torch.zeros(1, 2) for name in ("x", "y", "self_x_air", "self_x_ground", "self_y", "hitlag",
                                                   "knockback_x", "knockback_y", "shield")}  # fmt: skip
    fox = character("FOX").internal_id
    state = {**fields, "character": torch.full((1, 2), fox), "facing": torch.tensor([[1, -1]]),
             "airborne": torch.ones(1, 2), "action": torch.tensor([[NAIR, STANDS]])}  # fmt: skip
    row, action, age = torch.zeros(1, 2, dtype=torch.int64), state["action"], torch.tensor([[6.0, 1.0]])
    spent = torch.zeros(1, 2, dtype=torch.bool)

    upright = Guard(*torch.zeros(3, 1, 2))

    def told(spent: torch.Tensor, guard: Guard = upright) -> torch.Tensor:
        return strikes(state, row, action, age, spent, (state["x"], state["y"]), guard)[0][0]

    says = {}
    for distance in (4.0, 20.0, 60.0):
        state["x"] = torch.tensor([[0.0, distance]])
        says[distance] = told(spent)
    assert says[4.0][0, 0] > says[20.0][0, 0] > says[60.0][0, 0]
    assert says[4.0][0, 2] == 1
    assert says[60.0][0, 2] == 0
    state["x"] = torch.tensor([[0.0, 14.0]])
    stands = told(spent)[0, 0]
    action, state["shield"] = torch.tensor([[NAIR, SHIELDS[1]]]), torch.tensor([[60.0, 60.0]])
    full = told(spent)[0, 0]
    leans, light = (Guard(*(torch.full((1, 2), value) for value in way)) for way in ((1.0, 0, 0), (0, 0, 0.7)))
    assert full < told(spent, leans)[0, 0]  # who faces the attacker, towards it
    assert full < told(spent, light)[0, 0]
    state["shield"] = torch.tensor([[60.0, 10.0]])
    assert full > told(spent)[0, 0]
    assert full > stands
    assert (says[4.0][1] == says[60.0][1]).all()  # who stands strikes nobody
    assert told(~spent)[0, 4] == 0
    # where fighters are now, in what they do now: the same odds, and none of who has no hitbox out, or is far away
    now = {**state, "state_age": torch.tensor([[6.0, 1.0]]), "shield": torch.zeros(1, 2)}
    for distance in (4.0, 20.0):
        now["x"] = torch.tensor([[0.0, distance]])
        assert strikes.standing(now, row, upright)[0, 0] == pytest.approx(says[distance][0, 0].item() / LOGIT_SCALE)
    assert strikes.standing(now, row, upright)[0, 1] == NO_STRIKE
    now["x"] = torch.tensor([[0.0, 60.0]])
    assert strikes.standing(now, row, upright)[0, 0] == NO_STRIKE


@pytest.mark.parametrize(("ahead", "box"), [(6.0, 0), (9.0, 1), (30.0, 2)])
def test_the_first_hitbox_that_touches_strikes_and_else_the_nearest(ahead: float, box: int) -> None:
    """Three hitboxes in a row, the second and third further ahead, before a body of one unit."""
    now = torch.tensor([[[4.0, 0.0, 2.0], [8.0, 0.0, 2.0], [12.0, 0.0, 2.0], [0.0, 0.0, 0.0]]])
    body = torch.tensor([[[0.0, 0.0, 1.0]]]).expand(1, 3, 3)
    none, ones = torch.zeros(1), torch.ones(1)
    assert first_box(now, torch.tensor([ahead]), none, ones, body, torch.tensor(1.0))[0].tolist() == [box]
