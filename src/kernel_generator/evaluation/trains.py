"""Trains: calls in a row, by the judge's clock; and what the protocol itself takes of it.

That is told by trains of nothing, run by a party that is trusted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kernel_generator.evaluation.timing import TimingFailed, stand_still
from kernel_generator.sandbox.arena import Arena
from kernel_generator.sandbox.bounds import unwatched
from kernel_generator.sandbox.orders import Done, TrainOrder
from kernel_generator.sandbox.wire import Train

if TYPE_CHECKING:
    from collections.abc import Callable

    from kernel_generator.evaluation.timing import Party, Rounds, TimingPlan

_OF_CALLS = (Train.CALLS, Train.GATED, Train.SYNCED)
_OF_NOTHING = (Train.EMPTY, Train.GATED_EMPTY)
_LEAST = 3
_LEAST_ALONE = 8
"""Of those that hold nothing at all, which are short: on a busy machine three may all be late."""
_REMEMBERED = 200
_EMPTY_KERNEL_S = 0.9e-6
"""A kernel that does nothing, as CUPTI measures it (H100). Events around it read more: what is more
is taken off every figure."""
_LEAST_SHARE = 0.2
"""Of a train's time, so much at least is the calls': a spell of noise may make the rest look like
overhead."""


class Trains:
    """Runs trains of parties."""

    def __init__(
        self, trusted: Party, plan: TimingPlan, rounds: Rounds, around_s: list[float] | None = None
    ) -> None:
        """`trusted` runs those of nothing. `around_s` takes what queued ones took a call, from one
        workload of a device to the next: the more there are, the better their median is known."""
        self.plan = plan
        self.rounds = rounds
        self._trusted = trusted
        self._empty: dict[TrainOrder, list[Done]] = {}
        self._around: list[float] = [] if around_s is None else around_s

    def run(
        self,
        party: Party,
        order: TrainOrder,
        gated: bool = False,
        meanwhile: Callable[[float], None] | None = None,
    ) -> Done:
        """One train on new inputs. `gated`: they are written once all calls are queued, and it
        begins then. `meanwhile` is as `Worker.train` has it. Raises `TimingFailed`, and what the
        rounds raise."""
        limit = self.plan.call_limit_s

        def fill() -> None:
            if not party.trusted:
                # It cannot begin on what is being written.
                stand_still(party)
            untouched = order.mode in _OF_NOTHING and not order.stores
            self.rounds.fill(party, 0 if untouched else order.count)

        def settle() -> None:
            self.rounds.settle(party)

        with unwatched():
            if gated and not isinstance(party.arena, Arena):
                patience = self._patience(party, order.count)
                answer = party.worker.train_gated(
                    party.arena, order, fill, patience, limit, settle, meanwhile
                )
            else:
                fill()
                slot = party.arena.layout.slot
                answer = party.worker.train(slot, order, limit, settle, meanwhile)
        if not isinstance(answer, Done):
            raise TimingFailed(party.name, answer)
        self.rounds.settled(party, order.mode in _OF_CALLS)
        return answer

    def of_nothing(self, order: TrainOrder, least: int = _LEAST) -> list[Done]:
        """What trains of nothing took so far, at least so many."""
        found = self._empty.setdefault(order, [])
        while len(found) < least:
            queued = order.mode is Train.GATED_EMPTY
            found.append(self.run(self._trusted, order, queued))
            if queued:
                self._around.append(found[-1].device_ns * 1e-9 / order.count)
                del self._around[:-_REMEMBERED]
        return found

    def queued_of_nothing(self, party: Party, least: int = _LEAST) -> list[Done]:
        """The same of queued ones with as many calls as a block of the party's."""
        return self.of_nothing(TrainOrder(party.count, Train.GATED_EMPTY, party.stores), least)

    def overhead(self, count: int, stores: bool) -> float:
        """Seconds of a train that are not its calls'. The least of several: what is taken off a
        time must not be too much."""

        def least(mode: Train, stores: bool) -> float:
            alone = mode is Train.EMPTY and not stores
            trains = self.of_nothing(
                TrainOrder(count, mode, stores), _LEAST_ALONE if alone else _LEAST
            )
            return min(done.wall_s for done in trains)

        nothing = least(Train.EMPTY, False)
        if not stores:
            return nothing
        return nothing + max(0.0, least(Train.EMPTY, True) - least(Train.MADE, True))

    def per_call(self, party: Party, count: int, mode: Train = Train.CALLS) -> float:
        """Seconds a call by the judge's clock."""
        done = self.run(party, TrainOrder(count, mode))
        overhead = self.overhead(count, party.refunded)
        return max(done.wall_s - overhead, _LEAST_SHARE * done.wall_s) / count

    @property
    def around_s(self) -> float:
        """Seconds of a queued call that are its events' and not its own."""
        return max(float(np.median(self._around)) - _EMPTY_KERNEL_S, 0.0)

    @staticmethod
    def _patience(party: Party, count: int) -> float:
        # A party that was queued before is given longer: a busy machine is no reason to lose it.
        least = 2.0 if party.gated else 0.05
        return least + 4 * count * min(party.once_s, 1.0)
