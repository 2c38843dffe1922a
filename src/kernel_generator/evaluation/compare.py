"""Compares what a candidate wrote with what it should have written.

A value y is accepted for a reference value r iff |y - r| <= a |r| + b rms(row of r), for every
element, and ||y - r|| / ||r|| <= l over the output of one call. Several calls that are compared
together are found as if each were compared alone. The reference may be wider than the output
(float64 for bfloat16): rounding it to the output's dtype is then within any tolerance, also where
it overflows to infinity or underflows. NaN and infinity must stand where the reference has them,
and nowhere else. Integers and booleans must be equal, except where the reference leaves an index
open (`upcast.undecided`). All tensors of one comparison are on one device, whichever.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from kernel_generator.domain.evaluation import Mismatch
from kernel_generator.sandbox.upcast import undecided

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kernel_generator.evaluation.tolerance import Tolerance

_EPSILON = 1e-8
"""FlashInfer-Bench's, in its relative error."""
_CHUNK = {"cpu": 1 << 15, "cuda": 1 << 25}
"""Elements looked at together: on a CPU what its caches hold and one thread does (waking others
for each pass costs more than they bring), on a GPU what hides its launches."""
_MAY_BE_UNDECIDED = (torch.int32, torch.int64)
_FLUSHED = (torch.float32, torch.bfloat16)
"""Kernels may flush these formats' subnormal numbers to zero, as CUDA's fast arithmetic does."""


@dataclass(frozen=True)
class Comparison:
    """How one output compares with the reference."""

    mismatch: Mismatch | None
    max_absolute_error: float
    """FlashInfer-Bench's figure, in float32."""
    max_relative_error: float
    """FlashInfer-Bench's figure, in float32."""


def compare(
    name: str,
    got: torch.Tensor,
    expected: torch.Tensor,
    tolerance: Tolerance,
    ordinary: torch.Tensor | None = None,
) -> Comparison:
    """Compare an output with a reference of its shape.

    `expected` is what decides. FlashInfer-Bench's figures are taken against `ordinary`, the
    reference's output in the output's own dtype, where it is given.
    """
    if expected.numel() == 0:
        return Comparison(None, 0.0, 0.0)
    upstream = _UpstreamErrors()
    rows, target = _rows(got), _rows(expected if ordinary is None else ordinary)
    for at in _chunks(rows):
        upstream.add(rows[at], target[at])
    mismatch = find_mismatch(name, got, expected, tolerance)
    return Comparison(mismatch, upstream.absolute, upstream.relative)


def find_mismatch(
    name: str, got: torch.Tensor, expected: torch.Tensor, tolerance: Tolerance
) -> Mismatch | None:
    """What `compare` decides, without FlashInfer-Bench's figures."""
    if expected.numel() == 0:
        return None
    if expected.dtype.is_floating_point:
        return _compare_floats(name, got, expected, tolerance)
    return _compare_exact(name, got, expected)


def find_wrong_call(
    name: str, got: torch.Tensor, expected: torch.Tensor, tolerance: Tolerance
) -> Mismatch | None:
    """What `find_mismatch` says of the first call that is wrong, of several one behind the other,
    [calls, *shape of the output]."""
    if expected.numel() == 0 or _all_accepted(got, expected, tolerance):
        return None
    calls = zip(got, expected, strict=True)
    found = (find_mismatch(name, *call, tolerance) for call in calls)
    return next((mismatch for mismatch in found if mismatch is not None), None)


def _all_accepted(got: torch.Tensor, expected: torch.Tensor, tolerance: Tolerance) -> bool:
    """Whether each call is, in as few passes over all of them as can be."""
    if not expected.dtype.is_floating_point:
        return not bool(_unequal(got, expected).any())
    calls = len(expected)
    # A call's only value is a row of its own.
    shape = expected.shape if expected.dim() > 1 else (calls, 1)
    return _measure(_rows(got.reshape(shape)), _rows(expected.reshape(shape)), tolerance, calls)[0]


