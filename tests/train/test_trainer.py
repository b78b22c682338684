"""Training learns, says what it did, repeats itself, and can be stopped; only its own checkpoints load."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from wm_runtime.errors import UserError
from wm_runtime.replays.dataset import Dataset, data_fingerprint
from wm_runtime.schema import FIRST_FRAME, PLAYERS, field_table_hash
from wm_train.config import Experiment
from wm_train.training.checkpoint import build_model, load_checkpoint
from wm_train.training.data import Windows, split_games
from wm_train.training.judge import CHOOSES, Rollouts, evaluate_one_step
from wm_train.training.trainer import Watch, train


def brief(experiment: Experiment, **changes: object) -> Experiment:
    """The same experiment, four steps long."""
    settings = {"epochs": 1, "frames_per_epoch": 256, "batch_size": 64, "long_rollouts": 0, **changes}
    return experiment.model_copy(update={"training": experiment.training.model_copy(update=settings)})


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(path)[0].state_dict()


def manifest_of(folder: Path) -> dict:
    return json.loads((folder / "manifest.json").read_text())


@pytest.fixture(scope="module")
def held_out(dataset: Dataset, experiment: Experiment) -> Windows:
    return Windows(dataset, split_games(dataset, 0.25, None)[1], experiment.model.encoding.frames + 1)


def test_training_lowers_the_held_out_loss(run: Path, experiment: Experiment, held_out: Windows) -> None:
    index = np.arange(0, len(held_out), 3)
    torch.manual_seed(0)
    untrained, trained = build_model(experiment).eval(), load_checkpoint(run / "best.pt")[0]
    before, after = (evaluate_one_step(m, held_out, index, 128, "cpu") for m in (untrained, trained))
    assert after["loss"] < 0.7 * before["loss"]
    assert after["action"] < before["action"]
    epochs = manifest_of(run)["epochs"]
    assert epochs[1]["held_out"]["loss"] < epochs[0]["held_out"]["loss"] < before["loss"]


def test_the_best_checkpoint_is_that_of_the_lowest_rollout_error(run: Path, dataset: Dataset) -> None:
    model, manifest = load_checkpoint(run / "best.pt")
    rows = manifest_of(run)["epochs"]
    best = min(rows, key=lambda row: row["figures"][CHOOSES])
    assert manifest["epochs"][-1] == best
    assert manifest["best"] == {"epoch": best["epoch"], **best["figures"]}
    held = split_games(dataset, 0.25, None)[1]
    again = Rollouts(dataset, held, 48, 0, torch.device("cpu")).verdict(model).figures
    assert again == pytest.approx(best["figures"], rel=1e-4)


def test_a_worse_epoch_does_not_replace_the_best(dataset: Dataset, experiment: Experiment, tmp_path) -> None:
    """A weight decay that overshoots: every step makes all weights larger than before."""
    worsening = {"epochs": 3, "frames_per_epoch": 64, "learning_rate": 0.01, "weight_decay": 900, "warmup_steps": 3}
    manifest = train(brief(experiment, **worsening), dataset, tmp_path)
    errors = [row["figures"][CHOOSES] for row in manifest["epochs"]]
    best = errors.index(min(errors))
    assert best < 2
    assert load_checkpoint(tmp_path / "best.pt")[1]["epochs"] == manifest["epochs"][: best + 1]
    assert load_checkpoint(tmp_path / "last.pt")[1]["epochs"] == manifest["epochs"]


def test_a_run_leaves_best_last_manifest_metrics_and_curves(run: Path) -> None:
    assert {"best.pt", "last.pt", "manifest.json", "metrics.jsonl", "curves.png"} <= {p.name for p in run.iterdir()}
    assert not list(run.glob("*.tmp"))


def test_the_manifest_says_what_the_run_was(run: Path, dataset: Dataset, experiment: Experiment) -> None:
    manifest = manifest_of(run)
    data, games = manifest["data"], split_games(dataset, 0.25, None)[0]
    assert data["md5"] == [dataset.md5[g] for g in games]
    assert data["fingerprint"] == data_fingerprint(data["md5"])
    assert (data["games"], data["frames"]) == (len(games), int(dataset.frames[games].sum()))
    assert Experiment(**manifest["experiment"]) == experiment
    assert manifest["field_table"] == field_table_hash()
    assert manifest["versions"]["torch"] == torch.__version__
    assert {"python", "numpy", "onnxruntime"} <= set(manifest["versions"])
    assert manifest["machine"]["device"] == "cpu"
    assert [row["epoch"] for row in manifest["epochs"]] == [1, 2]
    assert all(row["frames"] == 2800 and row["frames_per_second"] > 0 for row in manifest["epochs"])
    assert manifest_of(run) == {**load_checkpoint(run / "last.pt")[1], "status": "finished"}


def test_held_out_games_are_not_trained_on(run: Path, dataset: Dataset) -> None:
    data = manifest_of(run)["data"]
    assert data["md5"]
    assert data["held_out_md5"]
    assert sorted(data["md5"] + data["held_out_md5"]) == sorted(dataset.md5)


def test_a_game_keeps_its_side_as_games_are_added(dataset: Dataset) -> None:
    train_all, held_all = split_games(dataset, 0.4, None)
    assert len(held_all) > 1
    for count in range(max(held_all[0], train_all[0]) + 1, len(dataset)):
        assert split_games(dataset, 0.4, count) == (
            [g for g in train_all if g < count], [g for g in held_all if g < count],
        )  # fmt: skip
    assert set(split_games(dataset, 0.2, None)[1]) <= set(held_all)


def test_one_game_is_too_few(dataset: Dataset) -> None:
    with pytest.raises(UserError, match=r"1 games are too few.*build a dataset of more"):
        split_games(dataset, 0.25, 1)


def test_windows_are_those_whose_target_is_played(held_out: Windows) -> None:
    batch = held_out.read(np.arange(len(held_out)))
    frame = batch.match[..., 0]
    games = len(held_out.games)
    assert frame.shape == (games * (700 + FIRST_FRAME), 11)
    assert torch.equal(frame[:, -1], torch.arange(700 + FIRST_FRAME).int().repeat(games))
    assert (frame.diff(dim=1) == 1).all()
    assert batch.floats.shape[:3] == (len(held_out), 11, PLAYERS)


def test_the_target_frame_itself_is_no_input(run: Path, held_out: Windows) -> None:
    model, _ = load_checkpoint(run / "last.pt")
    seen = []
    model.core.network.register_forward_pre_hook(lambda _, inputs: seen.append([t.clone() for t in inputs]))
    for change in (0, 7):
        batch = held_out.read(np.arange(20))
        batch.floats[:, -1] += change
        model.core.losses(batch)
    assert all(torch.equal(one, other) for one, other in zip(*seen, strict=True))


def test_the_same_seed_gives_the_same_weights_bit_for_bit(dataset: Dataset, experiment: Experiment, tmp_path) -> None:
    for name, seed in (("one", 5), ("again", 5), ("other", 6)):
        train(brief(experiment, seed=seed), dataset, tmp_path / name)
    one, again, other = (weights(tmp_path / name / "last.pt") for name in ("one", "again", "other"))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["core.network.heads.linear.weight"], other["core.network.heads.linear.weight"])


def test_an_interrupted_run_leaves_what_it_had_learned(dataset: Dataset, experiment: Experiment, tmp_path) -> None:
    steps = []

    def stop(step: int, total: int, loss: float) -> None:
        steps.append((step, total))
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(brief(experiment), dataset, tmp_path, on_step=stop)
    assert steps == [(1, 4), (2, 4), (3, 4)]
    torch.manual_seed(experiment.training.seed)
    untrained = build_model(experiment).state_dict()
    stopped = weights(tmp_path / "last.pt")
    assert not torch.equal(stopped["core.network.heads.linear.weight"], untrained["core.network.heads.linear.weight"])
    assert (manifest_of(tmp_path)["epochs"], manifest_of(tmp_path)["status"]) == ([], "interrupted")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last.pt", "manifest.json", "metrics.jsonl"]


def test_a_loss_that_is_not_finite_stops_the_run_with_its_batch_saved(dataset, experiment, tmp_path) -> None:
    with pytest.raises(UserError, match=r"loss is .* at step 1 .*bad_batch\.pt.* lower training\.learning_rate"):
        train(brief(experiment, learning_rate=1e25, warmup_steps=0), dataset, tmp_path)
    batch = torch.load(tmp_path / "bad_batch.pt")
    assert batch["step"] == 1
    assert batch["floats"].shape[:2] == (64, 11)
    assert all(torch.isfinite(w).all() for w in weights(tmp_path / "last.pt").values())
    assert manifest_of(tmp_path)["status"] == "stopped"


# --- checkpoints -----------------------------------------------------------------------------------------------------


def test_a_checkpoint_loads_ready_to_use(run: Path) -> None:
    model, manifest = load_checkpoint(run / "last.pt")
    assert not model.training
    assert manifest["experiment"]["name"] == "tiny"
    saved = torch.load(run / "last.pt", weights_only=True)["model"]
    assert all(torch.equal(value, saved[name]) for name, value in model.state_dict().items())


def foreign(kind: str, good: dict, path: Path) -> None:
    """Writes a file that is no checkpoint of ours."""
    contents = {
        "empty": b"",
        "text": b"not a checkpoint\n",
        "binary": bytes(range(256)) * 64,
        "truncated": path.with_name("good.pt").read_bytes()[:-5000],
    }
    objects = {
        "list": [1, 2],
        "other keys": {"state_dict": {}},
        "no weights": {"manifest": good["manifest"]},
        "no manifest": {"model": good["model"]},
        "weights of another kind": {**good, "model": [1.0]},
        "other experiment": {**good, "manifest": {**good["manifest"], "experiment": {"name": "x", "colour": "red"}}},
    }
    if kind in contents:
        path.write_bytes(contents[kind])
    else:
        torch.save(objects[kind], path)


@pytest.mark.parametrize(
    "kind",
    [
        "empty", "text", "binary", "truncated", "list", "other keys", "no weights", "no manifest",
        "weights of another kind", "other experiment",
    ],
)  # fmt: skip
def test_a_file_that_is_no_checkpoint_is_a_user_error(kind: str, run: Path, tmp_path) -> None:
    (tmp_path / "good.pt").write_bytes((run / "last.pt").read_bytes())
    foreign(kind, torch.load(run / "last.pt", weights_only=True), tmp_path / "bad.pt")
    with pytest.raises(UserError, match=r"bad\.pt: "):
        load_checkpoint(tmp_path / "bad.pt")


def test_a_missing_checkpoint_is_a_user_error(tmp_path) -> None:
    with pytest.raises(UserError, match=r"none\.pt: no such checkpoint; train one"):
        load_checkpoint(tmp_path / "none.pt")
    with pytest.raises(UserError, match="not a checkpoint"):
        load_checkpoint(tmp_path)


def test_a_checkpoint_of_another_field_table_or_size_is_a_user_error(run: Path, tmp_path) -> None:
    content = torch.load(run / "last.pt", weights_only=True)
    manifest = content["manifest"]
    torch.save({**content, "manifest": {**manifest, "field_table": "0" * 16}}, tmp_path / "table.pt")
    with pytest.raises(UserError, match=r"field table 0000.*train again"):
        load_checkpoint(tmp_path / "table.pt")
    larger = {**manifest["experiment"], "model": {"trunk": [8]}}
    torch.save({**content, "manifest": {**manifest, "experiment": larger}}, tmp_path / "size.pt")
    with pytest.raises(UserError, match="weights do not fit"):
        load_checkpoint(tmp_path / "size.pt")


def test_unpickling_runs_no_code(tmp_path) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return (Path(tmp_path / "owned").touch, ())

    torch.save({"model": {}, "manifest": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(UserError):
        load_checkpoint(tmp_path / "evil.pt")
    assert not (tmp_path / "owned").exists()


def test_training_goes_on_from_a_checkpoint_and_says_so(dataset, experiment, run, tmp_path) -> None:
    manifest = train(brief(experiment), dataset, tmp_path / "on", start_from=run / "best.pt")
    before, _ = load_checkpoint(run / "best.pt")
    after, kept = load_checkpoint(tmp_path / "on" / "last.pt")
    assert manifest["started_from"]["epochs"] == kept["started_from"]["epochs"] != []
    for table in ("start", "rate", "loop_end", "loop_to"):
        assert torch.equal(getattr(before.core.age, table), getattr(after.core.age, table))
    assert torch.equal(before.core.network.encoder.mean, after.core.network.encoder.mean)
    assert not torch.equal(before.core.network.heads.linear.weight, after.core.network.heads.linear.weight)


def test_a_checkpoint_of_another_model_is_refused_and_every_difference_listed(
    dataset, experiment, run, tmp_path
) -> None:
    other = experiment.model_copy(update={"model": experiment.model.model_copy(update={"trunk": (16,)})})
    with pytest.raises(UserError) as refused:
        train(other, dataset, tmp_path / "on", start_from=run / "best.pt")
    assert "unexpected: core.network.trunk.3.weight, core.network.trunk.3.bias" in str(refused.value)
    assert "core.network.trunk.0.weight (64, 1846), expected (16, 1846)" in str(refused.value)
    assert str(refused.value).endswith("or --allow-partial")


def test_a_checkpoint_of_another_encoding_is_refused_by_name_or_taken_in_part(
    dataset, experiment, run, tmp_path
) -> None:
    model = {**experiment.model.model_dump(), "encoding": "v2.2-1a"}
    other = brief(Experiment(**{**experiment.model_dump(), "model": model}))
    with pytest.raises(UserError, match=r"of another size: core.network.encoder.mean \(29,\), expected \(28,\)"):
        train(other, dataset, tmp_path / "on", start_from=run / "best.pt")
    manifest = train(other, dataset, tmp_path / "on", start_from=run / "best.pt", allow_partial=True)
    assert manifest["status"] == "finished"


def test_what_fits_of_a_checkpoint_is_taken_if_that_is_allowed(dataset, experiment, run, tmp_path) -> None:
    other = experiment.model_copy(update={"model": experiment.model.model_copy(update={"trunk": (16,)})})
    notes: list[str] = []
    still = brief(other, learning_rate=1e-12)
    train(still, dataset, tmp_path, start_from=run / "best.pt", allow_partial=True, watch=Watch(note=notes.append))
    assert sum("best.pt: " in note for note in notes) == 2  # unexpected, of another size
    before, after = weights(run / "best.pt"), weights(tmp_path / "last.pt")
    kept = "core.network.encoder.embed.action.weight"
    assert torch.allclose(before[kept], after[kept])
    assert torch.equal(before["core.age.rate"], after["core.age.rate"])


def test_missing_weights_are_listed(run: Path, tmp_path) -> None:
    content = torch.load(run / "best.pt", weights_only=True)
    del content["model"]["core.network.trunk.0.bias"]
    content["model"]["core.network.extra"] = torch.zeros(1)
    torch.save(content, tmp_path / "less.pt")
    with pytest.raises(UserError, match=r"missing: core\.network\.trunk\.0\.bias; unexpected: core\.network\.extra"):
        load_checkpoint(tmp_path / "less.pt")
