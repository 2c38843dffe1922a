"""Which provider and dialect a model's name speaks."""

from __future__ import annotations

import re

import pytest

from kernel_generator.models.directory import DIRECTORY
from kernel_generator.models.settings import Settings


@pytest.mark.parametrize(
    ("model", "provider", "dialect", "takes_effort"),
    [
        ("gpt-4o", "openai", "chat", False),
        ("gpt-4o-mini-2024-07-18", "openai", "chat", False),
        ("GPT-4.1", "openai", "chat", False),
        ("gpt-4-turbo", "openai", "chat", False),
        ("gpt-3.5-turbo", "openai", "chat", False),
        ("chatgpt-4o-latest", "openai", "chat", False),
        ("ft:gpt-4o-mini-2024-07-18:org::id", "openai", "chat", False),
        ("o1", "openai", "responses", True),
        ("o3-mini", "openai", "responses", True),
        ("o4-mini-2025-04-16", "openai", "responses", True),
        ("gpt-5", "openai", "responses", True),
        ("gpt-5-mini", "openai", "responses", True),
        ("gpt-5.1-codex", "openai", "responses", True),
        ("gpt-6", "openai", "responses", True),
        ("gpt-12-nano", "openai", "responses", True),
        ("gpt-5-chat-latest", "openai", "responses", False),
        ("claude-sonnet-4-5-20250929", "anthropic", "chat", False),
        ("gemini-2.5-flash", "gemini", "chat", True),
    ],
)
def test_a_family_is_known_by_its_name(
    model: str, provider: str, dialect: str, takes_effort: bool
) -> None:
    family = DIRECTORY.family(model)
    assert family is not None
    assert (family.provider, family.dialect, family.takes_effort) == (
        provider,
        dialect,
        takes_effort,
    )


@pytest.mark.parametrize(
    "model",
    ["gpt-oss-120b", "openai/gpt-4o", "llama-3", "qwen3-coder", "o", "oasis", "my-gpt-4o", "gpt"],
)
def test_a_name_that_says_nothing_has_no_family(model: str) -> None:
    assert DIRECTORY.family(model) is None


def test_every_family_names_a_provider_of_the_table_and_a_valid_pattern() -> None:
    for family in DIRECTORY.families:
        re.compile(family.pattern)
        assert DIRECTORY.provider(family.provider).base_url.startswith("https://")


def test_every_key_variable_is_one_that_the_settings_read() -> None:
    for provider in DIRECTORY.providers:
        for variable in provider.key_variables:
            assert variable.lower() in Settings.model_fields


@pytest.mark.parametrize(
    ("provider", "api"), [("openai", "openai"), ("anthropic", "anthropic"), ("gemini", "gemini")]
)
def test_a_provider_says_how_it_is_asked_in_batches_and_for_what_share(
    provider: str, api: str
) -> None:
    found = DIRECTORY.provider(provider)
    assert (found.batch_api, found.batch_share) == (api, 0.5)
