"""Both dialects, streamed and whole: what is sent, and what is read out of the answer."""

from __future__ import annotations

import asyncio

import pytest

from kernel_generator.domain.conversation import Finish, Role, Sampling, Usage
from kernel_generator.models.endpoint_model import EndpointModel
from tests.loopback import (
    REPORTED_MODEL,
    LoopbackServer,
    answers_whole_though_asked_to_stream,
    fails,
    forgets_what_it_streamed,
    is_cut,
    is_filtered,
    refuses,
    says,
    says_nothing,
)
from tests.models.asking import HURRY, a_request, ask, ask_together, at, model_at

WAYS = [(d, s) for d in ("chat", "responses") for s in (True, False)]
every_way = pytest.mark.parametrize(
    ("dialect", "stream"), WAYS, ids=[f"{d}-{'stream' if s else 'whole'}" for d, s in WAYS]
)
every_dialect = pytest.mark.parametrize("dialect", ["chat", "responses"])


@every_way
def test_an_answer_carries_text_finish_model_usage_and_time(dialect: str, stream: bool) -> None:
    with LoopbackServer([says("def run(x):\n    return x + x\n")]) as server:
        [reply] = ask(model_at(server.base_url, dialect=dialect, stream=stream))
    assert reply.text == "def run(x):\n    return x + x\n"
    assert reply.finish is Finish.COMPLETE
    assert reply.model == REPORTED_MODEL
    assert reply.usage == Usage(prompt=100, cached=40, completion=20, reasoning=5)
    assert reply.seconds > 0
    assert server.requests[0].streams is stream


@every_way
def test_usage_that_is_not_reported_is_unknown_and_so_is_the_cost(
    dialect: str, stream: bool
) -> None:
    with LoopbackServer([says("text", usage=False)]) as server:
        [reply] = ask(model_at(server.base_url, dialect=dialect, stream=stream))
    assert reply.usage is None
    assert reply.cost_usd is None


@every_way
def test_a_refusal_is_a_reply_in_the_models_words(dialect: str, stream: bool) -> None:
    with LoopbackServer([refuses("No, sorry.")]) as server:
        [reply] = ask(model_at(server.base_url, dialect=dialect, stream=stream))
    assert (reply.finish, reply.detail) == (Finish.REFUSED, "No, sorry.")


@every_way
def test_a_filtered_answer_is_a_refusal(dialect: str, stream: bool) -> None:
    with LoopbackServer([is_filtered()]) as server:
        [reply] = ask(model_at(server.base_url, dialect=dialect, stream=stream))
    assert reply.finish is Finish.REFUSED
    assert "content_filter" in reply.detail


@every_way
def test_an_answer_cut_by_length_keeps_its_text(dialect: str, stream: bool) -> None:
    with LoopbackServer([is_cut("def run(x):")]) as server:
        [reply] = ask(model_at(server.base_url, dialect=dialect, stream=stream))
    assert (reply.finish, reply.text) == (Finish.LENGTH, "def run(x):")


@every_way
def test_an_answer_cut_before_its_first_word_is_cut_not_empty(dialect: str, stream: bool) -> None:
    with LoopbackServer([is_cut("")]) as server:
        [reply] = ask(model_at(server.base_url, dialect=dialect, stream=stream))
    assert reply.finish is Finish.LENGTH


@every_way
@pytest.mark.parametrize("behaviour", [says_nothing(), says(" \n ")], ids=["nothing", "blanks"])
def test_an_answer_without_text_is_empty(dialect: str, stream: bool, behaviour) -> None:
    with LoopbackServer([behaviour]) as server:
        [reply] = ask(model_at(server.base_url, dialect=dialect, stream=stream))
    assert reply.finish is Finish.EMPTY
    assert len(server.requests) == 1


def test_the_whole_conversation_is_sent_in_chat_roles() -> None:
    request = a_request(
        (Role.SYSTEM, "Rules."), (Role.USER, "Go."), (Role.ASSISTANT, "Done."), (Role.USER, "No.")
    )
    with LoopbackServer([says("ok")]) as server:
        ask(model_at(server.base_url), request)
    assert server.requests[0].path == "/v1/chat/completions"
    assert server.requests[0].body["messages"] == [
        {"role": "system", "content": "Rules."},
        {"role": "user", "content": "Go."},
        {"role": "assistant", "content": "Done."},
        {"role": "user", "content": "No."},
    ]


