"""The same client against a real language model. What it says is not judged, only that it does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kernel_generator.domain.conversation import Finish, Role
from kernel_generator.models.open_model import open_model
from tests.local_model import local_model_server
from tests.models.asking import a_request, ask

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.local_llm

QUESTION = (Role.SYSTEM, "You are helpful."), (Role.USER, "Write a Python function that adds.")


LONGEST_ANSWER = 120
"""Tokens. The server's limit: requests carry none."""


@pytest.fixture(scope="module")
def base_url() -> Iterator[str]:
    """One server for the tests that need no other."""
    with local_model_server(longest_answer=LONGEST_ANSWER) as url:
        yield url


@pytest.mark.parametrize("dialect", ["chat", "responses"])
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_a_real_model_answers(base_url: str, dialect: str, stream: bool) -> None:
    model = open_model("smollm2", base_url=base_url, dialect=dialect, stream=stream, environment={})
    [reply] = ask(model, a_request(*QUESTION))
    assert reply.text.strip()
    assert reply.finish in (Finish.COMPLETE, Finish.LENGTH)
    assert reply.usage is not None
    assert reply.usage.prompt > 0
    assert 0 < reply.usage.completion <= LONGEST_ANSWER
    assert reply.cost_usd is None


def test_a_real_answer_cut_by_length_is_called_so() -> None:
    with local_model_server(longest_answer=4) as url:
        [reply] = ask(open_model("smollm2", base_url=url, environment={}), a_request(*QUESTION))
    assert reply.finish is Finish.LENGTH
    assert reply.text.strip()
