"""What one child builds and another loads: bounded, unchangeable, never run where it is built."""

from __future__ import annotations

import errno
import fcntl
import json
import mmap
import os
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
import tvm_ffi.cpp
from flashinfer_bench.compile.builder import BuildError
from flashinfer_bench.compile.builders import TVMFFIBuilder
from flashinfer_bench.data import Definition, Solution

from kernel_generator.sandbox import compiling
from kernel_generator.sandbox.artefact import Artefact
from kernel_generator.sandbox.bounds import Bounds
from kernel_generator.sandbox.isolation import Isolation, Level, isolate
from kernel_generator.sandbox.orders import Died, Done, Exceeded, Failed, Order, TimedOut
from kernel_generator.sandbox.wire import COMPILES, Fault
from kernel_generator.sandbox.worker import Worker
from tests.sandbox.driving import LIMIT_S, order, output, square

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from kernel_generator.sandbox.orders import Answer

needs_compiler = pytest.mark.skipif(
    shutil.which("c++") is None, reason="no C++ compiler on this machine"
)

SOURCE = """
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/function.h>

TOP

void run(tvm::ffi::TensorView x, tvm::ffi::TensorView y) {
  const float* in = static_cast<const float*>(x.data_ptr());
  float* out = static_cast<float*>(y.data_ptr());
  for (int64_t i = 0; i < y.size(0) * y.size(1); ++i) out[i] = 2 * in[i];
  BODY
}

TVM_FFI_DLL_EXPORT_TYPED_FUNC(run, run);
"""
ENDLESS = """
#if __INCLUDE_LEVEL__ < 150
#include "main.cpp"
#include "main.cpp"
#endif
"""
"""Includes itself 2^150 times."""
GREEDY = """
#define A(x) x x x x x x x x x x x x x x x x
#define B(x) A(A(A(A(A(A(A(A(x))))))))
int greedy = B(+1);
"""
"""A sum of 2^32 terms."""
NO_COMPILER = {"CXX": "/bin/false"}


def cpp(body: str = "", top: str = "", source: str = SOURCE, entry: str = "run") -> Order:
    """A kernel in C++ that doubles its input."""
    asked = order(source.replace("BODY", body).replace("TOP", top), language="cpp", passing=True)
    solution = json.loads(asked.solution_json)
    solution["spec"]["entry_point"] = f"main.cpp::{entry}"
    solution["sources"][0]["path"] = "main.cpp"
    return replace(asked, solution_json=json.dumps(solution))


@pytest.fixture
def artefact() -> Generator[Artefact]:
    with Artefact.create() as found:
        yield found


def isolation(level: Level, bounds: Bounds | None = None) -> Isolation:
    return isolate(level, bounds)


def built(
    what: Order, artefact: Artefact, where: Isolation | None = None, limit_s: float = LIMIT_S
) -> Answer:
    """What a child that only compiles answers."""
    with Worker({COMPILES: "1"}, where) as worker:
        return worker.build(what, artefact, limit_s)


def contents(artefact: Artefact) -> bytes:
    """What only a child looks at."""
    with os.fdopen(artefact.open_for_reading(), "rb") as file:
        return file.read()


class TestTheMemory:
    def test_cannot_grow_beyond_its_bound(self) -> None:
        with Artefact.create(4096) as artefact:
            with pytest.raises(OSError, match=os.strerror(errno.EPERM)):
                os.pwrite(artefact.fd, b"x", 4096)
            with pytest.raises(OSError, match=os.strerror(errno.EPERM)):
                os.ftruncate(artefact.fd, 8192)

    def test_that_is_sealed_is_written_through_no_descriptor(self, artefact: Artefact) -> None:
        os.pwrite(artefact.fd, b"built", 0)
        assert artefact.seal()
        again = os.open(f"/proc/self/fd/{artefact.fd}", os.O_RDWR)
        for fd in (artefact.fd, again):
            with pytest.raises(OSError, match=os.strerror(errno.EPERM)):
                os.pwrite(fd, b"other", 0)
            with pytest.raises(OSError, match=os.strerror(errno.EPERM)):
                os.ftruncate(fd, 0)
        os.close(again)
        assert contents(artefact).startswith(b"built")

    def test_that_something_still_maps_to_write_is_not_sealed(self, artefact: Artefact) -> None:
        with mmap.mmap(artefact.fd, mmap.PAGESIZE):
            assert not artefact.seal()

    def test_that_was_closed_to_further_seals_is_not_sealed(self, artefact: Artefact) -> None:
        fcntl.fcntl(artefact.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SEAL)
        assert not artefact.seal()

    def test_is_read_from_its_start_by_each_reader_that_cannot_write(
        self, artefact: Artefact
    ) -> None:
        os.pwrite(artefact.fd, b"built", 0)
        first, second = artefact.open_for_reading(), artefact.open_for_reading()
        assert (os.read(first, 5), os.read(second, 5)) == (b"built", b"built")
        with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
            os.write(first, b"other")
        os.close(first)
        os.close(second)

    def test_is_closed_once(self, artefact: Artefact) -> None:
        fd = artefact.fd
        artefact.close()
        other = os.open(os.devnull, os.O_RDONLY)
        assert other == fd
        artefact.close()
        os.fstat(other)
        os.close(other)


