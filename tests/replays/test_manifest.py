"""All 1,059 real replays through one command, against what the manifest expects of each. Run with `pytest -m slow`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

REPLAYS = Path(__file__).parents[3] / "shared" / "replays"
SPLITS = ("real", "broken", "train", "val")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not REPLAYS.exists(), reason="no real replays beside the repository"),
]


def test_every_real_replay_has_the_outcome_that_the_manifest_names(tmp_path) -> None:
    for split in SPLITS:
        unpack = [sys.executable, str(REPLAYS / "unpack.py"), "--split", split, "--out", str(tmp_path / split)]
        subprocess.run(unpack, check=True, capture_output=True)
    sources = [str(tmp_path / split) for split in SPLITS]
    command = [sys.executable, "-m", "wm_tools.cli", "replays", "build", *sources, "--out", str(tmp_path / "dataset")]
    subprocess.run(command, check=True, capture_output=True)

    rows = json.loads((tmp_path / "dataset" / "build_report.json").read_text())["files"]
    manifest = json.loads((REPLAYS / "manifest.json").read_text())
    expected = {f"{split}/{name}": entry for split in SPLITS for name, entry in manifest[split].items()}
    assert sorted(row["file"] for row in rows) == sorted(expected)
    wrong = [
        (row["file"], row["outcome"], row["reason"])
        for row in rows
        for entry in [expected[row["file"]]]
        if row["outcome"] != entry["expected"]
        or (row["outcome"] == "left_out" and row["reason"] not in entry["reasons"])
        or (row["outcome"] == "taken" and (row["md5"], row["frames"]) != (entry["md5"], entry["frames"]))
    ]
    assert wrong == []
