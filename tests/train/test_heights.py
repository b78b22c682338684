"""Where fighters are struck: how heights are told by the hitbox and the body, and what they make of the action."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from states import one

from wm_runtime.facts import ACTION_NAMES
from wm_runtime.replays.dataset import Dataset
from wm_train.dynamics.exact import ExactCore
from wm_train.dynamics.heights import ACTIONS, AGES, CONTACT, HEIGHTS, SIZES, Heights, contact_of, height_of
from wm_train.dynamics.hurt import SAID_OF_HEIGHT, Hurt
from wm_train.dynamics.strikes import near_of_game
from wm_train.training.checkpoint import load_checkpoint

WAIT, FOX, FALCO = 14, 1, 22
LOW_2, NEUTRAL_2, HIGH_2, FLY_TOP = (
    ACTION_NAMES.index(f"DAMAGE_{name}") for name in ("LOW_2", "NEUTRAL_2", "HIGH_2", "FLY_TOP")
)


def test_actions_to_be_hurt_in_have_a_height() -> None:
    of = height_of()
    assert [HEIGHTS[of[action]] for action in (LOW_2, NEUTRAL_2, HIGH_2)] == ["LOW", "NEUTRAL", "HIGH"]
    assert of[ACTION_NAMES.index("DAMAGE_FLY_LOW")] == 0
    assert of[FLY_TOP] == of[ACTION_NAMES.index("DAMAGE_AIR_2")] == of[WAIT] == -1
    assert (of >= 0).sum() == 12


def test_a_contact_is_where_the_hitbox_is_and_which_circles_it_is_near() -> None:
    found = contact_of(torch.tensor([5.0]), torch.tensor([-100.0]), torch.tensor([[2.0, 1.0, 100.0]]))
    assert found.shape == (1, CONTACT)
    assert found[0].tolist() == pytest.approx([1.0, -3.0, 1.0, np.exp(-1), 1.0, np.exp(-6)])


def made_up(hits: int) -> tuple[dict[str, np.ndarray], torch.Tensor, torch.Tensor]:
    """Hits on Fox: those above 8 units are high, below 4 low; who crouches is struck half as high up."""
    rng = np.random.default_rng(0)
    up, action = rng.uniform(0, 12, hits), rng.choice([WAIT, 40], hits)
    height = np.digitize(np.where(action == 40, 2 * up, up), [4.0, 8.0])
    gaps = np.abs(up[:, None] - [2.0, 6.0, 10.0])
    of = {
        "victim": FOX * ACTIONS + action, "victim_age": rng.uniform(0, 100, hits).astype(np.float32),
        "move": np.full(hits, FALCO * ACTIONS + 65), "hurt": np.array([LOW_2, NEUTRAL_2, HIGH_2])[height],
        "hit": np.ones(hits, bool), "shields": np.zeros(hits, bool),
    }  # fmt: skip
    numbers = (torch.from_numpy(value).float() for value in (np.zeros(hits), up, gaps))
    return of, torch.zeros(hits, dtype=torch.int64), contact_of(*numbers)


def test_heights_are_learned_pose_by_pose() -> None:
    of, box, contact = made_up(3000)
    heights = Heights()
    heights.measure({name: value[:2000] for name, value in of.items()}, box[:2000], contact[:2000])
    some = {name: torch.from_numpy(of[name][2000:]) for name in ("victim", "victim_age", "move")}
    said = heights(some["victim"], some["victim_age"], some["move"], box[2000:], contact[2000:])
    right = said.argmax(dim=-1).numpy() == height_of()[of["hurt"][2000:]]
    assert said.shape == (1000, 3)
    assert right.mean() > 0.93
    assert all(getattr(heights, name).shape[0] == rows for name, (rows, _) in SIZES.items())
    stands = (some["victim"] == FOX * ACTIONS + WAIT).numpy()
    falco = some["victim"] + (FALCO - FOX) * ACTIONS
    said = heights(falco, some["victim_age"], some["move"], box[2000:], contact[2000:])
    told = said.argmax(dim=-1).numpy() == height_of()[of["hurt"][2000:]]
    assert told[stands].mean() > 0.7  # what all share


def test_without_hits_nothing_is_said() -> None:
    of, box, contact = made_up(50)
    heights = Heights()
    heights.measure({**of, "hit": np.zeros(50, bool)}, box, contact)
    assert not heights.of_all.any()
    assert heights.at_age.shape == (ACTIONS * AGES, 3, 1)


def test_the_height_chooses_among_actions_that_differ_in_it_alone() -> None:
    state = one()
    after = {**state, "action": torch.full((1, 2), NEUTRAL_2), "knockback_x": torch.ones(1, 2)}
    logits = torch.full((1, 2, ACTIONS), -5.0)
    logits[..., LOW_2], logits[..., NEUTRAL_2], logits[..., HIGH_2] = 1.0, 2.0, 0.0
    hurt, launched, level = Hurt(), torch.ones(1, 2, dtype=torch.bool), torch.ones(1, 2, dtype=torch.int64)

    def chosen(*height: float) -> int:
        told = torch.tensor(height).expand(1, 2, 3)
        return int(hurt(state, after, launched, level, logits, told)[0, 0])

    assert chosen(0.0, 0.0, 0.0) == NEUTRAL_2
    assert chosen(SAID_OF_HEIGHT + 0.1, 0.0, 0.0) == LOW_2
    assert chosen(SAID_OF_HEIGHT - 0.1, 0.0, 0.0) == NEUTRAL_2
    assert chosen(0.0, 0.0, 9.0) == HIGH_2
    high = hurt._high(logits[..., hurt.first : hurt.last + 1], torch.tensor([3.0, 0.0, 1.0]).expand(1, 2, 3))
    assert float(high.amax()) <= 2.0  # the hit itself is no likelier
    assert float(high[0, 0, HIGH_2 + 1 - hurt.first]) < -4.0  # nor those of another level of hitstun
    assert float(high[0, 0, FLY_TOP - hurt.first]) == -5.0


def test_shipped_tables_tell_most_heights_of_real_games(real_dataset: Dataset) -> None:
    core = load_checkpoint("fast")[0].core
    assert isinstance(core, ExactCore)
    tables, games = core.tables, range(len(real_dataset))
    parts = [near_of_game(real_dataset.columns(game), tables.strikes) for game in games]
    near = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    near["row"] = tables._rows(near["victim"], near["victim_age"])
    box, contact = tables.strikes.boxes_of(near)
    of = {name: torch.from_numpy(near[name]) for name in ("victim", "victim_age", "move")}
    said = tables.heights(of["victim"], of["victim_age"], of["move"], box, contact).argmax(dim=-1).numpy()
    height = height_of()[near["hurt"]]
    struck = near["hit"] & ~near["shields"] & (height >= 0)
    commonest = max(float((height[struck] == k).mean()) for k in range(3))
    assert struck.sum() > 300
    assert (said == height)[struck].mean() > max(0.75, commonest + 0.1)
