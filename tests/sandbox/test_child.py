"""What a child answers: one worker serves every case, loading one kernel after the other."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from kernel_generator.sandbox import process as process_module
from kernel_generator.sandbox import standstill
from kernel_generator.sandbox.arena import view
from kernel_generator.sandbox.orders import Done, Failed, TrainOrder
from kernel_generator.sandbox.wire import Fault, Train
from kernel_generator.sandbox.worker import Worker
from tests.sandbox.driving import LIMIT_S, call, order, output, square

if TYPE_CHECKING:
    from collections.abc import Generator

    from kernel_generator.sandbox.arena import Arena


@pytest.fixture(scope="module")
def worker() -> Generator[Worker]:
    with Worker() as found:
        yield found


@pytest.fixture
def arena() -> Generator[Arena]:
    found = square()
    yield found
    found.close()


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("def run(x:\n", "never closed"),
        ("import no_such_module\n", "no_such_module"),
        ("def go(x):\n    return x\n", "'run' not found"),
        ("run = 3\n", "not callable"),
        ("def run(x, y):\n    return x\n", "expected 1 parameters, but got 2"),
        ("def run(x):\n    return x\n\0\n", "null bytes"),
        ("1 / 0\n", "division by zero"),
        ("import sys\nsys.exit(0)\n", "SystemExit"),
        ("raise KeyboardInterrupt\n", "KeyboardInterrupt"),
    ],
)
def test_what_does_not_load_is_a_fault_of_the_build(worker: Worker, source: str, says: str) -> None:
    answer = worker.prepare(order(source), LIMIT_S)
    assert isinstance(answer, Failed)
    assert answer.fault is Fault.BUILD
    assert says in answer.text


@pytest.mark.parametrize(
    ("body", "fault", "says"),
    [
        ("return x[:1] * 2", Fault.SHAPE, "has shape [1, 32], expected [32, 32]"),
        ("return x * 2, x", Fault.SHAPE, "returned 2 values, expected 1"),
        ("return x.double()", Fault.DTYPE, "has dtype torch.float64, expected torch.float32"),
        ("return None", Fault.DTYPE, "is a NoneType, expected a Tensor"),
        ("return x.to('meta')", Fault.DTYPE, "is on meta"),
        ("import torch; return torch.nn.Parameter(x)", Fault.DTYPE, "is a Parameter"),
        ("raise KeyError('mine')", Fault.RUN, "KeyError: 'mine'"),
        ("raise NotImplementedError('mine')", Fault.RUN, "NotImplementedError: mine"),
        ("e = ValueError('mine'); raise e from e", Fault.RUN, "ValueError: mine"),
        ("return run(x)", Fault.RUN, "RecursionError"),
        ("import sys; sys.exit(0)", Fault.RUN, "SystemExit: 0"),
        ("input()", Fault.RUN, "EOFError"),
        ("return x.cuda()", Fault.RUN, "CUDA"),
        ("import torch; return torch.empty(10**14)", Fault.RESOURCE, "can't allocate memory"),
        ("import numpy; return numpy.ones(10**14)", Fault.RESOURCE, "Unable to allocate"),
        ("raise type('E', (Exception,), {'__str__': lambda s: 1 / 0})", Fault.RUN, "cannot be"),
    ],
)
def test_a_call_that_fails_says_how(
    worker: Worker, arena: Arena, body: str, fault: Fault, says: str
) -> None:
    answer = call(worker, order(f"def run(x):\n    {body}\n"), arena)
    assert isinstance(answer, Failed)
    assert answer.fault is fault
    assert says in answer.text


@pytest.mark.parametrize(
    "body",
    ["return x.cuda()", "import torch; return torch.empty(1, device='cuda')"],
)
def test_where_a_cpu_stands_in_for_a_gpu_needing_the_gpu_is_no_fault(
    worker: Worker, arena: Arena, body: str
) -> None:
    answer = call(worker, order(f"def run(x):\n    {body}\n", stands_in=True), arena)
    assert isinstance(answer, Failed)
    assert answer.fault is Fault.NOT_RUNNABLE


def test_a_failures_text_is_clipped_in_its_middle(worker: Worker, arena: Arena) -> None:
    answer = call(worker, order("def run(x):\n    raise ValueError('x' * 100_000)\n"), arena)
    assert isinstance(answer, Failed)
    assert answer.text.startswith("Traceback")
    assert "[...]" in answer.text
    assert answer.text.rstrip().endswith("xxx")


class TestACallThatSucceeds:
    def test_leaves_a_returned_value_in_the_shared_output(
        self, worker: Worker, arena: Arena
    ) -> None:
        assert isinstance(call(worker, order("def run(x):\n    return x * 2\n"), arena), Done)
        assert bool((output(arena) == 2).all())

    def test_leaves_a_returned_view_as_its_values(self, worker: Worker, arena: Arena) -> None:
        assert isinstance(call(worker, order("def run(x):\n    return x.t()\n"), arena), Done)
        assert bool((output(arena) == 1).all())

    def test_writes_its_output_in_place(self, worker: Worker, arena: Arena) -> None:
        what = order("def run(x, y):\n    y.copy_(x + 2)\n", passing=True)
        assert isinstance(call(worker, what, arena), Done)
        assert bool((output(arena) == 3).all())

    def test_may_return_a_number_for_a_scalar_output(self, worker: Worker) -> None:
        arena = square(scalar=True)
        what = order("def run(x):\n    return 2.5\n", shape=())
        assert isinstance(call(worker, what, arena), Done)
        assert output(arena).item() == 2.5
        arena.close()

    def test_has_tensors_that_share_no_storage(self, worker: Worker, arena: Arena) -> None:
        source = (
            "def run(x, y):\n"
            "    for tensor in (x, y):\n"
            "        assert tensor.untyped_storage().nbytes() == tensor.nbytes\n"
        )
        assert isinstance(call(worker, order(source, passing=True), arena), Done)

    def test_can_be_repeated_in_a_train(self, worker: Worker, arena: Arena) -> None:
        counting = "n = []\ndef run(x):\n    n.append(1)\n    return x * 0 + len(n)\n"
        assert isinstance(call(worker, order(counting), arena), Done)
        ring = square(sets=4)
        worker.bind(ring, LIMIT_S)
        assert isinstance(worker.train(0, TrainOrder(4), LIMIT_S), Done)
        found = [view(block, ring.layout.outputs[0]) for block in ring.sets]
        assert [block.unique().tolist() for block in found] == [[2.0], [3.0], [4.0], [5.0]]
        ring.close()

    def test_of_a_train_begins_after_the_clock(
        self, worker: Worker, arena: Arena, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert isinstance(call(worker, order("def run(x):\n    return x\n"), arena), Done)

        def slowly(pids: list[int]) -> None:
            standstill.go_on(pids)
            time.sleep(0.2)

        worker.stand_still()
        monkeypatch.setattr(process_module, "go_on", slowly)
        answer = worker.train(0, TrainOrder(1), LIMIT_S)
        assert isinstance(answer, Done)
        assert answer.wall_s > 0.2

    def test_is_not_made_in_an_empty_train(self, worker: Worker, arena: Arena) -> None:
        assert isinstance(call(worker, order("def run(x):\n    return x * 2\n"), arena), Done)
        empty = TrainOrder(1, Train.EMPTY, stores=False)
        arena.region(arena.layout.outputs[0]).zero_()
        assert isinstance(worker.train(0, empty, LIMIT_S), Done)
        assert bool((output(arena) == 0).all())

    def test_has_its_matrix_products_counted(self, worker: Worker, arena: Arena) -> None:
        call(worker, order("def run(x):\n    return x @ x\n"), arena)
        answer = worker.count(0, LIMIT_S)
        assert isinstance(answer, Done)
        assert answer.figure == 2 * 32**3


def test_binding_many_arenas_keeps_no_descriptor_of_any(worker: Worker, arena: Arena) -> None:
    telling = "import os\ndef run(x):\n    raise ValueError(len(os.listdir('/proc/self/fd')))\n"
    told: list[str] = []
    for _ in range(2):
        answer = call(worker, order(telling), arena)
        assert isinstance(answer, Failed)
        told.append(answer.text)
        for _ in range(20):
            worker.bind(arena, LIMIT_S)
    assert told[0].splitlines()[-1] == told[1].splitlines()[-1]


class TestLookingBack:
    @pytest.mark.parametrize(
        ("body", "left"),
        [
            ("return x * 2", 2.0),
            ("y.copy_(x * 2); return y", 10.0),
            ("y.copy_(x * 2); return (y,)", 10.0),
            ("return x", 1.0),
        ],
        ids=["a new tensor", "the same tensor", "the same tensor in a tuple", "its input"],
    )
    def test_leaves_what_a_call_returned_as_the_next_one_left_it(
        self, worker: Worker, arena: Arena, body: str, left: float
    ) -> None:
        source = f"import torch\ny = torch.empty(32, 32)\ndef run(x):\n    {body}\n"
        worker.prepare(order(source), LIMIT_S)
        worker.bind(arena, LIMIT_S)
        slot = arena.layout.slot
        assert isinstance(worker.run_kept(slot, LIMIT_S), Done)
        view(arena.bytes, arena.layout.inputs[0]).fill_(5)
        assert isinstance(worker.run_kept(slot, LIMIT_S), Done)
        assert isinstance(worker.look_back(slot, LIMIT_S), Done)
        assert bool((output(arena) == left).all())
