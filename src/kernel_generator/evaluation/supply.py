"""Supply: the inputs of each workload, by number, and the memory that they are handed over in.

Made on demand, kept while they fit, and never in memory that a candidate maps: each implementation
is bound to an arena of its own.
"""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from itertools import count as count_up
from typing import TYPE_CHECKING, Protocol, TypeVar

import torch
from flashinfer_bench.data import RandomInput, ScalarInput

from kernel_generator.evaluation.inputs import InputPlan, NoRoom, plan_call
from kernel_generator.evaluation.values import (
    Values,
    Where,
    as_described,
    draw,
    variants,
    vary,
    vary_many,
)
from kernel_generator.sandbox.arena import Arena, Block, view
from kernel_generator.sandbox.orders import Done

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from flashinfer_bench import Workload

    from kernel_generator.domain.task import Task
    from kernel_generator.sandbox.arena import Layout
    from kernel_generator.sandbox.device_arena import DeviceArena
    from kernel_generator.sandbox.orders import Answer
    from kernel_generator.sandbox.worker import Worker

FRESH = 1 << 20
"""Inputs from this number on are for timed calls: drawn like the second trial, each used once."""
_KEPT_BYTES, _KEPT_SHARE = 1 << 30, 0.1
"""Inputs and reference outputs are kept between candidates up to this total, else made again; on a
GPU up to this share of its memory."""
_RING_SETS, _GPU_RING_SETS = 512, 96
_RING_BYTES, _GPU_RING_BYTES, _GPU_RING_SHARE = 128 << 20, 2 << 30, 0.03
"""A ring holds this many sets of inputs where they fit: each call of a block has its own."""
_AT_ONCE_BYTES = 128 << 20
"""Sets of inputs are made together up to this size: more would only take memory."""


class _Sized(Protocol):
    @property
    def nbytes(self) -> int: ...


Kept = TypeVar("Kept", bound=_Sized)


