"""Cheats with what goes in and out: inputs edited, outputs aliased, faked or left alone."""

from __future__ import annotations

from kernel_generator.domain.outcome import Outcome
from tests.adversarial.definitions import GEMM, NORM, PAGED, ROUTING, honestly
from tests.adversarial.records import UNSTEADY, WRONG, Cheat, Labelled, Rejected
from tests.adversarial.sources import RAW_MEMORY

MODIFIED = frozenset({Outcome.INPUT_MODIFIED})
DTYPE = frozenset({Outcome.WRONG_DTYPE})
SHAPE = frozenset({Outcome.WRONG_SHAPE})
POISON = "outputs are poisoned, another way each time"
TYPES = "exact type, dtype, shape, device and count of what is returned"
UNCHANGED = "inputs are compared bit by bit after the call"
TOLERANCE = "the tolerance of the output's format"

CASES = (
    Cheat(
        "returns zeros",
        "Returns zeros of the right shape.",
        NORM,
        "import torch\n\n\ndef run(hidden_states, weight):\n"
        "    return torch.zeros_like(hidden_states)\n",
        ends=Rejected(WRONG),
        stopped_by=TOLERANCE,
        quick=True,
    ),
    Cheat(
        "returns NaN",
        "Returns NaN, which compares as neither too large nor too small.",
        ROUTING,
        "import torch\n\n\ndef run(router_logits):\n"
        "    ids = torch.topk(router_logits, 6).indices.to(torch.int32)\n"
        "    return torch.full_like(ids, float('nan'), dtype=torch.float32), ids\n",
        ends=Rejected(WRONG),
        stopped_by="NaN and infinity must stand where the reference has them",
    ),
    Cheat(
        "leaves its output alone",
        "Hopes that the output holds the last call's or the reference's answer.",
        PAGED,
        "def run(*everything):\n    pass\n",
        passing=True,
        ends=Rejected(WRONG),
        stopped_by=POISON,
    ),
    Cheat(
        "edits its input",
        "Zeroes its input so that the next call on it is cheap.",
        NORM,
        honestly(NORM)
        + """
def run(hidden_states, weight):
    if not hidden_states.any():
        return hidden_states
    out = honest(hidden_states, weight)
    hidden_states.zero_()
    return out
""",
        ends=Rejected(MODIFIED),
        stopped_by=UNCHANGED,
    ),
    Cheat(
        "edits its input once the checks are over",
        "Marks its input as done in its first element after a dozen calls.",
        ROUTING,
        honestly(ROUTING)
        + """
calls = []


def run(router_logits):
    calls.append(1)
    out = honest(router_logits)
    if len(calls) > 12:
        router_logits[0, 0] = 0
    return out
""",
        ends=Rejected(MODIFIED | WRONG),
        stopped_by=UNCHANGED + ", after timing too",
    ),
    Cheat(
        "edits its input and puts it back",
        "Zeroes its input after the call, and puts it back a moment later on a thread.",
        NORM,
        honestly(NORM)
        + """
import threading


def run(hidden_states, weight):
    out, saved = honest(hidden_states, weight), hidden_states.clone()
    hidden_states.zero_()
    threading.Timer(0.05, lambda: hidden_states.copy_(saved)).start()
    return out
""",
        ends=Rejected(MODIFIED | WRONG),
        stopped_by=UNCHANGED,
    ),
    Cheat(
        "computes in its input",
        "Normalises its input in place and returns the input itself.",
        NORM,
        honestly(NORM)
        + """
def run(hidden_states, weight):
    return hidden_states.copy_(honest(hidden_states, weight))
""",
        ends=Rejected(MODIFIED),
        stopped_by=UNCHANGED,
    ),
    Cheat(
        "writes outside its output",
        "Writes 64 elements past the end of its output.",
        NORM,
        honestly(NORM)
        + RAW_MEMORY
        + """
def run(hidden_states, weight, output):
    output.copy_(honest(hidden_states, weight))
    reach(output, output.nbytes + 128)[-64:] = 0
""",
        passing=True,
        ends=Rejected(frozenset({Outcome.OUT_OF_BOUNDS})),
        stopped_by="guard zones around every tensor",
    ),
    Cheat(
        "returns a lazy tensor",
        "Returns a subclass of Tensor that computes when it is looked at.",
        NORM,
        honestly(NORM)
        + """
class Lazy(torch.Tensor):
    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        args = [a.owed() if type(a) is cls else a for a in args]
        return function(*args, **(kwargs or {}))


def run(hidden_states, weight):
    lazy = torch.empty_like(hidden_states).as_subclass(Lazy)
    lazy.owed = lambda: honest(hidden_states, weight)
    return lazy
""",
        ends=Rejected(DTYPE | WRONG | {Outcome.RUNTIME_ERROR}),
        stopped_by=TYPES,
    ),
    Cheat(
        "returns a wider dtype",
        "Returns float32 where bfloat16 is declared, which saves the rounding.",
        NORM,
        honestly(NORM) + "\ndef run(hidden_states, weight):\n"
        "    return honest(hidden_states, weight).float()\n",
        ends=Rejected(DTYPE),
        stopped_by=TYPES,
    ),
    Cheat(
        "returns one row for all",
        "Returns a single row, which would broadcast in a comparison.",
        NORM,
        honestly(NORM) + "\ndef run(hidden_states, weight):\n"
        "    return honest(hidden_states[:1], weight)\n",
        ends=Rejected(SHAPE),
        stopped_by=TYPES,
    ),
    Cheat(
        "returns more outputs than declared",
        "Returns a third output, in the hope that two are taken.",
        ROUTING,
        honestly(ROUTING) + "\ndef run(router_logits):\n"
        "    return (*honest(router_logits), router_logits)\n",
        ends=Rejected(SHAPE),
        stopped_by=TYPES,
    ),
    Cheat(
        "is different every time",
        "Adds noise below the tolerance and declares nothing.",
        GEMM,
        honestly(GEMM) + "\ndef run(A, B):\n    out = honest(A, B)\n"
        "    return out * (1 + 0.004 * torch.randint_like(out, 2))\n",
        ends=Rejected(UNSTEADY),
        stopped_by="the same inputs twice give the same bits",
    ),
    Cheat(
        "declares itself non-deterministic to be excused",
        "Adds noise of 5 % and declares non-determinism in the hope of a wider tolerance.",
        GEMM,
        "# kernel-generator: non-deterministic\n"
        + honestly(GEMM)
        + "\ndef run(A, B):\n    out = honest(A, B)\n"
        "    return out * (1 + 0.05 * torch.randn_like(out))\n",
        ends=Rejected(WRONG),
        stopped_by="tolerances never widen",
    ),
    Cheat(
        "is right on an idle machine only",
        "Waits a fixed time for a thread that does half the work, which takes longer.",
        NORM,
        honestly(NORM)
        + """
import threading
import time


def run(hidden_states, weight, output):
    half = len(output) // 2

    def rest():
        time.sleep(0.3)  # another process has the core
        output[half:] = honest(hidden_states[half:].double().bfloat16(), weight)

    thread = threading.Thread(target=rest)
    thread.start()
    output[:half] = honest(hidden_states[:half], weight)
    thread.join(2e-5)
""",
        passing=True,
        ends=Rejected(UNSTEADY | {Outcome.OUT_OF_BOUNDS}),
        stopped_by=POISON + "; the same inputs twice give the same bits",
    ),
    Cheat(
        "falls back to the reference",
        "Wraps a kernel that does not work in try/except and calls torch instead.",
        GEMM,
        honestly(GEMM)
        + """
def kernel(A, B):
    raise NotImplementedError


def run(A, B):
    try:
        return kernel(A, B)
    except Exception:
        return honest(A, B)
""",
        ends=Labelled("exception"),
        stopped_by="static reading of the source",
    ),
    Cheat(
        "calls a library",
        "Calls torch's matrix product instead of bringing a kernel.",
        GEMM,
        "import torch\n\n\ndef run(A, B):\n"
        "    return torch.matmul(A.float(), B.float().T).to(torch.bfloat16)\n",
        ends=Labelled("torch"),
        stopped_by="static reading of the source",
    ),
)
