"""One workload's call: extents, roles and the totals that offset arrays have to end at."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

from flashinfer_bench.data import SafetensorsInput
from flashinfer_bench.utils import dtype_str_to_torch_dtype

from kernel_generator.evaluation.inputs import plan_call
from kernel_generator.evaluation.values.record import Profile
from kernel_generator.evaluation.values.roles import Input, Role, role_of

if TYPE_CHECKING:
    from flashinfer_bench import Definition, Workload

EDGE = "edge"
"""First word of the name of a synthetic edge workload; the second is its profile."""
_KEPT = 256
"""Calls of this many workloads are kept parsed: reading a definition takes longer than launching
the kernels that fill a small workload."""
_ENDS_AT = re.compile(r"\s*(\w+)\s*==?\s*(\w+)\s*\[\s*-1\s*\]")


@dataclass(frozen=True)
class Call:
    """What is needed to make values, but no values."""

    op_type: str
    axes: dict[str, int]
    inputs: dict[str, Input]
    roles: dict[str, Role]
    captured: frozenset[str]
    """Inputs that the workload says were captured."""
    ends_at: dict[str, str]
    """By offset array: the axis that its last element equals."""
    profile: Profile
    chooses: bool
    """True where an output is of integers, so that among ties any answer is right."""

    @staticmethod
    def of(definition: Definition, workload: Workload) -> Call:
        """The same for the same two objects, which are not changed meanwhile.

        Raises `InputsUnavailable` where the workload does not fit the definition.
        """
        return _parsed(_Case(definition, workload))

    @staticmethod
    def sketch(definition: Definition, axes: dict[str, int]) -> Call:
        """A call with these extents of the variable axes and nothing captured."""
        return Call.parsed(definition, axes, frozenset(), Profile.RANDOM)

    @staticmethod
    def parsed(
        definition: Definition, axes: dict[str, int], captured: frozenset[str], profile: Profile
    ) -> Call:
        """From its parts: extents of the variable axes, and the inputs that were captured."""
        inputs = {
            name: Input(
                name,
                dtype_str_to_torch_dtype(spec.dtype),
                None if shape is None else tuple(shape),
                tuple(spec.shape or ()),
                spec.description or "",
            )
            for (name, spec), shape in zip(
                definition.inputs.items(), definition.get_input_shapes(axes), strict=True
            )
        }
        op_type = definition.op_type
        found = (_ENDS_AT.match(c) for c in definition.constraints or ())
        return Call(
            op_type,
            {**definition.const_axes, **axes},
            inputs,
            {n: role_of(op_type, i) for n, i in inputs.items() if i.shape is not None},
            captured,
            {m[2]: m[1] for m in found if m is not None},
            profile,
            any("int" in o.dtype.value for o in definition.outputs.values()),
        )

    def having(self, *roles: Role) -> list[Input]:
        """Inputs with one of these roles, in declared order."""
        return [self.inputs[n] for n, r in self.roles.items() if r in roles]

    def first(self, role: Role) -> Input | None:
        """The first input with this role."""
        return next(iter(self.having(role)), None)

    def axis(self, *names: str) -> int | None:
        """Extent of the first of these axes that the definition has."""
        return next((self.axes[n] for n in names if n in self.axes), None)

    @cached_property
    def page_size(self) -> int:
        """Tokens of a page; 1 where nothing is paged."""
        return self.axis("page_size", "page_block_size", "block_size", "kv_page_size") or 1

    @cached_property
    def num_pages(self) -> int:
        """Pages of the cache."""
        named = self.axis("num_pages", "num_blocks", "total_pages", "total_num_pages")
        if named is not None:
            return named
        caches = [i for i in self.inputs.values() if i.shape and "cache" in i.name]
        return max((i.shape[0] for i in caches if i.shape), default=1)

    @cached_property
    def vocabulary(self) -> int:
        """Tokens of the vocabulary, or rows of the table that tokens are looked up in."""
        named = self.axis("vocab_size", "vocab", "vocabulary", "vocabulary_size")
        if named is not None:
            return named
        probs = self.first(Role.PROBS)
        if probs is not None and probs.shape:
            return probs.shape[-1]
        shapes = (i.shape or () for i in self.having(Role.WEIGHT))
        return max((s[0] for s in shapes if len(s) == 2), default=1)

    @cached_property
    def num_experts(self) -> int:
        """Experts that a router chooses among."""
        named = self.axis("num_experts", "num_global_experts", "num_routed_experts", "E")
        logits = self.first(Role.ROUTING_LOGITS)
        if named is None and logits is not None and logits.shape:
            return logits.shape[-1]
        return named or self.axis("num_local_experts") or 1

    @cached_property
    def num_local_experts(self) -> int:
        """Experts whose weights this call holds."""
        return self.axis("num_local_experts", "local_num_experts") or self.num_experts


class _Case:
    """Equal to another of the very same two objects: neither has a hash of its own, and comparing
    what is in them would cost what keeping them saves."""

    def __init__(self, definition: Definition, workload: Workload) -> None:
        self.definition = definition
        self.workload = workload

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, _Case)
            and other.definition is self.definition
            and other.workload is self.workload
        )

    def __hash__(self) -> int:
        return hash((id(self.definition), id(self.workload)))


@lru_cache(maxsize=_KEPT)
def _parsed(case: _Case) -> Call:
    workload = case.workload
    plan_call(case.definition, workload)
    return Call.parsed(
        case.definition,
        workload.axes,
        frozenset(n for n, i in workload.inputs.items() if isinstance(i, SafetensorsInput)),
        _profile(workload.uuid),
    )


def _profile(uuid: str) -> Profile:
    first, *rest = uuid.split("-")
    named = rest[0] if first == EDGE and rest else ""
    return next((p for p in Profile if p.value == named), Profile.RANDOM)
