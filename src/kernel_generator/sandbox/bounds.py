"""What a child may use of this machine, and the watch that ends it where it takes more.

Process and file limits are also set in the child itself (`child.py`). Memory is watched instead of
limited by address space, because CUDA reserves huge ranges; it is looked at every 50 ms, so a child
may exceed its bound by what it can touch in that time.
"""

from __future__ import annotations

import contextlib
import os
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

_LOOK_EVERY_S = 0.05
_UNWATCHED_S = 0.25
_RESERVE_SHARE = 0.04
"""Share of the machine's memory that is kept free, whoever uses it up."""


def _half_of_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


@dataclass(frozen=True)
class Bounds:
    """Most of each resource that one child and all that it starts may hold at a time."""

    memory_bytes: int = field(default_factory=_half_of_memory)
    """Memory that it touched, but for what the judge shares with it."""
    processes: int = 1024
    """Processes and threads."""
    disk_bytes: int = 4 << 30
    """Files that it writes; they live in memory."""
    cpu_s: int | None = None
    """Seconds of CPU time of one process, all its threads together; None: as long as it lives."""


_timed = threading.Lock()


@contextlib.contextmanager
def unwatched() -> Generator[None]:
    """Nobody looks at children meanwhile, for a quarter of a second at most: looking keeps this
    process from its clock."""
    with _timed:
        yield


class Watch:
    """Looks after one tree of processes on a thread, once it has begun, and calls `end` where a
    bound is exceeded."""

    def __init__(self, root: int, bounds: Bounds, end: Callable[[], None]) -> None:
        self.exceeded = ""
        """What was exceeded, in words; empty while nothing was."""
        self.shared_bytes = 0
        """What the judge shares with the child at present."""
        self._root = root
        self._bounds = bounds
        self._end = end
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def begin(self) -> None:
        """Look from now on, if that is not so already."""
        if self._thread.ident is None and not self._over.is_set():
            self._thread.start()

    def stop(self) -> None:
        """Look no more. Does not wait."""
        self._over.set()

    def _look(self) -> None:
        while not self._over.wait(_LOOK_EVERY_S):
            if _timed.acquire(timeout=_UNWATCHED_S):
                _timed.release()
            self.exceeded = self._excess()
            if self.exceeded:
                self._end()
                return

    def _excess(self) -> str:
        tasks = memory = 0
        for pid in descendants(self._root):
            held, threads = _usage(pid)
            memory += held
            tasks += threads
        if tasks > self._bounds.processes:
            return f"more than {self._bounds.processes} processes and threads"
        allowed = self._bounds.memory_bytes + self.shared_bytes
        if memory > allowed:
            # What processes share was counted once for each of them.
            memory = sum(_proportional_bytes(pid) for pid in descendants(self._root))
        if memory > allowed:
            return f"more than {self._bounds.memory_bytes / 2**30:.1f} GiB of memory"
        total, available = _machine_memory()
        if available < _RESERVE_SHARE * total and memory > _RESERVE_SHARE * total:
            return "nearly all of the machine's memory"
        return ""


def descendants(root: int) -> Iterator[int]:
    """Process ids: `root`, then everything that descends from it, as far as it is still there."""
    waiting = [root]
    while waiting:
        pid = waiting.pop()
        yield pid
        with contextlib.suppress(OSError), os.scandir(f"/proc/{pid}/task") as threads:
            for thread in threads:
                waiting += map(int, read_proc(f"{thread.path}/children").split())


def read_proc(path: str) -> bytes:
    """A file of /proc, empty where it has gone. Without what Python's own files do around it: this
    is done hundreds of times a second."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        content = b""
        while piece := os.read(descriptor, 1 << 16):
            content += piece
        return content
    except OSError:
        return b""
    finally:
        os.close(descriptor)


def _kilobytes(content: bytes, key: bytes) -> int:
    """Bytes that a line `key:  N kB` tells of, 0 where there is none."""
    _, found, rest = content.partition(b"\n" + key + b":")
    return int(rest.split(None, 1)[0]) * 1024 if found else 0


def _usage(pid: int) -> tuple[int, int]:
    """Bytes, of files on disk none, and threads of one process; zeros where it has gone."""
    status = read_proc(f"/proc/{pid}/status")
    threads = _kilobytes(status, b"Threads") // 1024
    return sum(_kilobytes(status, key) for key in (b"RssAnon", b"RssShmem", b"VmSwap")), threads


def _proportional_bytes(pid: int) -> int:
    """The same, with its share of what it has in common with others."""
    rollup = read_proc(f"/proc/{pid}/smaps_rollup")
    return sum(_kilobytes(rollup, key) for key in (b"Pss_Anon", b"Pss_Shmem", b"SwapPss"))


def _machine_memory() -> tuple[int, int]:
    """Bytes in all, and bytes available."""
    content = b"\n" + read_proc("/proc/meminfo")
    total = _kilobytes(content, b"MemTotal")
    # Where nothing is told of what is available, nothing is short.
    return total, _kilobytes(content, b"MemAvailable") or total
