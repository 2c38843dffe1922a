"""Turns what a worker answered into an outcome and a message. The one place that does so."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from kernel_generator.domain.outcome import Outcome
from kernel_generator.sandbox.orders import Died, Done, Exceeded, Failed, TimedOut
from kernel_generator.sandbox.wire import Fault

if TYPE_CHECKING:
    from kernel_generator.sandbox.orders import Answer

_BY_FAULT = {
    Fault.BUILD: Outcome.COMPILE_ERROR,
    Fault.RUN: Outcome.RUNTIME_ERROR,
    Fault.RESOURCE: Outcome.RESOURCE_LIMIT,
    Fault.NOT_RUNNABLE: Outcome.NOT_RUN,
    Fault.SHAPE: Outcome.WRONG_SHAPE,
    Fault.DTYPE: Outcome.WRONG_DTYPE,
    Fault.PROTOCOL: Outcome.TAMPERED,
    # Asked of references only.
    Fault.NOT_WIDE: Outcome.NOT_RUN,
}
_SIGKILL = -9
_WANTS_CUDA = ("not compiled with CUDA", "no NVIDIA driver", "No CUDA GPUs")
_BUILDERS_WORDS = re.compile(
    r"^\S*BuildError: Failed importing module '[^']*' from sources: ", re.ASCII
)
"""FlashInfer-Bench's name for the module it made of a reference means nothing to a person."""


OF_SIZE = (Outcome.TIMEOUT, Outcome.RESOURCE_LIMIT, Outcome.CRASHED)
"""How what is too large for a machine ends."""


def of_build(answer: Answer) -> tuple[Outcome, str]:
    """Outcome and message of a failed PREPARE."""
    outcome, message = of_run(answer)
    if isinstance(answer, TimedOut):
        message = f"building took longer than {answer.limit_s:g} s"
    elif isinstance(answer, Died):
        message = f"while the source was being built or imported, {answer.text}"
    return outcome, message


def of_run(answer: Answer) -> tuple[Outcome, str]:
    """Outcome and message of a failed call."""
    match answer:
        case Failed(fault, text):
            return _BY_FAULT[fault], text
        case Died():
            # SIGKILL that the judge did not send is the kernel's out-of-memory killer.
            killed = answer.returncode == _SIGKILL
            return (Outcome.RESOURCE_LIMIT if killed else Outcome.CRASHED), answer.text
        case Exceeded(what):
            return Outcome.RESOURCE_LIMIT, f"it held {what}, and was ended"
        case TimedOut(limit):
            return Outcome.TIMEOUT, f"a call took longer than {limit:g} s"
        case Done():
            raise ValueError("nothing failed")


def may_be_size(answer: Answer) -> bool:
    """True where a smaller workload might not have failed so: time, memory or a dead process."""
    return of_run(answer)[0] in OF_SIZE


def lacks_driver(message: str) -> bool:
    """True where a build failed only because a library of the GPU's driver is missing."""
    return "libcuda.so" in message and "cannot open shared object" in message


def last_line(answer: Answer) -> str:
    """The most telling line of a failure, for a sentence."""
    _, message = of_run(answer)
    if any(sign in message for sign in _WANTS_CUDA):
        return "it needs a CUDA GPU, and there is none here"
    lines = [line.strip() for line in message.strip().splitlines() if line.strip()]
    return _BUILDERS_WORDS.sub("", lines[-1]) if lines else message
