"""Claims: whether a child's event times are borne out by the judge's clock."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import numpy as np

from kernel_generator.evaluation.timing import ClaimContradicted

if TYPE_CHECKING:
    from kernel_generator.evaluation.ahead import Ahead
    from kernel_generator.evaluation.clock import Clock
    from kernel_generator.evaluation.timing import Party
    from kernel_generator.evaluation.trains import Trains

_LONGER, _LEAST_LONG, _MOST_LONG, _LOOKS = 8, 3, 8, 2
"""What bears a claim out in the end are so many times longer blocks, so many of them, the quietest
left out; and so many that are looked into."""
_BLOCK, _LOOK = "block", "look"
_SLACK_S, _SLACK_SHARE = 60e-6, 0.02
"""The judge's clock around the quietest of several trains, trains of nothing taken off, is off by
no more than this (H100, sixteen cores, other children importing)."""
_L2_BYTES, _WRITE_BACK_BYTES_S = 64 << 20, 2.5e12
"""What is written stays in the L2 as far as it fits, and is written back during the next flush
(H100: 50 MiB at 3 TB/s)."""


def check_claims(
    party: Party, written_bytes: int, clock: Clock, ahead: Ahead, *, streams: bool = False
) -> float:
    """Raises `ClaimContradicted` where the judge's clock leaves more than was claimed, or less
    than flushing the cache takes beside it, and much longer blocks say so too.

    `written_bytes` are what a call writes to its outputs: as far as the L2 holds them, they reach
    the memory after the call, within the judge's clock and outside of the claim. So does what a
    call writes to memory of its own. Nobody can see how much that is: what the clock leaves, and
    the L2 can hold, is returned as seconds a call, to be added to the claims. Mostly it is 0. With
    `streams` of its own a candidate is contradicted instead: work that nobody waits for looks so.

    Among the longer blocks are such as `ahead` looks into, early enough to tell calls that wrote
    before their turn: a candidate that does so in long blocks is found out, and one that does so in
    short ones alone is contradicted by the long ones.
    """
    if not party.claims:
        return 0.0
    trains = clock.trains
    credited_s = _claimed_s(party)
    written_bytes = min(written_bytes, _L2_BYTES)
    walls = [done.wall_s for done in party.claims]
    left = _left(party, credited_s, walls, written_bytes, trains, streams)
    if left == 0.0 and not trains.plan.long_blocks:
        return 0.0
    # The more calls, the less weighs what the protocol takes.
    short, party.count = party.count, clock.longest_queue(party, _LONGER * party.count)
    expected = [wall_s * party.count / short for wall_s in walls]
    walls = []
    # Which is which no candidate can know ahead.
    turns = [_BLOCK] * _LEAST_LONG + [_LOOK] * _LOOKS
    random.SystemRandom().shuffle(turns)
    turns += [_BLOCK] * (_MOST_LONG - _LEAST_LONG)
    for turn in turns:
        if turn == _LOOK:
            ahead.look_among(expected)
            continue
        if len(walls) >= _LEAST_LONG and left == 0.0:
            break
        trains.rounds.prepare(party.count, few=True)
        trains.queued_of_nothing(party, len(walls) + 1)
        clock.block(party)
        walls.append(party.claims[-1].wall_s)
        trains.rounds.inspect()
        quiet = sorted(walls)[1:] or walls
        left = _left(party, credited_s, quiet, written_bytes, trains, streams)
    trains.rounds.conclude()
    if isinstance(left, ClaimContradicted):
        raise left
    return left


def uncounted_s(party: Party, written_bytes: int, clock: Clock) -> float:
    """Seconds a call to be added to the claims of a rival that was a candidate once, as for one:
    else the same kernel would look slower than itself."""
    if not party.claims:
        return 0.0
    walls = [done.wall_s for done in party.claims]
    written_bytes = min(written_bytes, _L2_BYTES)
    left = _left(party, _claimed_s(party), walls, written_bytes, clock.trains, streams=False)
    return 0.0 if isinstance(left, ClaimContradicted) else left


def _claimed_s(party: Party) -> float:
    return float(np.median([d.device_ns for d in party.claims])) * 1e-9 / party.count


def _left(
    party: Party,
    credited_s: float,
    walls: list[float],
    written_bytes: int,
    trains: Trains,
    streams: bool,
) -> float | ClaimContradicted:
    """Seconds a call that are to be added to the claim; a contradiction where none would do."""
    # Noise only adds, so the quietest block tells.
    empty = trains.queued_of_nothing(party)
    without = min(d.wall_s - d.device_ns * 1e-9 for d in empty)
    unclaimed = min(walls) - party.count * credited_s - without
    slack = _SLACK_S + _SLACK_SHARE * min(walls)
    written_back = party.count / _WRITE_BACK_BYTES_S
    # What the flush left is written back within the call; a flush left out takes no time.
    late, whole = written_bytes * written_back, _L2_BYTES * written_back
    if -slack - whole <= unclaimed <= slack + late:
        return 0.0
    if not streams and slack < unclaimed <= slack + whole:
        return (unclaimed - late) / party.count
    left_s = credited_s + unclaimed / party.count
    return ClaimContradicted(party.name, credited_s, left_s)
