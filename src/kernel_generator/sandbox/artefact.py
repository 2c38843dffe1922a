"""What a build child made, on its way to the run child: one shared library, in anonymous memory.

The judge owns the memory and never reads it. It cannot grow beyond its bound, and once sealed
nobody can change it, so that what one run child does to it never reaches another.
"""

from __future__ import annotations

import fcntl
import os

ARTEFACT_BYTES = 256 << 20
"""Most that one library may take. Memory is taken as it is written."""
_FINAL = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW


class Artefact:
    """Owner of the memory; to be closed once the run child has loaded what is in it."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        """For the build child: it may write."""

    @staticmethod
    def create(nbytes: int = ARTEFACT_BYTES) -> Artefact:
        """Memory of at most that size, all zeros. Raises `OSError`."""
        fd = os.memfd_create("kernel-generator-artefact", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, nbytes)
            # The child cuts off what it does not need.
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW)
        except OSError:
            os.close(fd)
            raise
        return Artefact(fd)

    def seal(self) -> bool:
        """From now on nothing in it can change. To be called once the build child is gone; False
        where something that it left behind still writes, or it sealed the memory in its own way."""
        try:
            fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, _FINAL | fcntl.F_SEAL_SEAL)
        except OSError:
            return False
        return True

    def open_for_reading(self) -> int:
        """A descriptor of its own for a run child, which cannot write through it; the caller
        closes it. Raises `OSError`."""
        return os.open(f"/proc/self/fd/{self.fd}", os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        """Free the memory once no child has it open. Safe to call twice."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Artefact:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
