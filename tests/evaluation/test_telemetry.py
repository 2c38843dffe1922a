"""What is recorded of a GPU around a measurement, from readings that may be missing."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

from kernel_generator.domain.evaluation import Clocks
from kernel_generator.evaluation.telemetry import Telemetry, clocks_around, own_processes

UUID = "GPU-1"
MINE, CHILD, STRANGER = 100, 101, 999


class StandInNvml:
    """A hand-written stand-in for `pynvml`, which needs a driver: one GPU whose readings are what a
    test sets. A reading that is None is 'not supported'."""

    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0

    class NVMLError(Exception):
        """As pynvml's."""

    def __init__(self) -> None:
        self.sm: int | None = 1980
        self.memory: int | None = 2619
        self.temperature: int | None = 40
        self.milliwatts: int | None = 120_000
        self.reasons: int | None = 0
        self.processes: list[int] | None = [MINE]

    def _told(self, figure: Any) -> Any:
        if figure is None:
            raise self.NVMLError("Not Supported")
        return figure

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> object:  # noqa: N802 - pynvml's name
        return self._told(object() if uuid == UUID else None)

    def nvmlDeviceGetClockInfo(self, _: object, kind: int) -> int:  # noqa: N802 - pynvml's name
        return self._told({self.NVML_CLOCK_SM: self.sm, self.NVML_CLOCK_MEM: self.memory}[kind])

    def nvmlDeviceGetTemperature(self, _: object, sensor: int) -> int:  # noqa: N802 - pynvml's name
        return self._told({self.NVML_TEMPERATURE_GPU: self.temperature}[sensor])

    def nvmlDeviceGetPowerUsage(self, _: object) -> int:  # noqa: N802 - pynvml's name
        return self._told(self.milliwatts)

    def nvmlDeviceGetCurrentClocksEventReasons(self, _: object) -> int:  # noqa: N802 - pynvml's name
        return self._told(self.reasons)

    def nvmlDeviceGetComputeRunningProcesses(self, _: object) -> list[Any]:  # noqa: N802 - pynvml's name
        return [SimpleNamespace(pid=pid) for pid in self._told(self.processes)]


class OlderNvml(StandInNvml):
    """Knows the reasons by their former name alone."""

    def nvmlDeviceGetCurrentClocksEventReasons(self, _: object) -> int:  # noqa: N802 - pynvml's name
        raise self.NVMLError("Function Not Found")

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, _: object) -> int:  # noqa: N802 - pynvml's name
        return self._told(self.reasons)


def own() -> set[int]:
    return {MINE, CHILD}


def read_once(library: StandInNvml) -> Clocks | None:
    telemetry = Telemetry(library, UUID, own)
    telemetry.take()
    return telemetry.clocks


def told_of(library: StandInNvml) -> Clocks:
    found = read_once(library)
    assert found is not None
    return found


def test_clocks_are_a_range_over_readings_before_in_between_and_after() -> None:
    library = StandInNvml()
    with clocks_around(library, UUID, own) as telemetry:
        library.sm, library.temperature, library.milliwatts = 1410, 66, 650_500
        telemetry.take()
        library.sm, library.temperature = 1755, 60
    assert telemetry.clocks == Clocks(
        sm_mhz=(1410, 1980),
        memory_mhz=(2619, 2619),
        temperature_c=66,
        power_w=650.5,
        throttled=(),
        foreign_processes=0,
    )


def test_an_idle_gpus_clocks_are_not_those_of_the_measurement() -> None:
    library = StandInNvml()
    library.sm, library.reasons = 345, 0x1
    with clocks_around(library, UUID, own) as telemetry:
        library.sm, library.reasons = 1980, 0x0
    found = telemetry.clocks
    assert found is not None
    assert found.sm_mhz == (1980, 1980)
    assert found.throttled == ()


def test_clocks_are_told_of_a_gpu_that_was_idle_throughout() -> None:
    library = StandInNvml()
    library.sm, library.reasons = 345, 0x1
    assert told_of(library).sm_mhz == (345, 345)


def test_every_reason_seen_is_told_in_words() -> None:
    library = StandInNvml()
    library.reasons = 0x4
    with clocks_around(library, UUID, own) as telemetry:
        library.reasons = 0x40 | 0x8 | 0x1 | 0x8000
    found = telemetry.clocks
    assert found is not None
    assert found.throttled == (
        "software power cap",
        "hardware slowdown",
        "hardware thermal slowdown",
        "reason 0x8000",
    )


def test_an_older_driver_is_asked_for_reasons_by_the_older_name() -> None:
    library = OlderNvml()
    library.reasons = 0x20
    assert told_of(library).throttled == ("software thermal slowdown",)


def test_a_reading_that_is_not_supported_leaves_the_others() -> None:
    library = StandInNvml()
    library.milliwatts = library.reasons = library.sm = library.processes = None
    assert told_of(library) == Clocks(memory_mhz=(2619, 2619), temperature_c=40)


def test_where_nothing_answers_there_is_no_record() -> None:
    library = StandInNvml()
    library.sm = library.memory = library.temperature = None
    library.milliwatts = library.reasons = library.processes = None
    assert read_once(library) is None


def test_without_nvml_or_the_gpu_there_is_no_record() -> None:
    for library, uuid in ((None, UUID), (StandInNvml(), "GPU-2")):
        with clocks_around(library, uuid, own) as telemetry:
            pass
        assert telemetry.clocks is None


def test_processes_that_are_not_the_judges_are_counted() -> None:
    library = StandInNvml()
    library.processes = [MINE, CHILD, STRANGER]
    assert told_of(library).foreign_processes == 1


def test_company_that_left_before_the_end_is_still_told() -> None:
    library = StandInNvml()
    library.processes = [MINE, STRANGER, STRANGER + 1]
    with clocks_around(library, UUID, own) as telemetry:
        library.processes = [MINE]
    found = telemetry.clocks
    assert found is not None
    assert found.foreign_processes == 2


def test_where_the_judge_is_not_listed_nobody_can_be_told_from_anybody() -> None:
    # The judge has a context: inside a container the list may be empty, or hold the host's ids.
    for listed in ([], [STRANGER]):
        library = StandInNvml()
        library.processes = listed
        assert told_of(library).foreign_processes is None


def test_children_of_children_are_the_judges_own() -> None:
    code = (
        "import subprocess, sys\n"
        "child = subprocess.Popen(['cat'], stdin=subprocess.PIPE)\n"
        "print(child.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        grandchild = int(child.stdout.readline())
        assert {os.getpid(), child.pid, grandchild} <= own_processes()
        child.communicate("")
