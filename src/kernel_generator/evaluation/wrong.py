"""How a call is found wrong: raised deep down in a bench, a record at its border."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kernel_generator.domain.evaluation import Mismatch
    from kernel_generator.domain.outcome import Outcome


class Wrong(Exception):
    """The candidate's call was judged wrong."""

    def __init__(
        self, outcome: Outcome, message: str, mismatches: tuple[Mismatch, ...] = ()
    ) -> None:
        super().__init__(message)
        self.outcome = outcome
        self.message = message
        self.mismatches = mismatches
