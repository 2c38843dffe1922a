"""Runs a reference with every floating-point operation in double precision.

Feeding a reference float64 inputs is not enough: references cast to float32 inside. Here they get
their inputs as they are, and a dispatch mode widens what reaches an operation, so that:

- tensors narrower than float64 are exact wherever they are only looked at (views, views of their
  bits, gathers), and float64 as soon as something is computed from them;
- casts to float32 leave float64 as it is, and so do factories (`torch.zeros(dtype=float32)`);
- casts to bfloat16 and float16 do too where an input is no wider than 16 bits; where all are wider
  the rounding is the reference's meaning and is kept;
- casts to 8-bit floats always round to their grid: quantising is what such a definition means;
- comparisons, top-k, sorting and indices are those of the float64 values.

What a reference returns is float64 where it is floating, and as it is where not. Casting a tensor
to the dtype it has already gives a copy, not the tensor itself; default tolerances that torch
derives from a dtype are float64's. A judge therefore also wants to see that the reference, run as
it is, agrees with what comes from here.

Imported inside the child that runs the reference; imports torch and nothing of ours.
"""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

WIDE = torch.float64
_EIGHT_BIT = frozenset(
    d for d in vars(torch).values() if isinstance(d, torch.dtype) and "float8" in str(d)
)
_SIXTEEN_BIT = frozenset({torch.bfloat16, torch.float16})
_COMPLEX = frozenset({torch.complex32, torch.complex64})
_NARROW = _EIGHT_BIT | _SIXTEEN_BIT | _COMPLEX | {torch.float32}
_TIE = 2.0**-18
"""Scores this close, relative to their size, are in either order after float32 arithmetic."""


class NotUpcast(Exception):
    """The reference cannot be run in double precision; the message says why."""


@dataclass(frozen=True)
class Upcast:
    """What a reference returned in double precision."""

    outputs: list[torch.Tensor]
    """float64 (complex128) where floating. In integer outputs that are the indices of a `topk` or
    `sort`, `undecided` stands where float32 rounding may give another index."""
    near_ties: int
    """Rows of all `topk` calls whose last chosen and first rejected score are such a tie: what is
    computed from the choice may then honestly differ altogether."""


def run_upcast(function: Callable[..., Any], inputs: list[Any]) -> list[torch.Tensor]:
    """`upcast(function, inputs).outputs`. Raises `NotUpcast`."""
    return upcast(function, inputs).outputs


def upcast(function: Callable[..., Any], inputs: list[Any]) -> Upcast:
    """Call a value-returning reference in double precision.

    `inputs` are tensors, on one device, and plain scalars; they are not changed. Raises `NotUpcast`
    where the reference defeats it: own kernels, values that leave torch (numpy, pointers), writes
    into its inputs, an operation that has no float64 form, checks that fail on float64, or memory.
    """
    given = {t.dtype for t in inputs if isinstance(t, torch.Tensor)}
    widening = _Widening(keeps_rounding=not given & (_EIGHT_BIT | _SIXTEEN_BIT))
    try:
        with torch.no_grad(), _double_by_default(), _Boundaries(), widening:
            returned = function(*inputs)
        values = list(returned) if isinstance(returned, tuple | list) else [returned]
        outputs = [widening.finish(v) for v in values]
        return Upcast(outputs, sum(s.rows_cut_at_a_tie() for s in widening.selections))
    except NotUpcast:
        raise
    except Exception as error:
        # Anything may be what a reference makes of dtypes it did not expect, so all of it is one
        # outcome; whether the reference works at all is seen where it is run as it is.
        text = str(error).strip().split("\n")[0]
        raise NotUpcast(f"{type(error).__name__} in double precision: {text}") from error


def undecided(dtype: torch.dtype) -> int:
    """Stands in an `int32` or `int64` output of `upcast` for an index that rounding decides."""
    return torch.iinfo(dtype).min


@contextlib.contextmanager
def _double_by_default() -> Generator[None]:
    """Literals and quotients of integers become float64; attention becomes plain products."""
    from torch.nn.attention import SDPBackend, sdpa_kernel  # noqa: PLC0415 - costs an import

    before = torch.get_default_dtype()
    with contextlib.ExitStack() as stack:
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        if "torch._dynamo" in sys.modules:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        torch.set_default_dtype(WIDE)
        stack.callback(torch.set_default_dtype, before)
        yield


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.complex128 if dtype.is_complex else WIDE


