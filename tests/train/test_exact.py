"""The exact core: said what is true, it plays the true game; its memory, knockback and training keep their promises."""

from __future__ import annotations

import dataclasses
import json
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from states import one
from torch import Tensor

from synthetic import REPLAYS
from wm_runtime.artifact import Artifact, open_artifact
from wm_runtime.errors import UserError
from wm_runtime.facts import ACTION_NAMES, character
from wm_runtime.replays.dataset import Dataset
from wm_runtime.schema import C_, FIELD
from wm_train.config import ExactConfig, Experiment
from wm_train.dynamics.candidates import POWER_FLAG, SCALE, SIZES, shield_damage, stun_pace
from wm_train.dynamics.exact import (
    ADRIFT,
    BLOCK_ODDS,
    BY_BLOCK,
    BY_MOVE,
    CLASSES,
    FLAGS,
    ExactCore,
    Frames,
    Settle,
    _entropy,
    base,
    mirrored,
    own_frames,
)
from wm_train.dynamics.guard import SHIELDS, Guard
from wm_train.dynamics.hurt import Hurt
from wm_train.dynamics.lasers import CHEST
from wm_train.dynamics.launch import SPEED, Launches, hitstun, hurt_level, turned
from wm_train.dynamics.memory import advance, beginning, recall, remember
from wm_train.dynamics.step import WorldModel
from wm_train.dynamics.strikes import ACTIVE, COLUMNS, FRESH, LOGIT_SCALE
from wm_train.dynamics.tables import DAMAGES
from wm_train.evaluate.quick import Matches, quick_windows
from wm_train.export import as_shipped, export
from wm_train.training.checkpoint import load_checkpoint, read_checkpoint
from wm_train.training.importance import important
from wm_train.training.phases import train_phases
from wm_train.training.whole_games import Unroll, WholeGames

WINDOWS, FRAMES = 600, 12
TINY = {"kind": "exact", "width": 32, "blocks": 1, "late": 16}
SURE = 50.0


@pytest.fixture(scope="module")
def core(true_games: Dataset) -> ExactCore:
    torch.manual_seed(0)
    core = ExactCore(ExactConfig(width=16, blocks=0, late=8))
    core.measure(true_games, list(range(len(true_games))))
    return core


@pytest.fixture(scope="module")
def corpus(true_games: Dataset) -> WholeGames:
    return WholeGames(true_games, list(range(min(8, len(true_games)))))


@pytest.fixture(scope="module")
def window(corpus: WholeGames) -> Unroll:
    return corpus.read(corpus.draw(WINDOWS, FRAMES + 1, np.random.default_rng(0)), FRAMES + 1)


def oracle(core: ExactCore, window: Unroll) -> list[dict[str, Tensor]]:
    """Frame by frame, head → outputs that are sure of what is true."""
    frames = core.true_frames(window)
    before, truth = frames.before, frames.truth
    out = {name: right.float() * SURE for name, right in truth.right.items()}
    for name in SIZES:
        change = mirrored(name, truth.after, before) - base(name, before, truth.after)
        out[f"{name}.value"] = (change * (before["facing"] if name == "x" else 1) / SCALE[name])[..., None]
    for name, classes in CLASSES.items():
        turns = (truth.after["facing"] != before["facing"]).int()
        target = truth.after.get(name, turns)
        out[name] = F.one_hot(target.clamp(0, classes - 1).long(), classes).float() * SURE
    bits = torch.tensor([1 << i for i in range(8)], dtype=torch.int32)
    out["flags"] = torch.cat([((truth.after[n][..., None] & bits) > 0).float() - 0.5 for n in FLAGS], dim=-1)
    action = truth.after["action"]
    meant = torch.where(core.hurt.kinds[action.long()], before["action"], action)  # who is hurt meant to go on
    for name, of in (("action", action), ("intent", meant)):
        out[name] = F.one_hot(of.long(), FIELD["action"].classes or 0).float() * SURE
    return [{name: value[t * WINDOWS : (t + 1) * WINDOWS] for name, value in out.items()} for t in range(FRAMES)]


