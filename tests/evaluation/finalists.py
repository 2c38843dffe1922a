"""What the tests of certification share: a candidate, prepared, with a bench of its own."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

from kernel_generator.evaluation.baselines import reference_solution
from kernel_generator.evaluation.bench import Bench
from kernel_generator.evaluation.case import Subject
from kernel_generator.evaluation.finalist import Finalist
from kernel_generator.evaluation.nursery import Nursery
from kernel_generator.evaluation.pool import Pool
from kernel_generator.evaluation.toolchain import build_environment
from kernel_generator.evaluation.trials import Trials
from kernel_generator.sandbox.isolation import Level, isolate
from kernel_generator.sandbox.orders import Done, Order
from tests.evaluation.judging import TINY

if TYPE_CHECKING:
    from collections.abc import Generator

    from flashinfer_bench import Solution

    from kernel_generator.domain.task import Task
    from kernel_generator.evaluation.judge import Limits


@contextmanager
def finalist(
    what: Task,
    solution: Solution,
    *,
    device: str = "cpu",
    limits: Limits = TINY,
    level: Level = Level.STRICT,
) -> Generator[Finalist]:
    """A solution loaded into a child, and the reference into another."""

    def order(one: Solution) -> Order:
        return Order(what.definition.model_dump_json(), one.model_dump_json(), device)

    pool = Pool(what, Nursery(device, isolate(level)))
    try:
        language = solution.spec.language.value
        reference = pool.start()
        worker = pool.start(build_environment(what.target, language))
        for child, one in ((reference, reference_solution(what)), (worker, solution)):
            answer = child.prepare(order(one), limits.build_s)
            assert isinstance(answer, Done), answer
        trials = Trials(what, device, limits, reference, seed=1, revive=lambda: None)
        stores = not solution.spec.destination_passing_style
        yield Finalist(
            task=what,
            language=language,
            subject=Subject("candidate", worker, stores, trusted=False),
            order=order(solution),
            bench=Bench(what, limits, trials, lambda: nullcontext(None)),
            pool=pool,
            limits=limits,
            revive=lambda: None,
            runs_without=lambda _workload, _profile: False,
        )
    finally:
        pool.close()
