"""References of every family in double precision, against what they mean written down again."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.nn import functional

from kernel_generator.sandbox.upcast import run_upcast
from tests.sandbox.upcasting import agree, ints, randn

if TYPE_CHECKING:
    from collections.abc import Callable

BF16, F64 = torch.bfloat16, torch.float64
E4M3 = torch.float8_e4m3fn
DEFINITIONS = Path(__file__).parents[2] / "examples" / "traceset" / "definitions"
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


# -- the bundled references, with what they mean written down again --------------------------------


def silu_and_mul(x: torch.Tensor) -> list[torch.Tensor]:
    gate, up = x.double().chunk(2, dim=-1)
    return [gate / (1 + (-gate).exp()) * up]


def rmsnorm(x: torch.Tensor, weight: torch.Tensor) -> list[torch.Tensor]:
    x = x.double()
    return [x / ((x * x).mean(dim=-1, keepdim=True) + 1e-6).sqrt() * weight.double()]


def rope(q: torch.Tensor, k: torch.Tensor, cache: torch.Tensor, at: torch.Tensor) -> Any:
    cos, sin = cache.double()[at][:, None, :32], cache.double()[at][:, None, 32:]

    def turn(x: torch.Tensor) -> torch.Tensor:
        a, b = x.double()[..., :32], x.double()[..., 32:]
        return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)

    return [turn(q), turn(k)]


def routing(logits: torch.Tensor) -> list[torch.Tensor]:
    weights, experts = logits.double().softmax(dim=-1).topk(6, dim=-1)
    return [weights / weights.sum(dim=-1, keepdim=True), experts]


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """One query [8, 64] on [tokens, 2, 64], in float64: output and base-2 log-sum-exp."""
    k, v = (t.double().repeat_interleave(4, dim=1) for t in (k, v))
    scores = (q.double()[None] * k).sum(dim=-1) * 0.125
    return (scores.softmax(0)[..., None] * v).sum(0), scores.logsumexp(0) / math.log(2.0)


def paged() -> tuple[list[Any], Callable[..., list[torch.Tensor]]]:
    lengths = [1, 16, 37]
    q = randn(3, 8, 64).to(BF16)
    k, v = (randn(7, 16, 2, 64, seed=s).to(BF16) for s in (1, 2))
    pages = ints(4, 2, 6, 0, 5)
    inputs = [q, k, v, ints(0, 1, 2, 5), pages, ints(1, 16, 5), 0.125]

    def by_hand(*_: Any) -> list[torch.Tensor]:
        mine = [pages[:1], pages[1:2], pages[2:]]
        rows = [
            attend(q[i], *(c[mine[i]].flatten(0, 1)[:n] for c in (k, v)))
            for i, n in enumerate(lengths)
        ]
        return [torch.stack(o) for o in zip(*rows, strict=True)]

    return inputs, by_hand


def ragged() -> tuple[list[Any], Callable[..., list[torch.Tensor]]]:
    q, k, v = (randn(n, h, 64, seed=n).to(BF16) for n, h in ((7, 8), (9, 2), (9, 2)))
    inputs = [q, k, v, ints(0, 2, 7), ints(0, 3, 9), 0.125]

    def by_hand(*_: Any) -> list[torch.Tensor]:
        rows = [attend(q[i], k[: 2 + i], v[: 2 + i]) for i in range(2)]
        rows += [attend(q[i], k[3 : 3 + i], v[3 : 3 + i]) for i in range(2, 7)]
        return [torch.stack(o) for o in zip(*rows, strict=True)]

    return inputs, by_hand


def bundled_cases() -> dict[str, tuple[list[Any], Callable[..., list[torch.Tensor]]]]:
    probabilities = randn(3, 32000).softmax(dim=-1)
    return {
        "activation/silu_and_mul_i2816": ([randn(3, 5632).to(BF16)], silu_and_mul),
        "gemm/gemm_n1024_k1024": (
            [randn(3, 1024).to(BF16), randn(1024, 1024, seed=1).to(BF16)],
            lambda a, b: [a.double() @ b.double().T],
        ),
        "gqa_paged/gqa_paged_decode_h8_kv2_d64_ps16": paged(),
        "gqa_ragged/gqa_ragged_prefill_causal_h8_kv2_d64": ragged(),
        "moe/moe_topk_routing_e64_k6": ([randn(50, 64)], routing),
        "rmsnorm/fused_add_rmsnorm_h1536": (
            [*(randn(3, 1536, seed=s).to(BF16) for s in (0, 1)), randn(1536).to(BF16)],
            lambda x, r, w: [*rmsnorm(x.double() + r.double(), w), x.double() + r.double()],
        ),
        "rmsnorm/rmsnorm_h2048": ([randn(3, 2048).to(BF16), randn(2048).to(BF16)], rmsnorm),
        "rope/rope_neox_d64": (
            [
                randn(3, 8, 64).to(BF16),
                randn(3, 2, 64).to(BF16),
                randn(99, 64),
                torch.tensor([5, 98, 0]),
            ],
            rope,
        ),
        # With one token to choose from there is one answer.
        "sampling/top_k_top_p_sampling_v32000": (
            [probabilities, ints(1, 1, 1), torch.tensor([0.9, 0.5, 1.0])],
            lambda p, *_: [p.argmax(dim=-1)],
        ),
    }


CASES = bundled_cases()


def moved(inputs: list[Any], device: str) -> list[Any]:
    return [i.to(device) if isinstance(i, torch.Tensor) else i for i in inputs]


def test_every_bundled_definition_is_a_case() -> None:
    assert set(CASES) == {f"{p.parent.name}/{p.stem}" for p in DEFINITIONS.glob("*/*.json")}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", CASES)
def test_bundled_references_compute_in_double_precision(name: str, device: str) -> None:
    space: dict[str, Any] = {}
    exec(json.loads((DEFINITIONS / f"{name}.json").read_text())["reference"], space)
    inputs, by_hand = CASES[name]
    agree(run_upcast(space["run"], moved(inputs, device)), by_hand(*inputs))


# -- what references of other families do ----------------------------------------------------------


def delta_rule(q: Any, k: Any, v: Any, state: Any, gate: Any, beta: Any) -> Any:
    """A gated delta rule with a float32 state, element by element as references write it."""
    batch, heads, d = q.shape
    decay = torch.exp(-functional.softplus(gate.float()))
    strength = torch.sigmoid(beta.float())
    new = torch.zeros_like(state)
    out = torch.zeros(batch, heads, d, dtype=torch.float32, device=q.device)
    for b in range(batch):
        for h in range(heads):
            old = decay[b, h] * state[b, h].clone().transpose(-1, -2)
            key = k.float()[b, h]
            was = key @ old
            to = strength[b, h] * v.float()[b, h] + (1 - strength[b, h]) * was
            now = old + key.unsqueeze(1) @ (to - was).unsqueeze(0)
            out[b, h] = q.float()[b, h] @ now
            new[b, h] = now.transpose(-1, -2)
    return out.to(q.dtype), new


def delta_rule_by_hand(*inputs: torch.Tensor) -> list[torch.Tensor]:
    q, k, v, state, gate, beta = (t.double() for t in inputs)
    old = state.mT * torch.exp(-functional.softplus(gate))[..., None, None]
    was = torch.einsum("bhk,bhkv->bhv", k, old)
    change = beta.sigmoid()[..., None] * (v - was)
    new = old + k[..., :, None] * change[..., None, :]
    return [torch.einsum("bhk,bhkv->bhv", q, new), new.mT]


def latent_attention(q: Any, rotated: Any, latent: Any, keys: Any, indptr: Any, scale: Any) -> Any:
    """Scores of two parts, values that are the keys, output buffers of the storage's dtype."""
    out = torch.empty(q.shape, dtype=torch.bfloat16, device=q.device)
    lse = torch.full(q.shape[:2], -float("inf"), dtype=torch.float32, device=q.device)
    for b in range(q.shape[0]):
        first, last = int(indptr[b].item()), int(indptr[b + 1].item())
        if first == last:
            out[b].zero_()
            continue
        c, k = latent[first:last].to(torch.float32), keys[first:last].to(torch.float32)
        scores = (q[b].to(torch.float32) @ c.T + rotated[b].to(torch.float32) @ k.T) * scale
        lse[b] = torch.logsumexp(scores, dim=-1) / math.log(2.0)
        p = torch.softmax(scores, dim=-1, dtype=torch.float32).to(torch.bfloat16)
        out[b] = (p.float() @ c).to(torch.bfloat16)
    return out, lse


