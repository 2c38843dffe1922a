"""The children of one session: started ahead of need, used once, closed together.

Guarantees that a child which ran a candidate never serves another, and that after `close` none is
left and none can be started. Safe to use from several threads.
"""

from __future__ import annotations

import contextlib
import os
import threading
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from flashinfer_bench.data import SupportedLanguages

from kernel_generator.domain.errors import SandboxError
from kernel_generator.evaluation import warmth
from kernel_generator.evaluation.device import gpu_environment, gpu_node, gpu_uuid
from kernel_generator.evaluation.toolchain import build_environment
from kernel_generator.evaluation.turn import CPU, Turns
from kernel_generator.sandbox.orders import WarmOrder
from kernel_generator.sandbox.wire import COMPILES, PRELOADED
from kernel_generator.sandbox.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from kernel_generator.domain.task import Task
    from kernel_generator.sandbox.bounds import Bounds
    from kernel_generator.sandbox.isolation import Isolation

_WARM_S = 120.0
_MOST_SPARES = 8
_CORES_A_SPARE = 2
"""Imports and first launches keep a core busy for seconds; candidates come about once a second."""
_CPU_S = 3600
"""CPU time of one process of a candidate; what ends it earlier is a limit on each step."""
_LOOK_S = 0.1
"""Whoever waits for a child that is being started looks so often whether the pool is closed."""
_CLOSED = "the judge's session was closed"
_BUILD_DISK_BYTES = 1 << 30
"""Objects, intermediate files and the library of one candidate; they live in memory."""
_Result = TypeVar("_Result")


