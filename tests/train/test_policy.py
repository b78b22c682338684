"""A policy learns who presses what when; mirrored play is mirrored exactly; the exported graph agrees."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from typer.testing import CliRunner

from wm_runtime.errors import UserError
from wm_runtime.policy import GRAPH_INPUTS, GRAPH_OUTPUTS, open_policy
from wm_runtime.replays.dataset import Dataset
from wm_runtime.schema import BUTTONS, C_, CONTROL_NAMES, F_, FIRST_FRAME, I_, field_table_hash
from wm_train.policy.codebook import HEADS, MIRRORED, Codebook, make_codebook
from wm_train.policy.config import PolicyExperiment, load_policy_experiment
from wm_train.policy.data import FIRST_CONTROL, KNOWS_ALL, Batch, Rows, codebook_of
from wm_train.policy.export import PolicyStep, export_policy
from wm_train.policy.network import PolicyNetwork, Seen, sharpened
from wm_train.policy.report import accuracy, pace
from wm_train.policy.train import held_out_loss, load_policy, train_policy

TINY = {"widths": (48,), "head_width": 24}
TRAINING = {"rows": 40_000, "batch_size": 256, "holdout": 0.25, "warmup_steps": 10, "checks": 2, "learning_rate": 3e-3}


@pytest.fixture(scope="module")
def settings() -> PolicyExperiment:
    return PolicyExperiment.model_validate({"name": "tiny", "model": TINY, "training": TRAINING})


@pytest.fixture(scope="module")
def folder(dataset: Dataset, settings: PolicyExperiment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a policy trained for a moment."""
    out = tmp_path_factory.mktemp("policy")
    train_policy(settings, dataset, out)
    return out


@pytest.fixture(scope="module")
def network(folder: Path) -> PolicyNetwork:
    return load_policy(folder / "policy.pt")[0]


@pytest.fixture(scope="module")
def held(dataset: Dataset, folder: Path, network: PolicyNetwork, settings: PolicyExperiment) -> Rows:
    md5 = json.loads((folder / "manifest.json").read_text())["data"]["held_out_md5"]
    return Rows(dataset, [dataset.find(m) for m in md5], settings.model, network.codebook)


def batch_of(rows: Rows, count: int = 200, delay: int = 0, known: int = KNOWS_ALL) -> Batch:
    index = np.random.default_rng(1).choice(rows.index, count)
    return rows.read(index, np.full(count, delay), np.full(count, known))


# --- classes ---------------------------------------------------------------------------------------------------------