class Stopped(Exception):
    """A worker did not do as told. Whose fault that is, the caller knows."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(type(answer).__name__)
        self.answer = answer


class Supply:
    """The inputs of one task's workloads, on the device they are run on."""

    reference: Worker
    """The reference's child. Put there by the session before anything is asked of it, and replaced
    where it has died."""

    def __init__(
        self, task: Task, device: str, call_limit_s: float, seed: int, reference: Worker | None
    ) -> None:
        if reference is not None:
            self.reference = reference
        self.device = device
        self.seed = seed
        """What all inputs are drawn from."""
        self._task = task
        self._call_limit_s = call_limit_s
        self._plans: dict[str, InputPlan] = {}
        self._values: dict[tuple[str, int], Values] = {}
        self._workloads: dict[str, Workload] = {}
        self._where = Where.on(device)
        self._kept_bytes = 0
        self._slot = 0
        self._numbers = count_up(FRESH)
        self._rounds, self._first = count_up(1), 0
        self._used = False

    @property
    def on_gpu(self) -> bool:
        """True where inputs and outputs lie in a GPU's memory."""
        return self.device != "cpu"

    def plan(self, workload: Workload) -> InputPlan:
        """Names, dtypes and shapes of the call. Raises `InputsUnavailable`."""
        if workload.uuid not in self._plans:
            self._plans[workload.uuid] = plan_call(self._task.definition, self._settled(workload))
        return self._plans[workload.uuid]

    @property
    def most(self) -> int:
        """How many trials there are that differ in kind."""
        return 1 + len(variants(self._task.definition))

    def sets(self, workload: Workload) -> int:
        """How many sets of inputs a ring of the workload holds. Raises `InputsUnavailable`."""
        size = self.plan(workload).layout(0).size
        if not self.on_gpu:
            return max(1, min(_RING_SETS, _RING_BYTES // size))
        _, total = torch.cuda.mem_get_info()
        room = min(_GPU_RING_BYTES, int(_GPU_RING_SHARE * total))
        return max(1, min(_GPU_RING_SETS, room // size))

    def number(self, trial: int) -> int:
        """The number of the inputs that a trial has now, 0 <= `trial` < `most`."""
        self._used = True
        return self._first + trial

    @contextmanager
    def anew(self) -> Generator[None]:
        """Trials have other inputs of the same kinds meanwhile, where any have been used before."""
        if not self._used:
            yield
            return
        self._first = next(self._rounds) * self.most
        try:
            yield
        finally:
            self.forget(range(self._first, self._first + self.most))
            self._first = 0

    def forget(self, numbers: range) -> None:
        """Keep nothing more of the inputs with these numbers."""
        self._drop(self._values, numbers)

    def rest(self) -> None:
        """Keep no inputs. They are made again when they are asked for, and are the same."""
        self._kept_bytes -= sum(v.nbytes for key, v in self._values.items() if key[1] != 1)
        self._values.clear()

    def _drop(self, kept: dict[tuple[str, int], Kept], numbers: range) -> None:
        for key in [key for key in kept if key[1] in numbers]:
            self._kept_bytes -= kept.pop(key).nbytes

    def fill(self, block: Block, workload: Workload, index: int, at: int = 0) -> None:
        """Write inputs number `index` into set `at` of a block laid out for the workload. Raises
        `InputsUnavailable`."""
        self._write(block, self.values(workload, index), at)

    def refill(self, block: Block, workload: Workload, count: int) -> None:
        """Write new but ordinary inputs into the first `count` sets of a block laid out for the
        workload: none is used twice in a session. Raises `InputsUnavailable`."""
        base = self.values(workload, 1)
        definition, settled = self._task.definition, self._settled(workload)
        at_once = max(1, _AT_ONCE_BYTES // block.layout.size)
        for start in range(0, count, at_once):
            many = min(at_once, count - start)
            made = vary_many(definition, settled, base, self._generator(next(self._numbers)), many)
            if made is None:
                for at in range(start, start + many):
                    self.fill(block, workload, next(self._numbers), at)
            else:
                self._write_many(block, made, base, slice(start, start + many))

    def values(self, workload: Workload, index: int) -> Values:
        """Inputs number `index`.

        Number 0 is as the workload describes them, those after it go through the hard cases, and
        so on again from `most`; those from `FRESH` on are new but ordinary. Raises
        `InputsUnavailable`.
        """
        key = (workload.uuid, index)
        kept = self._values.get(key)
        if kept is not None:
            return kept
        generator = self._generator(index)
        if index >= FRESH:
            base = self.values(workload, 1)
            return vary(self._task.definition, self._settled(workload), base, generator)
        values = self._drawn(self._settled(workload), index, generator)
        # What others are varied from is needed again and again.
        if index == 1 or self._may_keep(values.nbytes):
            self._values[key] = values
        return values

    def private(self, layout: Layout) -> Block:
        """Memory laid out alike that no child ever sees."""
        block = Block(layout, torch.empty(layout.nbytes, dtype=torch.uint8, device=self.device))
        block.clear()
        return block

    def bind(
        self, worker: Worker, workload: Workload, index: int, sets: int = 1
    ) -> Arena | DeviceArena:
        """Share a new arena, its first set filled with inputs number `index`, with a worker.

        Raises `InputsUnavailable`, and `Stopped` where the worker fails.
        """
        return self.bind_as(self.plan(workload), worker, workload, index, sets)

    def bind_as(
        self, plan: InputPlan, worker: Worker, workload: Workload, index: int, sets: int
    ) -> Arena | DeviceArena:
        layout = plan.layout(self._slot, sets)
        self._slot += 1
        arena = self._create(layout)
        try:
            self.fill(arena, workload, index)
            self.synchronize()
            answer = worker.bind(arena, self._call_limit_s)
            if not isinstance(answer, Done):
                raise Stopped(answer)
        except BaseException:
            worker.afterwards(arena.close)
            raise
        return arena

    @contextmanager
    def bound(
        self, worker: Worker, workload: Workload, index: int, sets: int = 1
    ) -> Generator[Arena | DeviceArena]:
        """`bind`, released at the end. Raises as `bind`."""
        with self.bound_as(self.plan(workload), worker, workload, index, sets) as arena:
            yield arena

    @contextmanager
    def bound_as(
        self, plan: InputPlan, worker: Worker, workload: Workload, index: int, sets: int = 1
    ) -> Generator[Arena | DeviceArena]:
        arena = self.bind_as(plan, worker, workload, index, sets)
        try:
            yield arena
        finally:
            self.unbind(worker, arena)

    def unbind(self, worker: Worker, arena: Arena | DeviceArena) -> None:
        """Take an arena back from a worker. Nobody else is given the memory of a GPU while a
        candidate lives that may still have it open."""
        worker.release(arena.layout.slot, self._call_limit_s)
        if worker is self.reference or not worker.alive or isinstance(arena, Arena):
            arena.close()
        else:
            worker.afterwards(arena.close)

    def synchronize(self) -> None:
        """Wait until what the judge wrote is there: a child does not wait for it."""
        if self.on_gpu:
            torch.cuda.current_stream().synchronize()

    def share(self, nbytes: int, of_gpu: float) -> int:
        """`nbytes`, on a GPU that share of its memory."""
        return int(of_gpu * torch.cuda.mem_get_info()[1]) if self.on_gpu else nbytes

    def _may_keep(self, size: int) -> bool:
        if self._kept_bytes + size > self.share(_KEPT_BYTES, _KEPT_SHARE):
            return False
        self._kept_bytes += size
        return True

    def _drawn(self, workload: Workload, index: int, generator: torch.Generator) -> Values:
        definition, root = self._task.definition, self._task.root
        trial = index % self.most
        if trial == 0:
            return as_described(definition, workload, root, generator, self._where)
        # The first of the varied trials is plain, those after it go through the hard cases.
        kind = variants(definition)[trial - 1]
        return draw(definition, workload, root, generator, kind, self._where)

    def _settled(self, workload: Workload) -> Workload:
        """The workload with a number for every scalar that it leaves open: the same in all calls,
        for it is part of the call and not of its memory."""
        known = self._workloads.get(workload.uuid)
        if known is None:
            known = workload
            scalars = [n for n, i in self._task.definition.inputs.items() if i.shape is None]
            left_open = [n for n in scalars if isinstance(workload.inputs.get(n), RandomInput)]
            if left_open:
                generator = self._generator(-1)
                task = self._task
                found = as_described(task.definition, workload, task.root, generator).scalars
                fixed = {n: ScalarInput(value=found[n]) for n in left_open}
                known = workload.model_copy(update={"inputs": {**workload.inputs, **fixed}})
            self._workloads[workload.uuid] = known
        return known

    def _generator(self, index: int) -> torch.Generator:
        """A candidate that found out what one set was drawn from knows nothing of the others:
        torch's generator of the CPU has but 32 bits of seed."""
        known = hashlib.blake2b(f"{self.seed}:{index}".encode(), digest_size=8).digest()
        return torch.Generator().manual_seed(int.from_bytes(known) >> 1)

    @staticmethod
    def _write(block: Block, values: Values, at: int) -> None:
        for place in block.layout.inputs:
            if place.scalar is not None or not place.nbytes:
                continue
            value = values.tensors.get(place.name)
            if value is None:
                value = torch.tensor(values.scalars[place.name], dtype=place.torch_dtype)
            view(block.sets[at], place).copy_(value)

    @staticmethod
    def _write_many(
        block: Block, made: Mapping[str, torch.Tensor], base: Values, sets: slice
    ) -> None:
        for place in block.layout.inputs:
            if place.scalar is not None or not place.nbytes:
                continue
            found = block.sets[sets, place.offset : place.offset + place.nbytes]
            new = made.get(place.name)
            if new is None:
                new = torch.full((1, 1), base.scalars[place.name], dtype=place.torch_dtype)
            found.view(new.dtype).copy_(new.view(len(new), -1))

    def _create(self, layout: Layout) -> Arena | DeviceArena:
        try:
            if not self.on_gpu:
                return Arena.create(layout)
            from kernel_generator.sandbox.device_arena import DeviceArena  # noqa: PLC0415

            return DeviceArena.create(layout)
        except OSError as error:
            raise NoRoom(
                f"its tensors take {layout.nbytes / 2**30:.1f} GiB, which this machine does not "
                f"have: {error.strerror}"
            ) from error
