"""Anthropic's Message Batches: what is handed in, what is read, and what is found again.

The server is an imitation on this machine.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from kernel_generator.domain.conversation import Finish, Role, Sampling
from kernel_generator.domain.errors import InvalidInput, ProviderRefused, ProviderUnavailable
from kernel_generator.models.batch import Answered, BatchRequest, Sought, Unanswered, Unclear
from kernel_generator.models.batch_anthropic import AnthropicDesk
from kernel_generator.models.credentials import resolve
from kernel_generator.models.open_model import open_batches
from kernel_generator.models.price import cost_usd
from tests.loopback_batch_anthropic import CANCELED, EXPIRED, AnthropicServer, errs, says
from tests.models.asking import HURRY, a_request, directory_at

if TYPE_CHECKING:
    from collections.abc import Coroutine, Generator

    from tests.loopback_host import Line

KEY = "sk-ant-planted-4711"
MODEL = "claude-sonnet-4-5"
NAME = "0123abcd" * 4
"""A batch's key."""


@pytest.fixture
def server() -> Generator[AnthropicServer]:
    with AnthropicServer() as found:
        yield found


def desk_at(server: AnthropicServer) -> AnthropicDesk:
    directory = directory_at(anthropic=server.base_url)
    return AnthropicDesk(resolve(MODEL, api_key=KEY, environment={}, directory=directory), HURRY)


def at_home() -> AnthropicDesk:
    return AnthropicDesk(resolve(MODEL, api_key=KEY, environment={}))


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


def asks(*names: str, effort: str | None = None) -> list[BatchRequest]:
    return [BatchRequest(name, a_request().messages, Sampling(effort)) for name in names]


def made(desk: AnthropicDesk, *names: str, effort: str | None = None) -> Any:
    return run(desk.create(run(desk.prepare(asks(*names, effort=effort), NAME))))


def line(result: Line) -> bytes:
    return json.dumps({"custom_id": f"{NAME}_one", "result": result}).encode()


def sought(count: int = 1, *others: str) -> Sought:
    return Sought(NAME, time.time(), count, frozenset(others))


def test_a_request_is_put_into_anthropics_words(server: AnthropicServer) -> None:
    request = a_request(
        (Role.SYSTEM, "Be brief."),
        (Role.USER, "Write one."),
        (Role.ASSISTANT, "One."),
        (Role.USER, "Mend it."),
    )
    desk = desk_at(server)
    handed = [BatchRequest("deadbeef-r1-s1", request.messages, Sampling())]
    batch = run(desk.create(run(desk.prepare(handed, NAME))))
    assert (batch.status, batch.is_over, batch.done, batch.total) == ("in_progress", False, 0, 1)
    assert server.requests() == [
        {
            "custom_id": f"{NAME}_deadbeef-r1-s1",
            "params": {
                "model": MODEL,
                "max_tokens": 64_000,
                "system": "Be brief.",
                "messages": [
                    {"role": "user", "content": "Write one."},
                    {"role": "assistant", "content": "One."},
                    {"role": "user", "content": "Mend it."},
                ],
            },
        }
    ]


def test_the_key_is_shown_as_anthropic_wants_it_and_in_no_other_way(
    server: AnthropicServer,
) -> None:
    made(desk_at(server), "one")
    assert server.keys == {KEY}
    for headers in server.headers:
        assert "authorization" not in headers
        assert [name for name, value in headers.items() if KEY in value] == ["x-api-key"]


def test_an_effort_is_asked_for_with_the_thinking_that_it_is_about(
    server: AnthropicServer,
) -> None:
    made(desk_at(server), "one", effort="high")
    [request] = server.requests()
    assert request["params"]["output_config"] == {"effort": "high"}
    assert request["params"]["thinking"] == {"type": "adaptive"}


@pytest.mark.parametrize("effort", ["minimal", "xhigh", "max"])
def test_an_effort_that_the_model_does_not_take_is_told_before_anything_is_handed_in(
    server: AnthropicServer, effort: str
) -> None:
    desk = desk_at(server)
    with pytest.raises(InvalidInput, match=f"'{effort}': one of low, medium, high, or leave"):
        run(desk.check(Sampling(effort)))
    with pytest.raises(InvalidInput, match=f"takes no reasoning_effort '{effort}'"):
        run(desk.prepare(asks("one", effort=effort), NAME))
    assert server.batches == {}


