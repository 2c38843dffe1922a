"""The device that figures are taken on, as it is recorded with them."""

from __future__ import annotations

import socket
from functools import cache

from flashinfer_bench.utils import env_snapshot

from kernel_generator.domain.evaluation import Device


@cache
def describe_device(device: str) -> Device:
    """Name and libraries as FlashInfer-Bench records them, and the host."""
    snapshot = env_snapshot(device)
    return Device(
        kind="cpu" if device == "cpu" else "cuda",
        name=snapshot.hardware,
        host=socket.gethostname(),
        libraries=dict(snapshot.libs),
    )
