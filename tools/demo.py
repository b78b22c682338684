"""`mwm demo`: ten seconds of Melee in the learned game, as a table, an animation and a recording."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from wm_runtime.errors import UserError

FRAMES = 600
HOLD = 10
"""Frames for which the agent holds a random action."""
EVERY = 2
"""Frames between pictures of the animation, which runs at 30 a second."""


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the animation and the recording.")] = Path("demo"),
    seed: Annotated[int, typer.Option(help="Of both random players.")] = 1,
) -> None:
    """Step the shipped model for ten seconds of game time: Fox against Falco on Final Destination."""
    import gymnasium
    import imageio.v3 as imageio
    import numpy as np

    from wm_runtime.facts import character, stage
    from wm_runtime.recording import RecordingWriter
    from wm_runtime.stream.protocol import match_message

    env = gymnasium.make("MeleeWorldModel-v0", opponent="random", render_mode="rgb_array")
    simulator = env.unwrapped.simulator  # type: ignore[attr-defined]
    env.reset(seed=seed)
    env.action_space.seed(seed)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out}: cannot be made ({error.strerror}); name another folder with --out") from None
    pictures, seconds, damage = [env.render()], 0.0, [0.0, 0.0]
    header = match_message(simulator.state, 0, {"model": simulator.artifact.name, "players": "random", "seed": seed})
    with RecordingWriter(out / "match.mwr", header) as recording:
        recording.write(simulator.state, 0, env.unwrapped.controllers)  # type: ignore[attr-defined]
        for frame in range(FRAMES):
            if frame % HOLD == 0:
                action = env.action_space.sample()
            started = time.perf_counter()
            _, _, terminated, truncated, info = env.step(action)
            seconds += time.perf_counter() - started
            recording.write(simulator.state, 0, env.unwrapped.controllers)  # type: ignore[attr-defined]
            damage[1] += info["reward_terms"]["damage_dealt"]
            damage[0] += info["reward_terms"]["damage_taken"]
            if frame % EVERY == EVERY - 1:
                pictures.append(env.render())
            if terminated or truncated:
                break
    animation = out / "match.gif"
    imageio.imwrite(animation, np.asarray(pictures), duration=1000 * EVERY / 60, loop=0)
    env.close()

    steps, state, artifact = frame + 1, simulator.state, simulator.artifact
    names = [character(int(c)).display for c in state["character"][0]]
    print(f"{names[0]} against {names[1]} on {stage(int(state['stage'][0])).display}, both playing at random\n")
    print(f"frames simulated   {steps} ({steps / 60:.1f} s of game time)")
    speed = steps / seconds
    print(f"steps per second   {speed:,.0f} (one match, environment included; {speed / 60:.0f} × real time)")
    for p, name in enumerate(names):
        print(f"{name:18s} {damage[p]:.1f} % damage taken, at {info['percent'][p]:.1f} %, {info['stocks'][p]} stocks")
    print(f"model              {artifact.name}, {artifact.metadata['parameters']:,} parameters")
    print(f"fidelity           {_fidelity(artifact.fidelity)}")
    print(f"animation          {animation}")
    print(f"recording          {out / 'match.mwr'}  (play it back: mwm serve {out / 'match.mwr'}, mwm watch)")


def _fidelity(measured: dict) -> str:
    if not measured:
        return "not measured"
    figures, games = measured["no_death"], measured["measured"]["games"]
    chosen = {"RC@20": "{:.2f} units", "RC@5": "{:.2f} units", "change_acc": "{:.1%}"}
    text = ", ".join(f"{name} {form.format(figures[name]['value'])}" for name, form in chosen.items())
    return f"{text} (on {games} games that it was not trained on)"
