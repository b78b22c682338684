"""`mwm bench runtime`: shares of what the machine can do, beside their bars; no time is tested."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from onnx import numpy_helper
from typer.testing import CliRunner

from wm_runtime.artifact import Artifact, open_artifact
from wm_runtime.errors import UserError
from wm_tools.bench_runtime import bytes_per_match, model_flops, peaks
from wm_tools.cli import app

SHORT = ("--seconds", "0.01", "--matches", "4", "--most", "16", "--threads", "1")


def test_it_prints_and_writes_every_figure(artifact: Artifact, tmp_path: Path) -> None:
    path, model = tmp_path / "speed.json", str(artifact.path)
    said = CliRunner().invoke(
        app, ["bench", "runtime", "--model", model, "--int8", model, *SHORT, "--json", str(path)],
        catch_exceptions=False,
    )  # fmt: skip
    assert said.exit_code == 0
    found = json.loads(path.read_text())
    row = found["models"][model]
    for name in ("simulator", "env"):
        gflops = 1e3 * row["mflop"] / row[f"{name}_cpu_us"]
        assert row[f"{name}_share"] == pytest.approx(gflops / found["peak_gflops"]["float32"])
    assert [r["matches"] for r in found["batches"]] == [1, 4, 16]
    assert found["int8"]["times"] == pytest.approx(row["simulator_cpu_us"] / found["int8"]["simulator_cpu_us"])
    for bar in ("≥ 60 %", "≤ 15 %", "≤ 0.5 ms", "≤ 8 KB", "≥ 2", "≤ 10 %"):
        assert bar in said.output


def test_operations_are_those_of_the_products() -> None:
    model = open_artifact("baseline-v22")
    products = [n for n in onnx.load(str(model.path)).graph.node if n.op_type in ("Gemm", "MatMul")]
    graph = onnx.load(str(model.path)).graph
    shapes = {t.name: numpy_helper.to_array(t).shape for t in graph.initializer}
    made = {o: n.input[0] for n in graph.node if n.op_type == "Cast" for o in n.output}
    weights = [shapes[made.get(n.input[1], n.input[1])] for n in products]
    rows = model_flops(model) / sum(2 * a * b for a, b in weights)
    assert rows == 1  # the baseline sees both players at once


def test_memory_is_that_of_the_arrays(artifact: Artifact) -> None:
    assert 500 < bytes_per_match(artifact) <= 8192


def test_whole_numbers_have_a_peak_as_others_have() -> None:
    found = dict(peaks(0.01))
    assert set(found) == {"float32", "int8", "bf16"}
    assert min(found.values()) > 0


def test_a_missing_folder_or_model_is_one_line(tmp_path: Path) -> None:
    for arguments, message in (
        (["--json", str(tmp_path / "no" / "f.json")], "its folder does not exist"),
        (["--model", "nobody"], "no such model"),
    ):
        with pytest.raises(UserError, match=message):
            CliRunner().invoke(app, ["bench", "runtime", *SHORT, *arguments], catch_exceptions=False)


@pytest.mark.parametrize("arguments", [["--int8"], ["--dataset", "data/train"]])
def test_whole_numbers_and_the_games_that_scale_them_go_together(arguments: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--int8 and --dataset go together"):
        CliRunner().invoke(
            app, ["export", "last.pt", "--out", str(tmp_path / "x.onnx"), *arguments], catch_exceptions=False
        )


def test_matches_on_a_device_are_measured_too(artifact: Artifact, tmp_path: Path) -> None:
    path = tmp_path / "device.json"
    said = CliRunner().invoke(
        app,
        ["bench", "device", "--model", str(artifact.path), "--device", "cpu", "--matches", "4", "--matches", "8",
         "--seconds", "0.01", "--json", str(path)],
        catch_exceptions=False,
    )  # fmt: skip
    assert said.exit_code == 0
    rows = json.loads(path.read_text())["batches"]
    assert [row["matches"] for row in rows] == [4, 8]
    for row in rows:
        assert row["steps_per_second"] == pytest.approx(row["matches"] / row["env_ms"] * 1e3)
        assert row["env_cost"] == pytest.approx(row["env_ms"] / row["model_ms"] - 1)
        assert f"{row['steps_per_second']:,.0f}" in said.output
    with pytest.raises(UserError, match="cuda:77"):
        CliRunner().invoke(app, ["bench", "device", "--device", "cuda:77"], catch_exceptions=False)
