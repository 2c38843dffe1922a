"""Works through the definitions of a trace set; one's failure never stops the rest."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from kernel_generator.cli.exits import Exit
from kernel_generator.cli.keeping import keep
from kernel_generator.domain.errors import (
    BudgetSpent,
    KernelGeneratorError,
    NoPassingSolution,
    NoWorkloads,
    ProviderError,
    ProviderRefused,
    ReplyPending,
    RunBusy,
)
from kernel_generator.reporting.tables import Row

if TYPE_CHECKING:
    from flashinfer_bench import TraceSet

    from kernel_generator.generator import GeneratedSolution, KernelGenerator
    from kernel_generator.reporting.progress import Progress
    from kernel_generator.runs.goal import Goal

SKIPPED = "SKIPPED"
"""What became of a definition that there was nothing to judge with."""
WAITING = "WAITING"
"""What became of one whose model is asked elsewhere."""


class Campaign:
    """Rows of the closing table, one a definition, and how the command is to end."""

    def __init__(
        self, generator: KernelGenerator, traceset: TraceSet, goal: Goal, progress: Progress
    ) -> None:
        self.progress = progress
        self.rows: list[Row] = []
        self._generator = generator
        self._traceset = traceset
        self._goal = goal
        self._unanswered = 0

    def work(self, names: list[str], run_id: str | None = None) -> Exit:
        """Work through the definitions; ends early where the provider refuses, and on Ctrl-C. Of
        one definition `run_id` names the run that is to go on."""
        try:
            for number, name in enumerate(names, start=1):
                self.progress.line(f"[{number}/{len(names)}] Processing definition: {name}")
                self._process(name, run_id)
        except KeyboardInterrupt:
            self.progress.line("interrupted; what was finished is below")
            self.progress.line(f"to go on: kernel-generator resume {run_id or '--all'}")
            return Exit.INTERRUPTED
        except BudgetSpent as spent:
            self.progress.line(f"{spent}; to go on with more: kernel-generator resume --all")
            return Exit.UNSOLVED
        except ProviderRefused as refused:
            # No further definition will fare better.
            self.progress.line(f"error: {refused}")
            return Exit.PROVIDER
        finally:
            self.progress.close()
        if all(row.solved for row in self.rows):
            return Exit.SOLVED
        asked = [row for row in self.rows if row.outcome != SKIPPED]
        return Exit.PROVIDER if asked and len(asked) == self._unanswered else Exit.UNSOLVED

    def _process(self, name: str, run_id: str | None) -> None:
        """One definition. Raises `ProviderRefused`, and `KeyboardInterrupt` after saving."""
        began = time.monotonic()
        definition = self._traceset.definitions[name]
        workloads = len(self._traceset.workloads.get(name, []))
        self.progress.line(f"  type {definition.op_type}, {workloads} workloads")
        try:
            solution = self._generator.optimized_generate(
                traceset=self._traceset,
                definition=definition,
                rounds=self._goal.rounds,
                keep_improving=self._goal.keep_improving,
                target_speedup=self._goal.target_speedup,
                run_id=run_id,
            )
        except RunBusy:
            raise
        except KernelGeneratorError as error:
            self._went_wrong(name, error, began)
            if isinstance(error, (ProviderRefused, BudgetSpent)):
                raise
        except KeyboardInterrupt:
            self.progress.close()
            for best in self._generator.interrupted:
                self._save(name, best, began)
            if not self._generator.interrupted:
                self._failed(name, "INTERRUPTED", "interrupted before anything passed", began)
            raise
        else:
            self._save(name, solution, began)

    def _went_wrong(self, name: str, error: KernelGeneratorError, began: float) -> None:
        message = str(error)
        if isinstance(error, ProviderError):
            self._unanswered += 1
            message += _after(error)
        if not self._generator.interrupted:
            self._failed(name, _named(error), message, began)
        # What had passed before, say, the store's disk was full.
        for best in self._generator.interrupted:
            self.progress.line(f"  {message}")
            self._save(name, best, began)

    def _save(self, name: str, solution: GeneratedSolution, began: float) -> None:
        kept = keep(self._generator, solution, self._traceset, self.progress)
        evaluation = solution.evaluation
        self.rows.append(
            Row(
                definition=name,
                op_type=self._traceset.definitions[name].op_type,
                outcome=evaluation.outcome.value if evaluation else "FAILED",
                evaluation=evaluation,
                file=str(kept.path) if kept.path is not None else None,
                message=kept.message,
                seconds=time.monotonic() - began,
            )
        )

    def _failed(self, name: str, outcome: str, message: str, began: float) -> None:
        self.progress.close()
        self.progress.line(f"  {message}")
        self.rows.append(
            Row(
                definition=name,
                op_type=self._traceset.definitions[name].op_type,
                outcome=outcome,
                message=message,
                seconds=time.monotonic() - began,
            )
        )


def _named(error: KernelGeneratorError) -> str:
    """What became of a definition that has no result."""
    if isinstance(error, NoPassingSolution) and error.attempts:
        return error.attempts[-1].outcome.value
    if isinstance(error, NoWorkloads):
        return SKIPPED
    return WAITING if isinstance(error, ReplyPending) else "FAILED"


def _after(error: ProviderError) -> str:
    """What had been tried before the provider failed."""
    if not error.attempts:
        return ""
    outcomes = ", ".join(a.outcome.value for a in error.attempts)
    count = len(error.attempts)
    return f" ({count} attempt{'s' if count > 1 else ''} had been made: {outcomes})"
