"""CUDA graph capture and memcheck, as only a CUDA GPU can show them. Without one these fail."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kernel_generator.domain.outcome import Outcome
from kernel_generator.evaluation.certification import certify
from kernel_generator.evaluation.device import describe_device
from kernel_generator.evaluation.graphs import check_capture
from kernel_generator.evaluation.judge import Limits
from kernel_generator.evaluation.memcheck import check_memory, find_sanitizer
from kernel_generator.evaluation.wrong import Wrong
from tests.evaluation.finalists import finalist
from tests.evaluation.judging import solution, task, workload

if TYPE_CHECKING:
    from kernel_generator.domain.evaluation import Check

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(600)]

LIMITS = Limits(build_s=120.0, first_call_s=60.0, call_s=30.0)
HEAD = """
import torch
import triton
import triton.language as tl

@triton.jit
def double(x, y, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + at, tl.load(x + at, mask=at < n) * 2, mask=at < n)

@triton.jit
def unmasked(x, y, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + at, tl.load(x + at) * 2, mask=at < n)

@triton.jit
def beyond(y, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + at, tl.full((BLOCK,), 1.0, tl.float32), mask=at < n + 1)

def launch(kernel, x, y):
    kernel[(triton.cdiv(x.numel(), 128),)](x, y, x.numel(), BLOCK=128)
"""
SMALL = workload("small", n=5)
PASSING = "\ndef run(x, y):\n    launch(double, x, y)\n"
RETURNING = """
def run(x):
    y = torch.empty_like(x)
    launch(double, x, y)
    return y
"""
SYNCING = """
def run(x, y):
    launch(double, x, y)
    if torch.isnan(y).any().item():
        y.zero_()
"""
REMEMBERING = """
kept = {}

def run(x, y):
    # What the first calls computed, whatever the input is by now.
    if "y" not in kept:
        kept["y"] = x * 2
    y.copy_(kept["y"])
"""
SIDE_STREAM = """
def run(x, y):
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        launch(double, x, y)
    torch.cuda.current_stream().wait_stream(side)
"""
OVERRUN = """
def run(x, y):
    launch(double, x, y)
    scratch = torch.zeros(x.numel(), device=x.device)
    # One element too many, into what torch's cache makes harmless otherwise.
    beyond[(triton.cdiv(x.numel() + 1, 128),)](scratch, x.numel(), BLOCK=128)
"""
OVERREAD = "\ndef run(x, y):\n    launch(unmasked, x, y)\n"


def capture(source: str, *, passing: bool = True) -> Check:
    candidate = solution(HEAD + source, language="triton", passing=passing)
    what = task(searched=[SMALL], target=target(), language="triton")
    with finalist(what, candidate, device="cuda:0", limits=LIMITS) as one:
        return check_capture(one, SMALL)


def target() -> str:
    name = describe_device("cuda:0").name
    return next(known for known in ("H100", "H200", "A100", "B200") if known in name)


class TestCapture:
    @pytest.mark.parametrize(
        ("source", "passing"),
        [(PASSING, True), (RETURNING, False)],
        ids=["given its outputs", "returning them"],
    )
    def test_a_kernel_that_only_launches_is_captured(self, source: str, passing: bool) -> None:
        check = capture(source, passing=passing)
        assert check.passed is True, check.message

    def test_a_side_stream_that_is_joined_is_captured(self) -> None:
        check = capture(SIDE_STREAM)
        assert check.passed is True, check.message

    def test_a_kernel_that_waits_for_the_device_is_not(self) -> None:
        check = capture(SYNCING)
        assert check.passed is False
        assert "cannot be captured" in check.message
        assert "captur" in check.message.split(":", 1)[1]

    def test_a_replay_that_does_not_see_new_inputs_is_told(self) -> None:
        check = capture(REMEMBERING)
        assert check.passed is False
        assert "wrong values in 'y' when the captured call is replayed" in check.message


class TestMemcheck:
    """These need compute-sanitizer, which comes with the CUDA toolkit."""

    @staticmethod
    def check(source: str) -> Check:
        assert find_sanitizer() is not None, "install compute-sanitizer (CUDA toolkit)"
        what = task(searched=[SMALL], target=target(), language="triton")
        candidate = solution(HEAD + source, language="triton", passing=True)
        with finalist(what, candidate, device="cuda:0", limits=LIMITS) as one:
            return check_memory(one, SMALL)

    def test_a_right_kernel_passes_in_the_strict_sandbox(self) -> None:
        check = self.check(PASSING)
        assert check.passed is True, check.message

    def test_a_write_beyond_its_own_temporary_is_found(self) -> None:
        with pytest.raises(Wrong) as found:
            self.check(OVERRUN)
        assert found.value.outcome is Outcome.OUT_OF_BOUNDS
        assert "Invalid __global__ write" in found.value.message

    def test_a_read_beyond_an_input_is_found(self) -> None:
        # 64 of the last block's 128 elements are beyond the 5 * 64 of the input.
        with pytest.raises(Wrong) as found:
            self.check(OVERREAD)
        assert "Invalid __global__ read" in found.value.message


def test_all_checks_of_a_right_kernel_are_made() -> None:
    candidate = solution(HEAD + PASSING, language="triton", passing=True)
    what = task(searched=[SMALL], target=target(), language="triton")
    with finalist(what, candidate, device="cuda:0", limits=LIMITS) as one:
        found = certify(one)
    assert found.failure is None
    assert [(c.name, c.passed) for c in found.checks] == [
        ("edge sizes", True),
        ("CUDA graph capture", True),
        ("compute-sanitizer memcheck", True),
    ], found.checks


def test_an_invalid_access_fails_the_certification() -> None:
    candidate = solution(HEAD + OVERRUN, language="triton", passing=True)
    what = task(searched=[SMALL], target=target(), language="triton")
    with finalist(what, candidate, device="cuda:0", limits=LIMITS) as one:
        found = certify(one)
    assert found.failure is not None
    assert found.failure.outcome is Outcome.OUT_OF_BOUNDS
    assert found.failure.uuid == "small"
    assert found.checks[-1].passed is False
