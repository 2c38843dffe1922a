"""Which of several attempts is best: correct before failed, complete before partial, then speed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kernel_generator.domain.attempt import Attempt


def searched_speedup(attempt: Attempt, searched: frozenset[str] | None = None) -> float | None:
    """Geometric-mean speedup over the reference on the searched workloads, or on all that were
    tried where `searched` is None; None where nothing was measured."""
    if attempt.evaluation is None:
        return None
    found = [
        w.speedups["reference"].value
        for w in attempt.evaluation.workloads
        if "reference" in w.speedups and (searched is None or w.uuid in searched)
    ]
    return math.exp(sum(math.log(v) for v in found) / len(found)) if found else None


def best_index(history: Sequence[Attempt], searched: frozenset[str] | None = None) -> int | None:
    """Index of the best attempt that may be returned; None where there is none."""
    ranked = [
        (
            attempt.evaluation is not None and attempt.evaluation.complete,
            searched_speedup(attempt, searched) or 0.0,
            -index,
        )
        for index, attempt in enumerate(history)
        if attempt.outcome.is_result
    ]
    return -max(ranked)[2] if ranked else None
