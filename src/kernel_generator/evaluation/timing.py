"""Paired timing: implementations run in interleaved, randomly ordered blocks, and ratios decide.

Every call of a block has inputs of its own that were not there before. On a CPU the judge's clock
spans the block. On a GPU the calls are queued first, then their inputs are written, then the judge
lets them go: the child reports event times, which are credited where that clock bears them out.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from kernel_generator.domain.outcome import Outcome
from kernel_generator.evaluation.intervals import interval
from kernel_generator.evaluation.wrong import Wrong, hold
from kernel_generator.sandbox.arena import Arena
from kernel_generator.sandbox.bounds import unwatched
from kernel_generator.sandbox.wire import Train
from kernel_generator.sandbox.worker import Done, TrainOrder

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from kernel_generator.domain.evaluation import Interval
    from kernel_generator.sandbox.device_arena import DeviceArena
    from kernel_generator.sandbox.worker import Answer, Worker

_PATIENCE = 4
_LEAST_BLOCKS = 3
"""What is so slow that even `min_blocks` take too long is timed this often in any case."""
_SETTLE_S = 0.001
"""Lets the other implementation's threads go to sleep before the next block."""
_OF_CALLS = (Train.CALLS, Train.GATED, Train.SYNCED)
_OF_NOTHING = (Train.EMPTY, Train.GATED_EMPTY)
_EMPTY_TRAINS, _MOST_EMPTY_TRAINS = 3, 10
_REMEMBERED = 200
_LONGER_STILL, _LEAST_LONG, _MOST_LONG = 8, 3, 6
"""What bears a claim out in the end are so many times longer blocks, so many of them."""
_CALLS_ALONE, _TRAINS_ALONE = 8, 5
_EMPTY_KERNEL_S = 0.9e-6
"""A kernel that does nothing, as CUPTI measures it (H100). Events around it read more: what is more
is taken off every figure."""
_APART_S = 0.25e-6
"""Half a 95 % interval of what one process's time of a kernel is off by, whatever its length (H100:
two processes with the same kernel differ by 0.18 us, root mean square). Where code comes to lie in
memory differs, for one; blocks of the same processes do not show it."""
_LEAST_SHARE = 0.2
"""Of a train's time, so much at least is the calls': a spell of noise may make the rest look like
overhead."""
_SLACK_S, _SLACK_SHARE = 60e-6, 0.02
"""The judge's clock around the quietest of several trains, trains of nothing taken off, is off by
no more than this (H100, sixteen cores, other children importing)."""
_L2_BYTES, _WRITE_BACK_BYTES_S = 64 << 20, 2.5e12
"""What is written stays in the L2 as far as it fits, and is written back during the next flush
(H100: 50 MiB at 3 TB/s)."""
_MOST_QUEUED = 32
"""More calls a block make a round longer, and its figures no better."""
_LONGER = 4
"""A rival's block may last so many times as long, for as many calls as the candidate's has."""
_SURPRISED, _SURPRISABLE = 0.25, 2
"""Such a share of rounds has a block that is not credited but looks into what is computed ahead; so
many calls at least must a block have."""
_EARLY = 0.25
"""Inputs are replaced within this first share of a block, or later, as the copy takes."""
_SURPRISES = 4
"""So often at most a workload's candidate is tried until they were there in time."""
_IN_ORDER, _TOO_EARLY = 4, 0.45
"""Of a block of so many calls, three in four are not done after this share of its time."""
_TOO_OFTEN = 2
"""One block may end late through no fault of its calls."""
_ENOUGH = 0.02
"""Width of an interval over its value at which more blocks are not worth their time."""
_FAR = 0.1
"""So far above the incumbent, a ratio's exact value decides nothing."""


