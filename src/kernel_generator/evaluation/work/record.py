"""What is counted, and the call that it is counted for."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flashinfer_bench import Definition

    from kernel_generator.evaluation.inputs import InputPlan
    from kernel_generator.evaluation.values.call import Call
    from kernel_generator.evaluation.values.roles import Input, Role
    from kernel_generator.sandbox.arena import Place

_ABOUT_TENSORS = {
    "shape", "device", "dtype", "size", "dim", "ndim", "numel", "stride", "is_cuda", "layout",
}  # fmt: skip
"""Attributes that tell of a tensor without reading its elements."""


class NotKnown(Exception):
    """What the call touches cannot be told from its indices."""


@dataclass(frozen=True)
class Work:
    """The least work of one call."""

    moved_bytes: int
    """Inputs that are touched, each byte once, and all outputs."""
    compulsory_bytes: int | None
    """Of the inputs: what any right kernel has to read, whatever the floats. None where that is
    not certain for the family."""
    operations: int | None
    """Floating-point operations of matrix products, a multiply-add as two; None where the family
    has no count of its own."""
    compulsory_operations: int | None = None
    """Those that no right kernel leaves out."""


@dataclass(frozen=True)
class Use:
    """Bytes of one input."""

    touched: int
    certain: int = 0
    """At most `touched`."""

    @staticmethod
    def rows(place: Place, touched: int, of: int, certain: int | None = None) -> Use:
        """`touched` of the `of` rows that the tensor consists of, `certain` (all of them if not
        given) for certain."""
        sure = touched if certain is None else certain
        return Use(_part(place.nbytes, touched, of), _part(place.nbytes, sure, of))


def _part(nbytes: int, rows: int, of: int) -> int:
    return nbytes * min(rows, of) // of if of else 0


@dataclass(frozen=True)
class Case:
    """One call with the values of its index tensors."""

    definition: Definition
    call: Call
    plan: InputPlan
    tensors: Mapping[str, torch.Tensor]

    @property
    def places(self) -> dict[str, Place]:
        """Tensor inputs by name."""
        return {p.name: p for p in self.plan.inputs if p.name in self.call.roles}

    def role(self, place: Place) -> Role:
        """What the input means."""
        return self.call.roles[place.name]

    def axes(self, place: Place) -> tuple[str, ...]:
        """Names of its axes."""
        return self.call.inputs[place.name].axes

    def only(self, role: Role) -> Input | None:
        """The input with this role. Raises `NotKnown` where there are several."""
        found = self.call.having(role)
        if len(found) > 1:
            raise NotKnown(f"several inputs are {role.name}")
        return found[0] if found else None

    def index(self, role: Role) -> torch.Tensor | None:
        """The values of the only input with this role, int64 on the CPU; None without one.

        Raises `NotKnown` where there are several, or the values were not given.
        """
        one = self.only(role)
        return None if one is None else self.values(one).to(torch.int64)

    def values(self, one: Input) -> torch.Tensor:
        """Raises `NotKnown` where they were not given, or not in the declared shape."""
        value = self.tensors.get(one.name)
        if value is None or tuple(value.shape) != one.shape:
            raise NotKnown(f"the values of '{one.name}' are not here")
        return value.detach().cpu()

    def scalar(self, *names: str) -> float | None:
        """The first of these scalar inputs that the call has."""
        values = {p.name: p.scalar for p in self.plan.inputs if p.scalar is not None}
        return next((float(values[n]) for n in names if n in values), None)


def work_of(
    case: Case,
    uses: Mapping[str, Use],
    *,
    certain: bool,
    operations: int | None = None,
    compulsory_operations: int | None = None,
) -> Work:
    """The sum of `uses` (inputs that the reference never reads aside) and all outputs.

    `certain` False: the family is not one of which it is known what a kernel has to read.
    """
    read = inputs_read(case.definition)
    # Four-bit formats: how many elements a byte of the declared shape holds, definitions differ.
    packed = any(p.torch_dtype is torch.float4_e2m1fn_x2 for p in case.places.values())
    empty = any(p.nbytes == 0 for p in case.plan.outputs)
    certain = certain and read is not None and not packed and not empty
    counted = {n: u for n, u in uses.items() if read is None or n in read}
    return Work(
        sum(u.touched for u in counted.values()) + sum(p.nbytes for p in case.plan.outputs),
        sum(u.certain for u in counted.values()) if certain else None,
        operations,
        compulsory_operations if certain else None,
    )


def inputs_read(definition: Definition) -> frozenset[str] | None:
    """Inputs whose elements the reference looks at, beyond their shape, device and dtype, outside
    assertions; None where its signature does not tell which inputs are which."""
    module = ast.parse(definition.reference)
    run = next(n for n in module.body if isinstance(n, ast.FunctionDef) and n.name == "run")
    parameters = [a.arg for a in (*run.args.posonlyargs, *run.args.args)]
    if len(parameters) != len(definition.inputs):
        return None
    found: set[str] = set()
    waiting: list[ast.AST] = list(run.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Assert):
            continue
        match node:
            case ast.Attribute(value=ast.Name(), attr=attribute) if attribute in _ABOUT_TENSORS:
                continue
            case ast.Name(id=name, ctx=ast.Load()):
                found.add(name)
            case _:
                waiting.extend(ast.iter_child_nodes(node))
    return frozenset(
        name for name, own in zip(definition.inputs, parameters, strict=True) if own in found
    )
