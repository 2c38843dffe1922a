"""Small definitions with the structure of each other operator family, and all of them by name."""

from __future__ import annotations

from tests.evaluation.values import attention
from tests.evaluation.values.defining import defined

GDN_DECODE = defined(
    "gdn_decode",
    "gdn",
    {"batch_size": None, "seq_len": 1, "num_k_heads": 2, "num_v_heads": 4, "head_size": 16},
    {
        "q": "bfloat16 batch_size seq_len num_k_heads head_size",
        "k": "bfloat16 batch_size seq_len num_k_heads head_size",
        "v": "bfloat16 batch_size seq_len num_v_heads head_size",
        "state": "float32 batch_size num_v_heads head_size head_size",
        "A_log": "float32 num_v_heads",
        "a": "bfloat16 batch_size seq_len num_v_heads",
        "dt_bias": "float32 num_v_heads",
        "b": "bfloat16 batch_size seq_len num_v_heads",
        "scale": "float32 -",
    },
    {
        "output": "bfloat16 batch_size seq_len num_v_heads head_size",
        "new_state": "float32 batch_size num_v_heads head_size head_size",
    },
    """
def run(q, k, v, state, A_log, a, dt_bias, b, scale):
    q, k, v = (x.float().squeeze(1) for x in (q, k, v))
    group = v.shape[1] // q.shape[1]
    q, k = (x.repeat_interleave(group, dim=1) for x in (q, k))
    keep = torch.exp(-A_log.exp() * F.softplus(a.float() + dt_bias)).squeeze(1)
    assert bool(((keep > 0) & (keep < 1)).all())
    decayed = keep[..., None, None] * state
    wrong = v - torch.einsum("bhvk,bhk->bhv", decayed, k)
    step = torch.sigmoid(b.float()).squeeze(1)[..., None] * wrong
    state = decayed + step[..., :, None] * k[..., None, :]
    output = scale * torch.einsum("bhvk,bhk->bhv", state, q)
    return output.unsqueeze(1).to(torch.bfloat16), state
""",
)

GDN_PREFILL = defined(
    "gdn_prefill",
    "gdn",
    {
        "total_seq_len": None,
        "num_seqs": None,
        "len_cu_seqlens": None,
        "heads": 2,
        "head_size": 8,
    },
    {
        "q": "bfloat16 total_seq_len heads head_size",
        "k": "bfloat16 total_seq_len heads head_size",
        "v": "bfloat16 total_seq_len heads head_size",
        "state": "float32 num_seqs heads head_size head_size",
        "g": "float32 total_seq_len heads",
        "beta": "float32 total_seq_len heads",
        "cu_seqlens": "int64 len_cu_seqlens",
        "scale": "float32 -",
    },
    {
        "output": "bfloat16 total_seq_len heads head_size",
        "new_state": "float32 num_seqs heads head_size head_size",
    },
    """
def run(q, k, v, state, g, beta, cu_seqlens, scale):
    state, output = state.clone(), torch.zeros(v.shape)
    for n in range(len(cu_seqlens) - 1):
        for t in range(cu_seqlens[n], cu_seqlens[n + 1]):
            key, s = k[t].float(), state[n] * g[t, :, None, None]
            wrong = v[t].float() - torch.einsum("hvk,hk->hv", s, key)
            state[n] = s + (beta[t, :, None] * wrong)[..., None] * key[:, None, :]
            output[t] = scale * torch.einsum("hvk,hk->hv", state[n], q[t].float())
    return output.to(torch.bfloat16), state
""",
    ("len_cu_seqlens == num_seqs + 1", "total_seq_len == cu_seqlens[-1].item()"),
    {"g": "Forget gate (alpha)."},
)

