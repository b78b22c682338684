"""`mwm bench runtime`: what a step costs, as a share of what this machine can multiply, measured in one run.

A machine may be shared. Speeds are given by the clock, the best of some rounds; shares and ratios are of processor
time, which others cannot take, of product and of step alike.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wm_runtime.artifact import Artifact, open_artifact
from wm_runtime.schema import CONTROL_NAMES, PLAYERS, State
from wm_runtime.simulator import Simulator
from wm_runtime.starts import spawn

SIZE = 2048
"""Rows of the products that a machine's peak is taken from, of two by SIZE / 2."""
BATCHES = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536)
TINY = 1e-9


@dataclass(frozen=True)
class Engine:
    """What steps a model: arguments of Simulator and of the environment."""

    engine: str = "onnx"
    precision: str = "float32"


class Clock:
    """Seconds by the clock and of the processor that a call takes: the least of its rounds."""

    def __init__(self, call: Callable[[], Any], seconds: float, rounds: int = 3) -> None:
        call()
        begun = time.perf_counter()
        call()
        times = max(1, int(seconds / rounds / max(time.perf_counter() - begun, TINY)))
        found = []
        for _ in range(rounds):
            wall, cpu = time.perf_counter(), time.process_time()
            for _ in range(times):
                call()
            found.append(((time.perf_counter() - wall) / times, (time.process_time() - cpu) / times))
        self.wall, self.cpu = min(w for w, _ in found), max(min(c for _, c in found), TINY)


def bench_runtime(
    models: list[str], matches: int, threads: int, seconds: float, most: int, limit: float, whole: str | None,
    by: Engine = Engine(),
) -> dict[str, Any]:  # fmt: skip
    """Every figure of the table, by name. `most`: matches up to which the cost by batch is measured, as long as that
    has not taken `limit` seconds; `seconds`: about what each measurement takes; `whole`: the first model with its trunk
    in whole numbers; `by`: what steps them."""
    peak = dict(peaks(seconds))
    out: dict[str, Any] = {
        "machine": f"{_processor()}, {os.cpu_count()} cores",
        "threads": threads,
        "matches": matches,
        **asdict(by),
        "peak_gflops": peak,
        "models": {},
    }
    for name in models:
        out["models"][name] = _model(open_artifact(name), matches, threads, seconds, peak["float32"], by)
    if whole is not None:
        found = _model(open_artifact(whole), matches, threads, seconds, peak["float32"], by)
        base = out["models"][models[0]]
        out["int8"] = {**found, "times": base["simulator_cpu_us"] / found["simulator_cpu_us"], "model": whole}
    out["batches"] = list(by_batch(open_artifact(models[0]), threads, seconds, most, limit, by))
    return out


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


# --- the machine -----------------------------------------------------------------------------------------------------


