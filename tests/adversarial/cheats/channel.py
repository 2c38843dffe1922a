"""Cheats on the protocol: forged answers and verdicts, and the child's own program patched."""

from __future__ import annotations

from kernel_generator.domain.outcome import Outcome
from tests.adversarial.definitions import NORM, ROUTING, honestly
from tests.adversarial.records import WRONG, Cheat, Neutralised, Rejected

CONTENT = "the evidence is the output buffer's content, poisoned before the call"
FORGED = WRONG | {Outcome.TAMPERED, Outcome.NOT_REPRODUCIBLE}

_FORGE = """
import os
import socket
import struct

from kernel_generator.sandbox import wire


def forge():
    try:
        payload = wire.DONE.pack(1, 1.0, 0.0)
    except struct.error:
        payload = bytes(wire.DONE.size)
    for name in os.listdir("/proc/self/fd"):
        try:
            channel = socket.socket(fileno=os.dup(int(name)))
        except OSError:
            continue
        if channel.family == socket.AF_UNIX:
            try:
                wire.send(channel, 101, payload)
            except wire.ChannelClosed:
                # The GPU's driver has sockets of its own.
                continue

"""

CASES = (
    Cheat(
        "answers ahead of the call",
        "Writes a 'done' frame to the judge's socket itself, and does nothing.",
        NORM,
        _FORGE + "\ndef run(hidden_states, weight, output):\n    forge()\n",
        passing=True,
        ends=Rejected(FORGED),
        stopped_by=CONTENT,
    ),
    Cheat(
        "answers ahead of timed calls",
        "Works honestly while it is checked; later forges 'done' before it begins to work.",
        ROUTING,
        honestly(ROUTING)
        + _FORGE
        + """
calls = []


def run(router_logits):
    calls.append(1)
    if len(calls) > 10:
        forge()
    return honest(router_logits)
""",
        ends=Rejected(FORGED | {Outcome.TIMING_UNTRUSTED}),
        stopped_by="an answer that nobody asked for ends the child",
    ),
    Cheat(
        "forges and exits",
        "Forges a 'done' frame and ends its process with status 0.",
        NORM,
        _FORGE + "\ndef run(hidden_states, weight, output):\n    forge()\n    os._exit(0)\n",
        passing=True,
        ends=Rejected(FORGED | {Outcome.CRASHED}),
        stopped_by=CONTENT,
    ),
    Cheat(
        "exits with status 0",
        "Ends its process in the middle of a call, as if all were well.",
        NORM,
        "import os\n\n\ndef run(hidden_states, weight):\n    os._exit(0)\n",
        ends=Rejected(frozenset({Outcome.CRASHED})),
        stopped_by="a child that ends before it has answered has crashed",
    ),
    Cheat(
        "prints a verdict",
        "Prints an evaluation that passed, and returns zeros.",
        NORM,
        """
import json

import torch


def run(hidden_states, weight):
    print(json.dumps({"outcome": "PASSED", "speedup": {"value": 1156.0}}), flush=True)
    return torch.zeros_like(hidden_states)
""",
        ends=Rejected(WRONG),
        stopped_by="nothing that a child prints is parsed",
        quick=True,
    ),
    Cheat(
        "sends garbage to the judge",
        "Writes bytes that are no frame to the judge's socket.",
        ROUTING,
        _FORGE
        + """
def run(router_logits):
    wire._MAGIC = b"????"
    forge()
    return None
""",
        ends=Rejected(frozenset({Outcome.TAMPERED})),
        stopped_by="fixed binary frames",
    ),
    Cheat(
        "patches the protocol",
        "Replaces wire.send so that every claim of device time is a nanosecond.",
        NORM,
        honestly(NORM)
        + """
from kernel_generator.sandbox import wire

real = wire.send


def send(sock, kind, payload=b"", *rest, **named):
    if len(payload) == wire.DONE.size:
        payload = wire.DONE.pack(wire.DONE.unpack(payload)[0], 1.0, 0.0)
    return real(sock, kind, payload, *rest, **named)


wire.send = send


def run(hidden_states, weight):
    return honest(hidden_states, weight)
""",
        ends=Neutralised(),
        stopped_by="a claim is credited only where the judge's clock bears it out",
    ),
    Cheat(
        "patches the child's program",
        "Replaces what drives the timed calls in the child's own modules by nothing.",
        NORM,
        honestly(NORM)
        + """
import sys

for name, module in list(sys.modules.items()):
    if name.startswith("kernel_generator.sandbox"):
        for kind in [k for k in vars(module).values() if isinstance(k, type)]:
            for method in [m for m in vars(kind) if "train" in m]:
                setattr(kind, method, lambda *_, **__: (0.0, 0))


def run(hidden_states, weight):
    return honest(hidden_states, weight)
""",
        ends=Rejected(FORGED | {Outcome.RUNTIME_ERROR, Outcome.CRASHED, Outcome.TIMING_UNTRUSTED}),
        stopped_by="timed outputs are checked",
    ),
    Cheat(
        "patches the builder",
        "Replaces the call of flashinfer-bench's runnables by nothing.",
        ROUTING,
        honestly(ROUTING)
        + """
from flashinfer_bench.compile import Runnable

Runnable.__call__ = lambda self, *_, **__: None


def run(router_logits, topk_weights, topk_ids):
    raise AssertionError("never called")
""",
        passing=True,
        ends=Rejected(WRONG | {Outcome.RUNTIME_ERROR}),
        stopped_by=CONTENT,
    ),
    Cheat(
        "patches the comparison",
        "Makes torch.allclose and its relatives say yes, and returns zeros.",
        NORM,
        """
import torch

yes = lambda *_, **__: True
torch.allclose = torch.equal = torch.isclose = torch.Tensor.allclose = torch.Tensor.equal = yes
torch.testing.assert_close = torch.Tensor.__eq__ = yes


def run(hidden_states, weight):
    return torch.zeros_like(hidden_states)
""",
        ends=Rejected(WRONG),
        stopped_by="comparison happens in the judge's process",
    ),
)
