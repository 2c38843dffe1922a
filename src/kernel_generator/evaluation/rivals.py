"""What a candidate is timed among beside the reference: baselines and the incumbent.

Each is built once a session, in a child of its own. One that cannot be used is no fault of the
candidate: it is named, with the reason.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kernel_generator.evaluation import outcomes
from kernel_generator.evaluation.baselines import BUILT_IN, REFERENCE
from kernel_generator.evaluation.building import NotBuilt, build
from kernel_generator.evaluation.case import Subject
from kernel_generator.evaluation.timing import INCUMBENT
from kernel_generator.evaluation.toolchain import build_environment
from kernel_generator.sandbox.orders import Done

if TYPE_CHECKING:
    from collections.abc import Callable

    from flashinfer_bench import Solution

    from kernel_generator.domain.task import Task
    from kernel_generator.evaluation.judge import Limits, Profile
    from kernel_generator.evaluation.pool import Pool
    from kernel_generator.sandbox.orders import Order
    from kernel_generator.sandbox.worker import Worker


@dataclass(frozen=True)
class _Rival:
    solution: Solution
    worker: Worker
    problem: str = ""
    """Why it cannot be used; empty where it can."""


class Rivals:
    """The rivals of one session, by name."""

    def __init__(
        self, task: Task, pool: Pool, order: Callable[[Solution], Order], limits: Limits
    ) -> None:
        self._task = task
        self._pool = pool
        self._order = order
        self._limits = limits
        self._known: dict[str, _Rival] = {}

    def among(self, profile: Profile) -> list[Subject]:
        """Those that a profile names and that can be used, started and built where they are new.

        Raises `SandboxError` where no process can be started.
        """
        return [
            Subject(
                name,
                rival.worker,
                stores=not rival.solution.spec.destination_passing_style,
                trusted=name in BUILT_IN,
            )
            for name, rival in self._named(profile).items()
            if not rival.problem and rival.worker.alive
        ]

    def unusable(self, profile: Profile) -> dict[str, str]:
        """Those that a profile names and that cannot be used, with the reason."""
        return {
            name: rival.problem or "its process ended"
            for name, rival in self._named(profile).items()
            if rival.problem or not rival.worker.alive
        }

    def _named(self, profile: Profile) -> dict[str, _Rival]:
        if profile.timing is None:
            return {}
        wanted = {b.name: b.solution for b in profile.baselines if b.name != REFERENCE}
        if profile.incumbent is not None:
            wanted[INCUMBENT] = profile.incumbent
        for name, solution in wanted.items():
            known = self._known.get(name)
            if known is None or known.solution != solution:
                self._start(name, solution)
        return {name: self._known[name] for name in wanted}

    def _start(self, name: str, solution: Solution) -> None:
        old = self._known.pop(name, None)
        if old is not None:
            self._pool.stop(old.worker)
        language = solution.spec.language.value
        order = self._order(solution)
        worker = self._pool.start(build_environment(self._task.target, language))
        built = build(self._pool, order, self._limits, solution)
        if isinstance(built, NotBuilt):
            answer = built.answer
        else:
            with built or contextlib.nullcontext():
                answer = worker.prepare(order, self._limits.build_s, built)
        problem = "" if isinstance(answer, Done) else outcomes.last_line(answer)
        if problem:
            self._pool.stop(worker)
        self._known[name] = _Rival(solution, worker, problem)
