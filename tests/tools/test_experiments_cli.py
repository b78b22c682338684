"""`mwm experiments` and the benches of models: what they print, and one line for what cannot be built."""

from __future__ import annotations

import json
import re
import sys

import pytest
import yaml
from typer.testing import CliRunner

from wm_tools import cli
from wm_train.config import EXPERIMENTS, Experiment, load_experiment

runner = CliRunner()


def mwm(*arguments: str) -> str:
    result = runner.invoke(cli.app, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def test_list_names_every_experiment_that_ships() -> None:
    names = {line.split()[0] for line in mwm("experiments", "list").splitlines()}
    assert names == {path.stem for path in EXPERIMENTS.glob("*.yaml")}


def test_show_prints_settings_from_which_the_same_experiment_is_read(tmp_path) -> None:
    shown = mwm("experiments", "show", "mamba2-v3")
    assert Experiment(**yaml.safe_load(shown)) == load_experiment("mamba2-v3")
    assert shown.endswith("# 1,322,946 parameters\n")


def test_diff_prints_the_settings_that_differ(tmp_path) -> None:
    lines = [line.split() for line in mwm("experiments", "diff", "baseline-v22", "exp-3a-1a-lookahead").splitlines()]
    assert lines == [
        ["model.encoding.state_age_as_embed", "False", "→", "True"],
        ["model.encoding.lookahead", "0", "→", "1"],
    ]
    own = tmp_path / "own.yaml"
    own.write_text((EXPERIMENTS / "mamba2-1a.yaml").read_text())
    assert mwm("experiments", "diff", "mamba2-1a", str(own)) == ""


@pytest.mark.parametrize(
    ("settings", "answer"),
    [
        ("{kind: mamba2, mamba2: {headdim: 96}}", "model.mamba2: .*heads of headdim 96 do not divide"),
        ("{kind: mamba2, mamba2: {d_model: 250}}", "model.mamba2: .*d_model 250 times expand 2 is 500"),
        ("{kind: mamba2, mamba2: {chunk_size: 0}}", "model.mamba2: .*chunk_size is 0"),
        ("{kind: mamba2, mamba2: {chunk_size: 20}}", "model: .*chunk_size 20 is more than the 10 frames"),
        ("{kind: mamba2, encoding: v2.2-3a}", "model: .*no lookahead"),
        ("{kind: mamba3}", "model: no kind of model 'mamba3'; choose of frame_stack_mlp, "),
        ("{encoding: v7}", "model.encoding: .*no encoding 'v7'"),
        ("{encoding: {look_ahead: 1}}", r"model.encoding.look_ahead: "),
    ],
)
def test_what_cannot_be_built_is_one_line_and_exit_code_2(settings, answer, tmp_path, monkeypatch, capsys) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(f"model: {settings}\n")
    monkeypatch.setattr(sys, "argv", ["mwm", "experiments", "show", str(file)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    said = capsys.readouterr().err
    assert stopped.value.code == 2
    assert re.match(rf"mwm: .*bad\.yaml: {answer}.*\n\Z", said)


def test_bench_ssd_says_first_that_the_forms_agree() -> None:
    rows = json.loads(mwm("bench", "ssd", "--batch", "1", "--rounds", "1", "--json"))
    assert [row["frames"] for row in rows] == [10, 60, 256]
    for row in rows:
        assert 0 < row["ssd_difference"] < 1e-5
        assert 0 < row["step_difference"] < 1e-5
        assert row["ssd_ms"] > 0
    assert rows[-1]["sequential_ms"] > rows[-1]["ssd_ms"]


def test_a_causal_target_costs_a_fraction_of_a_stacks() -> None:
    found = json.loads(mwm("bench", "causal", "--targets", "64", "--rounds", "1", "--json"))
    assert found["ratio"] == pytest.approx(found["frame_stack_us"] / found["causal_us"])
    assert found["ratio"] > 2
