"""The one table of tolerances, and the comparison that uses it.

A value y is accepted for a reference value r iff |y - r| <= a |r| + b rms(row of r), for every
element, and ||y - r|| / ||r|| <= l over the output. NaN and infinity must stand where the reference
has them. Integers and booleans must be equal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from kernel_generator.domain.evaluation import Mismatch

if TYPE_CHECKING:
    from kernel_generator.evaluation.inputs import InputPlan

_EPSILON = 1e-8
"""FlashInfer-Bench's, in its relative error."""


@dataclass(frozen=True)
class Tolerance:
    """One entry of the table."""

    relative: float
    """a: allowed share of the reference value."""
    of_row_rms: float
    """b: allowed share of the root mean square of the reference's row (its last axis)."""
    relative_l2: float
    """l: allowed relative error of the whole output."""


# Each entry accepts intermediates rounded to the inputs' format and a re-ordered sum, and rejects
# computing in the next format below (fp8 for 16-bit floats: relative L2 of 2-4 %; TF32 for float32:
# 3e-4), zeros, and a missing last tile of a row. tests/evaluation/test_tolerance.py holds the
# mutants.
_TABLE: dict[str, Tolerance] = {
    "float32": Tolerance(5e-4, 5e-4, 1e-4),
    # float32 outputs of 16-bit inputs: intermediates may have been rounded to the inputs' format.
    "float32 from 16-bit": Tolerance(1e-2, 1e-2, 4e-3),
    "float16": Tolerance(4e-3, 4e-3, 2e-3),
    "bfloat16": Tolerance(2e-2, 2e-2, 1e-2),
    "8-bit": Tolerance(0.13, 0.07, 0.05),
}


def tolerance_for(output_dtype: torch.dtype, input_dtypes: set[torch.dtype]) -> Tolerance:
    """The table's entry for an output, given the dtypes of the call's inputs."""
    eight_bit = {torch.float8_e4m3fn, torch.float8_e5m2}
    if output_dtype in eight_bit:
        return _TABLE["8-bit"]
    if output_dtype is torch.bfloat16:
        return _TABLE["bfloat16"]
    if output_dtype is torch.float16:
        return _TABLE["float16"]
    if input_dtypes & ({torch.bfloat16, torch.float16} | eight_bit):
        return _TABLE["float32 from 16-bit"]
    return _TABLE["float32"]


def tolerances_for(plan: InputPlan) -> dict[str, Tolerance]:
    """By output name."""
    inputs = {p.torch_dtype for p in plan.inputs if p.scalar is None}
    return {p.name: tolerance_for(p.torch_dtype, inputs) for p in plan.outputs}


@dataclass(frozen=True)
class Comparison:
    """How one output compares with the reference."""

    mismatch: Mismatch | None
    max_absolute_error: float
    """FlashInfer-Bench's figure, in float32."""
    max_relative_error: float
    """FlashInfer-Bench's figure, in float32."""


def compare(
    name: str, got: torch.Tensor, expected: torch.Tensor, tolerance: Tolerance
) -> Comparison:
    """Compare two tensors of the same shape and dtype on the CPU."""
    if expected.numel() == 0:
        return Comparison(None, 0.0, 0.0)
    if not expected.dtype.is_floating_point:
        return _compare_exact(name, got, expected)
    y, r = got.to(torch.float64), expected.to(torch.float64)
    finite = torch.isfinite(r)
    same_special = torch.where(torch.isnan(r), torch.isnan(y), y == r)
    safe_r = torch.where(finite, r, 0.0)
    error = torch.where(finite, (y - r).abs(), 0.0)
    rows = safe_r.reshape(-1, safe_r.shape[-1]) if safe_r.dim() else safe_r.reshape(1, 1)
    rms = rows.pow(2).mean(dim=-1, keepdim=True).sqrt()
    allowed = tolerance.relative * rows.abs() + tolerance.of_row_rms * rms
    # A NaN error compares false with everything, so "not within" counts it as wrong.
    within = (error.reshape(rows.shape) <= allowed).reshape(r.shape)
    wrong = ~torch.where(finite, within, same_special)
    norm = float(safe_r.norm())
    distance = float(error.norm())
    relative_l2 = distance / norm if norm else (0.0 if distance == 0.0 else float("inf"))
    absolute, relative = _upstream_errors(got, expected)
    if not bool(wrong.any()) and relative_l2 <= tolerance.relative_l2:
        return Comparison(None, absolute, relative)
    worst = torch.where(finite & ~torch.isnan(error), error, torch.where(wrong, torch.inf, 0.0))
    return Comparison(_mismatch(name, got, expected, wrong, worst, relative_l2), absolute, relative)


