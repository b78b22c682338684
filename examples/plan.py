"""Plays by search: random-shooting model-predictive control with `save` and `restore`, against the scripted attacker.

    python examples/plan.py --matches 4 --seconds 15

Before each decision the match is copied into a planner's many rows, each of which tries another sequence of inputs for
two thirds of a second, the attacker's script playing the other side. The first input of the sequence that pays best is
held for some frames; the rest of it is tried again next time.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
import typer

from wm_envs.opponents import Attacker
from wm_envs.rewards import WEIGHTS, losses, reward_terms, total
from wm_envs.spaces import DISCRETE
from wm_envs.vector import MeleeVectorEnv
from wm_runtime.simulator import Simulator, Snapshot

INPUTS = np.stack(list(DISCRETE.values()))
DISCOUNT = 0.99
"""A frame."""


def worth(planner: Simulator, present: Snapshot, plans: np.ndarray, hold: int) -> np.ndarray:
    """(M, K) discounted reward of `plans` (M, K, D), indices of inputs each held for `hold` frames, from M matches."""
    matches, count, decisions = plans.shape
    planner.restore(present.rows(np.repeat(np.arange(matches), count)))
    attacker, controllers = Attacker(), np.zeros((matches * count, 2, INPUTS.shape[1]), np.float32)
    earned, weight = np.zeros(matches * count, np.float32), 1.0
    for decision in range(decisions):
        controllers[:, 0] = INPUTS[plans[:, :, decision].reshape(-1)]
        for _ in range(hold):
            attacker.act(planner.state, controllers[:, 1])
            percent, stocks = planner.state["percent"].copy(), planner.state["stocks"].copy()
            after = planner.step(controllers)
            earned += weight * total(reward_terms(*losses(percent, stocks, after), 0), WEIGHTS)
            weight *= DISCOUNT
    return earned.reshape(matches, count)


def main(
    model: Annotated[str, typer.Option(help="World model to play in and to search with.")] = "faithful",
    matches: Annotated[int, typer.Option(help="Matches at once.")] = 4,
    seconds: Annotated[float, typer.Option(help="Length of a match.")] = 15,
    candidates: Annotated[int, typer.Option(help="Sequences tried at each decision.")] = 48,
    decisions: Annotated[int, typer.Option(help="Inputs in a sequence.")] = 8,
    hold: Annotated[int, typer.Option(help="Frames that an input is held.")] = 5,
    seed: int = 0,
) -> None:
    rng = np.random.default_rng(seed)
    env = MeleeVectorEnv(
        matches, "Disabled", model=model, opponent="attacker", action_space="discrete", frame_skip=hold,
        time_limit=round(60 * seconds),
    )  # fmt: skip
    planner = Simulator(env.simulator.artifact, matches * candidates, threads=1)
    env.reset(seed=seed)
    plans = rng.integers(len(INPUTS), size=(matches, candidates, decisions))
    earned, over = np.zeros(matches), np.zeros(matches, bool)
    every = np.arange(matches)
    for step in range(1, round(60 * seconds / hold) + 1):
        best = worth(planner, env.simulator.save(), plans, hold).argmax(axis=1)
        chosen = plans[every, best]
        _, rewards, terminated, truncated, _ = env.step(chosen[:, 0])
        earned += np.where(over, 0, rewards)
        over |= terminated | truncated
        if over.all():
            break
        if (terminated | truncated).any():
            env.reset(options={"reset_mask": terminated | truncated})
        if step % 10 == 0:
            print(f"{step * hold / 60:5.1f} s  return {earned.round(2).tolist()}", flush=True)
        plans = rng.integers(len(INPUTS), size=plans.shape)
        plans[:, 0, :-1] = chosen[:, 1:]
    print(f"mean return against the attacker {earned.mean():+.3f} (each {earned.round(2).tolist()})")


if __name__ == "__main__":
    typer.run(main)
