"""The exact core: own-frame network, explicit memory, and a choice among candidates, in the game's own order.

What each fighter means to do first, from that who would strike whom, and the actions; then who is struck, then
velocities and all else, then where a fighter ends up. Each stage is told what the ones before it chose; in training,
what was true. A network whose trunk remembers learns from frames one after the other at once (`Seen`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from wm_runtime.facts import FAMILIES
from wm_runtime.replays.dataset import Dataset
from wm_runtime.replays.rules import FOX
from wm_runtime.schema import C_, CONTROL_NAMES, FIELD, M_, NO_GROUND, NO_PLAYER, PLAYERS, VELOCITIES, state_layout
from wm_train.config import ExactConfig
from wm_train.dynamics.blows import Blows, Launch
from wm_train.dynamics.candidates import (
    CALM,
    FOLLOWING,
    MIRRORED,
    MOVED,
    PUSH,
    PUSHED,
    REGRESSED,
    SCALE,
    SHIELD_CHANGES,
    SHIELD_STUN,
    SIZES,
    TOLERANCE,
    UNPUSHED,
    WINDY,
    Candidates,
)
from wm_train.dynamics.clock import Clock, cancelled
from wm_train.dynamics.constants import constant
from wm_train.dynamics.contact import LANDING
from wm_train.dynamics.core import Carry, Core, Proposal, zeros
from wm_train.dynamics.decided import Decided, stays_up
from wm_train.dynamics.dives import steered
from wm_train.dynamics.features import EMBEDDED, FLAGS, Features, pace, scaled
from wm_train.dynamics.geometry import Surfaces, crosses, slope_at, support
from wm_train.dynamics.going import full_hop, goes_on
from wm_train.dynamics.guard import Guard, guard
from wm_train.dynamics.hurt import Hurt
from wm_train.dynamics.influence import influence
from wm_train.dynamics.kinematics import blown, displacement
from wm_train.dynamics.landing import Landing
from wm_train.dynamics.lasers import next_shots
from wm_train.dynamics.launch import hurt_level
from wm_train.dynamics.laws import Laws, ends, hops, leaps, on_slope, turns, untouched
from wm_train.dynamics.ledge import CATCH, Ledge
from wm_train.dynamics.memory import Past, carry_layout, recall, remember, struck_with
from wm_train.dynamics.named import Named, bounded, is_of, named
from wm_train.dynamics.push import Push
from wm_train.dynamics.select import LAST_RULED_ACTION, REBIRTH_WAIT
from wm_train.dynamics.slides import Slides
from wm_train.dynamics.specials import slashed, vanished
from wm_train.dynamics.stale import freshness
from wm_train.dynamics.strikes import ACTIVE, BOXES, CAUGHT, COLUMNS, FRESH, GRABS, LOGIT_SCALE, NEVER, shielding
from wm_train.dynamics.tables import DAMAGES, MoveTables
from wm_train.dynamics.throws import Throws
from wm_train.dynamics.walk import Walk
from wm_train.dynamics.wind import DREAM_LAND, blown_by
from wm_train.encoding import BITS, stage_of
from wm_train.models.own_frame import OwnFrameNetwork, RowEmbedding, vocabulary
from wm_train.training.records import Batch
from wm_train.training.whole_games import FOLD, Unroll

ACTIONS = FIELD["action"].classes or 0
OF_MOVES = ("self_move", "other_move", "self_row", "self_run_row", "other_row")
"""Embeddings of a fighter's moves and of their ages, of which many are seen in few games."""
GROUNDS = 65
"""Ids of surfaces below 64, and none."""
CLASSES = {"turns": 2, "airborne": 2, "hurtbox": 3, "jumps": 7, "l_cancel": 3, "ground": GROUNDS}
"""Field → classes of its head. Seen from a fighter there is no left and right: it turns around, or does not."""
CHOICES = {"last_attack": 4, "combo_count": 4, "last_hit_by": 3}
"""Whole-numbered field → number of its candidates, the first of which is that it stays."""
FLAG_BITS = 8 * len(FLAGS)
AT_LAST = ("x", "y")
"""Fields chosen when all else of the next frame is known."""
CHOSEN_IN_TURN = ("self_x_ground", "self_x_air", "self_y", "knockback_x", "knockback_y")
"""Velocities: on the ground, that in the air follows."""
HEADS: dict[str, dict[str, int]] = {
    "acted": {"percent": SIZES["percent"], "percent.value": 1},
    "struck": {
        **{name: size for name, size in SIZES.items() if name not in ("percent", *AT_LAST)},
        **{f"{name}.value": 1 for name in SIZES if name not in ("percent", "hitlag", *AT_LAST)},
        **CLASSES, **CHOICES, "flags": FLAG_BITS,
    },
    "moved": {name: size for at in AT_LAST for name, size in ((at, SIZES[at]), (f"{at}.value", 1))},
}  # fmt: skip
"""Stage → head → outputs; a field's `.value` is the value that the network makes itself."""
RISE, CONTACT = 8, 25
"""Numbers that tell a stage who was struck, and where velocities lead."""
UNHURT = 1
"""Candidate of percent: no rise."""
STAY_ODDS = 0.8
"""Added to the logit of an action that goes on when one is chosen, or meant: changes weigh more in training than they
happen. More (up to log CHANGE_WEIGHT) lowers RC@20 further, and the share of changes that are found."""
HURT_ODDS = -0.3
"""Added to the logits of the actions to be hurt in anew when one is chosen."""
BY_LASER, BY_GRAB = (1.04, 4.3), (0.8, 1.3)
"""What the odds of being struck by a laser, and of being grabbed, add to the logits of the actions to be hurt in, and
of those to be held in: so much of their logit, and so much more, where that is within ODDS_REACH. Fitted to eleven
games of train that were held out."""
BY_MOVE, MOST_ODDS = (2.6, 3.2, 2.8), 8.0
"""What the odds of being struck by a move add to the logits of the actions to be hurt in: so much of their logit, less
so much of that where fighters stood, if it is above 0, and so much more; both within MOST_ODDS. Fitted to 109 games of
train with bodies measured without them (6,083 hits), and its weight beside the network's margin, which is a third of
the odds', to the eleven games that the network was not trained on."""
BLOCKED, BY_BLOCK, BLOCK_ODDS = 181, (0.35, 2.4), -3.5
"""The action of who holds a shield that is struck, what the odds of being struck by a move add to its logit, and what
is added where no laser is near."""
ODDS_REACH = 6.0
OF_BLOWS = (1, 5, 6 + len(SHIELD_CHANGES), *range(-DAMAGES, 0))
"""Candidates of a shield that is struck: as it was, less what its holder pays for it, less a blow."""
SLIDES, OF_BLOCK = (-2, -1), (-2,)
"""Those of the velocity and the hitlag of who holds it: they follow from the blow."""
WALK_SOUGHT = 1.3
"""What `misc_as` of who walks is, in units a frame: so much of the speed of a walk, by the stick; on 85,100 of 85,145
frames of every second game of train."""
PUSH_ODDS = 6.0
"""Taken from the logits of places without a push where the rule says that there is one, and the reverse."""
LIMIT = 40.0
"""A network's own value goes no further, in units of its scale."""
FORBIDDEN = 1e8
"""Logits below −FORBIDDEN are of what cannot be."""
CHANGE_WEIGHT = 5.0
"""An action that changes weighs so much."""
ADRIFT = 4.0
"""Units, in x and y together, by which a training rollout may be off before it goes on from the true state."""
WEIGHTS = {
    "action": 1.0, "intent": 0.5, "percent": 1.0, **dict.fromkeys((*VELOCITIES, *AT_LAST), 1.0), "state_age": 0.5,
    "hitlag": 0.5, "shield": 0.3, "misc_as": 0.3, "turns": 0.5, "airborne": 1.0, "hurtbox": 0.5, "jumps": 0.3,
    "l_cancel": 0.1, "ground": 0.5, **dict.fromkeys(CHOICES, 0.1), "flags": 4.0, "values": 0.3,
}  # fmt: skip


