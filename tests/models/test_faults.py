"""Everything a provider can do wrong: what is asked again, what is not, and what the user reads."""

from __future__ import annotations

import traceback
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from kernel_generator.domain.conversation import Finish
from kernel_generator.domain.errors import ProviderRefused, ProviderUnavailable, RequestRefused
from kernel_generator.models.credentials import resolve
from kernel_generator.models.endpoint_model import EndpointModel
from kernel_generator.models.open_model import open_model
from tests.loopback import (
    LoopbackServer,
    ends_early,
    fails,
    hangs_up_midway,
    is_a_web_page,
    is_invalid_json,
    is_other_json,
    keeps_alive_for,
    never_finishes,
    redirects,
    resets_after_the_last_word,
    resets_midway,
    says,
    stalls_before_answering,
    stalls_midway,
    streams_an_error,
    streams_garbage,
)
from tests.models.asking import HURRY, ask, directory_at, model_at

if TYPE_CHECKING:
    from kernel_generator.domain.errors import ProviderError
    from tests.loopback import Behaviour

WAYS = [(d, s) for d in ("chat", "responses") for s in (True, False)]
every_way = pytest.mark.parametrize(
    ("dialect", "stream"), WAYS, ids=[f"{d}-{'stream' if s else 'whole'}" for d, s in WAYS]
)
every_dialect = pytest.mark.parametrize("dialect", ["chat", "responses"])

# An answer that is not streamed has no silence to measure: only its whole wait is bounded.
SHORT = replace(HURRY, answer_s=0.3)

BREAKS_A_STREAM = {
    "stall": stalls_midway(),
    "reset": resets_midway(),
    "hang-up": hangs_up_midway(),
    "early-end": ends_early(),
    "garbage": streams_garbage(),
    "server-error": streams_an_error("overloaded", "server_error"),
    "invalid-json": is_invalid_json(),
}
every_break = pytest.mark.parametrize(
    "behaviour", BREAKS_A_STREAM.values(), ids=BREAKS_A_STREAM.keys()
)


@every_way
@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 529])
def test_a_passing_status_is_asked_again(dialect: str, stream: bool, status: int) -> None:
    with LoopbackServer([fails(status), says("at last")]) as server:
        [reply] = ask(model_at(server.base_url, dialect=dialect, stream=stream))
    assert reply.text == "at last"
    assert len(server.requests) == 2


@every_dialect
def test_retry_after_is_honoured(dialect: str) -> None:
    """The first pause without it is half a second at the most."""
    with LoopbackServer([fails(429, retry_after_s=0.6), says("at last")]) as server:
        [reply] = ask(model_at(server.base_url, dialect=dialect))
    assert reply.text == "at last"
    assert server.gaps()[0] >= 0.6


@every_way
def test_a_status_that_does_not_pass_ends_as_unavailable(dialect: str, stream: bool) -> None:
    with (
        LoopbackServer([fails(500, "come back tomorrow")] * 5) as server,
        pytest.raises(ProviderUnavailable, match=r"500.*come back tomorrow"),
    ):
        ask(model_at(server.base_url, dialect=dialect, stream=stream))
    assert len(server.requests) == 1 + HURRY.max_retries


@every_way
@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422])
def test_a_final_status_is_not_asked_again(dialect: str, stream: bool, status: int) -> None:
    with (
        LoopbackServer([fails(status, "because"), says("too late")]) as server,
        pytest.raises(ProviderRefused, match=rf"{status}.*because"),
    ):
        ask(model_at(server.base_url, dialect=dialect, stream=stream))
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("status", "advice"),
    [
        (400, "change the setting or model it names"),
        (401, "check or renew that key"),
        (403, "may lack access to model 'local-model'"),
        (404, "check the model name 'local-model' and the base URL"),
    ],
)
def test_a_refusing_provider_is_reported_with_what_to_fix(status: int, advice: str) -> None:
    with LoopbackServer([fails(status)]) as server, pytest.raises(ProviderRefused, match=advice):
        ask(model_at(server.base_url))


