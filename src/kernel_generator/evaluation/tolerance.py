"""The one table of tolerances: by what a family of operations computes, and in which formats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from kernel_generator.evaluation.compare import Comparison, compare

if TYPE_CHECKING:
    from kernel_generator.evaluation.inputs import InputPlan

__all__ = ["Comparison", "Tolerance", "compare", "tolerance_for", "tolerances_for"]


@dataclass(frozen=True)
class Tolerance:
    """One entry of the table."""

    relative: float
    """a: allowed share of the reference value."""
    of_row_rms: float
    """b: allowed share of the root mean square of the reference's row (its last axis)."""
    relative_l2: float
    """l: allowed relative error of the whole output."""

    def times(self, factor: float) -> Tolerance:
        """Wider by a factor in every respect."""
        return Tolerance(
            self.relative * factor, self.of_row_rms * factor, self.relative_l2 * factor
        )


# Found by measuring the variants in tests/evaluation/test_mutants.py, which prints them. Above
# each entry: what its honest variants need and what its nearest mutant reaches, as largest
# |y - r| / (|r| + rms of row) and relative L2 error. A mutant is rejected by either, so "1 % too
# large" is told by the second and one wrong key of many by the first. Where many more elements
# than a test's are drawn the first grows slowly with their number, the second does not: the first
# leaves the honest variants a factor of about two, and 1.3 to 1.5 for attention with rounded
# scores, which its mutants come closest to.
_TABLE: dict[str, dict[str, Tolerance]] = {
    # All inputs and the output are float32, so nothing may be rounded to less.
    # honest 1.2e-6 and 2.5e-7 (product of matrices, K = 1024)
    # nearest 3.8e-4 and 2.1e-4 (normalising in TF32), 5.4e-4 and 6.7e-5 (attention's P in TF32)
    "float32": {"default": Tolerance(2e-4, 2e-4, 5e-5)},
    # Intermediates may have been rounded to the inputs' format.
    "float32 from 16-bit": {
        # honest 7.0e-3 and 1.7e-3 (softmax rounded before a product, in test_tolerance)
        # nearest 8e-3 and 1e-2 (1 % too large), 9e-2 and 2.7e-2 (an operand in e4m3)
        "default": Tolerance(1e-2, 1e-2, 4e-3),
        # Log-sum-exp. honest 1.4e-3 and 2.1e-4 (rounded scores); nearest 6.8e-3 and 2.2e-3 (scores
        # 1 % too large), 3.9e-2 and 2.0e-3 (keys in e4m3)
        "attention": Tolerance(5e-3, 5e-3, 1e-3),
        # States. honest 4.1e-3 and 1.7e-3 (rounded change, keys longer than one); nearest 7.9e-3
        # and 1e-2 (1 % too large), 5.7e-2 and 2.6e-2 (held in e4m3)
        "recurrence": Tolerance(1e-2, 1e-2, 3e-3),
    },
    "float32 from 8-bit": {
        # as from 16-bit; nearest 3.6e-1 and 1e-1 (an operand in fp4)
        "default": Tolerance(1e-2, 1e-2, 4e-3),
        "attention": Tolerance(5e-3, 5e-3, 1e-3),
    },
    "float16": {
        # honest 1.9e-3 and 5.1e-4, nearest 6.8e-3 and 1.7e-3 (MoE: activation in bfloat16)
        "default": Tolerance(4e-3, 4e-3, 1e-3),
        # honest 7.7e-4 and 3.7e-4, nearest 2.9e-3 and 1.7e-3 (in bfloat16)
        "norm": Tolerance(2e-3, 2e-3, 8e-4),
        # honest 9.3e-4 and 3.0e-4 (split-K), nearest 5.7e-3 and 1.7e-3 (an operand in bfloat16)
        "gemm": Tolerance(3e-3, 3e-3, 8e-4),
        # honest 2.4e-3 and 3.3e-4 (rounded scores), nearest 4.4e-3 and 5.3e-4 (P in bfloat16)
        "attention": Tolerance(3.5e-3, 3.5e-3, 8e-4),
        # honest 1.0e-3 and 3.5e-4, nearest 4.9e-3 and 1.7e-3 (keys rotated in bfloat16)
        "elementwise": Tolerance(2.5e-3, 2.5e-3, 8e-4),
        # honest 1.7e-3 and 3.2e-4 (rounded state times query), nearest 7.6e-3 and 1e-2 (1 %)
        "recurrence": Tolerance(4e-3, 4e-3, 8e-4),
    },
    "bfloat16": {
        # honest 1.3e-2 and 4.0e-3 (MoE: weights, activation, outputs rounded), nearest 1.0e-2 and
        # 1.0e-2 (1 % too large), 1.0e-1 and 2.6e-2 (activation in e4m3)
        "default": Tolerance(3e-2, 3e-2, 7e-3),
        # honest 6.6e-3 and 2.9e-3, nearest 1.2e-2 and 7.4e-3 (mean over an eighth less)
        "norm": Tolerance(1.5e-2, 1.5e-2, 5e-3),
        # honest 8.7e-3 and 2.4e-3 (split-K), nearest 1.1e-2 and 1.0e-2 (1 %), 9.3e-2 and 2.7e-2
        # (an operand in e4m3)
        "gemm": Tolerance(2e-2, 2e-2, 5e-3),
        # honest 1.5e-2 and 2.7e-3 (rounded scores), nearest 3.6e-2 and 4.0e-3, 2.9e-2 and 7.5e-3
        # (scores 1 % too large), 7.4e-2 and 8.8e-3 (P in e4m3)
        "attention": Tolerance(2e-2, 2e-2, 5e-3),
        # honest 8.0e-3 and 2.7e-3, nearest 9.5e-3 and 1.0e-2 (1 %), 7.7e-2 and 2.6e-2 (in e4m3)
        "elementwise": Tolerance(1.5e-2, 1.5e-2, 5e-3),
        # honest 2.0e-2 and 2.6e-3 (rounded state times query), nearest 9.2e-3 and 1.0e-2 (1 %),
        # 7.2e-2 and 2.7e-2 (state held in e4m3)
        "recurrence": Tolerance(3.5e-2, 3.5e-2, 5e-3),
    },
    # Activations between two products may have been rounded to 8 bits again.
    "16-bit from 8-bit": {
        # honest 9.1e-2 and 1.9e-2 (MoE), 9.0e-2 and 1.6e-2 (attention's P); nearest 3.6e-1 and
        # 1.1e-1 (MoE: activation in fp4), 3.4e-1 and 3.8e-2 (P in fp4)
        "default": Tolerance(0.18, 0.18, 4e-2),
        # One product has none. As bfloat16's; nearest 3.6e-1 and 1.0e-1 (an operand in fp4)
        "gemm": Tolerance(2e-2, 2e-2, 5e-3),
    },
    # A value between two of the format's may be rounded to either: a step is 1/8 of it.
    # honest 7.8e-2 and 1.6e-2 (rounded to bfloat16 first), nearest 4.6e-1 and 1.5e-1 (in fp4)
    "e4m3": {"default": Tolerance(0.13, 0.07, 0.05)},
    # As e4m3; a step is 1/4.
    "e5m2": {"default": Tolerance(0.26, 0.07, 0.1)},
}

