"""Candidate heads on trunks that remember: scanned as stepped, learned through time, resumed, exported and played."""

from __future__ import annotations

import json
import re
import signal
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn

from wm_runtime.artifact import open_artifact
from wm_runtime.engines.lower import lower
from wm_runtime.errors import UserError
from wm_runtime.replays.dataset import Dataset
from wm_runtime.schema import CONTROL_NAMES, PLAYERS, State
from wm_runtime.simulator import Simulator
from wm_runtime.starts import Start
from wm_train.config import ExactConfig, Experiment, load_experiment
from wm_train.dynamics.exact import ExactCore, own_frames
from wm_train.dynamics.memory import recall
from wm_train.dynamics.step import WorldModel
from wm_train.export import OPSET, as_shipped, export, zero_carry
from wm_train.training.begin import check_same
from wm_train.training.checkpoint import build_model, load_checkpoint
from wm_train.training.losses import weighted
from wm_train.training.phases import train_phases
from wm_train.training.prune import prune
from wm_train.training.whole_games import Unroll, WholeGames

TRUNKS = {
    "frame_stack": {"kind": "frame_stack", "frames": 4, "widths": [24, 16]},
    "mamba2": {"kind": "mamba2", "layers": 2, "d_state": 4, "headdim": 8, "chunk_size": 3, "warmup": 5},
}
MATCHES, FRAMES = 24, 7
GAMES, PAST, PLAYED = 3, 8, 20


def experiment(kind: str, **training: object) -> Experiment:
    phases = [{"steps": 5, "frames": 4, "batch_size": 16, "teacher_forcing": True}, {"steps": 1, "batch_size": 16},
              {"steps": 4, "frames": 3, "batch_size": 16, "share": 0.5}]  # fmt: skip
    model = {"kind": "exact", "trunk": TRUNKS[kind], "width": 16, "blocks": 0, "late": 8}
    settings = {"phases": phases, "warmup_steps": 2, "holdout": 0.25, "rollouts": 8, "long_rollouts": 0, **training}
    return Experiment(name=kind, model=model, training=settings)


@pytest.fixture(scope="module")
def corpus(dataset: Dataset) -> WholeGames:
    return WholeGames(dataset, [0, 1])


@pytest.fixture(scope="module")
def cores(dataset: Dataset) -> dict[str, ExactCore]:
    """A fresh one of each kind, in which what is remembered matters."""
    found = {}
    for kind in TRUNKS:
        torch.manual_seed(0)
        model = build_model(experiment(kind)).eval()
        assert isinstance(model.core, ExactCore)
        model.core.measure(dataset, [0])
        found[kind] = model.core
    return found


@pytest.fixture(params=TRUNKS)
def core(request, cores: dict[str, ExactCore]) -> ExactCore:
    return cores[request.param]


@pytest.fixture
def window(core: ExactCore, corpus: WholeGames) -> Unroll:
    return corpus.read(corpus.draw(MATCHES, FRAMES + 1, np.random.default_rng(0)), FRAMES + 1, core.past)


