"""The children of one session: started ahead of need, used once, closed together.

Guarantees that a child which ran a candidate never serves another, and that after `close` none is
left and none can be started. Safe to use from several threads.
"""

from __future__ import annotations

import contextlib
import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from flashinfer_bench.data import SupportedLanguages

from kernel_generator.domain.errors import SandboxError
from kernel_generator.evaluation import warmth
from kernel_generator.evaluation.device import gpu_environment, gpu_node
from kernel_generator.evaluation.toolchain import build_environment
from kernel_generator.sandbox.wire import PRELOADED
from kernel_generator.sandbox.worker import Done, Worker

if TYPE_CHECKING:
    from kernel_generator.domain.task import Task
    from kernel_generator.sandbox.isolation import Isolation

_WARM_S = 120.0
_MOST_SPARES = 8
_CORES_A_SPARE = 2
"""Imports and first launches keep a core busy for seconds; candidates come about once a second."""


class Pool:
    """Starts and ends children."""

    def __init__(self, task: Task, device: str, isolation: Isolation) -> None:
        self.isolation = isolation
        self._task = task
        self._device = device
        self._on_gpu = device != "cpu"
        self._workers: list[Worker] = []
        self._spares: list[Future[Worker]] = []
        self._closed = False
        self._lock = threading.Lock()
        # On a CPU a second spare would take the cores from what is being timed.
        cores = os.cpu_count() or 1
        self._wanted = min(_MOST_SPARES, max(1, cores // _CORES_A_SPARE)) if self._on_gpu else 1
        self._starter = ThreadPoolExecutor(self._wanted, "kernel-generator-spares")

    @property
    def closed(self) -> bool:
        """True once no child is left and none can be started."""
        return self._closed

    def start(self, environment: dict[str, str] | None = None, *, gpu: bool = True) -> Worker:
        """A child for trusted code, or for a candidate of another language than the task's. `gpu`:
        it sees the session's GPU, where that has one.

        Raises `SandboxError` where none can be started, or the pool is closed.
        """
        seen_gpu = self._on_gpu and gpu
        node, own = (gpu_node(), gpu_environment()) if seen_gpu else (None, {})
        try:
            worker = Worker(
                {**own, **(environment or {})}, self.isolation, node, warmth.seen_folders()
            )
        except OSError as error:
            raise SandboxError(
                f"no process can be started for a kernel: {error}; free memory, disk space in the "
                "temporary folder, or file handles, and try again"
            ) from error
        with self._lock:
            if not self._closed:
                self._workers.append(worker)
                return worker
        worker.close()
        raise SandboxError("the judge's session was closed")

    def take(self, language: str) -> Worker:
        """A fresh child for a candidate: one started ahead of need, where it suits.

        Raises `SandboxError` where none can be started.
        """
        if language != self._task.language:
            return self.start(build_environment(self._task.target, language))
        while True:
            with self._lock:
                spare = self._spares.pop(0) if self._spares else None
            if spare is None:
                return self._start_spare()
            worker = spare.result()
            if worker.alive:
                self.replenish()
                return worker
            self.stop(worker)

    def replenish(self) -> None:
        """Start children for the next candidates. Imports take seconds: they do them ahead of need,
        while the reference runs, another candidate is timed, or the author thinks."""
        with self._lock, contextlib.suppress(RuntimeError):
            while len(self._spares) < self._wanted and not self._closed:
                self._spares.append(self._starter.submit(self._start_spare))

    def _start_spare(self) -> Worker:
        environment = build_environment(self._task.target, self._task.language)
        if self._task.language == SupportedLanguages.PYTHON:
            environment[PRELOADED] = "torch._inductor.compile_fx"
        worker = self.start(environment)
        if self._on_gpu:
            self._warm(worker)
        return worker

    def _warm(self, worker: Worker) -> None:
        triton = self._task.language in (SupportedLanguages.TRITON, SupportedLanguages.PYTHON)
        caches = warmth.launch_caches(self._device) if triton else None
        furnish = None if caches is None else str(caches)
        answer = worker.warm(self._device, furnish, triton, _WARM_S)
        if triton and not isinstance(answer, Done) and worker.alive:
            # Without Triton, say: whoever needs it is told when it is needed.
            worker.warm(self._device, None, False, _WARM_S)

    def check_open(self) -> None:
        """Raises `SandboxError` once the pool is closed: its children's ends mean nothing then."""
        if self._closed:
            raise SandboxError("the judge's session was closed during an evaluation")

    def stop(self, worker: Worker) -> None:
        """Close one child."""
        worker.close()
        with self._lock:
            if worker in self._workers:
                self._workers.remove(worker)

    def close(self) -> None:
        """Close all children. Safe to call twice."""
        with self._lock:
            self._closed = True
            workers, self._workers = self._workers, []
        for worker in workers:
            worker.close()
        self._starter.shutdown(wait=False, cancel_futures=True)
