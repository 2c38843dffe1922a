"""Works through the definitions of a trace set; one's failure never stops the rest."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from kernel_generator.cli.exits import Exit
from kernel_generator.cli.keeping import keep
from kernel_generator.domain.errors import (
    KernelGeneratorError,
    NoPassingSolution,
    NoWorkloads,
    ProviderError,
    ProviderRefused,
)
from kernel_generator.reporting.tables import Row

if TYPE_CHECKING:
    from flashinfer_bench import TraceSet

    from kernel_generator.generator import GeneratedSolution, KernelGenerator
    from kernel_generator.reporting.progress import Progress
    from kernel_generator.runs.engine import Goal

SKIPPED = "SKIPPED"
"""What became of a definition that there was nothing to judge with."""


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

    def work(self, names: list[str]) -> Exit:
        """Work through the definitions; ends early where the provider refuses, and on Ctrl-C."""
        try:
            for number, name in enumerate(names, start=1):
                self.progress.line(f"[{number}/{len(names)}] Processing definition: {name}")
                self._process(name)
        except KeyboardInterrupt:
            self.progress.line("interrupted; what was finished is below")
            return Exit.INTERRUPTED
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

    def _process(self, name: str) -> None:
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
            )
        except NoPassingSolution as error:
            last = error.attempts[-1].outcome.value if error.attempts else "FAILED"
            self._failed(name, last, str(error), began)
        except NoWorkloads as error:
            self._failed(name, SKIPPED, str(error), began)
        except ProviderError as error:
            self._unanswered += 1
            self._failed(name, "FAILED", f"{error}{_after(error)}", began)
            if isinstance(error, ProviderRefused):
                raise
        except KernelGeneratorError as error:
            self._failed(name, "FAILED", str(error), began)
        except KeyboardInterrupt:
            self.progress.close()
            for best in self._generator.interrupted:
                self._save(name, best, began)
            if not self._generator.interrupted:
                self._failed(name, "INTERRUPTED", "interrupted before anything passed", began)
            raise
        else:
            self._save(name, solution, began)

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


def _after(error: ProviderError) -> str:
    """What had been tried before the provider failed."""
    if not error.attempts:
        return ""
    outcomes = ", ".join(a.outcome.value for a in error.attempts)
    count = len(error.attempts)
    return f" ({count} attempt{'s' if count > 1 else ''} had been made: {outcomes})"
