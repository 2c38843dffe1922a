"""An arena in a GPU's memory: allocated by the judge, opened by the child through CUDA IPC.

Behind the sets lies a gate: a number that the child's stream waits for, so that the judge decides
when work that is already queued may begin.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from kernel_generator.sandbox import driver
from kernel_generator.sandbox.arena import Block, Layout

_GATE_BYTES = 4096
_WHOLE = 2 * 1024 * 1024
"""Smaller allocations share a piece of memory, all of which an exported handle would give away."""


@dataclass(frozen=True)
class _DeviceBytes:
    """Raw device memory as torch takes it over; torch does not own it."""

    pointer: int
    nbytes: int

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": (self.nbytes,),
            "typestr": "|u1",
            "data": (self.pointer, False),
            "version": 3,
        }


class DeviceArena(Block):
    """Device memory that another process can open, or that another process exported."""

    def __init__(self, layout: Layout, pointer: int, handle: bytes) -> None:
        self.handle = handle
        """What the child opens it by."""
        self._pointer = pointer
        content = torch.as_tensor(_DeviceBytes(pointer, layout.nbytes + _GATE_BYTES), device="cuda")
        super().__init__(layout, content)
        self._gate = content[layout.nbytes : layout.nbytes + 4].view(torch.int32)

    @staticmethod
    def create(layout: Layout) -> DeviceArena:
        """New device memory, guard zones and outputs filled with their patterns, the gate at 0.

        Raises `OSError` where there is not that much.
        """
        pointer = driver.allocate(-(-(layout.nbytes + _GATE_BYTES) // _WHOLE) * _WHOLE)
        try:
            arena = DeviceArena(layout, pointer, driver.export(pointer))
        except OSError:
            driver.free(pointer)
            raise
        arena.clear()
        arena.open_gate(0)
        return arena

    @staticmethod
    def opened(layout: Layout, handle: bytes) -> DeviceArena:
        """The arena that another process created. Raises `OSError`."""
        return DeviceArena(layout, driver.open_exported(handle), handle)

    def _raw(self, offset: int, nbytes: int) -> torch.Tensor:
        if nbytes == 0:
            return super()._raw(offset, nbytes)
        return torch.as_tensor(_DeviceBytes(self._pointer + offset, nbytes), device="cuda")

    @property
    def gate(self) -> int:
        """See `Block.gate`."""
        return self._gate.data_ptr()

    def open_gate(self, number: int) -> None:
        """Let work go on that waits for `number` or less."""
        self._gate.fill_(number)
        torch.cuda.current_stream().synchronize()

    def close(self) -> None:
        """Free the memory. To be called once no child has it open: CUDA leaves open what becomes
        of one that has."""
        torch.cuda.current_stream().synchronize()
        driver.free(self._pointer)

    def leave(self) -> None:
        """See `Block.leave`."""
        torch.cuda.synchronize()
        driver.close_exported(self._pointer)
