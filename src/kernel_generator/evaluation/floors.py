"""How fast a workload can be: what a kernel is held against, and what is not believed.

The refusing floor is no higher than the time of any right kernel on any product that the target's
name stands for, and never above the shown one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernel_generator.domain.evaluation import Floors
from kernel_generator.evaluation.work import count_work

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    import torch
    from flashinfer_bench import Definition, Workload

    from kernel_generator.domain.target import Target
    from kernel_generator.evaluation.inputs import InputPlan
    from kernel_generator.evaluation.work import Work

COPY_SHARE = 0.9
"""Of a GPU's peak bandwidth, where its copies were not measured: an H100's move 3.0 of 3.35
TB/s."""
PRODUCT_SHARE = 0.8
"""Of a GPU's dense peak, where its matrix products were not measured: an H100's reach about 800 of
989 TFLOP/s in bfloat16, where power limits the clock."""
CLOCK_HEADROOM = 1.2
"""Data sheets give rates at a typical boost clock, which short kernels exceed: 1.98 GHz against
1.83 on an H100, 2.9 against 2.52 on an RTX 4090."""


def find_floors(
    definition: Definition,
    workload: Workload,
    plan: InputPlan,
    tensors: Mapping[str, torch.Tensor],
    target: Target,
    operations: int | None,
) -> Floors:
    """The floors of one call on `target`.

    `tensors`: this call's inputs by name, on any device; of integers and routing logits the values
    are looked at, others may be left out. `operations`: floating-point operations that torch
    counts in the reference, None where it counts none; used where no integers decide which of
    them matter. Other values of the same workload may have other floors, see `least_of`. The
    refusing floor holds for the ordinary sizes of floats that kernels are timed with.

    Raises `InputsUnavailable` where the workload does not fit the definition.
    """
    work = count_work(definition, workload, plan, tensors)
    if work is None:
        return Floors()
    own = work.operations
    counted = operations if own is None and not _has_integers(plan) else own
    dtypes = {p.dtype for p in (*plan.inputs, *plan.outputs) if p.scalar is None}
    times = (
        _us(_from_memory(work.moved_bytes, target), _copy_gb_s(target), 1e-3),
        _us(counted, _rate(target, dtypes, _measured), 1e-6),
    )
    return Floors(
        shown_us=max((t for t in times if t is not None), default=None),
        refusing_us=_refusing_us(work, operations, target, dtypes),
    )


def least_of(floors: Iterable[Floors]) -> Floors:
    """Floors that hold for every one of several sets of inputs; None where one of them is."""
    every = list(floors)
    return Floors(
        shown_us=_least(f.shown_us for f in every),
        refusing_us=_least(f.refusing_us for f in every),
    )


def _least(values: Iterable[float | None]) -> float | None:
    every = list(values)
    known = [v for v in every if v is not None]
    return min(known) if known and len(known) == len(every) else None


def _refusing_us(work: Work, counted: int | None, target: Target, dtypes: set[str]) -> float | None:
    # Rates of a CPU are measured, on cores that others share, and its caches outlive a call.
    if not target.is_gpu or work.compulsory_bytes is None:
        return None
    peak_gb_s = max(target.bandwidth_gb_s, target.ceiling_gb_s or 0.0)
    times = [_us(work.compulsory_bytes, peak_gb_s, 1e-3)]
    if work.compulsory_operations is not None and counted is not None:
        # Two counts have to agree before a time is refused on their account.
        operations = min(work.compulsory_operations, counted)
        times.append(_us(operations, CLOCK_HEADROOM * _rate(target, dtypes, _ceiling), 1e-6))
    return max((t for t in times if t is not None), default=None)


def _us(amount: int | None, rate: float, scale: float) -> float | None:
    """None for a rate or an amount that is not known, or is nothing."""
    return amount / rate * scale if amount and rate else None


def _from_memory(moved: int, target: Target) -> int | None:
    """None where a CPU's caches may hold all of it. A GPU's are flushed before each call."""
    in_cache = not target.is_gpu and moved < 2 * target.l2_mib * 2**20
    return None if in_cache else moved


def _copy_gb_s(target: Target) -> float:
    if target.copy_gb_s is not None:
        return target.copy_gb_s
    # A CPU's bandwidth is that of a copy on this machine already.
    return target.bandwidth_gb_s * (COPY_SHARE if target.is_gpu else 1.0)


def _measured(target: Target, form: str) -> float:
    known = target.measured_tflops.get(form)
    if known is not None:
        return known
    return target.peak_tflops[form] * (PRODUCT_SHARE if target.is_gpu else 1.0)


def _ceiling(target: Target, form: str) -> float:
    return max(target.peak_tflops[form], target.ceiling_tflops.get(form, 0.0))


def _rate(target: Target, dtypes: set[str], rate: Callable[[Target, str], float]) -> float:
    """The highest rate, TFLOP/s, among the formats of the call's tensors, 0 where none is known:
    no kernel exceeds it without computing in a format that the tolerances turn away."""
    prefixes: set[str] = set()
    if dtypes & {"float8_e4m3fn", "float8_e5m2"}:
        prefixes.add("fp8")
    if dtypes & {"bfloat16", "float16"}:
        prefixes |= {"bf16", "fp16"}
    if "float32" in dtypes:
        prefixes |= {"tf32", "fp32"}
    if "float4_e2m1fn_x2" in dtypes:
        prefixes.add("fp4")
    forms = [f for f in target.peak_tflops if f.split()[0] in prefixes]
    return max((rate(target, f) for f in forms), default=0.0)


def _has_integers(plan: InputPlan) -> bool:
    return any(
        p.scalar is None and not p.torch_dtype.is_floating_point and p.shape for p in plan.inputs
    )
