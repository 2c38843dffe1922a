"""Reads out of a reference which product of its two inputs it is, if it is nothing else.

Symbolic: every value is a product of inputs, transposed or not, with its axes by name; whatever is
not understood makes the answer None, so a product that is found is the whole reference.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flashinfer_bench.data import Definition

_FLOATS = frozenset({"float16", "half", "bfloat16", "float32", "float", "float64", "double"})
_CASTS = frozenset({"float", "half", "bfloat16", "double"})
_SAME = frozenset({"contiguous", "clone", "detach"})
_PRODUCTS = frozenset({"matmul", "mm"})
_LIBRARIES = frozenset({"torch", "F"})
_TRANSPOSED = frozenset({"T", "mT"})


@dataclass(frozen=True)
class Factor:
    """One side of a product."""

    index: int
    """Position among the definition's inputs."""
    transposed: bool


@dataclass(frozen=True)
class Product:
    """`left @ right`."""

    left: Factor
    right: Factor


@dataclass(frozen=True)
class _Value:
    """A matrix: its factors from left to right, and its two axes."""

    factors: tuple[Factor, ...]
    axes: tuple[str, str]

    @property
    def transposed(self) -> _Value:
        factors = tuple(Factor(f.index, not f.transposed) for f in reversed(self.factors))
        return _Value(factors, (self.axes[1], self.axes[0]))


class _NotUnderstood(Exception):
    """The reference does something that is no product, cast or transposition."""


def product_of(definition: Definition) -> Product | None:
    """The product that the definition's reference computes from its two inputs into its one output,
    up to rounding in between; None where it computes anything else, or that cannot be told."""
    matrices = [*definition.inputs.values(), *definition.outputs.values()]
    shapes = [tuple(spec.shape or ()) for spec in matrices]
    if len(definition.inputs) != 2 or len(shapes) != 3 or any(len(s) != 2 for s in shapes):
        return None
    try:
        run = _function(ast.parse(definition.reference))
        names = [a.arg for a in (*run.args.posonlyargs, *run.args.args)]
        if len(names) != 2:
            return None
        known = {
            name: _Value((Factor(index, False),), (shapes[index][0], shapes[index][1]))
            for index, name in enumerate(names)
        }
        returned = _returned(run, known)
    except (_NotUnderstood, SyntaxError, RecursionError):
        return None
    if returned.axes != shapes[2] or {f.index for f in returned.factors} != {0, 1}:
        return None
    if len(returned.factors) != 2:
        return None
    return Product(*returned.factors)


def _function(module: ast.Module) -> ast.FunctionDef:
    found = [n for n in module.body if isinstance(n, ast.FunctionDef) and n.name == "run"]
    if len(found) != 1:
        raise _NotUnderstood
    for decorator in found[0].decorator_list:
        # `@torch.no_grad()` changes no value; what is not torch's may do anything.
        if not _is_library(decorator.func if isinstance(decorator, ast.Call) else decorator):
            raise _NotUnderstood
    return found[0]


def _returned(run: ast.FunctionDef, known: dict[str, _Value]) -> _Value:
    for statement in run.body:
        match statement:
            case ast.Assert() | ast.Expr(value=ast.Constant()):
                continue
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                try:
                    known[name] = _value(value, known)
                except _NotUnderstood:
                    _check_only_looks(value)
                    known.pop(name, None)
            case ast.Assign(targets=[ast.Tuple(elts=targets)], value=value):
                # `M, K = A.shape` and the like.
                _check_only_looks(value)
                for target in targets:
                    if not isinstance(target, ast.Name):
                        raise _NotUnderstood
                    known.pop(target.id, None)
            case ast.Return(value=ast.expr() as value):
                return _value(value, known)
            case _:
                raise _NotUnderstood
    raise _NotUnderstood


def _check_only_looks(node: ast.expr) -> None:
    """What calls nothing changes no input. Raises `_NotUnderstood`."""
    if any(isinstance(part, ast.Call | ast.NamedExpr) for part in ast.walk(node)):
        raise _NotUnderstood


def _value(node: ast.expr, known: dict[str, _Value]) -> _Value:
    match node:
        case ast.Name(id=name) if name in known:
            return known[name]
        case ast.BinOp(left=left, op=ast.MatMult(), right=right):
            return _times(_value(left, known), _value(right, known))
        case ast.Attribute(value=value, attr=name) if name in _TRANSPOSED:
            return _value(value, known).transposed
        case ast.Call(func=ast.Attribute(value=owner, attr=name), args=arguments, keywords=[]):
            if _is_library(owner):
                return _library_call(name, arguments, known)
            return _method(name, _value(owner, known), arguments, known)
        case _:
            raise _NotUnderstood


def _library_call(name: str, arguments: list[ast.expr], known: dict[str, _Value]) -> _Value:
    if len(arguments) != 2:
        raise _NotUnderstood
    left, right = (_value(argument, known) for argument in arguments)
    if name in _PRODUCTS:
        return _times(left, right)
    if name == "linear":
        return _times(left, right.transposed)
    raise _NotUnderstood


def _method(
    name: str, value: _Value, arguments: list[ast.expr], known: dict[str, _Value]
) -> _Value:
    if name in _PRODUCTS and len(arguments) == 1:
        return _times(value, _value(arguments[0], known))
    if name == "t" and not arguments:
        return value.transposed
    if name == "transpose" and {_number(a) % 2 for a in arguments} == {0, 1}:
        return value.transposed
    if name in _CASTS | _SAME and not arguments:
        return value
    if name in ("to", "type") and len(arguments) == 1 and _is_float(arguments[0]):
        return value
    raise _NotUnderstood


def _times(left: _Value, right: _Value) -> _Value:
    if left.axes[1] != right.axes[0]:
        raise _NotUnderstood
    return _Value(left.factors + right.factors, (left.axes[0], right.axes[1]))


def _is_library(node: ast.expr) -> bool:
    """True for `torch`, `F`, `torch.nn.functional`."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return isinstance(node, ast.Name) and node.id in _LIBRARIES


def _is_float(node: ast.expr) -> bool:
    """True for `torch.float32` and the like, and for another tensor's dtype."""
    match node:
        case ast.Attribute(value=ast.Name(id="torch"), attr=name):
            return name in _FLOATS
        case ast.Attribute(value=ast.Name(), attr="dtype"):
            return True
        case _:
            return False


def _number(node: ast.expr) -> int:
    try:
        found: object = ast.literal_eval(node)
    except ValueError:
        raise _NotUnderstood from None
    if not isinstance(found, int) or not -2 <= found < 2:
        raise _NotUnderstood
    return found
