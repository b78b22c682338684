"""The rules of the step, on states made by hand, on free rollouts of models that know nothing, and on real respawns."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from synthetic import synthetic_game
from wm_runtime.facts import FAMILIES, STAGES, TIMING, Stage, stage
from wm_runtime.replays.dataset import Dataset, DatasetWriter
from wm_runtime.schema import CONTROL_NAMES, FIRST_FRAME, MATCH_FRAMES, NO_PLAYER, PLAYERS, State
from wm_runtime.starts import spawn
from wm_train.dynamics.age import StateAge
from wm_train.dynamics.classic import ClassicCore
from wm_train.dynamics.named import named
from wm_train.dynamics.stack import recall
from wm_train.dynamics.step import WorldModel
from wm_train.encoding import PRESETS
from wm_train.export import zero_carry
from wm_train.models.frame_stack_mlp import FrameStackMLP
from wm_train.models.heads import HEAD, HEADS

DEAD_DOWN, DEAD_LEFT, DEAD_RIGHT, DEAD_UP, DEAD_FLY, DEAD_SPLAT = 0, 1, 2, 4, 6, 7
LAST_DEAD, REBIRTH, REBIRTH_WAIT, WAIT, FALL, NAIR = 10, 12, 13, 14, 29, 65
SHIELD_BREAK_END = FAMILIES["shield_break"][-1]
Step = tuple[State, dict[str, np.ndarray]]
every_stage = pytest.mark.parametrize("where", STAGES, ids=lambda s: s.name)


def saying(action: int = FALL, on_ground: bool = False, **deltas: float) -> WorldModel:
    """A model that says the same of both players whatever it sees: this action, and these outputs by field."""
    outputs = {h.name: torch.zeros(PLAYERS, h.width // PLAYERS) for h in HEADS}
    outputs["action"][:, action] = 50
    outputs["binary"][:] = torch.tensor([50, -50, 50 if on_ground else -50])
    for field, value in deltas.items():
        head = next(h for h in HEADS if field in h.fields and h.kind in ("delta", "absolute"))
        outputs[head.name][:, head.fields.index(field)] = value / head.scale[head.fields.index(field)]
    network = FrameStackMLP(PRESETS["v2.2"], trunk=(2,))
    with torch.no_grad():
        network.heads.linear.weight.zero_()
        network.heads.linear.bias[:] = torch.cat([outputs[h.name].flatten() for h in HEADS])
    return WorldModel(ClassicCore(network)).eval()


def match(where: Stage | str = "FINAL_DESTINATION", **fields: float) -> State:
    """Fox and Falco in the air of a stage; `fields` are those of the first player."""
    state = spawn(where.name if isinstance(where, Stage) else where, ("FOX", "FALCO")).states
    state["action"], state["airborne"], state["y"] = FALL, 1, 30
    for name, value in fields.items():
        state[name][:, 0] = value
    return state


@torch.no_grad()
def stepped(model: WorldModel, state: State, carry: dict[str, Tensor], controllers: np.ndarray | None = None):
    """One step of a State: the next State, the next carry and aux as arrays."""
    if controllers is None:
        controllers = np.zeros((len(state), PLAYERS, len(CONTROL_NAMES)), np.float32)
    arrays = (state.floats, state.ints, state.match, controllers)
    out, carry, aux = model(*map(torch.from_numpy, arrays), carry)
    return State(*(t.numpy() for t in out)), carry, {name: t.numpy() for name, t in aux.items()}


def play(model: WorldModel, state: State, frames: int) -> list[Step]:
    """(state, aux) of that many frames after a state of whose past nothing is known."""
    carry, steps = zero_carry(model, len(state)), []
    for _ in range(frames):
        state, carry, aux = stepped(model, state, carry)
        steps.append((state, aux))
    return steps


def track(steps: list[Step], name: str) -> list[float]:
    """A field of the first match's first player over time."""
    return [state[name][0, 0].item() for state, _ in steps]


# --- arithmetic ------------------------------------------------------------------------------------------------------


