"""The program that runs one candidate: untrusted from the moment it loads the candidate's code.

It maps what the judge shares, runs what it is told and answers "done". It holds no reference
output, no seed, no key and no verdict; whatever it claims can only hurt the candidate.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import json
import os
import shutil
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kernel_generator.sandbox import compiling, wire
from kernel_generator.sandbox.confinement import confine
from kernel_generator.sandbox.failures import Failing, Mismatch, explain, failed
from kernel_generator.sandbox.wire import Fault, Kind, Train

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from kernel_generator.sandbox.buffers import Binding, Buffers

_FLUSHED_TIMES = 3
"""So many times what the L2 holds is written before each timed call: of what was there, nothing is
left."""


class Child:
    """Serves one judge over one socket until told to quit."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._device = "cpu"
        self._interpreted = False
        self._stands_in = False
        self._runnable: Any = None
        self._destination_passing = True
        self._output_names: list[str] = []
        self._bindings: dict[int, Binding] = {}
        self._replays: dict[int, Callable[[], None]] = {}
        self._flush: torch.Tensor | None = None
        self._returned: list[Any] = []
        """What the last calls returned that were to be kept, two at most."""

    def serve(self) -> None:
        """Answer frames until the judge is gone. Raises `wire.ChannelClosed`."""
        while True:
            frame = wire.receive(self._sock)
            try:
                kind, payload = self._answer(frame)
            except (Mismatch, compiling.NotTaken) as error:
                kind, payload = Kind.FAILED, failed(error.fault, str(error))
            except BaseException as error:  # noqa: BLE001 - sys.exit() in a kernel fails like any other
                at = Failing(Kind(frame.kind), self._interpreted, self._stands_in)
                kind, payload = Kind.FAILED, explain(error, at)
            _flush_output()
            wire.send(self._sock, kind, payload)

    def _answer(self, frame: wire.Frame) -> tuple[Kind, bytes]:
        match frame.kind:
            case Kind.WARM | Kind.BUILD | Kind.PREPARE:
                self._make_ready(Kind(frame.kind), json.loads(frame.payload), frame.fd)
                return Kind.READY, b""
            case Kind.BIND:
                self._bind(frame)
                return Kind.DONE, wire.DONE.pack(1, 0.0, 0.0)
            case Kind.RELEASE:
                (slot,) = json.loads(frame.payload)
                self._replays.pop(slot, None)
                self._returned.clear()
                binding = self._bindings.pop(slot, None)
                if binding is not None:
                    binding.release()
                return Kind.DONE, wire.DONE.pack(1, 0.0, 0.0)
            case (
                Kind.RUN | Kind.RUN_KEPT | Kind.LOOK_BACK | Kind.RUN_WIDE | Kind.RUN_APART
                | Kind.CAPTURE | Kind.REPLAY
            ):  # fmt: skip
                (slot,) = json.loads(frame.payload)
                self._once(Kind(frame.kind), slot)
                self._synchronize()
                return Kind.DONE, wire.DONE.pack(1, 0.0, 0.0)
            case Kind.TRAIN:
                slot, count, mode, ticket, stores = json.loads(frame.payload)
                binding, how = self._bindings[slot], Train(mode)
                if how in (Train.GATED, Train.GATED_EMPTY):
                    empty = how is Train.GATED_EMPTY
                    nanoseconds = self._gated_train(binding, count, ticket, empty, stores)
                else:
                    nanoseconds = self._train(binding, count, how, stores)
                return Kind.DONE, wire.DONE.pack(count, nanoseconds, 0.0)
            case Kind.COUNT:
                (slot,) = json.loads(frame.payload)
                return Kind.DONE, wire.DONE.pack(1, 0.0, float(self._count(slot)))
            case _:
                raise ValueError(f"unknown frame kind {frame.kind}")

    def _make_ready(self, kind: Kind, order: Any, fd: int | None) -> None:
        """What comes before calls, with the memory of an artefact for BUILD, perhaps PREPARE."""
        if kind is Kind.WARM:
            self._warm(order)
        elif kind is Kind.BUILD:
            compiling.compile_into(order, fd)
        else:
            self._prepare(order, fd)

    def _warm(self, order: Any) -> None:
        """What every candidate would wait for, done before there is one. Without a device: what
        disturbs nothing that is timed on it."""
        _furnish(order["furnish"])
        import torch  # noqa: PLC0415

        if order["triton"]:
            importlib.import_module("kernel_generator.sandbox.warm_up")
        if order["device"] is None:
            return
        torch.cuda.init()
        self._flush = _flushing(order["device"])
        if order["triton"]:
            from kernel_generator.sandbox.warm_up import launch  # noqa: PLC0415

            launch(order["device"])
        torch.cuda.synchronize()

    def _prepare(self, order: Any, built: int | None) -> None:
        _furnish(order["furnish"])
        self._device = order["device"]
        self._interpreted = order["interpret"]
        self._stands_in = order["stands_in"]
        if self._interpreted:
            from kernel_generator.sandbox.interpreter import (  # noqa: PLC0415
                prepare_interpreter,
            )

            prepare_interpreter()
        import torch  # noqa: PLC0415 - minutes of CI are spent on imports: only where needed

        if order["cpus"]:
            os.sched_setaffinity(0, order["cpus"])
        if order["threads"]:
            torch.set_num_threads(order["threads"])
        if self._device != "cpu":
            torch.cuda.init()
        from flashinfer_bench.compile import BuilderRegistry  # noqa: PLC0415
        from flashinfer_bench.data import Definition, Solution  # noqa: PLC0415

        definition = Definition.model_validate(order["definition"])
        solution = Solution.model_validate(order["solution"])
        self._output_names = list(definition.outputs)
        self._destination_passing = solution.spec.destination_passing_style
        if built is not None:
            compiling.take_over(built)
        self._runnable = BuilderRegistry.get_instance().build(definition, solution)

    def _bind(self, frame: wire.Frame) -> None:
        from kernel_generator.sandbox.buffers import Binding  # noqa: PLC0415 - imports torch

        order = json.loads(frame.payload)
        self._bindings[order["layout"]["slot"]] = Binding.of(order, frame.fd)

    def _once(self, kind: Kind, slot: int) -> None:
        """One call on the first set of an arena, in the way that was asked for."""
        buffers = self._bindings[slot].ring(1)[0]
        if kind is Kind.RUN_WIDE:
            self._run_wide(buffers)
        elif kind is Kind.CAPTURE:
            from kernel_generator.sandbox.graphs import capture  # noqa: PLC0415 - imports torch

            self._replays[slot] = capture(lambda: self._call(buffers))
        elif kind is Kind.REPLAY:
            self._replays[slot]()
        elif kind is Kind.RUN_KEPT:
            from kernel_generator.sandbox.buffers import kept  # noqa: PLC0415 - imports torch

            returned = self._call(buffers)
            self._returned = [*self._returned[-1:], kept(returned, buffers)]
        elif kind is Kind.LOOK_BACK:
            self._store(self._returned.pop(0), buffers)
        else:
            self._call(buffers.apart() if kind is Kind.RUN_APART else buffers)

    def _call(self, buffers: Buffers) -> Any:
        """One call; a value-returning candidate's values go to the outputs, and are returned."""
        import torch  # noqa: PLC0415

        with torch.no_grad():
            if self._destination_passing:
                return self._runnable(*buffers.inputs, *buffers.outputs)
            returned = self._runnable(*buffers.inputs)
            self._store(returned, buffers)
            return returned

    def _run_wide(self, buffers: Buffers) -> None:
        """One call of a reference in double precision, into outputs laid out for that."""
        from kernel_generator.sandbox.upcast import NotUpcast, run_upcast  # noqa: PLC0415

        try:
            values = run_upcast(self._runnable, buffers.inputs)
        except NotUpcast as error:
            raise Mismatch(Fault.NOT_WIDE, str(error)) from error
        self._store(values, buffers)

    def _store(self, returned: Any, buffers: Buffers) -> None:
        import torch  # noqa: PLC0415

        values = list(returned) if isinstance(returned, tuple | list) else [returned]
        if all(map(_fits, values, buffers.outputs)) and len(values) == len(buffers.outputs):
            for value, output in zip(values, buffers.outputs, strict=True):
                output.copy_(value)
            return
        if len(values) != len(buffers.outputs):
            raise Mismatch(
                Fault.SHAPE, f"returned {len(values)} values, expected {len(buffers.outputs)}"
            )
        for name, value, output in zip(self._output_names, values, buffers.outputs, strict=True):
            if isinstance(value, bool | int | float) and output.dim() == 0:
                output.fill_(value)
                continue
            if type(value) is not torch.Tensor:
                raise Mismatch(
                    Fault.DTYPE, f"output '{name}' is a {type(value).__name__}, expected a Tensor"
                )
            if value.dtype != output.dtype:
                raise Mismatch(
                    Fault.DTYPE, f"output '{name}' has dtype {value.dtype}, expected {output.dtype}"
                )
            if value.shape != output.shape:
                raise Mismatch(
                    Fault.SHAPE,
                    f"output '{name}' has shape {list(value.shape)}, expected {list(output.shape)}",
                )
            if value.device.type != output.device.type:
                raise Mismatch(
                    Fault.DTYPE, f"output '{name}' is on {value.device}, expected {output.device}"
                )
            output.copy_(value)

    def _synchronize(self) -> None:
        if self._device != "cpu":
            import torch  # noqa: PLC0415

            torch.cuda.synchronize()

    def _train(self, binding: Binding, count: int, mode: Train, stores: bool) -> float:
        """Calls in a row, each on a set of its own."""
        ring = binding.ring(count)
        if mode in (Train.EMPTY, Train.MADE):
            for buffers in ring if stores else []:
                # Just written, as what a call returns is.
                made = [value.clone() for value in binding.values(1)[0]]
                if mode is Train.EMPTY:
                    self._store(made, buffers)
        else:
            for buffers in ring:
                self._call(buffers)
                if mode is Train.SYNCED:
                    self._synchronize()
        self._synchronize()
        return 0.0

    def _gated_train(
        self, binding: Binding, count: int, ticket: int, empty: bool, stores: bool
    ) -> float:
        """Calls queued behind the arena's gate. Nanoseconds on the device."""
        import torch  # noqa: PLC0415

        from kernel_generator.sandbox import driver  # noqa: PLC0415

        if self._flush is None:
            self._flush = _flushing(self._device)
        ring = binding.ring(count)
        starts = [torch.cuda.Event(enable_timing=True) for _ in ring]
        ends = [torch.cuda.Event(enable_timing=True) for _ in ring]
        returned: Any = binding.values(count) if empty else []
        stores = stores if empty else not self._destination_passing
        # A kernel of no length; torch's own tests use it, it has no public name.
        nothing: Any = getattr(torch.cuda, "_sleep")  # noqa: B009
        # What is loaded at its first use waits for the device, and so would wait behind the gate.
        self._flush.zero_()
        nothing(0)
        torch.cuda.synchronize()
        driver.wait_until(torch.cuda.current_stream().cuda_stream, binding.gate, ticket)
        with torch.no_grad():
            for index, buffers in enumerate(ring):
                self._flush.zero_()
                starts[index].record()
                if empty:
                    nothing(0)
                    value = returned[index]
                elif self._destination_passing:
                    value = self._runnable(*buffers.inputs, *buffers.outputs)
                else:
                    value = self._runnable(*buffers.inputs)
                ends[index].record()
                if stores:
                    self._store(value, buffers)
        wire.send(self._sock, Kind.QUEUED)
        torch.cuda.synchronize()
        # Reading hundreds of events takes longer than a kernel.
        wire.send(self._sock, Kind.FINISHED)
        return sum(s.elapsed_time(e) for s, e in zip(starts, ends, strict=True)) * 1e6

    def _count(self, slot: int) -> int:
        """Floating-point operations of one call, as torch counts matrix products and the like."""
        from torch.utils.flop_counter import FlopCounterMode  # noqa: PLC0415

        with FlopCounterMode(display=False) as counter:
            self._call(self._bindings[slot].ring(1)[0])
        return int(counter.get_total_flops())


