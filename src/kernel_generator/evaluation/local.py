"""The judge on this machine: every implementation in a child process of its own.

References, seeds, comparison and verdict stay in this process. A candidate's child is fresh and is
never used again; the reference's and the baseline's children serve one session.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from flashinfer_bench.data import Solution, SupportedLanguages

from kernel_generator.domain.errors import (
    IsolationUnavailable,
    NoWorkloads,
    ReferenceFailed,
    UnknownName,
)
from kernel_generator.domain.evaluation import Device, Evaluation, Isolation
from kernel_generator.domain.outcome import Outcome
from kernel_generator.evaluation import outcomes, warmth
from kernel_generator.evaluation.baselines import reference_solution
from kernel_generator.evaluation.bench import Bench
from kernel_generator.evaluation.building import NotBuilt, build
from kernel_generator.evaluation.case import Subject, blamed
from kernel_generator.evaluation.certification import certify
from kernel_generator.evaluation.device import describe_device, gpu_uuid, nvml
from kernel_generator.evaluation.finalist import Finalist
from kernel_generator.evaluation.health import wait_until_healthy
from kernel_generator.evaluation.inputs import InputsUnavailable
from kernel_generator.evaluation.judge import Limits, Opened, Profile, Unusable
from kernel_generator.evaluation.labels import declares_non_deterministic, labels_of
from kernel_generator.evaluation.nursery import Nursery
from kernel_generator.evaluation.pool import Pool
from kernel_generator.evaluation.processor import cpus_of
from kernel_generator.evaluation.rivals import Rivals
from kernel_generator.evaluation.room import has_room
from kernel_generator.evaluation.tally import Tally
from kernel_generator.evaluation.telemetry import clocks_around, own_processes
from kernel_generator.evaluation.timing import CANDIDATE
from kernel_generator.evaluation.toolchain import gpu_name, portable_build_environment
from kernel_generator.evaluation.trials import ReferenceStopped, Trials
from kernel_generator.evaluation.wrong import Wrong, hold
from kernel_generator.sandbox.isolation import JailUnavailable, Level, isolate
from kernel_generator.sandbox.orders import Done, Order, WarmOrder

if TYPE_CHECKING:
    from collections.abc import Generator
    from contextlib import AbstractContextManager

    from flashinfer_bench import Workload

    from kernel_generator.domain.task import Task
    from kernel_generator.evaluation.case import Judged
    from kernel_generator.evaluation.certification import Certification
    from kernel_generator.evaluation.telemetry import Telemetry
    from kernel_generator.sandbox import isolation as sandbox
    from kernel_generator.sandbox.artefact import Artefact
    from kernel_generator.sandbox.orders import Answer
    from kernel_generator.sandbox.worker import Worker


_LOOK_UP_S = 2.0
_LAST_TURN_S = 10.0


_BUILT_ONLY = Evaluation(
    outcome=Outcome.BUILT_NOT_RUN, message="compiled; there is no GPU to run it on"
)


class LocalJudge:
    """Judges on this machine's CPU, or on its first GPU for a GPU target."""

    def __init__(
        self,
        limits: Limits | None = None,
        isolation: str = Level.STRICT,
        for_gpu: bool = True,
    ) -> None:
        """`for_gpu`: its tasks are for a GPU, and judged on one where there is one. Raises
        `UnknownName`."""
        self._for_gpu = for_gpu
        self._limits = limits or Limits()
        if isolation not in list(Level):
            raise UnknownName("isolation level", isolation, list(Level))
        self._level = Level(isolation)
        self._nurseries: dict[str, Nursery] = {}
        """By device, with children for all of its sessions."""

    @property
    def place(self) -> str:
        """See `PlacedJudge`."""
        return "this GPU" if self._on_gpu else "this CPU"

    @property
    def slots(self) -> int:
        """See `PlacedJudge`."""
        return 2 if self._on_gpu else 1

    def has_room(self) -> bool:
        """See `PlacedJudge`."""
        return has_room(on_gpu=self._on_gpu)

    @cached_property
    def _on_gpu(self) -> bool:
        return self._for_gpu and gpu_name() is not None

    @cached_property
    def isolation(self) -> sandbox.Isolation:
        """How candidates are run here. Raises `IsolationUnavailable` where they cannot be run at
        the level that was asked for."""
        try:
            return isolate(self._level)
        except JailUnavailable as error:
            raise IsolationUnavailable(
                f"kernels cannot be isolated here: {error}. To run them with your own rights "
                "instead, ask for --isolation process (isolation='process')"
            ) from error

    def check(self) -> None:
        """See `Judge.check`."""
        _ = self.isolation

    def open(self, task: Task) -> LocalSession:
        """See `Judge.open`. Raises `IsolationUnavailable` too."""
        device = "cuda:0" if task.target.is_gpu and gpu_name() is not None else "cpu"
        nursery = self._nurseries.setdefault(device, Nursery(device, self.isolation))
        return LocalSession(task, self._limits, nursery)


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