MAMBA = defined(
    "mamba_decode",
    "mamba_ssu",
    {
        "batch_size": None,
        "state_cache_size": None,
        "nheads": 4,
        "head_dim": 8,
        "dstate": 16,
        "ngroups": 2,
    },
    {
        "state": "bfloat16 state_cache_size nheads head_dim dstate",
        "x": "bfloat16 batch_size nheads head_dim",
        "dt": "bfloat16 batch_size nheads head_dim",
        "A": "float32 nheads head_dim dstate",
        "B": "bfloat16 batch_size ngroups dstate",
        "C": "bfloat16 batch_size ngroups dstate",
        "D": "bfloat16 nheads head_dim",
        "dt_bias": "bfloat16 nheads head_dim",
        "state_batch_indices": "int32 batch_size",
    },
    {
        "output": "bfloat16 batch_size nheads head_dim",
        "new_state": "bfloat16 state_cache_size nheads head_dim dstate",
    },
    """
def run(state, x, dt, A, B, C, D, dt_bias, state_batch_indices):
    step = F.softplus(dt.float() + dt_bias.float())
    b, c = (t.float().repeat_interleave(2, dim=1)[:, :, None, :] for t in (B, C))
    new, output = state.clone(), torch.zeros(x.shape)
    for i, slot in enumerate(state_batch_indices.tolist()):
        if slot < 0:
            continue
        s = new[slot].float() * torch.exp(A * step[i, ..., None])
        s = s + (step[i] * x[i].float())[..., None] * b[i]
        new[slot] = s.to(new.dtype)
        output[i] = (s * c[i]).sum(-1) + D.float() * x[i].float()
    return output.to(x.dtype), new
""",
    ("nheads % ngroups == 0", "state_cache_size >= batch_size"),
    {"state_batch_indices": "Slot of each sequence; -1 is padding."},
)

MOE = defined(
    "moe_fp8_block_scale",
    "moe",
    {
        "seq_len": None,
        "num_experts": 32,
        "num_local_experts": 4,
        "hidden_size": 256,
        "intermediate_size": 128,
        "gemm1_out_size": 256,
        "num_hidden_blocks": 2,
        "num_intermediate_blocks": 1,
        "num_gemm1_out_blocks": 2,
    },
    {
        "routing_logits": "float32 seq_len num_experts",
        "routing_bias": "bfloat16 num_experts",
        "hidden_states": "float8_e4m3fn seq_len hidden_size",
        "hidden_states_scale": "float32 num_hidden_blocks seq_len",
        "gemm1_weights": "float8_e4m3fn num_local_experts gemm1_out_size hidden_size",
        "gemm1_weights_scale": "float32 num_local_experts num_gemm1_out_blocks num_hidden_blocks",
        "gemm2_weights": "float8_e4m3fn num_local_experts hidden_size intermediate_size",
        "gemm2_weights_scale": (
            "float32 num_local_experts num_hidden_blocks num_intermediate_blocks"
        ),
        "local_expert_offset": "int32 -",
        "routed_scaling_factor": "float32 -",
    },
    {"output": "bfloat16 seq_len hidden_size"},
    """
def spread(scale):
    return scale.repeat_interleave(128, 0).repeat_interleave(128, 1)

def run(routing_logits, routing_bias, hidden_states, hidden_states_scale, gemm1_weights,
        gemm1_weights_scale, gemm2_weights, gemm2_weights_scale, local_expert_offset,
        routed_scaling_factor):
    x = hidden_states.float() * hidden_states_scale.T.repeat_interleave(128, 1)
    score = torch.sigmoid(routing_logits)
    chosen = (score + routing_bias.float()).topk(4, dim=-1).indices
    weight = torch.zeros_like(score).scatter_(1, chosen, score.gather(1, chosen))
    weight = weight / weight.sum(-1, keepdim=True) * routed_scaling_factor
    output = torch.zeros(len(x), 256)
    for e in range(4):
        up, gate = (x @ (gemm1_weights[e].float() * spread(gemm1_weights_scale[e])).T).chunk(2, -1)
        down = gemm2_weights[e].float() * spread(gemm2_weights_scale[e])
        output += weight[:, local_expert_offset + e, None] * ((F.silu(gate) * up) @ down.T)
    return output.to(torch.bfloat16)
""",
)

