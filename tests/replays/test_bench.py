"""The bench of replays measures everything that it names, on any folder of replays."""

import sys
from pathlib import Path

import pytest

from synthetic import synthetic_game, write_corpus
from wm_runtime.errors import UserError
from wm_runtime.replays.bench import bench_build, bench_windows
from wm_runtime.replays.dataset import DatasetWriter


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the system does not tell memory and processor time")
def test_building_is_measured_beside_parsing_alone(tmp_path: Path) -> None:
    write_corpus(tmp_path, 3, frames=2000)
    found = bench_build(tmp_path, workers=1, rounds=1)
    assert found["ratio"] == found["building_files_per_second"] / found["parsing_files_per_second"]
    assert found["peak_memory_bytes"] > 0
    assert min(found.values()) >= 0  # of so few files the clock may see no processor time


def test_batches_are_measured_cold_and_warm_stored_and_decoded(tmp_path: Path) -> None:
    with DatasetWriter(tmp_path / "data") as writer:
        for seed in range(3):
            writer.add(synthetic_game(seed, 300))
    found = bench_windows(tmp_path / "data", seconds=0.01)
    kinds = [f"{cache}_{form}" for cache in ("cold", "warm") for form in ("stored", "decoded")]
    measured = {f"{kind}_{of}" for kind in kinds for of in ("batches_per_second", "cpu_ms")}
    assert found.keys() == measured | {"open_us", "window_us"}
    assert min(found.values()) > 0


def test_a_folder_without_replays_is_the_users_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no \.slp files in this folder"):
        bench_build(tmp_path, workers=1)
