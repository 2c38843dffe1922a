"""The same client against a real language model. What it says is not judged, only that it does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kernel_generator.domain.conversation import Finish, Role, Sampling
from kernel_generator.models.open_model import open_model
from tests.local_model import local_model_server
from tests.models.asking import a_request, ask

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.local_llm

QUESTION = (Role.SYSTEM, "You are helpful."), (Role.USER, "Write a Python function that adds.")


@pytest.fixture(scope="module")
def base_url() -> Iterator[str]:
    """One server for all tests here."""
    with local_model_server() as url:
        yield url


@pytest.mark.parametrize("dialect", ["chat", "responses"])
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_a_real_model_answers(base_url: str, dialect: str, stream: bool) -> None:
    model = open_model("smollm2", base_url=base_url, dialect=dialect, stream=stream, environment={})
    request = a_request(*QUESTION, sampling=Sampling(temperature=0.0, max_output_tokens=120))
    [reply] = ask(model, request)
    assert reply.text.strip()
    assert reply.finish in (Finish.COMPLETE, Finish.LENGTH)
    assert reply.usage is not None
    assert reply.usage.prompt > 0
    assert 0 < reply.usage.completion <= 120
    assert reply.cost_usd is None


def test_a_real_answer_cut_by_length_is_called_so(base_url: str) -> None:
    model = open_model("smollm2", base_url=base_url, environment={})
    request = a_request(*QUESTION, sampling=Sampling(temperature=0.0, max_output_tokens=4))
    [reply] = ask(model, request)
    assert reply.finish is Finish.LENGTH
    assert reply.text.strip()
