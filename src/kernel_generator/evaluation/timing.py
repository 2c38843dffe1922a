"""Paired timing: implementations run in interleaved, randomly ordered blocks, and ratios decide.

On a CPU the judge's own clock spans each block; on a GPU the child reports event times, which the
judge only credits where they fit inside its own clock.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from kernel_generator.domain.evaluation import Interval, Timing
from kernel_generator.sandbox.wire import Train
from kernel_generator.sandbox.worker import Done

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kernel_generator.sandbox.worker import Answer, Worker

_RESAMPLES = 1000
_PATIENCE = 4
_LEAST_BLOCKS = 3
"""What is so slow that even `min_blocks` take too long is timed this often in any case."""
_SETTLE_S = 0.001
"""Lets the other implementation's threads go to sleep before the next block."""


@dataclass(frozen=True)
class TimingPlan:
    """How much effort a figure is worth."""

    block_s: float = 0.01
    """A block repeats calls for about this long."""
    min_blocks: int = 7
    max_blocks: int = 30
    budget_s: float = 0.4
    """Wall time for all blocks of one workload. `min_blocks` may overrun it `_PATIENCE` times."""
    call_limit_s: float = 60.0


@dataclass
class Party:
    """One implementation being timed, bound and warm."""

    name: str
    worker: Worker
    slot: int
    device: bool
    """True where the child's CUDA events are the clock."""
    count: int = 1
    overhead_s: float = 0.0
    per_call_s: list[float] = field(default_factory=list[float])
    host_bound: bool = False


@dataclass(frozen=True)
class Series:
    """Seconds per call of one party, one figure a block, in block order."""

    name: str
    per_call_s: NDArray[np.float64]
    host_bound: bool


class TimingFailed(Exception):
    """A party failed while being timed."""

    def __init__(self, party: str, answer: Answer) -> None:
        super().__init__(party)
        self.party = party
        self.answer = answer


class ClaimContradicted(Exception):
    """A child claimed a device time that the judge's clock rules out."""

    def __init__(self, party: str, claimed_s: float, wall_s: float) -> None:
        super().__init__(
            f"{party} claims {claimed_s:.3e} s on the device within {wall_s:.3e} s of wall time"
        )
        self.party = party


class Rounds(Protocol):
    """What happens around each round of blocks, while no clock runs."""

    def prepare(self) -> None:
        """Give all parties the same new inputs."""
        ...

    def inspect(self) -> None:
        """Look at what the round left. What it raises ends the timing."""
        ...


def time_together(parties: list[Party], plan: TimingPlan, rounds: Rounds) -> dict[str, Series]:
    """Time all parties in interleaved blocks. Raises `TimingFailed`, `ClaimContradicted`, and what
    `rounds` raises."""
    for party in parties:
        _warm_up(party, plan)
    order = random.SystemRandom()
    began = time.perf_counter()

    def within(budgets: float) -> bool:
        return time.perf_counter() - began < budgets * plan.budget_s

    blocks = 0
    while blocks < _LEAST_BLOCKS or (
        blocks < plan.max_blocks and (within(1) or (blocks < plan.min_blocks and within(_PATIENCE)))
    ):
        rounds.prepare()
        for party in order.sample(parties, len(parties)):
            party.per_call_s.append(_block(party, plan))
        rounds.inspect()
        blocks += 1
    return {p.name: Series(p.name, np.array(p.per_call_s), p.host_bound) for p in parties}


def time_calls(party: Party, plan: TimingPlan) -> Interval:
    """What a caller waits for one call on an idle device, in microseconds."""
    count = max(1, min(party.count, 50))
    figures: list[float] = []
    deadline = time.perf_counter() + plan.budget_s
    while not figures or (len(figures) < 5 and time.perf_counter() < deadline):
        answer = party.worker.train(party.slot, count, Train.SYNCED, plan.call_limit_s)
        if not isinstance(answer, Done):
            raise TimingFailed(party.name, answer)
        figures.append(max(answer.wall_s - party.overhead_s, 0.0) / count)
    return _interval(np.array(figures) * 1e6)


def _warm_up(party: Party, plan: TimingPlan) -> None:
    for _ in range(2):
        _train(party, 1, Train.CALLS, plan)
    party.overhead_s = min(_train(party, 0, Train.CALLS, plan).wall_s for _ in range(5))
    if party.device:
        _train(party, 1, Train.DEVICE, plan)
    once = max(_train(party, 1, Train.CALLS, plan).wall_s - party.overhead_s, 1e-7)
    if once < plan.block_s:
        few = max(1, int(plan.block_s / once / 4))
        once = max(_train(party, few, Train.CALLS, plan).wall_s - party.overhead_s, 1e-7) / few
    limit = 50 if party.device else 20_000
    party.count = max(1, min(limit, round(plan.block_s / once)))
    if party.device:
        _train(party, party.count, Train.DEVICE, plan)


def _block(party: Party, plan: TimingPlan) -> float:
    time.sleep(_SETTLE_S)
    if not party.device:
        done = _train(party, party.count, Train.CALLS, plan)
        return max(done.wall_s - party.overhead_s, 1e-9) / party.count
    done = _train(party, party.count, Train.DEVICE, plan)
    claimed_s = done.device_ns * 1e-9
    if not 0.0 < claimed_s <= done.wall_s:
        raise ClaimContradicted(party.name, claimed_s, done.wall_s)
    party.host_bound = party.host_bound or not done.queue_kept_full
    return claimed_s / party.count


def _train(party: Party, count: int, mode: Train, plan: TimingPlan) -> Done:
    answer = party.worker.train(party.slot, count, mode, plan.call_limit_s)
    if not isinstance(answer, Done):
        raise TimingFailed(party.name, answer)
    return answer


def device_timing(series: Series, on_gpu: bool) -> Timing:
    """The record of one party's figures."""
    timer = (
        "CUDA events around each call, cold L2, reported by the child and bounded by the judge"
        if on_gpu
        else "the judge's clock around blocks of calls"
    )
    return Timing(
        device_us=_interval(series.per_call_s * 1e6), timer=timer, host_bound=series.host_bound
    )


def speedup(baseline: Series, candidate: Series) -> Interval:
    """Median of per-block ratios with a bootstrap 95 % interval."""
    return _interval(baseline.per_call_s / candidate.per_call_s)


def geometric_mean(ratios: list[NDArray[np.float64]]) -> Interval:
    """Geometric mean over workloads of the median per-block ratio, bootstrapped over blocks."""
    rng = np.random.default_rng(0)
    logs = [np.log(r) for r in ratios]
    value = float(np.exp(np.mean([np.median(one) for one in logs])))
    draws = np.zeros(_RESAMPLES)
    for one in logs:
        picks = rng.integers(0, len(one), (_RESAMPLES, len(one)))
        draws += np.median(one[picks], axis=1)
    low, high = np.exp(np.percentile(draws / len(logs), [2.5, 97.5]))
    return Interval(value=value, low=float(low), high=float(high))


def _interval(samples: NDArray[np.float64]) -> Interval:
    rng = np.random.default_rng(0)
    picks = rng.integers(0, len(samples), (_RESAMPLES, len(samples)))
    low, high = np.percentile(np.median(samples[picks], axis=1), [2.5, 97.5])
    return Interval(value=float(np.median(samples)), low=float(low), high=float(high))