def test_a_model_that_takes_no_effort_or_no_batches_is_told(server: AnthropicServer) -> None:
    server.capabilities = {"effort": {"supported": False}}
    with pytest.raises(InvalidInput, match="reasoning_effort 'low': leave it out"):
        run(desk_at(server).check(Sampling("low")))
    server.capabilities = {"batch": {"supported": False}}
    with pytest.raises(InvalidInput, match="is not asked in batches"):
        run(desk_at(server).check(Sampling()))


def test_where_nothing_is_said_of_a_model_a_bound_is_taken_that_all_accept(
    server: AnthropicServer,
) -> None:
    server.max_tokens = server.capabilities = None
    made(desk_at(server), "one", effort="xhigh")
    [request] = server.requests()
    assert request["params"]["max_tokens"] == 32_000
    assert request["params"]["output_config"] == {"effort": "xhigh"}
    assert "thinking" not in request["params"]


def test_a_name_that_anthropic_would_not_take_is_told(server: AnthropicServer) -> None:
    for name in ("a" * 32, "a b"):
        with pytest.raises(InvalidInput, match="cannot name a request at Anthropic"):
            run(desk_at(server).prepare(asks(name), NAME))
    run(desk_at(server).prepare(asks("a" * 31), NAME))


def test_results_are_read_as_answers_are(server: AnthropicServer) -> None:
    desk = desk_at(server)
    told = {"type": "refusal", "category": "cyber", "explanation": "Not this."}
    ways = {
        "plain": says("line one\u2028line two"),
        "cut": says("half", stop="max_tokens"),
        "full": says("half", stop="model_context_window_exceeded"),
        "refused": says("I", stop="refusal", stop_details=told),
        "empty": says(""),
        "late": EXPIRED,
        "stopped": CANCELED,
        "wrong": errs("messages.0: too long"),
        "busy": errs("Overloaded", "overloaded_error"),
    }
    batch = made(desk, *ways)
    server.end(lambda one: ways[one["custom_id"].removeprefix(f"{NAME}_")])
    batch = run(desk.look_up(batch.batch_id))
    assert (batch.status, batch.is_over, batch.done, batch.total) == ("ended", True, 9, 9)
    assert batch.seconds == 90.0
    found = {one.custom_id: one for one in run(desk.results(batch))}
    assert {n: one.reply.finish for n, one in found.items() if isinstance(one, Answered)} == {
        "plain": Finish.COMPLETE,
        "cut": Finish.LENGTH,
        "full": Finish.LENGTH,
        "refused": Finish.REFUSED,
        "empty": Finish.EMPTY,
    }
    reply = found["plain"].reply
    assert reply.text == "line one\u2028line two", "what was thought is no part of it"
    usage = reply.usage
    assert (usage.prompt, usage.cached, usage.completion, usage.reasoning) == (100, 40, 20, 5)
    assert (reply.model, reply.seconds) == ("claude-reported-1", 90.0)
    assert found["refused"].reply.detail == "Not this."
    assert found["cut"].reply.detail == "stop_reason: max_tokens"
    assert {n: one.reason for n, one in found.items() if isinstance(one, Unanswered)} == {
        "late": "the batch expired before this request was answered",
        "stopped": "the batch was cancelled before this request was answered",
        "wrong": "messages.0: too long",
        "busy": "the provider broke the answer off: Overloaded",
    }


def test_what_anthropic_answers_in_a_batch_costs_half() -> None:
    [result] = at_home().read(line(says("text", model="claude-sonnet-4-5-20250929")), 1.0)
    assert isinstance(result, Answered)
    home = "https://api.anthropic.com/v1/"
    whole = cost_usd(result.reply.usage, "claude-sonnet-4-5-20250929", home)
    assert whole is not None
    assert result.reply.cost_usd == pytest.approx(whole / 2)


def test_lines_that_say_nothing_do_not_hide_the_others_and_show_no_key() -> None:
    broken = [
        b'{"half',
        b"[1]",
        b"\xff",
        line({"type": "odd"}),
        line({"type": "succeeded", "message": {}}),
        line({"type": "succeeded", "message": {"content": [], "model": KEY}}),
        line(says("x") | {"message": None}),
        line(errs(f"not with {KEY}")),
    ]
    results = at_home().read(b"\n".join([*broken, line(says("text"))]), 1.0)
    assert [one.custom_id for one in results] == ["", "", "", *["one"] * 6]
    assert [isinstance(one, Unanswered) for one in results] == [True] * 8 + [False]
    assert KEY not in str(results)


