"""What a reading of the source notices: labels for the author, the report and the policy.

Python is read as a syntax tree, so comments and texts count for nothing; other languages are read
without their comments. A label rejects nothing by itself: honest code carries them too.

Whatever the source, reading it takes time in proportion to its length, and no more than a second or
so: it is read in the judge's own process.
"""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flashinfer_bench.data import Solution

NON_DETERMINISTIC_MARK = "kernel-generator: non-deterministic"
"""A comment with these words declares that equal inputs may give different bits."""

_CALLS = "calls torch or another library for the computation"
_SWALLOWS = "catches exceptions without raising them again"
_STREAMS = "uses CUDA streams or graphs"
_THREADS = "starts threads or processes"
_LONG = "is longer than what is read of a source"
_LOOKS = "looks at frames, other modules or the interpreter"

_LIBRARIES = frozenset({"flashinfer", "cublas", "xformers", "vllm", "deep_gemm", "cutlass"})
_PRODUCTS = frozenset(
    {
        *("matmul", "mm", "bmm", "addmm", "baddbmm", "einsum", "tensordot", "linear", "conv2d"),
        *("softmax", "log_softmax", "layer_norm", "rms_norm", "scaled_dot_product_attention"),
        *("multinomial", "topk", "sort", "argsort", "cumsum", "compile"),
    }
)
_IMPORTED = {
    "threading": _THREADS,
    "multiprocessing": _THREADS,
    "concurrent": _THREADS,
    "subprocess": _THREADS,
    "inspect": _LOOKS,
    "gc": _LOOKS,
    "ctypes": _LOOKS,
    "socket": _LOOKS,
}
_NAMED = {
    "Stream": _STREAMS,
    "CUDAGraph": _STREAMS,
    "_getframe": _LOOKS,
    "modules": _LOOKS,
    "fork": _THREADS,
}
_NATIVE = {
    r"\bcudaStreamCreate|\bcudaGraph": _STREAMS,
    r"\bstd::j?thread\b|\bpthread_create\b|\bstd::async\b|#\s*pragma\s+omp": _THREADS,
    r"\bcublas|\bat::|\btorch::": _CALLS,
    r"\bcatch\s*\(": _SWALLOWS,
}
_COMMENT_OR_TEXT = re.compile(
    r"""
    //[^\n]* | /\*.*?(?:\*/|\Z)
  | ( (?<!\w)(?:u8|[uUL])?R"(?P<end>[^\s()\\"]{0,16})\((?:.*?\)(?P=end)"|.*)
    | "(?:[^"\\\n]|\\.)*+"?
    | (?:\bu8|(?<![0-9a-fA-F]))'(?:[^'\\\n]|\\.)*+'?
    )
    """,
    re.DOTALL | re.VERBOSE,
)
"""A comment, or in a group a text of C++ in which none begins. Each alternative takes what it has
looked at, even without an end: nothing is looked at again from a later beginning."""
_MOST_READ = 1_000_000
"""Longer sources, in characters and all together, are not read: a syntax tree is many times as
large as its text, and honest kernels are a hundredth of this."""


def labels_of(solution: Solution) -> tuple[str, ...]:
    """Every label of a solution's sources, each once, in a fixed order."""
    found: set[str] = set()
    too_long = sum(len(source.content) for source in solution.sources) > _MOST_READ
    for source in () if too_long else solution.sources:
        if source.path.endswith(".py"):
            found.update(_of_python(source.content))
        else:
            text = without_comments(source.content)
            found.update(label for sign, label in _NATIVE.items() if re.search(sign, text))
    if too_long:
        found.add(_LONG)
    declared = ("declared non-deterministic",) if declares_non_deterministic(solution) else ()
    return (*declared, *sorted(found))


def uses_streams(solution: Solution) -> bool:
    """True where the source names streams or graphs of its own, or is not read."""
    return bool({_STREAMS, _LONG} & set(labels_of(solution)))


def declares_non_deterministic(solution: Solution) -> bool:
    """True where a comment says that equal inputs may give different bits."""
    return any(NON_DETERMINISTIC_MARK in source.content for source in solution.sources)


def without_comments(text: str) -> str:
    """C++ or CUDA with a space in place of each comment. One without an end goes on to the end of
    the text; one that seems to begin in a string or character literal is none."""
    return _COMMENT_OR_TEXT.sub(lambda match: match[1] or " ", text)


def _of_python(text: str) -> Iterator[str]:
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    if _swallows(tree):
        yield _SWALLOWS
    for node in ast.walk(tree):
        match node:
            case ast.Import(names):
                yield from _imported(alias.name for alias in names)
            case ast.ImportFrom(module=str(module)):
                yield from _imported([module])
            case ast.With(items) if any(_suppresses(item) for item in items):
                yield _SWALLOWS
            case ast.Attribute(attr=name) | ast.Name(id=name) if name in _NAMED:
                yield _NAMED[name]
            case ast.Attribute(attr=name) if name in _PRODUCTS:
                yield _CALLS
            case ast.BinOp(op=ast.MatMult()):
                yield _CALLS
            case _:
                pass


def _imported(names: Iterator[str] | list[str]) -> Iterator[str]:
    for name in names:
        top = name.partition(".")[0]
        if top in _IMPORTED:
            yield _IMPORTED[top]
        if top in _LIBRARIES:
            yield _CALLS


def _swallows(tree: ast.Module) -> bool:
    """True where there is a handler with no `raise` in it, at any depth. Each node is looked at
    once, however deep handlers are nested."""
    above: dict[ast.ExceptHandler, ast.ExceptHandler | None] = {}
    raising: set[ast.ExceptHandler] = set()
    left: list[tuple[ast.AST, ast.ExceptHandler | None]] = [(tree, None)]
    while left:
        node, handler = left.pop()
        if isinstance(node, ast.ExceptHandler):
            above[node] = handler
            handler = node
        elif isinstance(node, ast.Raise):
            inside = handler
            while inside is not None and inside not in raising:
                raising.add(inside)
                inside = above[inside]
        left += [(child, handler) for child in ast.iter_child_nodes(node)]
    return len(raising) < len(above)


def _suppresses(item: ast.withitem) -> bool:
    called = item.context_expr
    if not isinstance(called, ast.Call):
        return False
    return "suppress" in (getattr(called.func, "attr", ""), getattr(called.func, "id", ""))
