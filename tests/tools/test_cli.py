"""The command line does what it says, and answers bad input with one line that names it and exit code 2."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest

from synthetic import synthetic_game, write_corpus
from wm_runtime.artifact import FORMAT_VERSION, write_artifact
from wm_runtime.replays.dataset import DatasetWriter
from wm_runtime.schema import field_table_hash

ARTIFACT = {
    "format_version": FORMAT_VERSION, "field_table": field_table_hash(), "name": "tiny", "carry": [], "aux": [],
    "warmup": 64, "parameters": 0, "fidelity": {},
    "manifest": {"data": {"games": 1, "md5": ["ab"], "held_out_md5": []}},
}  # fmt: skip
TINY_EXPERIMENT = "model: {trunk: [8]}\ntraining: {epochs: 1, batch_size: 8, frames_per_epoch: 8, holdout: 0.4}\n"


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


def mwm(folder: Path, *arguments: str) -> Outcome:
    """Runs the command line in `folder`, as its console script does."""
    environment = {**os.environ, "COLUMNS": "200", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-m", "wm_tools.cli", *arguments], cwd=folder, env=environment, capture_output=True, text=True,
        timeout=120,
    )  # fmt: skip
    return Outcome(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one of everything, sound and bad. No test may change it."""
    place = tmp_path_factory.mktemp("place")
    replay = write_corpus(place / "corpus", 1, frames=140)[0].read_bytes()
    (place / "text.slp").write_text("Dear diary, today I beat Fox.")
    (place / "truncated.slp").write_bytes(replay[: len(replay) // 2])
    (place / "empty").mkdir()
    (place / "file").write_text("in the way")

    for name in ("data", "other-table", "cut-index", "no-stage"):
        with DatasetWriter(place / name) as writer:
            for seed in range(4):
                game = synthetic_game(seed, 140)
                game.info.md5 = f"{seed * 4:x}" * 32
                writer.add(game)
    meta = json.loads((place / "other-table" / "dataset.json").read_text())
    (place / "other-table" / "dataset.json").write_text(json.dumps({**meta, "field_table": "0123456789abcdef"}))
    index = (place / "cut-index" / "index.arrow").read_bytes()
    (place / "cut-index" / "index.arrow").write_bytes(index[:-100])
    table = pa.ipc.open_file(place / "no-stage" / "index.arrow").read_all().drop_columns(["stage"])
    with pa.ipc.new_file(place / "no-stage" / "index.arrow", table.schema) as writer:
        writer.write_table(table)

    write_artifact(place / "tiny.onnx", b"no graph, but that is not read here", ARTIFACT)
    sound = (place / "tiny.onnx").read_bytes()
    (place / "damaged.onnx").write_bytes(b"N" + sound[1:])
    (place / "cut.onnx").write_bytes(sound[:-10])
    write_artifact(place / "other-table.onnx", b"graph", {**ARTIFACT, "field_table": "0123456789abcdef"})

    (place / "tiny.yaml").write_text(TINY_EXPERIMENT)
    (place / "typo.yaml").write_text("training:\n  learning_rat: 0.001\n")
    return place


def files_below(folder: Path) -> dict[str, bytes]:
    """Content of every file and folder but the locks of builds."""
    found = (p for p in folder.rglob("*") if p.suffix != ".lock")
    return {p.relative_to(folder).as_posix(): p.read_bytes() if p.is_file() else b"" for p in found}


# --- what works ------------------------------------------------------------------------------------------------------


def test_replays_are_built_into_a_dataset_that_info_describes(place, tmp_path) -> None:
    write_corpus(tmp_path / "corpus", 2, frames=150)
    (tmp_path / "corpus" / "notes.slp").write_text("Dear diary")
    built = mwm(tmp_path, "replays", "build", "corpus", "--out", "data", "--workers", "1")
    assert (built.code, built.err) == (0, "")
    lines = [" ".join(line.split()) for line in built.out.splitlines()]
    assert "taken 2 files, 300 frames" in lines
    assert "left out 1 unreadable: not a replay, or damaged" in lines
    assert "wrote data; what became of each file is in data/build_report.json" in lines
    assert not list(tmp_path.rglob("*.tmp"))

    told = mwm(tmp_path, "replays", "info", "data", "--json")
    assert (told.code, told.err) == (0, "")
    found = json.loads(told.out)
    assert (found["games"], found["frames"], found["versions"]) == (2, 300, {"3.16.0": 2})
    assert (found["characters"], found["stages"]) == ({"FOX": 2, "FALCO": 2}, {"FINAL_DESTINATION": 2})

    in_words = mwm(tmp_path, "replays", "info", "data")
    assert (in_words.code, in_words.err) == (0, "")
    assert "fingerprint " + found["fingerprint"] in in_words.out
    assert "2: 300 frames" in in_words.out


def test_of_many_sources_the_first_twenty_are_listed(tmp_path) -> None:
    files = write_corpus(tmp_path / "corpus", 23, frames=130)
    built = mwm(tmp_path, "replays", "build", *map(str, files), "--out", "data", "--workers", "1")
    listed = [line.removesuffix(": 1 taken") for line in built.out.splitlines() if line.endswith(": 1 taken")]
    assert listed == [str(file) for file in files[:20]]
    assert "and 3 sources more" in built.out


def test_models_info_prints_all_that_an_artifact_says_but_its_list_of_games(place) -> None:
    told = mwm(place, "models", "info", "tiny.onnx")
    assert (told.code, told.err) == (0, "")
    assert json.loads(told.out) == {**ARTIFACT, "manifest": {"data": {"games": 1}}}


# --- what a user may do wrong ----------------------------------------------------------------------------------------

BUILD, TRAIN, DATA = ("replays", "build", "--workers", "1"), ("train", "--dataset"), ("--dataset", "data")
BAD = {
    "a file that is no replay": ((*BUILD, "text.slp", "--out", "new"), "text.slp: not a replay, or damaged"),
    "a truncated replay": ((*BUILD, "truncated.slp", "--out", "new"), "truncated.slp: "),
    "an empty folder": ((*BUILD, "empty", "--out", "new"), "empty: no replays in this folder"),
    "a source that is not there": ((*BUILD, "corpus", "nowhere", "--out", "new"), "nowhere: no such file or folder"),
    "a stage that is none": ((*BUILD, "corpus", "--out", "new", "--stages", "HYRULE"), "unknown stage 'HYRULE'"),
    "a dataset below a file": ((*BUILD, "corpus", "--out", "file/new"), "file/new: cannot be written"),
    "a dataset in the place of a file": ((*BUILD, "corpus", "--out", "file"), "file: cannot be written"),
    "adding to a dataset of another field table": (
        (*BUILD, "corpus", "--out", "other-table"), "other-table: field table 0123456789abcdef",
    ),
    "a dataset of another field table": (("replays", "info", "other-table"), "other-table: field table 0123456789abc"),
    "a missing dataset": (("replays", "info", "nowhere"), "nowhere: no dataset here"),
    "a file as dataset": (("replays", "info", "file"), "file: no dataset here"),
    "an index without a field": (("replays", "info", "no-stage"), "no-stage/index.arrow: lacks stage; build the data"),
    "a truncated index": (("replays", "info", "cut-index"), "cut-index/index.arrow: damaged"),
    "a missing model": (("models", "info", "nowhere.onnx"), "nowhere.onnx: no such model"),
    "a damaged model": (("models", "info", "damaged.onnx"), "damaged.onnx: damaged"),
    "a truncated model": (("models", "info", "cut.onnx"), "cut.onnx: not a model"),
    "a model of another field table": (("models", "info", "other-table.onnx"), "other-table.onnx: made for field"),
    "a missing dataset to measure on": (
        ("evaluate", "tiny.onnx", "--dataset", "nowhere"), "nowhere: no dataset here",
    ),
    "a world model as policy": (("evaluate-policy", "tiny.onnx", *DATA), "tiny.onnx: a model of the game"),
    "a missing policy": (("evaluate-policy", "nowhere", *DATA), "nowhere: no such policy; give a file"),
    "unknown policy settings": (
        ("train-policy", *DATA, "--config", "nowhere", "--out", "new"), "nowhere: no such policy settings",
    ),
    "a policy of a fighter who never plays": (
        ("train-policy", *DATA, "--characters", "KIRBY", "--out", "new"), "data: no frames of KIRBY",
    ),
    "a missing checkpoint": (("export", "nowhere.pt", "--out", "new.onnx"), "nowhere.pt: no such checkpoint"),
    "an unknown experiment": ((*TRAIN, "data", "--config", "nowhere", "--out", "new"), "nowhere: no such experiment"),
    "an unknown key in an experiment": (
        (*TRAIN, "data", "--config", "typo.yaml", "--out", "new"), "typo.yaml: training.learning_rat: ",
    ),
    "a run that cannot be written": (
        (*TRAIN, "data", "--config", "tiny.yaml", "--out", "file/run"), "file/run: cannot be written",
    ),
}  # fmt: skip
"""What is wrong → a command line, and what its answer must begin with."""


@pytest.mark.parametrize("wrong", BAD)
def test_bad_input_is_answered_by_one_line_and_exit_code_2_and_leaves_nothing_behind(wrong: str, place) -> None:
    arguments, answer = BAD[wrong]
    before = files_below(place)
    outcome = mwm(place, *arguments)
    assert outcome.err.startswith(f"mwm: {answer}")
    assert outcome.err.count("\n") == 1
    assert outcome.err.endswith("\n")
    assert "Traceback" not in outcome.out
    assert outcome.code == 2
    assert files_below(place) == before
