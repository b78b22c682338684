"""What surrounds the steps of a run: settings, memory, devices, shapes, disks that are full, and who is told."""

from __future__ import annotations

import json
import re
import resource
import sys
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from wm_runtime.errors import UserError
from wm_runtime.replays.dataset import Dataset
from wm_train.config import Experiment, load_experiment, parse_changes
from wm_train.dynamics.named import named
from wm_train.encoding import PRESETS
from wm_train.evaluate.figures import Case
from wm_train.evaluate.rollout import ALL_FIELDS, hold, truth
from wm_train.evaluate.windows import read_windows, sample_starts
from wm_train.training import device, memory
from wm_train.training.checkpoint import build_model, load_checkpoint, save_checkpoint
from wm_train.training.data import Windows
from wm_train.training.device import amp_type, device_lock, find_device
from wm_train.training.judge import Rollouts, long_figures
from wm_train.training.memory import Need, plan, plan_whole_games
from wm_train.training.metrics import Metrics, read_metrics
from wm_train.training.preflight import preflight
from wm_train.training.schedule import warmup_cosine
from wm_train.training.trainer import train
from wm_train.training.whole_games import WholeGames

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
SMALL = {"d_model": 32, "d_state": 8, "headdim": 16}
"""Sizes of a Mamba-2."""
NEED = Need(frames=7_000_000, windows=6_900_000, length=11, weights=1_400_000, activations=(1e6, 3e4))


def changed(experiment: Experiment, **training: object) -> Experiment:
    return experiment.model_copy(update={"training": experiment.training.model_copy(update=training)})


# --- settings --------------------------------------------------------------------------------------------------------


def test_any_setting_can_be_changed_by_its_dotted_name() -> None:
    changes = parse_changes(["training.learning_rate=1e-3", "model.trunk=[8, 4]", "training.unroll.lengths=[2,3]"])
    experiment = load_experiment("baseline-v22", changes)
    assert experiment.training.learning_rate == 1e-3
    assert experiment.model.trunk == (8, 4)
    assert experiment.training.unroll is not None
    assert experiment.training.unroll.lengths == (2, 3)
    off = load_experiment("baseline-v22", parse_changes(["training.amp=off"]))  # which YAML reads as false
    assert off.training.amp == "off"


