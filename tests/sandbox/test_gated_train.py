"""The judge's clock around calls that are queued behind a gate.

CUDA is simulated inside the child: calls run as they are queued, and events say what they are told
to. What is seen is the protocol.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import pytest

from kernel_generator.sandbox.orders import Answer, Done, Failed, TrainOrder
from kernel_generator.sandbox.wire import Train
from kernel_generator.sandbox.worker import Worker
from tests.sandbox.driving import LIMIT_S, call, order, output, square

if TYPE_CHECKING:
    from collections.abc import Generator

    from kernel_generator.sandbox.arena import Arena, Layout
    from kernel_generator.sandbox.device_arena import DeviceArena

CALLS = 4
READING_S = 0.3
"""What reading one pair of events takes in the simulation."""
DEVICE_S = 0.3
"""What the calls take there: nothing waits for the gate, so the judge has so long to open it."""
SIMULATED = """
import time
from types import SimpleNamespace
import torch
from kernel_generator.sandbox import driver

class Event:
    def __init__(self, enable_timing): pass
    def record(self): pass
    def elapsed_time(self, end):
        time.sleep({reading_s})
        return 0.5

torch.cuda.Event = Event
torch.cuda.synchronize = lambda *_: time.sleep({device_s})
torch.cuda._sleep = lambda cycles: None
torch.cuda.current_stream = lambda: SimpleNamespace(cuda_stream=0)
torch.cuda.get_device_properties = lambda device: SimpleNamespace(L2_cache_size=64)
driver.wait_until = lambda stream, gate, ticket: time.sleep({queueing_s})

def run(x):
    return x * 3.0
"""


@dataclass
class Gated:
    """Stands for an arena in a GPU's memory: notes when its gate is opened."""

    layout: Layout
    opened: list[str] = field(default_factory=list[str])

    def open_gate(self, number: int) -> None:
        self.opened.append(f"gate {number}")


@pytest.fixture
def arena() -> Generator[Arena]:
    found = square(sets=CALLS)
    yield found
    found.close()


def queued(
    arena: Arena, mode: Train = Train.GATED, patience: float = LIMIT_S, **takes_s: float
) -> tuple[Answer, list[str]]:
    """What a train of calls came to, and what happened in which order."""
    source = SIMULATED.format(
        **{"queueing_s": 0.0, "device_s": DEVICE_S, "reading_s": 0.0} | takes_s
    )
    gated = Gated(arena.layout)
    with Worker() as worker:
        assert isinstance(call(worker, order(source), arena), Done)
        answer = worker.train_gated(
            cast("DeviceArena", cast("Any", gated)),
            TrainOrder(CALLS, mode),
            lambda: gated.opened.append("filled"),
            patience,
            LIMIT_S,
            lambda: gated.opened.append("settled"),
            lambda began: gated.opened.append("meanwhile" if began < time.perf_counter() else ""),
        )
    return answer, gated.opened


def test_calls_are_queued_then_filled_then_let_go_then_looked_at(arena: Arena) -> None:
    answer, happened = queued(arena)
    assert isinstance(answer, Done)
    assert answer.gated
    assert happened == ["filled", "gate 1", "meanwhile", "settled"]
    assert (output(arena) == 3.0).all()


def test_the_clock_does_not_span_the_reading_of_events(arena: Arena) -> None:
    answer, _ = queued(arena, reading_s=READING_S)
    assert isinstance(answer, Done)
    assert answer.device_ns == pytest.approx(CALLS * 0.5e6)
    assert answer.wall_s < CALLS * READING_S


def test_the_clock_spans_what_the_device_does(arena: Arena) -> None:
    answer, _ = queued(arena)
    assert isinstance(answer, Done)
    assert answer.wall_s >= DEVICE_S / 2


def test_what_does_not_queue_in_time_is_let_go_and_told_apart(arena: Arena) -> None:
    answer, happened = queued(arena, patience=0.05, queueing_s=0.5)
    assert isinstance(answer, Done)
    assert not answer.gated
    assert happened[:2] == ["filled", "gate 1"]


def test_what_was_not_queued_at_all_is_told_apart(arena: Arena) -> None:
    answer, happened = queued(arena, Train.CALLS)
    assert isinstance(answer, Done)
    assert not answer.gated
    assert "settled" not in happened


def test_a_call_that_fails_while_queued_is_told(arena: Arena) -> None:
    with Worker() as worker:
        source = SIMULATED.format(queueing_s=0.0, device_s=0.0, reading_s=0.0)
        source = source.replace("return x * 3.0", "return x * 3.0 if x.sum() else x.nothing")
        assert isinstance(call(worker, order(source), arena), Done)
        arena.sets.zero_()
        gated = cast("DeviceArena", cast("Any", Gated(arena.layout)))
        train = TrainOrder(CALLS, Train.GATED)
        answer = worker.train_gated(gated, train, lambda: None, LIMIT_S, LIMIT_S)
    assert isinstance(answer, Failed)
    assert "nothing" in answer.text
