"""Google's batches for Gemini: what is handed in, what is read, and what is found again.

The server is an imitation on this machine.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from kernel_generator.domain.conversation import Finish, Role, Sampling, Usage
from kernel_generator.domain.errors import InvalidInput, ProviderRefused, ProviderUnavailable
from kernel_generator.models.batch import Answered, BatchRequest, Sought, Unanswered
from kernel_generator.models.batch_gemini import GeminiDesk
from kernel_generator.models.credentials import resolve
from kernel_generator.models.price import cost_usd
from tests.loopback_batch_gemini import GeminiServer, blocked, errs, says
from tests.models.asking import HURRY, a_request, directory_at

if TYPE_CHECKING:
    from collections.abc import Coroutine, Generator

KEY = "AIza-planted-4711"
MODEL = "gemini-2.5-pro"
NAME = "0123abcd" * 4
"""A batch's key."""


@pytest.fixture
def server() -> Generator[GeminiServer]:
    with GeminiServer() as found:
        yield found


def desk_at(server: GeminiServer, model: str = MODEL) -> GeminiDesk:
    directory = directory_at(gemini=server.base_url)
    return GeminiDesk(resolve(model, api_key=KEY, environment={}, directory=directory), HURRY)


def at_home() -> GeminiDesk:
    return GeminiDesk(resolve(MODEL, api_key=KEY, environment={}))


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


def asks(*names: str, effort: str | None = None) -> list[BatchRequest]:
    return [BatchRequest(name, a_request().messages, Sampling(effort)) for name in names]


def made(desk: GeminiDesk, *names: str, effort: str | None = None, key: str = NAME) -> Any:
    return run(desk.create(run(desk.prepare(asks(*names, effort=effort), key))))


def test_a_request_is_put_into_geminis_words(server: GeminiServer) -> None:
    request = a_request(
        (Role.SYSTEM, "Be brief."),
        (Role.USER, "Write one."),
        (Role.ASSISTANT, "One."),
        (Role.USER, "Mend it."),
    )
    desk = desk_at(server)
    handed = [BatchRequest("deadbeef-r1-s1", request.messages, Sampling())]
    batch = run(desk.create(run(desk.prepare(handed, NAME))))
    assert (batch.batch_id, batch.status, batch.is_over) == ("batches/1", "pending", False)
    assert (batch.done, batch.total) == (0, 1)
    assert server.requests() == [
        {
            "key": "deadbeef-r1-s1",
            "request": {
                "systemInstruction": {"parts": [{"text": "Be brief."}]},
                "contents": [
                    {"role": "user", "parts": [{"text": "Write one."}]},
                    {"role": "model", "parts": [{"text": "One."}]},
                    {"role": "user", "parts": [{"text": "Mend it."}]},
                ],
            },
        }
    ]
    [operation] = server.batches.values()
    assert operation["metadata"]["displayName"] == NAME
    assert operation["metadata"]["model"] == f"models/{MODEL}"


def test_the_key_is_shown_as_google_wants_it_and_in_no_other_way(server: GeminiServer) -> None:
    made(desk_at(server), "one")
    assert server.keys == {KEY}
    for headers in server.headers:
        assert [name for name, value in headers.items() if KEY in value] == ["x-goog-api-key"]
    assert not [path for path in server.asked if "openai" in path]


@pytest.mark.parametrize(
    ("model", "effort", "config"),
    [
        ("gemini-2.5-pro", "low", {"thinkingBudget": 1_024}),
        ("gemini-2.5-flash", "none", {"thinkingBudget": 0}),
        ("gemini-2.5-flash", "high", {"thinkingBudget": 24_576}),
        ("gemini-3-pro-preview", "high", {"thinkingLevel": "high"}),
        ("gemini-3.5-flash", "minimal", {"thinkingLevel": "minimal"}),
    ],
)
def test_an_effort_is_a_budget_or_a_level(
    server: GeminiServer, model: str, effort: str, config: dict[str, object]
) -> None:
    desk = desk_at(server, model)
    run(desk.check(Sampling(effort)))
    made(desk, "one", effort=effort)
    [line] = server.requests()
    assert line["request"]["generationConfig"] == {"thinkingConfig": config}


@pytest.mark.parametrize(
    ("model", "effort"),
    [("gemini-3-pro-preview", "none"), ("gemini-2.5-pro", "xhigh"), ("gemini-2.0-flash", "low")],
)
def test_an_effort_that_the_api_has_no_word_for_is_told_before_anything_is_sent(
    server: GeminiServer, model: str, effort: str
) -> None:
    desk = desk_at(server, model)
    with pytest.raises(InvalidInput, match="takes no reasoning_effort"):
        run(desk.check(Sampling(effort)))
    with pytest.raises(InvalidInput, match="takes no reasoning_effort"):
        run(desk.prepare(asks("one", effort=effort), NAME))
    assert server.asked == []


