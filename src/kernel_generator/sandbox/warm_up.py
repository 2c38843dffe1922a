"""A Triton kernel that does next to nothing: its launch makes what all kernels' launches need."""

# Triton reads the annotations of a kernel's parameters as code: it cannot have the usual ones.
# pyright: reportMissingParameterType=false, reportUnknownParameterType=false
from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl


@triton.jit
def copy(source, target, count, BLOCK: tl.constexpr):  # noqa: N803
    """Copy `count` elements."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    tl.store(target + at, tl.load(source + at, mask=inside), mask=inside)


def launch(device: str) -> None:
    """Compile and launch it, so that driver module and launcher are there."""
    source = torch.zeros(64, device=device)
    target = torch.empty_like(source)
    kernel: Any = copy
    kernel[(1,)](source, target, 64, BLOCK=64)