def test_in_the_air_position_is_the_last_one_plus_air_velocity_plus_knockback() -> None:
    before = match(self_x_air=0.5, self_y=-1.0, knockback_x=1.25, knockback_y=0.25, self_x_ground=9.0)
    steps = play(saying(), before, 3)
    assert track(steps, "x") == pytest.approx([before["x"][0, 0] + 1.75 * k for k in (1, 2, 3)])
    assert track(steps, "y") == pytest.approx([30 - 0.75 * k for k in (1, 2, 3)])


def test_on_the_ground_it_is_the_ground_velocity_that_counts() -> None:
    before = match(self_x_air=9.0, self_x_ground=-1.5, airborne=0)
    assert track(play(saying(WAIT, on_ground=True), before, 2), "x") == pytest.approx([-60 - 1.5, -60 - 3.0])


def test_the_velocity_of_the_new_frame_moves_and_what_is_said_of_the_rest_adds_to_it() -> None:
    before = match(self_x_air=0.5, self_y=0.0)
    (step,) = play(saying(self_x_air=0.25, self_y=-0.1, x=0.03, y=-0.02), before, 1)
    assert track([step], "self_x_air") == pytest.approx([0.75])
    assert track([step], "x") == pytest.approx([before["x"][0, 0] + 0.78])
    assert track([step], "y") == pytest.approx([30 - 0.12])


def test_hitlag_counts_down_and_nothing_moves_in_it() -> None:
    before = match(hitlag=4, self_x_air=1.0, self_y=-2.0, knockback_x=3.0)
    steps = play(saying(), before, 6)
    start = before["x"][0, 0]
    assert track(steps, "hitlag") == [3, 2, 1, 0, 0, 0]
    assert track(steps, "x") == pytest.approx([start, start, start, start + 4, start + 8, start + 12])
    assert track(steps, "y") == pytest.approx([30, 30, 30, 28, 26, 24])


def test_hitlag_begins_whole_when_a_hit_is_said_and_a_longer_one_replaces_it() -> None:
    assert track(play(saying(hitlag=5.6), match(), 2), "hitlag") == [6, 5]
    assert track(play(saying(NAIR, hitlag=5.6), match(hitlag=2), 2), "hitlag") == [6, 5]
    assert track(play(saying(hitlag=5.6), match(hitlag=2), 2), "hitlag") == [1, 0]  # who fights not is not stopped
    assert track(play(saying(hitlag=1.2), match(), 1), "hitlag") == [0]


def test_percent_rises_by_what_is_said_and_never_falls() -> None:
    assert track(play(saying(percent=7.5), match(percent=12), 2), "percent") == pytest.approx([19.5, 27])
    assert track(play(saying(percent=-7.5), match(percent=12), 2), "percent") == [12, 12]
    assert track(play(saying(percent=0.4), match(percent=12), 2), "percent") == [12, 12]


def test_a_shield_grows_slowly_but_when_it_was_broken_or_its_fighter_is_reborn() -> None:
    assert track(play(saying(WAIT, shield=9.0), match(shield=30), 2), "shield") == pytest.approx([30.07, 30.14])
    broken = match(shield=0, action=SHIELD_BREAK_END)
    assert track(play(saying(WAIT, shield=30.0), broken, 1), "shield") == pytest.approx([30])


def test_the_flag_of_hitlag_is_set_while_it_lasts() -> None:
    steps = play(saying(), match(hitlag=2, flags_2=0x20 | 0x04), 3)
    assert track(steps, "hitlag") == [1, 0, 0]
    assert track(steps, "flags_2") == [0x24, 0x04, 0x04]


def test_the_shield_stays_in_its_range() -> None:
    assert track(play(saying(shield=40.0), match(shield=59.95), 2), "shield") == [60, 60]
    assert track(play(saying(shield=-40.0), match(shield=30), 2), "shield") == [0, 0]


# --- death and rebirth -----------------------------------------------------------------------------------------------


