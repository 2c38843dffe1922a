"""Paged decode attention with grouped queries: eight Triton kernels."""

from __future__ import annotations

from kernels.family import BUNDLED, Family, bundled, constants, solution

NAME = "gqa_paged_decode_h8_kv2_d64_ps16"
_PICKS = (3, 5)
"""16 sequences of up to 512 tokens, 64 of 300 to 768."""

_SOURCE = '''\
"""One program for each sequence, key-value head and split; its four query heads share the keys.

MATRIX: products by tl.dot, with the heads padded to its least extent; else by sums. SPLITS above 1:
each split leaves an unnormalised partial result, and a second kernel puts them together.
"""
import torch
import triton
import triton.language as tl

LOG2_E = 1.4426950408889634


@triton.jit
def attend(
    q, k_cache, v_cache, indptr, indices, last_page_len, scale, out, maxima, sums,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, PADDED: tl.constexpr, DIM: tl.constexpr,
    PAGE: tl.constexpr, TOKENS: tl.constexpr, SPLITS: tl.constexpr, MATRIX: tl.constexpr,
):
    sequence = tl.program_id(0)
    kv_head = tl.program_id(1)
    split = tl.program_id(2)
    first = tl.load(indptr + sequence)
    pages = tl.load(indptr + sequence + 1) - first
    length = tl.where(pages > 0, (pages - 1) * PAGE + tl.load(last_page_len + sequence), 0)
    share = tl.cdiv(tl.cdiv(length, TOKENS), SPLITS) * TOKENS
    begin = split * share
    end = tl.minimum(length, begin + share)

    GROUP: tl.constexpr = HEADS // KV_HEADS
    member = tl.arange(0, PADDED)
    column = tl.arange(0, DIM)
    head = sequence * HEADS + kv_head * GROUP + member
    is_head = member < GROUP
    query = tl.load(
        q + head[:, None] * DIM + column[None, :], mask=is_head[:, None], other=0.0
    )
    maximum = tl.full((PADDED,), float("-inf"), dtype=tl.float32)
    total = tl.zeros((PADDED,), dtype=tl.float32)
    summed = tl.zeros((PADDED, DIM), dtype=tl.float32)
    for start in range(begin, end, TOKENS):
        token = start + tl.arange(0, TOKENS)
        inside = token < end
        page = tl.load(indices + first + token // PAGE, mask=inside, other=0).to(tl.int64)
        at = ((page * PAGE + token % PAGE) * KV_HEADS + kv_head) * DIM
        place = at[:, None] + column[None, :]
        keys = tl.load(k_cache + place, mask=inside[:, None], other=0.0)
        values = tl.load(v_cache + place, mask=inside[:, None], other=0.0)
        if MATRIX:
            logits = tl.dot(query, tl.trans(keys))
        else:
            products = query.to(tl.float32)[:, None, :] * keys.to(tl.float32)[None, :, :]
            logits = tl.sum(products, axis=2)
        logits = tl.where(inside[None, :], logits * scale, float("-inf"))
        larger = tl.maximum(maximum, tl.max(logits, axis=1))
        weights = tl.exp2(logits - larger[:, None])
        shrink = tl.exp2(maximum - larger)
        total = total * shrink + tl.sum(weights, axis=1)
        if MATRIX:
            more = tl.dot(weights.to(values.dtype), values)
        else:
            more = tl.sum(weights[:, :, None] * values.to(tl.float32)[None, :, :], axis=1)
        summed = summed * shrink[:, None] + more
        maximum = larger

    if SPLITS == 1:
        result = summed / tl.where(total > 0, total, 1.0)[:, None]
        place = head[:, None] * DIM + column[None, :]
        tl.store(out + place, result.to(out.dtype.element_ty), mask=is_head[:, None])
        lse = tl.where(total > 0, maximum + tl.log2(total), float("-inf"))
        tl.store(maxima + head, lse, mask=is_head)
    else:
        slot = head * SPLITS + split
        tl.store(out + slot[:, None] * DIM + column[None, :], summed, mask=is_head[:, None])
        tl.store(maxima + slot, maximum, mask=is_head)
        tl.store(sums + slot, total, mask=is_head)


@triton.jit
def combine(partial, maxima, sums, output, lse, DIM: tl.constexpr, SPLITS: tl.constexpr):
    head = tl.program_id(0)
    slot = head * SPLITS + tl.arange(0, SPLITS)
    column = tl.arange(0, DIM)
    total = tl.load(sums + slot)
    used = total > 0
    maximum = tl.load(maxima + slot)
    largest = tl.max(maximum, axis=0)
    weight = tl.where(used, tl.exp2(maximum - largest), 0.0)
    parts = tl.load(partial + slot[:, None] * DIM + column[None, :])
    whole = tl.sum(weight * total, axis=0)
    result = tl.sum(parts * weight[:, None], axis=0) / tl.where(whole > 0, whole, 1.0)
    tl.store(output + head * DIM + column, result.to(output.dtype.element_ty))
    tl.store(lse + head, tl.where(whole > 0, largest + tl.log2(whole), float("-inf")))


def run(q, k_cache, v_cache, kv_indptr, kv_indices, kv_last_page_len, sm_scale, output, lse):
    batch, heads, dim = q.shape
    _, page, kv_heads, _ = k_cache.shape
    if batch == 0:
        return
    out, maxima, sums = output, lse, lse
    if SPLITS > 1:
        out = torch.empty((batch * heads * SPLITS, dim), dtype=torch.float32, device=q.device)
        maxima, sums = torch.empty(
            (2, batch * heads * SPLITS), dtype=torch.float32, device=q.device
        )
    attend[(batch, kv_heads, SPLITS)](
        q, k_cache, v_cache, kv_indptr, kv_indices, kv_last_page_len, sm_scale * LOG2_E,
        out, maxima, sums, HEADS=heads, KV_HEADS=kv_heads,
        PADDED=max(16, heads // kv_heads) if MATRIX else heads // kv_heads, DIM=dim, PAGE=page,
        TOKENS=TOKENS, SPLITS=SPLITS, MATRIX=MATRIX, num_warps=WARPS,
    )
    if SPLITS > 1:
        combine[(batch * heads,)](
            out, maxima, sums, output, lse, DIM=dim, SPLITS=SPLITS, num_warps=1
        )
'''

