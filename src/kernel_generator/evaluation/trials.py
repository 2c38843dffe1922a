"""Trials: the inputs of each workload, and what the reference makes of them.

Both are made on demand, kept while they fit, and never lie in memory that a candidate maps: each
implementation is bound to an arena of its own.
"""

from __future__ import annotations

import hashlib
import math
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count as count_up
from typing import TYPE_CHECKING

import torch
from flashinfer_bench.data import RandomInput, ScalarInput

from kernel_generator.domain.evaluation import Floors
from kernel_generator.evaluation.compare import compare
from kernel_generator.evaluation.floors import find_floors, least_of
from kernel_generator.evaluation.inputs import InputPlan, InputsUnavailable, NoRoom, plan_call
from kernel_generator.evaluation.outcomes import last_line
from kernel_generator.evaluation.sampling import is_sampler
from kernel_generator.evaluation.tolerance import tolerances_for
from kernel_generator.evaluation.values import (
    Values,
    Where,
    as_described,
    draw,
    variants,
    vary,
    vary_many,
)
from kernel_generator.evaluation.workloads import declared_floor
from kernel_generator.sandbox.arena import Arena, Block, view
from kernel_generator.sandbox.worker import Done

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from flashinfer_bench import Workload

    from kernel_generator.domain.task import Floor, Task
    from kernel_generator.evaluation.judge import Limits
    from kernel_generator.sandbox.arena import Layout
    from kernel_generator.sandbox.device_arena import DeviceArena
    from kernel_generator.sandbox.worker import Answer, Worker

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
_FLOORS_OF = 3
_REFERENCE_TRIES = 2
"""A workload whose reference failed this often is not tried again: each try may take minutes."""


@dataclass(frozen=True)
class Expected:
    """What a reference returned for one set of inputs, by output."""

    ordinary: tuple[torch.Tensor, ...]
    """In the outputs' own dtypes."""
    double: tuple[torch.Tensor, ...] | None
    """float64 where floating; None where the reference cannot be run in double precision."""

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(t.nbytes for t in (*self.ordinary, *(self.double or ())))