def thrown_out(where: Stage, side: str) -> State:
    """A fighter who crosses a blast line with the next step, once."""
    edge = getattr(where.blast, side)
    outwards = 1 if side in ("right", "top") else -1
    axis, own = ("x", "self_x_air") if side in ("left", "right") else ("y", "self_y")
    other = {"y": 30} if axis == "x" else {"x": 0}
    knocked = {"knockback_y": 2.6} if side == "top" else {own: 3.0 * outwards}
    return match(where, percent=88, **{axis: edge - 0.5 * outwards}, **other, **knocked)


SIDES = [("left", DEAD_LEFT), ("right", DEAD_RIGHT), ("bottom", DEAD_DOWN), ("top", DEAD_UP)]


@every_stage
@pytest.mark.parametrize(("side", "death"), SIDES)
def test_past_a_blast_line_a_fighter_dies_is_reborn_and_comes_down(side: str, death: int, where: Stage) -> None:
    lasts = TIMING["dead_fly_star"] if side == "top" else 60
    before = thrown_out(where, side)
    steps = play(saying(REBIRTH_WAIT), before, lasts + TIMING["rebirth"] + 5)
    action, x, y = (np.array(track(steps, name)) for name in ("action", "x", "y"))
    dead, reborn, waiting = slice(0, lasts), slice(lasts, lasts + 60), slice(lasts + 60, None)

    assert (action[dead] == death).all()
    assert (action[reborn] == REBIRTH).all()
    assert (action[waiting] == REBIRTH_WAIT).all()
    stock_goes = 131 if side == "top" else 0  # a star K.O. takes it on its 132nd frame
    assert track(steps, "stocks") == [4] * stock_goes + [3] * (len(steps) - stock_goes)
    assert [t for t, (_, aux) in enumerate(steps) if aux["stock_lost"].any()] == [stock_goes]
    assert steps[stock_goes][1]["stock_lost"][0].tolist() == [True, False]
    assert track(steps, "percent") == [88] * lasts + [0] * (len(steps) - lasts)

    ages = np.array(track(steps, "state_age"))
    falls = np.arange(lasts) % (float(ages[dead].max()) + 1) if side == "top" else -1  # over and over
    assert (ages[dead] == falls).all()
    assert (ages[lasts : lasts + 61] == [*range(60), 0]).all()
    assert np.ptp(x[dead]) == np.ptp(y[dead]) == 0
    assert (x[lasts:] == np.float32(where.rebirth.x[0])).all()
    way = np.linspace(where.rebirth.y_from, where.rebirth.y_platform, TIMING["rebirth"])
    np.testing.assert_allclose(y[reborn], way, atol=1e-3)
    assert np.ptp(y[waiting]) == 0
    assert y[-1] == pytest.approx(where.rebirth.y_platform, abs=1e-3)
    at_rebirth = {"shield": 60, "hitlag": 0, "combo_count": 0, "last_hit_by": NO_PLAYER, "airborne": 1, "jumps": 1}
    assert {name: steps[lasts][0][name][0, 0] for name in at_rebirth} == at_rebirth


@every_stage
@pytest.mark.parametrize("player", [0, 1])
def test_the_reborn_face_the_middle(player: int, where: Stage) -> None:
    state = match(where)
    state["action"][0, player], state["stocks"][0, player] = DEAD_DOWN, 3
    after = play(saying(), state, 61)[-1][0]
    assert after["action"][0, player] == REBIRTH
    assert after["facing"][0, player] == (1 if after["x"][0, player] < 0 else -1)


def test_the_blow_that_leads_out_of_the_stage_is_not_counted() -> None:
    assert track(play(saying(percent=10), thrown_out(stage("DREAMLAND"), "right"), 3), "percent") == [88, 88, 88]


def test_above_the_top_line_only_the_knocked_die() -> None:
    where = stage("FINAL_DESTINATION")
    before = match(where, y=where.blast.top + 5, self_y=2.0)
    before["knockback_y"] = 2.3  # the most with which anyone was seen to live there is 2.38
    assert min(track(play(saying(), before, 3), "action")) > LAST_DEAD
    before["knockback_y"] = 2.5
    assert track(play(saying(), before, 1), "action") == [DEAD_UP]