def test_the_odds_of_lasers_and_moves_are_added_to_those_of_being_hurt_of_who_can_be(
    core: ExactCore, window: Unroll
) -> None:
    state, quiet = window.state(0), torch.zeros(WINDOWS, 2, 2 * COLUMNS)
    state["hurtbox"] = torch.zeros_like(state["hurtbox"])
    state["action"] = torch.full_like(state["action"], ACTION_NAMES.index("STANDING"))
    past = recall({name: value[0] for name, value in window.carry.items()}, state)

    def odds(state: dict[str, Tensor], strikes: Tensor, away: float, meant: Tensor = state["action"]) -> Tensor:
        """Of the second player, with a laser of the first so far above its middle."""
        shots = torch.zeros_like(past.shots)
        shots[:, 0, 0, 0], shots[:, 0, 0, 1] = state["x"][:, 1], state["y"][:, 1] + CHEST + away
        shots[:, 0, 0, 2] = 1e-3
        past_, upright = dataclasses.replace(past, shots=shots), Guard(*torch.zeros(3, WINDOWS, 2))
        hurt, _, blocked = core._struck_odds(state, past_, meant, strikes, (state["x"], state["y"]), upright)
        assert not (blocked[:, 1] * (meant[:, 1] != SHIELDS[0])).any()
        return torch.where(meant == SHIELDS[0], blocked, hurt)[:, 1]

    assert (odds(state, quiet, 0.0) > 0).float().mean() > 0.9
    assert not odds(state, quiet, 90.0).any()
    assert not odds({**state, "hurtbox": torch.ones_like(state["hurtbox"])}, quiet, 0.0).any()
    shields = torch.full_like(state["action"], SHIELDS[0])
    assert odds(state, quiet, 90.0, shields).tolist() == pytest.approx([BLOCK_ODDS] * WINDOWS)
    assert (odds(state, quiet, 0.0, shields) == 0).float().mean() > 0.9  # of lasers the network says it alone
    told = quiet.clone()
    told[..., 0], told[..., ACTIVE], told[..., FRESH] = 3.0 * LOGIT_SCALE, 1.0, 1.0
    assert odds(state, told, 90.0).tolist() == pytest.approx([BY_MOVE[0] * 3.0 + BY_MOVE[2]] * WINDOWS, abs=1e-5)
    blocks = BY_BLOCK[0] * 3.0 + BY_BLOCK[1] + BLOCK_ODDS
    assert odds(state, told, 90.0, shields).tolist() == pytest.approx([blocks] * WINDOWS, abs=1e-5)
    told[..., FRESH] = 0.0
    assert not odds(state, told, 90.0).any()


