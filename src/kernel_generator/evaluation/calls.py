"""Calls: those that are not timed, each on inputs and outputs that the judge looks at."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from kernel_generator.domain.outcome import Outcome
from kernel_generator.evaluation import sampling
from kernel_generator.evaluation.findings import target_of
from kernel_generator.evaluation.memory import poison, trespass
from kernel_generator.evaluation.outcomes import last_line
from kernel_generator.evaluation.supply import Stopped
from kernel_generator.evaluation.wrong import Wrong, hold
from kernel_generator.sandbox.arena import view
from kernel_generator.sandbox.orders import Done, Failed

if TYPE_CHECKING:
    import torch

    from kernel_generator.evaluation.case import Case
    from kernel_generator.evaluation.findings import Findings
    from kernel_generator.evaluation.judge import Limits
    from kernel_generator.evaluation.trials import Trials

_OVERWRITES = "a later call changed what an earlier one had returned"
_SAMPLING_CALLS = 4096
"""At most this many calls are made of a sampler, however few rows each has."""
_SAMPLING_BUDGET_S = 1.0
"""Wall time for the draws of one workload; `sampling.LEAST_DRAWS` are made in any case."""


class Calls:
    """Makes the untimed calls of cases, and finds them wrong."""

    def __init__(self, limits: Limits, trials: Trials, findings: Findings, sampler: bool) -> None:
        self._limits = limits
        self._trials = trials
        self._findings = findings
        self._sampler = sampler

    def check(self, case: Case) -> None:
        """All trials of one workload. Raises `Wrong`, `Stopped`, and as `Trials.expected`."""
        # Each of a sampler's many draws is a trial of its own.
        trials = min(case.profile.trials, self._trials.most)
        for index in range(1 if self._sampler else trials):
            number = self._trials.number(index)
            expected = self._trials.expected(case.workload, number)
            if index:
                self._trials.fill(case.arena, case.workload, number)
            earlier = case.found
            self._run(case, turn=index)
            if self._sampler:
                self._check_draws(case)
                continue
            self._findings.of_case(case, expected, case.errors)
            if index == 0 and not case.subject.non_deterministic:
                self._check_repeats(case)
            elif index == 1:
                self._check_earlier(case, earlier)
        self._check_first_call(case)

    def check_after_timing(self, case: Case) -> None:
        """Once more on other inputs: what is remembered from the timed calls is wrong now. Draws
        of timed calls are told of together, for each workload has few."""
        other = self._trials.number(0 if case.profile.trials > 1 else 1)
        self._trials.fill(case.arena, case.workload, other)
        earlier = case.found
        self._run(case, turn=0)
        self._check_earlier(case, earlier)
        if self._sampler:
            draws = view(case.found, case.arena.layout.outputs[0])
            reason = sampling.outside_support(draws, target_of(case.arena.layout, case.arena.bytes))
            if reason is not None:
                raise Wrong(Outcome.WRONG_VALUES, f"after being timed: {reason}")
            reason = case.subject.timed_draws.verdict()
            if reason is not None:
                raise Wrong(Outcome.WRONG_VALUES, f"in timed calls {reason}")
            return
        expected = self._trials.expected(case.workload, other)
        when = " on other inputs, after being timed"
        self._findings.of_case(case, expected, None, when)

    def _run(self, case: Case, turn: int) -> None:
        """One call on poisoned outputs that touches nothing else."""
        poison(case.arena, turn)
        before = case.arena.bytes.clone()
        self._trials.synchronize()
        limit = self._limits.call_s if case.waits_s else self._first_call_limit(case)
        worker = case.subject.worker
        run = worker.run_kept if case.subject.stores else worker.run
        answer = run(case.arena.layout.slot, limit)
        if not isinstance(answer, Done):
            raise Stopped(answer)
        case.waits_s.append(answer.wall_s)
        self._inspect(case, before)

    def _first_call_limit(self, case: Case) -> float:
        limit = self._limits.first_call_s
        if case.subject.compiles:
            return limit
        return min(limit, self._limits.getting_ready_s + self._limits.call_s)

    def _check_first_call(self, case: Case) -> None:
        """Raises `Wrong` where the first call did what belongs before a kernel is served."""
        first, *later = case.waits_s
        allowed = self._limits.getting_ready_s
        if later and not case.subject.compiles and first - min(later) > allowed:
            raise Wrong(
                Outcome.TIMEOUT,
                f"its first call took {first:.1f} s, a later one {min(later):.2g} s: compiling and "
                f"self-tuning may take {allowed:g} s; have fewer variants, or state the one chosen",
            )

    def _check_repeats(self, case: Case) -> None:
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

    def _check_earlier(self, case: Case, earlier: torch.Tensor) -> None:
        """What the call before the last one returned, which its user may still hold, is what it
        was. Raises `Wrong`, `Stopped`."""
        if not case.subject.stores:
            return
        poison(case.arena)
        self._trials.synchronize()
        answer = case.subject.worker.look_back(case.arena.layout.slot, self._limits.call_s)
        if isinstance(answer, Failed):
            reason = f"{_OVERWRITES}: it cannot be read any more ({last_line(answer)})"
            raise Wrong(Outcome.WRONG_VALUES, reason)
        if not isinstance(answer, Done):
            raise Stopped(answer)
        hold(case.subject.worker)
        for place in case.arena.layout.outputs:
            region = slice(place.offset, place.offset + place.nbytes)
            changed = int((case.arena.bytes[region] != earlier[region]).sum())
            if changed:
                raise Wrong(
                    Outcome.WRONG_VALUES,
                    f"{_OVERWRITES}: {changed} bytes of output '{place.name}' differ; return "
                    "memory that no other call writes to",
                )

    def _check_draws(self, case: Case) -> None:
        target = target_of(case.arena.layout, case.arena.bytes)
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

    @staticmethod
    def _inspect(case: Case, before: torch.Tensor) -> None:
        """Take what the call left, at once and for good, and see what it touched."""
        hold(case.subject.worker)
        case.found = case.arena.bytes.clone()
        trespassed = trespass(case.arena.layout, before, case.found)
        if trespassed is not None:
            raise Wrong(*trespassed)