def test_a_screen_ko_goes_on_to_the_splat_and_takes_the_stock_there() -> None:
    before = match("BATTLEFIELD", action=DEAD_FLY)
    action, stocks = (track(play(saying(), before, 51 + 78 + 1), name) for name in ("action", "stocks"))
    assert action == [DEAD_FLY] * 50 + [DEAD_SPLAT] * 78 + [REBIRTH] + action[129:]
    assert stocks == [4] * (50 + 43) + [3] * (len(stocks) - 93)
    splat = np.array(track(play(saying(), before, 51 + 78), "state_age"))[50:128]
    assert (splat == np.minimum(np.arange(78), splat.max())).all()  # its animation ends, and stays
    assert 20 < splat.max() < 60


def test_who_is_reborn_beside_the_other_takes_the_platform_beside() -> None:
    state = match("YOSHIS_STORY", action=DEAD_DOWN, stocks=3)
    state["action"][0, 1] = REBIRTH_WAIT
    after = play(saying(REBIRTH_WAIT), state, 61)[-1][0]
    assert after["action"][0, 0] == REBIRTH
    assert after["x"][0, 0] == 16


def test_a_dead_fighter_without_stocks_stays_dead_and_the_match_is_over() -> None:
    before = thrown_out(stage("BATTLEFIELD"), "left")
    before["stocks"][0, 0] = 1
    steps = play(saying(), before, 200)
    assert track(steps, "stocks") == [0] * 200
    assert set(track(steps, "action")) == {DEAD_LEFT}
    assert all(aux["match_over"][0] for _, aux in steps)


def test_a_match_is_over_after_eight_minutes() -> None:
    before = match()
    before["frame"] = 8 * 60 * 60 - 3
    assert [bool(aux["match_over"][0]) for _, aux in play(saying(), before, 4)] == [False, False, True, True]
    assert MATCH_FRAMES == 8 * 60 * 60


def test_the_platform_waits_and_then_vanishes() -> None:
    before = match(action=REBIRTH, x=16.0, y=45.0)
    falls = {"self_y": -0.2, "self_x_air": 0.5}
    steps = play(saying(REBIRTH_WAIT, **falls), before, 60 + TIMING["rebirth_wait"] + 1)[59:]
    action, x, y = (np.array(track(steps, name)) for name in ("action", "x", "y"))
    wait = TIMING["rebirth_wait"]
    assert (action[:wait] == REBIRTH_WAIT).all()
    assert action[wait] == FALL
    assert np.ptp(x[:wait]) == np.ptp(y[:wait]) == 0
    assert not any(track(steps[:wait], "self_y"))


def test_who_acts_on_the_platform_leaves_it_at_once() -> None:
    before = match(action=REBIRTH_WAIT, x=16.0, y=45.0)
    steps = play(saying(FALL, self_y=-0.2), before, 2)
    assert track(steps, "action") == [FALL, FALL]
    assert track(steps, "y") == pytest.approx([44.8, 44.4])


def test_dying_rebirth_and_its_platform_are_never_said_by_the_network() -> None:
    for action in range(REBIRTH_WAIT + 1):
        assert track(play(saying(action), match(), 1), "action")[0] > REBIRTH_WAIT


# --- whatever a network says -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wild() -> list[Step]:
    """48 matches on all stages over 320 frames, stepped by a network of large random weights."""
    torch.manual_seed(3)
    model = WorldModel(ClassicCore(FrameStackMLP(PRESETS["v2.2"], trunk=(32,)))).eval()
    with torch.no_grad():
        model.core.network.heads.linear.weight *= 8
        model.core.network.heads.linear.bias[: HEAD["continuous"].width + HEAD["velocity"].width] *= 4
    rng = np.random.default_rng(0)
    parts = [match(STAGES[i % len(STAGES)]) for i in range(48)]
    state = State(*(np.concatenate([getattr(p, name) for p in parts]) for name in ("floats", "ints", "match")))
    for name, size in (("x", 100), ("y", 60), ("self_x_air", 4), ("self_y", 4), ("knockback_x", 4), ("knockback_y", 4)):
        state[name] = rng.normal(0, size, (48, PLAYERS))
    state["hitlag"] = rng.integers(0, 8, (48, PLAYERS))
    state["stocks"] = rng.integers(1, 5, (48, PLAYERS))
    carry, steps = zero_carry(model, 48), [(state, {})]
    for _ in range(320):
        controllers = rng.uniform(0, 1, (48, PLAYERS, len(CONTROL_NAMES))).astype(np.float32)
        state, carry, aux = stepped(model, state, carry, controllers)
        steps.append((state, aux))
    return steps


