"""The judge's end of a child: limits, what the child is given, and what is left of it."""

from __future__ import annotations

import ast
import contextlib
import gc
import os
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kernel_generator.inert import inert
from kernel_generator.sandbox.orders import Died, Done, Failed, TimedOut
from kernel_generator.sandbox.wire import Fault
from kernel_generator.sandbox.worker import Worker
from tests.running import soon
from tests.sandbox.driving import LIMIT_S, call, order, square

if TYPE_CHECKING:
    from collections.abc import Generator

    from kernel_generator.sandbox.arena import Arena

SECRETS = {
    "LLM_API_KEY": "sk-planted-1",
    "OPENAI_API_KEY": "sk-planted-2",
    "BASE_URL": "https://planted.example",
    "HTTPS_PROXY": "http://planted-proxy.example",
    "AWS_SECRET_ACCESS_KEY": "planted-3",
    "PYTHONPATH": "/planted-4",
    "LD_PRELOAD": "",
}


@pytest.fixture
def arena() -> Generator[Arena]:
    found = square()
    yield found
    found.close()


def told(worker: Worker, arena: Arena, expression: str) -> str:
    """The value of an expression inside the child."""
    source = f"import os\ndef run(x):\n    raise ValueError({expression})\n"
    answer = call(worker, order(source), arena)
    assert isinstance(answer, Failed)
    return answer.text.splitlines()[-1].removeprefix("ValueError: ")


def with_home(home: Path) -> list[int]:
    """Processes that have a folder as their HOME."""
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and str(home).encode() in (entry / "environ").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def descriptors() -> set[tuple[str, str]]:
    """Number and target of each file that this process has open. What is missing from a later set
    may have been another test's, closed when it was collected; what is new in it was not."""
    gc.collect()
    found: set[tuple[str, str]] = set()
    for entry in Path("/proc/self/fd").iterdir():
        # The folder is itself open while it is read.
        with contextlib.suppress(FileNotFoundError):
            found.add((entry.name, str(entry.readlink())))
    return {one for one in found if not one[1].endswith(f"/{os.getpid()}/fd")}


class TestTheEnvironment:
    @pytest.fixture(scope="class")
    @staticmethod
    def seen() -> Generator[dict[str, str]]:
        patch, arena = pytest.MonkeyPatch(), square()
        for name, value in SECRETS.items():
            patch.setenv(name, value)
        with Worker({"EXTRA": "given"}) as worker:
            text = told(worker, arena, "dict(os.environ)")
            known = {"home": str(worker.home), "folder": told(worker, arena, "os.getcwd()")}
        patch.undo()
        arena.close()
        yield ast.literal_eval(text) | known

    def test_holds_no_key_no_proxy_and_no_path_into_the_parents_code(
        self, seen: dict[str, str]
    ) -> None:
        assert not set(SECRETS) & set(seen)
        assert not any("planted" in value for value in seen.values())

    def test_holds_what_is_given(self, seen: dict[str, str]) -> None:
        assert seen["EXTRA"] == "given"

    def test_points_home_and_caches_into_a_private_folder(self, seen: dict[str, str]) -> None:
        home = seen["home"]
        names = ("HOME", "TMPDIR", "XDG_CACHE_HOME", "TRITON_CACHE_DIR", "FIB_CACHE_PATH")
        assert all(seen[name].startswith(home) for name in names)
        assert seen["folder"] == home


class TestClosing:
    def test_removes_the_process_and_its_folder(self) -> None:
        with Worker() as worker:
            assert worker.alive
            assert with_home(worker.home)
        assert not worker.alive
        assert not worker.home.exists()
        assert with_home(worker.home) == []

    def test_kills_what_the_candidate_started_even_in_a_session_of_its_own(
        self, arena: Arena
    ) -> None:
        source = (
            "import os, subprocess, time\n"
            "subprocess.Popen(['sleep', '600'])\n"
            "subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
            "if os.fork() == 0:\n"
            "    os.setsid()\n"
            "    if os.fork() == 0:\n"
            "        while True: time.sleep(1)\n"
            "    os._exit(0)\n"
            "def run(x):\n    return x\n"
        )
        with Worker() as worker:
            assert isinstance(call(worker, order(source), arena), Done)
            # The one in the middle is replaced by its child at a moment of its own choosing.
            assert soon(lambda: len(with_home(worker.home)) >= 4)
        assert with_home(worker.home) == []

    def test_may_be_done_twice(self) -> None:
        worker = Worker()
        worker.close()
        worker.close()
        assert isinstance(worker.prepare(order("run = None\n"), LIMIT_S), Died)

    @pytest.mark.slow
    def test_leaves_no_descriptor_thread_or_folder_after_twenty_workers(self) -> None:
        Worker().close()
        files, threads = descriptors(), set(threading.enumerate())
        workers = [Worker() for _ in range(20)]
        assert len(descriptors() - files) >= 20
        for worker in workers:
            worker.close()
        assert descriptors() - files == set()
        assert set(threading.enumerate()) - threads == set()
        assert not any(worker.home.exists() or with_home(worker.home) for worker in workers)


