"""The encoding has the widths of the published presets, scales each value as they do and sees a press once."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from wm_runtime.schema import BUTTONS, C_, CONTROL_NAMES, CONTROLS, FIELDS, PLAYERS, VELOCITIES, State
from wm_train.encoding import (
    MEMORY_ACTIONS,
    MEMORY_CONTROLLERS,
    MEMORY_COUNTERS,
    PRESETS,
    SPAN,
    STICK_THRESHOLDS,
    Encoder,
    EncodingConfig,
    stage_of,
)

EXTENDED = {"action": 32, "jumps": 4, "character": 8, "l_cancel": 2, "hurtbox": 2, "ground": 4, "last_attack": 8}


def raw(value_of) -> State:
    """One match whose player p has value_of(field, p) in every field."""
    state = State.zeros(1)
    for field in FIELDS:
        for player in range(PLAYERS):
            state[field.name][0, player] = value_of(field, player)
    return state


def encoded(config: EncodingConfig, state: State, controllers: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Name of an input → its values for both players: floats, then classes."""
    if controllers is None:
        controllers = np.zeros((1, PLAYERS, len(CONTROL_NAMES)), np.float32)
    floats, classes = Encoder(config).frame(*map(torch.from_numpy, (state.floats, state.ints, controllers)))
    named = dict(zip(config.float_names, floats[0].T.numpy(), strict=True))
    return named | {f"class.{e.field}": classes[0, :, i].numpy() for i, e in enumerate(config.embeddings)}


@pytest.mark.parametrize(
    ("preset", "floats", "player", "frame", "inputs", "controls"),
    [
        ("v2", 28, 72, 148, 1480, 0),
        ("v2.1", 29, 89, 182, 1820, 0),
        ("v2.2", 29, 89, 182, 1846, 26),
        ("v2.2-1a", 28, 96, 196, 1986, 26),
        ("v2.2-2a", 29, 89, 182, 1862, 42),
        ("v2.2-3a", 29, 89, 182, 1872, 52),
    ],
)
def test_presets_have_the_published_widths(preset, floats, player, frame, inputs, controls) -> None:
    config = PRESETS[preset]
    assert config.frames == 10
    assert len(config.float_names) == floats
    assert config.player_dim == player
    assert config.frame_dim == frame
    assert config.input_dim == inputs
    assert config.control_dim == controls


@pytest.mark.parametrize(
    ("preset", "flags", "floats", "player", "inputs", "controls"),
    [
        ("v2.2-1a", {"press_events": True}, 28, 96, 2002, 42),
        ("v2.2-3a", {"state_age_as_embed": True}, 28, 96, 2012, 52),
        ("v2.2-3a", {"press_events": True}, 29, 89, 1904, 84),
        ("v2.2-3a", {"state_age_as_embed": True, "press_events": True}, 28, 96, 2044, 84),
        ("v2.2", {"lookahead": 2}, 29, 89, 1898, 78),
        ("v2.2", {"state_flags": True}, 69, 129, 2646, 26),
        ("v2.2", {"state_flags": True, "misc_as": True}, 70, 130, 2666, 26),
        ("v2.2", {"stick_thresholds": True}, 29, 89, 1882, 62),
        ("v2.2", {"own_frame": True}, 29, 89, 1846, 26),
        ("v2.2", {"memory": True}, 29, 89, 2214, 26),
        ("v4", {}, 69, 137, 3210, 62),
        ("v4", {"frames": 1}, 69, 137, 708, 62),
    ],
)
def test_flags_combine(preset, flags, floats, player, inputs, controls) -> None:
    config = replace(PRESETS[preset], **flags)
    assert len(config.float_names) == floats
    assert config.player_dim == player
    assert config.input_dim == inputs
    assert config.control_dim == controls


@pytest.mark.parametrize("preset", PRESETS)
def test_what_the_encoder_makes_is_as_wide_as_it_says(preset: str) -> None:
    config, encoder = PRESETS[preset], Encoder(PRESETS[preset])
    state, controllers = State.zeros(30), np.zeros((30, PLAYERS, len(CONTROL_NAMES)), np.float32)
    floats, classes = encoder.frame(*map(torch.from_numpy, (state.floats, state.ints, controllers)))
    stack = [part.unflatten(0, (3, 10)) for part in (floats, classes)]
    assert encoder.stack(*stack, torch.zeros(3).long()).shape == (3, 10 * config.frame_dim)
    pads = torch.zeros(3, config.history, PLAYERS, len(CONTROL_NAMES))
    memory = [torch.zeros(3, PLAYERS, len(MEMORY_COUNTERS)), torch.zeros(3, PLAYERS, MEMORY_ACTIONS).int(),
              torch.zeros(3, MEMORY_CONTROLLERS, PLAYERS, len(CONTROL_NAMES))]  # fmt: skip
    inputs = encoder.inputs(*stack, torch.zeros(3).long(), pads, *(memory if config.memory else []))
    assert inputs.shape == (3, *((PLAYERS,) if config.own_frame else ()), config.input_dim)
    latest = torch.zeros(3, config.history, PLAYERS, len(CONTROL_NAMES))
    assert encoder.controls(latest).shape == (3, config.control_dim)


