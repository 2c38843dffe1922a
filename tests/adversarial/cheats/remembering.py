"""Cheats that remember what they computed, and hand it out again."""

from __future__ import annotations

from tests.adversarial.definitions import GEMM, NORM, PAGED, RAGGED, ROUTING, honestly
from tests.adversarial.records import WRONG, Cheat, Neutralised, Rejected

NEW_VALUES = "several trials, each with values that were not there before"
FRESH_BLOCKS = "fresh values in every timed block"


def _by_key(definition: str, key: str) -> str:
    return (
        honestly(definition)
        + f"""
kept = {{}}


def run(*inputs):
    key = {key}
    if key not in kept:
        kept[key] = honest(*inputs)
    return kept[key]
"""
    )


CASES = (
    Cheat(
        "remembers by pointer",
        "Keeps its outputs by the addresses of its inputs.",
        NORM,
        _by_key(NORM, "tuple(t.data_ptr() for t in inputs)"),
        ends=Rejected(WRONG),
        stopped_by=NEW_VALUES,
        quick=True,
    ),
    Cheat(
        "remembers by shape",
        "Keeps its outputs by the shapes of its inputs.",
        GEMM,
        _by_key(GEMM, "tuple(t.shape for t in inputs)"),
        ends=Rejected(WRONG),
        stopped_by=NEW_VALUES,
    ),
    Cheat(
        "remembers by identity",
        "Keeps its outputs by the tensor objects that it is handed.",
        PAGED,
        _by_key(PAGED, "tuple(id(t) for t in inputs[:-1])"),
        ends=Rejected(WRONG),
        stopped_by=NEW_VALUES,
    ),
    Cheat(
        "remembers by first elements",
        "Keeps its outputs by the first eight elements of its input.",
        RAGGED,
        _by_key(RAGGED, "(inputs[0].shape, *inputs[0].flatten()[:8].tolist())"),
        ends=Neutralised(),
        stopped_by=FRESH_BLOCKS,
    ),
    Cheat(
        "remembers by checksum",
        "Keeps its outputs by a sum over its input, which is cheaper than the work.",
        GEMM,
        _by_key(GEMM, "(inputs[0].shape, float(inputs[0].sum()), float(inputs[1][::64].sum()))"),
        ends=Neutralised(),
        stopped_by=FRESH_BLOCKS,
    ),
    Cheat(
        "returns the same tensor from every call",
        "Keeps one output for each shape: what a call returned becomes what the next one does.",
        NORM,
        honestly(NORM)
        + """
kept = {}


def run(hidden_states, weight):
    key = hidden_states.shape
    if key not in kept:
        kept[key] = torch.empty_like(hidden_states)
    return kept[key].copy_(honest(hidden_states, weight))
""",
        ends=Rejected(WRONG),
        stopped_by="what a call returned is looked at again after the next one",
        quick=True,
    ),
    Cheat(
        "remembers once the checks are over",
        "Computes honestly for a dozen calls, then hands out what it kept by address.",
        ROUTING,
        honestly(ROUTING)
        + """
kept, calls = {}, []


def run(router_logits):
    calls.append(1)
    at = router_logits.data_ptr()
    if len(calls) <= 12 or at not in kept:
        kept[at] = honest(router_logits)
    return kept[at]
""",
        ends=Rejected(WRONG),
        stopped_by="timed outputs are checked; trials after timing",
    ),
    Cheat(
        "keeps converted weights",
        "Converts the weights once and takes them for constant from then on.",
        GEMM,
        """
import torch

kept = {}


def run(A, B):
    if B.data_ptr() not in kept:
        kept[B.data_ptr()] = B.float().T.contiguous()
    return (A.float() @ kept[B.data_ptr()]).to(torch.bfloat16)
""",
        ends=Rejected(WRONG),
        stopped_by=NEW_VALUES,
    ),
    Cheat(
        "guesses the judge's random numbers",
        "Patches torch.randn and the seeds to make all inputs zeros, and answers with zeros.",
        NORM,
        """
import torch

torch.manual_seed(0)
torch.randn = lambda *shape, **_: torch.zeros(shape)


def run(hidden_states, weight):
    return torch.zeros_like(hidden_states)
""",
        ends=Rejected(WRONG),
        stopped_by="inputs and seeds are made in the judge's process",
    ),
)
