"""What runs were is listed, shown, compared and drawn; what one will be is written on its card."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from wm_runtime.errors import UserError
from wm_runtime.replays.dataset import Dataset
from wm_tools.cli import app
from wm_train.training.metrics import Tracker, read_metrics

TINY = {"frames_per_epoch": 128, "batch_size": 64, "rollouts": 8, "long_rollouts": 0, "epochs": 1, "warmup_steps": 2,
        "holdout": 0.25}  # fmt: skip


def mwm(*arguments: object) -> str:
    """What the command line prints. Raises what stops it."""
    done = CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "250"}, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture(scope="module")
def place(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two experiments, trained in turn by one line, and something that is no run."""
    place = tmp_path_factory.mktemp("runs")
    for name, trunk in (("small", [8]), ("large", [16, 8])):
        text = json.dumps({"description": f"A {name} one.", "model": {"trunk": trunk}, "training": TINY})
        (place / f"{name}.yaml").write_text(text)
    mwm("train", place / "small.yaml", place / "large.yaml", "--dataset", dataset.path, "--save-dir", place / "runs",
        "--set", "training.log_interval=1", "--learning-rate", "0.002", "--no-wandb", "--device", "cpu")  # fmt: skip
    (place / "runs" / "policy").mkdir()
    (place / "runs" / "policy" / "manifest.json").write_text("{}")
    return place


def test_runs_of_one_line_have_folders_of_their_own_and_the_settings_of_the_line(place: Path) -> None:
    for name in ("small", "large"):
        manifest = json.loads((place / "runs" / name / "manifest.json").read_text())
        training = manifest["experiment"]["training"]
        assert (training["learning_rate"], training["log_interval"]) == (0.002, 1)
        assert not training["wandb"]["enabled"]


def test_runs_are_listed(place: Path) -> None:
    rows = json.loads(mwm("runs", "list", "--save-dir", place / "runs", "--json"))
    assert {(row["run"], row["status"], row["epochs"]) for row in rows} == {
        ("small", "finished", "1/1"), ("large", "finished", "1/1"),
    }  # fmt: skip
    assert "small" in mwm("runs", "list", "--save-dir", place / "runs")
    assert mwm("runs", "list", "--save-dir", place / "none").startswith("no runs in ")


def test_a_run_is_shown_with_every_epoch(place: Path) -> None:
    told = mwm("runs", "show", "small", "--save-dir", place / "runs")
    assert "held-out loss" in told
    assert '"trunk": [8]' in told
    shown = json.loads(mwm("runs", "show", place / "runs" / "small", "--json"))
    assert len(shown["epochs"]) == 1
    assert "md5" not in shown["data"]


def test_runs_are_compared_by_what_differs(place: Path) -> None:
    found = json.loads(mwm("runs", "compare", "small", "large", "--save-dir", place / "runs", "--json"))
    assert found["settings"] == {
        "name": ["small", "large"], "description": ["A small one.", "A large one."], "model.trunk": [[8], [16, 8]],
    }  # fmt: skip
    assert len(found["best"]["RC@20"]) == 2
    assert "model.trunk" in mwm("runs", "compare", "small", "large", "--save-dir", place / "runs")


