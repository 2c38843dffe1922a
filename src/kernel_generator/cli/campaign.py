"""Works through definitions, many at once; one's failure never stops the rest."""

from __future__ import annotations

import asyncio
import time
import traceback
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kernel_generator.cli.exits import Exit
from kernel_generator.cli.keeping import Kept, keep
from kernel_generator.domain.errors import (
    BudgetSpent,
    KernelGeneratorError,
    NoPassingSolution,
    NoWorkloads,
    ProviderError,
    ProviderRefused,
    ReplyPending,
    RequestRefused,
    RunBusy,
    StoreError,
)
from kernel_generator.reporting.tables import WAITING, Row
from kernel_generator.runs.blocking import run_blocking

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flashinfer_bench import TraceSet

    from kernel_generator.generator import GeneratedSolution, KernelGenerator
    from kernel_generator.reporting.progress import Progress
    from kernel_generator.runs.goal import Goal

SKIPPED = "SKIPPED"
"""What became of a definition that there was nothing to judge with."""


@dataclass(frozen=True, eq=False)
class Job:
    """One definition to be worked on."""

    generator: KernelGenerator
    traceset: TraceSet
    definition: str
    goal: Goal
    run_id: str | None = None
    """The run that is to go on; None: a new one."""


class Campaign:
    """Rows of the closing table, one a definition, and how the command is to end."""

    def __init__(
        self, jobs: Sequence[Job], progress: Progress, at_once: int, hint: str = ""
    ) -> None:
        """`at_once`: most definitions under way at a time. `hint`: options that every command which
        is proposed for going on needs."""
        self.rows: list[Row] = []
        self._jobs = list(jobs)
        self._progress = progress
        self._at_once = max(1, at_once)
        self._hint = hint
        self._waiting = deque(enumerate(self._jobs, start=1))
        self._under_way: dict[Job, float] = {}
        """Since when, by the monotonic clock."""
        self._rows: dict[Job, Row] = {}
        self._unanswered = 0
        self._passed_over: list[Job] = []
        """Never begun, since their model is not to be had."""
        self._refused: dict[str, ProviderRefused] = {}
        """Why nothing further is asked of a model: one command asks each at one endpoint."""
        self._stopped: BudgetSpent | RunBusy | StoreError | None = None
        """Why no further definition is begun at all."""
        self._faulty = False

    def work(self) -> Exit:
        """Work through the definitions. None is begun any more once the budget is spent or the
        store takes nothing more, and none with a model whose provider refuses the key or knows no
        such model; Ctrl-C ends all. Raises `RunBusy` where it is about one run."""
        self._progress.expect(len(self._jobs))
        try:
            run_blocking(self._all())
        except KeyboardInterrupt:
            return self._interrupted()
        finally:
            self._progress.close()
            self.rows = [self._rows[job] for job in self._jobs if job in self._rows]
        if isinstance(self._stopped, RunBusy):
            raise self._stopped
        if self._faulty:
            return Exit.FAULT
        if isinstance(self._stopped, BudgetSpent):
            self._progress.line(f"{self._stopped}; to go on with more: {self._resume} --max-… N")
            self._tell_not_begun()
            return Exit.UNSOLVED
        if isinstance(self._stopped, StoreError):
            self._progress.line(f"error: {self._stopped}")
            self._tell_not_begun()
            return Exit.UNSOLVED
        if self._refused:
            # No further definition would have fared better.
            for error in self._refused.values():
                self._progress.line(f"error: {error}")
            self._tell_not_begun()
            return Exit.PROVIDER
        self._tell_waiting()
        if all(row.solved for row in self.rows):
            return Exit.SOLVED
        asked = [row for row in self.rows if row.outcome != SKIPPED]
        return Exit.PROVIDER if asked and len(asked) == self._unanswered else Exit.UNSOLVED

    async def _all(self) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(self._at_once, len(self._jobs))):
                group.create_task(self._some())

    async def _some(self) -> None:
        while self._waiting and self._stopped is None:
            number, job = self._waiting.popleft()
            if job.generator.model_name in self._refused:
                self._passed_over.append(job)
                continue
            self._under_way[job] = time.monotonic()
            total = len(self._jobs)
            definition = job.traceset.definitions[job.definition]
            workloads = len(job.traceset.workloads.get(job.definition, []))
            self._progress.line(f"[{number}/{total}] Processing definition: {job.definition}")
            self._progress.line(f"  type {definition.op_type}, {workloads} workloads")
            await self._process(job)
            del self._under_way[job]
            self._progress.ended(job.definition)

    async def _process(self, job: Job) -> None:
        """One definition. Whatever goes wrong with it stays with it."""
        try:
            await self._attempt(job)
        except Exception as error:  # noqa: BLE001 - a fault of ours, told as such
            self._failed(job, "FAILED", self._fault(error))

    async def _attempt(self, job: Job) -> None:
        try:
            solution = await job.generator.optimized_generate_async(
                traceset=job.traceset,
                definition=job.traceset.definitions[job.definition],
                rounds=job.goal.rounds,
                keep_improving=job.goal.keep_improving,
                target_speedup=job.goal.target_speedup,
                run_id=job.run_id,
            )
        except KernelGeneratorError as error:
            self._went_wrong(job, error)
            # A run that goes on may have a reply that was paid for: it finds out by itself.
            begins = job.run_id is None
            if isinstance(error, ProviderRefused) and not isinstance(error, RequestRefused):
                self._refused.setdefault(job.generator.model_name, error)
            if isinstance(error, StoreError) or (isinstance(error, BudgetSpent) and begins):
                self._stopped = self._stopped or error
        else:
            self._save(job, solution)

    def _fault(self, error: Exception) -> str:
        """Tells what is our fault, and gives the sentence for the table."""
        self._faulty = True
        self._progress.line("".join(traceback.format_exception(error)))
        return f"a fault of this program, {type(error).__name__}: {error}; please report it"

    def _interrupted(self) -> Exit:
        """After Ctrl-C: what passed is saved."""
        self._progress.close()
        for job in self._under_way:
            best = _best_of(job)
            if best is None:
                self._failed(job, "INTERRUPTED", "interrupted before anything passed")
            else:
                self._save(job, best)
        self._progress.line("interrupted; what was finished is below")
        self._progress.line(f"to go on: {self._resume}")
        self._tell_not_begun()
        return Exit.INTERRUPTED

    @property
    def _resume(self) -> str:
        """The command that goes on; it names the run where there is one."""
        begun = [self._jobs[0].run_id] if self._jobs[0].run_id else self._progress.run_ids
        one = begun[0] if len(self._jobs) == len(begun) == 1 else None
        return f"kernel-generator resume {one or '--all'}{self._hint}"

    def _tell_waiting(self) -> None:
        """How many requests somebody has to answer, where it is more than one."""
        count = sum(row.waits and job.generator.asks_by_file for job, row in self._rows.items())
        if count > 1:
            go_on = (
                f"kernel-generator prompts export --all DIR{self._hint}, have them answered there, "
                f"then: replies import --all DIR{self._hint}, and: resume --all{self._hint}"
            )
            self._progress.line(f"{count} requests wait for replies: {go_on}")

    def _tell_not_begun(self) -> None:
        """Definitions that were passed over have no run yet; runs have theirs still."""
        left = [*self._passed_over, *(job for _, job in self._waiting)]
        names = [job.definition for job in left if job.run_id is None]
        if names:
            told = " ".join(f"-d {name}" for name in names)
            count = f"{len(names)} definition{'s' if len(names) > 1 else ''}"
            self._progress.line(f"not begun: {count}; for them, this command with {told}")
        runs = [job.run_id for job in left if job.run_id is not None]
        if runs:
            count = f"{len(runs)} run{'s' if len(runs) > 1 else ''}"
            go_on = f"kernel-generator resume --all{self._hint}"
            self._progress.line(f"not touched: {count} ({', '.join(runs)}); for them: {go_on}")

    def _went_wrong(self, job: Job, error: KernelGeneratorError) -> None:
        message = str(error)
        if isinstance(error, RunBusy) and len(self._jobs) == 1:
            # Whoever started this tells it.
            self._stopped = error
            return
        if isinstance(error, ProviderError):
            self._unanswered += 1
            message += _after(error)
        best = _best_of(job)
        if best is None:
            self._failed(job, _named(error), message)
            return
        # What had passed before, say, the store's disk was full.
        self._tell(job, message)
        self._save(job, best)

    def _save(self, job: Job, solution: GeneratedSolution) -> None:
        try:
            kept = keep(job.generator, solution, job.traceset, self._progress)
        except Exception as error:  # noqa: BLE001 - a fault of ours, told as such
            kept = Kept(None, self._fault(error))
            self._tell(job, kept.message)
        evaluation = solution.evaluation
        self._rows[job] = Row(
            definition=job.definition,
            op_type=job.traceset.definitions[job.definition].op_type,
            outcome=evaluation.outcome.value if evaluation else "FAILED",
            evaluation=evaluation,
            file=str(kept.path) if kept.path is not None else None,
            message=kept.message,
            seconds=time.monotonic() - self._under_way[job],
        )

    def _failed(self, job: Job, outcome: str, message: str) -> None:
        self._tell(job, message)
        self._rows[job] = Row(
            definition=job.definition,
            op_type=job.traceset.definitions[job.definition].op_type,
            outcome=outcome,
            message=message,
            seconds=time.monotonic() - self._under_way[job],
        )

    def _tell(self, job: Job, message: str) -> None:
        head = f"{job.definition}: " if len(self._jobs) > 1 else ""
        self._progress.line(f"  {head}{message}")


def _best_of(job: Job) -> GeneratedSolution | None:
    """What its run had when it was stopped."""
    mine = [s for s in job.generator.interrupted if s.definition == job.definition]
    return mine[-1] if mine else None


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
