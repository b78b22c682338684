"""Trains a policy against the learned player that ships, with stable-baselines3's PPO, and says what it is worth.

    pip install "melee-world-model[sb3,plot,compiled]"
    python examples/train_ppo.py --minutes 10 --out runs/ppo

Writes `policy.zip`, `curve.png` and `play.gif`. Prints mean returns of whole episodes beside those of the baselines,
in the model that it was trained in and in a second one that was trained independently: what transfers is what was
learned.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import imageio.v3 as imageio
import matplotlib
import numpy as np
import typer
from baselines import BASELINES, baseline, interval, returns
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecMonitor

from wm_envs.env import MeleeEnv
from wm_envs.sb3 import MeleeVecEnv
from wm_envs.vector import MeleeVectorEnv

matplotlib.use("Agg")

SECONDS = 15
FRAME_SKIP = 4


class Clock(BaseCallback):
    """Stops training after some minutes; keeps (minutes, steps, mean return of the last episodes)."""

    def __init__(self, minutes: float):
        super().__init__()
        self._until = time.monotonic() + 60 * minutes
        self._began = time.monotonic()
        self.curve: list[tuple[float, int, float]] = []

    def _on_step(self) -> bool:
        return time.monotonic() < self._until

    def _on_rollout_end(self) -> None:
        if self.model.ep_info_buffer:
            mean = float(np.mean([episode["r"] for episode in self.model.ep_info_buffer]))
            self.curve.append(((time.monotonic() - self._began) / 60, self.num_timesteps, mean))
            print("{:5.1f} min  {:9,} steps  mean return {:+.3f}".format(*self.curve[-1]), flush=True)


def main(
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("runs/ppo"),
    minutes: Annotated[float, typer.Option(help="Time to train.")] = 10,
    model: Annotated[str, typer.Option(help="World model to train in.")] = "faithful",
    second: Annotated[str, typer.Option(help="World model to measure in as well.")] = "baseline-v22",
    opponent: Annotated[str, typer.Option(help="Who to play against.")] = "policy",
    num_envs: Annotated[int, typer.Option(help="Matches at once.")] = 64,
    episodes: Annotated[int, typer.Option(help="Episodes of each figure.")] = 64,
    threads: Annotated[int, typer.Option(help="That step the matches.")] = 1,
    engine: Annotated[str, typer.Option(help="compiled needs a C++ compiler; onnx does not.")] = "compiled",
    seed: int = 0,
) -> None:
    out.mkdir(parents=True, exist_ok=True)
    common: dict[str, Any] = {
        "opponent": opponent, "time_limit": 60 * SECONDS, "threads": threads, "engine": engine,
        "precision": "auto" if engine == "compiled" else "float32",
    }  # fmt: skip
    agents: dict[str, Any] = {"action_space": "discrete", "frame_skip": FRAME_SKIP}
    env = VecMonitor(MeleeVecEnv(num_envs, model=model, **common, **agents))
    learner = PPO(
        "MlpPolicy", env, n_steps=64, batch_size=1024, n_epochs=4, learning_rate=5e-4, gamma=0.99, gae_lambda=0.95,
        ent_coef=0.005, policy_kwargs={"net_arch": [256, 256]}, seed=seed, device="cpu",
    )  # fmt: skip
    clock = Clock(minutes)
    learner.learn(10**9, callback=clock)
    learner.save(out / "policy.zip")
    draw_curve(clock.curve, out / "curve.png")

    def trained(seen: Any, env: MeleeVectorEnv) -> np.ndarray:
        return learner.predict(seen)[0]

    for name in (model, second):
        where = {"num_envs": episodes, "model": name, **common}
        mine = returns(
            MeleeVectorEnv(**where, **agents), lambda seen, env: learner.predict(seen, deterministic=False)[0]
        )
        print(f"{name}: mean return of {episodes} episodes of {SECONDS} s against {opponent}")
        print(f"  {'trained':10} {interval(mine)}", flush=True)
        for kind in BASELINES:
            print(f"  {kind:10} {interval(returns(*baseline(kind, **where)))}", flush=True)

    record(MeleeEnv(model=model, render_mode="rgb_array", **common, **agents), learner, out / "play.gif")
    print(f"wrote {out}/policy.zip, curve.png, play.gif")


def draw_curve(curve: list[tuple[float, int, float]], path: Path) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4))
    axes.plot([row[1] for row in curve], [row[2] for row in curve])
    axes.set(xlabel="steps", ylabel="mean return of the last 100 episodes")
    figure.savefig(path, dpi=120, bbox_inches="tight")


def record(env: MeleeEnv, learner: PPO, path: Path) -> None:
    """An episode as a moving picture, a picture a step."""
    seen, _ = env.reset(seed=0)
    pictures, over = [env.render()], False
    while not over:
        seen, _, terminated, truncated, _ = env.step(int(learner.predict(seen)[0]))
        pictures.append(env.render())
        over = terminated or truncated
    imageio.imwrite(path, np.stack(pictures), duration=1000 * FRAME_SKIP / 60, loop=0)


if __name__ == "__main__":
    typer.run(main)
