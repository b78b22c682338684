"""A policy's settings: one YAML file, refused with one line where it is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from wm_runtime.errors import UserError
from wm_train.models.mamba2 import Mamba2Sizes

POLICIES = Path(__file__).parent
LONGEST_DELAY = 30
"""Frames of reaction delay that a policy can be trained and run with."""

Offset = Annotated[int, Field(ge=0, le=60)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PolicyModel(_Strict):
    kind: Literal["mlp", "mamba2"] = "mlp"
    """How the states it sees become one vector: side by side, or by Mamba-2, one after another."""
    widths: tuple[int, ...] = Field(default=(256, 256), min_length=1)
    mamba2: Mamba2Sizes = Mamba2Sizes(d_model=128, d_state=32, headdim=32)
    """Of kind mamba2; its last output goes where the states would."""
    head_width: int = Field(default=96, ge=1)
    state_offsets: tuple[Offset, ...] = Field(default=(0, 3, 8), min_length=1)
    """States it sees, in frames before the newest one that the reaction delay lets through."""
    control_offsets: tuple[Offset, ...] = Field(default=(0, 1, 2, 3, 4, 6, 8, 12, 16, 24), min_length=1)
    """Own controllers it sees, in frames before the present one: a player knows at once what the own hands do."""
    choice: float = Field(default=1.0, gt=0)
    """Temperature of what is changed to, in play alone: how likely a class is to stay as it was remains as learned."""
    recall: int = Field(default=60, ge=0)
    """The latest own controllers that are known, in play alone: who has done nothing for long does not go on so."""
    main_sticks: int = Field(default=60, ge=2, le=255)
    c_sticks: int = Field(default=11, ge=2, le=255)
    button_sets: int = Field(default=32, ge=1, le=255)


class PolicyTraining(_Strict):
    rows: int = Field(default=8_000_000, ge=1)
    """Controllers to learn from, over the whole run; a row may be drawn more than once."""
    batch_size: int = Field(default=1024, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    warmup_steps: int = Field(default=200, ge=0)
    gradient_clip: float = Field(default=1.0, gt=0)
    changes: float = Field(default=0.5, gt=0, lt=1)
    """Share of the drawn rows on which the controller changes."""
    tempo: float = Field(default=1.0, gt=0)
    """How much more than its true share a change counts in the loss; 1 keeps the policy's pace that of its players."""
    forget: float = Field(default=0.25, ge=0, le=1)
    """Share of rows that do not see the own past controllers: what is done must follow from the match."""
    shorten: float = Field(default=0.3, ge=0, le=1)
    """Share of rows that see only the latest of the own past controllers, as many as chance has it."""
    begun: float = Field(default=0.1, ge=0, le=1)
    """Share of rows of a match that has just begun, as far as the player knows: nothing is known of before."""
    prompt: float = Field(default=0.5, ge=0, le=1)
    """Share of rows without reaction delay; the others have 0 to 30 frames."""
    checks: int = Field(default=8, ge=1)
    """How often in a run the held-out games are looked at."""
    holdout: float = Field(default=0.02, gt=0, lt=0.5)
    max_games: int | None = Field(default=None, ge=2)
    seed: int = 0


class PolicyExperiment(_Strict):
    name: str
    description: str = ""
    characters: tuple[str, ...] = ()
    """Whose play is learned; all fighters' when empty."""
    model: PolicyModel = PolicyModel()
    training: PolicyTraining = PolicyTraining()

    def changed(self, training: dict[str, float], characters: list[str] | None) -> PolicyExperiment:
        """The same experiment with some settings of its training, and whose play is learned, replaced."""
        who = {} if characters is None else {"characters": tuple(characters)}
        return self.model_copy(update={"training": self.training.model_copy(update=training), **who})


def load_policy_experiment(name_or_path: str | Path) -> PolicyExperiment:
    """An experiment by path, or by name among those beside this file. The file's name is the experiment's.

    Raises UserError for a file that is missing, no YAML, or has a key or value that is not allowed.
    """
    path = Path(name_or_path)
    if not path.exists() and path.suffix != ".yaml":
        path = POLICIES / f"{path.name}.yaml"
    try:
        values = yaml.safe_load(path.read_text())
    except OSError:
        names = ", ".join(sorted(p.stem for p in POLICIES.glob("*.yaml")))
        raise UserError(f"{name_or_path}: no such policy settings; give a YAML file, or one of {names}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not YAML ({' '.join(str(error).split())})") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: holds no settings; see wm_train/policy for examples")
    try:
        return PolicyExperiment.model_validate({"name": path.stem, **values})
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
