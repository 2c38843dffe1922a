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
import tempfile
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, overload

from kernel_generator.sandbox import wire
from kernel_generator.sandbox.arena import Arena
from kernel_generator.sandbox.bounds import Watch
from kernel_generator.sandbox.bubblewrap import SCRATCH
from kernel_generator.sandbox.drain import Drain
from kernel_generator.sandbox.isolation import Isolation, Level
from kernel_generator.sandbox.orders import Died, Done, Exceeded, Failed, TimedOut
from kernel_generator.sandbox.remains import end_namespace, kill_strays, only_child
from kernel_generator.sandbox.spawning import Spawn, spawner
from kernel_generator.sandbox.standstill import Restless, go_on, stop
from kernel_generator.sandbox.wire import Fault, Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kernel_generator.sandbox.artefact import Artefact
    from kernel_generator.sandbox.device_arena import DeviceArena
    from kernel_generator.sandbox.orders import Answer, Order, TrainOrder, WarmOrder

_BY_SIGNAL = 128
_GRACE_S = 1.0
_POLL_S = 0.005


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
        finished = self._next(timeout)
        if not isinstance(finished, wire.Frame) or finished.kind != Kind.FINISHED:
            return self._read(finished, began)
        try:
            if settle is not None:
                settle()
        except BaseException:
            # With an answer outstanding: the next one would be taken for it.
            self._kill()
            raise
        wall_s = time.perf_counter() - began
        answer = self._read(self._next(timeout), began)
        if isinstance(answer, Done):
            return replace(answer, wall_s=wall_s, gated=queued is not None)
        return answer

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

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_FAULT_BYTES = {bytes([fault]) for fault in Fault}