def test_a_rejected_key_is_named_by_where_it_came_from_and_never_shown() -> None:
    secret = "sk-secret-secret"
    echo = fails(401, f"Incorrect API key provided: {secret}")
    with LoopbackServer([echo]) as server:
        endpoint = resolve(
            "gpt-4o",
            environment={"OPENAI_API_KEY": secret},
            directory=directory_at(openai=server.base_url),
        )
        with pytest.raises(ProviderRefused) as raised:
            ask(EndpointModel(endpoint, patience=HURRY))
    assert "OPENAI_API_KEY" in str(raised.value)
    assert secret not in str(raised.value)


def test_a_key_is_blotted_out_before_a_long_message_is_clipped() -> None:
    secret = "sk-" + "0123456789" * 4
    echo = fails(401, "x" * 590 + secret)
    with LoopbackServer([echo]) as server, pytest.raises(ProviderRefused) as raised:
        ask(open_model("q", api_key=secret, base_url=server.base_url, environment={}))
    assert "x" * 590 in str(raised.value)
    assert secret[:8] not in str(raised.value)


# --- what a traceback shows ------------------------------------------------------------------

KEYS = {"OPENAI_API_KEY": "sk-key-of-openai", "ANTHROPIC_API_KEY": "sk-key-of-anthropic"}
ECHO = f"rejected: Authorization: Bearer {KEYS['OPENAI_API_KEY']}"

REFUSES_WITH_AN_ECHO = {
    "400": fails(400, ECHO),
    "401": fails(401, ECHO),
    "403": fails(403, ECHO),
    "404": fails(404, ECHO),
    "quota": fails(429, ECHO, code="insufficient_quota"),
    "told-in-a-stream": streams_an_error(ECHO, "invalid_api_key"),
    "told-in-a-body": is_other_json({"error": {"message": ECHO, "code": "invalid_api_key"}}),
    "web-page": is_a_web_page(),
    "redirect": redirects(f"http://user:{KEYS['OPENAI_API_KEY']}@h.test/?key={ECHO}"),
    "redirect-path": redirects(f"/{KEYS['OPENAI_API_KEY']}"),
}
FAILS_WITH_AN_ECHO = {
    "429": fails(429, ECHO),
    "500": fails(500, ECHO),
    "stall": stalls_midway(),
    "reset": resets_midway(),
    "garbage": streams_garbage(),
    "told-in-a-stream": streams_an_error(ECHO, "server_error"),
    "told-in-a-body": is_other_json({"error": {"message": ECHO, "code": "overloaded"}}),
    "other-json": is_other_json({"choices": ECHO, "output": ECHO}),
    "no-answer": stalls_before_answering(),
}


def printed_with_both_keys_set(behaviour: Behaviour, error: type[ProviderError]) -> str:
    """The whole traceback of what asking raises."""
    with LoopbackServer(lambda _request: behaviour) as server:
        endpoint = resolve(
            "gpt-4o", environment=KEYS, directory=directory_at(openai=server.base_url)
        )
        with pytest.raises(error) as raised:
            patience = replace(HURRY, max_retries=0, limited_s=0.0)
            ask(EndpointModel(endpoint, patience=patience))
    return "".join(traceback.format_exception(raised.value))


@pytest.mark.parametrize(
    ("behaviour", "error"),
    [
        (b, RequestRefused if status == "400" else ProviderRefused)
        for status, b in REFUSES_WITH_AN_ECHO.items()
    ]
    + [(b, ProviderUnavailable) for b in FAILS_WITH_AN_ECHO.values()],
    ids=[f"refused-{n}" for n in REFUSES_WITH_AN_ECHO]
    + [f"unavailable-{n}" for n in FAILS_WITH_AN_ECHO],
)
def test_no_traceback_shows_a_key(behaviour: Behaviour, error: type[ProviderError]) -> None:
    printed = printed_with_both_keys_set(behaviour, error)
    assert error.__name__ in printed
    assert not [key for key in KEYS.values() if key in printed]
    assert "openai." not in printed, "the SDK's own errors quote the provider unedited"


