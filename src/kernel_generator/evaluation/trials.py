"""Trials: what the reference makes of each workload's inputs, on demand, kept while it fits."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kernel_generator.domain.evaluation import Floors
from kernel_generator.evaluation.compare import compare
from kernel_generator.evaluation.floors import find_floors, least_of
from kernel_generator.evaluation.inputs import InputPlan, InputsUnavailable
from kernel_generator.evaluation.outcomes import last_line
from kernel_generator.evaluation.sampling import is_sampler
from kernel_generator.evaluation.supply import FRESH, Stopped, Supply
from kernel_generator.evaluation.tolerance import tolerances_for
from kernel_generator.evaluation.workloads import declared_floor
from kernel_generator.sandbox.arena import view
from kernel_generator.sandbox.orders import Done

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from flashinfer_bench import Workload

    from kernel_generator.domain.task import Floor, Task
    from kernel_generator.evaluation.judge import Limits
    from kernel_generator.evaluation.values import Values
    from kernel_generator.sandbox.arena import Arena, Block
    from kernel_generator.sandbox.device_arena import DeviceArena
    from kernel_generator.sandbox.orders import Answer
    from kernel_generator.sandbox.worker import Worker

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


class ReferenceStopped(Stopped):
    """The reference, not the candidate, did not do as told."""


class Trials(Supply):
    """Inputs and reference outputs of one task's workloads, on the device they are run on."""

    def __init__(
        self,
        task: Task,
        device: str,
        limits: Limits,
        reference: Worker | None,
        seed: int,
        revive: Callable[[], None],
    ) -> None:
        """`revive` puts another prepared child in place of a reference's that has died."""
        super().__init__(task, device, limits.call_s, seed, reference)
        self.not_in_double = ""
        """Why outputs are compared with the reference as it is, and not in double precision."""
        self._revive = revive
        self._limits = limits
        self._expected: dict[tuple[str, int], Expected] = {}
        self._operations: dict[str, int | None] = {}
        self._failures: dict[str, list[Answer]] = {}
        self._answering: tuple[Worker | None, str, Arena | DeviceArena | None] = (None, "", None)
        self._floors: dict[str, Floors] = {}

    def forget(self, numbers: range) -> None:
        """See `Supply.forget`; nor of what the reference made of them."""
        super().forget(numbers)
        self._drop(self._expected, numbers)

    def rest(self) -> None:
        """See `Supply.rest`; nor the reference's arena. Its outputs are kept: they may have taken
        minutes."""
        super().rest()
        self._give_up_arena()

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
        self._give_up_arena()
        arena = self.bind(self.reference, workload, 0)
        self._answering = self.reference, workload.uuid, arena
        return arena

    def _give_up_arena(self) -> None:
        worker, _, arena = self._answering
        if worker is not None and arena is not None:
            self._answering = None, "", None
            self.unbind(worker, arena)

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
            with self.bound_as(wide, self.reference, workload, index) as arena:
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

    def forgive(self, workload: Workload) -> None:
        """Let the reference be tried again on a workload that it failed on."""
        self._failures.pop(workload.uuid, None)

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

    def close(self) -> None:
        """Free the reference's arena, once no child is left. Safe to call twice."""
        arena, self._answering = self._answering[2], (None, "", None)
        if arena is not None:
            arena.close()
