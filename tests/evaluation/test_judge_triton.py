"""Triton in its interpreter: right where it can be, and silent about what it cannot run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from kernel_generator.domain.outcome import Outcome
from tests.evaluation.judging import BRIEF, opened, solution, task

if TYPE_CHECKING:
    from collections.abc import Generator

    from kernel_generator.domain.evaluation import Evaluation
    from kernel_generator.evaluation.session import LocalSession

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="with a GPU, Triton compiles: the interpreter is not used"
)
pytest.importorskip("triton")

KERNEL = """
import triton
import triton.language as tl
from triton.language.extra import libdevice

@triton.jit
def kernel(x, y, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = at < n
    v = tl.load(x + at, mask=mask, other=0.0) * 2
    BODY
    tl.store(y + at, v, mask=mask)

def run(x, y):
    LAUNCH
"""
LAUNCH = "kernel[(triton.cdiv(x.numel(), 64),)](x, y, x.numel(), BLOCK=64)"


def kernel(body: str = "pass", launch: str = LAUNCH) -> str:
    return KERNEL.replace("BODY", body).replace("LAUNCH", launch)


@pytest.fixture(scope="module")
def session() -> Generator[LocalSession]:
    with opened(task(target="H100", language="triton")) as found:
        yield found


def judged(session: LocalSession, source: str) -> Evaluation:
    return session.evaluate(solution(source, language="triton", passing=True), BRIEF)


def test_a_right_kernel_is_correct_and_shows_no_speedup(session: LocalSession) -> None:
    found = judged(session, kernel())
    assert found.outcome is Outcome.CORRECT_NOT_MEASURED
    assert found.speedup is None
    assert all(w.timing is None and not w.speedups for w in found.workloads)


def test_a_wrong_kernel_is_wrong(session: LocalSession) -> None:
    assert judged(session, kernel("v = v + 1")).outcome is Outcome.WRONG_VALUES


def test_a_kernel_that_stores_past_its_output_is_seen(session: LocalSession) -> None:
    further = LAUNCH.replace("x.numel()", "(x.numel() + 9)")
    assert judged(session, kernel(launch=further)).outcome is Outcome.OUT_OF_BOUNDS


def test_what_the_interpreter_cannot_run_says_nothing_of_the_kernel(session: LocalSession) -> None:
    found = judged(session, kernel("v = libdevice.tanh(v)"))
    assert found.outcome is Outcome.NOT_RUN
    assert not found.outcome.is_candidates_fault


def test_the_kernels_own_errors_are_told(session: LocalSession) -> None:
    found = judged(session, kernel("v = tl.no_such_function(v)"))
    assert found.outcome is Outcome.RUNTIME_ERROR
    assert "no_such_function" in found.message