def _flushing(device: str) -> torch.Tensor:
    """What is written to flush the L2, zeros."""
    import torch  # noqa: PLC0415

    held = torch.cuda.get_device_properties(device).L2_cache_size
    return torch.zeros(_FLUSHED_TIMES * held, dtype=torch.uint8, device=device)


def _fits(value: Any, output: torch.Tensor) -> bool:
    """True for an ordinary tensor of the output's shape, dtype and device."""
    return (
        type(value) is type(output)
        and value.dtype is output.dtype
        and value.shape == output.shape
        and value.device == output.device
    )


def _furnish(folder: str | None) -> None:
    """Copy compiler caches that trusted code made into this process's own."""
    if folder is not None:
        with contextlib.suppress(OSError):
            shutil.copytree(folder, Path.home(), dirs_exist_ok=True)


def _flush_output() -> None:
    # Printed text is buffered, and would be lost with a child that is killed.
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()


def main() -> None:
    """Entry point; arguments: the channel's descriptor, and the order how to start, as JSON."""
    start = json.loads(sys.argv[2])
    if start is not None:
        confine(start)
        if start["under"]:
            # The program above has the candidate's rights and no more: it is started from here, and
            # starts this one again, which is confined already.
            os.execv(start["under"][0], [*start["under"], *sys.orig_argv[:-1], "null"])
    # A crash in native code leaves the Python frames that led to it in the log.
    faulthandler.enable()
    sock = socket.socket(fileno=int(sys.argv[1]))
    with contextlib.suppress(ImportError):
        _import_ahead()
    try:
        # A judge that hangs up or is interrupted leaves nothing to serve.
        with contextlib.suppress(wire.ChannelClosed):
            Child(sock).serve()
    finally:
        # What a candidate registered to run at exit has no business here.
        os._exit(0)


def _import_ahead() -> None:
    """Done ahead of need: the judge starts children before it has anything for them. Triton is not
    among these; whether it interprets is decided when it is imported."""
    if wire.COMPILES in os.environ:
        compiling.only_compiles()
        return
    for module in ("flashinfer_bench.compile", *os.environ.get(wire.PRELOADED, "").split()):
        with contextlib.suppress(ImportError):
            importlib.import_module(module)


if __name__ == "__main__":
    main()