def _rows(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.reshape(-1, tensor.shape[-1]) if tensor.dim() else tensor.reshape(1, 1)


def _chunks(rows: torch.Tensor, calls: int = 1) -> Iterator[slice]:
    """Of several calls' rows some whole calls at a time, or a part of one."""
    height = max(1, _CHUNK.get(rows.device.type, _CHUNK["cuda"]) // rows.shape[1])
    of_call = rows.shape[0] // calls
    whole = max(of_call, height - height % of_call)
    for first in range(0, rows.shape[0], whole):
        last = min(first + whole, rows.shape[0])
        # More than a chunk holds is one call.
        step = whole if whole <= height else height
        for start in range(first, last, step):
            yield slice(start, min(start + step, last))


# -- floats ----------------------------------------------------------------------------------------


def _compare_floats(
    name: str, got: torch.Tensor, expected: torch.Tensor, tolerance: Tolerance
) -> Mismatch | None:
    rows, target = _rows(got), _rows(expected)
    accepted, norm, distance = _measure(rows, target, tolerance)
    if accepted:
        return None
    # Wrong: what follows may cost more, and holds masks of the whole output.
    again = [_Judged(rows[at], target[at], tolerance, torch.float64) for at in _chunks(rows)]
    wrong = torch.cat([j.wrong() for j in again]).reshape(expected.shape)
    worst = torch.cat([j.badness() for j in again]).reshape(expected.shape)
    relative_l2 = distance / norm if norm else (0.0 if distance == 0.0 else math.inf)
    return _mismatch(name, got, expected, wrong, worst, relative_l2)


def _measure(
    rows: torch.Tensor, target: torch.Tensor, tolerance: Tolerance, calls: int = 1
) -> tuple[bool, float, float]:
    """Whether every call is accepted; and of all of them together the norm of the reference and of
    the error. Each call has as many rows."""
    of_call = rows.shape[0] // calls
    slack = _smallest(rows.dtype) * math.sqrt(of_call * rows.shape[1])
    accepted = True
    squares, errors = ([0.0] * calls for _ in range(2))
    for at in _chunks(rows, calls):
        height = at.stop - at.start
        found = _judge(rows[at], target[at], tolerance, max(1, height // of_call))
        accepted = accepted and found.accepted
        for call, (norm, distance) in enumerate(found.figures, at.start // of_call):
            squares[call] += norm**2
            errors[call] += distance**2
    for norm, distance in zip(squares, errors, strict=True):
        within = math.sqrt(distance) <= tolerance.relative_l2 * math.sqrt(norm) + slack
        accepted = accepted and within
    return accepted, math.sqrt(math.fsum(squares)), math.sqrt(math.fsum(errors))


def _judge(got: torch.Tensor, expected: torch.Tensor, tolerance: Tolerance, calls: int) -> _Judged:
    if got.dtype is not torch.float32 and got.dtype is not torch.float64:
        # Precise enough by far for narrower outputs, and quicker. Small squares that vanish only
        # tighten what is accepted, and what is not accepted is looked at again.
        quick = _Judged(got, expected, tolerance, torch.float32, calls)
        if quick.ordinary and quick.accepted:
            return quick
    return _Judged(got, expected, tolerance, torch.float64, calls)


class _Judged:
    """Some rows, judged, in as few passes as can be over what is accepted."""

    def __init__(
        self,
        got: torch.Tensor,
        expected: torch.Tensor,
        tolerance: Tolerance,
        work: torch.dtype,
        calls: int = 1,
    ) -> None:
        """They are those of so many calls, or of a part of one."""
        reference = expected.to(work)
        self._got, self._reference = got.to(work), reference
        largest = torch.finfo(got.dtype).max
        columns = reference.shape[1]
        norms = torch.linalg.vector_norm(reference, dim=1, keepdim=True)
        self._error = (self._got - reference).abs_()
        self.figures = _figures(norms, self._error, calls)
        """Norm of the reference and of the error, of each call."""
        # One comparison for all: no norm is finite, or that small, if an element is not.
        self.ordinary = all(
            math.isfinite(distance) and norm <= largest for norm, distance in self.figures
        )
        if not self.ordinary:
            reference = torch.where(reference.isfinite(), reference, 0.0).clamp_(-largest, largest)
            norms = torch.linalg.vector_norm(reference, dim=1, keepdim=True)
            self.figures = _figures(norms, self._error, calls)
        of_rows = (norms * (tolerance.of_row_rms / math.sqrt(columns))).add_(_smallest(got.dtype))
        self._allowed = reference.abs().mul_(tolerance.relative).add_(of_rows)
        within = self._error <= self._allowed
        self._within = within if self.ordinary else self._with_special_values(within, largest)
        self.accepted = bool(self._within.all())
        if not self.ordinary:
            matched = self._within & ~(self._reference.isfinite() & self._got.isfinite())
            self._error.masked_fill_(matched, 0.0)
            self.figures = _figures(norms, self._error, calls)

    def _with_special_values(self, within: torch.Tensor, largest: float) -> torch.Tensor:
        got, reference = self._got, self._reference
        # What rounding to the output's dtype may have made infinite, or NaN without infinities.
        overflow = reference.isfinite() & (reference.abs() + self._allowed > largest)
        infinite = (got.isinf() & (got.sign() == reference.sign())) | (
            got.isnan() if largest <= torch.finfo(torch.float8_e4m3fn).max else False
        )
        same = torch.where(reference.isnan(), got.isnan(), got == reference)
        return torch.where(reference.isfinite(), within | (overflow & infinite), same)

    def wrong(self) -> torch.Tensor:
        """Which elements are not accepted."""
        return ~self._within

    def badness(self) -> torch.Tensor:
        """How far off each element is; infinitely, where NaN or infinity is at fault."""
        return self._error.nan_to_num(nan=math.inf, posinf=math.inf)


def _figures(
    norms: torch.Tensor, error: torch.Tensor, calls: int
) -> tuple[tuple[float, float], ...]:
    of_calls = (torch.linalg.vector_norm(x.reshape(calls, -1), dim=1) for x in (norms, error))
    found: list[tuple[float, float]] = torch.stack(tuple(of_calls), dim=1).tolist()
    return tuple((norm, distance) for norm, distance in found)


def _smallest(dtype: torch.dtype) -> float:
    """An error that rounding makes of values next to zero, however small they are."""
    info = torch.finfo(dtype)
    return info.smallest_normal * (1.0 if dtype in _FLUSHED else info.eps)


# -- integers and booleans -------------------------------------------------------------------------


def _compare_exact(name: str, got: torch.Tensor, expected: torch.Tensor) -> Mismatch | None:
    wrong = _unequal(got, expected)
    if not bool(wrong.any()):
        return None
    distance = (got.to(torch.float64) - expected.to(torch.float64)).abs().masked_fill_(~wrong, 0.0)
    norm = float(expected.to(torch.float64).norm())
    relative_l2 = float(distance.norm()) / norm if norm else math.inf
    return _mismatch(name, got, expected, wrong, distance, relative_l2)


def _unequal(got: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    wrong = got != expected
    if expected.dtype in _MAY_BE_UNDECIDED:
        wrong &= expected != undecided(expected.dtype)
    return wrong


# -- FlashInfer-Bench's figures --------------------------------------------------------------------


class _UpstreamErrors:
    """FlashInfer-Bench 0.1.2's `compute_error_stats`: both in float32, epsilon 1e-8."""

    def __init__(self) -> None:
        self.absolute = 0.0
        self.relative = 0.0

    def add(self, got: torch.Tensor, expected: torch.Tensor) -> None:
        """Take some rows into the maxima."""
        x, y = got.to(torch.float32), expected.to(torch.float32)
        absolute = (x - y).abs_()
        largest = float(absolute.max())
        if not math.isfinite(largest):
            # inf - inf is NaN although the two agree; upstream would have failed such outputs.
            absolute = torch.where((x == y) | (x.isnan() & y.isnan()), 0.0, absolute)
            largest = float(absolute.max())
        relative = absolute.div_(y.abs().add_(_EPSILON))
        worst = float(relative.max())
        if not math.isfinite(worst):
            worst = float(relative.nan_to_num_(posinf=math.inf).max())
        self.absolute = _larger(self.absolute, largest)
        self.relative = _larger(self.relative, worst)


def _larger(a: float, b: float) -> float:
    """The maximum, NaN if there is one, as torch's is."""
    return max(a, b) if a == a and b == b else math.nan  # noqa: PLR0124 - NaN is not itself


# -- what is said of a mismatch --------------------------------------------------------------------


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
