"""Figures and their intervals, and the checks on what a child claims."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel_generator.evaluation.timing import (
    ClaimContradicted,
    Party,
    Series,
    TimingFailed,
    TimingPlan,
    device_timing,
    geometric_mean,
    speedup,
    time_calls,
    time_together,
)
from kernel_generator.sandbox.worker import Answer, Died, Done

if TYPE_CHECKING:
    from collections.abc import Callable

    from kernel_generator.sandbox.wire import Train

TIMES = st.lists(st.floats(1e-6, 1.0), min_size=3, max_size=12)
PLAN = TimingPlan(block_s=1e-4, min_blocks=3, max_blocks=5, budget_s=0.05)


def series(*seconds: float) -> Series:
    return Series("s", np.array(seconds), host_bound=False)


class TestSpeedup:
    def test_is_the_median_of_the_ratios_of_each_block(self) -> None:
        # A slow spell of the machine hits both sides of a block and cancels.
        assert speedup(series(2, 20, 3), series(1, 10, 1)).value == 2.0

    @given(TIMES)
    def test_of_a_kernel_against_itself_is_one(self, seconds: list[float]) -> None:
        found = speedup(series(*seconds), series(*seconds))
        assert (found.low, found.value, found.high) == (1.0, 1.0, 1.0)

    @given(TIMES, st.floats(0.1, 10.0))
    def test_has_its_value_inside_its_interval(self, seconds: list[float], factor: float) -> None:
        noisy = np.array(seconds)
        found = speedup(Series("a", noisy * factor, False), Series("b", noisy[::-1], False))
        assert found.low <= found.value <= found.high

    def test_is_stated_more_narrowly_with_more_blocks(self) -> None:
        rng = np.random.default_rng(1)
        few, many = rng.lognormal(0, 0.2, 7), rng.lognormal(0, 0.2, 200)
        wide = speedup(Series("a", few, False), series(*[1.0] * 7))
        narrow = speedup(Series("a", many, False), series(*[1.0] * 200))
        assert narrow.high - narrow.low < wide.high - wide.low

    def test_interval_covers_the_truth_about_as_often_as_it_says(self) -> None:
        rng = np.random.default_rng(2)
        covered = 0
        for _ in range(200):
            found = speedup(Series("a", rng.lognormal(0, 0.1, 25), False), series(*[1.0] * 25))
            covered += found.low <= 1.0 <= found.high
        assert covered >= 180


class TestGeometricMean:
    def test_of_two_and_eight_is_four(self) -> None:
        assert geometric_mean([np.full(5, 2.0), np.full(5, 8.0)]).value == pytest.approx(4.0)

    def test_weighs_workloads_alike_however_many_blocks_they_had(self) -> None:
        found = geometric_mean([np.full(3, 2.0), np.full(30, 8.0)])
        assert found.value == pytest.approx(4.0)

    @given(st.lists(TIMES, min_size=1, max_size=5))
    def test_has_its_value_inside_its_interval(self, ratios: list[list[float]]) -> None:
        found = geometric_mean([np.array(r) for r in ratios])
        assert found.low <= found.value * (1 + 1e-9)
        assert found.value <= found.high * (1 + 1e-9)


def test_the_timer_is_named_and_is_another_on_a_gpu() -> None:
    cpu, gpu = (device_timing(series(1e-6, 2e-6, 3e-6), on_gpu) for on_gpu in (False, True))
    assert cpu.timer and gpu.timer and cpu.timer != gpu.timer
    assert cpu.device_us is not None
    assert cpu.device_us.value == pytest.approx(2.0)


class ClaimingWorker:
    """Stands for a child on a GPU, which is where claims are made."""

    def __init__(self, answer: Callable[[int, Train], Answer]) -> None:
        self._answer = answer

    def train(self, slot: int, count: int, mode: Train, timeout: float) -> Answer:
        del slot, timeout
        return self._answer(count, mode)


def party(answer: Callable[[int, Train], Answer], *, device: bool = True) -> Party:
    return Party("candidate", ClaimingWorker(answer), 0, device)  # type: ignore[arg-type]


class TestClaims:
    def test_inside_the_judges_clock_are_credited(self) -> None:
        honest = party(lambda count, _: Done(1e-4 * count + 1e-6, 50_000.0 * count, True))
        found = time_together([honest], PLAN)["candidate"]
        assert found.per_call_s.tolist() == pytest.approx([5e-5] * len(found.per_call_s))
        assert not found.host_bound

    @pytest.mark.parametrize("nanoseconds", [0.0, -1.0, float("nan"), float("inf"), 1e12], ids=str)
    def test_that_the_judges_clock_rules_out_are_contradicted(self, nanoseconds: float) -> None:
        liar = party(lambda count, _: Done(1e-4 * count + 1e-6, nanoseconds, True))
        with pytest.raises(ClaimContradicted, match="candidate claims"):
            time_together([liar], PLAN)

    def test_of_a_queue_that_ran_empty_are_labelled_host_bound(self) -> None:
        starved = party(lambda count, _: Done(1e-4 * count + 1e-6, 50_000.0 * count, False))
        assert time_together([starved], PLAN)["candidate"].host_bound

    def test_are_not_asked_for_on_a_cpu(self) -> None:
        boaster = party(lambda count, _: Done(1e-4 * count + 1e-6, 1.0, True), device=False)
        found = time_together([boaster], PLAN)["candidate"]
        assert found.per_call_s.min() > 9e-5


def test_a_party_that_dies_is_named_with_how_it_died() -> None:
    with pytest.raises(TimingFailed) as failed:
        time_together([party(lambda *_: Died(-11))], PLAN)
    assert (failed.value.party, failed.value.answer) == ("candidate", Died(-11))


def test_every_party_is_timed_in_every_block() -> None:
    steady = [party(lambda c, _: Done(1e-4 * c, 5e4 * c, True)) for _ in range(3)]
    for index, one in enumerate(steady):
        one.name = f"p{index}"
    found = time_together(steady, PLAN)
    assert {len(s.per_call_s) for s in found.values()} <= {3, 4, 5}
    assert len({len(s.per_call_s) for s in found.values()}) == 1


def test_what_is_too_slow_for_the_budget_is_timed_a_few_times_only() -> None:
    plan = TimingPlan(block_s=1e-4, min_blocks=50, max_blocks=90, budget_s=0.0)
    slow = party(lambda c, _: Done(2.0 * c, 1e9 * c, True))
    assert len(time_together([slow], plan)["candidate"].per_call_s) == 3
    assert time_calls(slow, plan).value > 0
