"""Compiles CUDA and C++ candidates in sandboxes of their own, which see no GPU.

Takes no turn at a device: candidates are built on CPU cores while another one is timed. Safe to
use from several threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from flashinfer_bench.data import SupportedBindings, SupportedLanguages

from kernel_generator.domain.errors import SandboxError
from kernel_generator.sandbox.artefact import Artefact
from kernel_generator.sandbox.orders import Done, Failed
from kernel_generator.sandbox.wire import Fault

if TYPE_CHECKING:
    from flashinfer_bench.data import Solution

    from kernel_generator.evaluation.judge import Limits
    from kernel_generator.evaluation.pool import Pool
    from kernel_generator.sandbox.orders import Answer, Order

_COMPILED = (SupportedLanguages.CUDA, SupportedLanguages.CPP)


@dataclass(frozen=True)
class NotBuilt:
    """Why there is nothing to load."""

    answer: Answer
    """The build child's, never `Done`."""
    log: str
    """What it printed, clipped."""


def is_built_apart(solution: Solution) -> bool:
    """True for what the TVM-FFI builder compiles.

    PyTorch's own extension builder can only compile and load in one: such solutions, and those
    that are compiled just in time, build in the sandbox that runs them.
    """
    return solution.spec.language in _COMPILED and solution.spec.binding in (
        None,
        SupportedBindings.TVM_FFI,
    )


def build(
    pool: Pool, order: Order, limits: Limits, solution: Solution
) -> Artefact | NotBuilt | None:
    """Compile the solution of an order in a fresh child. The caller closes the artefact, which is
    for `Worker.prepare`; None where the solution is not built apart.

    Raises `SandboxError` where no process can be started, or the pool is closed.
    """
    if not is_built_apart(solution):
        return None
    try:
        artefact = Artefact.create()
    except OSError as error:
        raise SandboxError(
            f"no memory can be had for what is built: {error}; free memory or file handles, and "
            "try again"
        ) from error
    try:
        worker = pool.start_builder(solution.spec.language.value)
        try:
            answer = worker.build(order, artefact, limits.build_s)
        finally:
            pool.stop(worker)
    except BaseException:
        artefact.close()
        raise
    if isinstance(answer, Done) and not artefact.seal():
        answer = Failed(Fault.PROTOCOL, "what was built could still be changed after its build")
    if isinstance(answer, Done):
        return artefact
    artefact.close()
    return NotBuilt(answer, worker.log)
