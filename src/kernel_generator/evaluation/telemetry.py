"""A GPU's clocks, temperature, power and company around a measurement, as NVML tells them.

Recorded, never set. A reading that the driver refuses is left out; it never ends a measurement.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kernel_generator.domain.evaluation import Clocks
from kernel_generator.sandbox.bounds import descendants

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Iterable
    from typing import Any

_IDLE = 0x1
_REASONS = {
    0x2: "applications clocks setting",
    0x4: "software power cap",
    0x8: "hardware slowdown",
    0x10: "sync boost",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake slowdown",
    0x100: "display clock setting",
    0x200: "board limit",
    0x400: "reliability",
}
"""nvml.h's `nvmlClocksEventReason...` and the older `nvmlClocksThrottleReason...`, without
`...GpuIdle`."""
_ASKING_FOR_REASONS = (
    "nvmlDeviceGetCurrentClocksEventReasons",
    # Older drivers and bindings know it by this name alone.
    "nvmlDeviceGetCurrentClocksThrottleReasons",
)


@dataclass(frozen=True)
class _Reading:
    """What NVML told at one moment; None for what it did not."""

    sm_mhz: int | None
    memory_mhz: int | None
    temperature_c: int | None
    power_mw: int | None
    reasons: int | None
    """A mask of clock event reasons."""
    processes: frozenset[int] | None
    foreign: int | None

    @property
    def idle(self) -> bool:
        return bool((self.reasons or 0) & _IDLE)

    @property
    def is_empty(self) -> bool:
        told = (self.sm_mhz, self.memory_mhz, self.temperature_c, self.power_mw, self.reasons)
        return self.processes is None and all(figure is None for figure in told)


def own_processes() -> frozenset[int]:
    """This process and all that descend from it."""
    return frozenset(descendants(os.getpid()))


class Telemetry:
    """Readings of one GPU, taken as often as asked, and what they come to."""

    def __init__(
        self,
        library: Any,
        uuid: str,
        own: Callable[[], Collection[int]] = own_processes,
    ) -> None:
        """`library` is `pynvml`, initialised and kept so while this is used, or None where there is
        none; `uuid` the GPU's ('GPU-...'); `own` the processes that are the judge's at a moment."""
        self._library = library
        self._own = own
        self._readings: list[_Reading] = []
        self._handle: Any = None
        if library is not None:
            self._handle = self._ask("nvmlDeviceGetHandleByUUID", uuid)

    @property
    def taken(self) -> int:
        """How many readings there are."""
        return len(self._readings)

    def take(self) -> None:
        """Read once more; while kernels run, for clocks that mean something. Takes milliseconds."""
        if self._handle is None:
            return
        library, handle = self._library, self._handle
        processes = self._processes()
        reading = _Reading(
            sm_mhz=self._ask("nvmlDeviceGetClockInfo", handle, library.NVML_CLOCK_SM),
            memory_mhz=self._ask("nvmlDeviceGetClockInfo", handle, library.NVML_CLOCK_MEM),
            temperature_c=self._ask(
                "nvmlDeviceGetTemperature", handle, library.NVML_TEMPERATURE_GPU
            ),
            power_mw=self._ask("nvmlDeviceGetPowerUsage", handle),
            reasons=self._reasons(),
            processes=processes,
            foreign=None if processes is None else _foreign(processes, self._own()),
        )
        if not reading.is_empty:
            self._readings.append(reading)

    @property
    def clocks(self) -> Clocks | None:
        """What all readings come to; None where there is no GPU to read, or it told nothing."""
        if not self._readings:
            return None
        # An idle GPU's clocks are on their way down: they say nothing of those it worked at.
        working = [r for r in self._readings if not r.idle] or self._readings
        power = _highest(r.power_mw for r in self._readings)
        mask = 0
        for reading in self._readings:
            mask |= reading.reasons or 0
        return Clocks(
            sm_mhz=_range(r.sm_mhz for r in working),
            memory_mhz=_range(r.memory_mhz for r in working),
            temperature_c=_highest(r.temperature_c for r in self._readings),
            power_w=None if power is None else power / 1000,
            throttled=_names(mask),
            foreign_processes=_highest(r.foreign for r in self._readings),
        )

    def _processes(self) -> frozenset[int] | None:
        listed = self._ask("nvmlDeviceGetComputeRunningProcesses", self._handle)
        return None if listed is None else frozenset(int(process.pid) for process in listed)

    def _reasons(self) -> int | None:
        for function in _ASKING_FOR_REASONS:
            if hasattr(self._library, function):
                mask = self._ask(function, self._handle)
                if mask is not None:
                    return mask
        return None

    def _ask(self, function: str, *arguments: object) -> Any:
        """One reading; None where the driver does not give it."""
        try:
            return getattr(self._library, function)(*arguments)
        except self._library.NVMLError:
            return None


@contextmanager
def clocks_around(
    library: Any, uuid: str, own: Callable[[], Collection[int]] = own_processes
) -> Generator[Telemetry]:
    """Readings before and after; `take` adds others in between, `clocks` sums up. Parameters as
    `Telemetry`'s."""
    telemetry = Telemetry(library, uuid, own)
    telemetry.take()
    yield telemetry
    telemetry.take()


def _foreign(listed: frozenset[int], own: Collection[int]) -> int | None:
    # The judge has a context itself. Where it is not in the list, NVML counts in another PID
    # namespace than the judge's (a container's host, say), and nobody can be told from anybody.
    if listed.isdisjoint(own):
        return None
    return len(listed.difference(own))


def _names(mask: int) -> tuple[str, ...]:
    bits = (1 << n for n in range(mask.bit_length()))
    return tuple(_REASONS.get(b, f"reason {b:#x}") for b in bits if mask & b and b != _IDLE)


def _highest(figures: Iterable[int | None]) -> int | None:
    return max((f for f in figures if f is not None), default=None)


def _range(figures: Iterable[int | None]) -> tuple[int, int] | None:
    known = [f for f in figures if f is not None]
    return (min(known), max(known)) if known else None
