"""The artifact does what the model does, says what it is, and is refused once anything of it has changed."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from wm_runtime.artifact import FORMAT_VERSION, Artifact, open_artifact, with_metadata, write_artifact
from wm_runtime.errors import UserError
from wm_runtime.replays.dataset import Dataset
from wm_runtime.schema import CONTROL_NAMES, PLAYERS, State, field_table_hash
from wm_runtime.simulator import Simulator
from wm_runtime.starts import Start
from wm_train.dynamics.limits import HITLAG_FLAG
from wm_train.dynamics.step import WorldModel
from wm_train.export import as_shipped, zero_carry
from wm_train.training.checkpoint import load_checkpoint

GAMES, FRAMES = 6, 50


@pytest.fixture(scope="module")
def model(run: Path) -> WorldModel:
    return as_shipped(load_checkpoint(run / "best.pt")[0])


@pytest.fixture(scope="module")
def truth(true_games: Dataset) -> tuple[list[State], np.ndarray]:
    """Frames 200 to 261 of six games as a batch: a State for each frame, and controllers (frames, games, 2, 13)."""
    length = FRAMES + 12
    games = np.linspace(0, len(true_games) - 1, GAMES).astype(int)
    states, controllers = true_games.windows(games, np.full(GAMES, 323), length)
    pads = controllers.reshape(GAMES, length, PLAYERS, len(CONTROL_NAMES)).swapaxes(0, 1)
    return [states.rows(np.arange(GAMES) * length + t) for t in range(length)], np.ascontiguousarray(pads)


class Both:
    """The same matches in PyTorch and in the artifact."""

    def __init__(self, model: WorldModel, artifact: Artifact, state: State):
        self.model, self.carry = model, zero_carry(model, len(state))
        self.state = state
        self.greatest = np.ones_like(state.floats)
        """What each value has been at most, 1 at least: what is rounded stays when values are fed back and shrink."""
        self.simulator = Simulator(artifact, len(state), threads=1)
        self.simulator.reset(Start(state, np.zeros((len(state), 1, PLAYERS, len(CONTROL_NAMES)), np.float32)))

    def put(self, state: State) -> None:
        """Both go on from this state, each with its own memory."""
        self.state = state
        for name, array in vars(self.simulator.state).items():
            np.copyto(array, getattr(state, name))

    @torch.no_grad()
    def step(self, controllers: np.ndarray) -> None:
        arrays = (self.state.floats, self.state.ints, self.state.match, controllers)
        out, self.carry, self.aux = self.model(*map(torch.from_numpy, arrays), self.carry)
        self.state = State(*(t.numpy() for t in out))
        self.simulator.step(controllers)

    def assert_equal(self) -> None:
        other = self.simulator
        assert np.array_equal(self.state.ints, other.state.ints)
        assert np.array_equal(self.state.match, other.state.match)
        self.greatest = np.maximum(self.greatest, np.abs(self.state.floats))
        assert_close(self.state.floats / self.greatest, other.state.floats / self.greatest)
        for name, tensor in self.carry.items():
            (assert_close if tensor.is_floating_point() else np.testing.assert_array_equal)(
                tensor.numpy(), other.carry[name]
            )
        assert_close(self.aux["action_entropy"].numpy(), other.aux["action_entropy"])
        for name in ("stock_lost", "match_over"):
            assert np.array_equal(self.aux[name].numpy(), other.aux[name])


def assert_close(one: np.ndarray, other: np.ndarray) -> None:
    """Equal within 1e-4 of their size, or of 1 for smaller numbers."""
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_pytorch_and_onnx_agree_on_300_true_frames(model: WorldModel, artifact: Artifact, truth) -> None:
    states, controllers = truth
    both = Both(model, artifact, states[0])
    for frame in range(FRAMES):
        both.put(states[frame])
        both.step(controllers[frame + 1])
        both.assert_equal()
    assert not np.array_equal(both.state.floats, states[FRAMES].floats)


def test_pytorch_and_onnx_agree_on_60_frames_fed_back(model: WorldModel, artifact: Artifact, truth) -> None:
    states, controllers = truth
    both = Both(model, artifact, states[0])
    for frame in range(60):
        both.step(controllers[frame + 1])
        both.assert_equal()
    assert np.abs(both.state["x"] - states[0]["x"]).max() > 1


# --- what an artifact says -------------------------------------------------------------------------------------------


def test_the_artifact_says_what_it_is(artifact: Artifact, model: WorldModel, run: Path) -> None:
    metadata, manifest = artifact.metadata, load_checkpoint(run / "best.pt")[1]
    assert metadata["format_version"] == FORMAT_VERSION
    assert metadata["field_table"] == field_table_hash()
    assert metadata["manifest"] == manifest
    assert metadata["parameters"] == sum(p.numel() for p in model.parameters())
    assert artifact.name == "tiny"
    assert artifact.warmup >= 60
    assert artifact.fidelity == {}
    assert {n: (shape, str(dtype)) for n, (shape, dtype) in artifact.carry.items()} == model.carry_layout
    assert {n: str(dtype) for n, dtype in artifact.aux.items()} == {
        "action_entropy": "float32", "stock_lost": "bool", "match_over": "bool",
    }  # fmt: skip


def test_what_is_not_said_to_be_predicted_stays_as_it_was(artifact: Artifact, truth) -> None:
    states, controllers = truth
    simulator = Simulator(artifact, GAMES, threads=1)
    simulator.reset(Start(states[0], controllers[0][:, None]))
    simulator.step(controllers[1])
    fixed = {"character", "flags_1", "flags_2", "flags_3", "flags_4", "flags_5", "misc_as", "last_hit_by"}
    assert not fixed & set(artifact.metadata["predicted"])
    assert {"x", "y", "percent", "action", "stocks"} <= set(artifact.metadata["predicted"])
    for name in fixed:
        kept = ~HITLAG_FLAG if name == "flags_2" else -1  # which follows hitlag, by rule
        now, then = simulator.state[name], states[0][name]
        np.testing.assert_array_equal(*((v & kept) if v.dtype.kind == "i" else v for v in (now, then)))


def test_the_file_is_plain_onnx(artifact: Artifact) -> None:
    onnx.checker.check_model(str(artifact.path), full_check=True)
    session = ort.InferenceSession(str(artifact.path), providers=["CPUExecutionProvider"])
    inputs, outputs = [i.name for i in session.get_inputs()], [o.name for o in session.get_outputs()]
    carry = list(artifact.carry)
    states = ("floats", "ints", "match")
    assert inputs == [*(f"state.{n}" for n in states), "controllers", *(f"carry.{n}" for n in carry)]
    assert outputs == [
        *(f"next.{n}" for n in states), *(f"next_carry.{n}" for n in carry), *(f"aux.{n}" for n in artifact.aux),
    ]  # fmt: skip
    assert {i.shape[0] for i in session.get_inputs()} == {session.get_inputs()[0].shape[0]}
    assert isinstance(session.get_inputs()[0].shape[0], str)
    assert onnx.load(artifact.path).opset_import[0].version == 18


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.fixture
def copy(artifact: Artifact, tmp_path: Path) -> Path:
    return Path(shutil.copy(artifact.path, tmp_path / "copy.onnx"))


@pytest.mark.parametrize("where", [0.0, 0.1, 0.5, 0.9, 0.999, -200, -90, -70, -1])
def test_one_edited_byte_is_noticed(where: float, copy: Path) -> None:
    content = bytearray(copy.read_bytes())
    content[int(where * len(content)) if where >= 0 else where] ^= 1
    copy.write_bytes(content)
    with pytest.raises(UserError, match=r"copy\.onnx: (damaged|not a model)"):
        open_artifact(copy)


@pytest.mark.parametrize("cut", [1, 100, 100_000])
def test_a_cut_file_is_noticed(cut: int, copy: Path) -> None:
    copy.write_bytes(copy.read_bytes()[:-cut])
    with pytest.raises(UserError, match=r"copy\.onnx: not a model"):
        open_artifact(copy)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"field_table": "0123456789abcdef"}, rf"field table 0123456789abcdef, this version has {field_table_hash()}"),
        ({"format_version": FORMAT_VERSION + 1}, rf"format {FORMAT_VERSION + 1}, this version reads {FORMAT_VERSION}"),
    ],
)
def test_another_version_is_refused(changes: dict, message: str, artifact: Artifact, copy: Path) -> None:
    with_metadata(open_artifact(copy), changes)
    with pytest.raises(UserError, match=message):
        open_artifact(copy)


def test_an_onnx_file_of_others_is_refused(artifact: Artifact, tmp_path: Path) -> None:
    other = onnx.load(artifact.path)
    del other.metadata_props[:]
    onnx.save(other, tmp_path / "other.onnx")
    with pytest.raises(UserError, match=r"other\.onnx: not a model of this project"):
        open_artifact(tmp_path / "other.onnx")


def test_a_missing_model_is_a_user_error(tmp_path: Path) -> None:
    for name in (tmp_path / "none.onnx", tmp_path, "nobody"):
        with pytest.raises(UserError, match="no such model"):
            open_artifact(name)


# --- metadata --------------------------------------------------------------------------------------------------------


def test_with_metadata_changes_metadata_and_nothing_else(artifact: Artifact, copy: Path) -> None:
    fidelity = {"no_death": {"RC@20": {"value": 0.1, "low": 0.09, "high": 0.11}}, "größe": "Ünïcode"}
    with_metadata(open_artifact(copy), {"fidelity": fidelity})
    changed = open_artifact(copy)
    assert changed.fidelity == fidelity
    assert {**changed.metadata, "fidelity": {}} == artifact.metadata
    assert onnx.load(copy).graph == onnx.load(artifact.path).graph
    assert len(onnx.load(copy).metadata_props) == len(onnx.load(artifact.path).metadata_props)

    with_metadata(changed, {"fidelity": {}})
    assert copy.read_bytes() == artifact.path.read_bytes()


def test_a_changed_artifact_still_runs_as_before(artifact: Artifact, copy: Path, truth) -> None:
    with_metadata(open_artifact(copy), {"name": "renamed"})
    states, controllers = truth
    results = []
    for opened in (artifact, open_artifact(copy)):
        simulator = Simulator(opened, GAMES, threads=1)
        simulator.reset(Start(states[0], controllers[0][:, None]))
        results.append(simulator.step(controllers[1]))
    assert np.array_equal(results[0].floats, results[1].floats)
    assert open_artifact(copy).name == "renamed"


def test_a_folder_that_cannot_be_written_is_a_user_error(artifact: Artifact, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be written"):
        write_artifact(tmp_path / "nowhere" / "a.onnx", artifact.path.read_bytes(), artifact.metadata)
