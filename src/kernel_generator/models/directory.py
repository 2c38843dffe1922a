"""Which provider and dialect a model's name speaks: all such knowledge is the data in this module.

Adding a provider or a model family is adding a row; nothing else knows a host or a model's name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from kernel_generator.models.address import Origin

Dialect = Literal["chat", "responses"]
"""Chat Completions, or OpenAI's Responses API."""

DIALECTS: tuple[Dialect, ...] = ("chat", "responses")

BatchApi = Literal["openai", "anthropic", "gemini"]
"""OpenAI's Batch API, Anthropic's Message Batches, or Google's `batchGenerateContent`."""


@dataclass(frozen=True)
class Provider:
    """A company's own endpoint, and the environment variables that hold keys meant for it."""

    name: str
    base_url: str
    key_variables: tuple[str, ...]
    """First one that is set wins."""
    key_prefixes: tuple[str, ...] = ()
    """How keys begin that cannot be anybody else's."""
    regional_hosts: tuple[str, ...] = ()
    """Further hosts of the same provider."""
    batch_api: BatchApi | None = None
    """How it is asked in batches; None where it has no API for that which this package speaks."""
    batch_share: float | None = None
    """What a reply of a batch costs, as a share of the price."""
    batch_cached_share: float | None = None
    """The same of its cached tokens; None where it is no other."""

    @property
    def hosts(self) -> tuple[str, ...]:
        """Every host name that is this provider's."""
        return (Origin.of(self.base_url).host, *self.regional_hosts)

    def owns(self, origin: Origin) -> bool:
        """True where a key of this provider may be sent there."""
        home = Origin.of(self.base_url)
        return origin == home or origin in [
            Origin(home.scheme, host, home.port) for host in self.regional_hosts
        ]


@dataclass(frozen=True)
class Family:
    """Models whose names match `pattern`, as their provider's own endpoint serves them."""

    pattern: str
    """Matched against the whole name, in lower case."""
    provider: str
    dialect: Dialect
    takes_effort: bool
    """False where the endpoint rejects or ignores `reasoning_effort`."""
    thinks_silently: bool = False
    """True where minutes may pass without a byte while the model reasons."""


@dataclass(frozen=True)
class Directory:
    """Providers and the model families they serve; the first matching family counts."""

    providers: tuple[Provider, ...]
    families: tuple[Family, ...]

    def family(self, model: str) -> Family | None:
        """The family of a model's name, or None where the name says nothing."""
        name = model.lower()
        return next((f for f in self.families if re.fullmatch(f.pattern, name)), None)

    def provider(self, name: str) -> Provider:
        """The provider of that name. Raises `KeyError`."""
        return {p.name: p for p in self.providers}[name]

    def owner(self, origin: Origin) -> Provider | None:
        """Whose endpoint this is, or None where it is nobody's in the table."""
        return next((p for p in self.providers if p.owns(origin)), None)

    def issuer(self, key: str) -> Provider | None:
        """Who issued a key, where its first characters leave no doubt."""
        return next((p for p in self.providers if key.startswith(p.key_prefixes)), None)


DIRECTORY = Directory(
    providers=(
        Provider(
            "openai",
            "https://api.openai.com/v1/",
            ("OPENAI_API_KEY",),
            key_prefixes=("sk-proj-", "sk-svcacct-"),
            regional_hosts=("us.api.openai.com", "eu.api.openai.com"),
            # https://platform.openai.com/docs/guides/batch
            batch_api="openai",
            batch_share=0.5,
        ),
        Provider(
            "anthropic",
            "https://api.anthropic.com/v1/",
            ("ANTHROPIC_API_KEY",),
            key_prefixes=("sk-ant-",),
            # https://platform.claude.com/docs/en/build-with-claude/batch-processing
            batch_api="anthropic",
            batch_share=0.5,
        ),
        Provider(
            "gemini",
            "https://generativelanguage.googleapis.com/v1beta/openai/",
            ("GEMINI_API_KEY", "GOOGLE_API_KEY"),
            key_prefixes=("AIza",),
            # https://ai.google.dev/gemini-api/docs/batch-api
            batch_api="gemini",
            batch_share=0.5,
            batch_cached_share=1.0,
        ),
    ),
    families=(
        Family(r"gpt-\d+(\.\d+)?-chat(-.*)?", "openai", "responses", takes_effort=False),
        Family(r"(o\d+|gpt-([5-9]|\d{2,})(\.\d+)?)(-.*)?", "openai", "responses", True, True),
        Family(r"codex-.*", "openai", "responses", takes_effort=True, thinks_silently=True),
        Family(r"gpt-[34](\.\d+)?(o|-.*|o-.*)?", "openai", "chat", takes_effort=False),
        Family(r"chatgpt-4o-.*", "openai", "chat", takes_effort=False),
        Family(r"ft:(gpt-[34]|babbage|davinci).*", "openai", "chat", takes_effort=False),
        Family(r"ft:o\d.*", "openai", "responses", takes_effort=True, thinks_silently=True),
        # Anthropic's compatibility page lists reasoning_effort as ignored.
        Family(r"claude-.*", "anthropic", "chat", takes_effort=False, thinks_silently=True),
        Family(r"gemini-.*", "gemini", "chat", takes_effort=True, thinks_silently=True),
    ),
)
"""What this package knows of providers. Tests pass their own."""
