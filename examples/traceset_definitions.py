"""The definitions of the bundled trace set: common inference operators, each with a
self-contained reference.

`make_traceset.py` writes them out, together with their workloads.
"""

from __future__ import annotations

from flashinfer_bench import Definition
from flashinfer_bench.data import AxisConst, AxisVar, TensorSpec

VOCABULARY = 32000
PAGE_SIZE = 16


def axes(*names: str, **constants: int) -> dict[str, AxisConst | AxisVar]:
    """Variable axes by name, constant axes by value."""
    variable: dict[str, AxisConst | AxisVar] = {name: AxisVar(type="var") for name in names}
    return variable | {n: AxisConst(type="const", value=v) for n, v in constants.items()}


def tensor(shape: str, dtype: str, description: str) -> TensorSpec:
    """A tensor whose axes are named in `shape`, separated by blanks."""
    return TensorSpec(shape=shape.split(), dtype=dtype, description=description)


RMSNORM = Definition(
    name="rmsnorm_h2048",
    op_type="rmsnorm",
    description="Root mean square normalisation of rows of 2048. Epsilon is 1e-6.",
    tags=["family:normalisation"],
    axes=axes("batch_size", hidden_size=2048),
    inputs={
        "hidden_states": tensor("batch_size hidden_size", "bfloat16", "Rows to normalise."),
        "weight": tensor("hidden_size", "bfloat16", "Scale of each column."),
    },
    outputs={"output": tensor("batch_size hidden_size", "bfloat16", "Normalised, scaled rows.")},
    reference="""\
import torch


@torch.no_grad()
def run(hidden_states, weight):
    assert hidden_states.shape[-1] == 2048
    eps = 1e-6

    x = hidden_states.to(torch.float32)
    scale = torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + eps)
    return (x * scale * weight.to(torch.float32)).to(torch.bfloat16)
""",
)

FUSED_ADD_RMSNORM = Definition(
    name="fused_add_rmsnorm_h1536",
    op_type="rmsnorm",
    description=(
        "Residual addition followed by root mean square normalisation of rows of 1536. The sum "
        "is normalised before it is rounded to bfloat16. Epsilon is 1e-6. No input is modified."
    ),
    tags=["family:normalisation", "fused"],
    axes=axes("batch_size", hidden_size=1536),
    inputs={
        "hidden_states": tensor("batch_size hidden_size", "bfloat16", "Output of the last layer."),
        "residual": tensor("batch_size hidden_size", "bfloat16", "The residual stream so far."),
        "weight": tensor("hidden_size", "bfloat16", "Scale of each column."),
    },
    outputs={
        "output": tensor("batch_size hidden_size", "bfloat16", "Normalised, scaled sum."),
        "residual_out": tensor("batch_size hidden_size", "bfloat16", "The sum itself, rounded."),
    },
    reference="""\
import torch


@torch.no_grad()
def run(hidden_states, residual, weight):
    assert hidden_states.shape[-1] == 1536
    eps = 1e-6

    x = hidden_states.to(torch.float32) + residual.to(torch.float32)
    scale = torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + eps)
    output = x * scale * weight.to(torch.float32)
    return output.to(torch.bfloat16), x.to(torch.bfloat16)
""",
)

SILU_AND_MUL = Definition(
    name="silu_and_mul_i2816",
    op_type="activation",
    description="Gated activation: SiLU of the first half of each row times its second half.",
    tags=["family:activation"],
    axes=axes("num_tokens", gate_up_size=5632, intermediate_size=2816),
    constraints=["gate_up_size == 2 * intermediate_size"],
    inputs={
        "gate_up": tensor("num_tokens gate_up_size", "bfloat16", "Gate, then up projection."),
    },
    outputs={"output": tensor("num_tokens intermediate_size", "bfloat16", "silu(gate) * up.")},
    reference="""\
import torch


@torch.no_grad()
def run(gate_up):
    assert gate_up.shape[-1] == 2 * 2816

    gate, up = gate_up.to(torch.float32).chunk(2, dim=-1)
    return (torch.nn.functional.silu(gate) * up).to(torch.bfloat16)
""",
)