def over_time(steps: list[Step], name: str) -> tuple[np.ndarray, np.ndarray]:
    """A field before and after each step, (T, N, 2) each."""
    values = np.stack([state[name] for state, _ in steps])
    return values[:-1], values[1:]


def test_stocks_fall_by_one_on_entering_a_death_below_or_beside_the_stage_and_later_above_it(wild: list[Step]) -> None:
    before, after = over_time(wild, "stocks")
    was, now = over_time(wild, "action")
    died = (was > LAST_DEAD) & (now <= DEAD_RIGHT)
    assert died.sum() > 50
    fell = before - after
    assert np.array_equal(fell[now <= DEAD_RIGHT], died[now <= DEAD_RIGHT].astype(np.int32))
    assert not fell[now > LAST_DEAD].any()
    assert set(np.unique(fell).tolist()) == {0, 1}
    assert np.array_equal(np.stack([aux["stock_lost"] for _, aux in wild[1:]]), fell == 1)


def test_percent_falls_at_rebirth_alone(wild: list[Step]) -> None:
    before, after = over_time(wild, "percent")
    _, now = over_time(wild, "action")
    was_dead = over_time(wild, "action")[0] <= LAST_DEAD
    reborn = was_dead & (now == REBIRTH)
    assert reborn.any()
    assert (after > before).any()
    assert (after[~reborn] >= before[~reborn]).all()
    assert not after[reborn].any()


def test_nobody_is_past_a_blast_line_and_alive(wild: list[Step]) -> None:
    lines = {s.id: s.blast for s in STAGES}
    for state, _ in wild[1:]:
        blast = [lines[i] for i in state["stage"].tolist()]
        left, right, bottom = (np.array([getattr(b, side) for b in blast])[:, None] for side in SIDES_BUT_TOP)
        out = (state["x"] < left) | (state["x"] > right) | (state["y"] < bottom)
        assert (state["action"][out] <= LAST_DEAD).all()


SIDES_BUT_TOP = ("left", "right", "bottom")


def test_a_death_lasts_as_long_as_the_facts_say(wild: list[Step]) -> None:
    action = np.stack([state["action"] for state, _ in wild]).reshape(len(wild), -1)
    stocks = np.stack([state["stocks"] for state, _ in wild]).reshape(len(wild), -1)
    seen = 0
    for fighter, left in zip(action.T, stocks.T, strict=True):
        changes = np.flatnonzero(np.diff(fighter)) + 1
        for first, last in pairwise(changes):
            if fighter[first] <= LAST_DEAD and left[first] > 0:
                frames = {DEAD_UP: TIMING["dead_fly_star"]}.get(fighter[first], TIMING["dead_down"])
                assert (last - first, fighter[last]) == (frames, REBIRTH)
                seen += 1
    assert seen > 20


def test_values_stay_in_their_ranges(wild: list[Step]) -> None:
    for state, _ in wild[1:]:
        assert np.isfinite(state.floats).all()
        assert ((state["shield"] >= 0) & (state["shield"] <= 60)).all()
        assert (np.abs(state["facing"]) == 1).all()
        assert (np.abs(state.floats[..., :2]) <= 400).all()
        assert ((state["percent"] >= 0) & (state["percent"] <= 999)).all()


def test_hitlag_of_the_living_counts_down_or_begins_anew(wild: list[Step]) -> None:
    before, after = over_time(wild, "hitlag")
    alive = np.logical_and(*(action > REBIRTH_WAIT for action in over_time(wild, "action")))
    counts, begins = after == np.maximum(before - 1, 0), after > before
    assert (counts | begins)[alive].all()
    assert begins[alive].sum() > 20
    assert (counts & (before > 0))[alive].sum() > 20