class Pool:
    """Starts and ends children."""

    def __init__(self, task: Task, device: str, isolation: Isolation) -> None:
        self.isolation = isolation
        self._bounds = replace(isolation.bounds, cpu_s=_CPU_S)
        """A candidate's. The reference and baselines live as long as the session."""
        self._task = task
        self._device = device
        self._on_gpu = device != "cpu"
        self.turns = Turns(gpu_uuid if self._on_gpu else lambda: CPU, lambda: self._closed)
        self._workers: list[Worker] = []
        self._spares: list[Future[Worker]] = []
        """Started, importing or done with that."""
        self._ready: list[Worker] = []
        """Warm, device and all."""
        self._taking = threading.Lock()
        self._closed = False
        self._starting = 0
        """So many are neither there yet nor given up."""
        self._lock = threading.Condition()
        cores = os.cpu_count() or 1
        self._wanted = min(_MOST_SPARES, max(1, cores // _CORES_A_SPARE)) if self._on_gpu else 1
        self._starter = ThreadPoolExecutor(self._wanted, "kernel-generator-spares")
        self._closer = ThreadPoolExecutor(1, "kernel-generator-retired")
        self._retiring: list[Future[None]] = []

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
        seen_gpu = self._on_gpu and gpu
        node, own = (gpu_node(), gpu_environment()) if seen_gpu else (None, {})
        isolation = replace(self.isolation, bounds=bounds) if bounds else self.isolation
        with self._lock:
            if self._closed:
                raise SandboxError(_CLOSED)
            self._starting += 1
        try:
            worker = Worker(
                {**own, **(environment or {})}, isolation, node, warmth.seen_folders(), under
            )
            with self._lock:
                self._workers.append(worker)
        except OSError as error:
            raise SandboxError(
                f"no process can be started for a kernel: {error}; free memory, disk space in the "
                "temporary folder, or file handles, and try again"
            ) from error
        finally:
            with self._lock:
                self._starting -= 1
                self._lock.notify_all()
        return worker

    def start_builder(self, language: str) -> Worker:
        """A fresh child that compiles one candidate and runs nothing of it. It sees no GPU.

        Raises `SandboxError` as `start` does.
        """
        environment = {**build_environment(self._task.target, language), COMPILES: "1"}
        most = min(self._bounds.disk_bytes, _BUILD_DISK_BYTES)
        return self.start(environment, gpu=False, bounds=replace(self._bounds, disk_bytes=most))

    def take(self, language: str) -> Worker:
        """A fresh child for a candidate: one started ahead of need, where it suits.

        Raises `SandboxError` where none can be started.
        """
        if language != self._task.language:
            environment = build_environment(self._task.target, language)
            return self.start(environment, bounds=self._bounds)
        while True:
            worker = self._take_ready()
            if worker is None:
                self._await_a_spare()
                # In this order: whoever warms children has its turn, and keeps nobody from it.
                with self.working(), self._taking:
                    self._ready = self._ready or self._warmed()
            elif worker.alive:
                if self._on_gpu:
                    # On a CPU its imports would take the cores from what is being timed.
                    self.replenish()
                return worker
            else:
                self.stop(worker)

    def working(self) -> AbstractContextManager[None]:
        """Nobody times anything on the GPU meanwhile. A CPU has cores for others' work.

        Raises `SandboxError` where the pool is closed before that.
        """
        return self.turns.working() if self._on_gpu else contextlib.nullcontext()

    def _take_ready(self) -> Worker | None:
        with self._taking:
            return self._ready.pop(0) if self._ready else None

    def _await_a_spare(self) -> None:
        """Imports take seconds: no turn is held meanwhile."""
        with self._lock:
            if not self._spares:
                self._spares.append(self._submit(self._start_spare))
            spares = list(self._spares)
        while not futures.wait(spares, _LOOK_S, return_when=futures.FIRST_COMPLETED).done:
            self.check_open()

    def _warmed(self) -> list[Worker]:
        """The spares that are there, at least one, with what touches the device done: for all of
        them at once, while nothing is timed on it."""
        with self._lock:
            spares, self._spares = self._spares, []
        if not spares:
            spares = [self._submit(self._start_spare)]
        started = set[Future[Worker]]()
        while not started:
            self.check_open()
            started, _ = futures.wait(spares, _LOOK_S, return_when=futures.FIRST_COMPLETED)
        with self._lock:
            self._spares += [spare for spare in spares if spare not in started]
        workers = [spare.result() for spare in started]
        if self._on_gpu:
            order = WarmOrder(self._device, self._launches)
            for answer in [self._submit(partial(w.warm, order, _WARM_S)) for w in workers]:
                answer.result()
        return workers

    def replenish(self) -> None:
        """Start children for the next candidates. Imports take seconds: they do them ahead of need,
        while the reference runs, another candidate is timed, or the author thinks."""
        with self._lock, contextlib.suppress(SandboxError):
            while len(self._spares) + len(self._ready) < self._wanted:
                self._spares.append(self._submit(self._start_spare))

    def _submit(self, work: Callable[[], _Result]) -> Future[_Result]:
        """Work for the starter's threads. Raises `SandboxError` where the pool is closed."""
        try:
            return self._starter.submit(work)
        except RuntimeError as error:
            raise SandboxError(_CLOSED) from error

    @property
    def _launches(self) -> bool:
        """True where candidates are likely to launch Triton kernels."""
        return self._task.language in (SupportedLanguages.TRITON, SupportedLanguages.PYTHON)

    def _start_spare(self) -> Worker:
        environment = build_environment(self._task.target, self._task.language)
        if self._task.language == SupportedLanguages.PYTHON:
            environment[PRELOADED] = "torch._inductor.compile_fx"
        worker = self.start(environment, bounds=self._bounds)
        if self._on_gpu:
            caches = warmth.launch_caches(self._device) if self._launches else None
            furnish = None if caches is None else str(caches)
            worker.warm(WarmOrder(None, self._launches, furnish), _WARM_S)
        return worker

    def check_open(self) -> None:
        """Raises `SandboxError` once the pool is closed: its children's ends mean nothing then."""
        if self._closed:
            raise SandboxError(_CLOSED)

    def stop(self, worker: Worker) -> None:
        """Close one child."""
        worker.close()
        with self._lock:
            if worker in self._workers:
                self._workers.remove(worker)

    def retire(self, worker: Worker) -> None:
        """Close one child without waiting for it: a driver takes a tenth of a second to clear up
        after a process. `settle` waits."""
        try:
            self._retiring.append(self._closer.submit(self.stop, worker))
        except RuntimeError:
            # The pool was closed meanwhile.
            self.stop(worker)

    def settle(self) -> None:
        """Wait until children that were retired are gone."""
        while self._retiring:
            self._retiring.pop().result()

    def close(self) -> None:
        """Close all children. Safe to call twice."""
        with self._lock:
            self._closed = True
            self._lock.wait_for(lambda: not self._starting)
            workers, self._workers = self._workers, []
        for worker in workers:
            worker.close()
        self._closer.shutdown()
        self._starter.shutdown(wait=False, cancel_futures=True)
