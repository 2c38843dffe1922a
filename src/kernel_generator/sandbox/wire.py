"""The protocol between judge and child: fixed binary frames over a Unix socket.

The judge sends JSON it wrote itself. The child, which is untrusted, answers with fixed structs and
at most one clipped text; nothing it sends is ever unpickled or evaluated.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from dataclasses import dataclass
from enum import IntEnum

_HEADER = struct.Struct("<4sBI")
_MAGIC = b"KGW1"
_MAX_PAYLOAD = 64 * 1024 * 1024
"""A definition and a solution travel as one frame."""
MAX_TEXT = 24_000
"""Bytes of a failure's text that a child may send."""
MAX_ANSWER = MAX_TEXT + 1
"""No answer of a child is longer: the fault and its text."""
DONE = struct.Struct("<Idd")
"""count, device nanoseconds per train, spare figure (operations counted)."""


PRELOADED = "KERNEL_GENERATOR_PRELOADED"
"""Variable of a child's environment: modules, apart by spaces, that it imports ahead of need."""
COMPILES = "KERNEL_GENERATOR_COMPILES"
"""Variable of a child's environment: set where it only compiles, and imports nothing else."""


class Kind(IntEnum):
    """Frame kinds: below 100 from the judge, from 100 on from the child."""

    PREPARE = 1
    BIND = 2
    RUN = 3
    TRAIN = 4
    COUNT = 5
    RELEASE = 6
    RUN_WIDE = 7
    WARM = 8
    BUILD = 9
    CAPTURE = 10
    REPLAY = 11
    RUN_APART = 12
    RUN_KEPT = 13
    LOOK_BACK = 14
    READY = 100
    DONE = 101
    FAILED = 102
    QUEUED = 103
    FINISHED = 104


class Train(IntEnum):
    """How a train of calls is driven. Each call has a set of the ring to itself."""

    CALLS = 0
    """Back to back, then one synchronisation. The judge's clock spans it."""
    GATED = 1
    """CUDA only: queued behind the arena's gate with the L2 flushed before each call and events
    around it, reported as QUEUED, then waited for, and reported as FINISHED before the events are
    read. The judge's clock runs from the gate's opening until then, and the inputs are written just
    before: nothing can be computed ahead."""
    SYNCED = 2
    """Each call followed by a synchronisation: what a caller waits for."""
    EMPTY = 3
    """As CALLS, of nothing. What is measured this way of trusted code is taken off the other
    figures; where values are stored, tensors like the outputs are made and stored."""
    GATED_EMPTY = 4
    """As GATED, of a kernel that does nothing."""
    MADE = 5
    """As EMPTY, but what is made is not stored: the difference is what storing takes."""


class Fault(IntEnum):
    """What kind of failure a child reports. A claim: it can only hurt the candidate itself."""

    BUILD = 1
    RUN = 2
    RESOURCE = 3
    NOT_RUNNABLE = 4
    SHAPE = 5
    DTYPE = 6
    PROTOCOL = 7
    NOT_WIDE = 8


class ChannelClosed(Exception):
    """The other side is gone."""


class ChannelTimeout(Exception):
    """No complete frame within the deadline."""


class NotAFrame(Exception):
    """The other side sent something that is no frame of this protocol."""


@dataclass(frozen=True)
class Frame:
    """One message, with a file descriptor where one came along."""

    kind: int
    payload: bytes
    fd: int | None = None


def send(
    sock: socket.socket,
    kind: int,
    payload: bytes = b"",
    fd: int | None = None,
    timeout: float | None = None,
) -> None:
    """Send one frame within `timeout` seconds. Raises `ChannelClosed`, `ChannelTimeout`."""
    head = _HEADER.pack(_MAGIC, kind, len(payload))
    try:
        sock.settimeout(timeout)
        if fd is None:
            sock.sendall(head)
        else:
            socket.send_fds(sock, [head], [fd])
        sock.sendall(payload)
    except TimeoutError as error:
        raise ChannelTimeout from error
    except OSError as error:
        raise ChannelClosed(str(error)) from error


def is_silent(sock: socket.socket) -> bool:
    """True where nothing has arrived that nobody asked for; the other side's end is no message."""
    try:
        sock.setblocking(False)
        return not sock.recv(1, socket.MSG_PEEK)
    except OSError:
        return True


def is_ready(sock: socket.socket, timeout: float) -> bool:
    """True once something has arrived, or the other side is gone; False after `timeout` seconds."""
    number = sock.fileno()
    if number < 0:
        # Closed from another thread.
        return True
    waiting = select.poll()
    waiting.register(number, select.POLLIN)
    return bool(waiting.poll(timeout * 1000))


def receive(sock: socket.socket, timeout: float | None = None) -> Frame:
    """Receive one frame, and the descriptor that came with it, within `timeout` seconds.

    Raises `ChannelClosed`, `ChannelTimeout`, `NotAFrame`.
    """
    return _receive(sock, timeout, _MAX_PAYLOAD, with_fd=True)


def receive_answer(sock: socket.socket, timeout: float) -> Frame:
    """Receive one frame from an untrusted child: short, and never with a descriptor.

    Raises `ChannelClosed`, `ChannelTimeout`, `NotAFrame`.
    """
    return _receive(sock, timeout, MAX_ANSWER, with_fd=False)


def _receive(sock: socket.socket, timeout: float | None, limit: int, *, with_fd: bool) -> Frame:
    deadline = None if timeout is None else time.monotonic() + timeout
    fds: list[int] = []
    try:
        head = b""
        while len(head) < _HEADER.size:
            _arm(sock, deadline)
            if with_fd:
                data, new_fds, _, _ = socket.recv_fds(sock, _HEADER.size - len(head), 1)
                fds.extend(new_fds)
            else:
                # A plain read makes the system drop descriptors that were sent along.
                data = sock.recv(_HEADER.size - len(head))
            if not data:
                raise ChannelClosed("closed")
            head += data
        magic, kind, length = _HEADER.unpack(head)
        if magic != _MAGIC or length > limit:
            raise NotAFrame
        payload = bytearray()
        while len(payload) < length:
            _arm(sock, deadline)
            data = sock.recv(min(1 << 20, length - len(payload)))
            if not data:
                raise ChannelClosed("closed")
            payload += data
    except TimeoutError as error:
        raise ChannelTimeout from error
    except OSError as error:
        raise ChannelClosed(str(error)) from error
    return Frame(kind, bytes(payload), fds[0] if fds else None)


def _arm(sock: socket.socket, deadline: float | None) -> None:
    if deadline is None:
        sock.settimeout(None)
        return
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    sock.settimeout(left)