def test_characters_and_stage_never_change_and_time_goes_on(wild: list[Step]) -> None:
    first = wild[0][0]
    for t, (state, _) in enumerate(wild):
        assert np.array_equal(state["character"], first["character"])
        assert np.array_equal(state["stage"], first["stage"])
        assert (state["frame"] == t).all()


# --- state_age -------------------------------------------------------------------------------------------------------

STILL, SLOW, LOOPING, ATTACK = 60, 61, 62, 63


@pytest.fixture(scope="module")
def ages(tmp_path_factory: pytest.TempPathFactory) -> StateAge:
    """Tables measured on a game in which Fox goes through four actions again and again."""
    looped = [*range(10), *range(2, 10), *range(2, 10)]
    struck = [0, 1, 2, 3, 0, 0, 0, 0, 1, 2, 3, 4, 5]
    parts = [
        (STILL, [-1.0] * 12, [0] * 12),
        (SLOW, [3 + 0.5 * k for k in range(20)], [0] * 20),
        (LOOPING, looped, [0] * len(looped)),
        (ATTACK, struck, [0, 0, 0, 0, 3, 2, 1, 0, 0, 0, 0, 0, 0]),
    ] * 6
    action = np.concatenate([[a] * len(age) for a, age, _ in parts])
    age = np.concatenate([age for _, age, _ in parts])
    hitlag = np.concatenate([lag for _, _, lag in parts])
    game = synthetic_game(0, len(action))
    for name, values in (("action", action), ("state_age", age), ("hitlag", hitlag)):
        game.columns[name][:, 0] = values
    path = tmp_path_factory.mktemp("ages")
    with DatasetWriter(path) as writer:
        writer.add(replace(game, info=replace(game.info, md5="0" * 32)))
    tables = StateAge()
    tables.measure(Dataset(path), [0])
    return tables


def next_age(ages: StateAge, action: int, to: int, age: float, hitlag: float = 0) -> float:
    state = match(action=action, state_age=age, hitlag=hitlag)
    before = named(torch.from_numpy(state.floats), torch.from_numpy(state.ints))
    return ages(before, torch.full((1, PLAYERS), to, dtype=torch.int32))[0, 0].item()


@pytest.mark.parametrize(("action", "start"), [(STILL, -1), (SLOW, 3), (LOOPING, 0), (ATTACK, 0)])
def test_an_action_starts_at_its_measured_age(ages: StateAge, action: int, start: float) -> None:
    assert next_age(ages, WAIT, action, 17) == start


@pytest.mark.parametrize(
    ("action", "age", "expected"),
    [(STILL, -1, -1), (SLOW, 3, 3.5), (SLOW, 8.5, 9), (LOOPING, 8, 9), (LOOPING, 9, 2), (ATTACK, 3, 4)],
)
def test_an_age_runs_and_loops_as_measured(ages: StateAge, action: int, age: float, expected: float) -> None:
    assert next_age(ages, action, action, age) == expected


def test_an_age_stands_still_in_hitlag_until_its_last_frame(ages: StateAge) -> None:
    assert [next_age(ages, SLOW, SLOW, 5, hitlag) for hitlag in (4, 2, 1)] == [5, 5, 5.5]


def test_what_was_never_seen_runs_by_one_from_zero(ages: StateAge) -> None:
    assert next_age(ages, WAIT, 350, 7) == 0
    assert next_age(ages, 350, 350, 7) == 8


def test_ages_of_real_games_are_foretold(real_dataset: Dataset) -> None:
    tables = StateAge()
    tables.measure(real_dataset, list(range(8)))
    right = total = 0
    for game in range(8, len(real_dataset)):
        state = real_dataset.game(game).state()
        before = named(torch.from_numpy(state.floats[:-1]), torch.from_numpy(state.ints[:-1]))
        predicted = tables(before, torch.from_numpy(state["action"][1:].copy())).numpy()
        alive = (state["action"][:-1] > REBIRTH_WAIT) & (state["action"][1:] > REBIRTH_WAIT)
        right += (np.abs(predicted - state["state_age"][1:]) < 0.01)[alive].sum()
        total += alive.sum()
    assert right / total > 0.9