def test_runs_are_drawn_in_one_picture(place: Path, tmp_path: Path) -> None:
    mwm("runs", "plot", "small", "large", "--save-dir", place / "runs", "--out", tmp_path / "both.png")
    assert (tmp_path / "both.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_no_run_is_a_user_error(place: Path) -> None:
    with pytest.raises(UserError, match="no run here"):
        mwm("runs", "show", "nowhere", "--save-dir", place / "runs")
    with pytest.raises(UserError, match="damaged, or of something that is no training run"):
        mwm("runs", "show", "policy", "--save-dir", place / "runs")


def test_one_run_that_fails_does_not_keep_the_next_from_running(place: Path, dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "last.pt").write_text("in the way")
    with pytest.raises(UserError, match="1 of 2 runs failed: small"):
        mwm("train", place / "small.yaml", place / "large.yaml", "--dataset", dataset.path, "--save-dir", tmp_path,
            "--no-wandb", "--device", "cpu")  # fmt: skip
    assert (tmp_path / "large" / "best.pt").exists()


def test_a_run_card_says_what_a_run_is_for_and_what_it_will_take(place: Path, dataset: Dataset, tmp_path) -> None:
    out = tmp_path / "card.md"
    mwm("run-card", place / "small.yaml", "--dataset", dataset.path, "--save-dir", place / "runs", "--out", out,
        "--price", "2", "--device", "cpu", "--set", "training.unroll={lengths: [2], share: 0.5}")  # fmt: skip
    card = out.read_text()
    titles = re.findall(r"^## (.*)$", card, flags=re.M)
    assert titles == [
        "Goal", "Target metrics", "Data", "Model", "Training", "Infrastructure", "Time and cost", "Memory",
        "Kill criteria", "Commands", "Prior runs", "Sign-off",
    ]  # fmt: skip
    assert "A small one." in card
    assert re.search(r"\| RC@20 \| [\d.]+ \| [\d.]+ \| [\d.]+ \| < [\d.]+ \| ≥ [\d.]+ after the first epoch \|", card)
    assert re.search(r"- 2 batches of 64 an epoch, 1 epochs", card)
    assert re.search(r"trial of 50 steps on this machine: [\d.]+ ms a step", card)
    assert re.search(r"unrolled 2: [\d.]+ ms a step", card)
    assert "Most similar: small." in card
    assert "- training.learning_rate: 0.002 → 0.001" in card
    assert "--set 'training.unroll={lengths: [2], share: 0.5}' --resume" in card


def test_the_bench_of_training_prints_its_ratios(place: Path, dataset: Dataset) -> None:
    found = json.loads(mwm("bench", "train", "--config", place / "small.yaml", "--dataset", dataset.path, "--steps", 2,
                           "--rounds", 1, "--device", "cpu", "--json"))  # fmt: skip
    assert set(found["busy"]) == set(found["kept_up"]) == {"ram", "disk"}
    assert found["one_step_frames_per_second"] > 0
    assert set(found["unrolled_frames_per_second"]) == {"4", "8", "16"}
    assert found["sampling_ratio"] > 0


EXACT = {
    "model": {"kind": "exact", "width": 16, "late": 8},
    "training": {"phases": [{"steps": 100, "batch_size": 16},
                            {"steps": 50, "frames": 2, "batch_size": 8, "share": 0.5}, {"steps": 9, "batch_size": 16}],
                 "holdout": 0.25, "rollouts": 8},
}  # fmt: skip


def test_the_bench_of_the_exact_core_goes_by_its_phases(dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "core.yaml").write_text(json.dumps(EXACT))
    bench = ("bench", "train", "--config", tmp_path / "core.yaml", "--dataset", dataset.path, "--steps", 2,
             "--rounds", 1, "--device", "cpu")  # fmt: skip
    found = json.loads(mwm(*bench, "--json"))
    rows = found["phases"]
    assert [(row["frames"], row["batch_size"], row["share"]) for row in rows] == [(1, 16, 1), (2, 8, 0.5)]
    for row in rows:
        size = row["frames"] * row["batch_size"]
        assert row["frames_per_second"] == pytest.approx(size / row["seconds_a_step"])
        assert 0 < row["busy"] <= 1
    assert re.search(r" 2 frames, batches of 8, share 0\.5 +[\d,]+ frames/s, model busy [\d.]+%", mwm(*bench))


def test_the_run_card_of_the_exact_core_goes_by_its_phases(dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "core.yaml").write_text(json.dumps(EXACT))
    mwm("run-card", tmp_path / "core.yaml", "--dataset", dataset.path, "--save-dir", tmp_path, "--device", "cpu")
    card = (tmp_path / "core.card.md").read_text()
    assert "- 109 steps of 16 windows of 1 frames" in card  # two phases of one kind
    assert re.search(r"- 50 steps of 8 windows of 2 frames.* trial of 25 steps on this machine [\d.]+ ms a step", card)
    assert f"{100 * 16 + 50 * 2 * 8 + 9 * 16:,} frames are drawn or rolled out in all" in card
    assert "verdicts" in card
    assert "exact, " in card


def test_an_exact_core_without_phases_has_neither(dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "core.yaml").write_text(json.dumps({"model": EXACT["model"]}))
    for command in (["bench", "train", "--config"], ["run-card"]):
        with pytest.raises(UserError, match="phases is empty"):
            mwm(*command, tmp_path / "core.yaml", "--dataset", dataset.path)


# --- Weights & Biases ------------------------------------------------------------------------------------------------


class Told:
    """A run as its trainer tells it, and as wandb's public API gives it back: a summary has keys and get alone."""

    def __init__(self, folder: Path):
        self.name, self.state, self.config = folder.name, "finished", {}
        self.rows: dict[int, dict] = {}
        self.told: dict = {}
        package = SimpleNamespace(login=lambda **_: False, init=self._begin)
        manifest = json.loads((folder / "manifest.json").read_text())
        tracker = Tracker(package, manifest, folder)
        for row in read_metrics(folder):
            tracker.log(row)
        tracker.finish(manifest)
        self.summary = SimpleNamespace(keys=self.told.keys, get=self.told.get)

    def _begin(self, config: dict, **_: object) -> SimpleNamespace:
        self.config = config
        return SimpleNamespace(log=self._log, summary=self.told, finish=lambda exit_code: None)

    def _log(self, row: dict, step: int) -> None:
        self.rows.setdefault(step, {}).update(row)
        self.told.update(row)

    def scan_history(self) -> list[dict]:
        return [{**row, "_step": step} for step, row in self.rows.items()]


@pytest.fixture
def project(place: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The two runs at Weights & Biases, among another's; no network."""
    told = [Told(place / "runs" / name) for name in ("small", "large")]
    other = SimpleNamespace(name="another's", config={"lr": 1})

    def runs(name: str) -> list:
        if name != "me/melee":
            raise ValueError(f"Could not find\n{name}")
        return [*told, other]

    errors = SimpleNamespace(Error=type("Error", (Exception,), {}))
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(Api=lambda: SimpleNamespace(runs=runs), errors=errors))
    return "me/melee"


def test_runs_at_weights_and_biases_are_listed_shown_compared_and_drawn_as_those_on_disk(
    place: Path, project: str, tmp_path: Path
) -> None:
    there, here = ("--wandb", project), ("--save-dir", place / "runs")
    listed = [json.loads(mwm("runs", "list", *where, "--json")) for where in (there, here)]
    assert listed[0] == listed[1]
    compared = [json.loads(mwm("runs", "compare", "small", "large", *where, "--json")) for where in (there, here)]
    assert compared[0] == compared[1]
    shown = [json.loads(mwm("runs", "show", "small", *where, "--json")) for where in (there, here)]
    for name, true in shown[1]["epochs"][0].items():
        known = {n: v for n, v in true.items() if v is not None} if name == "figures" else true
        assert shown[0]["epochs"][0][name] == known
    assert "held-out loss" in mwm("runs", "show", "small", *there)
    mwm("runs", "plot", "small", "large", *there, "--out", tmp_path / "both.png")
    assert (tmp_path / "both.png").read_bytes().startswith(b"\x89PNG")


def test_what_weights_and_biases_cannot_give_is_one_line(project: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"me/other: Weights & Biases gives no runs \(Could not find me/other\)"):
        mwm("runs", "list", "--wandb", "me/other")
    with pytest.raises(UserError, match="no run 'another' there"):
        mwm("runs", "show", "another", "--wandb", project)
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"pip install 'melee-world-model\[wandb\]'"):
        mwm("runs", "list", "--wandb", project)