def latent_attention_by_hand(*inputs: Any) -> list[torch.Tensor]:
    q, rotated, latent, keys = (t.double() for t in inputs[:4])
    outs, lses = torch.zeros_like(q), torch.full(q.shape[:2], -math.inf, dtype=F64)
    for b, (first, last) in enumerate(((0, 5), (5, 5), (5, 12))):
        if first < last:
            scores = torch.einsum("hd,td->ht", q[b], latent[first:last])
            scores = (scores + torch.einsum("hd,td->ht", rotated[b], keys[first:last])) * inputs[5]
            outs[b] = scores.softmax(-1) @ latent[first:last]
            lses[b] = scores.exp().sum(-1).log2()
    return [outs, lses]


def block_scaled_experts(logits: Any, x: Any, x_scale: Any, w: Any, w_scale: Any) -> Any:
    """e4m3 values with a scale to each block of 16, sigmoid routing, accumulated by index_add_."""
    tokens, hidden = x.shape
    scale = x_scale.permute(1, 0).contiguous().unsqueeze(-1).repeat(1, 1, 16).reshape(tokens, -1)
    a = x.to(torch.float32) * scale
    s = torch.repeat_interleave(torch.repeat_interleave(w_scale, 16, dim=1), 16, dim=2)
    weights = w.to(torch.float32) * s
    score = 1.0 / (1.0 + torch.exp(-logits.to(torch.float32)))
    lowest = torch.finfo(torch.float32).min
    _, chosen = torch.topk(score.masked_fill(score < 0.01, lowest), k=2, dim=1, sorted=False)
    mask = torch.zeros_like(score)
    mask.scatter_(1, chosen, 1.0)
    share = score * mask
    share = share / (share.sum(dim=1, keepdim=True) + 1e-20) * 2.5
    out = torch.zeros((tokens, hidden), dtype=torch.float32, device=x.device)
    for e in range(w.shape[0]):
        token = torch.nonzero((chosen == e).any(dim=1), as_tuple=False).squeeze(1)
        y = a.index_select(0, token).matmul(weights[e].t())
        out.index_add_(0, token, y * share.index_select(0, token)[:, e].unsqueeze(1))
    return out.to(torch.bfloat16)


