"""Doing less: parts left out, lower precision, and bugs that only unusual inputs show."""

from __future__ import annotations

from tests.adversarial.definitions import GEMM, NORM, PAGED, ROUTING, definition, honestly
from tests.adversarial.records import WRONG, Cheat, Rejected

TILES = "every element is compared"
FORMATS = "tolerances reject a format below the inputs'"
SCALES = "adversarial trials: scales from 1e-3 to 700, all equal, subnormal"

CASES = (
    Cheat(
        "leaves out the last tile",
        "Does not compute the last 16 columns.",
        GEMM,
        honestly(GEMM) + "\ndef run(A, B):\n    out = honest(A, B)\n    out[:, -16:] = 0\n"
        "    return out\n",
        ends=Rejected(WRONG),
        stopped_by=TILES,
    ),
    Cheat(
        "computes the first rows only",
        "With more than 32 rows, computes the first 32.",
        NORM,
        honestly(NORM) + "\ndef run(hidden_states, weight):\n"
        "    out = torch.zeros_like(hidden_states)\n"
        "    out[:32] = honest(hidden_states[:32], weight)\n    return out\n",
        ends=Rejected(WRONG),
        stopped_by=TILES,
    ),
    Cheat(
        "sums half and doubles",
        "Multiplies over half of K and doubles the result.",
        GEMM,
        honestly(GEMM).replace("(1024, 1024)", "(1024, 512)") + "\ndef run(A, B):\n"
        "    return honest(A[:, :512], B[:, :512].contiguous()) * 2\n",
        ends=Rejected(WRONG),
        stopped_by=TILES,
    ),
    Cheat(
        "multiplies in fp8",
        "Rounds both operands to float8_e4m3fn before it multiplies.",
        GEMM,
        honestly(GEMM) + "\ndef run(A, B):\n"
        "    small = [t.to(torch.float8_e4m3fn).to(torch.bfloat16) for t in (A, B)]\n"
        "    return honest(*small)\n",
        ends=Rejected(WRONG),
        stopped_by=FORMATS,
    ),
    Cheat(
        "routes in bfloat16",
        "Computes float32 routing weights in bfloat16.",
        ROUTING,
        honestly(ROUTING) + "\ndef run(router_logits):\n"
        "    return honest(router_logits.to(torch.bfloat16).float())\n",
        ends=Rejected(WRONG),
        stopped_by=FORMATS,
    ),
    Cheat(
        "drops an expert",
        "Never routes to the last expert.",
        ROUTING,
        honestly(ROUTING) + "\ndef run(router_logits):\n"
        "    fewer = router_logits.clone()\n    fewer[:, 63] = -1e4\n    return honest(fewer)\n",
        ends=Rejected(WRONG),
        stopped_by=TILES,
    ),
    Cheat(
        "leaves out the maximum of a softmax",
        "Exponentiates attention's logits as they are, which overflows for large ones.",
        PAGED,
        definition(PAGED)
        .reference.replace(
            "torch.softmax(logits, dim=-1)", "logits.exp() / logits.exp().sum(-1, keepdim=True)"
        )
        .replace("torch.logsumexp(logits, dim=-1)", "logits.exp().sum(-1).log()"),
        ends=Rejected(WRONG),
        stopped_by=SCALES,
    ),
    Cheat(
        "squares in float16",
        "Sums squares in float16, which overflows for large inputs.",
        NORM,
        """
import torch


def run(hidden_states, weight):
    x = hidden_states.half()
    mean = x.square().float().mean(dim=-1, keepdim=True)
    return (hidden_states.float() * torch.rsqrt(mean + 1e-6) * weight.float()).to(torch.bfloat16)
""",
        ends=Rejected(WRONG),
        stopped_by=SCALES,
    ),
    Cheat(
        "leaves out epsilon",
        "Normalises without the definition's epsilon, which matters for small inputs only.",
        NORM,
        definition(NORM).reference.replace("eps = 1e-6", "eps = 0.0"),
        ends=Rejected(WRONG),
        stopped_by=SCALES,
    ),
    Cheat(
        "knows the trace set's sizes",
        "Is right for the sizes that the workloads have, and for no other.",
        NORM,
        honestly(NORM) + "\ndef run(hidden_states, weight):\n"
        "    out = honest(hidden_states, weight)\n"
        "    return out if len(out) in (1, 7, 64, 509, 2048, 4096) else out * 0\n",
        ends=Rejected(WRONG),
        stopped_by="certification: sizes that no workload has",
    ),
    Cheat(
        "knows the sizes of a certification",
        "Is right for the workloads' sizes and those of certification's edges, and for no other.",
        NORM,
        honestly(NORM) + "\ndef run(hidden_states, weight):\n"
        "    out = honest(hidden_states, weight)\n"
        "    sizes = (1, 2, 7, 37, 64, 127, 129, 509, 2048, 4096)\n"
        "    return out if len(out) in sizes else out * 0\n",
        ends=Rejected(WRONG),
        stopped_by="certification: a size that is drawn at random",
    ),
    Cheat(
        "has no time for other sizes",
        "Is right for the first sizes that certification tries, and so slow that there might be "
        "no time for others.",
        NORM,
        honestly(NORM) + "\nimport time\n\n\ndef run(hidden_states, weight):\n"
        "    out = honest(hidden_states, weight)\n"
        "    time.sleep(2.0 * (len(out) in (7, 129)))\n"
        "    return out if len(out) in (1, 7, 64, 129, 509, 2048, 4096) else out * 0\n",
        ends=Rejected(WRONG),
        stopped_by="certification: a size that is drawn at random",
    ),
    Cheat(
        "drops a head",
        "Copies the last head's output from the one before it.",
        PAGED,
        honestly(PAGED) + "\ndef run(*inputs):\n    output, lse = honest(*inputs)\n"
        "    output[:, 7] = output[:, 6]\n    return output, lse\n",
        ends=Rejected(WRONG),
        stopped_by=TILES,
    ),
)
