"""The children of one session: started ahead of need, used once, closed together.

Guarantees that a child which ran a candidate never serves another, and that after `close` none is
left and none can be started.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

from flashinfer_bench.data import SupportedLanguages

from kernel_generator.domain.errors import SandboxError
from kernel_generator.evaluation import warmth
from kernel_generator.evaluation.device import gpu_environment, gpu_node
from kernel_generator.evaluation.toolchain import build_environment
from kernel_generator.sandbox.wire import PRELOADED
from kernel_generator.sandbox.worker import Worker

if TYPE_CHECKING:
    from kernel_generator.domain.task import Task
    from kernel_generator.sandbox.isolation import Isolation


class Pool:
    """Starts and ends children. Safe to close from another thread."""

    def __init__(self, task: Task, device: str, isolation: Isolation) -> None:
        self.isolation = isolation
        self._task = task
        self._device = device
        self._workers: list[Worker] = []
        self._spare: Worker | None = None
        self._closed = False
        self._lock = threading.Lock()

    def start(
        self, environment: dict[str, str] | None = None, under: tuple[str, ...] = ()
    ) -> Worker:
        """A child for trusted code, or for a candidate of another language than the task's, or
        `under` another program (see `Worker`).

        Raises `SandboxError` where none can be started, or the pool is closed.
        """
        gpu, own = (None, {}) if self._device == "cpu" else (gpu_node(), gpu_environment())
        try:
            worker = Worker(
                {**own, **(environment or {})}, self.isolation, gpu, warmth.seen_folders(), under
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
        """A fresh child for a candidate: the one started ahead of need, where it suits."""
        if language != self._task.language:
            return self.start(build_environment(self._task.target, language))
        spare, self._spare = self._spare, None
        if spare is not None and spare.alive:
            return spare
        return self._start_spare()

    def replenish(self) -> None:
        """Start the next candidate's child. Imports take seconds: it does them ahead of need,
        while the reference runs or the author thinks."""
        if self._spare is None:
            with contextlib.suppress(SandboxError):
                self._spare = self._start_spare()

    def _start_spare(self) -> Worker:
        environment = build_environment(self._task.target, self._task.language)
        if self._task.language == SupportedLanguages.PYTHON:
            environment[PRELOADED] = "torch._inductor.compile_fx"
        return self.start(environment)

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
