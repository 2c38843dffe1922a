"""The judge on C++ for the CPU, and on what a machine without the target's GPU can say."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch

from kernel_generator.domain.outcome import Outcome
from kernel_generator.evaluation.judge import Limits
from kernel_generator.evaluation.toolchain import find_cuda
from tests.evaluation.judging import BRIEF, CORRECTNESS, TINY, opened, solution, task

if TYPE_CHECKING:
    from collections.abc import Generator

    from kernel_generator.domain.evaluation import Evaluation
    from kernel_generator.evaluation.session import LocalSession

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without one")

CPP = """
#include <vector>
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/error.h>
#include <tvm/ffi/function.h>

void run(tvm::ffi::TensorView x, tvm::ffi::TensorView y) {
  const float* in = static_cast<const float*>(x.data_ptr());
  float* out = static_cast<float*>(y.data_ptr());
  const int64_t n = y.size(0) * y.size(1);
  BODY
}

TVM_FFI_DLL_EXPORT_TYPED_FUNC(run, run);
"""


@pytest.fixture(scope="module")
def cpp_session() -> Generator[LocalSession]:
    with opened(task(language="cpp")) as found:
        yield found


def judged(session: LocalSession, body: str) -> Evaluation:
    source = CPP.replace("BODY", body)
    return session.evaluate(solution(source, language="cpp", passing=True), BRIEF)


@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler on this machine")
class TestCpp:
    @pytest.mark.slow
    def test_that_is_right_passes_and_says_what_its_build_needs(
        self, cpp_session: LocalSession
    ) -> None:
        found = judged(cpp_session, "for (int64_t i = 0; i < n; ++i) out[i] = 2 * in[i];")
        assert found.outcome is Outcome.PASSED
        assert found.speedup is not None
        assert "-march=native" in found.build_environment["CXX"]

    WRONG = (
        ("out[n + 3] = 0;", Outcome.OUT_OF_BOUNDS, "next to 'y'"),
        ("std::vector<char> all(1ull << 50); out[0] = all[7];", Outcome.RESOURCE_LIMIT, "alloc"),
        ('TVM_FFI_THROW(ValueError) << "mine";', Outcome.RUNTIME_ERROR, "ValueError: mine"),
        ("out[0] = undeclared;", Outcome.COMPILE_ERROR, "was not declared"),
        ('while (true) asm volatile("");', Outcome.TIMEOUT, "longer than 8 s"),
    )

    @pytest.mark.slow
    @pytest.mark.parametrize(("body", "outcome", "says"), WRONG, ids=[str(o) for _, o, _ in WRONG])
    def test_that_goes_wrong(
        self, cpp_session: LocalSession, body: str, outcome: Outcome, says: str
    ) -> None:
        found = judged(cpp_session, body)
        assert found.outcome is outcome
        assert says in found.message


SLOW_AT_FIRST = """
  static bool ready = false;
  if (!ready) std::this_thread::sleep_for(std::chrono::milliseconds(1500));
  ready = true;
  for (int64_t i = 0; i < n; ++i) out[i] = 2 * in[i];
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler on this machine")
@pytest.mark.parametrize(
    ("allowed_s", "outcome"), [(0.5, Outcome.TIMEOUT), (3.0, Outcome.CORRECT_NOT_MEASURED)]
)
def test_a_first_call_may_take_so_much_longer_than_a_later_one(
    allowed_s: float, outcome: Outcome
) -> None:
    source = "#include <chrono>\n#include <thread>\n" + CPP.replace("BODY", SLOW_AT_FIRST)
    tuning = solution(source, language="cpp", passing=True)
    with opened(task(language="cpp"), replace(TINY, getting_ready_s=allowed_s)) as session:
        found = session.evaluate(tuning, CORRECTNESS)
    assert found.outcome is outcome
    if outcome is Outcome.TIMEOUT:
        assert "its first call took 1." in found.message


@without_gpu
@pytest.mark.slow
@pytest.mark.skipif(find_cuda() is None, reason="no nvcc on this machine")
@pytest.mark.parametrize(
    ("statement", "outcome"),
    [("y[i] = 2 * x[i];", Outcome.BUILT_NOT_RUN), ("y[i] = nothing;", Outcome.COMPILE_ERROR)],
)
def test_cuda_is_compiled_for_its_target_and_not_run(statement: str, outcome: Outcome) -> None:
    source = """
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/function.h>

__global__ void kernel(const float* x, float* y) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  STATEMENT
}

void run(tvm::ffi::TensorView x, tvm::ffi::TensorView y) {
  kernel<<<1, 32>>>(static_cast<float*>(x.data_ptr()), static_cast<float*>(y.data_ptr()));
}

TVM_FFI_DLL_EXPORT_TYPED_FUNC(run, run);
"""
    candidate = solution(source.replace("STATEMENT", statement), language="cuda", passing=True)
    with opened(task(target="H100", language="cuda"), Limits()) as session:
        found = session.evaluate(candidate, BRIEF)
    assert found.outcome is outcome
    assert found.speedup is None
    assert found.build_environment["TVM_FFI_CUDA_ARCH_LIST"] == "9.0a"


@pytest.fixture(scope="module")
def session() -> Generator[LocalSession]:
    with opened(task(target="H100"), TINY) as found:
        yield found


@without_gpu
class TestPythonForAGpuThatIsNotHere:
    def test_is_checked_and_never_measured(self, session: LocalSession) -> None:
        found = session.evaluate(solution("def run(x):\n    return x * 2\n"), BRIEF)
        assert found.outcome is Outcome.CORRECT_NOT_MEASURED
        assert found.speedup is None
        assert all(w.timing is None for w in found.workloads)

    def test_is_wrong_where_it_is_wrong(self, session: LocalSession) -> None:
        found = session.evaluate(solution("def run(x):\n    return x * 3\n"), BRIEF)
        assert found.outcome is Outcome.WRONG_VALUES

    def test_is_not_blamed_for_what_only_the_gpu_can_do(self, session: LocalSession) -> None:
        source = "import torch\ndef run(x):\n    torch.cuda.get_device_properties(0)\n"
        found = session.evaluate(solution(source), CORRECTNESS)
        assert found.outcome is Outcome.NOT_RUN
