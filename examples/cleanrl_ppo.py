"""PPO in one file, in the manner of CleanRL, on the native batch that gymnasium.make_vec makes.

    pip install melee-world-model torch
    python examples/cleanrl_ppo.py --total-steps 200000

Same-step resets: a match that ends begins anew at once. Where it was truncated, not terminated, the value of the last
observation in `info["final_obs"]` is added to the reward, so that the return does not end with the clock.
"""

from __future__ import annotations

import time
from typing import Annotated

import gymnasium as gym
import numpy as np
import torch
import typer
from gymnasium.vector import AutoresetMode
from torch import Tensor, nn
from torch.distributions import Categorical


class Agent(nn.Module):
    """An actor with one head for each component of the action, and a critic."""

    def __init__(self, observation_size: int, choices: list[int], width: int = 256):
        super().__init__()
        self.choices = choices
        self.actor = mlp(observation_size, width, sum(choices), 0.01)
        self.critic = mlp(observation_size, width, 1, 1.0)

    def value(self, seen: Tensor) -> Tensor:
        return self.critic(seen).squeeze(-1)

    def act(self, seen: Tensor, actions: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """(B, D) → actions (B, heads), their log-probability (B,) and the entropy (B,)."""
        heads = [Categorical(logits=part) for part in self.actor(seen).split(self.choices, dim=-1)]
        if actions is None:
            actions = torch.stack([head.sample() for head in heads], dim=-1)
        logprob = torch.stack([h.log_prob(a) for h, a in zip(heads, actions.unbind(-1), strict=True)])
        return actions, logprob.sum(0), torch.stack([head.entropy() for head in heads]).sum(0)


def mlp(size: int, width: int, out: int, gain: float) -> nn.Sequential:
    layers = [nn.Linear(size, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, out)]
    for layer, std in zip(layers[::2], (2**0.5, 2**0.5, gain), strict=True):
        nn.init.orthogonal_(layer.weight, std)  # type: ignore[arg-type]
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return nn.Sequential(*layers)


def main(
    total_steps: Annotated[int, typer.Option(help="Steps of all matches together.")] = 1_000_000,
    model: Annotated[str, typer.Option(help="World model.")] = "faithful",
    opponent: Annotated[str, typer.Option(help="Who to play against.")] = "random",
    num_envs: Annotated[int, typer.Option(help="Matches at once.")] = 64,
    num_steps: Annotated[int, typer.Option(help="Steps between updates.")] = 64,
    seconds: Annotated[int, typer.Option(help="Length of an episode.")] = 15,
    frame_skip: int = 4,
    minibatches: int = 4,
    epochs: int = 4,
    learning_rate: float = 5e-4,
    gamma: float = 0.99,
    gae_lambda: float = 0.95,
    clip: float = 0.2,
    entropy_weight: float = 0.005,
    value_weight: float = 0.5,
    max_norm: float = 0.5,
    seed: int = 0,
) -> None:
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    envs = gym.make_vec(
        "MeleeWorldModel-v0", num_envs=num_envs, model=model, opponent=opponent, frame_skip=frame_skip,
        time_limit=60 * seconds, autoreset_mode=AutoresetMode.SAME_STEP,
    )  # fmt: skip
    space = envs.single_observation_space
    choices = envs.single_action_space.nvec.tolist()  # type: ignore[attr-defined]
    agent = Agent(space.shape[0], choices)  # type: ignore[index]
    optimizer = torch.optim.Adam(agent.parameters(), lr=learning_rate, eps=1e-5)

    shape = (num_steps, num_envs)
    seen, actions = torch.zeros(*shape, *space.shape), torch.zeros(*shape, len(choices), dtype=torch.long)  # type: ignore[misc]
    logprobs, rewards, values, dones = (torch.zeros(shape) for _ in range(4))
    now = torch.as_tensor(envs.reset(seed=seed)[0])
    running, finished = np.zeros(num_envs), []
    began = time.monotonic()

    for update in range(1, max(1, total_steps // (num_steps * num_envs)) + 1):
        for t in range(num_steps):
            with torch.no_grad():
                seen[t] = now
                actions[t], logprobs[t], _ = agent.act(now)
                values[t] = agent.value(now)
            following, reward, terminated, truncated, infos = envs.step(actions[t].numpy())
            running += reward
            ended = terminated | truncated
            finished += running[ended].tolist()
            running[ended] = 0
            if truncated.any():
                last = torch.as_tensor(np.stack(infos["final_obs"][truncated]))
                with torch.no_grad():
                    reward[truncated] += gamma * agent.value(last).numpy()
            rewards[t], dones[t], now = torch.as_tensor(reward), torch.as_tensor(ended), torch.as_tensor(following)

        with torch.no_grad():
            advantages, carried, next_value = torch.zeros(shape), torch.zeros(num_envs), agent.value(now)
            for t in reversed(range(num_steps)):
                error = rewards[t] + gamma * next_value * (1 - dones[t]) - values[t]
                carried = error + gamma * gae_lambda * (1 - dones[t]) * carried
                advantages[t], next_value = carried, values[t]

        batch = [x.flatten(0, 1) for x in (seen, actions, logprobs, advantages, advantages + values)]
        for _ in range(epochs):
            for rows in np.array_split(rng.permutation(num_steps * num_envs), minibatches):
                b_seen, b_actions, b_logprobs, b_advantages, b_returns = (x[rows] for x in batch)
                _, logprob, entropy = agent.act(b_seen, b_actions)
                ratio = (logprob - b_logprobs).exp()
                b_advantages = (b_advantages - b_advantages.mean()) / (b_advantages.std() + 1e-8)
                surrogate = torch.min(ratio * b_advantages, ratio.clamp(1 - clip, 1 + clip) * b_advantages)
                value_loss = 0.5 * (agent.value(b_seen) - b_returns).square().mean()
                loss = -surrogate.mean() - entropy_weight * entropy.mean() + value_weight * value_loss
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(agent.parameters(), max_norm)
                optimizer.step()

        steps = update * num_steps * num_envs
        mean = np.mean(finished[-100:]) if finished else float("nan")
        rate = steps / (time.monotonic() - began)
        print(f"{steps:10,} steps  {rate:7,.0f}/s  mean return {mean:+.3f}  loss {loss.item():+.3f}", flush=True)
    envs.close()


if __name__ == "__main__":
    typer.run(main)
