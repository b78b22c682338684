"""The compiled engine: an artifact's whole step as one C++ function for this machine, built once by its compiler.

Matches are reckoned by blocks that fit the cache, a match a lane of the processor's vectors, every thread its share of
the blocks (see engines.program). What is built is kept in a folder and used again, by all artifacts of an architecture.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from wm_runtime.artifact import Artifact
from wm_runtime.engines.bound import Bound
from wm_runtime.engines.program import Product, program
from wm_runtime.engines.source import KERNELS, Source, source
from wm_runtime.errors import UserError
from wm_runtime.schema import State, state_layout

LANES = 32
"""Matches in a block."""
FEW = 8
"""So many matches at most are stepped one after another, by code for one."""
SMALL = 64
"""Products of fewer numbers than this are not in int8: what they multiply need not be of one scale."""
PROBED, PROBES, PAYS = (256, 192), 40, 0.9
"""Inner and outer size of the product by which bf16 is timed, how often, and the share of float32's time below which it
pays."""
FLAGS = ("-std=c++17", "-O3", "-fPIC", "-shared", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off")
PRECISIONS = ("float32", "bf16", "int8", "auto")


class CompiledEngine:
    """Runs an artifact as machine code. `threads` 0: one a core.

    `precision` is that of what the network's products multiply; they add up in 32 bits, and everything else is float32
    in any case. "float32"; "bf16"; "int8": weights on a scale by column, activations by row; but products of features
    of the game, and small ones, are those of bf16, or of float32 where that is as fast; "auto": the fastest of these
    that the processor has. `precision` afterwards says which it is.

    Raises UserError for another device than cpu, an operator that this engine lacks, a precision that the processor
    lacks, and where there is no C++ compiler (c++, g++, clang++, or what CXX names).
    """

    def __init__(self, artifact: Artifact, device: str = "cpu", threads: int = 0, precision: str = "float32"):
        if device != "cpu":
            raise UserError(f"device {device!r}: the compiled engine is for cpu; use the engine onnx or torch")
        self.precision = _precision(precision)
        self.threads = threads or os.cpu_count() or 1
        self._program = program(artifact.path)
        self._carry, self._aux = tuple(artifact.carry), tuple(artifact.aux)
        self._code: dict[int, _Code] = {}
        self._pool = ThreadPoolExecutor(self.threads) if self.threads > 1 else None
        self._bound: Bound[tuple[_Table, _Table]] = Bound()
        """Of inputs and of outputs."""

    def step(
        self,
        state: State,
        carry: Mapping[str, np.ndarray],
        controllers: np.ndarray,
        next_state: State,
        next_carry: Mapping[str, np.ndarray],
        aux: Mapping[str, np.ndarray],
    ) -> None:
        """See engines.Engine."""

        def located() -> tuple[_Table, _Table]:
            names = state_layout(0)
            inputs = [*(getattr(state, n) for n in names), controllers, *(carry[n] for n in self._carry)]
            outputs = [*(getattr(next_state, n) for n in names), *(next_carry[n] for n in self._carry)]
            return _Table(inputs), _Table([*outputs, *(aux[n] for n in self._aux)])

        inputs, outputs = self._bound.of((state, next_state), (carry, next_carry, aux), located)
        inputs.addresses[len(state_layout(0))] = controllers.ctypes.data
        matches = len(controllers)
        code = self._for(matches)
        blocks = -(-matches // code.lanes)
        threads = min(self.threads, blocks)
        if threads == 1 or self._pool is None:
            code.step(inputs, outputs, 0, matches, 0)
            return
        edges = [min(matches, blocks * i // threads * code.lanes) for i in range(threads + 1)]
        work = [self._pool.submit(code.step, inputs, outputs, a, b, i) for i, (a, b) in enumerate(pairwise(edges))]
        for part in work:
            part.result()

    def _for(self, matches: int) -> _Code:
        lanes = 1 if matches <= FEW else LANES
        if lanes not in self._code:
            products = [step for step in self._program.steps if isinstance(step, Product)]
            made = source(self._program, [_of_product(p, self.precision, lanes) for p in products])
            self._code[lanes] = _Code(made, lanes, self.threads)
        return self._code[lanes]


def _addresses(arrays: list[np.ndarray]) -> np.ndarray:
    return np.array([a.ctypes.data for a in arrays], np.uint64)


class _Table:
    """Where arrays lie: their addresses, and the address of that list."""

    def __init__(self, arrays: list[np.ndarray]):
        self.addresses = _addresses(arrays)
        self.address = self.addresses.ctypes.data


class _Code:
    """What was built for blocks of so many lanes, with its weights and what it writes on."""

    def __init__(self, made: Source, lanes: int, threads: int):
        self.lanes = lanes
        library = ctypes.CDLL(str(built(made.text, lanes)))
        library.packed_words.restype = ctypes.c_long
        self._floats, self._ints = _aligned(made.floats), _aligned(made.ints)
        self._weights = [_packed(library, *weights) for weights in made.weights]
        self._addresses = _addresses(self._weights)
        self._rows = [[_aligned(np.zeros(rows * lanes, np.int32)) for rows in made.rows] for _ in range(threads)]
        self._step = library.step
        self._step.argtypes = [ctypes.c_void_p] * 8 + [ctypes.c_long] * 2
        self._step.restype = None
        constant = [self._floats.ctypes.data, self._ints.ctypes.data, self._addresses.ctypes.data]
        self._arguments = [(*constant, *(a.ctypes.data for a in rows)) for rows in self._rows]

    def step(self, inputs: _Table, outputs: _Table, begin: int, end: int, thread: int) -> None:
        self._step(inputs.address, outputs.address, *self._arguments[thread], begin, end)


def _aligned(array: np.ndarray) -> np.ndarray:
    """A copy that begins at a multiple of 64 bytes."""
    room = np.empty(array.nbytes + 64, np.uint8)
    skip = -room.ctypes.data % 64
    out = room[skip : skip + array.nbytes].view(array.dtype)
    out[:] = array
    return out


def _packed(library: Any, weight: np.ndarray, bias: np.ndarray | None, precision: int) -> np.ndarray:
    weight = np.ascontiguousarray(weight, np.float32)
    out = _aligned(np.zeros(library.packed_words(precision, *weight.shape), np.int32))
    given = [ctypes.c_void_p(None if a is None else a.ctypes.data) for a in (weight, bias, out)]
    library.pack(precision, *weight.shape, *given)
    return out


# --- what is built ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Compiler:
    """`command` of the C++ compiler, its flags for this processor included; `version`, its first line; `has`: the
    macros of this processor's vectors that it defines."""

    command: tuple[str, ...]
    version: str
    has: frozenset[str]