def test_embeddings_have_the_published_widths() -> None:
    widths = {name: {e.field: e.width for e in config.embeddings} for name, config in PRESETS.items()}
    assert widths["v2"] == {"action": 32, "jumps": 4, "character": 8}
    assert widths["v2.1"] == widths["v2.2"] == widths["v2.2-2a"] == widths["v2.2-3a"] == EXTENDED
    assert widths["v2.2-1a"] == widths["v3"] == {**EXTENDED, "state_age": 8}


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("percent", 87.5, 0.875),
        ("x", -68.4, -3.42),
        ("y", 23.45, 1.1725),
        ("shield", 60.0, 0.6),
        *((name, -2.8, -0.14) for name in VELOCITIES),
        ("state_age", 37.0, 0.37),
        ("hitlag", 7.0, 0.7),
        ("stocks", 3, 0.75),
        ("combo_count", 4, 0.4),
        ("facing", -1, 0.0),
        ("facing", 1, 1.0),
    ],
)
def test_each_value_is_scaled_as_published(field: str, value: float, expected: float) -> None:
    state = raw(lambda f, player: value * (f.name == field and player == 1))
    inputs = encoded(PRESETS["v2.2"], state)
    assert inputs[field][1] == pytest.approx(expected, rel=1e-6)
    others = {name: v for name, v in inputs.items() if name != field and not name.startswith("class.")}
    unlike_zero = {name for name, v in others.items() if v[1] != (name == "on_ground")}
    assert unlike_zero == set()
    assert inputs[field][0] == 0


@pytest.mark.parametrize(("hurtbox", "invulnerable"), [(0, 0.0), (1, 1.0), (2, 1.0)])
@pytest.mark.parametrize("airborne", [0, 1])
def test_flags_say_invulnerable_and_on_ground(hurtbox: int, invulnerable: float, airborne: int) -> None:
    inputs = encoded(PRESETS["v2"], raw(lambda f, _: {"hurtbox": hurtbox, "airborne": airborne}.get(f.name, 0)))
    assert inputs["invulnerable"].tolist() == [invulnerable] * 2
    assert inputs["on_ground"].tolist() == [1.0 - airborne] * 2


def test_controllers_pass_unscaled() -> None:
    controllers = np.random.default_rng(0).random((1, PLAYERS, len(CONTROLS)), np.float32)
    inputs = encoded(PRESETS["v2.2"], State.zeros(1), controllers)
    for name in CONTROL_NAMES:
        assert np.array_equal(inputs[f"controller.{name}"], controllers[0, :, C_[name]])


@pytest.mark.parametrize(("age", "expected"), [(-1.0, 0), (0.0, 0), (3.9, 3), (149.0, 149), (500.0, 149)])
def test_state_age_can_be_an_embedding_of_150_ages(age: float, expected: int) -> None:
    inputs = encoded(PRESETS["v2.2-1a"], raw(lambda f, _: age * (f.name == "state_age")))
    assert inputs["class.state_age"].tolist() == [expected] * 2
    assert "state_age" not in inputs


def test_classes_outside_a_vocabulary_take_its_last_entry() -> None:
    inputs = encoded(PRESETS["v2.2"], raw(lambda f, _: f.high if f.name in ("ground", "last_attack", "action") else 0))
    assert inputs["class.ground"].tolist() == [63, 63]
    assert inputs["class.last_attack"].tolist() == [127, 127]
    assert inputs["class.action"].tolist() == [399, 399]


def test_a_press_is_the_rising_edge_of_a_button() -> None:
    before, now = np.zeros((2, 1, PLAYERS, len(CONTROL_NAMES)), np.float32)
    held, pressed, released = C_["a"], C_["x_button"], C_["z"]
    before[0, 1, [held, released]] = 1
    now[0, 1, [held, pressed]] = 1
    now[0, :, C_["main_x"]] = 1
    made = Encoder(PRESETS["v2.2-2a"]).controls(torch.from_numpy(np.stack([before, now], axis=1)))
    players = made.reshape(PLAYERS, len(CONTROL_NAMES) + len(BUTTONS)).numpy()
    assert np.array_equal(players[:, : len(CONTROL_NAMES)], now[0])
    events = dict(zip(BUTTONS, players[1, len(CONTROL_NAMES) :].tolist(), strict=True))
    assert events == {name: float(name == "x_button") for name in BUTTONS}
    assert not players[0, len(CONTROL_NAMES) :].any()


