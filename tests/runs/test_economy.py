"""What runs cost and gave: curves only rise, and an unknown price is never left out of a sum."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel_generator.domain.conversation import Finish, Reply, Usage
from kernel_generator.domain.outcome import Outcome
from kernel_generator.runs.economy import MARKS, best_baseline, campaign_economy, economy_of
from kernel_generator.runs.history import Steps
from tests.runs.ledgers import a_run, a_try
from tests.runs.sets import an_evaluation

if TYPE_CHECKING:
    from kernel_generator.domain.attempt import Attempt
    from kernel_generator.runs.economy import Economy, Point


def told(*attempts: Attempt) -> Economy:
    return economy_of(a_run(*attempts))


OUTCOMES = (
    Outcome.PASSED,
    Outcome.PASSED,
    Outcome.CORRECT_NOT_MEASURED,
    Outcome.WRONG_VALUES,
    Outcome.EMPTY_REPLY,
)
RATIOS = st.floats(0.1, 10.0) | st.just(math.nan)
COSTS = st.floats(0.0, 2.0)
PRICED = st.builds(
    a_try,
    st.sampled_from(OUTCOMES),
    COSTS,
    speedup=RATIOS,
    promoted=st.sampled_from([None, True, False]),
    tokens=st.integers(0, 10_000),
    torch_compile=RATIOS,
)
HISTORIES = st.lists(PRICED, max_size=8)
MAYBE_PRICED = st.lists(st.builds(a_try, st.sampled_from(OUTCOMES), COSTS | st.none()), max_size=8)


def both(economy: Economy) -> tuple[tuple[Point, ...], tuple[Point, ...]]:
    return economy.over_reference, economy.over_best_baseline


@given(HISTORIES)
def test_a_curve_rises_while_what_was_spent_never_shrinks(attempts: list[Attempt]) -> None:
    economy = told(*attempts)
    for curve in both(economy):
        for before, after in pairwise(curve):
            assert before.speedup < after.speedup
            assert before.attempt < after.attempt
            assert before.tokens <= after.tokens
            assert before.cost_usd is not None
            assert after.cost_usd is not None
            assert before.cost_usd <= after.cost_usd
        assert economy.cost_usd is not None
        assert all(p.cost_usd is not None and p.cost_usd <= economy.cost_usd for p in curve)
        assert all(attempts[p.attempt - 1].outcome is Outcome.PASSED for p in curve)


@given(HISTORIES)
def test_no_version_is_further_ahead_of_the_best_baseline_than_of_the_reference(
    attempts: list[Attempt],
) -> None:
    for point in told(*attempts).over_best_baseline:
        evaluation = attempts[point.attempt - 1].evaluation
        assert evaluation is not None
        ratios = [i.value for i in evaluation.baselines.values() if math.isfinite(i.value)]
        assert point.speedup == min(ratios)
        assert evaluation.baselines[point.baseline].value == point.speedup


@given(HISTORIES)
def test_a_mark_is_reached_where_the_curve_first_is_that_high(attempts: list[Attempt]) -> None:
    economy = told(*attempts)
    assert [mark.speedup for mark in economy.marks] == list(MARKS)
    for mark in economy.marks:
        high = [p for p in economy.over_best_baseline if p.speedup >= mark.speedup]
        assert mark.reached == (high[0] if high else None)


@given(MAYBE_PRICED)
def test_one_reply_without_a_price_makes_every_sum_with_it_unknown(
    attempts: list[Attempt],
) -> None:
    run = a_run(*attempts)
    economy = economy_of(run)
    costs = [a.reply.cost_usd for a in attempts if a.reply is not None]
    assert (economy.cost_usd is None) is (None in costs)
    assert economy.cost_usd == run.history.cost_usd
    if None in costs:
        assert economy.cost_per_passing_usd is None
    for point in (*economy.over_reference, *economy.over_best_baseline):
        assert (point.cost_usd is None) is (None in costs[: point.attempt])
    assert economy.prompt_tokens + economy.completion_tokens == 120 * len(attempts)


@given(st.lists(MAYBE_PRICED, max_size=4))
def test_a_campaign_is_the_sum_of_its_runs(histories: list[list[Attempt]]) -> None:
    runs = [
        economy_of(a_run(*attempts, definition=f"d{number % 2}", run_id=f"r{number}"))
        for number, attempts in enumerate(histories)
    ]
    whole = campaign_economy(runs)
    costs = [run.cost_usd for run in runs]
    if None in costs:
        assert (whole.cost_usd, whole.cost_per_passing_usd) == (None, None)
        assert whole.cost_per_solved_usd is None
    else:
        assert whole.cost_usd == pytest.approx(sum(cost or 0.0 for cost in costs))
    assert whole.passing == sum(run.passing for run in runs)
    assert whole.replies == sum(map(len, histories))
    assert whole.solved == len({run.definition for run in runs if run.passing})
    assert whole.prompt_tokens == sum(run.prompt_tokens for run in runs)


def test_failed_replies_are_paid_by_the_kernels_that_passed() -> None:
    economy = told(
        a_try(Outcome.WRONG_VALUES, 0.5),
        a_try(Outcome.EMPTY_REPLY, 0.25),
        a_try(Outcome.PASSED, 0.5, torch_compile=0.9),
        a_try(Outcome.PASSED, 0.75, speedup=2.5, promoted=True, torch_compile=1.1),
    )
    assert economy.cost_usd == 2.0
    assert (economy.replies, economy.passing) == (4, 2)
    assert economy.cost_per_passing_usd == 1.0
    assert [(p.attempt, p.speedup, p.cost_usd) for p in economy.over_reference] == [
        (3, 2.0, 1.25),
        (4, 2.5, 2.0),
    ]
    one, more = economy.marks
    assert one.reached is not None
    assert (one.reached.baseline, one.reached.cost_usd) == ("torch.compile", 2.0)
    assert one.reached.tokens == 480
    assert more.reached is None


def test_what_was_not_promoted_is_on_no_curve() -> None:
    economy = told(a_try(speedup=2.0), a_try(speedup=9.0, promoted=False))
    assert [p.speedup for p in economy.over_reference] == [2.0]
    assert economy.passing == 2


def test_a_promoted_version_that_measures_lower_is_no_rise() -> None:
    economy = told(a_try(speedup=2.0), a_try(speedup=1.9, promoted=True))
    assert [p.attempt for p in economy.over_reference] == [1]


@pytest.mark.parametrize(
    "attempts", [(), (a_try(Outcome.WRONG_VALUES),)], ids=["nothing asked", "nothing passed"]
)
def test_where_nothing_passed_there_is_no_cost_per_kernel(attempts: tuple[Attempt, ...]) -> None:
    economy = told(*attempts)
    assert economy.cost_per_passing_usd is None
    assert economy.cost_usd is not None
    assert not economy.over_best_baseline
    assert campaign_economy([economy]).cost_per_solved_usd is None


def test_a_reply_that_nothing_was_made_of_yet_is_paid_too() -> None:
    run = a_run(a_try(cost=0.5))
    run.history.steps[2, 0] = Steps(Reply("", Finish.COMPLETE, "a-model", Usage(1, 0, 2), 0.25))
    economy = economy_of(run)
    assert (economy.cost_usd, economy.replies) == (0.75, 2)
    assert economy.over_reference[-1].cost_usd == 0.5


def test_a_model_that_has_no_more_to_say_was_not_asked_for_money() -> None:
    run = a_run(a_try(cost=0.0))
    run.history.steps[2, 0] = Steps(Reply("", Finish.EXHAUSTED, "a-model", Usage(), None))
    assert economy_of(run).cost_usd == 0.0


def test_the_reference_is_a_baseline_where_no_other_was_measured() -> None:
    assert best_baseline(an_evaluation(speedup=3.0)) == ("reference", 3.0)
    assert best_baseline(an_evaluation(Outcome.CORRECT_NOT_MEASURED)) is None


def test_two_runs_of_one_definition_solve_it_once() -> None:
    runs = [economy_of(a_run(a_try(cost=1.0), run_id=name)) for name in ("a", "b")]
    whole = campaign_economy(runs)
    assert (whole.definitions, whole.solved) == (1, 1)
    assert (whole.cost_per_passing_usd, whole.cost_per_solved_usd) == (1.0, 2.0)
