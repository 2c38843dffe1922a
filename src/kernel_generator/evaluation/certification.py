"""What a certified evaluation checks beside the workloads: sizes that none of them has, capture
into a CUDA graph, and memcheck.

A check that cannot be made here is recorded with the reason, and rejects nothing.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kernel_generator.domain.evaluation import Check, WorkloadEvaluation
from kernel_generator.domain.outcome import Outcome
from kernel_generator.evaluation import graphs, memcheck, sampling
from kernel_generator.evaluation.case import blamed
from kernel_generator.evaluation.finalist import axes_of
from kernel_generator.evaluation.judge import Profile
from kernel_generator.evaluation.values import SIZES, edge_workloads
from kernel_generator.evaluation.wrong import Wrong

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from flashinfer_bench import Workload

    from kernel_generator.evaluation.case import Judged
    from kernel_generator.evaluation.finalist import Finalist

EDGES = "edge sizes"
TIMED_DRAWS = "draws of timed calls"
EDGES_S = 6.0
"""Wall time for the edges of one candidate. One that has begun is finished."""
_IN_ANY_CASE = 3
"""So many are tried however long they take, or a slow candidate would not be asked."""
_TRIALS = 2
_ANY = 0
_TELLING = (7, 129, _ANY, 1, 37, 127, 2)
"""Sizes of edges in the order in which they are tried. 7 has empty sequences and fills no tile, 129
goes one beyond a tile, `_ANY` stands for one that nobody can know ahead, 1 has one row or page, 37
has nearly everything in one sequence."""
_DRAWN = range(3, 200)


@dataclass(frozen=True)
class Certification:
    """What the further checks found."""

    checks: tuple[Check, ...]
    failure: WorkloadEvaluation | None = None
    """What fails the candidate: an edge that it gets wrong, or an invalid memory access."""
    starved: tuple[tuple[Workload, Judged], ...] = ()
    """Edges that could not be tried for want of memory or time."""


def certify(finalist: Finalist) -> Certification:
    """Make all further checks, up to the first failure.

    On a CPU target there are the edges alone. Raises `SandboxError` where the reference's child
    can not be replaced.
    """
    found = _certify(finalist)
    if found.failure is not None:
        return found
    for edge, judged in found.starved:
        # Nothing more is asked of the candidate: who is to blame shows without it.
        finalist.subject.worker.close()
        if finalist.runs_without(edge, Profile(trials=_TRIALS)):
            return _failed(finalist, edge, blamed(judged))
    return found


def _certify(finalist: Finalist) -> Certification:
    edges = try_edges(finalist)
    edges = replace(edges, checks=(*edges.checks, *_timed_draws(finalist)))
    if edges.failure is not None or not finalist.task.target.is_gpu:
        return edges
    workload = finalist.smallest()
    if not finalist.trials.on_gpu or workload is None:
        reason = "needs a GPU" if workload is not None else "no workload can be run here"
        others = (graphs.NAME, memcheck.NAME)
        missing = (Check(name=name, passed=None, message=reason) for name in others)
        return replace(edges, checks=(*edges.checks, *missing))
    checks = (*edges.checks, graphs.check_capture(finalist, workload))
    try:
        return replace(edges, checks=(*checks, memcheck.check_memory(finalist, workload)))
    except Wrong as wrong:
        found = Check(name=memcheck.NAME, passed=False, message=wrong.message)
        failure = WorkloadEvaluation(
            uuid=workload.uuid,
            axes=dict(workload.axes),
            outcome=wrong.outcome,
            message=wrong.message,
        )
        return Certification((*checks, found), failure)


def try_edges(
    finalist: Finalist, budget_s: float = EDGES_S, clock: Callable[[], float] = time.monotonic
) -> Certification:
    """Correctness on sizes and index structures that no workload has, the most telling first,
    until `clock` has gone on by `budget_s` seconds."""
    task = finalist.task
    edges = edge_workloads(task.definition, task.workloads, _any_size(task.workloads))
    edges = sorted(edges, key=_rank)
    if not edges:
        reason = "no other sizes can be made up for this definition"
        return Certification((Check(name=EDGES, passed=None, message=reason),))
    right, left_out, reached, late = 0, list[str](), 0, False
    starved: list[tuple[Workload, Judged]] = []
    began = clock()
    for edge in edges:
        late = clock() - began >= budget_s and reached >= _IN_ANY_CASE
        # The interpreter may have been too slow for one; who ends otherwise fails the next.
        worker = finalist.subject.worker
        ended = worker.closed or (finalist.order.interpret and not worker.alive)
        if late or ended:
            break
        reached += 1
        finalist.revive()
        judged = finalist.bench.judge(finalist.subject, edge, Profile(trials=_TRIALS), [])
        if judged.starved:
            starved.append((edge, judged))
        if _says_nothing(judged, finalist):
            left_out.append((judged.record.message.strip().splitlines() or [""])[-1])
        elif judged.record.outcome.is_result:
            right += 1
        else:
            return _failed(finalist, edge, judged)
    message = f"{right} of {len(edges)} tried"
    if reached < len(edges):
        message += f": {budget_s:g} s were over" if late else ": it ended"
    if left_out:
        message += f"; {len(left_out)} cannot be run here: {left_out[0]}"
    check = Check(name=EDGES, passed=True if right else None, message=message)
    return Certification((check,), starved=tuple(starved))


def _timed_draws(finalist: Finalist) -> tuple[Check, ...]:
    """Whether a sampler's timed calls were enough to find a wrong one; they were tested already."""
    if not sampling.is_sampler(finalist.task.definition):
        return ()
    draws = finalist.subject.timed_draws.draws
    if draws >= sampling.TELLING_DRAWS:
        return (Check(name=TIMED_DRAWS, passed=True, message=f"{draws} tested"),)
    reason = f"only {draws}: a test needs {sampling.TELLING_DRAWS}"
    return (Check(name=TIMED_DRAWS, passed=None, message=reason),)


def _any_size(workloads: Sequence[Workload]) -> int:
    known = {extent for workload in workloads for extent in workload.axes.values()}
    return random.SystemRandom().choice([n for n in _DRAWN if n not in (*SIZES, *known)])


def _rank(edge: Workload) -> int:
    size = int(edge.uuid.rpartition("-")[2])
    return _TELLING.index(size if size in _TELLING else _ANY)


def _says_nothing(judged: Judged, finalist: Finalist) -> bool:
    """True where the reference, the inputs or the interpreter are what fails."""
    slow = finalist.order.interpret and judged.record.outcome is Outcome.TIMEOUT
    return judged.skipped or judged.record.outcome is Outcome.NOT_RUN or slow


def _failed(finalist: Finalist, edge: Workload, judged: Judged) -> Certification:
    known = any(edge.axes == workload.axes for workload in finalist.task.workloads)
    which = "with inputs" if known else "at a size"
    message = f"{which} that no workload has ({axes_of(edge)}): {judged.record.message}"
    record = judged.record.model_copy(update={"message": message})
    told = f"{record.outcome} {which} that no workload has ({axes_of(edge)})"
    return Certification((Check(name=EDGES, passed=False, message=told),), record)
