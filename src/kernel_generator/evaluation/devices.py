"""Several judges as one: each evaluation goes to a device that is free, in the order of asking.

Guarantees that a place has no more evaluations under way than it has slots, that all figures of one
evaluation come from one place, and that after a session's `close` nothing of it is left anywhere.
What a place loses with its device is done again elsewhere, or there once it is back.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from kernel_generator.domain.budget import UNLIMITED
from kernel_generator.domain.errors import DeviceLost, SandboxError
from kernel_generator.evaluation.judge import UNMETERED, Opened

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from flashinfer_bench import Solution

    from kernel_generator.domain.budget import Permit
    from kernel_generator.domain.evaluation import Evaluation
    from kernel_generator.domain.task import Task
    from kernel_generator.evaluation.judge import (
        Judge,
        Meter,
        PlacedJudge,
        PlacedSession,
        Profile,
        Session,
    )

MOST_OPEN = 32
"""Sessions that a place keeps ready, at most: each holds a reference's process and its results."""
_TRIES = 3
"""How often one evaluation is begun, on one device or another, before its loss is told."""
_AWAY_S = 30.0
"""A place that lost its device is left alone for so long."""
_CLOSED = "the judge's session was closed"
_Result = TypeVar("_Result")


@dataclass(eq=False)
class _Place:
    """A judge, and what it has to do."""

    judge: PlacedJudge
    busy: int = 0
    """Evaluations under way, preparations included."""
    sessions: OrderedDict[PooledSession, PlacedSession] = field(
        default_factory=OrderedDict["PooledSession", "PlacedSession"]
    )
    """Those that are open, the least recently used first."""
    away_until: float = 0.0
    """By the monotonic clock."""


class DevicePool:
    """A `Judge` over others, one a device. Safe to use from several threads."""

    def __init__(self, judges: Sequence[PlacedJudge]) -> None:
        if not judges:
            raise ValueError("a pool needs at least one judge")
        self._places = [_Place(judge) for judge in judges]
        self._changed = threading.Condition()
        self._queue: deque[object] = deque()
        """Who waits for a slot, first come first served."""

    @property
    def slots(self) -> int:
        """How many evaluations may be under way at once."""
        return sum(place.judge.slots for place in self._places)

    @property
    def judges(self) -> tuple[Judge, ...]:
        """Those that work is given to."""
        return tuple(place.judge for place in self._places)

    def check(self) -> None:
        """See `Judge.check`."""
        for place in self._places:
            place.judge.check()

    def open(self, task: Task) -> PooledSession:
        """See `Judge.open`. Nothing is started before it is prepared."""
        return PooledSession(self, task)

    # -- slots ----------------------------------------------------------------------------------

    @contextmanager
    def slot(self, session: PooledSession, permit: Permit = UNLIMITED) -> Generator[_Place]:
        """Wait for a slot and keep it. Raises `SandboxError` once the session is closed, and what
        the permit does."""
        ticket = object()
        with self._changed:
            self._queue.append(ticket)
            try:
                place = self._wait_for(ticket, session, permit)
                place.busy += 1
                session.is_at_work = True
            finally:
                self._queue.remove(ticket)
                self._changed.notify_all()
        try:
            yield place
        finally:
            with self._changed:
                place.busy -= 1
                session.is_at_work = False
                self._changed.notify_all()

    def _wait_for(self, ticket: object, session: PooledSession, permit: Permit) -> _Place:
        while True:
            session.check_open()
            permit.check()
            now = time.monotonic()
            if self._queue[0] is ticket:
                here = [p for p in self._places if p.away_until <= now]
                free = [p for p in here if p.busy < p.judge.slots]
                if free:
                    # Where it is ready already, else where the least is to do.
                    return min(free, key=lambda p: (session not in p.sessions, p.busy))
            back = [p.away_until - now for p in self._places if p.away_until > now]
            if (left_s := permit.left_s) is not None:
                back.append(left_s)
            self._changed.wait(min(back, default=None))

    # -- sessions -------------------------------------------------------------------------------

    def session_at(self, place: _Place, pooled: PooledSession) -> Session:
        """The session at that place, prepared. Raises what `Session.prepare` does."""
        with self._changed:
            pooled.check_open()
            known = place.sessions.get(pooled)
            if known is not None:
                place.sessions.move_to_end(pooled)
                return known
        self._make_room(place)
        session = place.judge.open(pooled.task)
        with self._changed:
            place.sessions[pooled] = session
            closed = pooled.closed
        if closed:
            self.drop(place, pooled)
            pooled.check_open()
        try:
            session.prepare()
        except BaseException:
            self.drop(place, pooled)
            raise
        return session

    def _make_room(self, place: _Place) -> None:
        """Close sessions that nobody uses, the least recently used first, where there are many or
        memory is short. They are prepared again when they are needed."""
        rested = False
        while True:
            with self._changed:
                idle = [(one, s) for one, s in place.sessions.items() if not one.is_at_work]
                crowded = len(place.sessions) >= MOST_OPEN
            if not idle or not (crowded or not place.judge.has_room()):
                return
            if crowded or rested:
                self.drop(place, idle[0][0])
                continue
            for _, session in idle:
                session.rest()
            rested = True

    def drop(self, place: _Place, pooled: PooledSession) -> None:
        """Close a session's part at one place."""
        with self._changed:
            session = place.sessions.pop(pooled, None)
        if session is not None:
            session.close()

    def lost(self, place: _Place) -> None:
        """A place's device, or what judges on it, is gone: with it all that was ready there."""
        with self._changed:
            place.away_until = time.monotonic() + _AWAY_S
            idle = [one for one in place.sessions if not one.is_at_work]
            self._changed.notify_all()
        for one in idle:
            self.drop(place, one)

    def close(self, pooled: PooledSession) -> None:
        """Close a session wherever it is open."""
        with self._changed:
            self._changed.notify_all()
        for place in self._places:
            self.drop(place, pooled)


