"""A program (engines.program) as C++, and what it is given besides: constants, and the weights of its products."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isinf, isnan, prod
from pathlib import Path

import numpy as np

from wm_runtime.engines.program import MATCHES, Loop, Operand, Product, Program, Reduction, Sizes, Step, Value

KERNELS = Path(__file__).with_name("kernels.h")
MEMORY = "const float *CF, const int *CI, const int *const *weights, float *__restrict F, int *__restrict I, int *S"
"""Constants, weights of products, and rows: of floats, of whole numbers and truths, and of what products need."""
STEPS = 48
"""Steps in a function: a compiler's time grows faster than a function."""
PRECISIONS = ("FLOAT32", "BF16", "INT8")

_TYPES = {"f": "float", "i": "int", "b": "int"}
_LANES = {"f": "fl", "i": "in", "b": "in"}


@dataclass(frozen=True)
class Source:
    """`text`: C++ · `floats`, `ints`: constants · `weights`: (inner, outer) with biases (outer,) or none, and the
    precision of each product · `rows`: of floats, of ints and of words that a block needs."""

    text: str
    floats: np.ndarray
    ints: np.ndarray
    weights: list[tuple[np.ndarray, np.ndarray | None, int]]
    rows: tuple[int, int, int]


def source(program: Program, precision: Sequence[str]) -> Source:
    """The C++ of a program; `precision` of its products, one of PRECISIONS for each, in order."""
    return _Writer(program).write(precision)


