"""The judge on this machine: every implementation in a child process of its own.

Its sessions on one device share the children that are started ahead of need. A candidate's child is
fresh and is never used again.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from kernel_generator.domain.errors import IsolationUnavailable, UnknownName
from kernel_generator.evaluation.judge import Limits
from kernel_generator.evaluation.nursery import Nursery
from kernel_generator.evaluation.room import has_room
from kernel_generator.evaluation.session import LocalSession
from kernel_generator.evaluation.toolchain import gpu_name
from kernel_generator.sandbox.isolation import JailUnavailable, Level, isolate

if TYPE_CHECKING:
    from kernel_generator.domain.task import Task
    from kernel_generator.sandbox import isolation as sandbox


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
