"""Stops a tree of processes, and sees that every thread of it stands still.

Sending the signal is not enough: while one process is being stopped another may wake it, trace it
past the signal, or fork. So the tree is looked at until a whole look found nobody new and nobody
awake.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from kernel_generator.sandbox.bounds import read_proc

if TYPE_CHECKING:
    from collections.abc import Iterator

_STOPPED, _ASLEEP = b"TtZXx", b"D"
"""States of a thread that runs no code of its own: stopped, traced or dead; asleep in the system,
which it cannot leave without seeing the signal."""
_LOOKS = 2
"""So many looks in a row must find everybody still: one may miss who takes turns at being awake."""
_WITHIN_S = 2.0
"""On a busy machine a thread stops only once it has a core."""
_LOOK_AGAIN_S = 50e-6


class Restless(Exception):
    """What belongs to a child does not stand still."""


def stop(root: int) -> list[int]:
    """Stop `root` and all that descends from it, by id.

    Raises `Restless` where that cannot be brought about within two seconds.
    """
    stopped: list[int] = []
    still: set[int] = set()
    deadline = time.monotonic() + _WITHIN_S
    looks = 0
    while looks < _LOOKS:
        looks += 1
        for pid, states in _look(root):
            if pid not in stopped:
                stopped.append(pid)
            elif not states.strip(_STOPPED):
                still.add(pid)
                continue
            elif pid in still or time.monotonic() > deadline:
                # Only the judge lets go on what it stopped.
                raise Restless("what the candidate started does not stand still when stopped")
            elif not states.strip(_STOPPED + _ASLEEP):
                continue
            looks = 0
            _send(pid, signal.SIGSTOP)
        time.sleep(_LOOK_AGAIN_S)
    return stopped


def go_on(stopped: list[int]) -> None:
    """Let processes go on, those that were stopped last first."""
    for pid in reversed(stopped):
        _send(pid, signal.SIGCONT)


def _look(root: int) -> Iterator[tuple[int, bytes]]:
    """Each process of the tree that is there, and the states of its threads, a letter each."""
    waiting = [root]
    while waiting:
        pid, states = waiting.pop(), b""
        with suppress(OSError), os.scandir(f"/proc/{pid}/task") as threads:
            for thread in threads:
                states += read_proc(f"{thread.path}/stat").rpartition(b")")[2][1:2]
                waiting += map(int, read_proc(f"{thread.path}/children").split())
        if states:
            yield pid, states


def _send(pid: int, what: signal.Signals) -> None:
    # A number that was given to another process meanwhile would not be below this one.
    with suppress(ProcessLookupError, PermissionError):
        os.kill(pid, what)
