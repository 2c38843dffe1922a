"""Judges one candidate on one workload: the checks on its calls, then the timing.

Whatever a worker does, the answer is a record; a fault of the reference or of a baseline is never
told as the candidate's.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch

from kernel_generator.domain.evaluation import Timing, WorkloadEvaluation
from kernel_generator.domain.outcome import Outcome
from kernel_generator.evaluation import outcomes, sampling
from kernel_generator.evaluation.ahead import Ahead
from kernel_generator.evaluation.baselines import REFERENCE
from kernel_generator.evaluation.calls import Calls
from kernel_generator.evaluation.case import Case, Errors, Judged, Subject, skipped, with_errors
from kernel_generator.evaluation.claims import check_claims, uncounted_s
from kernel_generator.evaluation.clock import Clock
from kernel_generator.evaluation.findings import Findings
from kernel_generator.evaluation.inputs import InputsUnavailable, NoRoom
from kernel_generator.evaluation.interleaving import time_together
from kernel_generator.evaluation.intervals import Ratio, interval, noise
from kernel_generator.evaluation.rounds import Looked, Ring
from kernel_generator.evaluation.supply import Stopped
from kernel_generator.evaluation.timing import (
    CANDIDATE,
    ITSELF,
    ClaimContradicted,
    Party,
    TimingFailed,
)
from kernel_generator.evaluation.trains import Trains
from kernel_generator.evaluation.trials import ReferenceStopped, Trials
from kernel_generator.evaluation.wrong import Wrong
from kernel_generator.sandbox.arena import Arena
from kernel_generator.sandbox.orders import Done, Failed
from kernel_generator.sandbox.wire import Fault

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from contextlib import AbstractContextManager

    from flashinfer_bench import Workload

    from kernel_generator.domain.evaluation import Interval
    from kernel_generator.domain.task import Task
    from kernel_generator.evaluation.judge import Limits, Profile
    from kernel_generator.evaluation.telemetry import Telemetry
    from kernel_generator.evaluation.timing import Series, TimingPlan

_LOOKED_AT = 4
"""Of a block of few calls all are looked at: half of them left out would go unseen too often."""
_DRAWS_A_ROUND = 8
"""Of a sampler as many as it takes for its draws to tell something after all rounds."""
_READINGS = 2
"""So many readings of the clocks are taken before the last block: each takes milliseconds."""
_KEPT_RINGS, _KEPT_SHARE = 1 << 30, 0.2
"""Rings of baselines stay bound from one candidate to the next up to this total, on a GPU up to
this share of its memory."""


@dataclass(frozen=True)
class _Timed:
    series: dict[str, Series]
    call_us: Interval
    lost: dict[str, str] = field(default_factory=dict[str, str])
    """Baselines that could not be timed here, and why."""


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
        self._sampler = sampling.is_sampler(task.definition)
        self._limits = limits
        self.trials = trials
        self.findings = Findings(task.definition, trials)
        self._calls = Calls(limits, trials, self.findings, self._sampler)
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
        errors = Errors()
        sets = 1 if profile.timing is None else self.trials.sets(workload)
        try:
            first = self.trials.number(0)
            with self.trials.bound(subject.worker, workload, first, sets) as arena:
                case = Case(subject, workload, arena, profile, errors, arena.bytes)
                self._calls.check(case)
                values = self.trials.values(workload, first)
                record = with_errors(record, errors).model_copy(
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
                with self._timing() as telemetry, _ended_where_it_fails(case):
                    timed = self._time(case, profile.timing, rivals, telemetry)
                self._calls.check_after_timing(case)
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
            return Judged(with_errors(record, errors).model_copy(update=found))
        except ReferenceStopped as stopped:
            reason = f"the reference fails: {outcomes.last_line(stopped.answer)}"
            return skipped(record, reason, outcomes.may_be_size(stopped.answer))
        except Stopped as stopped:
            outcome, message = outcomes.of_run(stopped.answer)
            return Judged(record.model_copy(update={"outcome": outcome, "message": message}))
        except InputsUnavailable as error:
            return skipped(record, str(error), isinstance(error, NoRoom))
        except torch.OutOfMemoryError:
            return skipped(record, "the judge has no memory left on the GPU", starved=True)

    def rest(self) -> None:
        """Give back all rings, and see `Trials.rest`. They are filled again when they are used."""
        while self._parties:
            _, party = self._parties.popitem()
            self.trials.unbind(party.worker, party.arena)
        self.trials.rest()

    def close(self) -> None:
        """Free what is kept from one candidate to the next, once no child is left. Safe to call
        twice."""
        while self._parties:
            self._parties.popitem()[1].arena.close()
        self.trials.close()

    def _time(
        self,
        case: Case,
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
        case: Case,
        plan: TimingPlan,
        rivals: Sequence[Subject],
        telemetry: Telemetry | None,
    ) -> _Timed:
        mine = Party(CANDIDATE, case.subject.worker, case.arena, case.subject.stores, trusted=False)
        parties = [mine, *(self._party(rival, case.workload) for rival in rivals)]

        def judge(looked: Looked) -> None:
            self.findings.of_timed(case, looked)
            if telemetry is not None and telemetry.taken < _READINGS:
                telemetry.take()

        least = _LOOKED_AT
        if self._sampler:
            least = max(least, -(-_DRAWS_A_ROUND // mine.arena.layout.outputs[0].shape[0]))
        ring = Ring(self.trials, case.workload, mine, parties[1], judge, least)
        clock = Clock(Trains(parties[1], plan, ring, self._around_s))
        ahead = Ahead(mine, clock.trains)
        try:
            series = time_together(parties, clock, ahead)
            written = sum(p.nbytes for p in case.arena.layout.outputs)
            for rival in parties[1:]:
                if not rival.trusted:
                    series[rival.name] = series[rival.name].later(
                        uncounted_s(rival, written, clock)
                    )
            more_s = check_claims(mine, written, clock, ahead, streams=case.subject.streams)
            for name in {CANDIDATE, ITSELF} & set(series):
                series[name] = series[name].later(more_s)
            return _Timed(series, clock.call_time(mine))
        except (TimingFailed, ClaimContradicted) as ended:
            if ended.party != CANDIDATE:
                # What the candidate's calls left until then is not forgiven.
                ring.conclude(ask=ended.party != REFERENCE)
            raise

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


@contextlib.contextmanager
def _ended_where_it_fails(case: Case) -> Generator[None]:
    """On a GPU: before anybody else times there, for what it left running goes on."""
    try:
        yield
    except (Wrong, Stopped):
        if not isinstance(case.arena, Arena):
            case.subject.worker.close()
        raise


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