@lru_cache
def compiler() -> Compiler:
    """The C++ compiler of this machine. Raises UserError where there is none."""
    named = os.environ.get("CXX")
    found = next(filter(None, map(shutil.which, [named] if named else ["g++", "clang++", "c++"])), None)
    if found is None:
        raise UserError(
            "the compiled engine needs a C++ compiler, and there is none: install g++ or clang++ (or name one in CXX), "
            "or use the engine onnx"
        )
    arm = platform.machine() in ("arm64", "aarch64")
    command = (found, "-mcpu=native" if arm else "-march=native")
    version = _run([found, "--version"]).splitlines()[0]
    macros = _run([*command, "-dM", "-E", "-x", "c++", "/dev/null"])
    return Compiler(command, version, frozenset(line.split()[1] for line in macros.splitlines() if "__AVX" in line))


def _run(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        raise UserError(f"the C++ compiler {command[0]} failed ({said[0]}); use the engine onnx") from None


def _precision(wanted: str) -> str:
    if wanted not in PRECISIONS:
        raise UserError(f"unknown precision {wanted!r}: choose one of {', '.join(PRECISIONS)}")
    has = compiler().has
    able = {"float32": True, "bf16": "__AVX512BF16__" in has, "int8": "__AVX512VNNI__" in has}
    if wanted == "auto":
        return "int8" if able["int8"] else "bf16" if bf16_pays(LANES) else "float32"
    if not able[wanted]:
        raise UserError(f"this processor has no products in {wanted}; use precision float32 or auto")
    return wanted


def _of_product(product: Product, precision: str, lanes: int) -> str:
    """The precision of one product in code for so many lanes, as source.PRECISIONS has it: the faster of bf16 and
    float32 for one of whole numbers, which is exact in both, and for those that int8 leaves out."""
    if product.whole or (precision == "int8" and (product.first or len(product.weight) < SMALL)):
        precision = "bf16" if bf16_pays(lanes) else "float32"
    return precision.upper()


PROBE = f"""#include "kernels.h"
extern "C" void probe(int coarse, long times, const float *x, const int *weights, float *y, int *made) {{
#if defined(__AVX512BF16__)
  for (long i = 0; i < times; ++i)
    if (coarse) product<BF16>(x, 0, LANES, 1, {PROBED[0]}, {PROBED[1]}, weights, y, made);
    else product<FLOAT32>(x, 0, LANES, 1, {PROBED[0]}, {PROBED[1]}, weights, y, made);
#endif
}}
"""


@lru_cache
def bf16_pays(lanes: int) -> bool:
    """Whether products in bf16 are faster than in float32 on this processor, in code for so many lanes. Some that have
    them take twice as long. It is timed once, and what was found is kept beside what was built: so that a model is
    reckoned alike in every process. For one match bf16 pays where it is, for half the weights are read."""
    if "__AVX512BF16__" not in compiler().has or lanes == 1:
        return "__AVX512BF16__" in compiler().has
    path = built(PROBE, lanes)
    kept = path.with_suffix(".bf16")
    try:
        return kept.read_text() == "pays"
    except OSError:
        coarse, fine = (_probed(ctypes.CDLL(str(path)), lanes, precision) for precision in (1, 0))
    pays = coarse < PAYS * fine
    with suppress(OSError):  # what cannot be kept is timed again
        written = kept.with_suffix(f".{os.getpid()}.tmp")
        written.write_text("pays" if pays else "costs")
        os.replace(written, kept)
    return pays


def _probed(library: Any, lanes: int, precision: int) -> float:
    """Seconds that products take in a precision, the fastest of some rounds."""
    inner, outer = PROBED
    weights = _packed(library, np.ones(PROBED, np.float32), None, precision)
    x, y, made = (_aligned(np.ones(n * lanes, np.float32)) for n in (inner, outer, inner + 1))
    library.probe.argtypes = [ctypes.c_int, ctypes.c_long, *[ctypes.c_void_p] * 4]
    found = []
    for _ in range(PROBES):
        begun = time.perf_counter()
        library.probe(precision, PROBES, *(a.ctypes.data for a in (x, weights, y, made)))
        found.append(time.perf_counter() - begun)
    return min(found)


def cache_folder() -> Path:
    """Where built code is kept: MWM_CACHE, or melee-world-model in the user's cache folder."""
    named = os.environ.get("MWM_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "melee-world-model"


def built(text: str, lanes: int) -> Path:
    """The library of a program's C++ for blocks of so many lanes, built unless it is there."""
    use = compiler()
    command = [*use.command, *FLAGS, f"-DLANES={lanes}", "-I", str(KERNELS.parent)]
    known = (text, KERNELS.read_text(), *command[1:-1], use.version, *sorted(use.has))
    path = cache_folder() / f"{hashlib.sha256(chr(0).join(known).encode()).hexdigest()[:32]}.so"
    if path.exists():
        return path
    kind = "one match" if lanes == 1 else "many matches"
    print(f"building the compiled engine for {kind}; it is kept in {path.parent}", file=sys.stderr, flush=True)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            written, made = Path(folder) / "step.cpp", Path(folder) / path.name
            written.write_text(text)
            _run([*command, str(written), "-o", str(made)])
            os.replace(made, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); name another folder in MWM_CACHE") from None
    return path
