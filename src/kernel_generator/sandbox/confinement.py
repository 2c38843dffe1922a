"""What a child does to itself before it has anything to do with a candidate."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
from pathlib import Path
from typing import Any

_CPU_GRACE_S = 5
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE = 1, 4


def confine(start: Any) -> None:
    """Become another user, set limits, end with the judge and go to a private HOME, as the order
    how to start says."""
    # Where memory runs out, this process goes, and not the judge.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    user: int | None = start["user"]
    if user is not None:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    libc = ctypes.CDLL(None, use_errno=True)
    # A change of user takes a process's own files in /proc away from it; this gives them back.
    libc.prctl(_PR_SET_DUMPABLE, 1)
    limits = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NPROC: start["processes"],
        resource.RLIMIT_FSIZE: start["file_bytes"],
        resource.RLIMIT_CPU: start["cpu_s"],
    }
    for limit, value in limits.items():
        if value is not None:
            # Beyond the first it gets a signal that says why, beyond the second it is killed.
            most = value + _CPU_GRACE_S if limit == resource.RLIMIT_CPU else value
            with contextlib.suppress(OSError, ValueError):
                resource.setrlimit(limit, (value, most))
    parent: int | None = start["parent"]
    if parent is not None:
        end_with(parent)
    home = Path(start["home"])
    home.mkdir(exist_ok=True)
    os.chdir(home)


def end_with(parent: int) -> None:
    """Have this process killed when the thread of `parent` that started it ends."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
