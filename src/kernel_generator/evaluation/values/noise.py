"""Random numbers in every supported format, and large tensors filled quickly from a pool.

All of them come from the given generator: same generator state, same values.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from kernel_generator.evaluation.inputs import InputsUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

PLAIN_FLOATS = (torch.float32, torch.float16, torch.bfloat16)
EIGHT_BIT_FLOATS = (torch.float8_e4m3fn, torch.float8_e5m2)
INTEGER_RANGES = {
    torch.int8: (-128, 128),
    torch.int16: (-1024, 1024),
    torch.int32: (-1024, 1024),
    torch.int64: (-1024, 1024),
}
"""Those of FlashInfer-Bench."""
SERIAL = 1 << 15
"""Elements that torch still treats in one thread: a piece that it splits waits for the slowest of
the threads, which takes long where others use the cores too. Stays in the cache as well."""
_BYTES_AT_ONCE = 1 << 20
_SATURATION = 2.0
"""FlashInfer-Bench clips what it turns into eight or four bits here."""


def normal(
    shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator, factor: float = 1.0
) -> torch.Tensor:
    """Standard normal numbers times `factor`; clipped at twice `factor` in 8 and 4 bits.

    Packed fp4 has no room for a factor and ignores it.
    """
    if dtype in PLAIN_FLOATS:
        drawn = torch.randn(shape, dtype=dtype, generator=generator)
        return drawn if factor == 1.0 else drawn.mul_(factor)
    if dtype in EIGHT_BIT_FLOATS:
        made = torch.empty(math.prod(shape), dtype=dtype)
        for piece in made.split(SERIAL):
            drawn = torch.randn(piece.shape, generator=generator)
            piece.copy_(drawn.clamp_(-_SATURATION, _SATURATION).mul_(factor))
        return made.view(shape)
    if dtype is torch.float4_e2m1fn_x2:
        return _packed_fp4(shape, generator)
    raise InputsUnavailable(f"floats of dtype {str(dtype).removeprefix('torch.')} are not known")


def uniform(
    shape: tuple[int, ...], low: float, high: float, generator: torch.Generator
) -> torch.Tensor:
    """float32 in [low, high)."""
    return torch.rand(shape, generator=generator).mul_(high - low).add_(low)


def integers(
    low: int, high: int, shape: tuple[int, ...], generator: torch.Generator
) -> torch.Tensor:
    """int64 in [low, high)."""
    return torch.randint(low, max(high, low + 1), shape, generator=generator)


def one_of(high: int, generator: torch.Generator) -> int:
    """A Python integer in [0, high)."""
    return int(torch.randint(0, max(high, 1), (), generator=generator))


def some(high: int, count: int, generator: torch.Generator) -> list[int]:
    """Distinct integers in [0, high), at most `count`."""
    return torch.randperm(high, generator=generator)[:count].tolist()


def any_integers(
    shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator
) -> torch.Tensor:
    """Integers (or booleans) of FlashInfer-Bench's ranges. Raises `InputsUnavailable`."""
    if dtype is torch.bool:
        return torch.randint(0, 2, shape, generator=generator).to(torch.bool)
    if dtype in INTEGER_RANGES:
        low, high = INTEGER_RANGES[dtype]
        return torch.randint(low, high, shape, dtype=dtype, generator=generator)
    raise InputsUnavailable(f"integers of dtype {str(dtype).removeprefix('torch.')} are not known")


def _packed_fp4(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Two e2m1 numbers a byte, each the rounding of a clipped normal number.

    Looked up by 16 random bits, since torch converts nothing to this format.
    """
    quantiles = torch.special.ndtri((torch.arange(256, dtype=torch.float64) + 0.5) / 256)
    size = quantiles.abs().clamp_(max=_SATURATION)
    edges = torch.tensor([0.25, 0.75, 1.25, 1.75], dtype=torch.float64)
    code = (torch.bucketize(size, edges) + 8 * (quantiles < 0)).to(torch.uint8).numpy()
    table = (code[:, None] << 4 | code[None, :]).reshape(-1)
    count = math.prod(shape)
    made = np.empty(count, np.uint8)
    for at in range(0, count, _BYTES_AT_ONCE):
        piece = made[at : at + _BYTES_AT_ONCE]
        words = torch.randint(
            -(1 << 63), (1 << 63) - 1, (-(-len(piece) // 4),), generator=generator
        )
        piece[:] = table[words.numpy().view(np.uint16)[: len(piece)]]
    return torch.from_numpy(made).view(torch.float4_e2m1fn_x2).view(shape)


def tiled(
    make: Callable[[tuple[int, ...]], torch.Tensor],
    shape: tuple[int, ...],
    pool: int,
    generator: torch.Generator,
) -> torch.Tensor:
    """`make(shape)`, quickly: rows of it where it has more than twice `pool` elements.

    A pool of new rows is made and the tensor filled with runs of it that start at random rows and
    are rotated at random along the last axis (by multiples of eight, which keeps patterns of
    channels). Filling runs at the speed of memory, ten times that of making normal numbers.
    """
    count = math.prod(shape)
    if not shape or count <= 2 * pool:
        return make(shape)
    width = shape[-1] if len(shape) > 1 else 1
    rows = make((max(1, pool // width), width))
    return spread(rows, shape, generator, 8)


def spread(
    rows: torch.Tensor, shape: tuple[int, ...], generator: torch.Generator, turn: int
) -> torch.Tensor:
    """A tensor of `shape` filled with runs of `rows` [n, shape[-1]], rotated by a multiple of
    `turn` elements."""
    made = torch.empty(shape, dtype=rows.dtype)
    if made.numel() == 0:
        return made
    # Raw bytes, for some formats have no copy of their own; by numpy, for torch would split each of
    # these many small copies among threads and wait for the slowest.
    size = rows.element_size()
    target = made.view(-1, rows.shape[1]).view(torch.uint8).numpy()
    source = rows.view(torch.uint8).numpy()
    at, turns = 0, max(1, rows.shape[1] // turn)
    while at < len(target):
        start = one_of(len(source), generator)
        run = min(len(source) - start, len(target) - at)
        shift = one_of(turns, generator) * turn * size
        wide, taken = target[at : at + run], source[start : start + run]
        wide[:, shift:] = taken[:, : wide.shape[1] - shift]
        wide[:, :shift] = taken[:, wide.shape[1] - shift :]
        at += run
    return made
