"""Hearings of candidates: each is loaded into a fresh child and judged workload after workload.

A child that ran a candidate is ended with its hearing. What fails for want of memory or time is
tried without the candidate before that is blamed.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from flashinfer_bench.data import SupportedLanguages

from kernel_generator.domain.evaluation import Evaluation
from kernel_generator.domain.outcome import Outcome
from kernel_generator.evaluation import outcomes
from kernel_generator.evaluation.baselines import reference_solution
from kernel_generator.evaluation.case import Subject, blamed
from kernel_generator.evaluation.certification import certify
from kernel_generator.evaluation.finalist import Finalist
from kernel_generator.evaluation.health import wait_until_healthy
from kernel_generator.evaluation.labels import declares_non_deterministic, uses_streams
from kernel_generator.evaluation.tally import Tally
from kernel_generator.evaluation.timing import CANDIDATE
from kernel_generator.evaluation.wrong import Wrong, hold
from kernel_generator.sandbox.orders import Done

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from flashinfer_bench import Solution, Workload

    from kernel_generator.evaluation.bench import Bench
    from kernel_generator.evaluation.case import Judged
    from kernel_generator.evaluation.certification import Certification
    from kernel_generator.evaluation.judge import Limits, Profile
    from kernel_generator.evaluation.pool import Pool
    from kernel_generator.evaluation.rivals import Rivals
    from kernel_generator.evaluation.venue import Venue
    from kernel_generator.sandbox.artefact import Artefact
    from kernel_generator.sandbox.orders import Order
    from kernel_generator.sandbox.worker import Worker

_BUILT_ONLY = Evaluation(
    outcome=Outcome.BUILT_NOT_RUN, message="compiled; there is no GPU to run it on"
)


def _too_slow_to_interpret(verdict: Evaluation) -> Evaluation:
    """A time limit that the interpreter exceeded says nothing of the kernel."""
    if verdict.outcome is not Outcome.TIMEOUT:
        return verdict
    last = verdict.workloads[-1]
    message = f"Triton's interpreter is too slow for this workload: {verdict.message}"
    skipped = last.model_copy(update={"outcome": Outcome.NOT_RUN, "message": message})
    return verdict.model_copy(
        update={
            "outcome": Outcome.NOT_RUN,
            "message": message,
            "workloads": (*verdict.workloads[:-1], skipped),
        }
    )


class _Again(Exception):
    """A candidate has to be judged from the beginning, in a new child."""


class Hearings:
    """Those of one session."""

    def __init__(
        self,
        venue: Venue,
        limits: Limits,
        pool: Pool,
        rivals: Rivals,
        bench: Bench,
        revive: Callable[[], None],
    ) -> None:
        """`revive` replaces the reference's child where it has died."""
        self._venue = venue
        self._limits = limits
        self._pool = pool
        self._rivals = rivals
        self._bench = bench
        self._revive = revive
        self.unfit: set[str] = set()
        """Workloads that this machine has no room or time for."""

    def hear(
        self,
        built: Artefact | None,
        order: Order,
        solution: Solution,
        profile: Profile,
        turn: AbstractContextManager[object],
    ) -> Evaluation:
        """Load a candidate, compiled or not, into a fresh child, and judge it there."""
        if built is not None and self._venue.cannot_run(solution):
            return _BUILT_ONLY
        while True:
            with contextlib.suppress(_Again):
                return self._hear_once(built, order, solution, profile, turn)

    def _hear_once(
        self,
        built: Artefact | None,
        order: Order,
        solution: Solution,
        profile: Profile,
        turn: AbstractContextManager[object],
    ) -> Evaluation:
        """The same in one child. Raises `_Again` where that one was ended for no fault of it."""
        worker = self._pool.take(solution.spec.language.value)
        close = self._pool.stop
        try:
            with self._pool.working():
                answer = worker.prepare(order, self._limits.build_s, built)
                if self._venue.on_gpu and isinstance(answer, Done):
                    # What it started while it was loaded waits too.
                    hold(worker)
            if isinstance(answer, Done):
                if self._venue.cannot_run(solution):
                    return _BUILT_ONLY
                with turn, self._pool.working(), self._inputs(profile):
                    verdict = self._judge(worker, order, solution, profile)
                    self._leave_the_device(worker, verdict)
                if self._venue.on_gpu and verdict.outcome.is_result:
                    # It waits for orders, and what it printed has been read.
                    worker.read_log()
                    close = self._pool.retire
            else:
                outcome, message = outcomes.of_build(answer)
                # Loading a CUDA library where there is no driver says nothing of the kernel.
                cuda = solution.spec.language is SupportedLanguages.CUDA
                if cuda and outcomes.lacks_driver(message):
                    return _BUILT_ONLY
                verdict = Evaluation(outcome=outcome, message=message)
                with self._pool.working():
                    self._leave_the_device(worker, verdict)
        except Wrong as wrong:
            verdict = Evaluation(outcome=wrong.outcome, message=wrong.message)
        finally:
            close(worker)
        # Complete now that the child is closed, or has nothing more to say.
        return verdict.model_copy(update={"log": worker.log})

    def _leave_the_device(self, worker: Worker, verdict: Evaluation) -> None:
        """After a failure: nobody times beside what is still being ended."""
        if self._venue.on_gpu and not verdict.outcome.is_result:
            self._pool.stop(worker)
            wait_until_healthy()

    def _judge(
        self, worker: Worker, order: Order, solution: Solution, profile: Profile
    ) -> Evaluation:
        if not self._venue.measures:
            profile = replace(profile, timing=None)
        subject = Subject(
            CANDIDATE,
            worker,
            stores=not solution.spec.destination_passing_style,
            trusted=False,
            non_deterministic=declares_non_deterministic(solution),
            streams=uses_streams(solution),
            compiles=order.interpret or solution.spec.language is SupportedLanguages.PYTHON,
        )
        rivals = self._rivals.among(profile)
        tally = Tally(self._rivals.unusable(profile))
        self._try(subject, self._venue.task.searched, profile, rivals, tally)
        if tally.failure is None and profile.held_out:
            self._try(subject, self._venue.task.held_out, profile, rivals, tally)
        found: Certification | None = None
        if profile.certified and tally.is_result:
            found = certify(
                Finalist(
                    task=self._venue.task,
                    language=solution.spec.language.value,
                    subject=subject,
                    order=order,
                    bench=self._bench,
                    pool=self._pool,
                    limits=self._limits,
                    revive=self._revive,
                    runs_without=self._runs_without,
                )
            )
            if found.failure is not None:
                tally.fail(found.failure)
        verdict = tally.evaluation()
        if found is not None:
            verdict = verdict.model_copy(update={"checks": found.checks})
        return _too_slow_to_interpret(verdict) if self._venue.interprets(solution) else verdict

    def _inputs(self, profile: Profile) -> AbstractContextManager[None]:
        """What is certified is tried on inputs that nothing was searched with."""
        return self._bench.trials.anew() if profile.certified else contextlib.nullcontext()

    def _try(
        self,
        subject: Subject,
        workloads: tuple[Workload, ...],
        profile: Profile,
        rivals: list[Subject],
        tally: Tally,
    ) -> None:
        for workload in workloads:
            self._revive()
            among = [rival for rival in rivals if rival.worker.alive]
            judged = self._bench.judge(subject, workload, profile, among)
            if judged.starved and workload.uuid not in self.unfit:
                judged = self._blame(subject, workload, profile, judged)
            tally.add(judged)
            if tally.failure is not None:
                return

    def _blame(
        self, subject: Subject, workload: Workload, profile: Profile, judged: Judged
    ) -> Judged:
        """See without the candidate who is to blame for a lack of memory or time. Raises `_Again`
        where it is not the candidate."""
        subject.worker.close()
        if self._runs_without(workload, profile):
            return blamed(judged)
        self.unfit.add(workload.uuid)
        raise _Again

    def _runs_without(self, workload: Workload, profile: Profile) -> bool:
        """Whether the reference, judged in a candidate's place, has memory and time enough."""
        if self._venue.on_gpu:
            wait_until_healthy()
            torch.cuda.empty_cache()
        self._bench.trials.forgive(workload)
        self._revive()
        worker = self._pool.start()
        try:
            order = self._venue.order(reference_solution(self._venue.task))
            if not isinstance(worker.prepare(order, self._limits.build_s), Done):
                return False
            stand_in = Subject(CANDIDATE, worker, stores=True, trusted=False)
            judged = self._bench.judge(stand_in, workload, profile, [])
            return not judged.skipped and judged.record.outcome not in outcomes.OF_SIZE
        finally:
            self._pool.stop(worker)
