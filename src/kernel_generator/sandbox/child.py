"""The program that runs one candidate: untrusted from the moment it loads the candidate's code.

It maps what the judge shares, runs what it is told and answers "done". It holds no reference
output, no seed, no key and no verdict; whatever it claims can only hurt the candidate.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import importlib
import json
import os
import resource
import shutil
import signal
import socket
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kernel_generator.sandbox import wire
from kernel_generator.sandbox.wire import Fault, Kind, Train

if TYPE_CHECKING:
    import torch

    from kernel_generator.sandbox.arena import Arena, Layout

L2_FLUSH_BYTES = 256 * 1024 * 1024
"""At least twice the L2 of any target in the table."""
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE = 1, 4
_SPIN_HZ = 2.0e9
"""Upper estimate of the SM clock; a longer spin than needed costs microseconds."""
_MAX_SPIN_S = 0.05


class _Mismatch(Exception):
    """The candidate returned something of the wrong shape, count, dtype or type."""

    def __init__(self, fault: Fault, text: str) -> None:
        super().__init__(text)
        self.fault = fault


class _Binding:
    """One set of buffers, on the device where the candidate runs."""

    def __init__(self, arena: Arena, device: str) -> None:
        from kernel_generator.sandbox.arena import view  # noqa: PLC0415 - imports torch

        self.arena = arena
        self.on_cpu = device == "cpu"
        self.block: torch.Tensor = arena.bytes if self.on_cpu else arena.bytes.to(device)
        layout: Layout = arena.layout
        self.inputs: list[Any] = [
            view(self.block, p) if p.scalar is None else p.scalar for p in layout.inputs
        ]
        self.outputs: list[torch.Tensor] = [view(self.block, p) for p in layout.outputs]

    def refresh(self) -> None:
        """Take over what the judge wrote since."""
        if not self.on_cpu:
            self.block.copy_(self.arena.bytes)

    def publish(self) -> None:
        """Let the judge see every byte as it is now."""
        if not self.on_cpu:
            self.arena.bytes.copy_(self.block)


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
        self._bindings: dict[int, _Binding] = {}
        self._flush: torch.Tensor | None = None
        self._host_seconds: dict[int, float] = {}

    def serve(self) -> None:
        """Answer frames until the judge is gone. Raises `wire.ChannelClosed`."""
        while True:
            frame = wire.receive(self._sock)
            try:
                kind, payload = self._answer(frame)
            except _Mismatch as error:
                kind, payload = Kind.FAILED, _failure(error.fault, str(error))
            except BaseException as error:  # noqa: BLE001 - sys.exit() in a kernel fails like any other
                kind, payload = Kind.FAILED, self._explain(error, Kind(frame.kind))
            _flush_output()
            wire.send(self._sock, kind, payload)

    def _answer(self, frame: wire.Frame) -> tuple[Kind, bytes]:
        match frame.kind:
            case Kind.PREPARE:
                self._prepare(json.loads(frame.payload))
                return Kind.READY, b""
            case Kind.BIND:
                self._bind(frame)
                return Kind.DONE, wire.DONE.pack(1, 0.0, 0, 0.0)
            case Kind.RELEASE:
                (slot,) = json.loads(frame.payload)
                self._bindings.pop(slot, None)
                return Kind.DONE, wire.DONE.pack(1, 0.0, 0, 0.0)
            case Kind.RUN:
                (slot,) = json.loads(frame.payload)
                binding = self._bindings[slot]
                binding.refresh()
                self._call(binding, keep=True)
                self._synchronize()
                binding.publish()
                return Kind.DONE, wire.DONE.pack(1, 0.0, 0, 0.0)
            case Kind.RUN_WIDE:
                (slot,) = json.loads(frame.payload)
                self._run_wide(self._bindings[slot])
                return Kind.DONE, wire.DONE.pack(1, 0.0, 0, 0.0)
            case Kind.TRAIN:
                slot, count, mode = json.loads(frame.payload)
                nanoseconds, flags = self._train(slot, count, Train(mode))
                return Kind.DONE, wire.DONE.pack(count, nanoseconds, flags, 0.0)
            case Kind.COUNT:
                (slot,) = json.loads(frame.payload)
                return Kind.DONE, wire.DONE.pack(1, 0.0, 0, float(self._count(slot)))
            case _:
                raise ValueError(f"unknown frame kind {frame.kind}")

    def _prepare(self, order: Any) -> None:
        if order["furnish"] is not None:
            with contextlib.suppress(OSError):
                shutil.copytree(order["furnish"], Path.home(), dirs_exist_ok=True)
        self._device = order["device"]
        self._interpreted = order["interpret"]
        self._stands_in = order["stands_in"]
        if self._interpreted:
            from kernel_generator.sandbox.interpreter import (  # noqa: PLC0415
                prepare_interpreter,
            )

            prepare_interpreter()
        import torch  # noqa: PLC0415 - minutes of CI are spent on imports: only where needed

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
        self._runnable = BuilderRegistry.get_instance().build(definition, solution)

    def _bind(self, frame: wire.Frame) -> None:
        from kernel_generator.sandbox.arena import Arena, Layout  # noqa: PLC0415

        if frame.fd is None:
            raise ValueError("a BIND frame carries a descriptor")
        layout = Layout.from_json(frame.payload)
        arena = Arena(layout, frame.fd)
        # The mapping is all that is needed; a descriptor a workload would add up.
        arena.close()
        self._bindings[layout.slot] = _Binding(arena, self._device)

    def _call(self, binding: _Binding, keep: bool) -> None:
        """One call. With `keep`, a value-returning candidate's values go to the outputs."""
        import torch  # noqa: PLC0415

        with torch.no_grad():
            if self._destination_passing:
                self._runnable(*binding.inputs, *binding.outputs)
                return
            returned = self._runnable(*binding.inputs)
            if keep:
                self._store(returned, binding)

    def _run_wide(self, binding: _Binding) -> None:
        """One call of a reference in double precision, into outputs laid out for that."""
        from kernel_generator.sandbox.upcast import NotUpcast, run_upcast  # noqa: PLC0415

        binding.refresh()
        try:
            values = run_upcast(self._runnable, binding.inputs)
        except NotUpcast as error:
            raise _Mismatch(Fault.NOT_WIDE, str(error)) from error
        self._store(values, binding)
        self._synchronize()
        binding.publish()

    def _store(self, returned: Any, binding: _Binding) -> None:
        import torch  # noqa: PLC0415

        values = list(returned) if isinstance(returned, tuple | list) else [returned]
        if len(values) != len(binding.outputs):
            raise _Mismatch(
                Fault.SHAPE, f"returned {len(values)} values, expected {len(binding.outputs)}"
            )
        for name, value, output in zip(self._output_names, values, binding.outputs, strict=True):
            if isinstance(value, bool | int | float) and output.dim() == 0:
                output.fill_(value)
                continue
            if type(value) is not torch.Tensor:
                raise _Mismatch(
                    Fault.DTYPE, f"output '{name}' is a {type(value).__name__}, expected a Tensor"
                )
            if value.dtype != output.dtype:
                raise _Mismatch(
                    Fault.DTYPE, f"output '{name}' has dtype {value.dtype}, expected {output.dtype}"
                )
            if value.shape != output.shape:
                raise _Mismatch(
                    Fault.SHAPE,
                    f"output '{name}' has shape {list(value.shape)}, expected {list(output.shape)}",
                )
            if value.device.type != output.device.type:
                raise _Mismatch(
                    Fault.DTYPE, f"output '{name}' is on {value.device}, expected {output.device}"
                )
            output.copy_(value)

    def _synchronize(self) -> None:
        if self._device != "cpu":
            import torch  # noqa: PLC0415

            torch.cuda.synchronize()

    def _train(self, slot: int, count: int, mode: Train) -> tuple[float, int]:
        binding = self._bindings[slot]
        binding.refresh()
        if mode is Train.DEVICE:
            return self._device_train(slot, binding, count)
        # Only the last call's values are kept, for the judge to look at after its clock stopped:
        # copying them belongs to the protocol, not to the call.
        for index in range(count):
            self._call(binding, keep=index == count - 1)
            if mode is Train.SYNCED:
                self._synchronize()
        self._synchronize()
        return 0.0, 0

    def _device_train(self, slot: int, binding: _Binding, count: int) -> tuple[float, int]:
        import time  # noqa: PLC0415

        import torch  # noqa: PLC0415

        if self._flush is None:
            self._flush = torch.empty(L2_FLUSH_BYTES, dtype=torch.uint8, device=self._device)
        starts = [torch.cuda.Event(enable_timing=True) for _ in range(count)]
        ends = [torch.cuda.Event(enable_timing=True) for _ in range(count)]
        spin = min(_MAX_SPIN_S, 1.5 * self._host_seconds.get(slot, 0.0) * count + 2e-4)
        # The spin kernel that torch's own tests use; it has no public name.
        sleep: Any = getattr(torch.cuda, "_sleep")  # noqa: B009
        torch.cuda.synchronize()
        sleep(int(spin * _SPIN_HZ))
        began = time.perf_counter()
        for start, end in zip(starts, ends, strict=True):
            self._flush.zero_()
            start.record()
            self._call(binding, keep=False)
            end.record()
        host_seconds = time.perf_counter() - began
        kept_full = not starts[0].query()
        torch.cuda.synchronize()
        self._host_seconds[slot] = host_seconds / count
        milliseconds = sum(s.elapsed_time(e) for s, e in zip(starts, ends, strict=True))
        self._call(binding, keep=True)
        torch.cuda.synchronize()
        binding.publish()
        return milliseconds * 1e6, wire.QUEUE_KEPT_FULL if kept_full else 0

    def _count(self, slot: int) -> int:
        """Floating-point operations of one call, as torch counts matrix products and the like."""
        from torch.utils.flop_counter import FlopCounterMode  # noqa: PLC0415

        with FlopCounterMode(display=False) as counter:
            self._call(self._bindings[slot], keep=False)
        return int(counter.get_total_flops())

    def _explain(self, error: BaseException, kind: Kind) -> bytes:
        """The payload of a FAILED frame, also for errors that cannot be looked at."""
        try:
            return _failure(self._classify(error, kind), _describe(error))
        except BaseException:  # noqa: BLE001 - the candidate wrote the error's class
            fault = Fault.BUILD if kind is Kind.PREPARE else Fault.RUN
            return _failure(fault, f"an error that cannot be shown: {type(error).__name__}")

    def _classify(self, error: BaseException, kind: Kind) -> Fault:
        text = str(error)
        name = type(error).__name__
        if isinstance(error, MemoryError) or name in ("OutOfMemoryError", "bad_alloc"):
            return Fault.RESOURCE
        if any(sign in text for sign in _EXHAUSTED):
            return Fault.RESOURCE
        if self._interpreted:
            from kernel_generator.sandbox.interpreter import (  # noqa: PLC0415
                is_interpreters_fault,
            )

            if is_interpreters_fault(error):
                return Fault.NOT_RUNNABLE
        if self._stands_in and any(sign in text for sign in _NEEDS_GPU):
            return Fault.NOT_RUNNABLE
        if kind is Kind.PREPARE:
            return Fault.BUILD
        if name in ("CompilationError", "PTXASError", "CompileTimeAssertionFailure"):
            return Fault.BUILD
        if name == "OutOfResources":
            return Fault.BUILD
        return Fault.RUN


