"""JSON that a provider sends, as far as it is read: what no record names is passed over."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from kernel_generator.models.answer import parsed, reading


class Wire(BaseModel):
    """Names as in Python."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class CamelWire(Wire):
    """Names with humps, as Google writes them."""

    model_config = ConfigDict(frozen=True, extra="ignore", alias_generator=to_camel)


W = TypeVar("W", bound=Wire)


def document(found: object, kind: type[W]) -> W:
    """What the SDK made of a JSON document, as what it is expected to be. Raises `NotAnApi` and
    `BrokenAnswer`."""
    with reading():
        return kind.model_validate(parsed(found, dict))
