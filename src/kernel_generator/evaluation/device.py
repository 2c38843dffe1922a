"""The device that figures are taken on, as it is recorded with them."""

from __future__ import annotations

import socket
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import pynvml
from flashinfer_bench.utils import env_snapshot

from kernel_generator.domain.evaluation import Device

if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import Any


@cache
def describe_device(device: str) -> Device:
    """Name and libraries as FlashInfer-Bench records them, the host, and which GPU it is."""
    snapshot = env_snapshot(device)
    return Device(
        kind="cpu" if device == "cpu" else "cuda",
        name=snapshot.hardware,
        host=socket.gethostname(),
        uuid="" if device == "cpu" else gpu_uuid(),
        libraries=dict(snapshot.libs),
    )


@cache
def gpu_uuid() -> str:
    """The first visible GPU's UUID, as the driver writes it: 'GPU-...'."""
    import torch  # noqa: PLC0415 - takes seconds: only where there is a GPU

    return f"GPU-{torch.cuda.get_device_properties(0).uuid}"


@dataclass(frozen=True)
class Gpu:
    """One GPU that this process may use."""

    uuid: str
    name: str
    """As the driver tells it: 'NVIDIA H100 80GB HBM3'."""


@cache
def visible_gpus() -> tuple[Gpu, ...]:
    """All GPUs that this process may use (`CUDA_VISIBLE_DEVICES`), in the driver's order."""
    import torch  # noqa: PLC0415 - as above

    if not torch.cuda.is_available():
        return ()
    found = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return tuple(Gpu(f"GPU-{one.uuid}", one.name) for one in found)


@cache
def gpu_node() -> int:
    """N of the first visible GPU's /dev/nvidiaN; 0 where the driver's library does not tell."""
    with nvml() as library:
        if library is None:
            return 0
        return library.nvmlDeviceGetMinorNumber(library.nvmlDeviceGetHandleByUUID(gpu_uuid()))


def gpu_environment() -> dict[str, str]:
    """What makes a child see that GPU alone, whatever its own node's number, and start no threads
    for the CPU's arithmetic: whenever a child is stopped, each of its threads is looked at."""
    return {"CUDA_VISIBLE_DEVICES": gpu_uuid(), "OPENBLAS_NUM_THREADS": "1"}


@contextmanager
def nvml() -> Generator[Any]:
    """NVIDIA's management library, started; None where there is none."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield None
        return
    try:
        yield pynvml
    finally:
        pynvml.nvmlShutdown()
