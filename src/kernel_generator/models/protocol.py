"""The one protocol that every language model is asked through, and how long it is waited for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from kernel_generator.domain.conversation import Reply, Request


class LanguageModel(Protocol):
    """Something that answers requests. May be asked concurrently."""

    @property
    def name(self) -> str:
        """The model as the user named it."""
        ...

    async def ask(self, request: Request) -> Reply:
        """The model's answer. A request that waits for its turn asks its permit once that has come.

        A refusal, an empty answer and one cut by length are replies with that `Finish`.

        Raises `ProviderRefused` where asking again unchanged is pointless, and
        `ProviderUnavailable` once all retries are used up; what the request's permit raises.
        """
        ...

    async def close(self) -> None:
        """Releases connections. Asking again afterwards opens new ones."""
        ...


@dataclass(frozen=True)
class Patience:
    """How long a provider is waited for, and how often it is asked again."""

    idle_s: float = 120.0
    """Longest silence, in seconds without a single byte, before a stream counts as dead."""
    answer_s: float = 3600.0
    """Longest wait for one whole answer, streamed or not."""
    connect_s: float = 15.0
    """Longest wait for a connection."""
    max_retries: int = 4
    """How often one question is asked again after failures that may pass."""
    backoff_s: float = 0.5
    """Pause before re-asking after a broken stream; doubles each time, up to 8 s."""
    limited_s: float = 900.0
    """Longest time for which one question is put off by a provider that limits the rate, counted
    from the first time; its tries in that time are no retries."""