class Stopped(Exception):
    """A worker did not do as told. Whose fault that is, the caller knows."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(type(answer).__name__)
        self.answer = answer


class ReferenceStopped(Stopped):
    """The reference, not the candidate, did not do as told."""


class Trials:
    """Inputs and reference outputs of one task's workloads, on the device they are run on."""

    def __init__(
        self,
        task: Task,
        device: str,
        limits: Limits,
        reference: Worker,
        seed: int,
        revive: Callable[[], None],
    ) -> None:
        """`revive` puts another prepared child in place of a reference's that has died."""
        self.reference = reference
        """Replaced by the session where it has died."""
        self._revive = revive
        self._task = task
        self.device = device
        self._limits = limits
        self.seed = seed
        """What all inputs are drawn from."""
        self._plans: dict[str, InputPlan] = {}
        self._expected: dict[tuple[str, int], Expected] = {}
        self._values: dict[tuple[str, int], Values] = {}
        self._workloads: dict[str, Workload] = {}
        self._where = Where.on(device)
        self._operations: dict[str, int | None] = {}
        self._failures: dict[str, list[Answer]] = {}
        self._answering: tuple[Worker | None, str, Arena | DeviceArena | None] = (None, "", None)
        self._floors: dict[str, Floors] = {}
        self.not_in_double = ""
        """Why outputs are compared with the reference as it is, and not in double precision."""
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
            self._forget(range(self._first, self._first + self.most))
            self._first = 0

    def _forget(self, numbers: range) -> None:
        for kept in (self._expected, self._values):
            for key in [key for key in kept if key[1] in numbers]:
                self._kept_bytes -= kept.pop(key).nbytes

    # -- what the reference makes of it --------------------------------------------------------

    def expected(self, workload: Workload, index: int) -> Expected:
        """The reference's outputs on inputs number `index`, in double precision too.

        Raises `InputsUnavailable`, and `ReferenceStopped` where the reference fails.
        """
        key = (workload.uuid, index)
        kept = self._expected.get(key)
        if kept is not None:
            return kept
        outputs = self._answer(workload, lambda arena: self.fill(arena, workload, index))
        expected = Expected(outputs, self._wide(workload, index, outputs))
        if self._may_keep(expected.nbytes):
            self._expected[key] = expected
        return expected

    def answer(self, workload: Workload, inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The reference's outputs as they are, on the inputs in a set's bytes, uint8 [layout.size].

        Raises as `expected`.
        """
        return self._answer(workload, lambda arena: arena.bytes.copy_(inputs))

    def _answer(
        self, workload: Workload, write: Callable[[Block], object]
    ) -> tuple[torch.Tensor, ...]:
        failures = self._failures.setdefault(workload.uuid, [])
        if len(failures) >= _REFERENCE_TRIES:
            raise ReferenceStopped(failures[0])
        try:
            arena = self._reference_arena(workload)
            write(arena)
            self.synchronize()
            answer = self.reference.run(arena.layout.slot, self._limits.first_call_s)
            if not isinstance(answer, Done):
                raise Stopped(answer)
            return tuple(view(arena.bytes, p).clone() for p in arena.layout.outputs)
        except Stopped as stopped:
            failures.append(stopped.answer)
            raise ReferenceStopped(stopped.answer) from stopped

    def _reference_arena(self, workload: Workload) -> Arena | DeviceArena:
        """The arena that the reference answers a workload in: kept until another one is asked for.

        Raises as `bind`.
        """
        worker, uuid, arena = self._answering
        if worker is self.reference and uuid == workload.uuid and arena is not None:
            return arena
        if worker is not None and arena is not None:
            self._answering = None, "", None
            self.unbind(worker, arena)
        arena = self.bind(self.reference, workload, 0)
        self._answering = self.reference, workload.uuid, arena
        return arena

    def _wide(
        self, workload: Workload, index: int, ordinary: tuple[torch.Tensor, ...]
    ) -> tuple[torch.Tensor, ...] | None:
        """The outputs in double precision; None where the reference cannot be run so."""
        if not self.in_double:
            return None
        plan = self.plan(workload)
        outputs = tuple(
            replace(p, dtype="float64") if p.torch_dtype.is_floating_point else p
            for p in plan.outputs
        )
        wide = InputPlan(plan.inputs, outputs)
        try:
            with self._bound_as(wide, self.reference, workload, index) as arena:
                answer = self.reference.run_wide(arena.layout.slot, self._limits.first_call_s)
                if not isinstance(answer, Done):
                    raise Stopped(answer)
                found = tuple(view(arena.bytes, p).clone() for p in arena.layout.outputs)
        except InputsUnavailable as error:
            self.not_in_double = str(error)
            return None
        except Stopped as stopped:
            self.not_in_double = last_line(stopped.answer)
            # It needs more time and memory so than as it is, which says nothing of the latter.
            self._revive()
            return None
        tolerances = tolerances_for(plan, self._task.definition.op_type)
        for place, own, double in zip(plan.outputs, ordinary, found, strict=True):
            # What disagrees with the reference itself is another computation, not a better one.
            if compare(place.name, own, double, tolerances[place.name]).mismatch is not None:
                self.not_in_double = f"'{place.name}' differs from the reference's own"
                return None
        return found

    @property
    def in_double(self) -> bool:
        """True while references are also run in double precision. Draws are no numbers to round,
        and one failure is enough to know."""
        return not self.not_in_double and not is_sampler(self._task.definition)

    def has_room(self, workload: Workload) -> bool:
        """Whether the reference, on inputs that are not known yet, and a ring of them have room and
        time enough here now."""
        self._failures.pop(workload.uuid, None)
        try:
            self._answer(workload, lambda arena: self.fill(arena, workload, next(self._numbers)))
            self._create(self.plan(workload).layout(0, self.sets(workload))).close()
        except (InputsUnavailable, ReferenceStopped, torch.OutOfMemoryError):
            return False
        return True

    def operations(self, workload: Workload) -> int | None:
        """Operations that torch counts in the reference, None where it counts none.

        Raises as `expected`.
        """
        if workload.uuid not in self._operations:
            self.expected(workload, 0)
            try:
                with self.bound(self.reference, workload, 0) as arena:
                    answer = self.reference.count(arena.layout.slot, self._limits.call_s)
            except Stopped as stopped:
                answer = stopped.answer
            # Counting is a convenience: what breaks on it still runs, so nothing is said of it.
            counted = answer.figure if isinstance(answer, Done) else 0.0
            if not isinstance(answer, Done):
                self._revive()
            self._operations[workload.uuid] = int(counted) if math.isfinite(counted) else None
        return self._operations[workload.uuid] or None

    def floor(self, workload: Workload) -> Floor:
        """The least work of a call, with the operations where they were counted."""
        return declared_floor(self.plan(workload), self._operations.get(workload.uuid))

    def floors(self, workload: Workload) -> Floors:
        """Times that a call is held against. Raises `InputsUnavailable`."""
        if workload.uuid not in self._floors:
            # What indices touch differs a little from one set of inputs to the next.
            few = (0, *range(FRESH, FRESH + _FLOORS_OF))
            found = [self._floors_of(workload, self.values(workload, index)) for index in few]
            self._floors[workload.uuid] = Floors(
                shown_us=found[0].shown_us, refusing_us=least_of(found).refusing_us
            )
        return self._floors[workload.uuid]

    def _floors_of(self, workload: Workload, values: Values) -> Floors:
        return find_floors(
            self._task.definition,
            self._settled(workload),
            self.plan(workload),
            values.tensors,
            self._task.target,
            self._operations.get(workload.uuid),
        )

    # -- values --------------------------------------------------------------------------------

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

    def _generator(self, index: int) -> torch.Generator:
        """A candidate that found out what one set was drawn from knows nothing of the others:
        torch's generator of the CPU has but 32 bits of seed."""
        known = hashlib.blake2b(f"{self.seed}:{index}".encode(), digest_size=8).digest()
        return torch.Generator().manual_seed(int.from_bytes(known) >> 1)

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

    # -- memory --------------------------------------------------------------------------------

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
        return self._bind_as(self.plan(workload), worker, workload, index, sets)

    def _bind_as(
        self, plan: InputPlan, worker: Worker, workload: Workload, index: int, sets: int
    ) -> Arena | DeviceArena:
        layout = plan.layout(self._slot, sets)
        self._slot += 1
        arena = self._create(layout)
        try:
            self.fill(arena, workload, index)
            self.synchronize()
            answer = worker.bind(arena, self._limits.call_s)
            if not isinstance(answer, Done):
                raise Stopped(answer)
        except BaseException:
            worker.afterwards(arena.close)
            raise
        return arena

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

    def close(self) -> None:
        """Free the reference's arena, once no child is left. Safe to call twice."""
        arena, self._answering = self._answering[2], (None, "", None)
        if arena is not None:
            arena.close()

    def unbind(self, worker: Worker, arena: Arena | DeviceArena) -> None:
        """Take an arena back from a worker. Nobody else is given the memory of a GPU while a
        candidate lives that may still have it open."""
        worker.release(arena.layout.slot, self._limits.call_s)
        if worker is self.reference or not worker.alive or isinstance(arena, Arena):
            arena.close()
        else:
            worker.afterwards(arena.close)

    @contextmanager
    def bound(
        self, worker: Worker, workload: Workload, index: int, sets: int = 1
    ) -> Generator[Arena | DeviceArena]:
        """`bind`, released at the end. Raises as `bind`."""
        with self._bound_as(self.plan(workload), worker, workload, index, sets) as arena:
            yield arena

    @contextmanager
    def _bound_as(
        self, plan: InputPlan, worker: Worker, workload: Workload, index: int, sets: int = 1
    ) -> Generator[Arena | DeviceArena]:
        arena = self._bind_as(plan, worker, workload, index, sets)
        try:
            yield arena
        finally:
            self.unbind(worker, arena)

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
