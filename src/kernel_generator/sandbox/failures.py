"""What a child tells of a failure: whose it is, and its text."""

from __future__ import annotations

import traceback
from dataclasses import dataclass

from kernel_generator.sandbox import compiling, wire
from kernel_generator.sandbox.wire import Fault, Kind

_BUILDING = (Kind.PREPARE, Kind.BUILD)
_EXHAUSTED = (
    "can't allocate",
    "std::bad_alloc",
    "Cannot allocate memory",
    "No space left on device",
    "Resource temporarily unavailable",
    "can't start new thread",
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)
_NEEDS_GPU = (
    "not compiled with CUDA",
    "no NVIDIA driver",
    "No CUDA GPUs",
    # torch has no such operation for this dtype on a CPU.
    "not implemented for '",
)
_NOT_COMPILED = (
    "CompilationError",
    "PTXASError",
    "CompileTimeAssertionFailure",
    "OutOfResources",
)
"""Triton's, by name: it is imported by candidates that need it."""


class Mismatch(Exception):
    """The candidate returned something of the wrong shape, count, dtype or type."""

    def __init__(self, fault: Fault, text: str) -> None:
        super().__init__(text)
        self.fault = fault


@dataclass(frozen=True)
class Failing:
    """What was going on when something failed."""

    kind: Kind
    """The order that was being followed."""
    interpreted: bool
    """Triton is interpreted."""
    stands_in: bool
    """The CPU stands in for a GPU."""


def failed(fault: Fault, text: str) -> bytes:
    """The payload of a FAILED frame."""
    return bytes([fault]) + text.encode("utf-8", "replace")[: wire.MAX_TEXT]


def explain(error: BaseException, at: Failing) -> bytes:
    """The payload of a FAILED frame, also for errors that cannot be looked at."""
    try:
        return failed(_classify(error, at), _describe(error))
    except BaseException:  # noqa: BLE001 - the candidate wrote the error's class
        fault = Fault.BUILD if at.kind in _BUILDING else Fault.RUN
        return failed(fault, f"an error that cannot be shown: {type(error).__name__}")


def _classify(error: BaseException, at: Failing) -> Fault:
    text = str(error)
    name = type(error).__name__
    if isinstance(error, MemoryError) or name in ("OutOfMemoryError", "bad_alloc"):
        return Fault.RESOURCE
    if any(sign in text for sign in _EXHAUSTED):
        return Fault.RESOURCE
    if at.interpreted:
        from kernel_generator.sandbox.interpreter import is_interpreters_fault  # noqa: PLC0415

        if is_interpreters_fault(error):
            return Fault.NOT_RUNNABLE
    if at.stands_in and any(sign in text for sign in _NEEDS_GPU):
        return Fault.NOT_RUNNABLE
    if at.kind in _BUILDING or name in _NOT_COMPILED:
        return Fault.BUILD
    return Fault.RUN


def _describe(error: BaseException) -> str:
    # A compiler's output is the builder's whole message; the frames around it are not the
    # candidate's, and its causes say the same again.
    by_compiler = isinstance(error, compiling.BuildError) or (
        type(error).__name__ == "BuildError" and "ninja" in str(error)
    )
    text = str(error) if by_compiler else "".join(traceback.format_exception(error))
    if len(text) > wire.MAX_TEXT:
        half = wire.MAX_TEXT // 2
        text = text[:half] + "\n[...]\n" + text[-half:]
    return text
