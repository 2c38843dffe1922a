"""Spares of all sessions of a judge: how many there are, whose they are, and what is left."""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING, Any

import pytest

from kernel_generator.domain.errors import SandboxError
from kernel_generator.domain.outcome import Outcome
from kernel_generator.evaluation import bench
from kernel_generator.evaluation.nursery import Nursery, Setup
from kernel_generator.evaluation.pool import Pool
from kernel_generator.evaluation.session import LocalSession
from kernel_generator.sandbox.isolation import Isolation, Level
from kernel_generator.sandbox.orders import Done, WarmOrder
from kernel_generator.sandbox.wire import PRELOADED
from tests.evaluation.judging import BRIEF, TINY, solution, task
from tests.running import children, soon

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from kernel_generator.evaluation.nursery import Census

CPP, TRITON = (Setup.of(task(language=language)) for language in ("cpp", "triton"))
RIGHT = solution("def run(x):\n    return x * 2\n")


@pytest.fixture
def nursery() -> Nursery:
    return Nursery("cpu", Isolation(Level.PROCESS))


@pytest.fixture
def pool(nursery: Nursery) -> Generator[Callable[[str], Pool]]:
    """Begins a session's part that takes children for candidates of a language."""
    begun: list[Pool] = []

    def begin(language: str = "cpp") -> Pool:
        begun.append(Pool(task(language=language), nursery))
        return begun[-1]

    yield begin
    for one in begun:
        one.close()


def test_a_session_takes_what_was_started_for_one_that_is_closed(
    nursery: Nursery, pool: Callable[..., Pool]
) -> None:
    one, other, third = pool(), pool(), pool()
    one.replenish()
    other.replenish()
    assert nursery.census().spares == (CPP,)
    one.close()
    assert nursery.census().spares == (CPP,)
    taken = other.take("cpp")
    assert nursery.census().spares == ()
    third.close()
    assert taken.alive
    other.close()
    assert not taken.alive


def test_ten_sessions_keep_no_more_spares_than_one(
    nursery: Nursery, pool: Callable[..., Pool]
) -> None:
    for number in range(10):
        pool("cpp" if number % 2 else "triton").replenish()
        assert len(nursery.census().spares) == nursery.most
    assert nursery.census().guests == 10


def test_the_spare_of_whoever_took_one_longer_ago_is_given_up(
    nursery: Nursery, pool: Callable[..., Pool]
) -> None:
    one, other = pool("triton"), pool("cpp")
    one.replenish()
    other.replenish()
    assert nursery.census().spares == (TRITON,)
    other.take("cpp")
    assert nursery.census().spares == (TRITON,)
    other.replenish()
    assert nursery.census().spares == (CPP,)


def test_what_no_session_takes_any_more_is_given_up_first(
    nursery: Nursery, pool: Callable[..., Pool]
) -> None:
    one, other = pool("triton"), pool("cpp")
    one.replenish()
    one.close()
    other.replenish()
    assert nursery.census().spares == (CPP,)


def test_spares_are_shared_out_among_what_they_are_started_with(
    nursery: Nursery, pool: Callable[..., Pool]
) -> None:
    nursery.most = 2
    pool("cpp").replenish()
    assert nursery.census().spares == (CPP, CPP)
    pool("triton").replenish()
    assert nursery.census().spares == (CPP, TRITON)


def test_nothing_is_left_once_the_last_session_is_closed_and_the_next_begins_anew(
    nursery: Nursery, pool: Callable[..., Pool]
) -> None:
    # What lives as long as this process is started with the first child.
    first = pool()
    first.retire(first.start())
    first.close()

    def left() -> tuple[list[str], set[str], int]:
        threads = {thread.name for thread in threading.enumerate()}
        return children(), threads, len(os.listdir("/proc/self/fd"))  # noqa: PTH208

    before = left()
    for takes in (True, False):
        one, other = pool(), pool()
        one.replenish()
        if takes:
            assert other.take("cpp").alive
            one.replenish()
        one.close()
        assert nursery.census().spares == (CPP,)
        other.close()
        assert nursery.census().spares == ()
        assert left() == before


def test_a_session_that_waits_for_a_child_ends_when_it_is_closed(
    nursery: Nursery, pool: Callable[..., Pool]
) -> None:
    one, other = pool(), pool()
    raised = list[SandboxError]()

    def take() -> None:
        try:
            one.take("cpp")
        except SandboxError as error:
            raised.append(error)

    # None is started for it meanwhile.
    with nursery.timing(other):
        thread = threading.Thread(target=take)
        thread.start()
        one.close()
        thread.join(timeout=30)
        assert not thread.is_alive()
    assert "session was closed" in str(raised[0])
    assert nursery.census().guests == 1


class TestOnACpu:
    def test_nothing_imports_while_something_is_timed(
        self, nursery: Nursery, pool: Callable[..., Pool]
    ) -> None:
        one, other = pool("cpp"), pool("triton")
        one.replenish()
        assert nursery.census().importing == 1
        with other.timing():
            assert nursery.census().importing == 0
            one.take("cpp")
            one.replenish()
            other.replenish()
            census = nursery.census()
            assert (census.timing, census.importing, census.spares) == (1, 0, ())

    def test_a_spare_is_started_at_the_end_of_the_last_evaluation(
        self, nursery: Nursery, pool: Callable[..., Pool]
    ) -> None:
        one, other = pool(), pool()
        with one.evaluating():
            with other.evaluating():
                one.replenish()
            assert nursery.census().spares == ()
        assert len(nursery.census().spares) == 1

    @pytest.mark.slow
    def test_an_evaluation_is_not_timed_while_anothers_spare_imports(
        self, nursery: Nursery, pool: Callable[..., Pool], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        time_together, seen = bench.time_together, list["Census"]()

        def watched(*parts: Any) -> Any:
            seen.append(nursery.census())
            series = time_together(*parts)
            seen.append(nursery.census())
            return series

        monkeypatch.setattr(bench, "time_together", watched)
        other = pool("triton")
        session = None
        try:
            with other.evaluating():
                session = LocalSession(task(language="cpp"), TINY, nursery)
                session.prepare()
            assert nursery.census().importing == 1
            assert session.evaluate(RIGHT, BRIEF).outcome is Outcome.PASSED
            assert nursery.census().spares == (TRITON,)
        finally:
            if session is not None:
                session.close()
        assert len(seen) == 2
        assert {(census.importing, census.timing) for census in seen} == {(0, 1)}


class TestAChildThatDoesNotGetReady:
    def test_is_replaced_by_another(self, nursery: Nursery, pool: Callable[..., Pool]) -> None:
        one = pool("cpp")
        # What lives as long as this process is started with the first child.
        one.retire(one.start())
        before = set(children())
        one.replenish()
        assert soon(lambda: bool(set(children()) - before))
        for pid in set(children()) - before:
            os.kill(int(pid), signal.SIGKILL)
        taken = one.take("cpp")
        assert taken.alive
        assert isinstance(taken.warm(WarmOrder(None, triton=False), 60.0), Done)

    def test_is_no_failure_of_the_candidates_but_the_sandboxes(
        self, nursery: Nursery, pool: Callable[..., Pool]
    ) -> None:
        # A child ends where it is told to import what is no module's name.
        broken = Setup(((PRELOADED, ".none"),), launches=False)
        nursery.join(broken)
        try:
            with pytest.raises(SandboxError, match="no process gets ready for a kernel"):
                nursery.take(broken, pool())
        finally:
            nursery.leave(broken)
        assert nursery.census().importing == 0