@torch.no_grad()
def test_true_frames_scanned_at_once_say_what_they_say_one_by_one(core: ExactCore, window: Unroll) -> None:
    frames = core.followed(core.true_frames(window), window)
    assert frames.seen is not None
    scanned = core.network.scan(frames.seen.numbers, frames.seen.classes)[0]
    assert scanned.shape == (FRAMES, MATCHES, 2, 16)
    memory = core.warmed_up(window)
    assert memory.keys() == core.network.memory_layout.keys()
    known = torch.zeros(MATCHES, 1, dtype=torch.bool)
    for t in range(FRAMES):
        at = core.past + t
        classes = {name: value[at] for name, value in frames.seen.classes.items()}
        stepped, memory = core.network.trunk(frames.seen.numbers[at], classes, memory, known)
        torch.testing.assert_close(stepped, scanned[t], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_play_remembers_what_a_window_warms_up_with(core: ExactCore, window: Unroll) -> None:
    carry = zero_carry(WorldModel(core), MATCHES)
    for t in range(core.past):
        before = window.state(t)
        now = {**{name: value[t] for name, value in window.carry.items()}, "steps": carry["steps"]}
        past = recall({**now, "steps": torch.ones_like(now["steps"])}, before)
        outcome = core.run(before, past, window.match[t], window.controllers[t + 1], memory={**carry, **now})
        carry = {**carry, **outcome.memory, "steps": carry["steps"] + 1}
    for name, value in core.warmed_up(window).items():
        assert value.shape[1:] == core.network.memory_layout[name][0]
        torch.testing.assert_close(carry[name], value, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_where_nothing_is_remembered_a_stack_repeats_the_present_frame(cores, corpus: WholeGames) -> None:
    core = cores["frame_stack"]
    window = corpus.read(corpus.draw(MATCHES, 2, np.random.default_rng(0)), 2, core.past)
    seen = core.followed(core.true_frames(window), window).seen
    numbers, classes = seen.numbers[-1], {name: value[-1] for name, value in seen.classes.items()}
    again = core.network.scan(numbers.expand(4, -1, -1, -1), {n: c.expand(4, -1, -1) for n, c in classes.items()})[0]
    nothing = zero_carry(WorldModel(core), MATCHES)
    fresh = core.network.trunk(numbers, classes, nothing, nothing["steps"] == 0)[0]
    torch.testing.assert_close(fresh, again[0], rtol=1e-4, atol=1e-4)


def test_a_rollout_is_learned_from_as_it_was_stepped(core: ExactCore, window: Unroll) -> None:
    """Its losses, taken of the whole sequence at once, are those of its steps; and they have gradients through time."""
    frames, losses = own_frames(window, core, core.roll, WorldModel(core).settle)
    assert frames.seen is not None
    frames.seen.numbers.requires_grad_()
    last = torch.arange(MATCHES * (FRAMES - 1), MATCHES * FRAMES)
    for part in (frames, frames.take(last)):
        found = core.learn(part)
        total = sum(core.weights[name] * loss for name, loss in found.items())
        assert total.item() == pytest.approx(losses[part.at].mean().item(), rel=1e-4)
    total.backward()
    gradient = frames.seen.numbers.grad.abs().amax(dim=(1, 2, 3))
    assert (gradient[-3:] > 0).all()  # of the frame itself, and of those before, which only memory tells of
    frames.seen.numbers.requires_grad_(False)


@pytest.fixture(scope="module", params=TRUNKS)
def trained(request, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[Experiment, Path]:
    out = tmp_path_factory.mktemp(request.param)
    train_phases(experiment(request.param), dataset, out)
    return experiment(request.param), out


def test_a_run_that_was_stopped_goes_on_to_the_same_weights(trained, dataset: Dataset, tmp_path: Path) -> None:
    settings, whole = trained

    def stop(step: int, steps: int, loss: float) -> None:
        if step == 7:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train_phases(settings, dataset, tmp_path, on_step=stop)
    train_phases(settings, dataset, tmp_path, resume=True)
    first, second = (load_checkpoint(folder / "final.pt")[0].state_dict() for folder in (whole, tmp_path))
    assert any("remembers" in name for name in first)
    assert all(torch.equal(first[name], value) or value.isnan().any() for name, value in second.items())


class Alone(nn.Module):
    """A network's trunk, as a step has it."""

    def __init__(self, core: ExactCore) -> None:
        super().__init__()
        self.network = core.network

    def forward(self, numbers: Tensor, classes: Tensor, fresh: Tensor, *memory: Tensor) -> tuple[Tensor, ...]:
        named = dict(zip(self.network.embed, classes.unbind(-1), strict=True))
        h, after = self.network.trunk(
            numbers, named, dict(zip(self.network.memory_layout, memory, strict=True)), fresh
        )  # fmt: skip
        return (h, *(after[name] for name in self.network.memory_layout))


@torch.no_grad()
def test_a_trunk_is_exported_in_operators_that_both_engines_have(core: ExactCore, tmp_path: Path) -> None:
    def inputs(matches: int, known: bool) -> tuple[Tensor, ...]:
        memory = [torch.randn(matches, *shape) * known for shape, _ in core.network.memory_layout.values()]
        sizes = torch.tensor([len(embed.weight) for embed in core.network.embed.values()])
        classes = torch.randint(2, (matches, PLAYERS, len(sizes))).minimum(sizes - 1)
        numbers = torch.randn(matches, PLAYERS, core._count_numbers())
        return numbers, classes, torch.full((matches, 1), not known), *memory

    alone, example = Alone(core).eval(), inputs(3, True)
    names = ["numbers", "classes", "fresh", *core.network.memory_layout]
    shapes = [{0: torch.export.Dim("matches", min=1)}] * len(names)
    torch.onnx.export(alone, example, tmp_path / "trunk.onnx", input_names=names, opset_version=OPSET, dynamo=True,
                      dynamic_shapes=(*shapes[:3], tuple(shapes[3:])), external_data=False, verbose=False)  # fmt: skip
    session, lowered = ort.InferenceSession(tmp_path / "trunk.onnx"), lower(tmp_path / "trunk.onnx")
    for matches, known in ((1, True), (5, True), (5, False)):
        given = inputs(matches, known)
        expected = alone(*given)
        played = session.run(None, {name: array.numpy() for name, array in zip(names, given, strict=True)})
        for one, onnx, torch_engine in zip(expected, played, lowered(*given), strict=True):
            np.testing.assert_allclose(onnx, one.numpy(), rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(torch_engine, one, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@torch.no_grad()
def test_the_artifact_plays_as_the_core_on_both_engines_and_forgets_at_a_reset(
    trained, dataset: Dataset, tmp_path: Path
) -> None:
    model, manifest = load_checkpoint(trained[1] / "final.pt")
    export(model, manifest, tmp_path / "step.onnx")
    artifact, model = open_artifact(tmp_path / "step.onnx"), as_shipped(model).eval()
    rows = PAST + PLAYED + 1
    states, pads = dataset.windows(np.array([0, 3, 5]), np.full(GAMES, 250), rows)
    pads = np.ascontiguousarray(pads.reshape(GAMES, rows, PLAYERS, len(CONTROL_NAMES)))
    began = np.concatenate([np.arange(PAST + 1) + i * rows for i in range(GAMES)])
    start = Start(states.rows(began), pads[:, : PAST + 1])
    simulators = [Simulator(artifact, GAMES, threads=1, engine=engine) for engine in ("onnx", "torch")]
    carry = zero_carry(model, GAMES)
    for simulator in simulators:
        simulator.reset(start)
    for t in range(PAST):
        state = [torch.from_numpy(array) for array in vars(start.at(t)).values()]
        _, carry, _ = model(*state, torch.from_numpy(pads[:, t + 1]), carry)
    state = [torch.from_numpy(array) for array in vars(start.at(PAST)).values()]
    for t in range(PAST, PAST + PLAYED):
        state, carry, _ = model(*state, torch.from_numpy(pads[:, t + 1]), carry)
        for simulator in simulators:
            simulator.step(np.ascontiguousarray(pads[:, t + 1]))
            np.testing.assert_array_equal(simulator.state.ints, state[1].numpy())
            np.testing.assert_allclose(simulator.state.floats, state[0].numpy(), rtol=1e-3, atol=1e-3)
            for name, value in carry.items():
                np.testing.assert_allclose(simulator.carry[name], value.numpy(), rtol=1e-3, atol=1e-3, err_msg=name)
    one = simulators[0]
    again = State(*(a[:1] for a in vars(start.at(0)).values()))
    one.reset(Start(again, pads[:1, :1]), np.array([True, False, False]))
    for name in model.core.network.memory_layout:
        assert not one.carry[name][0].any()
        assert one.carry[name][1:].any()


@pytest.mark.parametrize(
    ("settings", "answer"),
    [
        ("trunk: {kind: lstm}", r"model\.trunk: .*'lstm'.*'residual', 'frame_stack', 'mamba2'"),
        ("trunk: {kind: mamba2, headdim: 80}", "model: trunk: width 384 times .* headdim 80 do not divide"),
        ("trunk: {kind: mamba2}, width: 100", "model: trunk: width 100 times expand 2 is 200, .* headdim 64"),
        ("trunk: {kind: mamba2, layers: 0}", "model: trunk: layers is 0: at least 1"),
        ("trunk: {kind: mamba2, chunk_size: 30}", "model.trunk: chunk_size 30 is more than the 24 frames"),
        ("trunk: {kind: mamba2, warmup: 123}", r"model\.trunk\.warmup: .*less than 123"),
        ("trunk: {kind: frame_stack, frames: 1}", r"model\.trunk\.frames: .*greater than or equal to 2"),
        ("trunk: {kind: frame_stack, widths: []}", r"model\.trunk\.widths: "),
        ("trunk: {kind: residual, frames: 3}", r"model\.trunk\.frames: "),
    ],
)
def test_what_cannot_be_built_is_one_line_and_exit_code_2(settings, answer, tmp_path, monkeypatch, capsys) -> None:
    from wm_tools import cli

    file = tmp_path / "bad.yaml"
    file.write_text(f"model: {{kind: exact, {settings}}}\ntraining: {{phases: [{{steps: 1, frames: 8}}]}}\n")
    monkeypatch.setattr(sys, "argv", ["mwm", "experiments", "show", str(file)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    said = capsys.readouterr().err
    assert stopped.value.code == 2
    assert re.match(rf"mwm: .*bad\.yaml: {answer}.*\n\Z", said), said


def test_an_experiment_without_a_trunk_is_the_residual_one_and_goes_on_from_older_runs(tmp_path: Path) -> None:
    plain = {"kind": "exact", "width": 16, "blocks": 1, "late": 8}
    older, named = (Experiment(name="x", model=model) for model in (plain, {**plain, "trunk": {"kind": "residual"}}))
    assert older == named
    names = build_model(older).state_dict().keys()
    assert {"core.network.from_numbers.weight", "core.network.blocks.0.into.weight"} <= names
    assert not any("remembers" in name for name in names)
    written = older.model_dump(mode="json")
    del written["model"]["trunk"]
    now = {"data": {"fingerprint": "f"}}
    check_same(named, now, {**now, "experiment": json.loads(json.dumps(written))}, tmp_path)


def test_only_the_residual_trunk_is_pruned(core: ExactCore, dataset: Dataset) -> None:
    smaller = Experiment(name="x", model={"kind": "exact", "width": 8, "blocks": 0, "late": 8})
    with pytest.raises(UserError, match="trunk `residual`"):
        prune(WorldModel(core), smaller, dataset, [0])


def test_those_that_ship_are_timed_and_forecast(dataset: Dataset, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from wm_tools.cli import app

    def mwm(*arguments: str) -> str:
        phases = ("[{steps: 3, frames: 2, batch_size: 8, teacher_forcing: true}, "
                  "{steps: 2, frames: 3, batch_size: 8, share: 0.5}]")  # fmt: skip
        given = [*arguments, "--set", f"training.phases={phases}", "--set", "training.rollouts=8", "--device", "cpu"]
        done = CliRunner().invoke(app, [*given, "--dataset", str(dataset.path)], catch_exceptions=False)
        assert done.exit_code == 0
        return done.output

    rows = json.loads(mwm("bench", "train", "--config", "exact-stack", "--steps", "1", "--rounds", "1", "--json"))
    assert [row["frames"] for row in rows["phases"]] == [2, 3]
    assert all(row["frames_per_second"] > 0 for row in rows["phases"])
    mwm("run-card", "exact-mamba2", "--save-dir", str(tmp_path))
    card = (tmp_path / "exact-mamba2.card.md").read_text()
    assert '"trunk": {"kind": "mamba2"' in card
    assert "3 steps of 8 windows of 2 frames" in card


@pytest.mark.parametrize(("name", "kind"), [("exact-stack", "frame_stack"), ("exact-mamba2", "mamba2")])
def test_those_that_ship_learn_from_a_batch(name: str, kind: str, dataset: Dataset, corpus: WholeGames) -> None:
    settings = load_experiment(name)
    assert isinstance(settings.model, ExactConfig)
    assert settings.model.trunk.kind == kind
    core = build_model(settings).core
    assert isinstance(core, ExactCore)
    core.measure(dataset, [0])
    window = corpus.read(corpus.draw(4, 3, np.random.default_rng(0)), 3, core.past)
    parts = core.learn(core.followed(core.true_frames(window), window), None, True)
    weighted(parts, core.weights).backward()
    without = [n for n, p in core.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not without
