"""How much of a stretch of time a device was in use."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Self

from kernel_generator.evaluation.device import gpu_uuid, nvml

if TYPE_CHECKING:
    from collections.abc import Callable

_EVERY_S = 0.1
"""Between two samples; NVML's own figure looks back over 1/6 to 1 s, by product."""


class Busy:
    """A context in which a thread samples a device's use; `share` is the mean."""

    def __init__(self, sample: Callable[[], float]) -> None:
        self._sample = sample
        self._samples: list[float] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    @property
    def share(self) -> float | None:
        """0 to 1; None where no sample was taken."""
        return sum(self._samples) / len(self._samples) if self._samples else None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(_EVERY_S):
            self._samples.append(self._sample())


def busy_gpu() -> Busy | None:
    """Of the first visible GPU: the share of the last moments in which a kernel ran.

    None where NVML does not tell.
    """
    with nvml() as library:
        if library is None:
            return None
        try:
            library.nvmlDeviceGetUtilizationRates(library.nvmlDeviceGetHandleByUUID(gpu_uuid()))
        except library.NVMLError:
            return None

    def sample() -> float:
        with nvml() as library:
            handle = library.nvmlDeviceGetHandleByUUID(gpu_uuid())
            return library.nvmlDeviceGetUtilizationRates(handle).gpu / 100

    return Busy(sample)


def busy_cpu() -> Busy:
    """Of all processors of the machine: time not idle since the last sample."""
    last = _times()

    def sample() -> float:
        nonlocal last
        now = _times()
        idle, total = (b - a for a, b in zip(last, now, strict=True))
        last = now
        return 1 - idle / total if total else 0.0

    return Busy(sample)


def _times() -> tuple[int, int]:
    """Idle and all jiffies since the machine started."""
    figures = [int(x) for x in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    return figures[3] + figures[4], sum(figures)
