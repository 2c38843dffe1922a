"""The judge's end of one child process: starts it, talks to it under deadlines, kills it.

Guarantees that every call returns an `Answer` within its limit, whatever the child does, and that
after `close` no process is left of the child's group, nor any other that it started and that still
has the child's HOME in its environment.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from kernel_generator.sandbox import wire
from kernel_generator.sandbox.drain import Drain
from kernel_generator.sandbox.environment import child_environment
from kernel_generator.sandbox.wire import Fault, Kind, Train

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kernel_generator.sandbox.arena import Arena

LEVEL = "process"
"""The isolation that a worker reaches."""
LACKED = (
    "filesystem isolation",
    "network isolation",
    "PID namespace",
    "memory and process limits",
)
"""What this level does not give."""

_GRACE_S = 1.0
_POLL_S = 0.005
_STRAY_ROUNDS = 5
"""A process that forks while it is being looked for is found in a later round."""


@dataclass(frozen=True)
class Order:
    """What a child is to load, and where it is to run."""

    definition_json: str
    solution_json: str
    device: str
    """'cpu' or 'cuda:N'."""
    interpret: bool = False
    """Run Triton in its interpreter."""
    stands_in: bool = False
    """The CPU stands in for a GPU: what only a GPU can do is no fault of the candidate."""
    threads: int = 0
    """CPU threads for torch; 0 leaves its default."""


@dataclass(frozen=True)
class Done:
    """The child says that it did as told."""

    wall_s: float
    """The judge's clock, from sending the order to receiving the answer."""
    device_ns: float = 0.0
    """The child's claim for a DEVICE train."""
    queue_kept_full: bool = False
    figure: float = 0.0


@dataclass(frozen=True)
class Failed:
    """The child reports a failure of the candidate."""

    fault: Fault
    text: str


@dataclass(frozen=True)
class Died:
    """The child process ended."""

    returncode: int | None

    @property
    def text(self) -> str:
        """How it ended, in words."""
        if self.returncode is None:
            return "the process closed its channel"
        if self.returncode < 0:
            with contextlib.suppress(ValueError):
                return f"the process was killed by {signal.Signals(-self.returncode).name}"
        return f"the process exited with status {self.returncode}"


@dataclass(frozen=True)
class TimedOut:
    """No answer within the limit; the child was killed."""

    limit_s: float


Answer = Done | Failed | Died | TimedOut