@pytest.mark.parametrize(("value", "beyond"), [(0.275, ()), (0.2875, (0.2875,)), (0.6, (0.2875, 0.6)), (-1.0, ())])
def test_stick_thresholds_say_how_far_a_stick_is_to_either_side(value: float, beyond: tuple) -> None:
    config = PRESETS["v3"]
    pads = torch.zeros(1, config.history, PLAYERS, len(CONTROL_NAMES))
    pads[0, -1, 0, C_["main_x"]] = value
    made = Encoder(config).controls(pads)[0].reshape(PLAYERS, -1)[0].tolist()
    named = dict(zip(config.control_names, made, strict=True))
    for limit in STICK_THRESHOLDS["main_x"]:
        assert named[f"main_x>{limit}"] == (limit in beyond)
        assert named[f"main_x<-{limit}"] == (value <= -limit)
    assert not any(on for name, on in named.items() if ("<" in name or ">" in name) and "main_x" not in name)


def test_state_flags_are_forty_bits() -> None:
    value = {"flags_1": 0x80, "flags_4": 0x02 | 0x10}
    inputs = encoded(PRESETS["v3"], raw(lambda f, player: value.get(f.name, 0) * (player == 0)))
    on = {name for name, v in inputs.items() if name.startswith("flags_") and v[0] == 1}
    assert on == {"flags_1.0x80", "flags_4.0x02", "flags_4.0x10"}
    assert sum(name.startswith("flags_") for name in inputs) == 40


@pytest.mark.parametrize(
    ("flags_4", "misc_as", "expected"), [(2, 31.0, 0.62), (0, 31.0, 0.0), (2, np.nan, 0.0), (2, 1e9, 6.0)]
)
def test_misc_as_is_hitstun_only_with_its_flag(flags_4: int, misc_as: float, expected: float) -> None:
    inputs = encoded(PRESETS["v3"], raw(lambda f, _: {"flags_4": flags_4, "misc_as": misc_as}.get(f.name, 0)))
    assert inputs["hitstun"].tolist() == pytest.approx([expected] * 2)


def test_the_stack_keeps_its_frames_in_order_and_its_stage_in_each() -> None:
    config = replace(PRESETS["v2"], frames=3)
    encoder = Encoder(config)
    x = torch.arange(3.0)
    floats = torch.zeros(1, 3, PLAYERS, len(config.float_names))
    floats[0, :, 0, config.float_names.index("x")] = x
    classes = torch.zeros(1, 3, PLAYERS, len(config.embeddings), dtype=torch.int32)
    match = torch.tensor([[0, 31]], dtype=torch.int32)
    frames = encoder.stack(floats, classes, stage_of(match)).reshape(3, config.frame_dim)
    assert torch.equal(frames[:, config.float_names.index("x")], x)
    assert torch.equal(frames[:, -4:], encoder.embed_stage.weight[31].expand(3, 4))


def test_memory_is_eight_counters_two_actions_and_eight_controllers_of_each_player() -> None:
    config = EncodingConfig(frames=1, memory=True)
    assert config.memory_dim == PLAYERS * (2 * 8 + 2 * 32 + 8 * 13)
    assert config.past == SPAN + 1
    encoder = Encoder(config)
    counters = torch.tensor([[[0, 4, 60, 60, 60, 60, 60, 60], [60] * 8]], dtype=torch.int32)
    actions = torch.tensor([[[14, -1], [-1, -1]]], dtype=torch.int32)
    pads = torch.zeros(1, 8, PLAYERS, len(CONTROL_NAMES))
    pads[0, -1, 1, C_["a"]] = 1
    far, near, vectors, history = encoder._memory(counters, actions, pads)
    assert far[0, 0, :3].tolist() == pytest.approx([0, 4 / 60, 1])
    assert near[0, 0, :3].tolist() == pytest.approx([0, 0.5, 1])
    assert torch.equal(vectors[0, 0, :32], encoder.embed["action"].weight[14])
    assert not vectors[0, 0, 32:].any()
    assert not vectors[0, 1].any()
    assert history.nonzero().tolist() == [[0, 1, 7 * 13 + C_["a"]]]


def test_inputs_that_are_mirrored_are_standardised_about_the_middle() -> None:
    config = replace(PRESETS["v2.2"], own_frame=True)
    encoder, state = Encoder(config), raw(lambda f, _: 40.0 if f.name in ("x", "percent") else 1)
    controllers = torch.zeros(1, PLAYERS, len(CONTROL_NAMES))
    encoder.measure(torch.from_numpy(state.floats), torch.from_numpy(state.ints), controllers)
    mean = dict(zip(config.float_names, encoder.mean.tolist(), strict=True))
    assert (mean["x"], mean["facing"], mean["percent"]) == (0, 0.5, pytest.approx(0.4))
    assert encoder.gain[config.float_names.index("x")].item() == pytest.approx(0.5)


def test_memory_does_not_look_past_what_lookahead_hides() -> None:
    with pytest.raises(ValueError, match="memory and lookahead exclude each other"):
        EncodingConfig(memory=True, lookahead=1)
