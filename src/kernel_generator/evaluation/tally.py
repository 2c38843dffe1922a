"""Adds up what was found on each workload to the verdict on a candidate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernel_generator.domain.evaluation import Evaluation
from kernel_generator.domain.outcome import Outcome
from kernel_generator.evaluation.intervals import geometric_mean, promotes
from kernel_generator.evaluation.timing import INCUMBENT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kernel_generator.domain.evaluation import Interval, WorkloadEvaluation
    from kernel_generator.evaluation.case import Judged
    from kernel_generator.evaluation.intervals import Ratio


class Tally:
    """Adds up the workloads of one evaluation."""

    def __init__(self, unusable: Mapping[str, str]) -> None:
        """`unusable` baselines are not timed, by name, and why."""
        self._unusable = dict(unusable)
        self._records: list[WorkloadEvaluation] = []
        self._skipped: list[WorkloadEvaluation] = []
        self._ratios: dict[str, list[Ratio]] = {}
        self.failure: WorkloadEvaluation | None = None

    def add(self, judged: Judged) -> None:
        """Count one workload; its failure, if it is one, is the evaluation's."""
        self._records.append(judged.record)
        if judged.skipped:
            self._skipped.append(judged.record)
            return
        for name, ratio in judged.ratios.items():
            self._ratios.setdefault(name, []).append(ratio)
        for name, reason in judged.lost.items():
            axes = ", ".join(f"{k}={v}" for k, v in judged.record.axes.items())
            self._unusable.setdefault(name, f"with {axes}: {reason}")
        if not judged.record.outcome.is_result:
            self.failure = judged.record

    @property
    def is_result(self) -> bool:
        """True where something was run, and nothing of it failed."""
        return self.failure is None and len(self._skipped) < len(self._records)

    def fail(self, record: WorkloadEvaluation) -> None:
        """Count what a further check found as the evaluation's failure."""
        self._records.append(record)
        self.failure = record

    def means(self) -> dict[str, Interval]:
        """Geometric-mean speedups; a baseline that failed on one workload has none."""
        judged = len(self._records) - len(self._skipped)
        return {
            name: geometric_mean(found)
            for name, found in self._ratios.items()
            if found and len(found) == judged
        }

    def evaluation(self) -> Evaluation:
        """The verdict on what was added."""
        records = tuple(self._records)
        if self.failure is not None:
            return Evaluation(
                outcome=self.failure.outcome,
                message=self.failure.message,
                workloads=records,
                unusable_baselines=self._unusable,
            )
        if len(self._skipped) == len(records):
            message = records[0].message if records else "no workload can be run here"
            return Evaluation(outcome=Outcome.NOT_RUN, message=message, workloads=records)
        means = self.means()
        timed = all(r.outcome is Outcome.PASSED for r in records if r not in self._skipped)
        message = ""
        if self._skipped:
            message = (
                f"{len(self._skipped)} of {len(records)} workloads cannot be run here: "
                f"{self._skipped[0].message}"
            )
        against = means.pop(INCUMBENT, None)
        noises = [r.noise for r in records if r.noise is not None]
        noise = max(noises, default=None)
        return Evaluation(
            noise=noise,
            promoted=None if against is None else promotes(against, noise or 0.0),
            outcome=Outcome.PASSED if timed else Outcome.CORRECT_NOT_MEASURED,
            message=message,
            workloads=records,
            speedup=means.get("reference"),
            baselines=means,
            unusable_baselines=self._unusable,
        )