@dataclass
class Truth:
    """What a frame really led to: the next state, by name (N, 2), and head → which candidates equal it, (N, 2, …)."""

    after: Named
    right: dict[str, Tensor]


@dataclass
class Seen:
    """What a trunk that remembers sees of B matches, frame by frame: numbers (L, B, 2, features), classes (L, B, 2)."""

    numbers: Tensor
    classes: Named


@dataclass
class Frames:
    """N frames to learn from: a state, true or the model's own, its carry, match (N, M), the controllers of the next
    frame (N, 2, 13), the true state in its place and what that led to. Where the trunk remembers, also all that it sees
    up to them, and which of what it says of that is of each, (N,)."""

    before: Named
    carry: Carry
    match: Tensor
    controllers: Tensor
    true_before: Named
    truth: Truth
    seen: Seen | None = None
    at: Tensor | None = None

    def take(self, index: Tensor | slice) -> Frames:
        before, carry, true_before, after, right = (
            {name: value[index] for name, value in part.items()}
            for part in (self.before, self.carry, self.true_before, self.truth.after, self.truth.right)
        )
        truth, at = Truth(after, right), None if self.at is None else self.at[index]
        return Frames(before, carry, self.match[index], self.controllers[index], true_before, truth, self.seen, at)

    @staticmethod
    def joined(parts: Sequence[Frames]) -> Frames:
        def join(named_parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
            return {name: torch.cat([part[name] for part in named_parts]) for name in named_parts[0]}

        truth = Truth(join([p.truth.after for p in parts]), join([p.truth.right for p in parts]))
        return Frames(
            join([p.before for p in parts]), join([p.carry for p in parts]), torch.cat([p.match for p in parts]),
            torch.cat([p.controllers for p in parts]), join([p.true_before for p in parts]), truth,
        )  # fmt: skip


@dataclass
class Outcome:
    """logits: head → (N, 2, …) · after: the chosen next state · entropy: of the action, (N, 2) nats · memory: of the
    trunk, after this frame."""

    logits: dict[str, Tensor]
    after: Named
    entropy: Tensor
    memory: Carry


Settle = Callable[[Named, Named, Tensor, Tensor], Named]
"""(state, proposal, match, frames in action) → the next state, as contact and rules leave it."""
Roll = Callable[[Frames, Settle], tuple[Tensor, Named, Carry]]
"""ExactCore.roll."""


class ExactCore(Core):
    """Predicts every field of a living fighter; rules decide the rest."""

    predicted = tuple(name for name, field in FIELD.items() if field.role == "state" and name != "stocks")
    weights = MappingProxyType(WEIGHTS)
    network: OwnFrameNetwork
    caught: Tensor
    """(actions,): being grabbed, bool."""
    against: Tensor
    """(not pushed or pushed, candidates of x): what is added to their logits."""
    calm: Tensor
    """(candidates of x,): each, and of those that wind is part of the same without it."""

    def __init__(self, config: ExactConfig) -> None:
        super().__init__()
        self.tables = MoveTables()
        self.features = Features(self.tables)
        self.candidates = Candidates(self.tables)
        self.geometry = self.candidates.geometry
        self.hurt, self.walk, self.push, self.ledge, self.throws = Hurt(), Walk(), Push(), Ledge(), Throws()
        self.clock, self.laws, self.slides, self.landing, self.blows = Clock(), Laws(), Slides(), Landing(), Blows()
        self.decided = Decided()
        against = torch.zeros(2, SIZES["x"])
        against[0, list(PUSHED)] = against[1, list(UNPUSHED)] = -PUSH_ODDS
        self.register_buffer("against", against, persistent=False)
        calm = torch.arange(SIZES["x"])
        calm[list(WINDY)] = torch.tensor(CALM)
        self.register_buffer("calm", calm, persistent=False)
        caught = torch.zeros(ACTIONS, dtype=torch.bool)
        caught[list(CAUGHT)] = True
        self.register_buffer("caught", caught, persistent=False)
        embedded = {e.name: (vocabulary(e.vocabulary, (1, 1)), e.width) for e in EMBEDDED}
        numbers = self._count_numbers()
        self.network = OwnFrameNetwork(
            numbers, embedded, HEADS, 2 * COLUMNS, RISE, CONTACT, config.width, config.blocks, config.late, config.trunk
        )

    @property
    def carry_layout(self) -> dict[str, tuple[tuple[int, ...], str]]:
        return {**carry_layout(), **self.network.memory_layout}

    @property
    def window(self) -> int:
        return self.past + 2

    @property
    def past(self) -> int:
        """True frames before those that are learned from with which a window begins."""
        return self.network.past

    def measure(self, dataset: Dataset, games: list[int], sample: Batch | None = None) -> None:
        """Fills the tables from `games` and sizes the embeddings by them."""
        self.tables.measure(dataset, games)
        rows = (1 + int(self.tables.vectors.max()), 1 + int(self.tables.run_vectors.max()))
        for e in EMBEDDED:
            if e.vocabulary < 0:
                embed = self.network.embed[e.name]
                assert isinstance(embed, RowEmbedding)
                embed.resize(vocabulary(e.vocabulary, rows))

    def forward(
        self, floats: Tensor, ints: Tensor, match: Tensor, before: Named, controllers: Tensor, carry: Carry
    ) -> Proposal:
        """See dynamics.core.Core."""
        past = recall(carry, before)
        outcome = self.run(before, past, match, controllers, memory=carry)
        next_carry = {**remember(past, carry, before, controllers), **outcome.memory}
        return Proposal(outcome.after, outcome.entropy, next_carry, past.numbers["frames_in_action"])

    def run(
        self, before: Named, past: Past, match: Tensor, controllers: Tensor, truth: Named | None = None,
        memory: Carry | None = None, h: Tensor | None = None, dropped: float = 0.0,
    ) -> Outcome:  # fmt: skip
        """State, its past, match, controllers of the next frame → what is said and chosen. With `truth`, the next
        state as it was, every stage is told that instead of what was chosen, and `after` is it.

        `memory`: a carry, of which the trunk takes what it remembers; None is nothing. `h` (N, 2, width): what the
        trunk says, where that is known. `dropped`: share of the vectors of moves and their ages that are hidden."""
        kept: Carry = {}
        if h is None:
            numbers, classes = self._seen(before, past, match, controllers)
            classes = _without(classes, dropped)
            memory = zeros(self.carry_layout, len(match), match.device) if memory is None else memory
            remembered = {name: memory[name] for name in self.network.memory_layout}
            h, kept = self.network.trunk(numbers, classes, remembered, memory["steps"] == 0)
        never = _never(before["action"]) | self.decided(before, controllers)
        logits = {"intent": self.network.intents(h).masked_fill(never, -10 * FORBIDDEN)}
        meant = (logits["intent"] + _stays(before["action"])).argmax(dim=-1).int()
        guarding = guard(before, past.numbers["frames_in_action"], past.controllers, controllers)
        age = self._ages(before, past, meant)
        headed = self._places(before, past, meant, age, controllers)
        strikes, box, contact = self._strikes(before, past, meant, age, headed, guarding)
        h = self.network.decide(h, torch.cat([self._vectors(before, meant, dropped), strikes], dim=-1))
        stage = stage_of(match)
        catching = self.ledge(before, past, stage, controllers)
        said = self.network.actions(h)
        said = said + catching[..., None] * (torch.arange(ACTIONS, device=said.device) == CATCH)
        hurt = self.hurt.kinds & (torch.arange(ACTIONS, device=said.device) != before["action"][..., None])
        struck, caught, blocked = self._struck_odds(before, past, meant, strikes, headed, guarding)
        grabbed = is_of(before["action"].flip(1), GRABS)
        said = said + (struck * ~grabbed)[..., None] * hurt
        said = said + ((caught + HURT_ODDS) * grabbed)[..., None] * self.caught
        anew = (torch.arange(ACTIONS, device=said.device) == BLOCKED) & (before["action"] != BLOCKED)[..., None]
        said = said + blocked[..., None] * anew
        surfaces = self.geometry.surfaces(stage, match[..., M_["frame"]] + 1, past.platforms)
        said = said + self._landing_odds(before, past, meant, surfaces, controllers)[..., None] * self.landing.lands
        end, odds = ends(before, past)
        said = said + odds[..., None] * (torch.arange(ACTIONS, device=said.device) == end[..., None])
        comes_down = said[..., LANDING] > said.gather(-1, before["action"][..., None].long())[..., 0]
        logits["action"] = said.masked_fill(never, -10 * FORBIDDEN)
        entropy = _entropy(logits["action"])
        after = dict(before)
        told = truth if truth is not None else after
        after["action"] = self.walk(before, self._chosen(logits["action"], before["action"]))

        chosen = torch.cat([self._vectors(before, told["action"], dropped), strikes], dim=-1)
        h, heads = self.network.stage("acted", h, chosen)
        logits |= heads
        attack = self._attack(before, told["action"])
        fresh = self._fresh(past, attack)
        options = self.candidates.percent(before, attack, fresh, _value(heads, "percent"))
        logits["percent"] = heads["percent"] = self._likely(before, past, told["action"], attack, box, heads["percent"])
        after["percent"] = torch.maximum(_struck(options, heads["percent"]), before["percent"])
        if truth is None:
            after["action"] = self._hurt_by_percent(before, after, hurt, logits["action"])
        rise = told["percent"] - before["percent"]

        h, heads = self.network.stage("struck", h, _rises(before, rise))
        logits |= heads
        slope = slope_at(surfaces, before["x"], before["y"])
        if truth is None:
            stun, launched, flung = self._choose(
                after, before, past, match, controllers, heads, meant, attack, fresh, rise, slope, comes_down
            )
            own, means = ((before["character"] * ACTIONS + of).long() for of in (before["action"], meant))
            height = self.tables.heights(own, before["state_age"], means.flip(1), box, contact)
            after["action"] = self.hurt(*flung, launched, hurt_level(stun), logits["action"], height)

        _, heads = self.network.stage("moved", h, self._contact(before, told, surfaces, stage))
        logits |= heads
        pushed = self.push(before, told, stage)
        logits["x"] = heads["x"] = heads["x"] + self.against[pushed.long()]
        if truth is None:
            places, last = self.geometry.places(stage), past.controllers[:, -1]
            rows = self._three_rows(before, past, after)
            by_stick = influence(before, after, past, controllers, surfaces)
            options = self.candidates.x(
                before, after, past.last, *rows, places, slope[0], controllers, last, _value(heads, "x"), by_stick
            )
            away = torch.where(before["x"] >= before["x"].flip(1), PUSH, -PUSH) * pushed
            options = self._in_wind(options, before, after, past, stage)
            after["x"] = torch.where(by_stick.shielded, options[..., MOVED] + away, _pick(options, heads["x"]))
            options = self.candidates.y(
                before, after, *rows, places, surfaces, controllers, last, _value(heads, "y"), by_stick
            )
            after["y"] = _pick(options, heads["y"])
            after["x"], after["y"] = self.throws(before, after)
        return Outcome(logits, dict(truth) if truth is not None else after, entropy, kept)

    def _hurt_by_percent(self, before: Named, after: Named, hurt: Tensor, logits: Tensor) -> Tensor:
        """State; the next action and percent; actions to be hurt in anew, (N, 2, actions) bool, and logits of all → the
        next action, (N, 2): without a rise of percent nobody is hurt anew (none in 478,738 frames of every fourth game
        of train), nor by the lasers of Fox's throws, which do not stop anybody; nor does any action change in hitlag
        (17, of 128,090 frames of every fifth game, most of them techs at walls)."""
        now, unhit = before["action"], after["percent"] <= before["percent"]
        anew = self.hurt.kinds[after["action"].long()] & (after["action"] != before["action"])
        shot = (before["character"].flip(1) == FOX) & is_of(after["action"].flip(1), FAMILIES["throw"])
        shot = shot & ~is_of(before["action"], FAMILIES["thrown"])
        unhurt = self.walk(before, self._chosen(logits.masked_fill(hurt, -FORBIDDEN), now))
        unhurt = torch.where(self.hurt.kinds[now.long()], now, unhurt)
        action = torch.where(anew & (shot | unhit), unhurt, after["action"])
        return torch.where(unhit & (before["hitlag"] > 1), now, action)

    def _chosen(self, logits: Tensor, before: Tensor) -> Tensor:
        """Logits of actions (N, 2, actions) and the action now → the likeliest, (N, 2) int32."""
        stays = _stays(before)
        hurt = self.hurt.kinds & (stays == 0)
        return (logits + stays + hurt * HURT_ODDS).argmax(dim=-1).int()

    def _vectors(self, before: Named, action: Tensor, dropped: float) -> Tensor:
        """Vectors of the actions that were chosen."""
        move = self.features.known_move(before["character"], action)
        return self.network.chosen(_hidden(move, dropped), action)

    def _seen(self, before: Named, past: Past, match: Tensor, controllers: Tensor) -> tuple[Tensor, Named]:
        """Numbers (N, 2, features) and classes (N, 2) of a frame, as the trunk takes them."""
        numbers = self.features.numbers(before, past, match, controllers)
        return numbers, self.features.classes(before, past, match)

    def _choose(
        self, after: Named, before: Named, past: Past, match: Tensor, controllers: Tensor, heads: dict[str, Tensor],
        meant: Tensor, attack: Tensor, fresh: Tensor, rise: Tensor, slope: tuple[Tensor, Tensor], comes_down: Tensor,
    ) -> tuple[Tensor, Tensor, tuple[Named, Named]]:  # fmt: skip
        """Puts into `after` what the stage `struck` chooses. → Frames of hitstun of the knockback that it chose,
        whether that is a new launch (N, 2), and the state and the next one as a launch finds fighters and flings them.
        """
        cosine, sine = slope
        for name in ("airborne", "hurtbox", "jumps", "l_cancel", "ground"):
            after[name] = heads[name].argmax(dim=-1).int()
        after["airborne"] = stays_up(before, after, after["airborne"], comes_down)
        hurtbox, ruled = untouched(before, after, past.numbers["since_hurtbox"])
        after["hurtbox"] = torch.where(ruled, hurtbox, after["hurtbox"])
        turns_, ruled = turns(before, after, past, controllers)
        turns_ = torch.where(ruled, turns_.int(), heads["turns"].argmax(dim=-1).int())
        after["facing"] = before["facing"] * (1 - 2 * turns_)
        nowhere = after["ground"] == GROUNDS - 1
        after["ground"] = torch.where(nowhere, torch.full_like(after["ground"], NO_GROUND), after["ground"])
        for name, options in self._whole(before, after["action"]).items():
            after[name] = _pick(options, heads[name]).int()
        set_ = (heads["flags"] > 0).int().unflatten(-1, (len(FLAGS), 8))
        powers = 2 ** torch.arange(8, device=set_.device, dtype=torch.int32)
        for i, name in enumerate(FLAGS):
            after[name] = (set_[..., i, :] * powers).sum(dim=-1).int()

        last_controllers = past.controllers[:, -1]
        ages = self.candidates.age(before, after["action"], past.last, _value(heads, "state_age"))
        move = (before["character"] * ACTIONS + before["action"]).long()
        age = self.clock(before, past, after["action"], _pick(ages, heads["state_age"]), self.tables.pace[move])
        after["state_age"] = self.throws.clock(before, after["action"], age)
        after["l_cancel"] = cancelled(before, past, after["action"], controllers, after["l_cancel"])
        shields = self.candidates.shield(
            before, past.last, attack, fresh, controllers, last_controllers, _value(heads, "shield")
        )
        blocks = (after["action"] == SHIELD_STUN) & (before["action"] != SHIELD_STUN)
        after["shield"] = _pick(shields, _only(heads["shield"], blocks, OF_BLOWS))
        blow = self.candidates.blow(before, after, attack, fresh, controllers)
        blocks = blocks & (blow > 0)
        row = self.tables.row(before["character"], after["action"], after["state_age"])
        values = {name: _value(heads, name) for name in VELOCITIES}
        velocities = self._velocities(before, past, after["action"], row, attack, rise, controllers, values)
        for name in CHOSEN_IN_TURN:
            options = velocities[name]
            if name in FOLLOWING:
                more = self.candidates.following(before, after, cosine, blow)[name]
                options = torch.cat([options, torch.stack(more, dim=-1)], dim=-1)
            sign = before["facing"].float() if name in MIRRORED else 1.0
            said = _only(heads[name], blocks, SLIDES) if name == "self_x_ground" else heads[name]
            after[name] = _pick(options, said) * sign
            if name == "self_x_ground":
                ruled = self._ruled(before, after)
                after[name] = torch.where(ruled.isnan(), after[name], ruled)
        leaps_ = leaps(before, after)
        leapt = self.candidates.leapt(before, controllers, last_controllers)
        followed = torch.where(ruled.isnan(), after["self_x_air"], ruled * cosine)
        drifts, cut, share = self.laws.drifts(before, after, past.numbers["action_1"])
        spring = self.laws.springs(before, after, past, controllers)
        from_ = {**before, "self_x_air": torch.where(spring.isnan(), before["self_x_air"], spring)}
        drifted = self.candidates.drifted(from_, controllers, cut, share)
        drifts = drifts | ~spring.isnan()
        after["self_x_air"] = torch.where(leaps_, leapt, torch.where(drifts, drifted, followed))
        self._special(after, before, past, controllers)
        character = before["character"].long()
        hop = hops(before, after, past, self.tables.hop[character], self.candidates.gravity[character])
        after["self_y"] = torch.where(hop.isnan(), after["self_y"], hop)
        friction = self.candidates.friction[character]
        along, up, slides = self.slides(before, after, stage_of(match), friction)
        drift = blown(before["knockback_x"], before["knockback_y"])
        left = tuple(
            torch.where(slides, slid, before[name] * drift)
            for name, slid in (("knockback_x", along), ("knockback_y", up))
        )
        slides &= rise <= 0
        after["knockback_x"] = torch.where(slides, along, after["knockback_x"])
        after["knockback_y"] = torch.where(slides, up, after["knockback_y"])
        lags = self.candidates.hitlag(before, rise, blow)
        after["hitlag"] = _pick(lags, _only(heads["hitlag"], blocks, OF_BLOCK)).round().clamp(min=0.0)
        stun, launched = self.tables.launches.hitstun(before, after, rise, attack)
        along, up, thrown_stun, thrown = self.throws.launch(before, after, rise, last_controllers)
        after["knockback_x"] = torch.where(thrown, along, after["knockback_x"])
        after["knockback_y"] = torch.where(thrown, up, after["knockback_y"])
        misc = self.candidates.misc_as(before, after, row, stun, _value(heads, "misc_as"))
        first = torch.arange(thrown.shape[1], device=thrown.device)  # the second player has had a frame of it
        misc = torch.where(thrown, thrown_stun - first, _pick(misc, heads["misc_as"]))
        walks = is_of(after["action"], FAMILIES["walk"]) & (before["hitlag"] <= 0)
        sought = WALK_SOUGHT * self.candidates.walk[character] * controllers[..., C_["main_x"]]
        after["misc_as"] = torch.where(walks, sought, misc)
        hit = self._hit(before, after, past, meant, rise, left)
        struck = hit.struck & ~thrown & ((after["hitlag"] > 0) | (after["hitlag"].flip(1) > 0))
        flung = {name: torch.where(struck, getattr(hit, way), after[name])
                 for name, way in (("knockback_x", "along"), ("knockback_y", "up"))}  # fmt: skip
        for name, value in (
            ("knockback_x", hit.x), ("knockback_y", hit.y), ("facing", hit.facing), ("airborne", hit.airborne),
            ("misc_as", hit.stun), ("hitlag", hit.hitlag),
        ):  # fmt: skip
            after[name] = torch.where(struck, value, after[name])
        stops = struck.flip(1) & ~struck & (hit.stops > 0)
        after["hitlag"] = torch.where(stops, hit.stops, after["hitlag"])
        after["self_y"] = torch.where(on_slope(before, after), after["self_x_ground"] * sine, after["self_y"])
        found = {**before, "airborne": torch.where(struck, hit.air, before["airborne"])}
        stun = torch.where(struck, hit.stun, torch.where(thrown, thrown_stun, stun))
        return stun, (launched | struck) & ~thrown, (found, {**after, **flung})

    def _in_wind(self, options: Tensor, before: Named, after: Named, past: Past, stage: Tensor) -> Tensor:
        """Candidates of x (N, 2, C), state, what is known of the next one, its past and the stage (N,) → the same, as
        Dream Land's wind moves them: there those that wind is part of are what they are without it, and a rule says
        whom it moves. The network's own value has the wind in it."""
        calm = torch.where((stage == DREAM_LAND.id)[:, None, None], options.index_select(-1, self.calm), options)
        height = before["y"] + displacement(before, after)[1]
        moves = blown_by(past.wind, before, after, calm, height, stage)
        return calm + moves * (torch.arange(calm.shape[-1], device=calm.device) != REGRESSED)

    def _special(self, after: Named, before: Named, past: Past, controllers: Tensor) -> None:
        """Puts into `after` the own velocities of special moves that a rule of their own tells."""
        rubs = self.candidates.air_friction[before["character"].long()]
        dive = steered(before, after, controllers[..., C_["main_x"]])
        nothing = torch.full_like(dive, torch.nan)
        for along, up in ((dive, nothing), vanished(before, after, past, rubs), slashed(before, after, past)):
            known = ~along.isnan()
            flies = known & (after["airborne"] == 1)
            after["self_x_air"] = torch.where(flies, along, after["self_x_air"])
            after["self_x_ground"] = torch.where(known & ~flies, along, after["self_x_ground"])
            after["self_y"] = torch.where(flies & ~up.isnan(), up, after["self_y"])

    def _hit(
        self, before: Named, after: Named, past: Past, meant: Tensor, rise: Tensor, left: tuple[Tensor, ...]
    ) -> Launch:
        """State and what is known of the next one, what fighters mean to do, rises of percent and what is left of their
        knockback, x and y (N, 2) → what hits do to them. Who is hit while it hits does so with what it meant to do."""
        own = self.tables.last_attack[(before["character"] * ACTIONS + meant).long()].int()
        attack = torch.where(rise > 0, own, after["last_attack"]).flip(1)
        fresh = freshness(struck_with(past.numbers).flip(1), attack)
        return self.blows(before, after, meant, attack, rise, fresh, left, past.numbers["since_blow"])

    def _ruled(self, before: Named, after: Named) -> Tensor:
        """State; the next action, age, airborne state and facing → the velocity on the ground that laws say, NaN where
        they say nothing, (N, 2)."""
        character = before["character"].long()
        animated = self.laws.animated(before, after)
        grounded = self.laws.grounded(
            before, after, self.candidates.run_speed(character), self.candidates.friction[character]
        )
        return torch.where(animated.isnan(), grounded, animated)

    def _ages(self, before: Named, past: Past, action: Tensor) -> Tensor:
        """The ages that these next actions commonly have, (N, 2)."""
        move = (before["character"] * ACTIONS + action).long()
        rate = pace(before, past, 10.0)
        usual = torch.nan_to_num(self.tables.age_rate[move][..., 0], 1.0)
        rate = torch.where((rate <= 0) & (before["hitlag"] <= 1), usual, rate)
        begins = torch.nan_to_num(self.tables.age_start[move][..., 0], 1.0)
        reached = self.tables.looped(move, before["state_age"] + rate)
        return torch.where(action == before["action"], reached, begins)

    def _likely(
        self, before: Named, past: Past, action: Tensor, attack: Tensor, box: Tensor, logits: Tensor
    ) -> Tensor:
        """Next actions, the other fighter's moves and with which hitbox they strike (N, 2), logits of the candidates of
        percent → the same, and how likely each damage is at the age that the other fighter's move has then, and by that
        hitbox; whether there is any stays as it was."""
        age = self._ages(before, past, action).flip(1)
        damage = torch.nan_to_num(self.tables.damage[attack], 0.0)
        likely = self.blows.by_age(before["character"].flip(1), self.tables.last_attack[attack], age, damage)
        by_box = self.tables.by_box[attack].unflatten(-1, (BOXES, DAMAGES))
        by_box = (by_box * (torch.arange(BOXES, device=box.device) == box[..., None])[..., None]).sum(dim=-2)
        said = logits[..., -DAMAGES:]
        told = said + likely + by_box
        told = told + (said.logsumexp(dim=-1) - told.logsumexp(dim=-1))[..., None]
        return torch.cat([logits[..., :-DAMAGES], told], dim=-1)

    def _strikes(
        self, before: Named, past: Past, action: Tensor, age: Tensor, places: tuple[Tensor, Tensor], guarding: Guard
    ) -> tuple[Tensor, Tensor, Tensor]:
        """If these are the next actions, ages and places (N, 2): numbers about the other fighter striking this one, and
        the reverse, (N, 2, 2 · COLUMNS); and the hitbox with which the other one would, (N, 2), and
        `heights.contact_of` that."""
        same = action == before["action"]
        grabs = is_of(before["action"], GRABS)
        action, age = torch.where(grabs, before["action"], action), torch.where(grabs, before["state_age"], age)
        spent = same & (past.numbers["since_hitlag"] <= past.numbers["since_begun"])
        row = self.tables.row(before["character"], before["action"], before["state_age"])
        told = self.tables.strikes(before, row, action, age, spent, places, guarding, self.tables.fold)
        mine, box, contact = told
        return torch.cat([mine.flip(1), mine], dim=-1), box.flip(1), contact.flip(1)

    def _places(
        self, before: Named, past: Past, action: Tensor, age: Tensor, controllers: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Where fighters will be if these are the next actions and their ages (N, 2) and nobody is struck, (N, 2)."""
        character, of = before["character"].long(), self.candidates
        usual = self.tables.of("goes")[self.tables.row(before["character"], action, age)]
        leapt, hop = of.leapt(before, controllers, past.controllers[:, -1]), self.tables.hop[character]
        falls = of.terminal[character], of.fast_fall[character]
        full = full_hop(past.controllers, past.numbers["frames_in_action"])
        return goes_on(before, action, usual, hop, full, leapt, past.controllers, controllers, *falls)

    def _struck_odds(
        self, before: Named, past: Past, meant: Tensor, strikes: Tensor, places: tuple[Tensor, Tensor],
        guarding: Guard,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """What the odds of lasers and of `strikes` (`_strikes`) at these places say, as logits (N, 2): of being hurt
        and of being caught, to who does not mean to shield, and of a struck shield, to who does. Who was not struck
        where it stood, though it should have been, is struck the less likely there now: bodies are not known so well,
        and what is wrong with one stays wrong."""
        row = self.tables.row(before["character"], before["action"], before["state_age"])
        lasers = next_shots(past.shots, before, pace(before, past))
        laser = -self.tables.strikes.reach(lasers, before, row, places, guarding, self.tables.fold).flip(1)
        out = strikes[..., ACTIVE] * strikes[..., FRESH] > 0
        move = torch.where(out, strikes[..., 0] / LOGIT_SCALE, NEVER)
        stood = self.tables.strikes.standing(before, row, guarding, self.tables.fold).flip(1)
        of_move, of_stood, more = BY_MOVE
        by_move = of_move * move.clamp(min=-MOST_ODDS) - of_stood * stood.clamp(0.0, MOST_ODDS) + more
        shot = _odds(laser, *BY_LASER)
        hurt, caught = shot + by_move * out, shot + _odds(move, *BY_GRAB)
        blocked = _odds(move, *BY_BLOCK) + BLOCK_ODDS * (laser <= -ODDS_REACH)
        shields = shielding(meant)
        may = (before["hurtbox"] == 0) & ~shields
        return hurt * may, caught * may, blocked * shields

    def _landing_odds(
        self, before: Named, past: Past, meant: Tensor, surfaces: Surfaces, controllers: Tensor
    ) -> Tensor:
        """What the feet of fighters that mean these actions (N, 2) say of coming down, as a logit (N, 2)."""
        character, action = before["character"], before["action"]
        meant = self.landing.before_landing(action, meant)
        same, move = meant == action, (character * ACTIONS + meant).long()
        begins = torch.nan_to_num(self.tables.age_start[move][..., 0], 1.0)
        age = torch.where(same, self.tables.looped(move, before["state_age"] + pace(before, past)), begins)
        poses = ((action, before["state_age"]), (meant, age))
        now, next_ = (self.tables.feet_of(character, *pose, past.numbers, later) for later, pose in enumerate(poses))
        of, who = self.candidates, character.long()
        return self.landing(
            before, meant, (now, next_), surfaces, controllers, of.gravity[who], of.terminal[who], of.fast_fall[who]
        )

    def _attack(self, before: Named, action: Tensor) -> Tensor:
        """State and next actions → the move that strikes each fighter, if one does, (N, 2): what the other one does,
        and what that did if it is struck itself."""
        hurt = self.hurt.kinds[action.long()] & (action != before["action"])
        return (before["character"] * ACTIONS + torch.where(hurt, before["action"], action)).flip(1).long()

    def _fresh(self, past: Past, attack: Tensor) -> Tensor:
        """What is left of the damage of the other fighter's move `attack` (N, 2)."""
        return freshness(struck_with(past.numbers).flip(1), self.tables.last_attack[attack])

    def _three_rows(self, before: Named, past: Past, after: Named) -> tuple[Tensor, Tensor, Tensor]:
        """Rows of the next move, of the present one, and of the present one in a frame, (N, 2) each."""
        character, action, age = before["character"], before["action"], before["state_age"]
        row = self.tables.row
        next_row = row(character, after["action"], after["state_age"])
        return next_row, row(character, action, age), row(character, action, age + pace(before, past))

    def _velocities(
        self, before: Named, past: Past, action: Tensor, row: Tensor, attack: Tensor, rise: Tensor, controllers: Tensor,
        values: dict[str, Tensor],
    ) -> dict[str, Tensor]:  # fmt: skip
        move = (before["character"] * ACTIONS + action).long()
        last = past.controllers[:, -1]
        return self.candidates.velocities(before, row, move, attack, rise, controllers, last, values)

    def _whole(self, before: Named, action: Tensor) -> dict[str, Tensor]:
        """CHOICES → values of their candidates, (N, 2, …) int32."""
        move = (before["character"] * ACTIONS + action).long()
        zero = torch.zeros_like(before["action"])
        other = constant((1, 0), zero.device, torch.int32).expand_as(zero)
        combo = before["combo_count"]
        columns = {
            "last_attack": [before["last_attack"], self.tables.last_attack[move].int(), zero, zero + 1],
            "combo_count": [combo, combo + 1, zero, zero + 1],
            "last_hit_by": [before["last_hit_by"], other, zero + NO_PLAYER],
        }
        return {name: torch.stack(column, dim=-1) for name, column in columns.items()}

    def _contact(self, before: Named, after: Named, surfaces: Surfaces, stage: Tensor) -> Tensor:
        """Where the next velocities would lead, (N, 2, CONTACT)."""
        dx, dy = displacement(before, after)
        x, y, facing = before["x"], before["y"], before["facing"].float()
        to_x, to_y = x + dx, y + dy
        gap, left, right, solid = support(surfaces, to_x, to_y)
        here = support(surfaces, x, y)[0]
        through, through_solid = crosses(surfaces, x, y, to_x, to_y)
        places = self.geometry.places(stage)
        ahead = torch.where(facing > 0, right - to_x, to_x - left)
        behind = torch.where(facing > 0, to_x - left, right - to_x)
        apart_x, apart_y = to_x.flip(1) - to_x, to_y.flip(1) - to_y
        columns = [
            *scaled(gap, (20.0, 2.0, 0.2)), *scaled(here, (2.0, 0.2)), *scaled(ahead, (10.0, 1.0)),
            *scaled(behind, (10.0, 1.0)), solid, through.float(), through_solid.float(), after["airborne"].float(),
            *scaled(dx * facing, (3.0, 0.3)), *scaled(dy, (3.0, 0.3)), (after["hitlag"] > 0).float(),
            (before["hitlag"] > 0).float(), *scaled(to_x.abs() - places["edge_stand"], (5.0, 0.5)),
            *scaled(apart_x * facing, (15.0, 5.0)), *scaled(apart_y, (15.0,)),
            (after["facing"] != before["facing"]).float(),
        ]  # fmt: skip
        return torch.stack(columns, dim=-1)

    # --- learning ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def truth(self, before: Named, past: Past, match: Tensor, controllers: Tensor, after: Named) -> Truth:
        """A true state, its past, the controllers of the next frame and the next state → what there is to say."""
        zero = torch.zeros_like(before["x"])
        rise, stage = after["percent"] - before["percent"], stage_of(match)
        attack = self._attack(before, after["action"])
        fresh, last, rows = self._fresh(past, attack), past.controllers[:, -1], self._three_rows(before, past, after)
        surfaces = self.geometry.surfaces(stage, match[..., M_["frame"]] + 1, past.platforms)
        places, (cosine, _) = self.geometry.places(stage), slope_at(surfaces, before["x"], before["y"])
        nothing = dict.fromkeys(VELOCITIES, zero)
        by_stick = influence(before, after, past, controllers, surfaces)
        blow = self.candidates.blow(before, after, attack, fresh, controllers)
        following = self.candidates.following(before, after, cosine, blow)
        stun, _ = self.tables.launches.hitstun(before, after, rise, attack)
        options = {
            **self._velocities(before, past, after["action"], rows[0], attack, rise, controllers, nothing),
            "x": self.candidates.x(before, after, past.last, *rows, places, cosine, controllers, last, zero, by_stick),
            "y": self.candidates.y(before, after, *rows, places, surfaces, controllers, last, zero, by_stick),
            "state_age": self.candidates.age(before, after["action"], past.last, zero),
            "hitlag": self.candidates.hitlag(before, rise, blow),
            "percent": self.candidates.percent(before, attack, fresh, zero),
            "shield": self.candidates.shield(before, past.last, attack, fresh, controllers, last, zero),
            "misc_as": self.candidates.misc_as(before, after, rows[0], stun, zero),
        }
        options["x"] = self._in_wind(options["x"], before, after, past, stage)
        for name, more in following.items():
            options[name] = torch.cat([options[name], torch.stack(more, dim=-1)], dim=-1)
        right = {}
        for name, values in options.items():
            true = mirrored(name, after, before)
            equal = (values - true[..., None]).abs() < TOLERANCE[name]
            equal[..., REGRESSED] = ~equal[..., REGRESSED + 1 :].any(dim=-1)
            right[name] = equal
        for name, values in self._whole(before, after["action"]).items():
            right[name] = values == after[name][..., None]
        return Truth(after, right)

    def losses_of(
        self, outcome: Outcome, before: Named, true_before: Named, truth: Truth, told: Named
    ) -> dict[str, Tensor]:
        """Name → loss of every fighter (N, 2) of an outcome. `before` is the state that it was made from, `told` what
        its later stages were told: where another action was told than the true one, they learn nothing."""
        after = truth.after
        learned = (true_before["action"] > LAST_RULED_ACTION) & (after["action"] > LAST_RULED_ACTION)
        learned = learned & (before["action"] > LAST_RULED_ACTION)
        said = outcome.logits["action"].gather(-1, after["action"][..., None].long())[..., 0]
        learned = learned & (said > -FORBIDDEN)
        same = (learned & (told["action"] == after["action"])).float()
        changed = (after["action"] != true_before["action"]).float()
        weight = learned.float() * (1 + (CHANGE_WEIGHT - 1) * changed)
        free = ~(after["percent"] > true_before["percent"])  # who is struck does not show what it meant
        said = outcome.logits["intent"].gather(-1, after["action"][..., None].long())[..., 0]
        out = {
            "action": _nll(outcome.logits["action"], after["action"]) * weight,
            "intent": _nll(outcome.logits["intent"], after["action"]) * weight * (free & (said > -FORBIDDEN)),
        }
        values = []
        for name, right in truth.right.items():
            logits = outcome.logits[name]
            known = right.any(dim=-1)
            chosen = logits.logsumexp(dim=-1) - logits.masked_fill(~right, -1e9).logsumexp(dim=-1)
            out[name] = chosen.masked_fill(~known, 0.0) * same
            if f"{name}.value" in outcome.logits:
                change = mirrored(name, after, true_before) - base(name, true_before, after)
                if name == "x":
                    change = change * true_before["facing"].float()
                error = (_value(outcome.logits, name) - change) / SCALE[name]
                error = F.smooth_l1_loss(error, torch.zeros_like(error), reduction="none", beta=0.2)
                values.append(error * right[..., REGRESSED].float() * same)
        out["values"] = torch.stack(values).sum(dim=0)
        for name in CLASSES:
            target = after[name] if name in after else (after["facing"] != true_before["facing"]).int()
            out[name] = _nll(outcome.logits[name], target.clamp(0, CLASSES[name] - 1)) * same
        bits = constant(BITS, same.device, torch.int32)
        flags = torch.cat([((after[name][..., None] & bits) > 0).float() for name in FLAGS], dim=-1)
        wrong = F.binary_cross_entropy_with_logits(outcome.logits["flags"], flags, reduction="none").mean(dim=-1)
        out["flags"] = wrong * same
        return out

    def true_frames(self, window: Unroll) -> Frames:
        """Every frame of a window from the one after its first `past` to the one before its last, in one batch, and
        what followed."""
        before, after = window.state(slice(self.past, len(window) - 1)), window.state(slice(self.past + 1, len(window)))
        carry, match, controllers = self._between(window, self.past, len(window) - 1)
        self.tables.fold = carry.get(FOLD)
        truth = self.truth(before, recall(carry, before), match, controllers, after)
        return Frames(before, carry, match, controllers, before, truth)

    @torch.no_grad()
    def followed(self, frames: Frames, window: Unroll) -> Frames:
        """Frames that follow upon the first `past` of a window, one after the other (L · B), true or the model's own →
        the same with all that a trunk which remembers sees up to them; for another trunk, as they are."""
        if self.network.remembers is None:
            return frames
        parts = [self._seen(frames.before, recall(frames.carry, frames.before), frames.match, frames.controllers)]
        if self.past:
            parts.insert(0, self._begun(window))
        numbers, classes = self._in_turn(parts, window.match.shape[1])
        at = torch.arange(len(frames.match), device=frames.match.device)
        return replace(frames, seen=Seen(numbers, classes), at=at)

    @torch.no_grad()
    def warmed_up(self, window: Unroll) -> Carry:
        """What the trunk remembers once it has seen the first `past` frames of a window; empty for one that does not
        remember."""
        if not self.past:
            return zeros(self.network.memory_layout, window.match.shape[1], window.match.device)
        return self.network.scan(*self._in_turn([self._begun(window)], window.match.shape[1]))[1]

    def _begun(self, window: Unroll) -> tuple[Tensor, Named]:
        """What the trunk sees of the first `past` frames of a window, (past · B, 2, …)."""
        before = window.state(slice(0, self.past))
        carry, match, controllers = self._between(window, 0, self.past)
        return self._seen(before, recall(carry, before), match, controllers)

    @staticmethod
    def _between(window: Unroll, first: int, end: int) -> tuple[Carry, Tensor, Tensor]:
        """Carry, match and next controllers of frames `first` … `end` − 1 of a window, in one batch."""
        carry = {name: value[first:end].flatten(0, 1) for name, value in window.carry.items()}
        return carry, window.match[first:end].flatten(0, 1), window.controllers[first + 1 : end + 1].flatten(0, 1)

    @staticmethod
    def _in_turn(parts: list[tuple[Tensor, Named]], matches: int) -> tuple[Tensor, Named]:
        """What was seen of frames one after the other, (L · B, 2, …) in parts → (L, B, 2, …)."""
        numbers = torch.cat([part for part, _ in parts]).unflatten(0, (-1, matches))
        names = parts[0][1]
        return numbers, {n: torch.cat([part[n] for _, part in parts]).unflatten(0, (-1, matches)) for n in names}

    def learn(
        self, frames: Frames, weight: Tensor | None = None, forced: bool = False, dropped: float = 0.0,
        dropout: float = 0.0,
    ) -> dict[str, Tensor]:  # fmt: skip
        """Frames and the weight of each (N,) → name → mean loss. Where `forced`, later stages are told the truth.
        Where they come with all that the trunk sees, gradients flow through what it remembers. `dropped`: as `run`;
        `dropout`: share of what is within the network's blocks that is hidden."""
        self.network.drop_out(dropout)
        past = recall(frames.carry, frames.before)
        told = frames.truth.after if forced else None
        h = None
        if frames.seen is not None:
            classes = _without(frames.seen.classes, dropped)
            h = self.network.scan(frames.seen.numbers, classes)[0].flatten(0, 1)[frames.at]
        outcome = self.run(frames.before, past, frames.match, frames.controllers, told, frames.carry, h, dropped)
        self.network.drop_out(0.0)
        losses = self.losses_of(outcome, frames.before, frames.true_before, frames.truth, outcome.after)
        if weight is None:
            return {name: loss.mean() for name, loss in losses.items()}
        return {name: (loss.mean(dim=-1) * weight).mean() for name, loss in losses.items()}

    @torch.no_grad()
    def roll(self, frames: Frames, settle: Settle) -> tuple[Tensor, Named, Carry]:
        """One frame of a rollout → the loss of each match (N,), and the state and carry that its own hard choices lead
        to. What was right is what was right in the true game. `settle` is that of the WorldModel."""
        before = frames.before
        past = recall(frames.carry, before)
        outcome = self.run(before, past, frames.match, frames.controllers, memory=frames.carry)
        losses = self.losses_of(outcome, before, frames.true_before, frames.truth, outcome.after)
        after = settle(before, outcome.after, frames.match, past.numbers["frames_in_action"])
        carry = {**remember(past, frames.carry, before, frames.controllers), **outcome.memory}
        if FOLD in frames.carry:
            carry[FOLD] = frames.carry[FOLD]
        total = torch.stack([self.weights[name] * loss for name, loss in losses.items()]).sum(dim=0)
        return total.mean(dim=-1), after, carry

    def _count_numbers(self) -> int:
        floats, ints, match = (torch.from_numpy(np.zeros(s, d)) for s, d in state_layout(1).values())
        state, controllers = named(floats, ints), torch.zeros(1, PLAYERS, len(CONTROL_NAMES))
        past = recall(zeros(carry_layout(), 1), state)
        return self.features.numbers(state, past, match, controllers).shape[-1]


def own_frames(window: Unroll, core: ExactCore, roll: Roll, settle: Settle) -> tuple[Frames, Tensor]:
    """The frames of a rollout from a window's first frame that is learned from, without gradient, and the loss of each
    (N,). Who is further than ADRIFT from the true game goes on from that; a trunk goes on remembering what it has seen.
    `roll` is ExactCore.roll, or the same compiled."""
    true, memory = core.true_frames(window), core.warmed_up(window)
    count, length = window.match.shape[1], len(window) - core.past
    now = true.take(slice(0, count))
    rolled, losses = [now], []
    core.tables.fold = now.carry.get(FOLD)
    for t in range(1, length):
        loss, state, carry = roll(replace(now, carry={**now.carry, **memory}), settle)
        memory = {name: carry[name] for name in memory}
        losses.append(loss)
        if t == length - 1:
            break
        now = true.take(slice(t * count, (t + 1) * count))
        off = (state["x"] - now.before["x"]).abs() + (state["y"] - now.before["y"]).abs()
        adrift = (off > ADRIFT).any(dim=-1)
        now.before = {name: _where(adrift, value, state[name]) for name, value in now.before.items()}
        now.carry = {name: _where(adrift, value, carry[name]) for name, value in now.carry.items()}
        rolled.append(now)
    return core.followed(Frames.joined(rolled), window), torch.cat(losses)


def _where(mask: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """By match: mask (N,)."""
    return torch.where(mask.view(-1, *[1] * (yes.dim() - 1)), yes, no)


def _never(before: Tensor) -> Tensor:
    """The action now (N, 2) → those that rules decide, which are never said, (N, 2, actions) bool: dying, rebirth, and
    waiting on its platform but from there."""
    action = torch.arange(ACTIONS, device=before.device)
    on_platform = (before == LAST_RULED_ACTION) | (before == REBIRTH_WAIT)
    return (action <= LAST_RULED_ACTION) | ((action == REBIRTH_WAIT) & ~on_platform[..., None])


def _stays(before: Tensor) -> Tensor:
    """The action now (N, 2) → STAY_ODDS for it and 0 for all others, (N, 2, actions)."""
    return (torch.arange(ACTIONS, device=before.device) == before[..., None]) * STAY_ODDS


def _odds(logit: Tensor, share: float, more: float) -> Tensor:
    """A share of the logit of a strike (N, 2), and so much more, where that is within ODDS_REACH."""
    return (share * logit.clamp(max=ODDS_REACH) + more) * (logit > -ODDS_REACH)


def _entropy(logits: Tensor) -> Tensor:
    """Logits (…, K) → entropy of what they say, nats (…); by one logarithm, not by one of each chance."""
    below = logits - logits.amax(dim=-1, keepdim=True)
    share = below.exp()
    whole = share.sum(dim=-1)
    return whole.log() - (share * below).sum(dim=-1) / whole


def _hidden(index: Tensor, share: float) -> Tensor:
    """Indices of an embedding, a share of them as of what was never seen."""
    if share == 0:
        return index
    return torch.where(torch.rand(index.shape, device=index.device) < share, torch.zeros_like(index), index)


def _without(classes: Named, share: float) -> Named:
    """Classes of which some of the moves and of their ages are hidden."""
    return {name: _hidden(index, share) if name in OF_MOVES else index for name, index in classes.items()}


def _value(heads: dict[str, Tensor], name: str) -> Tensor:
    """What the network itself says of a field, in its unit, (N, 2)."""
    return heads[f"{name}.value"][..., 0].clamp(-LIMIT, LIMIT) * SCALE[name]


def _pick(options: Tensor, logits: Tensor) -> Tensor:
    """Candidates (N, 2, C) → the likeliest, (N, 2), without gradient."""
    return options.detach().gather(-1, logits.argmax(dim=-1, keepdim=True))[..., 0]


def _only(logits: Tensor, where: Tensor, columns: tuple[int, ...]) -> Tensor:
    """Logits (N, 2, C), of which where a rule says so (N, 2) only these columns may be chosen."""
    column = torch.arange(logits.shape[-1], device=logits.device)
    allowed = torch.stack([column == i % logits.shape[-1] for i in columns]).any(dim=0)
    return torch.where(where[..., None] & ~allowed, torch.full_like(logits, -FORBIDDEN), logits)


def _struck(options: Tensor, logits: Tensor) -> Tensor:
    """Candidates of percent, of which UNHURT is that it stays → first whether it rises at all, then by how much."""
    unhurt = torch.arange(logits.shape[-1], device=logits.device) == UNHURT
    hurt = logits.masked_fill(unhurt, -FORBIDDEN)
    rises = hurt.logsumexp(dim=-1, keepdim=True) > logits[..., UNHURT, None]
    return _pick(options, torch.where(rises, hurt, logits.masked_fill(~unhurt, -FORBIDDEN)))


def _rises(before: Named, rise: Tensor) -> Tensor:
    """Rises of percent (N, 2) as what the stage `struck` is given, (N, 2, RISE)."""
    columns = []
    for of in (rise, rise.flip(1)):
        columns += [of * 0.1, (of > 0).float(), (of / 3 + 3).floor() * 0.1]
    columns += [((before["percent"] + rise) * 0.01).clamp(max=3.0), (rise > 8).float()]
    return torch.stack(columns, dim=-1)


def mirrored(name: str, after: Named, before: Named) -> Tensor:
    """The true next value of a field, as its candidates are."""
    value = after[name]
    if name in MIRRORED:
        return value * before["facing"].float()
    return bounded(value) if name == "misc_as" else value


def base(name: str, before: Named, after: Named) -> Tensor:
    """What the network's own value of a field is added to."""
    if name in AT_LAST:
        return before[name] + displacement(before, after)[AT_LAST.index(name)]
    return mirrored(name, before, before)


def _nll(logits: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1), target.flatten().long(), reduction="none").view(-1, PLAYERS)