_VERSIONS: tuple[dict[str, int | bool], ...] = (
    {"TOKENS": 16, "SPLITS": 1, "WARPS": 2, "MATRIX": True},
    {"TOKENS": 32, "SPLITS": 1, "WARPS": 4, "MATRIX": True},
    {"TOKENS": 64, "SPLITS": 1, "WARPS": 4, "MATRIX": True},
    {"TOKENS": 128, "SPLITS": 1, "WARPS": 8, "MATRIX": True},
    {"TOKENS": 64, "SPLITS": 4, "WARPS": 4, "MATRIX": True},
    {"TOKENS": 32, "SPLITS": 8, "WARPS": 2, "MATRIX": True},
    {"TOKENS": 32, "SPLITS": 1, "WARPS": 4, "MATRIX": False},
    {"TOKENS": 16, "SPLITS": 4, "WARPS": 4, "MATRIX": False},
)


def triton_family() -> Family:
    """Eight Triton kernels for the bundled definition."""
    definition, workloads = bundled(NAME, _PICKS)
    return Family(
        "decode",
        "Triton paged decode",
        definition,
        workloads,
        tuple(
            solution(
                NAME,
                f"decode_triton_{i}",
                "triton",
                constants(values, "{name} = {value!r}") + _SOURCE,
            )
            for i, values in enumerate(_VERSIONS)
        ),
        BUNDLED,
    )