class TestAChildThatMisbehaves:
    def test_and_is_killed_while_it_runs_has_died(self, arena: Arena) -> None:
        source = "import os\ndef run(x):\n    os.kill(os.getpid(), 9)\n"
        with Worker() as worker:
            assert call(worker, order(source), arena) == Died(-9)
            assert not worker.alive
            # It stays dead, and says so again.
            assert isinstance(worker.run(0, LIMIT_S), Died)

    def test_and_does_not_answer_is_killed_at_its_limit(self, arena: Arena) -> None:
        with Worker() as worker:
            worker.prepare(order("def run(x):\n    while True: pass\n"), LIMIT_S)
            worker.bind(arena, LIMIT_S)
            assert worker.run(0, 0.2) == TimedOut(0.2)
            assert not worker.alive

    def test_and_closes_its_channel_is_ended(self, arena: Arena) -> None:
        source = (
            "import os, sys, time\n"
            "def run(x):\n    os.close(int(sys.argv[1]))\n    time.sleep(600)\n"
        )
        with Worker() as worker:
            assert call(worker, order(source), arena) == Died(None)
            assert with_home(worker.home) == []

    @pytest.mark.parametrize(
        "sent",
        [
            "b'garbage' * 9",
            "b'KGW1' + bytes([101, 3, 0, 0, 0]) + b'abc'",
            "b'KGW1' + bytes([3, 0, 0, 0, 0])",
            "b'KGW1' + bytes([102, 1, 0, 0, 0, 99])",
            "b'KGW1' + bytes([102, 255, 255, 255, 255])",
        ],
        ids=["no frame", "a short answer", "an order", "an unknown fault", "4 GiB of text"],
    )
    def test_and_speaks_something_else_is_a_fault_of_protocol(
        self, arena: Arena, sent: str
    ) -> None:
        source = (
            "import socket, sys\n"
            "def run(x):\n"
            f"    socket.socket(fileno=int(sys.argv[1])).send({sent})\n"
        )
        with Worker() as worker:
            answer = call(worker, order(source), arena)
            assert isinstance(answer, Failed)
            assert answer.fault is Fault.PROTOCOL
            assert not worker.alive


def test_output_is_kept_from_both_ends_and_clipped_between(arena: Arena) -> None:
    source = (
        "def run(x):\n"
        "    print('first')\n    print('x' * 1_000_000)\n    print('last')\n    return x\n"
    )
    with Worker() as worker:
        assert isinstance(call(worker, order(source), arena), Done)
    assert worker.log.startswith("first\n")
    assert worker.log.endswith("last\n")
    assert "bytes left out" in worker.log
    assert len(worker.log) < 40_000


def test_a_home_is_furnished_with_copies(tmp_path: Path, arena: Arena) -> None:
    (tmp_path / "cache").mkdir()
    trusted = tmp_path / "cache" / "file"
    trusted.write_text("trusted")
    source = (
        "import os\ndef run(x):\n"
        "    raise ValueError(open(os.environ['HOME'] + '/cache/file', 'r+').write('CHANGED'))\n"
    )
    with Worker() as worker:
        answer = call(worker, order(source, furnish=str(tmp_path)), arena)
        assert isinstance(answer, Failed)
        assert answer.text.splitlines()[-1] == "ValueError: 7"
    assert trusted.read_text() == "trusted"


def test_a_home_that_cannot_be_had_is_an_error_that_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    before = descriptors()
    with pytest.raises(FileNotFoundError):
        Worker()
    assert descriptors() - before == set()


def test_what_a_child_says_and_prints_is_inert(arena: Arena) -> None:
    says = r"'\x1b]0;TITLE\x07\x1b[2J\r\x9b\u202eall fine'"
    source = f"def run(x):\n    print({says}, flush=True)\n    raise ValueError({says})\n"
    with Worker() as worker:
        answer = call(worker, order(source), arena)
    assert isinstance(answer, Failed)
    assert "]0;TITLE" in answer.text
    assert answer.text == inert(answer.text)
    assert "]0;TITLE" in worker.log
    assert worker.log == inert(worker.log)
