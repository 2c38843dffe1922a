"""The judge's end of one child process: starts it, talks to it under deadlines, kills it.

Guarantees that every call returns an `Answer` within its limit, whatever the child does, and that
after `close` no process is left of the child's group, nor any other that it started and that still
has the child's HOME in its environment.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, overload

from kernel_generator.sandbox import wire
from kernel_generator.sandbox.arena import Arena
from kernel_generator.sandbox.bounds import Watch
from kernel_generator.sandbox.bubblewrap import SCRATCH, jail_command
from kernel_generator.sandbox.drain import Drain
from kernel_generator.sandbox.environment import child_environment
from kernel_generator.sandbox.isolation import Isolation, Level
from kernel_generator.sandbox.standstill import Restless, go_on, stop
from kernel_generator.sandbox.wire import Fault, Kind, Train

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kernel_generator.sandbox.artefact import Artefact
    from kernel_generator.sandbox.device_arena import DeviceArena

_BY_SIGNAL = 128
_FIRST_USER, _USERS = 1_900_000_000, 100_000_000
"""User ids that nobody has: each child gets one of its own, so that process limits are its own."""
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
    furnish: str | None = None
    """Folder that the child copies into its HOME first: compiler caches, made by trusted code."""

    def to_json(self) -> bytes:
        """The order as the child reads it."""
        return json.dumps(
            {
                "definition": json.loads(self.definition_json),
                "solution": json.loads(self.solution_json),
                "device": self.device,
                "interpret": self.interpret,
                "stands_in": self.stands_in,
                "threads": self.threads,
                "furnish": self.furnish,
            }
        ).encode()


@dataclass(frozen=True)
class WarmOrder:
    """What a child does before it has a candidate."""

    device: str | None
    """'cuda:N', or None: only what does not touch a device."""
    triton: bool
    """Also what Triton's first launch needs."""
    furnish: str | None = None
    """As `Order.furnish`."""


@dataclass(frozen=True)
class TrainOrder:
    """Calls in a row."""

    count: int
    """At most as many as the arena has sets."""
    mode: Train = Train.CALLS
    stores: bool = True
    """Of an empty train: whether values are stored, as those that a call returns are."""


@dataclass(frozen=True)
class Done:
    """The child says that it did as told."""

    wall_s: float
    """The judge's clock, from sending the order to receiving the answer."""
    device_ns: float = 0.0
    """The child's claim for a gated train."""
    figure: float = 0.0
    gated: bool = False
    """True where all calls were queued before any could begin, and `wall_s` runs from then on."""


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
class Exceeded:
    """The child held more of a resource than it may, and was killed."""

    what: str
    """'more than 8.0 GiB of memory', for example."""


@dataclass(frozen=True)
class TimedOut:
    """No answer within the limit; the child was killed."""

    limit_s: float


Answer = Done | Failed | Died | Exceeded | TimedOut


