"""The judge's clock: how many calls make a block, what they take, and what a caller waits."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from kernel_generator.evaluation.intervals import interval
from kernel_generator.evaluation.timing import CANDIDATE, ClaimContradicted
from kernel_generator.sandbox.arena import Arena
from kernel_generator.sandbox.orders import TrainOrder
from kernel_generator.sandbox.wire import Train

if TYPE_CHECKING:
    from kernel_generator.domain.evaluation import Interval
    from kernel_generator.evaluation.timing import Party
    from kernel_generator.evaluation.trains import Trains
    from kernel_generator.sandbox.orders import Done

_SETTLE_S = 0.001
"""Lets the other implementation's threads go to sleep before the next block."""
_MOST_OF_NOTHING = 6
_CALLS_ALONE, _TRAINS_ALONE = 8, 5
_MOST_QUEUED = 32
"""More calls a block make a round longer, and its figures no better."""
_MUCH_SHORTER = 4
"""So many times as many calls as a block has are worth timing everything again."""
_LONGER = 4
"""A rival's block may last so many times as long, for as many calls as the candidate's has."""


class Clock:
    """Times blocks of parties."""

    def __init__(self, trains: Trains) -> None:
        self.trains = trains
        self._pattern: Party | None = None
        """Whose queued trains those of nothing resemble."""

    def warm_up(self, party: Party) -> None:
        """Find out how many calls make a block, of a rival how many at most, and whether they can
        be queued."""
        sets = party.arena.layout.sets
        order = TrainOrder(1)
        self.trains.run(party, order)
        party.once_s = self.trains.run(party, order).wall_s
        if not self._on_gpu(party):
            party.once_s = self.trains.per_call(party, 1)
            if sets > 1 and party.once_s < self.trains.plan.block_s:
                few = min(sets, max(1, int(self.trains.plan.block_s / party.once_s / 4)))
                party.once_s = self.trains.per_call(party, few)
        longest = self.trains.plan.block_s * (1 if party.name == CANDIDATE else _LONGER)
        party.most = party.count = max(1, min(sets, round(longest / max(party.once_s, 1e-7))))
        if self._on_gpu(party):
            self._queue_up(party)

    def settle_counts(self, parties: list[Party], count: int) -> None:
        """Give all parties that many calls a block, as far as they can have them, and find out what
        the protocol itself takes for so many. Of those that can be queued, the first is the one
        that trains of nothing are made like."""
        self._pattern = next((party for party in parties if party.gated), None)
        for party in parties:
            party.count = min(count, party.most)
            if not party.gated:
                self.trains.overhead(party.count, party.refunded)
        if self._pattern is not None:
            self.trains.queued_of_nothing(self._pattern)

    def beside(self) -> None:
        """A train of nothing beside the blocks of a round: the machine's spells of noise meet
        both. Leaves nothing of what the trusted party answered before."""
        if self._pattern is None:
            return
        known = len(self.trains.queued_of_nothing(self._pattern))
        if known < _MOST_OF_NOTHING:
            self.trains.queued_of_nothing(self._pattern, known + 1)

    def lengthen(self, parties: list[Party]) -> bool:
        """Give blocks more calls where the first party's, the candidate's, turned out much shorter
        than planned: what was slow while it was warmed up may have been so on purpose, and the
        fewer calls a block has, the less the judge's clock says of each. True where all have to be
        timed again."""
        candidate, plan = parties[0], self.trains.plan
        claims = [done.wall_s for done in candidate.claims]
        block_s = min(claims) if claims else min(candidate.per_call_s) * candidate.count
        wanted = min(candidate.arena.layout.sets, int(candidate.count * plan.block_s / block_s))
        if candidate.gated:
            wanted = min(wanted, _MOST_QUEUED)
        if wanted < _MUCH_SHORTER * candidate.count:
            return False
        if candidate.gated and not self._can_be_queued(candidate, wanted):
            return False
        candidate.most = wanted
        self.settle_counts(parties, wanted)
        return True

    def _can_be_queued(self, party: Party, count: int) -> bool:
        self.trains.rounds.prepare(count)
        # Not given as long as one that is known to be queued: it may hold more launches than fit.
        party.gated = False
        done = self.trains.run(party, TrainOrder(count, Train.GATED), gated=True)
        party.gated = True
        return done.gated

    def block(self, party: Party, claims: list[Done] | None = None) -> float:
        """Seconds a call, over one block. `claims` takes the claim of a queued one in place of the
        party's own list."""
        if not party.gated:
            time.sleep(_SETTLE_S)
            return self.trains.per_call(party, party.count)
        done = self.trains.run(party, TrainOrder(party.count, Train.GATED), gated=True)
        claimed_s = done.device_ns * 1e-9
        if not done.gated or not 0.0 < claimed_s <= done.wall_s:
            raise ClaimContradicted(party.name, claimed_s / party.count, done.wall_s / party.count)
        (party.claims if claims is None else claims).append(done)
        return max(claimed_s / party.count - self.trains.around_s, 1e-9)

    def longest_queue(self, party: Party, most: int) -> int:
        """So many calls of a queued party, `most` at most, can be queued: no fewer than now."""
        count = min(party.arena.layout.sets, most)
        while count > party.count:
            self.trains.rounds.prepare(count, few=True)
            # As for a shorter one, the first makes events and buffers.
            if self.trains.run(party, TrainOrder(count, Train.GATED), gated=True).gated:
                return count
            count //= 2
        return party.count

    def call_time(self, party: Party) -> Interval:
        """What a caller waits for one call on an idle device, in microseconds."""
        figures: list[float] = []
        count = min(party.count, _CALLS_ALONE)
        deadline = time.perf_counter() + self.trains.plan.budget_s / 32
        while not figures or (len(figures) < _TRAINS_ALONE and time.perf_counter() < deadline):
            self.trains.rounds.prepare(count)
            figures.append(self.trains.per_call(party, count, Train.SYNCED))
            self.trains.rounds.inspect()
        self.trains.rounds.conclude()
        return interval(np.array(figures) * 1e6)

    def _queue_up(self, party: Party) -> None:
        most = min(party.count, _MOST_QUEUED)
        for count in sorted({most, -(-most // 8), 1}, reverse=True):
            # The first train makes events and buffers; the second does not.
            done = self.trains.run(party, TrainOrder(count, Train.GATED), gated=True)
            if done.gated:
                party.gated, party.most, party.count = True, count, count
                return
        party.host_bound = True

    @staticmethod
    def _on_gpu(party: Party) -> bool:
        return not isinstance(party.arena, Arena)
