"""How a session ends: at once, whatever it is doing, and without leaving a process behind."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from kernel_generator.domain.errors import SandboxError
from kernel_generator.evaluation.judge import Limits
from kernel_generator.evaluation.local import LocalJudge
from kernel_generator.evaluation.nursery import Nursery
from kernel_generator.evaluation.pool import Pool
from kernel_generator.sandbox.isolation import Level, isolate
from tests.evaluation.judging import CORRECTNESS, DOUBLE, TINY, solution, task
from tests.running import NEVER_ENDS, children, wait_until_one_runs

if TYPE_CHECKING:
    from collections.abc import Callable

    from kernel_generator.evaluation.session import LocalSession

RIGHT = solution("def run(x):\n    return x * 2\n")
NEVER = DOUBLE.model_copy(update={"reference": NEVER_ENDS})


def raised_once_closed(session: LocalSession, what: Callable[[], object]) -> str:
    """What a session's work raises when it is closed while a kernel runs that never ends."""
    raised = list[SandboxError]()

    def work() -> None:
        try:
            what()
        except SandboxError as error:
            raised.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    wait_until_one_runs()
    session.close()
    thread.join(timeout=30)
    assert not thread.is_alive()
    return str(raised[0])


def test_closed_while_a_candidate_runs_it_ends_at_once() -> None:
    before = children()
    session = LocalJudge(Limits()).open(task())
    session.prepare()
    endless = solution(NEVER_ENDS)
    assert "closed" in raised_once_closed(session, lambda: session.evaluate(endless, CORRECTNESS))
    assert children() == before


def test_closed_while_the_reference_runs_it_ends_at_once() -> None:
    before = children()
    session = LocalJudge(Limits()).open(task(NEVER))
    assert "closed" in raised_once_closed(session, session.prepare)
    assert children() == before


def test_closed_while_a_child_is_started_it_leaves_none() -> None:
    before = children()
    LocalJudge(TINY).open(task()).close()
    assert children() == before


def test_it_may_be_closed_twice() -> None:
    session = LocalJudge(TINY).open(task())
    session.close()
    session.close()
    with pytest.raises(SandboxError, match="closed"):
        session.evaluate(RIGHT, CORRECTNESS)


def test_a_closed_pool_says_so_whether_or_not_a_child_had_been_started_ahead() -> None:
    pool = Pool(task(), Nursery("cpu", isolate(Level.STRICT)))
    pool.stop(pool.take("python"))
    pool.replenish()
    pool.close()
    for _ in range(2):
        with pytest.raises(SandboxError, match="closed"):
            pool.take("python")
