"""Which host a model is asked at, and with which key.

The invariant: a key never reaches a host it was not meant for. A provider's own variable goes to
that provider's host only; `LLM_API_KEY` goes with `BASE_URL` where both are set, and only where
both were set in the same place.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx2
from pydantic import SecretStr

from kernel_generator.domain.errors import InvalidInput, MissingKey, UnknownName
from kernel_generator.models.address import Origin, is_local, shown
from kernel_generator.models.directory import DIALECTS, DIRECTORY
from kernel_generator.models.price import priced_models
from kernel_generator.models.settings import read_settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kernel_generator.models.directory import (
        BatchApi,
        Dialect,
        Directory,
        Family,
        Provider,
    )
    from kernel_generator.models.settings import Settings

MISSING_KEY = (
    "Please set LLM_API_KEY environment variable or modify this script to pass api_key explicitly"
)
NO_KEY = "none"
"""Sent to servers on this machine, which ask for none."""


@dataclass(frozen=True)
class Endpoint:
    """Where one model is asked, with which key and in which dialect."""

    model: str
    """Sent verbatim."""
    base_url: str
    api_key: SecretStr
    dialect: Dialect
    provider: str | None
    """Whose host it is; None where it is nobody's that is known."""
    key_source: str = "api_key"
    """Where the key was found, for messages."""
    takes_effort: bool = True
    """False where `reasoning_effort` is known to be rejected or ignored."""
    thinks_silently: bool = False
    """True where minutes may pass without a byte while the model reasons."""
    batch_api: BatchApi | None = "openai"
    """See `Provider`; OpenAI's at an endpoint that is nobody's, if any."""
    batch_share: float | None = None
    """See `Provider`; None at an endpoint that is nobody's too."""
    batch_cached_share: float | None = None
    """See `Provider`."""

    @property
    def origin(self) -> Origin:
        """What the key is meant for."""
        return Origin.of(self.base_url)


@dataclass(frozen=True)
class _Place:
    """A base URL and how it came about."""

    base_url: str
    origin: Origin
    named_by: str
    """'base_url', 'BASE_URL' or '' where it follows from the model's name."""
    owner: Provider | None


def resolve(
    model: str,
    *,
    api_key: str | SecretStr | None = None,
    base_url: str | None = None,
    dialect: str | None = None,
    environment: Mapping[str, str] | None = None,
    directory: Directory = DIRECTORY,
) -> Endpoint:
    """Finds host, key and dialect of a model.

    `environment` None means the process's own, and `.env`. Raises `MissingKey`, and `InvalidInput`
    where the host is unknown or host, model and key contradict each other.
    """
    if not model.strip():
        raise InvalidInput("the model's name is empty: give one, 'gpt-4o' for example")
    settings = read_settings(environment)
    family = directory.family(model)
    # A gateway's name, 'anthropic/claude-…', still says whose model it is.
    named = family or directory.family(model.rpartition("/")[2])
    place = _find_place(model, base_url, settings, family, directory)
    _refuse_contradiction(model, place, named)
    key, source = _find_key(api_key, settings, place)
    _refuse_stray_key(key, source, place, directory)
    at_home = family is not None and place.owner is not None
    return Endpoint(
        model=model,
        base_url=place.base_url,
        api_key=key,
        dialect=_choose_dialect(dialect, family if at_home else None),
        provider=place.owner.name if place.owner else None,
        key_source=source,
        takes_effort=family.takes_effort if family is not None and at_home else True,
        thinks_silently=named is not None and named.thinks_silently,
        batch_api=place.owner.batch_api if place.owner else "openai",
        batch_share=place.owner.batch_share if place.owner else None,
        batch_cached_share=place.owner.batch_cached_share if place.owner else None,
    )


def base_url_of(
    model: str,
    *,
    base_url: str | None = None,
    environment: Mapping[str, str] | None = None,
    directory: Directory = DIRECTORY,
) -> str:
    """Where `resolve` would ask a model; no key is looked for.

    Raises `InvalidInput` where the host is unknown, or contradicts the model.
    """
    settings, family = read_settings(environment), directory.family(model)
    place = _find_place(model, base_url, settings, family, directory)
    _refuse_contradiction(model, place, family or directory.family(model.rpartition("/")[2]))
    return place.base_url


def batch_share_of(
    model: str,
    *,
    base_url: str | None = None,
    environment: Mapping[str, str] | None = None,
    directory: Directory = DIRECTORY,
) -> float | None:
    """See `Endpoint.batch_share`; no key is looked for. Raises what `base_url_of` does."""
    family = directory.family(model)
    place = _find_place(model, base_url, read_settings(environment), family, directory)
    return place.owner.batch_share if place.owner else None