GEMM = Definition(
    name="gemm_n1024_k1024",
    op_type="gemm",
    description="Matrix multiplication C = A @ B.T, accumulated in float32.",
    tags=["family:gemm"],
    axes=axes("M", N=1024, K=1024),
    inputs={
        "A": tensor("M K", "bfloat16", "Activations, row-major."),
        "B": tensor("N K", "bfloat16", "Weights, one output feature a row."),
    },
    outputs={"C": tensor("M N", "bfloat16", "The product.")},
    reference="""\
import torch


@torch.no_grad()
def run(A, B):
    assert tuple(B.shape) == (1024, 1024)

    return (A.to(torch.float32) @ B.to(torch.float32).T).to(torch.bfloat16)
""",
)

ROPE = Definition(
    name="rope_neox_d64",
    op_type="rope",
    description=(
        "Rotary position embedding of queries and keys, NeoX style: element i of a head is "
        "rotated with element i + 32. No input is modified."
    ),
    tags=["family:rope"],
    axes=axes(
        "num_tokens", "max_positions", num_qo_heads=8, num_kv_heads=2, head_dim=64, rotary_dim=64
    ),
    inputs={
        "q": tensor("num_tokens num_qo_heads head_dim", "bfloat16", "Queries."),
        "k": tensor("num_tokens num_kv_heads head_dim", "bfloat16", "Keys."),
        "cos_sin_cache": tensor(
            "max_positions rotary_dim", "float32", "32 cosines, then 32 sines, of each position."
        ),
        "positions": tensor("num_tokens", "int64", "Row of cos_sin_cache for each token."),
    },
    outputs={
        "q_out": tensor("num_tokens num_qo_heads head_dim", "bfloat16", "Rotated queries."),
        "k_out": tensor("num_tokens num_kv_heads head_dim", "bfloat16", "Rotated keys."),
    },
    reference="""\
import torch


@torch.no_grad()
def run(q, k, cos_sin_cache, positions):
    assert tuple(q.shape[1:]) == (8, 64)
    assert tuple(k.shape[1:]) == (2, 64)
    assert cos_sin_cache.shape[-1] == 64

    # [num_tokens, 1, 32] each: one angle per pair of elements, shared by all heads
    cos, sin = cos_sin_cache[positions].unsqueeze(1).chunk(2, dim=-1)

    def rotate(x):
        first, second = x.to(torch.float32).chunk(2, dim=-1)
        rotated = (first * cos - second * sin, second * cos + first * sin)
        return torch.cat(rotated, dim=-1).to(torch.bfloat16)

    return rotate(q), rotate(k)
""",
)

LSE_DESCRIPTION = "Base-2 logarithm of the sum of exponentials of the scaled logits."

