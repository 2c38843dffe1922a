"""How a child process is started: its command line, its environment and its user."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from kernel_generator.sandbox.bubblewrap import jail_command
from kernel_generator.sandbox.environment import child_environment

if TYPE_CHECKING:
    import socket

    from kernel_generator.sandbox.isolation import Isolation

_FIRST_USER, _USERS = 1_900_000_000, 100_000_000
"""User ids that nobody has: each child gets one of its own, so that process limits are its own."""


@cache
def spawner(pid: int) -> ThreadPoolExecutor:
    """The one thread of this process that starts children.

    A child asks to be killed when its parent dies, which the system takes to be the *thread* that
    started it: this one lives as long as the process.
    """
    return ThreadPoolExecutor(1, thread_name_prefix=f"kernel-generator-spawner-{pid}")


_START = (
    "import sys; sys.path[:] = {path!r}; from kernel_generator.sandbox.child import main; main()"
)


def import_path() -> list[str]:
    """Where this process found its packages, wherever they were installed; never the working
    directory or the folder of the script that was started."""
    started = Path(sys.argv[0] or ".").resolve().parent
    unwanted = {Path.cwd(), started}
    return [
        entry
        for entry in sys.path
        if Path(entry).is_absolute() and Path(entry).exists() and Path(entry) not in unwanted
    ]


@dataclass(frozen=True)
class Spawn:
    """How one child is started."""

    isolation: Isolation
    home: Path
    environment: dict[str, str]
    gpu: int | None
    seen: tuple[Path, ...]
    under: tuple[str, ...]

    def spawn(self, channel: socket.socket) -> subprocess.Popen[bytes]:
        jail, bounds = self.isolation.jail, self.isolation.bounds
        order = {
            # In a PID namespace of its own it goes with the namespace's first process.
            "parent": None if jail else os.getpid(),
            "user": _FIRST_USER + secrets.randbelow(_USERS) if jail and jail.as_root else None,
            "home": str(self.home),
            "under": self.under,
            "processes": bounds.processes if jail else None,
            "file_bytes": bounds.disk_bytes if jail else None,
            "cpu_s": bounds.cpu_s,
        }
        program = _START.format(path=import_path())
        command = [
            sys.executable,
            "-I",
            "-B",
            "-c",
            program,
            str(channel.fileno()),
            json.dumps(order),
        ]
        if jail is not None:
            command = jail_command(jail, command, bounds, self.gpu, self.seen)
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd="/" if jail else self.home,
            env=child_environment(self.home, self.environment),
            pass_fds=(channel.fileno(),),
            start_new_session=True,
        )
