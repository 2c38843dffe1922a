"""A session on this machine: its children, its turn at the device, and what is kept between them.

The reference's child and those of baselines serve the whole of it. References, seeds and verdicts
stay in this process.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from kernel_generator.domain.errors import NoWorkloads, ReferenceFailed
from kernel_generator.domain.evaluation import Evaluation, Isolation
from kernel_generator.evaluation import outcomes
from kernel_generator.evaluation.baselines import reference_solution
from kernel_generator.evaluation.bench import Bench
from kernel_generator.evaluation.building import NotBuilt, build
from kernel_generator.evaluation.device import describe_device, gpu_uuid, nvml
from kernel_generator.evaluation.finalist import axes_of
from kernel_generator.evaluation.hearings import Hearings
from kernel_generator.evaluation.inputs import InputsUnavailable
from kernel_generator.evaluation.judge import Opened, Unusable
from kernel_generator.evaluation.labels import labels_of
from kernel_generator.evaluation.pool import Pool
from kernel_generator.evaluation.rivals import Rivals
from kernel_generator.evaluation.telemetry import clocks_around, own_processes
from kernel_generator.evaluation.toolchain import portable_build_environment
from kernel_generator.evaluation.trials import ReferenceStopped, Trials
from kernel_generator.evaluation.venue import Venue
from kernel_generator.sandbox.orders import Done, WarmOrder

if TYPE_CHECKING:
    from collections.abc import Generator
    from contextlib import AbstractContextManager

    from flashinfer_bench import Solution

    from kernel_generator.domain.task import Task
    from kernel_generator.evaluation.judge import Limits, Profile
    from kernel_generator.evaluation.nursery import Nursery
    from kernel_generator.evaluation.telemetry import Telemetry
    from kernel_generator.sandbox.orders import Answer

_LOOK_UP_S = 2.0
_LAST_TURN_S = 10.0


class LocalSession:
    """One task on one device."""

    def __init__(self, task: Task, limits: Limits, nursery: Nursery) -> None:
        self._task = task
        device = self._device = nursery.device
        self._venue = Venue(task, device)
        self._limits = limits
        self._pool = Pool(task, nursery)
        self._turn = threading.Lock()
        self._held = contextlib.ExitStack()
        self._library = self._held.enter_context(nvml()) if device != "cpu" else None
        self._looked_up, self._processes = 0.0, frozenset[int]()
        rivals = Rivals(task, self._pool, self._venue.order, limits)
        self._trials = Trials(
            task,
            device,
            limits,
            None,
            secrets.randbits(62),
            self._revive_reference,
        )
        self._bench = Bench(task, limits, self._trials, self._timing)
        self._hearings = Hearings(
            *(self._venue, limits, self._pool, rivals, self._bench, self._revive_reference)
        )
        self._pool.replenish()
        self.opened = Opened(device=device)

    def prepare(self) -> None:
        """See `Session.prepare`."""
        try:
            with self._turn:
                self._start_reference()
                with self._pool.working():
                    self._prepare()
        except (ReferenceFailed, NoWorkloads):
            # A reference killed by `close` looks like one that fails.
            self._pool.check_open()
            raise

    def _start_reference(self) -> None:
        """Not before: its imports would take the cores from what another session times. They need
        no turn at a GPU."""
        self._trials.reference = self._pool.start()
        self._trials.reference.warm(WarmOrder(None, triton=False), self._limits.build_s)

    def _prepare(self) -> None:
        definition = self._task.definition
        answer = self._prepare_reference()
        if not isinstance(answer, Done):
            raise ReferenceFailed(
                f"the reference of '{definition.name}' does not load here: "
                f"{outcomes.last_line(answer)}"
            )
        opened, failure = self._opened(), ""
        for workload in self._task.searched:
            try:
                self._trials.operations(workload)
                opened.floors[workload.uuid] = self._trials.floor(workload)
            except InputsUnavailable as error:
                self._hearings.unfit.add(workload.uuid)
                opened = replace(
                    opened, unusable=(*opened.unusable, Unusable(workload, str(error)))
                )
            except ReferenceStopped as error:
                reason = (
                    f"the reference of '{definition.name}' fails on {self._device} with "
                    f"{axes_of(workload)}: {outcomes.last_line(error.answer)}"
                )
                if not outcomes.may_be_size(error.answer):
                    raise ReferenceFailed(reason) from error
                failure = reason
                self._hearings.unfit.add(workload.uuid)
                opened = replace(opened, unusable=(*opened.unusable, Unusable(workload, reason)))
                self._revive_reference()
        if not opened.floors and failure:
            raise ReferenceFailed(failure)
        if not opened.floors:
            reasons = opened.unusable[0].reason if opened.unusable else "there are none"
            raise NoWorkloads(
                f"none of the workloads of '{definition.name}' can be run here: {reasons}"
            )
        self.opened = opened

    def evaluate(self, solution: Solution, profile: Profile) -> Evaluation:
        """See `Session.evaluate`."""
        began = time.perf_counter()
        if not self._venue.on_gpu:
            # Building would take the cores from what is being timed.
            with self._turn, self._pool.evaluating():
                return self._evaluate(solution, profile, began, contextlib.nullcontext())
        with self._pool.evaluating():
            return self._evaluate(solution, profile, began, self._turn)

    def _evaluate(
        self,
        solution: Solution,
        profile: Profile,
        began: float,
        turn: AbstractContextManager[object],
    ) -> Evaluation:
        language = solution.spec.language.value
        order = self._venue.order(solution)
        built = build(self._pool, order, self._limits, solution)
        if isinstance(built, NotBuilt):
            outcome, message = outcomes.of_build(built.answer)
            verdict = Evaluation(outcome=outcome, message=message, log=built.log)
        else:
            with built or contextlib.nullcontext():
                verdict = self._hearings.hear(built, order, solution, profile, turn)
        # Children killed by `close` look like candidates that crashed.
        self._pool.check_open()
        return verdict.model_copy(
            update={
                "isolation": Isolation(
                    level=self._pool.isolation.level, lacked=self._pool.isolation.lacked
                ),
                "device": describe_device(self._device),
                "build_environment": portable_build_environment(self._task.target, language),
                "labels": labels_of(solution),
                "certified": profile.certified,
                "seed": self._trials.seed,
                "not_in_double": self._trials.not_in_double,
                "complete": verdict.outcome.is_result
                and len(verdict.workloads) == len(self._task.workloads),
                "seconds": time.perf_counter() - began,
            }
        )

    @contextlib.contextmanager
    def _timing(self) -> Generator[Telemetry | None]:
        """Nobody else times anything on the device meanwhile; its clocks are looked at."""
        if not self._venue.on_gpu:
            with self._pool.timing():
                yield None
            return
        self._pool.settle()
        with (
            self._pool.timing(),
            clocks_around(self._library, gpu_uuid(), self._own) as telemetry,
        ):
            yield telemetry

    def _own(self) -> frozenset[int]:
        """The judge's processes, looked up once in a while: it takes milliseconds."""
        if time.monotonic() - self._looked_up > _LOOK_UP_S:
            self._looked_up, self._processes = time.monotonic(), own_processes()
        return self._processes

    def _prepare_reference(self) -> Answer:
        return self._trials.reference.prepare(
            self._venue.order(reference_solution(self._task)), self._limits.build_s
        )

    def _revive_reference(self) -> None:
        """Replace the reference's child where it died: on a workload too large for it, say."""
        if self._trials.reference.alive:
            return
        self._pool.check_open()
        self._pool.stop(self._trials.reference)
        self._trials.reference = self._pool.start()
        self._prepare_reference()

    def _opened(self) -> Opened:
        level = self._pool.isolation.level
        return Opened(device=self._device, described=describe_device(self._device), isolation=level)

    def rest(self) -> None:
        """Give back the memory of what can be made again quickly: inputs, and the rings of those
        that candidates are timed beside. For a session that nobody asks anything of for a while;
        one that is being asked keeps it.

        Raises `SandboxError` where the session is closed meanwhile.
        """
        if self._turn.acquire(blocking=False):
            try:
                with self._pool.working():
                    self._bench.rest()
                    if self._venue.on_gpu:
                        torch.cuda.empty_cache()
            finally:
                self._turn.release()

    def close(self) -> None:
        """See `Session.close`."""
        self._pool.close()
        # An evaluation whose children are gone ends soon; the memory is not taken from under it.
        if self._turn.acquire(timeout=_LAST_TURN_S):
            try:
                self._bench.close()
            finally:
                self._turn.release()
        self._held.close()