def test_told_what_is_true_the_core_plays_the_true_game(core: ExactCore, window: Unroll, monkeypatch) -> None:
    model, network = WorldModel(core), core.network
    if not REPLAYS.exists():  # games that are made up walk as they like, and keep no law of motion
        nobody = torch.zeros(WINDOWS, 2, dtype=torch.bool)
        nothing = torch.zeros(WINDOWS, 2, FIELD["action"].classes or 0, dtype=torch.bool)
        monkeypatch.setattr(core.decided, "forward", lambda *seen: nothing)
        monkeypatch.setattr(core.walk, "forward", lambda before, action: action)
        monkeypatch.setattr(core.laws, "springs", lambda *seen: torch.full((WINDOWS, 2), torch.nan))
        monkeypatch.setattr(core, "_ruled", lambda before, after: torch.full((WINDOWS, 2), torch.nan))
        monkeypatch.setattr(core.laws, "drifts", lambda *seen: (nobody, nobody, torch.zeros(WINDOWS, 2, 5)))
        monkeypatch.setattr(core.slides, "forward", lambda before, *seen: (before["x"], before["y"], nobody.clone()))
        monkeypatch.setattr(core.clock, "forward", lambda before, past, action, age, pace: age)
        monkeypatch.setattr(model.edges, "forward", lambda before, after, *seen: after)
    monkeypatch.setattr(core.hurt, "_spinning", lambda said, percent: said)  # is chance, whatever is said of it
    state, carry = window.state(0), {name: value[0] for name, value in window.carry.items()}
    alive = torch.ones(WINDOWS, 1, dtype=torch.bool)
    unsure = torch.zeros(WINDOWS, 2, dtype=torch.bool)
    for t, said in enumerate(oracle(core, window)):
        monkeypatch.setattr(network, "trunk", lambda *seen: (torch.zeros(WINDOWS, 2, 16), {}))
        monkeypatch.setattr(network, "actions", lambda h, said=said: said["action"])
        monkeypatch.setattr(network, "intents", lambda h, said=said: said["intent"])
        monkeypatch.setattr(
            network, "stage",
            lambda stage, h, given, said=said: (h, {name: said[name] for name in network.names[stage] if name in said}),
        )  # fmt: skip
        past = recall(carry, state)
        outcome = core.run(state, past, window.match[t], window.controllers[t + 1])
        carry = remember(past, carry, state, window.controllers[t + 1])
        state = model.settle(state, outcome.after, window.match[t], past.numbers["frames_in_action"])
        now, true = window.state(t), window.state(t + 1)
        leaps = now["action"] == ACTION_NAMES.index("KNEE_BEND")
        unsure |= (true["percent"] > now["percent"]) & (leaps | (now["knockback_y"] != 0))
        alive &= ((window.state(t)["action"] > 12) & (true["action"] > 12)).all(dim=1, keepdim=True)
    both = alive.expand(-1, 2)
    assert both.float().mean() > 0.5
    for name in ("action", "ground", "airborne", "facing", "jumps", "flags_4", "hitlag"):
        assert torch.equal(state[name][both], true[name][both]), name
    assert (state["percent"] - true["percent"])[both].abs().max() < 1e-3
    error = ((state["x"] - true["x"]).abs() + (state["y"] - true["y"]).abs())[both] / 2
    assert error.mean() < 5e-3
    # who is struck while it still flies, by a move of two angles (blows.py: the one nearer to what was chosen, before
    # it is merged), or out of the squat, of which games do not say whether a jump was meant
    assert (error[~unsure[both]] < 0.1).float().mean() > 0.998
    assert (error < 0.1).float().mean() > 0.99


def test_a_corpus_remembers_what_stepping_through_a_game_would(corpus: WholeGames, window: Unroll) -> None:
    carry = {name: value[0] for name, value in window.carry.items()}
    for t in range(FRAMES):
        state = window.state(t)
        past = recall(carry, state)
        expected = recall({name: value[t] for name, value in window.carry.items()}, state)
        assert all(torch.equal(past.numbers[name], value) for name, value in expected.numbers.items())
        assert torch.equal(past.controllers, expected.controllers)
        assert torch.equal(past.shots, expected.shots)
        assert all(torch.equal(past.last[name], value) for name, value in expected.last.items())
        carry = remember(past, carry, state, window.controllers[t + 1])


def test_windows_begin_at_every_frame_from_control_on_and_stay_in_their_game(corpus: WholeGames) -> None:
    rows = corpus.draw(50_000, 9, np.random.default_rng(1))
    game = np.searchsorted(corpus.first, rows, side="right") - 1
    at = rows - corpus.first[game]
    assert at.min() == 123
    assert np.all(at + 8 < corpus.frames[game])
    assert (at + 8 == corpus.frames[game] - 1).any()