def _compare_exact(name: str, got: torch.Tensor, expected: torch.Tensor) -> Comparison:
    wrong = got != expected
    absolute, relative = _upstream_errors(got, expected)
    if not bool(wrong.any()):
        return Comparison(None, absolute, relative)
    distance = (got.to(torch.float64) - expected.to(torch.float64)).abs()
    norm = float(expected.to(torch.float64).norm())
    relative_l2 = float(distance.norm()) / norm if norm else float("inf")
    return Comparison(
        _mismatch(name, got, expected, wrong, distance, relative_l2), absolute, relative
    )


def _upstream_errors(got: torch.Tensor, expected: torch.Tensor) -> tuple[float, float]:
    """FlashInfer-Bench 0.1.2's `compute_error_stats`: both in float32, epsilon 1e-8."""
    x, y = got.to(torch.float32), expected.to(torch.float32)
    absolute = (x - y).abs()
    # inf - inf is NaN although the two agree; upstream would have failed such outputs outright.
    absolute = torch.where((x == y) | (torch.isnan(x) & torch.isnan(y)), 0.0, absolute)
    relative = absolute / (y.abs() + _EPSILON)
    return float(absolute.max()), float(torch.nan_to_num(relative, posinf=float("inf")).max())


def _mismatch(
    name: str,
    got: torch.Tensor,
    expected: torch.Tensor,
    wrong: torch.Tensor,
    distance: torch.Tensor,
    relative_l2: float,
) -> Mismatch:
    count = int(wrong.sum())
    flat_first = int(wrong.reshape(-1).to(torch.uint8).argmax()) if count else 0
    flat_worst = int(distance.reshape(-1).argmax())
    return Mismatch(
        output=name,
        wrong=count,
        total=expected.numel(),
        first_index=_index(flat_first, expected.shape),
        first_got=float(got.reshape(-1)[flat_first]),
        first_expected=float(expected.reshape(-1)[flat_first]),
        worst_index=_index(flat_worst, expected.shape),
        worst_got=float(got.reshape(-1)[flat_worst]),
        worst_expected=float(expected.reshape(-1)[flat_worst]),
        relative_l2=relative_l2,
        note=_note(got, wrong, count),
    )


def _index(flat: int, shape: torch.Size) -> tuple[int, ...]:
    index: list[int] = []
    for extent in reversed(shape):
        index.append(flat % extent)
        flat //= extent
    return tuple(reversed(index))


def _note(got: torch.Tensor, wrong: torch.Tensor, count: int) -> str:
    raw = got.contiguous().reshape(-1).view(torch.uint8)
    if bool((raw == 0xFF).all()):
        return "never written"
    if bool((raw == 0).all()):
        return "all zeros"
    if got.dtype.is_floating_point:
        nans = int(torch.isnan(got.to(torch.float32)).sum())
        if nans:
            return f"{nans} NaN (outputs hold NaN before the call, so some may be unwritten)"
    if count == 0:
        return "every element is within its own tolerance, but the error of the whole is not"
    if got.dim() >= 2:
        rows = wrong.reshape(-1, wrong.shape[-1])
        bad_rows, bad_columns = rows.any(dim=1), rows.any(dim=0)
        if int(bad_rows.sum()) * 4 <= rows.shape[0]:
            return f"only {int(bad_rows.sum())} of {rows.shape[0]} rows are affected"
        if int(bad_columns.sum()) * 4 <= rows.shape[1]:
            first = int(bad_columns.to(torch.uint8).argmax())
            return (
                f"only {int(bad_columns.sum())} of {rows.shape[1]} columns are affected, "
                f"from column {first} on"
            )
    return ""
