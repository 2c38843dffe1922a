"""Language models write GPU kernels for FlashInfer-Bench definitions; a judge decides what counts.

Public names are loaded on first use, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kernel_generator.domain.errors import NoPassingSolution
    from kernel_generator.generator import GeneratedSolution, KernelGenerator
    from kernel_generator.runs.tracesets import load_traceset

__all__ = ["GeneratedSolution", "KernelGenerator", "NoPassingSolution", "load_traceset"]
__version__ = "0.1.0"

_HOMES = {
    "GeneratedSolution": "kernel_generator.generator",
    "KernelGenerator": "kernel_generator.generator",
    "NoPassingSolution": "kernel_generator.domain.errors",
    "load_traceset": "kernel_generator.runs.tracesets",
}


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
