"""The few calls of the CUDA driver that sharing memory with another process takes.

They act on the current context of torch's first device; every function makes sure that there is
one. Source of names and values: CUDA driver API reference, memory management and stream memory
operations.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

HANDLE_BYTES = 64
_LAZY_PEER_ACCESS = 1
_AT_LEAST = 0


class DriverError(OSError):
    """A call of the driver failed; `errno` holds the driver's own number."""


class _Handle(ctypes.Structure):
    _fields_ = (("reserved", ctypes.c_char * HANDLE_BYTES),)


@cache
def _driver() -> Any:
    return ctypes.CDLL("libcuda.so.1")


def _check(call: str, status: int) -> None:
    if status == 0:
        return
    text = ctypes.c_char_p()
    _driver().cuGetErrorString(status, ctypes.byref(text))
    reason = (text.value or b"unknown error").decode()
    raise DriverError(status, f"{call}: {reason}")


def _enter() -> None:
    import torch  # noqa: PLC0415 - takes seconds: only where there is a GPU

    # The context belongs to a thread: this gives torch's own to whichever thread asks.
    torch.cuda.current_stream().synchronize()


def allocate(nbytes: int) -> int:
    """Device memory; its address. Raises `DriverError`."""
    _enter()
    pointer = ctypes.c_uint64()
    _check("cuMemAlloc", _driver().cuMemAlloc_v2(ctypes.byref(pointer), ctypes.c_size_t(nbytes)))
    return pointer.value


def free(pointer: int) -> None:
    """Give back what `allocate` gave. Raises `DriverError`."""
    _enter()
    _check("cuMemFree", _driver().cuMemFree_v2(ctypes.c_uint64(pointer)))


def export(pointer: int) -> bytes:
    """A handle by which another process opens memory from `allocate`. Raises `DriverError`."""
    _enter()
    handle = _Handle()
    status = _driver().cuIpcGetMemHandle(ctypes.byref(handle), ctypes.c_uint64(pointer))
    _check("cuIpcGetMemHandle", status)
    return bytes(handle)


def open_exported(handle: bytes) -> int:
    """The address here of memory that another process exported. Raises `DriverError`."""
    _enter()
    pointer = ctypes.c_uint64()
    status = _driver().cuIpcOpenMemHandle_v2(
        ctypes.byref(pointer), _Handle.from_buffer_copy(handle), _LAZY_PEER_ACCESS
    )
    _check("cuIpcOpenMemHandle", status)
    return pointer.value


def close_exported(pointer: int) -> None:
    """Unmap what `open_exported` mapped. Raises `DriverError`."""
    _enter()
    _check("cuIpcCloseMemHandle", _driver().cuIpcCloseMemHandle(ctypes.c_uint64(pointer)))


def wait_until(stream: int, pointer: int, value: int) -> None:
    """Let what is queued on a stream from now on wait until the 32 bits at a device address are at
    least `value`. Raises `DriverError`."""
    status = _driver().cuStreamWaitValue32_v2(
        ctypes.c_void_p(stream), ctypes.c_uint64(pointer), ctypes.c_uint32(value), _AT_LEAST
    )
    _check("cuStreamWaitValue32", status)
