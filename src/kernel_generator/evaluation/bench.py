"""Judges one candidate on one workload: the checks on its calls, then the timing.

Whatever a worker does, the answer is a record; a fault of the reference or of a baseline is never
told as the candidate's.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kernel_generator.domain.evaluation import Floors, WorkloadEvaluation
from kernel_generator.domain.outcome import Outcome
from kernel_generator.evaluation import outcomes, sampling
from kernel_generator.evaluation.compare import compare
from kernel_generator.evaluation.inputs import InputsUnavailable
from kernel_generator.evaluation.memory import poison, trespass
from kernel_generator.evaluation.timing import (
    ClaimContradicted,
    Party,
    TimingFailed,
    device_timing,
    speedup,
    time_calls,
    time_together,
)
from kernel_generator.evaluation.tolerance import tolerances_for
from kernel_generator.evaluation.trials import Expected, ReferenceStopped, Stopped, Trials
from kernel_generator.sandbox.arena import view
from kernel_generator.sandbox.wire import Fault
from kernel_generator.sandbox.worker import Done, Failed

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import torch
    from flashinfer_bench import Workload
    from numpy.typing import NDArray

    from kernel_generator.domain.evaluation import Interval, Mismatch
    from kernel_generator.domain.task import Task
    from kernel_generator.evaluation.judge import Limits, Profile
    from kernel_generator.evaluation.timing import Series, TimingPlan
    from kernel_generator.sandbox.arena import Arena
    from kernel_generator.sandbox.worker import Worker

_SAMPLING_CALLS = 4096
"""At most this many calls are made of a sampler, however few rows each has."""
_SAMPLING_BUDGET_S = 1.0
"""Wall time for the draws of one workload; `sampling.LEAST_DRAWS` are made in any case."""
_CANDIDATE = "candidate"
_INSPECTED_SHARE = 0.35
"""Of the rounds of a timing, so many are looked at."""
_BOTH_ROUND = 2.0
"""The reference of a timed round is not run in double precision: its own error comes on top."""


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
    lost: dict[str, str] = field(default_factory=dict[str, str])
    """Baselines that could not be timed here, and why."""
    skipped: bool = False
    """True where the workload cannot be run here, whatever the candidate."""


@dataclass
class _Errors:
    absolute: float = 0.0
    relative: float = 0.0


@dataclass(frozen=True)
class _Timed:
    series: dict[str, Series]
    call_us: Interval
    lost: dict[str, str]


@dataclass
class _Case:
    """One candidate on one workload."""

    worker: Worker
    workload: Workload
    arena: Arena
    profile: Profile
    errors: _Errors
    found: torch.Tensor
    """The arena's bytes as the last call left them. What comes later into the arena is too late."""


