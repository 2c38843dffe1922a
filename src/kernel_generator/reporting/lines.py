"""Events as lines of JSON, for programs that follow a run.

A thread of its own writes them, in order: neither a reader that is slow nor one that has stopped
reading holds up the run.
"""

from __future__ import annotations

import json
import os
import re
import select
import threading
import time
from collections import deque
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TextIO

from pydantic_core import to_jsonable_python

if TYPE_CHECKING:
    from collections.abc import Callable

    from kernel_generator.domain.events import Event

_PATIENCE_S = 10.0
"""A reader that takes nothing for so long is given up."""
_HURRY_S = 0.2
"""The same once the program is to end."""
_LOOK_S = 0.02
_PIECE = select.PIPE_BUF
"""Bytes that a pipe takes at once as soon as it takes anything."""
_MOST_BYTES = 64 << 20
"""Waiting to be written: a reader that is so far behind is given up."""


class EventLines:
    """An observer that writes one line for each event. Where the stream takes no more, its reader
    has gone for example, it writes no further one and leaves the run alone.

    `event` is the kind ('run_started', 'attempted', ...), `at` the time (ISO 8601, UTC), `run` the
    run's id, where it is of one; the other fields are the event's own.
    """

    def __init__(
        self, stream: TextIO, warn: Callable[[str], None], patience_s: float = _PATIENCE_S
    ) -> None:
        """`warn`: told in one sentence where the reader is given up."""
        stream.flush()
        self._sink = _Sink(stream)
        self._warn = warn
        self._patience_s = patience_s
        self._changed = threading.Condition()
        self._waiting = deque[bytes]()
        self._size = 0
        """Bytes that wait, the line that is being written among them."""
        self._is_closed = False
        """No further line is taken."""
        self._is_given_up = False
        self._thread: threading.Thread | None = None

    def __call__(self, event: Event) -> None:
        """Have it written."""
        if self._is_closed:
            return
        fields = to_jsonable_python(event, inf_nan_mode="strings")
        line = {
            "event": re.sub(r"(?<!^)(?=[A-Z])", "_", type(event).__name__).lower(),
            "at": datetime.now(UTC).isoformat(),
            "run": fields.pop("run_id", None) or None,
            **fields,
        }
        # What is not ASCII is escaped: a reply may hold what no encoding has.
        text = json.dumps(line).encode() + b"\n"
        with self._changed:
            is_behind = self._size + len(text) > _MOST_BYTES
            if not is_behind:
                self._waiting.append(text)
                self._size += len(text)
                if self._thread is None:
                    self._thread = threading.Thread(target=self._write_all, daemon=True)
                    self._thread.start()
                self._changed.notify()
        if is_behind:
            self._give_up(f"is {_MOST_BYTES >> 20} MiB behind")

    def close(self, hurry: bool = False) -> None:
        """Write what waits, as long as the reader takes it; in a hurry, as long as it does so at
        once."""
        self._is_closed = True
        with self._changed:
            if hurry:
                self._patience_s = min(self._patience_s, _HURRY_S)
            self._changed.notify()
        if self._thread is None:
            return
        try:
            self._thread.join()
        except KeyboardInterrupt:
            self._patience_s = 0.0
            raise

    def _write_all(self) -> None:
        """What the thread does."""
        while text := self._next():
            try:
                if not self._write(text):
                    return
            except OSError:
                self._let_go()
                return
            with self._changed:
                self._size -= len(text)

    def _next(self) -> bytes:
        """The next line; empty where there will be none."""
        with self._changed:
            while not self._waiting:
                if self._is_closed:
                    return b""
                self._changed.wait()
            return self._waiting.popleft()

    def _write(self, text: bytes) -> bool:
        """False where the reader was given up."""
        left = memoryview(text)
        since = time.monotonic()
        while left:
            if self._sink.takes_within(_LOOK_S):
                left = left[self._sink.write(left[:_PIECE]) :]
                since = time.monotonic()
            elif time.monotonic() - since > self._patience_s:
                self._give_up("took nothing for a while")
                return False
        return True

    def _give_up(self, why: str) -> None:
        with self._changed:
            is_told, self._is_given_up = self._is_given_up, True
        self._let_go()
        if not is_told:
            self._warn(f"the reader of the events {why}: it is told of no further one")

    def _let_go(self) -> None:
        with self._changed:
            self._is_closed = True
            self._waiting.clear()
            self._changed.notify()


class _Sink:
    """Where lines go: past the stream's own buffer where it has a file, so that nobody waits for
    what is stuck in there."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        try:
            self._file: int | None = stream.fileno()
        except OSError:
            self._file = None

    def takes_within(self, seconds: float) -> bool:
        """Whether a piece can be written without waiting."""
        if self._file is None:
            return True
        poll = select.poll()
        poll.register(self._file, select.POLLOUT)
        return bool(poll.poll(seconds * 1000))

    def write(self, piece: memoryview) -> int:
        """How much of it was written."""
        if self._file is not None:
            return os.write(self._file, piece)
        self._stream.write(bytes(piece).decode())
        self._stream.flush()
        return len(piece)