@pytest.mark.parametrize(
    ("action", "damage", "fresh", "trigger", "digital", "loss"),
    [
        (179, 12.0, 0.94, 1.0, 0.0, 7.98),  # the whole part of 11.28
        (179, 10.0, 0.93, 1.0, 0.0, 6.58),
        (179, 3.0, 0.88, 0.0, 1.0, 1.68),  # a trigger all the way down
        (20, 3.0, 0.96, 1.0, 0.0, 1.40),  # raised on this very frame: its holder has paid nothing yet
        (14, 9.0, 1.0, 0.62, 0.0, 7.277),  # a light shield loses more
        (179, 1.0, 0.98, 1.0, 0.0, 0.98),  # 1 at least
    ],
)
def test_a_shield_loses_to_the_whole_part_of_what_a_move_does(
    core: ExactCore, action: int, damage: float, fresh: float, trigger: float, digital: float, loss: float
) -> None:
    """As seen in games of val, to the trigger's grid."""
    before, zero = one(action=[action, 50], shield=[50, 60]), torch.zeros(1, 2)
    pads = torch.zeros(1, 2, 13)
    pads[..., C_["shoulder"]], pads[..., C_["l"]] = trigger, digital
    attack = torch.full((1, 2), 7)
    kept = core.tables.damage[7].clone()
    core.tables.damage[7, 0] = damage
    shields = core.candidates.shield(before, before, attack, zero + fresh, pads, pads, zero)
    core.tables.damage[7] = kept
    assert 50 - shields[0, 0, -DAMAGES].item() == pytest.approx(loss, abs=5e-3)
    after = {**before, "action": torch.tensor([[181, 50]]), "shield": shields[..., -DAMAGES]}
    assert shield_damage(before, after, pads)[0, 0] == max(1, int(damage * fresh + 1e-3))


def test_a_blow_on_a_shield_costs_it_slides_stops_and_stuns_as_in_the_game(core: ExactCore) -> None:
    """A move of 12 percent, as seen in real games."""
    before = one(action=[179, 50], shield=[50, 60])
    after = {**before, "action": torch.tensor([[181, 50]]), "shield": torch.tensor([[50 - 8.68, 60.0]])}
    pads = torch.zeros(1, 2, 13)
    pads[..., C_["shoulder"]] = 1.0
    zero, attack = torch.zeros(1, 2), torch.zeros(1, 2, dtype=torch.int64)
    blow = core.candidates.blow(before, after, attack, zero + 1, pads)
    slides = core.candidates.following(before, after, zero + 1, blow)["self_x_ground"]
    assert [slide[0, 0].item() for slide in slides] == pytest.approx([0.888, -0.888], abs=1e-4)
    assert core.candidates.hitlag(before, zero, blow)[0, :, -2:].tolist() == [[7, 0], [0, 7]]
    struck = one(action=[181, 50], self_x_ground=[-0.888, 0])
    ages = core.candidates.age(struck, struck["action"], struck, torch.zeros(1, 2))
    assert (ages[0, 0] - 2.7162).abs().min() < 1e-3


def test_a_shield_that_reflects_loses_nothing_and_slides_more(core: ExactCore) -> None:
    """A move of 9 percent, as seen in real games."""
    before, pads, fresh = one(action=[179, 50], shield=[50, 60]), torch.zeros(1, 2, 13), torch.ones(1, 2)
    after = {**before, "action": torch.tensor([[181, 50]]), "flags_4": torch.tensor([[POWER_FLAG, 0]])}
    attack = torch.full((1, 2), 7)
    kept = core.tables.damage[7].clone()
    core.tables.damage[7, 0] = 9.0
    blow = core.candidates.blow(before, after, attack, fresh, pads)
    core.tables.damage[7] = kept
    assert blow.tolist() == [[9, 0]]
    slides = core.candidates.following(before, after, fresh, blow)["self_x_ground"]
    assert [slide[0, 0].item() for slide in slides] == pytest.approx([1.21, -1.21], abs=1e-4)
    struck = one(action=[181, 50], self_x_ground=[-1.21, 0], flags_4=[POWER_FLAG, 0])
    assert stun_pace(struck)[0, 0].item() == pytest.approx(3.322, abs=1e-3)


def expected_kb(fighter) -> float:
    return 18 + 154 * 52 / (fighter.weight + 100)