class Worker:
    """One child process. Not thread-safe but for `close`, which may be called from anywhere."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        """Raises `OSError` where no process or folder can be had."""
        self.home = Path(tempfile.mkdtemp(prefix="kernel-generator-"))
        """Private HOME, caches and temporary files; removed by `close`."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._sock = ours
        try:
            environment = child_environment(self.home, environment or {})
            self._process = _spawner(os.getpid()).submit(_spawn, theirs, environment).result()
        except BaseException:
            # A child that did start ends when its channel closes.
            ours.close()
            shutil.rmtree(self.home, ignore_errors=True)
            raise
        finally:
            theirs.close()
        self._log = Drain(self._process.stdout)
        self._closed = threading.Event()
        self._ending = threading.Lock()

    def furnish(self, folder: Path) -> None:
        """Copy a folder's content into the child's HOME. Raises `OSError`."""
        shutil.copytree(folder, self.home, dirs_exist_ok=True)

    @property
    def log(self) -> str:
        """What the child printed, clipped in the middle; complete once it is closed."""
        return self._log.text

    @property
    def alive(self) -> bool:
        """False once the child has died or was killed."""
        return self._process.returncode is None and not self._exited()

    def prepare(self, order: Order, timeout: float) -> Answer:
        """Load and build the candidate."""
        payload = json.dumps(
            {
                "definition": json.loads(order.definition_json),
                "solution": json.loads(order.solution_json),
                "device": order.device,
                "interpret": order.interpret,
                "stands_in": order.stands_in,
                "threads": order.threads,
            }
        ).encode()
        return self._ask(Kind.PREPARE, payload, timeout)

    def bind(self, arena: Arena, timeout: float) -> Answer:
        """Share an arena with the child under its layout's slot."""
        return self._ask(Kind.BIND, arena.layout.to_json(), timeout, fd=arena.fd)

    def release(self, slot: int, timeout: float) -> Answer:
        """Let the child forget an arena."""
        return self._ask(Kind.RELEASE, json.dumps([slot]).encode(), timeout)

    def run(self, slot: int, timeout: float) -> Answer:
        """One call whose inputs and outputs the judge will look at."""
        return self._ask(Kind.RUN, json.dumps([slot]).encode(), timeout)

    def train(self, slot: int, count: int, mode: Train, timeout: float) -> Answer:
        """`count` calls in a row; `Done.wall_s` spans them all."""
        return self._ask(Kind.TRAIN, json.dumps([slot, count, int(mode)]).encode(), timeout)

    def count(self, slot: int, timeout: float) -> Answer:
        """Floating-point operations of one call, in `Done.figure`. For trusted code only."""
        return self._ask(Kind.COUNT, json.dumps([slot]).encode(), timeout)

    def _ask(self, kind: Kind, payload: bytes, timeout: float, fd: int | None = None) -> Answer:
        if not wire.is_silent(self._sock):
            self._kill()
            return Failed(Fault.PROTOCOL, "the child answered more often than it was asked")
        began = time.perf_counter()
        try:
            wire.send(self._sock, kind, payload, fd, timeout)
            frame = wire.receive_answer(self._sock, timeout)
        except wire.ChannelTimeout:
            self._kill()
            return TimedOut(timeout)
        except wire.ChannelClosed:
            return self._end()
        except wire.NotAFrame:
            self._kill()
            return Failed(Fault.PROTOCOL, "the child sent something that is no frame")
        except BaseException:
            # Interrupted with an answer outstanding: the next one would be taken for it.
            self._kill()
            raise
        wall = time.perf_counter() - began
        if frame.kind == Kind.READY:
            return Done(wall)
        if frame.kind == Kind.DONE and len(frame.payload) == wire.DONE.size:
            _, device_ns, flags, figure = wire.DONE.unpack(frame.payload)
            return Done(wall, device_ns, bool(flags & wire.QUEUE_KEPT_FULL), figure)
        if frame.kind == Kind.FAILED and frame.payload[:1] in _FAULT_BYTES:
            text = frame.payload[1:].decode("utf-8", "replace")
            return Failed(Fault(frame.payload[0]), text)
        self._kill()
        return Failed(Fault.PROTOCOL, "the child sent a frame that no candidate should send")

    def _end(self) -> Died:
        deadline = time.monotonic() + _GRACE_S
        while not (exited := self._exited()) and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        self._kill()
        return Died(self._process.returncode if exited else None)

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
            # Only a child that was not reaped yet is sure to own its process group's number.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def close(self) -> None:
        """Kill what the child started and remove its files. Safe to call twice."""
        with self._ending:
            if self._closed.is_set():
                return
            self._closed.set()
        self._kill()
        _kill_strays(self.home)
        self._log.join()
        # A thread may be waiting for an answer: this wakes it, closing alone would not.
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()
        shutil.rmtree(self.home, ignore_errors=True)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_FAULT_BYTES = {bytes([fault]) for fault in Fault}


@cache
def _spawner(pid: int) -> ThreadPoolExecutor:
    """The one thread of this process that starts children.

    A child asks to be killed when its parent dies, which the system takes to be the *thread* that
    started it: this one lives as long as the process.
    """
    return ThreadPoolExecutor(1, thread_name_prefix=f"kernel-generator-spawner-{pid}")


_START = (
    "import sys; sys.path[:] = {path!r}; from kernel_generator.sandbox.child import main; main()"
)


def _import_path() -> list[str]:
    """Where this process found its packages, wherever they were installed; never the working
    directory or the folder of the script that was started."""
    started = Path(sys.argv[0] or ".").resolve().parent
    unwanted = {Path.cwd(), started}
    return [
        entry
        for entry in sys.path
        if Path(entry).is_absolute() and Path(entry).exists() and Path(entry) not in unwanted
    ]


def _spawn(channel: socket.socket, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [
            sys.executable,
            "-I",
            "-B",
            "-c",
            _START.format(path=_import_path()),
            str(channel.fileno()),
            str(os.getpid()),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=environment["HOME"],
        env=environment,
        pass_fds=(channel.fileno(),),
        start_new_session=True,
    )


def _kill_strays(home: Path) -> None:
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
