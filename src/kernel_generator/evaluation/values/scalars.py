"""Numbers that a caller passes beside the tensors."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

import torch

from kernel_generator.evaluation.values.noise import any_integers, normal, one_of, uniform

if TYPE_CHECKING:
    from kernel_generator.evaluation.values.call import Call
    from kernel_generator.evaluation.values.roles import Input

_ABSORBED_HEAD_DIM = 128
"""Multi-head latent attention scales by the head's size before absorption: 128 and the rotary
part."""


def make(call: Call, one: Input, generator: torch.Generator) -> int | float | bool:
    """A sensible value where the name tells, else FlashInfer-Bench's. Raises
    `InputsUnavailable`."""
    known = _known(call, one, generator)
    if known is not None:
        return known
    if one.is_float:
        return normal((), one.dtype, generator).float().item()
    return any_integers((), one.dtype, generator).item()


def _known(call: Call, one: Input, g: torch.Generator) -> int | float | bool | None:
    name = one.name.lower()
    if one.is_float:
        if re.fullmatch(r"(sm_|softmax_|bmm1_)?scale", name):
            return 1.0 / math.sqrt(_head_dim(call))
        if name in ("eps", "epsilon", "variance_epsilon"):
            return 1e-6
        if name == "routed_scaling_factor":
            return 2.5
        if re.fullmatch(r"top_?p", name):
            return 0.9
        if re.fullmatch(r"min_?p", name):
            return 0.05
        if "scale" in name or name == "temperature":
            return float(uniform((), 0.5, 1.5, g))
        return None
    if name in ("local_expert_offset", "expert_offset"):
        local = call.num_local_experts
        return one_of(max(1, call.num_experts // local), g) * local
    if re.fullmatch(r"top_?k", name):
        moe = call.num_experts > 1
        return min(8, call.num_experts) if moe else max(1, min(50, call.vocabulary))
    if one.dtype is torch.bool or name.endswith("softplus"):
        return True if name.endswith(("softplus", "l2norm")) else bool(one_of(2, g))
    return None


def _head_dim(call: Call) -> int:
    rotary = call.axis("head_dim_kpe", "qk_rope_head_dim")
    if rotary is not None:
        return _ABSORBED_HEAD_DIM + rotary
    return call.axis("head_dim", "head_size", "head_dim_qk", "headdim", "index_head_dim") or 64
