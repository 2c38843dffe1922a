"""Shared memory holding the inputs and outputs of calls, with guard zones between them.

The judge lays it out and fills it; the child maps the same memory, here of the machine, in
`device_arena` of a GPU. It holds one set of tensors or a ring of them, all laid out alike.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import mmap
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from pydantic import TypeAdapter

GUARD_BYTES = 512
GUARD_VALUE = 0xA5
POISON_VALUE = 0xFF
"""Fills outputs before a call: NaN in every floating format, -1 in every integer."""
_ALIGNMENT = 256


@dataclass(frozen=True)
class Place:
    """Where one tensor lies, or the value of one scalar."""

    name: str
    dtype: str
    """torch's name of the dtype, 'bfloat16' for example."""
    shape: tuple[int, ...]
    offset: int = 0
    scalar: int | float | bool | None = None
    """The value, where the argument is a Python scalar and takes no memory."""

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype as torch has it."""
        return getattr(torch, self.dtype)

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor; 0 for a scalar."""
        if self.scalar is not None:
            return 0
        count = 1
        for extent in self.shape:
            count *= extent
        return count * self.torch_dtype.itemsize


@dataclass(frozen=True)
class Layout:
    """The plan of an arena; travels to the child as JSON."""

    slot: int
    size: int
    """Bytes of one set; the sets lie one behind the other."""
    inputs: tuple[Place, ...]
    outputs: tuple[Place, ...]
    sets: int = 1

    @property
    def nbytes(self) -> int:
        """Bytes of all sets."""
        return self.size * self.sets

    @staticmethod
    def plan(
        slot: int, inputs: tuple[Place, ...], outputs: tuple[Place, ...], sets: int = 1
    ) -> Layout:
        """Give every tensor an aligned offset with a guard zone on both sides."""
        at = GUARD_BYTES

        def put(place: Place) -> Place:
            nonlocal at
            if place.scalar is not None:
                return place
            at = -(-at // _ALIGNMENT) * _ALIGNMENT
            placed = Place(place.name, place.dtype, place.shape, at)
            at += place.nbytes + GUARD_BYTES
            return placed

        placed_inputs = tuple(put(p) for p in inputs)
        placed_outputs = tuple(put(p) for p in outputs)
        size = -(-at // mmap.PAGESIZE) * mmap.PAGESIZE
        return Layout(slot, size, placed_inputs, placed_outputs, sets)

    def to_json(self) -> bytes:
        """The plan as the child reads it."""
        # Python's own writer: pydantic's would turn an infinite scalar into null.
        return json.dumps(asdict(self)).encode()

    @staticmethod
    def from_json(data: bytes) -> Layout:
        """Inverse of `to_json`."""
        return TypeAdapter(Layout).validate_json(data)


class Block:
    """The memory behind a layout, whatever it is made of."""

    def __init__(self, layout: Layout, content: torch.Tensor) -> None:
        self.layout = layout
        self.sets: torch.Tensor = content[: layout.nbytes].view(layout.sets, layout.size)
        """All of it, uint8 [sets, layout.size]."""

    @property
    def gate(self) -> int:
        """Device address of the number that queued work waits for; 0 where there is none."""
        return 0

    def leave(self) -> None:
        """Let go of memory that another process created."""

    @property
    def bytes(self) -> torch.Tensor:
        """The first set, uint8 [layout.size]."""
        return self.sets[0]

    def region(self, place: Place, index: int = 0) -> torch.Tensor:
        """The raw bytes of one tensor of one set, uint8."""
        return self.sets[index, place.offset : place.offset + place.nbytes]

    def tensor(self, place: Place, index: int) -> torch.Tensor:
        """The tensor at `place` of one set, in a storage of its own: compilers take tensors of one
        storage for views of each other."""
        raw = self._raw(index * self.layout.size + place.offset, place.nbytes)
        return _shaped(raw, place)

    def _raw(self, offset: int, nbytes: int) -> torch.Tensor:
        """Bytes from an offset on, uint8 [nbytes]."""
        return self.sets.view(-1)[offset : offset + nbytes]

    def clear(self) -> None:
        """Fill guard zones and outputs with their patterns."""
        self.sets.fill_(GUARD_VALUE)
        for place in self.layout.outputs:
            self.sets[:, place.offset : place.offset + place.nbytes] = POISON_VALUE


class Arena(Block):
    """Shared memory of this machine. Closing it frees the memory once no child maps it."""

    def __init__(self, layout: Layout, fd: int) -> None:
        self.fd = fd
        self._map = mmap.mmap(fd, layout.nbytes)
        super().__init__(layout, torch.frombuffer(self._map, dtype=torch.uint8))

    @staticmethod
    def create(layout: Layout) -> Arena:
        """New anonymous memory, guard zones and outputs filled with their patterns.

        Raises `OSError` where there is not that much.
        """
        if layout.nbytes > _available_bytes():
            # Asking for it would have the system kill processes to find it.
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        fd = os.memfd_create("kernel-generator-arena", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            # Reserves the memory now: a page that cannot be had later is a signal, not an error.
            os.posix_fallocate(fd, 0, layout.nbytes)
            # Whoever shrank the file would kill the process that reads it next.
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
            arena = Arena(layout, fd)
        except OSError:
            os.close(fd)
            raise
        arena.clear()
        return arena

    def _raw(self, offset: int, nbytes: int) -> torch.Tensor:
        if nbytes == 0:
            return super()._raw(offset, nbytes)
        return torch.frombuffer(self._map, dtype=torch.uint8, count=nbytes, offset=offset)

    def close(self) -> None:
        """Close the descriptor; the memory goes when nobody maps it any more."""
        os.close(self.fd)


def _available_bytes() -> int:
    """Memory that this machine, and this process's control group, still have."""
    found: list[int] = []
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                found.append(int(line.split()[1]) * 1024)
    group = Path("/sys/fs/cgroup")
    # Without a limit, `memory.max` is the word "max".
    with contextlib.suppress(OSError, ValueError):
        limit = int((group / "memory.max").read_text())
        found.append(limit - int((group / "memory.current").read_text()))
    return min(found, default=1 << 62)


def view(block: torch.Tensor, place: Place) -> torch.Tensor:
    """The tensor at `place` as a view of `block`, uint8 [layout.size] on any device."""
    return _shaped(block[place.offset : place.offset + place.nbytes], place)


def _shaped(raw: torch.Tensor, place: Place) -> torch.Tensor:
    if place.nbytes == 0:
        return torch.empty(place.shape, dtype=place.torch_dtype, device=raw.device)
    return raw.view(place.torch_dtype).view(place.shape)