def peaks(seconds: float) -> Iterator[tuple[str, float]]:
    """Type → 10⁹ operations a second of one core in a product of that type, the best library that is here."""
    found = {"float32": [_onnx_peak(np.float32, seconds)], "int8": [_onnx_peak(np.int8, seconds)]}
    try:
        import torch
    except ImportError:
        pass
    else:
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        for name, dtype in (("float32", torch.float32), ("bf16", torch.bfloat16)):
            a, b = torch.randn(SIZE, SIZE // 2).to(dtype), torch.randn(SIZE // 2, SIZE // 2).to(dtype)
            found.setdefault(name, []).append(_speed(lambda a=a, b=b: a @ b, seconds))  # type: ignore[misc]
        torch.set_num_threads(before)
    for name, speeds in found.items():
        yield name, max(speeds)


def _speed(product: Callable[[], Any], seconds: float) -> float:
    return 2 * SIZE * (SIZE // 2) ** 2 / Clock(product, seconds).cpu / 1e9


def _onnx_peak(dtype: type, seconds: float) -> float:
    """onnxruntime's product on one thread; of whole numbers, unsigned by signed, as in a trunk of int8."""
    import onnx
    import onnxruntime as ort
    from onnx import helper, numpy_helper

    rng = np.random.default_rng(0)
    whole = dtype is np.int8
    b: np.ndarray = rng.integers(-127, 128, (SIZE // 2, SIZE // 2)).astype(dtype)
    types = (onnx.TensorProto.UINT8, onnx.TensorProto.INT32) if whole else (onnx.TensorProto.FLOAT,) * 2
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger" if whole else "MatMul", ["a", "b"], ["c"])], "product",
        [helper.make_tensor_value_info("a", types[0], [SIZE, SIZE // 2])],
        [helper.make_tensor_value_info("c", types[1], [SIZE, SIZE // 2])], [numpy_helper.from_array(b, "b")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    a = rng.integers(0, 256, (SIZE, SIZE // 2)).astype(np.uint8 if whole else np.float32)
    return _speed(lambda: session.run(None, {"a": a}), seconds)


# --- a model ---------------------------------------------------------------------------------------------------------


def model_flops(artifact: Artifact) -> int:
    """Operations of an artifact's products a match-step: two for each weight that a row meets."""
    import onnx
    import onnxruntime as ort

    graph = onnx.load(str(artifact.path))
    products = [n for n in graph.graph.node if n.op_type in ("MatMul", "Gemm")]
    known = {o.name for o in graph.graph.output}
    watched = sorted({name for n in products for name in (n.input[0], n.output[0])} - known)
    graph.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in watched)
    options = ort.SessionOptions()
    options.log_severity_level, options.graph_optimization_level = 3, ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feed = {}
    for tensor in session.get_inputs():
        dtype = np.int32 if "int32" in tensor.type else np.float32
        feed[tensor.name] = np.zeros([d if isinstance(d, int) else 1 for d in tensor.shape], dtype)
    shapes = {name: a.shape for name, a in zip(watched, session.run(watched, feed), strict=True)}
    return sum(2 * int(np.prod(shapes[n.output[0]])) * shapes[n.input[0]][-1] for n in products)


def _model(
    artifact: Artifact, matches: int, threads: int, seconds: float, peak: float, by: Engine
) -> dict[str, float]:
    import gymnasium

    import wm_envs.registration

    wm_envs.registration.register()
    flops = model_flops(artifact)
    simulator = stepped(artifact, matches, threads, seconds, by)
    env = gymnasium.make_vec(
        "MeleeWorldModel-v0", num_envs=matches, model=artifact, opponent="neutral", threads=threads, domain=None,
        **asdict(by),
    )  # fmt: skip
    env.reset(seed=0)
    env.action_space.seed(0)
    actions = [env.action_space.sample() for _ in range(8)]
    turn = iter(range(1 << 62))
    whole = Clock(lambda: env.step(actions[next(turn) % len(actions)]), seconds)
    inner: Simulator = env.unwrapped.simulator  # type: ignore[attr-defined]
    pads = np.zeros((matches, PLAYERS, len(CONTROL_NAMES)), np.float32)
    alone = Clock(lambda: inner.step(pads), seconds)
    env.close()
    one = stepped(artifact, 1, 1, seconds, by)
    single = gymnasium.make_vec(
        "MeleeWorldModel-v0", num_envs=1, model=artifact, opponent="neutral", domain=None, **asdict(by)
    )
    single.reset(seed=0)
    pressed = single.action_space.sample()
    one_env = Clock(lambda: single.step(pressed), seconds)
    single.close()
    return {
        "mflop": flops / 1e6,
        "simulator_steps_per_second": matches / simulator.wall,
        "simulator_cpu_us": simulator.cpu / matches * 1e6,
        "simulator_share": flops * matches / simulator.cpu / 1e9 / peak,
        "env_steps_per_second": matches / whole.wall,
        "env_cpu_us": whole.cpu / matches * 1e6,
        "env_share": flops * matches / whole.cpu / 1e9 / peak,
        "env_cost": whole.cpu / alone.cpu - 1,
        "one_match_ms": one.cpu * 1e3,
        "one_match_env_ms": one_env.cpu * 1e3,
        "bytes_per_match": bytes_per_match(artifact),
    }


def stepped(artifact: Artifact, matches: int, threads: int, seconds: float, by: Engine) -> Clock:
    """A step of so many matches, all sorts of things pressed."""
    simulator = Simulator(artifact, matches, threads=threads, **asdict(by))
    simulator.reset(spawn("Battlefield", ("FOX", "MARTH")))
    rng = np.random.default_rng(0)
    shape = (matches, PLAYERS, len(CONTROL_NAMES))
    pads = [(rng.random(shape) < 0.2).astype(np.float32) for _ in range(4)]
    turn = iter(range(1 << 62))
    return Clock(lambda: simulator.step(pads[next(turn) % len(pads)]), seconds)


def bytes_per_match(artifact: Artifact) -> int:
    """What a simulator holds of a match: its state and carry twice, as they are swapped, and aux."""
    simulator = Simulator(artifact, 1, threads=1)
    twice = [*vars(State.zeros(1)).values(), *simulator.carry.values()]
    return 2 * sum(a.nbytes for a in twice) + sum(a.nbytes for a in simulator.aux.values())


def by_batch(
    artifact: Artifact, threads: int, seconds: float, most: int, limit: float, by: Engine
) -> Iterator[dict[str, float]]:
    """Matches → µs of the processor a match-step."""
    begun = time.perf_counter()
    for matches in (n for n in BATCHES if n <= most):
        if time.perf_counter() - begun > limit:
            return
        clock = stepped(artifact, matches, threads, seconds, by)
        yield {"matches": matches, "cpu_us": clock.cpu / matches * 1e6, "steps_per_second": matches / clock.wall}


# --- the table -------------------------------------------------------------------------------------------------------


def lines(found: dict[str, Any]) -> Iterator[str]:
    """The table, with the bars that it is held to."""
    cores = found["threads"]
    yield f"{found['machine']}; {found['matches']:,} matches on {cores} threads; shares and costs by processor time"
    yield f"engine {found['engine']}, precision {found['precision']}"
    speeds = ", ".join(f"{name} {speed:,.0f}" for name, speed in found["peak_gflops"].items())
    yield f"products of one core, 10⁹ operations a second: {speeds}"
    for name, row in found["models"].items():
        yield f"\n{name}, {row['mflop']:.1f} MFLOP a match-step"
        bar = {"faithful": "≥ 18,000", "fast": "≥ 100,000"}.get(Path(name).stem, "")
        yield _row("Simulator.step, match-steps/s", f"{row['simulator_steps_per_second']:,.0f}", bar)
        yield _row("  were the cores its own", _own(row["simulator_cpu_us"], cores), bar)
        yield _row("  µs of processor, share of peak", _costs(row, "simulator"), "")
        yield _row("vector env, env-steps/s", f"{row['env_steps_per_second']:,.0f}", bar)
        yield _row("  were the cores its own", _own(row["env_cpu_us"], cores), bar)
        yield _row("  µs of processor, share of peak", _costs(row, "env"), "≥ 60 %")
        yield _row("env's own cost above Simulator.step", f"{100 * row['env_cost']:.0f} %", "≤ 15 %")
        yield _row("one match, one core: Simulator.step", f"{row['one_match_ms']:.2f} ms", "")
        yield _row("one match, one core: env step", f"{row['one_match_env_ms']:.2f} ms", "≤ 0.5 ms")
        yield _row("memory of a match", f"{row['bytes_per_match'] / 1024:.1f} KB", "≤ 8 KB")
    if "int8" in found:
        row = found["int8"]
        yield f"\n{row['model']}, trunk in whole numbers"
        yield _row("Simulator.step, match-steps/s", f"{row['simulator_steps_per_second']:,.0f}", "≥ 18,000")
        yield _row("  were the cores its own", _own(row["simulator_cpu_us"], cores), "≥ 18,000")
        yield _row("vector env, were the cores its own", _own(row["env_cpu_us"], cores), "≥ 18,000")
        yield _row("one match, one core: Simulator.step", f"{row['one_match_ms']:.2f} ms", "")
        yield _row("times float32, by processor", f"{row['times']:.2f}", "≥ 2")
    yield "\nmatches   µs of processor a match-step   match-steps/s"
    rows = found["batches"]
    for row in rows:
        yield f"{row['matches']:7,} {row['cpu_us']:14.1f} {row['steps_per_second']:28,.0f}"
    least = min(range(len(rows)), key=lambda i: rows[i]["cpu_us"])
    rise = max(row["cpu_us"] for row in rows[least:]) / rows[least]["cpu_us"] - 1
    yield _row("dearest past the cheapest, above it", f"{100 * rise:.0f} %", "≤ 10 %")


def _costs(row: dict[str, float], what: str) -> str:
    return f"{row[f'{what}_cpu_us']:.1f} µs, {100 * row[f'{what}_share']:.0f} %"


def _own(cpu_us: float, cores: int) -> str:
    """Steps a second if every thread had a core to itself."""
    return f"{cores * 1e6 / cpu_us:,.0f}"


def _row(what: str, value: str, bar: str) -> str:
    return f"{what:38s}{value:>20s}   {bar}".rstrip()
