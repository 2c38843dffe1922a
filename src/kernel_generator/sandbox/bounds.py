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
from pathlib import Path
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
    """Private memory, shared mappings not counted."""
    processes: int = 1024
    """Processes and threads."""
    disk_bytes: int = 4 << 30
    """Files that it writes; they live in memory."""


_timed = threading.Lock()


@contextlib.contextmanager
def unwatched() -> Generator[None]:
    """Nobody looks at children meanwhile, for a quarter of a second at most: looking keeps this
    process from its clock."""
    with _timed:
        yield


class Watch:
    """Looks after one tree of processes on a thread, and calls `end` where a bound is exceeded."""

    def __init__(self, root: int, bounds: Bounds, end: Callable[[], None]) -> None:
        self.exceeded = ""
        """What was exceeded, in words; empty while nothing was."""
        self._root = root
        self._bounds = bounds
        self._end = end
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
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
        if memory > self._bounds.memory_bytes:
            # What forked processes still share was counted once for each of them.
            memory = sum(_proportional_bytes(pid) for pid in descendants(self._root))
        if memory > self._bounds.memory_bytes:
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
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{pid}/task").iterdir():
                with contextlib.suppress(OSError):
                    waiting += map(int, (task / "children").read_text().split())


def _usage(pid: int) -> tuple[int, int]:
    """Private bytes and threads of one process; zeros where it has gone."""
    memory = threads = 0
    with contextlib.suppress(OSError, ValueError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            key, _, value = line.partition(":")
            if key in ("RssAnon", "VmSwap"):
                memory += int(value.split()[0]) * 1024
            elif key == "Threads":
                threads = int(value)
    return memory, threads


def _proportional_bytes(pid: int) -> int:
    """Private bytes of one process, with its share of what it has in common with others."""
    held = 0
    with contextlib.suppress(OSError, ValueError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith(("Pss_Anon:", "SwapPss:")):
                held += int(line.split()[1]) * 1024
    return held


def _machine_memory() -> tuple[int, int]:
    """Bytes in all, and bytes available."""
    found = {"MemTotal": 1, "MemAvailable": 1}
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key in found:
                found[key] = int(value.split()[0]) * 1024
    return found["MemTotal"], found["MemAvailable"]