class LocalSession:
    """One task on one device."""

    def __init__(self, task: Task, limits: Limits, nursery: Nursery) -> None:
        self._task = task
        device = self._device = nursery.device
        self._limits = limits
        self._pool = Pool(task, nursery)
        self._unfit: set[str] = set()
        """Workloads that this machine has no room or time for."""
        self._turn = threading.Lock()
        self._held = contextlib.ExitStack()
        self._library = self._held.enter_context(nvml()) if device != "cpu" else None
        self._looked_up, self._processes = 0.0, frozenset[int]()
        self._rivals = Rivals(task, self._pool, self._order, limits)
        self._trials = Trials(
            task,
            device,
            limits,
            None,
            secrets.randbits(62),
            self._revive_reference,
        )
        self._bench = Bench(task, limits, self._trials, self._timing)
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
                f"the reference of '{definition.name}' does not load here: {_last_line(answer)}"
            )
        opened, failure = self._opened(), ""
        for workload in self._task.searched:
            try:
                self._trials.operations(workload)
                opened.floors[workload.uuid] = self._trials.floor(workload)
            except InputsUnavailable as error:
                self._unfit.add(workload.uuid)
                opened = replace(
                    opened, unusable=(*opened.unusable, Unusable(workload, str(error)))
                )
            except ReferenceStopped as error:
                reason = (
                    f"the reference of '{definition.name}' fails on {self._device} with "
                    f"{_axes(workload)}: {_last_line(error.answer)}"
                )
                if not outcomes.may_be_size(error.answer):
                    raise ReferenceFailed(reason) from error
                failure = reason
                self._unfit.add(workload.uuid)
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
        if self._device == "cpu":
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
        order = self._order(solution)
        built = build(self._pool, order, self._limits, solution)
        if isinstance(built, NotBuilt):
            outcome, message = outcomes.of_build(built.answer)
            verdict = Evaluation(outcome=outcome, message=message, log=built.log)
        else:
            with built or contextlib.nullcontext():
                verdict = self._load(built, order, solution, profile, turn)
        # Children killed by `close` look like candidates that crashed.
        self._pool.check_open()
        return verdict.model_copy(
            update={
                "isolation": Isolation(
                    level=self._pool.isolation.level, lacked=self._pool.isolation.lacked
                ),
                "device": self._describe(),
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

    def _load(
        self,
        built: Artefact | None,
        order: Order,
        solution: Solution,
        profile: Profile,
        turn: AbstractContextManager[object],
    ) -> Evaluation:
        """Load a candidate, compiled or not, into a fresh child, and judge it there."""
        if built is not None and self._nowhere(solution):
            return _BUILT_ONLY
        while True:
            with contextlib.suppress(_Again):
                return self._load_once(built, order, solution, profile, turn)

    def _load_once(
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
                if self._device != "cpu" and isinstance(answer, Done):
                    # What it started while it was loaded waits too.
                    hold(worker)
            if isinstance(answer, Done):
                if self._nowhere(solution):
                    return _BUILT_ONLY
                with turn, self._pool.working(), self._inputs(profile):
                    verdict = self._judge(worker, order, solution, profile)
                    self._leave_the_device(worker, verdict)
                if self._device != "cpu" and verdict.outcome.is_result:
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
        if self._device != "cpu" and not verdict.outcome.is_result:
            self._pool.stop(worker)
            wait_until_healthy()

    def _judge(
        self, worker: Worker, order: Order, solution: Solution, profile: Profile
    ) -> Evaluation:
        measured = self._device != "cpu" or not self._task.target.is_gpu
        if not measured:
            profile = replace(profile, timing=None)
        subject = Subject(
            CANDIDATE,
            worker,
            stores=not solution.spec.destination_passing_style,
            trusted=False,
            non_deterministic=declares_non_deterministic(solution),
            compiles=order.interpret or solution.spec.language is SupportedLanguages.PYTHON,
        )
        rivals = self._rivals.among(profile)
        tally = Tally(self._rivals.unusable(profile))
        self._try(subject, self._task.searched, profile, rivals, tally)
        if tally.failure is None and profile.held_out:
            self._try(subject, self._task.held_out, profile, rivals, tally)
        found: Certification | None = None
        if profile.certified and tally.is_result:
            found = certify(
                Finalist(
                    task=self._task,
                    language=solution.spec.language.value,
                    subject=subject,
                    order=order,
                    bench=self._bench,
                    pool=self._pool,
                    limits=self._limits,
                    revive=self._revive_reference,
                    runs_without=self._runs_without,
                )
            )
            if found.failure is not None:
                tally.fail(found.failure)
        verdict = tally.evaluation()
        if found is not None:
            verdict = verdict.model_copy(update={"checks": found.checks})
        return _too_slow_to_interpret(verdict) if self._interprets(solution) else verdict

    def _inputs(self, profile: Profile) -> AbstractContextManager[None]:
        """What is certified is tried on inputs that nothing was searched with."""
        return self._trials.anew() if profile.certified else contextlib.nullcontext()

    def _nowhere(self, solution: Solution) -> bool:
        return solution.spec.language is SupportedLanguages.CUDA and self._device == "cpu"

    def _interprets(self, solution: Solution) -> bool:
        return solution.spec.language is SupportedLanguages.TRITON and self._device == "cpu"

    @contextlib.contextmanager
    def _timing(self) -> Generator[Telemetry | None]:
        """Nobody else times anything on the device meanwhile; its clocks are looked at."""
        if self._device == "cpu":
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

    def _try(
        self,
        subject: Subject,
        workloads: tuple[Workload, ...],
        profile: Profile,
        rivals: list[Subject],
        tally: Tally,
    ) -> None:
        for workload in workloads:
            self._revive_reference()
            among = [rival for rival in rivals if rival.worker.alive]
            judged = self._bench.judge(subject, workload, profile, among)
            if judged.starved and workload.uuid not in self._unfit:
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
        self._unfit.add(workload.uuid)
        raise _Again

    def _runs_without(self, workload: Workload, profile: Profile) -> bool:
        """Whether the reference, judged in a candidate's place, has memory and time enough."""
        if self._device != "cpu":
            wait_until_healthy()
            torch.cuda.empty_cache()
        self._trials.forgive(workload)
        self._revive_reference()
        worker = self._pool.start()
        try:
            order = self._order(reference_solution(self._task))
            if not isinstance(worker.prepare(order, self._limits.build_s), Done):
                return False
            stand_in = Subject(CANDIDATE, worker, stores=True, trusted=False)
            judged = self._bench.judge(stand_in, workload, profile, [])
            return not judged.skipped and judged.record.outcome not in outcomes.OF_SIZE
        finally:
            self._pool.stop(worker)

    def _prepare_reference(self) -> Answer:
        return self._trials.reference.prepare(
            self._order(reference_solution(self._task)), self._limits.build_s
        )

    def _revive_reference(self) -> None:
        """Replace the reference's child where it died: on a workload too large for it, say."""
        if self._trials.reference.alive:
            return
        self._pool.check_open()
        self._pool.stop(self._trials.reference)
        self._trials.reference = self._pool.start()
        self._prepare_reference()

    def _order(self, solution: Solution) -> Order:
        threads = torch.get_num_threads() if self._device == "cpu" else 0
        return Order(
            definition_json=self._task.definition.model_dump_json(),
            solution_json=solution.model_dump_json(),
            device=self._device,
            interpret=self._interprets(solution),
            stands_in=self._device == "cpu" and self._task.target.is_gpu,
            # The same for all that are timed against each other, whatever their environment says.
            threads=threads,
            cpus=cpus_of(threads) if threads else (),
            furnish=self._furniture(solution),
        )

    def _furniture(self, solution: Solution) -> str | None:
        """The folder of warm caches; what is slow to warm up is the CPU's compiler only."""
        if self._device != "cpu" or not _may_compile(solution):
            return None
        folder = warmth.compile_caches()
        return None if folder is None else str(folder)

    def _opened(self) -> Opened:
        level = self._pool.isolation.level
        return Opened(device=self._device, described=self._describe(), isolation=level)

    def _describe(self) -> Device:
        return describe_device(self._device)

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
                    if self._device != "cpu":
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


def _may_compile(solution: Solution) -> bool:
    """True where `torch.compile` may be called, and its caches are worth copying."""
    return solution.spec.language is SupportedLanguages.PYTHON and any(
        "compile" in source.content for source in solution.sources
    )


def _axes(workload: Workload) -> str:
    return ", ".join(f"{k}={v}" for k, v in workload.axes.items())


def _last_line(answer: Answer) -> str:
    return outcomes.last_line(answer)
