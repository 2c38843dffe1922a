"""The solution that the public face returns: FlashInfer-Bench's own, with what is known of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flashinfer_bench.data import Solution
from pydantic import PrivateAttr

if TYPE_CHECKING:
    from kernel_generator.domain.evaluation import Evaluation


class GeneratedSolution(Solution):
    """A FlashInfer-Bench Solution that knows its evaluation and can write itself."""

    _evaluation: Evaluation | None = PrivateAttr(default=None)
    _run_id: str = PrivateAttr(default="")

    @property
    def evaluation(self) -> Evaluation | None:
        """What the judge found; None where it was not evaluated. Not part of the JSON."""
        return self._evaluation

    @property
    def run_id(self) -> str:
        """The run that it came of; empty where it came of none. Not part of the JSON."""
        return self._run_id

    def to_json(self) -> str:
        """The solution as FlashInfer-Bench stores it."""
        return self.model_dump_json(indent=2)

    @classmethod
    def of(
        cls, solution: Solution, evaluation: Evaluation | None = None, run_id: str = ""
    ) -> GeneratedSolution:
        """A solution together with its evaluation and its run."""
        made = cls.model_validate(solution.model_dump())
        made._evaluation = evaluation
        made._run_id = run_id
        return made