def block_scaled_experts_by_hand(*inputs: torch.Tensor) -> list[torch.Tensor]:
    logits, x, x_scale, w, w_scale = (t.double() for t in inputs)
    a = (x.unflatten(1, (-1, 16)) * x_scale.T[..., None]).flatten(1)
    weights = w.unflatten(2, (-1, 16)).unflatten(1, (-1, 16)) * w_scale[:, :, None, :, None]
    score = logits.sigmoid()
    share = torch.where(score >= score.sort(dim=1)[0][:, -2:-1], score, 0.0)
    share = 2.5 * share / share.sum(dim=1, keepdim=True)
    return [torch.einsum("te,eoi,ti->to", share, weights.flatten(1, 2).flatten(2, 3), a)]


FAMILIES: dict[str, tuple[Callable[..., Any], Callable[..., Any], list[Any]]] = {
    "delta rule": (
        delta_rule,
        delta_rule_by_hand,
        [
            *(randn(2, 3, 8, seed=s).to(BF16) for s in range(3)),
            randn(2, 3, 8, 8),
            *(randn(2, 3, seed=s).to(BF16) for s in (3, 4)),
        ],
    ),
    "latent attention": (
        latent_attention,
        latent_attention_by_hand,
        [
            randn(3, 4, 32).to(BF16),
            randn(3, 4, 8).to(BF16),
            randn(12, 32, seed=1).to(BF16),
            randn(12, 8, seed=2).to(BF16),
            ints(0, 5, 5, 12),
            0.17,
        ],
    ),
    "experts in blocks of e4m3": (
        block_scaled_experts,
        block_scaled_experts_by_hand,
        [
            randn(9, 4),
            randn(9, 32).to(E4M3),
            randn(2, 9).abs(),
            randn(4, 32, 32).to(E4M3),
            randn(4, 2, 2).abs(),
        ],
    ),
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", FAMILIES)
def test_other_families_compute_in_double_precision(name: str, device: str) -> None:
    function, by_hand, inputs = FAMILIES[name]
    agree(run_upcast(function, moved(inputs, device)), by_hand(*inputs))
