"""The definitions of the corpus: bundled ones, each with the smallest workloads that tell."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from flashinfer_bench import Definition

from kernel_generator import load_traceset

if TYPE_CHECKING:
    from flashinfer_bench import TraceSet, Workload

ROOT = Path(__file__).resolve().parents[2] / "examples" / "traceset"

NORM = "rmsnorm_h2048"
GEMM = "gemm_n1024_k1024"
PAGED = "gqa_paged_decode_h8_kv2_d64_ps16"
RAGGED = "gqa_ragged_prefill_causal_h8_kv2_d64"
ROUTING = "moe_topk_routing_e64_k6"
SAMPLING = "top_k_top_p_sampling_v1024"
_BUNDLED_SAMPLING = "top_k_top_p_sampling_v32000"

_WORKLOADS = {
    NORM: ({"batch_size": 64},),
    GEMM: ({"M": 100},),
    PAGED: ({"batch_size": 4},),
    RAGGED: ({"total_q": 201},),
    ROUTING: ({"num_tokens": 64}, {"num_tokens": 500}),
    SAMPLING: ({"batch_size": 8},),
}


@cache
def bundled() -> TraceSet:
    """The trace set in examples/."""
    loaded, problems = load_traceset(ROOT)
    assert problems == []
    return loaded


@cache
def definition(name: str) -> Definition:
    """A definition of the corpus."""
    if name != SAMPLING:
        return bundled().definitions[name]
    # Thousands of draws are made of each sampler: a smaller vocabulary tells as much.
    found = bundled().definitions[_BUNDLED_SAMPLING].model_dump(mode="json")
    found |= {"name": name, "reference": found["reference"].replace("32000", "1024")}
    found["axes"]["vocab_size"]["value"] = 1024
    return Definition.model_validate(found)


def workloads(name: str) -> tuple[Workload, ...]:
    """The workloads that its cases are judged on."""
    stored = _BUNDLED_SAMPLING if name == SAMPLING else name
    every = [trace.workload for trace in bundled().workloads[stored]]
    return tuple(
        next(w for w in every if wanted.items() <= w.axes.items()) for wanted in _WORKLOADS[name]
    )


def honestly(name: str) -> str:
    """Source of a function `honest` that does what the definition says."""
    return definition(name).reference.replace("def run(", "def honest(") + "\n\n"