@pytest.mark.parametrize("loses", [0, 500], ids=["no answer", "a server error"])
def test_a_batch_is_never_made_twice(server: AnthropicServer, loses: int) -> None:
    server.loses = loses
    with pytest.raises(ProviderUnavailable):
        made(desk_at(server), "one")
    assert server.asked.count("POST /v1/messages/batches") == 1


def test_a_batch_can_be_told_by_its_results_alone(server: AnthropicServer) -> None:
    desk = desk_at(server)
    for _ in range(3):  # more than a page
        server.add(1)
    mine = made(desk, "one")
    for _ in range(3):
        server.add(1)
    server.add(2)
    unclear = run(desk.find(sought()))
    assert isinstance(unclear, Unclear)
    assert set(unclear.batch_ids) == {f"msgbatch_{n}" for n in range(1, 8)}
    server.end(lambda _: says("text"), batch_id=mine.batch_id)
    found = run(desk.find(sought()))
    assert found.batch_id == mine.batch_id, "whatever the others are"


def test_a_batch_that_was_never_made_is_told_once_nothing_else_may_be_it(
    server: AnthropicServer,
) -> None:
    desk = desk_at(server)
    server.add(2)
    server.add(1, age_s=200_000.0)
    noted = server.add(1)
    assert run(desk.find(sought(1, noted))) is None, "other counts, long ago, known to be another"
    theirs = server.add(1)
    assert run(desk.find(sought(1, noted))) == Unclear((theirs,))
    server.end(lambda _: says("text"), batch_id=theirs)
    assert run(desk.find(sought(1, noted))) is None


def test_results_that_are_no_longer_kept_are_none(server: AnthropicServer) -> None:
    desk = desk_at(server)
    batch = made(desk, "one")
    server.end(lambda _: says("text"))
    kept = run(desk.look_up(batch.batch_id))
    server.archive()
    assert run(desk.results(kept)) == []
    batch = run(desk.look_up(batch.batch_id))
    assert batch.is_over
    assert batch.problem == "its results are no longer kept"
    assert run(desk.results(batch)) == []
    assert run(desk.find(sought())) is None


def test_results_at_another_host_are_not_fetched(server: AnthropicServer) -> None:
    desk = desk_at(server)
    batch = made(desk, "one")
    server.end(lambda _: says("text"))
    with AnthropicServer() as other:
        server.batches[batch.batch_id]["results_url"] = f"{other.base_url}results"
        over = run(desk.look_up(batch.batch_id))
        with pytest.raises(ProviderRefused, match="the key is not sent there"):
            run(desk.results(over))
        assert other.asked == []


def test_a_batch_that_nobody_knows_is_told(server: AnthropicServer) -> None:
    with pytest.raises(ProviderRefused, match="knows no batch msgbatch_9"):
        run(desk_at(server).look_up("msgbatch_9"))


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_is_told_without_showing_it(server: AnthropicServer, status: int) -> None:
    server.refusal = status
    with pytest.raises(ProviderRefused, match=str(status)) as raised:
        run(desk_at(server).check(Sampling()))
    assert KEY not in str(raised.value)


@pytest.mark.parametrize("status", [429, 500, 529])
def test_a_hiccup_while_looking_up_passes_and_a_lasting_one_is_told(
    server: AnthropicServer, status: int
) -> None:
    desk = desk_at(server)
    batch = made(desk, "one")
    server.hiccups = [status]
    assert run(desk.look_up(batch.batch_id)).batch_id == batch.batch_id
    server.hiccups = [status] * 2
    with pytest.raises(ProviderUnavailable, match=f"kept answering {status} after 1 retries"):
        run(desk.look_up(batch.batch_id))


def test_what_is_no_such_api_is_told(server: AnthropicServer) -> None:
    server.is_a_web_page = True
    with pytest.raises(ProviderRefused, match="the base URL is probably wrong"):
        run(desk_at(server).check(Sampling()))


def test_a_dialect_is_told_to_be_out_of_place() -> None:
    with pytest.raises(InvalidInput, match="leave --dialect out"):
        open_batches(MODEL, dialect="chat", environment={"ANTHROPIC_API_KEY": KEY})