MOE_ROUTED = defined(
    "moe_pre_routed",
    "moe",
    {"num_tokens": None, "num_experts": 16, "top_k": 4, "hidden_size": 64},
    {
        "x": "float4_e2m1 num_tokens hidden_size",
        "token_selected_experts": "int32 num_tokens top_k",
        "topk_ids": "int32 num_tokens top_k",
        "token_final_scales": "float32 num_tokens top_k",
        "w1_weight": "bfloat16 num_experts hidden_size",
    },
    {"output": "float32 num_tokens hidden_size"},
    """
def run(x, token_selected_experts, topk_ids, token_final_scales, w1_weight):
    share = (topk_ids & 0xFFFF).to(torch.int16).view(torch.bfloat16).float()
    assert torch.allclose(share.sum(-1), torch.ones(len(share)), atol=0.05)
    assert bool((topk_ids >> 16 < 16).all()) and bool((topk_ids >> 16 >= 0).all())
    chosen = w1_weight[token_selected_experts.long()].float()
    return (chosen * token_final_scales[..., None]).sum(1)
""",
    describe={"topk_ids": "Packed: expert above, weight as bfloat16 below."},
)

SAMPLING = defined(
    "sampling",
    "sampling",
    {"batch_size": None, "vocab_size": 500},
    {
        "probs": "float32 batch_size vocab_size",
        "top_k": "int32 batch_size",
        "top_p": "float32 batch_size",
    },
    {"samples": "int64 batch_size"},
    """
def run(probs, top_k, top_p):
    return torch.multinomial(probs, 1).squeeze(-1)
""",
)

ROPE = defined(
    "rope",
    "rope",
    {
        "num_tokens": None,
        "num_qo_heads": None,
        "num_kv_heads": None,
        "head_size": 16,
        "rotary_dim": 8,
        "max_seq_len": None,
    },
    {
        "q": "float16 num_tokens num_qo_heads head_size",
        "k": "float16 num_tokens num_kv_heads head_size",
        "cos_sin_cache": "float32 max_seq_len rotary_dim",
        "positions": "int64 num_tokens",
    },
    {"q_out": "float16 num_tokens num_qo_heads head_size"},
    """
def run(q, k, cos_sin_cache, positions):
    cos, sin = cos_sin_cache[positions].chunk(2, -1)
    assert torch.allclose(cos**2 + sin**2, torch.ones_like(cos), atol=1e-5)
    a, b, rest = q.float().split([4, 4, 8], -1)
    cos, sin = cos[:, None], sin[:, None]
    return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], -1).half()
""",
)

GEMM = defined(
    "gemm",
    "gemm",
    {"M": None, "N": 64, "K": 2048},
    {"A": "float16 M K", "B": "float16 N K"},
    {"C": "float16 M N"},
    "\ndef run(A, B):\n    return (A.float() @ B.float().T).half()\n",
)

UNKNOWN = defined(
    "mystery",
    "mystery",
    {"rows": None, "columns": 24},
    {"x": "float8_e5m2 rows columns", "codes": "int16 rows columns", "flags": "bool rows"},
    {"y": "float32 rows columns"},
    "\ndef run(x, codes, flags):\n    return x.float() * codes * flags[:, None]\n",
)

FAMILIES = {
    d.name: d
    for d in (
        GDN_DECODE,
        GDN_PREFILL,
        MAMBA,
        attention.MLA_DECODE,
        attention.GQA_PREFILL,
        attention.MLA_RAGGED,
        attention.DSA_ATTENTION,
        attention.DSA_INDEXER,
        MOE,
        MOE_ROUTED,
        attention.TABLED,
        SAMPLING,
        ROPE,
        GEMM,
    )
}
