"""The children of one session: closed together, those of candidates used once.

Guarantees that a child which ran a candidate never serves another, and that after `close` none is
left and none can be started. Safe to use from several threads.
"""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

from kernel_generator.domain.errors import SandboxError
from kernel_generator.evaluation.device import gpu_uuid
from kernel_generator.evaluation.nursery import CLOSED, Setup
from kernel_generator.evaluation.toolchain import build_environment
from kernel_generator.evaluation.turn import CPU, Turns
from kernel_generator.sandbox.wire import COMPILES

if TYPE_CHECKING:
    from collections.abc import Generator
    from contextlib import AbstractContextManager

    from kernel_generator.domain.task import Task
    from kernel_generator.evaluation.nursery import Nursery
    from kernel_generator.sandbox.bounds import Bounds
    from kernel_generator.sandbox.worker import Worker

_BUILD_DISK_BYTES = 1 << 30
"""Objects, intermediate files and the library of one candidate; they live in memory."""


class Pool:
    """Starts and ends children. Those for candidates it takes from the nursery that it shares with
    other sessions."""

    def __init__(self, task: Task, nursery: Nursery) -> None:
        self.isolation = nursery.isolation
        self._task = task
        self._nursery = nursery
        self._setup = Setup.of(task)
        self._on_gpu = nursery.on_gpu
        self.turns = Turns(gpu_uuid if self._on_gpu else lambda: CPU, lambda: self._closed)
        self._workers: list[Worker] = []
        self._closed = False
        self._starting = 0
        """So many are neither there yet nor given up."""
        self._lock = threading.Condition()
        self._closer = ThreadPoolExecutor(1, "kernel-generator-retired")
        self._retiring: list[Future[None]] = []
        nursery.join(self._setup)

    @property
    def closed(self) -> bool:
        """True once no child is left and none can be started."""
        return self._closed

    def start(
        self,
        environment: dict[str, str] | None = None,
        *,
        gpu: bool = True,
        bounds: Bounds | None = None,
        under: tuple[str, ...] = (),
    ) -> Worker:
        """A child for trusted code, or for a candidate of another language than the task's. `gpu`:
        it sees the session's GPU, where that has one. `bounds`: in place of the session's.
        `under`: another program (see `Worker`).

        Raises `SandboxError` where none can be started, or the pool is closed.
        """
        with self._starts():
            worker = self._nursery.start(environment or {}, gpu=gpu, bounds=bounds, under=under)
            self._keep(worker)
        return worker

    def start_builder(self, language: str) -> Worker:
        """A fresh child that compiles one candidate and runs nothing of it. It sees no GPU.

        Raises `SandboxError` as `start` does.
        """
        environment = {**build_environment(self._task.target, language), COMPILES: "1"}
        own = self._nursery.bounds
        bounds = replace(own, disk_bytes=min(own.disk_bytes, _BUILD_DISK_BYTES))
        return self.start(environment, gpu=False, bounds=bounds)

    def take(self, language: str) -> Worker:
        """A fresh child for a candidate: one started ahead of need, where it suits.

        Raises `SandboxError` as `start` does.
        """
        if language != self._task.language:
            environment = build_environment(self._task.target, language)
            return self.start(environment, bounds=self._nursery.bounds)
        with self._starts():
            worker = self._nursery.take(self._setup, self)
            self._keep(worker)
        return worker

    @contextlib.contextmanager
    def _starts(self) -> Generator[None]:
        """Whoever closes the pool waits for what is done meanwhile."""
        with self._lock:
            if self._closed:
                raise SandboxError(CLOSED)
            self._starting += 1
        try:
            yield
        finally:
            with self._lock:
                self._starting -= 1
                self._lock.notify_all()

    def _keep(self, worker: Worker) -> None:
        with self._lock:
            self._workers.append(worker)

    def working(self) -> AbstractContextManager[None]:
        """Nobody times anything on the GPU meanwhile. A CPU has cores for others' work.

        Raises `SandboxError` where the pool is closed before that.
        """
        return self.turns.working() if self._on_gpu else contextlib.nullcontext()

    @contextlib.contextmanager
    def timing(self) -> Generator[None]:
        """Nobody else times anything on the device meanwhile, nor are children made ready.

        Raises as `working`.
        """
        with self.turns.timing():
            if self._on_gpu:
                yield
                return
            with self._nursery.timing(self):
                yield

    def evaluating(self) -> AbstractContextManager[None]:
        """Around an evaluation: see `Nursery.evaluating`."""
        return self._nursery.evaluating(self._setup)

    def replenish(self) -> None:
        """Start children for the next candidates: see `Nursery.replenish`."""
        self._nursery.replenish(self._setup)

    def check_open(self) -> None:
        """Raises `SandboxError` once the pool is closed: its children's ends mean nothing then."""
        if self._closed:
            raise SandboxError(CLOSED)

    def stop(self, worker: Worker) -> None:
        """Close one child."""
        worker.close()
        with self._lock:
            if worker in self._workers:
                self._workers.remove(worker)

    def retire(self, worker: Worker) -> None:
        """Close one child without waiting for it, while nobody times anything on the device: a
        driver takes a tenth of a second to clear up after a process. `settle` waits."""
        try:
            self._retiring.append(self._closer.submit(self._retire, worker))
        except RuntimeError:
            # The pool was closed meanwhile.
            self.stop(worker)

    def _retire(self, worker: Worker) -> None:
        with contextlib.ExitStack() as stack:
            # Whoever closes the pool waits for nobody's timing.
            with contextlib.suppress(SandboxError):
                stack.enter_context(self.turns.leaving())
            self.stop(worker)

    def settle(self) -> None:
        """Wait until children that were retired are gone."""
        while self._retiring:
            self._retiring.pop().result()

    def close(self) -> None:
        """Close all children. Safe to call twice."""
        with self._lock:
            first, self._closed = not self._closed, True
            self._lock.wait_for(lambda: not self._starting)
            workers, self._workers = self._workers, []
        for worker in workers:
            worker.close()
        self._closer.shutdown()
        if first:
            self._nursery.leave(self._setup)
