"""Triton's interpreter: its traps are mended, and what it cannot do is told from mistakes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from kernel_generator.sandbox.orders import Done, Failed
from kernel_generator.sandbox.wire import Fault
from kernel_generator.sandbox.worker import Worker
from tests.sandbox.driving import call, order, output, square

if TYPE_CHECKING:
    from collections.abc import Generator

    from kernel_generator.sandbox.orders import Answer

pytest.importorskip("triton")

DOT = """
import triton
import triton.language as tl

@triton.jit
def kernel(x, y, N: tl.constexpr):
    at = tl.arange(0, N)[:, None] * N + tl.arange(0, N)[None, :]
    v = tl.load(x + at)
    tl.store(y + at, tl.dot(v, v))

def run(x, y):
    kernel[(1,)](x, y, N=32)
"""
DOUBLE = """
import torch
import triton
import triton.language as tl
from triton.language.extra import libdevice
from triton.language.extra.cuda import libdevice as cuda_libdevice

DECORATORS
def kernel(x, y, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    v = tl.load(x + at, mask=at < n)
    BODY
    tl.store(y + at, v * 2, mask=at < n)

def run(x, y):
    LAUNCH
"""
LAUNCH = "kernel[(16,)](x, y, x.numel(), BLOCK=64)"
TUNED = "kernel[lambda meta: (triton.cdiv(1024, meta['BLOCK']),)](x, y, x.numel())"


@pytest.fixture(scope="module")
def worker() -> Generator[Worker]:
    with Worker() as found:
        yield found


def run(worker: Worker, source: str, dtype: str = "float32") -> tuple[Answer, torch.Tensor]:
    arena = square(dtype=dtype)
    what = order(
        source, language="triton", passing=True, interpret=True, stands_in=True, dtype=dtype
    )
    try:
        return call(worker, what, arena), output(arena).clone()
    finally:
        arena.close()


def doubling(body: str = "pass", launch: str = LAUNCH, decorators: str = "@triton.jit") -> str:
    source = DOUBLE.replace("DECORATORS", decorators).replace("BODY", body)
    return source.replace("LAUNCH", launch)


@pytest.mark.parametrize(
    "dtype", ["bfloat16", "float16", "float32", "float8_e4m3fn", "float8_e5m2"]
)
def test_a_product_of_matrices_is_right_in_every_format(worker: Worker, dtype: str) -> None:
    answer, product = run(worker, DOT, dtype)
    assert isinstance(answer, Done)
    assert bool((product == 32).all())


def test_a_loop_may_run_to_a_value_that_the_kernel_loads(worker: Worker) -> None:
    # Loaded, it is a tensor: 1 + 1 + 1, twice.
    body = "for _ in range((tl.load(x) * 2).to(tl.int32)): v += 1"
    answer, tripled = run(worker, doubling(body))
    assert isinstance(answer, Done), answer
    assert bool((tripled == 6).all())


# A step of bfloat16 between 1 and 2 is 2 ** -7. Casting cuts off to 1 what rounds to 1 + 2 ** -7.
@pytest.mark.parametrize(
    ("value", "rounded"),
    [
        ("1.005859375", 1.0078125),
        ("1.00390625", 1.0),
        ("1.01171875", 1.015625),
        ("-1.005859375", -1.0078125),
        ("3.4e38", float("inf")),
        ("float('inf')", float("inf")),
        ("1.001953125", 1.0),
    ],
    ids=["up", "tie to even below", "tie to even above", "negative", "overflow", "inf", "down"],
)
def test_float32_is_rounded_to_the_nearest_bfloat16(
    worker: Worker, value: str, rounded: float
) -> None:
    answer, found = run(
        worker, doubling(f"v = ((v * 0 + {value}).to(tl.bfloat16)).to(tl.float32) / 2")
    )
    assert isinstance(answer, Done), answer
    assert bool((found == rounded).all())


def test_not_a_number_stays_one_in_bfloat16(worker: Worker) -> None:
    body = "v = (v * 0 + float('nan')).to(tl.bfloat16).to(tl.float32)"
    answer, found = run(worker, doubling(body))
    assert isinstance(answer, Done), answer
    assert bool(found.isnan().all())


@pytest.mark.parametrize("first", [32, 128])
def test_an_autotuned_kernel_runs_its_first_configuration(worker: Worker, first: int) -> None:
    second = 160 - first
    configurations = ", ".join(f"triton.Config({{'BLOCK': {b}}})" for b in (first, second))
    decorators = f"@triton.autotune([{configurations}], key=['n'])\n@triton.jit"
    answer, doubled = run(
        worker, doubling(f"tl.static_assert(BLOCK == {first})", TUNED, decorators)
    )
    assert isinstance(answer, Done)
    assert bool((doubled == 2).all())


@pytest.mark.parametrize(
    ("body", "launch"),
    [
        ("v = tl.inline_asm_elementwise('mov.b32 $0, $1;', '=r,r', [v], tl.float32, True, 1)", ""),
        ("v = libdevice.tanh(v)", ""),
        ("v = cuda_libdevice.tanh(v)", ""),
        ("", "triton.runtime.driver.active.get_current_device()"),
        ("", "torch.cuda.get_device_properties(x.device)"),
    ],
    ids=["inline assembly", "libdevice", "CUDA's libdevice", "the driver", "the device"],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="here, there is a device to ask")
def test_what_it_cannot_run_is_no_fault(worker: Worker, body: str, launch: str) -> None:
    answer, _ = run(worker, doubling(body or "pass", launch or LAUNCH))
    assert isinstance(answer, Failed)
    assert answer.fault is Fault.NOT_RUNNABLE


@pytest.mark.parametrize(
    ("body", "launch", "says"),
    [
        ("v = tl.no_such_function(v)", LAUNCH, "no_such_function"),
        ("v = v.to(tl.float33)", LAUNCH, "float33"),
        ("v = v + undefined", LAUNCH, "undefined"),
        ("v = v + tl.zeros([32], tl.float32)", LAUNCH, "incompatible"),
        ("v = tl.load(x + at, cache='x')", LAUNCH, "unexpected keyword argument 'cache'"),
        ("pass", LAUNCH.replace("BLOCK=64", "BLOCK=60"), "power of 2"),
        ("pass", LAUNCH.replace("(x, y", "(None, y"), "NoneType"),
        ("pass", LAUNCH.replace(", x.numel()", ""), "missing 1 required"),
        ("pass", "{}['mine']", "KeyError: 'mine'"),
        ("pass", "raise NotImplementedError('only for 128')", "only for 128"),
    ],
)
def test_mistakes_are_the_kernels_own(worker: Worker, body: str, launch: str, says: str) -> None:
    answer, _ = run(worker, doubling(body, launch))
    assert isinstance(answer, Failed)
    assert answer.fault is Fault.RUN
    assert says in answer.text
