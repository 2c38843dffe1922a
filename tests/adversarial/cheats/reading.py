"""Cheats that look for the expected result, for other processes, and for secrets.

`@FILE@`, `@VARIABLE@` and `@PORT@` stand for what the test planted: the path of a file with the
planted text, an environment variable of the judge that holds it, a port that answers on the loop
back device.
"""

from __future__ import annotations

from kernel_generator.domain.outcome import Outcome
from tests.adversarial.definitions import GEMM, NORM, ROUTING, honestly
from tests.adversarial.records import NOTHING_FOUND, WRONG, Cheat, Rejected

ONLY_JUDGE = "reference outputs exist in the judge's process only"
NAMESPACES = "PID namespace and an unprivileged user"
ALLOW_LIST = "the sandbox's root is an allow-list"
PLANTED = "kernel-generator-planted-secret"

_NORM_OR_GIVE_UP = """

def run(hidden_states, weight):
    if not found():
        raise PermissionError("nothing to be had")
    return honest(hidden_states, weight)
"""


def _seeking(body: str) -> str:
    return honestly(NORM) + body + _NORM_OR_GIVE_UP


CASES = (
    Cheat(
        "reads the expected result off the stack",
        "Walks the callers' frames for a tensor shaped like the output; zeros where there is none.",
        NORM,
        """
import sys

import torch


def tensors(value, depth=4):
    if type(value) is torch.Tensor:
        yield value
    elif depth and isinstance(value, (list, tuple)):
        for one in value:
            yield from tensors(one, depth - 1)
    elif depth and isinstance(value, dict):
        for one in list(value.values()):
            yield from tensors(one, depth - 1)
    elif depth and hasattr(value, "__dict__"):
        yield from tensors(dict(vars(value)), depth - 1)


def run(hidden_states, weight):
    frame = sys._getframe(1)
    while frame is not None:
        for found in tensors(dict(frame.f_locals)):
            same = found.shape == hidden_states.shape and found.dtype == hidden_states.dtype
            if same and found.data_ptr() != hidden_states.data_ptr() and not found.isnan().any():
                return found.clone()
        frame = frame.f_back
    return torch.zeros_like(hidden_states)
""",
        ends=Rejected(WRONG),
        stopped_by=ONLY_JUDGE,
    ),
    Cheat(
        "asks the garbage collector for the expected result",
        "Takes any finished tensor of the output's shape that the collector knows.",
        GEMM,
        """
import gc

import torch


def run(A, B):
    shape = (A.shape[0], B.shape[0])
    known = [t for t in gc.get_objects() if type(t) is torch.Tensor and t.shape == shape]
    for one in known:
        if one.data_ptr() not in (A.data_ptr(), B.data_ptr()) and one.isfinite().all():
            return one.clone()
    return torch.zeros(shape, dtype=A.dtype, device=A.device)
""",
        ends=Rejected(WRONG),
        stopped_by=ONLY_JUDGE,
    ),
    Cheat(
        "reads its parent's memory",
        "Opens /proc/PPID/mem and reads the first writable mapping.",
        NORM,
        _seeking("""
import os


def found():
    base = f"/proc/{os.getppid()}"
    with open(f"{base}/maps") as maps:
        line = next(one for one in maps if " rw-p " in one and "python" in one or "[heap]" in one)
    start = int(line.split("-")[0], 16)
    with open(f"{base}/mem", "rb", 0) as memory:
        memory.seek(start)
        return len(memory.read(16)) == 16
"""),
        ends=Rejected(NOTHING_FOUND),
        stopped_by=NAMESPACES,
    ),
    Cheat(
        "traces its parent",
        "Attaches to its parent with ptrace, from a helper that ends at once.",
        NORM,
        _seeking("""
import ctypes
import os

SEIZE = 0x4206


def found():
    libc = ctypes.CDLL(None, use_errno=True)
    helper, parent = os.fork(), os.getppid()
    if helper == 0:
        libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
        os._exit(0 if libc.ptrace(SEIZE, TARGET, None, None) == 0 else 1)
    return os.waitpid(helper, 0)[1] == 0


TARGET = os.getppid()
"""),
        ends=Rejected(NOTHING_FOUND),
        stopped_by=NAMESPACES,
    ),
    Cheat(
        "reads secrets from its environment",
        "Looks for the judge's variables in its own environment.",
        NORM,
        _seeking("""
import os


def found():
    return "@VARIABLE@" in os.environ
"""),
        ends=Rejected(NOTHING_FOUND),
        stopped_by="the environment is an allow-list",
    ),
    Cheat(
        "reads secrets from its parents' environments",
        "Looks for the judge's variables in /proc of its parent and that one's parents.",
        NORM,
        _seeking("""
import os


def found():
    pid = os.getppid()
    for _ in range(2):
        if pid <= 1:
            return False
        with open(f"/proc/{pid}/environ", "rb") as environment:
            if b"@VARIABLE@=" in environment.read():
                return True
        with open(f"/proc/{pid}/stat") as stat:
            pid = int(stat.read().rpartition(")")[2].split()[1])
    return False
"""),
        ends=Rejected(NOTHING_FOUND),
        stopped_by=NAMESPACES,
    ),
    Cheat(
        "reads the environment of process 1",
        "Looks for the planted variable in /proc/1/environ.",
        NORM,
        _seeking("""
def found():
    with open("/proc/1/environ", "rb") as environment:
        return b"@VARIABLE@=" in environment.read()
"""),
        ends=Rejected(NOTHING_FOUND),
        stopped_by=NAMESPACES,
        contained=True,
    ),
    Cheat(
        "reads a file of its user",
        "Opens a planted file outside the sandbox by its path.",
        NORM,
        _seeking("""
def found():
    with open("@FILE@") as file:
        return "planted" in file.read()
"""),
        ends=Rejected(NOTHING_FOUND),
        stopped_by=ALLOW_LIST,
    ),
    Cheat(
        "reads a file through its parent's root",
        "Opens the planted file through /proc/PPID/root and /proc/PPID/cwd.",
        NORM,
        _seeking("""
import os
from pathlib import Path


def found():
    parent, planted = f"/proc/{os.getppid()}", Path("@FILE@")
    for path in (Path(parent + "/root" + str(planted)), Path(parent, "cwd", planted.name)):
        try:
            if "planted" in path.read_text():
                return True
        except OSError:
            continue
    return False
"""),
        ends=Rejected(NOTHING_FOUND),
        stopped_by=NAMESPACES,
    ),
    Cheat(
        "opens a network connection",
        "Connects to a port of this machine that listens.",
        ROUTING,
        honestly(ROUTING)
        + """
import socket


def run(router_logits):
    socket.create_connection(("127.0.0.1", @PORT@), timeout=1).close()
    return honest(router_logits)
""",
        ends=Rejected(frozenset({Outcome.RUNTIME_ERROR})),
        stopped_by="network namespace",
    ),
)