class _Writer:
    def __init__(self, program: Program):
        self.program = program
        self.constants: dict[str, list[np.ndarray]] = {"f": [], "i": []}
        self.ends = {"f": 0, "i": 0}
        self.places: dict[int, int] = {}
        """Identity of a value → its first row, or where it begins among the constants."""
        self.most = _place(program, self.places)

    def write(self, precision: Sequence[str]) -> Source:
        products = [s for s in self.program.steps if isinstance(s, Product)]
        chosen = dict(zip(map(id, products), precision, strict=True))
        numbers = {id(step): i for i, step in enumerate(products)}
        steps = [
            self.product(s, numbers[id(s)], chosen[id(s)]) if isinstance(s, Product) else self.step(s)
            for s in self.program.steps
        ]
        edges = [*range(0, len(steps), STEPS), len(steps)]
        bodies = ["\n".join(steps[a:b]) for a, b in pairwise(edges)]
        parts = [f"PART part_{i}({MEMORY}) {{\n{body}\n}}\n" for i, body in enumerate(bodies)]
        calls = "\n".join(f"    part_{i}(CF, CI, weights, F, I, S);" for i in range(len(parts)))
        text = f"""#include "kernels.h"
{"".join(parts)}
extern "C" void step(const void *const *in, void *const *out, {MEMORY}, long begin, long end) {{
  for (long first = begin; first < end; first += LANES) {{
    const int count = end - first < LANES ? (int)(end - first) : LANES;
{self.inputs()}
{calls}
{self.outputs()}
  }}
}}
"""
        words = max((p.rows * (p.weight.shape[0] + 1) for p in products), default=1)
        weights = [(p.weight, p.bias, PRECISIONS.index(chosen[id(p)])) for p in products]
        blobs = [np.concatenate(self.constants[k] or [np.zeros(1, t)]) for k, t in (("f", np.float32), ("i", np.int32))]
        return Source(text, blobs[0], blobs[1], weights, (self.most["f"], self.most["i"], words))

    def inputs(self) -> str:
        out = []
        for i, value in enumerate(self.program.inputs.values()):
            kind, rows, place = _TYPES[value.kind], value.rows, self.places[id(value)]
            out.append(f"""    for (int l = 0; l < LANES; ++l) {{
      const {kind} *from = (const {kind} *)in[{i}] + (first + (l < count ? l : count - 1)) * {rows};
      for (int r = 0; r < {rows}; ++r) {_pool(value)}[({place} + r) * LANES + l] = from[r];
    }}""")
        return "\n".join(out)

    def outputs(self) -> str:
        out = []
        for i, (view, byte) in enumerate(self.program.outputs.values()):
            factors = [f for axis in view.axes for f in axis if f.size != MATCHES]
            sizes = tuple(f.size for f in factors)
            operand = Operand(view.value, view.offset, tuple(f.stride for f in factors))
            kind = "unsigned char" if byte else _TYPES[view.value.kind]
            row = self.row(view.value, view.offset, operand.strides)
            if view.value.constant is None:
                number = f"{_pool(view.value)}[{row} * LANES + l]"
            else:
                number = _literal(operand) or f"C{_pool(view.value)}[{row}]"
            body = f"*to++ = {'-' if view.value.kind == 'b' else ''}{number};"
            loops = _loops(sizes, f"{{ {body} }}", "        ")
            out.append(
                f"    for (int l = 0; l < count; ++l) {{\n"
                f"      {kind} *to = ({kind} *)out[{i}] + (first + l) * {prod(sizes)};\n{loops}\n    }}"
            )
        return "\n".join(out)

    def step(self, step: Step) -> str:
        return self.loop(step) if isinstance(step, Loop) else self.reduction(step)  # type: ignore[arg-type]

    def loop(self, loop: Loop) -> str:
        names: dict[int, str] = {}
        read: dict[str, str] = {}
        lines = []
        for i, s in enumerate(loop.statements):
            found: list[str] = []
            for operand in s.operands:
                if id(operand.value) in names and operand.looked_up is None:
                    found.append(names[id(operand.value)])
                    continue
                further = None
                if operand.looked_up is not None:
                    which, size, stride = operand.looked_up
                    further = f"within({found[which]}, {size}) * {stride}"
                text = self.read(operand, further)
                if text not in read:
                    read[text] = f"x{len(read)}"
                    lines.append(f"const {_LANES[operand.value.kind]} {read[text]} = {text};")
                found.append(read[text])
            name = f"t{i}"
            lines.append(f"const {_LANES[s.value.kind]} {name} = {s.text.format(*found)};")
            if not s.value.joined:
                names[id(s.value)] = name
            if s.value.stored:
                row = self.row(s.value, s.offset, s.strides)
                lines.append(f"put({_pool(s.value)} + {row} * LANES + l, {name});")
        return _loops(loop.sizes, "EACH_VECTOR {\n  " + "\n  ".join(lines) + "\n}")

    def reduction(self, r: Reduction) -> str:
        n, m = len(r.outer), len(r.inner)
        x = self.read(r.source)
        target = f"{_pool(r.out)} + {self.row(r.out, 0, _row_major(r.outer))} * LANES + l"
        row = f"{_pool(r.out)} + {self.row(r.out, 0, _row_major((*r.outer, *r.inner)))} * LANES + l"
        others = [self.read(o) for o in r.others]
        text = REDUCTIONS[r.kind]
        count = prod(r.inner)
        values = {
            "x": x, "target": target, "row": row, "count": f"{count}.0f", "epsilon": f"{float(r.number).hex()}f",
            "type": _LANES[r.source.value.kind], "scale": others[0] if others else "all(1.0f)",
            "bias": f" + {others[1]}" if len(others) > 1 else "",
            "least": "-INFINITY" if r.source.value.kind == "f" else "INT_MIN",
            "most": "INFINITY" if r.source.value.kind == "f" else "INT_MAX",
        }  # fmt: skip
        body = re.sub(r"@(\w+)", lambda found: str(values[found[1]]), text)
        body = re.sub(r"INNER\{(.*?)\}RENNI", lambda found: _loops(r.inner, found[1], "", n), body, flags=re.S)
        assert m == len(r.inner)
        return _loops(r.outer, "{\n" + body + "\n}")

    def product(self, p: Product, number: int, precision: str) -> str:
        source = f"F + {self.places[id(p.source.value)] + p.source.offset} * LANES"
        inner, outer = p.weight.shape
        strides = f"{p.stride} * LANES, {p.source.strides[0]} * LANES"
        out = f"F + {self.places[id(p.out)]} * LANES"
        return f"product<{precision}>({source}, {strides}, {p.rows}, {inner}, {outer}, weights[{number}], {out}, S);"

    def read(self, operand: Operand, further: str | None = None) -> str:
        """What reads an operand for the lanes from l on; `further`: rows further, by lane."""
        literal = _literal(operand)
        if literal is not None:
            return f"all({literal})"
        value = operand.value
        row = self.row(value, operand.offset, operand.strides)
        if value.constant is not None:
            return f"looked_up(C{_pool(value)} + {row}, {further})" if further else f"all(C{_pool(value)}[{row}])"
        place = f"{_pool(value)} + {row} * LANES + l"
        return f"in_lane({place}, {further})" if further else f"at({place})"

    def row(self, value: Value, offset: int, strides: Sizes) -> str:
        if value.constant is not None and id(value) not in self.places:
            kind = "f" if value.kind == "f" else "i"
            self.places[id(value)] = self.ends[kind]
            self.constants[kind].append(value.constant.reshape(-1))
            self.ends[kind] += value.constant.size
        terms = [str(self.places[id(value)] + offset)]
        terms += [f"i{i} * {stride}" for i, stride in enumerate(strides) if stride]
        return f"({' + '.join(terms)})"


def _pool(value: Value) -> str:
    return "F" if value.kind == "f" else "I"


def _row_major(sizes: Sizes) -> Sizes:
    return tuple(prod(sizes[i + 1 :]) for i in range(len(sizes)))


def _literal(operand: Operand) -> str | None:
    """The number itself, of a constant that is one."""
    constant = operand.value.constant
    if constant is None or constant.size != 1:
        return None
    number = constant.reshape(-1)[0]
    if operand.value.kind != "f":
        return f"({int(number)})" if number > -(2**31) else "INT_MIN"
    if isnan(number):
        return "NAN"
    if isinf(number):
        return "INFINITY" if number > 0 else "(-INFINITY)"
    return f"({float(number).hex()}f)"


