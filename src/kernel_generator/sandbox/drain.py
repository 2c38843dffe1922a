"""What a child prints: read to its end on a thread, the first and the last bytes kept.

It is shown to people and to the author, and never parsed.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from typing import TYPE_CHECKING

from kernel_generator.inert import inert

if TYPE_CHECKING:
    from typing import IO

_KEPT_OUTPUT = 16_000
"""Bytes of the child's stdout and stderr kept from the start, and as many from the end."""
_GRACE_S = 1.0
_CATCH_UP_S, _POLL_S = 0.05, 0.0005


class Drain:
    """Reads a pipe to its end on a thread, keeping the first and the last bytes."""

    def __init__(self, stream: IO[bytes] | None) -> None:
        self._head = bytearray()
        self._tail = bytearray()
        self._dropped = 0
        self._given_up = False
        self._stream = stream
        self._thread = threading.Thread(target=self._read, args=(stream,), daemon=True)
        self._thread.start()

    def _read(self, stream: IO[bytes] | None) -> None:
        if stream is None:
            return
        # Closed by the thread that reads it: elsewhere, the number could be another file by then.
        with stream, contextlib.suppress(OSError):
            while not self._given_up and (data := os.read(stream.fileno(), 65536)):
                room = _KEPT_OUTPUT - len(self._head)
                self._head += data[:room] if room > 0 else b""
                self._tail += data[room:] if room > 0 else data
                if len(self._tail) > _KEPT_OUTPUT:
                    self._dropped += len(self._tail) - _KEPT_OUTPUT
                    del self._tail[:-_KEPT_OUTPUT]

    @property
    def text(self) -> str:
        """What was kept, as inert text."""
        gap = f"\n[... {self._dropped} bytes left out ...]\n".encode() if self._dropped else b""
        return inert(bytes(self._head + gap + self._tail).decode("utf-8", "replace"))

    def catch_up(self) -> None:
        """Wait until what was written so far is read; not for long, for more may come all the
        time."""
        deadline = time.monotonic() + _CATCH_UP_S
        while self._unread() and time.monotonic() < deadline:
            time.sleep(_POLL_S)

    def _unread(self) -> bool:
        # Closed by its thread at the end, when there is nothing more to be read.
        with contextlib.suppress(OSError, ValueError):
            if self._stream is not None:
                return bool(select.select([self._stream], [], [], 0)[0]) and self._thread.is_alive()
        return False

    def join(self) -> None:
        """Wait for the pipe's end, but not for a process that got away and keeps it open."""
        self._thread.join(_GRACE_S)
        self._given_up = True
