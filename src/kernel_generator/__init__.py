"""Language models write GPU kernels for FlashInfer-Bench definitions; a judge decides what counts.

Public names are loaded on first use, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from kernel_generator.domain.version import VERSION

if TYPE_CHECKING:
    from kernel_generator.domain.budget import Budget, Price
    from kernel_generator.domain.errors import (
        KernelGeneratorError,
        NoPassingSolution,
        ProviderError,
        ProviderRefused,
        SaveFailed,
    )
    from kernel_generator.generator import KernelGenerator
    from kernel_generator.runs.generated import GeneratedSolution
    from kernel_generator.runs.tracesets import load_traceset

__all__ = [
    "Budget",
    "GeneratedSolution",
    "KernelGenerator",
    "KernelGeneratorError",
    "NoPassingSolution",
    "Price",
    "ProviderError",
    "ProviderRefused",
    "SaveFailed",
    "load_traceset",
]
__version__ = VERSION

_ERRORS = "kernel_generator.domain.errors"
_HOMES = {
    "Budget": "kernel_generator.domain.budget",
    "Price": "kernel_generator.domain.budget",
    "GeneratedSolution": "kernel_generator.runs.generated",
    "KernelGenerator": "kernel_generator.generator",
    "KernelGeneratorError": _ERRORS,
    "NoPassingSolution": _ERRORS,
    "ProviderError": _ERRORS,
    "ProviderRefused": _ERRORS,
    "SaveFailed": _ERRORS,
    "load_traceset": "kernel_generator.runs.tracesets",
}


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
