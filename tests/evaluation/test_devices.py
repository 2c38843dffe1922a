"""The pool of judges: who gets a slot, what is kept ready, and what becomes of a lost device.

Judges are scripted here: what is tested is who is given what.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from kernel_generator.domain.errors import BudgetSpent, DeviceLost, ReferenceFailed, SandboxError
from kernel_generator.evaluation import devices
from kernel_generator.evaluation.devices import DevicePool
from kernel_generator.evaluation.judge import Opened, Profile
from tests.running import soon
from tests.runs.sets import a_solution, an_evaluation

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from kernel_generator.domain.evaluation import Evaluation

PROFILE = Profile()


@dataclass
class ScriptedJudge:
    """A judge of a device that does what it is told, and remembers what it was asked."""

    place: str = "a device"
    slots: int = 1
    room: bool = True
    does: Callable[[], None] = lambda: None
    """Called by each evaluation."""
    prepares: Callable[[], None] = lambda: None
    opened: list[ScriptedSession] = field(default_factory=list)
    under_way: int = 0
    most: int = 0
    evaluated: int = 0
    rested: list[Any] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def check(self) -> None:
        """Nothing is isolated."""

    def has_room(self) -> bool:
        return self.room

    def open(self, task: Any) -> ScriptedSession:
        session = ScriptedSession(self, task)
        self.opened.append(session)
        return session

    @property
    def ready(self) -> list[Any]:
        """The tasks of the sessions that are open."""
        return [session.task for session in self.opened if not session.closed]


@dataclass(eq=False)
class ScriptedSession:
    judge: ScriptedJudge
    task: Any
    closed: bool = False
    opened: Opened = field(default_factory=Opened)

    def prepare(self) -> None:
        self.judge.prepares()

    def evaluate(self, solution: Any, profile: Profile) -> Evaluation:
        assert not self.closed
        judge = self.judge
        with judge.lock:
            judge.under_way += 1
            judge.most = max(judge.most, judge.under_way)
        try:
            judge.does()
        finally:
            with judge.lock:
                judge.under_way -= 1
                judge.evaluated += 1
        return an_evaluation()

    def rest(self) -> None:
        self.judge.rested.append(self.task)

    def close(self) -> None:
        self.closed = True


def in_threads(*work: Callable[[], object]) -> list[threading.Thread]:
    threads = [threading.Thread(target=one) for one in work]
    for thread in threads:
        thread.start()
    return threads


def test_no_place_has_more_under_way_than_slots_and_all_places_are_used() -> None:
    together = threading.Barrier(3, timeout=30)
    judges = [ScriptedJudge(does=together.wait), ScriptedJudge(slots=2, does=together.wait)]
    pool = DevicePool(judges)
    sessions = [pool.open(n) for n in range(9)]
    # Each third evaluation lets three go on: only where three are under way at once.
    threads = in_threads(*(lambda s=s: s.evaluate(a_solution(), PROFILE) for s in sessions))
    for thread in threads:
        thread.join(60)
    assert [judge.most for judge in judges] == [1, 2]
    assert sum(judge.evaluated for judge in judges) == 9
    assert pool.slots == 3


def test_who_asks_first_is_served_first() -> None:
    gate = threading.Event()
    judge, served = ScriptedJudge(does=lambda: gate.wait(30)), []
    pool = DevicePool([judge])

    def work(name: str) -> None:
        pool.open(name).evaluate(a_solution(), PROFILE)
        served.append(name)

    threads = in_threads(lambda: work("a"))
    assert soon(lambda: judge.under_way == 1)
    for number, name in enumerate("bcd", start=1):
        threads += in_threads(lambda name=name: work(name))
        assert soon(lambda number=number: len(pool._queue) == number)
    gate.set()
    for thread in threads:
        thread.join(30)
    assert [session.task for session in judge.opened] == ["a", "b", "c", "d"]


def test_a_session_goes_where_it_is_ready_and_is_prepared_once_there() -> None:
    judges = [ScriptedJudge(), ScriptedJudge()]
    session = DevicePool(judges).open("a task")
    session.prepare()
    for _ in range(4):
        session.evaluate(a_solution(), PROFILE)
    assert sorted(len(judge.opened) for judge in judges) == [0, 1]


def test_where_memory_is_short_the_session_used_least_recently_makes_room() -> None:
    judge = ScriptedJudge()
    pool = DevicePool([judge])
    first, second = pool.open("first"), pool.open("second")
    first.prepare()
    second.prepare()
    first.evaluate(a_solution(), PROFILE)
    judge.room = False
    pool.open("third").prepare()
    # Nobody uses the others: as long as memory is short, both go, the older one first.
    assert judge.rested == ["second", "first"]
    assert judge.ready == ["third"]
    judge.room = True
    second.evaluate(a_solution(), PROFILE)
    assert judge.ready == ["third", "second"]


def test_only_so_many_are_kept_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "MOST_OPEN", 2)
    judge = ScriptedJudge()
    pool = DevicePool([judge])
    for name in "abc":
        pool.open(name).prepare()
    assert judge.ready == ["b", "c"]


def test_the_work_of_a_lost_device_is_done_on_another() -> None:
    def lose() -> None:
        raise DeviceLost("it fell off the bus")

    judges = [ScriptedJudge(does=lose), ScriptedJudge()]
    session = DevicePool(judges).open("a task")
    assert session.evaluate(a_solution(), PROFILE).outcome == "PASSED"
    assert [judge.ready for judge in judges] == [[], ["a task"]]
    # It is left alone for a while.
    session.evaluate(a_solution(), PROFILE)
    assert [judge.evaluated for judge in judges] == [1, 2]


def test_the_only_device_is_waited_for_and_a_loss_for_good_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(devices, "_AWAY_S", 0.01)
    losses = iter([True, False, True, True, True])

    def may_lose() -> None:
        if next(losses):
            raise DeviceLost("it fell off the bus")

    judge = ScriptedJudge(does=may_lose)
    session = DevicePool([judge]).open("a task")
    assert session.evaluate(a_solution(), PROFILE).outcome == "PASSED"
    with pytest.raises(DeviceLost, match="fell off the bus"):
        session.evaluate(a_solution(), PROFILE)
    assert judge.ready == []


def test_what_cannot_be_prepared_leaves_nothing_open() -> None:
    def fail() -> None:
        raise ReferenceFailed("the reference does not run here")

    judge = ScriptedJudge(prepares=fail)
    session = DevicePool([judge]).open("a task")
    with pytest.raises(ReferenceFailed):
        session.prepare()
    assert judge.ready == []


def test_closing_ends_the_wait_for_a_slot_and_leaves_others_alone() -> None:
    gate, ends = threading.Event(), []
    judge = ScriptedJudge(does=lambda: gate.wait(30))
    pool = DevicePool([judge])
    working, waiting = pool.open("working"), pool.open("waiting")

    def wait() -> None:
        try:
            waiting.evaluate(a_solution(), PROFILE)
        except SandboxError as error:
            ends.append(str(error))

    threads = in_threads(lambda: working.evaluate(a_solution(), PROFILE))
    assert soon(lambda: judge.under_way == 1)
    threads += in_threads(wait)
    assert soon(lambda: len(pool._queue) == 1)
    waiting.close()
    threads[1].join(30)
    assert ends == ["the judge's session was closed"]
    assert judge.ready == ["working"]
    gate.set()
    threads[0].join(30)
    working.close()
    assert judge.ready == []


@dataclass
class Meter:
    """Lets one evaluation begin, or any within some seconds."""

    limit_s: float | None = None
    counted: int = 0
    began: float = field(default_factory=time.monotonic)

    @property
    def left_s(self) -> float | None:
        if self.limit_s is None:
            return None
        return max(0.0, self.began + self.limit_s - time.monotonic())

    def check(self) -> None:
        if self.counted or self.left_s == 0.0:
            raise BudgetSpent("no more")

    def judged(self, evaluation: Evaluation) -> None:
        self.counted += 1


def test_an_evaluation_is_counted_before_the_next_may_begin() -> None:
    judge, meter, refused = ScriptedJudge(), Meter(), []
    pool = DevicePool([judge])

    def work(name: str) -> None:
        try:
            pool.open(name).evaluate(a_solution(), PROFILE, meter)
        except BudgetSpent:
            refused.append(name)

    for thread in in_threads(*(lambda name=name: work(name) for name in "abc")):
        thread.join(30)
    assert (judge.evaluated, meter.counted, len(refused)) == (1, 1, 2)


def test_whoever_waits_for_a_slot_waits_no_longer_than_there_is_time() -> None:
    gate = threading.Event()
    judge = ScriptedJudge(does=lambda: gate.wait(60))
    pool = DevicePool([judge])
    busy = in_threads(lambda: pool.open("a").evaluate(a_solution(), PROFILE))
    assert soon(lambda: judge.under_way == 1)
    with pytest.raises(BudgetSpent):
        pool.open("b").evaluate(a_solution(), PROFILE, Meter(limit_s=0.1))
    assert judge.under_way == 1
    gate.set()
    busy[0].join(30)
    assert judge.evaluated == 1
