"""Operations with honest variants and mutants, for the table of tolerances.

Each specimen has a reference, which its `expected` runs in double precision, honest variants of it
(another order of summation, intermediates rounded to the inputs' format), and mutants (something
dropped, an index off by one, a scale off by one per cent, a narrower format). All variants are in
the words of this file; references are the bundled ones where there is one.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from kernel_generator.evaluation.tolerance import tolerance_for
from kernel_generator.sandbox.upcast import run_upcast

if TYPE_CHECKING:
    from collections.abc import Callable

    from kernel_generator.evaluation.tolerance import Tolerance

BF16, F16, F32 = torch.bfloat16, torch.float16, torch.float32
E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
DEFINITIONS = Path(__file__).parents[2] / "examples" / "traceset" / "definitions"
LOG2E = 1.0 / math.log(2.0)

Outputs = list[torch.Tensor]


@dataclass
class Specimen:
    """Variants of one operation on one set of inputs; each is the list of its outputs."""

    family: str
    """As a definition's `op_type`."""
    dtypes: list[torch.dtype]
    """Of the outputs."""
    inputs: list[Any]
    reference: Callable[..., Any]
    """Returns the outputs."""
    honest: dict[str, Outputs] = field(default_factory=dict)
    mutants: dict[str, Outputs] = field(default_factory=dict)

    @cached_property
    def expected(self) -> Outputs:
        return run_upcast(self.reference, self.inputs)

    def tolerance(self, output: torch.dtype) -> Tolerance:
        inputs = {t.dtype for t in self.inputs if isinstance(t, torch.Tensor)}
        return tolerance_for(output, inputs, self.family)

    def written(self, variant: Outputs) -> Outputs:
        """A variant's values, rounded to what the definition says of its outputs."""
        return [v.to(d) for v, d in zip(variant, self.dtypes, strict=True)]


def bundled(path: str, output: torch.dtype) -> Callable[..., Any]:
    """The reference of a bundled definition, with outputs of another dtype than bfloat16."""
    source = json.loads((DEFINITIONS / path).read_text())["reference"]
    space: dict[str, Any] = {}
    exec(source.replace("torch.bfloat16", str(output)), space)
    return space["run"]


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def through(dtype: torch.dtype) -> Callable[[torch.Tensor], torch.Tensor]:
    """Rounding to a format, held in float32."""
    return lambda x: x.to(dtype).float()


