"""Whether a call can be captured into a CUDA graph, and is right when that is replayed.

Serving engines replay graphs. A kernel that waits for the device, or decides something on the host,
is still a kernel: what is found here is told and rejects nothing.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import torch

from kernel_generator.domain.evaluation import Check
from kernel_generator.evaluation import outcomes
from kernel_generator.evaluation.inputs import InputsUnavailable
from kernel_generator.evaluation.memory import poison
from kernel_generator.evaluation.supply import Stopped
from kernel_generator.evaluation.trials import ReferenceStopped
from kernel_generator.evaluation.wrong import Wrong, hold
from kernel_generator.sandbox.orders import Done, Failed

if TYPE_CHECKING:
    from flashinfer_bench import Workload

    from kernel_generator.evaluation.finalist import Finalist
    from kernel_generator.sandbox.orders import Answer

NAME = "CUDA graph capture"
_CAPTURED, _REPLAYED = 0, 1
"""Numbers of the inputs that the call is captured on, and that the graph is replayed on."""
_ERROR = re.compile(r"^[\w.]*(?:Error|Exception|Interrupt|Exit)(?:: .*)?$")
"""How Python begins to tell an exception. torch lets lines of advice follow."""


def check_capture(finalist: Finalist, workload: Workload) -> Check:
    """Capture one call in the candidate's child, give its buffers other inputs and poisoned
    outputs, replay, and compare. Needs a GPU."""
    try:
        return _capture(finalist, workload)
    except Wrong as wrong:
        return Check(name=NAME, passed=False, message=wrong.message)
    except ReferenceStopped as stopped:
        reason = f"the reference fails: {outcomes.last_line(stopped.answer)}"
    except Stopped as stopped:
        reason = f"the buffers cannot be shared: {outcomes.last_line(stopped.answer)}"
    except InputsUnavailable as error:
        reason = str(error)
    except torch.OutOfMemoryError:
        reason = "there is no memory left on the GPU"
    return Check(name=NAME, passed=None, message=reason)


def _capture(finalist: Finalist, workload: Workload) -> Check:
    trials, worker = finalist.trials, finalist.subject.worker
    with trials.bound(worker, workload, trials.number(_CAPTURED)) as arena:
        slot = arena.layout.slot
        answer = worker.capture(slot, finalist.limits.first_call_s)
        if not isinstance(answer, Done):
            return Check(name=NAME, passed=False, message=f"cannot be captured: {error_of(answer)}")
        block = trials.private(arena.layout)
        replayed = trials.number(_REPLAYED)
        trials.fill(block, workload, replayed)
        poison(block)
        arena.sets.copy_(block.sets)
        if trials.on_gpu:
            torch.cuda.current_stream().synchronize()
        answer = worker.replay(slot, finalist.limits.call_s)
        if not isinstance(answer, Done):
            return Check(
                name=NAME, passed=False, message=f"captured, but not replayed: {error_of(answer)}"
            )
        hold(worker)
        found = arena.bytes.clone()
        when = "when the captured call is replayed on other inputs"
        finalist.bench.findings.of_call(workload, replayed, block, found, when)
    return Check(name=NAME, passed=True, message="replayed on other inputs")


def error_of(answer: Answer) -> str:
    """The line of a failure that names the error."""
    if isinstance(answer, Failed):
        for line in reversed(answer.text.splitlines()):
            if _ERROR.match(line):
                return line
    return outcomes.last_line(answer)
