"""Which of several attempts is best: correct before failed, complete before partial, then whatever
was promoted over what was best until then."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kernel_generator.domain.attempt import Attempt


def best_index(history: Sequence[Attempt]) -> int | None:
    """Index of the best attempt that may be returned; None where there is none."""
    best: int | None = None
    for index, attempt in enumerate(history):
        if attempt.outcome.is_result and (best is None or _beats(attempt, history[best])):
            best = index
    return best


def _beats(attempt: Attempt, best: Attempt) -> bool:
    mine, its = attempt.evaluation, best.evaluation
    if mine is None or its is None:
        return its is None and mine is not None
    if mine.complete != its.complete:
        return mine.complete
    if mine.promoted is not None:
        return mine.promoted
    # The incumbent could not be run beside it: what both were measured against has to do.
    return (attempt.speedup or 0.0) > (best.speedup or 0.0)