def random_controllers(count: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    out = np.zeros((count, len(CONTROL_NAMES)), np.float32)
    out[:, :4] = rng.integers(-80, 81, (count, 4)).astype(np.float32) / np.float32(80)
    out[: count // 2, :4] = 0
    out[:, C_["shoulder"]] = rng.integers(0, 141, count).astype(np.float32) / np.float32(140)
    out[:, C_[BUTTONS[0]] :] = rng.random((count, len(BUTTONS))) < 0.2
    return out


def test_classes_stand_for_controllers_on_the_grid() -> None:
    held = random_controllers(5000)
    book = make_codebook(held, 40, 9, 16)
    assert 40 <= book.sizes["main"] <= 41
    assert 9 <= book.sizes["c"] <= 10
    assert book.sizes["buttons"] == 16
    classes = book.classes(held)
    again = book.controllers(classes)
    assert np.array_equal(book.classes(again), classes)
    assert np.array_equal(again[:, :4], np.rint(again[:, :4] * 80).astype(np.float32) / np.float32(80))
    assert set(np.unique(again[:, C_[BUTTONS[0]] :])) <= {0, 1}
    assert np.abs(again[:, :2] - held[:, :2]).mean() < 0.15
    assert not again[(held == 0).all(axis=1)].any()
    assert np.array_equal(Codebook.from_json(json.loads(json.dumps(book.to_json()))).classes(held), classes)


def test_a_mirrored_controller_is_of_the_mirrored_classes() -> None:
    held = random_controllers(5000)
    book = make_codebook(held, 40, 9, 16)
    mirrored = held.copy()
    mirrored[:, list(MIRRORED)] *= -1
    classes, flipped = book.classes(held), book.classes(mirrored)
    for i, head in enumerate(HEADS):
        assert np.array_equal(book.mirror(head)[classes[:, i]], flipped[:, i])


# --- rows ------------------------------------------------------------------------------------------------------------


def test_a_row_is_what_a_player_saw_and_what_it_did_next(dataset: Dataset, settings: PolicyExperiment) -> None:
    book = codebook_of(dataset, [0, 1, 2], settings.model)
    rows = Rows(dataset, [1, 2], settings.model, book)
    assert len(rows) == 2 * sum(int(dataset.frames[g]) + FIRST_FRAME - FIRST_CONTROL for g in (1, 2))
    game, offsets = dataset.game(2), settings.model.state_offsets
    state, controllers = game.state(), game.controllers()
    frame, player, delay = 300, 1, 5
    row = (int(dataset.frames[1]) + frame) * 2 + player
    batch = rows.read(np.array([row]), np.array([delay]), np.array([KNOWS_ALL]))
    for k, offset in enumerate(offsets):
        seen = frame - 1 - delay - offset
        assert np.array_equal(batch.seen.floats[0, k].numpy(), state.floats[seen, ::-1])
        assert np.array_equal(batch.seen.ints[0, k].numpy(), state.ints[seen, ::-1])
    assert np.array_equal(batch.target[0].numpy(), book.classes(controllers[frame, player]))
    assert np.array_equal(batch.last[0].numpy(), book.classes(controllers[frame - 1, player]))
    for k, offset in enumerate(settings.model.control_offsets):
        past = book.classes(controllers[frame - 1 - offset, player])
        assert np.array_equal(batch.seen.past[0, k].numpy(), past)


def test_a_match_that_has_just_begun_is_seen_as_it_is_played(dataset: Dataset, settings: PolicyExperiment) -> None:
    rows = Rows(dataset, [1], settings.model, codebook_of(dataset, [0, 1], settings.model))
    first, delay = 400, 2
    state = dataset.game(1).state()
    for begun in range(12):
        row = np.array([(first + begun + 1) * 2])
        seen = rows.read(row, np.array([delay]), np.array([KNOWS_ALL]), np.array([begun])).seen
        ages = [max(begun - delay - offset, 0) for offset in settings.model.state_offsets]
        assert np.array_equal(seen.floats[0].numpy(), state.floats[[first + age for age in ages]])
        assert seen.known.tolist() == [begun]


def test_changes_are_drawn_more_often_and_count_less(dataset: Dataset, settings: PolicyExperiment) -> None:
    book = codebook_of(dataset, [0, 1], settings.model)
    rows = Rows(dataset, [0, 1], settings.model, book)
    batch = rows.drawn(20_000, settings.training, 30, np.random.default_rng(0))
    changed = (batch.last != batch.target).any(dim=-1).numpy()
    assert changed.mean() == pytest.approx(settings.training.changes, abs=0.02)
    assert rows.changes.mean() < 0.4
    weighted = np.average(changed, weights=batch.weight.numpy())
    assert weighted == pytest.approx(rows.changes.mean(), abs=0.02)
    assert set(batch.seen.delay.tolist()) == set(range(31))
    assert (batch.seen.known == 0).float().mean() == pytest.approx(settings.training.forget, abs=0.02)


def test_one_fighters_players_can_be_learned_from_alone(dataset: Dataset, settings: PolicyExperiment) -> None:
    book = codebook_of(dataset, [0, 1], settings.model)
    falcos = Rows(dataset, [0, 1], settings.model, book, ("FALCO",))
    assert set(falcos.index % 2) == {1}
    assert (batch_of(falcos).seen.ints[:, :, 0, I_["character"]] == 22).all()
    with pytest.raises(UserError, match="no frames of MARTH to learn from"):
        Rows(dataset, [0, 1], settings.model, book, ("MARTH",))


# --- the network -----------------------------------------------------------------------------------------------------


def mirrored(seen: Seen, network: PolicyNetwork) -> Seen:
    """The same moment with left and right exchanged."""
    floats, ints = seen.floats.clone(), seen.ints.clone()
    for name in ("x", "self_x_air", "knockback_x", "self_x_ground"):
        floats[..., F_[name]] *= -1
    ints[..., I_["facing"]] *= -1
    past = network.mirrored(seen.past, -torch.ones(len(seen.past)))
    return dataclasses.replace(seen, floats=floats, ints=ints, past=past)


def drawn(network: PolicyNetwork, seen: Seen, temperature: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Controllers (N, 13) and logits (N, K) for the same noise."""
    noise = torch.rand((len(seen.floats), len(HEADS)), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        own, logits = network.draw(
            *network.hidden(seen), network.held(seen), noise, torch.full((len(noise),), temperature)
        )
        return network.controllers(network.mirrored(own, seen.side)), torch.cat(logits, dim=-1)


def test_mirrored_states_have_the_same_logits_and_mirrored_sticks(network: PolicyNetwork, held: Rows) -> None:
    seen = batch_of(held).seen
    assert set(seen.side.tolist()) == {-1, 1}
    here, logits = drawn(network, seen)
    there, same_logits = drawn(network, mirrored(seen, network))
    assert torch.equal(logits, same_logits)
    flip = torch.ones(here.shape[1])
    flip[list(MIRRORED)] = -1
    assert here[:, 0].any()
    assert torch.equal(here * flip, there)


def test_own_controllers_that_are_not_known_do_not_matter(network: PolicyNetwork, held: Rows) -> None:
    seen = batch_of(held, known=0).seen
    others = dataclasses.replace(seen, past=seen.past.flip(0))
    assert torch.equal(drawn(network, seen)[1], drawn(network, others)[1])
    knows = [dataclasses.replace(s, known=torch.full_like(s.known, KNOWS_ALL)) for s in (seen, others)]
    assert not torch.equal(drawn(network, knows[0])[1], drawn(network, knows[1])[1])


def test_draws_follow_the_distribution_and_the_temperature(network: PolicyNetwork, held: Rows) -> None:
    seen = batch_of(held, 1).seen
    many = Seen(*(t.expand(20_000, *t.shape[1:]) for t in vars(seen).values()))
    with torch.no_grad():
        hidden = (*network.hidden(many), network.held(many))
        noise = torch.rand((20_000, len(HEADS)), generator=torch.Generator().manual_seed(0))
        classes, logits = network.draw(*hidden, noise, torch.ones(20_000))
        cold, _ = network.draw(*hidden, noise, torch.zeros(20_000))
    expected = torch.softmax(logits[0][0], dim=-1)
    found = torch.bincount(classes[:, 0], minlength=len(expected)) / 20_000
    assert torch.allclose(found, expected, atol=0.015)
    assert (cold == cold[0]).all()
    assert cold[0, 0] == expected.argmax()


def test_a_surer_choice_leaves_the_pace_as_it_was() -> None:
    logits = torch.randn((50, 7), generator=torch.Generator().manual_seed(0))
    held = torch.arange(50) % 8 - 1
    before, after = torch.softmax(logits, dim=-1), torch.softmax(sharpened(logits, held, 0.5), dim=-1)
    for n, stays in enumerate(held.tolist()):
        if stays < 0:
            assert torch.allclose(before[n], after[n])
            continue
        assert after[n, stays] == pytest.approx(before[n, stays].item(), abs=1e-5)
        others = torch.arange(7) != stays
        squared = before[n, others] ** 2
        assert torch.allclose(after[n, others] / after[n, others].sum(), squared / squared.sum(), atol=1e-4)
    certain = torch.tensor([[80.0, 0.0, 0.0]])
    assert sharpened(certain, torch.tensor([0]), 0.5).isfinite().all()


def test_a_state_that_no_game_shows_gives_a_valid_controller(network: PolicyNetwork, held: Rows) -> None:
    seen = batch_of(held).seen
    rng = torch.Generator().manual_seed(0)
    floats = 1e6 * torch.randn(seen.floats.shape, generator=rng)
    ints = torch.randint(-(2**31), 2**31 - 1, seen.ints.shape, generator=rng).int()
    controllers, logits = drawn(network, dataclasses.replace(seen, floats=floats, ints=ints, stage=seen.stage + 10_000))
    assert logits.isfinite().all()
    assert (controllers.abs() <= 1).all()


# --- training --------------------------------------------------------------------------------------------------------


def test_training_beats_knowing_only_how_often_each_class_comes(network: PolicyNetwork, held: Rows) -> None:
    target = batch_of(held, 3000).target
    prior = 0.0
    for i in range(len(HEADS)):
        shares = torch.bincount(target[:, i]).float() / len(target)
        prior -= float((shares * shares.clamp(min=1e-9).log()).sum())
    assert held_out_loss(network, held, "cpu")["loss"] < 0.6 * prior


def test_a_run_says_what_it_was(folder: Path, settings: PolicyExperiment) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    assert PolicyExperiment.model_validate(manifest["experiment"]) == settings
    assert manifest["field_table"] == field_table_hash()
    assert [check["rows"] for check in manifest["epochs"]] == [79 * 256 - 256, 157 * 256]
    assert not set(manifest["data"]["md5"]) & set(manifest["data"]["held_out_md5"])


def test_the_same_seed_gives_the_same_policy(dataset: Dataset, tmp_path: Path) -> None:
    training = {**TRAINING, "rows": 2000, "max_games": 4}
    short = PolicyExperiment.model_validate({"name": "short", "model": TINY, "training": training})
    one, other = (train_policy(short, dataset, tmp_path / name)[0].state_dict() for name in ("a", "b"))
    assert all(torch.equal(one[name], other[name]) for name in one)


# --- export ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(folder: Path) -> Path:
    export_policy(*load_policy(folder / "policy.pt"), folder / "tiny.onnx")
    return folder / "tiny.onnx"


@pytest.mark.parametrize("delay", [0, 18])
def test_pytorch_and_onnx_agree(delay: int, network: PolicyNetwork, held: Rows, exported: Path) -> None:
    seen = batch_of(held, 300, delay).seen
    match = torch.stack([torch.zeros_like(seen.stage), seen.stage], dim=-1).int()
    whole = (seen.past.int(), seen.known.clamp(max=25).int(), seen.delay.int())
    noise = torch.rand((300, len(HEADS)), generator=torch.Generator().manual_seed(0))
    inputs = (seen.floats, seen.ints, match, *whole, torch.full((300,), 0.8), noise)
    with torch.no_grad():
        controllers, classes, logits = PolicyStep(network)(*inputs)
    session = ort.InferenceSession(str(exported), providers=["CPUExecutionProvider"])
    given = {name: t.numpy() for name, t in zip(GRAPH_INPUTS, inputs, strict=True)}
    found = dict(zip(GRAPH_OUTPUTS, session.run(list(GRAPH_OUTPUTS), given), strict=True))
    same = (found["classes"] == classes.numpy()).all(axis=1)
    assert same.mean() > 0.99
    np.testing.assert_allclose(found["logits"][same], logits.numpy()[same], rtol=1e-4, atol=1e-4)
    assert np.array_equal(found["controllers"][same], controllers.numpy()[same])


def test_an_exported_policy_says_what_it_is(exported: Path, network: PolicyNetwork) -> None:
    about = open_policy(exported).metadata
    assert about["name"] == "tiny"
    assert about["parameters"] == sum(p.numel() for p in network.parameters())
    assert about["state_offsets"] == list(network.config.state_offsets)
    assert {head["name"]: head["classes"] for head in about["heads"]} == network.codebook.sizes


def test_the_report_measures_against_the_last_frame(exported: Path, held: Rows) -> None:
    found = accuracy(open_policy(exported), held, 2000, delay=0)
    every, changes = found["all frames"], found["changes"]
    assert changes["last frame"]["controller"] == 0
    assert changes["policy"]["controller"] > 0.02
    assert every["last frame"]["controller"] == pytest.approx(1 - found["share_of_changes"])
    assert every["policy"]["main"] > 0.5
    assert all(0 <= share <= 1 for share in every["policy"].values())
    fighters = found["characters"].values()
    assert sum(row["rows"] for row in fighters) == found["rows"] == 2000
    right = sum(row["rows"] * row["all frames"]["policy"] for row in fighters)
    assert right / 2000 == pytest.approx(every["policy"]["controller"])


@torch.no_grad()
def test_the_report_takes_the_likeliest_controller(exported: Path, network: PolicyNetwork, held: Rows) -> None:
    index = np.sort(np.random.default_rng(0).choice(held.index, 500, replace=False))
    batch = held.read(index, np.full(500, 18), np.full(500, KNOWS_ALL))
    cold, _ = network.draw(
        *network.hidden(batch.seen), network.held(batch.seen), torch.full((500, len(HEADS)), 0.5), torch.zeros(500)
    )
    right = network.mirrored(cold, batch.seen.side) == batch.target
    found = accuracy(open_policy(exported), held, 500, delay=18)["all frames"]["policy"]
    assert found["main"] == pytest.approx(float(right[:, HEADS.index("main")].float().mean()), abs=0.005)


def test_pace_compares_like_with_like(exported: Path, dataset: Dataset) -> None:
    found = pace(open_policy(exported), dataset, 8, 200, [1, 2, 5])
    assert set(found) == {"policy", "true"}
    assert 0.2 < found["true"]["main"] <= 1
    assert found["true"]["d_up"] == 0
    assert 0 < found["policy"]["controller changes"] < 0.7


# --- Mamba-2 ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reader(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[PolicyNetwork, Rows, Path]:
    """A policy that reads its states with Mamba-2, trained for a moment, games it did not see, and its export."""
    sizes = {"d_model": 16, "d_state": 8, "layers": 1, "headdim": 8}  # all states in one chunk, as shipped
    model = {**TINY, "kind": "mamba2", "mamba2": sizes, "state_offsets": (0, 2, 4, 6, 8, 10)}
    experiment = PolicyExperiment.model_validate(
        {"name": "reader", "model": model, "training": {**TRAINING, "rows": 20_000}}
    )
    out = tmp_path_factory.mktemp("reader")
    _, manifest = train_policy(experiment, dataset, out)
    network, _ = load_policy(out / "policy.pt")
    held = [dataset.find(md5) for md5 in manifest["data"]["held_out_md5"]]
    export_policy(network, manifest, out / "reader.onnx")
    return network, Rows(dataset, held, network.config, network.codebook), out / "reader.onnx"


def test_mamba2_learns_from_every_state_it_sees(reader: tuple[PolicyNetwork, Rows, Path]) -> None:
    network, held, _ = reader
    seen = batch_of(held, 50).seen
    for k in range(len(network.config.state_offsets)):
        floats = seen.floats.clone()
        floats[:, k, :, F_["x"]] += 30
        assert not torch.equal(drawn(network, dataclasses.replace(seen, floats=floats))[1], drawn(network, seen)[1])
    loss = held_out_loss(network, held, "cpu")["loss"]
    untrained = held_out_loss(PolicyNetwork(network.config, network.codebook), held, "cpu")["loss"]
    assert loss < 0.5 * untrained


def test_mamba2_is_exported_and_plays(reader: tuple[PolicyNetwork, Rows, Path], dataset: Dataset) -> None:
    network, held, path = reader
    likeliest = accuracy(open_policy(path), held, 500, delay=9)["all frames"]["policy"]
    index = np.sort(np.random.default_rng(0).choice(held.index, 500, replace=False))
    batch = held.read(index, np.full(500, 9), np.full(500, KNOWS_ALL))
    with torch.no_grad():
        cold, _ = network.draw(
        *network.hidden(batch.seen), network.held(batch.seen), torch.full((500, len(HEADS)), 0.5), torch.zeros(500)
    )
    right = (network.mirrored(cold, batch.seen.side) == batch.target).float().mean(dim=0)
    assert likeliest["main"] == pytest.approx(float(right[HEADS.index("main")]), abs=0.01)
    assert pace(open_policy(path), dataset, 4, 100, [0, 1])["policy"]["controller changes"] > 0


# --- the command, and what is refused --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def command() -> object:
    import typer

    from wm_tools.policy import evaluate_policy, train_policy

    app = typer.Typer()
    app.command()(train_policy)
    app.command()(evaluate_policy)
    return app


def test_the_command_trains_exports_and_reports(command, dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("model: {widths: [16], head_width: 8}\ntraining: {holdout: 0.25}\n")
    given = ["--dataset", str(dataset.path), "--out", str(tmp_path / "out"), "--config", str(tmp_path / "own.yaml")]
    given += ["--rows", "2000", "--report-rows", "500", "--characters", "FOX"]
    done = CliRunner().invoke(command, ["train-policy", *given])
    assert done.exit_code == 0, done.output
    assert "same as last frame" in done.output
    figures = open_policy(tmp_path / "out" / "own.onnx").metadata["manifest"]["figures"]
    assert {"delay 0", "delay 18", "no own past"} == set(figures["accuracy"])
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["figures"] == figures
    assert load_policy(tmp_path / "out" / "policy.pt")[1]["experiment"]["characters"] == ["FOX"]
    given = ["--dataset", str(dataset.path), "--rows", "300", "--json", str(tmp_path / "own.json")]
    done = CliRunner().invoke(command, ["evaluate-policy", str(tmp_path / "out" / "own.onnx"), *given])
    assert done.exit_code == 0, done.output
    assert "warning: the policy learned from" in done.output
    assert set(json.loads((tmp_path / "own.json").read_text())["accuracy"]["delay 0"]["characters"]) == {"FOX"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: {kind: transformer}", "model.kind: Input should be"),
        ("model: {mamba2: {d_model: 24, headdim: 32}}", "model.mamba2: .*heads of headdim 32 do not divide"),
        ("model: {state_offsets: []}", "model.state_offsets: "),
        ("training: {speed: 3}", "training.speed: Extra inputs are not permitted"),
        ("training: {changes: 1.5}", "training.changes: Input should be less than 1"),
        ("[1, 2]", "holds no settings"),
        ("a: [", "not YAML"),
    ],
)
def test_wrong_settings_are_refused_with_one_line(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "wrong.yaml").write_text(text)
    with pytest.raises(UserError, match=message) as refused:
        load_policy_experiment(tmp_path / "wrong.yaml")
    assert "\n" not in str(refused.value)


def test_settings_that_ship_are_found_by_name() -> None:
    assert load_policy_experiment("policy-small").name == "policy-small"
    assert load_policy_experiment("policy-mamba2").model.kind == "mamba2"
    with pytest.raises(UserError, match="nobody: no such policy settings; give a YAML file, or one of policy-mamba2"):
        load_policy_experiment("nobody")


def test_a_file_that_is_no_policy_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such policy; train one"):
        load_policy(tmp_path / "none.pt")
    (tmp_path / "cut.pt").write_bytes((folder / "policy.pt").read_bytes()[:5000])
    with pytest.raises(UserError, match="not a policy of this project, or damaged"):
        load_policy(tmp_path / "cut.pt")
