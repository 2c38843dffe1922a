"""Figures are written one way everywhere, and what is unknown or slower is called so."""

from __future__ import annotations

import pytest

from kernel_generator.domain.conversation import Usage
from kernel_generator.domain.evaluation import (
    Clocks,
    Evaluation,
    Interval,
    Timing,
    WorkloadEvaluation,
)
from kernel_generator.domain.outcome import Outcome
from kernel_generator.reporting import figures
from tests.runs.sets import exactly


def measured(**baselines: tuple[float, float, float]) -> Evaluation:
    made = {
        name.replace("_", "."): Interval(low=low, value=value, high=high)
        for name, (low, value, high) in baselines.items()
    }
    return Evaluation(
        outcome=Outcome.PASSED, speedup=made.get("reference"), baselines=made, complete=True
    )


def test_each_baseline_is_told_with_its_interval() -> None:
    evaluation = measured(reference=(1.9, 2.0, 2.1), torch_compile=(1.1, 1.2, 1.3))
    assert figures.comparison(evaluation) == (
        "2.00x [1.90, 2.10] the reference, 1.20x [1.10, 1.30] torch.compile"
    )


def test_a_result_slower_than_torch_compile_is_called_so() -> None:
    evaluation = measured(reference=(1.9, 2.0, 2.1), torch_compile=(0.6, 0.7, 0.8))
    assert figures.comparison(evaluation).endswith("0.70x [0.60, 0.80] torch.compile (slower)")


def test_a_result_slower_than_the_reference_is_called_so() -> None:
    evaluation = measured(reference=(0.4, 0.5, 0.6))
    assert figures.comparison(evaluation) == "0.50x [0.40, 0.60] the reference (slower)"


def test_what_noise_may_explain_is_no_difference() -> None:
    evaluation = measured(reference=(0.9, 1.1, 1.3))
    assert figures.comparison(evaluation).endswith("(no difference beyond noise)")


def test_what_was_not_measured_is_called_unmeasured() -> None:
    assert figures.comparison(measured()) == "not measured"


def test_notes_name_whatever_the_figures_suffer_from() -> None:
    alone = Clocks(foreign_processes=0)
    beside = Clocks(foreign_processes=2)
    records = (
        WorkloadEvaluation(uuid="a", axes={}, outcome=Outcome.PASSED, clocks=alone),
        WorkloadEvaluation(
            uuid="b", axes={}, outcome=Outcome.PASSED, clocks=beside, synthetic=("x",)
        ),
    )
    found = figures.notes(
        Evaluation(
            outcome=Outcome.PASSED, workloads=records, unusable_baselines={"mine": "no nvcc"}
        )
    )
    assert [note.split(":")[0] for note in found] == [
        "synthetic values for 'x' on 1 of 2 workloads",
        "up to 2 processes of others used the GPU while kernels were timed",
        "no figure against mine",
    ]


@pytest.mark.parametrize("clocks", [None, Clocks(foreign_processes=0), Clocks()])
def test_notes_are_none_where_nothing_is_known_to_disturb(clocks: Clocks | None) -> None:
    record = WorkloadEvaluation(uuid="a", axes={}, outcome=Outcome.PASSED, clocks=clocks)
    assert figures.notes(Evaluation(outcome=Outcome.PASSED, workloads=(record,))) == []


@pytest.mark.parametrize(("cost", "text"), [(None, "cost unknown"), (0.0, "$0.0000")])
def test_an_unknown_price_is_not_zero(cost: float | None, text: str) -> None:
    assert figures.dollars(cost) == text


def test_tokens_are_counted_or_unknown() -> None:
    assert figures.tokens(Usage(prompt=1234, completion=56)) == "1,234 + 56 tokens"
    assert figures.tokens(None) == "tokens unknown"


@pytest.mark.parametrize(
    ("seconds", "text"), [(1.23, "1.2 s"), (99.9, "99.9 s"), (245.0, "4 min 05 s")]
)
def test_times_are_read_at_a_glance(seconds: float, text: str) -> None:
    assert figures.seconds(seconds) == text


@pytest.mark.parametrize(("us", "text"), [(12.34, "12.3 us"), (4560.0, "4.56 ms")])
def test_microseconds_become_milliseconds(us: float, text: str) -> None:
    assert figures.microseconds(us) == text


def timed(*, bound: bool = False, reference_bound: bool = False, timer: str = "") -> Evaluation:
    """Two workloads of which the second may be bound by the host."""
    plain = WorkloadEvaluation(uuid="a", axes={"n": 1}, outcome=Outcome.PASSED)
    record = WorkloadEvaluation(
        uuid="b",
        axes={"n": 2},
        outcome=Outcome.PASSED,
        timing=Timing(device_us=exactly(5.0), host_bound=bound, timer=timer),
        baselines={
            "reference": Timing(device_us=exactly(9.0), host_bound=reference_bound, timer=timer)
        },
    )
    return Evaluation(outcome=Outcome.PASSED, workloads=(plain, record), speedup=exactly(2.0))


@pytest.mark.parametrize(
    "evaluation", [timed(bound=True), timed(reference_bound=True)], ids=["candidate", "reference"]
)
def test_a_comparison_that_launches_decide_is_called_so(evaluation: Evaluation) -> None:
    assert figures.comparison(evaluation).endswith("; host-bound on 1 of 2 workloads")


def test_a_time_that_includes_the_host_is_marked() -> None:
    assert figures.device_time(Timing(device_us=exactly(5.0), host_bound=True)) == (
        "5.0 us (host-bound)"
    )
    assert figures.device_time(Timing(device_us=exactly(5.0))) == "5.0 us"
    assert figures.device_time(None) == "-"


def test_each_clock_is_named_once() -> None:
    assert figures.timers(timed(timer="CUDA events")) == "timed by CUDA events"
    assert figures.timers(timed()) == ""
