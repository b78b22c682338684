"""What several tests share: games made up from a seed, a model trained on them for a moment, and real games."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from synthetic import REPLAYS, synthetic_game
from wm_runtime.facts import STAGES
from wm_runtime.replays.dataset import Dataset, DatasetWriter

if TYPE_CHECKING:
    from wm_runtime.artifact import Artifact
    from wm_train.config import Experiment

os.environ.setdefault("OMP_NUM_THREADS", "1")  # torch's threads spin: two test processes would only slow each other

signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it, and so would its children

REAL_PACKS = ("val-02.slppack", "val-04.slppack")
"""23 games of `val`, on all six stages."""
SLOWEST = (
    "test_exact.py", "test_resume.py", "test_ways_of_training.py", "test_export_cores.py", "test_compiled_engine.py",
    "test_trunks.py", "test_strikes.py", "test_runs.py", "test_vector.py", "test_policy.py",
)  # fmt: skip
"""Files that take longest, those first: two processes share the files between them, and end together so."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {name: i for i, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Eight made-up games on all stages, 700 frames each."""
    path = tmp_path_factory.mktemp("synthetic")
    with DatasetWriter(path) as writer:
        for seed in range(8):
            game = synthetic_game(seed, 700, STAGES[seed % len(STAGES)].id)
            game.info.md5 = f"{seed:032x}"
            writer.add(game)
    return Dataset(path)


@pytest.fixture(scope="session")
def experiment() -> Experiment:
    """A small model of the usual kind and 44 steps of training: it has seen a little of everything."""
    from wm_train.config import Experiment

    training = {"epochs": 2, "batch_size": 128, "frames_per_epoch": 2800, "holdout": 0.25, "warmup_steps": 5,
                "rollouts": 48}
    model = {"encoding": "v2.2", "trunk": (64, 32)}
    return Experiment(name="tiny", model=model, training={**training, "learning_rate": 3e-3})


@pytest.fixture(scope="session")
def run(dataset: Dataset, experiment: Experiment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished training run."""
    from wm_train.training.trainer import train

    out = tmp_path_factory.mktemp("run")
    train(experiment, dataset, out)
    return out


@pytest.fixture(scope="session")
def artifact(run: Path) -> Artifact:
    """That run's best checkpoint, exported."""
    from wm_runtime.artifact import open_artifact
    from wm_train.export import export
    from wm_train.training.checkpoint import load_checkpoint

    path = run / "tiny.onnx"
    export(*load_checkpoint(run / "best.pt"), path)
    return open_artifact(path)


@pytest.fixture(scope="session")
def real_dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """23 real games that no training sees, on all stages. Tests that ask for it are skipped where there are none."""
    packs = [REPLAYS / "packs" / name for name in REAL_PACKS]
    if not all(pack.exists() for pack in packs):
        pytest.skip("no real replays beside the repository")
    from wm_runtime.replays.build import build

    sys.path.insert(0, str(REPLAYS))
    try:
        from slppack import unpack
    finally:
        sys.path.remove(str(REPLAYS))
    folder = tmp_path_factory.mktemp("real")
    for pack in packs:
        for info, content in unpack(pack):
            (folder / info["name"]).write_bytes(content)
    build([folder], folder / "dataset")
    return Dataset(folder / "dataset")


@pytest.fixture(scope="session")
def true_games(request: pytest.FixtureRequest) -> Dataset:
    """Real games where they are at hand, made-up ones elsewhere."""
    return request.getfixturevalue("real_dataset" if REPLAYS.exists() else "dataset")
