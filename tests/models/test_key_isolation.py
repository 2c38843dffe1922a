"""Two providers' keys in one environment, two hosts: what arrives where, by the real client."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from kernel_generator.domain.errors import InvalidInput
from kernel_generator.models.credentials import resolve
from kernel_generator.models.endpoint_model import EndpointModel
from tests.loopback import LoopbackServer, fails, says
from tests.models.asking import HURRY, ask, at, directory_at, model_at

if TYPE_CHECKING:
    from collections.abc import Iterator

KEYS = {"OPENAI_API_KEY": "key-of-openai", "ANTHROPIC_API_KEY": "key-of-anthropic"}
MODELS = {"openai": ["gpt-4o", "gpt-5", "o3"], "anthropic": ["claude-sonnet-4-5"]}


class Providers:
    """Two servers that stand for two providers, and a third that is nobody's."""

    def __init__(self, stack: ExitStack) -> None:
        def open_server() -> LoopbackServer:
            return stack.enter_context(LoopbackServer(lambda _request: says("ok")))

        self.openai, self.anthropic, self.gateway = open_server(), open_server(), open_server()
        self.directory = directory_at(
            openai=self.openai.base_url, anthropic=self.anthropic.base_url
        )

    def ask(self, model: str, environment: dict[str, str], *, stream: bool = True) -> None:
        """Asks whichever host the rules choose."""
        endpoint = resolve(model, environment=environment, directory=self.directory)
        ask(EndpointModel(endpoint, patience=HURRY, stream=stream))


@pytest.fixture
def providers() -> Iterator[Providers]:
    """Fresh servers."""
    with ExitStack() as stack:
        yield Providers(stack)


@pytest.mark.parametrize("stream", [True, False])
def test_each_providers_key_reaches_its_own_host_and_no_other(
    providers: Providers, stream: bool
) -> None:
    for model in MODELS["openai"] + MODELS["anthropic"]:
        providers.ask(model, KEYS, stream=stream)
    assert providers.openai.keys == {"key-of-openai"}
    assert providers.anthropic.keys == {"key-of-anthropic"}
    for server, foreign in [
        (providers.openai, "key-of-anthropic"),
        (providers.anthropic, "key-of-openai"),
    ]:
        assert not [r for r in server.requests if foreign in str(r)]


def test_neither_key_reaches_a_base_url_of_nobodys(providers: Providers) -> None:
    environment = KEYS | {"BASE_URL": providers.gateway.base_url, "LLM_API_KEY": "key-of-gateway"}
    for model in MODELS["openai"] + MODELS["anthropic"]:
        providers.ask(model, environment)
    assert providers.gateway.keys == {"key-of-gateway"}
    assert providers.openai.requests == providers.anthropic.requests == []


def test_no_key_at_all_reaches_a_local_server_that_was_given_none(providers: Providers) -> None:
    providers.ask("gpt-4o", KEYS | {"BASE_URL": providers.gateway.base_url})
    assert providers.gateway.keys == {"none"}


@pytest.mark.parametrize("model", ["gpt-4o", "claude-sonnet-4-5"])
def test_a_contradiction_sends_nothing_anywhere(providers: Providers, model: str) -> None:
    other = providers.anthropic if model == "gpt-4o" else providers.openai
    with pytest.raises(InvalidInput, match=model):
        providers.ask(model, KEYS | {"BASE_URL": other.base_url, "LLM_API_KEY": "llm"})
    assert providers.openai.requests == providers.anthropic.requests == []


@pytest.mark.parametrize("dialect", ["chat", "responses"])
@pytest.mark.parametrize("stream", [True, False])
def test_nothing_of_the_sdks_own_environment_leaks_to_a_foreign_host(
    monkeypatch: pytest.MonkeyPatch, dialect: str, stream: bool
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "leak-key")
    monkeypatch.setenv("OPENAI_ADMIN_KEY", "leak-admin")
    monkeypatch.setenv("OPENAI_ORG_ID", "leak-organization")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "leak-project")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://leak.test/v1")
    monkeypatch.setenv(
        "OPENAI_CUSTOM_HEADERS", "Authorization: Bearer leak-header\nX-Api-Key: leak-other"
    )
    with LoopbackServer([fails(500), says("ok")]) as server:
        ask(model_at(server.base_url, dialect=dialect, stream=stream))
    assert server.keys == {"test-key"}
    assert "leak" not in str(server.requests)


def test_organization_and_project_do_reach_openai(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "org-1")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "project-1")
    with LoopbackServer([says("ok")]) as server:
        endpoint = resolve(
            "gpt-4o", api_key="k", environment={}, directory=directory_at(openai=server.base_url)
        )
        ask(EndpointModel(endpoint, patience=HURRY))
    headers = server.requests[0].headers
    assert (headers["openai-organization"], headers["openai-project"]) == ("org-1", "project-1")


def test_a_proxy_is_not_used_to_reach_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    with LoopbackServer([says("proxied")]) as proxy, LoopbackServer([says("direct")]) as server:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        [reply] = ask(EndpointModel(at(server.base_url), patience=HURRY))
    assert reply.text == "direct"
    assert proxy.requests == []
