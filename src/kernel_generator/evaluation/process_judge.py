"""A judge in a process of its own on this machine, which sees one GPU or none.

The process is started when it is first needed, and again after it was lost; it ends with this
process, however that ends. Works wherever the user's script was started from, with or without a
`__main__` guard: nothing of it is imported there.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import Future
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from kernel_generator.domain.errors import DeviceLost
from kernel_generator.evaluation.judge import Limits
from kernel_generator.evaluation.local import LocalJudge
from kernel_generator.evaluation.remote import RemoteSession, has_room
from kernel_generator.sandbox.isolation import Level
from kernel_generator.sandbox.spawning import import_path, spawner

if TYPE_CHECKING:
    from kernel_generator.domain.task import Task
    from kernel_generator.evaluation.orders import Answer, Order

_PROGRAM = (
    "import sys; sys.path[:] = {path!r}; from kernel_generator.evaluation.served import main; "
    "main()"
)


class ProcessJudge:
    """See `PlacedJudge`."""

    def __init__(
        self,
        limits: Limits | None = None,
        isolation: str = Level.STRICT,
        gpu: str | None = None,
        place: str = "this CPU",
    ) -> None:
        """`gpu` is the UUID of the one that it judges on, 'GPU-...'; None: none. Raises
        `UnknownName`."""
        self._here = LocalJudge(limits, isolation)
        self.place = place
        self.slots = 1 if gpu is None else 2
        self._how = (limits or Limits(), isolation)
        self._gpu = gpu
        self._lock = threading.Lock()
        self._process: _Process | None = None

    def open(self, task: Task) -> RemoteSession:
        """See `Judge.open`. The process is started when the session is prepared."""
        return RemoteSession(self._connect, self.place, task)

    def check(self) -> None:
        """See `Judge.check`. What this process may, the other may."""
        self._here.check()

    def has_room(self) -> bool:
        """See `PlacedJudge.has_room`."""
        with self._lock:
            process = self._process
        return has_room(process)

    def _connect(self) -> _Process:
        with self._lock:
            if self._process is None or self._process.lost:
                try:
                    self._process = _Process(self.place, self._gpu or "", *self._how)
                except OSError as error:
                    raise DeviceLost(f"{self.place}: no judge can be started: {error}") from error
            return self._process

    def close(self) -> None:
        """End the process, and all its sessions with it; the next session starts another."""
        with self._lock:
            if self._process is not None:
                self._process.cut()


class _Process:
    """One judge process, and the connection to it. See `Line`."""

    def __init__(self, place: str, gpu: str, limits: Limits, isolation: str) -> None:
        """Raises `OSError` where no process can be had."""
        ours, theirs = socket.socketpair()
        self._connection = Connection(ours.detach())
        self._sending = threading.Lock()
        self._ending = threading.Lock()
        self._waiting: dict[int, Future[Answer]] = {}
        self._tickets = itertools.count()
        self._lost = False
        with theirs:
            self._process = spawner(os.getpid()).submit(_spawn, theirs.fileno(), gpu).result()
        with contextlib.suppress(OSError):
            # One that has died already shows when its answers are read.
            self._connection.send((limits, isolation))
        threading.Thread(target=self._read, name=f"judge of {place}", daemon=True).start()

    @property
    def lost(self) -> bool:
        """True once it answers nothing any more."""
        return self._lost

    def submit(self, order: Order) -> Future[Answer]:
        """See `Line.submit`."""
        answered = Future["Answer"]()
        # Before anything is sent: what cannot be pickled is the caller's fault and nobody else's.
        ticket = next(self._tickets)
        frame = pickle.dumps((ticket, order))
        with self._sending:
            if self._lost:
                answered.set_exception(DeviceLost(self._how_it_ended()))
                return answered
            self._waiting[ticket] = answered
            # Where the process is gone, whoever reads its answers finds out and says so.
            with contextlib.suppress(OSError):
                self._connection.send_bytes(frame)
        return answered

    def cut(self) -> None:
        """See `Line.cut`."""
        with self._ending:
            if self._process.poll() is None:
                # Its children go with it.
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()

    def _read(self) -> None:
        try:
            while True:
                ticket, answer = self._connection.recv()
                self._waiting.pop(ticket).set_result(answer)
        except (EOFError, OSError):
            pass
        finally:
            self.cut()
            with self._sending:
                self._lost = True
                waiting = list(self._waiting.values())
                self._waiting.clear()
                self._connection.close()
            for answered in waiting:
                answered.set_exception(DeviceLost(self._how_it_ended()))

    def _how_it_ended(self) -> str:
        status = self._process.returncode
        how = f"by signal {-status}" if status < 0 else f"with status {status}"
        return f"the process that judges there ended {how}"


def _spawn(descriptor: int, gpu: str) -> subprocess.Popen[bytes]:
    program = _PROGRAM.format(path=import_path())
    return subprocess.Popen(
        [sys.executable, "-B", "-c", program, str(descriptor), str(os.getpid())],
        stdin=subprocess.DEVNULL,
        # What a command prints for machines is on stdout.
        stdout=subprocess.DEVNULL,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": gpu},
        pass_fds=(descriptor,),
        # Ctrl-C is for whoever drives it.
        start_new_session=True,
    )
