"""The judge's end of one child process: talks to it under deadlines.

Guarantees that every call returns an `Answer` within its limit, whatever the child does: one that
is late or says what it should not is killed.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, overload

from kernel_generator.inert import inert
from kernel_generator.sandbox import wire
from kernel_generator.sandbox.arena import Arena
from kernel_generator.sandbox.orders import Done, Failed, TimedOut
from kernel_generator.sandbox.process import ChildProcess
from kernel_generator.sandbox.wire import Fault, Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from kernel_generator.sandbox.artefact import Artefact
    from kernel_generator.sandbox.device_arena import DeviceArena
    from kernel_generator.sandbox.isolation import Isolation
    from kernel_generator.sandbox.orders import Answer, Order, TrainOrder, WarmOrder

_FAULT_BYTES = {bytes([fault]) for fault in Fault}


class Worker(ChildProcess):
    """One child that is given orders. Not thread-safe but for `close`, which may be called from
    anywhere."""

    def __init__(
        self,
        environment: Mapping[str, str] | None = None,
        isolation: Isolation | None = None,
        gpu: int | None = None,
        seen: tuple[Path, ...] = (),
        under: tuple[str, ...] = (),
    ) -> None:
        """Start a child: see `ChildProcess`."""
        super().__init__(environment, isolation, gpu, seen, under)
        self._ticket = 0
        self._shared: dict[int, int] = {}
        """Bytes of the arenas that are bound, by slot."""

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

    def run_kept(self, slot: int, timeout: float) -> Answer:
        """As `run`; the child keeps what was returned, as a user may, until the call after next."""
        return self._ask(Kind.RUN_KEPT, json.dumps([slot]).encode(), timeout)

    def look_back(self, slot: int, timeout: float) -> Answer:
        """After two calls by `run_kept`: leave in the outputs what the first of them returned, as
        it is by now. No call is made."""
        return self._ask(Kind.LOOK_BACK, json.dumps([slot]).encode(), timeout)

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
            text = inert(frame.payload[1:].decode("utf-8", "replace"))
            return Failed(Fault(frame.payload[0]), text)
        self._kill()
        return Failed(Fault.PROTOCOL, "the child sent a frame that no candidate should send")
