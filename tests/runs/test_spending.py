"""Budgets: what is spent is counted, and nothing begins beyond a limit."""

from __future__ import annotations

import re

import pytest

from kernel_generator import KernelGenerator
from kernel_generator.domain.budget import Budget, Price
from kernel_generator.domain.conversation import Finish, Reply, Usage
from kernel_generator.domain.errors import InvalidInput
from kernel_generator.models.scripted import ScriptedModel
from kernel_generator.runs.spending import Spending
from tests.runs.sets import an_evaluation


def a_reply(cost: float | None = 0.5, tokens: int = 100) -> Reply:
    return Reply("", Finish.COMPLETE, "a-model", Usage(tokens, 0, 20), cost)


@pytest.mark.parametrize(
    ("budget", "told"),
    [
        (Budget(usd=1.0), r"the budget is spent: \$1\.0000 of \$1"),
        (Budget(tokens=240), "the budget is spent: 240 of 240 tokens"),
        (Budget(device_s=6.0), "the budget is spent: 6 of 6 s of the judge's time"),
        (Budget(wall_s=0.0), "the budget is spent: 0 of 0 s"),
    ],
    ids=["dollars", "tokens", "device", "wall"],
)
def test_each_limit_ends_it_where_it_is_reached(budget: Budget, told: str) -> None:
    spending = Spending(budget)
    assert bool(spending.exhausted) is (budget.wall_s == 0.0)
    for _ in range(2):
        spending.replied(a_reply())
        spending.judged(an_evaluation().model_copy(update={"seconds": 3.0}))
    with pytest.raises(AssertionError, match=told):
        raise AssertionError(spending.exhausted)


def test_what_was_paid_for_is_judged_as_long_as_there_is_time() -> None:
    spent = Spending(Budget(usd=0.1, tokens=1))
    spent.replied(a_reply())
    assert spent.exhausted
    assert not spent.out_of_time
    assert Spending(Budget(wall_s=0.0)).out_of_time


def test_without_a_limit_nothing_ends() -> None:
    spending = Spending()
    for _ in range(100):
        spending.replied(a_reply(cost=None, tokens=10**6))
    assert spending.exhausted == ""


def test_a_price_that_nobody_knows_ends_a_budget_in_dollars_and_no_other() -> None:
    dollars, tokens = Spending(Budget(usd=5.0)), Spending(Budget(tokens=1000))
    for spending in (dollars, tokens):
        spending.replied(a_reply(cost=None))
    assert "the price of 'a-model' is not known" in dollars.exhausted
    assert "state it with --price" in dollars.exhausted
    assert tokens.exhausted == ""


def test_a_model_that_reports_no_usage_ends_a_budget_in_tokens_or_dollars_and_says_so() -> None:
    silent = Reply("", Finish.COMPLETE, "a-silent-model")
    price = Price(2.0, 10.0)
    for budget, limit in ((Budget(tokens=1000), "1000 tokens"), (Budget(usd=5.0), r"\$5")):
        spending = Spending(budget, price)
        assert spending.exhausted == ""
        spending.replied(spending.priced(silent))
        told = f"'a-silent-model' reports no usage, so a budget of {limit} cannot be kept to"
        assert re.match(told, spending.exhausted)
        assert "--max-minutes" in spending.exhausted
        assert "--price" not in spending.exhausted
    for budget in (Budget(wall_s=1000.0), Budget(device_s=1000.0)):
        spending = Spending(budget)
        spending.replied(silent)
        assert spending.exhausted == ""


def test_a_reply_that_costs_nothing_needs_no_usage() -> None:
    spending = Spending(Budget(usd=1.0, tokens=10))
    spending.replied(Reply("", Finish.COMPLETE, "replay:0badcafe", None, 0.0))
    assert spending.exhausted == ""


def test_a_price_beside_a_shared_spending_is_refused() -> None:
    def made(budget: Budget | Spending) -> KernelGenerator:
        model = ScriptedModel([])
        return KernelGenerator(
            model=model, language="python", target_gpu="CPU", budget=budget, price=Price(1.0, 1.0)
        )

    with pytest.raises(InvalidInput, match=r"has its own price: Spending\(budget, price\)"):
        made(Spending())
    made(Budget())


def test_a_stated_price_is_counted() -> None:
    spending = Spending(Budget(usd=0.001), Price(2.0, 10.0))
    reply = spending.priced(a_reply(cost=None, tokens=400))
    assert reply.cost_usd == pytest.approx(400 * 2e-6 + 20 * 10e-6)
    spending.replied(reply)
    assert "the budget is spent" in spending.exhausted
    assert spending.priced(a_reply(cost=0.25)).cost_usd == 0.25