@dataclass(frozen=True)
class TimingPlan:
    """How much effort a figure is worth."""

    block_s: float = 0.01
    """A block repeats calls for about this long, as far as there are sets of inputs."""
    min_blocks: int = 7
    max_blocks: int = 30
    budget_s: float = 0.4
    """Wall time for all blocks of one workload. `min_blocks` may overrun it `_PATIENCE` times."""
    enough: float = _ENOUGH
    """Blocks end where the interval of every ratio is narrower than this share of it. Of the ratio
    to the incumbent, which decides, it is never more than 2 %."""
    call_limit_s: float = 60.0
    long_blocks: bool = False
    """Claims are checked against much longer blocks in any case."""
    against_itself: bool = False
    """Also time the candidate against itself: the A/A noise of the measurement."""


@dataclass
class Party:
    """One implementation being timed, bound and warm."""

    name: str
    worker: Worker
    arena: Arena | DeviceArena
    stores: bool
    """True where it returns its values, and storing them is the protocol's cost."""
    trusted: bool = True
    """False for a candidate: it stands still while others are timed."""
    once_s: float = 0.0
    """About what one call takes by the judge's clock; 0 before it was warmed up."""
    count: int = 1
    """Calls in a block."""
    most: int = 1
    """So many calls may be in a block of it."""
    gated: bool = False
    host_bound: bool = False
    per_call_s: list[float] = field(default_factory=list[float])
    claims: list[Done] = field(default_factory=list[Done])


@dataclass(frozen=True)
class Series:
    """Seconds per call of one party, one figure a block, in block order."""

    name: str
    per_call_s: NDArray[np.float64]
    timer: str
    host_bound: bool = False
    apart_s: float = 0.0
    """Half a 95 % interval of what another process of the same kernel may differ by."""

    @property
    def unseen(self) -> float:
        """The same as a share (see `intervals.Ratio`)."""
        return self.apart_s / float(np.median(self.per_call_s))


class TimingFailed(Exception):
    """A party failed while being timed."""

    def __init__(self, party: str, answer: Answer) -> None:
        super().__init__(party)
        self.party = party
        self.answer = answer


class ClaimContradicted(Exception):
    """A child claimed a device time that the judge's clock rules out."""

    def __init__(self, party: str, claimed_s: float, seen_s: float) -> None:
        super().__init__(
            f"{party} claims {claimed_s * 1e6:.2f} us a call on the device, where the judge's "
            f"clock leaves {seen_s * 1e6:.2f} us"
        )
        self.party = party


class Rounds(Protocol):
    """What happens around the blocks, while no clock runs but for `settle`."""

    def prepare(self, count: int, few: bool = False) -> None:
        """Make new inputs for the first `count` sets of the ring. `few`: no more than a few of the
        calls will be looked at."""
        ...

    def fill(self, party: Party, count: int) -> None:
        """Give a party those of the first `count` sets."""
        ...

    def settle(self, party: Party) -> None:
        """Take a first look at what is there the moment the party says that it is done."""
        ...

    def settled(self, party: Party, called: bool) -> None:
        """See that nothing was written after that look. `called`: the train was not one of nothing.
        What it raises ends the timing."""
        ...

    def inspect(self) -> None:
        """Look at what the round left. What it raises ends the timing."""
        ...

    def prepare_surprise(self, count: int) -> None:
        """As `prepare`, and choose a later call of a block of so many, and other inputs for it."""
        ...

    def surprise(self, party: Party) -> None:
        """While the block runs: give that call those inputs."""
        ...

    def foreseen(self, party: Party) -> bool | None:
        """After such a block: whether that call answered the inputs that were there before. None
        where the call before it had written already when they were replaced."""
        ...


ITSELF = "itself"
"""Name of the series of a candidate's blocks that only its own noise is taken from."""


