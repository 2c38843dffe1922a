"""The documented loop: draft, repair what failed with its own error, improve what passed.

A pure function of the history: no state, no clock, no chance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kernel_generator.domain.proposal import Proposal, Purpose
from kernel_generator.search.ranking import best_index

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kernel_generator.domain.attempt import Attempt

MAX_REPAIRS = 3
"""A failed candidate is repaired this often in a row before the loop turns away from it."""


@dataclass(frozen=True)
class Refine:
    """One candidate at a time, each from the last."""

    name: str = "refine"

    def propose(self, history: Sequence[Attempt]) -> Proposal:
        """What to ask for after this history."""
        number = len(history) + 1
        best = best_index(history)
        if not history:
            return Proposal(Purpose.DRAFT, number)
        last = history[-1]
        if last.outcome.is_candidates_fault and _repairs_in_a_row(history) < MAX_REPAIRS:
            return Proposal(Purpose.REPAIR, number, parent=len(history) - 1)
        if best is not None:
            return Proposal(Purpose.IMPROVE, number, parent=best)
        return Proposal(Purpose.DRAFT, number)


def _repairs_in_a_row(history: Sequence[Attempt]) -> int:
    count = 0
    for attempt in reversed(history):
        if attempt.proposal.purpose is not Purpose.REPAIR:
            break
        count += 1
    return count
