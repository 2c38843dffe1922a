"""RMSNorm: eight Triton kernels, eight C++ kernels for a machine without a GPU, and one of each
with a dial that adds a known amount of work.

Sources are a few constants followed by a text that they decide.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flashinfer_bench import Definition, Workload
from flashinfer_bench.data import AxisConst, AxisVar, RandomInput, TensorSpec
from flashinfer_bench.data.definition import DType

from kernels.family import Family, constants, solution

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flashinfer_bench import Solution

HIDDEN = 4096
"""Columns on a GPU; a row of bfloat16 is 8 KiB, read once and written once."""
ROWS = (1, 170, 2048, 14418)
CPU_HIDDEN = 1024
CPU_ROWS = (1, 64, 1024)
TRITON_KERNEL = "rmsnorm"
"""What every Triton kernel here is called: CUPTI's records are found by it."""

_REFERENCE = """\
import torch


@torch.no_grad()
def run(hidden_states, weight):
    x = hidden_states.to(torch.float32)
    scale = torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + 1e-6)
    return (x * scale * weight.to(torch.float32)).to(hidden_states.dtype)
"""


def definition(hidden: int = HIDDEN, dtype: str = "bfloat16") -> Definition:
    """RMSNorm of rows of `hidden` values, epsilon 1e-6."""
    kind = DType(dtype)
    rows = TensorSpec(shape=["batch_size", "hidden_size"], dtype=kind)
    return Definition(
        name=f"rmsnorm_h{hidden}",
        op_type="rmsnorm",
        axes={
            "batch_size": AxisVar(type="var"),
            "hidden_size": AxisConst(type="const", value=hidden),
        },
        inputs={
            "hidden_states": rows,
            "weight": TensorSpec(shape=["hidden_size"], dtype=kind),
        },
        outputs={"output": rows},
        reference=_REFERENCE,
    )


def workloads(rows: Sequence[int]) -> tuple[Workload, ...]:
    """One for each number of rows."""
    return tuple(
        Workload(
            axes={"batch_size": n},
            inputs={"hidden_states": RandomInput(), "weight": RandomInput()},
            uuid=f"rows-{n}",
        )
        for n in rows
    )


# -- Triton ----------------------------------------------------------------------------------------

_WHOLE_ROWS = '''\
"""Each program holds ROWS whole rows in registers, and reads them once."""
import triton
import triton.language as tl


@triton.jit
def rmsnorm(x, weight, y, rows, eps, HIDDEN: tl.constexpr, ROWS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, HIDDEN)
    at = row[:, None] * HIDDEN + column[None, :]
    inside = (row < rows)[:, None]
    v = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    w = tl.load(weight + column).to(tl.float32)
    scale = tl.rsqrt(tl.sum(v * v, axis=1) / HIDDEN + eps)
    out = v * scale[:, None] * w[None, :]
    tl.store(y + at, out.to(y.dtype.element_ty), mask=inside)


def run(hidden_states, weight, output):
    rows, hidden = hidden_states.shape
    if rows:
        grid = (triton.cdiv(rows, ROWS),)
        rmsnorm[grid](
            hidden_states, weight, output, rows, 1e-6, HIDDEN=hidden, ROWS=ROWS, num_warps=WARPS
        )
'''

_TWO_PASSES = '''\
"""Each program reads its row in blocks twice: for the sum, then, mostly from cache, to scale it."""
import triton
import triton.language as tl


@triton.jit
def rmsnorm(x, weight, y, eps, HIDDEN: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * HIDDEN
    squares = tl.zeros((BLOCK,), dtype=tl.float32)
    for start in range(0, HIDDEN, BLOCK):
        column = start + tl.arange(0, BLOCK)
        v = tl.load(x + row + column, eviction_policy="evict_last").to(tl.float32)
        squares += v * v
    scale = tl.rsqrt(tl.sum(squares, axis=0) / HIDDEN + eps)
    for start in range(0, HIDDEN, BLOCK):
        column = start + tl.arange(0, BLOCK)
        v = tl.load(x + row + column, eviction_policy="evict_first").to(tl.float32)
        w = tl.load(weight + column).to(tl.float32)
        tl.store(y + row + column, (v * scale * w).to(y.dtype.element_ty))


def run(hidden_states, weight, output):
    rows, hidden = hidden_states.shape
    if rows:
        rmsnorm[(rows,)](
            hidden_states, weight, output, 1e-6, HIDDEN=hidden, BLOCK=BLOCK, num_warps=WARPS
        )
'''

_PERSISTENT = '''\
"""A fixed number of programs, each keeping the weight while it goes through its share of rows."""
import triton
import triton.language as tl


@triton.jit
def rmsnorm(x, weight, y, rows, eps, HIDDEN: tl.constexpr):
    column = tl.arange(0, HIDDEN)
    w = tl.load(weight + column).to(tl.float32)
    for row in range(tl.program_id(0).to(tl.int64), rows, tl.num_programs(0)):
        at = row * HIDDEN + column
        v = tl.load(x + at).to(tl.float32)
        scale = tl.rsqrt(tl.sum(v * v, axis=0) / HIDDEN + eps)
        tl.store(y + at, (v * scale * w).to(y.dtype.element_ty))


def run(hidden_states, weight, output):
    rows, hidden = hidden_states.shape
    if rows:
        rmsnorm[(min(rows, PROGRAMS),)](
            hidden_states, weight, output, rows, 1e-6, HIDDEN=hidden, num_warps=WARPS
        )
'''

