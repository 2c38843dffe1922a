"""Opens a language model by its name: the one entrance to this room."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from kernel_generator.domain.errors import InvalidInput, UnknownName
from kernel_generator.models.batch_anthropic import AnthropicDesk
from kernel_generator.models.batch_gemini import GeminiDesk
from kernel_generator.models.batch_openai import OpenAIDesk
from kernel_generator.models.builtin import BUILTIN_COMPILER, BuiltinCompiler
from kernel_generator.models.credentials import resolve
from kernel_generator.models.directory import DIRECTORY
from kernel_generator.models.endpoint_model import EndpointModel
from kernel_generator.models.offline import OFFLINE, OfflineModel
from kernel_generator.models.protocol import Patience

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import SecretStr

    from kernel_generator.models.batch import BatchDesk
    from kernel_generator.models.credentials import Endpoint
    from kernel_generator.models.directory import Directory
    from kernel_generator.models.protocol import LanguageModel

THINKING_IDLE_S = 900.0
"""Reasoning models have been seen silent for more than eight minutes before their first word."""


def open_model(
    name: str,
    *,
    api_key: str | SecretStr | None = None,
    base_url: str | None = None,
    dialect: str | None = None,
    reasoning_effort: str | None = None,
    stream: bool = True,
    idle_timeout_s: float | None = None,
    max_retries: int = Patience.max_retries,
    environment: Mapping[str, str] | None = None,
    directory: Directory = DIRECTORY,
) -> LanguageModel:
    """The model of that name, ready to be asked; nothing is sent yet.

    `reasoning_effort`: what requests will ask for; only checked here, for a model that is known to
    take none. `idle_timeout_s` None: 120 s without a byte, 900 s for models that reason in silence.
    `environment` None: the process's own, and `.env` in the working directory.

    Raises `UnknownName`, `MissingKey`, and `InvalidInput` where host, model, key and settings
    contradict each other.
    """
    if name == OFFLINE:
        return OfflineModel()
    if name.startswith("builtin:"):
        return _open_builtin(name, reasoning_effort)
    if max_retries < 0:
        raise InvalidInput(f"max_retries is {max_retries}: give 0 or more")
    if idle_timeout_s is not None and not idle_timeout_s > 0:
        raise InvalidInput(f"idle_timeout_s is {idle_timeout_s:g}: give more than 0 seconds")
    endpoint = resolve(
        name,
        api_key=api_key,
        base_url=base_url,
        dialect=dialect,
        environment=environment,
        directory=directory,
    )
    _check_effort(endpoint, reasoning_effort)
    patience = Patience(max_retries=max_retries)
    if idle_timeout_s is not None:
        patience = replace(patience, idle_s=idle_timeout_s)
    elif endpoint.thinks_silently:
        patience = replace(patience, idle_s=THINKING_IDLE_S)
    return EndpointModel(endpoint, patience=patience, stream=stream)


def open_batches(
    name: str,
    *,
    base_url: str | None = None,
    dialect: str | None = None,
    reasoning_effort: str | None = None,
    environment: Mapping[str, str] | None = None,
    directory: Directory = DIRECTORY,
) -> BatchDesk:
    """Where requests to the model of that name are submitted together; nothing is sent yet.

    Raises what `open_model` raises, and `InvalidInput` for a model that has none.
    """
    if name == OFFLINE or name.startswith(("builtin:", "replay:")):
        raise InvalidInput(f"'{name}' is not asked in batches: leave --batch out")
    endpoint = resolve(
        name, base_url=base_url, dialect=dialect, environment=environment, directory=directory
    )
    match endpoint.batch_api:
        case "openai":
            # The others say themselves what they take, which is not what is taken elsewhere.
            _check_effort(endpoint, reasoning_effort)
            return OpenAIDesk(endpoint)
        case None:
            raise InvalidInput(
                f"model '{name}' is asked at {endpoint.origin.host}, which takes no batches that "
                "are known here: leave --batch out"
            )
        case "anthropic" | "gemini" if dialect is not None:
            raise InvalidInput(
                f"batches at {endpoint.origin.host} are in a dialect of their own: leave "
                "--dialect out"
            )
        case "anthropic":
            return AnthropicDesk(endpoint)
        case "gemini":
            return GeminiDesk(endpoint)


def _check_effort(endpoint: Endpoint, effort: str | None) -> None:
    if effort is not None and not endpoint.takes_effort:
        raise _takes_no_effort(endpoint.model, effort)


def _open_builtin(name: str, reasoning_effort: str | None) -> LanguageModel:
    if name != BUILTIN_COMPILER:
        raise UnknownName("builtin model", name, (BUILTIN_COMPILER,))
    if reasoning_effort is not None:
        raise _takes_no_effort(name, reasoning_effort)
    return BuiltinCompiler()


def _takes_no_effort(name: str, effort: str) -> InvalidInput:
    return InvalidInput(
        f"model '{name}' takes no reasoning_effort (got '{effort}'): leave it out, or name a "
        "model that takes one, 'gpt-5' for example"
    )
