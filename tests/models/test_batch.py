"""The Batch API: what is handed in is what would be sent, and what comes back is read as an answer.

The server is an imitation on this machine.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from kernel_generator.domain.conversation import Finish, Role, Sampling
from kernel_generator.domain.errors import InvalidInput, ProviderRefused, ProviderUnavailable
from kernel_generator.models.batch import Answered, BatchRequest, Sought, Unanswered
from kernel_generator.models.batch_openai import OpenAIDesk
from kernel_generator.models.credentials import resolve
from kernel_generator.models.open_model import open_batches
from kernel_generator.models.price import cost_usd
from tests.loopback import LoopbackServer, says
from tests.loopback_batch import BatchServer, answered, rejected, replied, too_late
from tests.models.asking import HURRY, a_request, ask, at, model_at

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from tests.loopback_host import Line

every_dialect = pytest.mark.parametrize("dialect", ["chat", "responses"])
CHAT = {"custom_id": "one", "url": "/v1/chat/completions"}
KEY = "sk-planted-key-4711"


def desk_at(base_url: str, dialect: str = "chat") -> OpenAIDesk:
    return OpenAIDesk(at(base_url, dialect=dialect), HURRY)


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


@every_dialect
def test_a_line_says_what_would_be_sent_at_once(dialect: str) -> None:
    request = a_request(
        (Role.SYSTEM, "Be brief."),
        (Role.USER, "Write one."),
        (Role.ASSISTANT, "One."),
        (Role.USER, "Mend it."),
        sampling=Sampling(reasoning_effort="high"),
    )
    with LoopbackServer([says("x")]) as server:
        ask(model_at(server.base_url, dialect=dialect, stream=False), request)
        [sent] = server.requests
    with BatchServer() as server:
        desk = desk_at(server.base_url, dialect)
        handed = [BatchRequest("one", request.messages, request.sampling)]
        run(desk.create(run(desk.prepare(handed, "a-key"))))
        [line] = server.requests()
        [batch] = server.batches.values()
    assert line["body"] == {k: v for k, v in sent.body.items() if k != "stream"}
    assert line["custom_id"] == "one"
    assert line["method"] == "POST"
    assert line["url"] == sent.path == batch["endpoint"]
    assert server.keys == {"test-key"}


@every_dialect
def test_results_are_read_as_answers_are(dialect: str) -> None:
    with BatchServer() as server:
        desk = desk_at(server.base_url, dialect)
        names = ("plain", "cut", "refused", "filtered", "empty")
        handed = [BatchRequest(name, a_request().messages, Sampling()) for name in names]
        batch = run(desk.create(run(desk.prepare(handed, "a-key"))))
        ways = {
            "plain": {"text": "line one\u2028line two"},
            "cut": {"text": "half", "finish": "length"},
            "refused": {"text": "", "refusal": "No, sorry."},
            "filtered": {"text": "", "finish": "content_filter"},
            "empty": {"text": " "},
        }
        server.end(lambda line: answered(line, **ways[line["custom_id"]]))  # type: ignore[arg-type]
        batch = run(desk.look_up(batch.batch_id))
        results = run(desk.results(batch))
    assert (batch.is_over, batch.done, batch.total, batch.seconds) == (True, 5, 5, 90.0)
    found = {one.custom_id: one.reply for one in results}
    assert {name: reply.finish for name, reply in found.items()} == {
        "plain": Finish.COMPLETE,
        "cut": Finish.LENGTH,
        "refused": Finish.REFUSED,
        "filtered": Finish.REFUSED,
        "empty": Finish.EMPTY,
    }
    assert found["plain"].text == "line one\u2028line two"
    assert found["refused"].detail == "No, sorry."
    assert found["plain"].usage.prompt == 100
    assert found["plain"].seconds == 90.0
    assert found["plain"].cost_usd is None, "nobody's endpoint, nobody's price"


def test_what_openai_answers_in_a_batch_costs_half() -> None:
    desk = OpenAIDesk(resolve("gpt-4o", api_key="k", environment={}))
    line = answered(CHAT, "text")
    line["response"]["body"]["model"] = "gpt-4o"
    [result] = desk.read(json.dumps(line).encode(), 1.0)
    assert isinstance(result, Answered)
    whole = cost_usd(result.reply.usage, "gpt-4o", "https://api.openai.com/v1/")
    assert whole is not None
    assert result.reply.cost_usd == pytest.approx(whole / 2)


@pytest.mark.parametrize(
    ("line", "says_what"),
    [
        (rejected(CHAT, f"too long for {KEY}", "context_length_exceeded"), "too long for [key]"),
        (rejected(CHAT, "not now", "server_error", 500), "not now"),
        (too_late(CHAT), "could not be executed before the completion window expired"),
        (replied(CHAT, 503, None), "status 503"),
        (replied(CHAT, 200, None), "status 200"),
        (replied(CHAT, 200, {"choices": []}), "holds no choice"),
        (replied(CHAT, 200, ["a", "list"]), "unexpected shape"),
        (replied(CHAT, 502, "<html>"), "unexpected shape"),
    ],
    ids=["rejected", "failing", "expired", "bare", "no body", "no choice", "a list", "a page"],
)
def test_a_request_without_an_answer_says_why(line: Line, says_what: str) -> None:
    desk = OpenAIDesk(resolve("m", api_key=KEY, base_url="http://127.0.0.1:1/v1", environment={}))
    [result] = desk.read(json.dumps(line).encode(), 1.0)
    assert isinstance(result, Unanswered)
    assert result.custom_id == "one"
    assert says_what in result.reason


def test_what_the_providers_rules_refuse_is_a_refusal() -> None:
    desk = desk_at("http://127.0.0.1:1/v1")
    line = rejected(CHAT, "against the rules", "content_filter")
    [result] = desk.read(json.dumps(line).encode(), 1.0)
    assert isinstance(result, Answered)
    assert (result.reply.finish, result.reply.detail) == (Finish.REFUSED, "against the rules")


def test_lines_that_say_nothing_do_not_hide_the_others() -> None:
    desk = desk_at("http://127.0.0.1:1/v1")
    content = b'{"half\n\n[1]\n\xff\n' + json.dumps(answered(CHAT, "text")).encode()
    results = desk.read(content, 1.0)
    assert [one.custom_id for one in results] == ["", "", "", "one"]
    assert isinstance(results[-1], Answered)


@pytest.mark.parametrize("status", [404, 405, 501])
def test_an_endpoint_without_batches_is_told_beforehand(status: int) -> None:
    with BatchServer() as server:
        server.refusal = status
        with pytest.raises(InvalidInput, match="has no Batch API"):
            run(desk_at(server.base_url).check(Sampling()))


def test_a_wrong_key_is_told_without_showing_it() -> None:
    with BatchServer() as server:
        server.refusal = 401
        with pytest.raises(ProviderRefused, match="rejected the key") as raised:
            run(desk_at(server.base_url).check(Sampling()))
    assert "test-key" not in str(raised.value)


def test_a_web_page_is_no_batch_api() -> None:
    with BatchServer() as server:
        server.is_a_web_page = True
        with pytest.raises(ProviderRefused, match="the base URL is probably wrong"):
            run(desk_at(server.base_url).check(Sampling()))


@pytest.mark.parametrize("model", ["offline", "replay:x", "builtin:compiler"])
def test_models_that_have_no_batches_are_told(model: str) -> None:
    with pytest.raises(InvalidInput, match="leave --batch out"):
        open_batches(model, environment={})


@pytest.mark.parametrize("loses", [0, 500], ids=["no answer", "a server error"])
def test_a_batch_is_never_made_twice_and_is_found_by_its_key(loses: int) -> None:
    with BatchServer() as server:
        desk = desk_at(server.base_url)
        handed = [BatchRequest("one", a_request().messages, Sampling())]
        draft = run(desk.prepare(handed, "a-key"))
        server.loses = loses
        with pytest.raises(ProviderUnavailable):
            run(desk.create(draft))
        assert server.asked.count("POST /v1/batches") == 1
        found = run(desk.find(Sought("a-key", 0.0, 1)))
        assert found is not None
        assert found.batch_id == "batch_1"
        assert run(desk.find(Sought("another-key", 0.0, 1))) is None


def test_a_batch_that_nobody_knows_is_told() -> None:
    with BatchServer() as server, pytest.raises(ProviderRefused, match="knows no batch batch_9"):
        run(desk_at(server.base_url).look_up("batch_9"))
