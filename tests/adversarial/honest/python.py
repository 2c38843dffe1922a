"""Honest Python, on tensors of either device."""

from __future__ import annotations

from tests.adversarial.definitions import (
    GEMM,
    NORM,
    PAGED,
    RAGGED,
    ROUTING,
    SAMPLING,
    definition,
    honestly,
)
from tests.adversarial.records import Honest


def _norm(body: str, arguments: str = "hidden_states, weight") -> str:
    return honestly(NORM) + f"\n{body}".replace("RUN", f"def run({arguments})")


CASES = (
    Honest(
        "returns a list",
        "Returns its outputs as a list instead of a tuple.",
        ROUTING,
        honestly(ROUTING) + "\ndef run(router_logits):\n    return list(honest(router_logits))\n",
    ),
    Honest(
        "returns a one-element tuple",
        "Returns its only output in a tuple.",
        NORM,
        _norm("RUN:\n    return (honest(hidden_states, weight),)\n"),
        quick=True,
    ),
    Honest(
        "returns a view",
        "Returns a transposed view of what it computed, which is not contiguous.",
        GEMM,
        "import torch\n\n\ndef run(A, B):\n"
        "    return (B.float() @ A.float().T).to(torch.bfloat16).T\n",
    ),
    Honest(
        "copies into its output",
        "Writes the reference's values into the output that it is given.",
        NORM,
        honestly(NORM)
        + "\ndef run(hidden_states, weight, output):\n"
        + "    output.copy_(honest(hidden_states, weight))\n",
        passing=True,
    ),
    Honest(
        "keeps a configuration by shape",
        "Keeps what it decided for a shape in a global dictionary.",
        GEMM,
        """
import torch

chunks = {}


def run(A, B):
    shape = tuple(A.shape)
    if shape not in chunks:
        chunks[shape] = 1 if shape[0] < 64 else 2
    wide = B.float().T
    parts = [a.float() @ wide for a in A.chunk(chunks[shape])]
    return torch.cat(parts).to(torch.bfloat16)
""",
    ),
    Honest(
        "preallocates a workspace",
        "Keeps a float32 workspace for each shape and computes in it.",
        NORM,
        """
import torch

workspaces = {}


def run(hidden_states, weight, output):
    key = hidden_states.shape
    if key not in workspaces:
        workspaces[key] = torch.empty(key, device=hidden_states.device)
    x = workspaces[key]
    x.copy_(hidden_states)
    x.mul_(torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + 1e-6)).mul_(weight.float())
    output.copy_(x)
""",
        passing=True,
    ),
    Honest(
        "preallocates a workspace and returns new tensors",
        "Computes in a workspace that it keeps, and returns a tensor of its own for each call.",
        NORM,
        """
import torch

workspaces = {}


def run(hidden_states, weight):
    key = hidden_states.shape
    if key not in workspaces:
        workspaces[key] = torch.empty(key, device=hidden_states.device)
    x = workspaces[key]
    x.copy_(hidden_states)
    x.mul_(torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + 1e-6)).mul_(weight.float())
    return x.to(torch.bfloat16)
""",
        quick=True,
    ),
    Honest(
        "uses its output as scratch",
        "Writes intermediate values to its outputs before the final ones.",
        ROUTING,
        honestly(ROUTING)
        + """
def run(router_logits, topk_weights, topk_ids):
    values, ids = torch.topk(router_logits, 6)
    topk_weights.copy_(values)
    topk_ids.copy_(ids)
    topk_weights.sub_(topk_weights[:, :1].clone()).exp_()
    topk_weights.div_(topk_weights.sum(dim=-1, keepdim=True))
""",
        passing=True,
    ),
    Honest(
        "splits the sum",
        "Adds up eight partial products over K, in another order than the reference.",
        GEMM,
        """
import torch


def run(A, B):
    a, b = A.float().chunk(8, dim=1), B.float().chunk(8, dim=1)
    out = torch.zeros(A.shape[0], B.shape[0], device=A.device)
    for left, right in reversed(list(zip(a, b))):
        out += left @ right.T
    return out.to(torch.bfloat16)
""",
    ),
    Honest(
        "adds up in an order that varies",
        "Adds partial products in random order and declares itself non-deterministic.",
        GEMM,
        """
# kernel-generator: non-deterministic
import random

import torch


def run(A, B):
    parts = list(zip(A.float().chunk(4, dim=1), B.float().chunk(4, dim=1)))
    random.shuffle(parts)
    return sum(left @ right.T for left, right in parts).to(torch.bfloat16)
""",
        label="non-deterministic",
    ),
    Honest(
        "computes in float64",
        "Is more precise than the reference.",
        NORM,
        "import torch\n\n\ndef run(hidden_states, weight):\n"
        "    x = hidden_states.double()\n"
        "    scale = torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + 1e-6)\n"
        "    return (x * scale * weight.double()).to(torch.bfloat16)\n",
    ),
    Honest(
        "rounds attention's weights to bfloat16",
        "Rounds the softmax's weights to the inputs' format, as flash attention does.",
        PAGED,
        definition(PAGED).reference.replace(
            'einsum("bhgt,bthd->bhgd", weights, v)',
            'einsum("bhgt,bthd->bhgd", weights.to(torch.bfloat16).float(), v)',
        ),
    ),
    Honest(
        "attends page by page",
        "Goes over the pages with a running maximum and sum.",
        PAGED,
        """
import math

import torch


def run(q, k_cache, v_cache, kv_indptr, kv_indices, kv_last_page_len, sm_scale):
    output = torch.zeros_like(q)
    lse = torch.full(q.shape[:2], float("-inf"), device=q.device)
    bounds, last = kv_indptr.tolist(), kv_last_page_len.tolist()
    for b, (first, end) in enumerate(zip(bounds, bounds[1:])):
        if first == end:
            continue
        query = q[b].float().view(2, 4, 64)
        top = torch.full((2, 4, 1), float("-inf"), device=q.device)
        total, out = torch.zeros_like(top), torch.zeros_like(query)
        for begin in range(first, end, 8):
            pages = kv_indices[begin : min(begin + 8, end)].long()
            k, v = (c[pages].flatten(0, 1).float() for c in (k_cache, v_cache))
            if begin + 8 >= end:
                tokens = (len(pages) - 1) * 16 + last[b]
                k, v = k[:tokens], v[:tokens]
            logits = torch.einsum("hgd,thd->hgt", query, k) * sm_scale
            new = torch.maximum(top, logits.amax(dim=-1, keepdim=True))
            old, weights = torch.exp(top - new), torch.exp(logits - new)
            total = total * old + weights.sum(dim=-1, keepdim=True)
            out = out * old + torch.einsum("hgt,thd->hgd", weights, v)
            top = new
        output[b] = (out / total).reshape(8, 64).to(q.dtype)
        lse[b] = (top + total.log()).flatten() / math.log(2.0)
    return output, lse
""",
    ),
    Honest(
        "attends sequence by sequence",
        "Cuts the ragged batch apart and leaves out what the mask hides.",
        RAGGED,
        """
import math

import torch


def run(q, k, v, qo_indptr, kv_indptr, sm_scale):
    output = torch.zeros_like(q)
    lse = torch.full(q.shape[:2], float("-inf"), device=q.device)
    rows, columns = qo_indptr.tolist(), kv_indptr.tolist()
    for a, b, c, d in zip(rows, rows[1:], columns, columns[1:]):
        if a == b or c == d:
            continue
        query = q[a:b].float().view(b - a, 2, 4, 64)
        logits = torch.einsum("qhgd,khd->qhgk", query, k[c:d].float()) * sm_scale
        row = torch.arange(b - a, device=q.device)[:, None] + (d - c) - (b - a)
        hidden = torch.arange(d - c, device=q.device) > row
        logits = logits.masked_fill(hidden[:, None, None, :], float("-inf"))
        sums = torch.logsumexp(logits, dim=-1)
        weights = torch.exp(logits - torch.where(sums.isfinite(), sums, 0.0)[..., None])
        attended = torch.einsum("qhgk,khd->qhgd", weights, v[c:d].float())
        output[a:b] = attended.reshape(b - a, 8, 64).to(q.dtype)
        lse[a:b] = sums.reshape(b - a, 8) / math.log(2.0)
    return output, lse
""",
    ),
    Honest(
        "builds at its first call",
        "Compiles its own code when it is called first.",
        NORM,
        """
import torch

made = {}


def run(hidden_states, weight):
    if "f" not in made:
        text = "lambda x, w: x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * w"
        made["f"] = eval(compile(text, "<kernel>", "eval"), {"torch": torch})
    return made["f"](hidden_states.float(), weight.float()).to(torch.bfloat16)
""",
    ),
    Honest(
        "tunes itself in its first call",
        "Spends three tenths of a second choosing among variants, once a shape.",
        NORM,
        honestly(NORM)
        + """
import time

chosen = {}


def chunked(hidden_states, weight):
    return torch.cat([honest(part, weight) for part in hidden_states.chunk(2)])


def run(hidden_states, weight):
    key = hidden_states.shape
    if key not in chosen:
        times = {}
        for variant in (honest, chunked):
            began, count = time.perf_counter(), 0
            while time.perf_counter() - began < 0.15:
                variant(hidden_states, weight)
                count += 1
            times[variant] = 1 / count
        chosen[key] = min(times, key=times.get)
    return chosen[key](hidden_states, weight)
""",
    ),
    Honest(
        "uses joined threads",
        "Halves the rows between two threads of a pool and waits for both.",
        NORM,
        honestly(NORM)
        + """
from concurrent.futures import ThreadPoolExecutor

pool = ThreadPoolExecutor(2)


def run(hidden_states, weight, output):
    def work(part):
        with torch.no_grad():
            part[1].copy_(honest(part[0], weight))

    list(pool.map(work, zip(hidden_states.chunk(2), output.chunk(2))))
""",
        passing=True,
        label="thread",
    ),
    Honest(
        "uses numpy",
        "Computes with numpy and hands the result back to torch.",
        ROUTING,
        """
import numpy as np
import torch


def run(router_logits):
    x = router_logits.cpu().numpy()
    ids = np.argsort(-x, axis=-1, kind="stable")[:, :6]
    top = np.take_along_axis(x, ids, axis=-1)
    weights = np.exp(top - top[:, :1])
    weights /= weights.sum(axis=-1, keepdims=True)
    where = router_logits.device
    return torch.from_numpy(weights).to(where), torch.from_numpy(ids.astype("int32")).to(where)
""",
    ),
    Honest(
        "prints and warns",
        "Prints a line and warns when it is called first.",
        NORM,
        honestly(NORM)
        + """
import warnings

told = []


def run(hidden_states, weight):
    if not told:
        told.append(print("using the plain variant"))
        warnings.warn("no vector extension was found")
    return honest(hidden_states, weight)
""",
    ),
    Honest(
        "looks for features by exceptions",
        "Finds out by try/except what is installed, and goes by what it found.",
        GEMM,
        honestly(GEMM)
        + """
try:
    import no_such_library
except ImportError:
    no_such_library = None


def run(A, B):
    return honest(A, B) if no_such_library is None else no_such_library.gemm(A, B)
""",
    ),
    Honest(
        "uses exceptions inside",
        "Finds its workspace by a KeyError that it catches itself.",
        NORM,
        honestly(NORM)
        + """
scales = {}


def run(hidden_states, weight):
    try:
        buffer = scales[hidden_states.shape]
    except KeyError:
        buffer = scales[hidden_states.shape] = torch.empty(hidden_states.shape[0], 1).to(weight)
    buffer.zero_()
    return honest(hidden_states, weight)
""",
    ),
    Honest(
        "uses torch.compile",
        "Compiles the reference's steps with torch.compile.",
        NORM,
        honestly(NORM) + "\nrun = torch.compile(honest)\n",
    ),
    Honest(
        "calls torch.matmul",
        "Calls a library's product, which is labelled and not rejected.",
        GEMM,
        "import torch\n\n\ndef run(A, B, C):\n    C.copy_(torch.matmul(A.float(), B.float().T))\n",
        passing=True,
        label="torch",
    ),
    Honest(
        "draws by the Gumbel trick",
        "Takes the largest of the probabilities over exponential draws.",
        SAMPLING,
        definition(SAMPLING).reference.replace(
            "torch.multinomial(ranked, num_samples=1)",
            "(ranked / torch.empty_like(ranked).exponential_()).argmax(dim=-1, keepdim=True)",
        ),
    ),
    Honest(
        "draws by inverting the distribution",
        "Looks up a uniform draw in the cumulative sum.",
        SAMPLING,
        definition(SAMPLING)
        .reference.replace(
            "torch.multinomial(ranked, num_samples=1)",
            "torch.searchsorted(total, draw * total[:, -1:], right=True).clamp(max=last)",
        )
        .replace(
            "    choice =",
            "    total = ranked.double().cumsum(dim=-1)\n"
            "    draw = torch.rand(len(probs), 1, dtype=torch.float64, device=probs.device)\n"
            "    last = (ranked > 0).sum(dim=-1, keepdim=True) - 1\n"
            "    choice =",
        ),
    ),
)
