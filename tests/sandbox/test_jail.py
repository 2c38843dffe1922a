"""What level 'strict' promises: what a jailed child sees, reaches, holds, and leaves behind.

These run on every machine that the product supports: where namespaces cannot be had they fail.
"""

from __future__ import annotations

import ast
import os
import socket
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kernel_generator.sandbox import bounds
from kernel_generator.sandbox.bounds import Bounds
from kernel_generator.sandbox.isolation import Isolation, Level, isolate
from kernel_generator.sandbox.orders import Answer, Died, Done, Exceeded, Failed, TimedOut
from kernel_generator.sandbox.wire import Fault
from kernel_generator.sandbox.worker import Worker
from tests.running import soon
from tests.sandbox.driving import call, order, square

if TYPE_CHECKING:
    from collections.abc import Generator

    from kernel_generator.sandbox.arena import Arena

PLANTED = "planted-secret-7f3a"
TIGHT = Bounds(memory_bytes=1536 << 20, processes=200, disk_bytes=64 << 20)


@pytest.fixture
def arena() -> Generator[Arena]:
    found = square()
    yield found
    found.close()


@pytest.fixture(scope="module")
def strict() -> Isolation:
    return isolate(Level.STRICT, TIGHT)


@pytest.fixture(scope="module")
def worker(strict: Isolation) -> Generator[Worker]:
    """One child for all questions that leave it as it was."""
    patch = pytest.MonkeyPatch()
    patch.setenv("LLM_API_KEY", PLANTED)
    with Worker({}, strict) as found:
        patch.undo()
        yield found


def told(worker: Worker, expression: str) -> str:
    """The value of an expression inside the child."""
    arena = square()
    source = (
        "import os, socket, subprocess, pathlib\n"
        f"def run(x):\n    raise ValueError(repr({expression}))\n"
    )
    try:
        answer = call(worker, order(source), arena)
    finally:
        arena.close()
    assert isinstance(answer, Failed), answer
    return answer.text.splitlines()[-1].removeprefix("ValueError: ")


def ended(worker: Worker, arena: Arena, body: str, limit_s: float = 20.0) -> Answer:
    """What becomes of a call whose body that is."""
    source = "import ctypes, os, time, torch\ndef run(x):\n" + "".join(
        f"    {line}\n" for line in body.splitlines()
    )
    worker.prepare(order(source), 60.0)
    worker.bind(arena, 60.0)
    return worker.run(arena.layout.slot, limit_s)


def descendants() -> set[int]:
    """Processes below this one."""
    return set(bounds.descendants(os.getpid())) - {os.getpid()}


