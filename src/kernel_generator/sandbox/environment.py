"""The environment variables of a child: an allow-list, private caches, nothing secret."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_PASSED_ON = (
    "PATH",
    "LANG",
    "LC_ALL",
    "LD_LIBRARY_PATH",
    "CUDA_HOME",
    "CUDA_PATH",
    "CUDA_VISIBLE_DEVICES",
    "NVIDIA_VISIBLE_DEVICES",
    "NVIDIA_DRIVER_CAPABILITIES",
)
"""The only variables a child inherits: no key and no proxy among them."""


def child_environment(home: Path, extra: Mapping[str, str]) -> dict[str, str]:
    """The whole environment of a child: an allow-list, private caches, and `extra`."""
    environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    scripts = str(Path(sys.executable).parent)
    environment["PATH"] = scripts + os.pathsep + environment.get("PATH", os.defpath)
    cache = home / "cache"
    environment |= {
        "HOME": str(home),
        # Asked for where the user has no entry in the system's list, as in a jail.
        "USER": "candidate",
        "LOGNAME": "candidate",
        "TMPDIR": str(home),
        "XDG_CACHE_HOME": str(cache),
        "FIB_CACHE_PATH": str(cache / "flashinfer_bench"),
        "TRITON_CACHE_DIR": str(cache / "triton"),
        "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
        "PYTHONDONTWRITEBYTECODE": "1",
        # An idle worker must not spin on the cores that another one is being timed on.
        "OMP_WAIT_POLICY": "PASSIVE",
        # glibc moves these thresholds with what was freed before, so that of two processes with
        # other histories one pays page faults for every large tensor and the other does not.
        "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
        "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    }
    return environment | dict(extra)