def test_system_text_becomes_instructions_in_the_responses_api() -> None:
    request = a_request(
        (Role.SYSTEM, "Rules."), (Role.USER, "Go."), (Role.ASSISTANT, "Done."), (Role.USER, "No.")
    )
    with LoopbackServer([says("ok")]) as server:
        ask(model_at(server.base_url, dialect="responses"), request)
    assert server.requests[0].path == "/v1/responses"
    assert server.requests[0].body["instructions"] == "Rules."
    assert server.requests[0].body["input"] == [
        {"role": "user", "content": "Go."},
        {"role": "assistant", "content": "Done."},
        {"role": "user", "content": "No."},
    ]


@every_way
def test_settings_nobody_gave_are_not_sent(dialect: str, stream: bool) -> None:
    with LoopbackServer([says("ok")]) as server:
        ask(model_at(server.base_url, dialect=dialect, stream=stream))
    sent = set(server.requests[0].body) - {"model", "messages", "input", "instructions", "stream"}
    assert sent == ({"stream_options"} if stream and dialect == "chat" else set())


@every_way
def test_an_effort_is_passed_as_given(dialect: str, stream: bool) -> None:
    request = a_request(sampling=Sampling(reasoning_effort="ultra"))
    with LoopbackServer([says("ok")]) as server:
        ask(model_at(server.base_url, dialect=dialect, stream=stream), request)
    body = server.requests[0].body
    if dialect == "responses":
        assert body["reasoning"] == {"effort": "ultra"}
    else:
        assert body["reasoning_effort"] == "ultra"


def test_a_gateways_model_name_is_sent_verbatim() -> None:
    with LoopbackServer([says("ok")]) as server:
        ask(EndpointModel(at(server.base_url, model="anthropic/claude-sonnet-4-5"), patience=HURRY))
    assert server.requests[0].body["model"] == "anthropic/claude-sonnet-4-5"


def test_an_endpoint_without_stream_options_is_asked_without_them_from_then_on() -> None:
    rejects = fails(400, "Unrecognized request argument supplied: stream_options")
    with LoopbackServer([rejects, says("one"), says("two")]) as server:
        replies = ask(model_at(server.base_url), a_request(), a_request())
    assert [r.text for r in replies] == ["one", "two"]
    assert ["stream_options" in r.body for r in server.requests] == [True, False, False]


@every_dialect
def test_an_endpoint_that_does_not_stream_is_read_all_the_same(dialect: str) -> None:
    with LoopbackServer([answers_whole_though_asked_to_stream("whole")]) as server:
        [reply] = ask(model_at(server.base_url, dialect=dialect))
    assert (reply.text, reply.finish) == ("whole", Finish.COMPLETE)
    assert reply.usage is not None


def test_text_that_was_streamed_counts_where_the_last_event_repeats_none() -> None:
    with LoopbackServer([forgets_what_it_streamed("all of it")]) as server:
        [reply] = ask(model_at(server.base_url, dialect="responses"))
    assert (reply.text, reply.finish) == ("all of it", Finish.COMPLETE)


@every_way
def test_questions_may_be_asked_at_once(dialect: str, stream: bool) -> None:
    requests = [a_request((Role.USER, f"number {n}")) for n in range(5)]
    with LoopbackServer(lambda asked: says(asked.prompt)) as server:
        replies = ask_together(model_at(server.base_url, dialect=dialect, stream=stream), requests)
    assert [r.text.strip() for r in replies] == [f"number {n}" for n in range(5)]


def test_a_model_can_be_used_from_one_event_loop_after_another() -> None:
    async def once() -> str:
        return (await model.ask(a_request())).text

    # The second loop must not be handed a connection that the first, now closed, left open.
    with LoopbackServer([says("one"), says("two")], keep_alive=True) as server:
        model = model_at(server.base_url)
        assert [asyncio.run(once()), asyncio.run(once())] == ["one", "two"]


def test_the_price_at_a_host_that_is_in_no_table_is_unknown() -> None:
    with LoopbackServer([says("ok", model="gpt-4o-2024-08-06")]) as server:
        [reply] = ask(model_at(server.base_url))
    assert reply.model == "gpt-4o-2024-08-06"
    assert reply.cost_usd is None
