"""A candidate that passed all its workloads, together with what judged it: what is certified."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kernel_generator.evaluation.inputs import InputsUnavailable
from kernel_generator.evaluation.workloads import call_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from flashinfer_bench import Workload

    from kernel_generator.domain.task import Task
    from kernel_generator.evaluation.bench import Bench
    from kernel_generator.evaluation.case import Subject
    from kernel_generator.evaluation.judge import Limits, Profile
    from kernel_generator.evaluation.pool import Pool
    from kernel_generator.evaluation.trials import Trials
    from kernel_generator.sandbox.orders import Order


@dataclass(frozen=True)
class Finalist:
    """One candidate and all that its further checks take."""

    task: Task
    language: str
    """The solution's."""
    subject: Subject
    """In the child that it was judged in, which is not used for anything else."""
    order: Order
    """Loads it into another child."""
    bench: Bench
    pool: Pool
    limits: Limits
    revive: Callable[[], None]
    """Replaces the reference's child where it has died."""
    runs_without: Callable[[Workload, Profile], bool]
    """Whether a workload can be run here without the candidate."""

    @property
    def trials(self) -> Trials:
        """The bench's."""
        return self.bench.trials

    def smallest(self) -> Workload | None:
        """The searched workload with the fewest bytes of those that can be run here."""
        sizes: dict[str, int] = {}
        for workload in self.task.searched:
            with contextlib.suppress(InputsUnavailable):
                sizes[workload.uuid] = call_bytes(self.trials.plan(workload))
        usable = [w for w in self.task.searched if w.uuid in sizes]
        return min(usable, key=lambda w: sizes[w.uuid], default=None)


def axes_of(workload: Workload) -> str:
    """Its extents, for a sentence."""
    return ", ".join(f"{name}={extent}" for name, extent in workload.axes.items())
