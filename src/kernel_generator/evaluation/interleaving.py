"""Interleaving: all parties in randomly ordered blocks, round by round, until it is decided."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

import numpy as np

from kernel_generator.evaluation.intervals import interval, noise, promotes
from kernel_generator.evaluation.timing import (
    ENOUGH,
    INCUMBENT,
    ITSELF,
    PATIENCE,
    Series,
    stand_still,
)

if TYPE_CHECKING:
    from kernel_generator.domain.evaluation import Interval
    from kernel_generator.evaluation.ahead import Ahead
    from kernel_generator.evaluation.clock import Clock
    from kernel_generator.evaluation.timing import Party, TimingPlan
    from kernel_generator.sandbox.orders import Done

_LEAST_BLOCKS = 3
"""What is so slow that even `min_blocks` take too long is timed this often in any case."""
_FAR = 0.1
"""So far above the incumbent, a ratio's exact value decides nothing."""
_LAST_PATIENCE = 16
"""What seems that far above it and is not sure may take so many budgets: on a busy machine one
block that another process fell into widens the interval of a few beyond any gain."""
_MOST_LENGTHENED = 2
"""So often a workload is timed again because its blocks turned out too short."""
_APART_S = 0.25e-6
"""Half a 95 % interval of what one process's time of a kernel is off by, whatever its length (H100:
two processes with the same kernel differ by 0.18 us, root mean square). Where code comes to lie in
memory differs, for one; blocks of the same processes do not show it."""


def time_together(parties: list[Party], clock: Clock, ahead: Ahead) -> dict[str, Series]:
    """Time all parties in interleaved blocks. The first is the candidate, which `ahead` looks into;
    the others may be warm already.

    Raises `TimingFailed`, `ClaimContradicted`, and what the rounds raise.
    """
    candidate, plan, rounds = parties[0], clock.trains.plan, clock.trains.rounds
    rounds.prepare(candidate.arena.layout.sets)
    for party in parties:
        if not party.once_s:
            clock.warm_up(party)
    for party in parties:
        if not party.trusted:
            stand_still(party)
    clock.settle_counts(parties, candidate.count)
    itself = _all_rounds(parties, clock, ahead)
    for _ in range(_MOST_LENGTHENED):
        if not clock.lengthen(parties):
            break
        itself = _all_rounds(parties, clock, ahead)
    ahead.look_until_in_time()
    found = {p.name: _series(p, p.per_call_s) for p in parties}
    if plan.against_itself:
        found[ITSELF] = _series(candidate, itself)
    return found


def _all_rounds(parties: list[Party], clock: Clock, ahead: Ahead) -> list[float]:
    """Time blocks of all parties until it is decided; the candidate's against itself, if any."""
    candidate, plan, rounds = parties[0], clock.trains.plan, clock.trains.rounds
    for party in parties:
        party.per_call_s, party.claims = [], []
    used = max(party.count for party in parties)
    itself: list[float] = []
    aside: list[Done] = []
    order = random.SystemRandom()
    began = time.perf_counter()
    while another_round(parties, itself, plan, time.perf_counter() - began):
        if plan.against_itself:
            rounds.prepare(candidate.count)
            # Its claims bear nothing out: a candidate knows which of its blocks come first.
            itself.append(clock.block(candidate, aside))
        ahead.look_at_random()
        rounds.prepare(used)
        clock.beside()
        for party in order.sample(parties, len(parties)):
            party.per_call_s.append(clock.block(party))
            if not party.trusted:
                stand_still(party)
        rounds.inspect()
    rounds.conclude()
    return itself


def another_round(
    parties: list[Party], itself: list[float], plan: TimingPlan, spent_s: float
) -> bool:
    """Whether another one is worth its time, after so many seconds. `itself` are the candidate's
    blocks that only its noise is taken from."""
    blocks = len(parties[0].per_call_s)
    if blocks < _LEAST_BLOCKS or blocks >= plan.max_blocks:
        return blocks < _LEAST_BLOCKS
    mine = np.array(parties[0].per_call_s)
    ratios = {p.name: interval(np.array(p.per_call_s) / mine) for p in parties[1:]}
    against = ratios.pop(INCUMBENT, None)
    if blocks < plan.min_blocks:
        # Three may agree by chance: nobody is promoted on so few.
        return spent_s < PATIENCE * plan.budget_s or (against is not None and against.value > 1.0)
    unsure = False
    if against is not None:
        # A margin, for it is looked at again and again.
        if against.high < 1.0 - ENOUGH:
            return False
        floor = noise(np.array(itself), mine) if itself else 0.0
        wide = _is_wide(against, min(plan.enough, ENOUGH))
        unsure = wide and against.low <= 1.0 + _FAR
        won = promotes(against, floor) and not unsure
        if not won and against.value > 1.0 + _FAR and spent_s < _LAST_PATIENCE * plan.budget_s:
            return True
    unsure = unsure or any(_is_wide(ratio, plan.enough) for ratio in ratios.values())
    return unsure and spent_s < plan.budget_s


def _is_wide(ratio: Interval, enough: float) -> bool:
    return ratio.high - ratio.low > enough * ratio.value


def _series(party: Party, per_call_s: list[float]) -> Series:
    if party.gated:
        timer = (
            "CUDA events around calls queued behind a gate, cold L2; reported by the child and "
            "borne out by the judge's clock"
        )
    elif party.host_bound:
        timer = "the judge's clock around calls that wait for the device within: host-bound"
    else:
        timer = "the judge's clock around blocks of calls"
    apart_s = _APART_S if party.gated else 0.0
    return Series(party.name, np.array(per_call_s), timer, party.host_bound, apart_s)