@pytest.mark.parametrize(
    ("behaviour", "error"),
    [
        (fails(400, "too long", code="context_length_exceeded"), RequestRefused),
        (fails(413), RequestRefused),
        (fails(422), RequestRefused),
        (streams_an_error("too long", "context_length_exceeded"), RequestRefused),
        (streams_an_error("who?", "model_not_found"), ProviderRefused),
        (fails(400, "who?", code="model_not_found"), ProviderRefused),
        (fails(400, "API key not valid. Please pass a valid API key."), ProviderRefused),
        (fails(401), ProviderRefused),
        (fails(404), ProviderRefused),
    ],
)
def test_what_is_about_the_request_is_told_from_what_is_about_key_and_model(
    behaviour: Behaviour, error: type[ProviderError]
) -> None:
    with LoopbackServer([behaviour]) as server, pytest.raises(error) as raised:
        ask(model_at(server.base_url))
    assert type(raised.value) is error


def test_an_exhausted_quota_is_a_refusal_not_a_wait() -> None:
    spent = fails(429, "You exceeded your current quota", code="insufficient_quota")
    with (
        LoopbackServer([spent] * 5) as server,
        pytest.raises(ProviderRefused, match="no quota left"),
    ):
        ask(model_at(server.base_url))
    assert len(server.requests) == 1


@every_way
def test_a_question_the_providers_filter_rejects_is_a_refusal(dialect: str, stream: bool) -> None:
    filtered = fails(400, "The prompt was filtered", code="content_filter")
    with LoopbackServer([filtered]) as server:
        [reply] = ask(model_at(server.base_url, dialect=dialect, stream=stream))
    assert reply.finish is Finish.REFUSED
    assert "The prompt was filtered" in reply.detail


@every_dialect
@every_break
def test_a_stream_that_breaks_is_asked_again(dialect: str, behaviour) -> None:
    with LoopbackServer([behaviour, says("at last")]) as server:
        [reply] = ask(model_at(server.base_url, dialect=dialect))
    assert reply.text == "at last"
    assert len(server.requests) == 2


@every_dialect
@every_break
def test_a_stream_that_keeps_breaking_ends_as_unavailable(dialect: str, behaviour) -> None:
    with (
        LoopbackServer([behaviour] * 5) as server,
        pytest.raises(ProviderUnavailable, match="no whole answer in 2 tries"),
    ):
        ask(model_at(server.base_url, dialect=dialect))
    assert len(server.requests) == 1 + HURRY.max_retries


@every_way
def test_a_provider_that_never_begins_to_answer_ends_as_unavailable(
    dialect: str, stream: bool
) -> None:
    patience = replace(SHORT, max_retries=0)
    with (
        LoopbackServer([stalls_before_answering()]) as server,
        pytest.raises(ProviderUnavailable, match="did not answer in time"),
    ):
        ask(model_at(server.base_url, dialect=dialect, stream=stream, patience=patience))


@every_dialect
def test_a_whole_answer_that_is_reset_is_asked_again(dialect: str) -> None:
    with LoopbackServer([resets_midway(), says("at last")]) as server:
        [reply] = ask(model_at(server.base_url, dialect=dialect, stream=False))
    assert reply.text == "at last"


@every_dialect
def test_a_whole_answer_that_is_no_json_is_asked_again(dialect: str) -> None:
    with LoopbackServer([is_invalid_json(), says("at last")]) as server:
        [reply] = ask(model_at(server.base_url, dialect=dialect, stream=False))
    assert reply.text == "at last"


@every_way
@pytest.mark.parametrize(
    "body",
    [{"choices": "none", "output": "none", "status": "completed"}, {"hello": "world"}, [1, 2], 7],
    ids=["wrong-types", "other-fields", "list", "number"],
)
def test_json_of_another_shape_ends_as_unavailable(
    dialect: str, stream: bool, body: object
) -> None:
    with (
        LoopbackServer([is_other_json(body)] * 5) as server,
        pytest.raises(ProviderUnavailable, match="no whole answer in 2 tries"),
    ):
        ask(model_at(server.base_url, dialect=dialect, stream=stream))
    assert len(server.requests) == 1 + HURRY.max_retries


