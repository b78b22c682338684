"""The environment under its name in Gymnasium's registry (autoload.py calls this when gymnasium is imported)."""

from __future__ import annotations

import gymnasium

ENV_ID = "MeleeWorldModel-v0"


def register() -> None:
    """Registers the environment, once."""
    if ENV_ID in gymnasium.registry:
        return
    gymnasium.register(
        ENV_ID, entry_point="wm_envs.env:MeleeEnv", vector_entry_point="wm_envs.vector:MeleeVectorEnv"
    )