def through_tf32(x: torch.Tensor) -> torch.Tensor:
    """Ten bits of mantissa, rounded to nearest."""
    x = x.float()
    return ((x.contiguous().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


def through_fp4(x: torch.Tensor) -> torch.Tensor:
    """e2m1, each block of 32 scaled to its largest value."""
    grid = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    blocks = torch.nn.functional.pad(x.reshape(-1), (0, -x.numel() % 32)).reshape(-1, 32)
    scale = blocks.abs().amax(dim=1, keepdim=True).clamp_min(1e-20) / 6
    # Midpoints of the grid, ties upwards.
    nearest = torch.bucketize((blocks / scale).abs(), (grid[1:] + grid[:-1]) / 2)
    return (grid[nearest] * blocks.sign() * scale).reshape(-1)[: x.numel()].reshape(x.shape)


def same(x: torch.Tensor) -> torch.Tensor:
    return x


BELOW: dict[torch.dtype, dict[str, Callable[[torch.Tensor], torch.Tensor]]] = {
    F32: {"TF32": through_tf32, "bfloat16": through(BF16)},
    BF16: {"e4m3": through(E4M3), "e5m2": through(E5M2)},
    F16: {"e4m3": through(E4M3), "bfloat16": through(BF16)},
    E4M3: {"fp4": through_fp4},
}
"""Formats below that of the inputs."""


# -- normalisation ---------------------------------------------------------------------------------


def rms_norms(dtype: torch.dtype, scale: float = 1.0) -> Specimen:
    hidden = 2048
    x, weight = (randn(7, hidden) * scale).to(dtype), randn(hidden, seed=1).to(dtype)
    xf, wf = x.float(), weight.float()

    def norm(
        v: torch.Tensor = xf,
        eps: float = 1e-6,
        rounded: Callable[[torch.Tensor], torch.Tensor] = same,
        used: int = hidden,
    ) -> torch.Tensor:
        parts = v[:, :used].square().reshape(7, -1, 32).sum(dim=1).sum(dim=1, keepdim=True)
        return rounded(v * torch.rsqrt(parts / used + eps)) * wf

    found = Specimen("rmsnorm", [dtype], [x, weight], bundled("rmsnorm/rmsnorm_h2048.json", dtype))
    found.honest = {
        "summed in another order": [norm()],
        "normalised value rounded": [norm(rounded=through(dtype))],
    }
    if scale < 1:
        found.mutants = {"no eps": [norm(eps=0.0)], "eps ten times": [norm(eps=1e-5)]}
        return found
    tail = norm()
    tail[:, -64:] = 0
    rotated = norm(xf).roll(1, dims=-1)
    found.mutants = {
        "zeros": [torch.zeros(7, hidden)],
        "no last tile of the row": [tail],
        "last row missing": [torch.cat((norm()[:-1], torch.zeros(1, hidden)))],
        "mean over an eighth less": [norm(used=hidden * 7 // 8)],
        "off by one column": [rotated],
        "1 % too large": [norm() * 1.01],
        "1 % too large in rms": [norm(xf * 1.01, eps=1e-6) / 1.01 * 0.99],
        "no weight": [norm() / wf],
        **{f"in {n}": [norm(f(xf))] for n, f in BELOW[dtype].items()},
    }
    return found


def fused_add(dtype: torch.dtype) -> Specimen:
    hidden = 1536
    h, r = randn(7, hidden).to(dtype), randn(7, hidden, seed=1).to(dtype)
    weight = randn(hidden, seed=2).to(dtype)

    def norm(x: torch.Tensor) -> torch.Tensor:
        return x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + 1e-6) * weight.float()

    x = h.float() + r.float()
    rounded = through(dtype)
    reference = bundled("rmsnorm/fused_add_rmsnorm_h1536.json", dtype)
    found = Specimen("rmsnorm", [dtype, dtype], [h, r, weight], reference)
    found.honest = {
        "as is": [norm(x), x],
        "sum rounded first": [norm(rounded(x)), x],
        "all rounded": [rounded(norm(rounded(x)) / weight.float()) * weight.float(), x],
    }
    found.mutants = {
        "no residual": [norm(h.float()), x],
        "residual of another row": [norm(x), h.float() + r.float().roll(1, dims=0)],
        "residual not written": [norm(x), r.float()],
    }
    return found


# -- products of matrices --------------------------------------------------------------------------


def products(output: torch.dtype, inputs: torch.dtype, k: int = 1024) -> Specimen:
    a = randn(37, k).clamp(-4, 4).to(inputs)
    b = randn(1024, k, seed=1).clamp(-4, 4).to(inputs)
    af, bf = a.float(), b.float()

    def split(rounded: Callable[[torch.Tensor], torch.Tensor] = same, parts: int = 4) -> Any:
        width = k // parts
        order = [slice(i * width, (i + 1) * width) for i in reversed(range(parts))]
        return torch.stack([rounded(af[:, s] @ bf[:, s].T) for s in order]).sum(dim=0)

    exact = af @ bf.T
    reference = bundled("gemm/gemm_n1024_k1024.json", output)
    found = Specimen("gemm", [output], [a, b], reference)
    found.honest = {"as is": [exact], "split-K": [split(parts=16)]}
    if output in (BF16, F16):
        found.honest["split-K of 4 in the output's format"] = [split(through(output))]
    missing = exact.clone()
    missing[:, -16:] = 0
    found.mutants = {
        "zeros": [torch.zeros_like(exact)],
        "no last tile of columns": [missing],
        "no last row": [torch.cat((exact[:-1], torch.zeros_like(exact[:1])))],
        "no last tile of K": [af[:, :-32] @ bf[:, :-32].T],
        "off by one column": [exact.roll(1, dims=-1)],
    }
    if output in (E4M3, E5M2):
        # The output's own rounding hides what is smaller.
        found.honest["rounded to the inputs' format"] = [through(inputs)(exact)]
        found.mutants["in fp4"] = [through_fp4(af) @ through_fp4(bf).T]
        return found
    found.mutants |= {
        "K - 1": [af[:, :-1] @ bf[:, :-1].T],
        "1 % too large": [exact * 1.01],
        **{f"both in {n}": [f(af) @ f(bf).T] for n, f in BELOW[inputs].items()},
        **{f"one in {n}": [af @ f(bf).T] for n, f in BELOW[inputs].items()},
    }
    return found


# -- attention -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Attending:
    """How a variant of attention deviates; by default it does not."""

    scale: float = 1.0
    keys: int = 0
    """Keys seen beyond the right last one."""
    group: int = 4
    """Query heads to a key head."""
    parts: int = 1
    q: Callable[[torch.Tensor], torch.Tensor] = same
    kv: Callable[[torch.Tensor], torch.Tensor] = same
    logits: Callable[[torch.Tensor], torch.Tensor] = same
    p: Callable[[torch.Tensor], torch.Tensor] = same
    partial: Callable[[torch.Tensor], torch.Tensor] = same

    def __call__(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, seen: int) -> Outputs:
        """One query [heads, d] over the first `seen` keys of [tokens, kv heads, d]."""
        q = self.q(q * (0.125 * self.scale))
        seen = max(1, min(seen + self.keys, k.shape[0]))
        head = torch.arange(q.shape[0]) // self.group % k.shape[1]
        k, v = self.kv(k[:seen])[:, head], self.kv(v[:seen])[:, head]
        outs: Outputs = []
        lses: Outputs = []
        for at in torch.arange(seen).tensor_split(min(self.parts, seen)):
            s = self.logits(torch.einsum("hd,thd->ht", q, k[at]))
            top = s.amax(dim=-1, keepdim=True)
            p = torch.exp(s - top)
            total = p.sum(dim=-1, keepdim=True)
            outs.append(self.partial(torch.einsum("ht,thd->hd", self.p(p), v[at]) / total))
            lses.append((top + total.log()).squeeze(-1))
        lse = torch.stack(lses).logsumexp(dim=0)
        share = torch.exp(torch.stack(lses) - lse)
        return [(share.unsqueeze(-1) * torch.stack(outs)).sum(dim=0), lse * LOG2E]


def attention_variants(
    found: Specimen, run: Callable[[Attending], Outputs], dtype: torch.dtype
) -> Specimen:
    """`run` makes the two outputs of attention that deviates so."""
    rounded, partial = through(dtype), through(found.dtypes[0])
    right = run(Attending())
    found.honest = {
        "as is": right,
        "split": run(Attending(parts=4)),
        "P rounded": run(Attending(p=rounded)),
        "P rounded, split, partials rounded": run(Attending(p=rounded, parts=4, partial=partial)),
    }
    if dtype is not E4M3:
        found.honest["scaled query rounded"] = run(Attending(q=rounded, p=rounded))
        found.honest["scores rounded"] = run(Attending(logits=rounded, p=rounded))
    no_head = [right[0].clone(), right[1]]
    no_head[0][:, 3] = 0
    no_tile = [right[0].clone(), right[1]]
    no_tile[0][..., -16:] = 0
    found.mutants = {
        "zeros": [torch.zeros_like(right[0]), right[1]],
        "no log-sum-exp": [right[0], torch.zeros_like(right[1])],
        "natural logarithm": [right[0], right[1] / LOG2E],
        "a head dropped": no_head,
        "no last tile of the head": no_tile,
        "a key too many": run(Attending(keys=1)),
        "a key too few": run(Attending(keys=-1)),
        "heads grouped wrongly": run(Attending(group=1)),
        "scale 1 % too large": run(Attending(scale=1.01)),
        **{f"keys and values in {n}": run(Attending(kv=f)) for n, f in BELOW[dtype].items()},
        **{f"P in {n}": run(Attending(p=f)) for n, f in BELOW[dtype].items()},
    }
    if dtype is not E4M3:
        found.mutants["values 1 % too large"] = [right[0] * 1.01, right[1]]
    return found


def ragged_prefill(dtype: torch.dtype) -> Specimen:
    ends = [0, 37, 38, 165]
    q, k, v = (randn(165, h, 64, seed=s).to(dtype) for s, h in enumerate((8, 2, 2)))
    indptr = torch.tensor(ends, dtype=torch.int32)

    def run(how: Attending) -> Outputs:
        rows: list[Outputs] = []
        for first, last in pairwise(ends):
            keys, values = k[first:last].float(), v[first:last].float()
            rows += [how(q[i].float(), keys, values, i - first + 1) for i in range(first, last)]
        return [torch.stack(o) for o in zip(*rows, strict=True)]

    inputs = [q, k, v, indptr, indptr, 0.125]
    output = BF16 if dtype is E4M3 else dtype
    reference = bundled("gqa_ragged/gqa_ragged_prefill_causal_h8_kv2_d64.json", output)
    return attention_variants(Specimen("gqa_ragged", [output, F32], inputs, reference), run, dtype)


def paged_decode(dtype: torch.dtype) -> Specimen:
    lengths, page = [1, 7, 37, 127, 129, 500], 16
    # A page more than needed to each sequence holds what a key too many would see.
    counts = [-(-n // page) for n in lengths]
    pages = sum(counts) + 5
    q = randn(len(lengths), 8, 64).to(dtype)
    k, v = (randn(pages, page, 2, 64, seed=s).to(dtype) for s in (1, 2))
    indices = torch.randperm(pages, generator=torch.Generator().manual_seed(3)).to(torch.int32)
    starts = [sum(counts[:i]) for i in range(len(counts) + 1)]
    last = torch.tensor([(n - 1) % page + 1 for n in lengths], dtype=torch.int32)

    def run(how: Attending) -> Outputs:
        rows: list[Outputs] = []
        for i, n in enumerate(lengths):
            mine = indices[starts[i] : starts[i] + counts[i] + 1]
            keys, values = (c[mine].flatten(0, 1).float() for c in (k, v))
            rows.append(how(q[i].float(), keys, values, n))
        return [torch.stack(o) for o in zip(*rows, strict=True)]

    indptr = torch.tensor(starts, dtype=torch.int32)
    inputs = [q, k, v, indptr, indices[: sum(counts)].clone(), last, 0.125]
    output = BF16 if dtype is E4M3 else dtype
    reference = bundled("gqa_paged/gqa_paged_decode_h8_kv2_d64_ps16.json", output)
    return attention_variants(Specimen("gqa_paged", [output, F32], inputs, reference), run, dtype)


# -- mixtures of experts ---------------------------------------------------------------------------


def routing() -> Specimen:
    logits = randn(129, 64)

    def run(used: torch.Tensor = logits, k: int = 6, scale: float = 1.0, shift: int = 0) -> Outputs:
        weights, experts = torch.exp(used - used.amax(dim=-1, keepdim=True)).topk(k, dim=-1)
        if k < 6:
            weights, experts = (torch.nn.functional.pad(t, (0, 6 - k)) for t in (weights, experts))
        return [scale * weights / weights.sum(dim=-1, keepdim=True), experts + shift]

    scores = logits.softmax(dim=-1)
    weights, experts = scores.topk(6, dim=-1)
    reference = bundled("moe/moe_topk_routing_e64_k6.json", F32)
    found = Specimen("moe", [F32, torch.int32], [logits], reference)
    found.honest = {
        "as is": [weights / weights.sum(dim=-1, keepdim=True), experts],
        "normalised once": run(),
    }
    found.mutants = {
        "zeros": [torch.zeros(129, 6), experts],
        "an expert dropped": run(k=5),
        "not normalised": [weights, experts],
        "1 % too large": run(scale=1.01),
        "experts off by one": run(shift=1),
        "scores in TF32": run(through_tf32(logits)),
        "scores in bfloat16": run(through(BF16)(logits)),
    }
    return found


BLOCK = 32


def experts_of(dtype: torch.dtype) -> Specimen:
    """Top-2 of 8 gated experts; of 8-bit inputs each block of 32 by 32 weights has a scale."""
    tokens, experts, hidden, inner = 65, 8, 256, 128
    x = (randn(tokens, hidden)).to(dtype)
    w1 = randn(experts, 2 * inner, hidden, seed=1).clamp(-4, 4).to(dtype)
    w2 = randn(experts, hidden, inner, seed=2).clamp(-4, 4).to(dtype)
    s1 = 0.05 + 0.05 * randn(experts, 2 * inner // BLOCK, hidden // BLOCK, seed=3).abs()
    s2 = 0.05 + 0.05 * randn(experts, hidden // BLOCK, inner // BLOCK, seed=4).abs()
    logits = randn(tokens, experts, seed=5)

    def block_scaled(w: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        return w.to(F32) * s.repeat_interleave(BLOCK, dim=1).repeat_interleave(BLOCK, dim=2)

    def run(
        x: torch.Tensor,
        w1: torch.Tensor,
        w2: torch.Tensor,
        s1: torch.Tensor,
        s2: torch.Tensor,
        logits: torch.Tensor,
        weights: Callable[[torch.Tensor], torch.Tensor] = same,
        middle: Callable[[torch.Tensor], torch.Tensor] = same,
        each: Callable[[torch.Tensor], torch.Tensor] = same,
        activation: Callable[[torch.Tensor], torch.Tensor] = same,
        skip: int = -1,
        swap: bool = False,
    ) -> torch.Tensor:
        w1, w2 = weights(block_scaled(w1, s1)), weights(block_scaled(w2, s2))
        share, chosen = torch.softmax(logits, dim=-1).topk(2, dim=-1)
        share = share / share.sum(dim=-1, keepdim=True)
        out = torch.zeros(tokens, hidden, dtype=F32)
        for e in range(experts):
            token, slot = (chosen == e).nonzero(as_tuple=True)
            if e == skip or not token.numel():
                continue
            both = activation(x[token].to(F32)) @ w1[e].T
            gate, up = both[:, :inner], both[:, inner:]
            if swap:
                gate, up = up, gate
            y = each(middle(torch.nn.functional.silu(gate) * up) @ w2[e].T)
            out.index_add_(0, token, y * share[token, slot].unsqueeze(1))
        return out

    inputs = [x, w1, w2, s1, s2, logits]

    def variant(**how: Any) -> Outputs:
        return [run(*inputs, **how)]

    def by_block(y: torch.Tensor) -> torch.Tensor:
        blocks = y.reshape(-1, BLOCK)
        scale = blocks.abs().amax(dim=1, keepdim=True).clamp_min(1e-20) / 448
        return ((blocks / scale).to(E4M3).float() * scale).reshape(y.shape)

    found = Specimen("moe", [BF16 if dtype is E4M3 else dtype], inputs, run)
    rounded = through(BF16 if dtype is E4M3 else dtype)
    found.honest = {
        "as is": variant(),
        "activation rounded": variant(middle=rounded),
        "activation and expert outputs rounded": variant(middle=rounded, each=rounded),
        "weights rounded too": variant(middle=rounded, each=rounded, weights=rounded),
    }
    if dtype is E4M3:
        found.honest["activation in blocks of e4m3"] = variant(middle=by_block)
    right = variant()[0]
    tile = right.clone()
    tile[:, -16:] = 0
    found.mutants = {
        "zeros": [torch.zeros_like(right)],
        "no last tile": [tile],
        "an expert dropped": variant(skip=7),
        "gate and up swapped": variant(swap=True),
        "not scaled": [run(x, w1, w2, s1, torch.full_like(s2, 0.09), logits)],
        "scales of the next block": [run(x, w1, w2, s1.roll(1, dims=2), s2, logits)],
        **{f"weights in {n}": variant(weights=f) for n, f in BELOW[dtype].items()},
        **{f"activation in {n}": variant(middle=f) for n, f in BELOW[dtype].items()},
    }
    if dtype is not E4M3:
        found.mutants["1 % too large"] = [right * 1.01]
    return found


# -- elementwise -----------------------------------------------------------------------------------


def gated(dtype: torch.dtype) -> Specimen:
    x = randn(7, 5632).to(dtype)
    gate, up = x.float().chunk(2, dim=-1)
    rounded = through(dtype)
    right = gate / (1 + torch.exp(-gate)) * up
    tail = right.clone()
    tail[:, -16:] = 0
    reference = bundled("activation/silu_and_mul_i2816.json", dtype)
    found = Specimen("activation", [dtype], [x], reference)
    found.honest = {
        "as is": [right],
        "gate rounded": [rounded(torch.nn.functional.silu(gate)) * up],
        "sigmoid and gate rounded": [rounded(rounded(gate.sigmoid()) * gate) * up],
    }
    found.mutants = {
        "zeros": [torch.zeros_like(right)],
        "no last tile": [tail],
        "gate and up swapped": [torch.nn.functional.silu(up) * gate],
        "off by one column": [gate.sigmoid() * gate * up.roll(1, dims=-1)],
        "GELU": [torch.nn.functional.gelu(gate) * up],
        "sigmoid 1 % too steep": [gate * torch.sigmoid(1.01 * gate) * up * 1.01],
        "1 % too large": [right * 1.01],
        **{f"in {n}": [torch.nn.functional.silu(f(gate)) * f(up)] for n, f in BELOW[dtype].items()},
    }
    return found


def rotary(dtype: torch.dtype) -> Specimen:
    q, k = randn(37, 8, 64).to(dtype), randn(37, 2, 64, seed=1).to(dtype)
    frequencies = torch.arange(200)[:, None] * 1e4 ** (-torch.arange(32) / 32)
    cache = torch.cat((frequencies.cos(), frequencies.sin()), dim=-1)
    positions = torch.randperm(199, generator=torch.Generator().manual_seed(2))[:37]

    def rotate(
        x: torch.Tensor,
        shift: int = 0,
        table: Callable[[torch.Tensor], torch.Tensor] = same,
        product: Callable[[torch.Tensor], torch.Tensor] = same,
    ) -> torch.Tensor:
        cos, sin = table(cache)[positions + shift].unsqueeze(1).chunk(2, dim=-1)
        a, b = x.float().chunk(2, dim=-1)
        parts = (product(a * cos) - product(b * sin), product(b * cos) + product(a * sin))
        return torch.cat(parts, dim=-1)

    def both(**how: Any) -> Outputs:
        return [rotate(q, **how), rotate(k, **how)]

    rounded = through(dtype)
    inputs = [q, k, cache, positions]
    found = Specimen("rope", [dtype, dtype], inputs, bundled("rope/rope_neox_d64.json", dtype))
    found.honest = {
        "as is": both(),
        "table rounded": both(table=rounded),
        "table and products rounded": both(table=rounded, product=rounded),
    }
    interleaved = [
        torch.stack((x.float()[..., ::2], x.float()[..., 1::2]), dim=-1).flatten(-2) for x in (q, k)
    ]
    found.mutants = {
        "zeros": [torch.zeros(37, 8, 64), torch.zeros(37, 2, 64)],
        "off by one position": both(shift=1),
        "not rotated": interleaved,
        "a head not rotated": [torch.cat((rotate(q)[:, :7], q[:, 7:].float()), dim=1), rotate(k)],
        "keys not written": [rotate(q), torch.zeros(37, 2, 64)],
        "1 % too large": [t * 1.01 for t in both()],
        **{f"in {n}": [rotate(f(t.float())) for t in (q, k)] for n, f in BELOW[dtype].items()},
    }
    return found


# -- recurrences -----------------------------------------------------------------------------------


def gated_delta(dtype: torch.dtype, of_length_one: bool) -> Specimen:
    """One step of a gated delta rule on a float32 state.

    Models have keys and queries of length one. Keys drawn at random are longer, so that the change
    of the state outweighs the state.
    """
    batch, heads, d = 3, 4, 64
    q, k, v = (randn(batch, heads, d, seed=s).to(dtype) for s in range(3))
    if of_length_one:
        q, k = ((t.float() / t.float().norm(dim=-1, keepdim=True)).to(dtype) for t in (q, k))
    state = randn(batch, heads, d, d, seed=3)
    gate, beta = (randn(batch, heads, seed=s).to(dtype) for s in (4, 5))

    def step(
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        state: torch.Tensor,
        gate: torch.Tensor,
        beta: torch.Tensor,
        delta: Callable[[torch.Tensor], torch.Tensor] = same,
        held: Callable[[torch.Tensor], torch.Tensor] = same,
        scale: float = 1.0,
        late: bool = False,
    ) -> Any:
        g = torch.exp(-torch.nn.functional.softplus(gate.to(F32)))[..., None, None]
        old = held(state) * g
        kf, qf = k.to(F32), q.to(F32)
        was = torch.einsum("bhk,bhkv->bhv", kf, old)
        change = delta(torch.sigmoid(beta.to(F32)).unsqueeze(-1) * (v.to(F32) - was))
        new = old + torch.einsum("bhk,bhv->bhkv", kf, change) * scale
        out = torch.einsum("bhk,bhkv->bhv", qf, old if late else new)
        return out, new

    inputs = [q, k, v, state, gate, beta]

    def variant(**how: Any) -> Outputs:
        return list(step(*inputs, **how))

    rounded = through(dtype)
    out, new = variant()
    no_head = [out, new.clone()]
    no_head[1][:, 2] = state[:, 2]
    found = Specimen("gdn", [dtype, F32], inputs, step)
    found.honest = {
        "as is": [out, new],
        "change rounded": variant(delta=rounded),
        "output's operands rounded": [
            torch.einsum("bhk,bhkv->bhv", q.float(), rounded(new)),
            variant(delta=rounded)[1],
        ],
    }
    found.mutants = {
        "zeros": [torch.zeros_like(out), new],
        "state not updated": [out, state],
        "a head of the state not updated": no_head,
        "output before the update": variant(late=True),
        "update 10 % too large": variant(scale=1.1),
        "output 1 % too large": [out * 1.01, new],
        "state 1 % too large": [out, new * 1.01],
        "state transposed": [out, new.mT.contiguous()],
        "state held in e4m3": variant(held=through(E4M3)),
    }
    return found


# -- what is tested --------------------------------------------------------------------------------

SPECIMENS: dict[str, Callable[[], Specimen]] = {
    **{f"rmsnorm {d}": lambda d=d: rms_norms(d) for d in (F32, BF16, F16)},
    **{f"rmsnorm of small values {d}": lambda d=d: rms_norms(d, 1e-3) for d in (F32, BF16, F16)},
    **{f"fused_add_rmsnorm {d}": lambda d=d: fused_add(d) for d in (BF16, F16)},
    **{f"gemm {d}": lambda d=d: products(d, d) for d in (F32, BF16, F16)},
    **{f"gemm {d} from bfloat16": lambda d=d: products(d, BF16) for d in (F32,)},
    **{f"gemm {d} from e4m3": lambda d=d: products(d, E4M3) for d in (F32, BF16, F16)},
    **{f"gemm e4m3 from {d}": lambda d=d: products(E4M3, d) for d in (BF16, F16)},
    **{f"gemm e5m2 from {d}": lambda d=d: products(E5M2, d) for d in (BF16, F16)},
    **{f"ragged prefill {d}": lambda d=d: ragged_prefill(d) for d in (F32, BF16, F16, E4M3)},
    **{f"paged decode {d}": lambda d=d: paged_decode(d) for d in (F32, BF16, F16, E4M3)},
    "routing": routing,
    **{f"experts {d}": lambda d=d: experts_of(d) for d in (BF16, F16, E4M3)},
    **{f"silu_and_mul {d}": lambda d=d: gated(d) for d in (F32, BF16, F16)},
    **{f"rope {d}": lambda d=d: rotary(d) for d in (F32, BF16, F16)},
    **{f"gated delta {d}": lambda d=d: gated_delta(d, True) for d in (BF16, F16)},
    **{f"gated delta, long keys {d}": lambda d=d: gated_delta(d, False) for d in (BF16, F16)},
}
SPECIMENS = {k.replace("torch.", "").replace("float8_", ""): v for k, v in SPECIMENS.items()}