_TRITON_VERSIONS: tuple[tuple[str, dict[str, int]], ...] = (
    (_WHOLE_ROWS, {"ROWS": 1, "WARPS": 4}),
    (_WHOLE_ROWS, {"ROWS": 1, "WARPS": 8}),
    (_WHOLE_ROWS, {"ROWS": 1, "WARPS": 16}),
    (_WHOLE_ROWS, {"ROWS": 2, "WARPS": 8}),
    (_TWO_PASSES, {"BLOCK": 1024, "WARPS": 4}),
    (_TWO_PASSES, {"BLOCK": 2048, "WARPS": 8}),
    (_PERSISTENT, {"PROGRAMS": 1056, "WARPS": 8}),
    (_PERSISTENT, {"PROGRAMS": 528, "WARPS": 16}),
)

_TRITON_DIAL = '''\
"""One row a program; the first EXTRA[rows] rows are computed once more by programs of their own."""
import triton
import triton.language as tl


@triton.jit
def rmsnorm(x, weight, y, rows, eps, HIDDEN: tl.constexpr):
    row = (tl.program_id(0) % rows).to(tl.int64)
    column = tl.arange(0, HIDDEN)
    at = row * HIDDEN + column
    v = tl.load(x + at).to(tl.float32)
    w = tl.load(weight + column).to(tl.float32)
    scale = tl.rsqrt(tl.sum(v * v, axis=0) / HIDDEN + eps)
    tl.store(y + at, (v * scale * w).to(y.dtype.element_ty))


def run(hidden_states, weight, output):
    rows, hidden = hidden_states.shape
    if rows:
        grid = (rows + EXTRA.get(rows, 0),)
        rmsnorm[grid](hidden_states, weight, output, rows, 1e-6, HIDDEN=hidden, num_warps=8)
'''

# -- C++ -------------------------------------------------------------------------------------------

_CPP = """\
// Rows one after the other, or shared among threads; the sum in SUMS independent parts.
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/function.h>

#include <cmath>
#include <cstdint>

namespace {

void Row(const float* x, const float* w, float* y, int64_t columns) {
  float sums[SUMS] = {};
  for (int64_t i = 0; i < columns; i += SUMS) {
    for (int j = 0; j < SUMS; ++j) sums[j] += x[i + j] * x[i + j];
  }
  float sum = 0.0f;
  for (int j = 0; j < SUMS; ++j) sum += sums[j];
  const float scale = 1.0f / std::sqrt(sum / static_cast<float>(columns) + 1e-6f);
  for (int64_t i = 0; i < columns; ++i) y[i] = x[i] * scale * w[i];
}

int64_t Extra(int64_t rows) {
  switch (rows) {
EXTRA_CASES
    default: return 0;
  }
}

void Run(tvm::ffi::TensorView x, tvm::ffi::TensorView w, tvm::ffi::TensorView y) {
  const int64_t rows = x.size(0), columns = x.size(1), all = rows + Extra(rows);
  const float* px = static_cast<const float*>(x.data_ptr());
  const float* pw = static_cast<const float*>(w.data_ptr());
  float* py = static_cast<float*>(y.data_ptr());
#pragma omp parallel for if (PARALLEL)
  for (int64_t i = 0; i < all; ++i) {
    const int64_t row = i % rows;
    Row(px + row * columns, pw, py + row * columns, columns);
  }
}

}  // namespace

TVM_FFI_DLL_EXPORT_TYPED_FUNC(run, Run);
"""
_CPP_VERSIONS = tuple(
    {"SUMS": sums, "PARALLEL": parallel} for parallel in (0, 1) for sums in (4, 8, 16, 32)
)


def _triton(name: str, source: str, values: Mapping[str, object]) -> Solution:
    text = constants(values, "{name} = {value!r}") + source
    return solution(f"rmsnorm_h{HIDDEN}", name, "triton", text)


def _cpp(name: str, values: Mapping[str, int], extra: Mapping[int, int]) -> Solution:
    cases = "\n".join(f"    case {rows}: return {more};" for rows, more in extra.items())
    text = constants(values, "#define {name} {value}") + _CPP.replace("EXTRA_CASES", cases)
    return solution(f"rmsnorm_h{CPU_HIDDEN}", name, "cpp", text)


def triton_family() -> Family:
    """Eight Triton kernels for bfloat16 rows of `HIDDEN`."""
    return Family(
        "rmsnorm",
        "Triton RMSNorm",
        definition(),
        workloads(ROWS),
        tuple(
            _triton(f"rmsnorm_triton_{i}", source, values)
            for i, (source, values) in enumerate(_TRITON_VERSIONS)
        ),
    )


def cpp_family() -> Family:
    """Eight C++ kernels for float32 rows of `CPU_HIDDEN`."""
    return Family(
        "rmsnorm",
        "C++ RMSNorm",
        definition(CPU_HIDDEN, "float32"),
        workloads(CPU_ROWS),
        tuple(_cpp(f"rmsnorm_cpp_{i}", values, {}) for i, values in enumerate(_CPP_VERSIONS)),
    )


def with_dial(name: str, extra: Mapping[int, int], *, on_gpu: bool) -> Solution:
    """The kernel that, given `rows` rows, computes `extra[rows]` of them (any number) once more.

    Computing a row again writes the values that stand there already, so every setting is right.
    """
    if on_gpu:
        return _triton(name, _TRITON_DIAL, {"EXTRA": dict(extra)})
    return _cpp(name, {"SUMS": 16, "PARALLEL": 0}, extra)