@every_way
def test_a_web_page_means_the_base_url_is_wrong(dialect: str, stream: bool) -> None:
    with (
        LoopbackServer([is_a_web_page()]) as server,
        pytest.raises(ProviderRefused, match="base URL is probably wrong"),
    ):
        ask(model_at(server.base_url, dialect=dialect, stream=stream))
    assert len(server.requests) == 1


@every_way
@pytest.mark.parametrize("kind", ["application/json", "text/plain"])
def test_a_web_page_is_known_whatever_it_calls_itself(
    dialect: str, stream: bool, kind: str
) -> None:
    with (
        LoopbackServer([is_a_web_page(kind)]) as server,
        pytest.raises(ProviderRefused, match="base URL is probably wrong"),
    ):
        ask(model_at(server.base_url, dialect=dialect, stream=stream))
    assert len(server.requests) == 1


@every_way
def test_a_redirect_is_not_followed_but_named(dialect: str, stream: bool) -> None:
    with (
        LoopbackServer([says("the key arrived here")]) as elsewhere,
        LoopbackServer([redirects(elsewhere.base_url)]) as server,
        pytest.raises(ProviderRefused, match="redirects to") as raised,
    ):
        ask(model_at(server.base_url, dialect=dialect, stream=stream))
    assert elsewhere.base_url in str(raised.value)
    assert elsewhere.requests == []


@every_dialect
def test_an_error_told_inside_a_stream_can_be_final(dialect: str) -> None:
    told = streams_an_error("your context is too long", "context_length_exceeded")
    with (
        LoopbackServer([told, says("too late")]) as server,
        pytest.raises(ProviderRefused, match="your context is too long"),
    ):
        ask(model_at(server.base_url, dialect=dialect))
    assert len(server.requests) == 1


@pytest.mark.parametrize("stream", [True, False])
def test_an_error_in_a_body_of_status_200_is_told(stream: bool) -> None:
    body = {"error": {"message": "no such model", "code": "model_not_found"}}
    with (
        LoopbackServer([is_other_json(body)]) as server,
        pytest.raises(ProviderRefused, match="no such model"),
    ):
        ask(model_at(server.base_url, stream=stream))


@pytest.mark.parametrize("stream", [True, False])
def test_an_answer_that_ends_in_an_error_is_asked_again(stream: bool) -> None:
    with LoopbackServer([says("half an ans", finish="error"), says("at last")]) as server:
        [reply] = ask(model_at(server.base_url, stream=stream))
    assert reply.text == "at last"


def test_an_answer_that_breaks_after_its_last_word_is_kept() -> None:
    with LoopbackServer([resets_after_the_last_word("all of it")]) as server:
        [reply] = ask(model_at(server.base_url))
    assert (reply.text, reply.finish, reply.usage) == ("all of it", Finish.COMPLETE, None)
    assert len(server.requests) == 1


@every_dialect
def test_comments_keep_a_stream_alive(dialect: str) -> None:
    with LoopbackServer([keeps_alive_for(3, then=says("at last"))]) as server:
        [reply] = ask(model_at(server.base_url, dialect=dialect))
    assert reply.text == "at last"


@every_dialect
def test_a_stream_that_lives_on_without_an_end_is_given_up(dialect: str) -> None:
    with (
        LoopbackServer([never_finishes()]) as server,
        pytest.raises(ProviderUnavailable, match=r"not finished after 0\.3 s"),
    ):
        patience = replace(SHORT, max_retries=0)
        ask(model_at(server.base_url, dialect=dialect, patience=patience))


def test_a_host_that_does_not_listen_is_unavailable() -> None:
    with LoopbackServer() as server:
        gone = server.base_url
    with pytest.raises(ProviderUnavailable, match="could not be reached"):
        ask(model_at(gone, patience=replace(HURRY, max_retries=0)))
