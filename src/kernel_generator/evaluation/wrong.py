"""How a call is found wrong: raised deep down in a bench, a record at its border."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernel_generator.domain.outcome import Outcome
from kernel_generator.sandbox.standstill import Restless

if TYPE_CHECKING:
    from kernel_generator.domain.evaluation import Mismatch
    from kernel_generator.sandbox.worker import Worker


class Wrong(Exception):
    """The candidate's call was judged wrong."""

    def __init__(
        self, outcome: Outcome, message: str, mismatches: tuple[Mismatch, ...] = ()
    ) -> None:
        super().__init__(message)
        self.outcome = outcome
        self.message = message
        self.mismatches = mismatches


def hold(worker: Worker) -> None:
    """Let a child stand still until its next order. Raises `Wrong` where it does not."""
    try:
        worker.stand_still()
    except Restless as restless:
        raise Wrong(Outcome.TAMPERED, str(restless)) from restless
