"""Candidates that are compiled: in a sandbox of their own, without a GPU, whatever they hold."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
import torch
from flashinfer_bench.data import SupportedBindings

from kernel_generator.domain.errors import SandboxError
from kernel_generator.domain.outcome import Outcome
from kernel_generator.evaluation.building import NotBuilt, build, is_built_apart
from kernel_generator.evaluation.judge import Limits
from kernel_generator.evaluation.nursery import Nursery
from kernel_generator.evaluation.pool import Pool
from kernel_generator.evaluation.toolchain import find_cuda
from kernel_generator.sandbox.artefact import Artefact
from kernel_generator.sandbox.isolation import Level, isolate
from kernel_generator.sandbox.orders import Failed, Order, TimedOut
from tests.evaluation.judging import CORRECTNESS, DOUBLE, TINY, opened, solution, task

if TYPE_CHECKING:
    from collections.abc import Generator

    from flashinfer_bench.data import Solution

    from kernel_generator.domain.evaluation import Evaluation
    from kernel_generator.evaluation.session import LocalSession

needs_compiler = pytest.mark.skipif(
    shutil.which("c++") is None, reason="no C++ compiler on this machine"
)

CPP = """
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/function.h>

TOP

void run(tvm::ffi::TensorView x, tvm::ffi::TensorView y) {
  const float* in = static_cast<const float*>(x.data_ptr());
  float* out = static_cast<float*>(y.data_ptr());
  for (int64_t i = 0; i < y.size(0) * y.size(1); ++i) out[i] = 2 * in[i];
}

TVM_FFI_DLL_EXPORT_TYPED_FUNC(run, run);
"""
ENDLESS = """
template <int N> struct forever {
  static constexpr long work(long n) {
    long sum = 0;
    for (long i = 0; i < n; ++i) sum += i % 7;
    return sum;
  }
  static constexpr long value = work(30000000) + forever<N + 1>::value;
};
template <> struct forever<800> { static constexpr long value = 1; };
static_assert(forever<0>::value == 1);
"""
FORKS = """
#include <unistd.h>
struct Bomb { Bomb() { while (true) fork(); } } bomb;
"""


def cpp(top: str = "") -> Solution:
    return solution(CPP.replace("TOP", top), language="cpp", passing=True)


def order(what: Solution) -> Order:
    return Order(DOUBLE.model_dump_json(), what.model_dump_json(), "cpu")


def make(pool: Pool, what: Solution, limits: Limits = TINY) -> Artefact | NotBuilt | None:
    return build(pool, order(what), limits, what)


@pytest.fixture(scope="module")
def pool() -> Generator[Pool]:
    """Of a session on a GPU, whether there is one or not: what builds never asks."""
    found = Pool(task(target="H100", language="cuda"), Nursery("cuda:0", isolate(Level.STRICT)))
    yield found
    found.close()


@needs_compiler
class TestBuilding:
    def test_sees_no_gpu_where_the_session_has_one(self, pool: Pool) -> None:
        # Each line would fail the build.
        nodes = ("nvidiactl", "nvidia0", "nvidia-uvm")
        seen = "".join(f'#if __has_include("/dev/{n}")\n#error {n}\n#endif\n' for n in nodes)
        # A compiler to which no device is a file would find nothing in any case.
        control = '#if !__has_include("/dev/null")\n#error nothing\n#endif\n'
        found = make(pool, cpp(seen + control))
        assert isinstance(found, Artefact), found
        found.close()

    def test_runs_nothing_of_a_candidate_that_forks_without_end_when_loaded(
        self, pool: Pool
    ) -> None:
        found = make(pool, cpp(FORKS))
        assert isinstance(found, Artefact), found
        found.close()

    def test_ends_at_its_limit(self, pool: Pool) -> None:
        found = make(pool, cpp(ENDLESS), Limits(build_s=2.0))
        assert isinstance(found, NotBuilt)
        assert found.answer == TimedOut(2.0)

    def test_goes_on_beside_another(self, pool: Pool) -> None:
        with ThreadPoolExecutor(2) as threads:
            right, wrong = threads.map(lambda top: make(pool, cpp(top)), ("", "undeclared;"))
        assert isinstance(right, Artefact)
        right.close()
        assert isinstance(wrong, NotBuilt)
        assert isinstance(wrong.answer, Failed)
        assert "undeclared" in wrong.answer.text

    def test_ends_with_its_session(self) -> None:
        pool = Pool(task(language="cpp"), Nursery("cpu", isolate(Level.STRICT)))
        with ThreadPoolExecutor(1) as threads:
            found = threads.submit(make, pool, cpp(ENDLESS), Limits(build_s=200.0))
            pool.close()
            try:
                assert isinstance(found.result(20.0), NotBuilt)
            except SandboxError as error:
                assert "closed" in str(error)

    def test_is_for_what_the_tvm_ffi_builder_compiles_alone(self, pool: Pool) -> None:
        python = solution("def run(x):\n    return x * 2\n")
        through_torch = cpp()
        through_torch.spec.binding = SupportedBindings.TORCH
        for other in (python, solution("x = 1\n", language="triton"), through_torch):
            assert not is_built_apart(other)
            assert make(pool, other) is None


@pytest.fixture(scope="module")
def session() -> Generator[LocalSession]:
    with opened(task(language="cpp"), Limits(build_s=20.0, first_call_s=8.0, call_s=3.0)) as found:
        yield found


@pytest.mark.slow
@needs_compiler
class TestCandidatesInCpp:
    def judged(self, session: LocalSession, top: str) -> Evaluation:
        return session.evaluate(cpp(top), CORRECTNESS)

    def test_that_builds_is_judged(self, session: LocalSession) -> None:
        assert self.judged(session, "").outcome is Outcome.CORRECT_NOT_MEASURED

    def test_that_does_not_compile_is_told_what_the_compiler_said(
        self, session: LocalSession
    ) -> None:
        found = self.judged(session, "undeclared;")
        assert found.outcome is Outcome.COMPILE_ERROR
        assert "kernel.cpp:5:1: error: 'undeclared'" in found.message.replace("‘", "'").replace(
            "’", "'"
        )


CUDA = """
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/function.h>

__global__ void kernel(const float* x, float* y) { y[threadIdx.x] = 2 * x[threadIdx.x]; }

struct Asks {
  int count = 0;
  Asks() { if (cudaGetDeviceCount(&count) != cudaSuccess) __builtin_trap(); }
} asks;

void run(tvm::ffi::TensorView x, tvm::ffi::TensorView y) {
  kernel<<<1, 32>>>(static_cast<float*>(x.data_ptr()), static_cast<float*>(y.data_ptr()));
}

TVM_FFI_DLL_EXPORT_TYPED_FUNC(run, run);
"""


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
@pytest.mark.skipif(find_cuda() is None, reason="no nvcc on this machine")
@pytest.mark.parametrize(
    ("entry", "outcome"),
    [("run", Outcome.BUILT_NOT_RUN), ("other", Outcome.COMPILE_ERROR)],
)
def test_cuda_is_built_without_a_gpu_although_it_asks_for_one_when_loaded(
    entry: str, outcome: Outcome
) -> None:
    candidate = solution(CUDA, language="cuda", passing=True, entry=f"kernel.cu::{entry}")
    with opened(task(target="H100", language="cuda"), Limits()) as session:
        assert session.evaluate(candidate, CORRECTNESS).outcome is outcome