PAGED_DECODE = Definition(
    name="gqa_paged_decode_h8_kv2_d64_ps16",
    op_type="gqa_paged",
    description=(
        "Grouped-query attention of one query token per sequence over a paged key-value cache. "
        "A sequence without pages gives zeros and an lse of minus infinity."
    ),
    tags=["family:attention", "stage:decode"],
    axes=axes(
        "batch_size",
        "num_pages",
        "len_indptr",
        "num_kv_indices",
        num_qo_heads=8,
        num_kv_heads=2,
        head_dim=64,
        page_size=PAGE_SIZE,
    ),
    constraints=["len_indptr == batch_size + 1", "num_kv_indices == kv_indptr[-1].item()"],
    inputs={
        "q": tensor("batch_size num_qo_heads head_dim", "bfloat16", "Queries."),
        "k_cache": tensor("num_pages page_size num_kv_heads head_dim", "bfloat16", "Key pages."),
        "v_cache": tensor("num_pages page_size num_kv_heads head_dim", "bfloat16", "Value pages."),
        "kv_indptr": tensor("len_indptr", "int32", "Where each sequence begins in kv_indices."),
        "kv_indices": tensor("num_kv_indices", "int32", "Pages of all sequences, in order."),
        "kv_last_page_len": tensor("batch_size", "int32", "Tokens in each last page, 1 to 16."),
        "sm_scale": TensorSpec(shape=None, dtype="float32", description="Softmax scale."),
    },
    outputs={
        "output": tensor("batch_size num_qo_heads head_dim", "bfloat16", "Attention output."),
        "lse": tensor("batch_size num_qo_heads", "float32", LSE_DESCRIPTION),
    },
    reference="""\
import math

import torch


@torch.no_grad()
def run(q, k_cache, v_cache, kv_indptr, kv_indices, kv_last_page_len, sm_scale):
    batch_size, num_qo_heads, head_dim = q.shape
    _, page_size, num_kv_heads, _ = k_cache.shape
    assert (num_qo_heads, num_kv_heads, head_dim, page_size) == (8, 2, 64, 16)
    assert kv_indptr.shape[0] == batch_size + 1

    # Every sequence is padded to the pages of the longest; what is padding is masked below.
    first = kv_indptr[:-1].to(torch.int64)
    page_count = kv_indptr[1:].to(torch.int64) - first
    length = (page_count - 1) * page_size + kv_last_page_len
    length = torch.where(page_count > 0, length, 0)
    slot = torch.arange(int(page_count.max()), device=q.device)
    pages = kv_indices[(first[:, None] + slot).clamp(max=kv_indices.shape[0] - 1)]

    # [batch_size, tokens, num_kv_heads, head_dim]
    k = k_cache[pages].flatten(1, 2).to(torch.float32)
    v = v_cache[pages].flatten(1, 2).to(torch.float32)
    grouped = q.to(torch.float32).view(batch_size, num_kv_heads, -1, head_dim)

    logits = torch.einsum("bhgd,bthd->bhgt", grouped, k) * sm_scale
    padding = torch.arange(k.shape[1], device=q.device) >= length[:, None]
    logits = logits.masked_fill(padding[:, None, None, :], float("-inf"))
    weights = torch.softmax(logits, dim=-1)
    weights = weights.masked_fill((length == 0)[:, None, None, None], 0.0)

    output = torch.einsum("bhgt,bthd->bhgd", weights, v).reshape(q.shape)
    lse = torch.logsumexp(logits, dim=-1).reshape(batch_size, num_qo_heads) / math.log(2.0)
    return output.to(torch.bfloat16), lse
""",
)

RAGGED_PREFILL = Definition(
    name="gqa_ragged_prefill_causal_h8_kv2_d64",
    op_type="gqa_ragged",
    description=(
        "Causal grouped-query attention over sequences laid end to end. The last query of a "
        "sequence sees all its keys, the one before sees one less, and so on. A query that sees "
        "no key gives zeros and an lse of minus infinity."
    ),
    tags=["family:attention", "stage:prefill"],
    axes=axes("len_indptr", "total_q", "total_kv", num_qo_heads=8, num_kv_heads=2, head_dim=64),
    constraints=["total_q == qo_indptr[-1].item()", "total_kv == kv_indptr[-1].item()"],
    inputs={
        "q": tensor("total_q num_qo_heads head_dim", "bfloat16", "Queries."),
        "k": tensor("total_kv num_kv_heads head_dim", "bfloat16", "Keys."),
        "v": tensor("total_kv num_kv_heads head_dim", "bfloat16", "Values."),
        "qo_indptr": tensor("len_indptr", "int32", "Where each sequence begins in q."),
        "kv_indptr": tensor("len_indptr", "int32", "Where each sequence begins in k and v."),
        "sm_scale": TensorSpec(shape=None, dtype="float32", description="Softmax scale."),
    },
    outputs={
        "output": tensor("total_q num_qo_heads head_dim", "bfloat16", "Attention output."),
        "lse": tensor("total_q num_qo_heads", "float32", LSE_DESCRIPTION),
    },
    reference="""\
import math

import torch


@torch.no_grad()
def run(q, k, v, qo_indptr, kv_indptr, sm_scale):
    total_q, num_qo_heads, head_dim = q.shape
    total_kv, num_kv_heads, _ = k.shape
    assert (num_qo_heads, num_kv_heads, head_dim) == (8, 2, 64)
    assert qo_indptr.shape == kv_indptr.shape

    # The sequence that each row belongs to, and how far the row is from that sequence's end.
    row = torch.arange(total_q, device=q.device)
    column = torch.arange(total_kv, device=q.device)
    row_sequence = torch.bucketize(row, qo_indptr[1:].to(torch.int64), right=True)
    column_sequence = torch.bucketize(column, kv_indptr[1:].to(torch.int64), right=True)
    row_left = qo_indptr[row_sequence + 1] - row
    column_left = kv_indptr[column_sequence + 1] - column
    visible = (row_sequence[:, None] == column_sequence) & (row_left[:, None] <= column_left)

    grouped = q.to(torch.float32).view(total_q, num_kv_heads, -1, head_dim)
    logits = torch.einsum("qhgd,khd->hgqk", grouped, k.to(torch.float32)) * sm_scale
    logits = logits.masked_fill(~visible, float("-inf"))
    weights = torch.softmax(logits, dim=-1)
    weights = weights.masked_fill(~visible.any(dim=-1, keepdim=True), 0.0)

    output = torch.einsum("hgqk,khd->qhgd", weights, v.to(torch.float32)).reshape(q.shape)
    lse = torch.logsumexp(logits, dim=-1).flatten(0, 1).T.contiguous() / math.log(2.0)
    return output.to(torch.bfloat16), lse
""",
)

