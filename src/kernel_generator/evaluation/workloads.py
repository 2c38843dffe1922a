"""Which workloads are searched on and which are held out, and how much work each is at least."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from kernel_generator.domain.task import SEARCHED_WORKLOADS, Floor
from kernel_generator.evaluation.inputs import InputsUnavailable, check_captured, plan_call

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from flashinfer_bench import Definition, Workload

    from kernel_generator.evaluation.inputs import InputPlan


def call_bytes(plan: InputPlan) -> int:
    """Bytes of all declared inputs and outputs."""
    return sum(p.nbytes for p in (*plan.inputs, *plan.outputs))


def split_workloads(
    definition: Definition, workloads: Sequence[Workload], root: Path | None = None
) -> tuple[tuple[Workload, ...], tuple[Workload, ...]]:
    """Searched and held-out workloads: up to four representatives evenly spread over the sizes.

    Those whose captured tensors are not below `root`, and are made up for it, are searched on where
    there are too few others; those that do not fit the definition come last. Depends on nothing
    else, so every run splits them alike.
    """
    sizes: dict[str, int] = {}
    missing: set[str] = set()
    for workload in workloads:
        with contextlib.suppress(InputsUnavailable):
            sizes[workload.uuid] = call_bytes(plan_call(definition, workload))
        try:
            if root is not None:
                check_captured(workload, root)
        except InputsUnavailable:
            missing.add(workload.uuid)
    in_order = sorted(workloads, key=lambda w: (sizes.get(w.uuid, 0), w.uuid))
    fitting = [w for w in in_order if w.uuid in sizes]
    searched: list[Workload] = []
    held_out: list[Workload] = []
    for some in (
        [w for w in fitting if w.uuid not in missing],
        [w for w in fitting if w.uuid in missing],
        [w for w in in_order if w.uuid not in sizes],
    ):
        picks = _spread(len(some), SEARCHED_WORKLOADS - len(searched))
        searched += [w for i, w in enumerate(some) if i in picks]
        held_out += [w for i, w in enumerate(some) if i not in picks]
    return tuple(searched), tuple(held_out)


def _spread(length: int, count: int) -> set[int]:
    """At most `count` indices, evenly spread over a sequence, both ends among them."""
    if count < 2 or length <= count:
        return set(range(length)[:count])
    return {round(i * (length - 1) / (count - 1)) for i in range(count)}


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
