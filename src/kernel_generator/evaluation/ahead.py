"""Blocks that count for nothing, and tell who computes ahead. They look like any other."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

from kernel_generator.domain.outcome import Outcome
from kernel_generator.evaluation.wrong import Wrong
from kernel_generator.sandbox.orders import TrainOrder
from kernel_generator.sandbox.wire import Train

if TYPE_CHECKING:
    from kernel_generator.evaluation.timing import Party
    from kernel_generator.evaluation.trains import Trains

_SHARE, _LEAST_CALLS = 0.15, 2
"""Such a share of rounds has one; so many calls at least must a block have."""
_EARLY = 0.4
"""Inputs are replaced within this first share of a block, or later, as the copy takes."""
_TRIES = 4
"""So often at most a workload's candidate is tried until they were there in time."""
_IN_ORDER, _TOO_EARLY = 4, 0.45
"""Of a block of so many calls, three in four are not done after this share of its time."""
_TOO_OFTEN = 2
"""One short block may end late through no fault of its calls."""
_LEAST_BLOCKS = 3
"""So many must be known to say how long one lasts."""


class Ahead:
    """Looks into one candidate on one workload."""

    def __init__(self, party: Party, trains: Trains) -> None:
        self._party = party
        self._trains = trains
        self._random = random.SystemRandom()
        self._in_time = 0
        """So often inputs were there before the call's turn."""
        self._too_early = 0
        """So many blocks had answered one of their last calls long before its turn."""

    def look_at_random(self) -> None:
        """Before some of the rounds. Raises `Wrong`, and as `Trains.run`."""
        if self._random.random() < _SHARE:
            self._in_time += self._look(self._known)

    def look_until_in_time(self) -> None:
        """After all rounds, until as often as is planned something could be told. Raises `Wrong`,
        and as `Trains.run`."""
        late = 0
        while self._in_time < self._trains.plan.looks and late < _TRIES:
            in_time = self._look(self._known, at_once=late > 0)
            self._in_time += in_time
            late += not in_time

    def look_among(self, walls_s: list[float]) -> None:
        """Among queued blocks of as many calls, that are to take so long. Raises as the others."""
        self._look(walls_s, often=1)

    @property
    def _known(self) -> list[float]:
        """Seconds of the party's blocks so far, of queued ones in all, else per call."""
        party = self._party
        return [done.wall_s for done in party.claims] if party.gated else party.per_call_s

    def _look(self, known: list[float], at_once: bool = False, often: int = _TOO_OFTEN) -> bool:
        """A block that counts for nothing, and looks like any other: while its first calls run, a
        later one is given other inputs. Raises `Wrong` where a candidate had answered ahead.

        False where the inputs were not there in time. `at_once`: they are not kept back for a
        while, for that.
        """
        party, rounds = self._party, self._trains.rounds
        if party.trusted or party.count < _LEAST_CALLS:
            return True
        calls = 1 if party.gated else party.count
        lasts_s = calls * min(known, default=party.once_s)
        took_s = 0.0

        def surprise(began: float) -> None:
            nonlocal took_s
            if not at_once:
                time.sleep(self._random.uniform(0.0, _EARLY) * lasts_s)
            rounds.surprise(party)
            took_s = time.perf_counter() - began

        mode = Train.GATED if party.gated else Train.CALLS
        rounds.prepare_surprise(party.count)
        done = self._trains.run(party, TrainOrder(party.count, mode), party.gated, surprise)
        foreseen = rounds.foreseen(party)
        if foreseen:
            raise Wrong(
                Outcome.TIMING_UNTRUSTED,
                "a timed call's inputs were replaced before its turn, and what had been there "
                "before was answered: calls must not be computed ahead",
            )
        if foreseen is None and party.count >= _IN_ORDER and len(known) >= _LEAST_BLOCKS:
            lasts_s = min(done.wall_s, calls * min(known))
            too_early = took_s < _TOO_EARLY * lasts_s
            self._too_early += too_early
            if too_early and self._too_early >= often:
                raise Wrong(
                    Outcome.TIMING_UNTRUSTED,
                    f"{took_s * 1e3:.2f} ms into a block of {lasts_s * 1e3:.2f} ms, one of its "
                    "last calls had been answered: calls must not be computed ahead",
                )
        return foreseen is not None