def _find_place(
    model: str,
    base_url: str | None,
    settings: Settings,
    family: Family | None,
    directory: Directory,
) -> _Place:
    argument, variable = (base_url or "").strip(), (settings.base_url or "").strip()
    if argument:
        url, named_by = argument, "base_url"
    elif variable:
        url, named_by = variable, "BASE_URL"
    elif family is not None:
        url, named_by = directory.provider(family.provider).base_url, ""
    else:
        close = " or ".join(map(repr, difflib.get_close_matches(model, priced_models(), n=2)))
        hint = f" (did you mean {close}?)" if close else ""
        raise InvalidInput(
            f"the host of model '{model}' cannot be told from its name{hint}: "
            "pass base_url or set BASE_URL to an OpenAI-compatible endpoint that serves it, "
            "'https://openrouter.ai/api/v1' or 'http://127.0.0.1:8000/v1' for example"
        )
    origin = parse_base_url(url, named_by)
    for provider in directory.providers:
        home = Origin.of(provider.base_url)
        if origin.host in provider.hosts and origin.scheme != home.scheme:
            raise InvalidInput(
                f"{named_by} reaches {origin.host} over {origin.scheme}: write {home.scheme}://"
            )
    return _Place(url, origin, named_by, directory.owner(origin))


def parse_base_url(url: str, named_by: str) -> Origin:
    """Where a base URL leads. Raises `InvalidInput`, which shows nothing secret of it."""
    try:
        parsed, origin = httpx2.URL(url), Origin.of(url)
    except httpx2.InvalidURL:  # its words may quote a part of a password
        raise InvalidInput(f"{named_by} is not a URL: give http(s)://host/path") from None
    if parsed.userinfo:
        raise InvalidInput(f"{named_by} holds a user or password: give the key as LLM_API_KEY")
    if not origin.is_web:
        raise InvalidInput(f"{named_by} is not a web address: give http(s)://host/path")
    if parsed.query or parsed.fragment:
        raise InvalidInput(
            f"{named_by} '{shown(url)}' goes on with a '?' or '#': give the path alone"
        )
    return origin


def _refuse_contradiction(model: str, place: _Place, family: Family | None) -> None:
    if family is None or place.owner is None or place.owner.name == family.provider:
        return
    raise InvalidInput(
        f"model '{model}' is served by {family.provider}, but {place.named_by} "
        f"'{place.base_url}' is the host of {place.owner.name}: change the model, or remove "
        f"{place.named_by}"
    )


def _find_key(
    explicit: str | SecretStr | None, settings: Settings, place: _Place
) -> tuple[SecretStr, str]:
    """The key for a place and the name of where it was found.

    Raises `MissingKey`, and `InvalidInput` where the key was set for another place's host.
    """
    plain = explicit.get_secret_value() if isinstance(explicit, SecretStr) else explicit or ""
    if plain.strip():
        return SecretStr(plain.strip()), "api_key"
    own = place.owner.key_variables if place.owner is not None else ()
    # Whoever names a host hands LLM_API_KEY to it; otherwise the provider's variable is meant.
    order = ("LLM_API_KEY", *own) if place.named_by else (*own, "LLM_API_KEY")
    for variable in order:
        if variable == "LLM_API_KEY" and not _general_key_is_meant_for(place, settings):
            continue
        key = settings.key(variable)
        if key is not None:
            if variable == "LLM_API_KEY" and place.named_by == "BASE_URL":
                _refuse_split_pair(settings)
            return key, variable
    if place.named_by and is_local(place.origin.host):
        return SecretStr(NO_KEY), "nowhere"
    raise MissingKey(MISSING_KEY)


def _general_key_is_meant_for(place: _Place, settings: Settings) -> bool:
    """`LLM_API_KEY` belongs to `BASE_URL`'s host where both are set."""
    paired = (settings.base_url or "").strip()
    if not paired or place.named_by == "BASE_URL":
        return True
    try:
        return Origin.of(paired) == place.origin
    except httpx2.InvalidURL:
        return False


def _refuse_split_pair(settings: Settings) -> None:
    split = settings.split_pair()
    if split:
        raise InvalidInput(f"{split}, or pass base_url or api_key")


def _refuse_stray_key(key: SecretStr, source: str, place: _Place, directory: Directory) -> None:
    plain = key.get_secret_value()
    if not plain.isascii() or not plain.isprintable() or " " in plain:
        raise InvalidInput(f"the key from {source} holds characters no key has: copy it again")
    issuer = directory.issuer(plain)
    if issuer is not None and place.owner is not None and issuer.name != place.owner.name:
        raise InvalidInput(
            f"the key from {source} is one of {issuer.name}, but the model is asked at "
            f"{place.origin.host}, which is {place.owner.name}'s: give a key of {place.owner.name}"
        )


def _choose_dialect(given: str | None, family: Family | None) -> Dialect:
    if given is None:
        # Everybody else's endpoints speak Chat Completions, few the Responses API.
        return family.dialect if family is not None else "chat"
    for known in DIALECTS:
        if given == known:
            return known
    raise UnknownName("dialect", given, DIALECTS)
