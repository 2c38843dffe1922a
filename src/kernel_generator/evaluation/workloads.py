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

    Workloads that cannot be run here, for their captured tensors are not below `root` or they do
    not fit the definition, come last. Depends on nothing else, so every run splits them alike.
    """
    sizes: dict[str, int] = {}
    for workload in workloads:
        with contextlib.suppress(InputsUnavailable):
            if root is not None:
                check_captured(workload, root)
            sizes[workload.uuid] = call_bytes(plan_call(definition, workload))
    usable = sorted(
        (w for w in workloads if w.uuid in sizes), key=lambda w: (sizes[w.uuid], w.uuid)
    )
    others = sorted((w for w in workloads if w.uuid not in sizes), key=lambda w: w.uuid)
    if len(usable) <= SEARCHED_WORKLOADS:
        room = SEARCHED_WORKLOADS - len(usable)
        return (*usable, *others[:room]), tuple(others[room:])
    last = len(usable) - 1
    picks = {round(i * last / (SEARCHED_WORKLOADS - 1)) for i in range(SEARCHED_WORKLOADS)}
    searched = tuple(usable[i] for i in sorted(picks))
    held_out = (w for i, w in enumerate(usable) if i not in picks)
    return searched, (*held_out, *others)


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
