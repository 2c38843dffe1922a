"""The verdict on a call under compute-sanitizer, and the way there with a program in its place."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from kernel_generator.domain.outcome import Outcome
from kernel_generator.evaluation import memcheck
from kernel_generator.evaluation.memcheck import check_memory, conclude, find_sanitizer
from kernel_generator.evaluation.wrong import Wrong
from kernel_generator.sandbox.isolation import Level
from kernel_generator.sandbox.orders import Died, Done, Exceeded, Failed, TimedOut
from kernel_generator.sandbox.wire import Fault
from tests.evaluation.finalists import finalist
from tests.evaluation.judging import solution, task, workload

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from kernel_generator.evaluation.finalist import Finalist
    from kernel_generator.sandbox.orders import Answer

BEGUN = "========= COMPUTE-SANITIZER\n"
CLEAN = BEGUN + "========= ERROR SUMMARY: 0 errors\n"
REPORT = """========= COMPUTE-SANITIZER
========= Invalid __global__ write of size 4 bytes
=========     at kernel+0x1a0 in main.py:7
=========     by thread (31,0,0) in block (0,0,0)
=========     Access to 0x7f3b4a000200 is out of bounds
=========     and is 1 bytes after the nearest allocation at 0x7f3b4a000000 of size 512 bytes
=========
========= ERROR SUMMARY: 1 error
"""
DONE, ENDED = Done(0.1), Died(0)
LAUNCH_FAILURE = Failed(
    Fault.RUN,
    'Traceback (most recent call last):\n  File "main.py", line 3\n'
    "torch.AcceleratorError: CUDA error: unspecified launch failure\n"
    "For debugging consider passing CUDA_LAUNCH_BLOCKING=1\n",
)


@pytest.mark.parametrize(
    ("answer", "ended", "log"),
    [
        (DONE, ENDED, REPORT),
        (DONE, Died(86), CLEAN),
        (Died(86), Died(86), BEGUN),
        (LAUNCH_FAILURE, Died(86), REPORT),
        (LAUNCH_FAILURE, ENDED, CLEAN),
        (DONE, ENDED, BEGUN + "========= ERROR SUMMARY: 12 errors\n"),
        (TimedOut(9.0), Died(-9), REPORT),
    ],
    ids=["report", "status", "died", "all", "answer", "summary", "report and late"],
)
def test_an_invalid_access_is_out_of_bounds(
    answer: Answer, ended: Died | TimedOut, log: str
) -> None:
    with pytest.raises(Wrong) as found:
        conclude(answer, ended, log)
    assert found.value.outcome is Outcome.OUT_OF_BOUNDS


def test_the_first_report_is_told() -> None:
    with pytest.raises(Wrong) as found:
        conclude(LAUNCH_FAILURE, Died(86), REPORT)
    assert found.value.message == (
        "compute-sanitizer memcheck finds an invalid memory access: Invalid __global__ write of "
        "size 4 bytes, at kernel+0x1a0 in main.py:7, by thread (31,0,0) in block (0,0,0), Access "
        "to 0x7f3b4a000200 is out of bounds, and is 1 bytes after the nearest allocation at "
        "0x7f3b4a000000 of size 512 bytes"
    )


def test_without_a_report_the_error_is_told() -> None:
    with pytest.raises(Wrong, match=r"CUDA error: unspecified launch failure$"):
        conclude(LAUNCH_FAILURE, ENDED, CLEAN)


def test_a_call_that_is_done_without_a_report_passes() -> None:
    assert conclude(DONE, ENDED, "hello\n" + CLEAN).passed is True


@pytest.mark.parametrize(
    ("answer", "ended", "log", "reason"),
    [
        ("it does not start under it: the process exited with status 1", ENDED, "", "not start"),
        (TimedOut(120.0), Died(-9), BEGUN, "longer than 120 s"),
        (DONE, TimedOut(3.0), CLEAN, "longer than 120 s"),
        (Died(-11), Died(-11), BEGUN, "SIGSEGV"),
        (Exceeded("more than 8.0 GiB of memory"), Died(-9), BEGUN, "more than 8.0 GiB"),
        (Failed(Fault.RESOURCE, "OutOfMemoryError: out of memory"), ENDED, CLEAN, "out of memory"),
        (Failed(Fault.RUN, "RuntimeError: not supported"), ENDED, CLEAN, "not supported"),
        (DONE, ENDED, CLEAN + "========= Internal Sanitizer Error: patching\n", "patching"),
        (DONE, ENDED, BEGUN + "========= Error: No attachable process found.\n", "attachable"),
        (DONE, ENDED, "", "did not say that it was there"),
        (DONE, Died(255), CLEAN, "status 255"),
    ],
)
def test_what_says_nothing_of_memory_is_no_verdict(
    answer: Answer | str, ended: Died | TimedOut, log: str, reason: str
) -> None:
    check = conclude(answer, ended, log)
    assert check.passed is None
    assert reason in check.message


@pytest.fixture(scope="module")
def right() -> Generator[Finalist]:
    candidate = """
import os

def run(x):
    if os.environ.get("PYTORCH_NO_CUDA_MEMORY_CACHING") == "1":
        assert x.untyped_storage().nbytes() == x.nbytes
    return x * 2
"""
    with finalist(task(), solution(candidate), level=Level.PROCESS) as found:
        yield found


class TestWithAProgramInItsPlace:
    """A shell script that starts what it is given as the tool does, without looking at it."""

    @staticmethod
    def install(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> Path:
        program = folder / "bin" / "compute-sanitizer"
        program.parent.mkdir(parents=True)
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setenv("CUDA_HOME", str(folder))
        monkeypatch.setenv("PATH", os.defpath)
        return program

    START = (
        'echo "========= COMPUTE-SANITIZER"; while [ "$1" != -- ]; do shift; done; shift; "$@"; '
    )

    def test_a_call_passes_that_stays_within_tensors_of_their_own_size(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, right: Finalist
    ) -> None:
        self.install(tmp_path, monkeypatch, self.START)
        check = check_memory(right, workload())
        assert check.passed is True, check.message
        assert check.message == "no invalid access in one call with n=5"

    def test_its_exit_status_after_the_childs_end_is_seen(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, right: Finalist
    ) -> None:
        self.install(tmp_path, monkeypatch, self.START + "exit 86")
        with pytest.raises(Wrong, match="invalid memory access"):
            check_memory(right, workload())

    @pytest.mark.parametrize(
        ("script", "reason"),
        [("exit 1", "status 1"), ("exec sleep 60", "took longer than")],
        ids=["ends", "hangs"],
    )
    def test_one_that_does_not_start_the_child_is_no_verdict(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        right: Finalist,
        script: str,
        reason: str,
    ) -> None:
        self.install(tmp_path, monkeypatch, script)
        check = check_memory(right, workload(), limit_s=1.0)
        assert check.passed is None
        assert reason in check.message

    def test_the_tool_itself_is_started_where_a_script_stands_for_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        script = self.install(tmp_path, monkeypatch, "exit 1")
        assert find_sanitizer() == script
        itself = tmp_path / "compute-sanitizer" / "compute-sanitizer"
        itself.parent.mkdir()
        itself.write_text("")
        itself.chmod(0o755)
        assert find_sanitizer() == itself


def test_without_the_tool_there_is_no_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, right: Finalist
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.delenv("CUDA_PATH", raising=False)
    monkeypatch.setattr(memcheck, "_USUAL", tmp_path)
    check = check_memory(right, workload())
    assert check.passed is None
    assert "not installed" in check.message