@needs_compiler
class TestBuildingAndLoading:
    @pytest.mark.parametrize("level", list(Level))
    def test_what_one_child_built_another_runs_without_a_compiler(
        self, level: Level, artefact: Artefact
    ) -> None:
        where, arena = isolation(level), square()
        assert isinstance(built(cpp(), artefact, where), Done)
        assert artefact.seal()
        with Worker(NO_COMPILER, where) as worker:
            assert isinstance(worker.prepare(cpp(), LIMIT_S, artefact), Done)
            worker.bind(arena, LIMIT_S)
            assert isinstance(worker.run(0, LIMIT_S), Done)
        assert torch.equal(output(arena), torch.full((32, 32), 2.0))
        arena.close()

    def test_line_ends_of_another_system_are_no_reason_to_build_again(
        self, artefact: Artefact
    ) -> None:
        foreign = cpp(source=SOURCE.replace("\n", "\r\n"))
        assert isinstance(built(foreign, artefact), Done)
        with Worker(NO_COMPILER) as worker:
            assert isinstance(worker.prepare(foreign, LIMIT_S, artefact), Done)

    def test_nothing_of_a_candidate_runs_where_it_is_built(self, artefact: Artefact) -> None:
        trap = cpp(top="struct Trap { Trap() { __builtin_trap(); } } trap;")
        assert isinstance(built(trap, artefact), Done)
        with Worker() as worker:
            assert isinstance(worker.prepare(trap, LIMIT_S, artefact), Died)

    def test_a_child_that_also_runs_candidates_can_build(self, artefact: Artefact) -> None:
        with Worker() as worker:
            assert isinstance(worker.build(cpp(), artefact, LIMIT_S), Done)
        assert contents(artefact).startswith(b"\x7fELF")

    @pytest.mark.parametrize("left", [b"", b"no library", b"PK\x03\x04" * 9000])
    def test_what_is_no_library_is_refused(self, left: bytes, artefact: Artefact) -> None:
        os.pwrite(artefact.fd, left, 0)
        os.ftruncate(artefact.fd, len(left))
        with Worker() as worker:
            answer = worker.prepare(cpp(), LIMIT_S, artefact)
        assert isinstance(answer, Failed)
        assert answer.fault is Fault.PROTOCOL
        assert "no shared library" in answer.text


@needs_compiler
class TestABuildThatFails:
    def test_says_what_the_compiler_says_and_nothing_else(self, artefact: Artefact) -> None:
        answer = built(cpp("undeclared();"), artefact)
        assert isinstance(answer, Failed)
        assert answer.fault is Fault.BUILD
        assert "error: " in answer.text
        assert "'undeclared'" in answer.text.replace("‘", "'").replace("’", "'")
        assert "Traceback" not in answer.text

    def test_says_which_entry_point_is_missing(self, artefact: Artefact) -> None:
        answer = built(cpp(entry="other"), artefact)
        assert answer == Failed(Fault.BUILD, "Entry point 'other' not found in module")

    def test_is_ended_at_its_limit_with_all_its_compilers(self, artefact: Artefact) -> None:
        endless = cpp(source=ENDLESS + SOURCE)
        with Worker({COMPILES: "1"}) as worker:
            assert worker.build(endless, artefact, 3.0) == TimedOut(3.0)
        assert not compilers_in(worker.home)

    def test_is_ended_where_it_takes_too_much_memory(self, artefact: Artefact) -> None:
        tight = isolation(Level.STRICT, Bounds(memory_bytes=400 << 20))
        answer = built(cpp(top=GREEDY), artefact, tight)
        assert isinstance(answer, Exceeded)
        assert "of memory" in answer.what

    def test_is_ended_where_it_writes_too_much(self, artefact: Artefact) -> None:
        tight = isolation(Level.STRICT, Bounds(disk_bytes=16 << 20))
        answer = built(cpp(top='asm(".data\\n.space 64000000, 1\\n.text");'), artefact, tight)
        assert isinstance(answer, Failed)
        assert answer.fault in (Fault.RESOURCE, Fault.BUILD)

    def test_is_one_that_leaves_more_than_is_taken_over(self) -> None:
        with Artefact.create(1 << 20) as small:
            answer = built(cpp(top='asm(".data\\n.space 4000000, 1\\n.text");'), small)
        assert isinstance(answer, Failed)
        assert answer.fault is Fault.RESOURCE
        assert "4 MiB, more than the 1 MiB" in answer.text


def compilers_in(home: Path) -> list[str]:
    """Processes that a child's build started and that are still there."""
    found: list[str] = []
    for entry in os.listdir("/proc"):  # noqa: PTH208
        try:
            with open(f"/proc/{entry}/cmdline") as file:  # noqa: PTH123
                line = file.read()
        except OSError:
            continue
        if str(home) in line:
            found.append(line)
    return found


def test_the_compiler_is_asked_for_what_flashinfer_bench_asks_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    def record(**how: Any) -> str:
        folder, name = str(how["build_directory"]), how["name"]
        text = json.dumps(how, default=str, sort_keys=True)
        asked.append(json.loads(text.replace(folder, "FOLDER").replace(name, "NAME")))
        raise RuntimeError

    monkeypatch.setattr(tvm_ffi.cpp, "build", record)
    monkeypatch.setenv("FIB_CACHE_PATH", str(tmp_path / "theirs"))
    monkeypatch.setenv("HOME", str(tmp_path))
    solution: dict[str, Any] = json.loads(cpp().solution_json)
    files = ("main.cpp", "part.cc", "part.c", "device.cu", "shared/part.cuh", "notes.txt")
    solution["sources"] = [{"path": path, "content": path} for path in files]
    with pytest.raises(BuildError):
        TVMFFIBuilder().build(
            Definition.model_validate_json(cpp().definition_json),
            Solution.model_validate(solution),
        )
    with pytest.raises(compiling.BuildError):
        compiling.compile_into({"solution": solution}, -1)
    theirs, ours = asked
    assert ours == theirs
    (folder,) = (tmp_path / "theirs" / "tvm_ffi").iterdir()
    for path in files:
        assert (tmp_path / "build" / path).read_bytes() == (folder / path).read_bytes()