class TestFiles:
    @pytest.fixture
    @staticmethod
    def secret(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[Path]:
        places = {
            "home": Path.home() / ".planted-secret",
            "working directory": Path.cwd() / ".env.planted",
            "temporary folder": tmp_path / "secret",
        }
        path = places[request.param]
        path.write_text(PLANTED)
        yield path
        path.unlink()

    @pytest.mark.parametrize(
        "secret", ["home", "working directory", "temporary folder"], indirect=True
    )
    def test_that_are_not_the_systems_are_not_seen(self, secret: Path, worker: Worker) -> None:
        assert told(worker, f"os.path.exists({str(secret)!r})") == "False"

    def test_of_the_system_cannot_be_written(self, worker: Worker) -> None:
        tried = (
            "[os.access(p, os.W_OK) for p in "
            "('/', '/usr', '/etc', '/dev', os.__file__, '/sys/devices/system')]"
        )
        assert set(ast.literal_eval(told(worker, tried))) == {False}

    def test_of_the_package_show_nothing_beside_it(self, worker: Worker) -> None:
        root = Path(__file__).resolve().parents[2]
        seen = ast.literal_eval(told(worker, f"os.listdir({str(root)!r})"))
        assert set(seen) <= {"src", ".venv"}

    def test_have_a_bound_that_is_an_outcome(self, strict: Isolation, arena: Arena) -> None:
        with Worker({}, strict) as found:
            answer = ended(
                found, arena, "for i in range(40):\n    open(f'f{i}', 'wb').write(bytes(4 << 20))"
            )
        assert isinstance(answer, Failed)
        assert answer.fault is Fault.RESOURCE

    def test_are_gone_with_the_child(self, strict: Isolation, arena: Arena) -> None:
        before = set(Path("/tmp").iterdir()) | set(Path("/dev/shm").iterdir())
        with Worker({}, strict) as found:
            writing = (
                "open('/tmp/left', 'w').write('x')\nopen('/dev/shm/left', 'w').write('x')\nreturn x"
            )
            assert isinstance(ended(found, arena, writing), Done)
        after = set(Path("/tmp").iterdir()) | set(Path("/dev/shm").iterdir())
        assert not {p for p in after - before if p.name == "left"}


class TestOtherProcesses:
    def test_are_not_seen(self, worker: Worker) -> None:
        seen = ast.literal_eval(told(worker, "[p for p in os.listdir('/proc') if p.isdigit()]"))
        assert len(seen) <= 3

    def test_keep_their_environment_to_themselves(self, worker: Worker) -> None:
        read = (
            "[b'planted' in pathlib.Path(f'/proc/{p}/environ').read_bytes() for p in "
            "os.listdir('/proc') if p.isdigit() and os.access(f'/proc/{p}/environ', os.R_OK)]"
        )
        assert True not in ast.literal_eval(told(worker, read))

    def test_cannot_be_signalled(self, strict: Isolation, arena: Arena) -> None:
        with Worker({}, strict) as found:
            # -1 is everything that it may signal, but itself.
            ended(found, arena, f"for p in ({os.getpid()}, -1):\n    os.kill(p, 9)", 10.0)
        assert os.getpid() > 0


class TestTheNetwork:
    def test_reaches_no_server_of_this_machine(self, worker: Worker) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            tried = f"socket.socket().connect_ex(('127.0.0.1', {port}))"
            assert told(worker, tried) != "0"

    def test_has_no_interface_but_the_loopback(self, worker: Worker) -> None:
        assert ast.literal_eval(told(worker, "[n for _, n in socket.if_nameindex()]")) == ["lo"]


class TestRights:
    def test_are_nobodys(self, worker: Worker) -> None:
        status = ast.literal_eval(told(worker, "pathlib.Path('/proc/self/status').read_text()"))
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        assert int(fields["CapEff"], 16) == 0
        assert fields["NoNewPrivs"] == "1"
        if os.geteuid() == 0:
            assert int(fields["Uid"].split()[0]) > 1_000_000_000

    def test_are_the_same_for_no_two_children_started_as_root(self, strict: Isolation) -> None:
        if os.geteuid() != 0:
            assert strict.lacked == ("a kernel of its own",)
            return
        with Worker({}, strict) as one, Worker({}, strict) as other:
            assert told(one, "os.getuid()") != told(other, "os.getuid()")


@pytest.mark.slow
class TestBounds:
    def test_of_memory(self, strict: Isolation, arena: Arena) -> None:
        holding = "held = [torch.ones(1 << 26) for _ in range(24)]\ntime.sleep(60)"
        with Worker({}, strict) as found:
            answer = ended(found, arena, holding)
        assert isinstance(answer, Exceeded)
        assert "1.5 GiB of memory" in answer.what

    def test_of_memory_that_processes_could_share(self, strict: Isolation, arena: Arena) -> None:
        holding = (
            "import mmap\nheld = mmap.mmap(-1, 7 << 28)\n"
            "torch.frombuffer(held, dtype=torch.uint8).fill_(1)\ntime.sleep(60)"
        )
        with Worker({}, strict) as found:
            answer = ended(found, arena, holding)
        assert isinstance(answer, Exceeded)
        assert "1.5 GiB of memory" in answer.what

    def test_of_processes_told_as_an_error(self, strict: Isolation, arena: Arena) -> None:
        forking = "for _ in range(400):\n    if os.fork() == 0:\n        time.sleep(600)"
        with Worker({}, strict) as found:
            answer = ended(found, arena, forking)
        assert isinstance(answer, Exceeded) or (
            isinstance(answer, Failed) and answer.fault is Fault.RESOURCE
        )

    def test_of_cpu_time(self, arena: Arena) -> None:
        # Importing torch takes some of it.
        short = isolate(Level.STRICT, replace(TIGHT, cpu_s=15))
        with Worker({}, short) as found:
            answer = ended(found, arena, "while True: pass", limit_s=120.0)
        assert answer == Exceeded("more than 15 s of CPU time")

    def test_of_time_whatever_it_started(self, strict: Isolation, arena: Arena) -> None:
        before = descendants()
        forking = (
            "for _ in range(20):\n    if os.fork() == 0:\n        os.setsid()\n"
            "        while True: pass\nwhile True: pass"
        )
        with Worker({}, strict) as found:
            assert ended(found, arena, forking, 1.0) == TimedOut(1.0)
        assert descendants() - before == set()


def test_what_a_candidate_started_ends_with_it(strict: Isolation, arena: Arena) -> None:
    before = descendants()
    staying = (
        "if os.fork() == 0:\n    os.setsid()\n"
        "    if os.fork() == 0:\n        time.sleep(600)\n    os._exit(0)\nreturn x"
    )
    with Worker({}, strict) as found:
        assert isinstance(ended(found, arena, staying), Done)
        assert soon(lambda: len(descendants() - before) >= 3)
    assert descendants() - before == set()


def test_a_death_by_signal_is_told_as_one(strict: Isolation, arena: Arena) -> None:
    with Worker({}, strict) as found:
        assert ended(found, arena, "ctypes.string_at(0)") == Died(-11)


def test_an_exit_is_told_with_its_status(strict: Isolation, arena: Arena) -> None:
    with Worker({}, strict) as found:
        assert ended(found, arena, "os._exit(3)") == Died(3)


def test_an_idle_child_ends_within_a_second(strict: Isolation) -> None:
    before = descendants()
    found = Worker({}, strict)
    began = time.monotonic()
    found.close()
    assert descendants() - before == set()
    assert time.monotonic() - began < 10.0
