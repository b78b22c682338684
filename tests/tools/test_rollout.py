"""`mwm rollout` and `mwm demo`: what a model does, as a recording, a table and an animation."""

from __future__ import annotations

import subprocess
import sys

import imageio.v3 as imageio
import numpy as np
import pytest

from synthetic import synthetic_game
from wm_runtime.artifact import models
from wm_runtime.errors import UserError
from wm_runtime.recording import read_recording
from wm_runtime.replays.dataset import DatasetWriter
from wm_runtime.replays.writer import write_slp
from wm_tools.rollout import live_frames, rollout

FRAMES = 40


@pytest.fixture(scope="module")
def game(tmp_path_factory):
    """A game as a replay (game.slp) and as the second one of a dataset (data), in one folder."""
    folder = tmp_path_factory.mktemp("game")
    game = synthetic_game(3, 300)
    write_slp(folder / "game.slp", game)
    with DatasetWriter(folder / "data") as writer:
        writer.add(synthetic_game(4, 200))
        game.info.md5 = "abc" + "0" * 29
        writer.add(game)
    return folder, game


def test_a_rollout_from_spawn_is_a_recording_of_the_start_and_every_frame(artifact, tmp_path) -> None:
    rollout(FRAMES, tmp_path / "a.mwr", str(artifact.path), stage="BATTLEFIELD", characters=("MARTH", "SHEIK"), seed=5)
    recording = read_recording(tmp_path / "a.mwr")
    assert recording.states["frame"].tolist() == list(range(FRAMES + 1))
    assert recording.header["stage"] == "BATTLEFIELD"
    assert [p["character"] for p in recording.header["players"]] == ["MARTH", "SHEIK"]
    assert recording.header["source"]["model"] == artifact.name
    assert not recording.controllers[0].any()
    assert recording.controllers[1:].any()


def test_the_seed_decides_what_random_players_do(artifact, tmp_path) -> None:
    tracks = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        rollout(FRAMES, tmp_path / f"{name}.mwr", str(artifact.path), seed=seed)
        tracks.append(read_recording(tmp_path / f"{name}.mwr"))
    assert np.array_equal(tracks[0].states.floats, tracks[1].states.floats)
    assert not np.array_equal(tracks[0].controllers, tracks[2].controllers)


def test_two_policies_can_play(artifact, tmp_path) -> None:
    rollout(60, tmp_path / "a.mwr", str(artifact.path), players="policy")
    pressed = read_recording(tmp_path / "a.mwr").controllers[1:]
    assert pressed.any(axis=(0, 2)).all()
    assert not np.array_equal(pressed[:, 0], pressed[:, 1])


def test_from_a_replay_its_own_controllers_go_on_and_a_dataset_gives_the_same(artifact, tmp_path, game) -> None:
    folder, true = game
    starts = (f"{folder}/game.slp:20", f"{folder}/data:1:20", f"{folder}/data:abc:20")
    recordings = []
    for i, start in enumerate(starts):
        rollout(FRAMES, tmp_path / f"{i}.mwr", str(artifact.path), start=start)
        recordings.append(read_recording(tmp_path / f"{i}.mwr"))
    row = 20 - true.first_frame
    assert np.array_equal(recordings[0].controllers, true.controllers()[row : row + FRAMES + 1])
    assert np.array_equal(recordings[0].states.floats[0], true.state().floats[row])
    for other in recordings[1:]:
        assert np.array_equal(other.states.floats, recordings[0].states.floats)


def test_teacher_forced_frames_begin_from_the_true_one_before(artifact, tmp_path, game) -> None:
    folder, true = game
    start = f"{folder}/game.slp:20"
    for name, forced in (("free", False), ("forced", True)):
        rollout(FRAMES, tmp_path / f"{name}.mwr", str(artifact.path), start=start, teacher_forced=forced)
    free, forced = (read_recording(tmp_path / f"{name}.mwr").states for name in ("free", "forced"))
    row = 20 - true.first_frame
    assert np.array_equal(free.floats[:2], forced.floats[:2])
    assert not np.array_equal(free["x"], forced["x"])
    error = {name: np.abs(s["x"][-10:] - true.columns["x"][row + FRAMES - 9 : row + FRAMES + 1]).mean()
             for name, s in (("free", free), ("forced", forced))}  # fmt: skip
    assert error["forced"] < error["free"]


BAD = {
    "no frame": ({"start": "game.slp"}, "give `spawn`"),
    "no such replay": ({"start": "none.slp:5"}, "none.slp: no such replay"),
    "a frame beyond the end": ({"start": "{game}/game.slp:9999"}, "no frame 9999"),
    "more frames than follow": ({"start": "{game}/game.slp:150", "frames": 500}, "frames follow"),
    "no such game": ({"start": "{game}/data:zzz:5"}, "0 games have an MD5"),
    "true frames where there are none": ({"teacher_forced": True}, "--teacher-forced needs true frames"),
    "unknown players": ({"players": "expert"}, "unknown players"),
    "unknown stage": ({"stage": "HYRULE"}, "unknown stage"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_start_that_is_none_is_one_line(case, artifact, tmp_path, game) -> None:
    arguments, answer = BAD[case]
    arguments = {"frames": 5, **arguments}
    if "start" in arguments:
        arguments["start"] = arguments["start"].format(game=game[0])
    with pytest.raises(UserError, match=answer) as error:
        rollout(out=tmp_path / "new.mwr", model=str(artifact.path), **arguments)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_live_matches_follow_one_another(artifact) -> None:
    header, frames = live_frames(str(artifact.path), "YOSHIS_STORY", ("FOX", "FOX"), 0)
    assert header["stage"] == "YOSHIS_STORY"
    numbers = [int(state["frame"][index]) for _, (state, index, _) in zip(range(30), frames, strict=False)]
    assert numbers == list(range(30))


@pytest.mark.skipif(not models(), reason="no model ships")
def test_the_demo_plays_ten_seconds_without_pytorch(tmp_path) -> None:
    code = (
        "import sys; from pathlib import Path; from wm_tools.demo import demo; demo(Path('out'));"
        "print(sorted({'torch', 'pyarrow', 'peppi_py'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert lines[0].startswith("Fox against Falco on Final Destination")
    assert lines[-1] == "[]"
    table = "\n".join(lines)
    for row in ("frames simulated   600", "steps per second", "fidelity           RC@20", "match.gif", "match.mwr"):
        assert row in table
    recording = read_recording(tmp_path / "out" / "match.mwr")
    assert len(recording) == 601
    pictures = imageio.imread(tmp_path / "out" / "match.gif", index=None)
    assert len(pictures) > 150
    assert np.ptp(pictures[0]) > 100
