"""One workload at a time: inputs, reference outputs, the checks on a call, and the timing.

The reference's outputs never lie in memory that a candidate maps: each implementation is bound to
an arena of its own.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from kernel_generator.domain.evaluation import WorkloadEvaluation
from kernel_generator.domain.outcome import Outcome
from kernel_generator.evaluation import outcomes, sampling
from kernel_generator.evaluation.inputs import InputsUnavailable, fill_inputs, plan_call
from kernel_generator.evaluation.timing import (
    ClaimContradicted,
    Party,
    TimingFailed,
    device_timing,
    speedup,
    time_calls,
    time_together,
)
from kernel_generator.evaluation.tolerance import compare, tolerances_for
from kernel_generator.evaluation.workloads import declared_floor, floor_us
from kernel_generator.sandbox.arena import GUARD_VALUE, POISON_VALUE, Arena, view
from kernel_generator.sandbox.worker import Died, Done

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    import numpy as np
    from flashinfer_bench import Workload
    from numpy.typing import NDArray

    from kernel_generator.domain.evaluation import Mismatch
    from kernel_generator.domain.task import Task
    from kernel_generator.evaluation.inputs import InputPlan
    from kernel_generator.evaluation.judge import Limits, Profile
    from kernel_generator.sandbox.worker import Answer, Worker

_SAMPLING_CALLS = 4096
"""At most this many calls are made of a sampler, however few rows each has."""
_SAMPLING_BUDGET_S = 20.0
"""Wall time for the draws of one workload; only an interpreter comes near it."""
_KEPT_BYTES = 1024 * 1024 * 1024
"""Inputs and reference outputs are kept between candidates up to this total, else made again."""


class Stopped(Exception):
    """A worker did not do as told. Whose fault that is, the caller knows."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(type(answer).__name__)
        self.answer = answer


class ReferenceStopped(Stopped):
    """The reference, not the candidate, did not do as told."""


class _Wrong(Exception):
    """The candidate's call was judged wrong."""

    def __init__(
        self, outcome: Outcome, message: str, mismatches: tuple[Mismatch, ...] = ()
    ) -> None:
        super().__init__(message)
        self.outcome = outcome
        self.message = message
        self.mismatches = mismatches


@dataclass(frozen=True)
class Judged:
    """The record of one workload, with the raw ratios for the mean over workloads."""

    record: WorkloadEvaluation
    ratios: dict[str, NDArray[np.float64]] = field(default_factory=dict[str, "NDArray[np.float64]"])
    """Baseline time / candidate time, one figure a block."""
    skipped: bool = False
    """True where the workload cannot be run here, whatever the candidate."""


@dataclass(frozen=True)
class _Trial:
    """What the reference makes of one set of input values."""

    outputs: tuple[torch.Tensor, ...]


@dataclass
class _Errors:
    absolute: float = 0.0
    relative: float = 0.0