def _is_narrow(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.dtype in _NARROW


def _widened(value: Any) -> Any:
    return value.to(_wide(value.dtype)) if _is_narrow(value) else value


class _Boundaries(TorchFunctionMode):
    """Refuses what takes floating values out of torch's sight."""

    _LEAVING = frozenset(
        {
            torch.Tensor.numpy,
            torch.Tensor.__array__,
            torch.Tensor.__dlpack__,
            torch.Tensor.data_ptr,
            torch.Tensor.untyped_storage,
            torch.Tensor.storage,
        }
    )

    def __torch_function__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in self._LEAVING and (args[0].is_floating_point() or args[0].is_complex()):
            raise NotUpcast(f"floating values leave torch through Tensor.{func.__name__}()")
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("dtype") in _NARROW - _EIGHT_BIT:
            # What is made of numbers need not round them first.
            if not isinstance(args[0], torch.Tensor):
                kwargs = {**kwargs, "dtype": _wide(kwargs["dtype"])}
        elif func in (torch.rms_norm, torch.nn.functional.rms_norm):
            kwargs = _with_single_precision_epsilon(args, kwargs)
            args = args[:2]
        return func(*args, **kwargs)


def _with_single_precision_epsilon(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """torch's default is the epsilon of the dtype it computes in: float32's, for all narrower."""
    named = {**dict(zip(("weight", "eps"), args[2:], strict=False)), **kwargs}
    if named.get("eps") is None:
        named["eps"] = torch.finfo(torch.float32).eps
    return named


@dataclass(frozen=True)
class _Operation:
    """What an operation's schema says of it."""

    decomposes: bool
    views: bool
    written: tuple[str, ...]
    names: tuple[str, ...]


@cache
def _describe(func: Any) -> _Operation:
    arguments = func._schema.arguments
    aliases = [a for a in arguments if a.alias_info is not None]
    return _Operation(
        decomposes=func.has_kernel_for_dispatch_key("CompositeImplicitAutograd"),
        views=bool(aliases) and not any(a.alias_info.is_write for a in aliases),
        written=tuple(a.name for a in aliases if a.alias_info.is_write),
        names=tuple(a.name for a in arguments),
    )


_MOVES = frozenset(
    {"clone", "embedding", "flip", "gather", "index", "index_select", "masked_select", "repeat"}
    | {"roll", "take"}
)
"""Operations whose one floating argument is only moved: narrow ones are widened afterwards."""
_FACTORIES_FROM = frozenset(
    {"empty_like", "full_like", "ones_like", "zeros_like", "new_empty", "new_empty_strided"}
    | {"new_full", "new_ones", "new_zeros"}
)
"""Operations that take only shape and dtype from their argument."""


class _Widening(TorchDispatchMode):
    """Every operation sees float64."""

    def __init__(self, keeps_rounding: bool) -> None:
        super().__init__()
        self.selections: list[_Selection] = []
        self._keeps_rounding = keeps_rounding

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func.namespace not in ("aten", "prim", "prims"):
            raise NotUpcast(f"it calls '{func}', which is not torch's own")
        operation = _describe(func)
        if operation.decomposes:
            # Seen under torch.inference_mode() only; elsewhere torch has done so already.
            with self:
                return func.decompose(*args, **kwargs)
        # By name, since schemas differ in what is positional.
        named = {**dict(zip(operation.names, args, strict=False)), **kwargs}
        if operation.views:
            return self._view(func, named, args, kwargs)
        if operation.written:
            return self._write(func, operation, named, args, kwargs)
        return self._compute(func, operation, named)

    @staticmethod
    def _view(
        func: Any, named: dict[str, Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if func is torch.ops.aten.view.dtype and named["self"].dtype in (WIDE, torch.complex128):
            raise NotUpcast("it looks at the bits of what it computed")
        return func(*args, **kwargs)

    def _write(
        self,
        func: Any,
        operation: _Operation,
        named: dict[str, Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        targets = tree_leaves([named.get(w) for w in operation.written])
        narrow = {t.dtype for t in targets if _is_narrow(t)}
        if narrow and narrow <= _EIGHT_BIT:
            # Storage of its own for quantised values.
            return func(*args, **kwargs)
        if narrow:
            raise NotUpcast(f"it writes into a tensor of {narrow.pop()} that it was given")
        if func is torch.ops.aten.copy_.default:
            return func(*args, **kwargs)
        args, kwargs = tree_map(_widened, (args, kwargs))
        return func(*args, **kwargs)

    def _compute(self, func: Any, operation: _Operation, named: dict[str, Any]) -> Any:
        name = func.overloadpacket.__name__
        if name in _MOVES:
            return tree_map(_widened, func(**named))
        asked = named.get("dtype")
        if name not in _FACTORIES_FROM:
            named = tree_map(_widened, named)
        elif asked is None:
            asked = named["self"].dtype
        if name == "_to_copy" and asked in _SIXTEEN_BIT and self._keeps_rounding:
            return func(**named).to(WIDE)
        if asked is not None:
            named["dtype"] = _wide(asked) if asked in _NARROW - _EIGHT_BIT else asked
        if named.get("out_dtype") in _NARROW:
            named["out_dtype"] = WIDE
        if named.get("half_to_float"):
            # Widened already, which this flag of softmax asks for.
            named["half_to_float"] = False
        result = func(**named)
        if name in ("topk", "sort") and named["self"].is_floating_point():
            self.selections.append(_Selection(named["self"], named, result[1]))
        return result

    def finish(self, value: Any) -> torch.Tensor:
        """A returned value as the judge gets it."""
        if isinstance(value, bool | int | float):
            return torch.tensor(value, dtype=WIDE if isinstance(value, float) else None)
        if type(value) is not torch.Tensor:
            raise NotUpcast(f"it returns a {type(value).__name__}")
        if value.dtype not in (torch.int32, torch.int64):
            return _widened(value)
        for selection in self.selections:
            if selection.gave(value):
                return value.masked_fill(selection.ties(), undecided(value.dtype))
        return value


class _Selection:
    """One call of `topk` or `sort` on floating scores."""

    def __init__(self, scores: torch.Tensor, call: dict[str, Any], indices: torch.Tensor) -> None:
        # Later writes must not reach what is kept.
        self._scores, self._indices = scores.clone(), indices.clone()
        self._dim = call.get("dim", -1)
        # `topk` has "k" and takes the largest by default, `sort` ranks upwards.
        self._descending: bool = call.get("largest", "k" in call) or call.get("descending", False)

    def gave(self, values: torch.Tensor) -> bool:
        """Whether these are its indices."""
        return values.shape == self._indices.shape and bool((values == self._indices).all())

    def _ranked_ties(self) -> torch.Tensor:
        """Whether the scores of rank i and i + 1 tie, along the last axis."""
        ranked = self._scores.movedim(self._dim, -1).sort(dim=-1, descending=self._descending)[0]
        apart = ranked.diff(dim=-1).abs()
        # Equal infinities are NaN apart.
        return ~(apart > _TIE * ranked[..., 1:].abs())

    def ties(self) -> torch.Tensor:
        """Where an index could be another one, in the shape of the indices."""
        between = self._ranked_ties()
        edge = torch.zeros_like(between[..., :1])
        tied = torch.cat((edge, between), dim=-1) | torch.cat((between, edge), dim=-1)
        chosen = self._indices.movedim(self._dim, -1)
        # Looked up by score, since `topk(sorted=False)` returns no ranking.
        by_rank = self._scores.movedim(self._dim, -1).argsort(dim=-1, descending=self._descending)
        tied = torch.zeros_like(tied).scatter_(-1, by_rank, tied)
        return tied.gather(-1, chosen).movedim(-1, self._dim)

    def rows_cut_at_a_tie(self) -> int:
        """Rows in which a tie decides what is chosen at all."""
        count = self._indices.movedim(self._dim, -1).shape[-1]
        between = self._ranked_ties()
        return int(between[..., count - 1].sum()) if 0 < count <= between.shape[-1] else 0
