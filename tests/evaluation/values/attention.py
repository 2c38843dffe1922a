"""Small definitions of attention: paged, ragged, latent, sparse."""

from __future__ import annotations

from tests.evaluation.values.defining import defined

_ATTEND = """
def attend(q, k, v, scale):
    # q [n, h, d], k and v [m, h, ...]: the last query sees all keys
    n, m = len(q), len(k)
    logits = torch.einsum("qhd,khd->hqk", q.float(), k.float()) * scale
    seen = torch.arange(m)[None, :] <= torch.arange(n)[:, None] + m - n
    assert bool(seen.any(dim=1).all()), "a query without a key"
    logits = logits.masked_fill(~seen, -math.inf)
    out = torch.einsum("hqk,khd->qhd", logits.softmax(-1), v.float())
    return out, torch.logsumexp(logits, -1).T / math.log(2)
"""
MLA_AXES = {"heads": 4, "head_dim_ckv": 32, "head_dim_kpe": 8}

MLA_DECODE = defined(
    "mla_paged_decode",
    "mla_paged",
    {
        "batch_size": None,
        "num_pages": None,
        "len_indptr": None,
        "num_kv_indices": None,
        "page_size": 1,
        **MLA_AXES,
    },
    {
        "q_nope": "bfloat16 batch_size heads head_dim_ckv",
        "q_pe": "bfloat16 batch_size heads head_dim_kpe",
        "ckv_cache": "bfloat16 num_pages page_size head_dim_ckv",
        "kpe_cache": "bfloat16 num_pages page_size head_dim_kpe",
        "kv_indptr": "int32 len_indptr",
        "kv_indices": "int32 num_kv_indices",
        "sm_scale": "float32 -",
    },
    {"output": "bfloat16 batch_size heads head_dim_ckv", "lse": "float32 batch_size heads"},
    f"""{_ATTEND}
def run(q_nope, q_pe, ckv_cache, kpe_cache, kv_indptr, kv_indices, sm_scale):
    output, lse = torch.zeros(q_nope.shape), torch.full(q_nope.shape[:2], -math.inf)
    for i in range(len(q_nope)):
        pages = kv_indices[kv_indptr[i] : kv_indptr[i + 1]].long()
        if len(pages):
            c = ckv_cache[pages].float().expand(-1, 4, -1)
            p = kpe_cache[pages].float().expand(-1, 4, -1)
            q = torch.cat([q_nope[i : i + 1], q_pe[i : i + 1]], -1)
            out, low = attend(q, torch.cat([c, p], -1), c, sm_scale)
            output[i], lse[i] = out[0], low[0]
    return output.to(torch.bfloat16), lse
""",
    ("len_indptr == batch_size + 1", "num_kv_indices == kv_indptr[-1].item()"),
)

GQA_PREFILL = defined(
    "gqa_paged_prefill",
    "gqa_paged",
    {
        "total_q": None,
        "num_pages": None,
        "len_indptr": None,
        "batch_size": None,
        "num_kv_indices": None,
        "page_size": 8,
        "heads": 2,
        "head_dim": 16,
    },
    {
        "q": "float16 total_q heads head_dim",
        "k_cache": "float16 num_pages page_size heads head_dim",
        "v_cache": "float16 num_pages page_size heads head_dim",
        "qo_indptr": "int32 len_indptr",
        "kv_indptr": "int32 len_indptr",
        "kv_indices": "int32 num_kv_indices",
        "kv_last_page_len": "int32 batch_size",
        "sm_scale": "float32 -",
    },
    {"output": "float16 total_q heads head_dim", "lse": "float32 total_q heads"},
    f"""{_ATTEND}
def run(q, k_cache, v_cache, qo_indptr, kv_indptr, kv_indices, kv_last_page_len, sm_scale):
    output, lse = torch.zeros(q.shape), torch.full(q.shape[:2], -math.inf)
    for i in range(len(qo_indptr) - 1):
        mine = slice(int(qo_indptr[i]), int(qo_indptr[i + 1]))
        pages = kv_indices[kv_indptr[i] : kv_indptr[i + 1]].long()
        if mine.stop > mine.start:
            keys = (len(pages) - 1) * 8 + int(kv_last_page_len[i])
            k, v = (c[pages].flatten(0, 1)[:keys] for c in (k_cache, v_cache))
            output[mine], lse[mine] = attend(q[mine], k, v, sm_scale)
    return output.to(q.dtype), lse
""",
    (
        "len_indptr == batch_size + 1",
        "total_q == qo_indptr[-1].item()",
        "num_kv_indices == kv_indptr[-1].item()",
    ),
)

