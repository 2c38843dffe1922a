"""Figures with bootstrap intervals, and what they decide."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kernel_generator.domain.evaluation import Interval

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_RESAMPLES = 1000
_COVERED = (0.5, 99.5)
"""Percentiles of the bootstrap. Medians of few samples vary more than their bootstrap tells: from
2.5 to 97.5 it covers the true one in 87 to 94 % for 6 to 30 samples, between these in 95 to 98 %
(simulated, normal samples with and without spikes)."""


@dataclass(frozen=True)
class Ratio:
    """A baseline's times over a candidate's on one workload."""

    samples: NDArray[np.float64]
    """One a block."""
    unseen: float = 0.0
    """A further uncertainty that no number of blocks shows: half a 95 % interval, as a share."""


def interval(samples: NDArray[np.float64], unseen: float = 0.0) -> Interval:
    """The median with its bootstrap 95 % interval, widened by what is unseen (see `Ratio`)."""
    rng = np.random.default_rng(0)
    picks = rng.integers(0, len(samples), (_RESAMPLES, len(samples)))
    low, high = np.percentile(np.median(samples[picks], axis=1), _COVERED)
    return _widened(float(np.median(samples)), float(low), float(high), unseen)


def geometric_mean(ratios: Sequence[Ratio]) -> Interval:
    """Geometric mean over workloads of the median per-block ratio, bootstrapped over blocks."""
    rng = np.random.default_rng(0)
    logs = [np.log(r.samples) for r in ratios]
    value = float(np.exp(np.mean([np.median(one) for one in logs])))
    draws = np.zeros(_RESAMPLES)
    for one in logs:
        picks = rng.integers(0, len(one), (_RESAMPLES, len(one)))
        draws += np.median(one[picks], axis=1)
    low, high = np.exp(np.percentile(draws / len(logs), _COVERED))
    unseen = math.hypot(*(r.unseen for r in ratios)) / len(ratios)
    return _widened(value, float(low), float(high), unseen)


def _widened(value: float, low: float, high: float, unseen: float) -> Interval:
    """Both uncertainties together, as independent ones add up."""
    if unseen and min(value, low) > 0.0:
        low = value * math.exp(-math.hypot(math.log(value / low), unseen))
        high = value * math.exp(math.hypot(math.log(high / value), unseen))
    return Interval(value=value, low=low, high=high)


def noise(itself: NDArray[np.float64], mine: NDArray[np.float64]) -> float:
    """A/A noise: how far from 1 the interval of one party's blocks against its own reaches."""
    found = interval(itself / mine)
    return max(found.high - 1.0, 1.0 - found.low, 0.0)


def promotes(against: Interval, floor: float) -> bool:
    """True where a ratio to the incumbent is above 1 beyond its interval and the noise floor."""
    return against.low > 1.0 + floor
