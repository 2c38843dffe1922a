"""Tables: what a figure rests on is told beside it."""

from __future__ import annotations

import io

from rich.console import Console

from kernel_generator.domain.evaluation import Evaluation, Timing, WorkloadEvaluation
from kernel_generator.domain.outcome import Outcome
from kernel_generator.reporting.tables import Row, campaign_notes, evaluation_table
from tests.runs.sets import an_evaluation, exactly


def test_a_host_bound_reference_is_marked_in_its_own_column() -> None:
    record = WorkloadEvaluation(
        uuid="a",
        axes={"n": 1},
        outcome=Outcome.PASSED,
        timing=Timing(device_us=exactly(5.0)),
        baselines={"reference": Timing(device_us=exactly(9.0), host_bound=True)},
    )
    text = io.StringIO()
    table = evaluation_table(Evaluation(outcome=Outcome.PASSED, workloads=(record,)))
    Console(file=text, width=200).print(table)
    assert "│ 5.0 us │" in text.getvalue()
    assert "│ 9.0 us (host-bound) │" in text.getvalue()


def test_what_limits_a_result_is_noted_and_what_explains_a_failure_is_not() -> None:
    told = "1 of 2 workloads cannot be run here: its blob is missing"
    passed = an_evaluation().model_copy(update={"message": told})
    failed = an_evaluation(Outcome.WRONG_VALUES).model_copy(update={"message": "differs"})
    rows = [
        Row("a", "t", "PASSED", passed),
        Row("b", "t", "PASSED", an_evaluation()),
        Row("c", "t", "WRONG_VALUES", failed),
    ]
    assert campaign_notes(rows) == [f"a: {told}"]


def test_a_baseline_without_a_figure_is_noted_beside_the_result() -> None:
    lost = {"torch.compile": "it took too long"}
    passed = an_evaluation().model_copy(update={"unusable_baselines": lost})
    assert campaign_notes([Row("a", "t", "PASSED", passed)]) == [
        "a: no figure against torch.compile: it took too long"
    ]
