"""What is left of a child that was killed, and how it is ended too."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from pathlib import Path

_GRACE_S = 1.0
_STRAY_ROUNDS = 5
"""A process that forks while it is being looked for is found in a later round."""


def only_child(pid: int) -> int | None:
    """A descriptor of the first process of bubblewrap's namespace, or None where it is gone."""
    with contextlib.suppress(OSError, ValueError):
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return os.pidfd_open(int(children[0])) if children else None
    return None


def end_namespace(init: int) -> None:
    """Kill a PID namespace by its first process, and wait until it is gone."""
    try:
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(init, signal.SIGKILL)
        gone = select.poll()
        gone.register(init, select.POLLIN)
        gone.poll(_GRACE_S * 1000)
    finally:
        os.close(init)


def kill_strays(home: Path) -> None:
    """Kill processes that left the child's group but still have its HOME."""
    mark = f"HOME={home}".encode()
    for _ in range(_STRAY_ROUNDS):
        found = False
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            # The descriptor is opened first, so that the process looked at is the one killed.
            with contextlib.suppress(OSError):
                pidfd = os.pidfd_open(int(entry.name))
                try:
                    if mark in (entry / "environ").read_bytes().split(b"\0"):
                        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                        found = True
                finally:
                    os.close(pidfd)
        if not found:
            return
