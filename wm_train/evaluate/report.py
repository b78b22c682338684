"""Measures an artifact on a dataset: every figure with its 95 % interval, baselines beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from wm_runtime.artifact import Artifact
from wm_runtime.facts import character, stage
from wm_runtime.replays.dataset import Dataset, data_fingerprint
from wm_train.evaluate import horizon
from wm_train.evaluate.bootstrap import Scores
from wm_train.evaluate.compare import paired
from wm_train.evaluate.figures import HEADLINE, HORIZON, Case, Figure
from wm_train.evaluate.free import MINUTE, true_controllers
from wm_train.evaluate.parts import PER_FIELD, SUBSYSTEMS, commonest, confusions
from wm_train.evaluate.play import Players, minute_of_play, whole_matches
from wm_train.evaluate.rollout import BASELINES, Model, Predictor
from wm_train.evaluate.scoring import OnBatch, Scored, score
from wm_train.evaluate.windows import sample_starts

BATCH, LONG_BATCH = 512, 256
SCORED = 32
"""One-step predictions scored a window."""
FIGURES: dict[str, Figure] = {**HEADLINE, **SUBSYSTEMS, **PER_FIELD}
"""Every figure of windows of 20 frames."""
Tables = dict[str, dict[str, Any]]
"""Predictor → window kind → figure → interval."""
BREAKDOWN = ("RC@20", "change_acc", "exact@20")


@dataclass(frozen=True)
class Extent:
    """How much is measured; 0 leaves a part out. windows: of 20 frames · long_windows: of 300 · rollouts: of a minute,
    as many with true controllers as with the policy · matches: played to their end."""

    windows: int = 6144
    long_windows: int = 0
    rollouts: int = 0
    matches: int = 0
    seed: int = 0
    rollout_frames: int = MINUTE


def evaluate(
    artifact: Artifact, dataset: Dataset, extent: Extent = Extent(), other: Artifact | None = None,
    substitute: tuple[str, ...] = (), players: Players | None = None, on_batch: OnBatch | None = None,
    engine: str = "onnx", precision: str = "float32",
) -> dict[str, Any]:  # fmt: skip
    """Window kind → figure → {value, low, high}; the same of each baseline under `baselines`; what was measured under
    `measured`. Intervals are 95 % bootstrap intervals over games. Raises UserError for data that is too short.

    Windows are drawn evenly from the dataset; those without a death are the `no_death` ones. Further keys:

    | key | what it is |
    |---|---|
    | `breakdown` | character or stage → name → {"windows", figure → interval}, of no-death player-windows |
    | `confusions` | kind → the commonest wrong transitions (parts.commonest) |
    | `curves` | with `long_windows` (horizon.Curves; the figures of its windows are in `all`) |
    | `free_true` | kind: violations, with `rollouts` (free.py) |
    | `free_policy`, `play`, `matches` | kinds: with `rollouts`, `matches` and `players` (play.py) |
    | `real` | the same kinds of the dataset's games themselves |
    | `other`, `compare` | with `other`: its figures, and the paired differences |

    `substitute`: fields into which the truth is put in the free part of every window. `engine`, `precision`: of the
    artifact; the other one is always onnxruntime's.
    """
    models = {"model": Model(artifact, substitute, engine, precision)}
    models |= {"other": Model(other, substitute)} if other else {}
    predictors: dict[str, Predictor] = {**models, **BASELINES}
    history = max(SCORED, *(model.history for model in models.values()))
    found, tables = _windows(predictors, dataset, extent, history, on_batch)
    if extent.long_windows:
        _add_long(found, tables, predictors, dataset, extent, history, on_batch)
    found["real"] = {}
    if extent.rollouts:
        _add_rollouts(found["real"], tables["model"], models["model"], dataset, extent, players, on_batch)
    if extent.matches and players:
        ended = whole_matches(models["model"], dataset, players, extent.matches, extent.seed, on_batch)
        tables["model"]["matches"] = ended
    measured = {
        "model": artifact.name,
        **({"other": other.name} if other else {}),
        **({"substituted": list(substitute)} if substitute else {}),
        **({"engine": engine, "precision": precision} if engine != "onnx" else {}),
        "dataset": data_fingerprint(dataset.md5),
        "games": len(dataset),
        "windows": found.pop("windows"),
        "rollouts": extent.rollouts,
        "matches": extent.matches if players else 0,
        "one_step_frames": extent.windows * SCORED * 2,
        "seed": extent.seed,
    }
    own = {**tables.pop("model"), **({"other": tables.pop("other")} if other else {})}
    return {**own, "baselines": tables, **found, "measured": measured}


def _windows(
    predictors: dict[str, Predictor], dataset: Dataset, extent: Extent, history: int, on_batch: OnBatch | None
) -> tuple[dict[str, Any], Tables]:
    """What windows of 20 frames say: (breakdown, confusions and so on, predictor → kind → figure → interval)."""
    wrong, alive = [], []

    def note(name: str, case: Case) -> None:
        if name == "model":
            rows, window = confusions(case)
            wrong.append(rows)
            alive.append(case.window.no_death()[window])

    starts = sample_starts(dataset, extent.windows, HORIZON, extent.seed)
    scored = score(
        predictors, dataset, starts, history, HORIZON, FIGURES, SCORED, BATCH, on_case=note, on_batch=on_batch
    )
    masks = {"no_death": scored.no_death, "all": np.ones(len(starts[0]), bool)}
    rows, in_alive = np.concatenate(wrong), np.concatenate(alive)
    found = {
        "windows": {kind: int(mask.sum()) for kind, mask in masks.items()},
        "breakdown": _breakdown(scored),
        "confusions": {"no_death": commonest(rows[in_alive]), "all": commonest(rows)},
    }
    if "other" in predictors:
        found["compare"] = {kind: _compared(scored, FIGURES, mask) for kind, mask in masks.items()}
    tables = {
        name: {kind: scores.table(mask) for kind, mask in masks.items()} for name, scores in scored.scores.items()
    }
    return found, tables


def _add_long(
    found: dict[str, Any], tables: Tables, predictors: dict[str, Predictor], dataset: Dataset, extent: Extent,
    history: int, on_batch: OnBatch | None,
) -> None:  # fmt: skip
    """Adds what windows of 300 frames say."""
    curves = horizon.Curves()
    starts = sample_starts(dataset, extent.long_windows, horizon.HORIZON, extent.seed)
    scored = score(
        predictors, dataset, starts, history, horizon.HORIZON, horizon.FIGURES, 1, LONG_BATCH, horizon.FIELDS,
        curves.add, on_batch,
    )  # fmt: skip
    found["curves"] = curves.report()
    found["windows"]["long"] = len(starts[0])
    for name, scores in scored.scores.items():
        tables[name]["all"].update(scores.table())
    if "other" in predictors:
        found["compare"]["all"].update(_compared(scored, horizon.FIGURES, np.ones(len(starts[0]), bool)))


def _add_rollouts(
    real: dict[str, Any], own: dict[str, Any], model: Model, dataset: Dataset, extent: Extent,
    players: Players | None, on_batch: OnBatch | None,
) -> None:  # fmt: skip
    """Adds what free rollouts of a minute say, of the model and of the dataset's games."""
    own["free_true"], real["free_true"] = true_controllers(
        model, dataset, extent.rollouts, extent.seed, extent.rollout_frames, on_batch
    )
    if players:
        play = minute_of_play(
            model, dataset, players, extent.rollouts, extent.seed, extent.rollout_frames, on_batch
        )
        own["free_policy"], own["play"], real["play"] = play["free_policy"], play["play"], play["real"]


def _compared(scored: Scored, figures: dict[str, Figure], counted: np.ndarray) -> dict[str, Any]:
    return paired(scored.scores["model"], scored.scores["other"], figures, counted)


def _breakdown(scored: Scored) -> dict[str, Any]:
    """Of the model, on no-death windows, by each player's character and by stage; `windows` counts player-windows."""
    scores, alive = scored.scores["model"], scored.no_death[:, None]
    by_stage = np.repeat(scored.stage[:, None], 2, axis=1)
    return {
        "character": _parts(scores, scored.character, alive, lambda c: character(c).name),
        "stage": _parts(scores, by_stage, alive, lambda s: stage(s).name),
    }


def _parts(scores: Scores, part: np.ndarray, alive: np.ndarray, name: Any) -> dict[str, Any]:
    ids, counts = np.unique(part[np.broadcast_to(alive, part.shape)], return_counts=True)
    return {
        name(int(ids[i])): {"windows": int(counts[i]), **scores.table((part == ids[i]) & alive, BREAKDOWN)}
        for i in np.argsort(-counts, kind="stable")
    }
