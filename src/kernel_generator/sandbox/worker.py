"""The judge's end of one child process: starts it, talks to it under deadlines, kills it.

Guarantees that every call returns an `Answer` within its limit, whatever the child does, and that
nothing of the child's process group survives `close`.
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
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kernel_generator.sandbox import wire
from kernel_generator.sandbox.wire import Fault, Kind, Train

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import IO

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

_PASSED_ON = (
    "PATH",
    "LANG",
    "LC_ALL",
    "LD_LIBRARY_PATH",
    "CUDA_HOME",
    "CUDA_PATH",
    "CUDA_VISIBLE_DEVICES",
    "NVIDIA_VISIBLE_DEVICES",
    "NVIDIA_DRIVER_CAPABILITIES",
)
"""The only variables a child inherits: no key and no proxy among them."""
_KEPT_OUTPUT = 16_000
"""Bytes of the child's stdout and stderr kept from the start, and as many from the end."""
_GRACE_S = 1.0


@dataclass(frozen=True)
class Order:
    """What a child is to load, and where it is to run."""

    definition_json: str
    solution_json: str
    device: str
    """'cpu' or 'cuda:N'."""
    interpret: bool = False
    """Run Triton in its interpreter."""
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

    def __init__(
        self, environment: Mapping[str, str] | None = None, furnished_from: Path | None = None
    ) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="kernel-generator-"))
        """Private HOME, caches and temporary files; removed by `close`."""
        if furnished_from is not None and furnished_from.is_dir():
            shutil.copytree(furnished_from, self.home, dirs_exist_ok=True)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._sock = ours
        try:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-I",
                    "-m",
                    "kernel_generator.sandbox.child",
                    str(theirs.fileno()),
                    str(os.getpid()),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd=self.home,
                env=child_environment(self.home, environment or {}),
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        except OSError:
            ours.close()
            shutil.rmtree(self.home, ignore_errors=True)
            raise
        finally:
            theirs.close()
        self._log = _Drain(self._process.stdout)
        self._closed = threading.Lock()
        self._next_slot = 0

    @property
    def log(self) -> str:
        """What the child printed, clipped in the middle."""
        return self._log.text

    def prepare(self, order: Order, timeout: float) -> Answer:
        """Load and build the candidate."""
        payload = json.dumps(
            {
                "definition": json.loads(order.definition_json),
                "solution": json.loads(order.solution_json),
                "device": order.device,
                "interpret": order.interpret,
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
        began = time.perf_counter()
        try:
            wire.send(self._sock, kind, payload, fd)
            frame = wire.receive(self._sock, timeout)
        except wire.ChannelTimeout:
            self._kill()
            return TimedOut(timeout)
        except wire.ChannelClosed:
            return self._end()
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
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_GRACE_S)
        returncode = self._process.poll()
        self._kill()
        return Died(returncode)

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def close(self) -> None:
        """Kill the child's process group and remove its files. Safe to call twice."""
        if not self._closed.acquire(blocking=False):
            return
        self._kill()
        self._log.join()
        self._sock.close()
        shutil.rmtree(self.home, ignore_errors=True)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_FAULT_BYTES = {bytes([fault]) for fault in Fault}


def child_environment(home: Path, extra: Mapping[str, str]) -> dict[str, str]:
    """The whole environment of a child: an allow-list, private caches, and `extra`."""
    environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    scripts = str(Path(sys.executable).parent)
    environment["PATH"] = scripts + os.pathsep + environment.get("PATH", os.defpath)
    cache = home / "cache"
    environment |= {
        "HOME": str(home),
        "TMPDIR": str(home),
        "XDG_CACHE_HOME": str(cache),
        "FIB_CACHE_PATH": str(cache / "flashinfer_bench"),
        "TRITON_CACHE_DIR": str(cache / "triton"),
        "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
        "PYTHONDONTWRITEBYTECODE": "1",
        # An idle worker must not spin on the cores that another one is being timed on.
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    return environment | dict(extra)


class _Drain:
    """Reads a pipe to its end on a thread, keeping the first and the last bytes."""

    def __init__(self, stream: IO[bytes] | None) -> None:
        self._head = bytearray()
        self._tail = bytearray()
        self._dropped = 0
        self._stream = stream
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        if self._stream is None:
            return
        with contextlib.suppress(OSError, ValueError):
            while data := os.read(self._stream.fileno(), 65536):
                room = _KEPT_OUTPUT - len(self._head)
                self._head += data[:room] if room > 0 else b""
                self._tail += data[room:] if room > 0 else data
                if len(self._tail) > _KEPT_OUTPUT:
                    self._dropped += len(self._tail) - _KEPT_OUTPUT
                    del self._tail[:-_KEPT_OUTPUT]

    @property
    def text(self) -> str:
        """What was kept."""
        gap = f"\n[... {self._dropped} bytes left out ...]\n".encode() if self._dropped else b""
        return bytes(self._head + gap + self._tail).decode("utf-8", "replace")

    def join(self) -> None:
        """Wait for the pipe's end, but not for a grandchild that keeps it open."""
        self._thread.join(_GRACE_S)
        if self._stream is not None:
            self._stream.close()
