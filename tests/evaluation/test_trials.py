"""Inputs by number: the same again for a number, others for what is certified."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest
import torch

from kernel_generator.evaluation.supply import FRESH
from kernel_generator.evaluation.trials import Trials
from tests.evaluation.judging import TINY, task, workload

if TYPE_CHECKING:
    from kernel_generator.sandbox.worker import Worker

WHICH = workload()


@pytest.fixture
def trials() -> Trials:
    nobody = cast("Worker", None)
    return Trials(task(), "cpu", TINY, nobody, seed=1, revive=lambda: None)


def of_trial(trials: Trials, trial: int) -> torch.Tensor:
    return trials.values(WHICH, trials.number(trial)).tensors["x"]


def test_the_first_to_be_tried_has_new_inputs_anyway(trials: Trials) -> None:
    with trials.anew():
        certified = [of_trial(trials, trial) for trial in range(trials.most)]
    assert all(torch.equal(of_trial(trials, trial), known) for trial, known in enumerate(certified))


def test_what_is_certified_has_others_of_the_same_kinds(trials: Trials) -> None:
    searched = {trial: of_trial(trials, trial) for trial in range(trials.most)}
    seen = list(searched.values())
    for _ in range(2):
        with trials.anew():
            for trial in searched:
                found = trials.values(WHICH, trials.number(trial))
                assert found.variant is trials.values(WHICH, trial).variant
                # Inputs that are all equal may be equal again; those of no kind never are.
                if trial in (0, 1):
                    assert not any(torch.equal(found.tensors["x"], other) for other in seen)
                seen.append(found.tensors["x"])
    assert all(torch.equal(of_trial(trials, trial), known) for trial, known in searched.items())


def test_other_inputs_are_forgotten(trials: Trials) -> None:
    of_trial(trials, 0)
    with trials.anew():
        number = trials.number(0)
        kept = trials.values(WHICH, number)
        assert trials.values(WHICH, number) is kept
    assert trials.values(WHICH, number) is not kept


def test_what_one_set_was_drawn_from_tells_nothing_of_the_next(trials: Trials) -> None:
    def as_drawn_from(seed: int) -> torch.Tensor:
        return torch.rand(8, generator=torch.Generator().manual_seed(seed))

    first, second = (trials._generator(index) for index in (FRESH, FRESH + 1))  # type: ignore[reportPrivateUsage]
    known = first.initial_seed()
    assert torch.equal(torch.rand(8, generator=first), as_drawn_from(known))
    assert not torch.equal(torch.rand(8, generator=second), as_drawn_from(known + 1))


def test_no_trial_has_the_inputs_of_a_timed_call(trials: Trials) -> None:
    of_trial(trials, 0)
    for _ in range(40):
        with trials.anew():
            assert trials.number(trials.most - 1) < FRESH


def test_inputs_are_the_same_again_after_a_rest(trials: Trials) -> None:
    before = [trials.values(WHICH, index).tensors["x"] for index in (0, 1, FRESH)]
    trials.rest()
    after = [trials.values(WHICH, index).tensors["x"] for index in (0, 1, FRESH)]
    for old, new in zip(before, after, strict=True):
        assert old is not new
        assert torch.equal(old, new)