class Bench:
    """Judges calls of one task on one device."""

    def __init__(self, task: Task, device: str, limits: Limits, trials: Trials) -> None:
        self._definition = task.definition
        self._sampler = sampling.is_sampler(task.definition)
        self._on_gpu = device != "cpu"
        self._limits = limits
        self.trials = trials

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
            with self.trials.bound(worker, workload, 0) as arena:
                case = _Case(worker, workload, arena, profile, errors, arena.bytes)
                first_us = self._check(case, non_deterministic)
                record = _with_errors(record, errors).model_copy(
                    update={"floors": Floors(shown_us=self.trials.floor_us(workload))}
                )
                if profile.timing is None:
                    return Judged(
                        record.model_copy(update={"outcome": Outcome.CORRECT_NOT_MEASURED})
                    )
                timed = self._time(case, profile.timing, baselines)
                self._check_after_timing(case)
                return _measured(record, timed, first_us, self._on_gpu)
        except _Wrong as wrong:
            found = {
                "outcome": wrong.outcome,
                "message": wrong.message,
                "mismatches": wrong.mismatches,
            }
            return Judged(_with_errors(record, errors).model_copy(update=found))
        except ReferenceStopped as stopped:
            return _skipped(record, f"the reference fails: {outcomes.last_line(stopped.answer)}")
        except Stopped as stopped:
            outcome, message = outcomes.of_run(stopped.answer)
            return Judged(record.model_copy(update={"outcome": outcome, "message": message}))
        except InputsUnavailable as error:
            return _skipped(record, str(error))

    # -- correctness ---------------------------------------------------------------------------

    def _check(self, case: _Case, non_deterministic: bool) -> float:
        """All trials of one workload. Returns the first call's microseconds."""
        first_us = 0.0
        # Each of a sampler's many draws is a trial of its own.
        for index in range(1 if self._sampler else case.profile.trials):
            expected = self.trials.expected(case.workload, index)
            if index:
                self.trials.fill(case.arena, case.workload, index)
            limit = self._limits.call_s if index else self._limits.first_call_s
            wall_s = self._run(case, turn=index, limit=limit)
            if index == 0:
                first_us = wall_s * 1e6
            if self._sampler:
                self._check_draws(case)
                continue
            self._compare(case, expected, case.errors)
            if index == 0 and not non_deterministic:
                self._check_repeats(case)
        return first_us

    def _run(self, case: _Case, turn: int, limit: float) -> float:
        """One call on poisoned outputs that touches nothing else. Returns the judge's seconds."""
        poison(case.arena, turn)
        before = case.arena.bytes.clone()
        answer = case.worker.run(case.arena.layout.slot, limit)
        if not isinstance(answer, Done):
            raise Stopped(answer)
        self._inspect(case, before)
        return answer.wall_s

    @staticmethod
    def _inspect(case: _Case, before: torch.Tensor) -> None:
        """Take what the call left, at once and for good, and see what it touched."""
        with case.worker.frozen():
            case.found = case.arena.bytes.clone()
        trespassed = trespass(case.arena, before, case.found)
        if trespassed is not None:
            raise _Wrong(*trespassed)

    def _compare(
        self,
        case: _Case,
        expected: Expected,
        errors: _Errors,
        when: str = "",
        widened: float = 1.0,
    ) -> None:
        tolerances = tolerances_for(self.trials.plan(case.workload), self._definition.op_type)
        decisive = expected.double or expected.ordinary
        found: list[Mismatch] = []
        for place, reference, ordinary in zip(
            case.arena.layout.outputs, decisive, expected.ordinary, strict=True
        ):
            compared = compare(
                place.name,
                view(case.found, place),
                reference,
                tolerances[place.name].times(widened),
                ordinary,
            )
            errors.absolute = max(errors.absolute, compared.max_absolute_error)
            errors.relative = max(errors.relative, compared.max_relative_error)
            if compared.mismatch is not None:
                found.append(compared.mismatch)
        if found:
            names = ", ".join(f"'{m.output}'" for m in found)
            raise _Wrong(Outcome.WRONG_VALUES, f"wrong values in {names}{when}", tuple(found))

    def _check_repeats(self, case: _Case) -> None:
        first = case.found
        self._run(case, turn=1, limit=self._limits.call_s)
        for place in case.arena.layout.outputs:
            region = slice(place.offset, place.offset + place.nbytes)
            changed = int((case.found[region] != first[region]).sum())
            if changed:
                raise _Wrong(
                    Outcome.NOT_REPRODUCIBLE,
                    f"output '{place.name}' differs in {changed} bytes when called again with the "
                    "same inputs: look for a race or unwritten memory, or, where the order of "
                    "atomics is meant to vary, say so in a comment: "
                    "'kernel-generator: non-deterministic'",
                )

    def _target(self, arena: Arena) -> sampling.Distribution:
        return sampling.target_distribution(
            {
                p.name: view(arena.bytes, p) if p.scalar is None else p.scalar
                for p in arena.layout.inputs
            }
        )

    def _check_draws(self, case: _Case) -> None:
        target = self._target(case.arena)
        counter = sampling.DrawCounter()
        place = case.arena.layout.outputs[0]
        deadline = time.perf_counter() + _SAMPLING_BUDGET_S
        for _ in range(_SAMPLING_CALLS):
            draws = view(case.found, place).clone()
            reason = sampling.outside_support(draws, target)
            if reason is not None:
                raise _Wrong(Outcome.WRONG_VALUES, reason)
            counter.add(draws, target)
            late = time.perf_counter() > deadline and counter.draws >= sampling.LEAST_DRAWS
            if counter.draws >= sampling.ENOUGH_DRAWS or late:
                break
            self._run(case, turn=0, limit=self._limits.call_s)
        reason = counter.verdict()
        if reason is not None:
            raise _Wrong(Outcome.WRONG_VALUES, reason)

    def _check_after_timing(self, case: _Case) -> None:
        """Once more on other inputs: what is remembered from the timed calls is wrong now."""
        other = 0 if case.profile.trials > 1 else 1
        self.trials.fill(case.arena, case.workload, other)
        self._run(case, turn=0, limit=self._limits.call_s)
        if self._sampler:
            draws = view(case.found, case.arena.layout.outputs[0])
            reason = sampling.outside_support(draws, self._target(case.arena))
            if reason is not None:
                raise _Wrong(Outcome.WRONG_VALUES, f"after being timed: {reason}")
            return
        expected = self.trials.expected(case.workload, other)
        self._compare(case, expected, _Errors(), " on other inputs, after being timed")

    # -- timing --------------------------------------------------------------------------------

    def _time(self, case: _Case, plan: TimingPlan, baselines: Mapping[str, Worker]) -> _Timed:
        """Time the candidate among the baselines, and check what its last timed call left.

        A baseline other than the reference that does not run here is left out.
        """
        usable = dict(baselines)
        lost: dict[str, str] = {}
        while True:
            try:
                return self._time_among(case, plan, usable, lost)
            except TimingFailed as failed:
                answer, party = failed.answer, failed.party
            except ClaimContradicted as contradiction:
                if contradiction.party == _CANDIDATE:
                    raise _Wrong(Outcome.TIMING_UNTRUSTED, str(contradiction)) from contradiction
                answer = Failed(Fault.PROTOCOL, str(contradiction))
                party = contradiction.party
            if party == _CANDIDATE:
                outcome, message = outcomes.of_run(answer)
                raise _Wrong(outcome, f"while being timed: {message}")
            if usable.pop(party) is self.trials.reference:
                raise ReferenceStopped(answer)
            lost[party] = outcomes.last_line(answer)

    def inspect_timed(self, case: _Case, before: torch.Tensor, reference: Arena | None) -> None:
        """What a timed call left, against what the reference made of the same inputs. Raises
        `_Wrong`."""
        self._inspect(case, before)
        if self._sampler:
            target = self._target(case.arena)
            draws = view(case.found, case.arena.layout.outputs[0])
            reason = sampling.outside_support(draws, target)
            if reason is not None:
                raise _Wrong(Outcome.WRONG_VALUES, f"of a timed call: {reason}")
        elif reference is not None:
            outputs = tuple(view(reference.bytes, p).clone() for p in reference.layout.outputs)
            self._compare(case, Expected(outputs, None), _Errors(), " of a timed call", _BOTH_ROUND)

    def _time_among(
        self,
        case: _Case,
        plan: TimingPlan,
        baselines: Mapping[str, Worker],
        lost: dict[str, str],
    ) -> _Timed:
        candidate = Party(_CANDIDATE, case.worker, case.arena.layout.slot, self._on_gpu)
        parties = [candidate]
        bound: dict[str, tuple[Worker, Arena]] = {}
        try:
            for name, other in baselines.items():
                try:
                    arena = self.trials.bind(other, case.workload, 0)
                except Stopped as stopped:
                    raise TimingFailed(name, stopped.answer) from stopped
                bound[name] = (other, arena)
                answer = other.run(arena.layout.slot, self._limits.first_call_s)
                if not isinstance(answer, Done):
                    raise TimingFailed(name, answer)
                parties.append(Party(name, other, arena.layout.slot, self._on_gpu))
            rounds = _Rounds(self, case, {name: arena for name, (_, arena) in bound.items()})
            series = time_together(parties, plan, rounds)
            timed = _Timed(series, time_calls(candidate, plan), lost)
        finally:
            for other, arena in bound.values():
                other.release(arena.layout.slot, self._limits.call_s)
                arena.close()
        return timed