_EXHAUSTED = (
    "can't allocate",
    "std::bad_alloc",
    "Cannot allocate memory",
    "No space left on device",
    "Resource temporarily unavailable",
    "can't start new thread",
)
_NEEDS_GPU = (
    "not compiled with CUDA",
    "no NVIDIA driver",
    "No CUDA GPUs",
    # torch has no such operation for this dtype on a CPU.
    "not implemented for '",
)


def _flush_output() -> None:
    # Printed text is buffered, and would be lost with a child that is killed.
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()


def _failure(fault: Fault, text: str) -> bytes:
    return bytes([fault]) + text.encode("utf-8", "replace")[: wire.MAX_TEXT]


def _describe(error: BaseException) -> str:
    # A compiler's output is the builder's whole message; the frames around it are not the
    # candidate's, and its causes say the same again.
    by_compiler = type(error).__name__ == "BuildError" and "ninja" in str(error)
    text = str(error) if by_compiler else "".join(traceback.format_exception(error))
    if len(text) > wire.MAX_TEXT:
        half = wire.MAX_TEXT // 2
        text = text[:half] + "\n[...]\n" + text[-half:]
    return text


def main() -> None:
    """Entry point; arguments: the channel's descriptor, and the order how to start, as JSON."""
    _confine(json.loads(sys.argv[2]))
    # A crash in native code leaves the Python frames that led to it in the log.
    faulthandler.enable()
    sock = socket.socket(fileno=int(sys.argv[1]))
    # Done ahead of need: the judge starts children before it has anything for them. Triton is not
    # among these; whether it interprets is decided when it is imported.
    for module in ("flashinfer_bench.compile", *os.environ.get(wire.PRELOADED, "").split()):
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    try:
        # A judge that hangs up or is interrupted leaves nothing to serve.
        with contextlib.suppress(wire.ChannelClosed):
            Child(sock).serve()
    finally:
        # What a candidate registered to run at exit has no business here.
        os._exit(0)


def _confine(start: Any) -> None:
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
    }
    for limit, value in limits.items():
        if value is not None:
            with contextlib.suppress(OSError, ValueError):
                resource.setrlimit(limit, (value, value))
    parent: int | None = start["parent"]
    if parent is not None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
    home = Path(start["home"])
    home.mkdir(exist_ok=True)
    os.chdir(home)


if __name__ == "__main__":
    main()
