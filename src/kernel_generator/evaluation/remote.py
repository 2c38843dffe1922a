"""A session whose judge works in another process, on this machine or another.

Guarantees that whoever waits for it is let go when it is closed, whatever the other side does, and
that a process or machine that is gone shows as `DeviceLost` and as nothing else.
"""

from __future__ import annotations

import threading
from concurrent import futures
from concurrent.futures import Future
from typing import TYPE_CHECKING, Protocol
from uuid import uuid4

from flashinfer_bench.data import SafetensorsInput

from kernel_generator.domain.errors import DeviceLost, SandboxError
from kernel_generator.domain.evaluation import Evaluation
from kernel_generator.evaluation.inputs import InputsUnavailable, check_captured
from kernel_generator.evaluation.judge import Opened
from kernel_generator.evaluation.orders import Broken, Close, Evaluate, Prepare, Refused, Room

if TYPE_CHECKING:
    from collections.abc import Callable

    from flashinfer_bench import Solution

    from kernel_generator.domain.task import Task
    from kernel_generator.evaluation.judge import Profile
    from kernel_generator.evaluation.orders import Answer, Order

_TELLING_S = 5.0
_CLOSING_S = 20.0
"""A judge that has not closed a session by then closes none any more."""


class Line(Protocol):
    """The way to one judge."""

    def submit(self, order: Order) -> Future[Answer]:
        """Ask, and wait for nothing. The answer raises `DeviceLost` where the judge is gone."""
        ...

    def cut(self) -> None:
        """End the judge. What it was asked raises `DeviceLost`. Safe to call twice."""
        ...


class RemoteSession:
    """See `PlacedSession`. The judge is looked for when the session is prepared."""

    def __init__(self, connect: Callable[[], Line], place: str, task: Task) -> None:
        """`connect` finds or starts the judge and raises `DeviceLost` where there is none."""
        self.opened = Opened()
        self._connect = connect
        self._place = place
        self._task = task
        self._name = uuid4().hex
        self._line: Line | None = None
        self._lock = threading.Lock()
        self._closed = Future["Answer"]()

    def prepare(self) -> None:
        """See `Session.prepare`. Raises `DeviceLost` too, and `InvalidInput` where the captured
        inputs are not on the other machine."""
        line = self._connect()
        with self._lock:
            self._line = line
        answer = self._ask(Prepare(self._name, self._task, captured_files(self._task)))
        assert isinstance(answer, Opened)
        self.opened = answer

    def evaluate(self, solution: Solution, profile: Profile) -> Evaluation:
        """See `Session.evaluate`. Raises `DeviceLost` too."""
        answer = self._ask(Evaluate(self._name, solution, profile))
        assert isinstance(answer, Evaluation)
        return answer

    def _ask(self, order: Order) -> Opened | Evaluation | bool | None:
        with self._lock:
            if self._closed.done() or self._line is None:
                raise SandboxError("the judge's session was closed")
            line = self._line
            answered = line.submit(order)
        futures.wait([answered, self._closed], return_when=futures.FIRST_COMPLETED)
        if not answered.done():
            raise SandboxError("the judge's session was closed")
        try:
            answer = answered.result()
        except DeviceLost as lost:
            answer = Refused(lost)
        match answer:
            case Refused(DeviceLost() as lost):
                line.cut()
                raise DeviceLost(f"{self._place}: {lost}") from lost
            case Refused(error):
                raise error
            case Broken(trace):
                raise RuntimeError(f"{self._place}: the judge failed there\n{trace}")
            case _:
                return answer

    def rest(self) -> None:
        """See `PlacedSession.rest`. Nothing is given back over there but by closing."""

    def close(self) -> None:
        """See `Session.close`."""
        with self._lock:
            if self._closed.done():
                return
            self._closed.set_result(None)
            line = self._line
            if line is None:
                return
            ended = line.submit(Close(self._name))
        if not futures.wait([ended], _CLOSING_S).done:
            line.cut()


def has_room(line: Line | None) -> bool:
    """See `PlacedJudge.has_room`. Where nobody answers, whoever goes there finds out."""
    if line is None:
        return True
    told = line.submit(Room())
    if not futures.wait([told], _TELLING_S).done or told.exception() is not None:
        return True
    return told.result() is not False


def captured_files(task: Task) -> tuple[str, ...]:
    """The files of a task's captured inputs that are here, as its workloads name them."""
    found = dict[str, None]()
    for workload in task.workloads:
        for name, described in workload.inputs.items():
            if isinstance(described, SafetensorsInput):
                alone = workload.model_copy(update={"inputs": {name: described}})
                try:
                    check_captured(alone, task.root)
                except InputsUnavailable:
                    continue
                found[described.path] = None
    return tuple(found)
