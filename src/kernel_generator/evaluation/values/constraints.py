"""Arithmetic between axes that a definition's constraints state, solved for small workloads.

Only names of axes, integers, arithmetic and comparisons are understood; other constraints (they
speak of tensors) are what the generators of index structure are for.
"""

from __future__ import annotations

import ast
import operator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_ARITHMETIC: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_COMPARISONS: dict[type[ast.cmpop], Callable[[int, int], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_STEPS = 256
"""How far an axis is raised to satisfy a constraint."""
_ROUNDS = 4


class _NotAboutAxes(Exception):
    """The expression speaks of something else."""


def satisfied(
    axes: Mapping[str, int], free: Sequence[str], constraints: Sequence[str]
) -> dict[str, int] | None:
    """`axes` with the `free` ones changed as little as the constraints ask for.

    Equations are solved for a free axis that stands alone on the left; then free axes are raised,
    in the given order. None where that is not enough.
    """
    made = dict(axes)
    for _ in range(_ROUNDS):
        for constraint in constraints:
            solved = _solved(constraint, made, free)
            if solved is not None:
                made[solved[0]] = solved[1]
        broken = [c for c in constraints if not _holds(c, made)]
        if not broken:
            return made
        for constraint in broken:
            _raise_one(constraint, made, free)
    return made if all(_holds(c, made) for c in constraints) else None


def _raise_one(constraint: str, axes: dict[str, int], free: Sequence[str]) -> None:
    for name in free:
        for more in range(1, _STEPS):
            if _holds(constraint, {**axes, name: axes[name] + more}):
                axes[name] += more
                return


def _solved(
    constraint: str, axes: Mapping[str, int], free: Sequence[str]
) -> tuple[str, int] | None:
    match ast.parse(constraint, mode="eval").body:
        case ast.Compare(left=ast.Name(id=name), ops=[ast.Eq()], comparators=[right]):
            if name not in free:
                return None
            try:
                return name, _value(right, axes)
            except _NotAboutAxes:
                return None
        case _:
            return None


def _holds(constraint: str, axes: Mapping[str, int]) -> bool:
    match ast.parse(constraint, mode="eval").body:
        case ast.Compare(left=left, ops=ops, comparators=comparators):
            try:
                values = [_value(x, axes) for x in (left, *comparators)]
            except _NotAboutAxes:
                return True
            pairs = zip(ops, values[:-1], values[1:], strict=True)
            return all(_COMPARISONS.get(type(op), _any)(a, b) for op, a, b in pairs)
        case _:
            return True


def _any(_a: int, _b: int) -> bool:
    return True


def _value(node: ast.expr, axes: Mapping[str, int]) -> int:
    match node:
        case ast.Constant(value=int(number)):
            return number
        case ast.Name(id=name) if name in axes:
            return axes[name]
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
            divisor = _value(right, axes)
            if divisor == 0 and isinstance(op, ast.FloorDiv | ast.Mod):
                raise _NotAboutAxes
            return _ARITHMETIC[type(op)](_value(left, axes), divisor)
        case _:
            raise _NotAboutAxes
