"""Random numbers in every supported format, and large tensors filled quickly from a pool.

All of them come from the given generator and lie on its device: same generator state, same device,
same values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum, auto
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from kernel_generator.evaluation.inputs import InputsUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

PLAIN_FLOATS = (torch.float32, torch.float16, torch.bfloat16)
EIGHT_BIT_FLOATS = (torch.float8_e4m3fn, torch.float8_e5m2)
INTEGER_RANGES = {
    torch.int8: (-128, 128),
    torch.int16: (-1024, 1024),
    torch.int32: (-1024, 1024),
    torch.int64: (-1024, 1024),
}
"""Those of FlashInfer-Bench."""
_SERIAL = 1 << 15
"""Elements that torch still treats in one thread: a piece that it splits waits for the slowest of
the threads, which takes long where others use the cores too. Stays in the cache as well."""
_PARALLEL = 1 << 25
"""Elements that a GPU treats at once: enough to fill it, with little memory for what is between."""
_SATURATION = 2.0
"""FlashInfer-Bench clips what it turns into eight or four bits here."""
_WORDS = 1 << 16
_RAW = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""By size, a type that has copies of its own everywhere: some formats have none."""


@dataclass(frozen=True)
class Source:
    """Where the random numbers of one set of inputs come from."""

    choices: torch.Generator
    """On the CPU: numbers that decide in Python how tensors are made, so that no device is waited
    for."""
    numbers: torch.Generator
    """On the device: what tensors hold."""

    @staticmethod
    def of(generator: torch.Generator, device: torch.device) -> Source:
        """Both from a generator on the CPU."""
        return Source(generator, torch.Generator(device).manual_seed(one_of(1 << 62, generator)))


def at_once(device: torch.device) -> int:
    """Elements that are best treated together there."""
    return _SERIAL if device.type == "cpu" else _PARALLEL


def normal(
    shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator, factor: float = 1.0
) -> torch.Tensor:
    """Standard normal numbers times `factor`; clipped at twice `factor` in 8 and 4 bits.

    Packed fp4 has no room for a factor and ignores it.
    """
    if dtype in PLAIN_FLOATS:
        drawn = torch.randn(shape, dtype=dtype, generator=generator, device=generator.device)
        return drawn if factor == 1.0 else drawn.mul_(factor)
    if dtype in EIGHT_BIT_FLOATS or dtype is torch.float4_e2m1fn_x2:
        return _looked_up(_normal_bytes(dtype, factor, generator.device), shape, generator, dtype)
    raise InputsUnavailable(f"floats of dtype {str(dtype).removeprefix('torch.')} are not known")


def uniform(
    shape: tuple[int, ...], low: float, high: float, generator: torch.Generator
) -> torch.Tensor:
    """float32 in [low, high)."""
    drawn = torch.rand(shape, generator=generator, device=generator.device)
    return drawn.mul_(high - low).add_(low)


def integers(
    low: int, high: int, shape: tuple[int, ...], generator: torch.Generator
) -> torch.Tensor:
    """int64 in [low, high)."""
    most = max(high, low + 1)
    return torch.randint(low, most, shape, generator=generator, device=generator.device)


def one_of(high: int, choices: torch.Generator) -> int:
    """A Python integer in [0, high)."""
    return int(torch.randint(0, max(high, 1), (), generator=choices))


def some(high: int, count: int, choices: torch.Generator) -> list[int]:
    """Distinct integers in [0, high), at most `count`."""
    if 2 * count > high:
        return torch.randperm(high, generator=choices)[:count].tolist()
    found: dict[int, None] = {}
    while len(found) < count:
        found[one_of(high, choices)] = None
    return [*found]


def put(made: torch.Tensor, at: int, value: float) -> None:
    """Write one element, by its number in memory."""
    # An element assigned by its index is copied from the host, which waits for the device.
    made.view(-1).narrow(0, at, 1).fill_(value)


def any_integers(
    shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator
) -> torch.Tensor:
    """Integers (or booleans) of FlashInfer-Bench's ranges. Raises `InputsUnavailable`."""
    if dtype is torch.bool:
        return integers(0, 2, shape, generator).to(torch.bool)
    if dtype in INTEGER_RANGES:
        low, high = INTEGER_RANGES[dtype]
        return torch.randint(
            low, high, shape, dtype=dtype, generator=generator, device=generator.device
        )
    raise InputsUnavailable(f"integers of dtype {str(dtype).removeprefix('torch.')} are not known")


@lru_cache(maxsize=64)
def _normal_bytes(dtype: torch.dtype, factor: float, device: torch.device) -> torch.Tensor:
    """What 16 random bits stand for, uint8 [65536]: an eight-bit float, or two e2m1 numbers.

    Each is the rounding of a clipped normal number times `factor`.
    """
    if dtype is torch.float4_e2m1fn_x2:
        quantiles = _normal_quantiles(256)
        # torch converts nothing to this format.
        edges = torch.tensor([0.25, 0.75, 1.25, 1.75], dtype=torch.float64)
        code = torch.bucketize(quantiles.abs(), edges) + 8 * (quantiles < 0)
        table = (code[:, None] << 4 | code[None, :]).reshape(-1).to(torch.uint8)
    else:
        table = (_normal_quantiles(_WORDS) * factor).float().to(dtype).view(torch.uint8)
    return table.to(device)