SAMPLING = Definition(
    name="top_k_top_p_sampling_v32000",
    op_type="sampling",
    description=(
        "Samples one token a row. The top_k most likely tokens are kept and renormalised; of "
        "these, the fewest most likely whose mass reaches top_p. A top_p of 1 keeps all."
    ),
    tags=["family:sampling"],
    axes=axes("batch_size", vocab_size=VOCABULARY),
    inputs={
        "probs": tensor("batch_size vocab_size", "float32", "Rows that sum to 1."),
        "top_k": tensor("batch_size", "int32", "Tokens to keep, 1 to vocab_size."),
        "top_p": tensor("batch_size", "float32", "Mass to keep, above 0 and at most 1."),
    },
    outputs={"samples": tensor("batch_size", "int64", "The token drawn in each row.")},
    reference="""\
import torch


@torch.no_grad()
def run(probs, top_k, top_p):
    vocab_size = probs.shape[-1]
    assert vocab_size == 32000

    ranked, token = probs.to(torch.float32).sort(dim=-1, descending=True)

    rank = torch.arange(vocab_size, device=probs.device)
    ranked = ranked.masked_fill(rank >= top_k[:, None], 0.0)
    ranked = ranked / ranked.sum(dim=-1, keepdim=True)

    # A token stays if what ranks before it has not reached top_p yet, so the first always does.
    mass_before = ranked.cumsum(dim=-1) - ranked
    stays = (mass_before < top_p[:, None]) | (top_p[:, None] >= 1.0)
    ranked = ranked.masked_fill(~stays, 0.0)

    choice = torch.multinomial(ranked, num_samples=1)
    return token.gather(-1, choice).squeeze(-1)
""",
)

MOE_ROUTING = Definition(
    name="moe_topk_routing_e64_k6",
    op_type="moe",
    description=(
        "Chooses 6 of 64 experts for each token: softmax over all, the largest 6 in descending "
        "order, renormalised to sum to 1."
    ),
    tags=["family:moe"],
    axes=axes("num_tokens", num_experts=64, experts_per_token=6),
    inputs={"router_logits": tensor("num_tokens num_experts", "float32", "Scores of experts.")},
    outputs={
        "topk_weights": tensor("num_tokens experts_per_token", "float32", "Weights, descending."),
        "topk_ids": tensor("num_tokens experts_per_token", "int32", "The experts they belong to."),
    },
    reference="""\
import torch


@torch.no_grad()
def run(router_logits):
    assert router_logits.shape[-1] == 64

    scores = torch.softmax(router_logits.to(torch.float32), dim=-1)
    weights, experts = torch.topk(scores, k=6, dim=-1)
    return weights / weights.sum(dim=-1, keepdim=True), experts.to(torch.int32)
""",
)