# --- memory ----------------------------------------------------------------------------------------------------------


def test_a_carry_of_zeros_is_a_past_in_which_the_first_state_stood_still() -> None:
    model, state = saying(), match(percent=31, self_x_air=0.4)
    encoder = model.core.network.encoder
    floats, ints = torch.from_numpy(state.floats), torch.from_numpy(state.ints)
    carry = zero_carry(model, 1)
    past = recall(encoder, carry, floats, ints, named(floats, ints))
    now_floats, now_classes = encoder.frame(floats, ints, carry["controllers"])
    assert torch.equal(past.floats, now_floats[:, None].expand(1, 10, -1, -1))
    assert torch.equal(past.classes, now_classes[:, None].expand(1, 10, -1, -1))
    assert not past.frames_in_action.any()


def test_the_carry_holds_the_last_frames_and_how_long_the_action_lasts() -> None:
    model, state = saying(FALL, self_x_air=0.1), match(action=WAIT)
    encoder, carry = model.core.network.encoder, zero_carry(model, 1)
    rng = np.random.default_rng(0)
    frames, pads = [], [np.zeros((1, PLAYERS, len(CONTROL_NAMES)), np.float32)]
    for _ in range(14):
        frames.append(encoder.frame(*map(torch.from_numpy, (state.floats, state.ints, pads[-1]))))
        pads.append(rng.uniform(0, 1, pads[0].shape).astype(np.float32))
        state, carry, _ = stepped(model, state, carry, pads[-1])
    floats, ints = torch.from_numpy(state.floats), torch.from_numpy(state.ints)
    past = recall(encoder, carry, floats, ints, named(floats, ints))
    frames.append(encoder.frame(floats, ints, torch.from_numpy(pads[-1])))
    assert torch.equal(past.floats, torch.stack([f for f, _ in frames[-10:]], dim=1))
    assert torch.equal(past.classes, torch.stack([c for _, c in frames[-10:]], dim=1))
    assert past.frames_in_action[0].tolist() == [13, 14]


# --- real games ------------------------------------------------------------------------------------------------------


def respawns(dataset: Dataset) -> list[tuple[int, int, int]]:
    """(game, player, row of the first frame of rebirth) of every rebirth that a death of 60 frames led to."""
    found = []
    for game in range(len(dataset)):
        action = dataset.columns(game)["action"]
        for player in range(PLAYERS):
            own = action[:, player]
            rows = np.flatnonzero((own[1:] == REBIRTH) & (own[:-1] <= DEAD_RIGHT)) + 1
            found += [(game, player, int(row)) for row in rows if row + 60 <= len(own)]
    return found


def test_real_respawns_come_when_and_where_the_rules_say(real_dataset: Dataset) -> None:
    history, ahead = 66, 60
    games, players, rows = map(np.array, zip(*respawns(real_dataset), strict=True))
    count, length = len(games), history + ahead
    states, _ = real_dataset.windows(games, rows - history, length)
    truth = {name: states[name].reshape(count, length, PLAYERS) for name in ("x", "y", "action", "percent", "facing")}

    model = saying()
    carry, free = zero_carry(model, count), []
    for row in range(length - 1):
        if row < history:
            state = states.rows(np.arange(count) * length + row)
        state, carry, _ = stepped(model, state, carry)
        if row >= history - 1:
            free.append(state)
    every = np.arange(count)
    off = {name: np.zeros(count) for name in truth}
    for name, true in truth.items():
        predicted = np.stack([s[name] for s in free], axis=1)[every, :, players]
        off[name] = np.abs(predicted - true[every, history:, players]).max(axis=1)

    assert not off["action"].any()
    assert not off["percent"].any()
    assert off["y"].max() < 1e-3
    stages = real_dataset.stage[games]
    exact = (off["x"] < 1e-3) & (off["facing"] == 0)
    assert len(set(stages.tolist())) == len(STAGES)
    assert all(exact[stages == found].any() for found in set(stages.tolist()))
    assert FIRST_FRAME + rows.min() > 0
