"""The further checks of a certified evaluation that need no GPU: sizes that no workload has."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

import pytest
import torch

from kernel_generator.domain.evaluation import Check
from kernel_generator.domain.outcome import Outcome
from kernel_generator.evaluation.certification import EDGES, TIMED_DRAWS, certify, try_edges
from kernel_generator.evaluation.sampling import target_distribution
from tests.evaluation.finalists import finalist
from tests.evaluation.judging import DOUBLE, SAMPLE, solution, task, workload

if TYPE_CHECKING:
    from collections.abc import Generator

    from kernel_generator.evaluation.finalist import Finalist

RIGHT = solution("def run(x):\n    return x * 2\n")


def wrong_where(condition: str) -> str:
    return f"def run(x):\n    n = x.shape[0]\n    return x * (3 if {condition} else 2)\n"


@pytest.fixture(scope="module")
def right() -> Generator[Finalist]:
    with finalist(task(searched=[workload(f"w{n}", n=n) for n in (12, 3, 8)]), RIGHT) as found:
        yield found


def test_a_right_candidate_is_tried_on_all_edges_and_on_a_cpu_nothing_else_is_listed(
    right: Finalist,
) -> None:
    found = certify(right)
    assert found.checks == (Check(name=EDGES, passed=True, message="7 of 7 tried"),)
    assert found.failure is None


def test_what_only_a_gpu_can_show_is_named_where_it_stands_in_for_one() -> None:
    with finalist(task(target="H100"), RIGHT) as right:
        found = certify(right)
    assert [(c.name, c.passed, c.message) for c in found.checks[1:]] == [
        ("CUDA graph capture", None, "needs a GPU"),
        ("compute-sanitizer memcheck", None, "needs a GPU"),
    ]


@pytest.mark.parametrize(
    ("draws", "passed", "says"), [(31, None, "only 31: a test needs 32"), (32, True, "32 tested")]
)
def test_how_many_timed_draws_of_a_sampler_were_tested_is_told(
    draws: int, passed: bool | None, says: str
) -> None:
    sampler = solution(SAMPLE.reference, definition=SAMPLE.name)
    with finalist(task(SAMPLE, []), sampler) as right:
        tokens = torch.zeros(draws, dtype=torch.int64)
        probs = torch.ones(draws, 4)
        right.subject.timed_draws.add(tokens, target_distribution({"probs": probs}))
        found = certify(right)
    assert Check(name=TIMED_DRAWS, passed=passed, message=says) in found.checks


def test_a_candidate_that_is_wrong_at_one_size_fails_with_the_size_named() -> None:
    with finalist(task(), solution(wrong_where("n == 37"))) as wrong:
        found = certify(wrong)
    assert found.failure is not None
    assert found.failure.outcome is Outcome.WRONG_VALUES
    assert found.failure.axes == {"n": 37}
    assert found.failure.message.startswith("at a size that no workload has (n=37): wrong values")
    assert found.failure.mismatches[0].wrong > 36 * 64
    (check,) = found.checks
    assert (check.name, check.passed) == (EDGES, False)
    assert "n=37" in check.message


def test_of_a_size_that_a_workload_has_only_the_inputs_are_said_to_be_new() -> None:
    with finalist(task(searched=[workload(n=7)]), solution(wrong_where("True"))) as wrong:
        found = try_edges(wrong)
    assert found.failure is not None
    assert found.failure.message.startswith("with inputs that no workload has (n=7): ")


def test_the_most_telling_sizes_come_first() -> None:
    with finalist(task(), solution(wrong_where("n in (1, 129, 2)"))) as wrong:
        found = try_edges(wrong)
    assert found.failure is not None
    assert found.failure.axes == {"n": 129}


def test_one_size_is_not_known_ahead() -> None:
    known = "n in (1, 2, 7, 37, 127, 129, 5)"
    with finalist(task(searched=[workload(n=5)]), solution(wrong_where(f"not {known}"))) as wrong:
        found = try_edges(wrong)
    assert found.failure is not None
    assert found.failure.outcome is Outcome.WRONG_VALUES


def test_a_candidate_that_dies_on_an_edge_fails() -> None:
    source = "import os\ndef run(x):\n    x.shape[0] == 1 and os._exit(3)\n    return x * 2\n"
    with finalist(task(), solution(source)) as dies:
        found = try_edges(dies)
    assert found.failure is not None
    assert found.failure.outcome is Outcome.CRASHED
    assert found.failure.axes == {"n": 1}


def test_edges_end_with_the_budget(right: Finalist) -> None:
    # Each look at the clock is a second later than the one before.
    found = try_edges(right, budget_s=4.5, clock=count().__next__)
    assert found.checks == (
        Check(name=EDGES, passed=True, message="4 of 7 tried: 4.5 s were over"),
    )


def test_some_are_tried_however_slow_the_candidate_is(right: Finalist) -> None:
    found = try_edges(right, budget_s=0.0)
    assert found.checks == (Check(name=EDGES, passed=True, message="3 of 7 tried: 0 s were over"),)


def test_an_edge_on_which_the_reference_fails_is_left_out_and_counted() -> None:
    reference = (
        "def run(x):\n    if x.shape[0] == 7:\n        raise ValueError('odd')\n    return x * 2\n"
    )
    particular = DOUBLE.model_copy(update={"reference": reference})
    with finalist(task(particular), RIGHT) as right:
        found = try_edges(right)
    assert found.failure is None
    (check,) = found.checks
    assert check.passed
    assert check.message == (
        "6 of 7 tried; 1 cannot be run here: the reference fails: ValueError: odd"
    )


def test_a_definition_without_a_variable_axis_has_no_edges() -> None:
    axes = {"n": {"type": "const", "value": 5}, "m": {"type": "const", "value": 64}}
    fixed = type(DOUBLE).model_validate({**DOUBLE.model_dump(), "axes": axes})
    only = workload().model_copy(update={"axes": {}})
    with finalist(task(fixed, [only]), RIGHT) as right:
        found = try_edges(right)
    assert [c.passed for c in found.checks] == [None]


def test_the_smallest_searched_workload_is_the_one_of_fewest_bytes(right: Finalist) -> None:
    found = right.smallest()
    assert found is not None
    assert found.axes == {"n": 3}
