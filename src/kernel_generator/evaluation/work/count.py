"""Which family counts a call."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernel_generator.evaluation.values.call import Call
from kernel_generator.evaluation.values.roles import Role
from kernel_generator.evaluation.work import attention, experts, recurrent, whole
from kernel_generator.evaluation.work.record import Case, NotKnown, Work

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from flashinfer_bench import Definition, Workload

    from kernel_generator.evaluation.inputs import InputPlan


def count_work(
    definition: Definition,
    workload: Workload,
    plan: InputPlan,
    tensors: Mapping[str, torch.Tensor],
) -> Work | None:
    """The least work of the call that has these `tensors` (by input name, on any device; those of
    integers and routing logits are looked at) among its inputs.

    None where the meaning of an index is not known, or its values are not here. Raises
    `InputsUnavailable` where the workload does not fit the definition.
    """
    case = Case(definition, Call.of(definition, workload), plan, tensors)
    try:
        if case.call.having(Role.INTEGER):
            raise NotKnown("an integer tensor of unknown meaning")
        if case.call.having(Role.QUERY):
            return attention.count(case)
        if experts.holds_experts(case):
            return experts.count(case)
        if case.call.having(Role.STATE):
            return recurrent.count(case)
        return whole.count(case)
    except NotKnown:
        return None
