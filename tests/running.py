"""Waits until a kernel runs, or until something else has come about.

A jailed kernel can signal nobody outside, but anybody can see what its process is called, so it
gives itself a name.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from kernel_generator.sandbox.bounds import descendants

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

_NAME = "a-kernel-runs"
NEVER_ENDS = (
    "import ctypes\n\ndef run(x):\n"
    f"    ctypes.CDLL(None).prctl(15, b'{_NAME}', 0, 0, 0)\n"
    "    while True: pass\n"
)
"""A kernel of one input that says that it runs, and never ends."""
_PATIENCE_S = 120.0


def wait_until_one_runs(root: int | None = None) -> int:
    """The process, of those below `root`, in which `NEVER_ENDS` runs by now. `root` is this process
    unless told otherwise."""
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        for pid in descendants(root or os.getpid()):
            if _name(pid) == _NAME:
                return pid
        time.sleep(0.01)
    raise AssertionError("no kernel runs")


def soon(holds: Callable[[], bool]) -> bool:
    """Whether something that other processes bring about in their own time comes to hold."""
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        if holds():
            return True
        time.sleep(0.01)
    return False


def children() -> list[str]:
    """Processes that this one started and that are still there."""
    found: list[str] = []
    for name in filter(str.isdigit, os.listdir("/proc")):  # noqa: PTH208
        try:
            with open(f"/proc/{name}/stat") as stat:  # noqa: PTH123
                if int(stat.read().rpartition(")")[2].split()[1]) == os.getpid():
                    found.append(name)
        except OSError:
            continue
    return found


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


@contextmanager
def ctrl_c_once_one_runs() -> Generator[list[int]]:
    """Interrupts this process as soon as `NEVER_ENDS` runs, in the process that is told then."""
    found: list[int] = []

    def interrupt() -> None:
        found.append(wait_until_one_runs())
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt, daemon=True)
    thread.start()
    yield found
    thread.join()
