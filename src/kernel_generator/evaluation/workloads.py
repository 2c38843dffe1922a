"""Which workloads are searched on and which are held out, and how much work each is at least."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernel_generator.domain.task import SEARCHED_WORKLOADS, Floor
from kernel_generator.evaluation.inputs import InputsUnavailable, plan_call

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flashinfer_bench import Definition, Workload

    from kernel_generator.domain.target import Target
    from kernel_generator.evaluation.inputs import InputPlan


def call_bytes(plan: InputPlan) -> int:
    """Bytes of all declared inputs and outputs."""
    return sum(p.nbytes for p in (*plan.inputs, *plan.outputs))


def split_workloads(
    definition: Definition, workloads: Sequence[Workload]
) -> tuple[tuple[Workload, ...], tuple[Workload, ...]]:
    """Searched and held-out workloads: up to four representatives evenly spread over the sizes.

    Depends on nothing but the workloads themselves, so every run splits them alike.
    """

    def size(workload: Workload) -> tuple[int, str]:
        try:
            return call_bytes(plan_call(definition, workload)), workload.uuid
        except InputsUnavailable:
            return 0, workload.uuid

    ordered = sorted(workloads, key=size)
    if len(ordered) <= SEARCHED_WORKLOADS:
        return tuple(ordered), ()
    last = len(ordered) - 1
    picks = {round(i * last / (SEARCHED_WORKLOADS - 1)) for i in range(SEARCHED_WORKLOADS)}
    searched = tuple(ordered[i] for i in sorted(picks))
    return searched, tuple(w for i, w in enumerate(ordered) if i not in picks)


def declared_floor(plan: InputPlan, operations: int | None) -> Floor:
    """The least work of a call.

    With integer tensors among the inputs, indices may decide which bytes are touched and which
    products a kernel can leave out, so only the declared total is known.
    """
    declared = call_bytes(plan)
    indexed = any(
        p.scalar is None and not p.torch_dtype.is_floating_point and p.shape for p in plan.inputs
    )
    return Floor(declared, None, None) if indexed else Floor(declared, declared, operations)


def floor_us(floor: Floor, target: Target, dtypes: set[str]) -> float | None:
    """Microseconds below which no kernel can be, at the target's peak rates; None where unknown."""
    times: list[float] = []
    if floor.compulsory_bytes is not None and target.bandwidth_gb_s:
        times.append(floor.compulsory_bytes / target.bandwidth_gb_s * 1e-3)
    peak = _peak_tflops(target, dtypes)
    if floor.operations and peak:
        times.append(floor.operations / peak * 1e-6)
    return max(times) if times else None


def _peak_tflops(target: Target, dtypes: set[str]) -> float | None:
    """The highest rate among the formats of the call's tensors: no kernel exceeds it."""
    prefixes: list[str] = []
    if dtypes & {"float8_e4m3fn", "float8_e5m2"}:
        prefixes.append("fp8")
    if dtypes & {"bfloat16", "float16"}:
        prefixes += ["bf16", "fp16"]
    if "float32" in dtypes:
        prefixes += ["tf32", "fp32"]
    rates = [r for name, r in target.peak_tflops.items() if name.split()[0] in prefixes]
    return max(rates) if rates else None
