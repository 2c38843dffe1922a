"""Judges one candidate on one workload: the checks on its calls, then the timing.

Whatever a worker does, the answer is a record; a fault of the reference or of a baseline is never
told as the candidate's.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch

from kernel_generator.domain.evaluation import Timing, WorkloadEvaluation
from kernel_generator.domain.outcome import Outcome
from kernel_generator.evaluation import outcomes, sampling
from kernel_generator.evaluation.baselines import REFERENCE
from kernel_generator.evaluation.claims import check_claims
from kernel_generator.evaluation.clock import Clock
from kernel_generator.evaluation.compare import compare, find_mismatch
from kernel_generator.evaluation.inputs import InputsUnavailable, NoRoom
from kernel_generator.evaluation.interleaving import time_together
from kernel_generator.evaluation.intervals import Ratio, interval, noise
from kernel_generator.evaluation.memory import is_untouched, poison, trespass
from kernel_generator.evaluation.rounds import Looked, Ring
from kernel_generator.evaluation.timing import (
    CANDIDATE,
    ITSELF,
    ClaimContradicted,
    Party,
    TimingFailed,
)
from kernel_generator.evaluation.tolerance import tolerances_for
from kernel_generator.evaluation.trains import Trains
from kernel_generator.evaluation.trials import Expected, ReferenceStopped, Stopped, Trials
from kernel_generator.evaluation.wrong import Wrong, hold
from kernel_generator.sandbox.arena import view
from kernel_generator.sandbox.wire import Fault
from kernel_generator.sandbox.worker import Done, Failed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from flashinfer_bench import Workload

    from kernel_generator.domain.evaluation import Interval, Mismatch
    from kernel_generator.domain.task import Task
    from kernel_generator.evaluation.judge import Limits, Profile
    from kernel_generator.evaluation.telemetry import Telemetry
    from kernel_generator.evaluation.timing import Series, TimingPlan
    from kernel_generator.evaluation.tolerance import Tolerance
    from kernel_generator.sandbox.arena import Arena, Block, Layout
    from kernel_generator.sandbox.device_arena import DeviceArena
    from kernel_generator.sandbox.worker import Worker

_SAMPLING_CALLS = 4096
"""At most this many calls are made of a sampler, however few rows each has."""
_SAMPLING_BUDGET_S = 1.0
"""Wall time for the draws of one workload; `sampling.LEAST_DRAWS` are made in any case."""
_LOOKED_AT = 4
"""Of a block of few calls all are looked at: half of them left out would go unseen too often."""
_DRAWS_A_ROUND = 16
"""Of a sampler as many as it takes for its draws to tell something after all rounds."""
_READINGS = 2
"""So many readings of the clocks are taken before the last block: each takes milliseconds."""
_BOTH_ROUND = 2.0
"""The reference of a timed call is not run in double precision: its own error comes on top."""
_KEPT_RINGS, _KEPT_SHARE = 1 << 30, 0.2
"""Rings of baselines stay bound from one candidate to the next up to this total, on a GPU up to
this share of its memory."""


@dataclass(frozen=True)
class Subject:
    """A prepared implementation, in a child of its own."""

    name: str
    worker: Worker
    stores: bool
    """True where it returns its values instead of being given its outputs."""
    trusted: bool = True
    non_deterministic: bool = False
    """It says of itself that the same inputs may give other bits."""
    compiles: bool = True
    """A first call may take as long as `torch.compile` does."""
    timed_draws: sampling.DrawCounter = field(default_factory=sampling.DrawCounter)
    """What a sampler drew in timed calls, of all workloads."""


@dataclass(frozen=True)
class Judged:
    """The record of one workload, with the raw ratios for the mean over workloads."""

    record: WorkloadEvaluation
    ratios: dict[str, Ratio] = field(default_factory=dict[str, Ratio])
    """By baseline."""
    lost: dict[str, str] = field(default_factory=dict[str, str])
    """Baselines that could not be timed here, and why."""
    skipped: bool = False
    """True where the workload cannot be run here, whatever the candidate."""
    starved: bool = False
    """True where that is for want of memory or time, which the candidate may have brought about."""


@dataclass
class _Errors:
    absolute: float = 0.0
    relative: float = 0.0


@dataclass(frozen=True)
class _Timed:
    series: dict[str, Series]
    call_us: Interval
    lost: dict[str, str] = field(default_factory=dict[str, str])
    """Baselines that could not be timed here, and why."""


@dataclass
class _Case:
    """One candidate on one workload."""

    subject: Subject
    workload: Workload
    arena: Arena | DeviceArena
    profile: Profile
    errors: _Errors
    found: torch.Tensor
    """The first set's bytes as the last call left them. What comes later is too late."""
    waits_s: list[float] = field(default_factory=list[float])
    """What its calls so far took by the judge's clock."""


