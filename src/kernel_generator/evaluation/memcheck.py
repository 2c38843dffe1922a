"""One call of a candidate under compute-sanitizer's memcheck, in a fresh child of its own.

Every tensor, the candidate's temporaries included, is an allocation of its own there, so that an
access beside one is found, reads too, whatever lies beside it otherwise. What counts is how the
call ends and the tool's exit status; what is printed is further evidence, which a candidate can
forge only against itself. A candidate that looks for the tool can behave while it is there: this
finds mistakes, it does not stop an adversary.

The suite's other tools are left out. initcheck (reads of memory that nobody wrote) and racecheck
(hazards in shared memory) are slower still, and what they find changes results, which the judge
compares, on poisoned outputs and twice.

Options and messages: NVIDIA's Compute Sanitizer user manual, "Command Line Options" and "Memcheck
Tool".
"""

from __future__ import annotations

import os
import re
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from kernel_generator.domain.errors import SandboxError
from kernel_generator.domain.evaluation import Check
from kernel_generator.domain.outcome import Outcome
from kernel_generator.evaluation import outcomes
from kernel_generator.evaluation.finalist import axes_of
from kernel_generator.evaluation.inputs import InputsUnavailable
from kernel_generator.evaluation.supply import Stopped
from kernel_generator.evaluation.toolchain import build_environment
from kernel_generator.evaluation.wrong import Wrong
from kernel_generator.sandbox.orders import Died, Done, Failed, TimedOut, TrainOrder
from kernel_generator.sandbox.wire import Train

if TYPE_CHECKING:
    from flashinfer_bench import Workload

    from kernel_generator.evaluation.finalist import Finalist
    from kernel_generator.sandbox.orders import Answer, Exceeded
    from kernel_generator.sandbox.worker import Worker

NAME = "compute-sanitizer memcheck"
LIMIT_S = 120.0
"""For all of it: starting, building, one call."""
_LEAST_S = 0.001
_ERROR_STATUS = 86
"""Exit status by which the tool says that it found errors. Below 128, where a shell's numbers for
signals begin."""
_TOOL = "compute-sanitizer"
_USUAL = Path("/usr/local/cuda")
_OPTIONS = (
    *("--tool", "memcheck"),
    *("--error-exitcode", str(_ERROR_STATUS)),
    # An invalid access ends the context, so that the call fails for all to see.
    *("--destroy-on-device-error", "context"),
    # torch and Triton try calls that may fail; such an error is none of memory.
    *("--report-api-errors", "no"),
    # Compilers that the child starts are of no interest.
    *("--target-processes", "application-only"),
    *("--require-cuda-init", "no"),
    # The judge's own limit ends it.
    *("--launch-timeout", "0"),
    # Without it, what is beside one allocation may be the next.
    *("--padding", "512"),
    *("--show-backtrace", "no"),
    *("--print-limit", "10"),
    "--",
)
_EXACT = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
"""torch cuts tensors out of larger pieces of memory otherwise."""

_BEGUN = "========= COMPUTE-SANITIZER"
_REPORT = re.compile(r"^=+ (?:Invalid |Malloc/Free error|Misaligned |Out-of-range )", re.MULTILINE)
_COUNTED = re.compile(r"^=+ ERROR SUMMARY: [1-9]", re.MULTILINE)
_TROUBLE = re.compile(r"^=+ ((?:Internal Sanitizer )?Error: .*)$", re.MULTILINE)
_REPORT_LINES = 6
_ACCESS = (
    "unspecified launch failure",
    "an illegal memory access",
    "misaligned address",
    "invalid program counter",
    "an illegal instruction",
)
"""What CUDA calls an error that memcheck made of an invalid access, or the hardware did."""


def find_sanitizer() -> Path | None:
    """The tool's program, on the PATH or in the CUDA toolkit; None where there is none."""
    named = [Path(os.environ[v]) for v in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(v)]
    on_path = shutil.which(_TOOL)
    found = [Path(on_path)] if on_path else []
    found += [folder / "bin" / _TOOL for folder in (*named, _USUAL)]
    for program in found:
        if program.is_file() and os.access(program, os.X_OK):
            real = program.resolve()
            # What stands in the toolkit's bin/ is a script that starts this one.
            itself = real.parent.parent / _TOOL / _TOOL
            return itself if itself.is_file() and os.access(itself, os.X_OK) else real
    return None


