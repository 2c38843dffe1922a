"""Cheats against the clock: patched timers, work put off, and baselines slowed down."""

from __future__ import annotations

from kernel_generator.domain.outcome import Outcome
from tests.adversarial.definitions import GEMM, NORM, RAGGED, ROUTING, honestly
from tests.adversarial.records import UNSTEADY, WRONG, Cheat, Neutralised, Rejected

JUDGES_CLOCK = "the judge's own clock"
CHECKED = "timed outputs are checked"
SPANS = "the judge's clock spans the whole block and its outputs are checked at its end"

CASES = (
    Cheat(
        "patches the clocks",
        "Replaces every clock of the time module by a constant.",
        NORM,
        honestly(NORM)
        + """
import time

for name in ("perf_counter", "perf_counter_ns", "time", "time_ns", "monotonic", "monotonic_ns"):
    setattr(time, name, lambda: 0)


def run(hidden_states, weight):
    return honest(hidden_states, weight)
""",
        ends=Neutralised(),
        stopped_by=JUDGES_CLOCK,
    ),
    Cheat(
        "skips after many calls",
        "Works for a dozen calls, and leaves its output alone from then on.",
        NORM,
        honestly(NORM)
        + """
calls = []


def run(hidden_states, weight, output):
    calls.append(1)
    if len(calls) <= 12:
        output.copy_(honest(hidden_states, weight))
""",
        passing=True,
        ends=Rejected(WRONG),
        stopped_by=CHECKED,
    ),
    Cheat(
        "skips when called in quick succession",
        "Takes calls less than five milliseconds apart for timing, and returns at once.",
        ROUTING,
        honestly(ROUTING)
        + """
import time

last = [0.0]


def run(router_logits, topk_weights, topk_ids):
    hurried = time.perf_counter() - last[0] < 5e-3
    if not hurried:
        weights, ids = honest(router_logits)
        topk_weights.copy_(weights)
        topk_ids.copy_(ids)
    last[0] = time.perf_counter()
""",
        passing=True,
        ends=Rejected(UNSTEADY),
        stopped_by=CHECKED,
    ),
    Cheat(
        "skips most calls of a block",
        "Once it has seen a dozen calls, does the work of every eighth only.",
        GEMM,
        honestly(GEMM)
        + """
calls = []


def run(A, B, C):
    calls.append(1)
    if len(calls) <= 12 or len(calls) % 8 == 0:
        C.copy_(honest(A, B))
""",
        passing=True,
        ends=Rejected(WRONG),
        stopped_by="a random share of each block's outputs is checked",
    ),
    Cheat(
        "finishes on a thread",
        "Returns at once and lets a thread do the work later.",
        NORM,
        honestly(NORM)
        + """
import threading


def run(hidden_states, weight, output):
    threading.Timer(0.3, lambda: output.copy_(honest(hidden_states, weight))).start()
""",
        passing=True,
        ends=Rejected(UNSTEADY),
        stopped_by="outputs are read as soon as the call is done",
    ),
    Cheat(
        "leaves the last call unfinished",
        "Hands each call's work to a thread and waits only for the call before, once checked.",
        RAGGED,
        honestly(RAGGED)
        + """
import threading

calls, before = [], []


def run(*everything):
    inputs, outputs = everything[:-2], everything[-2:]

    def work():
        for output, value in zip(outputs, honest(*inputs)):
            output.copy_(value)

    calls.append(1)
    if len(calls) <= 12:
        return work()
    while before:
        before.pop().join()
    before.append(threading.Timer(0.15, work))
    before[-1].start()
""",
        passing=True,
        ends=Rejected(WRONG | {Outcome.OUT_OF_BOUNDS}),
        stopped_by=SPANS,
    ),
    Cheat(
        "computes when its answer is copied",
        "Returns an empty tensor, and patches Tensor.copy_ to compute when someone reads it.",
        ROUTING,
        honestly(ROUTING)
        + """
real, owed = torch.Tensor.copy_, {}


def copy_(self, other, *rest, **named):
    call = owed.pop(id(other), None)
    return real(self, other if call is None else honest(call[1])[call[0]], *rest, **named)


torch.Tensor.copy_ = copy_
kept = {}


def run(router_logits):
    rows, where = len(router_logits), router_logits.device
    if rows not in kept:
        ids = torch.empty(rows, 6, dtype=torch.int32, device=where)
        kept[rows] = torch.empty(rows, 6, device=where), ids
    for index, empty in enumerate(kept[rows]):
        owed[id(empty)] = index, router_logits
    return kept[rows]
""",
        ends=Neutralised(),
        stopped_by="storing what every call returned is timed, and checked",
    ),
    Cheat(
        "spins while the baseline is timed",
        "Leaves two processes that keep the cores busy whenever it is not being called itself.",
        GEMM,
        honestly(GEMM)
        + """
import mmap
import os
import time

calling = mmap.mmap(-1, 8)
parent = os.getpid()
for _ in range(2):
    if os.fork() == 0:
        end = time.monotonic() + 30
        while time.monotonic() < end and os.getppid() == parent:
            if calling[0]:
                time.sleep(0.0002)
            else:
                for _ in range(20000):
                    pass
        os._exit(0)


def run(A, B):
    calling[0] = 1
    out = honest(A, B)
    calling[0] = 0
    return out
""",
        ends=Neutralised(),
        stopped_by="what belongs to a candidate is stopped while others are timed",
    ),
    Cheat(
        "slows the reference down",
        "Gives every other child of the judge the lowest priority.",
        NORM,
        honestly(NORM)
        + """
import os

for name in filter(str.isdigit, os.listdir("/proc")):
    try:
        with open(f"/proc/{name}/stat") as stat:
            parent = int(stat.read().rpartition(")")[2].split()[1])
        if parent == os.getppid() and int(name) != os.getpid():
            os.setpriority(os.PRIO_PROCESS, int(name), 19)
    except OSError:
        continue


def run(hidden_states, weight):
    return honest(hidden_states, weight)
""",
        ends=Neutralised(),
        stopped_by="PID namespace: other processes are not visible",
        contained=True,
    ),
    Cheat(
        "tunes itself at every call",
        "Tries three ways of doing the work in every call and returns the fastest one's.",
        GEMM,
        """
import time

import torch


def run(A, B):
    best = None
    for chunks in (1, 2, 4):
        began = time.perf_counter()
        parts = [a.float() @ B.float().T for a in A.chunk(chunks)]
        took = time.perf_counter() - began
        if best is None or took < best[0]:
            best = took, torch.cat(parts)
    return best[1].to(torch.bfloat16)
""",
        ends=Neutralised(),
        stopped_by=JUDGES_CLOCK,
    ),
)