class Bench:
    """Judges calls of one task on one device."""

    def __init__(
        self,
        task: Task,
        limits: Limits,
        trials: Trials,
        timing: Callable[[], AbstractContextManager[Telemetry | None]],
    ) -> None:
        """`timing` is entered for as long as a workload is timed."""
        self._timing = timing
        self._definition = task.definition
        self._sampler = sampling.is_sampler(task.definition)
        self._limits = limits
        self.trials = trials
        self._parties: dict[tuple[int, str], Party] = {}
        self._around_s: list[float] = []

    def judge(
        self,
        subject: Subject,
        workload: Workload,
        profile: Profile,
        rivals: Sequence[Subject],
    ) -> Judged:
        """Check a prepared candidate on one workload, then time it beside the reference and its
        other rivals."""
        record = WorkloadEvaluation(
            uuid=workload.uuid, axes=dict(workload.axes), outcome=Outcome.PASSED
        )
        errors = _Errors()
        sets = 1 if profile.timing is None else self.trials.sets(workload)
        try:
            first = self.trials.number(0)
            with self.trials.bound(subject.worker, workload, first, sets) as arena:
                case = _Case(subject, workload, arena, profile, errors, arena.bytes)
                self._check(case)
                values = self.trials.values(workload, first)
                record = _with_errors(record, errors).model_copy(
                    update={
                        "floors": self.trials.floors(workload),
                        "synthetic": values.synthetic,
                        "unvaried": values.unvaried,
                    }
                )
                if profile.timing is None:
                    return Judged(
                        record.model_copy(update={"outcome": Outcome.CORRECT_NOT_MEASURED})
                    )
                with self._timing() as telemetry:
                    timed = self._time(case, profile.timing, rivals, telemetry)
                self._check_after_timing(case)
                clocks = None if telemetry is None else telemetry.clocks
                record = record.model_copy(update={"clocks": clocks})
                measured = _measured(record, timed, case.waits_s[0] * 1e6)
                _refuse_the_impossible(measured.record)
                return measured
        except Wrong as wrong:
            found = {
                "outcome": wrong.outcome,
                "message": wrong.message,
                "mismatches": wrong.mismatches,
            }
            return Judged(_with_errors(record, errors).model_copy(update=found))
        except ReferenceStopped as stopped:
            reason = f"the reference fails: {outcomes.last_line(stopped.answer)}"
            return _skipped(record, reason, outcomes.may_be_size(stopped.answer))
        except Stopped as stopped:
            outcome, message = outcomes.of_run(stopped.answer)
            return Judged(record.model_copy(update={"outcome": outcome, "message": message}))
        except InputsUnavailable as error:
            return _skipped(record, str(error), isinstance(error, NoRoom))
        except torch.OutOfMemoryError:
            return _skipped(record, "the judge has no memory left on the GPU", starved=True)

    def close(self) -> None:
        """Free what is kept from one candidate to the next, once no child is left. Safe to call
        twice."""
        while self._parties:
            self._parties.popitem()[1].arena.close()
        self.trials.close()

    # -- correctness ---------------------------------------------------------------------------

    def _check(self, case: _Case) -> None:
        """All trials of one workload."""
        # Each of a sampler's many draws is a trial of its own.
        trials = min(case.profile.trials, self.trials.most)
        for index in range(1 if self._sampler else trials):
            number = self.trials.number(index)
            expected = self.trials.expected(case.workload, number)
            if index:
                self.trials.fill(case.arena, case.workload, number)
            self._run(case, turn=index)
            if self._sampler:
                self._check_draws(case)
                continue
            self._compare(case, expected, case.errors)
            if index == 0 and not case.subject.non_deterministic:
                self._check_repeats(case)
        self._check_first_call(case)

    def _run(self, case: _Case, turn: int) -> None:
        """One call on poisoned outputs that touches nothing else."""
        poison(case.arena, turn)
        before = case.arena.bytes.clone()
        self.trials.synchronize()
        limit = self._limits.call_s if case.waits_s else self._first_call_limit(case)
        answer = case.subject.worker.run(case.arena.layout.slot, limit)
        if not isinstance(answer, Done):
            raise Stopped(answer)
        case.waits_s.append(answer.wall_s)
        self._inspect(case, before)

    def _first_call_limit(self, case: _Case) -> float:
        limit = self._limits.first_call_s
        if case.subject.compiles:
            return limit
        return min(limit, self._limits.getting_ready_s + self._limits.call_s)

    def _check_first_call(self, case: _Case) -> None:
        """Raises `Wrong` where the first call did what belongs before a kernel is served."""
        first, *later = case.waits_s
        allowed = self._limits.getting_ready_s
        if later and not case.subject.compiles and first - min(later) > allowed:
            raise Wrong(
                Outcome.TIMEOUT,
                f"its first call took {first:.1f} s, a later one {min(later):.2g} s: compiling and "
                f"self-tuning may take {allowed:g} s; have fewer variants, or state the one chosen",
            )

    @staticmethod
    def _inspect(case: _Case, before: torch.Tensor) -> None:
        """Take what the call left, at once and for good, and see what it touched."""
        hold(case.subject.worker)
        case.found = case.arena.bytes.clone()
        trespassed = trespass(case.arena.layout, before, case.found)
        if trespassed is not None:
            raise Wrong(*trespassed)

    def _compare(
        self, case: _Case, expected: Expected, errors: _Errors | None, when: str = ""
    ) -> None:
        plan = self.trials.plan(case.workload)
        tolerances = tolerances_for(plan, self._definition.op_type)
        outputs = case.arena.layout.outputs
        self._compare_outputs(
            [(p.name, tolerances[p.name]) for p in outputs],
            tuple(view(case.found, p) for p in outputs),
            expected,
            errors,
            when,
        )

    @staticmethod
    def _compare_outputs(
        named: Sequence[tuple[str, Tolerance]],
        found: Sequence[torch.Tensor],
        expected: Expected,
        errors: _Errors | None,
        when: str,
    ) -> None:
        mismatches: list[Mismatch] = []
        for (name, tolerance), got, reference, ordinary in zip(
            named, found, expected.double or expected.ordinary, expected.ordinary, strict=True
        ):
            if errors is None:
                mismatch = find_mismatch(name, got, reference, tolerance)
                mismatches += [] if mismatch is None else [mismatch]
                continue
            compared = compare(name, got, reference, tolerance, ordinary)
            errors.absolute = max(errors.absolute, compared.max_absolute_error)
            errors.relative = max(errors.relative, compared.max_relative_error)
            if compared.mismatch is not None:
                mismatches.append(compared.mismatch)
        if mismatches:
            names = ", ".join(f"'{m.output}'" for m in mismatches)
            raise Wrong(Outcome.WRONG_VALUES, f"wrong values in {names}{when}", tuple(mismatches))

    def _check_repeats(self, case: _Case) -> None:
        first = case.found
        self._run(case, turn=1)
        for place in case.arena.layout.outputs:
            region = slice(place.offset, place.offset + place.nbytes)
            changed = int((case.found[region] != first[region]).sum())
            if changed:
                raise Wrong(
                    Outcome.NOT_REPRODUCIBLE,
                    f"output '{place.name}' differs in {changed} bytes when called again with the "
                    "same inputs: look for a race or unwritten memory, or, where the order of "
                    "atomics is meant to vary, say so in a comment: "
                    "'kernel-generator: non-deterministic'",
                )

    def _check_draws(self, case: _Case) -> None:
        target = _target(case.arena.layout, case.arena.bytes)
        counter = sampling.DrawCounter()
        place = case.arena.layout.outputs[0]
        deadline = time.perf_counter() + _SAMPLING_BUDGET_S
        for _ in range(_SAMPLING_CALLS):
            draws = view(case.found, place).clone()
            reason = sampling.outside_support(draws, target)
            if reason is not None:
                raise Wrong(Outcome.WRONG_VALUES, reason)
            counter.add(draws, target)
            late = time.perf_counter() > deadline and counter.draws >= sampling.LEAST_DRAWS
            if counter.draws >= sampling.ENOUGH_DRAWS or late:
                break
            self._run(case, turn=0)
        reason = counter.verdict()
        if reason is not None:
            raise Wrong(Outcome.WRONG_VALUES, reason)

    def _check_after_timing(self, case: _Case) -> None:
        """Once more on other inputs: what is remembered from the timed calls is wrong now. Draws
        of timed calls are told of together, for each workload has few."""
        other = self.trials.number(0 if case.profile.trials > 1 else 1)
        self.trials.fill(case.arena, case.workload, other)
        self._run(case, turn=0)
        if self._sampler:
            draws = view(case.found, case.arena.layout.outputs[0])
            reason = sampling.outside_support(draws, _target(case.arena.layout, case.arena.bytes))
            if reason is not None:
                raise Wrong(Outcome.WRONG_VALUES, f"after being timed: {reason}")
            timed = case.subject.timed_draws
            reason = timed.verdict() if timed.draws >= sampling.LEAST_DRAWS else None
            if reason is not None:
                raise Wrong(Outcome.WRONG_VALUES, f"in timed calls {reason}")
            return
        expected = self.trials.expected(case.workload, other)
        when = " on other inputs, after being timed"
        self._compare(case, expected, None, when)

    # -- timing --------------------------------------------------------------------------------

    def _time(
        self,
        case: _Case,
        plan: TimingPlan,
        rivals: Sequence[Subject],
        telemetry: Telemetry | None,
    ) -> _Timed:
        """Time the candidate beside the reference and its rivals, and check what its timed calls
        left.

        A rival that does not run here is left out.
        """
        # Its child may have been replaced since the checks began.
        usable = [Subject(REFERENCE, self.trials.reference, stores=True), *rivals]
        lost: dict[str, str] = {}
        while True:
            try:
                return replace(self._time_among(case, plan, usable, telemetry), lost=lost)
            except TimingFailed as failed:
                answer, party = failed.answer, failed.party
            except ClaimContradicted as contradiction:
                if contradiction.party == CANDIDATE:
                    raise Wrong(Outcome.TIMING_UNTRUSTED, str(contradiction)) from contradiction
                answer = Failed(Fault.PROTOCOL, str(contradiction))
                party = contradiction.party
            if party == CANDIDATE:
                outcome, message = outcomes.of_run(answer)
                raise Wrong(outcome, f"while being timed: {message}")
            failing = next(rival for rival in usable if rival.name == party)
            if failing.worker is self.trials.reference:
                raise ReferenceStopped(answer)
            usable.remove(failing)
            lost[party] = outcomes.last_line(answer)

    def _time_among(
        self,
        case: _Case,
        plan: TimingPlan,
        rivals: Sequence[Subject],
        telemetry: Telemetry | None,
    ) -> _Timed:
        mine = Party(CANDIDATE, case.subject.worker, case.arena, case.subject.stores, trusted=False)
        parties = [mine, *(self._party(rival, case.workload) for rival in rivals)]

        def judge(looked: Looked) -> None:
            self._judge_timed(case, looked)
            if telemetry is not None and telemetry.taken < _READINGS:
                telemetry.take()

        least = _LOOKED_AT
        if self._sampler:
            least = max(least, -(-_DRAWS_A_ROUND // mine.arena.layout.outputs[0].shape[0]))
        ring = Ring(self.trials, case.workload, mine, parties[1], judge, least)
        clock = Clock(Trains(parties[1], plan, ring, self._around_s))
        series = time_together(parties, clock)
        check_claims(mine, sum(p.nbytes for p in case.arena.layout.outputs), clock)
        return _Timed(series, clock.call_time(mine))

    def _party(self, rival: Subject, workload: Workload) -> Party:
        """A rival with its own ring for a workload, bound and called once, and kept for the next
        candidate.

        Raises `TimingFailed`, `InputsUnavailable`.
        """
        key = id(rival.worker), workload.uuid
        known = self._parties.pop(key, None)
        if known is None:
            known = self._bind_rival(rival, workload)
        # Once more at the end: those that were not used for longest are given up first.
        self._parties[key] = known
        known.per_call_s, known.claims = [], []
        return known

    def _bind_rival(self, rival: Subject, workload: Workload) -> Party:
        sets = self.trials.sets(workload)
        self._make_room(self.trials.plan(workload).layout(0, sets).nbytes)
        try:
            arena = self.trials.bind(rival.worker, workload, 0, sets)
        except Stopped as stopped:
            raise TimingFailed(rival.name, stopped.answer) from stopped
        answer = rival.worker.run(arena.layout.slot, self._limits.first_call_s)
        if not isinstance(answer, Done):
            self.trials.unbind(rival.worker, arena)
            raise TimingFailed(rival.name, answer)
        return Party(rival.name, rival.worker, arena, rival.stores, rival.trusted)

    def _make_room(self, needed: int) -> None:
        """Give up the rings that were not used for longest, and those of children that are gone."""
        limit = self.trials.share(_KEPT_RINGS, _KEPT_SHARE)
        for key, party in list(self._parties.items()):
            held = sum(kept.arena.layout.nbytes for kept in self._parties.values())
            if held + needed > limit or not party.worker.alive:
                del self._parties[key]
                self.trials.unbind(party.worker, party.arena)

    def judge_call(
        self, workload: Workload, index: int, block: Block, found: torch.Tensor, when: str
    ) -> None:
        """What a call `when` something was so left in the first set, of which `block` holds the
        inputs, number `index`, and what lay there before. Raises `Wrong`, and as
        `Trials.expected`."""
        looked = Looked(block.sets[:1], found[None], None)
        known = self.trials.expected(workload, index)
        double = None if known.double is None else tuple(d[None] for d in known.double)
        expected = Expected(tuple(o[None] for o in known.ordinary), double)
        self._judge_looked(workload, looked, expected, when, 1.0)

    def _judge_timed(self, case: _Case, looked: Looked) -> None:
        """Timed calls against what the reference makes of the same inputs. Raises `Wrong`."""
        workload = case.workload
        if self._sampler:
            expected = None
        elif looked.reference is not None:
            layout = self.trials.plan(workload).layout(0)
            expected = Expected(_stacked(layout, looked.reference), None)
        else:
            known = [self.trials.answer(workload, inputs) for inputs in looked.before]
            stacked = tuple(torch.stack(calls) for calls in zip(*known, strict=True))
            expected = Expected(stacked, None)
        counter = case.subject.timed_draws
        self._judge_looked(workload, looked, expected, "of a timed call", _BOTH_ROUND, counter)

    def _judge_looked(
        self,
        workload: Workload,
        looked: Looked,
        expected: Expected | None,
        when: str,
        widened: float,
        counter: sampling.DrawCounter | None = None,
    ) -> None:
        """What several calls left, against what was expected of them, one behind the other; draws
        against what they may be, and into the counter. Raises `Wrong`."""
        plan = self.trials.plan(workload)
        layout = plan.layout(0)
        if not is_untouched(layout, looked.before, looked.found):
            for before, found in zip(looked.before, looked.found, strict=True):
                trespassed = trespass(layout, before, found)
                if trespassed is not None:
                    raise Wrong(*trespassed)
        if self._sampler or expected is None:
            for before, found in zip(looked.before, looked.found, strict=True):
                draws, target = view(found, layout.outputs[0]), _target(layout, before)
                reason = sampling.outside_support(draws, target)
                if reason is not None:
                    raise Wrong(Outcome.WRONG_VALUES, f"{when}: {reason}")
                if counter is not None:
                    counter.add(draws, target)
            return
        tolerances = tolerances_for(plan, self._definition.op_type)
        self._compare_outputs(
            [(p.name, tolerances[p.name].times(widened)) for p in plan.outputs],
            _stacked(layout, looked.found),
            expected,
            None,
            f" {when}",
        )


def _stacked(layout: Layout, sets: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The outputs of several calls, by output, one call behind the other."""
    return tuple(torch.stack([view(one, place) for one in sets]) for place in layout.outputs)


def _target(layout: Layout, block: torch.Tensor) -> sampling.Distribution:
    return sampling.target_distribution(
        {p.name: view(block, p) if p.scalar is None else p.scalar for p in layout.inputs}
    )


def _with_errors(record: WorkloadEvaluation, errors: _Errors) -> WorkloadEvaluation:
    return record.model_copy(
        update={
            "max_absolute_error": errors.absolute,
            "max_relative_error": errors.relative,
        }
    )


def _measured(record: WorkloadEvaluation, timed: _Timed, first_us: float) -> Judged:
    mine = timed.series[CANDIDATE]
    others = {n: s for n, s in timed.series.items() if n not in (CANDIDATE, ITSELF)}
    ratios = {
        n: Ratio(s.per_call_s / mine.per_call_s, math.hypot(s.unseen, mine.unseen))
        for n, s in others.items()
    }
    itself = timed.series.get(ITSELF)
    timing = _timing(mine).model_copy(update={"call_us": timed.call_us, "first_call_us": first_us})
    return Judged(
        record.model_copy(
            update={
                "timing": timing,
                "baselines": {n: _timing(s) for n, s in others.items()},
                "speedups": {n: interval(r.samples, r.unseen) for n, r in ratios.items()},
                "noise": None if itself is None else noise(itself.per_call_s, mine.per_call_s),
            }
        ),
        ratios,
        timed.lost,
    )


def _refuse_the_impossible(record: WorkloadEvaluation) -> None:
    """Raises `Wrong` where a time is below what the device's memory or arithmetic allow."""
    floor, timing = record.floors.refusing_us, record.timing
    if floor is None or timing is None or timing.device_us is None:
        return
    if timing.device_us.high < floor:
        raise Wrong(
            Outcome.TIMING_UNTRUSTED,
            f"{timing.device_us.value:.2f} us is less than the {floor:.2f} us that reading the "
            "inputs, or the arithmetic, takes at the device's peak rates",
        )


def _timing(series: Series) -> Timing:
    return Timing(
        device_us=interval(series.per_call_s * 1e6, series.unseen),
        timer=series.timer,
        host_bound=series.host_bound,
    )


def _skipped(record: WorkloadEvaluation, reason: str, starved: bool) -> Judged:
    found = record.model_copy(update={"outcome": Outcome.NOT_RUN, "message": reason})
    return Judged(found, skipped=True, starved=starved)


def blamed(judged: Judged) -> Judged:
    """A workload that was starved by the candidate: it can be run without."""
    found = {
        "outcome": Outcome.RESOURCE_LIMIT,
        "message": f"nothing else can be run beside it: {judged.record.message}",
    }
    return Judged(judged.record.model_copy(update=found))