class Worker:
    """One child process. Not thread-safe but for `close`, which may be called from anywhere."""

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
            start = _Spawn(isolation, self.home, dict(environment or {}), gpu, seen, under)
            self._process = _spawner(os.getpid()).submit(start.spawn, theirs).result()
        except BaseException:
            # A child that did start ends when its channel closes.
            ours.close()
            self._remove_files()
            raise
        finally:
            theirs.close()
        self._cpu_s = isolation.bounds.cpu_s
        self._ticket = 0
        self._stopped: list[int] = []
        self._shared: dict[int, int] = {}
        """Bytes of the arenas that are bound, by slot."""
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

    def warm(self, order: WarmOrder, timeout: float) -> Answer:
        """Do what every candidate would wait for."""
        return self._ask(Kind.WARM, json.dumps(asdict(order)).encode(), timeout)

    def build(self, order: Order, artefact: Artefact, timeout: float) -> Answer:
        """Compile a CUDA or C++ candidate into the artefact, and load nothing of it."""
        self._watch.begin()
        return self._ask(Kind.BUILD, order.to_json(), timeout, fd=artefact.fd)

    def prepare(self, order: Order, timeout: float, artefact: Artefact | None = None) -> Answer:
        """Load the candidate, from a sealed artefact where it was built into one, else building it
        first. Raises `OSError` where there is no descriptor left to share the artefact by."""
        # What ran so far was trusted, and of a bounded appetite.
        self._watch.begin()
        if artefact is None:
            return self._ask(Kind.PREPARE, order.to_json(), timeout)
        fd = artefact.open_for_reading()
        try:
            return self._ask(Kind.PREPARE, order.to_json(), timeout, fd=fd)
        finally:
            os.close(fd)

    def bind(self, arena: Arena | DeviceArena, timeout: float) -> Answer:
        """Share an arena with the child under its layout's slot."""
        handle = None if isinstance(arena, Arena) else arena.handle.hex()
        order = {"layout": asdict(arena.layout), "handle": handle}
        if not isinstance(arena, Arena):
            return self._ask(Kind.BIND, json.dumps(order).encode(), timeout)
        self._shared[arena.layout.slot] = arena.layout.nbytes
        self._watch.shared_bytes = sum(self._shared.values())
        return self._ask(Kind.BIND, json.dumps(order).encode(), timeout, fd=arena.fd)

    def release(self, slot: int, timeout: float) -> Answer:
        """Let the child forget an arena."""
        answer = self._ask(Kind.RELEASE, json.dumps([slot]).encode(), timeout)
        self._shared.pop(slot, None)
        self._watch.shared_bytes = sum(self._shared.values())
        return answer

    def run(self, slot: int, timeout: float) -> Answer:
        """One call whose inputs and outputs the judge will look at."""
        return self._ask(Kind.RUN, json.dumps([slot]).encode(), timeout)

    def run_wide(self, slot: int, timeout: float) -> Answer:
        """One call in double precision, its floating outputs laid out as float64. For references;
        fails with `Fault.NOT_WIDE` where one cannot be run so."""
        return self._ask(Kind.RUN_WIDE, json.dumps([slot]).encode(), timeout)

    def train(
        self,
        slot: int,
        order: TrainOrder,
        timeout: float,
        settle: Callable[[], None] | None = None,
        meanwhile: Callable[[float], None] | None = None,
    ) -> Answer:
        """Calls in a row, each on a set of its own. `Done.wall_s` spans them all, and `settle`,
        which the judge runs as soon as the child says that it is done. `meanwhile` it runs once
        they may have begun, with the time when the clock did."""
        payload = json.dumps([slot, order.count, int(order.mode), 0, order.stores]).encode()
        # Whoever is let go first may begin: the clock runs before.
        began = time.perf_counter()
        refused = self._begin(Kind.TRAIN, payload, None, timeout)
        if refused is not None:
            return refused
        if meanwhile is not None:
            meanwhile(began)
        return self._read(self._next(timeout), began, settle)

    def train_gated(
        self,
        arena: DeviceArena,
        order: TrainOrder,
        fill: Callable[[], None],
        patience: float,
        timeout: float,
        settle: Callable[[], None] | None = None,
        meanwhile: Callable[[float], None] | None = None,
    ) -> Answer:
        """Calls that are queued, for which `fill` writes the inputs then, and that begin
        thereafter. `Done.wall_s` runs from there to the end of `settle`. `meanwhile` is run as
        soon as they may begin, with the time when the clock began.

        What does not queue within `patience` seconds, for it waits for the device within a call, is
        let go all the same: `Done.gated` is False then, and the figures mean nothing.
        """
        self._ticket += 1
        asked = [arena.layout.slot, order.count, int(order.mode), self._ticket, order.stores]
        refused = self._begin(Kind.TRAIN, json.dumps(asked).encode(), None, timeout)
        if refused is not None:
            return refused
        queued = self._next(patience, give_up=False)
        fill()
        if not wire.is_silent(self._sock):
            arena.open_gate(self._ticket)
            self._kill()
            return Failed(Fault.PROTOCOL, "the child was done before it could begin")
        # As in `train`.
        began = time.perf_counter()
        self._go_on()
        arena.open_gate(self._ticket)
        if meanwhile is not None:
            meanwhile(began)
        if queued is None:
            # Late, or an error: whichever it is comes now.
            late = self._next(timeout)
            if not isinstance(late, wire.Frame) or late.kind != Kind.QUEUED:
                return self._read(late, began)
        elif not isinstance(queued, wire.Frame) or queued.kind != Kind.QUEUED:
            return self._read(queued, began)
        answer = self._read(self._next(timeout), began, settle)
        return replace(answer, gated=queued is not None) if isinstance(answer, Done) else answer

    def run_apart(self, slot: int, timeout: float) -> Answer:
        """One call on copies of the tensors, each in an allocation of its own: what is touched
        beside a tensor is nobody's memory. The judge sees nothing of what it computes."""
        return self._ask(Kind.RUN_APART, json.dumps([slot]).encode(), timeout)

    def capture(self, slot: int, timeout: float) -> Answer:
        """Capture one call into a CUDA graph, after a few ordinary ones."""
        return self._ask(Kind.CAPTURE, json.dumps([slot]).encode(), timeout)

    def replay(self, slot: int, timeout: float) -> Answer:
        """Launch the graph that `capture` made."""
        return self._ask(Kind.REPLAY, json.dumps([slot]).encode(), timeout)

    def count(self, slot: int, timeout: float) -> Answer:
        """Floating-point operations of one call, in `Done.figure`. For trusted code only."""
        return self._ask(Kind.COUNT, json.dumps([slot]).encode(), timeout)

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

    def _ask(self, kind: Kind, payload: bytes, timeout: float, fd: int | None = None) -> Answer:
        began = time.perf_counter()
        refused = self._begin(kind, payload, fd, timeout)
        return self._read(self._next(timeout), began) if refused is None else refused

    def _begin(self, kind: Kind, payload: bytes, fd: int | None, timeout: float) -> Answer | None:
        """Send an order. An answer where it comes to nothing."""
        if not wire.is_silent(self._sock):
            self._kill()
            return Failed(Fault.PROTOCOL, "the child answered more often than it was asked")
        self._go_on()
        try:
            wire.send(self._sock, kind, payload, fd, timeout)
        except wire.ChannelTimeout:
            self._kill()
            return TimedOut(timeout)
        except wire.ChannelClosed:
            return self._end()
        except BaseException:
            self._kill()
            raise
        return None

    @overload
    def _next(self, timeout: float) -> wire.Frame | Answer: ...
    @overload
    def _next(self, timeout: float, give_up: bool) -> wire.Frame | Answer | None: ...
    def _next(self, timeout: float, give_up: bool = True) -> wire.Frame | Answer | None:
        """The child's next frame, or what became of the child. None where it has sent nothing in
        time and that is not the end of it."""
        try:
            if not give_up and not wire.is_ready(self._sock, timeout):
                return None
            return wire.receive_answer(self._sock, timeout)
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

    def _read(
        self, frame: wire.Frame | Answer, began: float, settle: Callable[[], None] | None = None
    ) -> Answer:
        if settle is not None and isinstance(frame, wire.Frame) and frame.kind == Kind.DONE:
            settle()
        wall = time.perf_counter() - began
        if not isinstance(frame, wire.Frame):
            return frame
        if frame.kind == Kind.READY:
            return Done(wall)
        if frame.kind == Kind.DONE and len(frame.payload) == wire.DONE.size:
            _, device_ns, figure = wire.DONE.unpack(frame.payload)
            return Done(wall, device_ns, figure)
        if frame.kind == Kind.FAILED and frame.payload[:1] in _FAULT_BYTES:
            text = frame.payload[1:].decode("utf-8", "replace")
            return Failed(Fault(frame.payload[0]), text)
        self._kill()
        return Failed(Fault.PROTOCOL, "the child sent a frame that no candidate should send")

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
            init = _only_child(self._process.pid) if self._jailed else None
            # Only a child that was not reaped yet is sure to own its process group's number.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            if init is not None:
                _end_namespace(init)

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
            _kill_strays(self.home)
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


@dataclass(frozen=True)
class _Spawn:
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
        program = _START.format(path=_import_path())
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


def _only_child(pid: int) -> int | None:
    """A descriptor of the first process of bubblewrap's namespace, or None where it is gone."""
    with contextlib.suppress(OSError, ValueError):
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return os.pidfd_open(int(children[0])) if children else None
    return None


def _end_namespace(init: int) -> None:
    """Kill a PID namespace by its first process, and wait until it is gone."""
    try:
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(init, signal.SIGKILL)
        gone = select.poll()
        gone.register(init, select.POLLIN)
        gone.poll(_GRACE_S * 1000)
    finally:
        os.close(init)


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
