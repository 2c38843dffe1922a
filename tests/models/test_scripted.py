"""A model that answers from a list or a function."""

from __future__ import annotations

import pytest

from kernel_generator.domain.conversation import Finish, Reply, Role
from kernel_generator.domain.errors import ProviderUnavailable, ScriptExhausted
from kernel_generator.models.scripted import ScriptedModel
from tests.models.asking import a_request, ask


def test_replies_are_used_up_in_order() -> None:
    model = ScriptedModel(["one", "two"])
    assert [r.text for r in ask(model, a_request(), a_request())] == ["one", "two"]
    assert model.name == "scripted"


def test_text_is_a_complete_reply_of_unknown_usage_and_cost() -> None:
    [reply] = ask(ScriptedModel(["text"]))
    assert reply == Reply("text", Finish.COMPLETE, "scripted", usage=None, cost_usd=None)


def test_no_text_is_an_empty_reply() -> None:
    [reply] = ask(ScriptedModel([""]))
    assert reply.finish is Finish.EMPTY


def test_a_reply_is_given_as_it_is() -> None:
    refusal = Reply("", Finish.REFUSED, "m", detail="no")
    assert ask(ScriptedModel([refusal])) == [refusal]


def test_an_exception_is_raised_and_the_script_goes_on() -> None:
    model = ScriptedModel([ProviderUnavailable("down"), "up"])
    with pytest.raises(ProviderUnavailable, match="down"):
        ask(model)
    assert ask(model)[0].text == "up"


def test_a_script_that_is_over_says_so() -> None:
    with pytest.raises(ScriptExhausted, match="has 1 replies"):
        ask(ScriptedModel(["one"]), a_request(), a_request())


def test_a_function_answers_each_request() -> None:
    model = ScriptedModel(lambda request: request.messages[-1].text.upper())
    assert ask(model, a_request((Role.USER, "loud")))[0].text == "LOUD"


def test_every_request_is_kept() -> None:
    requests = [a_request((Role.USER, "a")), a_request((Role.USER, "b"))]
    model = ScriptedModel(["1", "2"])
    ask(model, *requests)
    assert model.asked == requests
