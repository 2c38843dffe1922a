"""Which host, which key: the rules as a table, and the one property that must always hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernel_generator.domain.errors import InvalidInput, MissingKey, UnknownName
from kernel_generator.models.address import Origin
from kernel_generator.models.credentials import MISSING_KEY, Endpoint, resolve
from kernel_generator.models.directory import DIRECTORY
from kernel_generator.models.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

OPENAI = "https://api.openai.com/v1/"
ANTHROPIC = "https://api.anthropic.com/v1/"
GEMINI = "https://generativelanguage.googleapis.com/v1beta/openai/"
GATEWAY = "https://openrouter.ai/api/v1"
LOCAL = "http://127.0.0.1:8000/v1"

ALL_OWN = {"OPENAI_API_KEY": "of-openai", "ANTHROPIC_API_KEY": "of-anthropic"} | {
    "GEMINI_API_KEY": "of-gemini",
    "GOOGLE_API_KEY": "of-google",
}


def found(model: str, environment: dict[str, str], **given: str) -> tuple[str, str]:
    """(base URL, key) of the endpoint."""
    endpoint = resolve(model, environment=environment, **given)
    return endpoint.base_url, endpoint.api_key.get_secret_value()


@pytest.mark.parametrize(
    ("model", "environment", "expected"),
    [
        # The host follows from the name: its own variable first, then LLM_API_KEY.
        ("gpt-4o", {"OPENAI_API_KEY": "own", "LLM_API_KEY": "llm"}, (OPENAI, "own")),
        ("gpt-4o", {"LLM_API_KEY": "llm"}, (OPENAI, "llm")),
        ("gpt-4o", {"LLM_API_KEY": "llm", "ANTHROPIC_API_KEY": "other"}, (OPENAI, "llm")),
        ("o3", ALL_OWN, (OPENAI, "of-openai")),
        ("claude-sonnet-4-5", ALL_OWN, (ANTHROPIC, "of-anthropic")),
        ("claude-sonnet-4-5", {"LLM_API_KEY": "llm"}, (ANTHROPIC, "llm")),
        ("gemini-2.5-pro", ALL_OWN, (GEMINI, "of-gemini")),
        ("gemini-2.5-pro", {"GOOGLE_API_KEY": "g", "LLM_API_KEY": "llm"}, (GEMINI, "g")),
        # Blank is unset, and space around a key is no part of it.
        ("gpt-4o", {"OPENAI_API_KEY": " ", "LLM_API_KEY": "llm\n"}, (OPENAI, "llm")),
        ("gpt-4o", {"OPENAI_API_KEY": "own", "BASE_URL": " "}, (OPENAI, "own")),
        # BASE_URL was set on purpose, so it wins over the inferred host, with LLM_API_KEY.
        ("gpt-4o", {"BASE_URL": GATEWAY, "LLM_API_KEY": "llm", **ALL_OWN}, (GATEWAY, "llm")),
        ("whatever", {"BASE_URL": GATEWAY, "LLM_API_KEY": "llm"}, (GATEWAY, "llm")),
        ("gpt-4o", {"BASE_URL": OPENAI, "LLM_API_KEY": "llm", **ALL_OWN}, (OPENAI, "llm")),
        ("gpt-4o", {"BASE_URL": OPENAI, **ALL_OWN}, (OPENAI, "of-openai")),
        # Servers of this machine need no key, and get no provider's.
        ("qwen", {"BASE_URL": LOCAL, **ALL_OWN}, (LOCAL, "none")),
        ("gpt-4o", {"BASE_URL": LOCAL, **ALL_OWN}, (LOCAL, "none")),
        ("qwen", {"BASE_URL": LOCAL, "LLM_API_KEY": "llm"}, (LOCAL, "llm")),
    ],
)
def test_host_and_key_follow_the_environment(
    model: str, environment: dict[str, str], expected: tuple[str, str]
) -> None:
    assert found(model, environment) == expected


@pytest.mark.parametrize(
    ("environment", "given", "expected"),
    [
        ({"LLM_API_KEY": "llm", **ALL_OWN}, {"api_key": "mine"}, (OPENAI, "mine")),
        (ALL_OWN, {"api_key": "mine", "base_url": GATEWAY}, (GATEWAY, "mine")),
        ({"LLM_API_KEY": "llm"}, {"base_url": GATEWAY}, (GATEWAY, "llm")),
        ({"BASE_URL": LOCAL, "LLM_API_KEY": "llm"}, {"base_url": LOCAL}, (LOCAL, "llm")),
        # LLM_API_KEY was set for BASE_URL's host, not for the one passed instead.
        ({"BASE_URL": GATEWAY, "LLM_API_KEY": "llm"}, {"base_url": LOCAL}, (LOCAL, "none")),
        (
            {"BASE_URL": GATEWAY, "LLM_API_KEY": "llm", **ALL_OWN},
            {"base_url": OPENAI},
            (OPENAI, "of-openai"),
        ),
    ],
)
def test_arguments_win_over_the_environment(
    environment: dict[str, str], given: dict[str, str], expected: tuple[str, str]
) -> None:
    assert found("gpt-4o", environment, **given) == expected


@pytest.mark.parametrize(
    ("model", "environment", "given"),
    [
        ("gpt-4o", {}, {}),
        ("gpt-4o", {"ANTHROPIC_API_KEY": "other", "GEMINI_API_KEY": "other"}, {}),
        ("claude-sonnet-4-5", {"OPENAI_API_KEY": "other"}, {}),
        ("gpt-4o", {"BASE_URL": GATEWAY, **ALL_OWN}, {}),
        ("gpt-4o", ALL_OWN, {"base_url": GATEWAY}),
        ("gpt-4o", {"BASE_URL": GATEWAY, "LLM_API_KEY": "llm"}, {"base_url": "https://h.test/v1"}),
        ("gpt-4o", {"BASE_URL": "https://api.openai.com.evil.test/v1", **ALL_OWN}, {}),
        ("gpt-4o", {"BASE_URL": "https://api.openai.com:8443/v1", **ALL_OWN}, {}),
    ],
)
def test_no_key_for_this_host_is_the_documented_sentence(
    model: str, environment: dict[str, str], given: dict[str, str]
) -> None:
    with pytest.raises(MissingKey) as raised:
        resolve(model, environment=environment, **given)
    assert (
        str(raised.value)
        == MISSING_KEY
        == (
            "Please set LLM_API_KEY environment variable or modify this script to pass api_key "
            "explicitly"
        )
    )


@pytest.mark.parametrize(
    ("model", "url", "words"),
    [
        ("claude-sonnet-4-5", OPENAI, ["claude-sonnet-4-5", "anthropic", "api.openai.com"]),
        ("gpt-4o", ANTHROPIC, ["gpt-4o", "openai", "api.anthropic.com"]),
        ("gpt-5", GEMINI, ["gpt-5", "openai", "generativelanguage.googleapis.com"]),
        ("gemini-2.5-pro", "https://eu.api.openai.com/v1", ["gemini", "eu.api.openai.com"]),
        ("anthropic/claude-sonnet-4-5", OPENAI, ["anthropic", "api.openai.com"]),
        ("claude-sonnet-4-5", "https://API.OpenAI.com./v1", ["anthropic", "openai"]),
    ],
)
@pytest.mark.parametrize("how", ["argument", "variable"])
def test_a_model_at_another_providers_host_is_an_error_that_names_both(
    model: str, url: str, words: list[str], how: str
) -> None:
    environment = {"LLM_API_KEY": "llm", **ALL_OWN}
    given = {"base_url": url} if how == "argument" else {}
    if how == "variable":
        environment["BASE_URL"] = url
    with pytest.raises(InvalidInput) as raised:
        resolve(model, environment=environment, **given)
    assert ("base_url" if given else "BASE_URL") in str(raised.value)
    assert all(word in str(raised.value) for word in words)


@pytest.mark.parametrize(
    ("model", "environment"),
    [
        ("gpt-4o", {"LLM_API_KEY": "sk-ant-api03-x"}),
        ("claude-sonnet-4-5", {"LLM_API_KEY": "sk-proj-x"}),
        ("gpt-4o", {"OPENAI_API_KEY": "AIzaSyX"}),
        ("gpt-4o", {"BASE_URL": OPENAI, "LLM_API_KEY": "sk-ant-api03-x"}),
    ],
)
def test_a_key_that_is_plainly_another_providers_is_not_sent(
    model: str, environment: dict[str, str]
) -> None:
    with pytest.raises(InvalidInput, match="give a key of") as raised:
        resolve(model, environment=environment)
    assert "sk-" not in str(raised.value)


def test_a_providers_key_may_go_to_a_gateway_by_hand() -> None:
    assert found("claude-sonnet-4-5", {}, api_key="sk-ant-x", base_url=GATEWAY)[1] == "sk-ant-x"


def test_an_unknown_model_asks_for_a_base_url() -> None:
    with pytest.raises(InvalidInput, match=r"'llama-9'.*base_url.*BASE_URL"):
        resolve("llama-9", api_key="k", environment={})


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("api.openai.com/v1", "not a web address"),
        ("ftp://h.test/v1", "not a web address"),
        ("https://", "not a web address"),
        ("https://user:secret@h.test/v1", "user or password"),
        ("https://h.test/v1?key=secret", "'\\?' or '#'"),
        ("http://api.openai.com/v1", "write https://"),
        ("https://h.test:port/v1", "not a URL"),
        ("https://user:secret/x@h.test/v1", "not a URL"),
        ("user:secret@h.test/v1", "not a web address"),
        ("https://h.test/v1#secret", "'\\?' or '#'"),
    ],
)
@pytest.mark.parametrize("how", ["argument", "variable"])
def test_a_malformed_base_url_is_explained_without_what_it_may_hide(
    url: str, words: str, how: str
) -> None:
    base_url, environment = (url, {}) if how == "argument" else (None, {"BASE_URL": url})
    with pytest.raises(InvalidInput, match=words) as raised:
        resolve("gpt-4o", api_key="k", base_url=base_url, environment=environment)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("key", ["two words", "päss", "line\nbreak"])
def test_a_key_that_was_copied_wrongly_is_refused_without_showing_it(key: str) -> None:
    with pytest.raises(InvalidInput, match="copy it again") as raised:
        resolve("gpt-4o", api_key=key, environment={})
    assert key not in str(raised.value)


def test_an_empty_model_name_is_refused() -> None:
    with pytest.raises(InvalidInput, match="name is empty"):
        resolve("  ", api_key="k", environment={})


@pytest.mark.parametrize(
    ("model", "given", "expected"),
    [
        ("gpt-4o", {}, "chat"),
        ("gpt-5", {}, "responses"),
        ("gpt-5", {"base_url": GATEWAY}, "chat"),
        ("gpt-5", {"base_url": OPENAI}, "responses"),
        ("gpt-5", {"dialect": "chat"}, "chat"),
        ("gpt-4o", {"dialect": "responses", "base_url": LOCAL}, "responses"),
    ],
)
def test_the_dialect_is_the_familys_at_home_and_chat_elsewhere_unless_given(
    model: str, given: dict[str, str], expected: str
) -> None:
    assert resolve(model, api_key="k", environment={}, **given).dialect == expected


def test_an_unknown_dialect_offers_the_known() -> None:
    with pytest.raises(UnknownName, match="did you mean 'chat'"):
        resolve("gpt-4o", api_key="k", dialect="chatt", environment={})


def test_an_endpoint_never_shows_its_key() -> None:
    endpoint = resolve("gpt-4o", environment={"OPENAI_API_KEY": "sk-proj-hidden"})
    assert "hidden" not in repr(endpoint) + str(endpoint)


# --- BASE_URL and LLM_API_KEY from two places --------------------------------------------------


@pytest.fixture
def place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[dict[str, str], dict[str, str]], None]:
    """Sets what `.env` holds and what is exported."""
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)

    def fill(file: dict[str, str], exported: dict[str, str]) -> None:
        (tmp_path / ".env").write_text("".join(f"{k}={v}\n" for k, v in file.items()))
        for name, value in exported.items():
            monkeypatch.setenv(name, value)

    return fill


URL, KEY = {"BASE_URL": GATEWAY}, {"LLM_API_KEY": "llm"}


@pytest.mark.parametrize(
    ("file", "exported"),
    [
        (URL | KEY, {}),
        ({}, URL | KEY),
        (URL | KEY, URL | KEY),
        (URL | KEY, KEY),
        ({"BASE_URL": LOCAL, "LLM_API_KEY": "other"}, URL | KEY),
    ],
    ids=["file", "exported", "loaded", "half-loaded", "overridden"],
)
def test_a_pair_set_in_one_place_is_used(place, file, exported) -> None:
    place(file, exported)
    endpoint = resolve("gpt-4o")
    assert (endpoint.base_url, endpoint.api_key.get_secret_value()) == (GATEWAY, "llm")


@pytest.mark.parametrize(
    ("file", "exported", "sources"),
    [
        (URL, KEY, "BASE_URL comes from .env and LLM_API_KEY from the environment"),
        (KEY, URL, "BASE_URL comes from the environment and LLM_API_KEY from .env"),
        (
            URL | {"LLM_API_KEY": "other"},
            KEY,
            "BASE_URL comes from .env and LLM_API_KEY from the environment",
        ),
        (
            {"BASE_URL": LOCAL} | KEY,
            URL,
            "BASE_URL comes from the environment and LLM_API_KEY from .env",
        ),
        # As `load_dotenv` leaves it: the file's URL is in the environment too.
        (URL, URL | KEY, "BASE_URL comes from .env and LLM_API_KEY from the environment"),
        (KEY, URL | KEY, "BASE_URL comes from the environment and LLM_API_KEY from .env"),
        # The provider's own host is no exception: the key may be anybody's.
        (
            {"BASE_URL": OPENAI},
            KEY | ALL_OWN,
            "BASE_URL comes from .env and LLM_API_KEY from the environment",
        ),
    ],
)
def test_a_pair_from_two_places_is_refused_naming_both(place, file, exported, sources) -> None:
    place(file, exported)
    with pytest.raises(InvalidInput) as raised:
        resolve("gpt-4o")
    assert sources in str(raised.value)
    assert "set both in the same place, or pass base_url or api_key" in str(raised.value)


@pytest.mark.parametrize(
    ("given", "expected"),
    [({"base_url": GATEWAY}, (GATEWAY, "llm")), ({"api_key": "mine"}, (GATEWAY, "mine"))],
)
def test_passing_either_settles_which_host_and_key_are_meant(place, given, expected) -> None:
    place(URL, KEY)
    endpoint = resolve("gpt-4o", **given)
    assert (endpoint.base_url, endpoint.api_key.get_secret_value()) == expected


@pytest.mark.parametrize(("file", "exported"), [(KEY, {}), ({}, KEY)])
def test_without_a_base_url_the_general_key_may_come_from_anywhere(place, file, exported) -> None:
    place(file, exported)
    assert resolve("gpt-4o").api_key.get_secret_value() == "llm"


@pytest.mark.parametrize(
    ("file", "exported"), [({"BASE_URL": OPENAI}, ALL_OWN), (ALL_OWN, {"BASE_URL": OPENAI})]
)
def test_a_providers_own_variable_may_come_from_another_place(place, file, exported) -> None:
    place(file, exported)
    assert resolve("gpt-4o").api_key.get_secret_value() == "of-openai"


# --- the property ----------------------------------------------------------------------------

MODELS = ["gpt-4o", "gpt-5", "o3-mini", "claude-opus-4-1", "gemini-2.5-pro", "qwen3", "x/gpt-4o"]
URLS = ["", OPENAI, ANTHROPIC, GEMINI, GATEWAY, LOCAL, "http://localhost:1/v1", "https://h.test/v"]
VARIABLES = [v for p in DIRECTORY.providers for v in p.key_variables]
"""Each key below is named after the variable that holds it."""

environments = st.fixed_dictionaries(
    {},
    optional={v: st.just(f"key-in-{v}") for v in [*VARIABLES, "LLM_API_KEY"]}
    | {"BASE_URL": st.sampled_from(URLS)},
)


def attempt(model: str, environment: dict[str, str], url: str, key: str) -> Endpoint | None:
    """The endpoint, or None where the combination is refused."""
    try:
        return resolve(model, environment=environment, base_url=url or None, api_key=key or None)
    except InvalidInput:
        return None


@settings(deadline=None)  # other work on the machine is no failure
@given(
    st.sampled_from(MODELS), environments, st.sampled_from(URLS), st.sampled_from(["", "explicit"])
)
def test_a_key_is_always_meant_for_the_host_it_goes_to(
    model: str, environment: dict[str, str], url: str, key: str
) -> None:
    endpoint = attempt(model, environment, url, key)
    if endpoint is None:
        return
    sent, host = endpoint.api_key.get_secret_value(), Origin.of(endpoint.base_url)
    for provider in DIRECTORY.providers:
        if sent in {f"key-in-{v}" for v in provider.key_variables}:
            assert host == Origin.of(provider.base_url)
    paired = environment.get("BASE_URL")
    if sent == "key-in-LLM_API_KEY" and paired:
        assert host == Origin.of(paired)
    if key:
        assert sent == "explicit"
    if sent == "none":
        assert host.host in ("127.0.0.1", "localhost")


@settings(deadline=None)
@given(st.sampled_from(MODELS), environments, st.sampled_from(URLS))
def test_the_host_is_the_argument_else_base_url_else_the_providers_own(
    model: str, environment: dict[str, str], url: str
) -> None:
    endpoint = attempt(model, environment, url, "explicit")
    if endpoint is None:
        return
    family = DIRECTORY.family(model)
    own = DIRECTORY.provider(family.provider).base_url if family else None
    assert endpoint.base_url == (url or environment.get("BASE_URL") or own)