@pytest.mark.parametrize(
    ("settings", "answer"),
    [
        (["training.learning_rat=1"], "training.learning_rat: Extra inputs"),
        (["training.unroll.lengths=[8, 4]"], "unroll.lengths must rise"),
        (["training.unroll.share=2"], "training.unroll.share: "),
        (["training.epochs=2", "training.scheduled_sampling={}"], "annealing_epochs must be fewer than epochs"),
        (["training.data=disk"], "training.data: "),
        (["learning_rate"], "not a setting"),
        (["a=[1"], "not a setting"),
    ],
)
def test_a_setting_that_is_unknown_or_impossible_is_one_line(settings: list[str], answer: str) -> None:
    with pytest.raises(UserError) as refused:
        load_experiment("baseline-v22", parse_changes(settings))
    assert answer in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_core_refuses_ways_of_training_that_it_does_not_know(dataset, experiment, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("wm_train.dynamics.classic.ClassicCore.unrolls", False)
    with pytest.raises(UserError, match=r"training\.unroll is not possible with frame_stack_mlp"):
        train(changed(experiment, unroll=load_experiment("baseline-v22", {"training.unroll": {}}).training.unroll),
              dataset, tmp_path)  # fmt: skip


def test_the_learning_rate_warms_up_and_falls_to_nothing_step_by_step() -> None:
    rates = [warmup_cosine(step, 100, 10) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[10] == 1
    assert all(a > b for a, b in pairwise(rates[10:]))
    assert rates[100] == pytest.approx(0)


# --- devices and memory ----------------------------------------------------------------------------------------------


def test_an_accelerator_is_held_by_one_run_at_a_time_a_cpu_is_shared(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with device_lock(GPU), pytest.raises(UserError, match="cuda:0: another run is training on it"), device_lock(GPU):
        pass
    with device_lock(GPU), device_lock(torch.device("cuda", 1)), device_lock(CPU), device_lock(CPU):
        pass


def test_a_device_that_is_not_there_is_a_user_error() -> None:
    assert find_device("cpu") == CPU
    with pytest.raises(UserError, match="'abacus': no device"):
        find_device("abacus")
    with pytest.raises(UserError, match="cuda:7: not on this machine"):
        find_device("cuda:7")


@pytest.fixture
def having(monkeypatch):
    """Pretends so many GiB of RAM, and of an accelerator's memory."""

    def have(ram: float, accelerator: float = 0) -> None:
        monkeypatch.setattr(memory, "free", lambda d: int(2**30 * (ram if d.type == "cpu" else accelerator)))

    return have


def test_data_are_kept_where_they_fit(having) -> None:
    settings = Experiment(name="x").training
    having(ram=8, accelerator=8)
    assert plan(NEED, settings, GPU).mode == "device"
    assert plan(NEED, settings, CPU).mode == "ram"
    having(ram=8, accelerator=0.5)
    assert plan(NEED, settings, GPU).mode == "ram"
    having(ram=0.6, accelerator=0.5)
    assert plan(NEED, settings, GPU).mode == plan(NEED, settings, CPU).mode == "streaming"
    having(ram=8, accelerator=8)
    assert plan(NEED, settings, GPU, streams=True).mode == "streaming"
    streaming = changed(Experiment(name="x"), data="streaming").training
    assert plan(NEED, streaming, GPU).mode == "streaming"
    assert plan(NEED, streaming, GPU, streams=False).mode == "device"


def test_a_plan_says_what_it_takes_and_a_refusal_what_would_fit(having) -> None:
    having(ram=8, accelerator=8)
    line = plan(NEED, Experiment(name="x").training, GPU).line(GPU)
    assert line.startswith("data in the memory of cuda:0; RAM 158 MiB (order 158 MiB) of 8.00 GiB free; cuda:0 ")
    assert "data 0.9" in line
    having(ram=1)
    with pytest.raises(UserError, match=r"not enough memory: data in RAM.* training\.data=streaming would fit"):
        plan(NEED, changed(Experiment(name="x"), data="ram").training, CPU)
    with pytest.raises(UserError, match="--streaming --batch-size 8192 would fit"):
        plan(NEED, changed(Experiment(name="x"), batch_size=65536).training, CPU)
    having(ram=0.01)
    with pytest.raises(UserError, match="no batch size would fit"):
        plan(NEED, Experiment(name="x").training, CPU)


def test_whole_games_that_do_not_fit_are_refused_with_a_number_that_would(having) -> None:
    having(ram=8)
    line = plan_whole_games(1_000_000, 100, 5_000_000, WholeGames.bytes(1_000_000)).line(CPU)
    assert re.match(r"data in RAM; RAM 0\.6\d GiB \(data 0\.5\d GiB \+ model 76 MiB\) of 8\.00 GiB free", line)
    having(ram=0.25)
    with pytest.raises(UserError, match=r"not enough memory for 1,000,000 frames: .*--max-games [2-4]\d would fit"):
        plan_whole_games(1_000_000, 100, 5_000_000, WholeGames.bytes(1_000_000))
    having(ram=0.01)
    with pytest.raises(UserError, match="a larger machine"):
        plan_whole_games(1_000_000, 100, 5_000_000, WholeGames.bytes(1_000_000))


def test_whole_games_are_kept_by_an_accelerator_that_has_room(having) -> None:
    asked = (1_000_000, 100, 5_000_000, WholeGames.bytes(1_000_000))
    having(ram=8, accelerator=8)
    kept = plan_whole_games(*asked, device=GPU)
    assert (kept.mode, list(kept.host), list(kept.device)) == ("device", ["data"], ["data", "model"])
    assert plan_whole_games(*asked, "ram", GPU).mode == "ram"
    having(ram=8, accelerator=0.25)
    assert plan_whole_games(*asked, device=GPU).mode == "ram"
    with pytest.raises(UserError, match=r"--max-games [2-5]\d would fit"):
        plan_whole_games(*asked, "device", GPU)


def test_windows_of_a_corpus_are_read_from_the_device_that_it_is_on(dataset: Dataset) -> None:
    corpus = WholeGames(dataset, [0, 1], folds=2)
    rows = corpus.draw(4, 3, np.random.default_rng(0))
    elsewhere = corpus.to(torch.device("meta")).read(rows, 3, forget=np.zeros(4, bool))
    assert {part.device.type for part in (elsewhere.floats, elsewhere.match, *elsewhere.carry.values())} == {"meta"}


def test_a_run_says_its_plan_and_a_run_that_does_not_fit_leaves_nothing(dataset, experiment, tmp_path, having) -> None:
    having(ram=0.0001)
    with pytest.raises(UserError, match="not enough memory"):
        train(experiment, dataset, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("coarse", "wanted"), [(0.5, torch.bfloat16), (2.0, None)])
def test_a_cpu_trains_in_bf16_where_that_is_the_faster_one(
    coarse: float, wanted: torch.dtype | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(device, "_product_seconds", lambda dtype: coarse if dtype == torch.bfloat16 else 1.0)
    device.bf16_pays.cache_clear()
    assert amp_type("auto", CPU) is wanted
    assert amp_type("bf16", CPU) is torch.bfloat16
    device.bf16_pays.cache_clear()
    monkeypatch.undo()
    assert device._product_seconds(torch.float32) > 0


@pytest.mark.parametrize(
    ("model", "first"), [({"trunk": [32, 16]}, "trunk.0"), ({"kind": "mamba2", "mamba2": SMALL}, "inputs")]
)
def test_half_precision_is_for_products_in_training_alone_and_not_for_what_positions_go_through(
    model: dict, first: str, dataset: Dataset
) -> None:
    assert amp_type("off", CPU) is None
    assert amp_type("bf16", CPU) is torch.bfloat16
    torch.manual_seed(0)
    made = build_model(Experiment(name="x", model={**model, "encoding": "v2.2"}))
    batch = Windows(dataset, [0, 1], made.core.window).read(np.arange(64))
    exact = made.eval().core.losses(batch)["action"]
    made.core.amp = torch.bfloat16
    assert torch.equal(made.core.losses(batch)["action"], exact)
    products = {}
    for name, layer in made.core.network.named_modules():
        if isinstance(layer, torch.nn.Linear):
            layer.register_forward_hook(lambda _, __, out, name=name: products.update({name: out.dtype}))
    rough = made.train().core.losses(batch)["action"]
    assert products.pop(first) is torch.float32
    assert set(products.values()) == {torch.bfloat16}
    assert rough.dtype is torch.float32
    assert rough.item() == pytest.approx(exact.item(), rel=0.02)


def test_what_mamba2_goes_on_from_stays_float32_in_half_precision(dataset: Dataset) -> None:
    core = build_model(Experiment(name="x", model={"kind": "mamba2", "encoding": "v2.2", "mamba2": SMALL})).train().core
    batch = Windows(dataset, [0, 1], core.window).read(np.arange(8))
    core.amp = torch.bfloat16
    carry = core._remembered(batch)
    state = (batch.floats[:, -2], batch.ints[:, -2])
    kept = core(*state, batch.match[:, -2], named(*state), batch.controllers[:, -1], carry).carry
    for of in (carry, kept):
        assert {t.dtype for name, t in of.items() if name.startswith(("conv", "state"))} == {torch.float32}


# --- before the first step -------------------------------------------------------------------------------------------


def test_every_shape_that_does_not_match_is_named_before_the_first_step(dataset, experiment, monkeypatch) -> None:
    model = build_model(experiment)
    windows, encoder = Windows(dataset, [0, 1], model.core.window), model.core.network.encoder
    frame = encoder.frame
    encoder.frame = lambda *raw: tuple(part[..., :-2] for part in frame(*raw))
    with pytest.raises(UserError, match=r"floats: got \(10, 2, 27\), expected \(10, 2, 29\); classes: got"):
        preflight(experiment, model, windows, CPU)
    encoder.frame, encoder.config = frame, PRESETS["v2.2-2a"]
    with pytest.raises(UserError, match=r"trunk\.0: got \(1862,\), expected \(1846,\).*state_age_as_embed=False"):
        preflight(experiment, model, windows, CPU)
    encoder.config = PRESETS["v2.2"]
    monkeypatch.setattr(windows, "stored", Windows(dataset, [0, 1], 10).stored)
    with pytest.raises(UserError, match=r"batch\.floats: got \(10, 2, 12\), expected \(11, 2, 12\); batch\.ints: "):
        preflight(experiment, model, windows, CPU)
    preflight(experiment, build_model(experiment), Windows(dataset, [0, 1], 11), CPU)


def test_the_memory_of_a_step_grows_with_the_batch_and_the_unrolled_length(dataset, experiment) -> None:
    model = build_model(experiment)
    _, one = preflight(experiment, model, Windows(dataset, [0, 1], 11), CPU)
    unrolled = changed(experiment, unroll=SimpleNamespace(lengths=(4,)))
    _, four = preflight(unrolled, model, Windows(dataset, [0, 1], 11, steps=4), CPU)
    assert 1846 * 4 < one < 40 * 1846 * 4  # the stack as the trunk sees it, and not much more
    assert 3 * one < four < 5 * one


# --- disks -----------------------------------------------------------------------------------------------------------


@contextmanager
def files_no_larger_than(size: int):
    """As on a disk with so much room: what is more is refused."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    import signal

    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_leaves_the_checkpoint_from_before(run: Path, tmp_path: Path) -> None:
    model, manifest = load_checkpoint(run / "best.pt")
    path = tmp_path / "last.pt"
    save_checkpoint(path, model, manifest)
    sound = path.read_bytes()
    with (
        files_no_larger_than(len(sound) // 2),
        pytest.raises(UserError, match=r"last\.pt: checkpoint cannot be written .*the one from before is kept"),
    ):
        save_checkpoint(path, model, manifest)
    assert path.read_bytes() == sound
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]


def test_a_run_on_a_full_disk_stops_with_one_line_and_can_be_resumed(dataset, experiment, tmp_path) -> None:
    short = changed(experiment, frames_per_epoch=256, rollouts=8)
    train(short, dataset, tmp_path, stop_after=1)
    sound = (tmp_path / "last.pt").read_bytes()
    with files_no_larger_than(100_000), pytest.raises(UserError, match="make room and --resume"):
        train(short, dataset, tmp_path, resume=True)
    assert (tmp_path / "last.pt").read_bytes() == sound
    assert train(short, dataset, tmp_path, resume=True)["status"] == "finished"


def test_a_corrupt_checkpoint_is_not_resumed(run: Path, dataset, experiment, tmp_path) -> None:
    (tmp_path / "last.pt").write_bytes((run / "last.pt").read_bytes()[:-5000])
    with pytest.raises(UserError, match=r"last\.pt: not a checkpoint of this project, or damaged"):
        train(experiment, dataset, tmp_path, resume=True)
    (tmp_path / "last.pt").write_bytes((run / "best.pt").read_bytes())
    with pytest.raises(UserError, match="holds weights alone; go on from it with --start-from"):
        train(experiment, dataset, tmp_path, resume=True)


# --- who is told -----------------------------------------------------------------------------------------------------


def test_metrics_tell_of_every_head_and_every_character(run: Path) -> None:
    rows = read_metrics(run)
    epochs = [row for row in rows if "figures" in row]
    assert [row["epoch"] for row in epochs] == [1, 2]
    for row in epochs:
        assert {"action", "velocity", "loss"} <= set(row["train"]) & set(row["held_out"])
        assert {"RC@20", "change_acc", "hit_recall"} <= set(row["figures"])
        assert {"landing_recall", "RC@20_airborne", "x_mae@1", "x_mae@20", "flags_4_acc@1"} <= set(row["parts"])
        assert {"stock_loss_recall", "stock_loss_precision", "violations", "violations_all"} <= set(row["long"])
        assert {"FOX", "FALCO"} == set(row["by_character"])
        for found in row["by_character"].values():
            assert {"losses", "RC@20", "change_acc", "windows"} <= set(found)
            assert {"action", "loss"} <= set(found["losses"])


def test_a_long_rollout_is_judged_by_its_stock_losses_and_the_rules_it_breaks(dataset: Dataset) -> None:
    """The game itself breaks no rule and foresees every loss; one that stands still foresees none."""
    window = read_windows(dataset, *sample_starts(dataset, 24, 300), 0, 300)
    true, still = (long_figures(Case(window, predict(window, 1, ALL_FIELDS))) for predict in (truth, hold))
    assert (true["stock_loss_recall"], true["stock_loss_precision"], true["position_error_at_300"]) == (1, 1, 0)
    assert (still["stock_loss_recall"], still["stock_loss_precision"]) == (0, None)
    falling = truth(window, 1, ALL_FIELDS)
    falling.free["percent"] = -np.cumsum(np.ones_like(falling.free["percent"]), axis=1)
    assert long_figures(Case(window, falling))["violations"] > true["violations"] + 500


def test_data_without_long_games_are_judged_without_long_rollouts(dataset: Dataset, run: Path) -> None:
    model, _ = load_checkpoint(run / "best.pt")
    assert Rollouts(dataset, [0, 1], 8, 0, CPU).verdict(model).long == {}


def test_rows_that_were_cut_off_or_will_come_again_are_dropped(tmp_path: Path) -> None:
    lines = [json.dumps({"step": step}) for step in (1, 2, 3)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 4, "lo')
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2, 3]
    Metrics(tmp_path, 2).write({"step": 3, "again": True})
    assert read_metrics(tmp_path) == [{"step": 1}, {"step": 2}, {"step": 3, "again": True}]


@pytest.mark.parametrize("key", [None, "secret"])
def test_weights_and_biases_is_told_all_rows_offline_where_there_is_no_key(
    key, dataset, experiment, tmp_path, monkeypatch
) -> None:
    logged: list[tuple[int, dict]] = []
    begun: list[dict] = []
    ended: list[int] = []
    run = SimpleNamespace(
        log=lambda row, step: logged.append((step, row)), finish=lambda exit_code: ended.append(exit_code), summary={}
    )
    wandb = SimpleNamespace(
        login=lambda prompt, verify: bool(key), init=lambda **settings: begun.append(settings) or run
    )
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    short = changed(experiment, frames_per_epoch=256, rollouts=8, epochs=1, log_interval=1)
    train(short, dataset, tmp_path / "told")
    assert begun[0]["mode"] == ("online" if key else "offline")
    assert begun[0]["config"]["training"]["epochs"] == 1
    assert begun[0]["config"]["run"]["data"]["games"] == 6
    assert "md5" not in begun[0]["config"]["run"]["data"]
    assert (run.summary["ended/status"], run.summary["ended/epochs"]) == ("finished", 1)
    assert [step for step, _ in logged] == [1, 2, 2]
    assert {"held_out/action", "figures/RC@20", "by_character/FOX/RC@20"} <= set(logged[-1][1])
    assert ended == [0]


def test_the_real_package_keeps_a_run_offline(dataset, experiment, tmp_path, monkeypatch) -> None:
    """As it tells itself; a run that goes on goes on under its name."""
    wandb = pytest.importorskip("wandb")
    runs, summaries, begin, end = [], [], wandb.init, wandb.Run.finish
    monkeypatch.setattr(wandb, "init", lambda **settings: runs.append(begin(**settings)) or runs[-1])
    monkeypatch.setattr(wandb.Run, "finish", lambda run, **how: summaries.append(dict(run.summary)) or end(run, **how))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_SILENT", "true")
    brief = changed(experiment, frames_per_epoch=256, rollouts=8, epochs=2, log_interval=1)
    train(brief, dataset, tmp_path / "told", stop_after=1)
    manifest = train(brief, dataset, tmp_path / "told", resume=True)
    assert [(run.offline, run.id, run.project) for run in runs] == [(True, "told", "melee-world-model")] * 2
    assert all(summary["loss"] > 0 for summary in summaries)
    assert [summary["ended/status"] for summary in summaries] == ["paused", "finished"]
    assert summaries[1]["ended/best/RC@20"] == manifest["best"]["RC@20"]
    assert runs[1].config["run"]["data"]["fingerprint"] == manifest["data"]["fingerprint"]
    assert len(list((tmp_path / "told" / "wandb").glob("offline-run-*/run-told.wandb"))) == 2


def test_weights_and_biases_is_not_told_where_it_is_switched_off(dataset, experiment, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace())  # would fail if touched
    off = experiment.training.wandb.model_copy(update={"enabled": False})
    train(changed(experiment, frames_per_epoch=64, rollouts=8, epochs=1, wandb=off), dataset, tmp_path)