def check_memory(finalist: Finalist, workload: Workload, limit_s: float = LIMIT_S) -> Check:
    """One call on inputs as the workload describes them.

    Raises `Wrong` (OUT_OF_BOUNDS) where the tool finds an invalid access.
    """
    program = find_sanitizer()
    if program is None:
        return _not_made(f"{_TOOL} is not installed: it comes with the CUDA toolkit")
    language = build_environment(finalist.task.target, finalist.language)
    try:
        worker = finalist.pool.start({**language, **_EXACT}, under=(str(program), *_OPTIONS))
    except SandboxError as error:
        return _not_made(str(error))
    deadline = time.monotonic() + limit_s
    try:
        answer = _drive(finalist, workload, worker, deadline)
        ended = worker.hang_up(_left(deadline))
    except InputsUnavailable as error:
        return _not_made(str(error))
    except torch.OutOfMemoryError:
        return _not_made("there is no memory left on the GPU")
    finally:
        finalist.pool.stop(worker)
    check = conclude(answer, ended, worker.log)
    if check.passed:
        return check.model_copy(update={"message": f"{check.message} with {axes_of(workload)}"})
    return check


def _drive(finalist: Finalist, workload: Workload, worker: Worker, deadline: float) -> Answer | str:
    """What became of the call, or why it was not made."""
    answer = worker.prepare(finalist.order, _left(deadline))
    if not isinstance(answer, Done):
        return _before("it does not start", answer)
    try:
        with finalist.trials.bound(worker, workload, 0) as arena:
            slot = arena.layout.slot
            # Nothing of the candidate's is called: what fails here is not its fault.
            answer = worker.train(slot, TrainOrder(1, Train.EMPTY), _left(deadline))
            if not isinstance(answer, Done):
                return _before("shared memory cannot be used", answer)
            return worker.run_apart(slot, _left(deadline))
    except Stopped as stopped:
        return _before("shared memory cannot be used", stopped.answer)


def _left(deadline: float) -> float:
    return max(deadline - time.monotonic(), _LEAST_S)


def _before(what: str, answer: Answer) -> str:
    if isinstance(answer, TimedOut):
        return f"took longer than {LIMIT_S:g} s"
    return f"{what} under it: {outcomes.last_line(answer)}"


def conclude(answer: Answer | str, ended: Died | Exceeded | TimedOut, log: str) -> Check:
    """The verdict on a call, or on the reason why there was none; `ended` is the tool's end.

    Raises `Wrong` (OUT_OF_BOUNDS) where there was an invalid access.
    """
    if isinstance(answer, str):
        return _not_made(answer)
    by_error = isinstance(answer, Failed) and any(sign in answer.text for sign in _ACCESS)
    by_status = Died(_ERROR_STATUS) in (answer, ended)
    report = _REPORT.search(log)
    if by_error or by_status or report or _COUNTED.search(log):
        raise Wrong(Outcome.OUT_OF_BOUNDS, _found(log, answer))
    if isinstance(answer, TimedOut) or isinstance(ended, TimedOut):
        return _not_made(f"took longer than {LIMIT_S:g} s")
    if not isinstance(answer, Done):
        return _not_made(f"the call fails under it: {outcomes.last_line(answer)}")
    trouble = _TROUBLE.search(log)
    if trouble is not None:
        return _not_made(trouble.group(1))
    if _BEGUN not in log:
        return _not_made("it did not say that it was there")
    if ended != Died(0):
        return _not_made(f"it did not end as it should: {outcomes.last_line(ended)}")
    return Check(name=NAME, passed=True, message="no invalid access in one call")


def _found(log: str, answer: Answer) -> str:
    report = _REPORT.search(log)
    told: list[str] = []
    if report is not None:
        for line in log[report.start() :].splitlines()[:_REPORT_LINES]:
            said = line.strip("=").strip()
            if not said or not line.startswith("="):
                break
            told.append(said)
    elif isinstance(answer, Failed):
        told = [line for line in answer.text.splitlines() if any(sign in line for sign in _ACCESS)]
    return f"{NAME} finds an invalid memory access: " + (", ".join(told) or "it printed no report")


def _not_made(reason: str) -> Check:
    return Check(name=NAME, passed=None, message=reason)
