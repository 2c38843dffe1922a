"""Findings: what calls left in their memory, against what the reference makes of the inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from kernel_generator.domain.outcome import Outcome
from kernel_generator.evaluation import sampling
from kernel_generator.evaluation.compare import compare, find_mismatch, find_wrong_call
from kernel_generator.evaluation.memory import is_untouched, trespass
from kernel_generator.evaluation.rounds import Looked
from kernel_generator.evaluation.tolerance import tolerances_for
from kernel_generator.evaluation.trials import Expected
from kernel_generator.evaluation.wrong import Wrong
from kernel_generator.sandbox.arena import view

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flashinfer_bench import Definition, Workload

    from kernel_generator.domain.evaluation import Mismatch
    from kernel_generator.evaluation.case import Case, Errors
    from kernel_generator.evaluation.tolerance import Tolerance
    from kernel_generator.evaluation.trials import Trials
    from kernel_generator.sandbox.arena import Block, Layout

_BOTH_ROUND = 2.0
"""The reference of a timed call is not run in double precision: its own error comes on top."""


class Findings:
    """Compares calls of one definition; what is wrong it raises."""

    def __init__(self, definition: Definition, trials: Trials) -> None:
        self._definition = definition
        self._sampler = sampling.is_sampler(definition)
        self._trials = trials

    def of_case(
        self, case: Case, expected: Expected, errors: Errors | None, when: str = ""
    ) -> None:
        """What the last call of a case left. Raises `Wrong`."""
        plan = self._trials.plan(case.workload)
        tolerances = tolerances_for(plan, self._definition.op_type)
        outputs = case.arena.layout.outputs
        self._compare_outputs(
            [(p.name, tolerances[p.name]) for p in outputs],
            tuple(view(case.found, p) for p in outputs),
            expected,
            errors,
            when,
        )

    def of_call(
        self, workload: Workload, index: int, block: Block, found: torch.Tensor, when: str
    ) -> None:
        """What a call `when` something was so left in the first set, of which `block` holds the
        inputs, number `index`, and what lay there before. Raises `Wrong`, and as
        `Trials.expected`."""
        looked = Looked(block.sets[:1], found[None], None)
        known = self._trials.expected(workload, index)
        double = None if known.double is None else tuple(d[None] for d in known.double)
        expected = Expected(tuple(o[None] for o in known.ordinary), double)
        self._judge_looked(workload, looked, expected, when, 1.0)

    def of_timed(self, case: Case, looked: Looked) -> None:
        """Timed calls against what the reference makes of the same inputs. Raises `Wrong`."""
        workload = case.workload
        if self._sampler:
            expected = None
        elif looked.reference is not None:
            layout = self._trials.plan(workload).layout(0)
            expected = Expected(_stacked(layout, looked.reference), None)
        else:
            known = [self._trials.answer(workload, inputs) for inputs in looked.before]
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
        plan = self._trials.plan(workload)
        layout = plan.layout(0)
        if not is_untouched(layout, looked.before, looked.found):
            for before, found in zip(looked.before, looked.found, strict=True):
                trespassed = trespass(layout, before, found)
                if trespassed is not None:
                    raise Wrong(*trespassed)
        if self._sampler or expected is None:
            for before, found in zip(looked.before, looked.found, strict=True):
                draws, target = view(found, layout.outputs[0]), target_of(layout, before)
                reason = sampling.outside_support(draws, target)
                if reason is not None:
                    raise Wrong(Outcome.WRONG_VALUES, f"{when}: {reason}")
                if counter is not None:
                    counter.add(draws, target)
            return
        tolerances = tolerances_for(plan, self._definition.op_type)
        mismatches = [
            find_wrong_call(place.name, got, reference, tolerances[place.name].times(widened))
            for place, got, reference in zip(
                plan.outputs,
                _stacked(layout, looked.found),
                expected.double or expected.ordinary,
                strict=True,
            )
        ]
        _refuse(mismatches, f" {when}")

    @staticmethod
    def _compare_outputs(
        named: Sequence[tuple[str, Tolerance]],
        found: Sequence[torch.Tensor],
        expected: Expected,
        errors: Errors | None,
        when: str,
    ) -> None:
        mismatches: list[Mismatch | None] = []
        for (name, tolerance), got, reference, ordinary in zip(
            named, found, expected.double or expected.ordinary, expected.ordinary, strict=True
        ):
            if errors is None:
                mismatches.append(find_mismatch(name, got, reference, tolerance))
                continue
            compared = compare(name, got, reference, tolerance, ordinary)
            errors.absolute = max(errors.absolute, compared.max_absolute_error)
            errors.relative = max(errors.relative, compared.max_relative_error)
            mismatches.append(compared.mismatch)
        _refuse(mismatches, when)


def _refuse(mismatches: Sequence[Mismatch | None], when: str) -> None:
    """Raises `Wrong` where there is a mismatch."""
    found = tuple(mismatch for mismatch in mismatches if mismatch is not None)
    if found:
        names = ", ".join(f"'{mismatch.output}'" for mismatch in found)
        raise Wrong(Outcome.WRONG_VALUES, f"wrong values in {names}{when}", found)


def _stacked(layout: Layout, sets: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The outputs of several calls, by output, one call behind the other."""
    return tuple(torch.stack([view(one, place) for one in sets]) for place in layout.outputs)


def target_of(layout: Layout, block: torch.Tensor) -> sampling.Distribution:
    """What a sampler may draw for the inputs in a set's bytes."""
    return sampling.target_distribution(
        {p.name: view(block, p) if p.scalar is None else p.scalar for p in layout.inputs}
    )
