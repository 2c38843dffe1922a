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


class Still:
    """Stands in for a child that stands still whenever it is to."""

    def stand_still(self) -> None:
        pass


class Block8:
    """A block of a candidate's calls, one after the other, each doubling its input."""

    def __init__(self, arena: Arena, ring: Ring, party: Party, seen: list[Looked]) -> None:
        self.arena, self.ring, self.party, self.seen = arena, ring, party, seen
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
    nobody = cast("Worker", Still())
    seen: list[Looked] = []
    trials = Trials(task(), "cpu", TINY, nobody, seed=1, revive=lambda: None)
    layout = trials.plan(which).layout(0, SETS)
    arena = Arena.create(layout)
    party = Party("candidate", nobody, arena, stores=False, count=SETS)

    def judge(looked: Looked) -> None:
        seen.append(looked)
        pairs = [
            (view(found, layout.outputs[0]), view(before, layout.inputs[0]) * 2)
            for found, before in zip(looked.found, looked.before, strict=True)
        ]
        if not all(torch.equal(found, right) for found, right in pairs):
            raise Wrong(Outcome.WRONG_VALUES, "not doubled")

    yield Block8(arena, Ring(trials, which, party, party, judge, least=4), party, seen)
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


class TestWhatIsLookedAt:
    """Six rounds of a candidate and the reference, of which one may be wrong."""

    @pytest.mark.parametrize(("wrong", "looks"), [(None, 2), (0, 1), (3, 2), (5, 2)])
    def test_is_the_first_round_at_once_and_the_others_together(
        self, block: Block8, wrong: int | None, looks: int
    ) -> None:
        seen, ring = block.seen, block.ring

        def rounds() -> None:
            for number in range(6):
                ring.prepare(SETS)
                ring.fill(block.party, SETS)
                block.call(*range(SETS))
                if number == wrong:
                    block.write({n: torch.zeros(()) for n in range(SETS)})
                ring.settle(block.party)
                ring.settled(block.party, called=True)
                ring.inspect()
            ring.conclude()

        if wrong is None:
            rounds()
        else:
            with pytest.raises(Wrong, match="not doubled"):
                rounds()
        assert len(seen) == looks
        if looks == 2:
            assert len(seen[1].found) == 5 * len(seen[0].found)
            assert seen[1].reference is not None
            assert torch.equal(seen[1].reference, seen[1].found)

    def test_is_neither_kept_back_nor_copied_where_it_is_large(
        self, block: Block8, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def copies(tensors: object) -> torch.Tensor:
            pytest.fail("there is nothing to put it beside")

        monkeypatch.setattr(torch, "cat", copies)
        monkeypatch.setattr("kernel_generator.evaluation.rounds._GATHERED_BYTES", 1)
        for _ in range(3):
            block.ring.prepare(SETS)
            block.ring.fill(block.party, SETS)
            block.call(*range(SETS))
            block.ring.settle(block.party)
            block.ring.settled(block.party, called=True)
            block.ring.inspect()
        assert len(block.seen) == 3