class Bench:
    """Judges calls of one task on one device."""

    def __init__(
        self, task: Task, device: str, limits: Limits, reference: Worker, seed: int
    ) -> None:
        self._task = task
        self._device = device
        self._limits = limits
        self._reference = reference
        self._seed = seed
        self._plans: dict[str, InputPlan] = {}
        self._trials: dict[tuple[str, int], _Trial] = {}
        self._kept: dict[tuple[str, int], torch.Tensor] = {}
        self._operations: dict[str, int | None] = {}
        self._kept_bytes = 0
        self._slot = 0

    def count_operations(self, workload: Workload) -> int | None:
        """Run the reference once and count its operations.

        Raises `InputsUnavailable`, and `ReferenceStopped` where the reference fails.
        """
        if workload.uuid not in self._operations:
            self._trial(workload, 0)
            with self._bound(self._reference, workload, 0) as arena:
                answer = self._reference.count(arena.layout.slot, self._limits.call_s)
            if isinstance(answer, Died):
                raise ReferenceStopped(answer)
            counted = int(answer.figure) if isinstance(answer, Done) else 0
            # torch counts matrix products and attention; zero means that it counted nothing.
            self._operations[workload.uuid] = counted or None
        return self._operations[workload.uuid]

    def judge(
        self,
        worker: Worker,
        workload: Workload,
        profile: Profile,
        baselines: Mapping[str, Worker],
        non_deterministic: bool,
    ) -> Judged:
        """Check a prepared candidate on one workload, then time it."""
        record = WorkloadEvaluation(
            uuid=workload.uuid, axes=dict(workload.axes), outcome=Outcome.PASSED
        )
        errors = _Errors()
        try:
            with self._bound(worker, workload, 0) as arena:
                first_us = self._check(
                    worker, workload, arena, profile.trials, errors, non_deterministic
                )
                record = record.model_copy(
                    update={
                        "max_absolute_error": errors.absolute,
                        "max_relative_error": errors.relative,
                        "floor_us": self._floor(workload),
                    }
                )
                if profile.timing is None:
                    return Judged(
                        record.model_copy(update={"outcome": Outcome.CORRECT_NOT_MEASURED})
                    )
                return self._time(worker, workload, arena, profile, baselines, record, first_us)
        except _Wrong as wrong:
            return Judged(
                record.model_copy(
                    update={
                        "outcome": wrong.outcome,
                        "message": wrong.message,
                        "mismatches": wrong.mismatches,
                        "max_absolute_error": errors.absolute,
                        "max_relative_error": errors.relative,
                    }
                )
            )
        except ReferenceStopped as stopped:
            reason = f"the reference fails: {outcomes.last_line(stopped.answer)}"
            return _skipped(record, reason)
        except Stopped as stopped:
            outcome, message = outcomes.of_run(stopped.answer)
            return Judged(record.model_copy(update={"outcome": outcome, "message": message}))
        except InputsUnavailable as error:
            return _skipped(record, str(error))

    # -- correctness ---------------------------------------------------------------------------

    def _check(
        self,
        worker: Worker,
        workload: Workload,
        arena: Arena,
        trials: int,
        errors: _Errors,
        non_deterministic: bool,
    ) -> float:
        """All trials of one workload. Returns the first call's microseconds."""
        sampler = sampling.is_sampler(self._task.definition)
        first_us = 0.0
        # Each of a sampler's many draws is a trial of its own.
        for index in range(1 if sampler else trials):
            trial = self._trial(workload, index)
            if index:
                self._fill(arena, workload, index)
            self._poison(arena)
            before = arena.bytes.clone()
            limit = self._limits.call_s if index else self._limits.first_call_s
            answer = worker.run(arena.layout.slot, limit)
            if not isinstance(answer, Done):
                raise Stopped(answer)
            if index == 0:
                first_us = answer.wall_s * 1e6
            self._inspect_memory(arena, before)
            if sampler:
                self._check_sampler(worker, arena)
                continue
            self._compare(workload, arena, trial, errors)
            if index == 0 and not non_deterministic:
                self._check_repeats(worker, arena)
        return first_us

    def _compare(self, workload: Workload, arena: Arena, trial: _Trial, errors: _Errors) -> None:
        tolerances = tolerances_for(self._plan(workload))
        found: list[Mismatch] = []
        for place, expected in zip(arena.layout.outputs, trial.outputs, strict=True):
            compared = compare(
                place.name, view(arena.bytes, place), expected, tolerances[place.name]
            )
            errors.absolute = max(errors.absolute, compared.max_absolute_error)
            errors.relative = max(errors.relative, compared.max_relative_error)
            if compared.mismatch is not None:
                found.append(compared.mismatch)
        if found:
            names = ", ".join(f"'{m.output}'" for m in found)
            raise _Wrong(Outcome.WRONG_VALUES, f"wrong values in {names}", tuple(found))

    def _check_repeats(self, worker: Worker, arena: Arena) -> None:
        first = [arena.region(p).clone() for p in arena.layout.outputs]
        self._poison(arena)
        answer = worker.run(arena.layout.slot, self._limits.call_s)
        if not isinstance(answer, Done):
            raise Stopped(answer)
        for place, bits in zip(arena.layout.outputs, first, strict=True):
            changed = int((arena.region(place) != bits).sum())
            if changed:
                raise _Wrong(
                    Outcome.NOT_REPRODUCIBLE,
                    f"output '{place.name}' differs in {changed} bytes when called again with the "
                    "same inputs: look for a race or unwritten memory, or, where the order of "
                    "atomics is meant to vary, say so in a comment: "
                    "'kernel-generator: non-deterministic'",
                )

    def _check_sampler(self, worker: Worker, arena: Arena) -> None:
        inputs = {p.name: view(arena.bytes, p) for p in arena.layout.inputs if p.scalar is None}
        target = sampling.target_distribution(inputs)
        counter = sampling.DrawCounter()
        place = arena.layout.outputs[0]
        deadline = time.perf_counter() + _SAMPLING_BUDGET_S
        for _ in range(_SAMPLING_CALLS):
            draws = view(arena.bytes, place).clone()
            reason = sampling.outside_support(draws, target)
            if reason is not None:
                raise _Wrong(Outcome.WRONG_VALUES, reason)
            counter.add(draws, target)
            if counter.draws >= sampling.ENOUGH_DRAWS or time.perf_counter() > deadline:
                break
            answer = worker.run(arena.layout.slot, self._limits.call_s)
            if not isinstance(answer, Done):
                raise Stopped(answer)
        reason = counter.verdict()
        if reason is not None:
            raise _Wrong(Outcome.WRONG_VALUES, reason)

    def _inspect_memory(self, arena: Arena, before: torch.Tensor) -> None:
        after = arena.bytes.clone()
        for place in arena.layout.inputs:
            region = slice(place.offset, place.offset + place.nbytes)
            if place.nbytes and not torch.equal(after[region], before[region]):
                raise _Wrong(
                    Outcome.INPUT_MODIFIED, f"input '{place.name}' was changed by the call"
                )
        for place in (*arena.layout.inputs, *arena.layout.outputs):
            after[place.offset : place.offset + place.nbytes] = GUARD_VALUE
        if not bool((after == GUARD_VALUE).all()):
            at = int((after != GUARD_VALUE).to(torch.uint8).argmax())
            nearest = min(
                (p for p in (*arena.layout.inputs, *arena.layout.outputs) if p.scalar is None),
                key=lambda p: min(abs(p.offset - at), abs(p.offset + p.nbytes - at)),
            )
            raise _Wrong(
                Outcome.OUT_OF_BOUNDS, f"memory next to '{nearest.name}' was written by the call"
            )

    # -- timing --------------------------------------------------------------------------------

    def _time(
        self,
        worker: Worker,
        workload: Workload,
        arena: Arena,
        profile: Profile,
        baselines: Mapping[str, Worker],
        record: WorkloadEvaluation,
        first_us: float,
    ) -> Judged:
        on_gpu = self._device != "cpu"
        plan = profile.timing
        assert plan is not None
        candidate = Party("candidate", worker, arena.layout.slot, on_gpu)
        bound: list[tuple[Worker, Arena]] = []
        try:
            parties = [candidate]
            for name, other in baselines.items():
                try:
                    other_arena = self._bind(other, workload, 0)
                    bound.append((other, other_arena))
                    self._first_call(other, other_arena)
                except Stopped as stopped:
                    if other is self._reference:
                        raise ReferenceStopped(stopped.answer) from stopped
                    # Another baseline that does not run here is left out of the record.
                    continue
                parties.append(Party(name, other, other_arena.layout.slot, on_gpu))
            self._poison(arena)
            series = time_together(parties, plan)
            calls = time_calls(candidate, plan)
        except TimingFailed as failed:
            if failed.party != candidate.name:
                raise ReferenceStopped(failed.answer) from failed
            outcome, message = outcomes.of_run(failed.answer)
            raise _Wrong(outcome, f"while being timed: {message}") from failed
        except ClaimContradicted as contradiction:
            raise _Wrong(Outcome.TIMING_UNTRUSTED, str(contradiction)) from contradiction
        finally:
            for other, other_arena in bound:
                other.release(other_arena.layout.slot, self._limits.call_s)
                other_arena.close()
        # The last timed call's outputs must be as right as the checked ones were.
        if not sampling.is_sampler(self._task.definition):
            last = self._trial(workload, profile.trials - 1)
            self._compare(workload, arena, last, _Errors())
        mine = series[candidate.name]
        timing = device_timing(mine, on_gpu).model_copy(
            update={"call_us": calls, "first_call_us": first_us}
        )
        others = {name: s for name, s in series.items() if name != candidate.name}
        return Judged(
            record.model_copy(
                update={
                    "timing": timing,
                    "baselines": {n: device_timing(s, on_gpu) for n, s in others.items()},
                    "speedups": {n: speedup(s, mine) for n, s in others.items()},
                }
            ),
            {n: s.per_call_s / mine.per_call_s for n, s in others.items()},
        )

    def _first_call(self, worker: Worker, arena: Arena) -> None:
        answer = worker.run(arena.layout.slot, self._limits.first_call_s)
        if not isinstance(answer, Done):
            raise Stopped(answer)

    # -- inputs and references -----------------------------------------------------------------

    def _plan(self, workload: Workload) -> InputPlan:
        if workload.uuid not in self._plans:
            self._plans[workload.uuid] = plan_call(self._task.definition, workload)
        return self._plans[workload.uuid]

    def _trial(self, workload: Workload, index: int) -> _Trial:
        key = (workload.uuid, index)
        kept = self._trials.get(key)
        if kept is not None:
            return kept
        with self._bound(self._reference, workload, index) as arena:
            self._run_reference(arena)
            trial = _Trial(tuple(view(arena.bytes, p).clone() for p in arena.layout.outputs))
        if self._may_keep(sum(t.nbytes for t in trial.outputs)):
            self._trials[key] = trial
        return trial

    def _run_reference(self, arena: Arena) -> None:
        answer = self._reference.run(arena.layout.slot, self._limits.first_call_s)
        if not isinstance(answer, Done):
            raise ReferenceStopped(answer)

    def _may_keep(self, size: int) -> bool:
        if self._kept_bytes + size > _KEPT_BYTES:
            return False
        self._kept_bytes += size
        return True

    def _seed_of(self, index: int) -> int:
        return self._seed + index

    def _fill(self, arena: Arena, workload: Workload, index: int) -> None:
        key = (workload.uuid, index)
        kept = self._kept.get(key)
        if kept is None:
            fill_inputs(
                arena,
                self._task.definition,
                workload,
                self._task.root,
                self._seed_of(index),
            )
            if self._may_keep(arena.layout.size):
                self._kept[key] = arena.bytes.clone()
            return
        for place in arena.layout.inputs:
            region = slice(place.offset, place.offset + place.nbytes)
            arena.bytes[region] = kept[region]

    @staticmethod
    def _poison(arena: Arena) -> None:
        for place in arena.layout.outputs:
            arena.region(place).fill_(1 if place.dtype == "bool" else POISON_VALUE)

    def _bind(self, worker: Worker, workload: Workload, index: int) -> Arena:
        self._slot += 1
        arena = Arena.create(self._plan(workload).layout(self._slot))
        try:
            self._fill(arena, workload, index)
            answer = worker.bind(arena, self._limits.call_s)
            if not isinstance(answer, Done):
                raise Stopped(answer)
        except BaseException:
            arena.close()
            raise
        return arena

    @contextmanager
    def _bound(self, worker: Worker, workload: Workload, index: int) -> Generator[Arena]:
        arena = self._bind(worker, workload, index)
        try:
            yield arena
        finally:
            worker.release(arena.layout.slot, self._limits.call_s)
            arena.close()

    def _floor(self, workload: Workload) -> float | None:
        plan = self._plan(workload)
        floor = declared_floor(plan, self._operations.get(workload.uuid))
        tensors = (*plan.inputs, *plan.outputs)
        dtypes = {p.dtype for p in tensors if p.scalar is None}
        return floor_us(floor, self._task.target, dtypes)


def _skipped(record: WorkloadEvaluation, reason: str) -> Judged:
    return Judged(
        record.model_copy(update={"outcome": Outcome.NOT_RUN, "message": reason}), skipped=True
    )
