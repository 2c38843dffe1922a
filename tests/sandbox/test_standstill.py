"""Stopping a tree of processes: all of it stands still then, or it is said that it does not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kernel_generator.sandbox.bounds import descendants, read_proc
from kernel_generator.sandbox.standstill import Restless, go_on, stop

if TYPE_CHECKING:
    from collections.abc import Generator

_PAIR = """
import os, signal
one, two = os.getpid(), os.fork()
other = two or one
{begin}
print("there", flush=True)
while True:
    {act}
"""
_READS = 2000


@contextmanager
def running(program: str, processes: int) -> Generator[int]:
    """A Python program in a session of its own, once so many of its processes have printed a line;
    killed at the end."""
    command = [sys.executable, "-I", "-c", program]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
    assert started.stdout is not None
    try:
        for _ in range(processes):
            assert started.stdout.readline()
        yield started.pid
    finally:
        os.killpg(started.pid, signal.SIGKILL)
        started.wait()
        started.stdout.close()


def states(root: int) -> set[bytes]:
    """Letters for what the threads of a tree are doing."""
    found: set[bytes] = set()
    for pid in descendants(root):
        for stat in Path(f"/proc/{pid}/task").glob("*/stat"):
            found.add(read_proc(str(stat)).rpartition(b")")[2][1:2])
    return found


def stays_stopped(root: int) -> bool:
    """Looks again and again: what wakes itself needs a moment."""
    return all(states(root) <= {b"T", b"t", b"Z"} for _ in range(_READS))


def test_processes_and_their_threads_stand_still_until_they_are_let_go() -> None:
    threads = "import threading\n[threading.Thread(target=lambda: [0 for _ in iter(int, 1)],"
    begin = f"{threads} daemon=True).start() for _ in range(3)]"
    with running(_PAIR.format(begin=begin, act="pass"), 2) as root:
        stopped = stop(root)
        assert len(stopped) == 2
        assert stays_stopped(root)
        go_on(stopped)
        while states(root) & {b"T"}:
            pass


@pytest.mark.parametrize(
    "act",
    [
        "os.kill(other, signal.SIGCONT)",
        "os.kill(other, signal.SIGCONT); os.kill(os.getpid(), signal.SIGSTOP)",
    ],
    ids=["all the time", "in turns"],
)
def test_processes_that_wake_each_other_are_stopped_or_found_out(act: str) -> None:
    with running(_PAIR.format(begin="", act=act), 2) as root:
        try:
            stop(root)
        except Restless:
            return
        assert stays_stopped(root)


def test_a_tracer_that_turns_the_signal_away_is_found_out() -> None:
    program = """
import ctypes, os
libc = ctypes.CDLL(None)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
traced, tracer = os.getpid(), os.fork()
if tracer:
    libc.prctl(0x59616D61, ctypes.c_ulong(2**64 - 1), 0, 0, 0)
    while True:
        pass
while libc.ptrace(16, traced, None, None):
    pass
os.waitpid(traced, 0x40000000)
libc.ptrace(7, traced, None, None)
print("there", flush=True)
while True:
    if os.waitpid(traced, 0x40000000 | os.WNOHANG)[0]:
        libc.ptrace(7, traced, None, None)
"""
    with running(program, 1) as root:
        try:
            stop(root)
        except Restless:
            return
        assert stays_stopped(root)


def test_a_tree_that_forks_without_end_is_stopped_or_found_out() -> None:
    program = """
import ctypes, os, signal
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
if os.fork():
    while True:
        signal.pause()
print("there", flush=True)
while True:
    if os.fork():
        os._exit(0)
"""
    with running(program, 1) as pid:
        try:
            stop(pid)
        except Restless:
            return
        assert stays_stopped(pid)


def test_what_is_gone_needs_no_stopping() -> None:
    with running("print('there', flush=True)", 1) as root:
        os.waitid(os.P_PID, root, os.WEXITED | os.WNOWAIT)
        stop(root)