def test_the_constants_of_a_launch_are_found_and_used() -> None:
    rng = np.random.default_rng(0)
    move, hits = 22 * 400 + 68, 80
    percent, weight = rng.integers(5, 120, hits).astype(float), rng.choice([75.0, 80.0, 104.0], hits)
    kb = 18 + 154 * percent / (weight + 100)
    angle = np.deg2rad(85)
    launches = Launches()
    launches.measure(
        {"move": np.full(hits, move), "kb_x": kb * SPEED * np.cos(angle), "kb_y": kb * SPEED * np.sin(angle),
         "percent": percent, "weight": weight, "stun": np.floor(kb * 0.4)}
    )  # fmt: skip
    falco = character("FALCO")
    before = {"percent": torch.tensor([[40.7, 0.0]]), "character": torch.full((1, 2), falco.internal_id)}
    along, up, stun = launches(before, torch.tensor([[12.0, 0.0]]), torch.tensor([[move, 0]]))
    assert stun[0, 0, 0] == np.floor(expected_kb(falco) * 0.4)
    expected = expected_kb(falco) * SPEED
    assert up[0, 0, 0].item() == pytest.approx(expected * np.sin(angle), abs=1e-3)
    assert along[0, 0, 0].item() == pytest.approx(expected * np.cos(angle), abs=1e-3)
    assert not along[0, 1].any()


def test_hitstun_of_a_launch_that_is_left_flat_is_that_of_the_whole() -> None:
    rng = np.random.default_rng(0)
    move, hits, angle = 22 * 400 + 50, 80, np.deg2rad(44)
    percent, weight = rng.integers(5, 120, hits).astype(float), np.full(hits, 80.0)
    kb = 20 + 90 * percent / (weight + 100)
    launches = Launches()
    launches.measure(
        {"move": np.full(hits, move), "kb_x": kb * SPEED * np.cos(angle), "kb_y": np.zeros(hits), "percent": percent,
         "weight": weight, "stun": np.floor(kb * 0.4)}
    )  # fmt: skip
    falco = character("FALCO")
    whole = 20 + 90 * 60 / (falco.weight + 100)
    before = one(percent=[50.0, 0.0], character=[falco.internal_id] * 2)
    after = one(percent=[60.0, 0.0], knockback_x=[-whole * SPEED * np.cos(angle), 0.0])
    rise, attack = torch.tensor([[10.0, 0.0]]), torch.tensor([[move, 0]])
    stun, launched = launches.hitstun(before, after, rise, attack)
    assert launched.tolist() == [[True, False]]
    assert stun[0, 0] == np.floor(whole * 0.4)
    stun, launched = launches.hitstun(before, after, torch.zeros(1, 2), attack)  # no rise: what is left of another one
    assert not launched.any()
    assert stun[0, 0] == np.floor(whole * np.cos(angle) * 0.4)


@pytest.mark.parametrize(
    ("airborne", "stun", "angle", "said", "hurt"),
    [
        (0, 9, 0, "DAMAGE_LOW_3", "DAMAGE_LOW_1"),
        (0, 20, 44, "DAMAGE_HIGH_1", "DAMAGE_HIGH_2"),
        (1, 31, 44, "DAMAGE_FLY_NEUTRAL", "DAMAGE_AIR_3"),
        (1, 32, 44, "DAMAGE_FLY_LOW", "DAMAGE_FLY_LOW"),
        (1, 32, 80, "DAMAGE_FLY_LOW", "DAMAGE_FLY_TOP"),
        (1, 50, 30, "DAMAGE_FLY_NEUTRAL", "DAMAGE_FLY_NEUTRAL"),
        (0, 50, 30, "STANDING", "STANDING"),
    ],
)
def test_hitstun_and_angle_say_which_action_a_fighter_is_hurt_in(airborne, stun, angle, said, hurt) -> None:
    at = ACTION_NAMES.index
    logits = torch.zeros(1, 2, 400)
    logits[..., at("DAMAGE_FLY_ROLL")] = 1.0
    for height in ("HIGH", "LOW"):
        logits[..., [at(f"DAMAGE_{height}_{level}") for level in (1, 2, 3)]] = float(f"_{height}_" in said)
    logits[..., at(said)] = 2.0
    before = one(airborne=[airborne, 0])
    turned = np.deg2rad(angle)
    after = one(action=[at(said), 14], knockback_x=[np.cos(turned), 0.0], knockback_y=[np.sin(turned), 0.0])
    level = hurt_level(torch.tensor([[float(stun), 0.0]]))
    action = Hurt()(before, after, torch.tensor([[True, False]]), level, logits, torch.zeros(1, 2, 3))
    assert ACTION_NAMES[action[0, 0]] == hurt
    assert action[0, 1] == 14
    same = Hurt()(before, after, torch.tensor([[False, False]]), level, logits, torch.zeros(1, 2, 3))
    assert same.tolist() == after["action"].tolist()