def _loops(sizes: Sizes, body: str, indent: str = "  ", first: int = 0) -> str:
    heads = [f"{indent}for (int i{first + i} = 0; i{first + i} < {n}; ++i{first + i})" for i, n in enumerate(sizes)]
    return "\n".join([*heads, "\n".join(indent + line for line in body.splitlines())])


def _place(program: Program, places: dict[int, int]) -> dict[str, int]:
    """Puts values in rows, so that those needed at one time have their own. Returns how many rows there are, of F and
    of I."""
    values: dict[int, Value] = {id(v): v for v in program.inputs.values()}
    for step in program.steps:
        made = [s.value for s in step.statements] if isinstance(step, Loop) else [step.out]
        values |= {id(v): v for v in made if v.stored}
    most = {}
    for pool in ("f", "i"):
        held: list[tuple[int, int, int]] = []
        """(first row, end, last step) of what is needed now, by row."""
        top = 0
        for value in sorted((v for v in values.values() if (v.kind == "f") == (pool == "f")), key=lambda v: v.first):
            held = [h for h in held if h[2] >= value.first]
            at, index = 0, 0
            for index, (begin, end, _) in enumerate([*held, (2**40, 2**40, 0)]):  # noqa: B007
                if begin - at >= value.rows:
                    break
                at = max(at, end)
            held.insert(index, (at, at + value.rows, max(value.last, value.made)))
            places[id(value)] = at
            top = max(top, at + value.rows)
        most[pool] = top
    return most


REDUCTIONS = {
    "ReduceMax": """@type r[V];
EACH_VECTOR r[v] = all(@least);
INNER{EACH_VECTOR r[v] = larger(r[v], @x);}RENNI
EACH_VECTOR put(@target, r[v]);""",
    "ReduceMin": """@type r[V];
EACH_VECTOR r[v] = all(@most);
INNER{EACH_VECTOR r[v] = smaller(r[v], @x);}RENNI
EACH_VECTOR put(@target, r[v]);""",
    "ReduceSum": """@type r[V];
EACH_VECTOR r[v] = @type{};
INNER{EACH_VECTOR r[v] += @x;}RENNI
EACH_VECTOR put(@target, r[v]);""",
    "ReduceMean": """@type r[V];
EACH_VECTOR r[v] = @type{};
INNER{EACH_VECTOR r[v] += @x;}RENNI
EACH_VECTOR put(@target, r[v] / @count);""",
    "ArgMax": """@type r[V];
in best[V];
int n = 0;
EACH_VECTOR r[v] = all(@least), best[v] = in{};
INNER{{
  EACH_VECTOR {
    const @type now = @x;
    const in more = gt(now, r[v]);
    best[v] = choose(more, all(n), best[v]);
    r[v] = choose(more, now, r[v]);
  }
  ++n;
}}RENNI
EACH_VECTOR put(@target, best[v]);""",
    "ReduceLogSumExp": """fl most[V], r[V];
EACH_VECTOR most[v] = all(-INFINITY), r[v] = fl{};
INNER{EACH_VECTOR most[v] = larger(most[v], @x);}RENNI
INNER{EACH_VECTOR r[v] += exp_of(@x - most[v]);}RENNI
EACH_VECTOR put(@target, most[v] + log_of(r[v]));""",
    "Softmax": """fl most[V], r[V];
EACH_VECTOR most[v] = all(-INFINITY), r[v] = fl{};
INNER{EACH_VECTOR most[v] = larger(most[v], @x);}RENNI
INNER{EACH_VECTOR { const fl e = exp_of(@x - most[v]); put(@row, e); r[v] += e; }}RENNI
EACH_VECTOR r[v] = 1.0f / r[v];
INNER{EACH_VECTOR put(@row, at(@row) * r[v]);}RENNI""",
    "LogSoftmax": """fl most[V], r[V];
EACH_VECTOR most[v] = all(-INFINITY), r[v] = fl{};
INNER{EACH_VECTOR most[v] = larger(most[v], @x);}RENNI
INNER{EACH_VECTOR r[v] += exp_of(@x - most[v]);}RENNI
EACH_VECTOR most[v] += log_of(r[v]);
INNER{EACH_VECTOR put(@row, @x - most[v]);}RENNI""",
    "LayerNormalization": """fl mean[V], r[V];
EACH_VECTOR mean[v] = fl{}, r[v] = fl{};
INNER{EACH_VECTOR mean[v] += @x;}RENNI
EACH_VECTOR mean[v] /= @count;
INNER{EACH_VECTOR { const fl d = @x - mean[v]; r[v] = times(d, d, r[v]); }}RENNI
EACH_VECTOR r[v] = 1.0f / root(r[v] / @count + @epsilon);
INNER{EACH_VECTOR put(@row, (@x - mean[v]) * r[v] * @scale@bias);}RENNI""",
}
"""What a reduction does for each turn of its outer loops, over INNER{…}RENNI, the inner ones."""
