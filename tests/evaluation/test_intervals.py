"""Figures, their intervals, and what they decide."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel_generator.evaluation.intervals import Ratio, geometric_mean, interval, noise, promotes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kernel_generator.domain.evaluation import Interval

TIMES = st.lists(st.floats(1e-6, 1.0), min_size=3, max_size=12)


def speedup(baseline: Sequence[float], candidate: Sequence[float]) -> Interval:
    return interval(np.array(baseline) / np.array(candidate))


class TestSpeedup:
    def test_is_the_median_of_the_ratios_of_each_block(self) -> None:
        # A slow spell of the machine hits both sides of a block and cancels.
        assert speedup([2, 20, 3], [1, 10, 1]).value == 2.0

    @given(TIMES)
    def test_of_a_kernel_against_itself_is_one(self, seconds: list[float]) -> None:
        found = speedup(seconds, seconds)
        assert (found.low, found.value, found.high) == (1.0, 1.0, 1.0)

    @given(TIMES, st.floats(0.1, 10.0))
    def test_has_its_value_inside_its_interval(self, seconds: list[float], factor: float) -> None:
        noisy = np.array(seconds)
        found = interval(noisy * factor / noisy[::-1])
        assert found.low <= found.value <= found.high

    def test_is_stated_more_narrowly_with_more_blocks(self) -> None:
        rng = np.random.default_rng(1)
        few, many = rng.lognormal(0, 0.2, 7), rng.lognormal(0, 0.2, 200)
        wide = interval(few)
        narrow = interval(many)
        assert narrow.high - narrow.low < wide.high - wide.low

    @pytest.mark.parametrize("blocks", [6, 7, 10, 25])
    def test_interval_covers_the_truth_as_often_as_it_says(self, blocks: int) -> None:
        rng = np.random.default_rng(2)
        covered = 0
        for _ in range(400):
            found = interval(rng.lognormal(0, 0.1, blocks))
            covered += found.low <= 1.0 <= found.high
        # Of 400 that are covered in 95 %, hardly ever fewer than these.
        assert covered >= 370

    def test_interval_covers_what_no_block_shows(self) -> None:
        rng = np.random.default_rng(4)
        covered = 0
        for _ in range(400):
            offset = np.exp(rng.normal(0, 0.02))
            found = interval(offset * rng.lognormal(0, 0.01, 9), unseen=1.96 * 0.02)
            covered += found.low <= 1.0 <= found.high
        assert 370 <= covered < 400


class TestGeometricMean:
    def test_of_two_and_eight_is_four(self) -> None:
        assert geometric_mean(
            [Ratio(np.full(5, 2.0)), Ratio(np.full(5, 8.0))]
        ).value == pytest.approx(4.0)

    def test_weighs_workloads_alike_however_many_blocks_they_had(self) -> None:
        found = geometric_mean([Ratio(np.full(3, 2.0)), Ratio(np.full(30, 8.0))])
        assert found.value == pytest.approx(4.0)

    @given(st.lists(TIMES, min_size=1, max_size=5))
    def test_has_its_value_inside_its_interval(self, ratios: list[list[float]]) -> None:
        found = geometric_mean([Ratio(np.array(r)) for r in ratios])
        assert found.low <= found.value * (1 + 1e-9)
        assert found.value <= found.high * (1 + 1e-9)

    def test_is_less_unsure_of_what_no_block_shows_the_more_workloads_there_are(self) -> None:
        one = Ratio(np.full(5, 2.0), unseen=0.04)
        alone, four = geometric_mean([one]), geometric_mean([one] * 4)
        assert alone.high / alone.value == pytest.approx(np.exp(0.04))
        assert four.high / four.value == pytest.approx(np.exp(0.02))


class TestNoise:
    def test_of_blocks_that_agree_is_none(self) -> None:
        assert noise(np.ones(9), np.ones(9)) == 0.0

    def test_is_how_far_the_interval_reaches_from_one_on_either_side(self) -> None:
        slower = noise(np.full(9, 1.1), np.ones(9))
        faster = noise(np.full(9, 0.9), np.ones(9))
        assert (slower, faster) == (pytest.approx(0.1), pytest.approx(0.1))


class TestPromotion:
    def test_takes_more_than_the_noise_of_the_same_measurement(self) -> None:
        gain = interval(np.full(9, 1.03))
        assert promotes(gain, 0.02)
        assert not promotes(gain, 0.03)

    def test_takes_the_lower_end_of_the_interval(self) -> None:
        assert not promotes(interval(np.array([0.9, 1.5, 1.5, 0.9, 1.5, 0.9, 1.5])), 0.0)

    def test_of_a_kernel_against_itself_is_rare(self) -> None:
        rng = np.random.default_rng(3)
        promoted = 0
        for _ in range(1000):
            blocks = [rng.lognormal(0, 0.02, 15) for _ in range(3)]
            against = interval(blocks[0] / blocks[1])
            promoted += promotes(against, noise(blocks[2], blocks[1]))
        assert promoted <= 5
