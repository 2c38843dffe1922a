"""What a reply cost: known from the tables, or unknown."""

from __future__ import annotations

import socket

import pytest

from kernel_generator.domain.conversation import Usage
from kernel_generator.models.price import cost_usd

USED = Usage(prompt=1000, cached=200, completion=100, reasoning=50)
OPENAI = "https://api.openai.com/v1/"


@pytest.mark.parametrize(
    ("model", "url"),
    [
        ("gpt-4o", OPENAI),
        ("gpt-4o-2024-08-06", OPENAI),
        ("gpt-5", OPENAI),
        ("claude-sonnet-4-5", "https://api.anthropic.com/v1/"),
        ("gemini-2.5-pro", "https://generativelanguage.googleapis.com/v1beta/openai/"),
        ("openai/gpt-4o", "https://openrouter.ai/api/v1"),
    ],
)
def test_providers_of_the_table_have_prices(model: str, url: str) -> None:
    cost = cost_usd(USED, model, url)
    assert cost is not None
    assert cost > 0


@pytest.mark.parametrize(
    ("model", "url"), [("no-such-model", OPENAI), ("gpt-4o", "http://127.0.0.1:1/v1"), ("", OPENAI)]
)
def test_a_price_that_is_in_no_table_is_unknown(model: str, url: str) -> None:
    assert cost_usd(USED, model, url) is None


def test_cached_tokens_cost_less_and_reasoning_is_part_of_completion() -> None:
    fresh = Usage(prompt=1000, cached=0, completion=100, reasoning=0)
    cheaper, dearer = cost_usd(USED, "gpt-4o", OPENAI), cost_usd(fresh, "gpt-4o", OPENAI)
    assert cheaper is not None
    assert dearer is not None
    assert cheaper < dearer
    thought = Usage(prompt=1000, cached=200, completion=100, reasoning=0)
    assert cost_usd(thought, "gpt-4o", OPENAI) == cheaper


def test_without_usage_the_cost_is_unknown() -> None:
    assert cost_usd(None, "gpt-4o", OPENAI) is None


def test_counts_that_contradict_each_other_have_no_price() -> None:
    assert cost_usd(Usage(prompt=1, cached=5), "gpt-4o", OPENAI) is None


def test_nothing_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a price was looked up on the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert cost_usd(USED, "gpt-4o", OPENAI) is not None
