"""What is said to a language model and what comes back, independent of any provider's dialect."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from kernel_generator.domain.budget import UNLIMITED

if TYPE_CHECKING:
    from kernel_generator.domain.budget import Permit
    from kernel_generator.domain.proposal import Proposal
    from kernel_generator.domain.task import Brief


class Role(StrEnum):
    """Who speaks."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Role
    text: str


@dataclass(frozen=True)
class Sampling:
    """Settings of one request."""

    reasoning_effort: str | None = None
    """'minimal', 'low', 'medium', 'high', or what the provider accepts; None: its default."""


@dataclass(frozen=True)
class Request:
    """A rendered question, with what it is about for models that read records instead of prose."""

    messages: tuple[Message, ...]
    brief: Brief
    proposal: Proposal
    sampling: Sampling = field(default_factory=Sampling)
    permit: Permit = field(default=UNLIMITED, compare=False, repr=False)
    """Asked just before it is sent, and again before each further try."""


class Finish(StrEnum):
    """Why the model stopped."""

    COMPLETE = "complete"
    LENGTH = "length"
    REFUSED = "refused"
    EMPTY = "empty"
    EXHAUSTED = "exhausted"
    """An embedded model has nothing further to propose."""


@dataclass(frozen=True)
class Usage:
    """Tokens of one reply. `prompt` includes `cached`, `completion` includes `reasoning`."""

    prompt: int = 0
    cached: int = 0
    completion: int = 0
    reasoning: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.prompt + other.prompt,
            self.cached + other.cached,
            self.completion + other.completion,
            self.reasoning + other.reasoning,
        )


@dataclass(frozen=True)
class Reply:
    """A model's answer."""

    text: str
    finish: Finish
    model: str
    """The model as the provider names it in its answer, else as asked for."""
    usage: Usage | None = None
    """None where the provider reported none."""
    cost_usd: float | None = None
    """US dollars; None where the price is unknown. 0.0 only for models that are free."""
    seconds: float = 0.0
    """Wall time from asking to the last token."""
    detail: str = ""
    """The provider's words on a refusal or a cut, if any."""
