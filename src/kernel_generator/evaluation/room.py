"""Whether another session fits into a machine's memory beside those that are open."""

from __future__ import annotations

from pathlib import Path

_OF_HOST, _OF_GPU = 0.25, 0.4
"""Shares of all memory that have to be free: what a candidate needs is not known before."""
_MEMINFO = Path("/proc/meminfo")


def has_room(*, on_gpu: bool) -> bool:
    """True where enough is free; also where the system does not tell."""
    return _free_of_host() >= _OF_HOST and (not on_gpu or _free_of_gpu() >= _OF_GPU)


def _free_of_host() -> float:
    try:
        lines = _MEMINFO.read_text().splitlines()
        known = {name: int(rest.split()[0]) for name, _, rest in (x.partition(":") for x in lines)}
        return known["MemAvailable"] / known["MemTotal"]
    except (OSError, ValueError, IndexError, KeyError):
        return 1.0


def _free_of_gpu() -> float:
    import torch  # noqa: PLC0415 - takes seconds: only where there is a GPU

    free, total = torch.cuda.mem_get_info()
    return free / total