def _normal_quantiles(count: int) -> torch.Tensor:
    """float64 [count], clipped."""
    middles = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    return torch.special.ndtri(middles).clamp_(-_SATURATION, _SATURATION)


def _looked_up(
    table: torch.Tensor, shape: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype
) -> torch.Tensor:
    """Bytes of `table` [65536] chosen at random, as a dtype of one byte."""
    device = generator.device
    made = torch.empty(math.prod(shape), dtype=torch.uint8, device=device)
    for piece in made.split(at_once(device)):
        words = torch.randint(
            -(1 << 63), (1 << 63) - 1, (-(-len(piece) // 4),), generator=generator, device=device
        )
        chosen = words.view(torch.uint16)[: len(piece)].to(torch.int32)
        torch.index_select(table, 0, chosen, out=piece)
    return made.view(dtype).view(shape)


class Mix(Enum):
    """What makes rows of a pool differ where they come again: what was found out about one should
    not tell the answer for another."""

    ROTATE = auto()
    """Runs are rotated along the last axis, by multiples of eight, which keeps patterns of
    channels."""
    SIGNS = auto()
    """Also every number's sign is chosen anew: for what is as often negative as positive."""
    SHUFFLE = auto()
    """The last axis of each run is put into another order."""


def tiled(
    make: Callable[[tuple[int, ...]], torch.Tensor],
    shape: tuple[int, ...],
    pool: int,
    choices: torch.Generator,
    mix: Mix = Mix.ROTATE,
) -> torch.Tensor:
    """`make(shape)`, quickly: rows of it where it has more than twice `pool` elements.

    A pool of new rows is made and the tensor filled with runs of it that start at random rows, each
    `mix`ed in a way of its own. Filling runs at the speed of memory, ten times that of making
    normal numbers. On the CPU alone.
    """
    count = math.prod(shape)
    if not shape or count <= 2 * pool:
        return make(shape)
    width = shape[-1] if len(shape) > 1 else 1
    rows = make((max(1, pool // width), width))
    made = torch.empty(shape, dtype=rows.dtype)
    # By numpy, for torch would split each of these many small copies among threads and wait for
    # the slowest. In bytes, for numpy lacks most of the formats.
    size = rows.element_size()
    target = made.view(-1, width).view(torch.uint8).numpy()
    source = rows.view(torch.uint8).numpy()
    for at, start, run, turn in _runs(len(source), len(target), width // 8, choices):
        wide, taken = target[at : at + run], source[start : start + run]
        if mix is Mix.SHUFFLE:
            order = torch.randperm(width, generator=choices).numpy()
            np.take(_words(taken, size), order, axis=1, out=_words(wide, size))
            continue
        shift = turn * 8 * size
        wide[:, shift:] = taken[:, : wide.shape[1] - shift]
        wide[:, :shift] = taken[:, wide.shape[1] - shift :]
    if mix is Mix.SIGNS:
        _flip_signs(made, pool, choices)
    return made


def _words(raw: NDArray[np.uint8], size: int) -> NDArray[Any]:
    """Bytes as unsigned numbers of `size` bytes."""
    return raw.view(f"u{size}")


def _flip_signs(made: torch.Tensor, pool: int, choices: torch.Generator) -> None:
    """Flip the sign of every other number or so, at random, in place."""
    size = made.element_size()
    sign = 0x88 if made.dtype is torch.float4_e2m1fn_x2 else 0x80
    # So many that no row meets the same signs again where it meets the same numbers.
    drawn = torch.randint(-(1 << 63), (1 << 63) - 1, (pool * size // 8 + 1,), generator=choices)
    signs = _words(drawn.view(torch.uint8).numpy(), size) & (sign << (8 * (size - 1)))
    target = _words(made.view(-1).view(torch.uint8).numpy(), size)
    for at, start, run, _ in _runs(len(signs), len(target), 1, choices):
        target[at : at + run] ^= signs[start : start + run]


def rotated(
    rows: torch.Tensor, shape: tuple[int, ...], choices: torch.Generator, turn: int
) -> torch.Tensor:
    """As many `rows` [n, width] again, in random runs of them that are rotated by a multiple of
    `turn` elements, as a tensor of `shape` on their device.

    Runs are long (the first is half of the rows on average), so there are few.
    """
    made = torch.empty(shape, dtype=rows.dtype, device=rows.device)
    raw = _RAW[rows.element_size()]
    width = rows.shape[1]
    target, source = made.view(-1, width).view(raw), rows.view(raw)
    for at, start, run, turns in _runs(len(source), len(target), width // turn, choices):
        shift = turns * turn
        wide, taken = target[at : at + run], source[start : start + run]
        wide[:, shift:] = taken[:, : width - shift]
        wide[:, :shift] = taken[:, width - shift :]
    return made


def _runs(
    available: int, wanted: int, turns: int, choices: torch.Generator
) -> Iterator[tuple[int, int, int, int]]:
    """Runs of `available` rows that make up `wanted`: where each goes, where it starts, how long it
    is, and one of so many turns."""
    at = 0
    while at < wanted:
        start = one_of(available, choices)
        run = min(available - start, wanted - at)
        yield at, start, run, one_of(turns, choices)
        at += run