@pytest.mark.parametrize(
    ("percent", "low", "hurt"),
    [(99.9, 0.0, "DAMAGE_FLY_HIGH"), (100.0, 0.0, "DAMAGE_FLY_ROLL"), (100.0, 2.0, "DAMAGE_FLY_LOW")],
)
def test_spinning_is_three_chances_in_ten_from_100_percent_on(percent: float, low: float, hurt: str) -> None:
    at = ACTION_NAMES.index
    logits = torch.zeros(1, 2, 400)
    logits[..., at("DAMAGE_FLY_ROLL")], logits[..., at("DAMAGE_FLY_LOW")] = 9.0, low
    after = one(action=[at("DAMAGE_FLY_ROLL"), 14], knockback_x=[1.0, 0.0], percent=[percent, 0])
    struck, level = torch.tensor([[True, False]]), torch.tensor([[3, 0]])
    action = Hurt()(one(airborne=[1, 0]), after, struck, level, logits, torch.zeros(1, 2, 3))
    assert ACTION_NAMES[action[0, 0]] == hurt


@pytest.mark.parametrize(
    ("presses", "lags", "since"),
    [
        ([5], [], 45),
        ([5, 40], [], 45),  # within 40 frames of another press: does not count
        ([5, 46], [], 4),
        ([5, 30, 46], [], 45),  # each press locks anew
        ([5, 46], [46], 45),  # not in hitlag
    ],
)
def test_a_press_counts_for_a_tech_if_none_was_made_shortly_before(presses, lags, since) -> None:
    state = one(action=[88, 88], hitlag=[0, 0])
    numbers, last = beginning(state), state
    pads = torch.zeros(51, 1, 2, 13)
    for press in presses:
        pads[press : press + 2, 0, 0, 10] = 1.0  # L, for two frames
    for t in range(1, 51):
        state = one(action=[88, 88], hitlag=[float(t in lags), 0])
        numbers, last = advance(numbers, last, state, torch.stack([pads[t - 1], pads[t]], dim=1)), state
    assert numbers["since_tech"][0, 0] == since
    assert numbers["since_press"][0, 0] == 50 - presses[-1]
    assert numbers["since_press"][0, 1] >= 50


def test_a_stick_across_a_launch_turns_it_by_eighteen_degrees_and_along_it_not_at_all() -> None:
    pads = torch.zeros(1, 2, 13)
    pads[0, 0, 1] = 1.0  # up
    pads[0, 1, 0] = 1.0  # right
    x, y = turned(torch.tensor([[2.0, 2.0]]), torch.zeros(1, 2), pads)
    assert torch.atan2(y, x)[0].tolist() == pytest.approx([np.deg2rad(18), 0.0], abs=1e-6)
    assert torch.hypot(x, y)[0].tolist() == pytest.approx([2.0, 2.0], abs=1e-5)


def test_hitstun_is_two_fifths_of_the_knockback() -> None:
    assert hitstun(torch.tensor([3.0]), torch.tensor([4.0])).item() == np.floor(5.0 / SPEED * 0.4)


