"""The ring of inputs that timed calls run on: new values every round, and a look at what they left.

Inputs are made in memory that no child sees and copied in while it stands still. Which calls are
looked at is decided after they were made.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from kernel_generator.domain.outcome import Outcome
from kernel_generator.evaluation.memory import poison
from kernel_generator.evaluation.surprise import Surprise
from kernel_generator.evaluation.wrong import Wrong, hold

if TYPE_CHECKING:
    from collections.abc import Callable

    from flashinfer_bench import Workload

    from kernel_generator.evaluation.timing import Party
    from kernel_generator.evaluation.trials import Trials
    from kernel_generator.sandbox.arena import Block

_INSPECTED_SHARE = 0.25
_GLANCED_BYTES = 512
_GATHERED_BYTES = 64 << 20
"""What rounds left is compared together, up to this size: each comparison takes milliseconds."""


@dataclass(frozen=True)
class Looked:
    """Timed calls that are looked at, one behind the other."""

    before: torch.Tensor
    """What lay in their sets before, inputs and all, uint8 [calls, layout.size]."""
    found: torch.Tensor
    """What lay there the moment they were done, likewise."""
    reference: torch.Tensor | None
    """The reference's own sets after its block of the same round; None where it had none."""

    @property
    def nbytes(self) -> int:
        """Of all of it."""
        kinds = 2 if self.reference is None else 3
        return kinds * self.found.nbytes


class Ring:
    """One workload's `timing.Rounds`."""

    def __init__(
        self,
        trials: Trials,
        workload: Workload,
        candidate: Party,
        reference: Party,
        judge: Callable[[Looked], None],
        least: int,
    ) -> None:
        """`judge` raises `Wrong`, and is given a share of each block's calls, and `least` of them
        where there are so many."""
        self._trials = trials
        self._workload = workload
        self._candidate = candidate
        self._reference = reference
        self._judge = judge
        self._least = least
        self._block = trials.private(candidate.arena.layout)
        self._surprise = Surprise(trials, workload, self._block)
        self._in_time = False
        """Whether its inputs were replaced before the call's turn."""
        self._count = 0
        """So many sets of the ring hold new inputs."""
        self._random = random.SystemRandom()
        self._turn = 0
        self._few = False
        self._places = _output_bytes(self._block)
        self._where = torch.zeros(0, dtype=torch.int64, device=self._block.sets.device)
        self._glanced = self._where
        self._chosen: list[int] = []
        self._found = self._where
        self._answered = 0
        """So many sets of this round the reference has answered in its own ring."""
        self._gathered: list[Looked] = []
        self._began = False

    def prepare(self, count: int, few: bool = False) -> None:
        """See `timing.Rounds`."""
        self._turn += 1
        self._few = few
        self._count = count
        self._trials.refill(self._block, self._workload, count)
        poison(self._block, self._turn, count)
        self._chosen, self._answered = [], 0

    def fill(self, party: Party, count: int) -> None:
        """See `timing.Rounds`."""
        count = min(count, self._count)
        party.arena.sets[:count].copy_(self._block.sets[:count])
        picks = torch.randint(0, len(self._places), (_GLANCED_BYTES,))
        sets = torch.randint(0, max(1, min(count, party.count)), (_GLANCED_BYTES,))
        where = self._places[picks] + sets * self._block.layout.size
        self._where = where.to(self._block.sets.device)
        self._trials.synchronize()

    def settle(self, party: Party) -> None:
        """See `timing.Rounds`."""
        self._glanced = party.arena.sets.view(-1)[self._where]
        self._trials.synchronize()

    def settled(self, party: Party, called: bool) -> None:
        """See `timing.Rounds`. Raises `Wrong`."""
        if party is self._reference:
            self._answered = min(party.count, self._count) if called else 0
        if party is not self._candidate:
            return
        count = min(party.count, self._count)
        share = 0 if self._few else math.ceil(count * _INSPECTED_SHARE)
        many = max(share, min(count, self._least))
        self._chosen = self._random.sample(range(count), many)
        hold(party.worker)
        again = party.arena.sets.view(-1)[self._where]
        self._found = party.arena.sets[self._chosen]
        if not torch.equal(again, self._glanced):
            raise Wrong(
                Outcome.TIMING_UNTRUSTED, "an output was still being written after the call"
            )

    def inspect(self) -> None:
        """See `timing.Rounds`. Raises `Wrong`."""
        # As they lie in what was found: those that the reference answered, then the others.
        places = range(len(self._chosen))
        answered = [n for n in places if self._chosen[n] < self._answered]
        others = [n for n in places if n not in answered]
        for some, by_reference in ((answered, True), (others, False)):
            if some:
                self._gathered.append(self._looked(some, by_reference))
        self._chosen = []
        held = sum(one.nbytes for one in self._gathered)
        # Who is wrong from the start is not timed for long.
        if held >= _GATHERED_BYTES or not self._began:
            self.conclude()
        self._began = True

    def conclude(self, ask: bool = True) -> None:
        """See `timing.Rounds`. Raises `Wrong`. Without `ask` nothing is looked at that the
        reference has not answered yet: it may have ended."""
        gathered, self._gathered = self._gathered, []
        for by_reference in (True, False) if ask else (True,):
            some = [one for one in gathered if (one.reference is not None) == by_reference]
            if some:
                self._judge(_together(some))

    def prepare_surprise(self, count: int) -> None:
        """See `timing.Rounds`."""
        self.prepare(count)
        self._surprise.prepare(count)

    def surprise(self, party: Party) -> None:
        """See `timing.Rounds`."""
        self._in_time = self._surprise.replace(party.arena)

    def foreseen(self, party: Party) -> bool | None:
        """See `timing.Rounds`."""
        if not self._in_time:
            return None
        found = party.arena.sets[self._surprise.late][None].clone()
        first, then = self._surprise.content
        if self._is_right(Looked(then, found, None)):
            return False
        for place in self._block.layout.inputs:
            region = slice(place.offset, place.offset + place.nbytes)
            found[:, region] = first[:, region]
        return self._is_right(Looked(first, found, None))

    def _is_right(self, looked: Looked) -> bool:
        try:
            self._judge(looked)
        except Wrong:
            return False
        return True

    def _looked(self, some: list[int], by_reference: bool) -> Looked:
        sets = [self._chosen[n] for n in some]
        return Looked(
            self._block.sets[sets],
            self._found[some],
            self._reference.arena.sets[sets] if by_reference else None,
        )


def _together(some: list[Looked]) -> Looked:
    if len(some) == 1:
        # As large as it may be, it is not copied.
        return some[0]
    references = [one.reference for one in some if one.reference is not None]
    return Looked(
        torch.cat([one.before for one in some]),
        torch.cat([one.found for one in some]),
        torch.cat(references) if references else None,
    )


def _output_bytes(block: Block) -> torch.Tensor:
    """Offsets of bytes within outputs, spread over all of them, int64 on the CPU."""
    found = [
        torch.randint(place.offset, place.offset + place.nbytes, (1 << 16,))
        for place in block.layout.outputs
        if place.nbytes
    ]
    return torch.cat(found) if found else torch.zeros(1, dtype=torch.int64)
