"""Operations that read their inputs whole, tables that are looked up in aside."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from kernel_generator.evaluation.values.roles import Role
from kernel_generator.evaluation.work.record import Case, NotKnown, Use, Work, work_of

if TYPE_CHECKING:
    import torch

    from kernel_generator.sandbox.arena import Place

_KNOWN = (Role.POSITIONS, Role.TOKEN_IDS, Role.TOP_K, Role.EXPONENT_SCALE)
_GEMM_OPS = r"(gemm|bmm|mm|matmul|linear).*"
_ELEMENT_OPS = r"(.*norm|activation|elementwise|rope|rotary).*"
"""Every element of every input decides an element of an output. Samplers are none of these: one
that trusts its probabilities to sum to 1 may draw, and accept, before it has read a row to the
end."""


def count(case: Case) -> Work:
    """Raises `NotKnown`."""
    integers = [p for p in case.places.values() if not case.call.inputs[p.name].is_float]
    if any(case.role(p) not in _KNOWN for p in integers):
        raise NotKnown("integers of a meaning that is not known here")
    op_type = case.call.op_type
    product = re.fullmatch(_GEMM_OPS, op_type) is not None and not integers
    uses: dict[str, Use] = {}
    for place in case.places.values():
        role = case.role(place)
        if role is Role.ROPE_TABLE and case.call.having(Role.POSITIONS):
            uses[place.name] = _looked_up(place, case.index(Role.POSITIONS))
        elif role is Role.WEIGHT and case.call.having(Role.TOKEN_IDS) and len(place.shape) == 2:
            uses[place.name] = _looked_up(place, case.index(Role.TOKEN_IDS))
        elif place in integers or (product and not _summed_axes(case, place)):
            # What is added to a product (a bias) may be multiplied by zero.
            uses[place.name] = Use(place.nbytes)
        else:
            uses[place.name] = Use(place.nbytes, place.nbytes)
    router = set(case.call.roles.values()) <= {Role.ROUTING_LOGITS, Role.ROUTING_BIAS}
    return work_of(
        case,
        uses,
        certain=product or router or re.fullmatch(_ELEMENT_OPS, op_type) is not None,
        compulsory_operations=_product_operations(case) if product else None,
    )


def _looked_up(table: Place, rows: torch.Tensor | None) -> Use:
    """Distinct rows; none for certain, since halves of a table of rotations may be the same."""
    assert rows is not None
    of = table.shape[0]
    return Use.rows(table, int(rows[(rows >= 0) & (rows < of)].unique().numel()), of, 0)


def _summed_axes(case: Case, place: Place) -> set[str]:
    """Axes that no output has."""
    kept = {a for o in case.definition.outputs.values() for a in o.shape or ()}
    return set(case.axes(place)) - kept


def _product_operations(case: Case) -> int | None:
    """Of one product of two matrices (or stacks of them) with one output; None for anything else.

    Twice the product of all extents.
    """
    factors = [p for p in case.places.values() if len(p.shape) >= 2 and _summed_axes(case, p)]
    if len(factors) != 2 or len(case.places) != 2 or len(case.plan.outputs) != 1:
        return None
    names = set(case.axes(factors[0])) | set(case.axes(factors[1]))
    if _summed_axes(case, factors[0]) != _summed_axes(case, factors[1]):
        return None
    operations = 2
    for name in names:
        if name not in case.call.axes:
            return None
        operations *= case.call.axes[name]
    return operations