class _Rounds:
    """New inputs for every round of blocks; what the candidate's last call of a round left is
    looked at in a random share of them, chosen when the round is over."""

    def __init__(self, bench: Bench, case: _Case, baselines: dict[str, Arena]) -> None:
        self._bench = bench
        self._case = case
        self._baselines = baselines
        self._before = case.arena.bytes
        self._random = random.SystemRandom()

    def prepare(self) -> None:
        """See `timing.Rounds`."""
        arenas = [self._case.arena, *self._baselines.values()]
        self._bench.trials.refresh(arenas, self._case.workload)
        poison(self._case.arena, self._random.randrange(2))
        self._before = self._case.arena.bytes.clone()

    def inspect(self) -> None:
        """See `timing.Rounds`. Raises `_Wrong`."""
        if self._random.random() < _INSPECTED_SHARE:
            self._bench.inspect_timed(self._case, self._before, self._baselines.get("reference"))


def _with_errors(record: WorkloadEvaluation, errors: _Errors) -> WorkloadEvaluation:
    return record.model_copy(
        update={
            "max_absolute_error": errors.absolute,
            "max_relative_error": errors.relative,
        }
    )


def _measured(record: WorkloadEvaluation, timed: _Timed, first_us: float, on_gpu: bool) -> Judged:
    mine = timed.series[_CANDIDATE]
    others = {name: s for name, s in timed.series.items() if name != _CANDIDATE}
    timing = device_timing(mine, on_gpu).model_copy(
        update={"call_us": timed.call_us, "first_call_us": first_us}
    )
    return Judged(
        record.model_copy(
            update={
                "timing": timing,
                "baselines": {n: device_timing(s, on_gpu) for n, s in others.items()},
                "speedups": {n: speedup(s, mine) for n, s in others.items()},
            }
        ),
        {n: s.per_call_s / mine.per_call_s for n, s in others.items()},
        timed.lost,
    )


def _skipped(record: WorkloadEvaluation, reason: str) -> Judged:
    return Judged(
        record.model_copy(update={"outcome": Outcome.NOT_RUN, "message": reason}), skipped=True
    )
