"""The two profiles of an evaluation: the shorter one of the search, and certification."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernel_generator.evaluation.judge import Profile
from kernel_generator.evaluation.timing import TimingPlan

if TYPE_CHECKING:
    from flashinfer_bench import Solution

    from kernel_generator.evaluation.baselines import Baseline

_ALL_TRIALS = 100


def search(incumbent: Solution | None = None) -> Profile:
    """What decides whether a candidate is worth certifying: the searched workloads, two trials
    each, timed against the reference and the incumbent."""
    timing = TimingPlan(min_blocks=6, enough=0.06, against_itself=incumbent is not None)
    return Profile(timing=timing, incumbent=incumbent, held_out=False)


def certification(
    baselines: tuple[Baseline, ...] = (), incumbent: Solution | None = None
) -> Profile:
    """The full set of checks, whose figures are saved and reported: all workloads, every kind of
    trial, sizes that no workload has, and the A/A noise of the measurement."""
    return Profile(
        trials=_ALL_TRIALS,
        timing=TimingPlan(against_itself=True, looks=4, long_blocks=True),
        baselines=baselines,
        incumbent=incumbent,
        certified=True,
    )