class PooledSession:
    """A `Session` that may be open at several places."""

    def __init__(self, pool: DevicePool, task: Task) -> None:
        self.task = task
        self.opened = Opened()
        self.closed = False
        self.is_at_work = False
        """True while it has a slot somewhere: then nobody makes room at its cost."""
        self._pool = pool
        self._turn = threading.Lock()

    def prepare(self, permit: Permit = UNLIMITED) -> None:
        """See `Session.prepare`. Raises `DeviceLost` too, and what the permit does that is asked
        once there is a slot for it."""
        self.opened = self._at_a_place(lambda session: session.opened, permit)

    def evaluate(
        self, solution: Solution, profile: Profile, meter: Meter = UNMETERED
    ) -> Evaluation:
        """See `Session.evaluate`. Raises `DeviceLost` too, and what the meter does that is asked
        once there is a slot for it, and told of the evaluation before the slot is given back."""

        def work(session: Session) -> Evaluation:
            evaluation = session.evaluate(solution, profile)
            meter.judged(evaluation)
            return evaluation

        return self._at_a_place(work, meter)

    def _at_a_place(self, work: Callable[[Session], _Result], permit: Permit) -> _Result:
        with self._turn:
            left = _TRIES
            while True:
                left -= 1
                with self._pool.slot(self, permit) as place:
                    try:
                        return work(self._pool.session_at(place, self))
                    except DeviceLost:
                        self._pool.drop(place, self)
                        self._pool.lost(place)
                        if not left:
                            raise

    def check_open(self) -> None:
        """Raises `SandboxError` once it is closed."""
        if self.closed:
            raise SandboxError(_CLOSED)

    def close(self) -> None:
        """See `Session.close`."""
        self.closed = True
        self._pool.close(self)


def prepare(session: Session, permit: Permit) -> None:
    """See `PooledSession.prepare`; a session of another kind has its turn at once."""
    if isinstance(session, PooledSession):
        session.prepare(permit)
        return
    permit.check()
    session.prepare()


def evaluate(session: Session, solution: Solution, profile: Profile, meter: Meter) -> Evaluation:
    """See `PooledSession.evaluate`; a session of another kind has its turn at once."""
    if isinstance(session, PooledSession):
        return session.evaluate(solution, profile, meter)
    meter.check()
    evaluation = session.evaluate(solution, profile)
    meter.judged(evaluation)
    return evaluation
