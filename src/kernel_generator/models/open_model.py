"""Opens a language model by its name: the one entrance to this room."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from kernel_generator.domain.errors import InvalidInput, UnknownName
from kernel_generator.models.credentials import resolve
from kernel_generator.models.directory import DIRECTORY
from kernel_generator.models.endpoint_model import EndpointModel
from kernel_generator.models.protocol import Patience

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import SecretStr

    from kernel_generator.models.directory import Directory
    from kernel_generator.models.price import Price
    from kernel_generator.models.protocol import LanguageModel

BUILTIN_MODELS: tuple[str, ...] = ("builtin:compiler",)
"""Models that need no key and no network."""

THINKING_IDLE_S = 900.0
"""Reasoning models have been seen silent for more than eight minutes before their first word."""


def open_model(
    name: str,
    *,
    api_key: str | SecretStr | None = None,
    base_url: str | None = None,
    dialect: str | None = None,
    stream: bool = True,
    idle_timeout_s: float | None = None,
    max_retries: int = Patience.max_retries,
    price: Price | None = None,
    environment: Mapping[str, str] | None = None,
    directory: Directory = DIRECTORY,
) -> LanguageModel:
    """The model of that name, ready to be asked; nothing is sent yet.

    `idle_timeout_s` None: 120 s without a byte, 900 s for models that reason in silence.
    `environment` None: the process's own, and `.env` in the working directory.

    Raises `UnknownName`, `MissingKey`, and `InvalidInput` where host, model and key contradict
    each other.
    """
    if name.startswith("builtin:"):
        return _open_builtin(name)
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
    patience = Patience(max_retries=max_retries)
    if idle_timeout_s is not None:
        patience = replace(patience, idle_s=idle_timeout_s)
    elif endpoint.thinks_silently:
        patience = replace(patience, idle_s=THINKING_IDLE_S)
    return EndpointModel(endpoint, patience=patience, stream=stream, price=price)


def _open_builtin(name: str) -> LanguageModel:
    if name not in BUILTIN_MODELS:
        raise UnknownName("builtin model", name, BUILTIN_MODELS)
    from kernel_generator.models.builtin import (  # noqa: PLC0415 - endpoint models need no compiler
        BuiltinCompiler,
    )

    return BuiltinCompiler()