# --- training --------------------------------------------------------------------------------------------------------


def experiment(**training: object) -> Experiment:
    phases = [{"steps": 12, "batch_size": 64}, {"steps": 4, "frames": 3, "batch_size": 32, "share": 0.25}]
    settings = {"phases": phases, "warmup_steps": 2, "holdout": 0.25, "learning_rate": 3e-3, "folds": 2,
                "vector_dropout": 0.2, "rollouts": 32, "long_rollouts": 0, **training}  # fmt: skip
    return Experiment(name="tiny-exact", model=TINY, training=settings)


@pytest.fixture(scope="module")
def trained(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exact")
    train_phases(experiment(long_rollouts=8), dataset, out)
    return out


def test_training_writes_its_weights_figures_and_manifest(trained: Path) -> None:
    rows = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 16
    assert set(rows[-1]["figures"]) >= {"RC@20", "exact@20", "change_acc"}
    manifest = json.loads((trained / "manifest.json").read_text())
    assert manifest["experiment"]["model"]["kind"] == "exact"
    assert {path.name for path in trained.glob("*.pt")} == {"best.pt", "last.pt", "final.pt", "folds.pt"}
    assert (trained / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_training_lowers_the_loss(dataset: Dataset, tmp_path: Path) -> None:
    losses: list[float] = []
    settings = experiment(phases=[{"steps": 40, "batch_size": 64}], learning_rate=1e-2, folds=0)
    train_phases(settings, dataset, tmp_path, on_step=lambda step, steps, loss: losses.append(loss))
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])


def test_a_run_that_was_stopped_goes_on_to_the_same_weights(dataset: Dataset, trained: Path, tmp_path: Path) -> None:
    """Stopped among its true frames, and again among its rollouts."""
    steps: list[int] = []
    for at in (5, 14):

        def stop(step: int, _: int, loss: float, at: int = at) -> None:
            steps.append(step)
            if step == at:
                signal.raise_signal(signal.SIGINT)

        with pytest.raises(KeyboardInterrupt):
            train_phases(experiment(), dataset, tmp_path, on_step=stop, resume=at > 5)
        assert json.loads((tmp_path / "manifest.json").read_text())["status"] == "interrupted"
    train_phases(experiment(), dataset, tmp_path, on_step=lambda step, _, loss: steps.append(step), resume=True)
    assert steps == list(range(1, 17))
    rows = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows == [json.loads(line)["step"] for line in (trained / "metrics.jsonl").read_text().splitlines()]
    first, second = (load_checkpoint(folder / "final.pt")[0].state_dict() for folder in (trained, tmp_path))
    assert all(torch.equal(first[name], value) or value.isnan().any() for name, value in second.items())


