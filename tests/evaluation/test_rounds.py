"""A later call's inputs are replaced while a block runs: who answered ahead is found out."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest
import torch

from kernel_generator.domain.outcome import Outcome
from kernel_generator.evaluation.rounds import Looked, Ring
from kernel_generator.evaluation.timing import Party
from kernel_generator.evaluation.trials import Trials
from kernel_generator.evaluation.wrong import Wrong
from kernel_generator.sandbox.arena import Arena, view
from tests.evaluation.judging import TINY, task, workload

if TYPE_CHECKING:
    from collections.abc import Generator

    from kernel_generator.sandbox.worker import Worker

SETS = 8


class Block8:
    """A block of a candidate's calls, one after the other, each doubling its input."""

    def __init__(self, arena: Arena, ring: Ring, party: Party) -> None:
        self.arena, self.ring, self.party = arena, ring, party
        ring.prepare_surprise(SETS)
        ring.fill(party, SETS)

    def answers(self, *numbers: int) -> dict[int, torch.Tensor]:
        """What these calls have to write, by the inputs that are there now."""
        place = self.arena.layout.inputs[0]
        return {n: view(self.arena.sets[n], place) * 2 for n in numbers}

    def write(self, answers: dict[int, torch.Tensor]) -> None:
        """Write what calls have to."""
        for number, answer in answers.items():
            view(self.arena.sets[number], self.arena.layout.outputs[0]).copy_(answer)

    def call(self, *numbers: int) -> None:
        """Do these calls."""
        self.write(self.answers(*numbers))

    def surprised(self) -> None:
        """The judge replaces the inputs of one of the last two calls."""
        self.ring.surprise(self.party)

    def found_out(self) -> bool | None:
        """What the judge finds at the block's end; None where it was too late."""
        return self.ring.foreseen(self.party)


@pytest.fixture
def block() -> Generator[Block8]:
    which = workload()
    nobody = cast("Worker", None)
    trials = Trials(task(), "cpu", TINY, nobody, seed=1, revive=lambda: None)
    layout = trials.plan(which).layout(0, SETS)
    arena = Arena.create(layout)
    party = Party("candidate", nobody, arena, stores=False, count=SETS)

    def judge(looked: Looked) -> None:
        found, before = (
            view(sets[0], place)
            for sets, place in (
                (looked.found, layout.outputs[0]),
                (looked.before, layout.inputs[0]),
            )
        )
        if not torch.equal(found, before * 2):
            raise Wrong(Outcome.WRONG_VALUES, "not doubled")

    yield Block8(arena, Ring(trials, which, party, party, judge, least=4), party)
    arena.close()


def test_calls_in_their_turn_answer_what_they_find(block: Block8) -> None:
    block.call(0, 1)
    block.surprised()
    block.call(*range(2, SETS))
    assert block.found_out() is False


def test_calls_that_were_answered_ahead_are_found_out(block: Block8) -> None:
    ahead = block.answers(*range(SETS))
    block.call(0)
    block.surprised()
    block.write(ahead)
    assert block.found_out()


def test_nothing_is_said_where_the_turn_had_come_already(block: Block8) -> None:
    block.call(*range(SETS))
    block.surprised()
    assert block.found_out() is None


def test_a_wrong_answer_is_not_one_ahead(block: Block8) -> None:
    block.surprised()
    assert block.found_out() is False
