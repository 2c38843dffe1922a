"""The CPU that this machine is, as a target: what its card says is measured here, once a process.

A figure of a data sheet would be another machine's: cores are shared out and clocks vary.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from kernel_generator.domain.target import TARGETS

if TYPE_CHECKING:
    from collections.abc import Callable

    from kernel_generator.domain.target import Target

_COPIED_BYTES = 256 << 20
"""Larger than the caches of any one processor's share."""
_PRODUCT = 1024
"""Rows, columns and depth of the matrix product whose rate is measured."""
_TRIES = 3
_CPUS = Path("/sys/devices/system/cpu")


@cache
def cpus_of(threads: int) -> tuple[int, ...]:
    """So many of the CPUs that this process may use, each on a core of its own as far as there are
    cores: what shares one is slowed down by the other."""
    known: set[str] = set()
    first: list[int] = []
    others: list[int] = []
    for cpu in sorted(os.sched_getaffinity(0)):
        try:
            core = (_CPUS / f"cpu{cpu}/topology/thread_siblings_list").read_text()
        except OSError:
            core = str(cpu)
        (others if core in known else first).append(cpu)
        known.add(core)
    return tuple([*first, *others][:threads])


@cache
def this_processor() -> Target:
    """The CPU target with this machine's memory, copy bandwidth and matrix-product rates."""
    source = torch.zeros(_COPIED_BYTES, dtype=torch.uint8)
    sink = torch.empty_like(source)
    copied_s = _best_s(lambda: sink.copy_(source))
    return replace(
        TARGETS["CPU"],
        memory_gib=_memory_gib(),
        # A copy reads and writes each byte.
        bandwidth_gb_s=2e-9 * _COPIED_BYTES / copied_s,
        l2_mib=_last_level_cache_mib(),
        peak_tflops={name: _product_tflops(dtype) for name, dtype in _FORMATS.items()},
        source="measured on this machine: a copy of 256 MiB, and matrix products of 1,024 cubed, "
        "with torch",
    )


_FORMATS = {"fp32": torch.float32, "bf16": torch.bfloat16}


def _product_tflops(dtype: torch.dtype) -> float:
    left = torch.ones(_PRODUCT, _PRODUCT, dtype=dtype)
    return 2e-12 * _PRODUCT**3 / _best_s(lambda: left @ left)


def _best_s(work: Callable[[], object]) -> float:
    times: list[float] = []
    for _ in range(_TRIES):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


def _memory_gib() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 30


def _last_level_cache_mib() -> float:
    """MiB of the largest cache that core 0 sees; 0 where the system does not tell."""
    sizes = [
        int(size.read_text().strip().removesuffix("K")) / 1024
        for size in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    ]
    return max(sizes, default=0.0)