def test_a_run_goes_on_only_as_it_was_and_is_never_overwritten(dataset: Dataset, trained: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds a run"):
        train_phases(experiment(), dataset, trained)
    with pytest.raises(UserError, match=r"training\.learning_rate was 0\.003, is 0\.001"):
        train_phases(experiment(learning_rate=1e-3), dataset, trained, resume=True)
    with pytest.raises(UserError, match=r"no last\.pt"):
        train_phases(experiment(), dataset, tmp_path, resume=True)


def test_a_loss_that_is_not_finite_ends_a_run_and_leaves_its_frames(dataset: Dataset, tmp_path: Path) -> None:
    settings = experiment(phases=[{"steps": 40, "batch_size": 16}], learning_rate=1e30, warmup_steps=0)
    with pytest.raises(UserError, match="not finite"):
        train_phases(settings, dataset, tmp_path)
    bad = torch.load(tmp_path / "bad_batch.pt")
    assert bad["before"]["x"].shape == (16, 2)
    assert json.loads((tmp_path / "manifest.json").read_text())["status"] == "stopped"
    assert "model" in torch.load(tmp_path / "last.pt")


def test_of_many_frames_the_worst_are_chosen_oftenest_and_the_mean_stays_what_it_was() -> None:
    rng = torch.Generator().manual_seed(0)
    losses = torch.rand(4096, generator=rng) ** 12
    means = []
    for _ in range(100):
        index, weight = important(losses, 512, rng)
        assert len(index.unique()) == 512
        means.append((losses[index] * weight).mean().item())
        assert losses[index].mean() > 3 * losses.mean()
    assert np.mean(means) == pytest.approx(losses.mean().item(), rel=0.01)
    index, weight = important(losses, 4096, rng)
    assert torch.equal(index.sort().values, torch.arange(4096))
    assert torch.equal(weight, torch.ones(4096))


def test_a_rollout_that_is_far_off_goes_on_from_the_true_game(core: ExactCore, window: Unroll) -> None:
    shift = torch.tensor([[3.0, 0.0], [9.0, 0.0]] * (WINDOWS // 2))

    def fly(frames: Frames, settle: Settle) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        return torch.zeros(WINDOWS), {**frames.before, "x": frames.before["x"] + shift}, frames.carry

    frames, losses = own_frames(window, core, fly, lambda *state: state[1])
    assert len(losses) == len(frames.match) == WINDOWS * FRAMES
    first, second = window.state(0), window.state(1)
    flown = first["x"] + shift
    adrift = ((flown - second["x"]).abs() + (first["y"] - second["y"]).abs() > ADRIFT).any(dim=-1, keepdim=True)
    assert 0.5 < adrift.float().mean() < 0.9
    assert torch.equal(frames.before["x"][WINDOWS : 2 * WINDOWS], torch.where(adrift, second["x"], flown))


def test_training_without_phases_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="phases is empty"):
        train_phases(experiment(phases=[]), dataset, tmp_path)


@pytest.fixture(scope="module")
def shipped(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    path = tmp_path_factory.mktemp("shipped") / "tiny.onnx"
    export(*load_checkpoint(trained / "final.pt"), path)
    return open_artifact(path)


def test_the_artifact_does_what_the_core_does(trained: Path, shipped: Artifact, dataset: Dataset) -> None:
    from wm_runtime.simulator import Simulator
    from wm_train.evaluate.rollout import run_model

    model, _ = load_checkpoint(trained / "final.pt")
    windows = quick_windows(dataset, 32, history=16)
    onnx = run_model(Simulator(shipped, len(windows), threads=1), windows, 8).one_step
    pytorch = run_model(Matches(as_shipped(model), len(windows)), windows, 8).one_step
    for name in ("action", "airborne", "ground"):
        assert np.mean(onnx[name] == pytorch[name]) > 0.98, name
    assert np.quantile(np.abs(onnx["x"] - pytorch["x"]), 0.95) < 0.05


def test_the_artifact_gives_its_weights_back_to_go_on_from(
    trained: Path, shipped: Artifact, dataset: Dataset, tmp_path: Path
) -> None:
    model, _ = load_checkpoint(trained / "final.pt")
    weights = read_checkpoint(shipped.path)["model"]
    for name, value in as_shipped(model).state_dict().items():
        assert torch.equal(weights[name].nan_to_num(-7), value.nan_to_num(-7)), name
    goes_on = experiment(phases=[{"steps": 1, "batch_size": 16}], folds=0)
    train_phases(goes_on, dataset, tmp_path, start_from=shipped.path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["started_from"]["experiment"]["name"] == "tiny-exact"


def test_entropy_is_that_of_the_chances_also_of_who_is_sure_and_of_what_is_never_said() -> None:
    logits = torch.tensor([[0.0, 0.0, 0.0, -1e10], [50.0, 1.0, -3.0, 0.0], [2.0, 1.0, -3.0, -1e10]])
    chance = logits.double().softmax(dim=-1)
    expected = -torch.special.xlogy(chance, chance).sum(dim=-1)
    torch.testing.assert_close(_entropy(logits).double(), expected, rtol=1e-5, atol=1e-12)
    assert expected[0] == pytest.approx(np.log(3))