MLA_RAGGED = defined(
    "mla_ragged_prefill",
    "mla_ragged",
    {"total_tokens": None, "len_indptr": None, "heads": 2, "head_dim_qk": 24, "head_dim_vo": 16},
    {
        "q": "bfloat16 total_tokens heads head_dim_qk",
        "k": "bfloat16 total_tokens heads head_dim_qk",
        "v": "bfloat16 total_tokens heads head_dim_vo",
        "seq_indptr": "int32 len_indptr",
        "sm_scale": "float32 -",
    },
    {"output": "bfloat16 total_tokens heads head_dim_vo"},
    f"""{_ATTEND}
def run(q, k, v, seq_indptr, sm_scale):
    output = torch.zeros(v.shape)
    for i in range(len(seq_indptr) - 1):
        mine = slice(int(seq_indptr[i]), int(seq_indptr[i + 1]))
        if mine.stop > mine.start:
            output[mine] = attend(q[mine], k[mine], v[mine], sm_scale)[0]
    return output.to(q.dtype)
""",
    ("total_tokens == seq_indptr[-1].item()",),
)

DSA_ATTENTION = defined(
    "dsa_sparse_attention",
    "dsa_paged",
    {"num_tokens": None, "num_pages": None, "page_size": 16, "topk": 48, **MLA_AXES},
    {
        "q_nope": "bfloat16 num_tokens heads head_dim_ckv",
        "q_pe": "bfloat16 num_tokens heads head_dim_kpe",
        "ckv_cache": "bfloat16 num_pages page_size head_dim_ckv",
        "kpe_cache": "bfloat16 num_pages page_size head_dim_kpe",
        "sparse_indices": "int32 num_tokens topk",
        "sm_scale": "float32 -",
    },
    {"output": "bfloat16 num_tokens heads head_dim_ckv"},
    f"""{_ATTEND}
def run(q_nope, q_pe, ckv_cache, kpe_cache, sparse_indices, sm_scale):
    output = torch.zeros(q_nope.shape)
    for i in range(len(q_nope)):
        chosen = sparse_indices[i][sparse_indices[i] != -1].long()
        if len(chosen):
            c = ckv_cache.flatten(0, 1)[chosen][:, None].expand(-1, 4, -1)
            p = kpe_cache.flatten(0, 1)[chosen][:, None].expand(-1, 4, -1)
            q = torch.cat([q_nope[i : i + 1], q_pe[i : i + 1]], -1)
            output[i] = attend(q, torch.cat([c, p], -1), c, sm_scale)[0][0]
    return output.to(torch.bfloat16)
""",
    ("sparse_indices.shape[0] == num_tokens", "ckv_cache.shape[1] == page_size"),
)

DSA_INDEXER = defined(
    "dsa_indexer",
    "dsa_paged",
    {
        "batch_size": None,
        "max_num_pages": None,
        "num_pages": None,
        "heads": 4,
        "dim": 16,
        "page_size": 8,
        "one": 1,
        "dim_with_scale": 20,
        "topk": 40,
    },
    {
        "q_index_fp8": "float8_e4m3fn batch_size heads dim",
        "k_index_cache_fp8": "int8 num_pages page_size one dim_with_scale",
        "weights": "float32 batch_size heads",
        "seq_lens": "int32 batch_size",
        "block_table": "int32 batch_size max_num_pages",
    },
    {"topk_indices": "int32 batch_size topk"},
    """
def run(q_index_fp8, k_index_cache_fp8, weights, seq_lens, block_table):
    flat = k_index_cache_fp8.flatten(1)
    keys = flat[:, : 8 * 16].contiguous().view(torch.float8_e4m3fn).float().view(-1, 8, 16)
    scales = flat[:, 8 * 16 :].contiguous().view(torch.float32)
    assert bool(((scales > 0.1) & (scales < 10)).all())
    chosen = torch.full((len(seq_lens), 40), -1, dtype=torch.int32)
    for i, length in enumerate(seq_lens.tolist()):
        pages = block_table[i, : -(-length // 8)].long()
        k = (keys[pages] * scales[pages][..., None]).flatten(0, 1)[:length]
        score = (weights[i] @ torch.relu(q_index_fp8[i].float() @ k.T))
        best = score.topk(min(40, length)).indices
        chosen[i, : len(best)] = (pages[best // 8] * 8 + best % 8).int()
        assert not score.isnan().any()
    return chosen
""",
    ("topk <= max_num_pages * page_size",),
)

TABLED = defined(
    "paged_attention_with_tables",
    "attention",
    {
        "batch_size": None,
        "max_pages_per_seq": None,
        "num_pages": None,
        "page_size": 4,
        "heads": 2,
        "head_dim": 16,
    },
    {
        "query": "bfloat16 batch_size heads head_dim",
        "k_cache": "bfloat16 num_pages page_size heads head_dim",
        "v_cache": "bfloat16 num_pages page_size heads head_dim",
        "block_tables": "int32 batch_size max_pages_per_seq",
        "seq_lens": "int32 batch_size",
        "bmm1_scale": "float32 -",
    },
    {"output": "bfloat16 batch_size heads head_dim"},
    f"""{_ATTEND}
def run(query, k_cache, v_cache, block_tables, seq_lens, bmm1_scale):
    output = torch.zeros(query.shape)
    for i, length in enumerate(seq_lens.tolist()):
        k, v = (c[block_tables[i].long()].flatten(0, 1)[:length] for c in (k_cache, v_cache))
        if length:
            output[i] = attend(query[i : i + 1], k, v, bmm1_scale)[0][0]
    return output.to(query.dtype)
""",
)