class Clock:
    """Times blocks of parties. The overhead of its own protocol it takes from trains of nothing,
    run by a party that is trusted."""

    def __init__(
        self, trusted: Party, plan: TimingPlan, rounds: Rounds, around_s: list[float] | None = None
    ) -> None:
        """`around_s` takes what queued trains of nothing took a call, from one clock of a device to
        the next: the more there are, the better their median is known."""
        self._trusted = trusted
        self._plan = plan
        self._rounds = rounds
        self._empty: dict[TrainOrder, list[Done]] = {}
        self._around: list[float] = [] if around_s is None else around_s
        self._too_early = 0
        """So many blocks had answered one of their last calls long before its turn."""
        self._pattern: Party | None = None
        """Whose queued trains those of nothing resemble."""

    def _empty_trains(self, order: TrainOrder, least: int = _EMPTY_TRAINS) -> list[Done]:
        """What trains of nothing took so far, at least so many."""
        found = self._empty.setdefault(order, [])
        while len(found) < least:
            queued = order.mode is Train.GATED_EMPTY
            found.append(self._train(self._trusted, order, queued))
            if queued:
                self._around.append(found[-1].device_ns * 1e-9 / order.count)
                del self._around[:-_REMEMBERED]
        return found

    def _overhead(self, count: int, stores: bool) -> float:
        """Seconds of a train that are not its calls'. The least of several: what is taken off a
        time must not be too much."""

        def least(mode: Train, stores: bool) -> float:
            trains = self._empty_trains(TrainOrder(count, mode, stores))
            return min(done.wall_s for done in trains)

        nothing = least(Train.EMPTY, False)
        if not stores:
            return nothing
        return nothing + max(0.0, least(Train.EMPTY, True) - least(Train.MADE, True))

    def _gated_empty(self, party: Party, least: int = _EMPTY_TRAINS) -> list[Done]:
        return self._empty_trains(TrainOrder(party.count, Train.GATED_EMPTY, party.stores), least)

    def _train(
        self,
        party: Party,
        order: TrainOrder,
        gated: bool,
        meanwhile: Callable[[float], None] | None = None,
    ) -> Done:
        limit = self._plan.call_limit_s

        def fill() -> None:
            if not party.trusted:
                # It cannot begin on what is being written.
                hold(party.worker)
            untouched = order.mode in _OF_NOTHING and not order.stores
            self._rounds.fill(party, 0 if untouched else order.count)

        def settle() -> None:
            self._rounds.settle(party)

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
        self._rounds.settled(party, order.mode in _OF_CALLS)
        return answer

    @staticmethod
    def _patience(party: Party, count: int) -> float:
        # A party that was queued before is given longer: a busy machine is no reason to lose it.
        least = 2.0 if party.gated else 0.05
        return least + 4 * count * min(party.once_s, 1.0)

    def _per_call(self, party: Party, count: int, mode: Train = Train.CALLS) -> float:
        """Seconds a call by the judge's clock."""
        done = self._train(party, TrainOrder(count, mode), gated=False)
        overhead = self._overhead(count, party.stores)
        return max(done.wall_s - overhead, _LEAST_SHARE * done.wall_s) / count

    def warm_up(self, party: Party) -> None:
        """Find out how many calls make a block, of a rival how many at most, and whether they can
        be queued."""
        sets = party.arena.layout.sets
        order = TrainOrder(1)
        self._train(party, order, gated=False)
        party.once_s = self._train(party, order, gated=False).wall_s
        if not self._on_gpu(party):
            party.once_s = self._per_call(party, 1)
            if sets > 1 and party.once_s < self._plan.block_s:
                few = min(sets, max(1, int(self._plan.block_s / party.once_s / 4)))
                party.once_s = self._per_call(party, few)
        longest = self._plan.block_s * (_LONGER if party.trusted else 1)
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
                self._overhead(party.count, party.stores)
        if self._pattern is not None:
            self._gated_empty(self._pattern)

    def beside(self) -> None:
        """A train of nothing beside the blocks of a round: the machine's spells of noise meet
        both. Leaves nothing of what the trusted party answered before."""
        if self._pattern is None:
            return
        known = len(self._gated_empty(self._pattern))
        if known < _MOST_EMPTY_TRAINS:
            self._gated_empty(self._pattern, known + 1)

    @property
    def _around_s(self) -> float:
        """Seconds of a queued call that are its events' and not its own."""
        return max(float(np.median(self._around)) - _EMPTY_KERNEL_S, 0.0)

    @staticmethod
    def _on_gpu(party: Party) -> bool:
        return not isinstance(party.arena, Arena)

    def _queue_up(self, party: Party) -> None:
        most = min(party.count, _MOST_QUEUED)
        for count in sorted({most, -(-most // 8), 1}, reverse=True):
            # The first train makes events and buffers; the second does not.
            done = self._train(party, TrainOrder(count, Train.GATED), gated=True)
            if done.gated:
                party.gated, party.most, party.count = True, count, count
                return
        party.host_bound = True

    def block(self, party: Party) -> float:
        """Seconds a call, over one block."""
        if not party.gated:
            time.sleep(_SETTLE_S)
            return self._per_call(party, party.count)
        done = self._train(party, TrainOrder(party.count, Train.GATED), gated=True)
        claimed_s = done.device_ns * 1e-9
        if not done.gated or not 0.0 < claimed_s <= done.wall_s:
            raise ClaimContradicted(party.name, claimed_s / party.count, done.wall_s / party.count)
        party.claims.append(done)
        return max(claimed_s / party.count - self._around_s, 1e-9)

    def surprise(self, party: Party, at_once: bool = False) -> bool:
        """A block that counts for nothing, and looks like any other: while its first calls run, a
        later one is given other inputs. Raises `Wrong` where a candidate had answered ahead.

        False where the inputs were not there in time. `at_once`: they are not kept back for a
        while, for that.
        """
        if party.trusted or party.count < _SURPRISABLE:
            return True
        known = [done.wall_s for done in party.claims] if party.gated else party.per_call_s
        calls = 1 if party.gated else party.count
        lasts_s = calls * min(known, default=party.once_s)
        took_s = 0.0

        def surprise(began: float) -> None:
            nonlocal took_s
            if not at_once:
                time.sleep(random.SystemRandom().uniform(0.0, _EARLY) * lasts_s)
            self._rounds.surprise(party)
            took_s = time.perf_counter() - began

        mode = Train.GATED if party.gated else Train.CALLS
        self._rounds.prepare_surprise(party.count)
        done = self._train(party, TrainOrder(party.count, mode), party.gated, surprise)
        foreseen = self._rounds.foreseen(party)
        if foreseen:
            raise Wrong(
                Outcome.TIMING_UNTRUSTED,
                "a timed call's inputs were replaced before its turn, and what had been there "
                "before was answered: calls must not be computed ahead",
            )
        if foreseen is None and party.count >= _IN_ORDER and len(known) >= _LEAST_BLOCKS:
            lasts_s = min(done.wall_s, calls * min(known))
            self._too_early += took_s < _TOO_EARLY * lasts_s
            if self._too_early == _TOO_OFTEN:
                raise Wrong(
                    Outcome.TIMING_UNTRUSTED,
                    f"{took_s * 1e3:.2f} ms into a block of {lasts_s * 1e3:.2f} ms, one of its "
                    "last calls had been answered: calls must not be computed ahead",
                )
        return foreseen is not None

    def check_claims(self, party: Party, written_bytes: int) -> None:
        """Raises `ClaimContradicted` where the judge's clock leaves more than was claimed, or less
        than flushing the cache takes beside it, and much longer blocks say so too.

        `written_bytes` are what a call writes: as far as the L2 holds them, they reach the memory
        after the call, within the judge's clock and outside of the claim.
        """
        if not party.claims:
            return
        credited_s = float(np.median([d.device_ns for d in party.claims])) * 1e-9 / party.count
        written_bytes = min(written_bytes, _L2_BYTES)
        walls = [done.wall_s for done in party.claims]
        unborne = self._contradicted(party, credited_s, walls, written_bytes)
        if unborne is None and not self._plan.long_blocks:
            return
        # The more calls, the less weighs what the protocol takes.
        party.count = min(party.arena.layout.sets, _LONGER_STILL * party.count)
        walls = []
        while len(walls) < _MOST_LONG:
            self._rounds.prepare(party.count, few=True)
            self._gated_empty(party, len(walls) + 1)
            self.block(party)
            walls.append(party.claims[-1].wall_s)
            self._rounds.inspect()
            unborne = self._contradicted(party, credited_s, walls, written_bytes)
            if unborne is None and len(walls) >= _LEAST_LONG:
                return
        if unborne is not None:
            raise unborne

    def _contradicted(
        self, party: Party, credited_s: float, walls: list[float], written_bytes: int
    ) -> ClaimContradicted | None:
        # Noise only adds, so the quietest block tells.
        empty = self._gated_empty(party)
        without = min(d.wall_s - d.device_ns * 1e-9 for d in empty)
        unclaimed = min(walls) - party.count * credited_s - without
        slack = _SLACK_S + _SLACK_SHARE * min(walls)
        written_back = party.count / _WRITE_BACK_BYTES_S
        # What the flush left is written back within the call; a flush left out takes no time.
        late, early = written_bytes * written_back, _L2_BYTES * written_back
        if -slack - early <= unclaimed <= slack + late:
            return None
        left_s = credited_s + unclaimed / party.count
        return ClaimContradicted(party.name, credited_s, left_s)

    def call_time(self, party: Party) -> Interval:
        """What a caller waits for one call on an idle device, in microseconds."""
        figures: list[float] = []
        count = min(party.count, _CALLS_ALONE)
        deadline = time.perf_counter() + self._plan.budget_s / 32
        while not figures or (len(figures) < _TRAINS_ALONE and time.perf_counter() < deadline):
            self._rounds.prepare(count)
            figures.append(self._per_call(party, count, Train.SYNCED))
        self._rounds.inspect()
        return interval(np.array(figures) * 1e6)


def time_together(
    parties: list[Party], plan: TimingPlan, rounds: Rounds, clock: Clock
) -> dict[str, Series]:
    """Time all parties in interleaved blocks. The first is the candidate; the others may be warm
    already.

    Raises `TimingFailed`, `ClaimContradicted`, and what `rounds` raises.
    """
    candidate = parties[0]
    rounds.prepare(candidate.arena.layout.sets)
    for party in parties:
        if not party.once_s:
            clock.warm_up(party)
    clock.settle_counts(parties, candidate.count)
    used = max(party.count for party in parties)
    itself: list[float] = []
    order = random.SystemRandom()
    began = time.perf_counter()

    def within(budgets: float) -> bool:
        return time.perf_counter() - began < budgets * plan.budget_s

    blocks, surprised = 0, False
    while blocks < _LEAST_BLOCKS or (
        blocks < plan.max_blocks
        and (within(1) or (blocks < plan.min_blocks and within(_PATIENCE)))
        and not (blocks >= plan.min_blocks and _decided(parties, plan.enough))
    ):
        if plan.against_itself:
            rounds.prepare(candidate.count)
            itself.append(clock.block(candidate))
        if order.random() < _SURPRISED:
            surprised = clock.surprise(candidate) or surprised
        rounds.prepare(used)
        clock.beside()
        for party in order.sample(parties, len(parties)):
            if party.trusted and not candidate.trusted:
                hold(candidate.worker)
            party.per_call_s.append(clock.block(party))
        rounds.inspect()
        blocks += 1
    for attempt in range(_SURPRISES):
        if surprised or clock.surprise(candidate, at_once=attempt > 0):
            break
    found = {p.name: _series(p, p.per_call_s) for p in parties}
    if plan.against_itself:
        found[ITSELF] = _series(candidate, itself)
    return found


def _decided(parties: list[Party], enough: float) -> bool:
    """True where no further block would change what the figures say."""
    mine = np.array(parties[0].per_call_s)
    ratios = {p.name: interval(np.array(p.per_call_s) / mine) for p in parties[1:]}
    against = ratios.get(INCUMBENT)
    # A margin, for it is looked at again and again.
    if against is not None and against.high < 1.0 - _ENOUGH:
        return True

    def open_still(name: str, ratio: Interval) -> bool:
        if name == INCUMBENT and ratio.low > 1.0 + _FAR:
            return False
        width = min(enough, _ENOUGH) if name == INCUMBENT else enough
        return ratio.high - ratio.low > width * ratio.value

    return not any(open_still(name, ratio) for name, ratio in ratios.items())


INCUMBENT = "incumbent"
"""Name of the baseline that a candidate has to beat to be promoted."""


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
