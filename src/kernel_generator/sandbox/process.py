"""One child process: started behind its isolation, stopped and let go on, ended, cleared up after.

Guarantees that after `close` no process is left of the child's group, nor any other that it started
and that still has the child's HOME in its environment.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from kernel_generator.sandbox.bounds import Watch
from kernel_generator.sandbox.bubblewrap import SCRATCH
from kernel_generator.sandbox.drain import Drain
from kernel_generator.sandbox.isolation import Isolation, Level
from kernel_generator.sandbox.orders import Died, Exceeded, TimedOut
from kernel_generator.sandbox.remains import end_namespace, kill_strays, only_child
from kernel_generator.sandbox.spawning import Spawn, spawner
from kernel_generator.sandbox.standstill import Restless, go_on, stop

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Self

_BY_SIGNAL = 128
_GRACE_S = 1.0
_POLL_S = 0.005


class ChildProcess:
    """A child and all that it starts. Not thread-safe but for `close`, which may be called from
    anywhere."""

    def __init__(
        self,
        environment: Mapping[str, str] | None = None,
        isolation: Isolation | None = None,
        gpu: int | None = None,
        seen: tuple[Path, ...] = (),
        under: tuple[str, ...] = (),
    ) -> None:
        """Start a child; level 'process' if no isolation is named.

        `gpu` is the index of the device node that a jailed child may use, `seen` are folders that
        it may read beside the system's. `under` is the start of a command line, its program an
        absolute path: the child's Python is started by it, with the child's rights. Raises
        `OSError` where no process or folder can be had.
        """
        isolation = isolation or Isolation(Level.PROCESS)
        self._jailed = isolation.jail is not None
        self._own: Path | None = None
        if not self._jailed:
            self._own = Path(tempfile.mkdtemp(prefix="kernel-generator-"))
        self.home = self._own or SCRATCH / "home"
        """Private HOME, caches and temporary files. Jailed, it is seen by the child alone."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._sock = ours
        try:
            start = Spawn(isolation, self.home, dict(environment or {}), gpu, seen, under)
            self._process = spawner(os.getpid()).submit(start.spawn, theirs).result()
        except BaseException:
            # A child that did start ends when its channel closes.
            ours.close()
            self._remove_files()
            raise
        finally:
            theirs.close()
        self._cpu_s = isolation.bounds.cpu_s
        self._stopped: list[int] = []
        self._afterwards: list[Callable[[], None]] = []
        self._log = Drain(self._process.stdout)
        self._closed = threading.Event()
        self._ending = threading.Lock()
        self._watch = Watch(self._process.pid, isolation.bounds, self._kill)

    @property
    def log(self) -> str:
        """What the child printed, clipped in the middle; complete once it is closed."""
        return self._log.text

    def read_log(self) -> None:
        """Read all that the child has printed so far."""
        self._log.catch_up()

    @property
    def alive(self) -> bool:
        """False once the child has died or was killed."""
        return self._process.returncode is None and not self._exited()

    @property
    def closed(self) -> bool:
        """True once it was closed, by whomever."""
        return self._closed.is_set()

    def stand_still(self) -> None:
        """Stop the child and all that it started, until its next order: what is late stays late.

        Kills it and raises `Restless` where that cannot be brought about.
        """
        if self._stopped:
            return
        try:
            self._stopped = stop(self._process.pid)
        except Restless:
            self._kill()
            raise

    def _go_on(self) -> None:
        stopped, self._stopped = self._stopped, []
        go_on(stopped)

    def hang_up(self, timeout: float) -> Died | Exceeded | TimedOut:
        """Tell the child that nothing more comes, and see how it ends by itself. Whatever stands
        above it says what it has to say then. No call can follow."""
        self._go_on()
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)
        deadline = time.monotonic() + timeout
        while not self._exited():
            if time.monotonic() > deadline:
                self._kill()
                return TimedOut(timeout)
            time.sleep(_POLL_S)
        return self._end()

    def _end(self) -> Died | Exceeded:
        deadline = time.monotonic() + _GRACE_S
        while not (exited := self._exited()) and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        self._kill()
        if self._watch.exceeded:
            return Exceeded(self._watch.exceeded)
        status = self._process.returncode if exited else None
        if self._jailed and status is not None and status > _BY_SIGNAL:
            # bubblewrap tells of a signal as a shell does.
            status = _BY_SIGNAL - status
        if status == -signal.SIGXCPU:
            return Exceeded(f"more than {self._cpu_s} s of CPU time")
        return Died(status)

    def _exited(self) -> bool:
        """True once the child has ended, which leaves it to be reaped."""
        look = os.WEXITED | os.WNOHANG | os.WNOWAIT
        try:
            return os.waitid(os.P_PID, self._process.pid, look) is not None
        except ChildProcessError:
            return True

    def _kill(self) -> None:
        with self._ending:
            if self._process.returncode is not None:
                return
            self._watch.stop()
            init = only_child(self._process.pid) if self._jailed else None
            # Only a child that was not reaped yet is sure to own its process group's number.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            if init is not None:
                end_namespace(init)

    def afterwards(self, act: Callable[[], None]) -> None:
        """Do something once the child is gone: at once, where it is."""
        if self._closed.is_set():
            act()
        else:
            self._afterwards.append(act)

    def close(self) -> None:
        """Kill what the child started and remove its files. Safe to call twice."""
        with self._ending:
            if self._closed.is_set():
                return
            self._closed.set()
        self._kill()
        if not self._jailed:
            kill_strays(self.home)
        self._log.join()
        # A thread may be waiting for an answer: this wakes it, closing alone would not.
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()
        self._remove_files()
        while self._afterwards:
            self._afterwards.pop()()

    def _remove_files(self) -> None:
        if self._own is not None:
            shutil.rmtree(self._own, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
