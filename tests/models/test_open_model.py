"""A model is opened by its name; everything wrong with it is said before anything is sent."""

from __future__ import annotations

import pytest

from kernel_generator.domain.errors import (
    InvalidInput,
    MissingKey,
    ProviderUnavailable,
    UnknownName,
)
from kernel_generator.models.open_model import THINKING_IDLE_S, open_model
from kernel_generator.models.protocol import Patience
from tests.loopback import LoopbackServer, says, stalls_midway
from tests.models.asking import ask, directory_at


def test_a_model_is_opened_by_name_and_base_url_and_answers() -> None:
    with LoopbackServer([says("hello")]) as server:
        model = open_model("qwen", base_url=server.base_url, environment={})
        assert model.name == "qwen"
        assert ask(model)[0].text == "hello"
    assert server.requests[0].body["model"] == "qwen"


def test_a_model_is_opened_by_name_and_the_environment() -> None:
    with LoopbackServer([says("hello")]) as server:
        environment = {"BASE_URL": server.base_url, "LLM_API_KEY": "llm"}
        assert ask(open_model("qwen", environment=environment))[0].text == "hello"
    assert server.keys == {"llm"}


def test_the_dialect_can_be_overridden() -> None:
    with LoopbackServer([says("hello")]) as server:
        ask(open_model("q", base_url=server.base_url, dialect="responses", environment={}))
    assert server.requests[0].speaks_responses


def test_streaming_can_be_turned_off() -> None:
    with LoopbackServer([says("hello")]) as server:
        ask(open_model("q", base_url=server.base_url, stream=False, environment={}))
    assert not server.requests[0].streams


def test_the_idle_timeout_and_the_retries_can_be_set() -> None:
    with LoopbackServer([stalls_midway()] * 3) as server:
        model = open_model(
            "q", base_url=server.base_url, idle_timeout_s=0.2, max_retries=0, environment={}
        )
        with pytest.raises(ProviderUnavailable, match="the stream stalled"):
            ask(model)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("model", "expected"),
    [("gpt-4o", Patience().idle_s), ("gpt-5", THINKING_IDLE_S), ("x/gpt-5", THINKING_IDLE_S)],
)
def test_models_that_reason_in_silence_are_given_longer(model: str, expected: float) -> None:
    with LoopbackServer([says("ok")]) as server:
        directory = directory_at(openai=server.base_url)
        given = {} if model.startswith("gpt") else {"base_url": server.base_url}
        ask(open_model(model, api_key="k", directory=directory, environment={}, **given))
    assert float(server.requests[0].headers["x-stainless-read-timeout"]) == expected


def test_no_key_is_said_on_opening() -> None:
    with pytest.raises(MissingKey, match="Please set LLM_API_KEY"):
        open_model("gpt-4o", environment={})


def test_an_unknown_builtin_model_offers_the_known() -> None:
    with pytest.raises(UnknownName, match="did you mean 'builtin:compiler'"):
        open_model("builtin:compilr")


@pytest.mark.parametrize(
    "model", ["gpt-4o", "gpt-4.1-mini", "gpt-5-chat-latest", "claude-opus-4-1"]
)
def test_an_effort_for_a_model_that_takes_none_is_refused_on_opening(model: str) -> None:
    with pytest.raises(InvalidInput, match=rf"'{model}' takes no reasoning_effort \(got 'high'\)"):
        open_model(model, api_key="k", reasoning_effort="high", environment={})


def test_the_embedded_model_takes_no_effort() -> None:
    with pytest.raises(InvalidInput, match="'builtin:compiler' takes no reasoning_effort"):
        open_model("builtin:compiler", reasoning_effort="low")


@pytest.mark.parametrize("model", ["gpt-5", "o3", "gemini-2.5-pro"])
def test_which_efforts_there_are_is_left_to_the_provider(model: str) -> None:
    opened = open_model(model, api_key="k", reasoning_effort="ultra", environment={})
    assert opened.name == model


@pytest.mark.parametrize("model", ["qwen", "gpt-4o", "openai/gpt-4o"])
def test_at_a_host_that_is_nobodys_an_effort_is_left_to_the_endpoint(model: str) -> None:
    """A local server may call anything 'gpt-4o'."""
    url = "http://127.0.0.1:8000/v1"
    opened = open_model(model, base_url=url, reasoning_effort="high", environment={})
    assert opened.name == model


@pytest.mark.parametrize(
    ("given", "words"), [({"max_retries": -1}, "0 or more"), ({"idle_timeout_s": 0.0}, "more than")]
)
def test_an_impossible_patience_is_refused(given: dict[str, float], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        open_model("gpt-4o", api_key="k", environment={}, **given)