@pytest.mark.parametrize("inlined", [False, True], ids=["a file", "in the batch"])
@pytest.mark.parametrize("state", ["BATCH_STATE_", "JOB_STATE_"])
def test_results_are_read_as_answers_are(server: GeminiServer, inlined: bool, state: str) -> None:
    server.state = state
    desk = desk_at(server)
    ways = {
        "plain": says("line one\u2028line two"),
        "cut": says("half", finish="MAX_TOKENS"),
        "odd": says("half", finish="OTHER"),
        "refused": says("", finish="SAFETY", message="Not this."),
        "blocked": blocked("PROHIBITED_CONTENT"),
        "empty": says(""),
        "wrong": errs("Request contains an invalid argument."),
        "nothing": {"response": {}},
    }
    batch = made(desk, *ways)
    server.end(lambda line: ways[line["key"]], inlined=inlined)
    batch = run(desk.look_up(batch.batch_id))
    assert (batch.status, batch.is_over, batch.done, batch.total) == ("succeeded", True, 8, 8)
    assert batch.seconds == 90.0
    found = {one.custom_id: one for one in run(desk.results(batch))}
    assert {n: one.reply.finish for n, one in found.items() if isinstance(one, Answered)} == {
        "plain": Finish.COMPLETE,
        "cut": Finish.LENGTH,
        "odd": Finish.LENGTH,
        "refused": Finish.REFUSED,
        "blocked": Finish.REFUSED,
        "empty": Finish.EMPTY,
    }
    reply = found["plain"].reply
    assert reply.text == "line one\u2028line two", "what was thought is no part of it"
    assert reply.usage == Usage(prompt=100, cached=40, completion=20, reasoning=5)
    assert (reply.model, reply.seconds) == ("gemini-reported-1", 90.0)
    assert found["refused"].reply.detail == "Not this."
    assert found["blocked"].reply.detail == "blocked: PROHIBITED_CONTENT"
    assert found["cut"].reply.detail == "finishReason: MAX_TOKENS"
    assert "invalid argument" in found["wrong"].reason
    assert "nothing" in found["nothing"].reason


def test_what_google_answers_in_a_batch_costs_half_but_for_what_was_cached() -> None:
    found = {"key": "one"} | says("text")
    found["response"]["modelVersion"] = MODEL
    [result] = at_home().read(json.dumps(found).encode(), 1.0)
    assert isinstance(result, Answered)
    home = "https://generativelanguage.googleapis.com/v1beta/openai/"
    whole = cost_usd(Usage(100, 40, 20), MODEL, home)
    cached = cost_usd(Usage(40, 40), MODEL, home)
    assert whole is not None
    assert cached is not None
    assert result.reply.cost_usd == pytest.approx((whole - cached) / 2 + cached)


def test_lines_that_say_nothing_do_not_hide_the_others_and_show_no_key() -> None:
    lines = [
        '{"half',
        "[1]",
        '{"response": {}}',
        '{"key": "one"}',
        '{"key": "one", "response": {"candidates": [{}]}}',
        '{"key": "one", "response": {"candidates": 7}}',
        json.dumps({"key": "one"} | errs(f"not with {KEY}")),
        json.dumps({"key": "one"} | says("text")),
    ]
    results = at_home().read(b"\xff\n" + "\n".join(lines).encode(), 1.0)
    assert [one.custom_id for one in results] == ["", "", "", "", *["one"] * 5]
    assert [isinstance(one, Unanswered) for one in results] == [True] * 8 + [False]
    assert KEY not in str(results)


@pytest.mark.parametrize("state", ["FAILED", "CANCELLED", "EXPIRED"])
def test_a_batch_that_ended_without_results_says_why(server: GeminiServer, state: str) -> None:
    desk = desk_at(server)
    batch = made(desk, "one")
    server.fail(state, "it took too long")
    batch = run(desk.look_up(batch.batch_id))
    assert (batch.status, batch.is_over, batch.problem) == (
        state.lower(),
        True,
        "it took too long",
    )
    assert run(desk.results(batch)) == []


def test_results_that_are_no_longer_kept_are_none(server: GeminiServer) -> None:
    desk = desk_at(server)
    batch = made(desk, "one")
    server.end(lambda _: says("text"))
    server.files.clear()
    assert run(desk.results(run(desk.look_up(batch.batch_id)))) == []


@pytest.mark.parametrize("loses", [0, 500], ids=["no answer", "a server error"])
def test_a_batch_is_never_made_twice_and_is_found_by_its_name(
    server: GeminiServer, loses: int
) -> None:
    desk = desk_at(server)
    server.loses = loses
    with pytest.raises(ProviderUnavailable):
        made(desk, "one")
    assert server.asked.count(f"POST /v1beta/models/{MODEL}:batchGenerateContent") == 1
    server.loses = None
    for number in range(3):  # more than a page
        made(desk, "one", key=f"another-{number}")
    assert run(desk.find(Sought(NAME, 0.0, 1))).batch_id == "batches/1"
    assert run(desk.find(Sought("another-2", 0.0, 1))).batch_id == "batches/4"
    assert run(desk.find(Sought("never", 0.0, 1))) is None


def test_nothing_is_uploaded_to_another_host(server: GeminiServer) -> None:
    with GeminiServer() as other:
        server.uploads_at = f"{other.origin}/upload/v1beta/files?upload_id=1"
        with pytest.raises(ProviderRefused, match="the key is not sent there"):
            made(desk_at(server), "one")
        assert other.asked == []


def test_a_batch_that_nobody_knows_is_told(server: GeminiServer) -> None:
    with pytest.raises(ProviderRefused, match="knows no batch batches/9"):
        run(desk_at(server).look_up("batches/9"))


@pytest.mark.parametrize("status", [400, 403])
def test_a_refused_key_is_told_without_showing_it(server: GeminiServer, status: int) -> None:
    server.refusal = status
    with pytest.raises(ProviderRefused, match=str(status)) as raised:
        run(desk_at(server).check(Sampling()))
    assert KEY not in str(raised.value)


@pytest.mark.parametrize("status", [429, 503])
def test_a_hiccup_while_looking_up_passes_and_a_lasting_one_is_told(
    server: GeminiServer, status: int
) -> None:
    desk = desk_at(server)
    batch = made(desk, "one")
    server.hiccups = [status]
    assert run(desk.look_up(batch.batch_id)).batch_id == batch.batch_id
    server.hiccups = [status] * 2
    with pytest.raises(ProviderUnavailable, match=f"kept answering {status} after 1 retries"):
        run(desk.look_up(batch.batch_id))
