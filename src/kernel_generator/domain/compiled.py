"""The reference compiled by `torch.compile`, as the source files of a Python solution.

One text serves the embedded model's proposals and the judge's `torch.compile` baseline.
"""

from __future__ import annotations

import keyword
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flashinfer_bench import Definition

ENTRY_POINT = "main.py::run"
_USED = ("torch", "reference", "zip", "isinstance", "tuple", "list")
"""Names that `main.py` needs itself."""


@dataclass(frozen=True)
class CompileMode:
    """How `torch.compile` is called."""

    name: str
    """'default', 'max-autotune-no-cudagraphs', ...: torch's own mode names."""
    dynamic: bool | None = None
    """True: one kernel for all sizes; False: one kernel a size; None: torch decides."""
    backend: str = "inductor"
    """'inductor' generates kernels; 'aot_eager' runs torch's own, one an operation."""

    def __str__(self) -> str:
        if self.backend != "inductor":
            return f"torch.compile (backend {self.backend})"
        suffix = {True: ", dynamic sizes", False: ", static sizes", None: ""}[self.dynamic]
        return f"torch.compile ({self.name}{suffix})"


DEFAULT_MODE = CompileMode("default")


def compiled_sources(
    reference: str, mode: CompileMode = DEFAULT_MODE, into: Definition | None = None
) -> dict[str, str]:
    """Path to text: `reference.py` unchanged, and `main.py` that compiles its `run`. `into`: the
    definition whose outputs it is given and writes, where their names may stand in Python; None: it
    returns its values."""
    if mode.backend == "inductor":
        settings = f'mode="{mode.name}", dynamic={mode.dynamic}'
    else:
        settings = f'backend="{mode.backend}"'
    run = f"run = torch.compile(reference.run, {settings})"
    if into is not None and all(map(_may_stand, (*into.inputs, *into.outputs))):
        run = _writing(list(into.inputs), list(into.outputs), settings)
    # Every captured size may become a graph of its own; torch gives up after eight by default.
    main = f'''"""The reference, compiled by torch.compile."""

import torch

from . import reference

torch._dynamo.config.recompile_limit = 256

{run}
'''
    return {"main.py": main, "reference.py": reference}


def _may_stand(name: str) -> bool:
    return name.isidentifier() and not keyword.iskeyword(name) and name not in _USED


def _writing(inputs: list[str], outputs: list[str], settings: str) -> str:
    """A function whose copies the compiler fuses into what makes the values."""
    return f"""_reference = reference.run


@torch.compile({settings})
def run({", ".join([*inputs, *outputs])}):
    _returned = _reference({", ".join(inputs)})
    _values = _returned if isinstance(_returned, tuple | list) else (_returned,)
    for _output, _value in zip(({", ".join(outputs)},), _values, strict=True):
        _output.copy_(_value) if isinstance(_value, torch.Tensor) else _output.fill_(_value)"""
