"""RLlib's PPO on gymnasium.make: how rollouts outgrow one machine. `make rllib` runs it in an environment of its own,
since RLlib pins its Gymnasium.

    python examples/rllib_ppo.py --runners 2 --iterations 3

On a cluster: `ray start --head` on one machine, `ray start --address=HEAD:6379` on the others (each with this package
installed), then here `--address auto --runners 200`. Every runner steps `--matches` matches on a core of its own.
"""

from __future__ import annotations

from typing import Annotated

import gymnasium as gym
import ray
import typer
from ray.rllib.algorithms.ppo import PPOConfig
from ray.tune import register_env


def main(
    runners: Annotated[int, typer.Option(help="Processes that play.")] = 2,
    matches: Annotated[int, typer.Option(help="Matches of each.")] = 4,
    iterations: Annotated[int, typer.Option(help="Rounds of playing and learning.")] = 3,
    batch: Annotated[int, typer.Option(help="Steps of a round.")] = 1024,
    model: Annotated[str, typer.Option(help="World model.")] = "baseline-v22",
    opponent: Annotated[str, typer.Option(help="Who to play against.")] = "random",
    seconds: Annotated[int, typer.Option(help="Length of an episode.")] = 5,
    address: Annotated[str | None, typer.Option(help="Of a Ray cluster; default: this machine alone.")] = None,
) -> None:
    # Cores are for the runners alone: where there are but two, the learner shares them.
    ray.init(address=address, num_cpus=None if address else runners + 1, include_dashboard=False)
    register_env("melee", lambda config: gym.make("MeleeWorldModel-v0", disable_env_checker=True, **config))
    config = (
        PPOConfig()
        .environment(
            "melee",
            env_config={"model": model, "opponent": opponent, "frame_skip": 4, "time_limit": 60 * seconds},
        )
        .env_runners(num_env_runners=runners, num_envs_per_env_runner=matches)
        .training(train_batch_size=batch, minibatch_size=256, num_epochs=4, lr=3e-4, gamma=0.99)
    )
    algorithm = config.build_algo()
    for i in range(1, iterations + 1):
        played = algorithm.train()["env_runners"]
        steps, mean = played["num_env_steps_sampled_lifetime"], played.get("episode_return_mean", float("nan"))
        print(f"round {i}: {steps:,.0f} steps by {runners} runners, mean return {mean:+.3f}", flush=True)
    algorithm.stop()
    ray.shutdown()


if __name__ == "__main__":
    typer.run(main)
