"""The nursery: children started ahead of need, for all sessions of a judge on one device.

Guarantees that there are never more spares than the device's bound, however many sessions there
are; that on a CPU none imports anything while something is timed; and that nothing is left once
the last session has gone: the next one begins anew. Safe to use from several threads.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import Counter
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import count
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from flashinfer_bench.data import SupportedLanguages

from kernel_generator.domain.errors import SandboxError
from kernel_generator.evaluation import warmth
from kernel_generator.evaluation.device import gpu_environment, gpu_node
from kernel_generator.evaluation.outcomes import last_line
from kernel_generator.evaluation.toolchain import build_environment
from kernel_generator.sandbox.orders import Done, WarmOrder
from kernel_generator.sandbox.wire import PRELOADED
from kernel_generator.sandbox.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Generator
    from contextlib import AbstractContextManager

    from kernel_generator.domain.task import Task
    from kernel_generator.sandbox.bounds import Bounds
    from kernel_generator.sandbox.isolation import Isolation
    from kernel_generator.sandbox.orders import Answer

CLOSED = "the judge's session was closed"
_WARM_S = 120.0
_MOST_SPARES = 8
_CORES_A_SPARE = 2
"""Imports and first launches keep a core busy for seconds; candidates come about once a second."""
_CPU_S = 3600
"""CPU time of one process of a candidate; what ends it earlier is a limit on each step."""
_LOOK_S = 0.1
"""Whoever waits for a child looks so often whether its session is closed."""
_LAST_S = 10.0
"""The last session waits so long for threads that were busy with spares when it ended them."""
_TRIES = 3
"""So many children are started for one candidate, where they do not get ready."""
_HANDS = 64
"""More threads than ever are at work: there is one for each spare and each session that waits."""
_IMPORTED, _READY = 1, 3
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Setup:
    """What a child was started with: nobody can use one that was started with something else."""

    environment: tuple[tuple[str, str], ...]
    launches: bool
    """Candidates are likely to launch Triton kernels."""

    @classmethod
    def of(cls, task: Task) -> Setup:
        """For candidates in the task's language."""
        environment = build_environment(task.target, task.language)
        if task.language == SupportedLanguages.PYTHON:
            environment[PRELOADED] = "torch._inductor.compile_fx"
        launches = task.language in (SupportedLanguages.TRITON, SupportedLanguages.PYTHON)
        return cls(tuple(sorted(environment.items())), launches)


class _NotReady(SandboxError):
    """A child was started, and failed before it was given anything of a candidate's."""


class Taker(Protocol):
    """Whoever waits for a child."""

    def check_open(self) -> None:
        """Raises `SandboxError` once it waits for nothing more."""
        ...

    def working(self) -> AbstractContextManager[None]:
        """Nobody times anything on the GPU meanwhile. Raises as `check_open`."""
        ...


@dataclass(frozen=True)
class Census:
    """What goes on in a nursery at one moment."""

    guests: int
    """Sessions that are open."""
    spares: tuple[Setup, ...]
    """What those children are started with that nobody has taken yet."""
    importing: int
    """Children that import by now, spares or waited for by a session."""
    evaluating: int
    """Evaluations that have begun."""
    timing: int
    """Evaluations that time something, on a CPU."""


@dataclass(eq=False)
class _Spare:
    setup: Setup
    came: Future[Worker] = field(default_factory=Future["Worker"])
    """Done once it has imported what it needs."""
    warmed: Future[Answer] | None = None
    """Done once it is ready on the GPU; None before that has begun, and on a CPU."""
    worker: Worker | None = None
    ended: bool = False

    @property
    def progress(self) -> int:
        """How little there is to be waited for."""
        if self.warmed is not None:
            return _READY if self.warmed.done() else _READY - 1
        return _IMPORTED if self.came.done() else 0