_FAMILIES = {
    "rmsnorm": "norm",
    "layernorm": "norm",
    "fused_add_rmsnorm": "norm",
    "gemm": "gemm",
    "gqa": "attention",
    "mla": "attention",
    "mha": "attention",
    "dsa": "attention",
    "attention": "attention",
    "activation": "elementwise",
    "rope": "elementwise",
    "gdn": "recurrence",
    "mamba": "recurrence",
}
"""By how a definition's `op_type` begins. Mixtures of experts are what "default" was made for."""

_EIGHT_BIT = {torch.float8_e4m3fn, torch.float8_e5m2}
_SIXTEEN_BIT = {torch.bfloat16, torch.float16}


def tolerance_for(
    output_dtype: torch.dtype, input_dtypes: set[torch.dtype], op_type: str = ""
) -> Tolerance:
    """The table's entry for an output of a definition of `op_type`, given its inputs' dtypes."""
    entries = _TABLE[_formats(output_dtype, input_dtypes)]
    return entries.get(_family(op_type), entries["default"])


def _formats(output: torch.dtype, inputs: set[torch.dtype]) -> str:
    if output in _EIGHT_BIT:
        return "e5m2" if output is torch.float8_e5m2 else "e4m3"
    if output in _SIXTEEN_BIT:
        if inputs & _EIGHT_BIT:
            return "16-bit from 8-bit"
        return "bfloat16" if torch.bfloat16 in {output, *inputs} else "float16"
    if inputs & _EIGHT_BIT:
        return "float32 from 8-bit"
    return "float32 from 16-bit" if inputs & _SIXTEEN_BIT else "float32"


def _family(op_type: str) -> str:
    return next((f for start, f in _FAMILIES.items() if op_type.startswith(start)), "default")


def tolerances_for(plan: InputPlan, op_type: str = "") -> dict[str, Tolerance]:
    """By output name."""
    inputs = {p.torch_dtype for p in plan.inputs if p.scalar is None}
    return {p.name: tolerance_for(p.torch_dtype, inputs, op_type) for p in plan.outputs}
