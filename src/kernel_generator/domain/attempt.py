"""A candidate with its lineage, and an attempt: proposal, reply, candidate and verdict together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flashinfer_bench import Solution

    from kernel_generator.domain.conversation import Reply
    from kernel_generator.domain.evaluation import Evaluation
    from kernel_generator.domain.outcome import Outcome
    from kernel_generator.domain.proposal import Proposal


@dataclass(frozen=True)
class Candidate:
    """A solution that was read out of a reply."""

    solution: Solution
    proposal: Proposal


@dataclass(frozen=True)
class Attempt:
    """One turn of the loop. `candidate` and `evaluation` are None where the reply gave none."""

    proposal: Proposal
    reply: Reply | None
    outcome: Outcome
    message: str = ""
    """Why the reply could not be used, where it could not."""
    candidate: Candidate | None = None
    evaluation: Evaluation | None = None
    duplicate_of: int | None = None
    """Index into the history of the attempt with the same source, where there is one."""

    @property
    def speedup(self) -> float | None:
        """Geometric-mean speedup over the reference, where measured."""
        if self.evaluation is None or self.evaluation.speedup is None:
            return None
        return self.evaluation.speedup.value