class Nursery:
    """The spares of one judge on one device. Holds nothing before the first session joins."""

    def __init__(self, device: str, isolation: Isolation) -> None:
        """`device` is 'cpu' or 'cuda:N'."""
        self.device = device
        self.on_gpu = device != "cpu"
        self.isolation = isolation
        self.bounds = replace(isolation.bounds, cpu_s=_CPU_S)
        """A candidate's. The reference and baselines live as long as their session."""
        cores = os.cpu_count() or 1
        self.most = min(_MOST_SPARES, max(1, cores // _CORES_A_SPARE)) if self.on_gpu else 1
        """There are never more spares."""
        self._guests = Counter[Setup]()
        self._spares: list[_Spare] = []
        self._importing: set[_Spare] = set()
        self._takes = count(1)
        self._last_take: dict[Setup, int] = {}
        self._evaluating = 0
        self._timing = 0
        self._hands: ThreadPoolExecutor | None = None
        self._lock = threading.Condition()

    def census(self) -> Census:
        """What goes on at this moment."""
        with self._lock:
            return Census(
                guests=self._guests.total(),
                spares=tuple(spare.setup for spare in self._spares),
                importing=len(self._importing),
                evaluating=self._evaluating,
                timing=self._timing,
            )

    def join(self, setup: Setup) -> None:
        """A session that takes children of this setup begins."""
        with self._lock:
            self._guests[setup] += 1
            if self._hands is None:
                self._hands = ThreadPoolExecutor(_HANDS, "kernel-generator-spares")

    def leave(self, setup: Setup) -> None:
        """It has ended, and waits for nothing more. The last one ends all spares."""
        with self._lock:
            self._guests -= Counter([setup])
            if self._guests:
                return
            hands, self._hands = self._hands, None
            spares, self._spares = self._spares, []
            busy: set[Future[Any]] = {spare.came for spare in (*spares, *self._importing)}
            busy |= {spare.warmed for spare in spares if spare.warmed is not None}
        for spare in spares:
            self._end(spare)
        if hands is not None:
            hands.shutdown(wait=not futures.wait(busy, _LAST_S).not_done)

    def start(
        self,
        environment: dict[str, str],
        *,
        gpu: bool = True,
        bounds: Bounds | None = None,
        under: tuple[str, ...] = (),
    ) -> Worker:
        """A child that is no spare, and its caller's to close: see `Pool.start`. Raises
        `SandboxError` where none can be started."""
        node, own = (gpu_node(), gpu_environment()) if self.on_gpu and gpu else (None, {})
        isolation = replace(self.isolation, bounds=bounds) if bounds else self.isolation
        seen = warmth.seen_folders()
        try:
            return Worker({**own, **environment}, isolation, node, seen, under)
        except OSError as error:
            raise SandboxError(
                f"no process can be started for a kernel: {error}; free memory, disk space in the "
                "temporary folder, or file handles, and try again"
            ) from error

    def take(self, setup: Setup, taker: Taker) -> Worker:
        """A fresh child for a candidate, the taker's from now on: a spare where there is one.

        Whatever keeps one from getting ready is not the candidate's doing: another is tried. Raises
        `SandboxError` where none can be started or gets ready, and as `Taker.check_open`.
        """
        begun = 0
        while True:
            spare = self._claim(setup)
            was_there = spare is not None
            begun += not was_there
            spare = spare or self._begin_for(setup, taker)
            try:
                worker = self._grown(spare, taker)
            except BaseException as error:
                self._end(spare)
                may_be_tried = was_there or (isinstance(error, _NotReady) and begun < _TRIES)
                if isinstance(error, SandboxError) and may_be_tried:
                    # What it lacked then there may be enough of by now.
                    taker.check_open()
                    continue
                raise
            if was_there and not worker.alive:
                self._end(spare)
                continue
            if self.on_gpu:
                # On a CPU its imports would take the cores from what is being timed.
                self.replenish(setup)
            return worker

    def replenish(self, setup: Setup) -> None:
        """Start children for the next candidates: they import ahead of need, while the reference
        runs, another candidate is timed, or the author thinks. On a CPU only while nobody
        evaluates. Spares that are less likely to be taken are ended for them."""
        with self._lock, contextlib.suppress(SandboxError):
            quiet = self.on_gpu or not (self._evaluating or self._timing)
            while quiet and self._hands is not None and self._count(setup) < self._share:
                given_up = None
                if len(self._spares) >= self.most:
                    given_up = self._least_likely(setup)
                    if given_up is None:
                        return
                    self._spares.remove(given_up)
                self._spares.append(self._begin(setup, given_up))

    @contextlib.contextmanager
    def evaluating(self, setup: Setup) -> Generator[None]:
        """Around an evaluation: on a CPU no spare is begun meanwhile but the one that it takes."""
        with self._lock:
            self._evaluating += 1
        try:
            yield
        finally:
            with self._lock:
                self._evaluating -= 1
        self.replenish(setup)

    @contextlib.contextmanager
    def timing(self, taker: Taker) -> Generator[None]:
        """Around what is timed on a CPU: nothing imports meanwhile; what does is waited for.

        Raises as `Taker.check_open`.
        """
        with self._lock:
            self._timing += 1
        try:
            with self._lock:
                while self._importing:
                    self._lock.wait(_LOOK_S)
                    taker.check_open()
            yield
        finally:
            with self._lock:
                self._timing -= 1
                self._lock.notify_all()

    @property
    def _share(self) -> int:
        """So many spares of one setup are kept, where sessions of others are open too."""
        return max(1, self.most // max(1, len(self._guests)))

    def _count(self, setup: Setup) -> int:
        return sum(spare.setup == setup for spare in self._spares)

    def _least_likely(self, setup: Setup) -> _Spare | None:
        """The spare to be given up for one of `setup`: of what no session takes any more, of what
        there are too many of, or what was last taken longer ago. None where there is none."""

        def likeliness(spare: _Spare) -> tuple[bool, bool, int]:
            other = spare.setup
            wanted, few = other in self._guests, self._count(other) <= self._share
            return wanted, wanted and few, self._last_take.get(other, 0)

        others = [spare for spare in self._spares if spare.setup != setup]
        least = min(others, key=likeliness, default=None)
        if least is None or likeliness(least) >= (True, True, self._last_take.get(setup, 0)):
            return None
        return least

    def _claim(self, setup: Setup) -> _Spare | None:
        """The spare of a setup that is soonest ready: nobody else's from now on."""
        with self._lock:
            self._last_take[setup] = next(self._takes)
            fitting = [spare for spare in self._spares if spare.setup == setup]
            found = max(fitting, key=lambda spare: spare.progress, default=None)
            if found is not None:
                self._spares.remove(found)
            return found

    def _begin_for(self, setup: Setup, taker: Taker) -> _Spare:
        """One that is not kept for anybody else."""
        with self._lock:
            while self._timing:
                self._lock.wait(_LOOK_S)
                taker.check_open()
            return self._begin(setup, None)

    def _begin(self, setup: Setup, given_up: _Spare | None) -> _Spare:
        if self._hands is None:
            raise SandboxError(CLOSED)
        spare = _Spare(setup)
        try:
            spare.came = self._hands.submit(self._raise, spare, given_up)
        except RuntimeError as error:
            raise SandboxError(f"no thread can be started to wait for a kernel: {error}") from error
        self._importing.add(spare)
        return spare

    def _raise(self, spare: _Spare, given_up: _Spare | None) -> Worker:
        try:
            if given_up is not None:
                self._end(given_up)
            launches = self.on_gpu and spare.setup.launches
            caches = warmth.launch_caches(self.device) if launches else None
            worker = self.start(dict(spare.setup.environment), bounds=self.bounds)
            with self._lock:
                spare.worker = worker
            if spare.ended:
                worker.close()
            else:
                furnish = None if caches is None else str(caches)
                _check_ready(worker.warm(WarmOrder(None, launches, furnish), _WARM_S))
            return worker
        finally:
            with self._lock:
                self._importing.discard(spare)
                self._lock.notify_all()

    def _end(self, spare: _Spare) -> None:
        with self._lock:
            spare.ended = True
            worker = spare.worker
        if worker is not None:
            worker.close()

    def _grown(self, spare: _Spare, taker: Taker) -> Worker:
        """Its child once that has done all that it can ahead of a candidate. No turn is held while
        it imports."""
        worker = _result(spare.came, taker)
        if self.on_gpu and spare.progress < _READY:
            with taker.working():
                self._warm(spare, taker)
        if spare.warmed is not None:
            _check_ready(_result(spare.warmed, taker))
        return worker

    def _warm(self, spare: _Spare, taker: Taker) -> None:
        """Do what touches the device: for all that are so far at once, while nothing is timed on
        it. Some other session may be at it: it is waited for."""
        with self._lock:
            along = [s for s in self._spares if s.setup == spare.setup and s.progress == _IMPORTED]
            batch = [spare, *along] if spare.warmed is None else []
            order = WarmOrder(self.device, spare.setup.launches)
            for one in batch:
                # Of those that failed nothing is there.
                if one.worker is not None and self._hands is not None:
                    one.warmed = self._hands.submit(one.worker.warm, order, _WARM_S)
            busy = [one.warmed for one in (spare, *batch) if one.warmed is not None]
        try:
            for answer in busy:
                _result(answer, taker)
        except BaseException:
            # The device is left with nobody at work on it.
            with self._lock:
                untaken = [one for one in batch if one in self._spares]
                self._spares = [one for one in self._spares if one not in untaken]
            for one in untaken:
                self._end(one)
            raise


def _check_ready(answer: Answer) -> None:
    """Raises `SandboxError` where a child did not do what comes before any candidate."""
    if not isinstance(answer, Done):
        raise _NotReady(
            f"no process gets ready for a kernel: {last_line(answer)}; free memory, or disk space "
            "in the temporary folder, and try again"
        )


def _result(future: Future[_Result], taker: Taker) -> _Result:
    """What it comes to. Raises as `Taker.check_open` where that comes first."""
    while not futures.wait([future], _LOOK_S).done:
        taker.check_open()
    return future.result()
