"""Cheats that know how the judge works: the ring of inputs, the stops, the random look, the build.

`@FILE@` stands for the path of a planted file.
"""

from __future__ import annotations

from kernel_generator.domain.outcome import Outcome
from tests.adversarial.definitions import GEMM, NORM, ROUTING, honestly
from tests.adversarial.records import FOUND_OUT, UNSTEADY, WRONG, Cheat, Neutralised, Rejected
from tests.adversarial.sources import IN_A_TRAIN, RAW_MEMORY, cpp

STANDS_STILL = "what belongs to a candidate is stopped, and seen to stand still"
LOOKED_AT = "a random share of each block's outputs is checked"
TAMPERED = frozenset({Outcome.TAMPERED})
UNTRUSTED = frozenset({Outcome.TIMING_UNTRUSTED})

_TRAIN = (
    IN_A_TRAIN
    + """
def place(mine):
    # Which of the block's sets is being called, and all of them.
    frame = train()
    ring = frame.f_locals["ring"] if frame is not None else []
    here = [n for n, buffers in enumerate(ring) if buffers.inputs[0].data_ptr() == mine.data_ptr()]
    return (here[0], ring) if len(ring) > 1 else (0, [])


"""
)

CASES = (
    Cheat(
        "wakes what the judge stopped",
        "Keeps the cores busy while others are timed, by processes that wake each other.",
        GEMM,
        honestly(GEMM)
        + """
import mmap
import os
import signal
import time

shared = mmap.mmap(-1, 64)
people = []
main = os.getpid()


def spin(number):
    other = 8 * (3 - number)
    end = time.monotonic() + 40
    while time.monotonic() < end and os.getppid() == main:
        if shared[0]:
            time.sleep(0.0002)
            continue
        for _ in range(200):
            pid = int.from_bytes(shared[other:other + 4], "little")
            if pid:
                os.kill(pid, signal.SIGCONT)
    os._exit(0)


for number in (1, 2):
    pid = os.fork()
    if pid == 0:
        spin(number)
    shared[8 * number : 8 * number + 4] = pid.to_bytes(4, "little")


def run(A, B):
    shared[0] = 1
    out = honest(A, B)
    shared[0] = 0
    return out
""",
        ends=Neutralised(),
        stopped_by=STANDS_STILL,
    ),
    Cheat(
        "answers a block in its first call",
        "Computes all sets of a block at once in its first call, which saves the other calls.",
        ROUTING,
        honestly(ROUTING)
        + _TRAIN
        + RAW_MEMORY
        + """
ready, at_once = {}, {}


def whole_ring(at):
    frame = train()
    ring = [buffers.inputs[0] for buffers in frame.f_locals["ring"]] if frame else []
    if len(ring) < 2 or ring[0].data_ptr() != at:
        return []
    if (at, len(ring)) not in at_once:
        at_once[at, len(ring)] = spread(ring)
    return at_once[at, len(ring)]


def run(router_logits):
    at = router_logits.data_ptr()
    if at in ready:
        return ready.pop(at)
    every = whole_ring(at)
    ready.clear()
    if len(every) == 0:
        return honest(router_logits)
    weights, ids = honest(every.reshape(-1, every.shape[2]))
    step, rows = every.stride(0) * 4, every.shape[1]
    for n, (some, chosen) in enumerate(zip(weights.split(rows), ids.split(rows))):
        ready[at + n * step] = some, chosen
    return ready.pop(at)
""",
        ends=Neutralised(),
        stopped_by="a later call's inputs are replaced while a block runs",
    ),
    Cheat(
        "writes a block's outputs in its first call",
        "Computes and writes what all calls of a block are to, at once, and does nothing then.",
        NORM,
        honestly(NORM)
        + _TRAIN
        + RAW_MEMORY
        + """
def run(hidden_states, weight, output):
    here, ring = place(hidden_states)
    if not ring:
        output.copy_(honest(hidden_states, weight))
    elif here == 0:
        x = spread([buffers.inputs[0] for buffers in ring]).float()
        w = spread([buffers.inputs[1] for buffers in ring]).float()
        inverse = torch.rsqrt(x.pow(2).mean(dim=-1, keepdim=True) + 1e-6)
        out = spread([buffers.outputs[0] for buffers in ring])
        out.copy_(x * inverse * w[:, None, :])
""",
        certified=True,
        passing=True,
        ends=Neutralised("copies into its output"),
        stopped_by="a later call's inputs are replaced while a block runs",
    ),
    Cheat(
        "makes its blocks few and short",
        "Is slow until its blocks are one call each, uses the time up, and then does nothing.",
        NORM,
        honestly(NORM)
        + _TRAIN
        + """
import time

timed = [0]


def run(hidden_states, weight, output):
    inside = train() is not None
    timed[0] += inside
    if inside and timed[0] < 4:
        time.sleep(1)
    if not inside or timed[0] < 4:
        output.copy_(honest(hidden_states, weight))
""",
        passing=True,
        ends=Rejected(WRONG),
        stopped_by="every block has a call that is looked at",
    ),
    Cheat(
        "turns itself on again by tracing",
        "Lets a helper trace it past the judge's stops, and computes what is being written.",
        ROUTING,
        honestly(ROUTING)
        + _TRAIN
        + """
import ctypes
import os
import threading

ATTACH, CONT, ANY = 16, 7, 0x40000000
libc = ctypes.CDLL(None)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
libc.prctl(0x59616D61, ctypes.c_ulong(2**64 - 1), 0, 0, 0)
main = os.getpid()
if os.fork() == 0:
    libc.prctl(1, 9, 0, 0, 0)
    if libc.ptrace(ATTACH, main, None, None):
        os._exit(1)
    while True:
        pid, status = os.waitpid(-1, ANY)
        if os.WIFSTOPPED(status):
            libc.ptrace(CONT, pid, None, None)

ring, ready = [], {}


def ahead():
    while True:
        for inputs in ring:
            value = inputs[0].clone()
            if not torch.equal(ready.get(inputs[0].data_ptr(), (None, value + 1))[1], value):
                ready[inputs[0].data_ptr()] = honest(value), value


threading.Thread(target=ahead, daemon=True).start()


def run(router_logits):
    if not ring and (frame := train()):
        ring.extend(buffers.inputs for buffers in frame.f_locals["binding"].ring(64))
    known = ready.get(router_logits.data_ptr())
    if known is not None and torch.equal(known[1], router_logits):
        return known[0]
    return honest(router_logits)
""",
        # Its tracer may leave it stopped.
        ends=Neutralised(found_out=FOUND_OUT | {Outcome.TIMEOUT}),
        stopped_by=STANDS_STILL,
    ),
    Cheat(
        "knows timed calls by their caller",
        "Looks up who calls it, and does nothing in the train of a timed block.",
        NORM,
        honestly(NORM)
        + _TRAIN
        + """
def run(hidden_states, weight, output):
    if train() is None:
        output.copy_(honest(hidden_states, weight))
""",
        passing=True,
        ends=Rejected(WRONG),
        stopped_by=LOOKED_AT,
    ),
    Cheat(
        "answers from the set before",
        "Hands out in timed calls what it wrote for the set before, which is almost the same.",
        ROUTING,
        honestly(ROUTING)
        + _TRAIN
        + """
def run(router_logits, topk_weights, topk_ids):
    at, ring = place(router_logits)
    values = ring[at - 1].outputs if ring and at % 8 else honest(router_logits)
    topk_weights.copy_(values[0])
    topk_ids.copy_(values[1])
""",
        passing=True,
        ends=Neutralised(found_out=WRONG),
        stopped_by=LOOKED_AT,
    ),
    Cheat(
        "empties the next set's inputs",
        "Zeroes the inputs of the set that comes next, whose outputs are then zeros for nothing.",
        NORM,
        honestly(NORM)
        + _TRAIN
        + """
def run(hidden_states, weight, output):
    at, ring = place(hidden_states)
    if at + 1 < len(ring):
        ring[at + 1].inputs[0].zero_()
    if at:
        output.zero_()
    else:
        output.copy_(honest(hidden_states, weight))
""",
        passing=True,
        ends=Neutralised("copies into its output", WRONG | {Outcome.INPUT_MODIFIED}),
        stopped_by="inputs of timed calls are compared with what the judge wrote",
    ),
    Cheat(
        "overwrites the set before",
        "Zeroes the outputs of the set before, once they are done and may have been looked at.",
        NORM,
        honestly(NORM)
        + _TRAIN
        + """
def run(hidden_states, weight, output):
    output.copy_(honest(hidden_states, weight))
    at, ring = place(hidden_states)
    if at:
        ring[at - 1].outputs[0].zero_()
""",
        passing=True,
        ends=Neutralised("copies into its output", WRONG),
        stopped_by=LOOKED_AT + ", once all calls are done",
    ),
    Cheat(
        "finishes in a process of its own",
        "Lets a forked process write the last rows of timed outputs a moment after the call.",
        NORM,
        honestly(NORM)
        + _TRAIN
        + """
import os
import time

owed = []


def run(hidden_states, weight, output):
    if train() is None:
        output.copy_(honest(hidden_states, weight))
        return
    if os.fork() == 0:
        time.sleep(0.002)
        x, w = hidden_states.float(), weight.float()
        rows = x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + 1e-6) * w
        output.copy_(rows.to(output.dtype))
        os._exit(0)
""",
        passing=True,
        device="cpu",
        ends=Rejected(UNSTEADY | UNTRUSTED),
        stopped_by="outputs are looked at the moment the block is done, and again later",
    ),
    Cheat(
        "C++ takes a file along while it is built",
        "Embeds a file of the user by the assembler, where the compiler can read it.",
        NORM,
        cpp("all_rows(x, w, y, rows, columns);")
        + '\nasm(".section .rodata\\nstolen: .incbin \\"@FILE@\\"\\n.previous");\n',
        language="cpp",
        passing=True,
        ends=Rejected(frozenset({Outcome.COMPILE_ERROR})),
        stopped_by="the sandbox that compiles has an allow-list of its own",
    ),
    Cheat(
        "C++ is another where it is built for the judge",
        "Computes only where the compiler sees the sandbox of builds; anywhere else it returns.",
        NORM,
        '#if __has_include("/tmp/home/build/kernel.cpp")\n#define BUILT_FOR_THE_JUDGE 1\n#endif\n'
        + cpp("""
#ifndef BUILT_FOR_THE_JUDGE
  all_rows(x, w, y, rows, columns);
#endif
"""),
        language="cpp",
        passing=True,
        ends=Rejected(WRONG | {Outcome.NOT_REPRODUCIBLE}),
        stopped_by="what was built in the sandbox is what is judged, timed and certified",
    ),
)
