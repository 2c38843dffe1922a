"""A child that is started by another program, and how it ends when nothing more is asked of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kernel_generator.sandbox.isolation import Level, isolate
from kernel_generator.sandbox.orders import Died, Done, Failed, TimedOut
from kernel_generator.sandbox.worker import Worker
from tests.sandbox.driving import LIMIT_S, call, order, square

if TYPE_CHECKING:
    from collections.abc import Generator

    from kernel_generator.sandbox.arena import Arena

RIGHT = "def run(x):\n    return x * 2\n"
EVERY_LEVEL = pytest.mark.parametrize("level", list(Level))


@pytest.fixture
def arena() -> Generator[Arena]:
    found = square()
    yield found
    found.close()


def told(worker: Worker, arena: Arena, expression: str) -> str:
    source = f"import os\ndef run(x):\n    raise ValueError({expression})\n"
    answer = call(worker, order(source), arena)
    assert isinstance(answer, Failed)
    return answer.text.splitlines()[-1].removeprefix("ValueError: ")


@EVERY_LEVEL
def test_the_program_above_starts_the_child(level: Level, arena: Arena) -> None:
    with Worker(None, isolate(level), under=("/usr/bin/env", "ABOVE=here")) as worker:
        assert told(worker, arena, "os.environ['ABOVE']") == "here"


@EVERY_LEVEL
def test_the_program_above_has_the_childs_rights(level: Level, arena: Arena) -> None:
    # `sh` stays, and the child is below it.
    above = ("/bin/sh", "-c", '"$@"; exit 7', "sh")
    status = "open(f'/proc/{os.getppid()}/status').read()"
    ids = f"[l.split()[1] for l in {status}.splitlines() if l.startswith(('Uid', 'Gid'))]"
    mine = "[str(os.getuid()), str(os.getgid())]"
    with Worker(None, isolate(level), under=above) as worker:
        assert told(worker, arena, f"{ids} == {mine}") == "True"


@EVERY_LEVEL
def test_its_exit_status_is_seen_once_the_child_was_hung_up_on(level: Level, arena: Arena) -> None:
    above = ("/bin/sh", "-c", '"$@"; echo the end; exit 86', "sh")
    with Worker(None, isolate(level), under=above) as worker:
        assert isinstance(call(worker, order(RIGHT), arena), Done)
        assert worker.hang_up(LIMIT_S) == Died(86)
    assert "the end" in worker.log


def test_a_child_that_is_hung_up_on_ends_by_itself(arena: Arena) -> None:
    with Worker() as worker:
        call(worker, order(RIGHT), arena)
        assert worker.hang_up(LIMIT_S) == Died(0)
        assert not worker.alive
        assert isinstance(worker.run(0, LIMIT_S), Died)


def test_one_that_does_not_end_is_ended() -> None:
    with Worker(under=("/bin/sh", "-c", "exec sleep 600")) as worker:
        assert worker.hang_up(0.05) == TimedOut(0.05)
        assert not worker.alive


def test_a_call_apart_has_the_same_inputs_and_leaves_nothing(arena: Arena) -> None:
    source = """
seen = []
def run(x):
    assert x.data_ptr() not in seen
    seen.append(x.data_ptr())
    assert (x == 1).all()
    return x * 2
"""
    with Worker() as worker:
        worker.prepare(order(source), LIMIT_S)
        worker.bind(arena, LIMIT_S)
        before = arena.bytes.clone()
        assert isinstance(worker.run(0, LIMIT_S), Done)
        arena.bytes.copy_(before)
        assert isinstance(worker.run_apart(0, LIMIT_S), Done)
        assert arena.bytes.equal(before)
